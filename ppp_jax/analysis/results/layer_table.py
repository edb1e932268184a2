"""The result of `compare_layers` as a short table that can be read and printed, with its notes."""

from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from ppp_jax.analysis.inference.seeds import LEVEL
from ppp_jax.analysis.io.sources import check_made
from ppp_jax.analysis.results.layer_comparison import NO_LAYER, NUMBERS, main_statistics
from ppp_jax.analysis.statistics import registry
from ppp_jax.errors import printable

MOST_CARRIERS = 3  # units of a layer that the table names


def layer_table(found: xr.Dataset) -> pd.DataFrame:
    """Returns what `compare_layers` found as a table of texts, a row per layer.

    It is what a notebook or a paper shows: the statistics on which verdicts rest, each as
    `value (p, q)`, with a star where q is at most 5 %, and beside them how many units and rows a
    layer has, and how many rows were left out. A notebook draws it as
    every data frame, and `to_latex` prints it. `found.to_dataframe()` has all numbers, and
    `write_layers` writes the table with notes on what its columns mean.

    Args:
      found: What `compare_layers` returned.

    Returns:
      A data frame of texts. Its index is `layer`, and of several models `model` and `layer`; layers
      that a model lacks have no row. There is a column `group` if there are groups, and a column
      `not judged`, which says why, if there are layers of which nothing shown could be judged; a
      single statistic that could not be is `–`, and `found["not_judged"]` says why.

    Raises:
      InputError: `found` is something else.

    Example:
      >>> import ppp_jax.analysis as pa
      >>> rng = np.random.default_rng(0)
      >>> layers = {"noise": rng.normal(size=(300, 4)), "peaks": rng.laplace(size=(300, 6))}
      >>> found = pa.compare_layers(layers, statistics=["shape"], rotations=99)
      >>> layer_table(found)["shape: C4 (p, q)"].tolist()
      ['-0.0072 (0.77, 0.77)', '0.27 (0.01, 0.02) *']
    """
    check_made(
        "found", found, (*NUMBERS, "q", "layer", "statistic", "not_judged"), "compare_layers"
    )
    rows = [_row(one, _shown(found)) for one in layer_rows(found)]
    table = pd.DataFrame(rows)
    if not any(row["not judged"] for row in rows):
        table = table.drop(columns="not judged")
    keys = [key for key in ("model", "layer") if key in found.dims]
    return table.set_index(keys)


def layer_rows(found: xr.Dataset) -> list[xr.Dataset]:
    """Returns what was found of every layer of every model that has it.

    Args:
      found: What `compare_layers` returned.
    """
    models = range(found.sizes["model"]) if "model" in found.dims else [None]
    rows = [
        found.isel(layer=k) if model is None else found.isel(model=model, layer=k)
        for model in models
        for k in range(found.sizes["layer"])
    ]
    return [one for one in rows if one["not_judged"].item() != NO_LAYER]


def layer_name(one: xr.Dataset) -> str:
    """Returns the name of a layer, after that of its model if there are any.

    Args:
      one: One of `layer_rows`.
    """
    model = f"{one['model'].item()}/" if "model" in one.coords else ""
    return printable(f"{model}{one['layer'].item()}")


def _row(one: xr.Dataset, shown: list[str]) -> dict[str, Any]:
    keys = [key for key in ("model", "layer", "group") if key in one.coords]
    judged = bool(one["value"].sel(statistic=shown).notnull().any())
    counts = {"units": "units", "rows": "rows", "rows_left_out": "left out"}
    return {
        **{key: printable(one[key].item()) for key in keys},
        **{column: f"{one[key].item():,}" for key, column in counts.items()},
        **{f"{_short(name)} (p, q)": _cell(one.sel(statistic=name)) for name in shown},
        "top units": _carriers(one),
        "not judged": "" if judged else printable(one["not_judged"].item()),
    }


def _carriers(one: xr.Dataset) -> str:
    """Returns the units that carry most of the alignment, each with its share."""
    told = ", ".join(one["top_units"].item().split(", ")[:MOST_CARRIERS])
    aside = "" if one["top_statistic"].item() in ("", "shape") else " of C4"
    return told + aside if told else "–"


def _shown(found: xr.Dataset) -> list[str]:
    names = [str(name) for name in found["statistic"].values]
    return main_statistics(names, orthonormal=bool(found.attrs.get("orthonormal", True)))


def _short(name: str) -> str:
    return registry.STATISTICS[name].short if name in registry.STATISTICS else name


def _cell(one: xr.Dataset) -> str:
    value, p, q = (one[key].item() for key in ("value", "p", "q"))
    if np.isnan(value):
        return "–"
    beside = "no null" if np.isnan(p) else f"{p:.2g}, {q:.2g}"
    return f"{value:.2g} ({beside}){' *' if q <= LEVEL else ''}"


def layer_notes(found: xr.Dataset) -> list[str]:
    """Returns what is said below the table: what stands in it, and what is missing and why.

    Args:
      found: What `compare_layers` returned.
    """
    rotations, shown = found.attrs["rotations"], _shown(found)
    over = "the layers" if "model" not in found.dims else "the layers of all models"
    of_group = " of each group" if "group" in found.coords else ""
    notes = [
        f"value (p, q): p against {rotations:,} random bases, q over {over}{of_group}; * is "
        f"q ≤ {LEVEL:g}"
    ]
    for name in shown:
        if (entry := registry.STATISTICS.get(name)) and entry.sides:
            below, above = entry.sides
            notes.append(f"{entry.short}, below the null: {below}; above it: {above}")
    notes.append(
        "top units: numbers, from 0, of the units with the largest parts of the shape's C4, and "
        "their shares of all parts' sizes; + is nearer to the axis than a random direction"
    )
    rows = layer_rows(found)
    notes += _of_blocks(rows)
    # A layer without p is no test, and makes no q of another larger.
    tests = _largest_family(found.sel(statistic=shown)["p"].notnull())
    if tests / (rotations + 1) > LEVEL and all(one["networks"] <= 1 for one in rows):
        notes.append(
            f"one layer alone among {tests} cannot reach q ≤ {LEVEL:g} with {rotations:,} "
            f"rotations; {round(tests / LEVEL) - 1:,} suffice"
        )
    if found["rows_long"].any():
        named = [f"{layer_name(one)} ({one['rows_long'].item():,})"
                 for one in rows if one["rows_long"].item()]  # fmt: skip
        remedy = "" if "drop_outliers" in found.attrs else "; drop_outliers=100 leaves them out"
        notes.append(f"rows longer than 100 times the median row: {', '.join(named)}{remedy}")
    reasons: dict[str, list[str]] = {}
    for one in rows:
        if why := str(one["not_judged"].item()):
            reasons.setdefault(why, []).append(layer_name(one))
    notes += [f"not judged of {', '.join(named)}: {why}" for why, named in reasons.items()]
    if aside := found.attrs["left_aside"]:
        notes.append(f"beside the layers, and none: {aside}")
    return [printable(note) for note in notes]


def _of_blocks(rows: list[xr.Dataset]) -> list[str]:
    """Returns what is said of layers whose units were mixed within blocks."""
    blocked = [one for one in rows if one["block_units"].item()]
    if not blocked:
        return []
    width = max(one["block_units"].item() for one in blocked)
    which = "" if len(blocked) == len(rows) else f" of {len(blocked)} of {len(rows)} layers"
    return [f"random bases{which} mix units within blocks of {width}, put together at random"]


def _largest_family(there: xr.DataArray) -> int:
    """Returns over how many tests q is counted at most."""
    counts = there.sum([dim for dim in there.dims if dim not in ("layer", "statistic")])
    if "group" in there.coords:
        counts = counts.groupby("group").sum()
        return int(counts.max())
    return int(counts.sum("layer").max())
