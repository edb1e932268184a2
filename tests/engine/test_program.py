"""The grid as one program ≡ a plain Python loop of single runs."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ppp_jax.data import datasets
from ppp_jax.engine import program
from ppp_jax.engine.training import NEVER, batch_indices, build_model
from ppp_jax.grid import Grid
from ppp_jax.networks import optimizers

STEPS = 20


@pytest.fixture(scope="module")
def dataset():
    full = datasets.load("digits")
    return full._replace(train=full.train[:100], held_out=full.held_out[:30])


def grid(**changes):
    settings = {
        "activations": ["tanh", "isotropic_tanh"],
        "widths": [6],
        "latent_widths": [3],
        "seeds": [0, 5],
        "batch_size": 24,
        "probe_samples": 50,
    }
    return Grid(**(settings | changes))


def train(built, chunks=(STEPS,)):
    """Returns the states after all chunks, the losses of the last and the number of steps."""
    states = built.init(built.hypers)
    first = 0
    for steps in chunks:
        states, losses = built.chunk(
            states, built.hypers, built.arrays, jnp.int32(first), jnp.int32(steps)
        )
        first += steps
    return states, losses, first


def observed(built, chunks=(STEPS,)):
    """Returns the states after all chunks, the losses of the last and what is then observed."""
    states, losses, steps = train(built, chunks)
    return states, losses, built.observe(states, built.arrays, jnp.int32(steps))


def run(grid, dataset):
    return observed(program.build(grid, dataset, seed_batch=2))


def states_of(grid, dataset):
    states, _, _ = train(program.build(grid, dataset, seed_batch=2))
    return states


def loop_of_one(cell, dataset):
    """Returns `(seed, rate) -> (params, mean loss)`: a Python loop over the steps of one network.

    Nothing of the program is used.
    """
    model = build_model(cell, dataset.shape)
    make, init = optimizers.get(cell.optimizer).make, jax.jit(model.init)

    @jax.jit
    def step(params, state, key, rate, t):
        chosen = batch_indices(
            jax.random.fold_in(key, 1), t, samples=len(dataset.train), batch_size=24
        )
        batch = jnp.asarray(dataset.train)[chosen]

        def mse(params):
            return jnp.mean((model.apply(params, batch).prediction - batch) ** 2)

        loss, gradient = jax.value_and_grad(mse)(params)
        with jax.numpy_dtype_promotion("standard"):
            updates, state = make(rate).update(gradient, state, params)
        return optax.apply_updates(params, updates), state, loss

    def train(seed, rate):
        key, rate = jax.random.key(seed), jnp.float32(rate)
        params = init(jax.random.fold_in(key, 0))
        state, losses = make(rate).init(params), []
        for t in range(STEPS):
            params, state, loss = step(params, state, key, rate, jnp.int32(t))
            losses.append(float(loss))
        return params, np.mean(losses)

    return train


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", sorted(optimizers.OPTIMIZERS))
def test_grid_equals_a_loop_of_single_runs(dataset, optimizer):
    rates, activations = [0.01, 0.02], ["tanh", "isotropic_tanh"]
    some = activations if optimizer == "adam" else activations[1:]
    swept = grid(optimizers=[optimizer], learning_rates=rates, activations=some)
    states, losses, seen = run(swept, dataset)
    for cell in swept.cells:
        alone, look = loop_of_one(cell, dataset), jax.jit(build_model(cell, dataset.shape).apply)
        for i, (rate, seed) in enumerate([(r, s) for r in rates for s in swept.seeds]):
            params, loss = alone(seed, rate)
            mine = jax.tree.map(lambda leaf, i=i: leaf[i], states[cell.name].params)
            jax.tree.map(
                lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), mine, params
            )
            np.testing.assert_allclose(losses[cell.name][i], loss, rtol=1e-4)
            output = look(params, dataset.test)
            error = np.mean((output.prediction - dataset.test) ** 2)
            np.testing.assert_allclose(seen[cell.name].test_mse[i], error, rtol=1e-4)
            probe = look(params, dataset.train[:50]).latents
            for a, b in zip(seen[cell.name].latents, probe, strict=True):
                np.testing.assert_allclose(a[i], b, rtol=1e-3, atol=1e-4)


def test_seeds_are_paired_across_cells(dataset):
    """Same initial weights (up to shape) and the same batches in every cell."""
    swept = grid(optimizers=["sgd", "adam"], depths=[1, 2])
    built = program.build(swept, dataset, seed_batch=2)
    states = built.init(built.hypers)
    by_depth = {}
    for cell in swept.cells:
        by_depth.setdefault(cell.depth, []).append(states[cell.name].params)
    for same_shape in by_depth.values():
        for params in same_shape[1:]:
            jax.tree.map(np.testing.assert_array_equal, same_shape[0], params)
    first = by_depth[1][0]["encoder_0"]["kernel"]
    np.testing.assert_array_equal(first, by_depth[2][0]["encoder_0"]["kernel"])
    assert not np.array_equal(first[0], first[1])


def test_a_seed_does_not_depend_on_its_company(dataset):
    """To rounding here: another number of seeds compiles to other code."""
    alone = states_of(grid(seeds=[5], activations=["tanh"]), dataset)
    among = states_of(grid(seeds=[3, 5, 8]), dataset)
    (name,) = alone
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a[0], b[1], rtol=1e-4, atol=1e-6),
        alone[name].params,
        among[name].params,
    )


def test_chunking_changes_nothing(dataset):
    built = program.build(grid(), dataset, seed_batch=2)
    whole, _, _ = train(built)
    cut, _, _ = train(built, (1, 7, 12))
    jax.tree.map(np.testing.assert_array_equal, whole, cut)


def test_one_trace_and_one_compilation_for_all_chunks(dataset, monkeypatch):
    traces, compilations = [], []
    build_run = program.build_run

    def counted(cell, **options):
        run = build_run(cell, **options)

        def update(*args):
            traces.append(cell.name)
            return run.update(*args)

        return run._replace(update=update)

    monkeypatch.setattr(program, "build_run", counted)
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, *_, **__: compilations.append(event) if "backend_compile" in event else None
    )
    built = program.build(grid(), dataset, seed_batch=2)
    states = built.init(built.hypers)
    arguments = built.hypers, built.arrays
    steps = [jnp.int32(n) for n in (0, 7, 20, 3)]
    states, _ = built.chunk(states, *arguments, steps[0], steps[1])
    traced, compiled = len(traces), len(compilations)
    assert traced >= len(built.hypers)
    assert compiled > 0
    states, _ = built.chunk(states, *arguments, steps[1], steps[2])
    built.chunk(states, *arguments, steps[2], steps[3])
    assert (len(traces), len(compilations)) == (traced, compiled)


def test_divergence_is_marked_with_its_step_and_disturbs_no_one(dataset):
    calm, wild = 1e-2, 1e12
    both, losses, seen = run(
        grid(activations=["relu"], optimizers=["sgd"], learning_rates=[calm, wild]), dataset
    )
    alone = states_of(
        grid(activations=["relu"], optimizers=["sgd"], learning_rates=[calm]), dataset
    )
    (name,) = both
    step = np.asarray(seen[name].diverged_step)
    np.testing.assert_array_equal(step[:2], NEVER)
    assert ((step[2:] > 0) & (step[2:] < STEPS)).all()
    assert np.isfinite(losses[name][:2]).all()
    assert not np.isfinite(losses[name][2:]).any()
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a[:2], b, rtol=1e-4, atol=1e-6),
        both[name].params,
        alone[name].params,
    )


def test_diverged_step_is_the_first_step_without_a_finite_loss(dataset):
    swept = grid(activations=["relu"], optimizers=["sgd"], learning_rates=[1e12], seeds=[0])
    built = program.build(swept, dataset, seed_batch=2)
    _, _, seen = observed(built)
    (name,) = seen
    step = int(seen[name].diverged_step[0])
    _, before, _ = train(built, (step,))
    _, after, _ = train(built, (step, 1))
    assert np.isfinite(before[name][0])
    assert not np.isfinite(after[name][0])


def test_a_run_that_blows_up_in_its_last_update_has_diverged(dataset):
    """The last loss was finite; what the update left is not."""
    swept = grid(activations=["relu"], optimizers=["sgd"], learning_rates=[1e12], seeds=[0])
    built = program.build(swept, dataset, seed_batch=2)
    _, _, seen = observed(built)
    (name,) = seen
    step = int(seen[name].diverged_step[0])
    _, losses, seen = observed(built, (step,))
    assert np.isfinite(losses[name][0])
    assert not np.isfinite(seen[name].train_mse[0])
    assert seen[name].diverged_step[0] == step


def test_states_are_donated(dataset):
    built = program.build(grid(), dataset, seed_batch=2)
    states = built.init(built.hypers)
    built.chunk(states, built.hypers, built.arrays, jnp.int32(0), jnp.int32(1))
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(states))


def test_states_are_trained_in_place(dataset):
    """Temporary memory is that of a batch, however many runs are trained after each other."""
    mesh = program.devices.runs_mesh(over=jax.devices()[:1])

    def temporary(runs):
        one = grid(activations=["tanh"], optimizers=["adam"], seeds=range(runs))
        built = program.build(one, dataset, seed_batch=2, mesh=mesh)
        states, number = program.abstract_states(built), np.int32(0)
        lowered = built.chunk.lower(states, built.hypers, built.arrays, number, number)
        held = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(states))
        return lowered.compile().memory_analysis().temp_size_in_bytes, held

    (few, states), (many, _) = temporary(4), temporary(64)
    assert many - few < states
