"""Drawing: axes in, axes out. Nothing is computed here."""

from collections.abc import Iterable
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from matplotlib import colors
from matplotlib.axes import Axes
from matplotlib.figure import Figure

COLORMAP = "RdBu_r"  # blue: fewer than isotropic, white: as many, red: more
MIN_RATIO_RANGE = 4.0
EMPTY_COLOR = "0.8"  # where nothing is expected, so a ratio would say nothing
PANEL_INCHES = 1.15


def ratio_scale(ratios: Iterable[np.ndarray]) -> colors.Normalize:
    """Returns the one colour scale of a set of ratios: logarithmic, 1 in the middle.

    It reaches the 99.9 % quantile of all ratios together, and at least from 1/4 to 4, so that
    noise around 1 does not look like structure. Ratios beyond either end take the end's colour.
    """
    present = np.concatenate([ratio[np.isfinite(ratio)] for ratio in ratios])
    high = max(MIN_RATIO_RANGE, float(np.quantile(present, 0.999)) if len(present) else 0)
    return colors.LogNorm(1 / high, high, clip=True)


def plot_ppp(
    picture: xr.Dataset, *, ax: Axes | None = None, norm: colors.Normalize | None = None
) -> Axes:
    """Draws a PPP density over its isotropic null.

    Args:
      picture: what `ppp` returns.
      ax: where to draw; by default a new figure, with a colour bar and labelled axes.
      norm: colour scale; by default `ratio_scale` of this picture.

    Returns:
      The axes. White is as many as isotropic latents would have, red more, blue fewer; grey is
      where too few are expected to tell. The title is A/A0.
    """
    alone = ax is None
    axes = plt.figure(figsize=(4.2, 3.6)).add_subplot() if ax is None else ax
    norm = norm or ratio_scale([picture["ratio"].values])
    half = float(picture["u"][-1] + (picture["u"][1] - picture["u"][0]) / 2)
    axes.set_facecolor(EMPTY_COLOR)
    image = axes.imshow(
        np.maximum(picture["ratio"].values, norm.vmin),  # a logarithm has no place for 0
        origin="lower",
        extent=(-half, half, -half, half),
        cmap=COLORMAP,
        norm=norm,
        interpolation="nearest",
    )
    ratio = picture.attrs["acceptance_ratio"]
    axes.set_title(f"A/A0 = {ratio:.3g}", fontsize=8 if alone else 6, pad=2)
    if picture.attrs["accepted"] == 0:
        axes.text(0.5, 0.5, "none\naccepted", transform=axes.transAxes, ha="center", va="center",
                  fontsize=8 if alone else 6)  # fmt: skip
    if alone:
        axes.set(xlabel="u (latent units)", ylabel="v (latent units)")
        axes.figure.colorbar(image, ax=axes, label="density / isotropic null")
    return axes


def plot_strip(
    panels: list[list[xr.Dataset]], *, rows: list[str], columns: list[str], title: str
) -> Figure:
    """Draws PPP pictures as a table, say a row per activation and a column per training epoch.

    Args:
      panels: `panels[row][column]`, each what `ppp` returns.
      rows: a name for each row.
      columns: a name for each column.
      title: heading of the figure.

    Returns:
      The figure. Each row (strip) has one colour scale, drawn at its end; each panel has its own
      half-width, written in its corner in latent units.
    """
    size = (1.3 + PANEL_INCHES * len(columns) + 0.7, 0.75 + (PANEL_INCHES + 0.16) * len(rows))
    figure = Figure(figsize=size, dpi=110)
    grid = figure.add_gridspec(
        len(rows),
        len(columns) + 1,
        width_ratios=[1.0] * len(columns) + [0.07],
        left=1.3 / size[0],
        right=1 - 0.45 / size[0],
        top=1 - 0.62 / size[1],
        bottom=0.08 / size[1],
        wspace=0.06,
        hspace=0.2,
    )
    figure.suptitle(title, fontsize=9, y=1 - 0.1 / size[1], va="top")
    for r, (name, strip) in enumerate(zip(rows, panels, strict=True)):
        norm = ratio_scale([picture["ratio"].values for picture in strip])
        drawn = [
            _panel(figure.add_subplot(grid[r, c]), picture, norm) for c, picture in enumerate(strip)
        ]
        label = {"rotation": 0, "ha": "right", "va": "center", "fontsize": 8}
        drawn[0].set_ylabel(name.replace("isotropic_", "isotropic\n"), **label)
        if r == 0:
            for axes, column in zip(drawn, columns, strict=True):
                axes.set_title(f"{column}\n{axes.get_title()}", fontsize=6, pad=2)
        _ratio_bar(figure, drawn[0], figure.add_subplot(grid[r, -1]), norm)
    return figure


def _panel(axes: Axes, picture: xr.Dataset, norm: colors.Normalize) -> Axes:
    plot_ppp(picture, ax=axes, norm=norm)
    axes.set(xticks=[], yticks=[])
    half = axes.get_xlim()[1]
    axes.text(0.98, 0.02, f"±{half:.2g}", transform=axes.transAxes, ha="right", fontsize=5)
    return axes


def _ratio_bar(figure: Figure, axes: Axes, place: Axes, norm: colors.Normalize) -> None:
    bar = figure.colorbar(axes.images[0], cax=place)
    ticks = [norm.vmin, 1.0, norm.vmax]
    bar.set_ticks(ticks, labels=[f"{tick:.2g}" for tick in ticks])
    bar.minorticks_off()
    bar.ax.tick_params(labelsize=6, pad=1, length=2)


def plot_curves(values: xr.DataArray, *, ax: Axes | None = None, yscale: str = "linear") -> Axes:
    """Draws a quantity against training epochs: every seed thin, each activation's median thick.

    Args:
      values: over `(activation, seed, step)`, with a coordinate `epoch` along `step`.
      ax: where to draw; by default a new figure.
      yscale: `linear` or `log`.

    Returns:
      The axes; elementwise activations are solid, isotropic ones dashed. The epoch axis is
      logarithmic from 1 on, with epoch 0 at its left edge.
    """
    axes = plt.figure(figsize=(5, 3.5)).add_subplot() if ax is None else ax
    epochs = values["epoch"].values
    for i, name in enumerate(values["activation"].values):
        curves = values.sel(activation=name).transpose("step", "seed").values
        curves = np.where(np.isfinite(curves), curves, np.nan)
        isotropic = str(name).startswith("isotropic_")
        style: dict[str, Any] = {"color": f"C{i}", "linestyle": "--" if isotropic else "-"}
        axes.plot(epochs, curves, linewidth=0.5, alpha=0.35, **style)
        median = [np.median(row[~np.isnan(row)]) if (~np.isnan(row)).any() else np.nan
                  for row in curves]  # fmt: skip
        axes.plot(epochs, median, linewidth=1.6, label=str(name), **style)
    axes.set_xscale("symlog", linthresh=1)
    axes.set(yscale=yscale, xlabel="epoch", ylabel=values.attrs.get("long_name", values.name))
    axes.set_xlim(left=0)
    return axes
