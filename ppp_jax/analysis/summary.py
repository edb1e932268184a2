"""Numbers of a whole grid: one row per run and snapshot, and one per cell."""

import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from ppp_jax.analysis.alignment import alignment_c4
from ppp_jax.analysis.compare import bootstrap_interval, interquartile_mean
from ppp_jax.analysis.statistics import acceptance_ratio

KINDS = ("pre", "post")
CELL_DIMS = ("activation", "depth", "width", "optimizer", "initializer", "rate")


def run_statistics(dataset: xr.Dataset, *, epsilon: float) -> xr.Dataset:
    """Measures every run at every snapshot.

    Args:
      dataset: what `load` returns.
      epsilon: acceptance cosine.

    Returns:
      Dataset over the axes of the grid, `seed` and `step`: `train_mse`, `test_mse`,
      `diverged_step`, and for `pre` and `post` each `acceptance_ratio_…` and `c4_…`. Numbers of
      a run that has diverged are missing.
    """
    names = ("train_mse", "test_mse", "diverged_step")
    measured = dataset[list(names)].load()
    dims = measured["train_mse"].dims
    for kind in KINDS:
        # One activation at a time: the latents of a grid need not fit into memory.
        rows = []
        for i in range(dataset.sizes["activation"]):
            clouds = dataset[kind].isel(activation=i).values
            rows.append((acceptance_ratio(clouds, epsilon=epsilon), alignment_c4(clouds)))
        acceptance, alignment = (np.stack(column) for column in zip(*rows, strict=True))
        measured[f"acceptance_ratio_{kind}"] = (dims, acceptance, {"long_name": f"A/A0 {kind}"})
        text = f"alignment C4, {kind}-activation"
        measured[f"c4_{kind}"] = (dims, alignment, {"long_name": text})
    healthy = measured["diverged_step"] < 0
    return measured.map(
        lambda x: x if x.name == "diverged_step" else x.where(healthy), keep_attrs=True
    )


def cells(statistics: xr.Dataset) -> Iterable[tuple[dict[str, Any], xr.Dataset]]:
    """Yields each cell at each learning rate: its names, and its statistics over (seed, step)."""
    sizes = [statistics.sizes[dim] for dim in CELL_DIMS]
    for place in np.ndindex(*sizes):
        at = dict(zip(CELL_DIMS, place, strict=True))
        part = statistics.isel(at)
        names = {dim: part[dim].item() for dim in CELL_DIMS if dim != "rate"}
        rotation = [f"{axis}_respects_rotations" for axis in ("optimizer", "initializer")]
        names |= {name: part[name].item() for name in ("learning_rate", *rotation)}
        yield names, part


def cell_table(statistics: xr.Dataset) -> list[dict[str, Any]]:
    """Summarises each cell over its seeds.

    Args:
      statistics: what `run_statistics` returns.

    Returns:
      A row per cell and learning rate. Every quantity is an interquartile mean over the seeds that
      did not diverge, with a 95 % bootstrap interval (`…_low`, `…_high`); `…_first` is of the
      untrained network, the others are of the last snapshot.
    """
    rows = []
    for names, part in cells(statistics):
        last = part.isel(step=-1)
        row = {
            **names,
            "epoch": last["epoch"].item(),
            "seeds": last.sizes["seed"],
            "diverged": int((last["diverged_step"] >= 0).sum()),
        }
        for name in part.data_vars:
            if name == "diverged_step":
                continue
            if not str(name).endswith("_mse"):
                row |= _summary(f"{name}_first", part[name].isel(step=0).values)
            row |= _summary(str(name), last[name].values)
        rows.append(row)
    return rows


def _summary(name: str, values: np.ndarray) -> dict[str, float]:
    low, high = bootstrap_interval(values)
    return {name: interquartile_mean(values), f"{name}_low": low, f"{name}_high": high}


def write_tables(statistics: xr.Dataset, folder: pathlib.Path, name: str) -> list[dict[str, Any]]:
    """Writes `cells_<name>` as CSV and Markdown, and every run and snapshot as `runs_<name>.csv`.

    Args:
      statistics: what `run_statistics` returns.
      folder: where to write.
      name: what tells these tables from others there.

    Returns:
      The rows of `cell_table`.
    """
    rows = cell_table(statistics)
    pd.DataFrame(rows).to_csv(folder / f"cells_{name}.csv", index=False)
    text = as_markdown(*format_table(rows)) + "\n"
    (folder / f"cells_{name}.md").write_text(text, encoding="utf-8")
    runs = statistics.to_dataframe().reset_index().drop(columns="rate")
    runs.to_csv(folder / f"runs_{name}.csv", index=False)
    return rows


COLUMNS = {
    "train MSE": ("train_mse", None),
    "held-out MSE": ("test_mse", None),
    "A/A0 pre": ("acceptance_ratio_pre", "acceptance_ratio_pre_first"),
    "A/A0 post": ("acceptance_ratio_post", "acceptance_ratio_post_first"),
    "C4 pre": ("c4_pre", "c4_pre_first"),
    "C4 post": ("c4_post", "c4_post_first"),
}


def format_table(rows: list[dict[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Lays a cell table out as text: header and rows, axes that do not vary left out.

    Errors are written with their interval, the others as untrained → trained.
    """
    names = (*CELL_DIMS[:-1], "learning_rate")
    axes = [name for name in names if len({row[name] for row in rows}) > 1] or ["activation"]
    header = [axis.replace("_", " ") for axis in axes] + list(COLUMNS) + ["diverged"]
    body = [
        [str(row[axis]) for axis in axes]
        + [_format_cell(row, *columns) for columns in COLUMNS.values()]
        + [f"{row['diverged']}/{row['seeds']}"]
        for row in rows
    ]
    return header, body


def _format_cell(row: Mapping[str, Any], name: str, first: str | None) -> str:
    if first is not None:
        return f"{_number(row[first], 2)} → {_number(row[name], 2)}"
    low, high = row[f"{name}_low"], row[f"{name}_high"]
    interval = "" if np.isnan(low) else f" [{_number(low, 3)}, {_number(high, 3)}]"
    return _number(row[name], 3) + interval


def _number(value: float, digits: int) -> str:
    if np.isnan(value):
        return "–"
    rounded = round(value, digits) + 0.0  # no minus before a zero
    return f"{rounded:.{digits}f}" if abs(value) < 1000 else f"{value:.3g}"


def as_markdown(header: list[str], body: list[list[str]]) -> str:
    """Renders a table of strings as aligned Markdown."""
    widths = [max(len(row[i]) for row in [header, *body]) for i in range(len(header))]
    lines = [header, ["-" * width for width in widths], *body]
    return "\n".join(
        "| " + " | ".join(text.ljust(w) for text, w in zip(row, widths, strict=True)) + " |"
        for row in lines
    )
