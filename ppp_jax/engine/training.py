"""One run of one seed, as pure functions that start, update and observe it, without jit and I/O."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from ppp_jax.data.datasets import Shape
from ppp_jax.engine import batches
from ppp_jax.grid.grid import Cell
from ppp_jax.networks import architectures, functional, interpolated, optimizers

NEVER = -1  # the `diverged_step` of a run whose losses were all finite
# Most samples that pass through a network at once when errors are computed. The hidden layers of a
# whole large dataset would fill the memory.
SLICE = 8192
_WEIGHTS, _BATCHES = 0, 1  # numbers of the two random streams of a seed


class Hyper(NamedTuple):
    """Values of the traced axes for a run, which are scalars.

    Attributes:
      seed: Training seed, int32.
      learning_rate: Learning rate, float32.
      dose: Dose t of a `dose_…` activation, float32. Other activations do not use it.
    """

    seed: jax.Array
    learning_rate: jax.Array
    dose: jax.Array


class Arrays(NamedTuple):
    """The data on which runs are trained and observed.

    Attributes:
      train: Training samples, `(samples, features)`.
      validation: Held-out samples for choices such as that of the learning rate, `(held-out
        samples, features)`.
      test: Held-out samples on which errors are reported, `(held-out samples, features)`.
      probe: Training samples whose latents are saved, `(probe samples, features)`.
      train_labels: Labels of `train`, `(samples,)`, int32; zeros if the data have no classes.
      validation_labels: Labels of `validation`, `(held-out samples,)`, int32, or zeros.
      test_labels: Labels of `test`, `(held-out samples,)`, int32, or zeros.
    """

    train: jax.Array
    validation: jax.Array
    test: jax.Array
    probe: jax.Array
    train_labels: jax.Array
    validation_labels: jax.Array
    test_labels: jax.Array


class RunState(NamedTuple):
    """The state of a run between two steps.

    Attributes:
      params: Parameters of the network.
      opt_state: State of the optimiser.
      diverged_step: First step whose loss was not finite, or -1, int32.
    """

    params: functional.Params
    opt_state: optax.OptState
    diverged_step: jax.Array


class Observation(NamedTuple):
    """The results of a run that are saved at a snapshot.

    Attributes:
      train_mse: Mean squared error over the training samples, per feature.
      validation_mse: Mean squared error over the validation samples, per feature.
      test_mse: Mean squared error over the test samples, per feature.
      diverged_step: `RunState.diverged_step`, or the number of steps taken so far if all losses
        were finite and an error is not.
      latents: Latents of the probe samples before and after the activation, both of shape `(probe
        samples, latent_width)`.
      captured: Vectors of the other saved layers by name, before and after the activation, both
        `(vectors, units)`.
    """

    train_mse: jax.Array
    validation_mse: jax.Array
    test_mse: jax.Array
    diverged_step: jax.Array
    latents: functional.Latents
    captured: dict[str, functional.Latents]


class Run(NamedTuple):
    """One run as pure functions.

    Attributes:
      draw: Function `(seed) -> params` that draws the initial weights. It depends only on the
        shapes of the network and on the initialiser.
      init: Function `(params, hyper) -> RunState` that returns the untrained state.
      update: Function `(state, hyper, arrays, step) -> (RunState, loss)` that takes one step. Steps
        are counted from 0.
      observe: Function `(state, arrays, step) -> Observation` of the state after `step` steps.
    """

    draw: Callable[[jax.Array], functional.Params]
    init: Callable[[functional.Params, Hyper], RunState]
    update: Callable[[RunState, Hyper, Arrays, jax.Array], tuple[RunState, jax.Array]]
    observe: Callable[[RunState, Arrays, jax.Array], Observation]


def build_model(cell: Cell, shape: Shape) -> functional.Model:
    """Builds the network of a cell.

    Args:
      cell: The cell, whose activation, sizes, initialiser and architecture are used.
      shape: Shape of the data.
    """
    return architectures.build(
        cell.architecture,
        shape,
        cell.sizes,
        activation=interpolated.get(cell.activation).apply,
        initializer=functional.get_initializer(cell.initializer).make,
    )


def batch_indices(key: jax.Array, step: jax.Array, *, samples: int, batch_size: int) -> jax.Array:
    """Returns the sample indices of a step's batch, `(batch_size,)`.

    Each epoch runs once through a new random order and leaves out the last, incomplete batch.

    Args:
      key: PRNG key of the seed's stream for batches.
      step: Number of the step, counted from 0.
      samples: Number of training samples, at least `batch_size`.
      batch_size: Number of samples per step.
    """
    steps_per_epoch = samples // batch_size
    index = (step % steps_per_epoch) * batch_size + jnp.arange(batch_size, dtype=jnp.int32)
    return batches.shuffled(jax.random.fold_in(key, step // steps_per_epoch), index, samples)


def _error(
    model: functional.Model, params: functional.Params, x: jax.Array, labels: jax.Array
) -> jax.Array:
    """Returns the mean error over samples, computed over slices of `SLICE` samples."""

    def of(x: jax.Array, labels: jax.Array) -> jax.Array:
        return model.error(model.apply(params, x), x, labels)

    whole = len(x) // SLICE
    if len(x) <= SLICE:
        return of(x, labels)
    cut = whole * SLICE
    slices = (x[:cut].reshape(whole, SLICE, -1), labels[:cut].reshape(whole, SLICE))
    total = jax.lax.map(lambda part: of(*part), slices).sum() * SLICE
    if cut < len(x):
        total = total + of(x[cut:], labels[cut:]) * (len(x) - cut)
    return total / len(x)


def _observe(
    model: functional.Model,
    capture: tuple[str, ...],
    state: RunState,
    arrays: Arrays,
    step: jax.Array,
) -> Observation:
    params = state.params
    train_mse = _error(model, params, arrays.train, arrays.train_labels)
    validation_mse = _error(model, params, arrays.validation, arrays.validation_labels)
    test_mse = _error(model, params, arrays.test, arrays.test_labels)
    # The latest update can have made the parameters diverge although its own loss was finite.
    last = (state.diverged_step == NEVER) & ~jnp.isfinite(train_mse + validation_mse + test_mse)
    output = model.apply(params, arrays.probe)
    return Observation(
        train_mse=train_mse,
        validation_mse=validation_mse,
        test_mse=test_mse,
        diverged_step=jnp.where(last, step, state.diverged_step),
        latents=output.latents,
        captured={name: output.layers[name] for name in capture},
    )


def build_run(cell: Cell, *, shape: Shape, batch_size: int, capture: tuple[str, ...] = ()) -> Run:
    """Builds the functions of a cell's runs.

    All randomness is derived from the seed and the step (by `fold_in` of the seed's key) and not
    from a run's index. So a seed has the same initial weights (up to shape) and the same batches in
    every cell.

    Args:
      cell: The static configuration.
      shape: Shape of the data.
      batch_size: Number of samples per step.
      capture: Names of the layers that are saved in addition to the bottleneck.

    Returns:
      The run as pure functions.
    """
    model, parameter = build_model(cell, shape), interpolated.get(cell.activation).parameter
    optimizer = optimizers.get(cell.optimizer)

    def draw(seed: jax.Array) -> functional.Params:
        return model.init(jax.random.fold_in(jax.random.key(seed), _WEIGHTS))

    def init(params: functional.Params, hyper: Hyper) -> RunState:
        if parameter is not None:
            start = hyper.dose if parameter.initial is None else jnp.float32(parameter.initial)
            params = {**params, functional.ACTIVATION: jnp.broadcast_to(start, (model.activated,))}
        opt_state = optimizer.make(hyper.learning_rate).init(params)
        return RunState(params, opt_state, jnp.int32(NEVER))

    def update(
        state: RunState, hyper: Hyper, arrays: Arrays, step: jax.Array
    ) -> tuple[RunState, jax.Array]:
        key = jax.random.fold_in(jax.random.key(hyper.seed), _BATCHES)
        chosen = batch_indices(key, step, samples=len(arrays.train), batch_size=batch_size)
        batch, labels = arrays.train[chosen], arrays.train_labels[chosen]

        def cost(params: functional.Params) -> jax.Array:
            return model.loss(model.apply(params, batch), batch, labels)

        loss, gradient = jax.value_and_grad(cost)(state.params)
        # optax raises floats to integer powers, which strict dtype promotion refuses.
        with jax.numpy_dtype_promotion("standard"):
            updates, opt_state = optimizer.make(hyper.learning_rate).update(
                gradient, state.opt_state, state.params
            )
        params = optax.apply_updates(state.params, updates)
        first = (state.diverged_step == NEVER) & ~jnp.isfinite(loss)
        diverged_step = jnp.where(first, step, state.diverged_step)
        return RunState(params, opt_state, diverged_step), loss

    return Run(draw, init, update, functools.partial(_observe, model, capture))
