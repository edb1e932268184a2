"""Public data: from small files in the true formats, by a server that fails in every way."""

import contextlib
import functools
import gzip
import hashlib
import http.server
import io
import struct
import tarfile
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pooch import core

from ppp_jax.data import datasets, downloads, images
from ppp_jax.errors import InputError
from tests import ROOT

NOWHERE = "http://127.0.0.1:9/"  # the discard port: nothing listens
RNG = np.random.default_rng(0)
TRAIN, TEST = (RNG.integers(0, 256, (n, 28, 28), np.uint8) for n in (40, 12))
TRAIN_LABELS, TEST_LABELS = (RNG.integers(0, 10, n, np.uint8) for n in (40, 12))


def packed(raw):
    """Compresses without the time of day, which would be in the bytes."""
    return gzip.compress(raw, mtime=0)


def named(value):
    """What stands for a parameter in a test's name: the problem, not the bytes."""
    return value if isinstance(value, str) else "file"


def idx(array, code=0x08):
    header = struct.pack(f">BBBB{array.ndim}I", 0, 0, code, array.ndim, *array.shape)
    return packed(header + array.tobytes())


def cifar_batch(count, seed):
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, (count, 3072), np.uint8)
    return np.concatenate([np.arange(count, dtype=np.uint8)[:, None] % 10, pixels], axis=1)


def archive(files):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


BATCHES = {
    name: cifar_batch(3, k) for k, name in enumerate((*images.CIFAR_TRAIN, "test_batch.bin"))
}
CIFAR = archive({name: batch.tobytes() for name, batch in BATCHES.items()})
MNIST = dict(zip(images._IDX_FILES, map(idx, (TRAIN, TRAIN_LABELS, TEST, TEST_LABELS)),
                 strict=True))  # fmt: skip


class Handler(http.server.BaseHTTPRequestHandler):
    """Gives files; the first `cut` answers stop halfway, as a broken connection does."""

    def __init__(self, *arguments, state):
        """Takes what the server shares between requests."""
        self.state = state
        super().__init__(*arguments)

    def do_GET(self):
        self.state["asked"].append(self.path)
        content = self.state["files"].get(self.path.split("/")[-1])
        if content is None:
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.state["cut"] > 0:
            self.state["cut"] -= 1
            content = content[: len(content) // 2]
        self.wfile.write(content)

    def log_message(self, *_):
        """Says nothing."""


@contextlib.contextmanager
def serving(files, cut=0):
    state = {"files": files, "asked": [], "cut": cut}
    server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(Handler, state=state)
    )
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/", state
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture
def kept(tmp_path, monkeypatch):
    monkeypatch.setenv(downloads.FOLDER, str(tmp_path))
    monkeypatch.setattr(core.time, "sleep", lambda _: None)  # pooch waits between attempts
    return tmp_path


def use(monkeypatch, name, files, *mirrors):
    """Points a data set at small files and at mirrors of ours."""
    remotes = tuple(
        downloads.Remote(f"{name}/{file}", hashlib.sha256(content).hexdigest(),
                         tuple(mirror + file for mirror in mirrors))
        for file, content in files.items()
    )  # fmt: skip
    monkeypatch.setitem(images.REMOTES, name, remotes)
    return remotes


def test_mnist_is_downloaded_once_and_then_needs_no_network(kept, monkeypatch):
    with serving(MNIST) as (address, state):
        use(monkeypatch, "mnist", MNIST, address)
        found = datasets.load("mnist")
        assert len(state["asked"]) == 4
    assert found.image == (28, 28, 1)
    assert found.train.shape == (40, 784)
    assert datasets.load("mnist").sha256 == found.sha256
    # Every label is still its image's, though the order is another.
    mean = TRAIN.reshape(40, -1).mean(axis=0)
    rows = {image.tobytes(): label for image, label in zip(TRAIN, TRAIN_LABELS, strict=True)}
    scale = np.sqrt(TRAIN.reshape(40, -1).var(axis=0).mean())
    raw = (found.train * scale + mean).round().astype(np.uint8).reshape(-1, 28, 28)
    assert [rows[image.tobytes()] for image in raw] == found.train_labels.tolist()
    np.testing.assert_array_equal(found.held_out_labels, TEST_LABELS)
    assert sorted(p.name for p in kept.rglob("*") if p.is_file()) == sorted(MNIST)


@pytest.mark.usefixtures("kept")
def test_cifar_in_colour_and_grey(monkeypatch):
    files = {"cifar-10-binary.tar.gz": CIFAR}
    with serving(files) as (address, _):
        use(monkeypatch, "cifar10", files, address)
        colour, grey = images.load_cifar10(grey=False), images.load_cifar10(grey=True)
    assert colour.train.shape == (15, 32, 32, 3)
    assert colour.test_labels.tolist() == [0, 1, 2]
    # The file has whole planes of red, green, blue, row by row.
    first = BATCHES["data_batch_2.bin"][1, 1:].reshape(3, 32, 32)
    np.testing.assert_array_equal(colour.train[4], first.transpose(1, 2, 0))
    luma = 0.299 * first[0] + 0.587 * first[1] + 0.114 * first[2]
    np.testing.assert_allclose(grey.train[4, ..., 0], luma, atol=0.5001)
    assert datasets.load("cifar10").image == (32, 32, 3)
    assert datasets.load("cifar10_grey").train.shape == (15, 1024)


@pytest.mark.usefixtures("kept")
def test_next_mirror_where_the_first_is_down_or_has_other_bytes(monkeypatch):
    wrong = dict.fromkeys(MNIST, b"not it")
    with serving(wrong) as (bad, tried), serving(MNIST) as (good, asked):
        use(monkeypatch, "mnist", MNIST, NOWHERE, bad, good)
        datasets.load("mnist")
    assert len(asked["asked"]) == 4
    assert len(tried["asked"]) == 4 * (1 + downloads.RETRIES)


@pytest.mark.usefixtures("kept")
def test_a_download_that_breaks_off_is_tried_again(monkeypatch):
    with serving(MNIST, cut=2) as (address, state):
        use(monkeypatch, "mnist", MNIST, address)
        datasets.load("mnist")
    assert len(state["asked"]) == 4 + 2


@pytest.mark.parametrize("why", ["offline", "wrong", "missing"])
def test_nothing_that_can_be_had_is_one_error_that_says_what_to_do(kept, monkeypatch, why):
    files = dict.fromkeys(MNIST, b"other bytes") if why == "wrong" else {}
    with serving(files) as (address, _):
        remotes = use(monkeypatch, "mnist", MNIST, NOWHERE if why == "offline" else address)
        with pytest.raises(InputError) as failure:
            datasets.load("mnist")
    first = remotes[0]
    for part in ("data=mnist", first.sha256, str(kept / first.name), downloads.FOLDER):
        assert part in str(failure.value)
    reason = {"offline": "Connection", "wrong": "wrong checksum", "missing": "HTTPError"}[why]
    assert reason in str(failure.value)
    assert "\n" not in str(failure.value)
    assert not [path for path in kept.rglob("*") if path.is_file()]


def test_a_file_put_there_by_hand_is_used_and_an_altered_one_is_not(kept, monkeypatch):
    use(monkeypatch, "mnist", MNIST, NOWHERE)
    put(kept / "mnist", MNIST)
    datasets.load("mnist")
    for content, problem in ((b"altered", "not IDX"), (idx(TRAIN ^ 1), "sha256")):
        (kept / "mnist" / images._IDX_FILES[0]).write_bytes(content)
        with pytest.raises(InputError, match=problem):
            datasets.load("mnist")


SLICE = dict(
    np.load(ROOT / "tests" / "data" / "images" / "mnist_slice.npz")
)  # MNIST's first images, as rows


def put(folder, files):
    folder.mkdir(exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)


def npz(**changes):
    buffer = io.BytesIO()
    np.savez(buffer, **SLICE | changes)
    return buffer.getvalue()


def idx_files(pack, spell):
    """The slice as IDX files whose names and contents are changed by two functions."""
    arrays = (SLICE[key].reshape(-1, 28, 28) if key.startswith("x") else SLICE[key]
              for key in images.ARRAYS)  # fmt: skip
    return {spell(name.removesuffix(".gz")): pack(gzip.decompress(idx(array)))
            for name, array in zip(images._IDX_FILES, arrays, strict=True)}  # fmt: skip


def dotted(name):
    return name.replace("-idx", ".idx")


AS_IMAGES = {key: SLICE[key].reshape(-1, 28, 28) for key in ("x_train", "x_test")}
COPIES = {
    "npz": {"mnist.npz": npz()},
    "npz of images and long labels": {
        "mnist.npz": npz(**AS_IMAGES, y_train=SLICE["y_train"].astype(np.int64))
    },
    "IDX": idx_files(bytes, str),
    "IDX with dots": idx_files(bytes, dotted),
    "IDX, packed otherwise": idx_files(lambda raw: gzip.compress(raw, 1), "{}.gz".format),
    "IDX with dots, packed": idx_files(gzip.compress, lambda name: f"{dotted(name)}.gz"),
}


@pytest.fixture
def sliced(kept, monkeypatch):
    """An offline machine on which the slice is all of MNIST."""
    use(monkeypatch, "mnist", MNIST, NOWHERE)
    digests = {key: hashlib.sha256(x.tobytes()).hexdigest() for key, x in SLICE.items()}
    monkeypatch.setitem(images.CONTENTS, "mnist", digests)
    return kept


@pytest.mark.parametrize("below", ["", "mnist"])
@pytest.mark.parametrize("copy", COPIES)
def test_a_copy_at_hand_is_found_whatever_its_packing(sliced, copy, below):
    put(sliced / below, COPIES[copy])
    found = images.load_idx("mnist")
    assert found.train.shape == (32, 28, 28, 1)
    np.testing.assert_array_equal(found.train.reshape(32, -1), SLICE["x_train"])
    np.testing.assert_array_equal(found.test_labels, SLICE["y_test"])
    assert found.train_labels.dtype == np.uint8


WRONG = {
    "other pixels": ({"mnist.npz": npz(x_train=SLICE["x_train"] ^ 1)}, "mnist.npz", "x_train"),
    "other labels": ({"mnist.npz": npz(y_test=9 - SLICE["y_test"])}, "mnist.npz", "y_test"),
    "another IDX file": (
        idx_files(bytes, str) | {"t10k-labels-idx1-ubyte": gzip.decompress(idx(TEST_LABELS))},
        "t10k-labels-idx1-ubyte",
        "y_test",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_another_content_is_one_line_with_the_file_its_digest_and_the_right_one(sliced, case):
    files, file, key = WRONG[case]
    put(sliced, files)
    with pytest.raises(InputError) as caught:
        datasets.load("mnist")
    right = images.CONTENTS["mnist"][key]
    start = f"data={sliced / file}: the bytes of its {key} have sha256 "
    assert str(caught.value).startswith(start)
    assert f" instead of {right}; move it away" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"PK and no more", "damaged or not an .npz"),
        (npz(x_train=SLICE["x_train"] / 255), "x_train other values than whole numbers"),
        (npz(y_train=SLICE["y_train"] - np.int64(9)), "y_train other values than whole"),
        (npz(y_train=SLICE["y_train"][:3]), r"labels of shape \(3,\)"),
        (npz(x_test=SLICE["x_test"][:, 1:]), r"images of shape \(12, 783\)"),
    ],
    ids=named,
)
def test_an_npz_that_holds_no_such_images_is_refused(sliced, content, problem):
    put(sliced, {"mnist.npz": content})
    with pytest.raises(InputError, match=problem) as caught:
        datasets.load("mnist")
    assert str(sliced / "mnist.npz") in str(caught.value)


def test_an_incomplete_copy_is_not_used_and_the_error_says_what_may_be_put_there(sliced):
    put(sliced, dict(list(COPIES["IDX"].items())[:3]))
    with pytest.raises(InputError, match=r"or mnist\.npz \(with .*\) or the unpacked IDX files"):
        datasets.load("mnist")


def test_fashion_mnist_may_be_divided_in_another_way_and_mnist_may_not(sliced, monkeypatch):
    known = [SLICE[key] for key in images.ARRAYS]
    monkeypatch.setitem(images.POOLED, "fashion_mnist", images.pooled_digest(known))
    other = {key: np.concatenate([SLICE[f"{key}_test"], SLICE[f"{key}_train"]]) for key in "xy"}
    files = {f"{key}_{part}": x for key, whole in other.items()
             for part, x in (("train", whole[:30]), ("test", whole[30:]))}  # fmt: skip
    put(sliced, {"fashion_mnist.npz": npz(**files), "mnist.npz": npz(**files)})
    assert images.load_idx("fashion_mnist").train.shape == (30, 28, 28, 1)
    with pytest.raises(InputError, match="sha256"):
        images.load_idx("mnist")
    put(sliced, {"fashion_mnist.npz": npz(**files | {"y_test": files["y_test"][::-1]})})
    with pytest.raises(InputError, match="sha256"):
        images.load_idx("fashion_mnist")


def test_a_folder_that_cannot_be_written_is_named(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv(downloads.FOLDER, str(tmp_path / "file"))
    use(monkeypatch, "mnist", MNIST, NOWHERE)
    with pytest.raises(InputError, match=f"cannot be written.*{downloads.FOLDER}"):
        datasets.load("mnist")


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "not IDX"),
        (idx(TRAIN)[:-9], "truncated"),
        (b"plain", "not IDX"),
        (packed(b""), "not IDX"),
        (packed(b"\0\0\x08"), "not IDX"),
        (idx(TRAIN, code=0x0D), "unsigned bytes"),
        (packed(b"\0\0\x08\0"), "has 0 dimensions"),
        (packed(b"\0\0\x08\xff" + b"\0\0\0\1" * 255 + b"x"), "has 255 dimensions"),
        (packed(b"\0\0\x08\3" + b"\0" * 4 + b"\xff" * 8), "states the shape"),
        (packed(b"\0\0\x08\3" + b"\0" * 8), "cut off"),
        (packed(gzip.decompress(idx(TRAIN))[:-1]), "states the shape"),
        (packed(gzip.decompress(idx(TRAIN)) + b"x"), "states the shape"),
    ],
    ids=named,
)
def test_idx_files_that_are_refused(tmp_path, content, problem):
    path = tmp_path / "x.gz"
    path.write_bytes(content)
    with pytest.raises(InputError, match=problem):
        images.read_idx(path)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (CIFAR[: len(CIFAR) // 2], "truncated"),
        (CIFAR[:-1], "truncated"),
        (CIFAR[:-8], "truncated"),
        (CIFAR + b"x", "not a .tar.gz"),
        (b"plain", "not a .tar.gz"),
        (archive({"test_batch.bin": b""}), "0 bytes"),
        (archive({"test_batch.bin": bytes(3072)}), "not whole images"),
        (archive({"test_batch.bin": bytes([10]) + bytes(3072)}), "label 10"),
        (archive({"other.bin": bytes(3073)}), "lacks test_batch.bin"),
    ],
    ids=named,
)
def test_cifar_files_that_are_refused(tmp_path, content, problem):
    path = tmp_path / "x.tar.gz"
    path.write_bytes(content)
    with pytest.raises(InputError, match=problem):
        images.read_cifar(path, images.CIFAR_TEST)


READERS = {
    "idx": (images.read_idx, idx(TRAIN[:1, :10, :10])),
    "cifar": (lambda path: images.read_cifar(path, images.CIFAR_TEST)[0],
              archive({"test_batch.bin": cifar_batch(1, 0).tobytes()})),
}  # fmt: skip


def read_changed(reader, content, zipped, folder):
    """Reads what `content(raw)` makes of a good file, of its bytes as they are or unzipped."""
    read, good = READERS[reader]
    path = folder / "x.gz"
    raw = bytes(content(bytearray(good if zipped else gzip.decompress(good))))
    path.write_bytes(raw if zipped else packed(raw))
    return read(path)


@settings(max_examples=100)
@given(place=st.integers(0, 511), value=st.integers(0, 255), zipped=st.booleans())
@pytest.mark.parametrize("reader", sorted(READERS))
def test_a_byte_anywhere_changed_gives_an_array_or_our_error(
    tmp_path_factory, reader, place, value, zipped
):
    """The first 512 bytes hold all headers."""

    def changed(raw):
        raw[place % len(raw)] = value
        return raw

    with contextlib.suppress(InputError):
        found = read_changed(reader, changed, zipped, tmp_path_factory.mktemp("fuzz"))
        assert found.dtype == np.uint8


@settings(max_examples=40)
@given(end=st.floats(0, 1, exclude_max=True), tail=st.binary(min_size=1, max_size=20))
@pytest.mark.parametrize("reader", sorted(READERS))
def test_a_file_cut_anywhere_or_with_more_behind_it_is_refused(tmp_path_factory, reader, end, tail):
    folder = tmp_path_factory.mktemp("fuzz")
    with pytest.raises(InputError):
        read_changed(reader, lambda raw: raw[: int(end * len(raw))], True, folder)
    if any(tail):  # zeros are padding, which gzip allows
        with pytest.raises(InputError):
            read_changed(reader, lambda raw: raw + tail, True, folder)


def test_published_checksums_are_whole_and_every_file_has_several_mirrors():
    for remotes in images.REMOTES.values():
        for remote in remotes:
            assert len(bytes.fromhex(remote.sha256)) == 32
            assert len(set(remote.mirrors)) >= 2
            assert all(url.endswith(remote.name.split("/")[-1]) for url in remote.mirrors)
    for digests in images.CONTENTS.values():
        assert tuple(digests) == images.ARRAYS
        assert {len(bytes.fromhex(digest)) for digest in digests.values()} == {32}
