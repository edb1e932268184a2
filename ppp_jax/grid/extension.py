"""Extension of a grid: the runs that a larger grid adds to a smaller one."""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

from ppp_jax.grid.grid import SETTING, STATIC, TRACED, Grid, axes_of

AXES = tuple(axes_of(STATIC, TRACED))
FIXED = tuple(name for name, axis in axes_of(SETTING).items() if axis.fixed)


class Extension(NamedTuple):
    """A larger grid, and the runs that it adds to a smaller one.

    Attributes:
      grid: The larger grid, whose snapshots include those of the smaller grid.
      missing: The runs that the smaller grid lacks, as disjoint grids.
    """

    grid: Grid
    missing: tuple[Grid, ...]


def obstacles(old: Grid, new: Grid) -> list[str]:
    """Returns the reasons why `new` is not an extension of `old`, one text per difference.

    Axes and epochs can grow and cannot shrink. A snapshot cannot be added at an epoch that training
    has passed.

    Args:
      old: The smaller grid, which has been trained.
      new: The larger grid.
    """
    shrunk = [axis for axis in AXES if not _contains(getattr(new, axis), getattr(old, axis), axis)]
    if new.epochs < old.epochs:
        shrunk.append("epochs")
    passed = {epoch for epoch in new.snapshot_epochs if epoch <= old.epochs}
    if not passed <= set(old.snapshot_epochs):
        shrunk.append("snapshots")
    shrunk += [name for name in FIXED if getattr(old, name) != getattr(new, name)]
    saved, given = old.to_json(), new.to_json()
    return [f"{name} {saved[name]} there, {given[name]} now" for name in shrunk]


def _contains(larger: Sequence[Any], smaller: Sequence[Any], axis: str) -> bool:
    # An empty axis of learning rates stands for each optimiser's default, and an empty axis of
    # doses for no axis. Neither is contained in an axis with values.
    if axes_of()[axis].optional and not (larger and smaller):
        return larger == smaller
    return set(smaller) <= set(larger)


def extend(old: Grid, new: Grid) -> Extension:
    """Returns the extension of one grid to another, for which `obstacles(old, new)` is empty.

    Args:
      old: The smaller grid.
      new: The larger grid.

    Example:
      >>> old = Grid(activations=["tanh"], seeds=[0, 1])
      >>> new = Grid(activations=["tanh", "relu"], seeds=[0, 1, 2])
      >>> [(grid.activations, grid.seeds) for grid in extend(old, new).missing]
      [(('relu',), (0, 1, 2)), (('tanh',), (2,))]
    """
    snapshots = sorted({*old.snapshot_epochs, *new.snapshot_epochs})
    grid = dataclasses.replace(new, snapshots=snapshots)
    missing = []
    for i, axis in enumerate(AXES):
        before = frozenset(getattr(old, axis))
        added = [value for value in getattr(new, axis) if value not in before]
        if added:
            values = {name: getattr(old, name) for name in AXES[:i]} | {axis: added}
            missing.append(dataclasses.replace(grid, **values))
    return Extension(grid, tuple(missing))


def run_indices(grid: Grid, part: Grid) -> tuple[list[int], ...]:
    """Returns the indices of a part's runs along each of the whole grid's `run_axes`.

    Args:
      grid: The whole grid.
      part: A grid of some of its runs, as `extend` returns it.

    Example:
      >>> whole = Grid(activations=["tanh"], seeds=[0, 3, 1, 2])
      >>> run_indices(whole, Grid(activations=["tanh"], seeds=[2, 3]))
      ([0], [3, 1])
    """
    rates = indices(grid.learning_rates, part.learning_rates) or [0]
    doses = [indices(grid.doses, part.doses)] if grid.doses else []
    return (rates, *doses, indices(grid.seeds, part.seeds))


def indices(whole: Sequence[Any], part: Sequence[Any]) -> list[int]:
    """Returns the indices of values in a sequence, in linear time.

    Args:
      whole: Distinct values.
      part: Some of these values.

    Example:
      >>> indices(["a", "b", "c"], ["c", "a"])
      [2, 0]
    """
    index_of = {value: i for i, value in enumerate(whole)}
    return [index_of[value] for value in part]
