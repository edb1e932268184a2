"""How near samples stand to each other: clusters, wherever they are (docs/method.md §8)."""

import concurrent.futures
import os
from collections.abc import Callable

import numpy as np

from ppp_jax.analysis.io.sources import Latents, PerCloud, as_clouds, labelled_like, rescale
from ppp_jax.errors import seeded, truth, whole

NEIGHBOUR_ROWS = 512  # distances to all other samples held at once


def discreteness(
    latents: Latents, *, elliptical: bool = False, max_samples: int = 6000, reference_seed: int = 0
) -> PerCloud:
    """Returns 1 − median nearest-neighbour distance over that of a reference of the same shape.

    The default reference is a Gaussian with the latents' mean and covariance, drawn as often
    as there are samples: 0 for a Gaussian, towards 1 for quantised latents, wherever their clusters
    stand; it does not change if the latents are rotated. But it is also above 0 for latents without
    clusters whose lengths vary more than a Gaussian's, and for a curved surface. The elliptical
    reference has the latents' own lengths (of the whitened vectors) too, and random directions: so
    heavy tails are not taken for clusters.

    Args:
      latents: `(..., samples, units)`; leading axes are separate clouds.
      elliptical: take that reference.
      max_samples: of larger clouds so many are drawn; the cost is quadratic in them.
      reference_seed: of the draws.

    Returns:
      Array of the leading shape, labelled if the latents are; NaN for a cloud that is not finite or
      a single point.

    Raises:
      InputError: an argument out of its range, naming it.

    Example:
      >>> corners = np.array([[1.0, 1], [-1, 1], [-1, -1], [1, -1]]).repeat(50, axis=0)
      >>> float(discreteness(corners))
      1.0
    """
    whole("max_samples", max_samples, least=2)
    seeded(reference_seed, field="reference_seed")
    truth("elliptical", elliptical)
    values, _ = rescale(as_clouds(latents))
    clouds = values.reshape(-1, *values.shape[-2:]).astype(np.float64)
    draw = draw_elliptical if elliptical else _draw_gaussian

    def measure(cloud: np.ndarray) -> float:
        return _discreteness(cloud, draw, max_samples, np.random.default_rng(reference_seed))

    with concurrent.futures.ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        found = np.array(list(pool.map(measure, clouds))).reshape(values.shape[:-2])
    return labelled_like(latents, found)


def _discreteness(
    cloud: np.ndarray,
    draw: Callable[[np.ndarray, np.random.Generator], np.ndarray],
    max_samples: int,
    rng: np.random.Generator,
) -> float:
    if len(cloud) > max_samples:
        cloud = cloud[np.sort(rng.choice(len(cloud), size=max_samples, replace=False))]
    if len(cloud) < 2 or not np.isfinite(cloud).all():
        return np.nan
    expected = _neighbour_distance(draw(cloud, rng))
    return 1 - _neighbour_distance(cloud) / expected if expected > 0 else np.nan


def _draw_gaussian(cloud: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    # By eigenvectors: the default's singular values fail to converge for some covariances.
    covariance = np.atleast_2d(np.cov(cloud.T))
    return rng.multivariate_normal(cloud.mean(axis=0), covariance, len(cloud), method="eigh")


def draw_elliptical(cloud: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Keeps covariance and the lengths of the whitened vectors, and draws their directions."""
    centred = cloud - cloud.mean(axis=0)
    values, axes = np.linalg.eigh(np.atleast_2d(np.cov(cloud.T)))
    spread = values > 1e-12 * values.max()
    deviations, axes = np.sqrt(values[spread]), axes[:, spread]
    lengths = np.linalg.norm(centred @ axes / deviations, axis=1, keepdims=True)
    directions = rng.normal(size=(len(cloud), len(deviations)))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    drawn: np.ndarray = lengths * directions * deviations @ axes.T
    return drawn


def _neighbour_distance(cloud: np.ndarray) -> float:
    """Returns the median distance to the nearest other sample."""
    cloud = cloud - cloud.mean(axis=0)
    square, nearest = np.vecdot(cloud, cloud), []
    for start in range(0, len(cloud), NEIGHBOUR_ROWS):
        rows = slice(start, start + NEIGHBOUR_ROWS)
        apart = square[rows, None] + square - 2 * cloud[rows] @ cloud.T
        np.fill_diagonal(apart[:, start:], np.inf)
        nearest.append(apart.min(axis=1))
    # What rounding leaves of equal points is no distance.
    close = np.concatenate(nearest)
    return float(np.median(np.sqrt(np.where(close > 1e-14 * square.max(), close, 0))))
