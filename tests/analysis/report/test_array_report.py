"""Folders of results: whole or not at all, under a lock, and nothing of others is ever lost."""

import gc
import json
import os
import pathlib
import resource
import shutil
import subprocess
import sys
import tracemalloc

import numpy as np
import pytest
import xarray as xr

from ppp_jax.analysis import write_analysis, write_report
from ppp_jax.analysis.inference import calibration
from ppp_jax.analysis.inference.rotation_test import rotation_test
from ppp_jax.analysis.io.runs import load_run
from ppp_jax.analysis.report import evidence
from ppp_jax.analysis.results import measure as measure_module
from ppp_jax.analysis.results.measure import measure
from ppp_jax.cli import study
from ppp_jax.errors import InputError
from ppp_jax.files import atomic
from ppp_jax.grid import Grid
from ppp_jax.storage import run_dir
from ppp_jax.sweep import sweep
from tests import forks

pytestmark = pytest.mark.usefixtures("quick_compilation")

TINY = Grid(activations=["tanh", "isotropic_tanh"], widths=[6], latent_widths=[3],
            optimizers=["sgd"], seeds=[0, 1], epochs=2, probe_samples=30)  # fmt: skip


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    return sweep.train(TINY, tmp_path_factory.mktemp("trained") / "run", progress=False)


@pytest.fixture
def workdir(trained, tmp_path):
    return shutil.copytree(trained, tmp_path / "run")


@pytest.fixture
def computing(monkeypatch):
    """Where the report would compute: a list that stays empty if it does not come so far."""
    begun = []
    monkeypatch.setattr(
        "ppp_jax.analysis.report.grid_report.measure", lambda *_, **__: begun.append(1)
    )
    return begun


def replaced(target, files):
    with atomic.replacing(target, field="workdir", value=target.parent) as folder:
        for name, text in files.items():
            (folder / name).write_text(text)


def contents(folder):
    return {path.name: path.read_text() for path in folder.iterdir()
            if path.is_file() and path.name != atomic.RECORD}  # fmt: skip


def refused(call, *, text, field="workdir"):
    with pytest.raises(InputError, match=text) as caught:
        call()
    assert caught.value.field == field
    assert "\n" not in str(caught.value)


# ------------------------------------------------------------------------- what stands there


@pytest.mark.parametrize(("kind", "text"), [
    ("file", "report is not a folder"), ("link", "report is a link"),
    ("dangling", "report is a link"), ("foreign", "report exists and was not written by ppp_jax"),
    ("damaged", r"not written by ppp_jax \(.written.json is missing or damaged"),
])  # fmt: skip
def test_something_else_named_report_is_refused_before_anything_is_computed(
    workdir, computing, tmp_path, kind, text
):
    report, elsewhere = workdir / "report", tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "thesis.tex").write_text("mine")
    match kind:
        case "file":
            report.write_text("mine")
        case "link":
            report.symlink_to(elsewhere)
        case "dangling":
            report.symlink_to(tmp_path / "nowhere")
        case "foreign":
            shutil.copytree(elsewhere, report)
        case "damaged":
            replaced(report, {"index.html": "old"})
            record = report / atomic.RECORD
            record.write_text(record.read_text().replace("index", "indfx"))
    before = sorted(os.listdir(workdir))
    refused(lambda: write_report(workdir, rotations=19, progress=False), text=text)
    assert not computing
    assert sorted(os.listdir(workdir)) == before
    assert contents(elsewhere) == {"thesis.tex": "mine"}


def test_a_study_is_refused_so_before_anything_is_trained(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "study").write_text("mine")
    done = forks.run("experiments.width", f"--workdir={tmp_path / 'run'}")
    assert done.returncode == 1, done.stderr
    assert done.stderr.startswith(f"error: --workdir={tmp_path / 'run'}: study is not a folder")
    assert done.stderr.count("\n") == 1
    assert os.listdir(tmp_path / "run") == ["study"]


def test_a_run_folder_in_use_is_refused_before_anything_is_computed(workdir, computing):
    with run_dir.locked(workdir):
        refused(lambda: write_report(workdir, rotations=19, progress=False),
                text="another run is at work in this folder")  # fmt: skip
        refused(lambda: study.writing(workdir).__enter__(), text="another run is at work")
    assert not computing
    assert not (workdir / atomic.LOCK).exists()


def test_two_analyses_of_one_folder_exclude_each_other(tmp_path):
    out = tmp_path / "out"
    with atomic.locked(tmp_path, name=atomic.hidden(out, "lock"), field="out", value=out):
        refused(lambda: write_analysis(np.eye(4), out), text="another run is at work", field="out")
        write_analysis(np.eye(4), tmp_path / "other", epsilon=0.5)
    assert sorted(os.listdir(tmp_path)) == ["other"]


@pytest.mark.parametrize("out", ["", "/", "file/out", "a" * 300, "nul\0", "/proc/out"])
def test_places_where_no_folder_can_be_are_one_line(tmp_path, monkeypatch, out):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    refused(lambda: write_analysis(np.eye(4), out), text="out=", field="out")
    assert os.listdir(tmp_path) == ["file"]


def test_the_longest_names_are_written(tmp_path):
    out = tmp_path / ("ä" * 127)  # 254 bytes
    for _ in range(2):
        replaced(out, {"a": "1"})
    assert os.listdir(tmp_path) == [out.name]


# ----------------------------------------------------------------- what happens while it writes


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_failure_leaves_what_was_there(tmp_path, error):
    target = tmp_path / "report"
    replaced(target, {"index.html": "old"})

    def fail():
        with atomic.replacing(target, field="workdir", value=tmp_path) as folder:
            (folder / "index.html").write_text("half")
            raise error

    if isinstance(error, OSError):
        refused(fail, text=r"cannot be written \(No space left on device\).*earlier folder is kept")
    else:
        with pytest.raises(KeyboardInterrupt):
            fail()
    assert contents(target) == {"index.html": "old"}
    assert os.listdir(tmp_path) == ["report"]


def test_a_full_disk_is_one_line_and_the_old_report_stays(workdir):
    """Really: no file may exceed 8 kB, less than any figure."""
    replaced(workdir / "report", {"index.html": "old"})
    command = [sys.executable, "-m", "tests.analysis.report.test_array_report", str(workdir)]
    # Compiled programs that are cut off in the cache would be the next tests' trouble.
    env = {**os.environ, "JAX_ENABLE_COMPILATION_CACHE": "false"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, env=env)
    assert done.returncode == 0, done.stderr
    assert "cannot be written (File too large)" in done.stdout
    assert done.stdout.count("\n") == 1
    assert contents(workdir / "report") == {"index.html": "old"}
    assert not list(workdir.glob(".*"))


def test_a_folder_removed_in_the_middle_is_one_line(tmp_path):
    target = tmp_path / "run" / "report"

    def fail():
        with atomic.replacing(target, field="workdir", value=target.parent) as folder:
            shutil.rmtree(target.parent)
            (folder / "index.html").write_text("new")

    refused(fail, text=r"cannot be written \(No such file or directory\)")


@pytest.mark.parametrize("thing", ["file", "link"])
def test_what_takes_the_place_meanwhile_is_kept(tmp_path, thing):
    target, mine = tmp_path / "report", tmp_path / "mine"
    mine.mkdir()

    def fail():
        with atomic.replacing(target, field="workdir", value=tmp_path):
            target.write_text("mine") if thing == "file" else target.symlink_to(mine)

    refused(fail, text="report is")
    assert target.is_symlink() if thing == "link" else target.read_text() == "mine"
    assert sorted(os.listdir(tmp_path)) == ["mine", "report"]


# ------------------------------------------------------------------------ what others put there


def test_a_new_version_keeps_what_is_not_ours_and_drops_what_is(tmp_path):
    target = tmp_path / "report"
    replaced(target, {"index.html": "1", "old.csv": "1", "edited.csv": "1", "later.csv": "1"})
    (target / "notes.txt").write_text("mine")
    (target / "folder").mkdir()
    (target / "folder" / "deep.txt").write_text("mine")
    (target / "link").symlink_to("notes.txt")
    (target / "new.csv").write_text("mine")
    (target / "edited.csv").write_text("mine")
    for _ in range(2):
        replaced(target, {"index.html": "2", "edited.csv": "2", "new.csv": "2"})
        assert contents(target) == {
            "index.html": "2", "edited.csv": "2", "edited.csv.kept": "mine", "new.csv": "2",
            "new.csv.kept": "mine", "notes.txt": "mine", "link": "mine",
        }  # fmt: skip
        assert (target / "link").is_symlink()
        assert (target / "folder" / "deep.txt").read_text() == "mine"
    assert os.listdir(tmp_path) == ["report"]


def test_overwriting_a_run_keeps_what_is_not_ours_in_report_and_study(workdir):
    for name in ("report", "study"):
        replaced(workdir / name, {"index.html": "ours"})
        (workdir / name / "notes.txt").write_text("mine")
    sweep.train(TINY, workdir, overwrite=True, progress=False)
    for name in ("report", "study"):
        assert contents(workdir / name) == {"notes.txt": "mine"}
        replaced(workdir / name, {"index.html": "new"})
        assert contents(workdir / name) == {"index.html": "new", "notes.txt": "mine"}


def test_overwriting_follows_no_link(workdir, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    (workdir / "study").symlink_to(tmp_path / "mine")
    sweep.train(TINY, workdir, overwrite=True, progress=False)
    assert contents(tmp_path / "mine") == {"notes.txt": "mine"}


def test_what_killed_processes_left_is_brought_in_order(tmp_path):
    target = tmp_path / "report"
    replaced(target, {"index.html": "1"})
    (target / "notes.txt").write_text("mine")
    # Killed between the two moves: the folder stands beside its place, and so does the next one.
    target.rename(tmp_path / ".report.earlier-00000000")
    replaced(tmp_path / "next", {"index.html": "2"})
    (tmp_path / "next").rename(tmp_path / ".report.partial-00000000")
    foreign = tmp_path / ".report.partial-mine"
    foreign.mkdir()
    (foreign / "notes.txt").write_text("mine")
    replaced(target, {"index.html": "3"})
    assert contents(target) == {"index.html": "3", "notes.txt": "mine"}
    assert sorted(os.listdir(tmp_path)) == [foreign.name, "report"]
    # Killed after them.
    replaced(tmp_path / ".report.earlier-00000000", {"index.html": "1"})
    (tmp_path / ".report.earlier-00000000" / "more.txt").write_text("mine")
    replaced(target, {"index.html": "4"})
    assert contents(target) == {"index.html": "4", "notes.txt": "mine", "more.txt": "mine"}


def test_a_record_cannot_lead_out_of_the_folder(tmp_path):
    mine = tmp_path / "mine.txt"
    mine.write_text("mine")
    target = tmp_path / "report"
    replaced(target, {"a": "mine"})
    digest = json.loads((target / atomic.RECORD).read_text())["files"]["a"]
    for name in ("../mine.txt", str(mine)):
        record = atomic.sealed({"files": {name: digest}})
        (target / atomic.RECORD).write_text(json.dumps(record))
        replaced(target, {"a": "mine"})
    atomic.remove(target)
    assert mine.read_text() == "mine"


def test_a_lock_that_is_a_link_is_not_followed(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / atomic.LOCK).symlink_to(tmp_path / "mine.txt")
    refused(lambda: atomic.locked(tmp_path / "run").__enter__(), text="cannot be written")
    assert (tmp_path / "mine.txt").read_text() == "mine"


# ------------------------------------------------------------------------------- part by part


@pytest.mark.slow
@pytest.mark.parametrize("held", ["snapshots", "runs"])
def test_numbers_do_not_depend_on_the_parts_that_are_read(trained, monkeypatch, held):
    dataset = load_run(trained)
    whole = measure(dataset, epsilon=0.6, rotations=19)
    cloud = 30 * 3 * 4
    monkeypatch.setattr(measure_module, "HELD_BYTES", 2 * cloud if held == "snapshots" else 1)
    parts = measure(dataset, epsilon=0.6, rotations=19)
    xr.testing.assert_identical(parts.runs, whole.runs)
    xr.testing.assert_identical(parts.pooled, whole.pooled)


def test_a_part_of_the_seeds_gets_the_rotations_that_it_has_among_all():
    clouds = xr.DataArray(np.random.default_rng(0).normal(size=(3, 40, 4)),
                          dims=("seed", "sample", "unit"))  # fmt: skip
    everything = rotation_test(clouds, rotations=19)
    last = rotation_test(clouds.isel(seed=[2]), rotations=19, first_seed=2)
    xr.testing.assert_identical(last.drop_attrs(), everything.isel(seed=[2]).drop_attrs())


PEAK = """
import resource, sys
import numpy as np
import xarray as xr
from ppp_jax.analysis.measure import HELD_BYTES, measure

def peak():
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

with xr.open_zarr(sys.argv[1], chunks=None) as found:
    assert found["pre"].nbytes > HELD_BYTES
    measure(found.isel(step=[0, 1]), epsilon=0.97, rotations=1)  # imports, compiled programs
    before = peak()
    measure(found, epsilon=0.97, rotations=1)
    print(peak() - before, found["pre"].nbytes)
"""


@pytest.mark.slow
def test_latents_larger_than_what_is_held_are_never_held_whole(tmp_path):
    """What 13 snapshots, 70 MB of each kind, take more than two of them; all at once: 5 times it.

    In a process of its own, by the system's account of its memory.
    """
    shape = (1, 1, 1, 1, 1, 1, 2, 13, 42_000, 16)
    dims = ("activation", "depth", "width", "optimizer", "initializer", "rate", "seed", "step")
    clouds = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    errors = np.zeros(shape[:-2], np.float32)
    dataset = xr.Dataset(
        dict.fromkeys(("pre", "post"), ((*dims, "sample", "unit"), clouds))
        | dict.fromkeys(("train_mse", "validation_mse", "test_mse"), (dims, errors))
        | {"diverged_step": (dims, errors.astype(np.int32) - 1)},
        coords={"activation": ["tanh"], "step": range(13), "epoch": ("step", range(13))},
    )  # fmt: skip
    chunks = {"chunks": (1, 1, 1, 1, 1, 1, 2, 1, *shape[-2:]), "compressors": None}
    dataset.to_zarr(tmp_path / "a.zarr", zarr_format=2,
                    encoding=dict.fromkeys(("pre", "post"), chunks))  # fmt: skip
    command = [sys.executable, "-W", "ignore", "-c", PEAK, str(tmp_path / "a.zarr")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    more, size = map(int, done.stdout.split())
    assert more < 2.5 * size


def test_principal_components_take_little_memory_beside_the_data():
    x = np.random.default_rng(0).normal(size=(40_000, 64)) * np.geomspace(9, 1, 64) + 3
    single = x.astype(np.float32)
    tracemalloc.start()
    try:
        found = evidence._principal_components(single, 5)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    centred = x - x.mean(axis=0)
    expected = centred @ np.linalg.svd(centred, full_matrices=False)[2][:5].T
    signs = np.sign((found * expected).sum(axis=0))
    np.testing.assert_allclose(found * signs, expected, atol=1e-3)
    assert peak < single.nbytes  # a decomposition of all samples takes ten times that


def test_calibration_draws_some_clouds_at_a_time_and_says_the_same(monkeypatch):
    options = {"samples": 2000, "units": 8, "draws": 12, "rotations": 1}
    found = []

    def peak(_):  # of which the least counts: garbage that is not collected yet is held too
        gc.collect()
        tracemalloc.start()
        try:
            xr.testing.assert_identical(calibration.null_p_values(**options), found[-1])
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peaks = []
    for held in (calibration.HELD_NUMBERS, 2**15):
        monkeypatch.setattr(calibration, "HELD_NUMBERS", held)
        found.append(calibration.null_p_values(**options))  # compiles its programs
        peaks.append(min(map(peak, range(3))))
    together, apart = found
    xr.testing.assert_identical(apart, together)
    assert peaks[1] < peaks[0] / 2


if __name__ == "__main__":  # a report under a limit on the size of files
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**13, resource.RLIM_INFINITY))
    try:
        write_report(pathlib.Path(sys.argv[1]), rotations=19, progress=False)
    except InputError as error:
        print(error)  # noqa: T201
