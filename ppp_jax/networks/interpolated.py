"""Between elementwise and isotropic: activations built from others, and their readable names.

  block_tanh:4        radial on blocks of 4 units; of 1: elementwise and odd; of all: isotropic
  pnorm_tanh:4        radial in the length ‖x‖₄; of 2: isotropic
  intrinsic_tanh:1    radial in √(‖x‖² + 1), which has no kink at 0; `:trained` learns that 1
  dose_tanh:0.25      (1 − t)·isotropic_tanh + t·tanh at t = 0.25; with no number, a grid's `doses`
  tanh@simplex        over another basis: Σ_k σ(x·b_k) b_k; any name of `bases.build`
  tanh@rotated        over the axes turned by a random rotation, `haar:0`

A basis may follow any of them: `block_tanh:4@haar:3` (docs/method.md §10).
"""

import functools
import math
import re
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from ppp_jax import bases
from ppp_jax.errors import InputError, lookup
from ppp_jax.networks.activations import ACTIVATIONS, Activation, Map, Parameter, Profile, radial
from ppp_jax.numerics import at_least_single, p_norm, polar

FORMS = (
    "block_NAME:UNITS", "pnorm_NAME:P", "intrinsic_NAME:LENGTH", "intrinsic_NAME:trained",
    "dose_NAME:T", "dose_NAME", "NAME@BASIS",
)  # fmt: skip
FIELD = "activations"
_NUMBERED = r"haar:[0-9]+|thomson:[0-9]+(:[0-9]+)?"
_PLAIN_NUMBER = re.compile(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?")
MAX_UNITS = 2**24  # of a block
MAX_VECTORS = 4096  # of a basis that is computed, or units over which it is: dense matrices
MAX_SEED = 2**32 - 1


def block_radial(rho: Profile, *, slope_at_zero: float, size: int) -> Map:
    """Builds the map that is radial on each block of `size` neighbouring units.

    It commutes with O(size) ≀ S_{n/size}. One unit per block is elementwise and odd, one block is
    isotropic.

    Args:
      rho: scalar function of the length with ρ(0) = 0.
      slope_at_zero: ρ'(0).
      size: units of a block, which must divide the width.

    Returns:
      The activation, `(..., units) -> (..., units)`; it raises `InputError` at another width.

    Example:
      >>> print(block_radial(jnp.tanh, slope_at_zero=1.0, size=2)(jnp.array([30.0, 40.0, 0, 9])))
      [0.6 0.8 0.  1. ]
    """
    on_block = radial(rho, slope_at_zero=slope_at_zero)

    def apply(x: ArrayLike) -> jax.Array:
        x = jnp.asarray(x)
        if x.shape[-1] % size:
            raise InputError(FIELD, f"blocks of {size}", f"do not divide {x.shape[-1]} units")
        return on_block(x.reshape(*x.shape[:-1], -1, size)).reshape(x.shape)

    return apply


def p_norm_radial(rho: Profile, *, slope_at_zero: float, p: float) -> Map:
    """Builds x ↦ ρ(‖x‖_p)·x/‖x‖_p, which commutes with signed permutations, and O(n) if p = 2.

    Args:
      rho: scalar function of the length with ρ(0) = 0.
      slope_at_zero: ρ'(0).
      p: at least 1.

    Returns:
      The activation, `(..., units) -> (..., units)`.
    """

    def apply(x: ArrayLike) -> jax.Array:
        x = jnp.asarray(x)
        wide = at_least_single(x)
        length = p_norm(wide, p)
        near_zero = length < float(jnp.finfo(x.dtype).eps)
        safe = jnp.where(near_zero, jnp.ones_like(length), length)
        return jnp.where(near_zero, slope_at_zero * wide, rho(safe) * (wide / safe)).astype(x.dtype)

    return apply


def intrinsic(rho: Profile, *, length: ArrayLike) -> Map:
    """Builds x ↦ ρ(s)/s · x with s = √(‖x‖² + length), which commutes with all of O(n).

    Args:
      rho: scalar function of the length.
      length: o, the intrinsic length (its square root adds to the vector like one more unit),
        positive; a number or a traced scalar.

    Returns:
      The activation, `(..., units) -> (..., units)`.
    """

    def apply(x: ArrayLike) -> jax.Array:
        x = jnp.asarray(x)
        wide = at_least_single(x)
        root = jnp.sqrt(jnp.asarray(length, wide.dtype))
        more = jnp.broadcast_to(root, (*x.shape[:-1], 1))
        s, direction = polar(jnp.concatenate([wide, more], axis=-1))
        return (rho(s) * direction[..., :-1]).astype(x.dtype)

    return apply


def dose(isotropic: Map, elementwise: Map, t: ArrayLike) -> Map:
    """Builds x ↦ (1 − t)·isotropic(x) + t·elementwise(x), at t = 0 and 1 exactly one of them.

    Args:
      isotropic: the activation at t = 0.
      elementwise: the activation at t = 1.
      t: a number or a traced scalar.
    """

    def apply(x: ArrayLike) -> jax.Array:
        x = jnp.asarray(x)
        share = jnp.asarray(t, x.dtype)
        return (1 - share) * isotropic(x) + share * elementwise(x)

    return apply


def over_basis(function: Map, basis: str) -> Map:
    """Builds x ↦ Σ_k f(x·b̂)_k b̂_k: `function` acts on the projections onto a basis.

    Over an orthonormal basis that is R f(Rᵀx).

    Args:
      function: the activation, `(..., vectors) -> (..., vectors)`.
      basis: a name of `bases.build`.

    Returns:
      The activation, `(..., units) -> (..., units)`.
    """

    def apply(x: ArrayLike) -> jax.Array:
        x = jnp.asarray(x)
        wide = at_least_single(x)
        vectors = jnp.asarray(_vectors(basis, x.shape[-1]), wide.dtype)
        multiply = functools.partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)
        return multiply(function(multiply(wide, vectors.T)), vectors).astype(x.dtype)

    return apply


@functools.lru_cache(maxsize=64)
def _vectors(basis: str, units: int) -> np.ndarray:
    with jax.ensure_compile_time_eval():  # a network is being traced
        return bases.build(basis, units)


def _number(text: str, name: str, *, least: float, most: float, whole: bool = False) -> float:
    plain = re.fullmatch("[0-9]{1,20}", text) if whole else _PLAIN_NUMBER.fullmatch(text)
    value = (int(text) if whole else float(text)) if plain else math.nan
    if not least <= value <= most:
        kind = "a whole number" if whole else "a number"
        limits = f"from {least:,} to {most:,}" if whole else f"from {least:g} to {most:g}"
        raise InputError(FIELD, name, f"needs {kind} {limits} after the colon")
    return value


def _isotropic(base: str, name: str) -> Activation:
    """Returns the radial activation made from a scalar function, as the partner of a new one."""
    there = {
        entry.profile_name: entry._replace(partner=key)
        for key, entry in ACTIVATIONS.items()
        if entry.isotropic and key != entry.profile_name  # the identity is both kinds at once
    }
    if base not in there:
        known = ", ".join(sorted(there))
        raise InputError(FIELD, name, f"{base or 'nothing'} has no isotropic kind (known: {known})")
    return there[base]


def _block(base: str, text: str, name: str) -> Activation:
    entry, size = (
        _isotropic(base, name),
        int(_number(text, name, least=1, most=MAX_UNITS, whole=True)),
    )
    apply = block_radial(entry.profile, slope_at_zero=entry.slope_at_zero, size=size)
    group = "B_n" if size == 1 else f"blocks:{size}"
    formula = f"{entry.formula} on blocks of {size}"
    return entry._replace(
        apply=apply, formula=formula, group=group, isotropic=False, multiple_of=size
    )


def _pnorm(base: str, text: str, name: str) -> Activation:
    entry, p = _isotropic(base, name), _number(text, name, least=1, most=100)
    apply = p_norm_radial(entry.profile, slope_at_zero=entry.slope_at_zero, p=p)
    formula, group = entry.formula.replace("‖x‖", f"‖x‖_{p:g}"), "O(n)" if p == 2 else "B_n"
    return entry._replace(apply=apply, formula=formula, group=group, isotropic=p == 2)


def _intrinsic(base: str, text: str, name: str) -> Activation:
    entry, trained = _isotropic(base, name), text == "trained"
    length = 1.0 if trained else _number(text, name, least=1e-6, most=1e6)
    root = math.sqrt(length)
    slope = float(entry.profile(jnp.float32(root))) / root
    if trained:
        formula = f"ρ(s)/s x, s = √(‖x‖² + o), o trained from 1, of {entry.formula}"

        def learned(x: ArrayLike, logarithm: ArrayLike = 0.0) -> jax.Array:
            # Its logarithm is what is trained: o stays positive.
            return intrinsic(entry.profile, length=jnp.exp(jnp.asarray(logarithm)))(x)

        return entry._replace(
            apply=learned, formula=formula, slope_at_zero=slope, parameter=Parameter(0.0)
        )
    formula = f"ρ(s)/s x, s = √(‖x‖² + {length:g}), of {entry.formula}"
    apply = intrinsic(entry.profile, length=length)
    return entry._replace(apply=apply, formula=formula, slope_at_zero=slope)


def _dose(base: str, text: str, name: str) -> Activation:
    entry, end = _isotropic(base, name), lookup(ACTIVATIONS, base, field=FIELD)
    if not text:

        def dosed(x: ArrayLike, t: ArrayLike) -> jax.Array:
            # A condition of the experiment, not a weight: nothing may train it.
            return dose(entry.apply, end.apply, jax.lax.stop_gradient(jnp.asarray(t)))(x)

        formula = f"(1 - t) ({entry.formula}) + t ({end.formula}), t an axis of the grid"
        return end._replace(
            apply=dosed, formula=formula, slope_at_zero=math.nan, isotropic=False,
            parameter=Parameter(None),
        )  # fmt: skip
    t = _number(text, name, least=0, most=1)
    if t in (0, 1):
        return entry if t == 0 else end
    slope = (1 - t) * entry.slope_at_zero + t * end.slope_at_zero
    formula = f"{1 - t:g} ({entry.formula}) + {t:g} ({end.formula})"
    apply = dose(entry.apply, end.apply, t)
    return end._replace(apply=apply, formula=formula, slope_at_zero=slope, isotropic=False)


EXAMPLES = (
    "block_tanh:1", "block_tanh:2", "block_relu:4", "pnorm_tanh:4", "pnorm_relu:1", "pnorm_tanh:2",
    "intrinsic_tanh:1", "intrinsic_leaky_relu:0.5", "intrinsic_tanh:trained", "dose_tanh:0.25",
    "dose_relu:0.5",
    "tanh@rotated", "relu@haar:3", "relu@simplex", "tanh@simplex", "tanh@cross_polytope",
    "gelu@cross_polytope", "tanh@thomson:12", "relu@thomson:5", "block_tanh:4@haar:1",
    "pnorm_tanh:4@rotated", "isotropic_tanh@rotated",
)  # fmt: skip
KINDS: dict[str, Callable[[str, str, str], Activation]] = {
    "block": _block,
    "pnorm": _pnorm,
    "intrinsic": _intrinsic,
    "dose": _dose,
}


def get(name: str) -> Activation:
    """Returns an activation by its name, registered or composed.

    Raises:
      InputError: no such activation, or numbers that do not fit it.

    Example:
      >>> get("block_tanh:4").group
      'blocks:4'
    """
    if not isinstance(name, str):
        raise InputError(FIELD, name, "must be a name")
    # What is composed is kept only as long as the registry says the same of its parts.
    return _get(name, tuple(ACTIVATIONS.items()))


@functools.lru_cache(maxsize=256)
def _get(name: str, _registered: tuple[tuple[str, Activation], ...]) -> Activation:
    plain, at, basis = name.partition("@")
    kind, _, base = plain.partition("_")
    if plain in ACTIVATIONS:
        found = ACTIVATIONS[plain]
    elif kind in KINDS:
        base, colon, text = base.partition(":")
        found = KINDS[kind](base, text or colon, name)
    else:
        found = lookup(ACTIVATIONS, plain, field=FIELD)
    return _over(found, bases.ALIASES.get(basis, basis), name) if at else found


def _over(entry: Activation, basis: str, name: str) -> Activation:
    form, _, numbers = basis.partition(":")
    if basis == "standard":
        return entry
    if basis not in ("simplex", "cross_polytope") and not re.fullmatch(_NUMBERED, basis):
        problem = f"needs a basis after @: {', '.join(bases.FORMS)}, or rotated"
        raise InputError(FIELD, name, problem)
    count, _, seed = numbers.partition(":") if form == "thomson" else ("", "", numbers)
    if form == "thomson":
        _number(count, name, least=3, most=MAX_VECTORS, whole=True)
    if seed:
        _number(seed, name, least=0, most=MAX_SEED, whole=True)
    if form != "haar" and entry.group not in ("S_n", "B_n"):
        raise InputError(FIELD, name, "only elementwise activations go over more vectors than axes")
    formula, group = f"Σ_k f(x·b)_k b_k over {basis}, f = {entry.formula}", f"{entry.group}@{basis}"
    if form == "haar" and entry.group == "O(n)":
        group = "O(n)"
    if form == "cross_polytope":
        # What is not odd here is f(x) − f(−x) = x, or a multiple of it: no symmetry is broken.
        group = "B_n" if entry.group == "B_n" else "O(n)"
    slope = entry.slope_at_zero if form == "haar" else math.nan

    def apply(x: ArrayLike, *value: ArrayLike) -> jax.Array:
        return over_basis(lambda onto: entry.apply(onto, *value), basis)(x)

    return entry._replace(
        apply=apply, formula=formula, group=group, slope_at_zero=slope, basis=basis,
        isotropic=group == "O(n)",
    )  # fmt: skip


def check_width(name: str, units: int, *, field: str) -> None:
    """Raises `InputError` if an activation does not act on vectors of so many units.

    Args:
      name: of the activation.
      units: the width.
      field: the setting that names the width.
    """
    entry = get(name)
    if units % entry.multiple_of:
        raise InputError(field, units, f"must be a multiple of {entry.multiple_of} for {name}")
    if entry.basis != "standard" and units > MAX_VECTORS:
        raise InputError(field, units, f"must be at most {MAX_VECTORS} for {name}, whose basis is "
                         "computed")  # fmt: skip
