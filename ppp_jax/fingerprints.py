"""Fingerprints of the functions behind names: a name in a manifest should mean the same for ever.

A fingerprint is the hash of a function lowered to StableHLO at a fixed small size, gradient and
constants included. It does not depend on the machine; it does on JAX's version and settings.
"""

import functools
import hashlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from ppp_jax import architectures, family, models, optimizers
from ppp_jax.data import Shape
from ppp_jax.grid import Grid

SAMPLES, UNITS = 2, 4
SHAPE = Shape(64, (8, 8, 1), 3)
SIZES = models.Sizes(width=4, depth=2, latent_width=3)
KINDS = ("activations", "architectures", "optimizers", "initializers")
Fingerprints = dict[str, dict[str, str]]


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
        "activations": {name: _activation(name, family.get(name)) for name in grid.activations},
        "architectures": {
            name: _architecture(architectures.get(name)) for name in grid.architectures
        },
        "optimizers": {name: _optimizer(optimizers.get(name).make) for name in grid.optimizers},
        "initializers": {
            name: _initializer(models.get_initializer(name).make) for name in grid.initializers
        },
    }


def _hash(function: Callable[..., Any], *arguments: Any, about: str = "") -> str:
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), arguments)
    # For one platform, whatever there is: the text is the same on all machines.
    lowered = jax.jit(function).trace(*shapes).lower(lowering_platforms=("cpu",))
    return hashlib.sha256((about + lowered.as_text()).encode()).hexdigest()


@functools.lru_cache(maxsize=256)
def _activation(name: str, entry: Any) -> str:
    del name  # entries of equal functions may differ in what they close over
    units = entry.multiple_of * -(-UNITS // entry.multiple_of)
    x = jnp.zeros((SAMPLES, units), jnp.float32)
    own = () if entry.parameter is None else (jnp.float32(0),)

    def forward_and_back(x: jax.Array, gradient: jax.Array, *own: jax.Array) -> Any:
        value, back = jax.vjp(entry.apply, x, *own)
        return value, back(gradient)

    return _hash(forward_and_back, x, x, *own, about=f"{entry.parameter};")


@functools.lru_cache(maxsize=64)
def _architecture(entry: Any) -> str:
    model = models.functional(
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


@functools.lru_cache(maxsize=64)
def _optimizer(make: Any) -> str:
    params = {"kernel": jnp.zeros((3, UNITS), jnp.float32), "bias": jnp.zeros(UNITS, jnp.float32)}

    def start_and_step(rate: jax.Array, gradient: Any, params: Any) -> Any:
        with jax.numpy_dtype_promotion("standard"):  # as in training
            state = make(rate).init(params)
            return state, make(rate).update(gradient, state, params)

    return _hash(start_and_step, jnp.float32(0), params, params)


@functools.lru_cache(maxsize=64)
def _initializer(make: Any) -> str:
    def draw(key: jax.Array) -> jax.Array:
        drawn: jax.Array = make(key, (3, UNITS), jnp.float32)
        return drawn

    return _hash(draw, jax.random.key(0))
