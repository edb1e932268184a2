"""How fast are PPP, SRM and the density, against plain NumPy, plane by plane?

  .venv/bin/python -m experiments.benchmarks.projection

Both sides take turns of at least half a second in one process, and their medians are compared. Both
decide acceptance in double precision from single-precision samples, which the baseline converts
before its time is measured. Long baselines are measured on some of their planes or points and are
extrapolated, which is exact for loops. The wide layer is 1.6 GB on disk and has its own process,
whose memory is measured. The benchmark takes two minutes on two cores. Its results are in
docs/benchmarks.md. A test of the benchmark with --divide=100 --rounds=1 --seconds=0 takes seconds.
"""

import functools
import importlib.metadata
import json
import pathlib
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable

import numpy as np
from absl import flags

import ppp_jax.analysis as pa
from experiments.benchmarks import plane_by_plane
from ppp_jax import bases
from ppp_jax.cli import flags as experiment_flags
from ppp_jax.errors import InputError, whole

LONGEST_TURN, MOST_DIVIDED = 3600, 100
EPSILON = 0.85
WIDE = (100_000, 4096)
WRITTEN = 4000  # rows of the wide layer written at a time


def define() -> None:
    """Defines the flags."""
    flags.DEFINE_integer("rounds", 5, "turns of both sides, of which the median is taken")
    flags.DEFINE_float("seconds", 0.5, "of a turn, at least; at least one call")
    flags.DEFINE_integer("divide", 1, "divide samples, and the units of wide layers, by so much")


def main() -> None:
    """Prints all tables as Markdown."""
    values = flags.FLAGS
    whole("rounds", values.rounds, least=1)
    if whole("divide", values.divide, least=1) > MOST_DIVIDED:
        raise InputError("divide", values.divide, f"must be at most {MOST_DIVIDED}")
    if not 0 <= values.seconds <= LONGEST_TURN:
        raise InputError("seconds", values.seconds, f"must be from 0 to {LONGEST_TURN}")
    versions = [f"{name} {importlib.metadata.version(name)}" for name in ("jax", "numpy", "scipy")]
    print(f"Python {platform.python_version()}, {', '.join(versions)}\n")
    print("| work | ours, ms | baseline, ms | ratio | target |")
    print("| --- | --- | --- | --- | --- |")
    points()
    curves_and_density()
    wide()
    scaling()


def divided(number: int) -> int:
    """Returns a number of samples or units, divided by the flag `--divide`."""
    return number // flags.FLAGS.divide


def cloud(samples: int, units: int, *, seed: int = 0) -> np.ndarray:
    """Returns samples of which nine in ten are heavy-tailed and one in ten lies near an axis."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((samples, units), dtype=np.float32)
    x /= np.sqrt(rng.chisquare(3, size=(samples, 1)) / 3).astype(np.float32)
    x *= np.exp(0.7 * rng.standard_normal((samples, units), dtype=np.float32))
    near = np.arange(0, samples, 10)
    x[near] *= np.float32(0.05) / np.linalg.norm(x[near], axis=1, keepdims=True)
    x[near, rng.integers(units, size=len(near))] += 1
    return x


def _compare(
    work: str,
    ours: Callable[[], object],
    theirs: Callable[[], object],
    fraction: float,
    target: str,
) -> None:
    """Times both sides in turn, and prints a row of the table.

    Args:
      work: Description of the work.
      ours: The work by ppp_jax.
      theirs: A part of the baseline's work.
      fraction: The fraction of the baseline's work that `theirs` does.
      target: The ratio that is aimed at.
    """
    ours()
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(flags.FLAGS.rounds):
        for side, call in zip(times, (ours, theirs), strict=True):
            side.append(_milliseconds(call))
    mine, baseline = statistics.median(times[0]), statistics.median(times[1]) / fraction
    print(
        f"| {work} | {mine:.1f} | {baseline:,.0f} | {baseline / mine:,.0f} | {target} |", flush=True
    )


def _milliseconds(call: Callable[[], object]) -> float:
    """Returns the mean time of a call in milliseconds, over the calls of one turn."""
    start, calls = time.perf_counter(), 0
    while calls == 0 or time.perf_counter() - start < flags.FLAGS.seconds:
        call()
        calls += 1
    return 1e3 * (time.perf_counter() - start) / calls


def points() -> None:
    """Compares the times of PPP points."""
    x = cloud(divided(10_000), 32)
    double = x.astype(np.float64)
    for order in ("combinations", "permutations"):
        _compare(
            f"PPP points, N={len(x):,}, n=32, {order}",
            functools.partial(pa.project, x, planes=order),
            functools.partial(plane_by_plane.points, double, np.eye(32), EPSILON, order=order),
            1,
            "≥ 20",
        )
    x, basis = cloud(divided(60_000), 16), bases.thomson(64, 16)
    _compare(
        f"PPP points, N={len(x):,}, n=16, 64 Thomson vectors",
        lambda: pa.project(x, basis=basis),
        functools.partial(
            plane_by_plane.points,
            x.astype(np.float64),
            basis,
            EPSILON,
            order="combinations",
            planes=200,
        ),
        200 / pa.project(x, basis=basis).sizes["row"],
        "≥ 40",
    )


def curves_and_density() -> None:
    """Compares the times of SRM curves and densities."""
    y, angles = cloud(divided(1797), 16), 2 * np.pi * np.arange(360) / 360
    for at_once, name in ((False, "an angle"), (True, "a plane")):
        _compare(
            f"SRM, all planes, N={len(y):,}, n=16, 360 angles; baseline one product {name}",
            lambda: pa.srm(y),
            functools.partial(
                plane_by_plane.spotlight,
                y.astype(np.float64),
                np.eye(16),
                EPSILON,
                angles,
                planes=40,
                at_once=at_once,
            ),
            40 / 120,
            "" if at_once else "≥ 200",
        )
    z = cloud(divided(25_000), 32)
    found = pa.project(z).points.values
    some = found[:200]
    _compare(
        f"PPP density 300×300 of {len(found):,} points, projection included in ours",
        lambda: pa.ppp(z, bins=300),
        lambda: plane_by_plane.density(some, 3.0, bins=300, bandwidth=0.1),
        len(some) / len(found),
        "≥ 1,000",
    )


def wide() -> None:
    """Measures the wide layer in its own process, and the baseline on 50 planes and angles."""
    samples, units = map(divided, WIDE)
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "layer.npy"
        layer = np.lib.format.open_memmap(path, "w+", np.float32, (samples, units))
        for k, first in enumerate(range(0, samples, WRITTEN)):
            rows = min(WRITTEN, samples - first)
            layer[first : first + rows] = cloud(rows, units, seed=k)
        layer.flush()
        del layer
        module = "experiments.benchmarks.wide_layer"
        command = [sys.executable, "-m", module, f"--latents={path}"]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        start = time.perf_counter()
        part = np.load(path, mmap_mode="r")
        plane_by_plane.points(part, np.eye(units), EPSILON, order="combinations", planes=50)
        baseline = (time.perf_counter() - start) / 50 * (units * (units - 1) // 2)
    result = json.loads(done.stdout)
    mine, planes = sum(result["seconds"].values()), units * (units - 1) // 2
    work = f"PPP + SRM + density, N={samples:,}, n={units:,}, all {planes:,} planes"
    print(
        f"| {work}, {result['points']:,} points | {1e3 * mine:,.0f} | {1e3 * baseline:,.0f} (points"
        f" alone) | {baseline / mine:,.0f} | 60 s; 4 GiB: {result['peak']:.1f} |"
    )
    parts = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in result["seconds"].items())
    print(f"\nThe wide layer's parts: {parts}.\n", flush=True)


def scaling() -> None:
    """Prints the time of the pruned kernel per number, for several numbers of samples and units."""
    print("| N | n | s | ns per number |\n| --- | --- | --- | --- |")
    for sizes in [
        (5000, 1024),
        (10_000, 1024),
        (20_000, 1024),
        (40_000, 1024),
        (10_000, 512),
        (10_000, 2048),
        (10_000, 4096),
    ]:
        samples, units = map(divided, sizes)
        x = cloud(samples, units)
        times = []
        for _ in range(flags.FLAGS.rounds):
            start = time.perf_counter()
            pa.ppp(x)
            times.append(time.perf_counter() - start)
        middle = statistics.median(times)
        each = 1e9 * middle / (samples * units)
        print(f"| {samples:,} | {units:,} | {middle:.2f} | {each:.1f} |", flush=True)


if __name__ == "__main__":
    experiment_flags.run(main, define=define, about=__doc__)
