"""Figures of evidence: forest plots of differences, quantisation against alignment, and nulls."""

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, MaxNLocator, NullLocator

from ppp_jax.analysis.inference.seeds import LEVEL, bootstrap_interval, interquartile_mean
from ppp_jax.analysis.io.facts import known_of
from ppp_jax.analysis.plots.figures import page_panels
from ppp_jax.analysis.plots.labels import label_lines
from ppp_jax.analysis.plots.style import (
    ABOVE,
    BAND,
    BELOW,
    BLUE,
    COLOURS,
    NEITHER,
    PAGE,
    PLAIN_MARKERS,
    RULE,
    STRIPE,
    Look,
    looks,
    split,
    style,
)
from ppp_jax.analysis.results.measure import cells
from ppp_jax.analysis.results.verdicts import ERROR, excess
from ppp_jax.analysis.statistics import registry
from ppp_jax.analysis.texts import drawn

PLANE = ("shape", "axis_quantisation")  # what the plane of a report has as axes
FOREST_COLUMNS = 5
# Pixels of a forest plot: a comparison, a title with its ticks, the text below, a single panel.
FOREST_ROW, FOREST_HEAD, FOREST_FOOT, FOREST_PANEL = 23, 90, 40, 220
LETTER = 6.6  # pixels of a letter, about
EPOCH_TICKS = (0, 2, 4, 8, 16, 32, 64, 100)
Z_TICKS = (-100, -20, -5, 0, 5, 20, 100)  # which have room in a low panel


def quantity_title(quantity: str) -> str:
    """Returns the title of a panel that shows differences of a measured quantity.

    "Above null" in a title means that the mean of the rotation null is subtracted.

    Args:
      quantity: `test_mse`, or a statistic and a site of the latents, such as `c4_pre`.
    """
    name, _, site = quantity.rpartition("_")
    if name not in registry.STATISTICS:
        return {ERROR: "held-out MSE"}.get(quantity, quantity)
    one, when = registry.STATISTICS[name], {"pre": "before", "post": "after"}[site]
    return f"{one.short} {when} activation" + (", above null" if one.tested else "")


@style()
def plot_forest(differences: pd.DataFrame, *, labels: list[str]) -> Figure:
    """Draws paired differences with their intervals as a forest plot, a panel per quantity.

    Args:
      differences: A table that `difference_table` returned, with at least one row.
      labels: Columns whose entries name a comparison, such as `activation` and `optimizer`.

    Returns:
      The figure. A point is filled and coloured if its false discovery rate is at most 5 %, orange
      for positive and blue for negative differences; otherwise it is hollow and grey.
    """
    rows = differences.to_dict("records")
    names = list(dict.fromkeys(_comparison(row, labels) for row in rows))
    quantities = list(dict.fromkeys(row["quantity"] for row in rows))
    across = min(len(quantities), FOREST_COLUMNS)
    down = -(-len(quantities) // across)
    height = FOREST_HEAD + FOREST_ROW * len(names)
    widest = LETTER * max(len(name) for name in names)
    width = (PAGE if across == FOREST_COLUMNS else widest + FOREST_PANEL * across) / across
    figure, panels = page_panels(
        down, across, width=width, height=height, above=FOREST_FOOT, sharey=True
    )
    for axes, quantity in zip(panels.flat, quantities, strict=False):
        shown = [row for row in rows if row["quantity"] == quantity]
        _draw_differences(axes, {_comparison(row, labels): row for row in shown}, names)
        text = textwrap.fill(quantity_title(quantity), int(PAGE / (across + 2) / LETTER))
        axes.set_title(text)
    for axes in panels.flat[len(quantities) :]:
        axes.set_axis_off()
    panels[0, 0].set_yticks(range(len(names)), names)
    panels[0, 0].set_ylim(len(names) - 0.5, -0.5)
    figure.supxlabel(
        "Points are means over seeds of the paired difference, bars 95 % sign-flip intervals.\n"
        "Filled points have a false discovery rate of at most 5 %. "
        "“Above null” means minus the mean of the rotation null."
    )
    return figure


def _draw_differences(axes: Axes, rows: dict[str, dict[str, Any]], names: list[str]) -> None:
    """Draws the differences of one quantity, a line per comparison."""
    for y in range(0, len(names), 2):  # which lead the eye from a name to its points
        axes.axhspan(y - 0.5, y + 0.5, color=STRIPE, linewidth=0, zorder=0)
    axes.axvline(0, color=RULE, linewidth=1, zorder=1)
    for y, name in enumerate(names):
        row = rows.get(name)
        if row is None or np.isnan(row["difference"]):
            continue
        known = row["q"] <= LEVEL
        colour = (ABOVE if row["difference"] > 0 else BELOW) if known else NEITHER
        axes.plot([row["low"], row["high"]], [y, y], color=colour)
        face = colour if known else "white"
        axes.plot(row["difference"], y, "o", color=colour, markerfacecolor=face, markersize=5.5)
    axes.xaxis.set_major_locator(MaxNLocator(3, min_n_ticks=3))
    axes.xaxis.set_major_formatter("{x:.3g}")
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)


def _comparison(row: dict[str, Any], labels: list[str]) -> str:
    first, *others = (
        f"{row[name]:g}" if isinstance(row[name], float) else str(row[name]) for name in labels
    )
    return drawn(", ".join([f"{first} − {row['against']}", *others]))


@style()
def plot_plane(runs: xr.Dataset, *, site: str, labels: list[str]) -> Figure:
    """Draws how the shape's alignment and the quantisation of every cell change by training.

    Args:
      runs: The measured runs, as the attribute `runs` of what `measure` returns.
      site: `pre` for latents before the activation, or `post` for latents after it.
      labels: Names of a cell that tell it from others, such as `activation` and `optimizer`.

    Returns:
      The figure, with panels for what differs besides the activation, of at most six lines each,
      all in one scale. A line leads from the median over seeds of the untrained networks, a hollow
      point, to that of the trained ones; small points are single seeds after training. Both
      numbers are above the mean of their rotation null.
    """
    known = known_of(runs)
    others = [name for name in labels if name != "activation"]
    paths = _paths(runs, site, others)
    panels = [
        (about, part) for about in paths for part in split(known) if set(part) & paths[about].keys()
    ] or [("", [])]
    across = min(2, len(panels))
    down = -(-len(panels) // across)
    figure, grid = page_panels(
        down, across, width=PAGE / 2, height=320, above=24, sharex=True, sharey=True
    )
    seen = looks(known)
    for axes, (about, part) in zip(grid.flat, panels, strict=False):
        axes.axvline(0, color=RULE, linewidth=0.8)
        axes.axhline(0, color=RULE, linewidth=0.8)
        for name in part:
            if name in paths.get(about, {}):
                _draw_path(axes, paths[about][name], seen[name], name)
        axes.set_title(drawn(about))
        label_lines(axes)
    for axes in grid.flat[len(panels) :]:
        axes.set_axis_off()
    first, second = (registry.label_of(name) for name in PLANE)
    figure.supxlabel(f"{first}, above null, {site}-activation (left: diagonals, right: axes)")
    figure.supylabel(f"{second},\nabove null")
    return figure


def _paths(
    runs: xr.Dataset, site: str, others: list[str]
) -> dict[str, dict[str, list[np.ndarray]]]:
    """Returns both numbers of every cell, `(step, seed)`, by the others' names and activations."""
    above = [excess(runs, f"{name}_{site}").isel(step=[0, -1]) for name in PLANE]
    found: dict[str, dict[str, list[np.ndarray]]] = {}
    for names, selection in cells(runs):
        x, y = (one.isel(selection).transpose("step", "seed").values for one in above)
        if (np.isfinite(x[-1]) & np.isfinite(y[-1])).any():
            about = ", ".join(
                f"{names[n]:g}" if isinstance(names[n], float) else str(names[n]) for n in others
            )
            found.setdefault(about, {})[names["activation"]] = [x, y]
    return found


def _draw_path(axes: Axes, both: list[np.ndarray], look: Look, name: str) -> None:
    """Draws one cell: single trained seeds, and the medians from untrained to trained ones."""
    x, y = both
    axes.plot(x[-1], y[-1], markersize=2.5, alpha=0.5, **{**look.point, "marker": "."})
    path = [np.array([_median(row) for row in values]) for values in both]
    axes.plot(*path, label=drawn(name), **look.line)
    axes.plot(*(ends[:1] for ends in path), markerfacecolor="white", **look.point)
    axes.plot(*(ends[1:] for ends in path), **look.point)


def _median(values: np.ndarray) -> float:
    finite = values[np.isfinite(values)]
    return float(np.median(finite)) if len(finite) else np.nan


@style()
def plot_p_values(p: xr.DataArray) -> Figure:
    """Draws the distribution of p-values on isotropic clouds, which should follow the diagonal.

    Args:
      p: p-values that `calibration.null_p_values` returned, over law, statistic and cloud.

    Returns:
      The figure, with a panel per law: the fraction of clouds with at most a p, of all statistics
      together, and a band from the least to the greatest of single statistics.
    """
    laws = p["law"].values
    figure, panels = page_panels(
        1, len(laws), width=min(300, PAGE / len(laws)), height=300, sharey=True
    )
    at = np.linspace(0, 1, 201)
    for axes, law in zip(panels[0], laws, strict=True):
        axes.plot([0, 1], [0, 1], color=RULE, linestyle="--", linewidth=1)
        values = p.sel(law=law).transpose("statistic", ...).values
        values = values.reshape(len(values), -1)
        finite = [one[np.isfinite(one)] for one in values]
        shares = [(one[:, None] <= at).mean(axis=0) for one in finite if len(one)]
        if shares:
            low, high = np.min(shares, axis=0), np.max(shares, axis=0)
            axes.fill_between(at, low, high, color=BLUE, alpha=0.2, linewidth=0)
            axes.plot(at, np.mean(shares, axis=0), color=BLUE)
        axes.set(title=drawn(law), xlim=(0, 1), ylim=(0, 1), aspect="equal", xlabel="p")
    panels[0, 0].set_ylabel("fraction of clouds with at most this p")
    return figure


def plot_power(found: xr.Dataset, *, kind: str, ax: Axes) -> Axes:
    """Draws the power of the rotation test against the fraction of aligned samples.

    Args:
      found: A Dataset that `calibration.power` returned.
      kind: `axes` or `corners`, on which the aligned samples lie.
      ax: The axes to draw in.

    Returns:
      The axes, with a curve per statistic and a dashed line at the level of the test, 5 %.
    """
    for k, statistic in enumerate(found["statistic"].values):
        curve = found["power"].sel(kind=kind, statistic=statistic)
        marker = PLAIN_MARKERS[k % len(PLAIN_MARKERS)]
        label = drawn(registry.STATISTICS[str(statistic)].short)
        ax.plot(found["fraction"], curve, marker=marker, label=label)
    ax.axhline(LEVEL, color=RULE, linestyle="--", linewidth=1)
    ax.set(
        xlabel=f"fraction of samples on the {kind}",
        ylabel="fraction of clouds with p ≤ .05",
        ylim=(0, 1.03),
    )
    label_lines(ax)
    return ax


def plot_seeds(
    columns: dict[str, np.ndarray],
    *,
    ax: Axes,
    colour: str = BLUE,
    marker: str = "_",
    shift: float = 0.0,
    label: str | None = None,
    at: Sequence[float] | None = None,
) -> Axes:
    """Draws every seed as a point, and the interquartile mean of the seeds with its 95 % interval.

    Args:
      columns: Names along the horizontal axis, each with one value per seed, `(seeds,)`.
      ax: The axes to draw in.
      colour: Colour of this group.
      marker: Marker of the interquartile mean.
      shift: Sideways shift of this group, as a fraction of the smallest distance between columns,
        so that several groups can be drawn beside each other.
      label: Text of the legend, or None for no entry.
      at: Horizontal coordinates of the columns, ascending; None draws them at 0, 1, 2 and so on.

    Returns:
      The axes.
    """
    centres = np.arange(len(columns)) if at is None else np.asarray(at, float)
    closest = np.diff(centres).min(initial=1.0)
    size: dict[str, Any] = (
        {"markersize": 9, "markeredgewidth": 2} if marker == "_" else {"markersize": 5}
    )
    for x, values in zip(centres + shift * closest, columns.values(), strict=True):
        spread = closest * np.linspace(-0.06, 0.06, len(values)) if len(values) > 1 else np.zeros(1)
        ax.plot(x + spread, values, ".", color=colour, markersize=2.5, alpha=0.45)
        low, high = bootstrap_interval(values)
        ax.plot([x, x], [low, high], color=colour, linewidth=2)
        look: dict[str, Any] = {"color": colour, "marker": marker, "linestyle": "", **size}
        ax.plot(x, interquartile_mean(values), label=label and drawn(label), **look)
        label = None  # The legend has one entry per group.
    ax.set_xticks(centres, [drawn(name) for name in columns])
    return ax


def plot_z(
    series: dict[str, dict[str, float]], *, ax: Axes, seen: Mapping[str, Look] | None = None
) -> Axes:
    """Draws z of several series, on an axis that is linear up to ±3 and logarithmic beyond.

    Args:
      series: Labels of the legend, each with a dictionary from the names along the horizontal axis
        to z. All series have the same names.
      ax: The axes to draw in.
      seen: The looks of the series, by their labels; by default each has a colour of its own.

    Returns:
      The axes, in which |z| ≤ 2 is shaded.
    """
    ax.axhspan(-2, 2, color=BAND, linewidth=0)
    for k, (label, points) in enumerate(series.items()):
        own = Look(COLOURS[k % len(COLOURS)], PLAIN_MARKERS[k % len(PLAIN_MARKERS)], "-")
        look = own if seen is None else seen[label]
        shift = 0.1 * (k - (len(series) - 1) / 2)
        x = np.arange(len(points)) + shift
        ax.vlines(x, 0, list(points.values()), color=look.color, linewidth=0.8)
        ax.plot(x, list(points.values()), label=drawn(label), **look.point)
    names = list(next(iter(series.values())))
    ax.set_xticks(range(len(names)), [drawn(name) for name in names])
    return _z_scale(ax)


def plot_courses(rows: pd.DataFrame, *, seen: Mapping[str, Look], ax: Axes) -> Axes:
    """Draws z of several activations against epochs, with their names at the ends of the lines.

    Args:
      rows: Rows of what `emergence.course_table` returned, of one statistic, one site and one
        optimiser, width and rate.
      seen: The look of every activation.
      ax: The axes to draw in.

    Returns:
      The axes, in which |z| ≤ 2 is shaded. Points with q ≤ .05 in these networks are filled.
    """
    ax.axhspan(-2, 2, color=BAND, linewidth=0)
    for name, mine in rows.groupby("activation", sort=False):
        look = seen[str(name)]
        ax.plot(mine["epoch"], mine["z"], label=drawn(name), linewidth=1.1, **look.line)
        points: dict[str, Any] = {"markersize": 4, "markeredgewidth": 0.8, **look.point}
        ax.plot(mine["epoch"], mine["z"], markerfacecolor="white", **points)
        known = mine[mine["q networks"] <= LEVEL]
        ax.plot(known["epoch"], known["z"], **points)
    ax.set_xscale("symlog", linthresh=2)
    ax.xaxis.set_major_locator(FixedLocator(EPOCH_TICKS))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter("{x:g}")
    _z_scale(ax)
    label_lines(ax)
    return ax


def _z_scale(ax: Axes) -> Axes:
    """Makes an axis of z linear up to ±3 and logarithmic beyond."""
    ax.set_yscale("symlog", linthresh=3)
    ax.yaxis.set_major_locator(FixedLocator(Z_TICKS))
    ax.yaxis.set_minor_locator(NullLocator())
    ax.yaxis.set_major_formatter("{x:g}")
    ax.margins(y=0.08)
    return ax
