"""Safe polar coordinates and Haar-random rotations."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike


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
    x = jnp.asarray(x)
    if x.dtype in (jnp.bfloat16, jnp.float16):
        x = x.astype(jnp.float32)
    # ‖x‖ = c·‖x/c‖ for every c > 0, so c may be treated as a constant by differentiation.
    largest = jax.lax.stop_gradient(jnp.max(jnp.abs(x), axis=-1, keepdims=True))
    smallest_normal = jnp.finfo(x.dtype).tiny
    is_zero = largest < smallest_normal
    # Bounded, so that the reciprocal is a normal number too.
    scale = jnp.clip(largest, smallest_normal, 0.25 / smallest_normal)
    # Reciprocals of the short side rather than divisions of the long one: XLA:CPU turns the one
    # into the other for some numbers of devices and not for others, which would change bits.
    y = x * (1 / scale)
    square = jnp.sum(y * y, axis=-1, keepdims=True)
    # Double `where`: the square root never sees 0, so its infinite slope never meets a zero.
    root = jnp.sqrt(jnp.where(is_zero, jnp.ones_like(square), square))
    length = jnp.where(is_zero, jnp.zeros_like(root), scale * root)
    direction = jnp.where(is_zero, jnp.zeros_like(y), y * (1 / root))
    return length, direction


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
