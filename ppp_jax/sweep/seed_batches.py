"""The number of runs that a device trains at a time, and the memory and arithmetic of a run.

This number is called the width. On a CPU it is chosen by the cache: training is slower with more
runs at a time than fit into the cache, and also with too few. On other devices it is the largest
number that fits into memory. Widths are chosen once per network shape, at the start of a run, and
are recorded, because bits depend on them.
"""

import bisect
import contextlib
import dataclasses
import functools
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

from ppp_jax.data.datasets import Dataset, Shape
from ppp_jax.engine import devices, program, training
from ppp_jax.engine.training import Arrays, Hyper, RunState
from ppp_jax.files import atomic, regular
from ppp_jax.grid.grid import Cell, Grid
from ppp_jax.networks import architectures, functional, interpolated
from ppp_jax.storage import manifest

MAX_CPU_WIDTH = 16  # larger widths are not faster, even for the smallest networks
USUAL_L3_BYTES = 16 * 2**20  # assumed size of the cache if the system does not tell
# Fraction of an accelerator's memory that is used; the compiler needs some of the rest.
MEMORY_FRACTION = 0.8
ROUNDS = 3
CLEARLY_FASTER = 0.8  # fraction of the time below which a timing overrules the cache rule
# Floating-point operations of a training below which timing takes longer than it saves.
WORTH_TIMING = 2e12
REMEMBERED = "seed_batch.json"
LARGEST = 2**24  # most bytes of that file
NUMBER = np.dtype(np.float32).itemsize


class Needs(NamedTuple):
    """Temporary memory of one run on its device, in bytes.

    Attributes:
      step: Temporary memory of a training step.
      look: Temporary memory of an observation.
    """

    step: int
    look: int


class RunShapes(NamedTuple):
    """Sizes of one run of a cell, computed from shapes.

    Attributes:
      parameters: Number of trained parameters.
      state: Bytes of the state: parameters, state of the optimiser, and `diverged_step`.
      seen: Bytes of the latents that are saved at a snapshot.
      needs: Coarse prediction of the temporary memory.
    """

    parameters: int
    state: int
    seen: int
    needs: Needs


def run_shapes(grid: Grid, cell: Cell, dataset: Dataset) -> RunShapes:
    """Returns the sizes of one run of a cell, without making arrays or compiling.

    Args:
      grid: The grid to be trained.
      cell: One of the grid's cells.
      dataset: The dataset.
    """
    state = _abstract_state(_alike(cell), dataset.shape)
    layers = _layer_sizes(cell.architecture, cell.sizes, dataset.shape)
    probes = min(grid.probe_samples, len(dataset.train))
    kept = sum(layers[name] for name in (functional.BOTTLENECK, *grid.captured(cell)))
    seen = 2 * NUMBER * probes * kept
    parameters = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    # A step needs the gradient and the update in addition to the parameters, and every layer's
    # vectors for backpropagation. An observation computes slices of samples, and the probes.
    units = sum(layers.values()) + 2 * dataset.shape.features
    step = 2 * NUMBER * parameters + 3 * NUMBER * grid.batch_size * units
    samples = max(min(training.SLICE, len(dataset.train)), probes)
    look = 2 * NUMBER * samples * max(*layers.values(), dataset.shape.features) + seen
    return RunShapes(parameters, size_bytes(state), seen, Needs(step, look))


def _alike(cell: Cell) -> Cell:
    """Returns a cell of the same sizes with fixed activation and initialiser, as a cache's key."""
    parameter = interpolated.get(cell.activation).parameter
    same = cell.activation if parameter is not None else "identity"
    return cell._replace(activation=same, initializer="glorot_normal")


@functools.lru_cache(maxsize=4096)
def _abstract_state(cell: Cell, shape: Shape) -> RunState:
    run = training.build_run(cell, shape=shape, batch_size=1)
    scalars: list[Any] = [jax.ShapeDtypeStruct((), kind) for kind in (np.int32, np.float32)]
    whole, real = scalars
    hyper = Hyper(whole, real, real)
    state: RunState = jax.eval_shape(run.init, jax.eval_shape(run.draw, whole), hyper)
    return state


@functools.lru_cache(maxsize=4096)
def _layer_sizes(architecture: str, sizes: functional.Sizes, shape: Shape) -> dict[str, int]:
    """Returns how many numbers each named layer has for one sample."""
    initializer = functional.get_initializer("glorot_normal").make
    model = architectures.build(
        architecture, shape, sizes, activation=lambda x, *_: x, initializer=initializer
    )
    sample = jax.ShapeDtypeStruct((1, shape.features), np.float32)
    params = jax.eval_shape(model.init, jax.random.key(0))
    seen = jax.eval_shape(model.apply, params, sample)
    return {name: layer.pre.size for name, layer in seen.layers.items()}


def padded_runs(grid: Grid, width: int) -> int:
    """Returns the number of runs of a cell on every device, rounded up to whole batches.

    Args:
      grid: The grid to be trained.
      width: Number of runs that a device trains at a time.
    """
    return -(-grid.runs_per_cell // (width * jax.device_count())) * width


def seed_batches(
    grid: Grid,
    dataset: Dataset,
    *,
    recorded: Mapping[str, int],
    steps: int,
    timed: bool = True,
) -> dict[str, int]:
    """Chooses the number of runs that a device trains at a time, for every network shape.

    Args:
      grid: The grid to be trained.
      dataset: The dataset.
      recorded: Earlier choices by `Cell.shape`, which are kept.
      steps: Number of gradient steps per run. Nothing is timed for a short training.
      timed: Whether programs may be compiled and timed. Otherwise the choice is an earlier one of
        this machine, or follows from shapes.

    Returns:
      The widths by `Cell.shape`. All processes return the choice of the main process.
    """
    chosen = dict(recorded)
    for cell in grid.cells:
        if cell.shape not in chosen:
            chosen[cell.shape] = devices.tell_all(_choose(grid, cell, dataset, steps, timed))
    return {cell.shape: chosen[cell.shape] for cell in grid.cells}


def _choose(grid: Grid, cell: Cell, dataset: Dataset, steps: int, timed: bool) -> int:
    if jax.default_backend() == "cpu":
        return _cpu_width(grid, cell, dataset, steps, timed)
    limit = jax.local_devices()[0].memory_stats()["bytes_limit"]
    needs = measure(grid, cell.shape, dataset) if timed else run_shapes(grid, cell, dataset).needs
    return _memory_width(grid, dataset, needs, limit=int(MEMORY_FRACTION * limit))


def balanced(runs: int, at_most: int) -> int:
    """Returns the width that divides runs into the fewest batches, and these into equal ones.

    Args:
      runs: Number of runs.
      at_most: Largest width.

    Example:
      >>> balanced(20, 16)
      10
    """
    batches = -(-runs // max(1, at_most))
    return -(-runs // batches)


# ------------------------------------------------------------------------------ CPU: the cache


def cache_rule(bytes_per_run: int, *, l3_bytes: int, cores: int) -> int:
    """Returns the number of runs at a time that fill half of the last-level cache.

    Args:
      bytes_per_run: Memory of one run in bytes.
      l3_bytes: Size of the last-level cache in bytes.
      cores: Number of cores that share the cache.

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


def _cpu_width(grid: Grid, cell: Cell, dataset: Dataset, steps: int, timed: bool) -> int:
    """Returns the cache rule's width, or one that a short timing finds clearly faster."""
    runs = -(-grid.runs_per_cell // jax.device_count())
    # A run needs the gradient in addition to the parameters and their moments.
    shapes = run_shapes(grid, cell, dataset)
    params = NUMBER * shapes.parameters
    bytes_per_run = shapes.state + params
    rule = cache_rule(bytes_per_run, l3_bytes=_l3_bytes(), cores=jax.local_device_count())
    width = balanced(runs, rule)
    others = {balanced(runs, limit) for limit in (max(1, rule // 2), 2 * rule)} - {width}
    candidates = [width, *sorted(others)]
    flops = 6 * grid.batch_size * params / 4 * steps * grid.runs_per_cell
    if len(candidates) == 1 or flops < WORTH_TIMING:
        return width
    question = [cell, grid.batch_size, dataset.train.shape, runs, manifest.conditions({})]
    key = hashlib.sha256(json.dumps(question).encode()).hexdigest()
    known = _remembered(key)
    if known is not None or not timed:
        return known or width
    return _remember(key, _fastest(grid, cell, dataset, runs, candidates))


def _fastest(grid: Grid, cell: Cell, dataset: Dataset, runs: int, widths: list[int]) -> int:
    """Times batches at each width, and returns the first width unless another is clearly faster."""
    times: dict[int, list[float]] = {width: [] for width in widths}
    arrays = program.put_data(grid, dataset, mesh=devices.runs_mesh(over=jax.local_devices()))
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
    """One seed batch on every device of this process, which each call trains further."""

    def __init__(self, grid: Grid, cell: Cell, dataset: Dataset, width: int, arrays: Arrays):
        mesh = devices.runs_mesh(over=jax.local_devices())
        one = alone(grid, cell, range(width * mesh.size))
        self.built = program.build(one, dataset, seed_batch=width, mesh=mesh, arrays=arrays)
        self.states = self.built.init(self.built.hypers)

    def seconds(self, *, steps: int) -> float:
        start = time.perf_counter()
        self.states, _ = self.built.chunk(
            self.states, self.built.hypers, self.built.arrays, np.int32(0), np.int32(steps)
        )
        jax.block_until_ready(self.states)
        return time.perf_counter() - start


def _remembered(key: str) -> int | None:
    """Returns an earlier choice of this machine, which is kept in JAX's cache."""
    path = _memory_file()
    width: int | None = None if path is None else _known(path).get(key)
    return width


def _known(path: pathlib.Path) -> dict[str, int]:
    """Returns the saved choices; none if the file is missing or damaged."""
    try:
        known = json.loads(regular.read(path, most=LARGEST))
    except (OSError, ValueError):
        return {}
    pairs = known.items() if isinstance(known, dict) else ()
    return {key: width for key, width in pairs if type(width) is int and 0 < width <= MAX_CPU_WIDTH}


def _remember(key: str, width: int) -> int:
    path = _memory_file()
    if path is not None:
        with contextlib.suppress(OSError):  # training goes on if the cache cannot be written
            atomic.write_text(path, json.dumps({**_known(path), key: width}, indent=1))
    return width


def _memory_file() -> pathlib.Path | None:
    folder = jax.config.values["jax_compilation_cache_dir"]
    return pathlib.Path(folder) / REMEMBERED if folder and pathlib.Path(folder).is_dir() else None


# ------------------------------------------------------------------------ accelerators: memory


def measure(grid: Grid, shape: str, dataset: Dataset) -> Needs:
    """Measures the temporary memory of a run, by compiling two small batches for one device.

    One activation is compiled for all. It is an isotropic one if the grid has one, because
    isotropic activations need more memory for backpropagation.

    Args:
      grid: The grid to be trained.
      shape: `Cell.shape` of the run.
      dataset: The dataset.
    """
    cells = [cell for cell in grid.cells if cell.shape == shape]
    cell = max(cells, key=lambda cell: interpolated.get(cell.activation).isotropic)
    mesh = devices.runs_mesh(over=jax.local_devices()[:1])
    few, more = 2, 4
    temporary = {}
    for width in (few, more):
        one, shapes = alone(grid, cell, range(width)), program.outline(grid, dataset)
        built = program.build(one, dataset, seed_batch=width, mesh=mesh, arrays=shapes)
        states, number = jax.eval_shape(built.init, built.hypers), np.int32(0)
        chunk = built.chunk.lower(states, built.hypers, built.arrays, number, number)
        observe = built.observe.lower(states, built.arrays, number)
        compiled: list[Any] = [lowered.compile() for lowered in (chunk, observe)]
        temporary[width] = [each.memory_analysis().temp_size_in_bytes for each in compiled]
    step, look = ((b - a) // (more - few) for a, b in zip(*temporary.values(), strict=True))
    return Needs(step, look)


def memory_bytes(
    grid: Grid, dataset: Dataset, widths: Mapping[str, int], needs: Mapping[str, Needs]
) -> int:
    """Predicts the memory of one device that the training of a grid needs, without compiling.

    Args:
      grid: The grid to be trained.
      dataset: The dataset.
      widths: Number of runs that a device trains at a time, by `Cell.shape`.
      needs: Temporary memory of a run, by `Cell.shape`.

    Returns:
      The larger of the memory of training and that of observation, in bytes.
    """
    step = look = kept = shown = 0
    for cell in grid.cells:
        width, need = widths[cell.shape], needs[cell.shape]
        shapes, runs = run_shapes(grid, cell, dataset), padded_runs(grid, width)
        kept, shown = kept + runs * shapes.state, shown + runs * shapes.seen
        step = max(step, width * (need.step + shapes.state))
        look = max(look, width * (need.look + shapes.state))
    data = size_bytes(program.outline(grid, dataset))
    return data + kept + max(step, shown + look)  # states are trained in place


def _memory_width(grid: Grid, dataset: Dataset, need: Needs, *, limit: int) -> int:
    """Returns the largest width of equal batches with which a grid's runs fit into memory."""
    shapes = {cell.shape for cell in grid.cells}
    runs = -(-grid.runs_per_cell // jax.device_count())

    def size(width: int) -> int:
        widths, needs = dict.fromkeys(shapes, width), dict.fromkeys(shapes, need)
        return memory_bytes(grid, dataset, widths, needs)

    return balanced(runs, max(1, bisect.bisect_right(range(1, runs + 1), limit, key=size)))


def seconds_per_step(grid: Grid, cell: Cell, dataset: Dataset, width: int) -> float:
    """Returns the seconds per step of one batch of a cell on every device of this process.

    Args:
      grid: The grid to be trained.
      cell: One of the grid's cells.
      dataset: The dataset.
      width: Number of runs that a device trains at a time.
    """
    arrays = program.put_data(grid, dataset, mesh=devices.runs_mesh(over=jax.local_devices()))
    trainer = _Trainer(grid, cell, dataset, width, arrays)
    trainer.seconds(steps=10)  # compiles
    steps = max(10, int(0.5 / trainer.seconds(steps=10)))
    return trainer.seconds(steps=steps) / steps


def flops_per_step(grid: Grid, dataset: Dataset) -> float:
    """Returns XLA's count of floating-point operations of one step of one run of every cell."""
    first: dict[str, Any] = {"learning_rates": grid.learning_rates[:1], "doses": grid.doses[:1]}
    one = dataclasses.replace(grid, seeds=grid.seeds[:1], **first)
    # An accelerator's plugin need not count; a CPU's compiler counts the same program's.
    mesh = devices.runs_mesh(over=jax.local_devices(backend="cpu")[:1])
    arrays = program.outline(grid, dataset)
    built = program.build(one, dataset, seed_batch=1, mesh=mesh, arrays=arrays)
    states, number = jax.eval_shape(built.init, built.hypers), np.int32(0)
    lowered = built.chunk.lower(states, built.hypers, built.arrays, number, number)
    return float((lowered.cost_analysis() or {}).get("flops", float("nan")))


def size_bytes(tree: object) -> int:
    """Returns the size of all arrays, real or abstract, of a tree."""
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def alone(grid: Grid, cell: Cell, seeds: Any) -> Grid:
    """Returns the grid of one cell at its first learning rate and dose.

    Args:
      grid: The whole grid.
      cell: One of the grid's cells.
      seeds: Training seeds of the result.
    """
    axes: dict[str, Any] = {f"{axis}s": [value] for axis, value in cell._asdict().items()}
    first: dict[str, Any] = {"learning_rates": grid.learning_rates[:1], "doses": grid.doses[:1]}
    return dataclasses.replace(grid, **axes, **first, seeds=seeds)
