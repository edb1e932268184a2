"""Safe polar coordinates and norms."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike


def at_least_single(x: ArrayLike) -> jax.Array:
    """Converts half-precision numbers to float32, and returns all others unchanged.

    Args:
      x: Array of any shape.
    """
    x = jnp.asarray(x)
    return x.astype(jnp.float32) if x.dtype in (jnp.bfloat16, jnp.float16) else x


def polar(x: ArrayLike) -> tuple[jax.Array, jax.Array]:
    """Splits vectors on the last axis into length and direction, safely.

    The vector is divided by its largest magnitude before squaring, so that lengths near the ends
    of the floating-point range neither underflow nor overflow. The zero vector (and any whose
    entries are all subnormal) has length 0 and direction 0, and both have gradient 0 there: every
    norm in the package goes through here, so that the undefined gradient of ‖x‖ at 0 is decided
    in one place (docs/method.md §10). Half-precision input is computed in float32.

    Args:
      x: Vectors, `(..., units)`.

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
    """Divides vectors by about their largest magnitude.

    Returns:
      `(scale, scaled, is_zero)`: the divisors, `(..., 1)`; the divided vectors, `(..., units)`; and
      whether each vector counts as zero, `(..., 1)`.
    """
    # ‖x‖ = c·‖x/c‖ for every c > 0, so c may be treated as a constant by differentiation.
    largest = jax.lax.stop_gradient(jnp.max(jnp.abs(x), axis=-1, keepdims=True))
    smallest_normal = jnp.finfo(x.dtype).tiny
    # The bounds make the reciprocal a normal number too.
    scale = jnp.clip(largest, smallest_normal, 0.25 / smallest_normal)
    # The vectors are multiplied by the reciprocal of the scale, not divided by the scale: XLA:CPU
    # replaces the division by the multiplication for some numbers of devices only, and the results
    # would then differ in their last bits.
    return scale, x * (1 / scale), largest < smallest_normal


def p_norm(x: ArrayLike, p: float) -> jax.Array:
    """Returns the p-norm ‖x‖_p = (Σ|x_i|ᵖ)^(1/p) of vectors on the last axis.

    It neither underflows nor overflows, for the same reason as in `polar`.

    Args:
      x: Vectors, `(..., units)`, in float32 or float64.
      p: Order of the norm, at least 1.

    Returns:
      The norms, `(..., 1)`. The norm of the zero vector is 0 and its gradient is 0.
    """
    # The largest scaled entry is 1, and so is its power: for no p does the sum vanish.
    scale, y, is_zero = _scaled(jnp.asarray(x))
    size = jnp.abs(y)
    # Double `where`: derivatives of the power can be infinite at 0, and are not evaluated there.
    nonzero = size > 0
    powers = jnp.where(nonzero, jnp.where(nonzero, size, jnp.ones_like(size)) ** p, 0)
    total = jnp.where(is_zero, 1, jnp.sum(powers, axis=-1, keepdims=True))
    return jnp.where(is_zero, 0, scale * total ** (1 / p))
