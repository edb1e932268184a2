"""How fast is the sweep, against the other ways to train many small networks?

  .venv/bin/pip install -e ".[bench]"
  .venv/bin/python -m experiments.benchmarks.sweep_throughput

Each side has its own process. The sides take turns, and their medians are compared. The second
table shows how much longer a training in chunks with checkpoints takes than a single call, and the
third compares the arithmetic with the rate of the machine. The benchmark takes about six minutes on
two cores. If PyTorch is not installed, its sides are left out. The results are in
docs/benchmarks.md. A test of the benchmark with --sizes=least --rounds=1 --seconds=0 takes half a
minute.
"""

import contextlib
import dataclasses
import importlib.metadata
import importlib.util
import pathlib
import platform
import statistics
import subprocess
import sys
import tempfile
import time
import unittest.mock
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np
from absl import flags

from experiments.benchmarks import jax_sides, turns
from experiments.benchmarks.task import Size
from experiments.benchmarks.turns import SIZES
from ppp_jax.cli import flags as experiment_flags
from ppp_jax.cli import machine, runtime
from ppp_jax.data.datasets import Dataset
from ppp_jax.engine import program
from ppp_jax.grid import Grid
from ppp_jax.sweep import progress, seed_batches, sweep

SEEDS = {"tiny": (16, 64, 1024), "wide": (16, 64), "least": (2,)}
COMPARED = {"tiny": 64, "wide": 16, "least": 2}  # seeds of every side
EPOCHS = {"tiny": 200, "wide": 30, "least": 2}  # of the training that is cut into chunks
OTHERS = {
    "torch_1_thread": "torch_sides",
    "torch_2_threads": "torch_sides",
    "torch_func": "torch_sides",
    "vmap_scan": "jax_sides",
    "jitted_steps": "jax_sides",
}
ONE_AT_A_TIME = ("torch_1_thread", "torch_2_threads", "jitted_steps")


class Side(NamedTuple):
    """One way to train, with a number of seeds."""

    module: str
    name: str
    seeds: int


def define() -> None:
    """Defines the flags."""
    turns.define(1.5, "of a turn, about; at least 100 steps")


def main() -> None:
    """Prints all tables as Markdown."""
    sizes, others = settings()
    packages = ["jax", "jaxlib", "flax", "optax"]
    if others == OTHERS:
        packages.append("torch")
    else:
        print("torch is not installed (pip install -e '.[bench]'): its sides are left out\n")
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in packages)
    print(f"Python {platform.python_version()}, {versions}; {runtime.core_count()} cores\n")
    cost = {name: compare(name, others) for name in sizes}
    print_comparison(cost)
    print_chunks(cost)
    print_rates(cost)


def settings() -> tuple[list[str], dict[str, str]]:
    """Returns the chosen sizes, and the other sides that are installed."""
    sizes = turns.chosen_sizes()
    torch = importlib.util.find_spec("torch") is not None
    others = {name: module for name, module in OTHERS.items() if torch or module != "torch_sides"}
    return sizes, others


def compare(size: str, others: dict[str, str]) -> dict[Side, float]:
    """Returns the median seconds per seed and step of every side, all measured in turn."""
    sides = [Side("jax_sides", "ours", seeds) for seeds in SEEDS[size]]
    sides += [Side(module, name, COMPARED[size]) for name, module in others.items()]
    times: dict[Side, list[float]] = {side: [] for side in sides}
    with contextlib.ExitStack() as stack:
        workers = {side: stack.enter_context(_worker(SIZES[size], side)) for side in sides}
        steps = {side: _calibrate(worker) for side, worker in workers.items()}
        for _ in range(flags.FLAGS.rounds):
            for side, worker in workers.items():
                models = 1 if side.name in ONE_AT_A_TIME else side.seeds
                times[side].append(_train(worker, steps[side]) / steps[side] / models)
    return {side: statistics.median(values) for side, values in times.items()}


@contextlib.contextmanager
def _worker(size: Size, side: Side) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "experiments.benchmarks.worker", side.module, side.name]
    numbers = [str(number) for number in (*size, side.seeds)]
    with subprocess.Popen(
        [*command, *numbers], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as worker:
        yield worker
        worker.communicate()


def _train(worker: subprocess.Popen[str], steps: int) -> float:
    assert worker.stdin is not None
    assert worker.stdout is not None
    worker.stdin.write(f"{steps}\n")
    worker.stdin.flush()
    return float(worker.stdout.readline())


def _calibrate(worker: subprocess.Popen[str]) -> int:
    """Returns the number of steps that take the time of a round, without compilation."""
    _train(worker, 20)
    steps = max(100, int(20 * flags.FLAGS.seconds / _train(worker, 20)))  # at least a sweep's chunk
    _train(worker, steps)
    return steps


def print_comparison(cost: dict[str, dict[Side, float]]) -> None:
    """Prints the time of every side, and its ratio to ours."""
    print("| size | side | seeds | µs per seed-step | over ours |\n| --- | --- | --- | --- | --- |")
    for size, sides in cost.items():
        ours = sides[Side("jax_sides", "ours", COMPARED[size])]
        for side, seconds in sides.items():
            cells = (size, side.name, side.seeds, f"{1e6 * seconds:.1f}", f"{seconds / ours:.2f}")
            print("| " + " | ".join(map(str, cells)) + " |")
        few, many = (sides[Side("jax_sides", "ours", n)] for n in (SEEDS[size][0], SEEDS[size][-1]))
        print(f"\n{size}: {SEEDS[size][-1]} seeds over {SEEDS[size][0]}: {many / few:.3f}\n")


class _ClockedProgress(progress.Progress):
    """A hidden progress bar that measures the time of training without compilation."""

    seconds_trained = 0.0

    def compiled(self) -> None:
        """Starts the clock."""
        super().compiled()
        self.start = time.perf_counter()

    def __exit__(self, *error: Any) -> None:
        """Stops the clock."""
        super().__exit__(*error)
        _ClockedProgress.seconds_trained = time.perf_counter() - self.start


def print_chunks(sizes: Iterable[str]) -> None:
    """Prints how much time chunks of 100 steps take, with their metrics and checkpoints."""
    print("| size | seeds | steps | chunks of 100 over one call |\n| --- | --- | --- | --- |")
    for size in sizes:
        seeds = COMPARED[size]
        grid = jax_sides.our_grid(SIZES[size], seeds, epochs=EPOCHS[size])
        dataset = jax_sides.our_data(SIZES[size])
        steps = sweep.total_steps(grid, dataset)
        (width,) = seed_batches.seed_batches(grid, dataset, recorded={}, steps=steps).values()
        one = _one_call(grid, dataset, width)
        ratios = [_chunked(grid, dataset, width) / one(steps) for _ in range(flags.FLAGS.rounds)]
        print(f"| {size} | {seeds} | {steps} | {statistics.median(ratios):.3f} |")
    print()


def _chunked(grid: Grid, dataset: Dataset, width: int) -> float:
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "data.npz"
        np.savez(path, x_train=dataset.train, x_test=dataset.held_out)
        with unittest.mock.patch.multiple(
            sweep,
            Progress=_ClockedProgress,
            CHUNKS_PER_SNAPSHOT=10**9,  # as many as MIN_CHUNK_STEPS allows
            MIN_CHUNK_STEPS=100,
            CHECKPOINT_SECONDS=10,  # six times as often as usual
        ):
            from_file = dataclasses.replace(grid, data=str(path))
            sweep.train(from_file, folder + "/run", seed_batch=width, progress=False)
    return _ClockedProgress.seconds_trained


def _one_call(grid: Grid, dataset: Dataset, width: int) -> Callable[[int], float]:
    """Returns a function that trains for a number of steps, and returns the seconds."""
    built = program.build(grid, dataset, seed_batch=width)

    def seconds(steps: int) -> float:
        states = built.init(built.hypers)
        jax.block_until_ready(states)
        start = time.perf_counter()
        jax.block_until_ready(
            built.chunk(states, built.hypers, built.arrays, np.int32(0), np.int32(steps))
        )
        return time.perf_counter() - start

    seconds(1)  # compiles
    return seconds


def print_rates(cost: dict[str, dict[Side, float]]) -> None:
    """Prints which fraction of the machine's arithmetic, and of a GPU's bandwidth, is used."""
    rate = machine.matrix_product_rate()
    print(f"matrix products: {rate / 1e9:.0f} GFLOP/s measured, on {jax.device_count()} devices")
    copied = machine.copy_rate() if jax.default_backend() == "gpu" else float("nan")
    for size, sides in cost.items():
        grid, dataset = jax_sides.our_grid(SIZES[size], 1), jax_sides.our_data(SIZES[size])
        seconds = sides[Side("jax_sides", "ours", SEEDS[size][-1])]
        achieved = seed_batches.flops_per_step(grid, dataset) / seconds
        print(f"{size}: {achieved / 1e9:.1f} GFLOP/s, {achieved / rate:.1%} of that")
        if copied > 0:  # parameters and moments are read and written once per step
            built = program.build(grid, dataset, seed_batch=1)
            moved = 2 * seed_batches.size_bytes(jax.eval_shape(built.init, built.hypers)) / seconds
            print(f"{size}: {moved / 1e9:.0f} GB/s of {copied / 1e9:.0f} GB/s measured in copies")


if __name__ == "__main__":
    experiment_flags.run(main, define=define, about=__doc__)
