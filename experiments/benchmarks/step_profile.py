"""Where does the time of a training step go, and how much memory does it take?

  .venv/bin/python -m experiments.benchmarks.step_profile --sizes=wide

The sweep's program trains as many networks as there are devices times its seed batch, while JAX's
profiler writes down how long every operation takes. Times are of all cores together: with all of
them at work a step of one network takes the sum divided by their number. Cost: half a minute.
Outcome: docs/benchmarks.md. --sizes=least takes seconds.
"""

import gzip
import json
import pathlib
import re
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from absl import flags

from experiments.benchmarks import jax_sides, turns
from experiments.benchmarks.turns import SIZES
from ppp_jax.cli import flags as experiment_flags
from ppp_jax.cli import machine, runtime
from ppp_jax.engine import program
from ppp_jax.errors import whole
from ppp_jax.sweep import seed_batches

BATCHES = (1, 8)  # of whose memory the program is asked
STEPS = 100  # of the call that is written down: the least that a sweep takes at a time
INSTRUCTION = re.compile(r"^\s*(?:ROOT )?%(\S+) = (\S+?)(?:\{\S*)? (?:\S+)\(", re.MULTILINE)
# By what the names of operations begin with, or hold: XLA:CPU names fusions by what is in them.
PRODUCTS = "products"
KINDS = {
    "sums": ("reduce",),
    PRODUCTS: ("ynn", "dot", "onednn", "custom-call", "convolution"),
    "copies and transposes": ("copy", "transpose"),
    "reading the batch": ("gather",),
}
OTHER = "loops over arrays, of which the optimiser's are the largest"


def define() -> None:
    """Defines the flags."""
    flags.DEFINE_list("sizes", ["wide"], f"networks: of {', '.join(SIZES)}")
    flags.DEFINE_integer("rows", 14, "operations that are shown of each, the longest")


def main() -> None:
    """Prints a table per size, and one of kinds of operations."""
    rows = flags.FLAGS.rows
    whole("rows", rows, least=1)
    sizes = turns.named_sizes()
    runtime.use_all_cores()
    for name in sizes:
        print_profile(name, rows)


def print_profile(size: str, rows: int) -> None:
    """Prints how long the operations of a step take, and the rates of the arithmetic."""
    grid, dataset = jax_sides.our_grid(SIZES[size], 1), jax_sides.our_data(SIZES[size])
    (width,) = seed_batches.seed_batches(grid, dataset, recorded={}, steps=10**5).values()
    devices = jax.device_count()
    seeds = width * devices
    built = program.build(jax_sides.our_grid(SIZES[size], seeds), dataset, seed_batch=width)
    spent, results, wall = seconds_spent(built)
    counted, per_seed = sum(spent.values()), 1e6 / STEPS / seeds
    print(f"{size}: {seeds} networks on {devices} devices, {width} at a time\n")
    print("| operation | result | core-µs per seed-step | of all |\n| --- | --- | --- | --- |")
    for name, seconds in spent.most_common(rows):
        cells = (name, results[name], f"{per_seed * seconds:.1f}", f"{seconds / counted:.0%}")
        print("| " + " | ".join(cells) + " |")
    print("\n| kind | core-µs per seed-step | of all |\n| --- | --- | --- |")
    for kind, seconds in by_kind(spent).most_common():
        print(f"| {kind} | {per_seed * seconds:.1f} | {seconds / counted:.0%} |")
    print(f"\nof {per_seed * wall * devices:.1f} core-µs without the profiler")
    flops = STEPS * seeds * seed_batches.flops_per_step(grid, dataset)
    products = by_kind(spent)[PRODUCTS] / devices
    rate = machine.matrix_product_rate()
    print(f"large products: {rate / 1e9:.0f} GFLOP/s on all devices; ", end="")
    print(f"those of the step: {flops / products / 1e9:.0f}\n")
    print_memory(size, width)


def print_memory(size: str, width: int) -> None:
    """Prints how much memory of a device the program takes beside the states, which it overwrites.

    A second batch of networks is trained after the first, so that it takes no more of it.
    """
    dataset, devices = jax_sides.our_data(SIZES[size]), jax.device_count()
    print("| batches of a device | states, MB | beside them, MB |\n| --- | --- | --- |")
    for batches in BATCHES:
        grid = jax_sides.our_grid(SIZES[size], batches * width * devices)
        built = program.build(grid, dataset, seed_batch=width)
        states, number = program.abstract_states(built), np.int32(0)
        held = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(states)) / devices
        chunk = built.chunk.lower(states, built.hypers, built.arrays, number, number).compile()
        told = chunk.memory_analysis()
        beside = "unknown" if told is None else f"{told.temp_size_in_bytes / 1e6:.1f}"
        print(f"| {batches} | {held / 1e6:.1f} | {beside} |")
    print()


def seconds_spent(built: program.Program) -> tuple[Counter[str], dict[str, str], float]:
    """Returns the seconds of every operation in `STEPS` steps, over all cores, by its name.

    Beside them are the operations' results, and the seconds that the steps take without profiler.
    """
    states = built.init(built.hypers)
    arguments = (built.hypers, built.arrays, np.int32(0), np.int32(STEPS))
    chunk = built.chunk.lower(states, *arguments).compile()
    # Of calls and loops, whose results are tuples, the parts are counted.
    results = dict(INSTRUCTION.findall(chunk.as_text() or ""))
    states, _ = jax.block_until_ready(chunk(states, *arguments))
    start = time.perf_counter()
    states, _ = jax.block_until_ready(chunk(states, *arguments))
    wall = time.perf_counter() - start
    spent: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            jax.block_until_ready(chunk(states, *arguments))
        for event in events(pathlib.Path(folder)):
            if event.get("ph") == "X" and event["name"] in results:
                spent[event["name"]] += event["dur"] / 1e6
    return spent, results, wall


def events(folder: pathlib.Path) -> Iterator[dict[str, Any]]:
    """Yields the events that the profiler left in a folder."""
    for path in folder.rglob("*.trace.json.gz"):
        with gzip.open(path, "rt", encoding="utf-8") as file:
            yield from json.load(file)["traceEvents"]


def by_kind(spent: Counter[str]) -> Counter[str]:
    """Returns the seconds of each kind of operation."""
    kinds: Counter[str] = Counter()
    for name, seconds in spent.items():
        known = [kind for kind, marks in KINDS.items() if any(mark in name for mark in marks)]
        kinds[known[0] if known else OTHER] += seconds
    return kinds


if __name__ == "__main__":
    experiment_flags.run(main, define=define, about=__doc__)
