"""One comparison: cells that differ along one axis only, paired by seed.

Every table of differences, of a report or of an experiment, is made here, and so has the same rows:
what names the cell, `against` (the value that it is compared with), `quantity`, and what a
`Difference` says: the mean difference with its interval, p, and the number of pairs.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from ppp_jax.analysis.inference.seeds import false_discovery, paired_difference
from ppp_jax.analysis.io.facts import Known, partner_of


class Cell(NamedTuple):
    """One condition of an experiment, and what came out of it.

    Attributes:
      at: Its value along every axis, which tells it from the others.
      names: The names by which a row calls it.
      values: For every quantity one number per seed, in the same order in all cells.
    """

    at: Mapping[str, Any]
    names: Mapping[str, Any]
    values: Mapping[str, ArrayLike]


def compare(
    cells: Iterable[Cell], *, axis: str, against: Callable[[Any], Any | None]
) -> pd.DataFrame:
    """Compares each cell with the one that differs from it along one axis only.

    Args:
      cells: The conditions.
      axis: The axis, a key of `Cell.at`.
      against: Returns the value that one along the axis is compared with, or None for nothing.

    Returns:
      A row per cell and quantity: first minus second, `difference`, `low`, `high`, `p`, `seeds`.
      Cells whose counterpart is not there have none.
    """
    listed = list(cells)
    places = {frozenset(cell.at.items()): cell for cell in listed}
    rows = []
    for cell in listed:
        other = against(cell.at[axis])
        there = places.get(frozenset({**cell.at, axis: other}.items()))
        if other is None or there is None or there is cell:
            continue
        for quantity, values in cell.values.items():
            found = paired_difference(values, there.values[quantity])
            rows.append({**cell.names, "against": other, "quantity": quantity, **found.row()})
    return pd.DataFrame(rows)


def partner_in(known: Mapping[str, Known], *, isotropic: bool) -> Callable[[str], str | None]:
    """Returns which activation each one of a grid is compared with.

    Args:
      known: The facts of every activation of the grid, by name.
      isotropic: Whether isotropic activations, too, are compared with another one.
    """

    def against(name: str) -> str | None:
        return None if known[name].isotropic and not isotropic else partner_of(name, known)

    return against


def with_q(
    table: pd.DataFrame | Sequence[Mapping[str, Any]], *, by: Collection[str] = ()
) -> pd.DataFrame:
    """Adds the false discovery rate, `q`, to a table with p-values.

    Args:
      table: A table with a column `p`, or its rows.
      by: Columns; rows that agree in them are one family of hypotheses. Without any, all rows are.

    Returns:
      The same rows with `q`.
    """
    table = pd.DataFrame(table)
    if table.empty:
        return table
    family = table.groupby(list(by), sort=False).ngroup() if by else np.zeros(len(table), int)
    q = np.full(len(table), np.nan)
    for one in np.unique(family):
        here = np.flatnonzero(family == one)
        q[here] = false_discovery(table["p"].to_numpy(float)[here])
    return table.assign(q=q)
