"""Numbers of a whole grid: one row per run and snapshot, and one per cell."""

import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from ppp_jax.analysis.inference.seeds import bootstrap_interval, interquartile_mean
from ppp_jax.analysis.results.measure import CELL_AXES, ERRORS, SITES, cells
from ppp_jax.analysis.statistics import registry
from ppp_jax.analysis.texts import write_csv, write_markdown


def summarised() -> tuple[str, ...]:
    """Returns the variables of a measured grid that a cell's row holds."""
    numbers = [one.name for one in registry.STATISTICS.values() if one.everywhere and one.reported]
    return (*ERRORS, *(f"{name}_{site}" for site in SITES for name in numbers))


def cell_table(runs: xr.Dataset) -> pd.DataFrame:
    """Summarises each cell over its seeds.

    Args:
      runs: The runs that `measure` measured.

    Returns:
      A row per cell, learning rate and dose. Every quantity is an interquartile mean over the seeds
      that did not diverge, with a 95 % bootstrap interval (`…_low`, `…_high`); `…_first` is of the
      untrained network, the others are of the last snapshot.
    """
    rows = []
    for names, at in cells(runs):
        part = runs.isel(at)
        last = part.isel(step=-1)
        row = {
            **names,
            "epoch": last["epoch"].item(),
            "seeds": last.sizes["seed"],
            "diverged": int((last["diverged_step"] >= 0).sum()),
        }
        for name in summarised():
            if name not in ERRORS:
                row |= _summary(f"{name}_first", part[name].isel(step=0).values)
            row |= _summary(name, last[name].values)
        rows.append(row)
    return pd.DataFrame(rows)


def _summary(name: str, values: np.ndarray) -> dict[str, float]:
    low, high = bootstrap_interval(values)
    return {name: interquartile_mean(values), f"{name}_low": low, f"{name}_high": high}


def write_tables(runs: xr.Dataset, folder: pathlib.Path, name: str) -> pd.DataFrame:
    """Writes `cells_<name>` as CSV and Markdown, and every run and snapshot as `runs_<name>.csv`.

    Args:
      runs: The runs that `measure` measured.
      folder: The folder to write into.
      name: The text that tells these tables from others there.

    Returns:
      What `cell_table` returns.
    """
    rows = cell_table(runs)
    write_csv(rows, folder / f"cells_{name}.csv")
    write_markdown(*format_table(rows), folder / f"cells_{name}.md")
    table = runs.to_dataframe().reset_index().drop(columns="rate")
    write_csv(table, folder / f"runs_{name}.csv")
    return rows


COLUMNS = {
    "train MSE": ("train_mse", None),
    "held-out MSE": ("test_mse", None),
    "A/A0 pre": ("acceptance_ratio_pre", "acceptance_ratio_pre_first"),
    "A/A0 post": ("acceptance_ratio_post", "acceptance_ratio_post_first"),
    "covariance pre": ("covariance_pre", "covariance_pre_first"),
    "shape pre": ("shape_pre", "shape_pre_first"),
    "shape post": ("shape_post", "shape_post_first"),
}


def varying(table: pd.DataFrame) -> list[str]:
    """Returns the axes along which the rows of a table differ, or the activation if none does.

    Args:
      table: A table with a column for every axis of a grid.
    """
    there = [name for name in CELL_AXES if name in table]
    return [name for name in there if table[name].nunique() > 1] or ["activation"]


def telling(table: pd.DataFrame) -> list[str]:
    """Returns the axes that tell cells apart: a rate that an optimiser always has is none.

    Args:
      table: A table with a column for every axis of a grid.
    """
    axes = varying(table)
    if table.groupby("optimizer")["learning_rate"].nunique().max() == 1:
        axes = [axis for axis in axes if axis != "learning_rate"]
    return axes or ["activation"]


def format_table(table: pd.DataFrame) -> tuple[list[str], list[list[str]]]:
    """Lays a cell table out as text: header and rows, axes that do not vary left out.

    Errors are written with their interval, the others as untrained → trained.
    """
    axes = varying(table)
    header = [axis.replace("_", " ") for axis in axes] + list(COLUMNS) + ["diverged"]
    body = [
        [str(row[axis]) for axis in axes]
        + [_format_cell(row, *columns) for columns in COLUMNS.values()]
        + [f"{row['diverged']}/{row['seeds']}"]
        for row in table.to_dict("records")
    ]
    return header, body


def _format_cell(row: Mapping[str, Any], name: str, first: str | None) -> str:
    if first is not None:
        return f"{number(row[first], 2)} → {number(row[name], 2)}"
    low, high = row[f"{name}_low"], row[f"{name}_high"]
    interval = "" if np.isnan(low) else f" [{number(low, 3)}, {number(high, 3)}]"
    return number(row[name], 3) + interval


def number(value: float, digits: int) -> str:
    """Writes a number for a table: a dash if it is missing, short if it is large."""
    if np.isnan(value):
        return "–"
    rounded = round(value, digits) + 0.0  # no minus before a zero
    return f"{rounded:.{digits}f}" if abs(value) < 1000 else f"{value:.3g}"


def signed(value: float) -> str:
    """Writes a distance from a null, with one digit and its sign.

    Args:
      value: A number, or NaN.

    Example:
      >>> signed(2.04), signed(-3.2), signed(float("nan"))
      ('+2.0', '−3.2', '–')
    """
    text = number(value, 1)
    return f"+{text}" if text[0].isdigit() else text.replace("-", "−")


def probability(value: float) -> str:
    """Writes a p or q for a table, which is never 0: a dash if it is missing.

    Args:
      value: A number from 0 to 1, or NaN.

    Example:
      >>> probability(0.0213), probability(3e-5), probability(float("nan"))
      ('0.021', '<0.001', '–')
    """
    return "<0.001" if value < 0.0005 else number(value, 3)
