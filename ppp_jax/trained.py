"""Trained networks, taken out of a run folder to be looked at."""

import pathlib
from typing import NamedTuple

import jax

from ppp_jax import devices, manifest, program, store, training
from ppp_jax.data import Dataset
from ppp_jax.errors import InputError
from ppp_jax.grid import Cell, Grid
from ppp_jax.models import Model, Params


class Trained(NamedTuple):
    """The trained networks of one cell.

    Attributes:
      cell: what they are.
      grid: the runs that were trained together; their axes are `grid.run_axes`.
      model: the network as pure functions.
      params: every leaf with a leading axis over the runs, in the order of `grid.run_axes`.
    """

    cell: Cell
    grid: Grid
    model: Model
    params: Params


def restore(workdir: str | pathlib.Path, dataset: Dataset) -> list[Trained]:
    """Restores the newest parameters of every run of a folder.

    Args:
      workdir: the run folder.
      dataset: what it was trained on, as `data.load` gives it.

    Returns:
      One entry per cell; of a folder that was grown, one per cell and part.

    Raises:
      InputError: nothing trained is there, or it was trained on other data.
    """
    workdir = store.folder(workdir)
    stored = manifest.read(workdir)
    if stored is None:
        raise InputError("workdir", workdir, "holds no run; train one first")
    if stored.dataset_sha256 != dataset.sha256:
        raise InputError("workdir", workdir, f"was trained on other data than {dataset.name}")
    found = []
    for number, grid in enumerate(stored.parts):
        step = store.last_step(workdir, number)
        if step is None:
            raise InputError("workdir", workdir, "is not trained yet; train it first")
        widths, shapes = stored.conditions["seed_batch"], program.outline(grid, dataset)
        built = program.build(grid, dataset, seed_batch=widths, arrays=shapes)
        with store.checkpoint_manager(workdir, number) as checkpoints:
            states = store.restore_checkpoint(checkpoints, step, program.abstract_states(built))
        gathered = devices.gather({name: state.params for name, state in states.items()})
        for cell in grid.cells:
            params = jax.tree.map(lambda leaf, n=grid.runs_per_cell: leaf[:n], gathered[cell.name])
            model = training.build_model(cell, dataset.shape)
            found.append(Trained(cell, grid, model, params))
    return found
