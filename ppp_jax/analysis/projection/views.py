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
STANDS = 1e-5  # of the mean, beyond which it stands where nothing varies


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
    axes, deviations = _principal_of(_centred(cloud), cloud)
    along, rank = mean @ axes, len(deviations)
    if np.linalg.norm(mean - axes @ along) > STANDS * np.linalg.norm(mean):
        return True  # it stands where nothing varies
    if not 0 < rank < count:
        return False
    # T² = (N − 1) Σ μ²/S with the covariance that is divided by N, and T² (N − r)/(r (N − 1)) ~ F.
    ratio = float(np.sum(np.square(along / deviations))) * (count - rank) / rank
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
    axes, deviations = _principal_of(centred, cloud)
    samples = (centred @ axes / deviations) @ axes.T
    at_mean = np.vecdot(centred, centred) <= np.sum(_rounding_of(cloud))
    return Whitened(np.where(at_mean[:, None], 0, samples), len(deviations))


def support(shape: np.ndarray) -> np.ndarray:
    """Returns axes of the subspace in which whitened samples vary, `(units, rank)`, float64.

    Args:
      shape: Whitened samples, `(samples, units)`, of any scale.
    """
    # Their second moments are a multiple of a projection: nothing lies between 0 and the multiple.
    values = shape.astype(np.float64)
    moments, axes = np.linalg.eigh(values.T @ values)
    found: np.ndarray = axes[:, moments > moments[-1] / 2]
    return found


def turns_within(axes: np.ndarray, turns: np.ndarray) -> np.ndarray:
    """Turns Haar rotations of all units into those of a subspace, which change nothing outside it.

    A unit without variance is no direction of whitened samples. Rotations that mix it with the
    others would show that it is one of the axes, which is said of the covariance and not of the
    shape. With C the part of a Haar-random Q within the subspace, A·C has the law of C for every
    rotation A of it, and so has the Q of its QR decomposition.

    Args:
      axes: Orthonormal axes of the subspace, `(units, rank)`.
      turns: Haar rotations, `(rotations, units, units)`; the identity stays what it is.

    Returns:
      The rotations, `(rotations, units, units)`; those given if the subspace is the whole space.
    """
    units, rank = axes.shape
    if rank == units:
        return turns
    q, r = np.linalg.qr(axes.T @ turns @ axes)
    q = q * np.sign(np.diagonal(r, axis1=1, axis2=2))[:, None, :]
    found: np.ndarray = (np.eye(units) - axes @ axes.T + axes @ q @ axes.T).astype(turns.dtype)
    return found


def triangle(centred: np.ndarray, *, above: np.ndarray | None = None) -> np.ndarray:
    """Returns the triangular factor of centred samples, of which parts may come one by one.

    Args:
      centred: Samples without their mean, `(samples, units)`, float64.
      above: What this function returned of earlier samples.

    Returns:
      R, `(units, units)`, with Rᵀ·R = the sum over samples of their products.
    """
    units = centred.shape[1]
    parts = [centred] if above is None else [above, centred]
    short = max(0, units - sum(map(len, parts)))
    padded = np.concatenate([*parts, np.zeros((short, units))])
    return np.asarray(np.linalg.qr(padded, mode="r"))


def principal(
    factor: np.ndarray, count: int, rounding: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the principal directions in which samples vary, and by how much.

    By singular values, whose errors go with the largest deviation: eigenvalues of the covariance
    would lose units 10⁷ times narrower than the widest. The entries of a unit are rounded in
    proportion to their own size, so that one huge entry does not hide the other units.

    Args:
      factor: What `triangle` returns of the centred samples.
      count: The number of samples.
      rounding: What `rounding_variance` returns of the units.

    Returns:
      The directions as columns, `(units, rank)`, and the standard deviations along them, `(rank,)`.
    """
    _, singular, turned = np.linalg.svd(factor)
    variances, axes = np.square(singular) / count, turned.T
    error = 4 * len(variances) * float(np.finfo(np.float64).eps)
    spread = variances > np.square(axes).T @ rounding + error**2 * variances[0]
    return axes[:, spread], np.sqrt(variances[spread])


def rounding_variance(square: np.ndarray, rows: int, dtype: np.dtype) -> np.ndarray:
    """Returns the variance of rounding errors of each unit: of entries, and of sums over samples.

    A unit that is always the same has only those.

    Args:
      square: The mean square of each unit, `(units,)`.
      rows: How many samples are summed.
      dtype: Of the entries.
    """
    error = max(4 * np.finfo(dtype).eps, rows * np.finfo(np.float64).eps)
    found: np.ndarray = float(error) ** 2 * square
    return found


def _principal_of(centred: np.ndarray, cloud: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    count = int(np.count_nonzero(present(cloud)))
    return principal(triangle(centred), count, _rounding_of(cloud))


def _rounding_of(cloud: np.ndarray) -> np.ndarray:
    square = np.mean(np.square(cloud, dtype=np.float64), axis=0)
    return rounding_variance(square, len(cloud), cloud.dtype)


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
    if name == COVARIANCE and np.trace(found) <= np.sum(_rounding_of(cloud)):
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
