"""How many runs to train at a time, and what that takes: memory and arithmetic.

On a CPU the cache decides: more runs at a time than fit into it are slower, and so are too few.
Elsewhere memory decides: as many as fit. Widths are chosen once per network shape, at the start of
a run, and recorded, because bits depend on them.
"""

import bisect
import dataclasses
import hashlib
import json
import os
import pathlib
import statistics
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from ppp_jax import devices, family, manifest, program
from ppp_jax.data import Dataset
from ppp_jax.grid import Cell, Grid
from ppp_jax.program import Program
from ppp_jax.training import Arrays

MAX_CPU_WIDTH = 16  # wider is no faster for the smallest networks either
USUAL_L3_BYTES = 16 * 2**20  # where the system does not say
MEMORY_SHARE = 0.8  # of an accelerator's memory, leaving room for what the compiler adds
ROUNDS = 3
CLEARLY_FASTER = 0.8  # a timing overrules the cache rule only if it takes less than this share
WORTH_TIMING = 2e12  # floating-point operations; below, the choice costs more than it saves
REMEMBERED = "seed_batch.json"


class Needs(NamedTuple):
    """What one run of a network shape takes of its device while a batch is worked on, in bytes.

    Attributes:
      step: temporaries while it is trained.
      look: temporaries while it is observed.
    """

    step: int
    look: int


def seed_batches(
    grid: Grid, dataset: Dataset, *, recorded: Mapping[str, int], steps: int
) -> dict[str, int]:
    """Chooses for every network shape how many runs a device trains at a time.

    Args:
      grid: what is trained.
      dataset: what it is trained on.
      recorded: earlier choices, which are kept.
      steps: gradient steps per run; a short training is not worth timing for.

    Returns:
      `Cell.shape` to width. All processes return what the main one chose.
    """
    chosen = dict(recorded)
    for cell in grid.cells:
        if cell.shape not in chosen:
            chosen[cell.shape] = devices.tell_all(_choose(grid, cell, dataset, steps))
    return {cell.shape: chosen[cell.shape] for cell in grid.cells}


def _choose(grid: Grid, cell: Cell, dataset: Dataset, steps: int) -> int:
    if jax.default_backend() == "cpu":
        return _cpu_width(grid, cell, dataset, steps)
    limit = jax.local_devices()[0].memory_stats()["bytes_limit"]
    return _memory_width(grid, cell, dataset, limit=int(MEMORY_SHARE * limit))


def balanced(runs: int, at_most: int) -> int:
    """Returns the width up to `at_most` of the fewest, and then most equal, batches of `runs`.

    Example:
      >>> balanced(20, 16)
      10
    """
    batches = -(-runs // max(1, at_most))
    return -(-runs // batches)


# ------------------------------------------------------------------------------ CPU: the cache


def cache_rule(bytes_per_run: int, *, l3_bytes: int, cores: int) -> int:
    """Returns how many runs at a time fill half the last-level cache that cores share.

    Example:
      >>> cache_rule(111_000, l3_bytes=32 * 2**20, cores=2)  # 64-48-8-48-64 under Adam
      16
      >>> cache_rule(6_600_000, l3_bytes=32 * 2**20, cores=2)  # 784-256-16-256-784
      1
    """
    return max(1, min(MAX_CPU_WIDTH, l3_bytes // 2 // (cores * bytes_per_run)))


def _l3_bytes() -> int:
    names = getattr(os, "sysconf_names", {})
    size = os.sysconf("SC_LEVEL3_CACHE_SIZE") if "SC_LEVEL3_CACHE_SIZE" in names else 0
    return size if size > 0 else USUAL_L3_BYTES


def _cpu_width(grid: Grid, cell: Cell, dataset: Dataset, steps: int) -> int:
    """Returns the cache rule's width, or one that a short timing finds clearly faster."""
    runs = -(-grid.runs_per_cell // jax.device_count())
    shapes = program.outline(grid, dataset)
    one = program.build(_alone(grid, cell, [0]), dataset, seed_batch=1, arrays=shapes)
    states = jax.eval_shape(one.init, one.hypers)[cell.name]
    # Padding makes it one run per device. The gradient lives beside parameters and their moments.
    params = size_bytes(states.params) // jax.device_count()
    bytes_per_run = size_bytes(states) // jax.device_count() + params
    rule = cache_rule(bytes_per_run, l3_bytes=_l3_bytes(), cores=jax.local_device_count())
    width = balanced(runs, rule)
    others = {balanced(runs, limit) for limit in (max(1, rule // 2), 2 * rule)} - {width}
    candidates = [width, *sorted(others)]
    flops = 6 * grid.batch_size * params / 4 * steps * grid.runs_per_cell
    if len(candidates) == 1 or flops < WORTH_TIMING:
        return width
    question = [cell, grid.batch_size, dataset.train.shape, runs, manifest.conditions({})]
    key = hashlib.sha256(json.dumps(question).encode()).hexdigest()
    return _remembered(key) or _remember(key, _fastest(grid, cell, dataset, runs, candidates))


def _fastest(grid: Grid, cell: Cell, dataset: Dataset, runs: int, widths: list[int]) -> int:
    """Times a device's batches at each width in turn; the first one wins unless clearly beaten."""
    times: dict[int, list[float]] = {width: [] for width in widths}
    arrays = program.place(grid, dataset, mesh=devices.runs_mesh(over=jax.local_devices()))
    trainers = {width: _Trainer(grid, cell, dataset, width, arrays) for width in widths}
    for trainer in trainers.values():
        trainer.seconds(steps=10)  # compiles
    steps = max(10, int(1.5 / trainers[widths[0]].seconds(steps=10)))
    for _ in range(ROUNDS):
        for width, trainer in trainers.items():
            times[width].append(trainer.seconds(steps=steps) * -(-runs // width))
    cost = {width: statistics.median(values) for width, values in times.items()}
    best = min(widths, key=cost.__getitem__)
    return best if cost[best] < CLEARLY_FASTER * cost[widths[0]] else widths[0]


class _Trainer:
    """One seed batch on every device of this process, trained on from call to call."""

    def __init__(self, grid: Grid, cell: Cell, dataset: Dataset, width: int, arrays: Arrays):
        mesh = devices.runs_mesh(over=jax.local_devices())
        alone = _alone(grid, cell, range(width * mesh.size))
        self.built = program.build(alone, dataset, seed_batch=width, mesh=mesh, arrays=arrays)
        self.states = self.built.init(self.built.hypers)

    def seconds(self, *, steps: int) -> float:
        start = time.perf_counter()
        self.states, _ = self.built.chunk(
            self.states, self.built.hypers, self.built.arrays, np.int32(0), np.int32(steps)
        )
        jax.block_until_ready(self.states)
        return time.perf_counter() - start


def _remembered(key: str) -> int | None:
    """Returns an earlier choice of this machine, kept beside its compiled programs."""
    path = _memory_file()
    width: int | None = None if path is None else _known(path).get(key)
    return width


def _known(path: pathlib.Path) -> dict[str, int]:
    """Returns what a file remembers: nothing, if it is not there or damaged."""
    try:
        known: dict[str, int] = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    return known


def _remember(key: str, width: int) -> int:
    path = _memory_file()
    if path is not None:
        partial = path.with_suffix(f".{os.getpid()}")
        partial.write_text(json.dumps({**_known(path), key: width}, indent=1), encoding="utf-8")
        os.replace(partial, path)
    return width


def _memory_file() -> pathlib.Path | None:
    folder = jax.config.values["jax_compilation_cache_dir"]
    return pathlib.Path(folder) / REMEMBERED if folder and pathlib.Path(folder).is_dir() else None


# ------------------------------------------------------------------------ accelerators: memory


def measure(grid: Grid, shape: str, dataset: Dataset) -> Needs:
    """Measures what a run of a shape takes, by compiling two small batches for one device.

    Of the activations an isotropic one stands for all, if there is any: it keeps more.
    """
    cells = [cell for cell in grid.cells if cell.shape == shape]
    cell = max(cells, key=lambda cell: family.get(cell.activation).isotropic)
    mesh = devices.runs_mesh(over=jax.local_devices()[:1])
    few, more = 2, 4
    temporary = {}
    for width in (few, more):
        alone, shapes = _alone(grid, cell, range(width)), program.outline(grid, dataset)
        built = program.build(alone, dataset, seed_batch=width, mesh=mesh, arrays=shapes)
        states, number = jax.eval_shape(built.init, built.hypers), np.int32(0)
        chunk = built.chunk.lower(states, built.hypers, built.arrays, number, number)
        observe = built.observe.lower(states, built.arrays, number)
        compiled: list[Any] = [lowered.compile() for lowered in (chunk, observe)]
        temporary[width] = [one.memory_analysis().temp_size_in_bytes for one in compiled]
    step, look = ((b - a) // (more - few) for a, b in zip(*temporary.values(), strict=True))
    return Needs(step, look)


def memory_bytes(
    grid: Grid, built: Program, widths: Mapping[str, int], needs: Mapping[str, Needs]
) -> int:
    """Predicts the memory that a program takes of one device, without compiling it.

    Args:
      grid: what is trained.
      built: its program.
      widths: `Cell.shape` to the number of runs trained at a time.
      needs: `Cell.shape` to what a run of it takes.

    Returns:
      The larger of what training and observing take, in bytes.
    """
    states = jax.eval_shape(built.init, built.hypers)
    seen = jax.eval_shape(built.observe, states, built.arrays, np.int32(0))
    step = look = 0
    for cell in grid.cells:
        width, need = widths[cell.shape], needs[cell.shape]
        state = size_bytes(states[cell.name]) // len(built.hypers[cell.name].seed)
        step = max(step, width * (need.step + state))
        look = max(look, width * (need.look + state))
    kept, shown = (size_bytes(tree) // jax.device_count() for tree in (states, seen))
    # The loop over batches stacks new states beside the old ones.
    return size_bytes(built.arrays) + max(2 * kept + step, kept + shown + look)


def _memory_width(grid: Grid, cell: Cell, dataset: Dataset, *, limit: int) -> int:
    """Returns the largest width, of equal batches, with which a grid's runs fit into `limit`."""
    shapes = {cell.shape for cell in grid.cells}
    need = dict.fromkeys(shapes, measure(grid, cell.shape, dataset))
    shapes_only = program.outline(grid, dataset)
    built = program.build(grid, dataset, seed_batch=1, arrays=shapes_only)
    runs = -(-grid.runs_per_cell // jax.device_count())

    def size(width: int) -> int:
        return memory_bytes(grid, built, dict.fromkeys(shapes, width), need)

    return balanced(runs, max(1, bisect.bisect_right(range(1, runs + 1), limit, key=size)))


def flops_per_step(grid: Grid, dataset: Dataset) -> float:
    """Returns the floating-point operations of one step of one run of every cell, as XLA counts."""
    first: dict[str, Any] = {"learning_rates": grid.learning_rates[:1], "doses": grid.doses[:1]}
    one = dataclasses.replace(grid, seeds=grid.seeds[:1], **first)
    mesh = devices.runs_mesh(over=jax.local_devices()[:1])
    arrays = program.outline(grid, dataset)
    built = program.build(one, dataset, seed_batch=1, mesh=mesh, arrays=arrays)
    states, number = jax.eval_shape(built.init, built.hypers), np.int32(0)
    lowered = built.chunk.lower(states, built.hypers, built.arrays, number, number)
    return float((lowered.cost_analysis() or {}).get("flops", float("nan")))


def size_bytes(tree: object) -> int:
    """Returns the size of all arrays, real or abstract, of a tree."""
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def _alone(grid: Grid, cell: Cell, seeds: Any) -> Grid:
    """Returns the grid of one cell at its first learning rate and dose."""
    axes: dict[str, Any] = {f"{axis}s": [value] for axis, value in cell._asdict().items()}
    first: dict[str, Any] = {"learning_rates": grid.learning_rates[:1], "doses": grid.doses[:1]}
    return dataclasses.replace(grid, **axes, **first, seeds=seeds)
