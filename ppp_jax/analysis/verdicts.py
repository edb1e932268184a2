"""What the numbers allow to say of each cell of a grid, and of differences between cells.

Seeds are the unit of replication. A claim needs 6 of them, and a q-value (false discovery rate over
the whole grid) of at most 5 %; otherwise the verdict is that there is no evidence.
"""

from typing import Any

import numpy as np
import xarray as xr

from ppp_jax.analysis.compare import (
    MIN_SEEDS,
    Difference,
    bootstrap_interval,
    false_discovery,
    interquartile_mean,
    paired_difference,
)
from ppp_jax.analysis.measure import KINDS, STATISTICS, Measured, cells
from ppp_jax.analysis.rotations import ANGLES
from ppp_jax.errors import InputError

LEVEL = 0.05
PAIRED = ("test_mse", "c4_pre", "c4_post", "discreteness_pre")


def verdict_table(measured: Measured) -> list[dict[str, Any]]:
    """Judges every cell, before and after the activation, at the last snapshot.

    Args:
      measured: what `measure` returns.

    Returns:
      A row per cell and kind of latents: its names; seeds that did not diverge; for C4 and unit
      kurtosis the mean over seeds, untrained (`…_first`) and trained, the rotation null's mean
      (`…_null`), `…_z`, `…_p`, `…_q` of that mean, and how many seeds have p ≤ .05 alone
      (`…_seeds`); the same without q for the angles' statistics; `emergence`, C4 trained −
      untrained paired by seed, with `…_low`, `…_high`, `…_p`, `…_q`; `discreteness` with its
      interval, and untrained; `clustering`, its change by training, like `emergence`; and the
      verdict in words: `alignment`, `training`, `clusters`.
    """
    rows = [
        {**names, "latents": kind, **_cell(measured, at, kind)}
        for names, at in cells(measured.runs)
        for kind in KINDS
    ]
    columns = [f"{name}_p" for name in STATISTICS]
    q = false_discovery([[row[column] for column in columns] for row in rows])
    changes = {name: false_discovery([row[f"{name}_p"] for row in rows])
               for name in ("emergence", "clustering")}  # fmt: skip
    for i, row in enumerate(rows):
        row |= {f"{name}_q": value for name, value in zip(STATISTICS, q[i], strict=True)}
        row |= {f"{name}_q": values[i] for name, values in changes.items()}
        row |= _words(row)
    return rows


def _cell(measured: Measured, at: dict[str, int], kind: str) -> dict[str, Any]:
    runs, pooled = measured.runs.isel(at), measured.pooled.isel(at)
    first, last = runs.isel(step=0), runs.isel(step=-1)
    healthy = int((last["diverged_step"] < 0).sum())
    row: dict[str, Any] = {"seeds": healthy, "epoch": last["epoch"].item()}
    for name in (*STATISTICS, *ANGLES):
        key = f"{name}_{kind}"
        row |= {f"{name}_first": pooled[key].isel(step=0).item()}
        row |= {name: pooled[key].isel(step=-1).item()}
        row |= {
            f"{name}_{end}": pooled[f"{key}_{end}"].isel(step=-1).item()
            for end in ("null", "z", "p")
        }
        if healthy < MIN_SEEDS:
            row[f"{name}_p"] = np.nan
        row[f"{name}_seeds"] = int((last[f"{key}_p"] <= LEVEL).sum())
    for change, name in (("emergence", "c4"), ("clustering", "discreteness")):
        found = paired_difference(last[f"{name}_{kind}"], first[f"{name}_{kind}"])
        row |= {f"{change}{end}": value for end, value in _spread(found)}
    values = last[f"discreteness_{kind}"].values
    low, high = bootstrap_interval(values)
    return row | {
        "discreteness_first": interquartile_mean(first[f"discreteness_{kind}"].values),
        "discreteness": interquartile_mean(values),
        "discreteness_low": low,
        "discreteness_high": high,
    }


def _spread(change: Difference) -> list[tuple[str, float]]:
    return [("", change.mean), ("_low", change.low), ("_high", change.high), ("_p", change.p)]


def _words(row: dict[str, Any]) -> dict[str, str]:
    if row["seeds"] < MIN_SEEDS:
        few = f"not judged: {row['seeds']} seeds, {MIN_SEEDS} are needed"
        return {"alignment": few, "training": few, "clusters": few}
    if np.isnan(row["c4"]):
        nothing = "not judged: the latents do not vary"
        return {"alignment": nothing, "training": nothing, "clusters": nothing}
    side = np.sign(row["c4"] - row["c4_null"])
    if row["c4_q"] <= LEVEL:
        alignment = "aligned with the axes" if side > 0 else "aligned with the diagonals"
    elif row["unit_kurtosis_q"] <= LEVEL:
        alignment = "aligned by unit kurtosis, not by C4"
    else:
        alignment = "no evidence of alignment"
    training = "no evidence of a change by training"
    if row["emergence_q"] <= LEVEL:
        axes = row["emergence"] > 0
        training = f"training moved it towards the {'axes' if axes else 'diagonals'}"
    clusters = "no evidence that training made it more or less discrete"
    if row["clustering_q"] <= LEVEL:
        clusters = f"{'more' if row['clustering'] > 0 else 'less'} discrete than untrained"
    return {"alignment": alignment, "training": training, "clusters": clusters}


def partner(activation: str, activations: list[str]) -> str | None:
    """Returns the activation that another one is compared with.

    An elementwise activation is compared with its isotropic kind if the grid has it, everything
    else with the grid's first isotropic activation, or with its first one if there is none.

    Example:
      >>> partner("relu", ["tanh", "relu", "isotropic_tanh", "isotropic_relu"])
      'isotropic_relu'
    """
    isotropic = [name for name in activations if name.startswith("isotropic_")]
    own = f"isotropic_{activation}"
    found = own if own in activations else (isotropic or activations)[0]
    return None if found == activation else found


def difference_table(runs: xr.Dataset, *, axis: str = "activation") -> list[dict[str, Any]]:
    """Compares cells that differ along one axis only, paired by seed, at the last snapshot.

    Args:
      runs: the runs that `measure` measured.
      axis: `activation`, each against its `partner`; or another axis of the grid, each value
        against the first.

    Returns:
      A row per comparison and quantity (`test_mse`, `c4_pre`, `c4_post`, `discreteness_pre`):
      names, `against`, `quantity`, `difference` with `low`, `high`, `p` and `q`, the false
      discovery rate over the rows of the same quantity.

    Raises:
      InputError: the grid has no such axis.
    """
    if axis not in runs["test_mse"].dims or axis in ("seed", "step"):
        raise InputError("axis", axis, "is no axis of the grid")
    last, rows = runs.isel(step=-1), []
    values = [x.item() for x in runs[axis].values]
    for names, at in cells(runs):
        value = values[at[axis]]
        other = partner(str(value), [str(x) for x in values]) if axis == "activation" else values[0]
        if other is None or other == value:
            continue
        there = {**at, axis: values.index(other)}
        for quantity in PAIRED:
            found = paired_difference(last[quantity].isel(at), last[quantity].isel(there))
            rows.append({**names, "against": other, "quantity": quantity,
                         "difference": found.mean, **found._asdict()})  # fmt: skip
    for quantity in PAIRED:
        chosen = [row for row in rows if row["quantity"] == quantity]
        for row, q in zip(chosen, false_discovery([row["p"] for row in chosen]), strict=True):
            row["q"] = q
            del row["mean"]
    return rows


def rate_table(runs: xr.Dataset) -> list[dict[str, Any]]:
    """Shows held-out error at a fixed learning rate and at the best one, for every cell.

    The fixed rate is the grid's first. The best one has the smallest interquartile mean of the
    validation error over seeds, which is not the error reported; a rate at which a seed diverged
    is not eligible.

    Args:
      runs: the runs that `measure` measured.

    Returns:
      A row per cell: its names, `rates` (how many were tried), `fixed_rate`, `best_rate`, and
      `fixed` and `best`, the interquartile mean of the held-out error, each with `…_low` and
      `…_high`, and one value per seed in `fixed_seeds` and `best_seeds`.
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
        best = int(np.argmin(score)) if np.isfinite(score).any() else 0
        row = {name: value for name, value in names.items() if name != "learning_rate"}
        row["rates"] = len(score)
        for label, k in (("fixed", 0), ("best", best)):
            errors = cell["test_mse"].values[k]
            low, high = bootstrap_interval(errors)
            row |= {f"{label}_rate": cell["learning_rate"].values[k].item(),
                    label: interquartile_mean(errors), f"{label}_low": low,
                    f"{label}_high": high, f"{label}_seeds": errors}  # fmt: skip
        rows.append(row)
    return rows
