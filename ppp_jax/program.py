"""The whole grid as one jitted function."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ppp_jax.data import Dataset
from ppp_jax.grid import Cell, Grid
from ppp_jax.models import Params
from ppp_jax.training import Arrays, Hyper, Observation, Run, RunState, build_run

# Cell name to the pytree of that cell, every leaf with a leading axis over its runs.
Hypers = dict[str, Hyper]
States = dict[str, RunState]


class Program(NamedTuple):
    """A grid, compiled: each function handles all cells and runs at once.

    Attributes:
      hypers: the traced axes of every cell's runs, learning rate slowest.
      arrays: the data, passed to every call rather than compiled into it.
      init: `(hypers) -> states`, untrained.
      chunk: `(states, hypers, arrays, first_step, steps) -> (states, losses)`; donates `states`.
        `losses` are means over the chunk, `(runs,)` per cell. Step counts are traced, so all
        chunk lengths share one compilation.
      observe: `(states, arrays, step) -> observations`, per cell, after `step` steps.
    """

    hypers: Hypers
    arrays: Arrays
    init: Callable[[Hypers], States]
    chunk: Callable[..., tuple[States, dict[str, jax.Array]]]
    observe: Callable[[States, Arrays, jax.Array], dict[str, Observation]]


def cell_hyper(grid: Grid, cell: Cell) -> Hyper:
    """Returns the traced axes of a cell's runs, each of shape `(rates × seeds,)`."""
    rates, seeds = jnp.meshgrid(
        jnp.asarray(grid.rates(cell.optimizer), jnp.float32),
        jnp.asarray(grid.seeds, jnp.int32),
        indexing="ij",
    )
    return Hyper(seed=seeds.ravel(), learning_rate=rates.ravel())


def data_arrays(grid: Grid, dataset: Dataset) -> Arrays:
    """Places the data on the device."""
    train = jnp.asarray(dataset.train)
    return Arrays(train, jnp.asarray(dataset.test), train[: grid.probe_samples])


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


def _init(grid: Grid, runs: dict[str, Run], hypers: Hypers) -> States:
    """Returns the untrained states of all cells.

    Cells that differ only in activation or optimiser share their initial weights: they are drawn
    once, which pairs the seeds and saves most of the compile time.
    """
    drawn: dict[Cell, Params] = {}
    states = {}
    for cell in grid.cells:
        hyper, shape = hypers[cell.name], cell._replace(activation="", optimizer="")
        if shape not in drawn:
            drawn[shape] = jax.vmap(runs[cell.name].draw)(hyper.seed)
        states[cell.name] = jax.vmap(runs[cell.name].init)(drawn[shape], hyper)
    return states


def build(grid: Grid, dataset: Dataset) -> Program:
    """Builds the program that trains a grid.

    Cells are unrolled in the trace, each with its own shapes and code; runs are vmapped. Nothing
    is compiled until a function is first called.

    Args:
      grid: what to train.
      dataset: what to train on.

    Returns:
      The `Program`.
    """
    features = dataset.train.shape[1]
    runs = {
        cell.name: build_run(cell, features=features, batch_size=grid.batch_size)
        for cell in grid.cells
    }

    def chunk(
        states: States, hypers: Hypers, arrays: Arrays, first_step: jax.Array, steps: jax.Array
    ) -> tuple[States, dict[str, jax.Array]]:
        trained = {
            name: jax.vmap(_train_run(run, arrays, first_step, steps))(states[name], hypers[name])
            for name, run in runs.items()
        }
        return (
            {name: state for name, (state, _) in trained.items()},
            {name: loss for name, (_, loss) in trained.items()},
        )

    def observe(states: States, arrays: Arrays, step: jax.Array) -> dict[str, Observation]:
        return {
            name: jax.vmap(run.observe, in_axes=(0, None, None))(states[name], arrays, step)
            for name, run in runs.items()
        }

    return Program(
        hypers={cell.name: cell_hyper(grid, cell) for cell in grid.cells},
        arrays=data_arrays(grid, dataset),
        init=jax.jit(functools.partial(_init, grid, runs)),
        chunk=jax.jit(chunk, donate_argnums=0),
        observe=jax.jit(observe),
    )
