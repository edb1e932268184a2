import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from ppp_jax.engine.batches import shuffled
from ppp_jax.engine.training import batch_indices


@pytest.mark.slow
@settings(max_examples=15)
@given(size=st.integers(1, 400), seed=st.integers(0, 2**31 - 1))
def test_an_order_is_a_permutation(size, seed):
    order = shuffled(jax.random.key(seed), jnp.arange(size), size)
    np.testing.assert_array_equal(np.sort(order), np.arange(size))


def test_a_large_order_is_a_permutation():
    order = jax.jit(lambda key: shuffled(key, jnp.arange(60_000), 60_000))(jax.random.key(0))
    np.testing.assert_array_equal(np.sort(order), np.arange(60_000))


def orders(size, draws):
    keys = jax.random.split(jax.random.key(7), draws)
    return np.asarray(jax.jit(jax.vmap(lambda k: shuffled(k, jnp.arange(size), size)))(keys))


def test_every_permutation_of_four_is_equally_likely():
    _, counts = np.unique(orders(4, 24_000), axis=0, return_counts=True)
    assert len(counts) == 24
    assert scipy.stats.chisquare(counts).pvalue > 1e-3


@pytest.mark.parametrize("size", [24, 37])
def test_pairs_of_places_are_uniform(size):
    """χ² of where elements a, b land together: sensitive to too few Feistel rounds."""
    drawn = orders(size, 40_000)
    for a, b in [(0, 1), (3, 17), (size - 2, size - 1)]:
        places = drawn[:, a] * size + drawn[:, b]
        counts = np.bincount(places, minlength=size * size).reshape(size, size)
        off_diagonal = counts[~np.eye(size, dtype=bool)]
        assert np.trace(counts) == 0
        assert scipy.stats.chisquare(off_diagonal).pvalue > 1e-3


def test_an_epoch_uses_each_sample_at_most_once_and_epochs_differ():
    samples, batch_size = 50, 8
    key = jax.random.key(1)
    batch = jax.jit(lambda t: batch_indices(key, t, samples=samples, batch_size=batch_size))
    steps = [batch(jnp.int32(t)) for t in range(12)]
    first, second = np.concatenate(steps[:6]), np.concatenate(steps[6:])
    assert len(set(first.tolist())) == 48
    assert len(set(second.tolist())) == 48
    assert not np.array_equal(first, second)
