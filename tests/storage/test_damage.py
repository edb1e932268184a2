"""What is damaged in a run folder is noticed: the result is the same, or one line says what."""

import dataclasses
import json
import os
import random
import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ppp_jax.analysis import load_run
from ppp_jax.analysis.report.evidence import certificate_block
from ppp_jax.data import datasets
from ppp_jax.engine import states
from ppp_jax.errors import InputError
from ppp_jax.files import atomic, integrity, ledger
from ppp_jax.grid import Grid, fingerprints
from ppp_jax.networks import activations
from ppp_jax.storage import checkpoints, manifest, metrics, restore, run_dir
from ppp_jax.sweep import sweep
from ppp_jax.symmetry import certificates
from tests import commands

pytestmark = pytest.mark.usefixtures("quick_compilation")

GRID = Grid(
    activations=["tanh"],
    widths=[6],
    latent_widths=[3],
    optimizers=["sgd"],
    seeds=[0, 1],
    epochs=2,
    probe_samples=30,
)
PER_EPOCH = 1438 // 24
STEPS, OLDER = 2 * PER_EPOCH, PER_EPOCH
FLIPS = 60


CONFIG = GRID.to_json()


def identity(grid=GRID):
    meant = manifest.functions(grid)
    return manifest.identity(grid, datasets.load(GRID.data).sha256, meant)


def train(workdir, grid=GRID, **options):
    return sweep.train(grid, workdir, seed_batch=2, progress=False, **options)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return train(tmp_path_factory.mktemp("whole"))


@pytest.fixture
def workdir(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "run")


def content(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def flip(path, rng):
    bits = bytearray(path.read_bytes())
    place = rng.randrange(len(bits))
    bits[place] ^= 1 << rng.randrange(8)
    path.write_bytes(bytes(bits))


def one_line(caught):
    text = str(caught.value)
    assert "\n" not in text
    return text


# ------------------------------------------------------------------------------ checkpoints


@pytest.mark.filterwarnings("ignore:coroutine:RuntimeWarning")  # of reads that an error has ended
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_flipped_bits_of_a_checkpoint_are_noticed_or_harmless(whole, tmp_path):
    """The states that are read are those that were saved, bit for bit, or they count for nothing.

    The library reads the states; here they are compared with the undamaged ones independently.
    """
    folder = whole / "checkpoints" / "0" / str(STEPS)
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    original = jax.tree.leaves(checkpoints._read(folder / "state", _bytes(folder)))
    rng, noticed = random.Random(0), 0
    for number in range(FLIPS):
        copy = shutil.copytree(folder, tmp_path / str(number) / str(STEPS))
        flip(copy / files[number % len(files)].relative_to(folder), rng)
        problem = checkpoints.problem(copy, runs=2, identity=identity())
        if problem is None:
            read = jax.tree.leaves(checkpoints._read(copy / "state", _bytes(folder)))
            for one, other in zip(original, read, strict=True):
                assert one.tobytes() == other.tobytes()
        else:
            noticed += 1
            assert "\n" not in problem
    assert noticed > FLIPS // 4


def _bytes(folder):
    return json.loads((folder / "meta" / "metadata").read_text())["bytes"]


def break_state(workdir, step):
    """Changes what a checkpoint holds in a file of its states."""
    folder = workdir / "checkpoints" / "0" / str(step) / "state"
    for path in folder.rglob("d/*"):
        path.write_bytes(path.read_bytes()[:-40])


def test_a_damaged_checkpoint_gives_way_to_the_older_one(whole, workdir, capfd):
    break_state(workdir, STEPS)
    kept = content(workdir / "checkpoints" / "0" / str(STEPS))
    train(workdir)
    told = capfd.readouterr().err
    assert told.count("\n") == 1
    assert told.startswith(f"checkpoints/0/{STEPS} is damaged (")
    assert f"the older one of step {OLDER} is used; it is kept as checkpoints/0.damaged/" in told
    aside = content(workdir / "checkpoints" / "0.damaged" / str(STEPS))
    assert sorted(aside.values()) == sorted(kept.values())
    commands.assert_same(workdir, whole, runs=2)


def test_the_trained_networks_are_not_taken_from_an_older_checkpoint(whole, workdir):
    dataset = datasets.load("digits")
    break_state(workdir, STEPS)
    before = content(workdir)
    with pytest.raises(
        InputError, match=rf"checkpoints/0/{STEPS} is damaged .* again, which continues"
    ):
        restore.restore(workdir, dataset)
    assert content(workdir) == before
    train(workdir)
    (one,), (other,) = restore.restore(workdir, dataset), restore.restore(whole, dataset)
    jax.tree.map(np.testing.assert_array_equal, one.params, other.params)


def test_without_an_intact_checkpoint_one_line_says_what_can_be_done(whole, workdir, tmp_path):
    break_state(workdir, STEPS)
    break_state(workdir, OLDER)
    before = content(workdir)
    with pytest.raises(InputError, match=r"all checkpoints in checkpoints/0 are damaged") as caught:
        train(workdir)
    assert "move it elsewhere to train its runs again" in one_line(caught)
    assert content(workdir) == before
    (workdir / "checkpoints" / "0").rename(tmp_path / "elsewhere")
    train(workdir)
    commands.assert_same(workdir, whole, runs=2)


@pytest.mark.parametrize("lost", ["state", "meta", "state/_METADATA", "meta/metadata"])
def test_a_checkpoint_that_lacks_something_is_damaged(lost, whole, tmp_path):
    copy = shutil.copytree(whole / "checkpoints" / "0" / str(STEPS), tmp_path / str(STEPS))
    (shutil.rmtree if (copy / lost).is_dir() else type(copy).unlink)(copy / lost)
    assert checkpoints.problem(copy, runs=2, identity=identity()) is not None


def test_folders_that_are_no_checkpoints_do_not_count_and_are_not_in_the_way(whole, workdir, capfd):
    folder = workdir / "checkpoints" / "0"
    shutil.copytree(folder / str(OLDER), folder / "999999")
    shutil.copytree(folder / str(OLDER), folder / "notes")
    (folder / "100").mkdir()
    (folder / ("9" * 30)).mkdir()
    shutil.rmtree(folder / str(STEPS))
    train(workdir)
    told = capfd.readouterr().err.splitlines()
    assert len(told) == 4
    assert all("is not a checkpoint; it is kept as checkpoints/0.damaged/" in line for line in told)
    commands.assert_same(workdir, whole, runs=2)


def test_the_digest_of_states_does_not_depend_on_padding_or_kind_of_array():
    tree = {
        "a": {"w": np.arange(12, dtype=np.float32).reshape(4, 3), "n": np.arange(4, dtype=np.int32)}
    }
    padded = jax.tree.map(lambda x: jnp.asarray(np.concatenate([x, x[-1:]])), tree)
    assert states.digest(tree, runs=4) == states.digest(padded, runs=4)
    other = {"a": {**tree["a"], "n": np.array([0, 1, 2, 4], np.int32)}}
    assert states.digest(other, runs=4) != states.digest(tree, runs=4)


# ----------------------------------------------------------------------------- manifest.json


def reseal(workdir, change):
    """Changes the manifest as somebody does who knows of the seal."""
    path = workdir / "manifest.json"
    entries = json.loads(path.read_text())
    change(entries)
    path.write_text(json.dumps(integrity.sealed(entries), indent=2) + "\n")


def test_flipped_bits_of_the_manifest_are_noticed(whole, tmp_path):
    rng = random.Random(1)
    stored = manifest.read(whole)
    for _ in range(FLIPS):
        shutil.copy(whole / "manifest.json", tmp_path)
        flip(tmp_path / "manifest.json", rng)
        read, refusal = None, None
        try:
            read = manifest.read(tmp_path)
        except InputError as error:
            refusal = str(error)
        if refusal is None:  # white space
            assert read == stored
        else:
            assert "manifest.json" in refusal
            assert "\n" not in refusal


def test_a_manifest_edited_by_hand_is_refused(workdir):
    path = workdir / "manifest.json"
    path.write_text(path.read_text().replace('"epochs": 2', '"epochs": 3'))
    before = content(workdir)
    with pytest.raises(InputError, match=r"its digest is wrong.*put it back from a copy") as caught:
        train(workdir)
    one_line(caught)
    assert content(workdir) == before


VIOLATIONS = {
    "lacks created": lambda m: m.pop("created"),
    "has an unknown extra": lambda m: m.update(extra=1),
    "parts is empty": lambda m: m.update(parts=[]),
    "parts are not all of config": lambda m: m["parts"][0].update(seeds=[0]),
    "seeds has what config has not": lambda m: m["parts"][0].update(seeds=[0, 7]),
    "has runs of an earlier part": lambda m: m["parts"].append(m["parts"][0]),
    "epochs is not that of config": lambda m: m["parts"][0].update(epochs=1, snapshots=[0, 1]),
    "batch_size is not that of config": lambda m: m["parts"][0].update(batch_size=12),
    "does not have the entries of a grid": lambda m: m["config"].pop("seeds"),
    "config: activations=5: must be a name": lambda m: m["config"].update(activations=[5]),
    "config: epochs": lambda m: m["config"].update(epochs=2.0),
    "config: .*does not describe a grid .*iterable": lambda m: m["config"].update(learning_rates=3),
    "sha256 is not a digest": lambda m: m["data"].update(sha256="0"),
    "train is not a shape": lambda m: m["data"].update(train=[1438]),
    "name is not that of config": lambda m: m["data"].update(name="other"),
    "conditions lacks jax": lambda m: m["conditions"].pop("jax"),
    "x64 is not a boolean": lambda m: m["conditions"].update(x64=0),
    "seed_batch is not of counts": lambda m: m["conditions"].update(seed_batch={"1x6-3": 0}),
    "seed_batch lacks 1x6-3": lambda m: m["conditions"].update(seed_batch={}),
    "processes is 0": lambda m: m.update(processes=0),
    "inexact_resumes is": lambda m: m.update(inexact_resumes=[{}]),
    "lacks functions": lambda m: m.pop("functions"),
    "functions are not digests": lambda m: m.update(functions=["0"]),
    "functions .* one of each part": lambda m: m.update(functions=[]),
    "has an unknown functions": lambda m: m.update(schema=5),
    "fingerprints lacks activations": lambda m: m["fingerprints"].pop("activations"),
    "activations lacks tanh": lambda m: m["fingerprints"].update(activations={}),
}


@pytest.mark.parametrize("problem", sorted(VIOLATIONS))
def test_a_manifest_that_no_run_writes_is_refused_by_the_field(problem, whole, tmp_path):
    shutil.copy(whole / "manifest.json", tmp_path)
    reseal(tmp_path, VIOLATIONS[problem])
    with pytest.raises(InputError, match=problem) as caught:
        manifest.read(tmp_path)
    assert "manifest.json is damaged" in one_line(caught)


@pytest.mark.parametrize("name", ["train", "validation", "test"])
def test_a_manifest_of_other_samples_than_the_data_has_is_refused(name, workdir):
    def fewer(entries):
        entries["data"][name] = [700, 64]

    reseal(workdir, fewer)
    before = content(workdir)
    calls = (train, lambda folder: train(folder, LONGER),
             lambda folder: restore.restore(folder, datasets.load("digits")))  # fmt: skip
    for call in calls:
        with pytest.raises(
            InputError, match=rf"data: {name} has shape \[700, 64\] there, and"
        ) as caught:
            call(workdir)
        assert "manifest.json is damaged" in one_line(caught)
    assert content(workdir) == before


@pytest.mark.parametrize(
    "junk", [b"", b"\0\0\0", b"\xff\xfe", b"[" * 100_000, b"null", b'{"schema": 5}', b"1" * 5000]
)
def test_a_manifest_of_junk_is_one_line(junk, tmp_path):
    (tmp_path / "manifest.json").write_bytes(junk)
    with pytest.raises(InputError, match=r"manifest\.json") as caught:
        manifest.read(tmp_path)
    one_line(caught)


@pytest.mark.parametrize(
    "config", [None, [], {}, "x", {**GRID.to_json(), "seeds": {"a": 1}},
               {**GRID.to_json(), "learning_rates": {"sgd": 0.1}},
               {**GRID.to_json(), "activations": [[1]]}, {**GRID.to_json(), "data": 5}]
)  # fmt: skip
def test_a_configuration_of_junk_is_an_input_error(config):
    with pytest.raises(InputError):
        Grid.from_json(config)


# ----------------------------------------------------------------------------- metrics.jsonl


@pytest.fixture(scope="module")
def grown(tmp_path_factory):
    """A folder of two parts: part 0 was trained, then its epochs and seeds grew."""
    workdir = train(tmp_path_factory.mktemp("grown"))
    return train(workdir, dataclasses.replace(GRID, seeds=[0, 1, 2], epochs=3))


def read_metrics(path):
    parts = (GRID, dataclasses.replace(GRID, seeds=[2]))
    wanted = [metrics.Part(identity(part), cells=1) for part in parts]
    return metrics.read(path, wanted, [3 * PER_EPOCH] * 2)


def test_flipped_bits_of_metrics_are_noticed(grown, tmp_path):
    rng, path = random.Random(2), tmp_path / "metrics.jsonl"
    assert read_metrics(grown / "metrics.jsonl").problem is None
    for _ in range(FLIPS):
        shutil.copy(grown / "metrics.jsonl", path)
        flip(path, rng)
        assert "damaged at line" in read_metrics(path).problem


def removed(lines):
    return [lines[0], *lines[2:]]


def swapped(lines):
    return [lines[1], lines[0], *lines[2:]]


def doubled(lines):
    return [lines[0], lines[0], *lines[1:]]


def cut(lines):
    return [*lines[:-1], lines[-1][:-9]]


@pytest.mark.parametrize("change", [removed, swapped, doubled, cut, lambda x: x[:-1],
                                    lambda x: [b"\0\xff junk\n", *x], lambda _: []])  # fmt: skip
def test_lines_lost_moved_or_added_are_noticed(change, grown, tmp_path):
    path = tmp_path / "metrics.jsonl"
    lines = (grown / "metrics.jsonl").read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(change(lines)))
    assert read_metrics(path).problem is not None


@pytest.mark.parametrize("damage", ["gone", "half"])
def test_lost_metrics_are_refused_and_going_on_without_is_recorded(damage, workdir, capfd):
    path, longer = workdir / "metrics.jsonl", dataclasses.replace(GRID, epochs=3)
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:-20])
    before = content(workdir)
    for grid in (GRID, longer):
        with pytest.raises(InputError, match=r"metrics\.jsonl (is missing|is damaged)") as caught:
            train(workdir, grid)
        assert "--allow_inexact_resume" in one_line(caught)
    assert content(workdir) == before
    train(workdir, longer, allow_inexact_resume=True)
    (resume,) = json.loads((workdir / "manifest.json").read_text())["inexact_resumes"]
    assert list(resume["changed"]) == ["metrics.jsonl"]
    assert json.loads(path.read_text().splitlines()[-1])["step"] == 3 * PER_EPOCH
    after = content(workdir)
    train(workdir, longer)  # with what is left the folder is whole again
    assert content(workdir) == after
    assert capfd.readouterr().err == ""


def test_what_a_kill_leaves_behind_the_checkpoint_is_dropped(whole, workdir):
    path = workdir / "metrics.jsonl"
    good = path.read_bytes()
    run_dir.append_metrics(workdir, 0, GRID, STEPS + 5, 2.1, {GRID.cells[0].name: np.zeros(2)},
                         identity=identity())  # fmt: skip
    with path.open("ab") as file:
        file.write(b'{"part": 0, "st')
    train(workdir)
    assert path.read_bytes() == good == (whole / "metrics.jsonl").read_bytes()


# ------------------------------------------------------------------------- certificates.json


@pytest.mark.parametrize("damage", ["edited", "flipped", "junk", "gone", "of another grid"])
def test_certificates_that_are_not_of_this_run_are_computed_anew(damage, whole, workdir):
    path = workdir / "certificates.json"
    good = path.read_bytes()
    if damage == "edited":
        path.write_text(path.read_text().replace('"holds": true', '"holds": false', 1))
    elif damage == "flipped":
        flip(path, random.Random(3))
    elif damage == "junk":
        path.write_bytes(b"\0\xff")
    elif damage == "gone":
        path.unlink()
    else:
        other = dataclasses.replace(GRID, activations=["relu"])
        found = certificates.certify_grid(other)
        run_dir.keep_certificates(
            workdir, {**found, "subject": certificates.subject(other, programs=manifest.programs())}
        )
    if damage != "gone":
        block = certificate_block(workdir, CONFIG)
        assert "damaged" in block
        assert "<table" not in block
    train(workdir)
    assert path.read_bytes() == good
    assert "<table" in certificate_block(whole, CONFIG)


FORGED = {
    "a residual": lambda c: c["activations"]["tanh"].update(residual=0.5),
    "what does not hold": lambda c: c["activations"]["tanh"].update(residual=0.5, holds=False),
    "another group": lambda c: c["activations"]["tanh"].update(group="O(n)"),
    "lengths": lambda c: c["activations"]["tanh"].update(lengths="holds at 0.001 to 1e+06"),
    "own lengths": lambda c: c["activations"]["tanh"]["tested"].pop(),
    "a finding": lambda c: c["activations"]["tanh"]["tested"][0].__setitem__(2, "commutes"),
    "a decade": lambda c: c["activations"]["tanh"]["tested"].pop(0),
    "a range of junk": lambda c: c["activations"]["tanh"]["tested"].append([1]),
    "no lengths, as earlier versions": lambda c: c["activations"]["tanh"].pop("tested"),
    "rotations": lambda c: c["activations"]["tanh"].update(rotations=3),
    "a claim": lambda c: c["optimizers"]["sgd"].update(respects_rotations=False, residual=0.5),
    "a number of a text": lambda c: c["optimizers"]["sgd"].update(residual="0"),
    "a deviation": lambda c: c["initializers"]["glorot_normal"].update(deviations=1e3),
    "an entry more": lambda c: c["initializers"]["glorot_normal"].update(other=1),
    "a kind of junk": lambda c: c.update(activations=5),
    "a kind less": lambda c: c.pop("activations"),
    "a row of junk": lambda c: c["optimizers"].update(sgd=[]),
    "another name": lambda c: c["optimizers"].update(adam=c["optimizers"]["sgd"]),
}


@pytest.mark.parametrize("kind", FORGED)
def test_certificates_edited_and_sealed_again_are_computed_anew(kind, workdir):
    path = workdir / "certificates.json"
    good = path.read_bytes()
    entries = json.loads(good)
    assert certificates.fits(entries, GRID)
    FORGED[kind](entries)
    run_dir.keep_certificates(workdir, entries)
    assert path.read_bytes() != good
    if "earlier" in kind:
        assert "of an earlier version" in certificate_block(workdir, CONFIG)
    train(workdir)
    assert path.read_bytes() == good


# ------------------------------------------------------------------------------ fingerprints


@pytest.fixture
def own(monkeypatch):
    """Puts an activation into the registry by hand, and again another of the same name."""

    def put(sigma):
        apply, tanh = activations.elementwise(sigma), activations.ACTIVATIONS["tanh"]
        entry = tanh._replace(apply=apply, profile=sigma, profile_name="mine", group="S_n")
        monkeypatch.setitem(activations.ACTIVATIONS, "mine", entry)

    return put


def test_a_function_redefined_under_its_name_is_refused(own, tmp_path):
    own(lambda x: jnp.tanh(2.0 * x))
    grid = dataclasses.replace(GRID, activations=["mine"], epochs=1)
    workdir = train(tmp_path / "run", grid)
    own(lambda x: jnp.tanh(3.0 * x))
    before = content(workdir)
    for more in ({"seeds": [0, 1, 2]}, {"epochs": 2}):
        with pytest.raises(InputError, match="another function under the name of activation mine"):
            train(workdir, dataclasses.replace(grid, **more), allow_inexact_resume=True)
    with pytest.raises(InputError, match="another function"):
        restore.restore(workdir, datasets.load("digits"))
    assert content(workdir) == before
    own(lambda x: jnp.tanh(2.0 * x))
    train(workdir, dataclasses.replace(grid, seeds=[0, 1, 2]))


def test_a_constant_that_changed_under_a_function_is_another_function(own, monkeypatch, tmp_path):
    """As in a notebook, whose cell with the constant is run again, and that of the function not."""
    scale = {"of": 2.0}
    own(lambda x: jnp.tanh(scale["of"] * x))
    grid = dataclasses.replace(GRID, activations=["mine"], epochs=1)
    workdir = train(tmp_path / "run", grid)
    monkeypatch.setitem(scale, "of", 3.0)
    with pytest.raises(InputError, match="another function under the name of activation mine"):
        train(workdir, dataclasses.replace(grid, seeds=[0, 1, 2]))


def test_fingerprints_tell_constants_apart_and_are_the_same_in_another_process(own, tmp_path):
    matrix = np.random.default_rng(0).normal(size=(4, 4)).astype(np.float32)
    seen = set()
    for entry in (0.0, 1e-3):
        changed = matrix.copy()
        changed[2, 1] += entry
        own(lambda x, changed=changed: jnp.tanh(x @ changed))
        grid = Grid(activations=["mine"])
        seen.add(fingerprints.fingerprints(grid)["activations"]["mine"])
    assert len(seen) == 2
    named = {"activations": ["tanh@rotated", "dose_tanh:0.5"], "optimizers": ["muon", "adam"]}
    code = (f"from ppp_jax.grid.fingerprints import fingerprints\nfrom ppp_jax.grid import Grid\n"
            f"import json\nprint(json.dumps(fingerprints(Grid(**{named!r}))))")  # fmt: skip
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == fingerprints.fingerprints(Grid(**named))
    assert not list(tmp_path.iterdir())


# ------------------------------------------------------------------- files of another run


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    """A run of the same shape that was trained otherwise."""
    return train(tmp_path_factory.mktemp("other"), OTHER)


OTHER = dataclasses.replace(GRID, learning_rates=[0.2])
LONGER = dataclasses.replace(GRID, epochs=3)


def put(name, source, target):
    """Puts a file or folder of one run in the place of another one's."""
    where = target / name
    (shutil.rmtree if where.is_dir() else type(where).unlink)(where)
    (shutil.copytree if (source / name).is_dir() else shutil.copy)(source / name, where)


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("latents.zarr", "its latents.zarr belongs to another run than its manifest"),
        (
            "checkpoints",
            "all checkpoints in checkpoints/0 are damaged .* it belongs to another run",
        ),
        ("metrics.jsonl", "metrics.jsonl is damaged at line 1"),
    ],
)
def test_files_of_another_run_are_not_taken_for_its_own(name, problem, other, workdir):
    put(name, other, workdir)
    before = content(workdir)
    for grid in (GRID, LONGER):
        with pytest.raises(InputError, match=problem) as caught:
            train(workdir, grid)
        one_line(caught)
    if name == "checkpoints":
        with pytest.raises(InputError, match="it belongs to another run"):
            restore.restore(workdir, datasets.load("digits"))
    assert content(workdir) == before


def test_latents_of_another_batch_size_or_of_other_data_are_of_another_run(workdir, tmp_path):
    images = np.random.default_rng(0).uniform(size=(80, 64)).astype(np.float32)
    np.savez(tmp_path / "own.npz", x_train=images[:60], x_test=images[60:])
    mine = dataclasses.replace(GRID, data=str(tmp_path / "own.npz"))
    for grid in (dataclasses.replace(GRID, batch_size=48), mine):
        put("latents.zarr", train(tmp_path / str(grid.batch_size) / "run", grid), workdir)
        with pytest.raises(InputError, match="belongs to another run"):
            train(workdir)


def test_files_of_a_run_with_another_function_of_that_name_are_not_its_own(own, tmp_path):
    runs = []
    for scale in (3.0, 2.0):
        own(lambda x, scale=scale: jnp.tanh(scale * x))
        grid = dataclasses.replace(GRID, activations=["mine"], epochs=1)
        runs.append(train(tmp_path / str(scale), grid))
    other, mine = runs
    for name, problem in (
        ("latents.zarr", "to another run"),
        ("checkpoints", "to another run"),
        ("metrics.jsonl", "damaged at line 1"),
    ):
        workdir = shutil.copytree(mine, tmp_path / name)
        put(name, other, workdir)
        before = content(workdir)
        for more in (grid, dataclasses.replace(grid, epochs=2)):
            with pytest.raises(InputError, match=problem):
                train(workdir, more)
        assert content(workdir) == before


def test_a_part_keeps_the_functions_it_was_begun_with(workdir, monkeypatch):
    """Another version of JAX makes other texts of the same functions: the files stay its own."""
    (begun,) = manifest.read(workdir).functions
    conditions, found = manifest.conditions, manifest.fingerprints

    def other_texts(grid):
        return {kind: dict.fromkeys(names, "0" * 64) for kind, names in found(grid).items()}

    monkeypatch.setattr(manifest, "conditions", lambda w: {**conditions(w), "jax": "9.9"})
    monkeypatch.setattr(manifest, "fingerprints", other_texts)
    for grid in (LONGER, dataclasses.replace(LONGER, seeds=[0, 1, 2])):
        train(workdir, grid, allow_inexact_resume=True)
    stored = manifest.read(workdir)
    assert stored.functions == (begun, manifest.functions(GRID))
    assert set(stored.fingerprints["activations"].values()) == {"0" * 64}
    assert run_dir.last_steps(workdir, stored) == [3 * PER_EPOCH] * 2


def test_a_folder_of_schema_5_goes_on_without_the_functions_of_its_first_part(
    tmp_path, monkeypatch
):
    create = manifest.create
    monkeypatch.setattr(  # as it was
        manifest, "create", lambda *given: create(*given)._replace(functions=(None,))
    )
    workdir = train(tmp_path / "run", dataclasses.replace(GRID, epochs=1))
    monkeypatch.undo()

    def of_schema_5(entries):
        entries.update(schema=5)
        assert entries.pop("functions") == [None]

    reseal(workdir, of_schema_5)
    train(workdir, dataclasses.replace(GRID, seeds=[0, 1, 2]))
    entries = json.loads((workdir / "manifest.json").read_text())
    last = manifest.functions(dataclasses.replace(GRID, seeds=[2]))
    assert (entries["schema"], entries["functions"]) == (6, [None, last])


def test_checkpoints_of_two_parts_are_not_exchanged(grown, tmp_path):
    workdir = shutil.copytree(grown, tmp_path / "run")
    folders = [workdir / "checkpoints" / name for name in ("0", "1", "between")]
    for source, target in ((0, 2), (1, 0), (2, 1)):
        folders[source].rename(folders[target])
    with pytest.raises(InputError, match="or to another part of this run"):
        restore.restore(workdir, datasets.load("digits"))


def test_an_older_ledger_than_the_checkpoint_is_refused(whole, workdir):
    path = workdir / "latents.zarr"
    kept = ledger.read(path)
    for table in kept.groups.values():
        table[ledger.SAVED][..., -1] = False  # as it was before the last snapshot
    ledger.write(path, kept)
    before = content(workdir)
    for grid in (GRID, LONGER):
        with pytest.raises(InputError, match=r"lacks the snapshot of epoch 2, which checkpoints/0"):
            train(workdir, grid)
    assert content(workdir) == before
    shutil.rmtree(workdir / "checkpoints" / "0")  # as the line says
    train(workdir)
    commands.assert_same(workdir, whole, runs=2)


def test_older_latents_than_the_checkpoint_are_refused(whole, grown, tmp_path):
    """Those of before the epochs and seeds grew, which say nothing of what came later."""
    workdir, larger = (
        shutil.copytree(grown, tmp_path / "run"),
        dataclasses.replace(LONGER, seeds=[0, 1, 2]),
    )
    put("latents.zarr", whole, workdir)
    for part, epoch in ((0, 3), (1, 0)):
        before = content(workdir)
        for grid in (larger, dataclasses.replace(larger, epochs=4)):
            lacks = rf"/latent_3 lacks the .*epoch {epoch}, which checkpoints/{part} has passed"
            with pytest.raises(InputError, match=lacks) as caught:
                train(workdir, grid)
            one_line(caught)
        assert content(workdir) == before
        shutil.rmtree(workdir / "checkpoints" / str(part))  # as the line says
    train(workdir, larger)
    commands.assert_same(workdir, grown, runs=3)


def test_older_latents_without_a_group_are_refused(whole, tmp_path):
    """Of a width or an architecture that came later."""
    workdir, wider = (
        shutil.copytree(whole, tmp_path / "run"),
        dataclasses.replace(GRID, latent_widths=[3, 4]),
    )
    train(workdir, wider)
    put("latents.zarr", whole, workdir)
    before = content(workdir)
    with pytest.raises(
        InputError, match=r"latents.zarr/latent_4 lacks .* which checkpoints/1 has passed"
    ):
        train(workdir, wider)
    assert content(workdir) == before


def test_newer_latents_than_the_manifest_are_refused(whole, grown, workdir, tmp_path):
    longer = train(shutil.copytree(whole, tmp_path / "longer"), LONGER)
    for newer, problem in (
        (grown, "belongs to another run than"),
        (longer, "is newer than its manifest"),
    ):
        put("latents.zarr", newer, workdir)
        before = content(workdir)
        for grid in (GRID, LONGER, dataclasses.replace(GRID, seeds=[0, 1, 2])):
            with pytest.raises(InputError, match=rf"its latents.zarr {problem}") as caught:
                train(workdir, grid)
            one_line(caught)
        assert content(workdir) == before


def test_latents_renamed_throughout_are_not_those_of_the_manifest(workdir):
    """Their metadata, files and ledger agree; what the manifest names is another group."""
    path = workdir / "latents.zarr"
    (path / "latent_3").rename(path / "latent_4")
    metadata = (path / ".zmetadata").read_text().replace("latent_3/", "latent_4/")
    (path / ".zmetadata").write_text(metadata)
    entries = json.loads((path / ledger.FILE).read_text().replace("latent_3", "latent_4"))
    entries["files"][".zmetadata"] = [ledger.sha256(path / ".zmetadata")]
    (path / ledger.FILE).write_text(json.dumps(integrity.sealed(entries)))
    before = content(workdir)
    for grid in (GRID, LONGER):
        with pytest.raises(InputError, match="lacks latent_3 for the runs in its own manifest"):
            train(workdir, grid)
    assert content(workdir) == before


def test_a_manifest_of_other_seeds_is_not_that_of_the_latents(workdir):
    entries = json.loads((workdir / "manifest.json").read_text())
    entries["config"]["seeds"] = entries["parts"][0]["seeds"] = [0, 7]
    (workdir / "manifest.json").write_text(json.dumps(integrity.sealed(entries)))
    with pytest.raises(InputError, match=r"latents\.zarr belongs to another run than its manifest"):
        train(workdir, dataclasses.replace(GRID, seeds=[0, 7]))


# ------------------------------------------------------------------- what is no file, or too large


def pipe(path):
    os.mkfifo(path)


def endless(path):
    path.symlink_to("/dev/zero")


def filled(path):
    path.mkdir()
    (path / "mine.txt").write_text("mine")


def ring(path):
    path.symlink_to(path.name)


def huge(path):
    path.touch()
    os.truncate(path, 2**40)  # which takes no room


ODD = (pipe, endless, filled, ring, huge)
OPENED = ("manifest.json", "metrics.jsonl", "certificates.json", "latents.zarr/checksums.json",
          "latents.zarr/.zmetadata", "latents.zarr/latent_3/.zattrs",
          "latents.zarr/latent_3/seed/0",
          "latents.zarr/latent_3/pre/0.0.0.0.0.0.0.0.0.0",
          "latents.zarr/latent_3/test_mse/0.0.0.0.0.0.0.0")  # fmt: skip


@pytest.mark.parametrize("odd", ODD)
@pytest.mark.parametrize("name", OPENED)
def test_what_is_no_file_is_named_and_not_waited_for(name, odd, workdir):
    (workdir / name).unlink()
    odd(workdir / name)
    before = sorted(workdir.rglob("*"))
    calls = (train, lambda folder: train(folder, LONGER), load_run)
    for call in calls[: 3 if "zarr" in name else 2]:
        with pytest.raises(InputError, match=name.rpartition("/")[-1]) as caught:
            call(workdir)
        one_line(caught)
    assert sorted(workdir.rglob("*")) == before


@pytest.mark.parametrize("odd", ODD)
@pytest.mark.parametrize("name", ["meta/metadata", "state/_METADATA", "_CHECKPOINT_METADATA"])
def test_what_is_no_file_of_a_checkpoint_is_not_waited_for(name, odd, whole, tmp_path):
    copy = shutil.copytree(whole / "checkpoints" / "0" / str(STEPS), tmp_path / str(STEPS))
    (copy / name).unlink()
    odd(copy / name)
    if not checkpoints.steps(tmp_path):
        assert name == "_CHECKPOINT_METADATA"
        return
    problem = checkpoints.problem(copy, runs=2, identity=identity())
    assert problem.startswith(name) or (odd is filled and "cannot be read" in problem)


@pytest.mark.parametrize("odd", ODD)
@pytest.mark.parametrize("step", [OLDER, STEPS])
def test_networks_are_not_restored_beside_what_is_no_file(step, odd, workdir):
    """Of every checkpoint that is there the library opens this one."""
    name = f"checkpoints/0/{step}/_CHECKPOINT_METADATA"
    (workdir / name).unlink()
    for place in (lambda _: None, odd):
        place(workdir / name)
        with pytest.raises(InputError, match=rf"its {name}") as caught:
            restore.restore(workdir, datasets.load("digits"))
        one_line(caught)


@pytest.mark.parametrize("odd", ODD)
def test_what_is_no_record_of_a_report_is_not_waited_for(odd, tmp_path):
    target = tmp_path / "report"
    with atomic.replacing(target, field="workdir", value=tmp_path) as folder:
        (folder / "index.html").write_text("ours")
    (target / atomic.RECORD).unlink()
    odd(target / atomic.RECORD)
    with pytest.raises(
        InputError, match=r"report exists and was not written by ppp_jax \(.written.json"
    ) as caught:
        atomic.check(target, field="workdir", value=tmp_path)
    one_line(caught)


@pytest.mark.parametrize("odd", [pipe, endless, ring])
@pytest.mark.parametrize("name", ["checkpoints", "checkpoints/0", "latents.zarr"])
def test_what_is_no_folder_is_named(name, odd, workdir):
    shutil.rmtree(workdir / name)
    odd(workdir / name)
    for options in ({}, {"grid": LONGER}, {"overwrite": True}):
        with pytest.raises(InputError, match=f"its {name} is not a folder") as caught:
            train(workdir, **options)
        one_line(caught)
    assert os.path.lexists(workdir / name)


def test_metrics_are_not_appended_to_where_a_link_leads(workdir, tmp_path):
    precious = (workdir / "metrics.jsonl").rename(tmp_path / "precious")
    (workdir / "metrics.jsonl").symlink_to(precious)
    before = content(workdir)
    for options in ({}, {"grid": LONGER}, {"overwrite": True}):
        with pytest.raises(InputError, match=r"its metrics.jsonl is a link") as caught:
            train(workdir, **options)
        one_line(caught)
    assert content(workdir) == before


# -------------------------------------------------------------------------------- strangers


@pytest.mark.parametrize(
    "stranger", ["checkpoints/notes.txt", "checkpoints/0/notes.txt", "latents.zarr/thesis.tex",
                 "latents.zarr/mine/thesis.tex"]
)  # fmt: skip
def test_overwriting_does_not_delete_what_no_run_wrote(stranger, workdir):
    (workdir / stranger).parent.mkdir(exist_ok=True)
    (workdir / stranger).write_text("mine")
    before = content(workdir)
    with pytest.raises(
        InputError, match="was not written by a run, and overwriting would delete it"
    ):
        train(workdir, dataclasses.replace(GRID, seeds=[7]), overwrite=True)
    assert content(workdir) == before
