"""Trained networks, restored from a run folder for analysis."""

import pathlib
from typing import NamedTuple

import jax
import numpy as np

from ppp_jax.data.datasets import Dataset
from ppp_jax.engine import devices, program, training
from ppp_jax.errors import InputError, printable, shortened
from ppp_jax.files import regular
from ppp_jax.grid.extension import run_indices
from ppp_jax.grid.grid import Cell, Grid
from ppp_jax.networks.functional import Model, Params
from ppp_jax.storage import checkpoints, manifest, remote, run_dir
from ppp_jax.storage.manifest import Manifest


class Trained(NamedTuple):
    """The trained networks of one cell.

    Attributes:
      cell: Configuration of the networks.
      grid: Whole grid of the folder, whose `run_axes` are the axes of the cell's runs.
      model: The network as pure functions.
      params: Parameters. Every leaf has a leading axis over the runs, in the order of
        `grid.run_axes`.
    """

    cell: Cell
    grid: Grid
    model: Model
    params: Params


def restore(workdir: str | pathlib.Path, dataset: Dataset) -> list[Trained]:
    """Restores the newest parameters of every run of a folder.

    Args:
      workdir: Path of the run folder, or its address in a bucket.
      dataset: Dataset of the runs, as `datasets.load` returns it.

    Returns:
      One entry per cell of the whole grid, also if the grid was extended.

    Raises:
      InputError: The folder holds no trained run, or one of other data or other functions, or its
        newest checkpoint is damaged.
    """
    workdir = remote.fetched(workdir)
    stored = manifest.read(workdir)
    if stored is None:
        raise InputError("workdir", workdir, "holds no run; train one first")
    if stored.dataset_sha256 != dataset.sha256:
        raise InputError("workdir", workdir, f"was trained on other data than {dataset.name}")
    manifest.check_data(stored, workdir, dataset)
    manifest.check_functions(stored, workdir)
    whole, found = stored.grid, dict[str, Params]()
    _refuse_odd(workdir, len(stored.parts))
    reached = run_dir.examine(workdir, stored)
    for number, part in enumerate(stored.parts):
        _refuse_damaged(workdir, number, reached[number])
        step = reached[number].step
        for name, params in _restore_part(workdir, stored, number, step, dataset).items():
            found[name] = _merged(found.get(name), params, whole, part)
    return [
        Trained(cell, whole, training.build_model(cell, dataset.shape), found[cell.name])
        for cell in whole.cells
    ]


def _refuse_odd(workdir: pathlib.Path, parts: int) -> None:
    """Checks all checkpoints of all parts, because orbax opens all of a part to restore one.

    An incomplete checkpoint is refused, because it can be the newest and orbax would ignore it.
    """
    for folder in (f"{run_dir.CHECKPOINTS}/{part}" for part in range(parts)):
        found = list(regular.odd(workdir / folder, most=checkpoints.most))
        inside = (workdir / folder).iterdir() if (workdir / folder).is_dir() else ()
        for path in sorted(inside):
            if path.name.isdecimal() and not checkpoints.is_complete(path):
                found.append(
                    (f"{path.name}/{checkpoints.COMMITTED}", "is missing, or is not a file")
                )
        for name, wrong in found:
            problem = f"its {folder}/{name} {wrong}; run the command that trained it again, which "
            raise InputError("workdir", workdir, f"{problem}moves that checkpoint aside")


def _refuse_damaged(workdir: pathlib.Path, number: int, reached: run_dir.Reached) -> None:
    """Refuses a damaged newest checkpoint, instead of restoring an older one without notice."""
    for step, problem in reached.damaged.items():
        where = f"{run_dir.CHECKPOINTS}/{number}/{step}"
        message = f" ({shortened(printable(problem))})" if problem else ""
        raise InputError(
            "workdir",
            workdir,
            f"{where} is damaged{message}; run the command that trained it again, which continues "
            "from an older checkpoint",
        )


def _restore_part(
    workdir: pathlib.Path, stored: Manifest, number: int, step: int | None, dataset: Dataset
) -> dict[str, Params]:
    """Returns the parameters of one part after a step, by the names of cells, in every process."""
    if step is None:
        raise InputError("workdir", workdir, "is not trained yet; train it first")
    grid, widths = stored.parts[number], stored.conditions["seed_batch"]
    shapes = program.outline(grid, dataset)
    built = program.build(grid, dataset, seed_batch=widths, arrays=shapes)
    with run_dir.checkpoint_manager(
        workdir, number, runs=grid.runs_per_cell, identity=stored.identities[number]
    ) as kept:
        states = run_dir.restore_checkpoint(kept, step, program.abstract_states(built))
    gathered: dict[str, Params] = devices.gather(
        {name: state.params for name, state in states.items()}
    )
    return gathered


def _merged(merged: Params | None, params: Params, whole: Grid, part: Grid) -> Params:
    """Writes a part's parameters to the rows that its runs have in the whole grid.

    Args:
      merged: Parameters of a cell's runs so far, or None.
      params: Parameters of the part's runs, with padding behind them.
      whole: The whole grid.
      part: The part.
    """
    numbers = np.arange(whole.runs_per_cell).reshape(whole.run_shape)
    rows = numbers[np.ix_(*run_indices(whole, part))].ravel()
    if merged is None:
        merged = jax.tree.map(
            lambda leaf: np.zeros((whole.runs_per_cell, *leaf.shape[1:]), leaf.dtype), params
        )

    def put(target: np.ndarray, leaf: np.ndarray) -> np.ndarray:
        target[rows] = leaf[: len(rows)]
        return target

    result: Params = jax.tree.map(put, merged, params)
    return result
