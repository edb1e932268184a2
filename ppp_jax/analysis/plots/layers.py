"""A figure of the layers of a network: every statistic over depth, with its null."""

import itertools
import re
from collections.abc import Sequence

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from ppp_jax.analysis.inference.seeds import LEVEL
from ppp_jax.analysis.io.sources import check_made
from ppp_jax.analysis.results.layer_comparison import NUMBERS, main_statistics
from ppp_jax.analysis.statistics import registry
from ppp_jax.analysis.texts import drawn
from ppp_jax.errors import InputError, printable, shortened

ABOVE, BELOW, NEITHER, BAND = "#d55e00", "#0072b2", "0.45", "0.85"  # of Okabe and Ito, and greys
MOST_TICKS = 60  # names of layers that have room beside each other
LONGEST_NAME = 28
PANEL_INCHES, LAYER_INCHES = 1.9, 0.22


def plot_layers(found: xr.Dataset, *, statistics: Sequence[str] | None = None) -> Figure:
    """Draws statistics over the layers of a network, a panel each, with their rotation null.

    Args:
      found: What `compare_layers` returned.
      statistics: Names of the statistics to draw, of those in `found`. None: the parts of alignment
        and the quantisation (`main_statistics`).

    Returns:
      The figure. A grey bar holds 95 % of the values of random bases, and the line in it is their
      mean. A point is filled where the q over the layers is at most 5 %, orange where the rank lies
      above the middle of the null and blue below it, and hollow where there is no such evidence. A
      cross at the bottom marks a layer that cannot be judged.

    Raises:
      InputError: `found` is something else, or has no such statistic.

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
    count = found.sizes["layer"]
    ticks, common = _ticks([str(name) for name in found["layer"].values])
    below = 0.35 + 0.062 * max(map(len, ticks)) * (count > 3)  # turned names take more room
    size = max(6.4, min(16.0, 1.6 + LAYER_INCHES * count)), 0.75 + below + PANEL_INCHES * len(names)
    figure = Figure(figsize=size, dpi=110, layout="constrained")
    panels = figure.subplots(len(names), 1, sharex=True, squeeze=False)[:, 0]
    for axes, name in zip(panels, names, strict=True):
        _draw(axes, found.sel(statistic=name), name)
    every = -(-count // MOST_TICKS)
    panels[-1].set_xticks(range(0, count, every), [drawn(tick) for tick in ticks[::every]])
    small = {"fontsize": 8 if count <= 25 else 6}
    turned = {"rotation": 90} if count > 3 else {}
    panels[-1].set_xticklabels(panels[-1].get_xticklabels(), **small, **turned)
    panels[-1].set_xlabel(drawn(shortened(common)), fontsize=8)
    panels[-1].set_xlim(-0.6, count - 0.4)
    tight = {"columnspacing": 1.2, "handletextpad": 0.4, "frameon": False}
    figure.legend(handles=_legend(), loc="outside upper center", ncols=5, fontsize=7, **tight)
    return figure


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


def _draw(axes: Axes, one: xr.Dataset, name: str) -> None:
    """Draws one statistic."""
    x = np.arange(one.sizes["layer"])
    value, mean, low, high, q = (one[key].values for key in ("value", "mean", "low", "high", "q"))
    above = one["rank"].values > 0  # the side that p is of, also where a network is far off
    gap = np.full(len(x), np.nan)  # between the bars, which are drawn at once
    sides = np.stack([x - 0.4, x + 0.4, x + 0.4], axis=1).ravel()
    bottom, top = (np.stack([end, end, gap], axis=1).ravel() for end in (low, high))
    axes.fill_between(sides, bottom, top, color=BAND, linewidth=0, zorder=1)
    axes.hlines(mean, x - 0.4, x + 0.4, color="0.6", linewidth=0.8, zorder=2)
    axes.plot(x, value, color=NEITHER, linewidth=0.7, alpha=0.7, zorder=3)
    known, size = q <= LEVEL, 5 if len(x) <= 25 else 3.5
    for where, colour, face in (
        (~known, NEITHER, "white"),
        (known & above, ABOVE, ABOVE),
        (known & ~above, BELOW, BELOW),
    ):
        axes.plot(
            x[where],
            value[where],
            "o",
            color=colour,
            markerfacecolor=face,
            markersize=size,
            zorder=4,
        )
    missing = x[np.isnan(value)]
    axes.plot(
        missing, np.full(len(missing), 0.06), "x", color=NEITHER, markersize=4,
        transform=axes.get_xaxis_transform(), zorder=4,
    )  # fmt: skip
    axes.set_title(drawn(_title(name)), fontsize=7, loc="left", linespacing=1.3)
    axes.yaxis.set_major_locator(MaxNLocator(4))
    axes.tick_params(labelsize=7)
    axes.margins(y=0.12)


def _title(name: str) -> str:
    """Returns what a panel shows, and what its two sides mean."""
    one, label = registry.STATISTICS.get(name), registry.label_of(name)
    return f"{label}\n↑ {one.sides[1]}\n↓ {one.sides[0]}" if one and one.sides else label


def _ticks(names: Sequence[str]) -> tuple[list[str], str]:
    """Returns names of layers that leave room for the figure, and what was taken off all of them.

    Names that are too long lose what is the same in all of them, which the axis says once. A name
    that is still too long loses its middle, and gets its number where it is not the only such one.
    """
    texts, common = [printable(name) for name in names], ""
    if len(texts) > 1 and max(map(len, texts)) > LONGEST_NAME:
        first = re.sub("[0-9]+$", "", _beginning(texts))
        last = _beginning([text[len(first) :][::-1] for text in texts])[::-1]
        last = re.sub("^[0-9]+", "", last)  # a number that is cut is another number
        texts = [text[len(first) : len(text) - len(last)] for text in texts]
        common = f"{first}*{last}"
    half = LONGEST_NAME // 2 - 1
    short = [
        text if len(text) <= LONGEST_NAME else f"{text[:half]}…{text[-half:]}" for text in texts
    ]
    if len(set(short)) < len(short):
        short = [f"{number}: {text}" for number, text in enumerate(short)]
    return short, common


def _beginning(texts: Sequence[str]) -> str:
    """Returns what all texts begin with."""
    first, last = min(texts), max(texts)
    same = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(first, last, strict=False))
    return "".join(letter for letter, _ in same)


def _legend() -> list[Line2D | Patch]:
    points = [
        Line2D([], [], color=colour, markerfacecolor=face, marker=marker, linestyle="", label=label)
        for colour, face, marker, label in (
            (ABOVE, ABOVE, "o", "above the null, q ≤ 5 %"),
            (BELOW, BELOW, "o", "below it, q ≤ 5 %"),
            (NEITHER, "white", "o", "no evidence"),
            (NEITHER, NEITHER, "x", "not judged"),
        )
    ]
    return [*points, Patch(color=BAND, label="95 % of random bases")]
