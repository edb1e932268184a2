"""Figures of the layers of networks: every statistic over depth with its null, or a heat map."""

import itertools
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle
from matplotlib.ticker import MaxNLocator

from ppp_jax.analysis.inference.seeds import LEVEL
from ppp_jax.analysis.io.sources import check_made
from ppp_jax.analysis.plots.figures import page_figure
from ppp_jax.analysis.plots.style import (
    ABOVE,
    BAND,
    BELOW,
    BLUE,
    DPI,
    GREEN,
    NEITHER,
    PAGE,
    PURPLE,
    RULE,
    VERMILION,
    style,
)
from ppp_jax.analysis.results.layer_comparison import NO_LAYER, NUMBERS, main_statistics
from ppp_jax.analysis.statistics import registry
from ppp_jax.analysis.texts import drawn
from ppp_jax.errors import InputError, choice, printable, shortened

MODELS = ((BLUE, "o"), (VERMILION, "s"), (GREEN, "^"), (PURPLE, "D"))
LINES, HEAT = "lines", "heat"
MOST_LAYERS = 30  # beside each other, whose points can be told apart
LONGEST_NAME = 28
NARROWEST, WIDEST = 8.0, PAGE / DPI  # inches, of which the legend needs the first
PANEL_INCHES, LAYER_INCHES, TICK_INCHES, ROW_INCHES = 2.1, 0.25, 0.155, 0.2
LETTER_INCHES = 0.08
CLIPPED = 10.0  # z beyond which the colour of a heat map does not change
HATCH = "////"


class _Column(NamedTuple):
    """The layers of one group, or all layers: a column of panels.

    Attributes:
      found: What was found of them.
      ticks: Their names, shortened.
      common: What was taken off all names, and the name of the group.
    """

    found: xr.Dataset
    ticks: list[str]
    common: str


@style()
def plot_layers(
    found: xr.Dataset, *, statistics: Sequence[str] | None = None, kind: str | None = None
) -> Figure:
    """Draws statistics over the layers of networks, a row of panels each, with their rotation null.

    With groups there is a column of panels for each.

    Args:
      found: What `compare_layers` returned.
      statistics: Names of the statistics to draw, of those in `found`. None: the parts of alignment
        and the quantisation (`main_statistics`).
      kind: `lines`, at most 4 models; `heat`, a map of any number of layers and models; None for
        lines if there are at most 30 layers and 4 models.

    Returns:
      The figure. In lines, a bar holds 95 % of the values of random bases, and the line in it is
      their mean. A point is filled where q is at most 5 %, and hollow where there is no such
      evidence: of one model orange where the rank lies above the middle of the null and blue below
      it; of several models each has its colour, its mark and its bars beside those of the others. A
      cross at the bottom marks a layer that cannot be judged. In a heat map the colour is z, with
      the sign of the side that p is of, clipped at ±10: orange above the null and blue below it. A
      dot marks a q of at most 5 %, and hatching what cannot be judged.

    Raises:
      InputError: `found` is something else, or has no such statistic or too many models for lines.

    Example:
      >>> import ppp_jax.analysis as pa
      >>> rng = np.random.default_rng(0)
      >>> layers = {f"layer_{k}": rng.normal(size=(100, 4)) for k in range(3)}
      >>> found = pa.compare_layers(layers, statistics=["shape"], rotations=9)
      >>> len(pa.plot_layers(found).axes)
      1
    """
    check_made("found", found, (*NUMBERS, "q", "layer", "statistic"), "compare_layers")
    names = _chosen(found, statistics)
    models = found.sizes.get("model", 1)
    columns = _columns(found)
    if kind is None:
        most = max(len(column.ticks) for column in columns)
        kind = LINES if most <= MOST_LAYERS and models <= len(MODELS) else HEAT
    if choice("kind", kind, (LINES, HEAT)) == LINES and models > len(MODELS):
        problem = (
            f"shows at most {len(MODELS)} models, and there are {models}; kind='heat' shows all"
        )
        raise InputError("kind", kind, problem)
    return _heat(found, columns, names) if kind == HEAT else _lines(found, columns, names)


def _chosen(found: xr.Dataset, statistics: Sequence[str] | None) -> list[str]:
    known = [str(name) for name in found["statistic"].values]
    if statistics is None:
        return main_statistics(known, orthonormal=bool(found.attrs.get("orthonormal", True)))
    if isinstance(statistics, str) or not isinstance(statistics, Sequence) or not statistics:
        raise InputError("statistics", statistics, "must be names, one or more, in a list")
    for name in statistics:
        if name not in known:
            raise InputError("statistics", name, f"was not tested; choose among {known}")
    return list(statistics)


def _columns(found: xr.Dataset) -> list[_Column]:
    columns = []
    groups = (
        found["group"].values.tolist() if "group" in found.coords else [""] * found.sizes["layer"]
    )
    for group in dict.fromkeys(groups):
        part = found.isel(layer=[k for k, one in enumerate(groups) if one == group])
        longest = 0 if group else LONGEST_NAME
        ticks, common = _ticks([str(name) for name in part["layer"].values], longest)
        said = printable(group)
        told = common if said in common else ": ".join(text for text in (said, common) if text)
        columns.append(_Column(part, ticks, told))
    return columns


def _models(found: xr.Dataset) -> list[str]:
    """Returns the names of the models, short; one without a name if there is only one network."""
    if "model" not in found.dims:
        return [""]
    return _short([printable(name) for name in found["model"].values])


def _panels(columns: list[_Column], rows: int, height: float, *, each: float) -> tuple[Figure, Any]:
    """Returns a figure with a row of panels per statistic and a column per group.

    Args:
      columns: The groups of layers.
      rows: The number of statistics.
      height: Of a row, in inches.
      each: Width of a layer, in inches.
    """
    counts = [len(column.ticks) for column in columns]
    width = max(NARROWEST, min(WIDEST, 1.0 + sum(0.6 + each * count for count in counts)))
    share = (width - 1.0) / sum(count + 1 for count in counts)  # of a layer, in inches
    longest = max(len(tick) for column in columns for tick in column.ticks)
    turned = LETTER_INCHES * (longest + 1) > share
    below = 0.5 + LETTER_INCHES * longest * turned
    size = width, 0.85 + below + height * rows
    figure = page_figure(DPI * size[0], DPI * size[1])
    panels = figure.subplots(
        rows, len(columns), sharex="col", sharey="row", squeeze=False,
        width_ratios=[count + 1 for count in counts],
    )  # fmt: skip
    for axes, column in zip(panels[-1], columns, strict=True):
        _name_layers(axes, column, share, turned=turned)
    return figure, panels


def _name_layers(axes: Axes, column: _Column, share: float, *, turned: bool) -> None:
    count = len(column.ticks)
    every = max(1, int(np.ceil(TICK_INCHES / share)))
    axes.set_xticks(range(0, count, every), [drawn(tick) for tick in column.ticks[::every]])
    axes.tick_params(axis="x", labelrotation=90 * turned)
    axes.set_xlabel(drawn(shortened(column.common)))
    axes.set_xlim(-0.6, count - 0.4)


# ------------------------------------------------------------------------------------ lines


def _lines(found: xr.Dataset, columns: list[_Column], names: list[str]) -> Figure:
    models = _models(found)
    each = LAYER_INCHES * (1 + 0.35 * (len(models) - 1))
    figure, panels = _panels(columns, len(names), PANEL_INCHES, each=each)
    for row, name in zip(panels, names, strict=True):
        for axes, column in zip(row, columns, strict=True):
            for k in range(len(models)):
                one = column.found.sel(statistic=name)
                one = one.isel(model=k) if "model" in one.dims else one
                _draw(axes, one, k, len(models))
            axes.yaxis.set_major_locator(MaxNLocator(4))
            axes.margins(y=0.12)
        row[0].set_title(drawn(_title(name)), linespacing=1.3)
    _legend(figure, _marks(models))
    return figure


def _draw(axes: Axes, one: xr.Dataset, model: int, models: int) -> None:
    """Draws one statistic of one model: its bars beside those of the other models."""
    half = 0.4 / models
    x = np.arange(one.sizes["layer"]) - 0.4 + half * (2 * model + 1)
    wide = half * (1 if models == 1 else 0.85)
    value, mean, low, high, q = (one[key].values for key in ("value", "mean", "low", "high", "q"))
    above = one["rank"].values > 0  # the side that p is of, also where a network is far off
    gap = np.full(len(x), np.nan)  # between the bars, which are drawn at once
    sides = np.stack([x - wide, x + wide, x + wide], axis=1).ravel()
    bottom, top = (np.stack([end, end, gap], axis=1).ravel() for end in (low, high))
    line, marker = (NEITHER, "o") if models == 1 else MODELS[model]
    band = BAND if models == 1 else _pale(line)
    axes.fill_between(sides, bottom, top, color=band, linewidth=0, zorder=1)
    axes.hlines(mean, x - wide, x + wide, color=RULE, linewidth=1, zorder=2)
    axes.plot(x, value, color=line, linewidth=0.7, alpha=0.7, zorder=3)
    known, size = q <= LEVEL, 5 if len(x) <= 25 else 3.5
    both = ((known & above, ABOVE), (known & ~above, BELOW)) if models == 1 else ((known, line),)
    for where, colour, face in ((~known, line, "white"), *((at, c, c) for at, c in both)):
        axes.plot(
            x[where], value[where], marker, color=colour, markerfacecolor=face, markersize=size,
            zorder=4,
        )  # fmt: skip
    missing = x[np.isnan(value) & _there(one)]
    axes.plot(
        missing, np.full(len(missing), 0.06), "x", color=line, markersize=4,
        transform=axes.get_xaxis_transform(), zorder=4,
    )  # fmt: skip


def _there(one: xr.Dataset) -> np.ndarray:
    """Returns which layers the model has."""
    if "not_judged" not in one:
        return np.ones(one.sizes["layer"], bool)
    there: np.ndarray = one["not_judged"].values != NO_LAYER
    return there


def _pale(colour: str) -> tuple[float, ...]:
    return tuple(0.75 + 0.25 * part for part in to_rgb(colour))


def _title(name: str) -> str:
    """Returns what a row of panels shows, and what its two sides mean."""
    one, label = registry.STATISTICS.get(name), registry.label_of(name)
    return f"{label}\n↑ {one.sides[1]}\n↓ {one.sides[0]}" if one and one.sides else label


def _marks(models: list[str]) -> list[Line2D | Patch]:
    """Returns what the legend of lines says."""
    if len(models) == 1:
        said = [
            (ABOVE, ABOVE, "o", "above the null, q ≤ 5 %"),
            (BELOW, BELOW, "o", "below it, q ≤ 5 %"),
            (NEITHER, "white", "o", "no evidence"),
        ]
    else:
        named = zip(models, MODELS[: len(models)], strict=True)
        said = [(colour, colour, marker, drawn(name)) for name, (colour, marker) in named]
        said += [(NEITHER, NEITHER, "o", "q ≤ 5 %"), (NEITHER, "white", "o", "no evidence")]
    said.append((NEITHER, NEITHER, "x", "not judged"))
    points = [
        Line2D([], [], color=colour, markerfacecolor=face, marker=marker, linestyle="", label=label)
        for colour, face, marker, label in said
    ]
    return [*points, Patch(color=BAND, label="95 % of random bases")]


def _legend(figure: Figure, marks: list[Any]) -> None:
    """Draws a legend above the panels, in as many columns as there is room for."""
    longest = max(len(str(mark.get_label())) for mark in marks)
    across = int((figure.get_figwidth() - 0.2) / (0.55 + LETTER_INCHES * longest))
    tight = {"columnspacing": 1.2, "handletextpad": 0.4, "frameon": False}
    columns = max(1, min(len(marks), across))
    if len(marks) == 5 and longest < 26:  # of one model, which has room
        columns = 5
    figure.legend(handles=marks, loc="outside upper center", ncols=columns, **tight)


# --------------------------------------------------------------------------------- heat map


def _heat(found: xr.Dataset, columns: list[_Column], names: list[str]) -> Figure:
    models = _models(found)
    height = 0.62 + ROW_INCHES * max(1.5, len(models))
    figure, panels = _panels(columns, len(names), height, each=0.12)
    colours = LinearSegmentedColormap.from_list("sides", [BELOW, "white", ABOVE])
    for row, name in zip(panels, names, strict=True):
        for axes, column in zip(row, columns, strict=True):
            _draw_map(axes, column.found.sel(statistic=name), colours)
        row[0].set_yticks(range(len(models)), [drawn(name) for name in models])
        row[0].set_title(drawn(_title(name)), linespacing=1.3)
        if models == [""]:
            row[0].tick_params(left=False)
    label = (
        f"z against random bases, clipped at ±{CLIPPED:g}: ↑ orange above, ↓ blue below the null"
    )
    bar = figure.colorbar(
        panels[0, 0].images[0], ax=list(panels.ravel()), location="top", aspect=60, shrink=0.6,
        pad=0.01,
    )  # fmt: skip
    bar.set_label(label)
    dot = Line2D([], [], color="black", marker=".", linestyle="", label="q ≤ 5 %")
    hatched = Patch(
        facecolor=BAND, edgecolor=NEITHER, hatch=HATCH, label="not judged, or no such layer"
    )
    _legend(figure, [dot, hatched])
    return figure


def _draw_map(axes: Axes, one: xr.Dataset, colours: LinearSegmentedColormap) -> None:
    """Draws one statistic of all models: a row per model, a column per layer."""
    z, rank, q = (np.atleast_2d(one[key].values) for key in ("z", "rank", "q"))
    signed = np.clip(np.abs(z) * np.where(rank < 0, -1, 1), -CLIPPED, CLIPPED)
    axes.imshow(
        np.ma.masked_invalid(signed), cmap=colours, vmin=-CLIPPED, vmax=CLIPPED, aspect="auto",
        interpolation="nearest",
    )  # fmt: skip
    for row, place in np.argwhere(np.isnan(signed)).tolist():
        corner = (place - 0.5, row - 0.5)
        cell = Rectangle(corner, 1, 1, facecolor=BAND, edgecolor=NEITHER, hatch=HATCH, linewidth=0)
        axes.add_patch(cell)
    rows, places = np.nonzero(q <= LEVEL)
    axes.plot(places, rows, ".", color="black", markersize=3 if signed.shape[1] > 60 else 4.5)
    axes.set_xlim(-0.5, signed.shape[1] - 0.5)
    axes.set_ylim(len(signed) - 0.5, -0.5)


# ------------------------------------------------------------------------------------ names


def _ticks(names: Sequence[str], longest: int = LONGEST_NAME) -> tuple[list[str], str]:
    """Returns names of layers that leave room for the figure, and what was taken off all of them.

    Names that are too long lose what is the same in all of them, which the axis says once. A name
    that is still too long loses its middle, and gets its number where it is not the only such one.
    """
    texts, common = [printable(name) for name in names], ""
    if len(texts) > 1 and max(map(len, texts)) > longest:
        first = re.sub("[0-9]+$", "", _beginning(texts))
        last = _beginning([text[len(first) :][::-1] for text in texts])[::-1]
        last = re.sub("^[0-9]+", "", last)  # a number that is cut is another number
        rest = [text[len(first) : len(text) - len(last)] for text in texts]
        if (first or last) and all(rest):
            texts, common = rest, f"{first}*{last}"
    return _short(texts), common


def _short(texts: list[str]) -> list[str]:
    """Returns texts without their middles where they are too long, all different."""
    half = LONGEST_NAME // 2 - 1
    short = [
        text if len(text) <= LONGEST_NAME else f"{text[:half]}…{text[-half:]}" for text in texts
    ]
    if len(set(short)) < len(short):
        short = [f"{number}: {text}" for number, text in enumerate(short)]
    return short


def _beginning(texts: Sequence[str]) -> str:
    """Returns what all texts begin with."""
    first, last = min(texts), max(texts)
    same = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(first, last, strict=False))
    return "".join(letter for letter, _ in same)
