"""A folder with a table and a figure of the layers of a network."""

import json
import os
import pathlib
from collections.abc import Sequence

import numpy as np
import pandas as pd
import xarray as xr

from ppp_jax.analysis.inference.seeds import LEVEL
from ppp_jax.analysis.io.layer_files import Layers, LayersLike, open_layers
from ppp_jax.analysis.io.rows import RAISE
from ppp_jax.analysis.plots.layers import plot_layers
from ppp_jax.analysis.projection.planes import BasisLike
from ppp_jax.analysis.results.layer_comparison import (
    COUNTS,
    compare_layers,
    main_statistics,
    resolve_rotations,
)
from ppp_jax.analysis.statistics import registry
from ppp_jax.analysis.texts import as_markdown, write_csv
from ppp_jax.errors import printable
from ppp_jax.files import atomic

RECORD = "analysis.json"
LONG_TEST = 2**36  # multiplications of samples by rotations, which take minutes on few cores
NUMBERS = ("value", "null", "low", "high", "z", "p", "q")


def write_layers(
    layers: LayersLike | Layers,
    out: str | pathlib.Path,
    *,
    basis: BasisLike = None,
    statistics: Sequence[str] | None = None,
    rotations: int | None = None,
    rotation_seed: int = 0,
    nonfinite: str = RAISE,
    drop_outliers: float | None = None,
    progress: bool = False,
) -> pathlib.Path:
    """Writes a table and a figure of the layers of a network into a folder, all of it or nothing.

    `layers.md` is a table with a row per layer: the value of each part of alignment and of the
    quantisation with p and q, and the rows left out. `layers.csv` has the same rows with every
    statistic, `layers_long.csv` a row per layer and statistic with its null, and `layers.png` is
    what `plot_layers` draws. `analysis.json` says how everything was made.

    Args:
      layers: The layers, as `compare_layers` takes them.
      out: The folder to write. An earlier analysis in it is replaced, and other files in it are
        kept.
      basis: Privileged vectors, `(vectors, units)`, or a name; None for the standard basis.
      statistics: Names of statistics; None: those of `compare_layers`.
      rotations: K of the rotation null; None: that of `compare_layers`.
      rotation_seed: Seed of the random rotations.
      nonfinite: What to do about rows that are not finite, `raise` or `drop`.
      drop_outliers: Rows longer than so many times the median row are left out; None keeps them.
      progress: Whether to show a progress bar on stderr.

    Returns:
      The path of the folder.

    Raises:
      InputError: An argument cannot be used; `out` exists and is no analysis, or cannot be written;
        or another process is writing it.
    """
    out = pathlib.Path(os.path.abspath(pathlib.Path(out).expanduser()))
    atomic.check(out, field="out", value=out, kind=atomic.ANALYSIS)
    opened = open_layers(layers)
    lock = atomic.hidden(out, "lock")
    with (
        atomic.locked(out.parent, name=lock, field="out", value=out),
        atomic.replacing(out, field="out", value=out, kind=atomic.ANALYSIS) as folder,
    ):
        found = compare_layers(
            opened,
            basis=basis,
            statistics=statistics,
            rotations=rotations,
            rotation_seed=rotation_seed,
            nonfinite=nonfinite,
            drop_outliers=drop_outliers,
            progress=progress,
        )
        _write(found, folder)
    return out


def long_tests(opened: Layers, *, rotations: int | None = None) -> list[str]:
    """Returns the names of the layers whose test takes minutes, so that a user can be told.

    Args:
      opened: What `open_layers` returned.
      rotations: K, as `compare_layers` takes it.
    """
    turns = resolve_rotations(rotations, layers=len(opened.layers))
    return [
        layer.name
        for layer in opened.layers
        if turns * int(np.prod(layer.shape)) * layer.units > LONG_TEST
    ]


def _write(found: xr.Dataset, folder: pathlib.Path) -> None:
    statistics = [str(name) for name in found["statistic"].values]
    counts = found[[*COUNTS, "not_judged"]].to_dataframe()[[*COUNTS, "not_judged"]].reset_index()
    long = found[[*NUMBERS[:1], "mean", *NUMBERS[2:]]].to_dataframe().reset_index()
    long = long.rename(columns={"mean": "null"})[["layer", "statistic", *NUMBERS]]
    columns = {
        name + end: found[key].sel(statistic=name).values
        for name in statistics
        for key, end in (("value", ""), ("p", "_p"), ("q", "_q"))
    }
    wide = pd.concat([counts[["layer", *COUNTS]], pd.DataFrame(columns)], axis=1)
    write_csv(wide.assign(not_judged=counts["not_judged"]), folder / "layers.csv")
    write_csv(long, folder / "layers_long.csv")
    plot_layers(found).savefig(folder / "layers.png")
    text = f"{as_markdown(*_texts(found))}\n\n" + "".join(f"- {note}\n" for note in _notes(found))
    (folder / "layers.md").write_text(text, encoding="utf-8")
    names = [str(name) for name in found["layer"].values]
    made = {"layers": names, "statistics": statistics, **found.attrs}
    (folder / RECORD).write_text(json.dumps(made, indent=1, default=str), encoding="utf-8")


def _texts(found: xr.Dataset) -> tuple[list[str], list[list[str]]]:
    """Returns the header and the rows of the table: a row per layer."""
    names = _shown(found)
    header = ["layer", "units", "rows", "left out", *(f"{_short(name)} (p, q)" for name in names)]
    body = []
    for k, layer in enumerate(found["layer"].values):
        row = found.isel(layer=k)
        counts = [f"{row[key].item():,}" for key in ("units", "rows", "rows_left_out")]
        body.append([str(layer), *counts, *(_cell(row.sel(statistic=name)) for name in names)])
    return header, body


def _shown(found: xr.Dataset) -> list[str]:
    names = [str(name) for name in found["statistic"].values]
    return main_statistics(names, orthonormal=bool(found.attrs["orthonormal"]))


def _short(name: str) -> str:
    return registry.STATISTICS[name].short if name in registry.STATISTICS else name


def _cell(one: xr.Dataset) -> str:
    value, p, q = (one[key].item() for key in ("value", "p", "q"))
    if np.isnan(value):
        return "–"
    beside = "no null" if np.isnan(p) else f"{p:.2g}, {q:.2g}"
    return f"{value:.2g} ({beside}){' *' if q <= LEVEL else ''}"


def _notes(found: xr.Dataset) -> list[str]:
    """Returns what is said below the table: what stands in it, and what is missing and why."""
    rotations = found.attrs["rotations"]
    notes = [
        f"value (p, q): p against {rotations:,} random bases, q over the layers; * is q ≤ {LEVEL:g}"
    ]
    for name in _shown(found):
        if (one := registry.STATISTICS.get(name)) and one.sides:
            notes.append(f"{one.short}, below the null: {one.sides[0]}; above it: {one.sides[1]}")
    # A layer without p is no test, and makes no q of another larger.
    layers = int(found["p"].sel(statistic=_shown(found)).notnull().sum("layer").max())
    if layers / (rotations + 1) > LEVEL and (found["networks"] == 1).all():
        notes.append(
            f"one layer alone among {layers} cannot reach q ≤ {LEVEL:g} with {rotations:,} "
            f"rotations; {round(layers / LEVEL) - 1:,} suffice"
        )
    if found["rows_long"].any():
        named = [f"{row['layer'].item()} ({row['rows_long'].item():,})"
                 for _, row in found.groupby("layer") if row["rows_long"].item()]  # fmt: skip
        remedy = "" if "drop_outliers" in found.attrs else "; drop_outliers=100 leaves them out"
        notes.append(f"rows longer than 100 times the median row: {', '.join(named)}{remedy}")
    reasons: dict[str, list[str]] = {}
    for layer, why in zip(found["layer"].values, found["not_judged"].values, strict=True):
        if why:
            reasons.setdefault(str(why), []).append(str(layer))
    notes += [f"not judged of {', '.join(named)}: {why}" for why, named in reasons.items()]
    if aside := found.attrs["left_aside"]:
        notes.append(f"beside the layers, and none: {aside}")
    return [printable(note) for note in notes]
