"""What a representation is good for: probes, noise, rounding."""

from typing import Any

import numpy as np

from ppp_jax.analysis.compare import bootstrap_interval
from ppp_jax.errors import InputError, whole


def quantise(latents: Any, *, bits: int) -> np.ndarray:
    """Rounds every unit to 2^bits equally spaced levels between its least and largest value.

    Args:
      latents: `(..., samples, units)`.
      bits: of each number, at least 1.

    Returns:
      Array of the same shape; a unit that does not vary is kept.

    Raises:
      InputError: fewer than 1 bit.

    Example:
      >>> quantise([[0.0], [0.4], [1.0]], bits=1).ravel().tolist()
      [0.0, 0.0, 1.0]
    """
    levels = 2 ** whole("bits", bits, least=1) - 1
    x = np.asarray(latents)
    low, high = x.min(axis=-2, keepdims=True), x.max(axis=-2, keepdims=True)
    step = np.where(high > low, (high - low) / levels, 1)
    rounded: np.ndarray = (low + np.round((x - low) / step) * step).astype(x.dtype)
    return rounded


def add_noise(latents: Any, *, share: float, seed: int = 0) -> np.ndarray:
    """Adds isotropic normal noise whose length is a share of the latents' root mean square length.

    Args:
      latents: `(..., samples, units)`.
      share: of the length around the mean.
      seed: of the noise.
    """
    x = np.asarray(latents)
    centred = x - x.mean(axis=-2, keepdims=True)
    scale = np.sqrt((centred**2).mean(axis=(-2, -1), keepdims=True))
    noise = np.random.default_rng(seed).normal(size=x.shape)
    noisy: np.ndarray = (x + share * scale * noise).astype(x.dtype)
    return noisy


def probe_accuracy(
    train: Any, train_labels: Any, test: Any, test_labels: Any, *, penalty: float = 1.0
) -> float:
    """Returns the held-out accuracy of a linear probe (logistic regression) on latents.

    Args:
      train: `(samples, units)`.
      train_labels: `(samples,)`.
      test: `(samples, units)`.
      test_labels: `(samples,)`.
      penalty: strength of the L2 penalty, on latents of unit variance overall.

    Raises:
      InputError: the latents are not finite.
    """
    from sklearn.linear_model import LogisticRegression

    train, test = np.asarray(train, np.float64), np.asarray(test, np.float64)
    if not (np.isfinite(train).all() and np.isfinite(test).all()):
        raise InputError("train", train.shape, "is not finite")
    mean, scale = train.mean(axis=0), train.std()
    scale = scale if scale > 0 else 1.0
    probe = LogisticRegression(C=1 / penalty, max_iter=2000)
    probe.fit((train - mean) / scale, train_labels)
    return float(probe.score((test - mean) / scale, test_labels))


def rank_correlation(
    first: np.ndarray, second: np.ndarray, *, permutations: int = 9999, seed: int = 0
) -> tuple[float, float, float, float]:
    """Tests whether two quantities go together from seed to seed within cells.

    Spearman's correlation over seeds in every cell, averaged over cells. The null permutes the
    seeds of one quantity, alike in all cells, because cells share their seeds.

    Args:
      first: `(cells, seeds)`.
      second: `(cells, seeds)`.
      permutations: random ones.
      seed: of the permutations.

    Returns:
      The mean correlation; the 95 % bootstrap interval over cells; p, two-sided. Cells with
      a missing value or a constant quantity are left out; NaN if none is left.
    """
    ranked = [_ranks(np.asarray(x, np.float64)) for x in (first, second)]
    there = np.isfinite(ranked[0]).all(axis=1) & np.isfinite(ranked[1]).all(axis=1)
    a, b = (x[there] for x in ranked)
    if not len(a):
        return (float("nan"),) * 4
    each = (a * b).sum(axis=1)
    rng = np.random.default_rng(seed)
    orders = np.argsort(rng.random((permutations, a.shape[1])), axis=1)
    null = np.einsum("cs,cps->p", a, b[:, orders]) / len(a)
    p = (1 + (abs(null) >= abs(each.mean()) - 1e-12).sum()) / (permutations + 1)
    low, high = bootstrap_interval(each)
    return float(each.mean()), float(low), float(high), float(p)


def _ranks(x: np.ndarray) -> np.ndarray:
    """Returns centred ranks of unit length along the last axis, NaN where nothing varies."""
    from scipy.stats import rankdata

    ranks = rankdata(x, axis=-1, nan_policy="propagate")
    ranks = ranks - ranks.mean(axis=-1, keepdims=True)
    length = np.linalg.norm(ranks, axis=-1, keepdims=True)
    scaled: np.ndarray = ranks / np.where(length > 0, length, np.nan)
    return scaled
