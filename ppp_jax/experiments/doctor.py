"""Whether this machine is ready: devices, versions, folders, expected speed."""

import dataclasses
import importlib.metadata
import os
import pathlib
import platform
import shutil
import sys
import tempfile
from collections.abc import Iterator
from typing import NamedTuple

import jax
import numpy as np
from absl import flags

from ppp_jax import resources
from ppp_jax.cli import flags as experiment_flags
from ppp_jax.cli import machine, runtime
from ppp_jax.engine import devices, program
from ppp_jax.errors import InputError
from ppp_jax.experiments.ablation import DEFAULTS, EXPERIMENT
from ppp_jax.files import buckets
from ppp_jax.storage import manifest
from ppp_jax.sweep import seed_batches, sweep

ABOUT = """\
Is this machine ready? Devices, versions, folders, expected speed, each with its remedy.

  python -m experiments.doctor [--workdir=…] [--distributed …]

Cost: a few seconds. Outcome: one line per check; exit status 1 if any needs attention.
"""

PYTHON, NUMCODECS = (3, 11), (0, 16, 6)


def define() -> None:
    """Defines the flags."""
    text = "run folder; the same command continues what is there"
    flags.DEFINE_string("workdir", EXPERIMENT.workdir, text)


class Finding(NamedTuple):
    """One line of the diagnosis; `remedy` is empty if all is well."""

    what: str
    text: str
    remedy: str = ""


def versions() -> Iterator[Finding]:
    """Python and the packages that results depend on."""
    old = sys.version_info[:2] < PYTHON
    yield Finding("python", platform.python_version(), "install 3.11 or newer" if old else "")
    found = [f"{name} {importlib.metadata.version(name)}" for name in manifest.PACKAGES]
    yield Finding("packages", ", ".join(found))
    codecs = importlib.metadata.version("numcodecs")
    unsafe = tuple(int(part) for part in codecs.split(".")[:3] if part.isdecimal()) < NUMCODECS
    remedy = "pip install 'numcodecs>=0.16.6': a stranger's zarr may run code with older ones"
    yield Finding("numcodecs", codecs, remedy if unsafe else "")


def accelerators() -> Iterator[Finding]:
    """Devices of all processes."""
    kinds = sorted({f"{device.platform} ({device.device_kind})" for device in jax.devices()})
    count = f"{jax.device_count()} × {', '.join(kinds)}, {jax.local_device_count()} of them here"
    alone = jax.default_backend() == "cpu" and shutil.which("nvidia-smi") is not None
    remedy = "this machine's GPU is not used: pip install ppp_jax[cuda13]" if alone else ""
    yield Finding("devices", count, remedy)
    text = f"{jax.process_count()}, this is number {jax.process_index()}"
    yield Finding("processes", text)
    yield Finding("memory", f"{resources.size_text(resources.free_memory())} free")
    yield Finding("cores", f"{runtime.core_count()} of {os.cpu_count()} may be used")


def folders(workdir: str, compilation_cache: str) -> Iterator[Finding]:
    """The run folder and the cache of compiled programs.

    Args:
      workdir: The run folder, or the address of a bucket.
      compilation_cache: The cache's setting, as the flag of that name has it.
    """
    if "://" in workdir:
        yield _bucket(workdir)
    else:
        yield _writable("workdir", pathlib.Path(workdir))
    cache = runtime.cache_folder(compilation_cache)
    yield Finding("cache", "none") if cache is None else _writable("cache", cache)


def _bucket(address: str) -> Finding:
    try:
        number = len(buckets.Bucket(address).names("index"))
    except InputError as error:
        return Finding("workdir", address, error.problem)
    return Finding("workdir", f"{address} can be read, {'a run' if number else 'no run'} is there")


def _writable(what: str, folder: pathlib.Path) -> Finding:
    folder = folder.expanduser().absolute()
    existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
    try:
        with tempfile.NamedTemporaryFile(dir=existing) as file:
            file.write(b"ppp_jax")
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        return Finding(what, f"{folder} ({error.strerror})", "name another folder")
    free = resources.size_text(resources.free_disk(folder))
    return Finding(what, f"{folder} can be written, {free} free")


def speed() -> Iterator[Finding]:
    """The machine's arithmetic, and how long the default ablation would train."""
    yield Finding("products", f"{machine.matrix_product_rate() / 1e9:.0f} GFLOP/s in float32")
    grid = dataclasses.replace(DEFAULTS, activations=["isotropic_tanh"], optimizers=["adam"])
    dataset, timed_steps = sweep.load_data(grid), 200
    steps = sweep.total_steps(DEFAULTS, dataset)
    widths = seed_batches.seed_batches(grid, dataset, recorded={}, steps=steps)
    built = program.build(grid, dataset, seed_batch=widths)
    states = built.init(built.hypers)

    def train() -> jax.Array:
        nonlocal states
        count = np.int32(timed_steps)
        states, losses = built.chunk(states, built.hypers, built.arrays, np.int32(0), count)
        return next(iter(losses.values()))

    per_step = machine.median_seconds(train) / timed_steps / grid.runs
    minutes = per_step * steps * DEFAULTS.runs / 60
    now = f"{1e6 * per_step:.1f} µs per step of one network"
    then = f"{DEFAULTS.runs} would train in {minutes:.1f} minutes, after compiling"
    yield Finding("training", f"{now}; the default ablation's {then}")


def diagnose(workdir: str, compilation_cache: str) -> Iterator[Finding]:
    """Finds out about one thing after the other.

    Args:
      workdir: The run folder, or the address of a bucket.
      compilation_cache: The cache's setting, as the flag of that name has it.
    """
    yield from versions()
    yield from accelerators()
    yield from folders(workdir, compilation_cache)
    yield from speed()


def command() -> None:
    """Prints every finding as it is made, and leaves with status 1 if there are troubles."""
    troubles = 0
    for what, text, remedy in diagnose(flags.FLAGS.workdir, flags.FLAGS.compilation_cache):
        troubles += bool(remedy)
        mark, hint = ("!!", f" -> {remedy}") if remedy else ("ok", "")
        if devices.is_main():
            print(f"{mark}  {what:<10} {text}{hint}", flush=True)
    if troubles:
        runtime.leave(experiment_flags.USER_ERROR)


def main(*, argv: list[str] | None = None) -> None:
    """Runs the command."""
    experiment_flags.run(command, define=define, about=ABOUT, argv=argv)


if __name__ == "__main__":
    main()
