"""Alignment with a basis in one number per cloud: C4 and two kurtoses (docs/method.md §6).

Each is a function of a cloud, the vectors of a basis and its planes, which JAX can trace. One
jitted kernel measures several of them at once, and shares what they have in common; the rotation
test runs the same kernel against the basis turned at random, so that the observed value and its
null are computed alike.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ppp_jax.analysis.io.rows import RAISE, check_rows, sampled, told, warn_of_long_rows
from ppp_jax.analysis.io.sources import (
    Latents,
    PerCloud,
    Source,
    labelled_like,
    open_source,
    rescale,
)
from ppp_jax.analysis.projection.planes import (
    Basis,
    BasisLike,
    resolve_basis,
    resolve_vectors,
)
from ppp_jax.analysis.statistics.moments import Moments, Variances
from ppp_jax.analysis.statistics.streamed import moments_of
from ppp_jax.numerics import polar

BATCH_ELEMENTS = 2**20  # projections held at once while many bases are measured
NO_SUM = 1e-5  # of the length of as many orthogonal vectors: a sum below it is rounding
ROUNDING = 1e-12  # a variance below this fraction of the mean square is rounding, not spread


class Planes(NamedTuple):
    """The planes of a basis that is not orthonormal: their vectors, and the cosine between them."""

    first: Any
    second: Any
    cosine: Any


class Target(NamedTuple):
    """A basis, ready for the kernel: unit vectors, `(vectors, units)`, and planes or None."""

    vectors: Any
    planes: Planes | None


OfBasis = Callable[[jax.Array, jax.Array, Planes | None], jax.Array]
"""A statistic of a cloud, `(samples, units)`, against `(vectors, units)` and their planes."""
OfMoments = Callable[[Moments], np.ndarray]
"""The same statistic by the moments along the vectors of an orthonormal basis."""


def alignment_c4(
    latents: Latents,
    *,
    basis: BasisLike = None,
    nonfinite: str = RAISE,
    drop_outliers: float | None = None,
) -> PerCloud:
    """Returns C4 = Σ Re(u + iv)⁴ / Σ (u² + v²)² over all privileged planes and samples.

    +1 on the axes of the planes, −1 on their diagonals, 0 for isotropic latents; it needs no ε.
    Samples are first brought to unit length, so that a few long ones do not decide for all (and
    the table of docs/method.md §13 is reproduced, which the bare formula does not). In an
    orthonormal basis both sums are closed forms in Σx⁴ and Σx² of each sample.

    Args:
      latents: `(..., samples, units)`; leading axes are separate clouds.
      basis: The privileged vectors, `(vectors, units)`, or a name; None means the standard basis.
      nonfinite: `raise` refuses rows that are not finite, and `drop` leaves them out.
      drop_outliers: Rows longer than so many times the median row are left out; None keeps them.

    Returns:
      Array of the leading shape, labelled if the latents are, with the counts of rows as
      attributes; NaN for a cloud without any finite row, or with nothing but zeros.

    Raises:
      InputError: An argument is out of its range, or rows are not finite; the error names it.

    Example:
      >>> float(alignment_c4(np.eye(4))), round(float(alignment_c4(np.ones((1, 2)))), 3)
      (1.0, -1.0)
    """
    return _measured(c4_of, c4_along, latents, basis, nonfinite, drop_outliers)


def alignment_kurtosis(
    latents: Latents,
    *,
    basis: BasisLike = None,
    nonfinite: str = RAISE,
    drop_outliers: float | None = None,
) -> PerCloud:
    """Returns n(n+2)/3 · Σ_k (x·b_k)⁴/‖x‖⁴ / vectors, averaged over samples; 1 when isotropic.

    On an orthonormal basis C4, of samples of unit length, is a monotone function of it: with
    s = 3·kurtosis/(n+2), C4 = ((n+2)s − 3)/((n−2)s + 1). The two have the same ranks there, and
    both see an axis-aligned covariance. `unit_kurtosis` does not.

    Args:
      latents: `(..., samples, units)`; leading axes are separate clouds.
      basis: The privileged vectors, `(vectors, units)`, or a name; None means the standard basis.
      nonfinite: `raise` refuses rows that are not finite, and `drop` leaves them out.
      drop_outliers: Rows longer than so many times the median row are left out; None keeps them.

    Returns:
      Array of the leading shape, labelled if the latents are, with the counts of rows as
      attributes; NaN for a cloud without any finite row, or with nothing but zeros.

    Raises:
      InputError: An argument is out of its range, or rows are not finite; the error names it.

    Example:
      >>> float(alignment_kurtosis(np.eye(4)))  # on the axes: (n + 2)/3
      2.0
    """
    return _measured(kurtosis_of, kurtosis_along, latents, basis, nonfinite, drop_outliers)


def unit_kurtosis(
    latents: Latents,
    *,
    basis: BasisLike = None,
    nonfinite: str = RAISE,
    drop_outliers: float | None = None,
) -> PerCloud:
    """Returns the mean over basis vectors of the kurtosis of the projections, over a Gaussian's 3.

    Each vector's projections are centred and divided by their own deviation: a Gaussian gives 1
    in every basis, whatever its covariance, so this separates the shape of the law along the axes
    from axis-aligned variances. Above 1 the units are sparse or clustered at the origin, below 1
    they saturate; its reference is the rotation null (`rotation_test`), because other isotropic
    laws do not give 1.

    Args:
      latents: `(..., samples, units)`; leading axes are separate clouds.
      basis: The privileged vectors, `(vectors, units)`, or a name; None means the standard basis.
      nonfinite: `raise` refuses rows that are not finite, and `drop` leaves them out.
      drop_outliers: Rows longer than so many times the median row are left out; None keeps them.

    Returns:
      Array of the leading shape, labelled if the latents are, with the counts of rows as
      attributes. Vectors along which nothing varies are left out; NaN where nothing varies at all,
      and for a cloud without any finite row.

    Raises:
      InputError: An argument is out of its range, or rows are not finite; the error names it.

    Example:
      >>> signs = np.array([[1.0, 1], [1, -1], [-1, 1], [-1, -1]])
      >>> round(float(unit_kurtosis(signs)), 3)
      0.333
    """
    return _measured(
        unit_kurtosis_of, unit_kurtosis_along, latents, basis, nonfinite, drop_outliers
    )


def _measured(
    function: OfBasis,
    along: OfMoments,
    latents: Latents,
    basis: BasisLike,
    nonfinite: str,
    drop_outliers: float | None,
) -> PerCloud:
    source = open_source(latents)
    if source.lazy:  # of any size
        frame = resolve_vectors(basis, source.units)
        if frame.orthonormal:
            rules = {"nonfinite": nonfinite, "drop_outliers": drop_outliers}
            return _streamed(latents, source, along, frame, rules)
    kept, rows = sampled(latents, nonfinite=nonfinite, drop_outliers=drop_outliers)
    values, _ = rescale(kept)
    target = build_target(resolve_basis(basis, values.shape[-1]), values.dtype)
    clouds = values.reshape(-1, *values.shape[-2:])
    (found,) = measure_all((function,), clouds, target)
    return labelled_like(latents, found.reshape(values.shape[:-2]), rows)


def _streamed(
    latents: Latents, source: Source, along: OfMoments, frame: Basis, rules: dict[str, Any]
) -> PerCloud:
    """Measures clouds that are read in parts, by sums over these."""
    check_rows(**rules)
    clouds = range(source.rows // source.shape[-2])
    found = [moments_of(source, cloud, frame, **rules) for cloud in clouds]
    if rules["drop_outliers"] is None:
        warn_of_long_rows(sum(rows.long for _, rows in found))
    with np.errstate(divide="ignore", invalid="ignore"):  # a missing cloud has no number
        values = np.array([along(moments) for moments, _ in found])
    rows = told([rows for _, rows in found])
    return labelled_like(latents, values.reshape(source.shape[:-2]), rows)


def build_target(frame: Basis, dtype: np.dtype) -> Target:
    """Returns a basis as the kernel takes it.

    Args:
      frame: The basis.
      dtype: The precision in which to compute.
    """
    vectors = np.eye(frame.size) if frame.vectors is None else frame.vectors
    if frame.orthonormal:
        return Target(vectors.astype(dtype), None)
    first, second = frame.planes.T
    cosine = np.zeros(len(first)) if frame.gram is None else frame.gram[first, second]
    return Target(vectors.astype(dtype), Planes(first, second, cosine.astype(dtype)))


def measure_all(functions: tuple[OfBasis, ...], clouds: np.ndarray, target: Target) -> np.ndarray:
    """Measures clouds as they are.

    Args:
      functions: The statistics to measure.
      clouds: The samples, `(clouds, samples, units)`.
      target: The basis.

    Returns:
      `(functions, clouds)`.
    """
    with jax.debug_nans(False):  # a cloud that is missing has no number
        placed = jax.device_put((clouds, target))
        return np.stack(jax.device_get(_measure_clouds(*placed, functions=functions)))


@functools.partial(jax.jit, static_argnames="functions")
def _measure_clouds(
    clouds: jax.Array, target: Target, *, functions: tuple[OfBasis, ...]
) -> tuple[jax.Array, ...]:
    return jax.lax.map(
        lambda cloud: tuple(f(cloud, target.vectors, target.planes) for f in functions), clouds
    )


def measure_turned(
    functions: tuple[OfBasis, ...], cloud: np.ndarray, target: Target, rotations: np.ndarray
) -> np.ndarray:
    """Measures a cloud X·Q for many rotations Q, by turning the basis instead.

    Args:
      functions: The statistics to measure.
      cloud: The samples, `(samples, units)`.
      target: The basis.
      rotations: The rotations Q, `(rotations, units, units)`.

    Returns:
      `(functions, rotations)`.
    """
    # (X Q) Bᵀ = X (B Qᵀ)ᵀ
    turned = np.matmul(target.vectors, rotations.swapaxes(1, 2)).astype(target.vectors.dtype)
    width = max(1, BATCH_ELEMENTS // (len(cloud) * len(target.vectors)))
    with jax.debug_nans(False):  # a cloud that is missing has no number
        placed = jax.device_put((cloud[None], turned, target.planes))
        found = jax.device_get(_measure_bases(*placed, functions=functions, width=width))
    return np.concatenate(found)


@functools.partial(jax.jit, static_argnames=("functions", "width"))
def _measure_bases(
    clouds: jax.Array,
    turned: jax.Array,
    planes: Planes | None,
    *,
    functions: tuple[OfBasis, ...],
    width: int,
) -> tuple[jax.Array, ...]:
    def of_cloud(cloud: jax.Array) -> tuple[jax.Array, ...]:
        return jax.lax.map(
            lambda vectors: tuple(f(cloud, vectors, planes) for f in functions),
            turned,
            batch_size=width,
        )

    return jax.lax.map(of_cloud, clouds)


def c4_of(cloud: jax.Array, vectors: jax.Array, planes: Planes | None) -> jax.Array:
    """Traces `alignment_c4` of one cloud.

    Args:
      cloud: The samples, `(samples, units)`.
      vectors: The vectors of the basis, `(vectors, units)`.
      planes: The planes of a basis that is not orthonormal, or None.
    """
    onto, _ = _directions_onto(cloud, vectors)
    if planes is not None:
        return _c4_planes(onto, planes)
    square, units = onto * onto, cloud.shape[-1]
    fourth = jnp.sum(square * square)
    whole = jnp.sum(jnp.square(jnp.sum(square, axis=0)))
    return ((units + 2) * fourth - 3 * whole) / ((units - 2) * fourth + whole)


def kurtosis_of(cloud: jax.Array, vectors: jax.Array, planes: Planes | None) -> jax.Array:
    """Traces `alignment_kurtosis` of one cloud.

    Args:
      cloud: The samples, `(samples, units)`.
      vectors: The vectors of the basis, `(vectors, units)`.
      planes: These do not matter.
    """
    del planes
    onto, samples = _directions_onto(cloud, vectors)
    square, units = onto * onto, cloud.shape[-1]
    fourth = jnp.sum(square * square)
    return units * (units + 2) / 3 / len(vectors) * fourth / samples.astype(cloud.dtype)


def _directions_onto(cloud: jax.Array, vectors: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns unit samples projected onto each vector, and how many samples have a direction.

    A zero row has none: it counts in no mean.
    """
    direction = polar(cloud)[1]
    return _project(vectors, direction), jnp.sum(jnp.any(direction != 0, axis=-1))


def _project(vectors: jax.Array, values: jax.Array) -> jax.Array:
    """Returns each sample's projection onto each vector, `(vectors, samples)`.

    In full precision: accelerators would multiply in less by default.
    """
    return jnp.matmul(vectors, values.T, precision=jax.lax.Precision.HIGHEST)


def unit_kurtosis_of(cloud: jax.Array, vectors: jax.Array, planes: Planes | None) -> jax.Array:
    """Traces `unit_kurtosis` of one cloud.

    Args:
      cloud: The samples, `(samples, units)`.
      vectors: The vectors of the basis, `(vectors, units)`.
      planes: These do not matter.
    """
    del planes
    # Clouds that are measured together may differ in scale by more than a fourth power holds.
    largest = jnp.maximum(jnp.max(jnp.abs(cloud)), jnp.finfo(cloud.dtype).tiny)
    cloud = cloud / largest
    there = jnp.any(cloud != 0, axis=-1, keepdims=True)  # a row of zeros is no sample
    count = jnp.maximum(jnp.sum(there), 1).astype(cloud.dtype)
    centred = jnp.where(there, cloud - jnp.sum(cloud, axis=0, keepdims=True) / count, 0)
    onto = _project(vectors, centred)
    # Each vector on a scale of its own: one huge entry along another must not hide this one.
    peak = jnp.max(jnp.abs(onto), axis=-1)
    scale = jnp.where(peak > 0, peak, jnp.ones_like(peak))
    square = jnp.square(onto / scale[:, None])
    variance = jnp.sum(square, axis=-1) / count
    # What the entries that a projection adds up may leave of it by rounding.
    size = jnp.sqrt(jnp.square(vectors) @ (jnp.sum(jnp.square(cloud), axis=0) / count)) / scale
    spread = variance > ROUNDING * jnp.square(size)
    safe = jnp.where(spread, variance, jnp.ones_like(variance))
    each = jnp.where(spread, jnp.sum(square * square, axis=-1) / count / (3 * safe * safe), 0)
    # Not finite stays not finite: a comparison with NaN is false, and would hide it.
    return jnp.sum(each) / jnp.sum(spread).astype(each.dtype) + 0 * jnp.sum(variance)


def mean_ones_of(mean: jax.Array, vectors: jax.Array, planes: Planes | None) -> jax.Array:
    """Traces |cos(μ, Σ_k b_k)| of one cloud, with (1, …, 1) for Σ b_k in the standard basis.

    The sum of the vectors is the one direction that every permutation of them keeps.

    Args:
      mean: The mean sample, `(1, units)`.
      vectors: The vectors of the basis, `(vectors, units)`.
      planes: These do not matter.

    Returns:
      The cosine; NaN where the vectors add up to nothing, as those of a simplex do.
    """
    del planes
    ones = jnp.sum(vectors, axis=0)
    length = jnp.linalg.norm(ones) * jnp.linalg.norm(mean)
    there = jnp.linalg.norm(ones) > NO_SUM * math.sqrt(len(vectors))
    along = jnp.abs(jnp.matmul(mean[0], ones, precision=jax.lax.Precision.HIGHEST))
    return jnp.where(there, along / length, jnp.nan)


def covariance_of(matrix: jax.Array, vectors: jax.Array, planes: Planes | None) -> jax.Array:
    """Traces n/m · Σ_k (b_kᵀ S b_k)² / ‖S‖² over the m vectors of a basis of n units.

    Args:
      matrix: The covariance S, `(units, units)`.
      vectors: The vectors of the basis, `(vectors, units)`.
      planes: These do not matter.

    Returns:
      1 if the covariance is diagonal in an orthonormal basis, and less otherwise.
    """
    del planes
    along = _variances(matrix, vectors)
    scale = matrix.shape[-1] / len(vectors)
    return scale * jnp.sum(along * along) / jnp.sum(matrix * matrix)


def outlier_kurtosis_of(matrix: jax.Array, vectors: jax.Array, planes: Planes | None) -> jax.Array:
    """Traces the kurtosis of the second moments m_k along the vectors: mean(m²)/mean(m)².

    Args:
      matrix: The second moments around 0, `(units, units)`.
      vectors: The vectors of the basis, `(vectors, units)`.
      planes: These do not matter.

    Returns:
      1 if all vectors have the same second moment, and up to their number if one has it all.
    """
    del planes
    along = _variances(matrix, vectors)
    return jnp.mean(along * along) / jnp.square(jnp.mean(along))


def max_median_ratio_of(cloud: jax.Array, vectors: jax.Array, planes: Planes | None) -> jax.Array:
    """Traces the largest over the median of the vectors' mean absolute projections.

    Args:
      cloud: The samples, `(samples, units)`.
      vectors: The vectors of the basis, `(vectors, units)`.
      planes: These do not matter.
    """
    del planes
    size = jnp.mean(jnp.abs(_project(vectors, cloud)), axis=-1)
    return jnp.max(size) / jnp.median(size)


def c4_along(moments: Moments) -> np.ndarray:
    """Returns `c4_of` on an orthonormal basis by its moments, `(...)`.

    Args:
      moments: Of the samples, along each vector.
    """
    fourth, units = moments.angular.sum(axis=-1), moments.angular.shape[-1]
    whole = moments.samples  # Σ (Σ_k (x·b_k)²)²/‖x‖⁴
    found: np.ndarray = ((units + 2) * fourth - 3 * whole) / ((units - 2) * fourth + whole)
    return found


def kurtosis_along(moments: Moments) -> np.ndarray:
    """Returns `kurtosis_of` on an orthonormal basis by its moments, `(...)`.

    Args:
      moments: Of the samples, along each vector.
    """
    units = moments.angular.shape[-1]
    found: np.ndarray = (units + 2) / 3 * moments.angular.sum(axis=-1) / moments.samples
    return found


def kurtoses(moments: Moments) -> np.ndarray:
    """Returns the kurtosis along each vector over a Gaussian's 3, `(..., vectors)`.

    Args:
      moments: Of the samples, along each vector.

    Returns:
      The kurtoses; NaN along vectors in which nothing varies.
    """
    variance, fourth = moments.square / moments.samples, moments.fourth / moments.samples
    spread = ~(variance <= ROUNDING)  # what is not finite stays not finite
    safe = np.where(spread, variance, 1)
    return np.where(spread, fourth / (3 * safe * safe), np.nan)


def unit_kurtosis_along(moments: Moments) -> np.ndarray:
    """Returns `unit_kurtosis_of` on an orthonormal basis by its moments, `(...)`.

    Args:
      moments: Of the samples, along each vector.
    """
    each = kurtoses(moments)
    there = ~(moments.square <= ROUNDING * moments.samples)
    count = np.count_nonzero(there, axis=-1)
    total = np.where(there, each, 0).sum(axis=-1)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def max_median_along(moments: Moments) -> np.ndarray:
    """Returns `max_median_ratio_of` on an orthonormal basis by its moments, `(...)`.

    Args:
      moments: Of the samples, along each vector.
    """
    assert moments.absolute is not None  # the registry's `even` is False of it
    found: np.ndarray = moments.absolute.max(axis=-1) / np.median(moments.absolute, axis=-1)
    return found


def covariance_along(variances: Variances) -> np.ndarray:
    """Returns `covariance_of` on an orthonormal basis by its variances, `(...)`.

    Args:
      variances: Of the covariance, along each vector.
    """
    found: np.ndarray = np.square(variances.along).sum(axis=-1) / variances.total
    return found


def outlier_kurtosis_along(variances: Variances) -> np.ndarray:
    """Returns `outlier_kurtosis_of` on an orthonormal basis by its second moments, `(...)`.

    Args:
      variances: Of the second moments around 0, along each vector.
    """
    square = np.square(variances.along).mean(axis=-1)
    found: np.ndarray = square / np.square(variances.along.mean(axis=-1))
    return found


def _variances(matrix: jax.Array, vectors: jax.Array) -> jax.Array:
    """Returns bᵀ M b of every vector, `(vectors,)`."""
    turned = jnp.matmul(vectors, matrix, precision=jax.lax.Precision.HIGHEST)
    return jnp.sum(turned * vectors, axis=-1)


def _c4_planes(onto: jax.Array, planes: Planes) -> jax.Array:
    def sums(plane: Planes) -> tuple[jax.Array, jax.Array]:
        i, j, g = plane
        uu, v = jnp.square(onto[i]), onto[j] - g * onto[i]
        vv = v * v / (1 - g * g)
        return jnp.sum(uu * uu - 6 * uu * vv + vv * vv), jnp.sum(jnp.square(uu + vv))

    along, total = jax.lax.map(sums, planes)
    return jnp.sum(along) / jnp.sum(total)
