"""Shuffled minibatches without a stored permutation.

Each epoch's order is a keyed bijection of {0, …, size − 1}, evaluated only where it is needed: a
Feistel network on a grid of a × b ≥ size cells, walked until it lands below `size` (Black and
Rogaway 2002, "Ciphers with arbitrary finite domains"). Nothing is stored, so a run resumes
from its step number alone, and the cost does not grow with the data.
"""

import math

import jax
import jax.numpy as jnp

ROUNDS = 8  # three fail a χ² test of uniformity; see tests/engine/test_batches.py


def _hash(x: jax.Array, key: jax.Array) -> jax.Array:
    """Mixes 32 bits (the finaliser of MurmurHash3)."""
    x = (x + key) * jnp.uint32(0x9E3779B1)
    x = (x ^ (x >> 16)) * jnp.uint32(0x85EBCA6B)
    x = (x ^ (x >> 13)) * jnp.uint32(0xC2B2AE35)
    return x ^ (x >> 16)


def shuffled(key: jax.Array, position: jax.Array, size: int) -> jax.Array:
    """Returns the elements at `position` of a random order of 0, …, size − 1.

    Args:
      key: PRNG key, which names the order.
      position: integers in [0, size), any shape.
      size: number of elements, below 2³¹.

    Returns:
      int32 array of `position`'s shape: for one key, a bijection of {0, …, size − 1}.

    Example:
      >>> order = shuffled(jax.random.key(0), jnp.arange(5), 5)
      >>> sorted(order.tolist())
      [0, 1, 2, 3, 4]
    """
    rows = math.isqrt(size - 1) + 1 if size > 1 else 1
    columns = -(-size // rows)
    keys = jax.random.bits(key, (ROUNDS,), jnp.uint32)

    def permute(x: jax.Array) -> jax.Array:
        left, right = x // columns, x % columns
        for i in range(0, ROUNDS, 2):
            # Half the hash's range: the sum must not wrap at 2³², or the step is no bijection.
            left = (left + (_hash(right, keys[i]) >> 1)) % rows
            right = (right + (_hash(left, keys[i + 1]) >> 1)) % columns
        return left * columns + right

    def walk(x: jax.Array) -> jax.Array:
        return jnp.where(x >= size, permute(x), x)

    x = permute(position.astype(jnp.uint32))
    x = jax.lax.while_loop(lambda x: jnp.any(x >= size), walk, x)
    return x.astype(jnp.int32)
