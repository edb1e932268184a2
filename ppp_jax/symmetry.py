"""Groups of orthogonal matrices, and how far a map is from commuting with them (METHOD §6)."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from ppp_jax.numerics import haar_orthogonal


class Group(NamedTuple):
    """A subgroup of O(n).

    Attributes:
      description: what its elements do to a vector.
      sample: `(key, n) -> (n, n)`, a uniformly drawn element.
    """

    description: str
    sample: Callable[[jax.Array, int], jax.Array]


def _permutation(key: jax.Array, n: int) -> jax.Array:
    return jnp.eye(n)[jax.random.permutation(key, n)]


def _signed_permutation(key: jax.Array, n: int) -> jax.Array:
    order, signs = jax.random.split(key)
    return _permutation(order, n) * jax.random.rademacher(signs, (1, n), dtype=float)


GROUPS: dict[str, Group] = {
    "S_n": Group("permutes the axes", _permutation),
    "B_n": Group("permutes the axes and flips their signs", _signed_permutation),
    "O(n)": Group("rotates and reflects freely", haar_orthogonal),
}


def equivariance_residual(
    function: Callable[[jax.Array], jax.Array],
    group: Group,
    *,
    units: int,
    key: jax.Array,
    samples: int = 256,
    elements: int = 8,
) -> jax.Array:
    """Returns the worst relative residual ‖f(XG) − f(X)G‖ / ‖f(X)‖ over drawn group elements.

    The inputs X are normal vectors whose lengths are spread over two decades around 1, so that
    both the linear and the saturated part of an activation are seen. Norms are taken over all
    inputs together, so an input that is mapped to 0 divides nothing.

    Args:
      function: map on the last axis, `(samples, units) -> (samples, units)`.
      group: the group to test against.
      units: dimension n.
      key: PRNG key for inputs and elements.
      samples: number of inputs.
      elements: number of group elements.

    Returns:
      Scalar: rounding error if `function` commutes with `group`, of order 1 if it does not.
    """
    inputs, lengths, members = jax.random.split(key, 3)
    x = jax.random.normal(inputs, (samples, units))
    x = x * 10 ** jax.random.uniform(lengths, (samples, 1), minval=-1.0, maxval=1.0)
    y = function(x)

    def residual(member: jax.Array) -> jax.Array:
        g = group.sample(member, units)
        return jnp.linalg.norm(function(x @ g) - y @ g) / jnp.linalg.norm(y)

    return jnp.max(jnp.stack([residual(k) for k in jax.random.split(members, elements)]))
