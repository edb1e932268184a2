"""Activations between elementwise and isotropic, composed from others by their names.

  block_tanh:4        is radial on blocks of 4 units. Blocks of 1 unit are elementwise and odd, and
                      one block of all units is isotropic.
  pnorm_tanh:4        is radial in the length ‖x‖₄. It is isotropic for ‖x‖₂.
  intrinsic_tanh:1    is radial in √(‖x‖² + 1), which has no kink at 0. `intrinsic_tanh:trained`
                      trains the added number, from 1.
  dose_tanh:0.25      is (1 − t)·isotropic_tanh + t·tanh at t = 0.25. `dose_tanh` takes t from the
                      grid's `doses`.
  tanh@simplex        is Σ_k σ(x·b_k) b_k over another basis, which is any name of `bases.build`.
  tanh@rotated        is tanh over a random orthonormal basis, `haar:0`.
  my_file:shrink      is a function or an `Activation` of a file of one's own (`references`).

A basis can follow each of these names, as in `block_tanh:4@haar:3` (docs/method.md §10).
"""

import functools
import math
import operator
import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from ppp_jax import bases, groups, references
from ppp_jax.errors import InputError, lookup
from ppp_jax.networks import checks
from ppp_jax.networks.activations import (
    ACTIVATIONS,
    FIELD,
    Activation,
    Map,
    Parameter,
    Profile,
    brought,
    radial,
)
from ppp_jax.numerics import at_least_single, p_norm, polar

FORMS = (
    "block_NAME:UNITS",
    "pnorm_NAME:P",
    "intrinsic_NAME:LENGTH",
    "intrinsic_NAME:trained",
    "dose_NAME:T",
    "dose_NAME",
    "NAME@BASIS",
    "MODULE:FUNCTION",
)
FOUND_UNITS = 8  # number of units in which the group of a function is found
_NUMBERED = r"haar:[0-9]+|thomson:[0-9]+(:[0-9]+)?"
_PLAIN_NUMBER = re.compile(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?")
MAX_UNITS = 2**24  # most units of a block
# Most vectors, and most units, of a basis that is computed, because it is a dense matrix.
MAX_VECTORS = 4096
MAX_SEED = 2**32 - 1


def block_radial(rho: Profile, *, slope_at_zero: float, size: int) -> Map:
    """Builds the map that is radial on each block of `size` neighbouring units.

    It commutes with O(size) ≀ S_{n/size}. With one unit per block it is elementwise and odd, and
    with one block it is isotropic (docs/method.md §10).

    Args:
      rho: Scalar function ρ of the length with ρ(0) = 0.
      slope_at_zero: The derivative ρ'(0).
      size: Number of units of a block.

    Returns:
      The activation, `(..., units) -> (..., units)`. It raises `InputError` if the number of units
      is not a multiple of `size`.

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
    """Builds x ↦ ρ(‖x‖_p)·x/‖x‖_p, which commutes with signed permutations.

    If p = 2, it commutes with all of O(n) (docs/method.md §10).

    Args:
      rho: Scalar function ρ of the length with ρ(0) = 0.
      slope_at_zero: The derivative ρ'(0).
      p: Order of the norm, at least 1.

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
      rho: Scalar function ρ of the length.
      length: The intrinsic length o, a positive number or traced scalar. It is added to the squared
        length of the vector, as if there were one more unit of value √o.

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
    """Builds x ↦ (1 − t)·isotropic(x) + t·elementwise(x).

    At t = 0 and at t = 1 the result equals one of the two activations exactly.

    Args:
      isotropic: The activation at t = 0.
      elementwise: The activation at t = 1.
      t: The dose, a number or a traced scalar.

    Returns:
      The activation, `(..., units) -> (..., units)`.
    """

    def apply(x: ArrayLike) -> jax.Array:
        x = jnp.asarray(x)
        fraction = jnp.asarray(t, x.dtype)
        return (1 - fraction) * isotropic(x) + fraction * elementwise(x)

    return apply


def over_basis(function: Map, basis: str) -> Map:
    """Builds x ↦ Σ_k f(x·b̂)_k b̂_k, in which f acts on the projections onto a basis.

    Over an orthonormal basis the map is R f(Rᵀx) (docs/method.md §10).

    Args:
      function: The activation f, `(..., vectors) -> (..., vectors)`.
      basis: Name of the basis, as `bases.build` accepts it.

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
    with jax.ensure_compile_time_eval():  # this function is called while a network is traced
        return bases.build(basis, units)


def _number(text: str, name: str, *, least: float, most: float, whole: bool = False) -> float:
    plain = re.fullmatch("[0-9]{1,20}", text) if whole else _PLAIN_NUMBER.fullmatch(text)
    value = (int(text) if whole else float(text)) if plain else math.nan
    if not least <= value <= most:
        kind = "a whole number" if whole else "a number"
        limits = f"from {least:,} to {most:,}" if whole else f"from {least:g} to {most:g}"
        raise InputError(FIELD, name, f"needs {kind} {limits} after the colon")
    return value


def _radials() -> dict[str, tuple[Activation, Profile]]:
    """Returns radial activations, and their profiles, by the names of these.

    Each is its own `partner`. New activations are derived from it, and so have the right partner.
    """
    return {
        entry.profile_name: (entry._replace(partner=key), entry.profile)
        for key, entry in ACTIVATIONS.items()
        if entry.isotropic
        and entry.profile is not None
        and key != entry.profile_name  # leaves out the identity
    }


def _isotropic(base: str, name: str) -> tuple[Activation, Profile]:
    radials = _radials()
    if base not in radials:
        known = ", ".join(sorted(radials))
        problem = f"no isotropic activation is made from {base!r} (known: {known})"
        raise InputError(FIELD, name, problem)
    return radials[base]


def _block(base: str, text: str, name: str) -> Activation:
    entry, rho = _isotropic(base, name)
    size = int(_number(text, name, least=1, most=MAX_UNITS, whole=True))
    apply = block_radial(rho, slope_at_zero=entry.slope_at_zero, size=size)
    group = "B_n" if size == 1 else f"blocks:{size}"
    formula = f"{entry.formula} on blocks of {size}"
    return entry._replace(
        apply=apply, formula=formula, group=group, isotropic=False, multiple_of=size
    )


def _pnorm(base: str, text: str, name: str) -> Activation:
    (entry, rho), p = _isotropic(base, name), _number(text, name, least=1, most=100)
    apply = p_norm_radial(rho, slope_at_zero=entry.slope_at_zero, p=p)
    formula, group = entry.formula.replace("‖x‖", f"‖x‖_{p:g}"), "O(n)" if p == 2 else "B_n"
    return entry._replace(apply=apply, formula=formula, group=group, isotropic=p == 2)


def _intrinsic(base: str, text: str, name: str) -> Activation:
    (entry, rho), trained = _isotropic(base, name), text == "trained"
    length = 1.0 if trained else _number(text, name, least=1e-6, most=1e6)
    root = math.sqrt(length)
    slope = float(rho(jnp.float32(root))) / root
    if trained:
        formula = f"ρ(s)/s x, s = √(‖x‖² + o), o trained from 1, of {entry.formula}"

        def learned(x: ArrayLike, logarithm: ArrayLike = 0.0) -> jax.Array:
            # The trained parameter is the logarithm of o, so that o stays positive.
            return intrinsic(rho, length=jnp.exp(jnp.asarray(logarithm)))(x)

        return entry._replace(
            apply=learned, formula=formula, slope_at_zero=slope, parameter=Parameter(0.0)
        )
    formula = f"ρ(s)/s x, s = √(‖x‖² + {length:g}), of {entry.formula}"
    apply = intrinsic(rho, length=length)
    return entry._replace(apply=apply, formula=formula, slope_at_zero=slope)


def _dose(base: str, text: str, name: str) -> Activation:
    (entry, _), end = _isotropic(base, name), lookup(ACTIVATIONS, base, field=FIELD)
    end = end._replace(brought=entry.brought or end.brought)
    if not text:

        def dosed(x: ArrayLike, t: ArrayLike) -> jax.Array:
            # The dose is a condition of the experiment and not a weight, so it is not trained.
            return dose(entry.apply, end.apply, jax.lax.stop_gradient(jnp.asarray(t)))(x)

        formula = f"(1 - t) ({entry.formula}) + t ({end.formula}), t an axis of the grid"
        return end._replace(
            apply=dosed,
            formula=formula,
            slope_at_zero=math.nan,
            isotropic=False,
            parameter=Parameter(None),
        )
    t = _number(text, name, least=0, most=1)
    if t in (0, 1):
        return entry if t == 0 else end
    slope = (1 - t) * entry.slope_at_zero + t * end.slope_at_zero
    formula = f"{1 - t:g} ({entry.formula}) + {t:g} ({end.formula})"
    apply = dose(entry.apply, end.apply, t)
    return end._replace(apply=apply, formula=formula, slope_at_zero=slope, isotropic=False)


EXAMPLES = (
    "block_tanh:1",
    "block_tanh:2",
    "block_relu:4",
    "pnorm_tanh:4",
    "pnorm_relu:1",
    "pnorm_tanh:2",
    "intrinsic_tanh:1",
    "intrinsic_leaky_relu:0.5",
    "intrinsic_tanh:trained",
    "dose_tanh:0.25",
    "dose_relu:0.5",
    "tanh@rotated",
    "relu@haar:3",
    "relu@simplex",
    "tanh@simplex",
    "tanh@cross_polytope",
    "gelu@cross_polytope",
    "tanh@thomson:12",
    "relu@thomson:5",
    "block_tanh:4@haar:1",
    "pnorm_tanh:4@rotated",
    "isotropic_tanh@rotated",
)
KINDS: dict[str, Callable[[str, str, str], Activation]] = {
    "block": _block,
    "pnorm": _pnorm,
    "intrinsic": _intrinsic,
    "dose": _dose,
}


def get(name: str) -> Activation:
    """Returns an activation by its name: a registered one, one of `FORMS`, or a reference.

    The group of a function for which none is claimed is found numerically.

    Raises:
      InputError: No activation has this name, a number in the name is not valid, or a function
        without a claimed group cannot be used.

    Example:
      >>> get("block_tanh:4").group
      'blocks:4'
    """
    entry = declared(name)
    if entry.group:
        return entry
    kept = _FOUND.get(name)
    if kept is None or kept[0] != id(entry.apply):
        kept = _FOUND[name] = (id(entry.apply), _with_group(name, entry))
    return kept[1]


# The entries of functions whose groups were found, with the functions' identities.
_FOUND: dict[str, tuple[int, Activation]] = {}


def declared(name: str) -> Activation:
    """Returns an activation by its name, without what has to be computed.

    Its `group` is empty, and `isotropic` False, if it is a function for which nothing is claimed.

    Raises:
      InputError: No activation has this name, or a number in the name is not valid.
    """
    if not isinstance(name, str):
        raise InputError(FIELD, name, "must be a name")
    # The registry is a part of the cache's key, because entries can be registered anew.
    registered = tuple(ACTIVATIONS.items())
    values = tuple(references.get(one, field=FIELD).value for one in named_in(name))
    if not values:
        return _get(name, registered)
    kept = _BROUGHT.get(name)
    if kept is None or kept[1] != registered or any(map(operator.is_not, kept[0], values)):
        kept = _BROUGHT[name] = (values, registered, _composed(name, values))
    return kept[2]


# The entries of names with references, with the objects and the registry of which they were made.
_BROUGHT: dict[str, tuple[tuple[Any, ...], tuple[tuple[str, Activation], ...], Activation]] = {}


def named_in(name: str) -> tuple[str, ...]:
    """Returns the references in the name of an activation: to a function, and to a basis.

    Args:
      name: Name of the activation.

    Example:
      >>> named_in("my_file:shrink@my_file:frame"), named_in("block_tanh:4@haar:1")
      (('my_file:shrink', 'my_file:frame'), ())
    """
    plain, _, basis = name.partition("@")
    parts = (plain if not _is_form(plain) else "", basis)
    return tuple(part for part in parts if references.is_reference(part))


def _is_form(plain: str) -> bool:
    """Returns whether a name begins as one of `KINDS` does, with the name of a profile."""
    kind, _, rest = plain.partition("_")
    return kind in KINDS and rest.partition(":")[0] in _radials()


def _plain(plain: str, values: tuple[Any, ...], name: str) -> Activation:
    kind, _, base = plain.partition("_")
    if plain in ACTIVATIONS:
        return ACTIVATIONS[plain]
    if references.is_reference(plain) and not _is_form(plain):
        return brought(name, values[0])
    if kind in KINDS:
        base, colon, text = base.partition(":")
        return KINDS[kind](base, text or colon, name)
    return lookup(ACTIVATIONS, plain, field=FIELD)


@functools.lru_cache(maxsize=256)
def _get(name: str, _registered: tuple[tuple[str, Activation], ...]) -> Activation:
    return _composed(name, ())


def _composed(name: str, values: tuple[Any, ...]) -> Activation:
    plain, separator, basis = name.partition("@")
    found = _plain(plain, values, name)
    return _over(found, bases.ALIASES.get(basis, basis), name) if separator else found


def _with_group(name: str, entry: Activation) -> Activation:
    """Returns the entry of a function with the group that is found for it."""
    checks.check_activation(name, entry)
    units = entry.multiple_of * -(-FOUND_UNITS // entry.multiple_of)
    over = () if entry.basis == "standard" else (f"B_n@{entry.basis}", f"S_n@{entry.basis}")
    group = groups.find(applied(entry), units=units, key=jax.random.key(0), also=over)
    return entry._replace(group=group, isotropic=group == "O(n)")


def applied(entry: Activation) -> Map:
    """Returns an activation as a function of vectors alone, at dose 1 if its dose is swept.

    Args:
      entry: The activation.
    """
    dosed = entry.parameter is not None and entry.parameter.initial is None
    return lambda x: entry.apply(x, 1.0) if dosed else entry.apply(x)


def _over(entry: Activation, basis: str, name: str) -> Activation:
    form, _, numbers = basis.partition(":")
    if basis == "standard":
        return entry
    brings = references.is_reference(basis)
    of_ours = basis in ("simplex", "cross_polytope") or re.fullmatch(_NUMBERED, basis)
    if not (of_ours or brings):
        problem = f"needs a basis after @: {', '.join(bases.FORMS)}, rotated, or MODULE:FUNCTION"
        raise InputError(FIELD, name, problem)
    count, _, seed = numbers.partition(":") if form == "thomson" else ("", "", numbers)
    if form == "thomson":
        _number(count, name, least=3, most=MAX_VECTORS, whole=True)
    if seed and not brings:
        _number(seed, name, least=0, most=MAX_SEED, whole=True)
    if form != "haar" and entry.group not in ("", "S_n", "B_n"):
        problem = f"only elementwise activations can act over {basis}; choose haar:SEED instead"
        raise InputError(FIELD, name, problem)
    formula, group = f"Σ_k f(x·b)_k b_k over {basis}, f = {entry.formula}", f"{entry.group}@{basis}"
    if form == "haar" and entry.group == "O(n)":
        group = "O(n)"
    if form == "cross_polytope":
        # For every σ of this package that is not odd, σ(x) − σ(−x) is a multiple of x, so that the
        # map is a multiple of the identity (docs/method.md §10).
        group = "B_n" if entry.group == "B_n" else "O(n)"
    if not entry.group or (form == "cross_polytope" and entry.brought):
        group = ""  # it is found
    slope = entry.slope_at_zero if form == "haar" else math.nan

    def apply(x: ArrayLike, *value: ArrayLike) -> jax.Array:
        return over_basis(lambda onto: entry.apply(onto, *value), basis)(x)

    return entry._replace(
        apply=apply,
        formula=formula,
        group=group,
        slope_at_zero=slope,
        basis=basis,
        isotropic=group == "O(n)",
        brought=entry.brought or brings,
    )


def check_width(name: str, units: int, *, field: str) -> None:
    """Checks that an activation can act on vectors of a given number of units.

    Args:
      name: Name of the activation.
      units: Number of units.
      field: Name of the setting that gives the number, for the error message.

    Raises:
      InputError: The activation cannot act on so many units.
    """
    entry = declared(name)
    if units % entry.multiple_of:
        raise InputError(field, units, f"must be a multiple of {entry.multiple_of} for {name}")
    if entry.basis != "standard" and units > MAX_VECTORS:
        raise InputError(
            field, units, f"must be at most {MAX_VECTORS} for {name}, whose basis is computed"
        )
