"""What else may prefer a basis: optimisers and initialisers, certified (docs/method.md §11)."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ppp_jax.networks import functional, optimizers
from ppp_jax.networks.activations import ACTIVATIONS
from ppp_jax.numerics import haar_orthogonal

STEPS = 5
TOLERANCE = 1e-3  # of the step, in float32; an optimiser that prefers a basis misses it by far
UNITS, FEATURES, SAMPLES = 6, 5, 40
MATRICES = 400
DEVIATIONS = 5.0  # from an unchanged law, beyond which it has changed


def optimizer_residual(name: str, *, seed: int = 0) -> float:
    """Trains from turned parameters, and returns how far that is from the turned training.

    The network is linear → isotropic tanh → linear, and its hidden units are turned: the function
    it computes is the same, so an optimiser without a preferred basis takes the turned steps.

    Args:
      name: a key of `optimizers.OPTIMIZERS`.
      seed: of parameters, data and rotation.

    Returns:
      ‖turned training − training, turned‖ over the distance moved, after 5 steps at the default
      learning rate.
    """
    keys = jax.random.split(jax.random.key(seed), 6)
    turn = haar_orthogonal(keys[0], UNITS)
    params = {
        "kernel": jax.random.normal(keys[1], (FEATURES, UNITS)),
        "bias": jax.random.normal(keys[2], (UNITS,)),
        "output": jax.random.normal(keys[3], (UNITS, FEATURES)),
    }
    data = jax.random.normal(keys[4], (SAMPLES, FEATURES))
    train = jax.jit(lambda params: _train(name, params, data))
    # By default accelerators would multiply in less than single precision.
    with jax.default_matmul_precision("highest"):
        start, turned = _flat(_turn(params, turn)), _flat(train(_turn(params, turn)))
        plain = _flat(_turn(train(params), turn))
    return float(jnp.linalg.norm(turned - plain) / jnp.linalg.norm(plain - start))


def _turn(params: dict[str, jax.Array], turn: jax.Array) -> dict[str, jax.Array]:
    return {
        "kernel": params["kernel"] @ turn,
        "bias": params["bias"] @ turn,
        "output": turn.T @ params["output"],
    }


def _flat(params: dict[str, jax.Array]) -> jax.Array:
    return jnp.concatenate([leaf.ravel() for leaf in jax.tree.leaves(params)])


def _train(name: str, params: dict[str, jax.Array], data: jax.Array) -> dict[str, jax.Array]:
    entry = optimizers.get(name)
    optimizer, activation = entry.make(entry.default_learning_rate), ACTIVATIONS["isotropic_tanh"]

    def loss(params: dict[str, jax.Array]) -> jax.Array:
        hidden = activation.apply(data @ params["kernel"] + params["bias"][None])
        return jnp.mean(jnp.square(hidden @ params["output"] - data))

    state = optimizer.init(params)
    for _ in range(STEPS):
        # optax raises floats to integer powers, which strict dtype promotion refuses.
        with jax.numpy_dtype_promotion("standard"):
            updates, state = optimizer.update(jax.grad(loss)(params), state, params)
        params = optax.apply_updates(params, updates)
    return params


def initializer_deviation(name: str, *, seed: int = 0) -> float:
    """Draws weights, and returns how far their law changes when their columns are turned.

    The number looked at is Σw⁴/(Σw²)² of a matrix, which rotations change unless the law does not
    know its axes.

    Args:
      name: a key of `functional.INITIALIZERS`.
      seed: of weights and rotations.

    Returns:
      The mean paired difference before and after a rotation, in standard errors over 400
      matrices; within ±5 for a law that rotations leave as it is.
    """
    draw = functional.get_initializer(name).make
    keys = jax.random.split(jax.random.key(seed), (MATRICES, 2))

    def difference(key: jax.Array) -> jax.Array:
        weights = draw(key[0], (UNITS, UNITS), jnp.float32)
        return _peakedness(weights) - _peakedness(weights @ haar_orthogonal(key[1], UNITS))

    with jax.default_matmul_precision("highest"):  # as above
        apart = np.asarray(jax.vmap(difference)(keys), np.float64)
    return float(apart.mean() / (apart.std(ddof=1) / np.sqrt(MATRICES)))


def _peakedness(weights: jax.Array) -> jax.Array:
    square = jnp.square(weights)
    return jnp.sum(jnp.square(square)) / jnp.square(jnp.sum(square))
