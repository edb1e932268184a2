"""Activations as pure functions on vectors, each with the symmetry group it claims.

Every activation maps `(..., units)` to `(..., units)`: the last axis is the vector, all others are
batch axes. There are two builders: `elementwise(σ)` acts on each coordinate and so prefers the
standard basis; `radial(ρ)` acts on the length only and so prefers no basis. The registry
`ACTIVATIONS` holds named activations with their formula, Jacobian at 0 and group (docs/method.md
§10). Activations between the two kinds are built in `ppp_jax.networks.interpolated`. The groups are
defined in `ppp_jax.groups`, and tests verify every claim numerically.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from ppp_jax.errors import InputError, enter
from ppp_jax.numerics import polar

FIELD = "activations"
LEAKY_SLOPE = 0.01

Profile = Callable[[jax.Array], jax.Array]
Map = Callable[[ArrayLike], jax.Array]


class Parameter(NamedTuple):
    """A scalar that an activation takes as its second argument, with one value per layer.

    Attributes:
      initial: Initial value of a trained parameter; None if the values are given by the grid's
        `doses` and are not trained.
    """

    initial: float | None


class Activation(NamedTuple):
    """An activation and the properties that are claimed of it.

    Of one's own, the function is enough: its group is then found (`ppp_jax.groups.find`).

    Attributes:
      apply: The function, `(..., units) -> (..., units)`, which preserves the dtype. If there is a
        `parameter`, its value is the second argument.
      formula: Definition of the function, in the notation of docs/method.md §10.
      slope_at_zero: The Jacobian at the zero vector is this number times the identity. If the
        function has a kink there, the number is the one that automatic differentiation gives. It is
        NaN if the Jacobian is not such a multiple at every width, as over a basis that is not
        orthonormal.
      group: Name of the largest subgroup of O(n) with which the function commutes, as
        `ppp_jax.groups.get_group` accepts it. It is empty if none is claimed.
      profile: Scalar function from which the activation is built: σ of a coordinate or ρ of a
        length. None if it is not known; then no other activation can be composed of it.
      profile_name: Name of the scalar function. It is `tanh` for `isotropic_tanh`.
      isotropic: Whether the activation prefers no direction, so that its group is O(n).
      basis: Name of the basis that the activation singles out, as `ppp_jax.bases.build` accepts it.
        For an isotropic activation it is the basis in which its latents are analysed.
      partner: Name of the isotropic activation to which this one is compared, or None.
      multiple_of: Number by which the width must be divisible.
      parameter: The scalar that `apply` takes as its second argument, or None.
      brought: Whether a user brought the function or a part of it, which can change.
    """

    apply: Callable[..., jax.Array]
    formula: str = ""
    slope_at_zero: float = math.nan
    group: str = ""
    profile: Profile | None = None
    profile_name: str = ""
    isotropic: bool = False
    basis: str = "standard"
    partner: str | None = None
    multiple_of: int = 1
    parameter: Parameter | None = None
    brought: bool = False


def elementwise(sigma: Profile) -> Map:
    """Builds x ↦ (σ(x₁), …, σ(xₙ)), which commutes with permutations of the coordinates.

    If σ is odd, the map also commutes with signed permutations (docs/method.md §10).

    Args:
      sigma: Scalar function σ, which is applied to arrays of any shape.

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

    For lengths below the machine epsilon the map is replaced by its linearisation ρ'(0)·x, which is
    exact to rounding. It gives the Jacobian ρ'(0)·I at 0, where the formula as written gives NaN
    (docs/method.md §10).

    Args:
      rho: Scalar function ρ of the length with ρ(0) = 0, which is applied to arrays of any shape.
      slope_at_zero: The derivative ρ'(0).

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
    # log((1 + eʳ)/2) in two forms, each used where it neither cancels nor overflows. By the double
    # `where` each form is evaluated, and differentiated, only in its own range.
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
OWN = tuple(ACTIVATIONS.values())  # the entries of this package, without those that users register


def register_activation(
    name: str,
    entry: Activation | Callable[..., jax.Array],
    *,
    group: str = "",
    partner: str | None = None,
) -> Activation:
    """Adds an activation, which grids, flags, certificates and tables accept from then on.

    Registering a name again replaces what a user registered under it before.

    Args:
      name: Name of the new activation.
      entry: A function `(..., units) -> (..., units)`, or an `Activation`, which holds a function
        and its claimed properties. The claims are tested before a grid is trained, and a group that
        is not claimed is found.
      group: Name of the group that is claimed of a function, as `ppp_jax.groups.get_group` accepts
        it; by default none is claimed.
      partner: Name of the isotropic activation to which a function is compared.

    Returns:
      The entry.

    Raises:
      InputError: The name is not an identifier, or is that of an activation of this package; or the
        entry is no function.
    """
    found = brought(name, entry)
    if not isinstance(entry, Activation):
        found = found._replace(group=group, partner=partner)
    elif group or partner:
        problem = "belongs into the Activation, which holds all that is claimed of it"
        raise InputError("group" if group else "partner", group or partner, problem)
    return enter(ACTIVATIONS, name, found, field=FIELD, own=OWN)


def brought(name: str, value: object) -> Activation:
    """Returns the entry of an activation that a user brings, a function or an `Activation`.

    Args:
      name: Name of the activation, for the error message.
      value: The function or entry.

    Raises:
      InputError: The value is neither.
    """
    if isinstance(value, Activation):
        claimed = value.group or ("O(n)" if value.isotropic else "")
        return value._replace(brought=True, group=claimed)
    if callable(value) and not isinstance(value, type):
        return Activation(value, brought=True)
    problem = f"is a {type(value).__name__}; it must be a function (..., n) -> (..., n)"
    raise InputError(FIELD, name, f"{problem}, or an Activation")
