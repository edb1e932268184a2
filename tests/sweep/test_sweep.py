"""Training to disk: resume, refusal, and what is written."""

import contextlib
import dataclasses
import json
import shutil
import signal

import jax
import numpy as np
import pytest
import xarray as xr

from ppp_jax.analysis import load_run
from ppp_jax.data import datasets
from ppp_jax.engine import interrupts
from ppp_jax.errors import InputError
from ppp_jax.grid import Grid
from ppp_jax.storage import latents, manifest, run_dir
from ppp_jax.sweep import plan, sweep
from tests import commands

pytestmark = pytest.mark.usefixtures("quick_compilation")

SMALL = Grid(
    activations=["tanh", "isotropic_tanh"],
    widths=[6],
    latent_widths=[3],
    optimizers=["sgd", "adam"],
    seeds=[0, 1, 2],
    epochs=4,
    probe_samples=40,
)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    return sweep.train(SMALL, tmp_path_factory.mktemp("undisturbed"), progress=False)


def metrics(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def assert_same_results(first, second):
    assert (first / "metrics.jsonl").read_bytes() == (second / "metrics.jsonl").read_bytes()
    one, other = load_run(first).load(), load_run(second).load()
    xr.testing.assert_identical(one.drop_attrs(), other.drop_attrs())


def test_run_folder_explains_itself(undisturbed):
    dataset = load_run(undisturbed)
    assert dataset["pre"].dims == (
        "activation", "depth", "width", "optimizer", "initializer", "rate", "seed", "step",
        "sample", "unit",
    )  # fmt: skip
    assert dataset["pre"].dtype == np.float32
    assert dataset["pre"].shape == (2, 1, 1, 2, 1, 1, 3, 4, 40, 3)
    np.testing.assert_array_equal(dataset["epoch"], [0, 1, 2, 4])
    np.testing.assert_array_equal(dataset["seed"], [0, 1, 2])
    assert dataset["learning_rate"].sel(optimizer="adam").item() == 1e-3
    np.testing.assert_array_equal(dataset["inputs"], datasets.load("digits").train[:40])
    np.testing.assert_array_equal(dataset["labels"], datasets.load("digits").train_labels[:40])
    for name in ("pre", "post", "train_mse", "test_mse"):
        assert np.isfinite(dataset[name]).all(), name
    entries = json.loads(dataset.attrs["manifest"])
    assert entries == json.loads((undisturbed / "manifest.json").read_text())
    assert entries["config"] == SMALL.to_json()
    assert entries["data"]["sha256"] == datasets.load("digits").sha256
    assert entries["conditions"]["jax"] == jax.__version__
    stored = manifest.read(undisturbed)
    assert stored.to_text() == (undisturbed / "manifest.json").read_text()
    assert stored.grid.to_json() == SMALL.to_json()


def test_saved_latents_are_labelled_right(undisturbed):
    """Each cell's latents stand under its own names: post is its activation of pre."""
    dataset = load_run(undisturbed).squeeze(["depth", "width", "initializer", "rate"])
    for name in ("tanh", "isotropic_tanh"):
        pre, post = (dataset[k].sel(activation=name).values for k in ("pre", "post"))
        if name == "tanh":
            expected = np.tanh(pre)
        else:
            r = np.linalg.norm(pre, axis=-1, keepdims=True)
            expected = np.tanh(r) * pre / r
        np.testing.assert_allclose(post, expected, atol=1e-5)
    first = dataset.isel(step=0)
    np.testing.assert_array_equal(
        first["pre"].sel(optimizer="sgd"), first["pre"].sel(optimizer="adam")
    )
    last = dataset["test_mse"].isel(step=-1)
    assert (last != last.isel(optimizer=0)).sel(optimizer="adam").all()
    assert (last.sel(optimizer="adam") < dataset["test_mse"].isel(step=0)).all()


def test_metrics_have_a_line_per_cell_and_chunk(undisturbed):
    rows = metrics(undisturbed)
    steps = sorted({row["step"] for row in rows})
    assert steps[-1] == 4 * (1438 // 24)
    assert len(rows) == 4 * len(steps)
    assert np.shape(rows[0]["loss"]) == (1, 3)
    assert all(np.isfinite(row["loss"]).all() for row in rows)


def test_finished_run_trains_nothing(undisturbed, monkeypatch):
    before = {path: path.stat().st_mtime_ns for path in undisturbed.rglob("*") if path.is_file()}
    monkeypatch.setattr(sweep.program, "build", lambda *_: pytest.fail("built a program"))
    sweep.train(SMALL, undisturbed, progress=False)
    after = {path: path.stat().st_mtime_ns for path in undisturbed.rglob("*") if path.is_file()}
    assert before == after


@pytest.mark.parametrize(
    ("place", "calls"), [("latents.write_snapshot", 3), ("run_dir.save_checkpoint", 1)]
)
def test_interrupted_anywhere_continues_to_the_same_result(
    place, calls, undisturbed, tmp_path, monkeypatch
):
    module, name = place.split(".")
    original = getattr(getattr(sweep, module), name)
    count = iter(range(100))

    def interrupted(*args, **kwargs):
        if next(count) == calls:
            raise KeyboardInterrupt
        return original(*args, **kwargs)

    monkeypatch.setattr(getattr(sweep, module), name, interrupted)
    with pytest.raises(KeyboardInterrupt):
        sweep.train(SMALL, tmp_path, progress=False)
    done = run_dir.last_step(tmp_path, 0)
    assert done is not None
    assert done < 4 * (1438 // 24)
    assert len(load_run(tmp_path)["step"]) >= calls
    monkeypatch.undo()
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 9')  # a line that a killed process left unfinished
    sweep.train(SMALL, tmp_path, progress=False)
    assert_same_results(undisturbed, tmp_path)


def test_snapshots_not_complete_are_not_read(undisturbed, tmp_path, monkeypatch):
    """A crash between the latents and the mark that they are complete."""
    original = latents._array
    count = iter(range(100))

    def crash(group, name):
        if name == "saved" and next(count) == 2:  # the third time
            raise KeyboardInterrupt
        return original(group, name)

    monkeypatch.setattr(latents, "_array", crash)
    with pytest.raises(KeyboardInterrupt):
        sweep.train(SMALL, tmp_path, progress=False)
    monkeypatch.undo()
    np.testing.assert_array_equal(load_run(tmp_path)["epoch"], [0, 1])
    sweep.train(SMALL, tmp_path, progress=False)
    assert_same_results(undisturbed, tmp_path)


LONG = {
    "activations": ["tanh"], "optimizers": ["sgd"], "widths": [6], "latent_widths": [3],
    "seeds": [0, 1], "epochs": 2000, "snapshots": [1], "probe_samples": 40,
}  # fmt: skip


def test_ctrl_c_for_real(tmp_path):
    """SIGINT to the real command: exit 130, one line on how to go on, and a folder that resumes."""
    process = commands.start(tmp_path, commands.flags(LONG), module="experiments.ablation")
    assert commands.wait_until(commands.reached(tmp_path, 1), process), process.communicate()
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=120)
    assert process.returncode == 130, stderr
    assert "the same command continues" in stderr
    assert "Traceback" not in stderr
    kept = run_dir.last_step(tmp_path, 0)
    assert kept is not None
    assert kept > 0
    assert plan.plan(Grid(**LONG), tmp_path).run_steps_done == 2 * kept  # 2 seeds


@pytest.fixture(scope="module")
def cut_finely(tmp_path_factory):
    """The undisturbed run at 59-step epochs cut at 20 steps: epoch 1 ends with the third."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sweep, "MIN_CHUNK_STEPS", 20)
        return sweep.train(SMALL, tmp_path_factory.mktemp("cut_finely"), progress=False)


@pytest.mark.parametrize(("number", "lines"), [(signal.SIGINT, 1), (signal.SIGTERM, 2)])
def test_a_signal_stops_at_a_checkpoint_and_the_result_is_the_same(
    number, lines, undisturbed, cut_finely, tmp_path, monkeypatch
):
    """Between snapshots too."""
    monkeypatch.setattr(sweep, "MIN_CHUNK_STEPS", 20)
    append, calls = run_dir.append_metrics, iter(range(100))

    def signalled(*args, **named):
        append(*args, **named)
        if next(calls) == lines:
            signal.raise_signal(number)

    monkeypatch.setattr(run_dir, "append_metrics", signalled)
    before = signal.getsignal(number)
    with pytest.raises(KeyboardInterrupt):
        sweep.train(SMALL, tmp_path / "cut", progress=False)
    assert signal.getsignal(number) is before
    assert run_dir.last_step(tmp_path / "cut", 0) == [20, 40, 59][lines]
    monkeypatch.setattr(run_dir, "append_metrics", append)
    sweep.train(SMALL, tmp_path / "cut", progress=False)
    assert_same_results(cut_finely, tmp_path / "cut")
    one, other = load_run(cut_finely).load(), load_run(undisturbed).load()
    xr.testing.assert_identical(one.drop_attrs(), other.drop_attrs())


@pytest.fixture
def ctrl_c_interrupts():
    """A shell's background jobs ignore Ctrl-C, and so would tests among them."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("ctrl_c_interrupts")
def test_the_second_signal_is_not_held_back():
    with interrupts.stop_requests() as requested:
        assert not requested()
        signal.raise_signal(signal.SIGINT)
        assert requested()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


CHANGES = {
    r"seeds \[0, 1, 2\] there, \[0, 1\] now": {"seeds": [0, 1]},
    r"epochs 4 there, 3 now": {"epochs": 3},
    r"snapshots \[0, 1, 2, 4\] there, \[0, 3, 4\] now": {"snapshots": [3]},
    r"batch_size 24 there, 12 now": {"batch_size": 12},
    r"learning_rates \{.*\} there": {"learning_rates": [0.5]},
    r"data digits there, synthetic now": {"data": "synthetic"},
}


@pytest.mark.parametrize("difference", sorted(CHANGES))
def test_another_configuration_is_refused_with_the_difference(difference, undisturbed):
    changed = dataclasses.replace(SMALL, **CHANGES[difference])
    for call in (sweep.train, plan.plan):
        with pytest.raises(InputError, match=difference) as caught:
            call(changed, undisturbed)
        assert caught.value.field == "workdir"
        assert "\n" not in str(caught.value)


def test_changed_data_of_the_same_name_is_refused(tmp_path):
    rng = np.random.default_rng(0)
    path = tmp_path / "x.npz"
    grid = dataclasses.replace(SMALL, data=str(path), epochs=1, activations=["tanh"])
    np.savez(path, x_train=rng.normal(size=(30, 5)), x_test=rng.normal(size=(9, 5)))
    workdir = sweep.train(grid, tmp_path / "run", progress=False)
    np.savez(path, x_train=rng.normal(size=(30, 5)), x_test=rng.normal(size=(9, 5)))
    with pytest.raises(InputError, match="sha256 of the data"):
        sweep.train(grid, workdir, progress=False)


LITTLE = dataclasses.replace(SMALL, epochs=1, activations=["tanh"], optimizers=["sgd"])


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return sweep.train(LITTLE, tmp_path_factory.mktemp("finished"), progress=False)


@pytest.fixture
def workdir(finished, tmp_path):
    """A copy of a finished run, which a test can overwrite."""
    return shutil.copytree(finished, tmp_path / "run")


def test_overwrite_removes_the_run_and_nothing_else(workdir):
    (workdir / "notes.txt").write_text("mine")
    other = dataclasses.replace(LITTLE, seeds=[7])
    assert plan.plan(other, workdir, overwrite=True).run_steps_done == 0
    sweep.train(other, workdir, overwrite=True, progress=False)
    np.testing.assert_array_equal(load_run(workdir)["seed"], [7])
    assert (workdir / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("removed", range(4))
def test_killed_while_overwriting_leaves_nothing_that_counts(removed, workdir, monkeypatch):
    """Killed after any removal: the old run begins anew, and the new one is still refused."""
    before = load_run(workdir).load()
    count = iter(range(100))

    def killed(path, original=shutil.rmtree):
        if next(count) == removed:
            raise KeyboardInterrupt
        original(path)

    monkeypatch.setattr(shutil, "rmtree", killed)
    other = dataclasses.replace(LITTLE, seeds=[7, 8, 9])  # of equal shape
    (workdir / "report").mkdir()
    with contextlib.suppress(KeyboardInterrupt):
        sweep.train(other, workdir, overwrite=True, progress=False)
    monkeypatch.undo()
    if json.loads((workdir / "manifest.json").read_text())["config"] == LITTLE.to_json():
        with pytest.raises(InputError, match="another configuration"):
            sweep.train(other, workdir, progress=False)
        sweep.train(LITTLE, workdir, progress=False)
        xr.testing.assert_identical(load_run(workdir).load().drop_attrs(), before.drop_attrs())
        # What the killed removal left behind is not in the way of the next one.
        sweep.train(other, workdir, overwrite=True, progress=False)
        np.testing.assert_array_equal(load_run(workdir)["seed"], [7, 8, 9])
    else:
        np.testing.assert_array_equal(load_run(workdir)["seed"], [7, 8, 9])


@pytest.mark.parametrize("name", ["checkpoints", "latents.zarr", "report", "metrics.jsonl"])
@pytest.mark.parametrize("overwrite", [False, True])
def test_a_folder_of_something_else_is_left_alone(name, overwrite, tmp_path):
    (tmp_path / name).mkdir()
    (tmp_path / name / "thesis.tex").write_text("mine")
    with pytest.raises(InputError, match=f"holds {name} without a manifest"):
        sweep.train(SMALL, tmp_path, overwrite=overwrite, progress=False)
    assert (tmp_path / name / "thesis.tex").read_text() == "mine"
    assert not (tmp_path / "manifest.json").exists()


def test_lost_latents_are_noticed(undisturbed, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(undisturbed, copy)
    shutil.rmtree(copy / "latents.zarr")
    with pytest.raises(InputError, match=r"checkpoints but no latents\.zarr"):
        sweep.train(SMALL, copy, progress=False)


def test_workdir_that_cannot_be_used(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"workdir=.*cannot be (read|written)"):
        sweep.train(SMALL, tmp_path / "file", progress=False)
    with pytest.raises(InputError, match=r"workdir=.*cannot be read"):
        plan.plan(SMALL, tmp_path / "file")


@pytest.mark.parametrize(
    ("content", "problem"),
    [("{", "damaged"), ("[]", "not of schema"), ('{"schema": 99}', "a newer ppp_jax"),
     ('{"schema": 4}', "before the first release"), ('{"schema": 5}', "its digest is wrong")],
)  # fmt: skip
def test_damaged_manifest(content, problem, tmp_path):
    (tmp_path / "manifest.json").write_text(content)
    with pytest.raises(InputError, match=problem):
        sweep.train(SMALL, tmp_path, progress=False)


def test_batch_larger_than_the_data(tmp_path):
    grid = dataclasses.replace(SMALL, batch_size=1439)
    with pytest.raises(InputError, match="batch_size=1439: is larger than the training set"):
        sweep.train(grid, tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()


def test_plan_counts_and_touches_nothing(undisturbed, tmp_path):
    planned = plan.plan(SMALL, tmp_path / "new")
    assert (planned.cells, planned.runs, planned.steps, planned.run_steps_done) == (4, 12, 236, 0)
    per_run = (64 * 6 + 6) + (6 * 3 + 3) + (3 * 6 + 6) + (6 * 64 + 64)
    assert planned.parameters == 12 * per_run
    assert planned.latents_bytes == 12 * 4 * 40 * 3 * 2 * 4
    assert planned.flops > 12 * 2 * 2 * 24 * 2 * (64 * 6 + 6 * 3)  # forward and one gradient
    assert not (tmp_path / "new").exists()
    assert plan.plan(SMALL, undisturbed).run_steps_done == 12 * 236
