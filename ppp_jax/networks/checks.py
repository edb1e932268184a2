"""Checks of functions that users bring, which are made before any network is compiled.

Shapes, types, `vmap` and derivatives are checked by tracing, which computes nothing. Values are
checked at a few small vectors.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ppp_jax.errors import InputError, printable, shortened
from ppp_jax.networks.activations import FIELD, Activation

UNITS, ROWS = 8, 3
SAME = 1e-4  # largest difference of values that counts as rounding, relative to their size


def check_activation(name: str, entry: Activation) -> None:
    """Checks that a function can be used as an activation.

    Args:
      name: Name of the activation, for the error message.
      entry: The activation.

    Raises:
      InputError: The function fails, changes shapes or types, does not act on each vector by
        itself, cannot be vmapped or differentiated, has the gradient 0 everywhere, or is not finite
        at 0.
    """
    apply = _of_vectors(entry)
    units = entry.multiple_of * -(-UNITS // entry.multiple_of)
    for shape in ((units,), (ROWS, units), (2, ROWS, units)):
        _check_traced(name, apply, shape)
    vectors = jax.ShapeDtypeStruct((2, ROWS, units), jnp.float32)
    with _failing(name, "cannot be vmapped, which trains many seeds together"):
        jax.eval_shape(jax.vmap(apply), vectors)
    with _failing(name, "cannot be differentiated"):
        jax.eval_shape(jax.grad(lambda x: apply(x).sum()), vectors)
    _check_values(name, apply, units)


def _of_vectors(entry: Activation) -> Callable[[Any], Any]:
    """Returns an activation as a function of vectors, with its parameter in the middle."""
    if entry.parameter is None:
        return entry.apply
    start = 0.5 if entry.parameter.initial is None else entry.parameter.initial
    return lambda x: entry.apply(x, start)


def _check_traced(name: str, apply: Callable[[Any], Any], shape: tuple[int, ...]) -> None:
    vectors = jax.ShapeDtypeStruct(shape, jnp.float32)
    with _failing(name, f"fails on an array of shape {shape}"):
        found = jax.eval_shape(apply, vectors)
    got = getattr(found, "shape", None)
    if got != shape:
        what = f"an array of shape {got}" if got is not None else f"a {type(found).__name__}"
        problem = f"returns {what} for one of {shape}; it must return the shape that it is given"
        raise InputError(FIELD, name, problem)
    if found.dtype != jnp.float32:
        problem = f"returns {found.dtype} for float32; it must keep the type, as x.astype does"
        raise InputError(FIELD, name, problem)


@contextmanager
def _failing(name: str, what: str, *, field: str = FIELD) -> Iterator[None]:
    """Turns whatever a user's function raises into one line."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        why = str(error).strip().splitlines() or [""]
        problem = f"{what} ({type(error).__name__}: {shortened(printable(why[0]))}); correct it"
        raise InputError(field, name, problem) from error


def _check_values(name: str, apply: Callable[[Any], Any], units: int) -> None:
    """Checks values and gradients at a few vectors, and at 0."""
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(ROWS, units)) * np.array([0.3, 1.0, 3.0])[:, None]

    @jax.jit
    def values(rows: jax.Array) -> tuple[jax.Array, ...]:
        def with_gradient(x: jax.Array) -> tuple[jax.Array, jax.Array]:
            value, back = jax.vjp(apply, x)
            return value, back(jnp.ones_like(value))[0]

        alone = jax.lax.map(lambda row: apply(row[None])[0], rows)
        return *with_gradient(rows), alone, *with_gradient(jnp.zeros_like(rows))

    with _failing(name, "fails"), jax.debug_nans(False), jax.debug_infs(False):
        found = values(jnp.asarray(rows, jnp.float32))
    together, slopes, alone, at_zero, slopes_at_zero = (np.asarray(one) for one in found)
    if not (np.isfinite(at_zero).all() and np.isfinite(slopes_at_zero).all()):
        what = "its gradient" if np.isfinite(at_zero).all() else "its value"
        problem = f"{what} is not finite at 0; guard the division, as in ppp_jax.numerics.polar"
        raise InputError(FIELD, name, problem)
    if not (np.isfinite(together).all() and np.isfinite(slopes).all()):
        problem = "is not finite at vectors of lengths from 1 to 10; correct it"
        raise InputError(FIELD, name, problem)
    if np.abs(together - alone).max() > SAME * max(np.abs(alone).max(), np.abs(together).max()):
        problem = (
            "mixes the vectors of an array; let it act along the last axis only (axis=-1, "
            "keepdims=True)"
        )
        raise InputError(FIELD, name, problem)
    if not slopes.any():
        problem = "has the gradient 0 everywhere, so that nothing before it can be trained"
        raise InputError(FIELD, name, problem)


def check_optimizer(name: str, make: Callable[[Any], Any], learning_rate: float) -> None:
    """Checks that a function can be used as an optimiser.

    Args:
      name: Name of the optimiser, for the error message.
      make: The function of the learning rate.
      learning_rate: Learning rate of the check.

    Raises:
      InputError: The function fails, does not return an optax transformation, changes shapes or
        types, or cannot be traced with a learning rate that varies along an axis.
    """
    field = "optimizers"
    params = {"kernel": jax.ShapeDtypeStruct((ROWS, UNITS), jnp.float32)}
    with _failing(name, "fails when it is called with a learning rate", field=field):
        made = make(learning_rate)
    if not (callable(getattr(made, "init", None)) and callable(getattr(made, "update", None))):
        problem = f"returns a {type(made).__name__} for a learning rate; it must return an optax "
        raise InputError(field, name, f"{problem}transformation, with init and update")

    def step(rate: jax.Array, gradient: Any, params: Any) -> Any:
        optimizer = make(rate)
        return optimizer.update(gradient, optimizer.init(params), params)[0]

    rates = jax.ShapeDtypeStruct((2,), jnp.float32)
    with (
        _failing(name, "fails where the learning rate is traced", field=field),
        jax.numpy_dtype_promotion("standard"),
    ):
        found = jax.eval_shape(jax.vmap(step, (0, None, None)), rates, params, params)
    got = [(leaf.shape[1:], leaf.dtype) for leaf in jax.tree.leaves(found)]
    if got != [((ROWS, UNITS), jnp.float32)]:
        problem = f"returns updates {got} for parameters of shape {(ROWS, UNITS)} and float32"
        raise InputError(field, name, f"{problem}; it must keep shapes and types")


def check_initializer(name: str, make: Callable[..., Any]) -> None:
    """Checks that a function can be used as an initialiser.

    Args:
      name: Name of the initialiser, for the error message.
      make: The function `(key, shape, dtype)`.

    Raises:
      InputError: The function fails, or does not return an array of the shape and type that it is
        given.
    """
    field, shape = "initializers", (ROWS, UNITS)
    with _failing(name, f"fails when it is called with (key, {shape}, float32)", field=field):
        found = jax.eval_shape(
            lambda key: _array_of(make(key, shape, jnp.float32)), jax.random.key(0)
        )
    got = getattr(found, "shape", None), getattr(found, "dtype", None)
    if got != (shape, jnp.float32):
        problem = f"returns shape {got[0]} and type {got[1]} for (key, {shape}, float32)"
        raise InputError(field, name, f"{problem}; it must return what it is asked for")


def _array_of(value: Any) -> Any:
    if callable(value):
        raise TypeError("it returned a function; refer to that function")
    return value
