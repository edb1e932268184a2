"""A disk that fails in the middle of training: one line, and nothing saved is lost."""

import resource
import runpy
import subprocess
import sys

import numpy as np
import pytest
import xarray as xr

from ppp_jax.analysis import load_run
from ppp_jax.errors import InputError
from ppp_jax.grid import Grid
from ppp_jax.storage import run_dir
from ppp_jax.sweep import demand, sweep
from tests import commands

pytestmark = pytest.mark.usefixtures("quick_compilation")

AXES = {"activations": ["tanh"], "widths": [600], "seeds": [0, 1], "probe_samples": 50}


@pytest.mark.slow
def test_a_file_that_cannot_grow(tmp_path):
    """No file may exceed 64 kB, less than one layer in a checkpoint: the writer of orbax fails."""
    workdir = tmp_path / "run"
    sweep.train(Grid(**AXES, epochs=1), workdir, seed_batch=1, progress=False)
    before, step = load_run(workdir).load(), run_dir.last_step(workdir, 0)
    flags = [f"--workdir={workdir}", "--seed_batch=1", *commands.flags(AXES), "--epochs=3"]
    limited = subprocess.run(
        [sys.executable, "-m", "tests.storage.test_disk", *flags], capture_output=True, text=True
    )
    assert limited.returncode == 1, limited.stderr
    problem = "can no longer be written (File too large), and saved results are kept"
    assert f"error: --workdir={workdir}: {problem}" in limited.stderr
    assert "sweep.py" not in limited.stderr  # no traceback of ours
    assert run_dir.last_step(workdir, 0) == step
    kept = load_run(workdir).isel(step=slice(2)).load()
    for name in ("pre", "post", "test_mse"):
        np.testing.assert_array_equal(kept[name], before[name])
    commands.finish(commands.start(workdir, flags[1:]))
    whole = sweep.train(Grid(**AXES, epochs=3), tmp_path / "whole", seed_batch=1, progress=False)
    xr.testing.assert_identical(load_run(workdir).drop_attrs(), load_run(whole).drop_attrs())


def test_a_disk_without_room(tmp_path, monkeypatch, capfd):
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr(run_dir.shutil, "disk_usage", lambda _: usage)
    monkeypatch.setattr(demand.resources, "free_disk", lambda _: 2**60)  # at the start there was
    with pytest.raises(InputError, match="No space left on device"):
        sweep.train(Grid(**AXES, epochs=1), tmp_path, seed_batch=1, progress=False)
    assert capfd.readouterr().err == ""
    monkeypatch.undo()
    sweep.train(Grid(**AXES, epochs=1), tmp_path, seed_batch=1, progress=False)
    np.testing.assert_array_equal(load_run(tmp_path)["epoch"], [0, 1])


if __name__ == "__main__":  # the command of tests/train.py, under a limit
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**16, resource.RLIM_INFINITY))
    runpy.run_module("tests.train", run_name="__main__")
