"""Figures of PPP pictures, SRM curves and training curves, drawn from computed results."""

import textwrap
from collections.abc import Iterable
from typing import Any, NamedTuple

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from matplotlib import colors
from matplotlib.axes import Axes
from matplotlib.colorbar import Colorbar
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.projections.polar import PolarAxes
from matplotlib.ticker import MaxNLocator

from ppp_jax.analysis.io.sources import is_real
from ppp_jax.analysis.projection.isotropic_null import ENOUGH_POINTS, FEW_POINTS, count_text
from ppp_jax.analysis.texts import drawn
from ppp_jax.errors import InputError, choice, truth

# Red means more samples than isotropic latents would have, white as many, blue fewer; grey means
# that too few are expected for a ratio.
COLORMAP = matplotlib.colormaps["RdBu_r"].with_extremes(bad="0.8")
MIN_RATIO_RANGE = 4.0
PANEL_INCHES = 1.15
LONGEST_NAME = 12  # A longer name of an activation takes two lines beside its strip.
ROTATED = "rotated basis"
LEGEND = (
    "Each panel shows u (to the right) and v (upwards) up to ± the half-width in its corner, in "
    "latent units. Colour is the density of accepted samples divided by that of isotropic latents, "
    "clipped at the ends of the bar; grey means that too few samples are expected. A/A0 is the "
    "accepted fraction divided by the isotropic one."
)
BESIDE = (
    " Red alone says that latents are not isotropic, which those of real layers never are. Only "
    f"what differs from the panel “{ROTATED}”, the same latents in a random basis, is due to the "
    "basis."
)


def ratio_scale(ratios: Iterable[np.ndarray]) -> colors.LogNorm:
    """Returns a logarithmic colour scale for several pictures, with 1 in the middle.

    The scale ends at the 99.9 % quantile of all ratios together and at its inverse. It covers at
    least 1/4 to 4, so that noise around 1 does not look like structure. Ratios beyond either end
    get the colour of that end.

    Args:
      ratios: Ratios of density and null, a picture per entry, each of any shape.
    """
    present = np.concatenate([ratio[np.isfinite(ratio)] for ratio in ratios])
    high = max(MIN_RATIO_RANGE, float(np.quantile(present, 0.999)) if len(present) else 0)
    return colors.LogNorm(1 / high, high, clip=True)


def plot_ppp(
    picture: xr.Dataset,
    *,
    beside: xr.Dataset | None = None,
    ax: Axes | None = None,
    norm: colors.LogNorm | None = None,
    colorbar: bool = True,
) -> Axes:
    """Draws the ratio of a PPP density and its isotropic null (docs/method.md §2).

    Args:
      picture: A single picture that `ppp` returned, over `(v, u)`.
      beside: A picture of the same latents in a rotated basis, `ppp(…, rotated=0)`, to be drawn
        beside it in the same colour scale; None draws the picture alone.
      ax: The axes to draw in; by default those of a new figure.
      norm: The colour scale; by default `ratio_scale` of what is drawn.
      colorbar: Whether to draw the colour scale beside the axes.

    Returns:
      The axes of the picture; those of the rotated one are the next of their figure. White means as
      many samples as isotropic latents would have, red more, and blue fewer; grey means that too
      few are expected for a ratio. If no sample was accepted, the picture says so, and how many
      points were expected of isotropic latents.

    Raises:
      InputError: `picture` or `beside` holds several pictures or none, `beside` is in no rotated
        basis or of another ε, both `beside` and `ax` are given, or another argument is of a wrong
        type.
    """
    _check_dims(picture, "ratio", ("v", "u"), "picture")
    _check_axes(ax)
    truth("colorbar", colorbar)
    if norm is not None and not isinstance(norm, colors.LogNorm):
        raise InputError(
            "norm",
            type(norm).__name__,
            "must be a matplotlib.colors.LogNorm, such as ratio_scale returns",
        )
    pictures = {"": picture}
    if beside is not None:
        _check_dims(beside, "ratio", ("v", "u"), "beside")
        _check_rotated(picture, beside)
        pictures[f"{ROTATED}: "] = beside
    panels = _axes_of(ax, len(pictures))
    norm = norm or ratio_scale([one["ratio"].values for one in pictures.values()])
    for axes, (name, one) in zip(panels, pictures.items(), strict=True):
        half = _half_width(one)
        image = _draw_ratio(axes, one, norm, (-half, half, -half, half))
        axes.set(xlabel="u (latent units)", ylabel="v (latent units)")
        axes.set_title(name + _acceptance(one))
    if colorbar:
        bar = panels[0].figure.colorbar(image, ax=panels, label="density / isotropic null")
        _tick_ratio(bar, norm)
    return panels[0]


def _axes_of(ax: Axes | None, count: int) -> list[Axes]:
    """Returns the given axes for one picture, or those of a new figure for any number."""
    if ax is None:
        figure = plt.figure(figsize=(0.8 + 3.4 * count, 3.6), layout="constrained")
        return [figure.add_subplot(1, count, k + 1) for k in range(count)]
    if count > 1:
        problem = "must be None where two pictures are drawn, which get a figure of their own"
        raise InputError("ax", type(ax).__name__, problem)
    return [ax]


def _half_width(picture: xr.Dataset) -> float:
    u = picture["u"].values
    return float(u[-1] + (u[1] - u[0]) / 2)


def _acceptance(picture: xr.Dataset) -> str:
    none = "" if picture["accepted"].item() else " (none)"
    ratio = picture["acceptance_ratio"].item()
    if np.isinf(ratio):  # In wide layers A0 can be too small for a number.
        return f"A/A0 = 10^{picture['log10_acceptance_ratio'].item():.0f}"
    return f"A/A0 = {ratio:.3g}{none}"


def _draw_ratio(
    axes: Axes,
    picture: xr.Dataset,
    norm: colors.LogNorm,
    extent: tuple[float, float, float, float],
) -> AxesImage:
    image = axes.imshow(
        np.maximum(picture["ratio"].values, norm.vmin or 0),  # A logarithmic scale has no 0.
        origin="lower",
        extent=extent,
        cmap=COLORMAP,
        norm=norm,
        interpolation="nearest",
    )
    if not picture["accepted"].item():
        x, y = (extent[0] + extent[1]) / 2, (extent[2] + extent[3]) / 2
        text = _nothing(picture["expected"].item())
        ground = {"facecolor": "0.8", "edgecolor": "none", "pad": 1}  # The null can be behind it.
        axes.text(x, y, text, ha="center", va="center", fontsize=7, bbox=ground)
    elif not np.isfinite(picture["ratio"].values).any():
        _draw_density(axes, picture, extent)
    return image


def _nothing(expected: float) -> str:
    """Returns what an empty picture says, which depends on how many points were expected."""
    number = count_text(expected)
    if expected < FEW_POINTS:
        return f"too few samples:\n{number} expected"
    if expected < ENOUGH_POINTS:
        return f"none of {number}\nexpected samples"
    return f"nothing\naccepted,\n{number} expected"


def _draw_density(
    axes: Axes, picture: xr.Dataset, extent: tuple[float, float, float, float]
) -> None:
    """Draws the density itself if the null is too small everywhere for a ratio, and says so."""
    density = picture["density"].values
    top = max(density.max(), np.finfo(float).tiny)
    norm = colors.LogNorm(1e-4 * top, top, clip=True)
    axes.imshow(density, origin="lower", extent=extent, cmap="Greys", norm=norm)
    x, y = (extent[0] + extent[1]) / 2, extent[3] - 0.02 * (extent[3] - extent[2])
    axes.text(x, y, "density (null too small)", ha="center", va="top", fontsize=6)


def _check_axes(ax: Any) -> None:
    if ax is not None and not isinstance(ax, Axes):
        raise InputError(
            "ax", type(ax).__name__, "must be matplotlib axes, or None for a new figure"
        )


def _check_dims(made: xr.Dataset, name: str, wanted: tuple[str, ...], field: str) -> None:
    if name not in getattr(made, "data_vars", ()):
        source = "ppp" if name == "ratio" else "srm"
        raise InputError(field, type(made).__name__, f"must be what {source}(…) returns")
    dims = made[name].dims
    if dims != wanted:
        more = ", ".join(str(dim) for dim in dims if dim not in wanted)
        problem = (
            f"must be over {wanted}; select one along {more}, such as .isel({more.split(',')[0]}=0)"
        )
        raise InputError(field, dims, problem)


def _check_rotated(picture: xr.Dataset, beside: xr.Dataset) -> None:
    if "rotated" not in beside.attrs:
        problem = "must be a picture in a rotated basis, as ppp(…, rotated=0) returns"
        raise InputError("beside", beside.attrs.get("basis", "Dataset"), problem)
    if not np.array_equal(beside["epsilon"], picture["epsilon"]):
        problem = f"must have the ε of the picture, {picture['epsilon'].item():g}"
        raise InputError("beside", f"ε = {beside['epsilon'].item():g}", problem)


def plot_srm(curves: xr.Dataset, *, ax: Axes | None = None, planes: bool = True) -> Axes:
    """Draws Spotlight Resonance against the angle of the probe (docs/method.md §3).

    Args:
      curves: A Dataset that `srm` returned, at one ε.
      ax: The polar axes to draw in; by default those of a new figure.
      planes: Whether to draw the curve of every plane in `curves` as a thin line.

    Returns:
      The axes. The probe points along the first basis vector of a plane at 0°. The radius is the
      fraction of samples in the spotlight. The thick red line is the mean over all planes, and
      the dashed line the value of isotropic latents.

    Raises:
      InputError: `curves` hold several ε or no SRM, or the axes are not polar.
    """
    _check_dims(curves, "pooled", ("angle",), "curves")
    _check_axes(ax)
    truth("planes", planes)
    axes = (
        plt.figure(figsize=(4, 4), layout="constrained").add_subplot(projection="polar")
        if ax is None
        else ax
    )
    if not isinstance(axes, PolarAxes):
        raise InputError(
            "ax",
            type(axes).__name__,
            "must be polar axes, such as pyplot.subplot(projection='polar')",
        )
    # The last point repeats the first, so that the curve is closed.
    order = np.argsort(curves["angle"].values % (2 * np.pi), kind="stable")
    order = np.append(order, order[0])
    turn = curves["angle"].values[order] % (2 * np.pi)
    turn[-1] += 2 * np.pi
    own = curves["srm"].values[:, order]
    if planes and len(own) > 1:
        axes.plot(turn, own.T, color="C0", linewidth=0.4, alpha=max(0.03, min(0.5, 8 / len(own))))
    axes.plot(turn, np.full(len(turn), curves["null"].item()), "k--", linewidth=0.8)
    axes.plot(turn, curves["pooled"].values[order], color="C3", linewidth=1.8)
    count, epsilon = curves.attrs["frame_planes"], curves["epsilon"].item()
    axes.set_title(
        f"mean of {count:,} planes (red), ε = {epsilon:g}\nisotropic (dashed)", fontsize=8
    )
    axes.tick_params(labelsize=6)
    axes.yaxis.set_major_locator(MaxNLocator(3))  # More labels would cover the curves.
    axes.set_rlabel_position(22.5)
    return axes


def _tick_ratio(bar: Colorbar, norm: colors.LogNorm) -> None:
    ticks = [x for x in (norm.vmin, 1.0, norm.vmax) if x is not None]
    bar.set_ticks(ticks, labels=[f"{tick:.2g}" for tick in ticks])
    bar.minorticks_off()


def plot_strip(
    panels: list[list[xr.Dataset]],
    *,
    rows: list[str],
    columns: list[str],
    title: str,
    beside: list[list[xr.Dataset | None]] | None = None,
    notes: list[list[str]] | None = None,
) -> Figure:
    """Draws PPP pictures as a table, such as a row per activation and a column per training epoch.

    Args:
      panels: The pictures that `ppp` returned, as `panels[row][column]`.
      rows: Names of the rows.
      columns: Names of the columns.
      title: Title of the figure.
      beside: Pictures of the same latents in a rotated basis, `ppp(…, rotated=0)`, as
        `beside[row][column]`, or None where there is none; each is drawn to the right of its
        picture.
      notes: Short texts, as `notes[row][column]`, which stand below these pictures, or below the
        pictures themselves in columns without such ones.

    Returns:
      The figure. Each row (strip) has one colour scale, which is drawn at its end. Each panel has
      its own half-width, which is written in its corner in latent units.

    Raises:
      InputError: There are no pictures, or there is not one for each row and column; or `beside` or
        `notes` is another table.
    """
    table = _table(panels, rows, columns, beside, notes)
    if not isinstance(title, str):
        raise InputError("title", title, "must be a string")
    names = [_wrapped(drawn(name)) for name in rows]
    longest = max(len(line) for name in names for line in name.split("\n"))
    left = max(1.2, 0.2 + 0.072 * longest)  # This is the space for the names, in inches.
    bottom = 0.14 if notes else 0.0  # This is the space for notes, in panels.
    count = len(table.heads)
    height = (1.14 + bottom) * PANEL_INCHES * len(rows) + 0.7
    size = (left + PANEL_INCHES * count + 0.6, height)
    legend = textwrap.wrap(
        LEGEND + (BESIDE if len(table.heads) > len(columns) else ""), int(20 * size[0])
    )
    figure, stack = _stack(len(rows), left, size, legend)
    figure.suptitle(drawn(title), fontsize=9, y=1 - 0.08 / figure.get_figheight(), va="top")
    for axes, name, strip, texts in zip(stack, names, table.strips, table.notes, strict=True):
        norm = ratio_scale([picture["ratio"].values for picture in strip if picture is not None])
        _draw_strip(axes, strip, norm, texts, bottom)
        axes.text(-0.05, 0.5, name, ha="right", va="center", fontsize=8)
        bar_axes = axes.inset_axes((count + 0.05, 0.1, 0.06, 0.8), transform=axes.transData)
        bar = figure.colorbar(axes.images[0], cax=bar_axes)
        _tick_ratio(bar, norm)
        bar.ax.tick_params(labelsize=6, pad=1, length=2)
    for c, head in enumerate(table.heads):
        stack[0].text(c + 0.5, 1.13, drawn(head), ha="center", va="bottom", fontsize=7)
    return figure


def _stack(
    rows: int, left: float, size: tuple[float, float], legend: list[str]
) -> tuple[Figure, list[Axes]]:
    """Returns a figure with a legend below, and one axes above another, with nothing between."""
    size = (size[0], size[1] + 0.1 * (len(legend) - 1))
    figure = Figure(figsize=size, dpi=110)
    figure.text(0.5, 0.06 / size[1], "\n".join(legend), ha="center", va="bottom", fontsize=6)
    stack = figure.subplots(
        rows,
        1,
        squeeze=False,
        gridspec_kw={
            "left": left / size[0],
            "right": 1 - 0.6 / size[0],
            "top": 1 - 0.5 / size[1],
            "bottom": (0.1 + 0.1 * len(legend)) / size[1],
            "hspace": 0,
        },
    )
    return figure, list(stack.flat)


class _Table(NamedTuple):
    """What a strip draws: pictures and their rotated ones as columns beside each other.

    Attributes:
      heads: A text above each column.
      strips: The pictures of each row, or None where there is none.
      notes: The text below each of them.
    """

    heads: list[str]
    strips: list[list[xr.Dataset | None]]
    notes: list[list[str]]


def _table(panels: Any, rows: Any, columns: Any, beside: Any, notes: Any) -> _Table:
    """Checks the tables that a strip is given, and puts them together."""
    for field, names in (("rows", rows), ("columns", columns)):
        if not _are_texts(names) or not names:
            raise InputError(field, names, "must be a list of one or more names")
    _check_table("panels", panels, rows, columns)
    nothing = [[None] * len(columns) for _ in rows]
    _check_table("beside", nothing if beside is None else beside, rows, columns, gaps=True)
    blank = [[""] * len(columns) for _ in rows]
    texts = blank if notes is None else notes
    if not isinstance(texts, list | tuple) or not all(_are_texts(line) for line in texts):
        raise InputError("notes", type(notes).__name__, "must be lists of texts")
    if [len(line) for line in texts] != [len(columns)] * len(rows):
        problem = f"must be {len(rows)} lists of {len(columns)} texts each"
        raise InputError("notes", type(notes).__name__, problem)
    turned = nothing if beside is None else beside
    table = _Table([], [[] for _ in rows], [[] for _ in rows])
    for c, column in enumerate(columns):
        pair = any(strip[c] is not None for strip in turned)
        table.heads.extend([column, ROTATED] if pair else [column])
        for k in range(len(rows)):
            table.strips[k].extend([panels[k][c], turned[k][c]] if pair else [panels[k][c]])
            table.notes[k].extend(["", texts[k][c]] if pair else [texts[k][c]])
    return table


def _are_texts(given: Any) -> bool:
    return isinstance(given, list | tuple) and all(isinstance(one, str) for one in given)


def _wrapped(name: str) -> str:
    """Returns a name on two lines if it is too long for one line beside a strip."""
    return name.replace("_", "\n", 1) if len(name) > LONGEST_NAME else name


def _check_table(
    field: str, panels: Any, rows: list[str], columns: list[str], *, gaps: bool = False
) -> None:
    """Refuses what is no table of pictures, some of which may be None if there may be gaps."""
    strips = panels if isinstance(panels, list | tuple) else ()
    lists = all(isinstance(strip, list | tuple) for strip in strips)
    if len(strips) != len(rows) or not lists or any(len(x) != len(columns) for x in strips):
        problem = f"must be {len(rows)} lists of {len(columns)} pictures each"
        raise InputError(field, type(panels).__name__, problem)
    for picture in (picture for strip in strips for picture in strip):
        if picture is not None or not gaps:
            _check_dims(picture, "ratio", ("v", "u"), field)


def _draw_strip(
    axes: Axes,
    strip: list[xr.Dataset | None],
    norm: colors.LogNorm,
    notes: list[str],
    bottom: float,
) -> None:
    """Draws panels as unit squares in one axes, which is far faster than an axes per panel."""
    for c, picture in enumerate(strip):
        if picture is None:
            continue
        _draw_ratio(axes, picture, norm, (c + 0.02, c + 0.98, 0.02, 0.98))
        axes.text(c + 0.5, 1.0, _acceptance(picture), ha="center", va="bottom", fontsize=6)
        half = f"±{_half_width(picture):.2g}"
        axes.text(c + 0.96, 0.04, half, ha="right", va="bottom", fontsize=5)
        if notes[c]:
            axes.text(c + 0.5, 0, drawn(notes[c]), ha="center", va="top", fontsize=6)
    axes.set(xlim=(0, len(strip)), ylim=(-bottom, 1.14), aspect="equal")
    axes.set_axis_off()


def plot_curves(values: xr.DataArray, *, ax: Axes | None = None, yscale: str = "linear") -> Axes:
    """Draws a quantity against training epochs: seeds as thin lines, their medians as thick ones.

    Args:
      values: The quantity, over `(activation, seed, step)`, with a coordinate `epoch` along `step`
        and, if it is known, a coordinate `activation_isotropic` along `activation`.
      ax: The axes to draw in; by default those of a new figure.
      yscale: `linear` or `log`.

    Returns:
      The axes. Isotropic activations are dashed and all others solid. The epoch axis is linear
      from 0 to 1 and logarithmic beyond.

    Raises:
      InputError: `values` are over other axes or no numbers, `ax` are no axes, or `yscale` is
        neither word.
    """
    wanted = {"activation", "seed", "step"}
    labelled = isinstance(values, xr.DataArray) and {"epoch", "activation"} <= set(values.coords)
    if not labelled or set(values.dims) != wanted or not is_real(values.dtype):
        found = getattr(values, "dims", type(values).__name__)
        raise InputError(
            "values", found, f"must be real numbers over {sorted(wanted)}, with a coordinate epoch"
        )
    choice("yscale", yscale, ("linear", "log"))
    _check_axes(ax)
    axes = plt.figure(figsize=(5, 3.5), layout="constrained").add_subplot() if ax is None else ax
    epochs, count = values["epoch"].values, values.sizes["activation"]
    facts = values.coords.get("activation_isotropic")
    isotropic = np.zeros(count, bool) if facts is None else facts.values
    for i, name in enumerate(values["activation"].values):
        curves = values.sel(activation=name).transpose("step", "seed").values
        curves = np.where(np.isfinite(curves), curves, np.nan)
        style: dict[str, Any] = {"color": f"C{i}", "linestyle": "--" if isotropic[i] else "-"}
        axes.plot(epochs, curves, linewidth=0.5, alpha=0.35, **style)
        median = [
            np.median(row[~np.isnan(row)]) if (~np.isnan(row)).any() else np.nan for row in curves
        ]
        axes.plot(epochs, median, linewidth=1.6, label=drawn(name), **style)
    axes.set_xscale("symlog", linthresh=1)
    axes.set(
        yscale=yscale, xlabel="epoch", ylabel=drawn(values.attrs.get("long_name", values.name))
    )
    axes.set_xlim(left=0)
    return axes
