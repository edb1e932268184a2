"""Pictures as the paper shows them: the number of points per area, on black (arXiv 2507.12070)."""

from collections.abc import Sequence

import matplotlib
import numpy as np
import xarray as xr
from matplotlib import colors
from matplotlib.axes import Axes
from matplotlib.image import AxesImage
from matplotlib.patches import Rectangle

BLACK = "#000000"
# The first colour is black itself, so that nothing in a bin is seen as nothing.
COLORMAP = colors.ListedColormap(
    [(0.0, 0.0, 0.0), *matplotlib.colormaps["inferno"](np.linspace(0, 1, 256))[1:, :3]]
)
CLIPPED = 0.001  # the share of a strip's area that may be brighter than the scale's end


def point_density(picture: xr.Dataset) -> np.ndarray:
    """Returns the number of accepted points per unit area, `(v, u)`.

    Over the whole plane it integrates to the number of accepted points. It is the density that
    `ppp` returns, which is a fraction of the pairs of planes and samples, times their number.

    Args:
      picture: A single picture that `ppp` returned, of all planes or of one.
    """
    accepted, fraction = picture["accepted"].item(), picture["acceptance"].item()
    density: np.ndarray = picture["density"].values * (accepted / fraction if accepted else 0.0)
    return density


def density_scale(pictures: Sequence[xr.Dataset]) -> colors.PowerNorm:
    """Returns a colour scale for several pictures, which goes with the square root from 0 points.

    On a linear scale only the densest places are seen, so that an uneven ring looks like separate
    clusters. Beyond the scale's end is 0.1 % of the area of all pictures together, in latent units:
    a cloud that is still small, as before training, is a bright dot and does not darken the others.

    Args:
      pictures: Pictures that `ppp` returned, each over `(v, u)`.
    """
    densities = [point_density(picture) for picture in pictures]
    areas = [
        np.full(density.size, half_width(picture) ** 2 / density.size)
        for density, picture in zip(densities, pictures, strict=True)
    ]
    values = np.concatenate([density.ravel() for density in densities])
    weights = np.concatenate(areas)
    top = np.quantile(values, 1 - CLIPPED, weights=weights, method="inverted_cdf")
    top = float(top) or float(values.max()) or 1.0
    return colors.PowerNorm(0.5, 0, top, clip=True)


def half_width(picture: xr.Dataset) -> float:
    """Returns the half-width of a picture in latent units."""
    u = picture["u"].values
    return float(u[-1] + (u[1] - u[0]) / 2)


def draw_points(
    axes: Axes,
    picture: xr.Dataset,
    norm: colors.Normalize,
    square: tuple[float, float, float, float],
    half: float,
) -> AxesImage:
    """Draws a picture in the middle of a black square, which may be wider than the picture.

    Args:
      axes: The axes to draw in.
      picture: A single picture that `ppp` returned.
      norm: The colour scale.
      square: Left, right, bottom and top of the square in the coordinates of the axes.
      half: Half-width of the square in latent units, at least that of the picture.
    """
    left, right, bottom, top = square
    axes.add_patch(Rectangle((left, bottom), right - left, top - bottom, color=BLACK, linewidth=0))
    x, y, share = (left + right) / 2, (bottom + top) / 2, half_width(picture) / half / 2
    wide, high = share * (right - left), share * (top - bottom)
    return axes.imshow(
        point_density(picture),
        origin="lower",
        extent=(x - wide, x + wide, y - high, y + high),
        cmap=COLORMAP,
        norm=norm,
        interpolation="nearest",
        zorder=2,  # above the square
    )
