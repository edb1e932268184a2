"""The smooth density of binned points and its ratio to the exact null (docs/method.md §2)."""

from typing import Any

import numpy as np
import scipy  # SciPy imports its subpackages when they are first used.
import xarray as xr

from ppp_jax.analysis.projection import isotropic_null

MIN_EXPECTED = 5  # A ratio is noise where fewer points are expected under the smoothing kernel.
HALF_POINT = 0.5  # The logarithm counts a density of fewer points under the kernel as this.


def bin_number(
    u: np.ndarray, v: np.ndarray, edges: np.ndarray
) -> tuple[np.ndarray, np.ndarray | slice]:
    """Returns the flat index of the (v, u) bin of each point in the picture, and a mask of these.

    Args:
      u: First in-plane coordinates, in latent units, `(points,)`.
      v: Second in-plane coordinates, `(points,)`.
      edges: Edges of the bins along both axes, equally spaced, `(bins + 1,)`.

    Returns:
      The indices, in [0, bins²), and the mask, `(points,)`; a full slice if all points are inside.
    """
    bins, width = len(edges) - 1, edges[1] - edges[0]
    column, line = (u - edges[0]) / width, (v - edges[0]) / width
    inside = (column >= 0) & (column < bins) & (line >= 0) & (line < bins)
    if not inside.all():
        column, line = column[inside], line[inside]
    number = line.astype(np.int64) * bins + column.astype(np.int64)
    return number, slice(None) if inside.all() else inside


def gaussian(bandwidth: float, edges: np.ndarray) -> np.ndarray:
    """Returns a Gaussian's mass in the bins around its centre, which sums to 1.

    Args:
      bandwidth: Standard deviation of the Gaussian, beyond five of which it is cut off.
      edges: Edges of the bins along both axes, equally spaced, `(bins + 1,)`.
    """
    width = edges[1] - edges[0]
    reach = int(np.ceil(5 * bandwidth / width))
    borders = (np.arange(-reach, reach + 2) - 0.5) * width
    mass = np.diff(scipy.special.ndtr(borders / bandwidth))
    return np.outer(mass, mass) / mass.sum() ** 2


def smooth(mass: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """Convolves pictures, `(..., v, u)`, with a kernel by the FFT, as if they were 0 outside."""
    reach, bins = len(kernel) // 2, mass.shape[-1]
    kernel = kernel.reshape((1,) * (mass.ndim - 2) + kernel.shape)
    full = scipy.signal.fftconvolve(mass, kernel, mode="full", axes=(-2, -1))
    inside = slice(reach, reach + bins)
    # The FFT leaves rounding errors of either sign where the density is 0.
    return np.maximum(full[..., inside, inside], 0)


def null_masses(
    lengths: list[np.ndarray], units: int, epsilons: np.ndarray, edges: np.ndarray
) -> np.ndarray:
    """Returns the mass of isotropic samples in each bin, `(groups, epsilons, v, u)`.

    Args:
      lengths: Lengths of the samples of each group, an array per group.
      units: Number of units n.
      epsilons: Acceptance cosines, `(epsilons,)`.
      edges: Edges of the bins along both axes, `(bins + 1,)`.
    """
    return np.array(
        [
            [isotropic_null.density_mass(x, units, float(e), edges) for e in epsilons]
            for x in lengths
        ]
    )


def picture(
    mass: np.ndarray,
    null_mass: np.ndarray,
    pairs: np.ndarray,
    edges: np.ndarray,
    bandwidth: float,
) -> dict[str, Any]:
    """Smooths the observed and the expected fractions of pairs per bin, and divides them.

    Args:
      mass: Fraction of the pairs in each bin, `(groups, epsilons, v, u)`.
      null_mass: Fraction expected of isotropic latents, of the same shape.
      pairs: Number of (plane, sample) pairs of each group, `(groups,)`.
      edges: Edges of the bins along both axes, `(bins + 1,)`.
      bandwidth: Standard deviation of the Gaussian in latent units.

    Returns:
      `density`, `null`, `ratio` and `log_ratio` over `(group, epsilon, v, u)`, as `ppp` returns
      them, and the bin centres `u` and `v`.
    """
    kernel, area = gaussian(bandwidth, edges), (edges[1] - edges[0]) ** 2
    density, null = smooth(mass, kernel) / area, smooth(null_mass, kernel) / area
    one_point = 1 / (np.maximum(pairs, 1)[:, None, None, None] * 4 * np.pi * bandwidth**2)
    known = null >= MIN_EXPECTED * one_point
    ratio = np.divide(density, null, out=np.full_like(density, np.nan), where=known)
    floored = np.maximum(density, HALF_POINT * one_point)
    log_ratio = np.full_like(density, np.nan)
    log_ratio[known] = np.log2(floored[known] / null[known])
    dims = ("group", "epsilon", "v", "u")
    fraction = {"units": "fraction of pairs per unit area"}
    centres = (edges[:-1] + edges[1:]) / 2
    return {
        "u": centres,
        "v": centres,
        "density": xr.Variable(dims, density, fraction),
        "null": xr.Variable(dims, null, fraction),
        "ratio": xr.Variable(dims, ratio, {"long_name": "density over isotropic null"}),
        "log_ratio": xr.Variable(dims, log_ratio, {"long_name": "log2 of density over null"}),
    }
