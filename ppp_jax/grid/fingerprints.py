"""Fingerprints of the functions behind names: a name in a manifest should mean the same for ever.

A fingerprint is the hash of a function lowered to StableHLO at a fixed small size, gradient and
constants included. It does not depend on the machine; it does on JAX's version and settings.
"""

import functools
import hashlib
import types
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import jax
import jax.numpy as jnp

from ppp_jax.data.datasets import Shape
from ppp_jax.grid.grid import Grid
from ppp_jax.networks import architectures, functional, interpolated, optimizers

SAMPLES, UNITS = 2, 4
SHAPE = Shape(64, (8, 8, 1), 3)
SIZES = functional.Sizes(width=4, depth=2, latent_width=3)
KINDS = ("activations", "architectures", "optimizers", "initializers")
Fingerprints = dict[str, dict[str, str]]
PACKAGES = ("ppp_jax", "jax", "jaxlib", "flax", "optax", "numpy", "builtins")
Of = TypeVar("Of", bound=Callable[..., Any])


def fingerprints(grid: Grid) -> Fingerprints:
    """Returns the fingerprint of everything that a grid names, by kind and name.

    Args:
      grid: what is trained.

    Example:
      >>> found = fingerprints(Grid(activations=["tanh"]))
      >>> list(found), list(found["activations"])
      (['activations', 'architectures', 'optimizers', 'initializers'], ['tanh'])
    """
    return {
        "activations": {
            name: _activation(name, interpolated.get(name)) for name in grid.activations
        },
        "architectures": {
            name: _architecture(architectures.get(name)) for name in grid.architectures
        },
        "optimizers": {name: _optimizer(optimizers.get(name).make) for name in grid.optimizers},
        "initializers": {
            name: _initializer(functional.get_initializer(name).make) for name in grid.initializers
        },
    }


def kept(compute: Of) -> Of:
    """Keeps what was computed of functions of the packages; what a user defines may change.

    A constant that a function of a notebook reads is another one after its cell was run again.

    Args:
      compute: of functions, entries of registries and constants, all of them hashable.
    """
    known = functools.lru_cache(maxsize=256)(compute)

    @functools.wraps(compute)
    def looked_up(*arguments: Any) -> Any:
        fixed = all(map(_is_fixed, arguments))
        return known(*arguments) if fixed else compute(*arguments)

    return looked_up  # type: ignore[return-value]


def _is_fixed(value: Any) -> bool:
    """Returns whether only the packages have a say in a function, or in the functions of an entry.

    Args:
      value: a function, with all that it closes over; an entry of a registry; or a constant.
    """
    if isinstance(value, functools.partial):
        return all(map(_is_fixed, (value.func, *value.args, *value.keywords.values())))
    if isinstance(value, tuple):
        return all(map(_is_fixed, value))
    if not callable(value):
        return True
    if str(getattr(value, "__module__", "")).partition(".")[0] not in PACKAGES:
        return False
    return all(map(_is_fixed, _held(value)))


def _held(function: Any) -> Iterator[Any]:
    """Yields what a Python function closes over, and what it wraps."""
    if isinstance(function, types.FunctionType):
        yield from (cell.cell_contents for cell in function.__closure__ or ())
        yield from function.__defaults__ or ()
    if hasattr(function, "__wrapped__"):
        yield function.__wrapped__


def _hash(function: Callable[..., Any], *arguments: Any, about: str = "") -> str:
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), arguments)
    # For one platform, whatever there is: the text is the same on all machines.
    lowered = jax.jit(function).trace(*shapes).lower(lowering_platforms=("cpu",))
    return hashlib.sha256((about + lowered.as_text()).encode()).hexdigest()


@kept
def _activation(name: str, entry: Any) -> str:
    del name  # entries of equal functions may differ in what they close over
    units = entry.multiple_of * -(-UNITS // entry.multiple_of)
    x = jnp.zeros((SAMPLES, units), jnp.float32)
    own = () if entry.parameter is None else (jnp.float32(0),)

    def forward_and_back(x: jax.Array, gradient: jax.Array, *own: jax.Array) -> Any:
        value, back = jax.vjp(entry.apply, x, *own)
        return value, back(gradient)

    return _hash(forward_and_back, x, x, *own, about=f"{entry.parameter};")


@kept
def _architecture(entry: Any) -> str:
    model = functional.functional(
        entry.module, SHAPE, SIZES, jnp.tanh, _zeros, loss=entry.loss, error=entry.error
    )

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
def _optimizer(make: Any) -> str:
    params = {"kernel": jnp.zeros((3, UNITS), jnp.float32), "bias": jnp.zeros(UNITS, jnp.float32)}

    def start_and_step(rate: jax.Array, gradient: Any, params: Any) -> Any:
        with jax.numpy_dtype_promotion("standard"):  # as in training
            state = make(rate).init(params)
            return state, make(rate).update(gradient, state, params)

    return _hash(start_and_step, jnp.float32(0), params, params)


@kept
def _initializer(make: Any) -> str:
    def draw(key: jax.Array) -> jax.Array:
        drawn: jax.Array = make(key, (3, UNITS), jnp.float32)
        return drawn

    return _hash(draw, jax.random.key(0))
