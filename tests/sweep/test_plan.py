"""The plan: from shapes alone, held against what is free, and true to what training does."""

import json

import jax
import pytest

from ppp_jax import resources
from ppp_jax.data import datasets
from ppp_jax.engine import program
from ppp_jax.errors import InputError
from ppp_jax.grid import Grid
from ppp_jax.storage import run_dir
from ppp_jax.sweep import demand, plan, seed_batches, sweep

pytestmark = pytest.mark.usefixtures("quick_compilation")

DIGITS = datasets.load("digits")
SMALL = {"activations": ["tanh"], "widths": [6], "latent_widths": [3], "optimizers": ["sgd"],
         "probe_samples": 30, "epochs": 1}  # fmt: skip
HUGE = {
    "widths": {"widths": [1_000_000], "activations": ["tanh", "isotropic_tanh"], "seeds": range(9)},
    "latent_widths": {"latent_widths": [1_000_000], "widths": [512], "seeds": range(9)},
    "seeds": {"widths": [512], "seeds": range(100_000)},
}


@pytest.fixture
def cache(tmp_path):
    """A memory of rates of its own."""
    before = jax.config.values["jax_compilation_cache_dir"]
    (tmp_path / "cache").mkdir()
    jax.config.update("jax_compilation_cache_dir", str(tmp_path / "cache"))
    yield tmp_path / "cache"
    jax.config.update("jax_compilation_cache_dir", before)


def forbidden(*_, **__):
    raise AssertionError("a plan has built, compiled or timed something")


@pytest.mark.parametrize("what", HUGE)
def test_what_cannot_fit_is_planned_at_once_and_never_trained(what, tmp_path, monkeypatch):
    """With the memory of a common machine; nothing is built or written."""
    monkeypatch.setattr(resources, "free_memory", lambda: 8 * 2**30)
    monkeypatch.setattr(program, "build", forbidden)
    monkeypatch.setattr(seed_batches, "measure", forbidden)
    grid = Grid(**SMALL | HUGE[what])
    for measure in (False, True):
        planned = plan.plan(grid, tmp_path / "run", measure=measure)
        assert "memory does not suffice" in str(planned.shortage)
        assert planned.memory_bytes > planned.memory_free
        assert "8.0 GiB free  !! may not fit: lower --seeds" in str(planned)
    with pytest.raises(InputError, match="memory does not suffice") as caught:
        sweep.train(grid, tmp_path / "run", progress=False)
    assert str(caught.value) == str(planned.shortage)
    assert not run_dir.manifest.read(tmp_path / "run")


def test_latents_that_the_disk_does_not_hold(tmp_path, monkeypatch):
    grid = Grid(**SMALL)
    size = demand.latent_bytes(grid, DIGITS, 2)
    assert size == 2 * 3 * 30 * 2 * 4
    monkeypatch.setattr(resources, "free_disk", lambda _: size - 1)
    assert "!! may not fit: choose another --workdir" in str(plan.plan(grid, tmp_path / "run"))
    with pytest.raises(InputError, match=r"workdir=.*the disk is too full: latents take 1.4 KiB"):
        sweep.train(grid, tmp_path / "run", progress=False)
    monkeypatch.undo()
    sweep.train(grid, tmp_path / "run", progress=False)
    monkeypatch.setattr(resources, "free_disk", lambda _: 0)
    sweep.train(grid, tmp_path / "run", progress=False)  # finished: nothing is written
    assert plan.plan(grid, tmp_path / "run").shortage is None


def test_minutes_are_those_of_earlier_trainings(tmp_path, cache):
    grid = Grid(**SMALL, seeds=[0, 1])
    assert plan.plan(grid, tmp_path / "run").minutes is None
    assert "minutes     unknown; --measure times a short chunk" in str(plan.plan(grid, tmp_path))
    sweep.train(grid, tmp_path / "run", seed_batch=2, progress=False)
    assert plan.plan(grid, tmp_path / "run", seed_batch=2).minutes == 0
    kept = json.loads((cache / demand.RATES).read_text())
    (rate,) = kept.values()
    more = Grid(**SMALL | {"epochs": 10}, seeds=range(4 * jax.device_count()))
    planned = plan.plan(more, tmp_path / "new", seed_batch=2)
    assert planned.minutes == pytest.approx(rate * 4 * 590 / 60)
    # Of another optimiser nothing is known.
    other = Grid(**SMALL | {"optimizers": ["adam"]})
    assert plan.plan(other, tmp_path / "new").minutes is None
    for text in ("[]", "{", json.dumps(dict.fromkeys(kept, -1.0)), '{"a": NaN}'):
        (cache / demand.RATES).write_text(text)
        assert plan.plan(more, tmp_path / "new").minutes is None


@pytest.mark.usefixtures("cache")
def test_measuring_compiles_and_times_a_little(tmp_path):
    planned = plan.plan(Grid(**SMALL, seeds=[0, 1]), tmp_path / "run", measure=True)
    assert planned.minutes > 0
    assert planned.flops > 0
    assert "MFLOP per step" in str(planned)
    assert not (tmp_path / "run").exists()


def test_shapes_are_those_of_the_real_states():
    grid = Grid(**SMALL | {"optimizers": ["sgd", "adam", "muon"], "capture": ["encoder_0"],
                           "activations": ["intrinsic_tanh:trained", "relu"]})  # fmt: skip
    built = program.build(grid, DIGITS, seed_batch=1)
    states = built.init(built.hypers)
    for cell in grid.cells:
        shapes = seed_batches.run_shapes(grid, cell, DIGITS)
        assert shapes.state * jax.device_count() == seed_batches.size_bytes(states[cell.name])
        assert shapes.seen == 2 * 4 * 30 * (3 + 6)
