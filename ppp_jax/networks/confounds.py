"""Tests of whether optimisers and initialisers prefer a basis (docs/method.md §11)."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ppp_jax import bases
from ppp_jax.networks.activations import ACTIVATIONS

STEPS = 5
# Largest relative residual, in float32, of an optimiser that respects rotations. Optimisers that
# prefer a basis are far above it.
TOLERANCE = 1e-3
UNITS, FEATURES, SAMPLES = 6, 5, 40
MATRICES = 400
DEVIATIONS = 5.0  # largest difference, in standard errors, of a law that respects rotations


def optimizer_residual(
    make: Callable[[Any], Any], learning_rate: float, *, test_seed: int = 0
) -> float:
    """Returns how far an optimiser is from commuting with rotations of the hidden units.

    A network linear → isotropic tanh → linear is trained twice, from random parameters and from the
    same parameters with rotated hidden units. The rotation does not change the function that the
    network computes. So an optimiser without a preferred basis arrives at the rotated parameters.

    Args:
      make: Function of the learning rate that returns an optax transformation.
      learning_rate: Learning rate of the test.
      test_seed: Seed of the test's parameters, data and rotation.

    Returns:
      The distance between the parameters trained from the rotated start and the rotated trained
      parameters, divided by the distance that training moved them, after 5 steps.
    """
    # Drawn by NumPy: XLA would compile a program for each shape, which takes longer than the test.
    rng = np.random.default_rng(test_seed)
    turn = jnp.asarray(bases.rotations(UNITS, 1, rng)[0], float)
    shapes = {"kernel": (FEATURES, UNITS), "bias": (UNITS,), "output": (UNITS, FEATURES)}
    params = {name: jnp.asarray(rng.normal(size=one), float) for name, one in shapes.items()}
    data = jnp.asarray(rng.normal(size=(SAMPLES, FEATURES)), float)
    train = jax.jit(lambda params: _train(make(learning_rate), params, data))
    # By default accelerators would multiply in less than single precision.
    with jax.default_matmul_precision("highest"):
        start, from_turned = _flat(_turn(params, turn)), _flat(train(_turn(params, turn)))
        end_turned = _flat(_turn(train(params), turn))
    moved = jnp.linalg.norm(end_turned - start)
    return float(jnp.linalg.norm(from_turned - end_turned) / moved)


def _turn(params: dict[str, jax.Array], turn: jax.Array) -> dict[str, jax.Array]:
    return {
        "kernel": params["kernel"] @ turn,
        "bias": params["bias"] @ turn,
        "output": turn.T @ params["output"],
    }


def _flat(params: dict[str, jax.Array]) -> jax.Array:
    return jnp.concatenate([leaf.ravel() for leaf in jax.tree.leaves(params)])


def _train(optimizer: Any, params: dict[str, jax.Array], data: jax.Array) -> dict[str, jax.Array]:
    activation = ACTIVATIONS["isotropic_tanh"]

    def loss(params: dict[str, jax.Array]) -> jax.Array:
        hidden = activation.apply(data @ params["kernel"] + params["bias"][None])
        return jnp.mean(jnp.square(hidden @ params["output"] - data))

    def step(_: int, at: tuple[dict[str, jax.Array], Any]) -> tuple[Any, Any]:
        params, state = at
        # optax raises floats to integer powers, which strict dtype promotion refuses.
        with jax.numpy_dtype_promotion("standard"):
            updates, state = optimizer.update(jax.grad(loss)(params), state, params)
        return optax.apply_updates(params, updates), state

    trained: dict[str, jax.Array]
    trained, _ = jax.lax.fori_loop(0, STEPS, step, (params, optimizer.init(params)))
    return trained


def initializer_deviation(make: Callable[..., jax.Array], *, test_seed: int = 0) -> float:
    """Returns how much the law of an initialiser's weights changes under rotations.

    The statistic is Σw⁴/(Σw²)² of a matrix. If rotations leave the law of the matrix unchanged,
    they leave the expectation of this statistic unchanged.

    Args:
      make: Function `(key, shape, dtype)` that draws a weight matrix.
      test_seed: Seed of the test's weights and rotations.

    Returns:
      The mean difference between a matrix and the same matrix after a rotation, in standard errors
      over 400 matrices. It lies within ±5 for a law that is unchanged by rotations.
    """
    keys = jax.random.split(jax.random.key(test_seed), MATRICES)
    draw = jax.jit(jax.vmap(lambda key: make(key, (UNITS, UNITS), jnp.float32)))
    # By default accelerators would multiply in less than single precision.
    with jax.default_matmul_precision("highest"):
        weights = np.asarray(draw(keys), np.float64)
    turned = weights @ bases.rotations(UNITS, MATRICES, np.random.default_rng(test_seed))
    differences = _peakedness(weights) - _peakedness(turned)
    return float(differences.mean() / (differences.std(ddof=1) / np.sqrt(MATRICES)))


def _peakedness(weights: np.ndarray) -> np.ndarray:
    square = np.square(weights)
    found: np.ndarray = np.square(square).sum((1, 2)) / np.square(square.sum((1, 2)))
    return found
