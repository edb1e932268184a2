"""A finished grid that grows: what is missing is trained, and the bits are those of one go."""

import dataclasses
import json
import pathlib
import shutil

import numpy as np
import pytest
import xarray as xr

from ppp_jax.analysis import load_run
from ppp_jax.errors import InputError
from ppp_jax.grid import Grid, extension
from ppp_jax.storage import run_dir
from ppp_jax.sweep import plan, sweep
from tests import commands

pytestmark = pytest.mark.usefixtures("quick_compilation")

SMALL = Grid(
    activations=["tanh"],
    widths=[6],
    latent_widths=[3],
    optimizers=["adam"],
    seeds=[1, 2],
    epochs=2,
    probe_samples=30,
)
MORE = {
    "seeds": {"seeds": [0, 1, 2, 7]},
    "epochs": {"epochs": 5},
    "snapshots": {"epochs": 5, "snapshots": [1, 2, 3]},
    "several": {"latent_widths": [3, 5], "seeds": [2, 1, 3], "epochs": 3},
}


def train(grid, workdir):
    return sweep.train(grid, workdir, seed_batch=2, progress=False)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return train(SMALL, tmp_path_factory.mktemp("finished"))


@pytest.fixture
def workdir(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / "run")


def assert_same_latents(first, second, grid):
    for width in grid.latent_widths:
        one, other = (load_run(folder, latent_width=width).load() for folder in (first, second))
        xr.testing.assert_identical(one.drop_attrs(), other.drop_attrs())


@pytest.mark.slow
@pytest.mark.parametrize("what", sorted(MORE))
def test_extended_is_what_training_at_once_gives(what, workdir, tmp_path):
    grid = dataclasses.replace(SMALL, **MORE[what])
    before = (workdir / "metrics.jsonl").read_bytes()
    planned = plan.plan(grid, workdir, seed_batch=2)
    steps = 1438 // 24
    assert planned.run_steps_done == 2 * 2 * steps
    train(grid, workdir)
    assert_same_latents(workdir, train(grid, tmp_path / "at once"), grid)
    after = (workdir / "metrics.jsonl").read_bytes()
    assert after.startswith(before)  # what was trained was not trained again
    rows = [json.loads(line) for line in after.splitlines()]
    trained = sum(np.size(row["loss"]) for row in rows if row["step"] == grid.epochs * steps)
    assert trained == grid.runs
    assert plan.plan(grid, workdir, seed_batch=2).run_steps_done == grid.runs * grid.epochs * steps


def test_more_epochs_give_the_same_parameters(workdir, tmp_path):
    grid = dataclasses.replace(SMALL, epochs=5)
    train(grid, workdir)
    commands.assert_same(workdir, train(grid, tmp_path / "at once"), runs=2)


@pytest.mark.slow
def test_extended_twice_and_asked_for_less_again(workdir, tmp_path):
    first = dataclasses.replace(SMALL, seeds=[1, 2, 3])
    second = dataclasses.replace(first, activations=["tanh", "relu"])
    train(first, workdir)
    train(second, workdir)
    assert_same_latents(workdir, train(second, tmp_path / "at once"), second)
    with pytest.raises(InputError, match=r"seeds \[1, 2, 3\] there, \[1, 2\] now"):
        train(SMALL, workdir)


class KilledError(Exception):
    """Stands for SIGKILL where a test wants it at one place."""


GROWN = dataclasses.replace(SMALL, seeds=[0, 1, 2])


@pytest.fixture(scope="module")
def at_once(tmp_path_factory):
    """The grown grid, which nobody disturbed."""
    return train(GROWN, tmp_path_factory.mktemp("at_once"))


@pytest.mark.parametrize("moment", range(5))
def test_killed_while_the_store_is_laid_out_anew(moment, workdir, at_once, monkeypatch):
    """Before and after each move and removal of the manifest and of the latents."""
    calls = iter(range(100))

    def killing(original):
        def call(*args, **kwargs):
            if next(calls) == moment:
                raise KilledError
            return original(*args, **kwargs)

        return call

    monkeypatch.setattr(run_dir, "_write_atomically", killing(run_dir._write_atomically))
    monkeypatch.setattr(pathlib.Path, "rename", killing(pathlib.Path.rename))
    monkeypatch.setattr(shutil, "rmtree", killing(shutil.rmtree))
    monkeypatch.setattr(run_dir.latents, "_copy", killing(run_dir.latents._copy))
    before = load_run(workdir).load()
    with pytest.raises(KilledError):
        train(GROWN, workdir)
    monkeypatch.undo()
    if (workdir / "latents.zarr").exists():  # if not, the complete new one awaits its name
        kept = xr.open_datatree(workdir / "latents.zarr", engine="zarr")["latent_3"].sel(
            seed=[1, 2]
        )
        for name in ("pre", "post", "test_mse"):
            np.testing.assert_array_equal(kept[name], before[name])
    train(GROWN, workdir)
    assert_same_latents(workdir, at_once, GROWN)


def test_parts_are_disjoint_and_complete():
    for more in MORE.values():
        grid = dataclasses.replace(SMALL, **more)
        assert not extension.obstacles(SMALL, grid)
        whole, missing = extension.extend(SMALL, grid)
        runs = [
            (cell, rate, seed)
            for part in (SMALL, *missing)
            for cell in part.cells
            for rate in part.rates(cell.optimizer)
            for seed in part.seeds
        ]
        wanted = {
            (cell, rate, seed)
            for cell in whole.cells
            for rate in whole.rates(cell.optimizer)
            for seed in whole.seeds
        }
        assert len(runs) == len(set(runs)) == len(wanted)
        assert set(runs) == wanted
