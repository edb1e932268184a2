"""Shuffled minibatches without a stored permutation.

The order of an epoch is a keyed bijection of {0, …, size − 1}, which is evaluated only at the
indices of the batch. It is a Feistel network on a rectangle of a × b ≥ size numbers, which is
iterated until the result lies below `size` (Black and Rogaway 2002, "Ciphers with arbitrary finite
domains"). Because no permutation is stored, a run resumes from its step number alone, and the cost
does not grow with the data.
"""

import math

import jax
import jax.numpy as jnp

ROUNDS = 8  # with three rounds a χ² test rejects uniformity (tests/engine/test_batches.py)


def _hash(x: jax.Array, key: jax.Array) -> jax.Array:
    """Returns a hash of 32-bit integers, by the finaliser of MurmurHash3."""
    x = (x + key) * jnp.uint32(0x9E3779B1)
    x = (x ^ (x >> 16)) * jnp.uint32(0x85EBCA6B)
    x = (x ^ (x >> 13)) * jnp.uint32(0xC2B2AE35)
    return x ^ (x >> 16)


def shuffled(key: jax.Array, index: jax.Array, size: int) -> jax.Array:
    """Returns elements, selected by index, of a random order of 0, …, size − 1.

    Args:
      key: PRNG key that determines the order.
      index: Indices into the order, integers in [0, size), of any shape.
      size: Number of elements, below 2³¹.

    Returns:
      The elements, int32, of the shape of `index`. For one key, the map from index to element is a
      bijection of {0, …, size − 1}.

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
            # Half of the hash's range is used, because the round would not be a bijection if the
            # sum wrapped at 2³².
            left = (left + (_hash(right, keys[i]) >> 1)) % rows
            right = (right + (_hash(left, keys[i + 1]) >> 1)) % columns
        return left * columns + right

    def walk(x: jax.Array) -> jax.Array:
        return jnp.where(x >= size, permute(x), x)

    x = permute(index.astype(jnp.uint32))
    x = jax.lax.while_loop(lambda x: jnp.any(x >= size), walk, x)
    return x.astype(jnp.int32)
