"""A folder with tables, a figure and a page of the layers of networks."""

import json
import os
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import xarray as xr

from ppp_jax.analysis.io.layer_files import Layer, Layers, LayersLike
from ppp_jax.analysis.io.rows import RAISE
from ppp_jax.analysis.plots.layers import plot_layers
from ppp_jax.analysis.projection.planes import BasisLike
from ppp_jax.analysis.projection.turns import AUTO, BLOCK_UNITS, FULL, MOST_FULL
from ppp_jax.analysis.report.pages import html_figure, html_table, render
from ppp_jax.analysis.results.kept_layers import KeptLayers
from ppp_jax.analysis.results.layer_comparison import (
    COUNTS,
    MOST_SAMPLES,
    NO_LAYER,
    Settings,
    compare_and_keep,
    resolve_rotations,
)
from ppp_jax.analysis.results.layer_table import layer_notes, layer_table
from ppp_jax.analysis.results.run_layers import open_all
from ppp_jax.analysis.statistics import top_units
from ppp_jax.analysis.texts import as_markdown, write_csv
from ppp_jax.files import atomic
from ppp_jax.notebook import Folder

RECORD, PAGE = "analysis.json", "index.html"
LONG_TEST = 2**36  # multiplications of samples by rotations, which take minutes on few cores
CARRIERS = ("top_units", *(f"top_{name}" for name in top_units.NUMBERS))
NUMBERS = ("value", "null", "low", "high", "z", "p", "q")


def write_layers(
    layers: LayersLike | Layers,
    out: str | pathlib.Path,
    *,
    basis: BasisLike = None,
    statistics: Sequence[str] | None = None,
    groups: Mapping[str, str] | None = None,
    rotations: int | None = None,
    null: str = AUTO,
    rotation_seed: int = 0,
    max_samples: int = MOST_SAMPLES,
    nonfinite: str = RAISE,
    drop_outliers: float | None = None,
    progress: bool = False,
) -> pathlib.Path:
    """Writes tables, a figure and a page of the layers of networks, all of it or nothing.

    It can be stopped at any time: the numbers of every finished layer are kept in a hidden folder
    beside `out`, and the same call goes on with the next layer and writes the same files. They are
    found by the content of the layers and by all settings, so other calls do not use them. The
    folder is removed when the result is written.

    `layers.md` is a table with a row per layer: the value of each part of alignment and of the
    quantisation with p and q, and the rows left out. `layers.csv` has the same rows with every
    statistic, `layers_long.csv` a row per layer and statistic with its null, and `layers.png` is
    what `plot_layers` draws. `index.html` shows the table, the figure and the notes on one page.
    `analysis.json` says how everything was made.

    Args:
      layers: The layers, as `compare_layers` takes them.
      out: The folder to write. An earlier analysis in it is replaced, and other files in it are
        kept.
      basis: Privileged vectors, `(vectors, units)`, or a name; None for the standard basis.
      statistics: Names of statistics; None: those of `compare_layers`.
      groups: The name of the group of every layer, as `compare_layers` takes it.
      rotations: K of the rotation null; None: that of `compare_layers`.
      null: `full`, `blocks` or `auto`, as `compare_layers` takes it.
      rotation_seed: Seed of the random rotations.
      max_samples: Of layers with more samples so many are drawn.
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
    atomic.check_aside(out, field="out", value=out)
    opened = open_all(layers)
    settings = Settings(
        basis=basis,
        statistics=statistics,
        groups=groups,
        rotations=rotations,
        null=null,
        rotation_seed=rotation_seed,
        max_samples=max_samples,
        nonfinite=nonfinite,
        drop_outliers=drop_outliers,
    )
    lock = atomic.hidden(out, "lock")
    with (
        atomic.locked(out.parent, name=lock, field="out", value=out),
        atomic.replacing(out, field="out", value=out, kind=atomic.ANALYSIS) as folder,
    ):
        found = compare_and_keep(opened, settings, kept=KeptLayers(out), progress=progress)
        _write(found, folder)
    atomic.close_aside(out)
    return Folder(out)


def long_tests(opened: Layers, *, rotations: int | None = None, null: str = AUTO) -> list[str]:
    """Returns the names of the layers whose test takes minutes, so that a user can be told.

    Args:
      opened: What `open_layers` returned.
      rotations: K, as `compare_layers` takes it.
      null: As `compare_layers` takes it.
    """
    turns = resolve_rotations(rotations, layers=len(opened.layers))

    def multiplications(layer: Layer) -> int:
        mixed = BLOCK_UNITS if null != FULL and layer.units > MOST_FULL else layer.units
        rows = int(np.prod(layer.shape[:-2])) * min(layer.shape[-2], MOST_SAMPLES)
        return turns * rows * layer.units * mixed

    return [layer.told for layer in opened.layers if multiplications(layer) > LONG_TEST]


def _write(found: xr.Dataset, folder: pathlib.Path) -> None:
    """Writes the tables, the figure and the page of what was found."""
    _write_csv(found, folder)
    # The notes say why something is not judged, once for all layers of the same reason.
    table = layer_table(found).reset_index().drop(columns="not judged", errors="ignore")
    header, body, notes = [*table.columns], table.values.tolist(), layer_notes(found)
    text = f"{as_markdown(header, body)}\n\n" + "".join(f"- {note}\n" for note in notes)
    (folder / "layers.md").write_text(text, encoding="utf-8")
    names = {key: found[key].values.tolist() for key in ("model", "layer") if key in found.dims}
    groups = {"groups": found["group"].values.tolist()} if "group" in found.coords else {}
    statistics = found["statistic"].values.tolist()
    made = {f"{key}s": each for key, each in names.items()} | groups
    told = json.dumps({**made, "statistics": statistics, **found.attrs}, indent=1, default=str)
    (folder / RECORD).write_text(told, encoding="utf-8")
    alt = "Statistics of every layer, with those of random bases."
    page = render(
        "layers",
        title="Layers",
        rotations=f"{found.attrs['rotations']:,}",
        basis=found.attrs["basis"],
        table=html_table(header, body),
        notes=notes,
        figure=html_figure(plot_layers(found), folder / "layers.png", alt),
        made=told,
    )
    (folder / PAGE).write_text(page, encoding="utf-8")


def _write_csv(found: xr.Dataset, folder: pathlib.Path) -> None:
    """Writes all numbers: a row per layer, and a row per layer and statistic with its null."""
    keys = [key for key in ("model", "layer") if key in found.dims]
    labels = [*keys, *(["group"] if "group" in found.coords else [])]
    there = (found["not_judged"] != NO_LAYER).to_dataframe("there")
    counts = (
        found[[*COUNTS, *CARRIERS, "not_judged"]]
        .to_dataframe()[there["there"].values]
        .reset_index()
    )
    columns = {
        name + end: found[key].sel(statistic=name).values.ravel()[there["there"].values]
        for name in found["statistic"].values.tolist()
        for key, end in (("value", ""), ("p", "_p"), ("q", "_q"))
    }
    parts = [counts[[*labels, *COUNTS]], pd.DataFrame(columns), counts[[*CARRIERS]]]
    wide = pd.concat(parts, axis=1)
    write_csv(wide.assign(not_judged=counts["not_judged"]), folder / "layers.csv")
    long = found[[*NUMBERS[:1], "mean", *NUMBERS[2:], "not_judged"]].to_dataframe().reset_index()
    long = long[long["not_judged"] != NO_LAYER].rename(columns={"mean": "null"})
    write_csv(long[[*labels, "statistic", *NUMBERS]], folder / "layers_long.csv")
