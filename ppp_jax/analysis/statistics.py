"""Numbers beside the picture (METHOD §5)."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ppp_jax.analysis import nulls
from ppp_jax.analysis.arrays import as_clouds, rescale
from ppp_jax.analysis.frames import build_frame
from ppp_jax.analysis.planes import accepted, prepare
from ppp_jax.errors import InputError, whole
from ppp_jax.numerics import polar

NEIGHBOUR_ROWS = 512  # distances to all other samples held at once


def acceptance_ratio(latents: Any, *, basis: Any = None, epsilon: float = 0.85) -> np.ndarray:
    """Returns A/A0: the share of (plane, sample) pairs accepted, over the isotropic share.

    1 for isotropic latents, larger if they crowd the privileged planes, 0 if they avoid them; the
    corners of the cube do, so 0 does not mean that there is no structure (METHOD §2).

    Args:
      latents: `(..., samples, units)`; leading axes are separate clouds.
      basis: privileged vectors, `(vectors, units)`; None for the standard basis.
      epsilon: acceptance cosine, in [0, 1].

    Returns:
      Array of the leading shape; NaN for a cloud that is not finite or has nothing but zeros.

    Raises:
      InputError: an argument out of its range, naming it.

    Example:
      >>> round(float(acceptance_ratio(np.eye(4))), 3)  # each axis lies in half of the planes
      1.802
    """
    prepared = prepare(latents, basis, epsilon, nonfinite="drop")
    if len(prepared.epsilons) != 1:
        raise InputError("epsilon", epsilon, "must be one number")
    per_cloud = prepared.source.shape[-2]
    clouds = prepared.source.rows // per_cloud
    count = np.zeros(clouds, np.int64)
    for block in accepted(prepared):
        count += np.bincount(block.sample // per_cloud, minlength=clouds)
    lengths = prepared.survey.lengths.reshape(clouds, per_cloud)
    pairs = np.sum(lengths > 0, axis=1) * len(prepared.frame.planes)
    expected = pairs * nulls.acceptance(prepared.source.units, float(prepared.epsilons[0]))
    usable = (expected > 0) & ~np.isnan(lengths).any(axis=1)
    ratio = np.divide(count, expected, out=np.full(clouds, np.nan), where=usable)
    return ratio.reshape(prepared.source.shape[:-2])


def alignment_c4(latents: Any, *, basis: Any = None) -> np.ndarray:
    """Returns C4 = Σ Re(u + iv)⁴ / Σ |u + iv|⁴ over all privileged planes and samples.

    +1 on the axes of the planes, −1 on their diagonals, 0 for isotropic latents; it needs no ε.
    Samples are first brought to unit length, so that a few long ones do not decide for all (and
    the table of METHOD §5 is reproduced, which the bare formula does not). In an orthonormal basis
    both sums are closed forms in Σx⁴ and Σx² of each sample.

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
    values, _ = rescale(as_clouds(latents))
    frame = build_frame(basis, values.shape[-1])
    vectors = np.eye(frame.size) if frame.vectors is None else frame.vectors
    vectors = vectors.astype(values.dtype)
    clouds = values.reshape(-1, *values.shape[-2:])
    if frame.gram is None and len(vectors) == vectors.shape[1]:
        c4 = _c4_orthonormal(clouds, vectors)
    else:
        first, second = frame.planes.T
        cosine = np.zeros(len(first)) if frame.gram is None else frame.gram[first, second]
        c4 = _c4_planes(clouds, vectors, first, second, cosine.astype(values.dtype))
    return np.asarray(c4).reshape(values.shape[:-2])


def _project_onto(vectors: jax.Array, values: jax.Array) -> jax.Array:
    """Returns each sample's direction projected onto each vector, `(vectors, samples)`.

    In full precision: accelerators would multiply in less by default.
    """
    return jnp.matmul(vectors, polar(values)[1].T, precision=jax.lax.Precision.HIGHEST)


@jax.jit
def _c4_orthonormal(clouds: jax.Array, vectors: jax.Array) -> jax.Array:
    def c4(values: jax.Array) -> jax.Array:
        square = jnp.square(_project_onto(vectors, values))
        second, fourth = jnp.sum(square, axis=0), jnp.sum(square * square, axis=0)
        units = vectors.shape[0]
        along = jnp.sum((units + 2) * fourth - 3 * second * second)
        return along / jnp.sum((units - 2) * fourth + second * second)

    return jax.lax.map(c4, clouds)


@jax.jit
def _c4_planes(
    clouds: jax.Array, vectors: jax.Array, first: jax.Array, second: jax.Array, cosine: jax.Array
) -> jax.Array:
    def c4(values: jax.Array) -> jax.Array:
        projections = _project_onto(vectors, values)

        def sums(plane: tuple[jax.Array, jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
            i, j, g = plane
            uu, v = jnp.square(projections[i]), projections[j] - g * projections[i]
            vv = v * v / (1 - g * g)
            return jnp.sum(uu * uu - 6 * uu * vv + vv * vv), jnp.sum(jnp.square(uu + vv))

        along, total = jax.lax.map(sums, (first, second, cosine))
        return jnp.sum(along) / jnp.sum(total)

    return jax.lax.map(c4, clouds)


def discreteness(latents: Any, *, max_samples: int = 6000, seed: int = 0) -> np.ndarray:
    """Returns 1 − median nearest-neighbour distance over that of a Gaussian of the same shape.

    0 for continuous clouds, towards 1 for quantised ones, wherever their clusters stand: it does
    not change if the latents are rotated (METHOD §5). The Gaussian, with the latents' mean and
    covariance, is drawn as often as there are samples.

    Args:
      latents: `(..., samples, units)`; leading axes are separate clouds.
      max_samples: of larger clouds so many are drawn; the cost is quadratic in them.
      seed: of the draws.

    Returns:
      Array of the leading shape; NaN for a cloud that is not finite or a single point.

    Raises:
      InputError: an argument out of its range, naming it.

    Example:
      >>> corners = np.array([[1.0, 1], [-1, 1], [-1, -1], [1, -1]]).repeat(50, axis=0)
      >>> float(discreteness(corners))
      1.0
    """
    whole("max_samples", max_samples, least=2)
    whole("seed", seed, least=0)
    values, _ = rescale(as_clouds(latents))
    clouds = values.reshape(-1, *values.shape[-2:]).astype(np.float64)
    found = [_discreteness(cloud, max_samples, seed) for cloud in clouds]
    return np.array(found).reshape(values.shape[:-2])


def _discreteness(cloud: np.ndarray, max_samples: int, seed: int) -> float:
    rng = np.random.default_rng(seed)
    if len(cloud) > max_samples:
        cloud = cloud[np.sort(rng.choice(len(cloud), size=max_samples, replace=False))]
    if len(cloud) < 2 or not np.isfinite(cloud).all():
        return np.nan
    drawn = rng.multivariate_normal(
        cloud.mean(axis=0), np.atleast_2d(np.cov(cloud.T)), size=len(cloud)
    )
    expected = _neighbour_distance(drawn)
    return 1 - _neighbour_distance(cloud) / expected if expected > 0 else np.nan


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
