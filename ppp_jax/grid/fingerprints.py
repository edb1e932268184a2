"""Fingerprints of registered functions, which tell whether a name still means the same function.

A fingerprint is the hash of a function and its gradient, lowered to StableHLO at a fixed small size
with all constants. It does not depend on the machine. It does depend on JAX's version and settings.
"""

import functools
import hashlib
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp

from ppp_jax import references
from ppp_jax.data.datasets import Shape
from ppp_jax.grid.grid import Grid
from ppp_jax.networks import activations, architectures, functional, interpolated, optimizers
from ppp_jax.networks.activations import Activation

SAMPLES, UNITS = 2, 4
SHAPE = Shape(64, (8, 8, 1), 3)
SIZES = functional.Sizes(width=4, depth=2, latent_width=3)
KINDS = ("activations", "architectures", "optimizers", "initializers")
Fingerprints = dict[str, dict[str, str]]
OURS = (*activations.OWN, *architectures.OWN, *optimizers.OWN, *functional.OWN)
Of = TypeVar("Of", bound=Callable[..., Any])


def fingerprints(grid: Grid) -> Fingerprints:
    """Returns the fingerprints of all functions that a grid names, by kind and then by name.

    Args:
      grid: The grid to be trained.

    Example:
      >>> found = fingerprints(Grid(activations=["tanh"]))
      >>> list(found), list(found["activations"])
      (['activations', 'architectures', 'optimizers', 'initializers'], ['tanh'])
    """
    entries = _entries(grid)
    if not are_ours(grid):
        # JAX would train with an earlier trace of a jitted function that has changed since.
        jax.clear_caches()
    compute = (_activation, _architecture, _optimizer, _initializer)
    return {
        kind: {name: of(entry) for name, entry in entries[kind].items()}
        for kind, of in zip(KINDS, compute, strict=True)
    }


def _entries(grid: Grid) -> dict[str, dict[str, Any]]:
    """Returns the entries of the registries that a grid names, by kind and then by name."""
    return {
        "activations": {name: interpolated.get(name) for name in grid.activations},
        "architectures": {name: architectures.get(name) for name in grid.architectures},
        "optimizers": {name: optimizers.get(name) for name in grid.optimizers},
        "initializers": {name: functional.get_initializer(name) for name in grid.initializers},
    }


def are_ours(grid: Grid) -> bool:
    """Returns whether all functions that a grid names depend on this package only.

    Args:
      grid: The grid to be trained.
    """
    return all(_is_ours(entry) for named in _entries(grid).values() for entry in named.values())


def sources(grid: Grid) -> dict[str, str]:
    """Returns the SHA-256 of the source files of all references that a grid names, by reference.

    Args:
      grid: The grid to be trained.
    """
    found = {}
    for field, names in named_references(grid).items():
        for name in names:
            found[name] = references.get(name, field=field).sha256
    return dict(sorted(found.items()))


def named_references(grid: Grid) -> dict[str, tuple[str, ...]]:
    """Returns the references that each field of a grid names.

    Args:
      grid: The grid to be trained.
    """
    single = {
        field: getattr(grid, field) for field in ("architectures", "optimizers", "initializers")
    }
    found = {
        "activations": tuple(
            one for name in grid.activations for one in interpolated.named_in(name)
        ),
        **{
            field: tuple(name for name in names if references.is_reference(name))
            for field, names in single.items()
        },
        "data": (grid.data,) if references.is_reference(grid.data) else (),
    }
    return {field: names for field, names in found.items() if names}


def kept(compute: Of) -> Of:
    """Caches a function's results for this package's entries, but not for those of users.

    The meaning of a user's function can change, for example when a notebook cell that defines a
    constant is run again. It is not possible to find out everything on which a function depends.

    Args:
      compute: Function of an entry of a registry and of constants, all of them hashable.
    """
    known = functools.lru_cache(maxsize=256)(compute)

    @functools.wraps(compute)
    def looked_up(entry: Any, *constants: Any) -> Any:
        return known(entry, *constants) if _is_ours(entry) else compute(entry, *constants)

    return looked_up  # type: ignore[return-value]


def _is_ours(entry: Any) -> bool:
    """Returns whether an entry depends on this package only.

    A composed activation does so if all registered activations are this package's.
    """
    if _is_one_of(OURS, entry) or not isinstance(entry, Activation):
        return _is_one_of(OURS, entry)
    if entry.brought:
        return False
    return all(_is_one_of(OURS, part) for part in activations.ACTIVATIONS.values())


def _is_one_of(entries: Iterable[Any], entry: Any) -> bool:
    return any(entry is one for one in entries)  # `==` could be a user's own definition


def _hash(function: Callable[..., Any], *arguments: Any, about: str = "") -> str:
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), arguments)
    # The platform is fixed, so that the text is the same on all machines.
    lowered = jax.jit(function).trace(*shapes).lower(lowering_platforms=("cpu",))
    return hashlib.sha256((about + lowered.as_text()).encode()).hexdigest()


@kept
def _activation(entry: Any) -> str:
    units = entry.multiple_of * -(-UNITS // entry.multiple_of)
    x = jnp.zeros((SAMPLES, units), jnp.float32)
    own = () if entry.parameter is None else (jnp.float32(0),)

    def forward_and_back(x: jax.Array, gradient: jax.Array, *own: jax.Array) -> Any:
        value, back = jax.vjp(entry.apply, x, *own)
        return value, back(gradient)

    return _hash(forward_and_back, x, x, *own, about=f"{entry.parameter};")


@kept
def _architecture(entry: Any) -> str:
    model = architectures.of_entry(entry, SHAPE, SIZES, jnp.tanh, _zeros)

    def everything(key: jax.Array, params: Any, x: jax.Array, labels: jax.Array) -> Any:
        def cost(params: Any) -> tuple[jax.Array, jax.Array]:
            output = model.apply(params, x)
            return model.loss(output, x, labels), model.error(output, x, labels)

        return model.init(key), jax.value_and_grad(cost, has_aux=True)(params)

    key, x = jax.random.key(0), jnp.zeros((SAMPLES, SHAPE.features), jnp.float32)
    params = jax.eval_shape(model.init, key)
    return _hash(everything, key, params, x, jnp.zeros(SAMPLES, jnp.int32))


def _zeros(_key: jax.Array, shape: Any, dtype: Any = jnp.float32, **_: Any) -> jax.Array:
    return jnp.zeros(shape, dtype)


@kept
def _optimizer(entry: Any) -> str:
    params = {"kernel": jnp.zeros((3, UNITS), jnp.float32), "bias": jnp.zeros(UNITS, jnp.float32)}

    def start_and_step(rate: jax.Array, gradient: Any, params: Any) -> Any:
        with jax.numpy_dtype_promotion("standard"):  # as in training
            state = entry.make(rate).init(params)
            return state, entry.make(rate).update(gradient, state, params)

    return _hash(start_and_step, jnp.float32(0), params, params)


@kept
def _initializer(entry: Any) -> str:
    def draw(key: jax.Array) -> jax.Array:
        drawn: jax.Array = entry.make(key, (3, UNITS), jnp.float32)
        return drawn

    return _hash(draw, jax.random.key(0))
