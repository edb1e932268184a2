"""Summaries over seeds, with intervals. Seeds are the unit of replication, never samples."""

import functools
import math
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import scipy  # its parts are imported when they are first used
from numpy.typing import ArrayLike

from ppp_jax.analysis.io.sources import numbers
from ppp_jax.errors import InputError, real, seeded, whole

RESAMPLES = 2000
LEVEL = 0.05
ROUNDING = 1e-12  # differences below this fraction of the values are no differences
BOOTSTRAP_SEED = 0
MIN_SEEDS = 6  # with fewer, no two-sided sign-flip p-value is below 5 %
EXACT_SEEDS = 16
MOST_NEEDED = 20  # seeds, beyond which the smallest p-value does not fall
RANDOM_PATTERNS = 2**16 - 1
REPEATING_SEEDS = 40  # up to which some random pattern may be the observed one


def interquartile_mean(values: ArrayLike) -> float:
    """Returns the mean of the middle half of `values` (Agarwal et al. 2021, "Deep RL at the edge").

    A quarter of the values, rounded down, is cut from either end; what is not finite is left out
    beforehand.

    Args:
      values: The numbers, of any shape, which are pooled.

    Returns:
      The mean, or NaN of no values.

    Example:
      >>> interquartile_mean([1, 2, 3, 100])
      2.5
    """
    present = _present(values, field="values")
    return float(scipy.stats.trim_mean(present, 0.25)) if len(present) else float("nan")


def bootstrap_interval(
    values: ArrayLike, *, confidence: float = 0.95, bootstrap_seed: int = BOOTSTRAP_SEED
) -> tuple[float, float]:
    """Returns the BCa bootstrap interval of the interquartile mean (Efron 1987).

    Args:
      values: One number per seed; what is not finite is left out.
      confidence: The nominal coverage, in (0, 1).
      bootstrap_seed: Seed of the 2,000 resamples.

    Returns:
      `(low, high)`; NaN for fewer than two values, of which nothing can be said.

    Raises:
      InputError: `confidence` lies outside (0, 1).

    Example:
      >>> low, high = bootstrap_interval([1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
      >>> bool(low < 3.5 < high)
      True
    """
    return _bca(
        _present(values, field="values"),
        lambda x, axis: scipy.stats.trim_mean(x, 0.25, axis=axis),
        confidence,
        bootstrap_seed,
    )


class Difference(NamedTuple):
    """A paired comparison.

    Attributes:
      mean: The mean of the differences.
      low: The lower end of its 95 % interval: the differences that the sign-flip test does not
        reject at 5 %. It leaves 0 out exactly where `p` is at most .05.
      high: The upper end of the interval.
      p: The two-sided sign-flip p-value; it and the interval are NaN of fewer than 6 pairs, of
        which no test reaches 5 %.
      seeds: The number of pairs.
    """

    mean: float
    low: float
    high: float
    p: float
    seeds: int

    def row(self) -> dict[str, float]:
        """Returns it as the columns that every table of differences has."""
        return {
            "difference": self.mean,
            "low": self.low,
            "high": self.high,
            "p": self.p,
            "seeds": self.seeds,
        }


def paired_difference(
    first: ArrayLike, second: ArrayLike, *, bootstrap_seed: int = BOOTSTRAP_SEED
) -> Difference:
    """Compares two conditions that share their seeds.

    If the two were exchangeable within each seed, the sign of each difference would be a coin
    toss: p is the fraction of all sign patterns whose mean difference is at least as far from 0.
    Exact up to 16 pairs; of more, the observed and 65,535 random patterns. The interval holds all
    shifts of the differences that this test does not reject (`sign_flip_interval`).

    Args:
      first: One number per seed.
      second: The same seeds under the other condition; pairs that are not finite are left out.
      bootstrap_seed: Seed of the random patterns, which more than 16 pairs need.

    Returns:
      The `Difference` first − second.

    Raises:
      InputError: The two are not of equal length.

    Example:
      >>> found = paired_difference([2.0, 3, 4, 5, 6, 7], [1.0, 1, 1, 1, 1, 1])
      >>> found.mean, found.p  # 2 of 64 sign patterns are as extreme
      (3.5, 0.03125)
    """
    pair = numbers("first", first).ravel(), numbers("second", second).ravel()
    seeded(bootstrap_seed, field="bootstrap_seed")
    if len(pair[0]) != len(pair[1]):
        problem = f"has {len(pair[1])} values, the first {len(pair[0])}; one per seed each"
        raise InputError("second", f"array of {len(pair[1])}", problem)
    apart = _present(pair[0] - pair[1])
    if not len(apart):
        return Difference(np.nan, np.nan, np.nan, np.nan, 0)
    interval = sign_flip_interval(apart, bootstrap_seed=bootstrap_seed)
    return Difference(
        float(apart.mean()), *interval, sign_flip(apart, bootstrap_seed=bootstrap_seed), len(apart)
    )


def sign_flip(differences: ArrayLike, *, bootstrap_seed: int = BOOTSTRAP_SEED) -> float:
    """Returns the two-sided p-value of a mean of 0, by flipping signs.

    Args:
      differences: One number per seed; what is not finite is left out.
      bootstrap_seed: Seed of the random patterns, which more than 16 differences need.

    Returns:
      p, or NaN of fewer than 6 differences, whose smallest possible p-value exceeds 5 %.
    """
    apart = _present(differences, field="differences")
    seeded(bootstrap_seed, field="bootstrap_seed")
    if len(apart) < MIN_SEEDS:
        return float("nan")
    observed = abs(apart.sum())
    slack = ROUNDING * np.abs(apart).sum()  # equal sums, added up in another order
    return float(np.mean(np.abs(_patterns(len(apart), bootstrap_seed) @ apart) >= observed - slack))


def sign_flip_interval(
    differences: ArrayLike, *, bootstrap_seed: int = BOOTSTRAP_SEED
) -> tuple[float, float]:
    """Returns the 95 % interval of a mean: the shifts that `sign_flip` does not reject at 5 %.

    A pattern that flips a set of differences is as extreme as the observed one, once all are
    shifted by δ below their mean, if the mean of that set or of the others is at most δ: so the
    ends are order statistics of such means (Hartigan 1969, "Using subsample values as typical
    values"). Of differences whose law is symmetric, it covers their centre in 95 % or more.

    Args:
      differences: One number per seed; what is not finite is left out.
      bootstrap_seed: Seed of the random patterns, which more than 16 differences need.

    Returns:
      `(low, high)`; NaN of fewer than 6 differences.

    Example:
      >>> sign_flip_interval([1.0, 2.0, 3.0, 4.0, 5.0, 7.0])  # of 6, their range
      (1.0, 7.0)
    """
    apart = _present(differences, field="differences")
    seeded(bootstrap_seed, field="bootstrap_seed")
    if len(apart) < MIN_SEEDS:
        return float("nan"), float("nan")
    patterns = _patterns(len(apart), bootstrap_seed)
    kept = (patterns.sum(axis=1) + len(apart)) / 2
    some = (kept > 0) & (kept < len(apart))
    total, signed, kept = apart.sum(), (patterns @ apart)[some], kept[some]
    means = (total + signed) / kept / 2, (total - signed) / (len(apart) - kept) / 2
    # Patterns that flip none or all of them are as extreme as the observed one at every shift.
    place = math.floor(LEVEL * len(some)) - int(np.count_nonzero(~some))
    low = np.partition(np.minimum(*means), place)[place]
    high = -np.partition(-np.maximum(*means), place)[place]
    slack = ROUNDING * np.abs(apart).mean()
    ends = np.where(np.abs([low, high]) <= slack, 0.0, [low, high])
    return float(ends[0]), float(ends[1])


def combined_rank(ranks: ArrayLike, places: ArrayLike) -> float:
    """Returns the two-sided p-value of several networks' ranks together, exactly.

    Under the null the rank of each observed value among its own rotated ones is uniform, and the
    networks' ranks are independent: so the law of their sum is a convolution of uniform ones
    (Irwin–Hall, on as many places as there are values). It asks whether these networks prefer the
    basis, and has no smallest number of networks; whether that generalises over seeds is asked by
    `sign_flip`.

    Args:
      ranks: The rank of each network, from −½ (its value is the smallest) to ½; what is not finite
        is left out.
      places: The number of values among which each has its rank.

    Returns:
      p, or NaN of no ranks.

    Raises:
      InputError: The two differ in length.

    Example:
      >>> round(combined_rank([0.4, 0.3, 0.45], [100, 100, 100]), 4)
      0.0143
    """
    rank, count = numbers("ranks", ranks, dimensions=1), numbers("places", places, dimensions=1)
    if len(rank) != len(count):
        raise InputError("places", f"{len(count)} values", f"must be {len(rank)}, one per rank")
    there = np.isfinite(rank) & np.isfinite(count)
    if not there.any():
        return float("nan")
    steps = rank[there] * count[there]
    law = _sum_of_ranks(tuple(sorted(count[there].astype(int).tolist())))
    far = np.abs(np.arange(len(law)) - (len(law) - 1) / 2) >= abs(steps.sum()) - 1e-6
    return float(min(law[far].sum(), 1.0))


@functools.lru_cache(maxsize=64)
def _sum_of_ranks(places: tuple[int, ...]) -> np.ndarray:
    """Returns the law of the sum of independent ranks, each uniform on its own places."""
    law = np.ones(1)
    for count in places:
        # A convolution with a uniform law is a difference of running sums.
        total = np.cumsum(np.concatenate([law, np.zeros(count - 1)]))
        law = (total - np.concatenate([np.zeros(count), total])[: len(total)]) / count
    return law


def smallest_p(seeds: int) -> float:
    """Returns the smallest p-value that `sign_flip` can give.

    Example:
      >>> smallest_p(8)
      0.0078125
    """
    whole("seeds", seeds, least=1, most=2**63 - 1)
    if seeds <= EXACT_SEEDS:
        return 2 / 2**seeds
    if seeds > REPEATING_SEEDS:
        return 1 / (RANDOM_PATTERNS + 1)
    # Of few more seeds, random patterns may repeat the observed one, or its opposite.
    alike = np.abs(_patterns(seeds, BOOTSTRAP_SEED).sum(axis=1)) == seeds
    return float(np.mean(alike))


def seeds_needed(tests: int) -> int | None:
    """Returns how many seeds let `sign_flip` call one of a family of tests at q ≤ 5 %.

    Args:
      tests: The number of tests in the family.

    Returns:
      The smallest number of seeds at which the smallest p-value, times the number of tests, is at
      most .05; None if there is no such number.

    Example:
      >>> seeds_needed(1), seeds_needed(24)
      (6, 10)
    """
    whole("tests", tests, least=1)
    enough = (s for s in range(1, MOST_NEEDED + 1) if tests * smallest_p(s) <= LEVEL)
    return next(enough, None)


def attainable(p: ArrayLike, seeds: ArrayLike) -> np.ndarray:
    """Returns the smallest q-value that each of a family of sign-flip tests could have had.

    That is the q it would have at the smallest p-value of its seeds, with all other p-values as
    they are. Where it exceeds 5 %, the number of seeds decides, and not the data.

    Args:
      p: The p-values of one family of tests, of any shape; what is missing is no test, unless it
        has seeds.
      seeds: The number of seeds of each test, of the same shape.

    Returns:
      q of the same shape; NaN where there are no seeds.

    Raises:
      InputError: `p` are no p-values, or the two differ in shape.

    Example:
      >>> attainable([0.03125, 0.9], [6, 6]).tolist()  # the first helps the second
      [0.0625, 0.03125]
    """
    values, count = numbers("p", p), numbers("seeds", seeds)
    if values.shape != count.shape:
        raise InputError(
            "seeds", f"array {count.shape}", f"must have the shape {values.shape} of p"
        )
    least = [smallest_p(int(several)) if several >= 1 else np.nan for several in count.ravel()]
    return attainable_from(values.ravel(), np.array(least)).reshape(values.shape)


def attainable_from(p: np.ndarray, least: np.ndarray) -> np.ndarray:
    """Returns the q-value that each of a family of tests would have at its smallest p-value.

    All other p-values are as they are.

    Args:
      p: The p-values of one family, `(tests,)`.
      least: The smallest p-value that each test can have, `(tests,)`; NaN where there is no test.

    Returns:
      q, `(tests,)`; NaN where there is no test.
    """
    found = np.full(len(p), np.nan)
    for k in np.flatnonzero(np.isfinite(least)):
        others = p.copy()
        others[k] = least[k]
        found[k] = false_discovery(others)[k]
    return found


@functools.lru_cache(maxsize=8)
def _patterns(count: int, bootstrap_seed: int) -> np.ndarray:
    """Returns patterns of signs, `(patterns, count)`: all, or the observed and random ones."""
    if count <= EXACT_SEEDS:
        # Half of the patterns: the other half are their opposites.
        numbers = np.arange(2 ** (count - 1))
        return 1 - 2.0 * (numbers[:, None] >> np.arange(count) & 1)
    drawn = np.random.default_rng(bootstrap_seed).choice([-1.0, 1.0], (RANDOM_PATTERNS, count))
    return np.concatenate([np.ones((1, count)), drawn])


def false_discovery(p: ArrayLike) -> np.ndarray:
    """Returns q-values that control the false discovery rate (Benjamini and Hochberg 1995).

    Args:
      p: The p-values of one family of tests, of any shape; what is missing is no test.

    Returns:
      q of the same shape: calling those up to 5 % keeps the expected fraction of false ones among
      them below 5 %.

    Raises:
      InputError: Some numbers are no p-values.

    Example:
      >>> false_discovery([0.01, 0.02, 0.5, np.nan]).round(2).tolist()
      [0.03, 0.03, 0.5, nan]
    """
    values = numbers("p", p)
    there = np.isfinite(values)
    if ((values[there] < 0) | (values[there] > 1)).any():
        raise InputError("p", f"array {values.shape}", "must lie in [0, 1]")
    adjusted = np.full(values.shape, np.nan)
    if there.any():
        adjusted[there] = scipy.stats.false_discovery_control(values[there])
    return adjusted


def _bca(
    values: np.ndarray, statistic: Callable[..., Any], confidence: float, bootstrap_seed: int
) -> tuple[float, float]:
    seeded(bootstrap_seed, field="bootstrap_seed")
    if not 0 < real("confidence", confidence) < 1:
        raise InputError("confidence", confidence, "must lie between 0 and 1")
    if len(values) < 2:
        return float("nan"), float("nan")
    if np.ptp(values) == 0:  # BCa divides by the spread
        return float(values[0]), float(values[0])
    with warnings.catch_warnings():
        # Of few values BCa may be degenerate: then the percentile interval stands.
        warnings.simplefilter("ignore", scipy.stats.DegenerateDataWarning)
        warnings.simplefilter("ignore", RuntimeWarning)
        for method in ("BCa", "percentile"):
            drawn = scipy.stats.bootstrap(
                (values,),
                statistic,
                n_resamples=RESAMPLES,
                confidence_level=confidence,
                method=method,
                rng=np.random.default_rng(bootstrap_seed),
            )
            low, high = drawn.confidence_interval
            if np.isfinite([low, high]).all():
                break
    return float(low), float(high)


def _present(values: ArrayLike, *, field: str = "values") -> np.ndarray:
    flat = numbers(field, values).ravel()
    return flat[np.isfinite(flat)]
