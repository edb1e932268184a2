"""What PPP shows of isotropic latents, in closed form (docs/method.md §4).

If directions are uniform on the sphere of ℝⁿ, the in-plane angle is uniform, and with
k = (n − 2)/2 the squared plane fraction (r/‖x‖)² has survival function (1 − s)ᵏ. The laws below
follow from that for *these* sample lengths, whatever they are.
"""

import numpy as np
import scipy.special

from ppp_jax.errors import InputError

LENGTH_GROUPS = 256  # sample lengths are averaged within so many equally filled groups
SUBPIXELS = 4  # each bin of a density is sampled at 4 × 4 places


def acceptance(units: int, epsilon: float) -> float:
    """Returns A0 = (1 − ε²)^((n−2)/2), the fraction of isotropic samples that a plane accepts.

    Args:
      units: n, at least 2.
      epsilon: acceptance cosine, in [0, 1].

    Raises:
      InputError: fewer than two units, in which there is no plane.

    Example:
      >>> round(acceptance(8, 0.8), 6)
      0.046656
    """
    if units < 2:
        raise InputError("units", units, "must be at least 2 for a plane to exist")
    return float((1 - epsilon**2) ** ((units - 2) / 2))


def spotlight(units: int, epsilon: float) -> float:
    """Returns SRM of isotropic latents, ½·I_{1−ε²}((n−1)/2, ½): the fraction within arccos(ε).

    Args:
      units: n, at least 2.
      epsilon: cosine of the spotlight's half-angle, in [0, 1].

    Raises:
      InputError: fewer than two units, in which there is no plane.

    Example:
      >>> round(spotlight(8, 0.75), 5)
      0.00997
    """
    if units < 2:
        raise InputError("units", units, "must be at least 2 for a plane to exist")
    return 0.5 * float(scipy.special.betainc((units - 1) / 2, 0.5, 1 - epsilon**2))


def _group_lengths(lengths: np.ndarray) -> np.ndarray:
    """Replaces many lengths by the means of equally filled groups, fine enough not to matter."""
    lengths = np.sort(np.asarray(lengths, np.float64))
    if len(lengths) <= LENGTH_GROUPS:
        return lengths
    starts = np.linspace(0, len(lengths), LENGTH_GROUPS, endpoint=False).astype(int)
    return np.add.reduceat(lengths, starts) / np.diff([*starts, len(lengths)])


def radius_distribution(
    radius: np.ndarray, lengths: np.ndarray, units: int, epsilon: float
) -> np.ndarray:
    """Returns the fraction of isotropic (plane, sample) pairs accepted with in-plane radius ≤ r.

    It rises from 0 to A0, and is exact for up to 256 samples; of more, equally filled groups of
    lengths are represented by their means.

    Args:
      radius: r, any shape, in latent units.
      lengths: ‖x‖ of the samples, positive, `(samples,)`.
      units: n.
      epsilon: acceptance cosine.

    Returns:
      Array of `radius`'s shape.
    """
    radius = np.asarray(radius, np.float64)
    fraction = radius[..., None] / _group_lengths(lengths)
    power = (units - 2) / 2
    if power == 0:  # every sample lies in the only plane there is
        return (fraction >= 1).mean(axis=-1)
    beyond = (1 - np.clip(fraction, epsilon, 1) ** 2) ** power
    return (acceptance(units, epsilon) - beyond).mean(axis=-1)


def density_mass(lengths: np.ndarray, units: int, epsilon: float, edges: np.ndarray) -> np.ndarray:
    """Returns the fraction of isotropic (plane, sample) pairs expected in each bin of the plane.

    Of no samples, nothing is expected anywhere.

    Args:
      lengths: ‖x‖ of the samples, positive, `(samples,)`.
      units: n.
      epsilon: acceptance cosine.
      edges: bin edges of both in-plane axes, equally spaced and symmetric, `(bins + 1,)`.

    Returns:
      `(bins, bins)`; sums to A0 if the edges hold everything.
    """
    if not len(lengths):
        return np.zeros((len(edges) - 1, len(edges) - 1))
    width = edges[1] - edges[0]
    radii = np.arange(0, np.sqrt(2) * edges[-1] + width, width / SUBPIXELS)
    mass = np.diff(radius_distribution(radii, lengths, units, epsilon))
    per_area = mass / (np.pi * np.diff(radii**2))
    # The picture is its own mirror image: the bins from the middle on, at 4 × 4 places each.
    bins = len(edges) - 1
    half = bins - bins // 2
    offsets = (np.arange(SUBPIXELS) + 0.5) / SUBPIXELS * width
    places = (edges[bins // 2 : -1, None] + offsets).ravel()
    ring = np.hypot(places[:, None], places) / (width / SUBPIXELS)
    fine = per_area[ring.astype(np.int32)].reshape(half, SUBPIXELS, half, SUBPIXELS)
    quarter = fine.mean(axis=(1, 3)) * width**2
    other = bins % 2  # the middle bin is not repeated
    upper = np.concatenate([quarter[:, other:][:, ::-1], quarter], axis=1)
    return np.concatenate([upper[other:][::-1], upper])
