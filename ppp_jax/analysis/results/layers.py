"""Alignment and quantisation layer by layer, and how they change along an axis of the grid."""

import math
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from ppp_jax.analysis.inference.rotation_test import ROTATIONS, pool, rotation_test
from ppp_jax.analysis.inference.seeds import Difference, interquartile_mean, paired_difference
from ppp_jax.analysis.io.facts import Facts, facts_of
from ppp_jax.analysis.io.progress import progress_bar
from ppp_jax.analysis.io.runs import BOTTLENECK, load_run, saved_groups
from ppp_jax.analysis.results.comparisons import Cell, compare, partner_in
from ppp_jax.analysis.results.measure import (
    CELL_AXES,
    DIP_SAMPLES,
    SITES,
    cells,
    healthy,
    mask,
    thinned,
)
from ppp_jax.analysis.statistics import registry

MOST_VECTORS = 2048  # of a run, drawn from all: a convolution has one at every position
NAMES = ("architecture", *CELL_AXES[:3], "latent_width", *CELL_AXES[3:], "site")
ALWAYS = ("architecture", "activation", "optimizer", "site")  # of these, in every table


def measure_layers(
    path: str | pathlib.Path,
    *,
    layer: str | None = None,
    rotations: int = ROTATIONS,
    rotation_seed: int = 0,
    progress: bool = False,
) -> list[dict[str, Any]]:
    """Measures every layer that a run folder keeps, untrained and trained.

    Args:
      path: The run folder.
      layer: The one layer to measure; None measures all.
      rotations: K of the rotation null.
      rotation_seed: Seed of the random rotations.
      progress: Whether to show a progress bar on stderr.

    Returns:
      A row per layer, cell and site of latents: the cell's names, the `facts` of its activation,
      `architecture`, `latent_width`, `layer`, `units`, `site` (`pre` or `post`); `seeds`, how
      many neither diverged nor died; and `test_mse`. Of every reported statistic with a rotation
      null, of the basis or of projections, the mean over seeds, untrained (`…_first`) and trained,
      its tests `…_z`, `…_p_networks` and `…_p` (see `pool`), and above the null's mean the mean
      over seeds, `…_excess`. Of the neighbour ratios and the peaks the interquartile mean over
      seeds, untrained (`…_first`) and trained. What is compared also stands there per seed, NaN for
      those left out: `test_mse_seeds`, `shape_excess_seeds` and so on.
    """
    groups = saved_groups(path, layer=layer)
    places = [(group, site) for group in groups for site in SITES]
    rows: list[dict[str, Any]] = []
    for group, site in progress_bar(places, "layers") if progress else places:
        dataset = load_run(path, **group).isel(step=[0, -1])
        runs, known = dataset[["test_mse", "diverged_step"]].load(), facts_of(dataset)
        for names, at in cells(runs):
            clouds = mask(thinned(dataset[site].isel(at), MOST_VECTORS), runs.isel(at))
            chosen = {key: names[key] for key in names if not key.endswith("_rotations")}
            where = {name: group[name] for name in ("architecture", "latent_width", "layer")}
            own = known[names["activation"]]
            found = _row(clouds, own.basis, rotations, rotation_seed)
            last = runs.isel(at).isel(step=-1)
            errors = last["test_mse"].where(healthy(runs.isel(at))).values
            rows.append(
                {
                    **where,
                    **chosen,
                    "facts": own,
                    "units": group["units"],
                    "site": site,
                    "test_mse": interquartile_mean(errors),
                    "test_mse_seeds": errors,
                    **found,
                }
            )
    return rows


def _row(clouds: xr.DataArray, basis: str, rotations: int, rotation_seed: int) -> dict[str, Any]:
    found: dict[str, Any] = {"seeds": int(clouds.notnull().all(("step", "sample", "unit")).sum())}
    for kind, few in (
        (registry.BASIS, clouds),
        (registry.PROJECTIONS, thinned(clouds, DIP_SAMPLES)),
    ):
        tested = rotation_test(
            few,
            basis=basis,
            statistics=registry.names(of=[kind]),
            rotations=rotations,
            rotation_seed=rotation_seed,
        )
        found |= _tests(tested)
    ordered = clouds.transpose("step", "seed", ...)
    numbers = registry.measured(
        registry.chosen(of=[registry.CLOUD]), ordered.values.reshape(-1, *ordered.shape[-2:])
    )
    for name, values in numbers.items():
        first, last = values.reshape(ordered.shape[:2])
        found |= {f"{name}_first": interquartile_mean(first), name: interquartile_mean(last)}
    return found


def _tests(tested: xr.Dataset) -> dict[str, Any]:
    """Spreads a rotation test over seeds and two snapshots into columns."""
    pooled = pool(tested).isel(step=-1)
    found: dict[str, Any] = {}
    excess = (tested["value"] - tested["mean"]).isel(step=-1)
    first = tested["value"].isel(step=0).mean("seed")
    for name in tested["statistic"].values.tolist():
        one = pooled.sel(statistic=name)
        found[name] = float(one["value"])
        found |= {f"{name}_{end}": float(one[end]) for end in ("z", "p_networks", "p")}
        found |= {
            f"{name}_first": float(first.sel(statistic=name)),
            f"{name}_excess": float(excess.sel(statistic=name).mean()),
            f"{name}_excess_seeds": excess.sel(statistic=name).values,
        }
    return found


def trend(values: list[np.ndarray], along: list[float]) -> Difference:
    """Tests whether something rises or falls along an axis of the grid.

    Each seed has a slope of its own, by least squares, and the slopes are tested as paired
    differences are: by sign flips.

    Args:
      values: `(seeds,)` for every point of the axis, the same seeds in the same order.
      along: The points, at least two of which differ.

    Returns:
      The mean slope, its interval and p; seeds with a missing value are left out.
    """
    table, x = np.asarray(values, np.float64), np.asarray(along, np.float64)
    centred = x - x.mean()
    slopes = centred @ table / (centred @ centred)
    return paired_difference(slopes, np.zeros_like(slopes))


def compared() -> tuple[str, ...]:
    """Returns what is compared of layers, above its rotation null: covariance, shape and dip."""
    return tuple(f"{one.name}_excess" for one in registry.chosen() if one.compared)


def trends(
    rows: list[dict[str, Any]], *, axis: str, layer: str = BOTTLENECK, doublings: bool = False
) -> pd.DataFrame:
    """Tests how alignment and quantisation of one layer change along an axis of the grid.

    Args:
      rows: The rows that `measure_layers` returned.
      axis: `depth`, `width`, `latent_width` or another number of a cell.
      layer: The layer whose vectors are looked at.
      doublings: Whether slopes are per doubling of the axis rather than per unit.

    Returns:
      A row per architecture, activation, optimiser, site of latents, quantity and whatever else
      of a cell's names varies: slope, 95 % interval, p, how many seeds are there at every point.
      None of cells that are one point of the axis.
    """
    found = []
    for key, cell in _by_names([row for row in rows if row["layer"] == layer], axis).items():
        cell = sorted(cell, key=lambda row: row[axis])
        along = [float(row[axis]) for row in cell]
        if len(set(along)) < 2:
            continue
        for quantity in compared():
            slope = trend(
                [row[f"{quantity}_seeds"] for row in cell],
                [math.log2(x) for x in along] if doublings else along,
            )
            found.append({**dict(key), "quantity": quantity, **slope.row()})
    return pd.DataFrame(found).rename(columns={"difference": "slope"})


def _names(rows: list[dict[str, Any]], axis: str) -> list[str]:
    """Returns what names cells, but for one axis: names that vary, and the usual."""
    varying = [name for name in NAMES if len({row.get(name) for row in rows}) > 1]
    return [name for name in NAMES if name in {*ALWAYS, *varying} and name != axis]


def _by_names(
    rows: list[dict[str, Any]], axis: str
) -> dict[tuple[tuple[str, Any], ...], list[dict[str, Any]]]:
    """Groups rows by what names their cells, but for one axis: names that vary, and the usual."""
    names = _names(rows, axis)
    groups: dict[tuple[tuple[str, Any], ...], list[dict[str, Any]]] = {}
    for row in rows:
        key = tuple((name, row[name]) for name in names if name in row)
        groups.setdefault(key, []).append(row)
    return groups


def differences(
    rows: list[dict[str, Any]], *, layer: str = BOTTLENECK, quantities: Sequence[str] | None = None
) -> pd.DataFrame:
    """Compares elementwise activations with their isotropic partners, paired by seed.

    Args:
      rows: The rows that `measure_layers` returned.
      layer: The layer whose vectors are looked at.
      quantities: Those that have one value per seed in the rows; None means those of `compared`.

    Returns:
      A row per architecture, optimiser, elementwise activation, site of latents, quantity and
      whatever else of a cell's names varies: the mean difference, its 95 % interval, p, the number
      of pairs.
    """
    here = [row for row in rows if row["layer"] == layer]
    asked = compared() if quantities is None else quantities
    known: dict[str, Facts] = {row["activation"]: row["facts"] for row in here}
    names = _names(here, "activation")
    cells_here = []
    for row in here:
        at = {name: row[name] for name in (*names, "activation") if name in row}
        cells_here.append(Cell(at, at, {one: row[f"{one}_seeds"] for one in asked}))
    return compare(cells_here, axis="activation", against=partner_in(known, isotropic=False))
