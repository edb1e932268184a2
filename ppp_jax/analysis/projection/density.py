"""From binned points to a smooth density over its exact null."""

from typing import Any

import numpy as np
import scipy  # its parts are imported when they are first used
import xarray as xr

from ppp_jax.analysis.projection import isotropic_null

MIN_EXPECTED = 5  # points under the smoothing kernel; where fewer are expected, a ratio is noise
HALF_POINT = 0.5  # under the kernel: the floor of the logarithm, where nothing was found


def bin_number(
    u: np.ndarray, v: np.ndarray, edges: np.ndarray
) -> tuple[np.ndarray, np.ndarray | slice]:
    """Returns the flat (v, u) bin of each point inside the picture, and which points these are."""
    bins, width = len(edges) - 1, edges[1] - edges[0]
    column, line = (u - edges[0]) / width, (v - edges[0]) / width
    inside = (column >= 0) & (column < bins) & (line >= 0) & (line < bins)
    if not inside.all():
        column, line = column[inside], line[inside]
    number = line.astype(np.int64) * bins + column.astype(np.int64)
    return number, slice(None) if inside.all() else inside


def gaussian(bandwidth: float, edges: np.ndarray) -> np.ndarray:
    """Returns the Gaussian's mass in bins around its centre, cut at 5 deviations, summing to 1."""
    width = edges[1] - edges[0]
    reach = int(np.ceil(5 * bandwidth / width))
    borders = (np.arange(-reach, reach + 2) - 0.5) * width
    mass = np.diff(scipy.special.ndtr(borders / bandwidth))
    return np.outer(mass, mass) / mass.sum() ** 2


def smooth(mass: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """Convolves pictures, `(..., v, u)`, with a kernel by FFT; nothing comes in from outside."""
    reach, bins = len(kernel) // 2, mass.shape[-1]
    kernel = kernel.reshape((1,) * (mass.ndim - 2) + kernel.shape)
    full = scipy.signal.fftconvolve(mass, kernel, mode="full", axes=(-2, -1))
    inside = slice(reach, reach + bins)
    # The FFT leaves rounding errors of either sign where there is nothing.
    return np.maximum(full[..., inside, inside], 0)


def null_masses(
    lengths: list[np.ndarray], units: int, epsilons: np.ndarray, edges: np.ndarray
) -> np.ndarray:
    """Returns what isotropic samples would put into each bin, `(groups, epsilons, v, u)`.

    Args:
      lengths: lengths of the samples of each group.
      units: n.
      epsilons: acceptance cosines.
      edges: of the bins.
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
    """Smooths the binned fractions of pairs, observed and expected, and compares them.

    Args:
      mass: fraction of pairs in each bin, `(groups, epsilons, v, u)`.
      null_mass: the same, expected of isotropic latents.
      pairs: (plane, sample) pairs of each group, `(groups,)`.
      edges: of the bins.
      bandwidth: of the Gaussian, in latent units.

    Returns:
      `density`, `null`, `ratio` and `log_ratio` over `(group, epsilon, v, u)`, and the bins'
      centres `u` and `v`.
    """
    kernel, area = gaussian(bandwidth, edges), (edges[1] - edges[0]) ** 2
    density, null = smooth(mass, kernel) / area, smooth(null_mass, kernel) / area
    one_point = 1 / (np.maximum(pairs, 1)[:, None, None, None] * 4 * np.pi * bandwidth**2)
    there = null >= MIN_EXPECTED * one_point
    ratio = np.divide(density, null, out=np.full_like(density, np.nan), where=there)
    floored = np.maximum(density, HALF_POINT * one_point)
    log_ratio = np.full_like(density, np.nan)
    log_ratio[there] = np.log2(floored[there] / null[there])
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
