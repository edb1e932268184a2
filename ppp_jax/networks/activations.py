"""Activations as pure functions on vectors, each with the symmetry group it claims.

Every activation maps `(..., units)` to `(..., units)`: the last axis is the vector, all others are
batch axes. There are two builders: `elementwise(σ)` acts on each coordinate and so prefers the
standard basis; `radial(ρ)` acts on the length only and so prefers no basis. The registry
`ACTIVATIONS` names the built ones with their formula, Jacobian at 0 and group (docs/method.md §10);
what is between the two kinds is built from them in `ppp_jax.networks.interpolated`. The groups
themselves are in `ppp_jax.symmetry.groups`, and the tests hold every claim against them.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from ppp_jax.numerics import polar

LEAKY_SLOPE = 0.01

Profile = Callable[[jax.Array], jax.Array]
Map = Callable[[ArrayLike], jax.Array]


class Parameter(NamedTuple):
    """A number that an activation takes beside the vector, one per layer.

    Attributes:
      initial: where training starts from; None if a grid's `doses` give it and nothing trains it.
    """

    initial: float | None


class Activation(NamedTuple):
    """An activation and what is claimed of it.

    Attributes:
      apply: the function, `(..., units) -> (..., units)`, dtype preserving; with a `parameter`,
        `(x, value)`.
      formula: its definition, in the notation of docs/method.md §10.
      slope_at_zero: its Jacobian at the zero vector is this number times the identity; where the
        function has a kink there, the convention that differentiation follows. NaN over a basis
        that is not orthonormal, where it is no such multiple at every width.
      group: name of the largest subgroup of O(n) it commutes with, as
        `ppp_jax.symmetry.groups.get_group` reads it.
      profile: the scalar function it is built from, σ of a coordinate or ρ of a length.
      isotropic: whether it prefers no direction.
      multiple_of: the widths that it takes are multiples of this.
      parameter: what `apply` takes beside the vector, if anything.
    """

    apply: Callable[..., jax.Array]
    formula: str
    slope_at_zero: float
    group: str
    profile: Profile
    isotropic: bool
    multiple_of: int = 1
    parameter: Parameter | None = None


def elementwise(sigma: Profile) -> Map:
    """Builds x ↦ (σ(x₁), …, σ(xₙ)), which commutes with permutations of the coordinates.

    If σ is odd it commutes with signed permutations too (docs/method.md §10).

    Args:
      sigma: a scalar function, applied to arrays of any shape.

    Returns:
      The activation, `(..., units) -> (..., units)`.

    Example:
      >>> print(elementwise(jnp.tanh)(jnp.array([0.0, 100.0])))
      [0. 1.]
    """

    def apply(x: ArrayLike) -> jax.Array:
        return sigma(jnp.asarray(x))

    return apply


def radial(rho: Profile, *, slope_at_zero: float) -> Map:
    """Builds x ↦ ρ(‖x‖)·x/‖x‖, which commutes with all of O(n).

    Within one rounding unit of the origin the map is its linearisation ρ'(0)·x, which is exact to
    rounding and gives the Jacobian ρ'(0)·I at 0, where the naive formula gives NaN.

    Args:
      rho: scalar function of the length with ρ(0) = 0, applied to arrays of any shape.
      slope_at_zero: ρ'(0).

    Returns:
      The activation, `(..., units) -> (..., units)`.

    Example:
      >>> print(radial(jnp.tanh, slope_at_zero=1.0)(jnp.array([30.0, 40.0])))
      [0.6 0.8]
    """

    def apply(x: ArrayLike) -> jax.Array:
        x = jnp.asarray(x)
        length, direction = polar(x)
        near_zero = length < float(jnp.finfo(x.dtype).eps)
        wide = x.astype(length.dtype)
        return jnp.where(near_zero, slope_at_zero * wide, rho(length) * direction).astype(x.dtype)

    return apply


def _leaky_profile(r: jax.Array) -> jax.Array:
    return jnp.where(r <= 1, LEAKY_SLOPE * r, r - (1 - LEAKY_SLOPE))


def _softplus_profile(r: jax.Array) -> jax.Array:
    # log((1 + eʳ)/2); each branch where it neither cancels nor overflows (double `where`).
    small = jnp.where(r < 1, r, jnp.ones_like(r))
    large = jnp.where(r < 1, jnp.ones_like(r), r)
    near = jnp.log1p(0.5 * jnp.expm1(small))
    far = large + jnp.log1p(jnp.exp(-large)) - jnp.log(2.0).astype(r.dtype)
    return jnp.where(r < 1, near, far)


def _shrink_profile(r: jax.Array) -> jax.Array:
    return jax.nn.relu(r - 1)


def _identity(x: jax.Array) -> jax.Array:
    return x


def _leaky_relu(x: jax.Array) -> jax.Array:
    return jax.nn.leaky_relu(x, LEAKY_SLOPE)


def _gelu(x: jax.Array) -> jax.Array:
    return jax.nn.gelu(x, approximate=False)


def _elementwise(sigma: Profile, formula: str, slope: float, group: str) -> Activation:
    return Activation(elementwise(sigma), formula, slope, group, sigma, isotropic=False)


def _radial(rho: Profile, formula: str, slope: float) -> Activation:
    apply = radial(rho, slope_at_zero=slope)
    return Activation(apply, formula, slope, "O(n)", rho, isotropic=True)


ACTIVATIONS: dict[str, Activation] = {
    "relu": _elementwise(jax.nn.relu, "max(x_i, 0)", 0.0, "S_n"),
    "leaky_relu": _elementwise(_leaky_relu, f"x_i if x_i >= 0 else {LEAKY_SLOPE} x_i", 1.0, "S_n"),
    "tanh": _elementwise(jnp.tanh, "tanh(x_i)", 1.0, "B_n"),
    "gelu": _elementwise(_gelu, "x_i Φ(x_i)", 0.5, "S_n"),
    "identity": Activation(elementwise(_identity), "x", 1.0, "O(n)", _identity, isotropic=True),
    "isotropic_relu": _radial(_shrink_profile, "max(‖x‖ - 1, 0) x/‖x‖", 0.0),
    "isotropic_leaky_relu": _radial(
        _leaky_profile,
        f"ρ(‖x‖) x/‖x‖, ρ of slope {LEAKY_SLOPE} up to 1, then 1",
        LEAKY_SLOPE,
    ),
    "isotropic_tanh": _radial(jnp.tanh, "tanh(‖x‖) x/‖x‖", 1.0),
    "isotropic_softplus": _radial(_softplus_profile, "log((1 + exp ‖x‖)/2) x/‖x‖", 0.5),
}
