"""Numbers beside the picture (METHOD §5)."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ppp_jax.analysis import nulls
from ppp_jax.analysis.planes import (
    acceptance,
    as_clouds,
    build_frame,
    coordinates,
    project_onto,
    rescale,
)


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
    latents = as_clouds(latents)
    shares = acceptance(latents, basis=basis, epsilon=epsilon)
    expected = nulls.acceptance(latents.shape[-1], epsilon)
    return shares / expected if expected else np.full_like(shares, np.nan)


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
    vectors = frame.vectors.astype(values.dtype)
    clouds = values.reshape(-1, *values.shape[-2:])
    m, n = vectors.shape
    if m == n and not frame.skipped and np.allclose(frame.cosine, 0, atol=1e-12):
        c4 = _c4_orthonormal(clouds, vectors)
    else:
        c4 = _c4_planes(
            clouds,
            vectors,
            frame.planes[:, 0],
            frame.planes[:, 1],
            frame.cosine.astype(values.dtype),
        )
    return np.asarray(c4).reshape(values.shape[:-2])


@jax.jit
def _c4_orthonormal(clouds: jax.Array, vectors: jax.Array) -> jax.Array:
    def c4(values: jax.Array) -> jax.Array:
        square = jnp.square(project_onto(vectors, values))
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
        projections = project_onto(vectors, values)

        def sums(plane: tuple[jax.Array, jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
            u, v = coordinates(projections, *(x[None] for x in plane))
            uu, vv = u * u, v * v
            return jnp.sum(uu * uu - 6 * uu * vv + vv * vv), jnp.sum(jnp.square(uu + vv))

        along, total = jax.lax.map(sums, (first, second, cosine))
        return jnp.sum(along) / jnp.sum(total)

    return jax.lax.map(c4, clouds)
