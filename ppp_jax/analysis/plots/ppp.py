"""Figures of PPP pictures and SRM curves, drawn from computed results."""

from collections.abc import Iterable, Sequence
from typing import Any

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from matplotlib import colors
from matplotlib.axes import Axes
from matplotlib.colorbar import Colorbar
from matplotlib.image import AxesImage
from matplotlib.projections.polar import PolarAxes
from matplotlib.ticker import MaxNLocator

from ppp_jax.analysis.plots.paper import density_scale, draw_points, half_width
from ppp_jax.analysis.plots.style import BLUE, TEXT, VERMILION, style
from ppp_jax.analysis.projection.isotropic_null import ENOUGH_POINTS, FEW_POINTS, count_text
from ppp_jax.errors import InputError, choice, truth

# Red means more samples than isotropic latents would have, white as many, blue fewer; grey means
# that too few are expected for a ratio.
COLORMAP = matplotlib.colormaps["RdBu_r"].with_extremes(bad="0.8")
MIN_RATIO_RANGE = 4.0
RATIO, PAPER = PICTURE_STYLES = ("ratio", "paper")
ROTATED = "rotated basis"
POINTS = "accepted points per unit area"


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
    norm: colors.Normalize | None = None,
    colorbar: bool = True,
    style: str = RATIO,
) -> Axes:
    """Draws a PPP density: its ratio to the isotropic null, or its points (docs/method.md §2).

    Args:
      picture: A single picture that `ppp` returned, over `(v, u)`.
      beside: A picture of the same latents in a rotated basis, `ppp(…, rotated=0)`, to be drawn
        beside it in the same colour scale; None draws the picture alone.
      ax: The axes to draw in; by default those of a new figure.
      norm: The colour scale, a logarithmic one of ratios; by default `ratio_scale` of what is
        drawn, or for the paper's style one that goes with the square root from 0 points.
      colorbar: Whether to draw the colour scale beside the axes.
      style: `ratio` for the ratio to the isotropic null, or `paper` for the accepted points per
        unit area on black, as the paper shows them.

    Returns:
      The axes of the picture; those of the rotated one are the next of their figure. White means as
      many samples as isotropic latents would have, red more, and blue fewer; grey means that too
      few are expected for a ratio. If no sample was accepted, the picture says so, and how many
      points were expected of isotropic latents.

    Raises:
      InputError: `picture` or `beside` holds several pictures or none, `beside` is in no rotated
        basis or of another ε, both `beside` and `ax` are given, the style is unknown, or another
        argument is of a wrong type.
    """
    check_picture(picture, "picture")
    check_axes(ax)
    truth("colorbar", colorbar)
    choice("style", style, PICTURE_STYLES)
    _check_norm(norm, style)
    pictures = {"": picture}
    if beside is not None:
        check_picture(beside, "beside")
        check_rotated(picture, beside)
        pictures[f"{ROTATED}: "] = beside
    panels = _axes_of(ax, len(pictures))
    norm = norm or colour_scale(list(pictures.values()), style)
    for axes, (name, one) in zip(panels, pictures.items(), strict=True):
        half = half_width(one)
        image = draw_panel(axes, one, style, norm, (-half, half, -half, half))
        axes.set(xlabel="u (latent units)", ylabel="v (latent units)")
        axes.set_title(name + acceptance_text(one))
    if colorbar:
        label = POINTS if style == PAPER else "density / isotropic null"
        tick(panels[0].figure.colorbar(image, ax=panels, label=label), norm)
    return panels[0]


def colour_scale(pictures: Sequence[xr.Dataset], style: str) -> colors.Normalize:
    """Returns one colour scale for several pictures.

    Args:
      pictures: Pictures that `ppp` returned, each over `(v, u)`.
      style: `ratio` or `paper`.
    """
    if style == PAPER:
        return density_scale(pictures)
    return ratio_scale([picture["ratio"].values for picture in pictures])


def _check_norm(norm: Any, style: str) -> None:
    kind = colors.LogNorm if style == RATIO else colors.Normalize
    if norm is not None and not isinstance(norm, kind):
        problem = f"must be a matplotlib.colors.{kind.__name__}"
        like = ", such as ratio_scale returns" if style == RATIO else " from 0 points"
        raise InputError("norm", type(norm).__name__, problem + like)


def _axes_of(ax: Axes | None, count: int) -> list[Axes]:
    """Returns the given axes for one picture, or those of a new figure for any number."""
    if ax is None:
        figure = plt.figure(figsize=(0.8 + 3.4 * count, 3.6), layout="constrained")
        return [figure.add_subplot(1, count, k + 1) for k in range(count)]
    if count > 1:
        problem = "must be None where two pictures are drawn, which get a figure of their own"
        raise InputError("ax", type(ax).__name__, problem)
    return [ax]


def acceptance_text(picture: xr.Dataset) -> str:
    """Returns A/A0 of a picture in words that stand above it."""
    none = "" if picture["accepted"].item() else " (none)"
    ratio = picture["acceptance_ratio"].item()
    if np.isinf(ratio):  # In wide layers A0 can be too small for a number.
        return f"A/A0 = 10^{picture['log10_acceptance_ratio'].item():.0f}"
    return f"A/A0 = {ratio:.3g}{none}"


def draw_panel(
    axes: Axes,
    picture: xr.Dataset,
    style: str,
    norm: colors.Normalize,
    square: tuple[float, float, float, float],
    *,
    half: float | None = None,
    fontsize: float = TEXT,
) -> AxesImage:
    """Draws a picture in a square, or the words that it is empty.

    Args:
      axes: The axes to draw in.
      picture: A single picture that `ppp` returned.
      style: `ratio` or `paper`.
      norm: The colour scale.
      square: Left, right, bottom and top of the square in the coordinates of the axes.
      half: Half-width of the square in latent units in the paper's style, at least that of the
        picture; by default that of the picture.
      fontsize: Font size in points of what is written into the square.
    """
    if style == PAPER:
        image = draw_points(axes, picture, norm, square, half or half_width(picture))
    else:
        image = _draw_ratio(axes, picture, norm, square, fontsize)
    if not picture["accepted"].item():
        x, y = (square[0] + square[1]) / 2, (square[2] + square[3]) / 2
        # The null can be behind it.
        ground = {"facecolor": "black" if style == PAPER else "0.8", "edgecolor": "none", "pad": 1}
        text: dict[str, Any] = {"color": "white" if style == PAPER else "black", "bbox": ground}
        said = _nothing(picture["expected"].item())
        axes.text(x, y, said, ha="center", va="center", fontsize=fontsize, **text)
    return image


def _draw_ratio(
    axes: Axes,
    picture: xr.Dataset,
    norm: colors.Normalize,
    extent: tuple[float, float, float, float],
    fontsize: float,
) -> AxesImage:
    image = axes.imshow(
        np.maximum(picture["ratio"].values, norm.vmin or 0),  # A logarithmic scale has no 0.
        origin="lower",
        extent=extent,
        cmap=COLORMAP,
        norm=norm,
        interpolation="nearest",
    )
    if picture["accepted"].item() and not np.isfinite(picture["ratio"].values).any():
        _draw_density(axes, picture, extent, fontsize)
    return image


def _nothing(expected: float) -> str:
    """Returns what an empty picture says, which depends on how many points were expected."""
    number = count_text(expected)
    if expected < FEW_POINTS:
        return f"too few samples:\n{number} expected"
    if expected < ENOUGH_POINTS:
        return f"none of {number}\nexpected points"
    return f"nothing\naccepted,\n{number} expected"


def _draw_density(
    axes: Axes,
    picture: xr.Dataset,
    extent: tuple[float, float, float, float],
    fontsize: float,
) -> None:
    """Draws the density itself if the null is too small everywhere for a ratio, and says so."""
    density = picture["density"].values
    top = max(density.max(), np.finfo(float).tiny)
    norm = colors.LogNorm(1e-4 * top, top, clip=True)
    axes.imshow(density, origin="lower", extent=extent, cmap="Greys", norm=norm)
    x, y = (extent[0] + extent[1]) / 2, extent[3] - 0.02 * (extent[3] - extent[2])
    axes.text(x, y, "density\n(null too small)", ha="center", va="top", fontsize=fontsize)


def check_axes(ax: Any) -> None:
    """Refuses what is neither axes nor None.

    Args:
      ax: What was given.
    """
    if ax is not None and not isinstance(ax, Axes):
        raise InputError(
            "ax", type(ax).__name__, "must be matplotlib axes, or None for a new figure"
        )


def _check_dims(made: Any, name: str, wanted: tuple[str, ...], field: str) -> None:
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


def check_picture(made: Any, field: str) -> None:
    """Refuses what is no single picture that `ppp` returned.

    Args:
      made: What was given.
      field: Name of the argument, for the error message.
    """
    _check_dims(made, "ratio", ("v", "u"), field)


def check_rotated(picture: xr.Dataset, beside: xr.Dataset) -> None:
    """Refuses a picture, given as `beside`, that is not of a rotated basis or of another ε.

    Args:
      picture: The picture beside which it is drawn.
      beside: The picture that is checked.
    """
    if "rotated" not in beside.attrs:
        problem = "must be a picture in a rotated basis, as ppp(…, rotated=0) returns"
        raise InputError("beside", beside.attrs.get("basis", "Dataset"), problem)
    if not np.array_equal(beside["epsilon"], picture["epsilon"]):
        problem = f"must have the ε of the picture, {picture['epsilon'].item():g}"
        raise InputError("beside", f"ε = {beside['epsilon'].item():g}", problem)


@style()
def plot_srm(curves: xr.Dataset, *, ax: Axes | None = None, planes: bool = True) -> Axes:
    """Draws Spotlight Resonance against the angle of the probe (docs/method.md §3).

    Args:
      curves: A Dataset that `srm` returned, at one ε.
      ax: The polar axes to draw in; by default those of a new figure.
      planes: Whether to draw the curve of every plane in `curves` as a thin line.

    Returns:
      The axes. The probe points along the first basis vector of a plane at 0°. The radius is the
      fraction of samples in the spotlight. The thick line is the mean over all planes, and the
      dashed line the value of isotropic latents.

    Raises:
      InputError: `curves` hold several ε or no SRM, or the axes are not polar.
    """
    _check_dims(curves, "pooled", ("angle",), "curves")
    check_axes(ax)
    truth("planes", planes)
    axes = plt.figure(figsize=(4, 4.2)).add_subplot(projection="polar") if ax is None else ax
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
        axes.plot(turn, own.T, color=BLUE, linewidth=0.4, alpha=max(0.03, min(0.5, 8 / len(own))))
    axes.plot(turn, np.full(len(turn), curves["null"].item()), "k--", linewidth=0.8)
    axes.plot(turn, curves["pooled"].values[order], color=VERMILION, linewidth=1.8)
    count, epsilon = curves.attrs["frame_planes"], curves["epsilon"].item()
    axes.set_title(f"mean of {count:,} planes, ε = {epsilon:g}\n(dashed: isotropic)", loc="center")
    axes.yaxis.set_major_locator(MaxNLocator(3))  # More labels would cover the curves.
    axes.set_rlabel_position(22.5)
    return axes


def tick(bar: Colorbar, norm: colors.Normalize) -> None:
    """Marks the ends and the middle of the bar of a colour scale that is drawn along it evenly."""
    values = [float(value) for value in norm.inverse(np.array([0, 0.5, 1]))]
    bar.set_ticks(values, labels=[_short(value) for value in values])
    bar.minorticks_off()


def _short(value: float) -> str:
    return f"{value:,.0f}" if 10 <= value < 1e5 else f"{value:.2g}"
