"""One run of one seed: pure functions to start it, step it and look at it. No jit, no I/O."""

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
SLICE = 8192  # samples looked at together: a large data set's hidden layers would fill the memory
_WEIGHTS, _BATCHES = 0, 1  # the streams of random numbers that a seed names


class Hyper(NamedTuple):
    """The traced axes of a run, scalars.

    Attributes:
      seed: int32.
      learning_rate: float32.
      dose: float32, t of a `dose_…` activation; nothing to others.
    """

    seed: jax.Array
    learning_rate: jax.Array
    dose: jax.Array


class Arrays(NamedTuple):
    """What runs are trained on and looked at with.

    Attributes:
      train: `(samples, features)`.
      validation: `(held-out samples, features)`, which choices such as the learning rate may see.
      test: `(held-out samples, features)`, which nothing sees.
      probe: `(probe samples, features)`, those whose latents are kept.
      train_labels: `(samples,)`, int32, zeros where the data has none.
      validation_labels: likewise.
      test_labels: likewise.
    """

    train: jax.Array
    validation: jax.Array
    test: jax.Array
    probe: jax.Array
    train_labels: jax.Array
    validation_labels: jax.Array
    test_labels: jax.Array


class RunState(NamedTuple):
    """What a step carries to the next.

    Attributes:
      params: the network's parameters.
      opt_state: the optimiser's state.
      diverged_step: the first step whose loss was not finite, or -1.
    """

    params: functional.Params
    opt_state: optax.OptState
    diverged_step: jax.Array


class Observation(NamedTuple):
    """What is kept of a run at a snapshot.

    Attributes:
      train_mse: mean squared error over the whole training set, per feature.
      validation_mse: the same over the held-out samples that choices may see.
      test_mse: the same over the other held-out samples.
      diverged_step: see `RunState`; the number of steps taken if the errors are the first things
        not finite.
      latents: the probe samples' latents, `(probe samples, latent_width)` each.
      captured: likewise of every other layer that is kept, `(vectors, units)` each.
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
      draw: `(seed) -> params`, the initial weights; depends on shapes and initialiser alone.
      init: `(params, hyper) -> RunState`.
      update: `(state, hyper, arrays, step) -> (RunState, loss)`; `step` counts from 0.
      observe: `(state, arrays, step) -> Observation`, after `step` steps.
    """

    draw: Callable[[jax.Array], functional.Params]
    init: Callable[[functional.Params, Hyper], RunState]
    update: Callable[[RunState, Hyper, Arrays, jax.Array], tuple[RunState, jax.Array]]
    observe: Callable[[RunState, Arrays, jax.Array], Observation]


def build_model(cell: Cell, shape: Shape) -> functional.Model:
    """Builds the network of a cell for data of some shape."""
    return architectures.build(
        cell.architecture,
        shape,
        cell.sizes,
        activation=interpolated.get(cell.activation).apply,
        initializer=functional.get_initializer(cell.initializer).make,
    )


def batch_indices(key: jax.Array, step: jax.Array, *, samples: int, batch_size: int) -> jax.Array:
    """Returns the `(batch_size,)` sample indices of a step.

    Each epoch runs once through a fresh random order, leaving out its last, incomplete batch.

    Args:
      key: the seed's key for batches.
      step: step number, from 0.
      samples: size of the training set, at least `batch_size`.
      batch_size: samples per step.
    """
    steps_per_epoch = samples // batch_size
    position = (step % steps_per_epoch) * batch_size + jnp.arange(batch_size, dtype=jnp.int32)
    return batches.shuffled(jax.random.fold_in(key, step // steps_per_epoch), position, samples)


def _error(
    model: functional.Model, params: functional.Params, x: jax.Array, labels: jax.Array
) -> jax.Array:
    """Returns the error over samples, a slice of them at a time."""

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
    # The update after the last finite loss may have been the one that blew up.
    last = (state.diverged_step == NEVER) & ~jnp.isfinite(train_mse + validation_mse + test_mse)
    seen = model.apply(params, arrays.probe)
    return Observation(
        train_mse=train_mse,
        validation_mse=validation_mse,
        test_mse=test_mse,
        diverged_step=jnp.where(last, step, state.diverged_step),
        latents=seen.latents,
        captured={name: seen.layers[name] for name in capture},
    )


def build_run(cell: Cell, *, shape: Shape, batch_size: int, capture: tuple[str, ...] = ()) -> Run:
    """Builds the run of a cell, closed over what is static.

    Randomness comes from the seed and the step alone (`fold_in` of the seed's key), never from a
    run's place in a batch: a seed has the same initial weights (up to shape) and the same batches
    in every cell.

    Args:
      cell: the static configuration.
      shape: of the data.
      batch_size: samples per step.
      capture: layers that are observed beside the bottleneck.

    Returns:
      The `Run`.
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
