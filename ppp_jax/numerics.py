"""Safe polar coordinates and Haar-random rotations."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike


def at_least_single(x: ArrayLike) -> jax.Array:
    """Returns half-precision numbers as float32, all others as they are.

    Args:
      x: any shape.
    """
    x = jnp.asarray(x)
    return x.astype(jnp.float32) if x.dtype in (jnp.bfloat16, jnp.float16) else x


def polar(x: ArrayLike) -> tuple[jax.Array, jax.Array]:
    """Splits vectors on the last axis into length and direction, safely.

    The vector is divided by its largest magnitude before squaring, so that lengths near the ends
    of the floating-point range neither underflow nor overflow. The zero vector (and any whose
    entries are all subnormal) has length 0 and direction 0, and both have gradient 0 there: every
    norm in the package goes through here, so that the undefined gradient of ‖x‖ at 0 is decided
    in one place. Half-precision input is computed in float32.

    Args:
      x: vectors, `(..., units)`.

    Returns:
      `(length, direction)` of shapes `(..., 1)` and `(..., units)`, in float32 for half-precision
      input and in `x`'s dtype otherwise.

    Example:
      >>> length, direction = polar(jnp.array([3.0, 4.0]))
      >>> print(length, direction)
      [5.] [0.6 0.8]
    """
    scale, y, is_zero = _scaled(at_least_single(x))
    square = jnp.sum(y * y, axis=-1, keepdims=True)
    # Double `where`: the square root never sees 0, so its infinite slope never meets a zero.
    root = jnp.sqrt(jnp.where(is_zero, jnp.ones_like(square), square))
    length = jnp.where(is_zero, jnp.zeros_like(root), scale * root)
    direction = jnp.where(is_zero, jnp.zeros_like(y), y * (1 / root))
    return length, direction


def _scaled(x: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Divides vectors by about their largest magnitude; returns that, them, and which are 0."""
    # ‖x‖ = c·‖x/c‖ for every c > 0, so c may be treated as a constant by differentiation.
    largest = jax.lax.stop_gradient(jnp.max(jnp.abs(x), axis=-1, keepdims=True))
    smallest_normal = jnp.finfo(x.dtype).tiny
    # Bounded, so that the reciprocal is a normal number too.
    scale = jnp.clip(largest, smallest_normal, 0.25 / smallest_normal)
    # Reciprocals of the short side rather than divisions of the long one: XLA:CPU turns the one
    # into the other for some numbers of devices and not for others, which would change bits.
    return scale, x * (1 / scale), largest < smallest_normal


def p_norm(x: ArrayLike, p: float) -> jax.Array:
    """Returns ‖x‖_p = (Σ|x_i|ᵖ)^(1/p) of vectors on the last axis, safely as `polar`.

    Args:
      x: vectors, `(..., units)`, in float32 or float64.
      p: at least 1.

    Returns:
      `(..., 1)`; 0 with gradient 0 of the zero vector.
    """
    # The largest entry is 1 here, and so is its power: no p makes the sum vanish.
    scale, y, is_zero = _scaled(jnp.asarray(x))
    size = jnp.abs(y)
    # Entries of 0 and the zero vector never meet the power's slope (double `where`).
    there = size > 0
    powers = jnp.where(there, jnp.where(there, size, jnp.ones_like(size)) ** p, 0)
    total = jnp.where(is_zero, 1, jnp.sum(powers, axis=-1, keepdims=True))
    return jnp.where(is_zero, 0, scale * total ** (1 / p))


def haar_orthogonal(key: jax.Array, n: int) -> jax.Array:
    """Draws a matrix from the Haar measure of O(n).

    QR of a normal matrix, with the sign of R's diagonal moved into Q, without which Q is not Haar
    distributed (Mezzadri 2007, "How to generate random matrices from the classical compact
    groups").

    Args:
      key: PRNG key.
      n: dimension.

    Returns:
      Orthogonal matrix, `(n, n)`, float32 (float64 under x64).
    """
    q, r = jnp.linalg.qr(jax.random.normal(key, (n, n)))
    return q * jnp.sign(jnp.diagonal(r))[None, :]
