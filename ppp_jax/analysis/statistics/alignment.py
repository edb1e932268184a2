"""Alignment with a basis in one number per cloud: C4 and two kurtoses (docs/method.md §6).

One jitted kernel measures a cloud against a basis; `rotations` runs the same kernel against the
basis turned at random, so that the observed value and its null are computed alike.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ppp_jax.analysis.io.sources import as_clouds, rescale
from ppp_jax.analysis.projection.planes import build_frame
from ppp_jax.numerics import polar

BATCH_ELEMENTS = 2**20  # projections held at once while many bases are measured
ROUNDING = 1e-12  # a variance below this share of the largest square is rounding, not spread


class Alignment(NamedTuple):
    """Numbers of a cloud against a basis, each an array of the leading shape.

    Attributes:
      c4: see `alignment_c4`.
      kurtosis: see `alignment_kurtosis`.
      unit_kurtosis: see `unit_kurtosis`.
    """

    c4: Any
    kurtosis: Any
    unit_kurtosis: Any


class Planes(NamedTuple):
    """The planes of a basis that is not orthonormal: their vectors, and the cosine between them."""

    first: np.ndarray
    second: np.ndarray
    cosine: np.ndarray


class Target(NamedTuple):
    """A basis, ready for the kernel: unit vectors, `(vectors, units)`, and planes or None."""

    vectors: Any
    planes: Planes | None


def alignment_c4(latents: Any, *, basis: Any = None) -> np.ndarray:
    """Returns C4 = Σ Re(u + iv)⁴ / Σ |u + iv|⁴ over all privileged planes and samples.

    +1 on the axes of the planes, −1 on their diagonals, 0 for isotropic latents; it needs no ε.
    Samples are first brought to unit length, so that a few long ones do not decide for all (and
    the table of docs/method.md §13 is reproduced, which the bare formula does not). In an
    orthonormal basis both sums are closed forms in Σx⁴ and Σx² of each sample.

    Args:
      latents: `(..., samples, units)`; leading axes are separate clouds.
      basis: privileged vectors, `(vectors, units)`; None for the standard basis.

    Returns:
      Array of the leading shape; NaN for a cloud that is not finite or has nothing but zeros.

    Raises:
      InputError: an argument out of its range, naming it.

    Example:
      >>> float(alignment_c4(np.eye(4))), round(float(alignment_c4(np.ones((1, 2)))), 3)
      (1.0, -1.0)
    """
    found: np.ndarray = alignment(latents, basis=basis).c4
    return found


def alignment_kurtosis(latents: Any, *, basis: Any = None) -> np.ndarray:
    """Returns n(n+2)/3 · Σ_k (x·b_k)⁴/‖x‖⁴ / vectors, averaged over samples; 1 when isotropic.

    On an orthonormal basis C4, of samples of unit length, is a monotone function of it: with
    s = 3·kurtosis/(n+2), C4 = ((n+2)s − 3)/((n−2)s + 1). The two are one test there, and both see
    an axis-aligned covariance. `unit_kurtosis` does not.

    Args:
      latents: `(..., samples, units)`; leading axes are separate clouds.
      basis: privileged vectors, `(vectors, units)`; None for the standard basis.

    Returns:
      Array of the leading shape; NaN for a cloud that is not finite or has nothing but zeros.

    Raises:
      InputError: an argument out of its range, naming it.

    Example:
      >>> float(alignment_kurtosis(np.eye(4)))  # on the axes: (n + 2)/3
      2.0
    """
    found: np.ndarray = alignment(latents, basis=basis).kurtosis
    return found


def unit_kurtosis(latents: Any, *, basis: Any = None) -> np.ndarray:
    """Returns the mean over basis vectors of the kurtosis of the projections, over a Gaussian's 3.

    Each vector's projections are centred and divided by their own deviation: a Gaussian gives 1
    in every basis, whatever its covariance, so this separates the shape of the law along the axes
    from axis-aligned variances. Above 1 the units are sparse or clustered at the origin, below 1
    they saturate; its reference is the rotation null (`rotation_test`), because other isotropic
    laws do not give 1.

    Args:
      latents: `(..., samples, units)`; leading axes are separate clouds.
      basis: privileged vectors, `(vectors, units)`; None for the standard basis.

    Returns:
      Array of the leading shape. Vectors along which nothing varies are left out; NaN where
      nothing varies at all, and for a cloud that is not finite.

    Raises:
      InputError: an argument out of its range, naming it.

    Example:
      >>> signs = np.array([[1.0, 1], [1, -1], [-1, 1], [-1, -1]])
      >>> round(float(unit_kurtosis(signs)), 3)
      0.333
    """
    found: np.ndarray = alignment(latents, basis=basis).unit_kurtosis
    return found


def alignment(latents: Any, *, basis: Any = None) -> Alignment:
    """Returns all three numbers at the cost of one.

    Args:
      latents: `(..., samples, units)`; leading axes are separate clouds.
      basis: privileged vectors, `(vectors, units)`; None for the standard basis.

    Raises:
      InputError: an argument out of its range, naming it.
    """
    values, _ = rescale(as_clouds(latents))
    target = build_target(basis, values.shape[-1], values.dtype)
    found = _measure_clouds(values.reshape(-1, *values.shape[-2:]), target)
    return Alignment(*(np.asarray(x).reshape(values.shape[:-2]) for x in found))


def build_target(basis: Any, units: int, dtype: np.dtype) -> Target:
    """Returns a basis as the kernel takes it.

    Args:
      basis: `(vectors, units)`, a name, or None for the standard basis.
      units: width of the latents.
      dtype: in which to compute.

    Raises:
      InputError: the basis is none, or spans no plane.
    """
    frame = build_frame(basis, units)
    vectors = np.eye(units) if frame.vectors is None else frame.vectors
    if frame.gram is None and len(vectors) == units:
        return Target(vectors.astype(dtype), None)
    first, second = frame.planes.T
    cosine = np.zeros(len(first)) if frame.gram is None else frame.gram[first, second]
    return Target(vectors.astype(dtype), Planes(first, second, cosine.astype(dtype)))


@jax.jit
def _measure_clouds(clouds: jax.Array, target: Target) -> Alignment:
    return jax.lax.map(lambda cloud: _measure(cloud, target.vectors, target.planes), clouds)


def measure_turned(clouds: np.ndarray, target: Target, rotations: np.ndarray) -> Alignment:
    """Measures clouds X·Q for many rotations Q, by turning the basis instead.

    Args:
      clouds: `(clouds, samples, units)`.
      target: the basis.
      rotations: Q, `(rotations, units, units)`.

    Returns:
      Arrays `(clouds, rotations)`.
    """
    # (X Q) Bᵀ = X (B Qᵀ)ᵀ
    turned = np.einsum("vu,ktu->kvt", target.vectors, rotations).astype(target.vectors.dtype)
    width = max(1, BATCH_ELEMENTS // (clouds.shape[1] * len(target.vectors)))
    return Alignment(*map(np.asarray, _measure_bases(clouds, turned, target.planes, width)))


def _measure_all_bases(
    clouds: jax.Array, turned: jax.Array, planes: Planes | None, width: int
) -> Alignment:
    def of_cloud(cloud: jax.Array) -> Alignment:
        return jax.lax.map(lambda v: _measure(cloud, v, planes), turned, batch_size=width)

    return jax.lax.map(of_cloud, clouds)


_measure_bases = jax.jit(_measure_all_bases, static_argnames="width")


def _measure(cloud: jax.Array, vectors: jax.Array, planes: Planes | None) -> Alignment:
    direction = polar(cloud)[1]
    onto = _project(vectors, direction)
    square = onto * onto
    # A zero row has no direction: it counts in no mean.
    samples = jnp.sum(jnp.any(direction != 0, axis=-1))
    fourth = jnp.sum(square * square)
    units = cloud.shape[-1]
    kurtosis = units * (units + 2) / 3 / len(vectors) * fourth / samples.astype(cloud.dtype)
    if planes is None:
        whole = jnp.sum(jnp.square(jnp.sum(square, axis=0)))
        c4 = ((units + 2) * fourth - 3 * whole) / ((units - 2) * fourth + whole)
    else:
        c4 = _c4_planes(onto, planes)
    return Alignment(c4, kurtosis, _unit_kurtosis(cloud, vectors))


def _project(vectors: jax.Array, values: jax.Array) -> jax.Array:
    """Returns each sample's projection onto each vector, `(vectors, samples)`.

    In full precision: accelerators would multiply in less by default.
    """
    return jnp.matmul(vectors, values.T, precision=jax.lax.Precision.HIGHEST)


def _unit_kurtosis(cloud: jax.Array, vectors: jax.Array) -> jax.Array:
    # Clouds that are measured together may differ in scale by more than a fourth power holds.
    largest = jnp.maximum(jnp.max(jnp.abs(cloud)), jnp.finfo(cloud.dtype).tiny)
    cloud = cloud / largest
    square = jnp.square(_project(vectors, cloud - jnp.mean(cloud, axis=0, keepdims=True)))
    variance = jnp.mean(square, axis=-1)
    spread = variance > ROUNDING
    safe = jnp.where(spread, variance, jnp.ones_like(variance))
    each = jnp.where(spread, jnp.mean(square * square, axis=-1) / (3 * safe * safe), 0)
    # Not finite stays not finite: a comparison with NaN is false, and would hide it.
    return jnp.sum(each) / jnp.sum(spread).astype(each.dtype) + 0 * jnp.sum(variance)


def _c4_planes(onto: jax.Array, planes: Planes) -> jax.Array:
    def sums(plane: Planes) -> tuple[jax.Array, jax.Array]:
        i, j, g = plane
        uu, v = jnp.square(onto[i]), onto[j] - g * onto[i]
        vv = v * v / (1 - g * g)
        return jnp.sum(uu * uu - 6 * uu * vv + vv * vv), jnp.sum(jnp.square(uu + vv))

    along, total = jax.lax.map(sums, planes)
    return jnp.sum(along) / jnp.sum(total)
