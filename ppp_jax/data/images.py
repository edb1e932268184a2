"""Readers of the original files of MNIST, Fashion-MNIST and CIFAR-10.

MNIST and Fashion-MNIST are also read from copies that are at hand, whatever their compression: an
`.npz`, or IDX files that are gzipped or not. Such a copy is recognised by the SHA-256 of its pixels
and labels, which does not depend on how they are packed.
"""

import gzip
import hashlib
import io
import math
import os
import pathlib
import struct
import tarfile
import zlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ppp_jax.data import downloads
from ppp_jax.data.downloads import Remote, fetch
from ppp_jax.errors import InputError
from ppp_jax.files import archives

UNSIGNED_BYTES = 0x08  # the only type code of IDX that these files have
CIFAR_SIDE, CIFAR_COLOURS, CIFAR_CLASSES = 32, 3, 10
CIFAR_TRAIN = tuple(f"data_batch_{i}.bin" for i in range(1, 6))
CIFAR_TEST = ("test_batch.bin",)
GREY = np.array([0.299, 0.587, 0.114])  # weights of red, green and blue in the luma of ITU-R BT.601
IDX_DIMENSIONS = (1, 3)  # numbers of dimensions of labels and of images
GZIP = b"\x1f\x8b"  # first bytes of a gzipped file
SIDE, CHANNELS = 28, 1  # of the images of MNIST and Fashion-MNIST
ARRAYS = ("x_train", "y_train", "x_test", "y_test")  # names in an .npz, in the order of _IDX_FILES
_UNREADABLE = (OSError, EOFError, ValueError, zlib.error, tarfile.TarError)

_MNIST = (
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
    "https://yann.lecun.com/exdb/mnist/",
)
_FASHION = (
    "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
    "https://github.com/zalandoresearch/fashion-mnist/raw/master/data/fashion/",
)
_IDX_FILES = (
    "train-images-idx3-ubyte.gz",
    "train-labels-idx1-ubyte.gz",
    "t10k-images-idx3-ubyte.gz",
    "t10k-labels-idx1-ubyte.gz",
)
_MNIST_SHA256 = (
    "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
    "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
    "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
    "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
)
_FASHION_SHA256 = (
    "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
    "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
    "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
    "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
)
# Digests of the arrays' unsigned bytes, in the order of the files. They do not depend on how a file
# is packed, and are the same for rows of 784 pixels as for images of 28 × 28. Those of MNIST are of
# the original files, and those of Fashion-MNIST of a copy that divides the images anew.
CONTENTS: dict[str, dict[str, str]] = {
    "mnist": {
        "x_train": "741c988805d008ac6e4c904b69001ba184c24b2c540a4ef403f4c71b676cf757",
        "y_train": "1feba77c54802fa5339a11837ea4b2866434b83314ec45192930f1df69120c13",
        "x_test": "6d87418db22cc8025d05968bec9bd5c3932904b23485740db143a061a2c9d161",
        "y_test": "ddeff807876a9661a1110d45c266c86239a3a1b7d37da0c3716a7a683c852ff5",
    },
    "fashion_mnist": {
        "x_train": "e56fd60f2941e757a361b48922f2c8a3ea7b35e630755839bfef9fcb81294b31",
        "y_train": "b5db29f496eb923c5e5500af2045e3529cc6c0f69bda484e19828f4ba1062ec5",
        "x_test": "841657721bba8dcc95f5cd45b4c891cc03c7bd76d50924b692c656567a632825",
        "y_test": "babd2059e010f19c5ec42c6ecc2de633df51223ded26cceaf7bf2fa8fbe647d5",
    },
}

# Results of `pooled_digest` for datasets of which other divisions into training and test images
# are in use as well, such as the original one of Fashion-MNIST.
POOLED: dict[str, str] = {
    "fashion_mnist": "070197a8f684b1b77abe9b4bdb361cba77639d415a646eb9b82276ec60d315b9",
}


def _idx_remotes(name: str, mirrors: tuple[str, ...], sums: tuple[str, ...]) -> tuple[Remote, ...]:
    return tuple(
        Remote(f"{name}/{file}", sha256, tuple(mirror + file for mirror in mirrors))
        for file, sha256 in zip(_IDX_FILES, sums, strict=True)
    )


REMOTES: dict[str, tuple[Remote, ...]] = {
    "mnist": _idx_remotes("mnist", _MNIST, _MNIST_SHA256),
    "fashion_mnist": _idx_remotes("fashion_mnist", _FASHION, _FASHION_SHA256),
    "cifar10": (
        Remote(
            "cifar10/cifar-10-binary.tar.gz",
            "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
            (
                "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
                "https://storage.googleapis.com/s4tf-hosted-binaries/datasets/CIFAR10/"
                "cifar-10-binary.tar.gz",
                "https://mindspore-website.obs.cn-north-4.myhuaweicloud.com/notebook/datasets/"
                "cifar-10-binary.tar.gz",
            ),
        ),
    ),
}


class Images(NamedTuple):
    """A dataset of images.

    Attributes:
      train: Training images, `(samples, height, width, channels)`, uint8.
      test: Test images, `(samples, height, width, channels)`, uint8.
      train_labels: Labels of the training images, `(samples,)`.
      test_labels: Labels of the test images, `(samples,)`.
    """

    train: np.ndarray
    test: np.ndarray
    train_labels: np.ndarray
    test_labels: np.ndarray


def load_idx(name: str) -> Images:
    """Loads MNIST or Fashion-MNIST from a copy at hand, or downloads it.

    A copy is the file `NAME.npz` with the arrays `x_train`, `y_train`, `x_test` and `y_test`, or
    the four IDX files, gzipped or not, whose names may have a dot before `idx`. It is looked for in
    the folder that has the dataset's name within the folder of downloaded files, and then in this
    folder itself. If there is none, the gzipped IDX files are downloaded.

    Args:
      name: Name of the dataset, `mnist` or `fashion_mnist`.

    Returns:
      The images and labels, in the order of the files.

    Raises:
      InputError: A file is damaged or has other content, whose digest the message shows beside the
        expected one, or the files cannot be downloaded.
    """
    paths = _at_hand(name)
    if not paths:
        others = f", or {name}.npz (with {', '.join(ARRAYS)}) or the unpacked IDX files beside it"
        paths = [fetch(one, field="data", value=name, others=others) for one in REMOTES[name]]
    if len(paths) == 1:
        found = _read_npz(paths[0])
        paths = paths * len(found)
    else:
        found = [read_idx(path) for path in paths]
    x_train, y_train, x_test, y_test = found
    for x, y, path in ((x_train, y_train, paths[0]), (x_test, y_test, paths[2])):
        if y.shape != x.shape[:1] or math.prod(x.shape[1:]) != SIDE**2:
            problem = f"has images of shape {x.shape} and labels of shape {y.shape}"
            raise _refused(path, f"{problem}, which are not those of {name}")
    _check_content(name, paths, found)
    train, test = (x.reshape(-1, SIDE, SIDE, CHANNELS) for x in (x_train, x_test))
    return Images(train, test, y_train, y_test)


def _at_hand(name: str) -> list[pathlib.Path]:
    """Returns the path of the `.npz` of a dataset, or of its four IDX files, or nothing."""
    where = downloads.folder()
    for place in (where / name, where):
        if os.path.isfile(archive := place / f"{name}.npz"):
            return [archive]
        spelled = [_spelled(place, file.removesuffix(".gz")) for file in _IDX_FILES]
        paths = [path for path in spelled if path is not None]
        if len(paths) == len(spelled):
            return paths
    return []


def _spelled(place: pathlib.Path, file: str) -> pathlib.Path | None:
    """Returns the path of an IDX file under any of its common names, or None."""
    dotted = file.replace("-idx", ".idx")
    paths = (place / name for name in (f"{file}.gz", file, f"{dotted}.gz", dotted))
    return next((path for path in paths if os.path.isfile(path)), None)


def _read_npz(path: pathlib.Path) -> list[np.ndarray]:
    """Reads `ARRAYS` from an `.npz`, as arrays of unsigned bytes."""
    try:
        archive = archives.Archive(path)
        missing = [key for key in ARRAYS if key not in archive.members]
        if missing:
            raise _refused(path, f"lacks {', '.join(missing)}")
        archives.check_size(sum(archive.header(key).size for key in ARRAYS), archive.most)
        return [_as_bytes(path, key, archive[key]) for key in ARRAYS]
    except InputError:
        raise
    except archives.ReadError as error:
        raise _refused(path, str(error)) from None
    except archives.UNREADABLE as error:
        raise _refused(path, "is damaged or not an .npz") from error


def _as_bytes(path: pathlib.Path, key: str, x: np.ndarray) -> np.ndarray:
    """Returns whole numbers from 0 to 255 as unsigned bytes, and refuses other values."""
    if x.dtype.kind not in "iu" or not x.ndim or not x.size or x.min() < 0 or x.max() > 255:
        raise _refused(path, f"has in {key} other values than whole numbers from 0 to 255")
    return np.ascontiguousarray(x, np.uint8)


def _check_content(name: str, paths: list[pathlib.Path], found: list[np.ndarray]) -> None:
    """Refuses arrays that are neither known by their bytes nor those of the published files."""
    if all(
        _sha256(x.tobytes()) == CONTENTS[name][key] for key, x in zip(ARRAYS, found, strict=True)
    ):
        return
    published = {remote.sha256 for remote in REMOTES[name]}
    if all(path.suffix == ".gz" and _sha256(path.read_bytes()) in published for path in paths):
        return
    if name in POOLED and pooled_digest(found) == POOLED[name]:
        return
    for key, path, x in zip(ARRAYS, paths, found, strict=True):
        if (digest := _sha256(x.tobytes())) != (expected := CONTENTS[name][key]):
            problem = f"the bytes of its {key} have sha256 {digest} instead of {expected}"
            raise InputError(
                "data", path, f"{problem}; move it away, and the next call downloads {name}"
            )


def pooled_digest(arrays: Sequence[np.ndarray]) -> str:
    """Returns a digest of labelled images that depends neither on their order nor on their split.

    Args:
      arrays: Training images, `(samples, …)`, their labels, `(samples,)`, and the same of the test
        images, all of them unsigned bytes.

    Returns:
      The SHA-256 of the sorted SHA-256 of every image's bytes and its label's byte, in hexadecimal.
    """
    pairs = zip((*arrays[0], *arrays[2]), (*arrays[1], *arrays[3]), strict=True)
    rows = sorted(hashlib.sha256(x.tobytes() + y.tobytes()).digest() for x, y in pairs)
    return _sha256(b"".join(rows))


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def load_cifar10(*, grey: bool) -> Images:
    """Loads CIFAR-10, which is downloaded if it is not on disk.

    Args:
      grey: Whether to return one channel of luma instead of red, green and blue.

    Raises:
      InputError: The file cannot be downloaded, or is damaged.
    """
    (remote,) = REMOTES["cifar10"]
    path = fetch(remote, field="data", value="cifar10_grey" if grey else "cifar10")
    train, train_labels = read_cifar(path, CIFAR_TRAIN)
    test, test_labels = read_cifar(path, CIFAR_TEST)
    if grey:
        train, test = ((x @ GREY).round().astype(np.uint8)[..., None] for x in (train, test))
    return Images(train, test, train_labels, test_labels)


def read_idx(path: pathlib.Path) -> np.ndarray:
    """Reads an IDX file of unsigned bytes, gzipped or not.

    Such a file begins with the four bytes 0, 0, type and number of dimensions. The length of each
    dimension follows as a big-endian 32-bit integer, and then the values, the last dimension
    fastest (http://yann.lecun.com/exdb/mnist/).

    Args:
      path: Path of the file.

    Returns:
      The values, a uint8 array of the shape that the file states.

    Raises:
      InputError: The file is not IDX of unsigned bytes, or its length is not the stated one.
    """
    try:
        content = path.read_bytes()
        content = gzip.decompress(content) if content.startswith(GZIP) else content
    except _UNREADABLE as error:
        raise _refused(path, "is truncated or damaged") from error
    if len(content) < 4 or content[:2] != b"\0\0" or content[2] != UNSIGNED_BYTES:
        raise _refused(path, "is not IDX of unsigned bytes")
    dimensions = content[3]
    start = 4 + 4 * dimensions
    if dimensions not in IDX_DIMENSIONS:
        raise _refused(path, f"has {dimensions} dimensions, but labels have 1 and images have 3")
    if len(content) < start:
        raise _refused(path, "is not IDX: its header is cut off")
    shape = struct.unpack(f">{dimensions}I", content[4:start])
    if 0 in shape or math.prod(shape) != len(content) - start:
        found = f"{len(content) - start} instead of {math.prod(shape)} bytes"
        raise _refused(path, f"states the shape {shape} and has {found}")
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)


def read_cifar(path: pathlib.Path, members: tuple[str, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Reads batches of CIFAR-10's binary version.

    A batch holds for every image its label and then its red, green and blue values
    (https://www.cs.toronto.edu/~kriz/cifar.html).

    Args:
      path: Path of the `.tar.gz` archive.
      members: Names of the batches, which may be in any folder of the archive.

    Returns:
      Images, `(samples, 32, 32, 3)`, and labels, `(samples,)`, both uint8.

    Raises:
      InputError: The file is not such an archive, or a batch is missing, does not hold whole
        images, or has a label that is not a class.
    """
    pixels = CIFAR_COLOURS * CIFAR_SIDE**2
    rows = []
    for name, content in _members(path, members).items():
        if not content or len(content) % (1 + pixels):
            raise _refused(path, f"has {len(content)} bytes in {name}, which are not whole images")
        rows.append(np.frombuffer(content, np.uint8).reshape(-1, 1 + pixels))
    batch = np.concatenate(rows)
    if batch[:, 0].max() >= CIFAR_CLASSES:
        raise _refused(path, f"has the label {batch[:, 0].max()}, but CIFAR-10 has 10 classes")
    planes = batch[:, 1:].reshape(-1, CIFAR_COLOURS, CIFAR_SIDE, CIFAR_SIDE)
    return np.ascontiguousarray(planes.transpose(0, 2, 3, 1)), batch[:, 0]


def _members(path: pathlib.Path, names: tuple[str, ...]) -> dict[str, bytes]:
    """Returns the contents of files of an archive, without unpacking the archive onto the disk."""
    found: dict[str, bytes] = {}
    try:
        # The archive is decompressed to its end, where its checksum is. Given the compressed file,
        # tarfile would stop behind the last member and not verify the checksum.
        content = gzip.decompress(path.read_bytes())
        with tarfile.open(fileobj=io.BytesIO(content), mode="r:") as archive:
            for member in archive:
                name = pathlib.PurePosixPath(member.name).name
                if name in names and member.isfile():
                    opened = archive.extractfile(member)
                    found[name] = b"" if opened is None else opened.read()
    except _UNREADABLE as error:
        raise _refused(path, "is truncated or not a .tar.gz") from error
    missing = [name for name in names if name not in found]
    if missing:
        raise _refused(path, f"lacks {', '.join(missing)}")
    return {name: found[name] for name in names}


def _refused(path: pathlib.Path, problem: str) -> InputError:
    problem = f"{problem}; remove it, and the next call downloads it again"
    return InputError("data", path, problem)
