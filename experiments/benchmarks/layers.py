"""How long do tests of wide layers take, beside their matrix products alone?

  .venv/bin/python -m experiments.benchmarks.layers

A full rotation test of 4,000 × 1,536 and all its products take turns in one process. Each other
part has a process of its own, whose memory is measured: 200 rotations within blocks of
10,000 × 4,096; twelve layers of a sentence encoder's widths, 10,000 vectors each; and samples that
come lazily, as a dask array, beside the same number in memory. At last the z of weakly aligned
clouds against both nulls are compared. The whole takes some fifteen minutes on two cores.
Outcome: docs/benchmarks.md. --divide=20 takes a minute and tests that it runs.
"""

import importlib.metadata
import json
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

import ppp_jax.analysis as pa
from ppp_jax.cli import flags as experiment_flags
from ppp_jax.errors import lookup, whole

FULL, BLOCKS, ENCODER = (4000, 1536), (10_000, 4096), ((10_000, 384), (10_000, 1536))
LAZY, IN_MEMORY, LAZY_CHUNK = (10_000_000, 512), (200_000, 512), 50_000
MOST_DIVIDED, ROTATIONS, TURNS = 100, 200, 2
EPSILON = 0.5
POWER, POWER_CLOUDS = (256, 1024), 8  # widths, and clouds of each


def define() -> None:
    """Defines the flags."""
    flags.DEFINE_integer("rotations", ROTATIONS, "K of every test")
    flags.DEFINE_integer("divide", 1, "divide samples and units by so much")
    flags.DEFINE_string("part", "", "one part alone, in this process; one line of JSON")


def main() -> None:
    """Prints the table as Markdown, or the numbers of one part."""
    values = flags.FLAGS
    whole("rotations", values.rotations, least=1)
    whole("divide", values.divide, least=1, most=MOST_DIVIDED)
    if values.part:
        seconds = lookup(PARTS, values.part, field="part")()
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        print(json.dumps({"seconds": seconds, "peak": peak}))
        return
    versions = [f"{name} {importlib.metadata.version(name)}" for name in ("jax", "numpy", "dask")]
    print(f"Python {platform.python_version()}, {', '.join(versions)}\n")
    test, products = full_and_products()
    print("| work | reached | target |\n| --- | --- | --- |")
    of = f"{_size(FULL)}, {values.rotations} rotations of all units"
    print(f"| {of}: the test | {test:.1f} s | |")
    print(f"| its matrix products alone | {products:.1f} s | |")
    print(f"| ratio | {test / products:.2f} | at most 2 |")
    for part, (text, target) in TEXTS.items():
        found = _alone(part)
        reached = f"{found['seconds']:.1f} s, {found['peak']:.2f} GiB"
        print(f"| {text.format(rotations=values.rotations)} | {reached} | {target} |")
        if part == "lazy":
            lazily = found["seconds"] / _numbers(LAZY)
    held = _alone("in_memory")["seconds"] / _numbers(IN_MEMORY)
    told = f"{1e9 * lazily:.2f} ns lazily, {1e9 * held:.2f} ns of {_size(IN_MEMORY)} in memory"
    print(f"| the same per number | {told}: ratio {lazily / held:.2f} | at most 1 |")
    print("\n| units | z within blocks | z of all rotations |\n| --- | --- | --- |")
    for units in POWER:
        z = power(max(128, units // values.divide))
        print(f"| {units:,} | {z['blocks']:.1f} | {z['full']:.1f} |")


def full_and_products() -> tuple[float, float]:
    """Returns the mean seconds of a full test, and of its products, which take turns.

    The products are those of the samples, of the covariance and of the second moments with each
    rotation, in full precision: on a CPU by BLAS, as in the test, and elsewhere by XLA. So few
    samples have no shape to be judged.
    """
    rotations = flags.FLAGS.rotations
    cloud = _cloud(*_divided(FULL))
    turn = np.random.default_rng(0).normal(size=(cloud.shape[1],) * 2).astype(np.float32)
    on_cpu = jax.default_backend() == "cpu"
    parts = (cloud, turn.T @ turn, turn @ turn.T, turn)
    placed = parts if on_cpu else jax.device_put(parts)

    @jax.jit
    def product(left: jax.Array, right: jax.Array) -> jax.Array:
        return jnp.matmul(left, right, precision=jax.lax.Precision.HIGHEST)

    def products(count: int) -> None:
        for _ in range(count):
            multiply = np.matmul if on_cpu else product
            jax.block_until_ready([multiply(left, placed[-1]) for left in placed[:-1]])

    pa.rotation_test(cloud, null="full", rotations=1)
    products(1)
    times = []
    for _ in range(TURNS):
        test = _seconds(lambda: pa.rotation_test(cloud, null="full", rotations=rotations))
        times.append((test, _seconds(lambda: products(rotations))))
    test, alone = (statistics.mean(column) for column in zip(*times, strict=True))
    return test, alone


def power(units: int) -> dict[str, float]:
    """Returns the mean z of the C4 of weakly aligned clouds against both nulls."""
    rng = np.random.default_rng(0)
    shape = (POWER_CLOUDS, 500, units)
    clouds = rng.normal(size=shape) + 0.3 * rng.laplace(size=shape)
    options = {"statistics": ["c4"], "rotations": flags.FLAGS.rotations}
    return {
        null: float(pa.rotation_test(clouds, null=null, **options)["z"].mean())
        for null in ("blocks", "full")
    }


def blocks() -> float:
    """Returns the seconds of all alignment statistics under rotations within blocks."""
    cloud = _cloud(*_divided(BLOCKS))
    return _seconds(lambda: pa.rotation_test(cloud, null="blocks", rotations=flags.FLAGS.rotations))


def encoder() -> float:
    """Returns the seconds of all statistics of six residual streams and six hidden layers."""
    layers = {
        f"{name}_{k}": _cloud(*_divided(size), seed=k)
        for k in range(6)
        for name, size in zip(("residual", "hidden"), ENCODER, strict=True)
    }
    return _seconds(lambda: pa.compare_layers(layers, rotations=flags.FLAGS.rotations))


def lazy() -> float:
    """Returns the seconds of counting the planes of samples that are made chunk by chunk."""
    import dask.array as da

    samples, units = _divided(LAZY)
    rng = da.random.default_rng(0)
    chunk = (min(LAZY_CHUNK, samples), units)
    latents = rng.standard_normal((samples, units), chunks=chunk).astype(np.float32)
    making = _seconds(lambda: latents.sum().compute())
    # Two passes over the samples, each of which makes them anew.
    return _seconds(lambda: pa.count_planes(latents, epsilon=EPSILON)) - 2 * making


def in_memory() -> float:
    """Returns the seconds of counting the planes of samples in memory."""
    latents = np.random.default_rng(0).standard_normal(_divided(IN_MEMORY), np.float32)
    pa.count_planes(latents[:100], epsilon=EPSILON)
    return _seconds(lambda: pa.count_planes(latents, epsilon=EPSILON))


PARTS: dict[str, Callable[[], float]] = {
    "blocks": blocks,
    "encoder": encoder,
    "lazy": lazy,
    "in_memory": in_memory,
}
TEXTS = {
    "blocks": (
        "10,000 × 4,096, {rotations} rotations within blocks, all alignment statistics",
        "60 s, 4 GiB",
    ),
    "encoder": ("twelve layers of an encoder, all statistics, {rotations} rotations", "180 s"),
    "lazy": ("planes of 10,000,000 × 512, made chunk by chunk, but for making them", "bounded"),
}


def _alone(part: str) -> dict[str, float]:
    values = flags.FLAGS
    given = (f"--part={part}", f"--divide={values.divide}", f"--rotations={values.rotations}")
    command = [sys.executable, "-m", "experiments.benchmarks.layers", *given]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def _cloud(samples: int, units: int, *, seed: int = 0) -> np.ndarray:
    """Returns samples of units of unequal widths, off centre."""
    rng = np.random.default_rng(seed)
    made = rng.laplace(size=(samples, units)) * rng.uniform(0.5, 2, units) + 0.5
    return made.astype(np.float32)


def _divided(size: tuple[int, int]) -> tuple[int, int]:
    samples, units = size
    return samples // flags.FLAGS.divide, max(16, units // flags.FLAGS.divide)


def _numbers(size: tuple[int, int]) -> float:
    samples, units = _divided(size)
    return samples * units


def _size(size: tuple[int, int]) -> str:
    return " × ".join(f"{n:,}" for n in _divided(size))


def _seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


if __name__ == "__main__":
    experiment_flags.run(main, define=define, about=__doc__)
