"""Ways to train many small autoencoders with JAX."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.benchmarks.task import BATCH, LEARNING_RATE, Size, Train, samples
from ppp_jax.cli import runtime
from ppp_jax.data.datasets import Dataset
from ppp_jax.engine import program
from ppp_jax.grid import Grid
from ppp_jax.sweep import seed_batches


def ours(size: Size, seeds: int) -> Train:
    """Returns the training by ppp_jax on all cores, with a sweep's choice of seed batch."""
    runtime.use_all_cores()
    built = our_program(size, seeds)
    states = built.init(built.hypers)

    def train(steps: int) -> None:
        nonlocal states
        states, _ = built.chunk(states, built.hypers, built.arrays, np.int32(0), np.int32(steps))
        jax.block_until_ready(states)

    return train


def our_program(size: Size, seeds: int, *, timed: bool = True) -> program.Program:
    """Returns the task's program.

    Args:
      size: of the networks.
      seeds: how many there are.
      timed: the seed batch may be chosen by timing, or by compiling for nothing else.
    """
    grid, dataset = our_grid(size, seeds), our_data(size)
    widths = seed_batches.seed_batches(grid, dataset, recorded={}, steps=10**5, timed=timed)
    return program.build(grid, dataset, seed_batch=widths)


def our_grid(size: Size, seeds: int, *, epochs: int = 1) -> Grid:
    """Returns the task as a grid of one cell."""
    return Grid(
        activations=["tanh"],
        widths=[size.width],
        latent_widths=[size.latent],
        seeds=range(seeds),
        batch_size=BATCH,
        learning_rates=[LEARNING_RATE],
        epochs=epochs,
        snapshots=[epochs],
        probe_samples=1,
    )


def our_data(size: Size) -> Dataset:
    """Returns the task's data."""
    x = samples(size.features)
    return Dataset("benchmark", x, x[:2], None, None, "")  # one validation and one test sample


def vmap_scan(size: Size, seeds: int) -> Train:
    """Returns the training by a plain jit(vmap(scan)) on one device with all its threads."""
    x, (init, step) = jnp.asarray(samples(size.features)), _plain(size)

    def run(state: Any, key: jax.Array, steps: int) -> Any:
        def body(carry: Any, key: jax.Array) -> tuple[Any, jax.Array]:
            chosen = jax.random.randint(key, (BATCH,), 0, len(x))
            return step(carry, x[chosen])

        return jax.lax.scan(body, state, jax.random.split(key, steps))[0]

    train_all = jax.jit(jax.vmap(run, in_axes=(0, 0, None)), static_argnums=2, donate_argnums=0)
    keys = jax.random.split(jax.random.key(0), seeds)
    states = jax.jit(jax.vmap(init))(keys)

    def train(steps: int) -> None:
        nonlocal states
        states = train_all(states, keys, steps)
        jax.block_until_ready(states)

    return train


def jitted_steps(size: Size, seeds: int) -> Train:
    """Returns the training by a Python loop over a jitted step.

    One model is trained, because every model takes the same time.
    """
    del seeds
    x, (init, step) = jnp.asarray(samples(size.features)), _plain(size)
    jitted = jax.jit(lambda state, chosen: step(state, x[chosen]), donate_argnums=0)
    rng = np.random.default_rng(0)
    state = init(jax.random.key(0))

    def train(steps: int) -> None:
        nonlocal state
        for _ in range(steps):
            state, _ = jitted(state, rng.integers(0, len(x), BATCH))
        jax.block_until_ready(state)

    return train


def _plain(size: Size) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """Returns `init(key)` and `step(state, batch)` of one autoencoder, without optimisations."""
    widths = [size.features, size.width, size.latent, size.width, size.features]
    adam, draw = optax.adam(LEARNING_RATE), jax.nn.initializers.glorot_normal()

    def init(key: jax.Array) -> Any:
        keys = jax.random.split(key, len(widths) - 1)
        pairs = zip(keys, widths[:-1], widths[1:], strict=True)
        params = [(draw(k, (a, b)), jnp.zeros(b)) for k, a, b in pairs]
        return params, adam.init(params)

    def loss(params: Any, batch: jax.Array) -> jax.Array:
        h = batch
        for i, (kernel, bias) in enumerate(params):
            h = h @ kernel + bias
            h = jnp.tanh(h) if i < len(params) - 1 else h
        return jnp.mean(jnp.square(h - batch))

    def step(state: Any, batch: jax.Array) -> tuple[Any, jax.Array]:
        params, moments = state
        value, gradient = jax.value_and_grad(loss)(params, batch)
        updates, moments = adam.update(gradient, moments)
        return (optax.apply_updates(params, updates), moments), value

    return init, step


SIDES = {"ours": ours, "vmap_scan": vmap_scan, "jitted_steps": jitted_steps}
