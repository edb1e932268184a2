"""The program that trains a whole grid: jitted functions over all cells and runs."""

import contextlib
import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from ppp_jax.data.datasets import Dataset
from ppp_jax.engine import devices
from ppp_jax.engine.devices import RUNS
from ppp_jax.engine.training import Arrays, Hyper, Observation, Run, RunState, build_run
from ppp_jax.grid.grid import Cell, Grid
from ppp_jax.networks.functional import Params

# Trees by the names of their cells. Every leaf has a leading axis over the cell's runs, padded.
Hypers = dict[str, Hyper]
States = dict[str, RunState]
Widths = Mapping[str, int]  # by `Cell.shape`, the number of runs that a device trains at a time

# XLA:CPU needs much longer to optimise random number generation than to run it: 5 s instead of 1 s
# for four layers. Optimisation level 1 gives the same bits as the default, and level 0 does not.
_INIT_OPTIONS: dict[str, Any] = {"xla_backend_optimization_level": 1}

# On a GPU, XLA would time several kernels for each product and take the fastest, which is another
# one in another process, or beside other cells, with other bits.
_OPTIONS: dict[str, dict[str, Any]] = {"gpu": {"xla_gpu_deterministic_ops": True}}


class Program(NamedTuple):
    """The jitted functions that train a grid. Each of them handles all cells and runs at once.

    Every leading axis is over a cell's runs, in the order of `grid.run_axes`, padded to whole seed
    batches on every device. Only the first `grid.runs_per_cell` entries are results.

    Attributes:
      hypers: Traced axes of every cell's runs, spread over the devices.
      arrays: The data, which are passed to every call and not compiled into the functions.
      init: Function `(hypers) -> states` that returns untrained states.
      chunk: Function `(states, hypers, arrays, first_step, steps) -> (states, losses)` that trains
        for `steps` steps and donates `states`. `losses` are means over these steps, `(runs,)` per
        cell. The numbers of steps are traced, so chunks of all lengths share one compilation.
      observe: Function `(states, arrays, step) -> observations` of the states after `step` steps.
    """

    hypers: Hypers
    arrays: Arrays
    init: jax.stages.Wrapped
    chunk: jax.stages.Wrapped
    observe: jax.stages.Wrapped


def _parts(grid: Grid, dataset: Dataset) -> Arrays:
    """Returns the NumPy arrays on which runs are trained and observed."""
    train = dataset.train
    inputs = (train, dataset.validation, dataset.test, train[: grid.probe_samples])
    parts: list[Any] = [*inputs, *dataset.labels]
    return Arrays(*parts)


def put_data(grid: Grid, dataset: Dataset, *, mesh: Mesh | None = None) -> Arrays:
    """Copies the data on which runs are trained and observed to every device.

    Args:
      grid: The grid to be trained.
      dataset: The dataset.
      mesh: Mesh of the devices, by default of all devices of all processes.

    Returns:
      Arrays for `build`. They can be used for this grid and for others with as many probe samples.
    """
    arrays: Arrays = devices.replicate(_parts(grid, dataset), mesh or devices.runs_mesh())
    return arrays


def outline(grid: Grid, dataset: Dataset) -> Arrays:
    """Returns the shapes and dtypes of the result of `put_data`, which suffice to compile.

    Args:
      grid: The grid to be trained.
      dataset: The dataset.
    """
    parts = _parts(grid, dataset)
    shapes: Arrays = jax.tree.map(lambda part: jax.ShapeDtypeStruct(part.shape, part.dtype), parts)
    return shapes


def _hyper(grid: Grid, cell: Cell, width: int, mesh: Mesh) -> Hyper:
    """Returns the traced axes of a cell's runs, padded and spread over the devices.

    The padding repeats the last run. Its results are discarded.
    """
    rates, doses, seeds = np.meshgrid(
        np.asarray(grid.rates(cell.optimizer), np.float32),
        np.asarray(grid.doses or (0,), np.float32),
        np.asarray(grid.seeds, np.int32),
        indexing="ij",
    )
    count = devices.padded_count(grid.runs_per_cell, seed_batch=width, mesh=mesh)
    padding = (0, count - grid.runs_per_cell)
    padded = tuple(np.pad(axis.ravel(), padding, mode="edge") for axis in (seeds, rates, doses))
    return Hyper(*devices.shard_runs(padded, mesh))


def _train_runs(
    run: Run, arrays: Arrays, first_step: jax.Array, steps: jax.Array, width: int
) -> Callable[..., Any]:
    """Returns a function `(states, hypers) -> (states, mean losses)` that trains `width` runs."""

    def update(state: RunState, hyper: Hyper, step: jax.Array) -> tuple[RunState, jax.Array]:
        return run.update(state, hyper, arrays, step)

    def train(states: RunState, hypers: Hyper) -> tuple[RunState, jax.Array]:
        # Each step is mapped over the runs, and not the loop: JAX maps the body of a loop again
        # and again, until it knows which of the numbers that it carries differ between runs.
        def body(step: jax.Array, carry: tuple[RunState, jax.Array]) -> tuple[RunState, jax.Array]:
            states, totals = carry
            one_step = functools.partial(update, step=step)
            states, losses = _of_runs(one_step, width)(states, hypers)
            return states, totals + losses

        start = (states, jnp.zeros_like(hypers.learning_rate, jnp.float32))
        states, totals = jax.lax.fori_loop(first_step, first_step + steps, body, start)
        return states, totals / steps.astype(jnp.float32)

    return train


def _of_runs(function: Callable[..., Any], width: int) -> Callable[..., Any]:
    """Returns what a function of one run is of `width` runs.

    A single run is not mapped: XLA:CPU would transpose the weights of a batch of one in every step.
    """
    return function if width == 1 else jax.vmap(function)


def _map_runs(function: Callable[..., Any], runs: Any, width: int) -> Any:
    """Applies a function of `width` runs to all runs of a device, so many at a time.

    The width is fixed and divides the number of runs. So every run is computed by the same code,
    whatever its index and the number of runs.
    """
    done = jax.lax.map(lambda batch: function(*batch), _batches(runs, width))
    return (
        done if width == 1 else jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), done)
    )


def _update_runs(
    function: Callable[..., Any], states: RunState, hypers: Hyper, width: int
) -> tuple[RunState, jax.Array]:
    """Does what `_map_runs` does of a function `(states, hypers) -> (states, losses)`, in place.

    The loop carries the states, of which XLA overwrites a batch at a time; a map would have those
    of all runs twice.
    """

    def update(states: RunState, batch: tuple[jax.Array, Hyper]) -> tuple[RunState, jax.Array]:
        index, hyper = batch
        taken = jax.tree.map(
            lambda leaf: jax.lax.dynamic_index_in_dim(leaf, index, keepdims=False), states
        )
        trained, losses = function(taken, hyper)
        put = functools.partial(jax.lax.dynamic_update_index_in_dim, index=index, axis=0)
        return jax.tree.map(put, states, trained), losses

    batches = _batches(states, width)
    indices = jnp.arange(len(hypers.seed) // width)
    batches, losses = jax.lax.scan(update, batches, (indices, _batches(hypers, width)))
    trained = jax.tree.map(lambda leaf, given: leaf.reshape(given.shape), batches, states)
    return trained, losses.reshape(-1)


def _batches(runs: Any, width: int) -> Any:
    """Divides the leading axis of all leaves into batches; batches of one run have no axis."""
    if width == 1:
        return runs
    return jax.tree.map(lambda leaf: leaf.reshape(-1, width, *leaf.shape[1:]), runs)


def _single_precision() -> contextlib.AbstractContextManager[Any]:
    """Returns the context in which products are traced in single precision.

    GPUs and TPUs would round factors to 11 or 8 bits, so that a network that is certified to have
    no axes would be trained on a grid of numbers that has. Whoever sets JAX's
    `jax_default_matmul_precision` has it as it is set. On a CPU nothing changes.
    """
    if jax.config.values["jax_default_matmul_precision"] is not None:
        return contextlib.nullcontext()
    highest: contextlib.AbstractContextManager[Any] = jax.default_matmul_precision("highest")
    return highest


def _sharded(function: Callable[..., Any], mesh: Mesh, *, shared: int) -> Callable[..., Any]:
    """Maps `function` over the devices, which hold different runs and the same last arguments.

    Args:
      function: Function of arrays over runs, and of `shared` further arguments.
      mesh: Mesh of the devices.
      shared: Number of last arguments of which every device holds the whole.
    """

    def sharded(*args: Any) -> Any:
        specs = [P(RUNS)] * (len(args) - shared) + [P()] * shared
        # JAX's check for replicated values does not support the custom gradient of dense products.
        mapped = jax.shard_map(
            function, mesh=mesh, in_specs=tuple(specs), out_specs=P(RUNS), check_vma=False
        )
        with _single_precision():
            return mapped(*args)

    return sharded


def _init(grid: Grid, runs: dict[str, Run], widths: Widths, hypers: Hypers) -> States:
    """Returns the untrained states of all cells.

    Cells that differ only in activation or optimiser share their initial weights. The weights are
    drawn once, which pairs the seeds and saves most of the compile time.
    """
    drawn: dict[Cell, Params] = {}
    states = {}
    for cell in grid.cells:
        hyper, alike = hypers[cell.name], cell._replace(activation="", optimizer="")
        run, width = runs[cell.name], widths[cell.shape]
        if alike not in drawn:
            drawn[alike] = _map_runs(_of_runs(run.draw, width), (hyper.seed,), width)
        init = _of_runs(run.init, width)
        states[cell.name] = _map_runs(init, (drawn[alike], hyper), width)
    return states


def _chunk(
    grid: Grid,
    runs: dict[str, Run],
    widths: Widths,
    states: States,
    hypers: Hypers,
    arrays: Arrays,
    first_step: jax.Array,
    steps: jax.Array,
) -> tuple[States, dict[str, jax.Array]]:
    """Returns the states after `steps` more steps, and the mean losses over these steps."""
    trained = {}
    for cell in grid.cells:
        name, width = cell.name, widths[cell.shape]
        train = _train_runs(runs[name], arrays, first_step, steps, width)
        trained[name] = _update_runs(train, states[name], hypers[name], width)
    return (
        {name: state for name, (state, _) in trained.items()},
        {name: loss for name, (_, loss) in trained.items()},
    )


def _observe(
    grid: Grid,
    runs: dict[str, Run],
    widths: Widths,
    states: States,
    arrays: Arrays,
    step: jax.Array,
) -> dict[str, Observation]:
    found = {}
    for cell in grid.cells:
        name, width = cell.name, widths[cell.shape]
        observe = _of_runs(lambda state, run=runs[name]: run.observe(state, arrays, step), width)
        found[name] = _map_runs(observe, (states[name],), width)
    return found


def abstract_states(built: Program) -> States:
    """Returns the shapes, dtypes and shardings of a program's states, to restore a checkpoint."""
    shapes = jax.eval_shape(built.init, built.hypers)
    sharding = jax.tree.leaves(built.hypers)[0].sharding
    states: States = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), shapes
    )
    return states


def build(
    grid: Grid,
    dataset: Dataset,
    *,
    seed_batch: int | Widths,
    mesh: Mesh | None = None,
    arrays: Arrays | None = None,
) -> Program:
    """Builds the program that trains a grid.

    Cells are unrolled in the trace, each with its own shapes and code. A cell's runs are spread
    over the devices, and each device trains `seed_batch` of them at a time, by `vmap`. The bits of
    a run depend on this width. They do not depend on the run's index, on the numbers of runs,
    devices and processes, or on the division of steps into chunks. Nothing is compiled until a
    function is first called.

    Args:
      grid: The grid to be trained.
      dataset: The dataset.
      seed_batch: Number of runs that a device trains at a time, for all cells or by `Cell.shape`.
      mesh: Mesh of the devices, by default of all devices of all processes.
      arrays: The data, as returned by `put_data`, or by `outline` for a program that is only
        compiled. None means that this function calls `put_data`.

    Returns:
      The program.
    """
    mesh = devices.runs_mesh() if mesh is None else mesh
    platform = mesh.devices.flat[0].platform
    options = _OPTIONS.get(platform)
    shapes = [cell.shape for cell in grid.cells]
    widths = dict.fromkeys(shapes, seed_batch) if isinstance(seed_batch, int) else seed_batch
    runs = {
        cell.name: build_run(
            cell, shape=dataset.shape, batch_size=grid.batch_size, capture=grid.captured(cell)
        )
        for cell in grid.cells
    }
    return Program(
        hypers={cell.name: _hyper(grid, cell, widths[cell.shape], mesh) for cell in grid.cells},
        arrays=put_data(grid, dataset, mesh=mesh) if arrays is None else arrays,
        init=jax.jit(
            _sharded(functools.partial(_init, grid, runs, widths), mesh, shared=0),
            compiler_options=_INIT_OPTIONS if platform == "cpu" else options,
        ),
        chunk=jax.jit(
            _sharded(functools.partial(_chunk, grid, runs, widths), mesh, shared=3),
            donate_argnums=0,
            compiler_options=options,
        ),
        observe=jax.jit(
            _sharded(functools.partial(_observe, grid, runs, widths), mesh, shared=2),
            compiler_options=options,
        ),
    )
