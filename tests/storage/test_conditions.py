"""What bits depend on is written down, and training does not go on under anything else unasked."""

import dataclasses
import importlib.metadata
import json
import shutil

import jax
import numpy as np
import pytest

from ppp_jax.analysis import load_run
from ppp_jax.errors import InputError
from ppp_jax.grid import Grid
from ppp_jax.storage import manifest, run_dir
from ppp_jax.sweep import plan, sweep
from tests import commands

pytestmark = pytest.mark.usefixtures("kept_programs")

GRID = Grid(
    activations=["tanh"],
    widths=[6],
    latent_widths=[3],
    optimizers=["sgd"],
    seeds=[0, 1, 2],
    epochs=2,
    probe_samples=30,
)
SHAPE, STEPS = "1x6-3", 2 * (1438 // 24)
WIDTH = 2  # not what the cache rule would choose, which is all three


def train(workdir, *, grid=GRID, seed_batch=WIDTH, **options):
    return sweep.train(grid, workdir, seed_batch=seed_batch, progress=False, **options)


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """A run folder after one epoch of two."""
    workdir, save = tmp_path_factory.mktemp("stopped"), run_dir.save_checkpoint

    def stop(checkpoints, step, states):
        save(checkpoints, step, states)
        if step == STEPS // 2:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run_dir, "save_checkpoint", stop)
        with pytest.raises(KeyboardInterrupt):
            train(workdir)
    assert run_dir.last_step(workdir, 0) == STEPS // 2
    return workdir


@pytest.fixture(scope="module")
def finished(stopped, tmp_path_factory):
    return train(shutil.copytree(stopped, tmp_path_factory.mktemp("finished") / "run"))


@pytest.fixture
def workdir(stopped, tmp_path):
    return shutil.copytree(stopped, tmp_path / "run")


def content(folder):
    """Returns what is on disk, down to the moment of each file's last change."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in files}


def entries(workdir):
    return json.loads((workdir / "manifest.json").read_text())


def version_of(package):
    def version(name, original=importlib.metadata.version):
        return "9.9" if name == package else original(name)

    return importlib.metadata, "version", version


def cpu_threads(patch):
    patch.setattr(manifest, "_HAS_AFFINITY", False)
    patch.setattr(manifest.os, "cpu_count", lambda: 99)


CHANGES = {
    "jax": lambda patch: patch.setattr(*version_of("jax")),
    "optax": lambda patch: patch.setattr(*version_of("optax")),
    "ppp_jax": lambda patch: patch.setattr(manifest, "__version__", "9.9"),
    "device": lambda patch: patch.setattr(manifest, "_cpu_model", lambda: "Z80"),
    "cpu_threads": cpu_threads,
    "XLA_FLAGS": lambda patch: patch.setenv("XLA_FLAGS", "--xla_cpu_enable_fast_math=true"),
}


def assert_refused(difference, workdir, **options):
    """Asserts that nothing is trained or planned, and that one line names the difference."""
    before = content(workdir)
    options = {"seed_batch": WIDTH} | options
    for call in (sweep.train, plan.plan):
        with pytest.raises(InputError, match=difference) as caught:
            call(GRID, workdir, **options)
        assert caught.value.field == "workdir"
        assert "was trained under other conditions" in str(caught.value)
        assert "--allow_inexact_resume" in str(caught.value)
        assert "\n" not in str(caught.value)
    assert content(workdir) == before


@pytest.mark.parametrize("name", sorted(CHANGES))
def test_other_conditions_are_refused_by_name(name, workdir, monkeypatch):
    stored = manifest.conditions({SHAPE: WIDTH})
    assert entries(workdir)["conditions"] == stored
    CHANGES[name](monkeypatch)
    now = manifest.conditions({SHAPE: WIDTH})
    assert {key for key in stored if stored[key] != now[key]} == {name}
    assert_refused(rf"\({name} {stored[name]!r} there, {now[name]!r} now\)", workdir)


def test_another_seed_batch_is_refused(workdir):
    assert_refused(rf"\(seed_batch of {SHAPE} 2 there, 3 now\)", workdir, seed_batch=3)


def test_all_differences_are_named_at_once(workdir, monkeypatch):
    for change in CHANGES.values():
        change(monkeypatch)
    line = ".*; ".join(f"{name} '?" for name in sorted(CHANGES))
    assert_refused(rf"\({line}.*; seed_batch of {SHAPE} 2 there, 1 now\)", workdir, seed_batch=1)


def test_a_larger_grid_is_refused_too(finished, monkeypatch):
    """What is trained is left as it is, but what is missing would be of other bits."""
    monkeypatch.setattr(manifest, "_cpu_model", lambda: "Z80")
    before = content(finished)
    for more in ({"epochs": 3}, {"seeds": [0, 1, 2, 3]}, {"latent_widths": [3, 4]}):
        with pytest.raises(InputError, match=r"device .* there, 'Z80' now"):
            train(finished, grid=dataclasses.replace(GRID, **more))
    assert content(finished) == before


def test_flags_without_effect_on_bits_are_not_conditions(monkeypatch):
    monkeypatch.delenv("XLA_FLAGS", raising=False)
    plain = manifest.conditions({})
    idle = "--xla_force_host_platform_device_count=8 --xla_dump_to=/tmp/x --xla_dump_hlo_as_text"
    monkeypatch.setenv("XLA_FLAGS", idle)
    assert manifest.conditions({}) == plain
    monkeypatch.setenv("XLA_FLAGS", f"{idle} --xla_cpu_enable_fast_math=true")
    assert manifest.conditions({})["XLA_FLAGS"] == "--xla_cpu_enable_fast_math=true"


def test_programs_that_jax_hardly_optimises_are_another_condition(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--xla_cpu_enable_fast_math=true")
    usual = manifest.conditions({})
    jax.config.update("jax_disable_most_optimizations", True)
    try:
        unoptimised = manifest.conditions({})
    finally:
        jax.config.update("jax_disable_most_optimizations", False)
    assert {name for name in usual if usual[name] != unoptimised[name]} == {"XLA_FLAGS"}
    assert unoptimised["XLA_FLAGS"].startswith(usual["XLA_FLAGS"])


def test_matmul_precision_is_a_condition():
    assert manifest.conditions({})["matmul_precision"] == "None"
    with jax.default_matmul_precision("highest"):
        assert manifest.conditions({})["matmul_precision"] == "highest"


def test_double_precision_is_a_condition(x64):  # noqa: ARG001
    assert manifest.conditions({})["x64"] is True


RANDOM_NUMBERS = {
    "prng_impl": lambda: jax.default_prng_impl("rbg"),
    "threefry_partitionable": lambda: jax.threefry_partitionable(False),
}


@pytest.mark.parametrize("name", sorted(RANDOM_NUMBERS))
def test_where_random_numbers_come_from_is_a_condition(name):
    """The settings of JAX that give a seed other initial weights."""

    def weights():
        return jax.random.normal(jax.random.fold_in(jax.random.key(0), 0), (8, 3))

    plain, before = weights(), manifest.conditions({})
    with RANDOM_NUMBERS[name]():
        assert not np.array_equal(weights(), plain)
        assert manifest.conditions({}) != before


def test_permission_alone_records_nothing(workdir, finished):
    train(workdir, allow_inexact_resume=True)
    commands.assert_same(workdir, finished, runs=3)
    assert entries(workdir) == entries(finished)
    assert entries(workdir)["inexact_resumes"] == []


@pytest.fixture(scope="module")
def permitted(stopped, tmp_path_factory):
    """The run folder, gone on with by permission, in other batches and on another processor."""
    workdir = shutil.copytree(stopped, tmp_path_factory.mktemp("permitted") / "run")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(manifest, "_cpu_model", lambda: "Z80")
        train(workdir, seed_batch=1, allow_inexact_resume=True)
    return workdir


def test_with_permission_it_goes_on_and_is_recorded(permitted, stopped):
    before, after = entries(stopped), entries(permitted)
    (resume,) = after.pop("inexact_resumes")
    changed = {"device": [manifest._cpu_model(), "Z80"], f"seed_batch of {SHAPE}": [2, 1]}
    assert resume["changed"] == changed
    assert resume["time"] >= before["created"]
    assert before.pop("sha256") != after.pop("sha256")  # the file's own
    now = before["conditions"] | {"device": "Z80", "seed_batch": {SHAPE: 1}}
    assert after == {k: v for k, v in before.items() if k != "inexact_resumes"} | {
        "conditions": now
    }
    assert run_dir.last_step(permitted, 0) == STEPS
    np.testing.assert_array_equal(load_run(permitted)["epoch"], [0, 1, 2])


def test_the_latents_carry_the_record(permitted):
    attribute = load_run(permitted).attrs["manifest"]
    assert json.loads(attribute)["inexact_resumes"] == entries(permitted)["inexact_resumes"]
    assert attribute == (permitted / "manifest.json").read_text()


def test_the_new_conditions_are_those_of_the_folder(permitted, tmp_path, monkeypatch):
    """Going on under them needs no permission, going back to the old ones does."""
    workdir = shutil.copytree(permitted, tmp_path / "run")
    longer = dataclasses.replace(GRID, epochs=3)
    with pytest.raises(InputError, match="device 'Z80' there"):
        train(workdir, grid=longer)
    monkeypatch.setattr(manifest, "_cpu_model", lambda: "Z80")
    with pytest.raises(InputError, match=f"seed_batch of {SHAPE} 1 there, 2 now"):
        train(workdir, grid=longer)
    train(workdir, grid=longer, seed_batch=1)
    assert entries(workdir)["inexact_resumes"] == entries(permitted)["inexact_resumes"]
    assert run_dir.last_step(workdir, 0) == 3 * (1438 // 24)


def test_a_width_is_kept_if_none_is_asked_for(workdir, finished):
    train(workdir, seed_batch=None)
    assert entries(workdir)["conditions"]["seed_batch"] == {SHAPE: WIDTH}
    commands.assert_same(workdir, finished, runs=3)


def test_a_finished_folder_is_not_refused(finished, monkeypatch):
    """Nothing is trained, so nothing can go wrong: `plan` says so, `train` does so."""
    before = content(finished)
    for change in CHANGES.values():
        change(monkeypatch)
    train(finished, seed_batch=1)
    assert content(finished) == before
    planned = plan.plan(GRID, finished, seed_batch=1)
    assert planned.run_steps_done == planned.steps * planned.runs
    assert planned.seed_batch == {SHAPE: WIDTH}


@pytest.mark.parametrize("width", [0, -1])
@pytest.mark.parametrize("state", ["new", "stopped", "finished"])
def test_a_width_must_be_positive(width, state, tmp_path, request):
    workdir = tmp_path / "run" if state == "new" else request.getfixturevalue(state)
    before = content(workdir)
    for call in (sweep.train, plan.plan):
        with pytest.raises(InputError, match="must be at least 1") as caught:
            call(GRID, workdir, seed_batch=width)
        assert (caught.value.field, caught.value.value) == ("seed_batch", width)
    assert content(workdir) == before
    assert not list(tmp_path.iterdir())


def test_a_width_of_numpy_is_a_number_too(tmp_path):
    train(tmp_path, grid=dataclasses.replace(GRID, epochs=1), seed_batch=np.int64(2))
    assert entries(tmp_path)["conditions"]["seed_batch"] == {SHAPE: 2}
