"""Comparisons over seeds, against enumeration and scipy on known data."""

import itertools

import numpy as np
import pytest
import scipy.stats

from ppp_jax.analysis.inference.seeds import false_discovery, paired_difference, sign_flip
from ppp_jax.errors import InputError


@pytest.mark.parametrize("pairs", [6, 9, 12])
def test_sign_flip_is_the_enumeration_of_all_patterns(pairs):
    apart = np.random.default_rng(pairs).normal(0.4, 1, size=pairs)
    signs = np.array(list(itertools.product([1, -1], repeat=pairs)))
    means = (signs * apart).mean(axis=1)
    expected = np.mean(np.abs(means) >= abs(apart.mean()) * (1 - 1e-12))
    np.testing.assert_allclose(sign_flip(apart), expected, rtol=1e-12)


def test_sign_flip_is_scipys_permutation_test():
    apart = np.array([0.3, 0.5, -0.1, 0.8, 0.4, 0.2, 0.9])
    tested = scipy.stats.permutation_test(
        (apart,), np.mean, permutation_type="samples", n_resamples=np.inf, vectorized=True
    )
    np.testing.assert_allclose(sign_flip(apart), tested.pvalue, rtol=1e-12)


def test_sign_flip_of_the_ranks_is_wilcoxons_test():
    """On data whose absolute values are 1, …, n the two are the same exact test."""
    apart = np.array([1.0, -2, 3, 4, 5, -6, 7, 8, 9, 10])
    assert np.isclose(sign_flip(apart), scipy.stats.wilcoxon(apart, method="exact").pvalue)


def test_sign_flip_is_uniform_under_the_null():
    rng = np.random.default_rng(0)
    p = np.array([sign_flip(rng.normal(size=8)) for _ in range(400)])
    assert abs(np.mean(p <= 0.05) - 12 / 256) < 4 * np.sqrt(0.05 * 0.95 / 400)


def test_many_pairs_are_sampled_close_to_the_t_test():
    apart = np.random.default_rng(1).normal(0.35, 1, size=40)
    assert abs(sign_flip(apart) - scipy.stats.ttest_1samp(apart, 0).pvalue) < 0.01
    assert sign_flip(apart) == sign_flip(apart)


def test_fewer_than_six_pairs_claim_nothing():
    found = paired_difference(np.arange(5.0) + 9, np.zeros(5))
    assert np.isnan(found.p)
    assert found.seeds == 5
    assert found.low < found.mean < found.high
    six = paired_difference(np.arange(6.0) + 9, np.zeros(6))
    assert six.p == 2 / 64


def test_paired_difference_cancels_what_seeds_share():
    rng = np.random.default_rng(2)
    shared = 100 * rng.normal(size=12)
    found = paired_difference(shared + 1 + 0.1 * rng.normal(size=12), shared)
    assert found.p == 2 / 4096
    assert 0.9 < found.low < found.mean < found.high < 1.1
    opposite = paired_difference(shared, shared + 1)
    np.testing.assert_allclose(opposite.mean, -1, atol=1e-9)


def test_missing_pairs_are_left_out_and_equal_ones_are_no_difference():
    first, second = np.arange(8.0), np.arange(8.0)
    assert paired_difference(first, second)[:4] == (0, 0, 0, 1)
    first[3] = np.nan
    assert paired_difference(first, second).seeds == 7
    nothing = paired_difference([np.nan], [1.0])
    assert np.isnan(nothing.mean)
    assert nothing.seeds == 0
    with pytest.raises(InputError, match="second"):
        paired_difference([1.0, 2.0], [1.0])


def test_paired_intervals_cover():
    rng = np.random.default_rng(5)
    hits = 0
    for _ in range(200):
        found = paired_difference(rng.normal(0.5, 1, size=16), np.zeros(16))
        hits += found.low < 0.5 < found.high
    assert 0.87 < hits / 200 < 0.99


def test_false_discovery_is_benjamini_and_hochbergs():
    p = np.array([[0.01, np.nan], [0.04, 0.03]])
    # Sorted .01, .03, .04 of three: .01·3/1, min(.03·3/2, .04), .04.
    np.testing.assert_allclose(false_discovery(p), [[0.03, np.nan], [0.04, 0.04]])
    assert np.isnan(false_discovery([np.nan])).all()
