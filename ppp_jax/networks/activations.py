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

from ppp_jax.errors import enter
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
      profile_name: what that scalar function is called: `isotropic_tanh` is made from `tanh`.
      isotropic: whether it prefers no direction.
      basis: name of the basis that it singles out, as `ppp_jax.bases.build` reads it; of an
        isotropic activation the one that its latents are compared with.
      partner: name of the isotropic activation that it is compared with, if there is one.
      multiple_of: the widths that it takes are multiples of this.
      parameter: what `apply` takes beside the vector, if anything.
    """

    apply: Callable[..., jax.Array]
    formula: str
    slope_at_zero: float
    group: str
    profile: Profile
    profile_name: str
    isotropic: bool
    basis: str = "standard"
    partner: str | None = None
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


ACTIVATIONS: dict[str, Activation] = {
    "relu": Activation(
        apply=elementwise(jax.nn.relu),
        formula="max(x_i, 0)",
        slope_at_zero=0.0,
        group="S_n",
        profile=jax.nn.relu,
        profile_name="relu",
        isotropic=False,
        partner="isotropic_relu",
    ),
    "leaky_relu": Activation(
        apply=elementwise(_leaky_relu),
        formula=f"x_i if x_i >= 0 else {LEAKY_SLOPE} x_i",
        slope_at_zero=1.0,
        group="S_n",
        profile=_leaky_relu,
        profile_name="leaky_relu",
        isotropic=False,
        partner="isotropic_leaky_relu",
    ),
    "tanh": Activation(
        apply=elementwise(jnp.tanh),
        formula="tanh(x_i)",
        slope_at_zero=1.0,
        group="B_n",
        profile=jnp.tanh,
        profile_name="tanh",
        isotropic=False,
        partner="isotropic_tanh",
    ),
    "gelu": Activation(
        apply=elementwise(_gelu),
        formula="x_i Φ(x_i)",
        slope_at_zero=0.5,
        group="S_n",
        profile=_gelu,
        profile_name="gelu",
        isotropic=False,
    ),
    "identity": Activation(
        apply=elementwise(_identity),
        formula="x",
        slope_at_zero=1.0,
        group="O(n)",
        profile=_identity,
        profile_name="identity",
        isotropic=True,
    ),
    "isotropic_relu": Activation(
        apply=radial(_shrink_profile, slope_at_zero=0.0),
        formula="max(‖x‖ - 1, 0) x/‖x‖",
        slope_at_zero=0.0,
        group="O(n)",
        profile=_shrink_profile,
        profile_name="relu",
        isotropic=True,
    ),
    "isotropic_leaky_relu": Activation(
        apply=radial(_leaky_profile, slope_at_zero=LEAKY_SLOPE),
        formula=f"ρ(‖x‖) x/‖x‖, ρ of slope {LEAKY_SLOPE} up to 1, then 1",
        slope_at_zero=LEAKY_SLOPE,
        group="O(n)",
        profile=_leaky_profile,
        profile_name="leaky_relu",
        isotropic=True,
    ),
    "isotropic_tanh": Activation(
        apply=radial(jnp.tanh, slope_at_zero=1.0),
        formula="tanh(‖x‖) x/‖x‖",
        slope_at_zero=1.0,
        group="O(n)",
        profile=jnp.tanh,
        profile_name="tanh",
        isotropic=True,
    ),
    "isotropic_softplus": Activation(
        apply=radial(_softplus_profile, slope_at_zero=0.5),
        formula="log((1 + exp ‖x‖)/2) x/‖x‖",
        slope_at_zero=0.5,
        group="O(n)",
        profile=_softplus_profile,
        profile_name="softplus",
        isotropic=True,
    ),
}


def register_activation(name: str, entry: Activation) -> Activation:
    """Adds an activation: grids, flags, certificates and tables know it from then on.

    Args:
      name: of the activation.
      entry: the function and what is claimed of it; `certificates` holds the claim against it.

    Returns:
      The entry.

    Raises:
      InputError: the name is none, or is taken.
    """
    return enter(ACTIVATIONS, name, entry, field="activations")
