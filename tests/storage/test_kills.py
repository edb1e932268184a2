"""SIGKILL, again and again: in training, in saving a checkpoint, in writing latents."""

import itertools
import os
import pathlib
import random
import time

import numpy as np
import pytest
import xarray as xr
import zarr

from ppp_jax.analysis import load_run
from ppp_jax.grid import Grid
from ppp_jax.storage import run_dir
from ppp_jax.sweep import sweep
from tests import commands

pytestmark = pytest.mark.usefixtures("quick_compilation")

AXES = {
    "activations": ["relu", "isotropic_tanh"],
    "optimizers": ["adam"],
    "widths": [6],
    "latent_widths": [3],
    "seeds": [0, 1, 2],
    "snapshots": list(range(1, 30)),
    "epochs": 30,
    "probe_samples": 1000,
}
FLAGS = ["--seed_batch=2", *commands.flags(AXES)]
CELLS = 2
LATENTS = pathlib.Path("latents.zarr", "latent_3", "pre")
LANDED = 1  # kills wanted of each kind, each seen from what it left behind


def names(folder):
    """Returns what is in a folder; it is asked for hundreds of times a second."""
    return os.listdir(folder) if folder.is_dir() else []


def snapshots_begun(workdir):
    """Returns how many snapshots the first cell's latents have been written of."""
    return sum(name.startswith("0.0.0.0.0.0.0.") for name in names(workdir / LATENTS))


def half_written(workdir):
    """Returns whether some snapshot's latents are there without the mark that all are."""
    saved = np.asarray(zarr.open_group(workdir / "latents.zarr", mode="r")["latent_3/saved"])
    return snapshots_begun(workdir) > saved.reshape(-1, saved.shape[-1]).all(axis=0).sum()


def half_saved(workdir):
    """Returns whether a checkpoint is there that was begun and not finished."""
    return any(".orbax-checkpoint-tmp" in name for name in names(workdir / "checkpoints" / "0"))


def kill(workdir, kind, rng):
    """Runs the command, kills it at a random moment of a kind, returns whether it was one."""
    every_core = {**commands.environment(), "JAX_NUM_CPU_DEVICES": "-1"}  # then goes on with one
    process = commands.start(workdir, FLAGS, environment=every_core)
    begun, written = snapshots_begun(workdir), commands.lines(workdir)
    moment = {
        "training": lambda: commands.lines(workdir) > written + CELLS * rng.randint(1, 3),
        "checkpoint": lambda: commands.lines(workdir) > written + CELLS and half_saved(workdir),
        "latents": lambda: snapshots_begun(workdir) > begun + 2,
    }[kind]
    alive = commands.wait_until(moment, process, pause=0.002)
    assert alive, process.communicate()
    if kind == "training":
        time.sleep(rng.uniform(0, 0.2))
    process.kill()
    process.communicate()
    seen = {"training": True, "checkpoint": half_saved(workdir), "latents": half_written(workdir)}
    return seen[kind]


def test_killed_at_random_moments_the_result_is_the_same(tmp_path):
    undisturbed = sweep.train(Grid(**AXES), tmp_path / "whole", seed_batch=2, progress=False)
    whole, workdir, rng = load_run(undisturbed).load(), tmp_path / "killed", random.Random(0)
    landed = dict.fromkeys(("training", "checkpoint", "latents"), 0)
    for kind in itertools.cycle(landed):
        if min(landed.values()) == LANDED:
            break
        if landed[kind] < LANDED:
            landed[kind] += kill(workdir, kind, rng)
            # Nothing half-written is read: what there is to read is what it should be.
            kept = load_run(workdir).load()
            same = whole.isel(step=slice(len(kept["step"])))
            xr.testing.assert_identical(kept.drop_attrs(), same.drop_attrs())
    assert run_dir.last_step(workdir, 0) < AXES["epochs"] * (1438 // 24)
    sweep.train(Grid(**AXES), workdir, seed_batch=2, progress=False)
    commands.assert_same(undisturbed, workdir, runs=3)
