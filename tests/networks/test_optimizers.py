import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ppp_jax.errors import InputError
from ppp_jax.networks import optimizers


@functools.cache
def stepper(name):
    """Returns an optimiser, and its step as one program."""
    optimizer = optimizers.get(name).make(optimizers.get(name).default_learning_rate)

    @jax.jit
    def step(weights, state, x):
        target = jnp.sin(jnp.arange(len(x) * 3.0)).reshape(-1, 3)
        gradient = jax.grad(lambda w: jnp.mean((x @ w - target) ** 2))(weights)
        with jax.numpy_dtype_promotion("standard"):
            updates, state = optimizer.update(gradient, state, weights)
        return optax.apply_updates(weights, updates), state

    return optimizer, step


def train(name, weights, x, steps=5):
    """Fits a linear map by full-batch steps; the loss is invariant under x → xQ, W → QᵀW."""
    optimizer, step = stepper(name)
    state = optimizer.init(weights)
    for _ in range(steps):
        weights, state = step(weights, state, x)
    return weights


@pytest.mark.parametrize("name", sorted(optimizers.OPTIMIZERS))
def test_respects_rotations_as_claimed(name):
    """Training from rotated weights and data is the rotated training, or is not."""
    x = jax.random.normal(jax.random.key(0), (20, 6))
    weights = jax.random.normal(jax.random.key(1), (6, 3))
    q = jax.random.orthogonal(jax.random.key(2), 6)
    rotated, plain = train(name, q.T @ weights, x @ q), q.T @ train(name, weights, x)
    moved = jnp.linalg.norm(plain - q.T @ weights)
    residual = float(jnp.linalg.norm(rotated - plain) / moved)
    assert moved > 1e-3
    assert (residual < 1e-4) == optimizers.get(name).respects_rotations, residual


@pytest.mark.parametrize("name", sorted(optimizers.OPTIMIZERS))
def test_learning_rate_may_be_traced(name):
    params, gradient = jnp.ones((2, 2)), jnp.arange(4.0).reshape(2, 2)

    def step(rate):
        optimizer = optimizers.get(name).make(rate)
        with jax.numpy_dtype_promotion("standard"):
            return optimizer.update(gradient, optimizer.init(params), params)[0]

    rates = jnp.array([1e-3, 1e-2])
    together = jax.jit(jax.vmap(step))(rates)
    np.testing.assert_allclose(together, np.stack([step(r) for r in rates]), rtol=1e-5)


def test_unknown_optimizer():
    with pytest.raises(InputError, match="did you mean adam"):
        optimizers.get("adm")
