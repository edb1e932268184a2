"""Real commands in processes of their own: one process, or several that train together."""

import contextlib
import os
import socket
import time

import jax
import numpy as np
import orbax.checkpoint as ocp
import xarray as xr

from ppp_jax.analysis import load_run
from ppp_jax.storage import run_dir
from tests import forks

TIMEOUT = 240


def flags(axes):
    """Returns the flags of a grid's arguments."""
    texts = {
        name: ",".join(map(str, value)) if isinstance(value, list) else value
        for name, value in axes.items()
    }
    return [f"--{name}={text}" for name, text in texts.items()]


def environment():
    """Returns the environment that commands get."""
    return dict(os.environ)


def start(workdir, flags, *, module="tests.train", environment=None):
    """Starts `python -m module` and returns the process."""
    return forks.popen(module, [f"--workdir={workdir}", *flags], environment=environment)


@contextlib.contextmanager
def several(workdir, flags, *, count, module="tests.train", own=None):
    """Starts `count` processes that train together; kills those that are left at the end.

    `own` are the flags that each has beside those of all.
    """
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    together = ["--distributed", f"--coordinator=localhost:{port}", f"--num_processes={count}"]
    started = [
        start(
            workdir,
            [*flags, *together, f"--process_id={i}", *(own[i] if own else [])],
            module=module,
        )
        for i in range(count)
    ]
    try:
        yield started
    finally:
        for process in started:
            process.kill()
            process.communicate()


def finish(process):
    """Waits for a process to end well; returns its stdout and stderr."""
    stdout, stderr = process.communicate(timeout=TIMEOUT)
    assert process.returncode == 0, stderr
    return stdout, stderr


def wait_until(condition, process, *, pause=0.02):
    """Waits until `condition()` while the process lives; returns whether it came true."""
    deadline = time.monotonic() + TIMEOUT
    while time.monotonic() < deadline:
        if condition():
            return True
        if process.poll() is not None:
            return False
        time.sleep(pause)
    raise AssertionError(f"nothing happened for {TIMEOUT} s")


def lines(workdir):
    """Returns how many lines of metrics there are."""
    path = workdir / "metrics.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def reached(workdir, count):
    """Returns a condition: a process started now has brought the metrics to `count` lines."""
    started = time.time_ns()

    def condition():
        path = workdir / "metrics.jsonl"
        return path.exists() and path.stat().st_mtime_ns > started and lines(workdir) >= count

    return condition


def final_states(workdir, runs, *, part=0):
    """Returns the newest checkpoint's leaves as bytes, without the padding."""
    step = run_dir.last_step(workdir, part)
    folder = (workdir / run_dir.CHECKPOINTS / str(part) / str(step) / "state").absolute()
    here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    with ocp.StandardCheckpointer() as checkpointer:
        like = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=here),
            checkpointer.metadata(folder).item_metadata.tree,
        )
        states = checkpointer.restore(folder, like)
    return step, {
        jax.tree_util.keystr(path): np.asarray(leaf)[:runs].tobytes()
        for path, leaf in jax.tree_util.tree_leaves_with_path(states)
    }


def assert_same(first, second, *, runs):
    """Asserts that two run folders hold the same losses, latents and parameters, bit for bit."""
    assert (first / "metrics.jsonl").read_bytes() == (second / "metrics.jsonl").read_bytes()
    one, other = load_run(first).load(), load_run(second).load()
    xr.testing.assert_identical(one.drop_attrs(), other.drop_attrs())
    assert final_states(first, runs) == final_states(second, runs)
