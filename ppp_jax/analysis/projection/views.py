"""What statistics see of a cloud: its samples, its mean, its covariance, its shape.

Every view turns with the cloud: the mean of X·Q is μ·Q, its covariance Qᵀ·S·Q, and its whitened
samples are Y·Q, since the root of the covariance that whitens is the symmetric one. So a statistic
of a view can be held against the rotation null as one of the samples can (docs/method.md §6).

Rows of zeros have no direction and are no samples of any view: whoever leaves a row out puts zeros
in its place, and so keeps the shape of the array.
"""

import functools
from collections.abc import Collection
from typing import Any, NamedTuple

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
STILL = "still"  # beside the shape: the directions in which it does not vary
NARROW = 128  # units up to which principal directions are always found by singular values
EVEN = 1e-8  # of the largest variance: with a smaller one the covariance's eigenvectors are wrong
LEAST_PER_UNIT = 5  # samples per unit, below which whitened latents are not judged
NO_MEAN = 1e-3  # p above which a mean cannot be told from 0
STANDS = 1e-5  # of the mean, beyond which it stands where nothing varies


class Principal(NamedTuple):
    """The principal directions of a cloud.

    Attributes:
      axes: The directions in which it varies as columns, `(units, rank)`.
      deviations: The standard deviations along them, `(rank,)`.
      still: Orthonormal directions in which it does not, `(units, units − rank)`.
    """

    axes: np.ndarray
    deviations: np.ndarray
    still: np.ndarray


class Whitened(NamedTuple):
    """Latents without their mean and covariance.

    Attributes:
      samples: Y = (X − μ)·S^(−1/2), `(samples, units)`, float64; zeros where the sample was.
      rank: The number of directions in which the latents vary; Y is 0 along the others.
      still: Orthonormal axes of these others, `(units, units − rank)`.
    """

    samples: np.ndarray
    rank: int
    still: np.ndarray


def mean_of(cloud: np.ndarray) -> np.ndarray:
    """Returns the mean sample, `(units,)`, float64.

    Args:
      cloud: `(samples, units)`, at least one row of which is not of zeros.
    """
    total: np.ndarray = cloud.sum(axis=0, dtype=np.float64) / np.count_nonzero(present(cloud))
    return total


class _Parts:
    """What several views of a cloud share, each computed once, when it is first asked for."""

    def __init__(self, cloud: np.ndarray):
        self.cloud = cloud
        self.count = int(np.count_nonzero(present(cloud)))

    @functools.cached_property
    def mean(self) -> np.ndarray:
        """The mean sample, `(units,)`."""
        return mean_of(self.cloud)

    @functools.cached_property
    def centred(self) -> np.ndarray:
        """The samples without their mean, `(samples, units)`, float64."""
        values = self.cloud.astype(np.float64)
        return np.where(present(self.cloud)[:, None], values - self.mean, 0.0)

    @functools.cached_property
    def covariance(self) -> np.ndarray:
        """The covariance of the samples, `(units, units)`."""
        return _second_moments(self.centred, self.count)

    @functools.cached_property
    def rounding(self) -> np.ndarray:
        """The variance of rounding errors of each unit, `(units,)`."""
        square = np.mean(np.square(self.cloud, dtype=np.float64), axis=0)
        return rounding_variance(square, len(self.cloud), self.cloud.dtype)

    @functools.cached_property
    def principal(self) -> Principal:
        """The principal directions in which the samples vary."""
        if self.cloud.shape[1] > NARROW and (quick := self.quick) is not None:
            return quick
        return principal(triangle(self.centred), self.count, self.rounding)

    @property
    def mean_square(self) -> float | None:
        """μᵀS⁻¹μ of a wide cloud that varies evenly; None where it takes principal directions.

        A Cholesky factor takes a small part of their time.
        """
        wide = self.cloud.shape[1] > NARROW and self.count > self.cloud.shape[1]
        if not wide or "principal" in vars(self):
            return None
        lapack, matrix = scipy.linalg.lapack, self.covariance
        factor, failed = lapack.dpotrf(matrix, lower=1)
        if failed or np.square(factor.diagonal()).min() <= 2 * self.rounding.max():
            return None
        even, _ = lapack.dpocon(factor, np.linalg.norm(matrix, 1), uplo="L")
        if even < EVEN:
            return None
        return float(np.sum(np.square(lapack.dtrtrs(factor, self.mean, lower=1)[0])))

    @property
    def quick(self) -> Principal | None:
        """The same by the covariance's eigenvectors, unless these are too uneven to be right.

        In wide layers they take a small part of the time of singular values.
        """
        variances, axes = np.linalg.eigh(self.covariance)
        if variances[0] < EVEN * variances[-1] or (variances <= 2 * self.rounding.max()).any():
            return None
        return Principal(axes, np.sqrt(variances), axes[:, :0])


def present(cloud: np.ndarray) -> np.ndarray:
    """Returns which rows are samples: all but those of zeros, `(samples,)`.

    Args:
      cloud: `(samples, units)`.
    """
    there: np.ndarray = np.any(cloud != 0, axis=-1)
    return there


def has_mean(cloud: np.ndarray) -> bool:
    """Returns whether the mean of a cloud can be told from 0 (Hotelling's T² at p < .001).

    The mean of samples around 0 is noise of their covariance: it points wherever that is wide, and
    says of the basis what the covariance says. The test does not change if the cloud is rotated, so
    that what is found of the means that pass stays exact.

    Args:
      cloud: `(samples, units)`, at least one row of which is not of zeros.
    """
    return _has_mean(_Parts(cloud))


def _has_mean(parts: _Parts) -> bool:
    if (ratio := parts.mean_square) is not None:
        return _differs(ratio, len(parts.mean), parts.count)
    axes, deviations, _ = parts.principal
    mean, count = parts.mean, parts.count
    along, rank = mean @ axes, len(deviations)
    if np.linalg.norm(mean - axes @ along) > STANDS * np.linalg.norm(mean):
        return True  # it stands where nothing varies
    return 0 < rank < count and _differs(np.sum(np.square(along / deviations)), rank, count)


def _differs(square: float, rank: int, count: int) -> bool:
    # T² = (N − 1) μᵀS⁻¹μ with the covariance that is divided by N; T² (N − r)/(r (N − 1)) ~ F.
    ratio = float(square) * (count - rank) / rank
    return bool(scipy.special.fdtrc(rank, count - rank, ratio) < NO_MEAN)


def whiten(cloud: np.ndarray) -> Whitened:
    """Takes mean and covariance out of a cloud, by the symmetric root (ZCA).

    Where the latents do not vary in all directions, as after a LayerNorm, they are whitened on the
    directions in which they do. A sample at the mean has no direction left: it becomes zeros.

    Args:
      cloud: `(samples, units)`.
    """
    return _whiten(_Parts(cloud))


def _whiten(parts: _Parts) -> Whitened:
    axes, deviations, still = parts.principal
    if parts.cloud.shape[1] > NARROW:  # one product with all samples is faster than two
        samples = parts.centred @ ((axes / deviations) @ axes.T)
    else:
        samples = (parts.centred @ axes / deviations) @ axes.T
    at_mean = np.vecdot(parts.centred, parts.centred) <= np.sum(parts.rounding)
    return Whitened(np.where(at_mean[:, None], 0, samples), len(deviations), still)


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


def principal(factor: np.ndarray, count: int, rounding: np.ndarray) -> Principal:
    """Returns the principal directions in which samples vary, and by how much.

    By singular values, whose errors go with the largest deviation: eigenvalues of the covariance
    would lose units 10⁷ times narrower than the widest. The entries of a unit are rounded in
    proportion to their own size, so that one huge entry does not hide the other units.

    Args:
      factor: What `triangle` returns of the centred samples.
      count: The number of samples.
      rounding: What `rounding_variance` returns of the units.
    """
    _, singular, turned = np.linalg.svd(factor)
    variances, axes = np.square(singular) / count, turned.T
    error = 4 * len(variances) * float(np.finfo(np.float64).eps)
    spread = variances > np.square(axes).T @ rounding + error**2 * variances[0]
    return Principal(axes[:, spread], np.sqrt(variances[spread]), axes[:, ~spread])


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


def view(cloud: np.ndarray, name: str) -> np.ndarray | None:
    """Returns what a statistic sees of a cloud; as `views_of`, of one view.

    Args:
      cloud: `(samples, units)`.
      name: One of `VIEWS`.
    """
    return views_of(cloud, (name,))[name]


def views_of(cloud: np.ndarray, names: Collection[str]) -> dict[str, np.ndarray | None]:
    """Returns what statistics see of a cloud, in the cloud's precision, by the views' names.

    Args:
      cloud: `(samples, units)`.
      names: Those of `VIEWS` that are asked for.

    Returns:
      `(samples, units)` of samples and shape, `(1, units)` of the mean, `(units, units)` of the
      covariance and the second moments; None where there are too few samples to tell, where nothing
      varies, and of a mean that cannot be told from 0. Beside a shape that does not vary in all
      directions stand axes of the others, `still`, `(units, missing)`.
    """
    parts, finite = _Parts(cloud), bool(np.isfinite(cloud).all())
    found: dict[str, np.ndarray | None] = {}
    for name in names:
        enough = parts.count >= needed(name, cloud.shape[1]) and finite
        seen = _seen(parts, name) if enough and name != SAMPLES else None
        if name == SHAPE and isinstance(seen, Whitened):
            found[STILL] = seen.still if seen.still.size else None
            seen = seen.samples if seen.samples.any() else None
        largest = 0.0 if seen is None else np.abs(seen).max()
        scaled = seen / largest if seen is not None and largest > 0 else seen
        found[name] = cloud if name == SAMPLES else scaled
    return {
        name: None if one is None else one.astype(cloud.dtype, copy=False)
        for name, one in found.items()
    }


def _seen(parts: _Parts, name: str) -> Any:
    """Returns a view before it is scaled, or None where it cannot be told."""
    if name == MEAN:
        return parts.mean[None] if _has_mean(parts) else None
    if name == COVARIANCE:
        spread = np.trace(parts.covariance) > np.sum(parts.rounding)
        return parts.covariance if spread else None
    if name == MOMENTS:
        return parts.covariance + np.outer(parts.mean, parts.mean)
    return _whiten(parts)


def needed(name: str, units: int) -> int:
    """Returns how many samples a view takes to be judged.

    Args:
      name: One of `VIEWS`.
      units: The width of the latents.
    """
    return {SHAPE: LEAST_PER_UNIT * units, MEAN: units + 2, COVARIANCE: 2}.get(name, 1)


def _second_moments(values: np.ndarray, count: int) -> np.ndarray:
    """Returns the mean over samples of the products of values that stand for them."""
    matrix: np.ndarray = values.T @ values / count
    return matrix
