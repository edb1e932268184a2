"""The exact distribution of PPP and SRM for isotropic latents, in closed form (docs/method.md §4).

If directions are uniform on the sphere of ℝⁿ, then the in-plane angle is uniform, and the squared
plane fraction (r/‖x‖)² exceeds s with probability (1 − s)ᵏ, where k = (n − 2)/2. The functions
below follow from that, given the lengths of the samples at hand, whatever these lengths are.
"""

import numpy as np
import scipy  # its parts are imported when they are first used

from ppp_jax.errors import InputError

LENGTH_GROUPS = 256  # Sample lengths are averaged within so many equally filled groups.
# A picture of isotropic latents shows what there is from about 1,000 points on, and with fewer than
# 100 it looks empty.
ENOUGH_POINTS, FEW_POINTS = 1000, 100
SUBPIXELS = 4  # Each bin of a density is sampled at 4 × 4 points.


def acceptance(units: int, epsilon: float) -> float:
    """Returns A0 = (1 − ε²)^((n−2)/2), the fraction of isotropic samples that a plane accepts.

    Args:
      units: Number of units n, at least 2.
      epsilon: Acceptance cosine ε, in [0, 1].

    Raises:
      InputError: There are fewer than two units, so that no plane exists.

    Example:
      >>> round(acceptance(8, 0.8), 6)
      0.046656
    """
    if units < 2:
        raise InputError("units", units, "must be at least 2 for a plane to exist")
    return float((1 - epsilon**2) ** ((units - 2) / 2))


def count_text(points: float) -> str:
    """Returns an expected number of points as a text.

    Args:
      points: The number, which need not be whole.

    Example:
      >>> count_text(1234.4), count_text(0.00123)
      ('1,234', '0.0012')
    """
    return f"{points:,.0f}" if points >= 10 else f"{points:.2g}"


def spotlight(units: int, epsilon: float) -> float:
    """Returns SRM of isotropic latents, ½·I_{1−ε²}((n−1)/2, ½).

    This is the fraction of samples within arccos(ε) of any direction (docs/method.md §4).

    Args:
      units: Number of units n, at least 2.
      epsilon: Cosine of the spotlight's half-angle, in [0, 1].

    Raises:
      InputError: There are fewer than two units, so that no plane exists.

    Example:
      >>> round(spotlight(8, 0.75), 5)
      0.00997
    """
    if units < 2:
        raise InputError("units", units, "must be at least 2 for a plane to exist")
    return 0.5 * float(scipy.special.betainc((units - 1) / 2, 0.5, 1 - epsilon**2))


def _group_lengths(lengths: np.ndarray) -> np.ndarray:
    """Replaces more than 256 lengths by the means of 256 equally filled groups of them."""
    lengths = np.sort(np.asarray(lengths, np.float64))
    if len(lengths) <= LENGTH_GROUPS:
        return lengths
    starts = np.linspace(0, len(lengths), LENGTH_GROUPS, endpoint=False).astype(int)
    return np.add.reduceat(lengths, starts) / np.diff([*starts, len(lengths)])


def radius_distribution(
    radius: np.ndarray, lengths: np.ndarray, units: int, epsilon: float
) -> np.ndarray:
    """Returns the fraction of isotropic (plane, sample) pairs accepted with in-plane radius ≤ r.

    The fraction rises from 0 to A0. It is exact for up to 256 samples; if there are more, groups
    of similar lengths are represented by their mean lengths.

    Args:
      radius: In-plane radius r in latent units, of any shape.
      lengths: Lengths ‖x‖ of the samples, positive, `(samples,)`.
      units: Number of units n.
      epsilon: Acceptance cosine ε, in [0, 1].

    Returns:
      An array of the shape of `radius`.
    """
    radius = np.asarray(radius, np.float64)
    fraction = radius[..., None] / _group_lengths(lengths)
    power = (units - 2) / 2
    if power == 0:  # Every sample lies in the only plane.
        return (fraction >= 1).mean(axis=-1)
    beyond = (1 - np.clip(fraction, epsilon, 1) ** 2) ** power
    return (acceptance(units, epsilon) - beyond).mean(axis=-1)


def density_mass(lengths: np.ndarray, units: int, epsilon: float, edges: np.ndarray) -> np.ndarray:
    """Returns the fraction of isotropic (plane, sample) pairs expected in each bin of the plane.

    Args:
      lengths: Lengths ‖x‖ of the samples, positive, `(samples,)`. Without samples all fractions
        are 0.
      units: Number of units n.
      epsilon: Acceptance cosine ε, in [0, 1].
      edges: Edges of the bins along both in-plane axes, equally spaced and symmetric around 0,
        `(bins + 1,)`.

    Returns:
      The fractions, `(bins, bins)`. Their sum is A0 if no sample is longer than the last edge.
    """
    if not len(lengths):
        return np.zeros((len(edges) - 1, len(edges) - 1))
    width = edges[1] - edges[0]
    radii = np.arange(0, np.sqrt(2) * edges[-1] + width, width / SUBPIXELS)
    mass = np.diff(radius_distribution(radii, lengths, units, epsilon))
    per_area = mass / (np.pi * np.diff(radii**2))
    # The picture is symmetric: only its upper right quarter is computed, at 4 × 4 points per bin.
    bins = len(edges) - 1
    half = bins - bins // 2
    offsets = (np.arange(SUBPIXELS) + 0.5) / SUBPIXELS * width
    coordinate = (edges[bins // 2 : -1, None] + offsets).ravel()
    ring = np.hypot(coordinate[:, None], coordinate) / (width / SUBPIXELS)
    fine = per_area[ring.astype(np.int32)].reshape(half, SUBPIXELS, half, SUBPIXELS)
    quarter = fine.mean(axis=(1, 3)) * width**2
    other = bins % 2  # The middle bin of an odd number is not repeated.
    upper = np.concatenate([quarter[:, other:][:, ::-1], quarter], axis=1)
    return np.concatenate([upper[other:][::-1], upper])
