"""What the numbers allow to say of each cell of a grid, and of differences between cells.

Seeds are the unit of replication. A claim needs 6 of them, and a q-value (false discovery rate over
the whole grid) of at most 5 %; otherwise the verdict is that there is no evidence.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from ppp_jax import bases
from ppp_jax.analysis.inference.seeds import (
    MIN_SEEDS,
    bootstrap_interval,
    false_discovery,
    interquartile_mean,
    paired_difference,
)
from ppp_jax.analysis.io.facts import Facts, facts_of
from ppp_jax.analysis.results.comparisons import Cell, compare, partner_in, with_q
from ppp_jax.analysis.results.measure import SITES, Measured, cells
from ppp_jax.analysis.statistics import registry
from ppp_jax.analysis.statistics.registry import CLOUD, TESTED, Statistic
from ppp_jax.errors import InputError

LEVEL = 0.05
CLAIMS = ("alignment", "training", "clusters")  # of which a verdict speaks
BEYOND_LENGTHS = 0.5  # fraction of a change in discreteness that equal lengths must leave
ERROR = "test_mse"  # what is compared beside the statistics


def paired() -> tuple[str, ...]:
    """Returns the variables of which differences are shown: the error, and what statistics ask."""
    return (ERROR, *(f"{one.name}_{site}" for one in registry.chosen() for site in one.compared))


def verdict_table(grid: Sequence[Measured]) -> list[pd.DataFrame]:
    """Judges every cell, before and after the activation, at the last snapshot.

    Args:
      grid: what `measure` returns of every group of latents (architecture and width) of a grid.

    Returns:
      For each group a table, a row per cell and site of latents: its names; `seeds`, how many
      neither diverged nor died; for C4 and unit kurtosis the mean over seeds, untrained (`…_first`)
      and trained, the rotation null's mean (`…_null`), `…_z`, `…_p`, `…_rank` and `…_q` of all
      seeds (see `pool`), and how many seeds have p ≤ .05 alone (`…_seeds`); the same without q for
      the angles' statistics; of these, over the null's mean, and of both kinds of discreteness the
      change by training paired by seed, `…_change` with `…_change_low`, `…_change_high`,
      `…_change_p`, and q of those that verdicts rest on; discreteness with its interval, and
      untrained; and the verdict in words: `alignment`, `training`, `clusters`. Each q is the false
      discovery rate over the whole grid: alignments are one family, changes of alignment another,
      changes of each discreteness two more.
    """
    tables = [_group(measured) for measured in grid]
    rows = [row for table in tables for row in table]
    for family in _families():
        q = false_discovery([[row[f"{name}_p"] for name in family] for row in rows])
        for row, values in zip(rows, q, strict=True):
            row |= {f"{name}_q": value for name, value in zip(family, values, strict=True)}
    for measured, table in zip(grid, tables, strict=True):
        known = facts_of(measured.runs)
        for row in table:
            row |= _words(row, known[row["activation"]])
    return [pd.DataFrame(table) for table in tables]


def _families() -> Iterator[list[str]]:
    """Yields the hypotheses that are tested together: of each family, then of its changes."""
    families = dict.fromkeys(one.family for one in registry.chosen() if one.family)
    for family in families:
        if tested := [one.name for one in registry.chosen(of=TESTED, family=family)]:
            yield tested
        yield [f"{one.name}_change" for one in registry.chosen(family=family)]


def _group(measured: Measured) -> list[dict[str, Any]]:
    return [
        {**names, "site": site, **_cell(measured, at, site)}
        for names, at in cells(measured.runs)
        for site in SITES
    ]


def _cell(measured: Measured, at: dict[str, int], site: str) -> dict[str, Any]:
    runs, pooled = measured.runs.isel(at), measured.pooled.isel(at)
    first, last = runs.isel(step=0), runs.isel(step=-1)
    row: dict[str, Any] = {
        "seeds": int(last[f"unit_kurtosis_{site}"].notnull().sum()),
        "snapshots": runs.sizes["step"],
        "epoch": last["epoch"].item(),
    }
    for one in registry.chosen(of=TESTED):
        name, key = one.name, f"{one.name}_{site}"
        row |= {f"{name}_first": pooled[key].isel(step=0).item()}
        row |= {name: pooled[key].isel(step=-1).item()}
        row |= {
            f"{name}_{end}": pooled[f"{key}_{end}"].isel(step=-1).item()
            for end in ("null", "z", "p", "rank")
        }
        row[f"{name}_seeds"] = int((last[f"{key}_p"] <= LEVEL).sum())
    for one in registry.chosen(of=[CLOUD]):
        values = last[f"{one.name}_{site}"].values
        low, high = bootstrap_interval(values)
        row |= {one.name: interquartile_mean(values)}
        row |= {f"{one.name}_low": low, f"{one.name}_high": high}
        row[f"{one.name}_first"] = interquartile_mean(first[f"{one.name}_{site}"].values)
    for one in registry.chosen():
        found = paired_difference(*(excess(end, f"{one.name}_{site}") for end in (last, first)))
        ends = {"": found.mean, "_low": found.low, "_high": found.high, "_p": found.p}
        row |= {f"{one.name}_change{end}": value for end, value in ends.items()}
    return row


def excess(runs: xr.Dataset, quantity: str) -> xr.DataArray:
    """Returns a quantity per seed, over the mean of its rotation null if it has one.

    A change of the latents' shape alike in all directions is none of their alignment.
    """
    value, null = runs[quantity], f"{quantity}_null"
    return value - runs[null] if null in runs else value


def _words(row: dict[str, Any], known: Facts) -> dict[str, str]:
    if row["seeds"] < MIN_SEEDS:
        few = f"not judged: {row['seeds']} seeds whose latents vary, {MIN_SEEDS} are needed"
        return {"alignment": few, "training": few, "clusters": few}
    # On vectors that are not orthogonal C4 has no axes and diagonals: the others decide.
    judged = [
        one
        for one in registry.chosen(family=registry.ALIGNMENT)
        if bases.is_orthonormal(known.basis) or not one.orthonormal
    ]
    found = [_side(row, one) for one in judged if row[f"{one.name}_q"] <= LEVEL]
    alignment = ", ".join(found) or "no evidence of alignment"
    if row["snapshots"] == 1:
        alone = "not judged: there is one snapshot"
        return {"alignment": alignment, "training": alone, "clusters": alone}
    moves = [_move(row, one) for one in judged if row[f"{one.name}_change_q"] <= LEVEL]
    clusters = "no evidence that training made it more or less discrete"
    if row["discreteness_change_q"] <= LEVEL:
        beyond = row["elliptical_change"] / row["discreteness_change"] > BEYOND_LENGTHS
        moved = _move(row, registry.STATISTICS["discreteness"])
        clusters = moved if beyond else f"{moved}, mostly by its lengths"
    training = ", ".join(moves) or "no evidence of a change by training"
    return {"alignment": alignment, "training": training, "clusters": clusters}


def _side(row: dict[str, Any], one: Statistic) -> str:
    """Returns where most seeds lie, and whether some lie far on the other side."""
    rank, z = row[f"{one.name}_rank"], row[f"{one.name}_z"]
    side = _of_two(one.sides, one, above=rank > 0)
    return side if rank * z > 0 else f"{side}, a few seeds far off"


def _move(row: dict[str, Any], one: Statistic) -> str:
    return _of_two(one.moves, one, above=row[f"{one.name}_change"] > 0)


def _of_two(words: tuple[str, str] | None, one: Statistic, *, above: bool) -> str:
    low, high = words or (f"{one.short} below its null", f"{one.short} above its null")
    return high if above else low


def difference_table(
    runs: xr.Dataset, *, axis: str = "activation", quantities: Sequence[str] | None = None
) -> pd.DataFrame:
    """Compares cells that differ along one axis only, paired by seed, at the last snapshot.

    Args:
      runs: the runs that `measure` measured.
      axis: `activation`, each against its partner (`partner_of`); or another axis of the grid, each
        value against the first.
      quantities: variables of `runs`; None: those of `paired`.

    Returns:
      A row per comparison and quantity: names, `against`, `quantity`, `difference` with `low`,
      `high`, `p` and `q`, the false discovery rate over the rows of the same quantity. What has a
      rotation null is compared above the null's mean.

    Raises:
      InputError: the grid has no such axis.
    """
    if axis not in runs["test_mse"].dims or axis in ("seed", "step"):
        raise InputError("axis", axis, "is no axis of the grid")
    quantities = paired() if quantities is None else quantities
    above = {quantity: excess(runs.isel(step=-1), quantity) for quantity in quantities}
    values = [x.item() for x in runs[axis].values]
    found = compare(
        (
            Cell(
                {**at, axis: values[at[axis]]},
                names,
                {quantity: one.isel(at) for quantity, one in above.items()},
            )
            for names, at in cells(runs)
        ),
        axis=axis,
        against=partner_in(facts_of(runs), isotropic=True)
        if axis == "activation"
        else lambda _: values[0],
    )
    return with_q(found, by=["quantity"])


def rate_table(runs: xr.Dataset) -> pd.DataFrame:
    """Shows held-out error at a fixed learning rate and at the best one, for every cell.

    The fixed rate is the grid's first. The best one has the smallest interquartile mean of the
    validation error over seeds, which is not the error reported; a rate at which a seed diverged
    is not eligible, and if there is no other, `best` is missing.

    Args:
      runs: the runs that `measure` measured.

    Returns:
      A row per cell: its names, `rates` (how many were tried), `fixed_rate`, `best_rate`, and
      `fixed` and `best`, the interquartile mean of the held-out error, each with `…_low` and
      `…_high`, and one value per seed in `fixed_seeds` and `best_seeds`; `best_at_end` says that
      the best rate is the smallest or the largest of several, so that a better one may lie beyond.
    """
    last = runs[["test_mse", "validation_mse"]].isel(step=-1)
    rows = []
    for names, at in cells(runs):
        if at["rate"]:
            continue
        alone = {dim: place for dim, place in at.items() if dim != "rate"}
        cell = last.isel(alone).transpose("rate", "seed")
        shown = cell["validation_mse"].values
        score = [interquartile_mean(x) if np.isfinite(x).all() else np.inf for x in shown]
        best = int(np.argmin(score)) if np.isfinite(score).any() else None
        row = {name: value for name, value in names.items() if name != "learning_rate"}
        rates = cell["learning_rate"].values.tolist()
        row["rates"] = len(rates)
        for label, k in (("fixed", 0), ("best", best)):
            errors = (
                np.full(cell.sizes["seed"], np.nan) if k is None else cell["test_mse"].values[k]
            )
            rate = np.nan if k is None else rates[k]
            low, high = bootstrap_interval(errors)
            row |= {
                f"{label}_rate": rate,
                label: interquartile_mean(errors),
                f"{label}_low": low,
                f"{label}_high": high,
                f"{label}_seeds": errors,
            }
        row["best_at_end"] = len(rates) > 1 and row["best_rate"] in (min(rates), max(rates))
        rows.append(row)
    return pd.DataFrame(rows)
