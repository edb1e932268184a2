"""What statistics see of a cloud: its samples, its mean, its covariance, its shape.

Every view turns with the cloud: the mean of X·Q is μ·Q, its covariance Qᵀ·S·Q, and its whitened
samples are Y·Q, since the root of the covariance that whitens is the symmetric one. So a statistic
of a view can be held against the rotation null as one of the samples can (docs/method.md §6).

Rows of zeros have no direction and are no samples of any view: whoever leaves a row out puts zeros
in its place, and so keeps the shape of the array.
"""

from typing import NamedTuple

import numpy as np
import scipy  # its parts are imported when they are first used

SAMPLES, MEAN, COVARIANCE, MOMENTS, SHAPE = "samples", "mean", "covariance", "moments", "shape"
VIEWS = (SAMPLES, MEAN, COVARIANCE, MOMENTS, SHAPE)
MISSING = {
    SAMPLES: "nothing varies, or the sum of the vectors is 0",
    MEAN: "the mean cannot be told from 0, or the sum of the vectors is 0",
    COVARIANCE: "nothing varies",
    MOMENTS: "nothing varies",
    SHAPE: "nothing varies",
}  # why a statistic of each view is missing, where there are enough samples
LEAST_PER_UNIT = 5  # samples per unit, below which whitened latents are not judged
NO_MEAN = 1e-3  # p above which a mean cannot be told from 0
SUPPORT = 1e-10  # a variance below this fraction of the largest is rounding, not spread


class Whitened(NamedTuple):
    """Latents without their mean and covariance.

    Attributes:
      samples: Y = (X − μ)·S^(−1/2), `(samples, units)`, float64; zeros where the sample was.
      rank: The number of directions in which the latents vary; Y is 0 along the others.
    """

    samples: np.ndarray
    rank: int


def present(cloud: np.ndarray) -> np.ndarray:
    """Returns which rows are samples: all but those of zeros, `(samples,)`.

    Args:
      cloud: `(samples, units)`.
    """
    there: np.ndarray = np.any(cloud != 0, axis=-1)
    return there


def mean_of(cloud: np.ndarray) -> np.ndarray:
    """Returns the mean sample, `(units,)`, float64.

    Args:
      cloud: `(samples, units)`, at least one row of which is not of zeros.
    """
    total: np.ndarray = cloud.sum(axis=0, dtype=np.float64) / np.count_nonzero(present(cloud))
    return total


def has_mean(cloud: np.ndarray) -> bool:
    """Returns whether the mean of a cloud can be told from 0 (Hotelling's T² at p < .001).

    The mean of samples around 0 is noise of their covariance: it points wherever that is wide, and
    says of the basis what the covariance says. The test does not change if the cloud is rotated, so
    that what is found of the means that pass stays exact.

    Args:
      cloud: `(samples, units)`.
    """
    mean, count = mean_of(cloud), np.count_nonzero(present(cloud))
    variances, axes = np.linalg.eigh(covariance_of(cloud))
    spread = variances > _floor(variances, _rounding(cloud))
    along, rank = mean @ axes, int(np.count_nonzero(spread))
    if np.linalg.norm(along[~spread]) > np.sqrt(SUPPORT) * np.linalg.norm(mean):
        return True  # it stands where nothing varies
    if not 0 < rank < count:
        return False
    # T² = (N − 1) Σ μ²/S with the covariance that is divided by N, and T² (N − r)/(r (N − 1)) ~ F.
    ratio = float(np.sum(along[spread] ** 2 / variances[spread])) * (count - rank) / rank
    return bool(scipy.special.fdtrc(rank, count - rank, ratio) < NO_MEAN)


def covariance_of(cloud: np.ndarray) -> np.ndarray:
    """Returns the covariance of the samples, `(units, units)`, float64.

    Args:
      cloud: `(samples, units)`.
    """
    return _second_moments(_centred(cloud), cloud)


def moments_of(cloud: np.ndarray) -> np.ndarray:
    """Returns the second moments of the samples around 0, `(units, units)`, float64.

    Args:
      cloud: `(samples, units)`.
    """
    return _second_moments(cloud.astype(np.float64), cloud)


def whiten(cloud: np.ndarray) -> Whitened:
    """Takes mean and covariance out of a cloud, by the symmetric root (ZCA).

    Where the latents do not vary in all directions, as after a LayerNorm, they are whitened on the
    directions in which they do. A sample at the mean has no direction left: it becomes zeros.

    Args:
      cloud: `(samples, units)`.
    """
    centred = _centred(cloud)
    axes, deviations = support(_second_moments(centred, cloud), _rounding(cloud))
    samples = (centred @ axes / deviations) @ axes.T
    at_mean = np.vecdot(centred, centred) <= cloud.shape[1] * _rounding(cloud)
    return Whitened(np.where(at_mean[:, None], 0, samples), len(deviations))


def support(covariance: np.ndarray, rounding: float) -> tuple[np.ndarray, np.ndarray]:
    """Returns the principal directions in which samples vary, and by how much.

    Args:
      covariance: Of the samples, `(units, units)`.
      rounding: The variance of rounding errors (`rounding_variance`).

    Returns:
      The directions as columns, `(units, rank)`, and the standard deviations along them, `(rank,)`.
    """
    variances, axes = np.linalg.eigh(covariance)
    spread = variances > _floor(variances, rounding)
    return axes[:, spread], np.sqrt(variances[spread])


def rounding_variance(largest: float, rows: int, dtype: np.dtype) -> float:
    """Returns the variance of rounding errors: of the entries, and of their sum over samples.

    Args:
      largest: The largest mean square of a unit.
      rows: How many samples are summed.
      dtype: Of the entries.
    """
    error = max(4 * np.finfo(dtype).eps, rows * np.finfo(np.float64).eps)
    return float(error) ** 2 * largest


def _floor(variances: np.ndarray, rounding: float) -> float:
    """Returns the variance up to which a direction holds only rounding."""
    return max(SUPPORT * float(variances[-1]), rounding)


def _rounding(cloud: np.ndarray) -> float:
    largest = float(np.max(np.mean(np.square(cloud, dtype=np.float64), axis=0)))
    return rounding_variance(largest, len(cloud), cloud.dtype)


def view(cloud: np.ndarray, name: str) -> np.ndarray | None:
    """Returns what a statistic sees of a cloud, in the cloud's precision.

    Args:
      cloud: `(samples, units)`.
      name: One of `VIEWS`.

    Returns:
      `(samples, units)` of samples and shape, `(1, units)` of the mean, `(units, units)` of the
      covariance and the second moments; None where there are too few samples to tell, where nothing
      varies, and of a mean that cannot be told from 0.
    """
    if name == SAMPLES:
        return cloud
    count = np.count_nonzero(present(cloud))
    if count < needed(name, cloud.shape[1]) or not np.isfinite(cloud).all():
        return None
    if name == MEAN and not has_mean(cloud):
        return None
    makers = {
        MEAN: lambda: mean_of(cloud)[None],
        COVARIANCE: lambda: covariance_of(cloud),
        MOMENTS: lambda: moments_of(cloud),
        SHAPE: lambda: whiten(cloud).samples,
    }
    found = makers[name]()
    if name == COVARIANCE and np.trace(found) <= cloud.shape[1] * _rounding(cloud):
        return None
    if name == SHAPE and not found.any():
        return None
    largest = np.abs(found).max()
    return (found / largest if largest > 0 else found).astype(cloud.dtype)


def needed(name: str, units: int) -> int:
    """Returns how many samples a view takes to be judged.

    Args:
      name: One of `VIEWS`.
      units: The width of the latents.
    """
    return {SHAPE: LEAST_PER_UNIT * units, MEAN: units + 2, COVARIANCE: 2}.get(name, 1)


def _second_moments(values: np.ndarray, cloud: np.ndarray) -> np.ndarray:
    """Returns the mean over a cloud's samples of the products of values that stand for them."""
    matrix: np.ndarray = values.T @ values / np.count_nonzero(present(cloud))
    return matrix


def _centred(cloud: np.ndarray) -> np.ndarray:
    values = cloud.astype(np.float64)
    return np.where(present(cloud)[:, None], values - mean_of(cloud), 0.0)
