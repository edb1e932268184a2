"""The whole grid as one jitted function."""

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

# Cell name to the pytree of that cell, every leaf with a leading axis over its runs, padded.
Hypers = dict[str, Hyper]
States = dict[str, RunState]
Widths = Mapping[str, int]  # `Cell.shape` to the number of runs trained at a time on a device

# Random numbers take XLA:CPU much longer to optimise than to draw: 5 s instead of 1 for four
# layers. Level 1 gives the same bits as the default, level 0 does not.
_INIT_OPTIONS: dict[str, Any] = {"xla_backend_optimization_level": 1}

# On a GPU, XLA would time several kernels for each product and take the fastest, which is another
# one in another process, or beside other cells, with other bits.
_OPTIONS: dict[str, dict[str, Any]] = {"gpu": {"xla_gpu_deterministic_ops": True}}


class Program(NamedTuple):
    """A grid, compiled: each function handles all cells and runs at once.

    Every leading axis is a cell's runs, in the order of `grid.run_axes`, padded to whole seed
    batches on every device: only the first `grid.runs_per_cell` mean anything.

    Attributes:
      hypers: the traced axes of every cell's runs, spread over the devices.
      arrays: the data, passed to every call rather than compiled into it.
      init: `(hypers) -> states`, untrained.
      chunk: `(states, hypers, arrays, first_step, steps) -> (states, losses)`; donates `states`.
        `losses` are means over the chunk, `(runs,)` per cell. Step counts are traced, so all
        chunk lengths share one compilation.
      observe: `(states, arrays, step) -> observations`, per cell, after `step` steps.
    """

    hypers: Hypers
    arrays: Arrays
    init: jax.stages.Wrapped
    chunk: jax.stages.Wrapped
    observe: jax.stages.Wrapped


def _parts(grid: Grid, dataset: Dataset) -> Arrays:
    """Returns NumPy's arrays of what runs are trained on and looked at with."""
    train = dataset.train
    inputs = (train, dataset.validation, dataset.test, train[: grid.probe_samples])
    parts: list[Any] = [*inputs, *dataset.labels]
    return Arrays(*parts)


def place(grid: Grid, dataset: Dataset, *, mesh: Mesh | None = None) -> Arrays:
    """Places what runs are trained on and looked at with on every device.

    Args:
      grid: what to train.
      dataset: what to train on.
      mesh: devices; by default all devices of all processes.

    Returns:
      Arrays for `build`, of this grid or of others with as many probe samples.
    """
    placed: Arrays = devices.replicate(_parts(grid, dataset), mesh or devices.runs_mesh())
    return placed


def outline(grid: Grid, dataset: Dataset) -> Arrays:
    """Returns the shapes of what `place` places, enough to compile for and to measure."""
    parts = _parts(grid, dataset)
    shapes: Arrays = jax.tree.map(lambda part: jax.ShapeDtypeStruct(part.shape, part.dtype), parts)
    return shapes


def _hyper(grid: Grid, cell: Cell, width: int, mesh: Mesh) -> Hyper:
    """Spreads the traced axes of a cell's runs, and padding, over the devices.

    Padding repeats the last run: it is trained and thrown away.
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


def _train_run(run: Run, arrays: Arrays, first_step: jax.Array, steps: jax.Array) -> Any:
    """Returns `(state, hyper) -> (state, mean loss)` over `steps` steps of one run."""

    def train(state: RunState, hyper: Hyper) -> tuple[RunState, jax.Array]:
        def body(step: jax.Array, carry: tuple[RunState, jax.Array]) -> tuple[RunState, jax.Array]:
            state, total = carry
            state, loss = run.update(state, hyper, arrays, step)
            return state, total + loss

        start = (state, jnp.float32(0))
        state, total = jax.lax.fori_loop(first_step, first_step + steps, body, start)
        return state, total / steps.astype(jnp.float32)

    return train


def _map_runs(function: Callable[..., Any], runs: Any, width: int) -> Any:
    """Applies a function of one run to a device's runs, `width` at a time.

    The width is fixed and divides the number of runs, so that a run is computed by the same code
    wherever it stands and however many there are.
    """
    return jax.lax.map(lambda run: function(*run), runs, batch_size=width)


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
    """Runs `function` on every device's runs; its last `shared` arguments are whole everywhere."""

    def sharded(*args: Any) -> Any:
        specs = [P(RUNS)] * (len(args) - shared) + [P()] * shared
        # The checker does not see through the custom gradient of the dense product.
        mapped = jax.shard_map(
            function, mesh=mesh, in_specs=tuple(specs), out_specs=P(RUNS), check_vma=False
        )
        with _single_precision():
            return mapped(*args)

    return sharded


def _init(grid: Grid, runs: dict[str, Run], widths: Widths, hypers: Hypers) -> States:
    """Returns the untrained states of all cells.

    Cells that differ only in activation or optimiser share their initial weights: they are drawn
    once, which pairs the seeds and saves most of the compile time.
    """
    drawn: dict[Cell, Params] = {}
    states = {}
    for cell in grid.cells:
        hyper, alike = hypers[cell.name], cell._replace(activation="", optimizer="")
        run, width = runs[cell.name], widths[cell.shape]
        if alike not in drawn:
            drawn[alike] = _map_runs(run.draw, (hyper.seed,), width)
        states[cell.name] = _map_runs(run.init, (drawn[alike], hyper), width)
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
    """Returns the states after `steps` more steps, and the mean losses on the way."""
    trained = {
        cell.name: _map_runs(
            _train_run(runs[cell.name], arrays, first_step, steps),
            (states[cell.name], hypers[cell.name]),
            widths[cell.shape],
        )
        for cell in grid.cells
    }
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
    def look(run: Run) -> Callable[[RunState], Observation]:
        return lambda state: run.observe(state, arrays, step)

    return {
        cell.name: _map_runs(look(runs[cell.name]), (states[cell.name],), widths[cell.shape])
        for cell in grid.cells
    }


def abstract_states(built: Program) -> States:
    """Returns the shapes and places of a program's states, into which a checkpoint is restored."""
    like = jax.eval_shape(built.init, built.hypers)
    sharding = jax.tree.leaves(built.hypers)[0].sharding
    placed: States = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), like
    )
    return placed


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
    over the devices, and on each device trained `seed_batch` at a time, vmapped. A run's bits
    depend on that width, but not on its place, on the number of runs, devices or processes, nor
    on how steps are cut into chunks. Nothing is compiled until a function is first called.

    Args:
      grid: what to train.
      dataset: what to train on.
      seed_batch: the width, one for all or one for every `Cell.shape`.
      mesh: devices; by default all devices of all processes.
      arrays: the data as `place` placed them, or an `outline` of them for a program that is not
        going to run; placed anew if None.

    Returns:
      The `Program`.
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
        arrays=place(grid, dataset, mesh=mesh) if arrays is None else arrays,
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
