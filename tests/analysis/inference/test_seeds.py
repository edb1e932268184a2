"""Comparisons over seeds, against enumeration and scipy on known data."""

import itertools

import numpy as np
import pytest
import scipy.stats

from ppp_jax.analysis.inference.seeds import (
    attainable,
    false_discovery,
    paired_difference,
    seeds_needed,
    sign_flip,
    sign_flip_interval,
    smallest_p,
)
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
    for pairs in range(1, 6):
        found = paired_difference(np.arange(pairs) + 9.0, np.zeros(pairs))
        assert np.isnan([found.p, found.low, found.high]).all()
        assert (found.mean, found.seeds) == (8.5 + pairs / 2, pairs)
    six = paired_difference(np.arange(6.0) + 9, np.zeros(6))
    assert (six.p, six.low, six.high) == (2 / 64, 9, 14)


def vectors():
    """Differences of 6 to 20 seeds: real numbers, whole ones with ties and zeros, few values."""
    rng = np.random.default_rng(11)
    for count in [*range(6, 14), 16, 17, 20]:
        for _ in range(30 if count < 14 else 3):
            at = rng.normal(0, 0.6)
            yield rng.normal(at, 1, count)
            yield rng.integers(-2, 5, count).astype(float)
            yield 0.1 * rng.integers(-1, 3, count)
            yield rng.standard_cauchy(count) + at


def test_an_interval_leaves_0_out_exactly_where_the_p_beside_it_says_so():
    seen = set()
    for apart in vectors():
        (low, high), p = sign_flip_interval(apart), sign_flip(apart)
        assert (low <= 0 <= high) == (p > 0.05), (apart, low, high, p)
        assert low <= apart.mean() <= high
        seen.add(bool(p > 0.05))
    assert seen == {True, False}


@pytest.mark.parametrize("count", [6, 7, 9, 12])
def test_an_interval_holds_the_shifts_that_the_test_does_not_reject(count):
    """By inversion: the test rejects just outside each end, and not just inside."""
    rng = np.random.default_rng(count)
    for apart in (rng.normal(1, 1, count), rng.integers(-3, 9, count).astype(float)):
        low, high = sign_flip_interval(apart)
        if low < high:
            assert sign_flip(apart - low - 1e-6) > 0.05
            assert sign_flip(apart - high + 1e-6) > 0.05
        assert sign_flip(apart - low + 1e-6) <= 0.05
        assert sign_flip(apart - high - 1e-6) <= 0.05


@pytest.mark.parametrize("draw", ["normal", "standard_cauchy", "laplace"])
@pytest.mark.parametrize("count", [6, 8, 11])
def test_intervals_cover_the_centre_of_any_symmetric_law(draw, count):
    """In 1 − 2·⌊.05·2^(S−1)⌋/2^S of cases: 62/64, 244/256 and 1946/2048 or more."""
    rng = np.random.default_rng(5)
    drawn = [getattr(rng, draw)(size=count) + 0.5 for _ in range(400)]
    ends = np.array([sign_flip_interval(one) for one in drawn])
    covered = np.mean((ends[:, 0] <= 0.5) & (ends[:, 1] >= 0.5))
    exact = 1 - 2 * np.floor(0.05 * 2 ** (count - 1)) / 2**count
    assert abs(covered - exact) < 4 * np.sqrt(0.05 * 0.95 / 400)


def test_an_interval_moves_and_turns_with_the_differences():
    apart = np.random.default_rng(3).normal(size=9)
    low, high = sign_flip_interval(apart)
    np.testing.assert_allclose(sign_flip_interval(3 * apart + 5), (3 * low + 5, 3 * high + 5))
    np.testing.assert_allclose(sign_flip_interval(-apart), (-high, -low))
    assert sign_flip_interval([*apart, np.nan]) == (low, high)
    assert np.isnan(sign_flip_interval(apart[:5])).all()
    assert sign_flip_interval(np.zeros(8)) == (0, 0)


def test_so_many_seeds_are_needed_as_make_the_smallest_p_small_enough():
    for tests in (1, 2, 3, 24, 100, 800):
        need = seeds_needed(tests)
        assert tests * smallest_p(need) <= 0.05 < tests * smallest_p(need - 1)
        alone = np.ones(tests)  # one test at its smallest p, all others without effect
        alone[0] = smallest_p(need)
        assert false_discovery(alone)[0] <= 0.05
    assert seeds_needed(3277) is None  # even 65,535 random patterns are too few
    assert seeds_needed(3276) == 18  # of 17, random patterns repeat the observed one


def test_what_so_many_seeds_allow_is_the_q_of_the_smallest_p():
    """Against Benjamini and Hochberg's minimum, number by number."""
    rng = np.random.default_rng(7)
    for _ in range(30):
        p, seeds = rng.uniform(size=6) ** 3, rng.integers(0, 12, 6)
        p[seeds < 6] = np.nan
        found = attainable(p.reshape(2, 3), seeds.reshape(2, 3)).ravel()
        for k, several in enumerate(seeds):
            if not several:
                assert np.isnan(found[k])
                continue
            own = 2 / 2.0**several
            others = np.sort([*np.delete(p, k)[np.isfinite(np.delete(p, k))], own])
            ranked = [len(others) * one / (place + 1) for place, one in enumerate(others)]
            expected = min(1, min(q for q, one in zip(ranked, others, strict=True) if one >= own))
            np.testing.assert_allclose(found[k], expected)
        q = false_discovery(p)
        exact = (seeds >= 6) & (p >= 2 / 2.0**seeds)
        assert (found[exact] <= q[exact] + 1e-12).all()


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


def test_false_discovery_is_benjamini_and_hochbergs():
    p = np.array([[0.01, np.nan], [0.04, 0.03]])
    # Sorted .01, .03, .04 of three: .01·3/1, min(.03·3/2, .04), .04.
    np.testing.assert_allclose(false_discovery(p), [[0.03, np.nan], [0.04, 0.04]])
    assert np.isnan(false_discovery([np.nan])).all()
