"""How near samples stand to their neighbours, a description of a cloud (docs/method.md §8).

It does not say whether latents are quantised: it is high for a ring and for two scales, and near 0
for many saturated units. For that there are the dip and the valleys of `quantisation`.
"""

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from ppp_jax.analysis.io.rows import RAISE, sampled
from ppp_jax.analysis.io.sources import Latents, PerCloud, labelled_like, rescale
from ppp_jax.analysis.projection.views import present
from ppp_jax.errors import seeded, truth, whole
from ppp_jax.resources import on_cores

NEIGHBOUR_ROWS = 512  # distances to all other samples held at once
MOST_SAMPLES = 6000
DRAWS = 3  # of the reference, over which its distance is averaged


class RepeatedRowWarning(UserWarning):
    """Some rows are exact copies of others, and are left out where neighbours are looked at."""


Draw = Callable[[np.ndarray, np.random.Generator], np.ndarray]


def neighbour_ratio(
    latents: Latents,
    *,
    elliptical: bool = False,
    max_samples: int = MOST_SAMPLES,
    draws: int = DRAWS,
    reference_seed: int = 0,
    nonfinite: str = RAISE,
    drop_outliers: float | None = None,
) -> PerCloud:
    """Returns 1 − median nearest-neighbour distance over that of a reference.

    The default reference is a Gaussian with the latents' covariance, drawn as often as there are
    samples: 0 for a Gaussian, towards 1 where samples stand close together. It does not change if
    the latents are rotated. It is above 0 for clusters, and also for a curved surface and for
    latents whose lengths vary more than a Gaussian's; and it is near 0 for levels along many
    units. So it describes a cloud, and decides nothing. The elliptical reference has the latents'
    own lengths (of the whitened vectors) too, and random directions, so that heavy tails do not
    count.

    Args:
      latents: `(..., samples, units)`; leading axes are separate clouds. Rows of zeros and
        repetitions of a row are left out.
      elliptical: Whether to take the elliptical reference.
      max_samples: The largest number of samples that are looked at; of larger clouds so many are
        drawn. The cost is quadratic in it.
      draws: The number of draws of the reference, whose distances are averaged.
      reference_seed: Seed of the draws of samples and of the reference.
      nonfinite: `raise` refuses rows that are not finite, and `drop` leaves them out.
      drop_outliers: Rows longer than so many times the median row are left out; None keeps them.

    Returns:
      Array of the leading shape, labelled if the latents are, with the counts of rows as
      attributes, `rows_duplicate` among them; NaN for a cloud of fewer than 2 different rows.

    Raises:
      InputError: An argument is out of its range, or rows are not finite; the error names it.

    Warns:
      RepeatedRowWarning: Some rows are copies of others.

    Example:
      >>> rng = np.random.default_rng(0)
      >>> corners = np.sign(rng.normal(size=(400, 2))) + 0.01 * rng.normal(size=(400, 2))
      >>> round(float(neighbour_ratio(corners)), 2)
      0.98
    """
    whole("max_samples", max_samples, least=2)
    whole("draws", draws, least=1)
    seeded(reference_seed, field="reference_seed")
    truth("elliptical", elliptical)
    kept, rows = sampled(latents, nonfinite=nonfinite, drop_outliers=drop_outliers)
    values, _ = rescale(kept)
    draw = draw_elliptical if elliptical else _draw_gaussian
    clouds = values.reshape(-1, *values.shape[-2:])
    (found,) = _ratios(clouds, (draw,), max_samples, draws, reference_seed)
    attributes = {**rows, "rows_duplicate": count_repeated(clouds, rows["rows"])}
    return labelled_like(latents, found.reshape(values.shape[:-2]), attributes)


def discreteness(latents: Latents, **options: Any) -> PerCloud:
    """Returns `neighbour_ratio`, which is what this number is called now.

    It does not measure quantisation, as the name suggested: `axis_quantisation` and `density_peaks`
    do.

    Args:
      latents: As `neighbour_ratio` takes them.
      **options: The arguments of `neighbour_ratio`.

    Warns:
      FutureWarning: Always, since this name will go.
    """
    problem = "discreteness is called neighbour_ratio now, since it does not measure quantisation: "
    warnings.warn(f"{problem}axis_quantisation and density_peaks do", FutureWarning, stacklevel=2)
    return neighbour_ratio(latents, **options)


def count_repeated(clouds: np.ndarray, rows: int) -> int:
    """Returns how many rows of clouds are repetitions, and warns that these are left out.

    Args:
      clouds: `(clouds, samples, units)`.
      rows: How many rows of all clouds count.
    """
    repeated = rows - sum(len(different(cloud)) for cloud in clouds if finite(cloud))
    if repeated:
        are = "1 row is a copy" if repeated == 1 else f"{repeated:,} rows are copies"
        warnings.warn(
            f"{are} of others: left out, since the nearest neighbour of a copy is at distance 0",
            RepeatedRowWarning,
            stacklevel=3,
        )
    return repeated


def ratios(clouds: np.ndarray, *, max_samples: int) -> dict[str, np.ndarray]:
    """Returns both neighbour ratios of clouds by their names in the registry.

    Args:
      clouds: `(clouds, samples, units)`.
      max_samples: The largest number of samples that are looked at.
    """
    values, _ = rescale(clouds)
    gaussian, elliptical = _ratios(
        values, (_draw_gaussian, draw_elliptical), max_samples, DRAWS, reference_seed=0
    )
    return {"neighbour_ratio": gaussian, "neighbour_ratio_elliptical": elliptical}


def different(cloud: np.ndarray) -> np.ndarray:
    """Returns the rows of a cloud that are not of zeros, each once, in float64.

    Args:
      cloud: The samples, `(samples, units)`.
    """
    found: np.ndarray = np.unique(cloud[present(cloud)], axis=0).astype(np.float64)
    return found


def finite(cloud: np.ndarray) -> bool:
    """Returns whether a cloud is there: one that is missing, as of a run that diverged, is not."""
    return bool(np.isfinite(cloud).all())


def _ratios(
    clouds: np.ndarray,
    references: tuple[Draw, ...],
    max_samples: int,
    draws: int,
    reference_seed: int,
) -> np.ndarray:
    """Returns a ratio per reference and cloud, `(references, clouds)`."""

    def measure(cloud: np.ndarray) -> list[float]:
        rng = np.random.default_rng(reference_seed)
        samples = different(cloud) if finite(cloud) else np.empty((0, 1))
        if len(samples) > max_samples:
            samples = samples[np.sort(rng.choice(len(samples), size=max_samples, replace=False))]
        if len(samples) < 2:
            return [np.nan] * len(references)
        own = _neighbour_distance(samples)
        drawn = [
            [_neighbour_distance(draw(samples, rng)) for _ in range(draws)] for draw in references
        ]
        expected = np.mean(drawn, axis=1)
        return [1 - own / each if each > 0 else np.nan for each in expected]

    return np.array(on_cores(measure, clouds), np.float64).reshape(-1, len(references)).T


def _draw_gaussian(cloud: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    # By eigenvectors: the default's singular values fail to converge for some covariances.
    covariance = np.atleast_2d(np.cov(cloud.T))
    return rng.multivariate_normal(cloud.mean(axis=0), covariance, len(cloud), method="eigh")


def draw_elliptical(cloud: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Keeps covariance and the lengths of the whitened vectors, and draws their directions.

    Args:
      cloud: The samples, `(samples, units)`, float64.
      rng: Generator of the random directions.

    Returns:
      As many samples, around 0.
    """
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
