"""Figures of evidence: forest plots of differences, quantisation against alignment, and nulls."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator

from ppp_jax.analysis.inference.seeds import LEVEL, bootstrap_interval, interquartile_mean
from ppp_jax.analysis.plots.figures import ShownFigure
from ppp_jax.analysis.results.measure import cells
from ppp_jax.analysis.results.verdicts import ERROR, excess
from ppp_jax.analysis.statistics import registry
from ppp_jax.analysis.texts import drawn

PLANE = ("shape", "axis_quantisation")  # what the plane of a report has as axes
LINES = ("-", "--", ":", "-.")
MARKERS = "osD^v"  # beside lines, which are few
EPOCH_TICKS = (0, 2, 4, 8, 16, 32, 64, 100)
Z_TICKS = (-100, -50, -20, -10, -5, -2, 0, 2, 5, 10, 20, 50, 100)


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


def plot_forest(differences: pd.DataFrame, *, labels: list[str]) -> Figure:
    """Draws paired differences with their intervals as a forest plot, a panel per quantity.

    Args:
      differences: A table that `difference_table` returned, with at least one row.
      labels: Columns whose entries name a comparison, such as `activation` and `optimizer`.

    Returns:
      The figure. A point is filled and coloured if its false discovery rate is at most 5 %, red
      for positive and blue for negative differences; otherwise it is hollow and grey.
    """
    rows = differences.to_dict("records")
    names = list(dict.fromkeys(_comparison(row, labels) for row in rows))
    quantities = list(dict.fromkeys(row["quantity"] for row in rows))
    figure = ShownFigure(
        figsize=(3.1 * len(quantities), 1.3 + 0.22 * len(names)), dpi=110, layout="constrained"
    )
    panels = figure.subplots(1, len(quantities), sharey=True, squeeze=False)[0]
    for axes, quantity in zip(panels, quantities, strict=True):
        axes.axvline(0, color="0.6", linewidth=0.8)
        for row in rows:
            if row["quantity"] != quantity or np.isnan(row["difference"]):
                continue
            y = names.index(_comparison(row, labels))
            known = row["q"] <= LEVEL
            colour = ("C3" if row["difference"] > 0 else "C0") if known else "0.45"
            axes.plot([row["low"], row["high"]], [y, y], color=colour, linewidth=1.2)
            face = colour if known else "white"
            axes.plot(row["difference"], y, "o", color=colour, markerfacecolor=face, markersize=4)
        axes.set_title(quantity_title(quantity), fontsize=8)
        axes.tick_params(labelsize=6)
        axes.margins(y=0.5 / max(1, len(names)))
    panels[0].set_yticks(range(len(names)), names, fontsize=6)
    panels[0].invert_yaxis()
    figure.supxlabel(
        "Points are means over seeds of the paired difference, bars 95 % sign-flip intervals.\n"
        "Filled points have a false discovery rate of at most 5 %.\n"
        "“Above null” means minus the mean of the rotation null.",
        fontsize=7,
    )
    return figure


def _comparison(row: dict[str, Any], labels: list[str]) -> str:
    text = ", ".join(
        f"{row[name]:g}" if isinstance(row[name], float) else str(row[name]) for name in labels
    )
    return drawn(f"{text} − {row['against']}")


def plot_plane(runs: xr.Dataset, *, site: str, labels: list[str]) -> Figure:
    """Draws how the shape's alignment and the quantisation of every cell change by training.

    Args:
      runs: The measured runs, as the attribute `runs` of what `measure` returns.
      site: `pre` for latents before the activation, or `post` for latents after it.
      labels: Names of a cell that the legend shows, such as `activation` and `optimizer`.

    Returns:
      The figure, with a line per cell from the median over seeds of the untrained networks, a
      hollow point, to that of the trained ones; small points are single seeds after training. Both
      numbers are above the mean of their rotation null.
    """
    figure = ShownFigure(figsize=(9.5, 4.8), dpi=110, layout="constrained")
    axes = figure.add_subplot()
    axes.axvline(0, color="0.8", linewidth=0.8)
    axes.axhline(0, color="0.8", linewidth=0.8)
    colours = {name: f"C{i % 10}" for i, name in enumerate(runs["activation"].values)}
    styles = ["-", "--", ":", "-."]
    counted: dict[Any, int] = {}
    above = [excess(runs, f"{name}_{site}").isel(step=[0, -1]) for name in PLANE]
    for names, selection in cells(runs):
        x, y = (one.isel(selection).transpose("step", "seed").values for one in above)
        if not (np.isfinite(x[-1]) & np.isfinite(y[-1])).any():
            continue
        colour = colours[names["activation"]]
        number = counted[names["activation"]] = counted.get(names["activation"], -1) + 1
        path = [np.array([_median(row) for row in values]) for values in (x, y)]
        label = ", ".join(
            f"{names[n]:g}" if isinstance(names[n], float) else str(names[n]) for n in labels
        )
        axes.plot(*path, styles[number % 4], color=colour, linewidth=1.1, label=drawn(label))
        axes.plot(path[0][0], path[1][0], "o", color=colour, markerfacecolor="white", markersize=4)
        axes.plot(x[-1], y[-1], ".", color=colour, markersize=3, alpha=0.5)
    first, second = (registry.label_of(name) for name in PLANE)
    axes.set(
        xlabel=f"{first}, above null, {site}-activation (left: diagonals, right: axes)",
        ylabel=f"{second}, above null",
    )
    figure.legend(loc="outside right upper", fontsize=6)
    return figure


def _median(values: np.ndarray) -> float:
    finite = values[np.isfinite(values)]
    return float(np.median(finite)) if len(finite) else np.nan


def plot_p_values(p: xr.DataArray, *, ax: Axes) -> Axes:
    """Draws the distribution of p-values on isotropic clouds, which should follow the diagonal.

    Args:
      p: p-values that `calibration.null_p_values` returned, over law, statistic and cloud.
      ax: The axes to draw in.

    Returns:
      The axes, with a curve per law and statistic, coloured by law.
    """
    ax.plot([0, 1], [0, 1], "k--", linewidth=0.8)
    for i, law in enumerate(p["law"].values):
        for statistic in p["statistic"].values:
            values = p.sel(law=law, statistic=statistic).values
            values = np.sort(values[np.isfinite(values)])
            if len(values):
                fraction = np.arange(1, len(values) + 1) / len(values)
                ax.step(values, fraction, where="post", color=f"C{i}", linewidth=0.6, alpha=0.6)
        ax.plot([], [], color=f"C{i}", label=drawn(law))
    ax.set(
        xlabel="p-value", ylabel="fraction of clouds with at most this p", xlim=(0, 1), ylim=(0, 1)
    )
    ax.legend(fontsize=6)
    return ax


def plot_power(found: xr.Dataset, *, kind: str, ax: Axes) -> Axes:
    """Draws the power of the rotation test against the fraction of aligned samples.

    Args:
      found: A Dataset that `calibration.power` returned.
      kind: `axes` or `corners`, on which the aligned samples lie.
      ax: The axes to draw in.

    Returns:
      The axes, with a curve per statistic and a dashed line at the level of the test, 5 %.
    """
    for statistic in found["statistic"].values:
        curve = found["power"].sel(kind=kind, statistic=statistic)
        ax.plot(
            found["fraction"],
            curve,
            "o-",
            markersize=3,
            label=drawn(registry.label_of(str(statistic))),
        )
    ax.axhline(LEVEL, color="k", linestyle="--", linewidth=0.8)
    ax.set(
        xlabel=f"fraction of samples on the {kind}",
        ylabel="fraction of clouds with p ≤ .05",
        ylim=(0, 1.03),
    )
    ax.legend(fontsize=6)
    return ax


def plot_seeds(
    columns: dict[str, np.ndarray],
    *,
    ax: Axes,
    colour: str = "C0",
    shift: float = 0.0,
    label: str | None = None,
    at: Sequence[float] | None = None,
) -> Axes:
    """Draws every seed as a point, and the interquartile mean of the seeds with its 95 % interval.

    Args:
      columns: Names along the horizontal axis, each with one value per seed, `(seeds,)`.
      ax: The axes to draw in.
      colour: Colour of this group.
      shift: Sideways shift of this group, as a fraction of the smallest distance between columns,
        so that several groups can be drawn beside each other.
      label: Text of the legend, or None for no entry.
      at: Horizontal coordinates of the columns, ascending; None draws them at 0, 1, 2 and so on.

    Returns:
      The axes.
    """
    centres = np.arange(len(columns)) if at is None else np.asarray(at, float)
    closest = np.diff(centres).min(initial=1.0)
    for x, values in zip(centres + shift * closest, columns.values(), strict=True):
        spread = closest * np.linspace(-0.06, 0.06, len(values)) if len(values) > 1 else np.zeros(1)
        ax.plot(x + spread, values, ".", color=colour, markersize=2.5, alpha=0.45)
        low, high = bootstrap_interval(values)
        ax.plot([x, x], [low, high], color=colour, linewidth=2)
        ax.plot(
            x,
            interquartile_mean(values),
            "_",
            color=colour,
            markersize=9,
            markeredgewidth=2,
            label=label and drawn(label),
        )
        label = None  # The legend has one entry per group.
    ax.set_xticks(centres, [drawn(name) for name in columns], fontsize=7)
    ax.tick_params(labelsize=7)
    return ax


def plot_z(series: dict[str, dict[str, float]], *, ax: Axes) -> Axes:
    """Draws z of several series, on an axis that is linear up to ±3 and logarithmic beyond.

    Args:
      series: Labels of the legend, each with a dictionary from the names along the horizontal axis
        to z. All series have the same names.
      ax: The axes to draw in.

    Returns:
      The axes, in which |z| ≤ 2 is shaded.
    """
    ax.axhspan(-2, 2, color="0.9")
    for k, (label, points) in enumerate(series.items()):
        shift = 0.1 * (k - (len(series) - 1) / 2)
        x = np.arange(len(points)) + shift
        ax.vlines(x, 0, list(points.values()), color=f"C{k}", linewidth=0.8)
        ax.plot(x, list(points.values()), "o", color=f"C{k}", markersize=4, label=drawn(label))
    names = list(next(iter(series.values())))
    ax.set_xticks(range(len(names)), [drawn(name) for name in names], fontsize=7)
    return _z_scale(ax)


def plot_courses(table: pd.DataFrame, *, statistic: str, site: str, ax: Axes) -> Axes:
    """Draws z against epochs: a colour per activation, a line and marker per optimiser and so on.

    Args:
      table: What `emergence.course_table` returned, of whose rows colours and styles are made, so
        that they are the same for all statistics.
      statistic: The statistic to draw.
      site: `pre` or `post`.
      ax: The axes to draw in.

    Returns:
      The axes, in which |z| ≤ 2 is shaded. Points with q ≤ .05 in these networks are filled.
    """
    ax.axhspan(-2, 2, color="0.9")
    functions = list(dict.fromkeys(table["activation"]))
    others = [name for name in ("optimizer", "width") if table[name].nunique() > 1]
    if table.groupby("optimizer")["rate"].nunique().max() > 1:
        others.append("rate")
    styles = list(dict.fromkeys(zip(*(table[name].astype(str) for name in others), strict=True)))
    shown = table[(table["statistic"] == statistic) & (table["site"] == site)]
    for names, rows in shown.groupby(["activation", *others], sort=False):
        function, *where = (str(name) for name in names)
        colour = f"C{functions.index(function) % 10}"
        number = styles.index(tuple(where)) if where else 0
        style = LINES[number % len(LINES)]
        marker = MARKERS[number // len(LINES) % len(MARKERS)]
        label = drawn(", ".join([function, *where]))
        points: dict[str, Any] = {"marker": marker, "color": colour, "mew": 0.6, "markersize": 3}
        line: dict[str, Any] = {
            "linestyle": style,
            "linewidth": 0.9,
            "mfc": "white",
            "label": label,
        }
        ax.plot(rows["epoch"], rows["z"], **points, **line)
        known = rows[rows["q networks"] <= LEVEL]
        ax.plot(known["epoch"], known["z"], linestyle="", **points)
    ax.set_xscale("symlog", linthresh=2)
    ax.xaxis.set_major_locator(FixedLocator(EPOCH_TICKS))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter("{x:g}")
    return _z_scale(ax)


def _z_scale(ax: Axes) -> Axes:
    """Makes an axis of z linear up to ±3 and logarithmic beyond."""
    ax.set_yscale("symlog", linthresh=3)
    ax.yaxis.set_major_locator(FixedLocator(Z_TICKS))
    ax.yaxis.set_minor_locator(NullLocator())
    ax.yaxis.set_major_formatter("{x:g}")
    ax.margins(y=0.08)
    ax.tick_params(labelsize=7)
    return ax
