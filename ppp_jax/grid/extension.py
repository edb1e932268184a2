"""Extending a grid: which runs a larger grid adds to a smaller one."""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

from ppp_jax.grid.grid import SETTING, STATIC, TRACED, Grid, axes_of

AXES = tuple(axes_of(STATIC, TRACED))
FIXED = tuple(name for name, axis in axes_of(SETTING).items() if axis.fixed)


class Extension(NamedTuple):
    """A larger grid in terms of a smaller one.

    Attributes:
      grid: everything, the larger grid with the smaller one's snapshots added to its own.
      missing: the runs that the smaller grid lacks, as disjoint grids.
    """

    grid: Grid
    missing: tuple[Grid, ...]


def obstacles(old: Grid, new: Grid) -> list[str]:
    """Returns what keeps `new` from being an extension of `old`, one text per difference.

    Axes and epochs may grow. What has been trained cannot shrink, and training does not go back
    to snapshots that it has passed.
    """
    shrunk = [axis for axis in AXES if not _contains(getattr(new, axis), getattr(old, axis), axis)]
    if new.epochs < old.epochs:
        shrunk.append("epochs")
    passed = {epoch for epoch in new.snapshot_epochs if epoch <= old.epochs}
    if not passed <= set(old.snapshot_epochs):
        shrunk.append("snapshots")
    shrunk += [name for name in FIXED if getattr(old, name) != getattr(new, name)]
    there, now = old.to_json(), new.to_json()
    return [f"{name} {there[name]} there, {now[name]} now" for name in shrunk]


def _contains(larger: Sequence[Any], smaller: Sequence[Any], axis: str) -> bool:
    # No learning rate means each optimiser's default, and no dose that there is no such axis:
    # neither is one more value beside others.
    if axes_of()[axis].optional and not (larger and smaller):
        return larger == smaller
    return set(smaller) <= set(larger)


def extend(old: Grid, new: Grid) -> Extension:
    """Returns `new` as `old` and what it lacks; `obstacles(old, new)` must be empty.

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


def run_places(grid: Grid, part: Grid) -> tuple[list[int], ...]:
    """Returns where the runs of a part's cells stand along each of the whole grid's `run_axes`.

    Args:
      grid: the whole.
      part: some of its runs, as `extend` makes them.

    Example:
      >>> whole = Grid(activations=["tanh"], seeds=[0, 3, 1, 2])
      >>> run_places(whole, Grid(activations=["tanh"], seeds=[2, 3]))
      ([0], [3, 1])
    """
    rates = positions(grid.learning_rates, part.learning_rates) or [0]
    doses = [positions(grid.doses, part.doses)] if grid.doses else []
    return (rates, *doses, positions(grid.seeds, part.seeds))


def positions(whole: Sequence[Any], part: Sequence[Any]) -> list[int]:
    """Returns where the values of a part stand in the whole, in a time that grows with both.

    Args:
      whole: values, each once.
      part: some of them.

    Example:
      >>> positions(["a", "b", "c"], ["c", "a"])
      [2, 0]
    """
    places = {value: i for i, value in enumerate(whole)}
    return [places[value] for value in part]
