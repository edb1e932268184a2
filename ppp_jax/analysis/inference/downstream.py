"""What a representation is good for: probes, noise, rounding."""

from typing import Any, NamedTuple

import numpy as np

from ppp_jax.analysis.inference.seeds import MIN_SEEDS, RESAMPLES
from ppp_jax.analysis.io.sources import Latents, is_real, numbers, to_numpy
from ppp_jax.errors import InputError, real, seeded, whole
from ppp_jax.resources import check_fits

MOST_BITS = 52  # what a number of double precision holds


def quantise(latents: Latents, *, bits: int) -> np.ndarray:
    """Rounds every unit to 2^bits equally spaced levels between its least and largest value.

    Args:
      latents: `(..., samples, units)`.
      bits: The number of bits of each number, at least 1.

    Returns:
      Array of the same shape, in floating point; a unit that does not vary is kept.

    Raises:
      InputError: fewer than 1 bit or more than 52, or no latents.

    Example:
      >>> quantise([[0.0], [0.4], [1.0]], bits=1).ravel().tolist()
      [0.0, 0.0, 1.0]
    """
    levels = 2 ** whole("bits", bits, least=1, most=MOST_BITS) - 1
    x = _floating(latents)
    low, high = x.min(axis=-2, keepdims=True), x.max(axis=-2, keepdims=True)
    step = np.where(high > low, (high - low) / levels, 1)
    rounded: np.ndarray = (low + np.round((x - low) / step) * step).astype(x.dtype)
    return rounded


def add_noise(latents: Latents, *, fraction: float, noise_seed: int = 0) -> np.ndarray:
    """Adds isotropic normal noise, as long as a fraction of the latents' root mean square length.

    Args:
      latents: `(..., samples, units)`.
      fraction: The length of the noise as a fraction of the latents' length around their mean.
      noise_seed: Seed of the noise.

    Raises:
      InputError: a negative fraction, or no latents.
    """
    real("fraction", fraction, least=0)
    seeded(noise_seed, field="noise_seed")
    x = _floating(latents)
    centred = x - x.mean(axis=-2, keepdims=True)
    scale = np.sqrt((centred**2).mean(axis=(-2, -1), keepdims=True))
    noise = np.random.default_rng(noise_seed).normal(size=x.shape)
    noisy: np.ndarray = (x + fraction * scale * noise).astype(x.dtype)
    return noisy


def _floating(latents: Latents) -> np.ndarray:
    """Returns latents as they are, or, of whole numbers, in double precision."""
    x = to_numpy("latents", latents)
    if x.ndim < 2 or not x.size or not is_real(x.dtype):
        problem = "must be real, (..., samples, units), and not empty"
        raise InputError("latents", f"array of {x.dtype} {x.shape}", problem)
    return x if np.issubdtype(x.dtype, np.floating) else x.astype(np.float64)


def probe_accuracy(
    train: Any, train_labels: Any, test: Any, test_labels: Any, *, penalty: float = 1.0
) -> float:
    """Returns the held-out accuracy of a linear probe (logistic regression) on latents.

    Args:
      train: `(samples, units)`.
      train_labels: `(samples,)`.
      test: `(samples, units)`.
      test_labels: `(samples,)`.
      penalty: strength of the L2 penalty, on centred latents of root mean square 1: neither the
        units' means nor the latents' scale change the probe.

    Raises:
      InputError: the latents are not finite, or not a matrix with a label for each row.
    """
    from sklearn.linear_model import LogisticRegression

    if not real("penalty", penalty, least=0):
        raise InputError("penalty", penalty, "must be above 0")
    train, train_labels = _labelled("train", train, train_labels)
    test, test_labels = _labelled("test", test, test_labels)
    if train.shape[1] != test.shape[1]:
        raise InputError("test", test.shape, f"needs as many units as train, {train.shape[1]}")
    if len(np.unique(train_labels)) < 2:
        raise InputError("train_labels", f"array {train_labels.shape}", "must be of two classes")
    mean = train.mean(axis=0)
    scale = np.sqrt(np.mean((train - mean) ** 2))
    scale = scale if scale > 0 else 1.0
    probe = LogisticRegression(C=1 / penalty, max_iter=2000)
    probe.fit((train - mean) / scale, train_labels)
    return float(probe.score((test - mean) / scale, test_labels))


def _labelled(name: str, latents: Any, labels: Any) -> tuple[np.ndarray, np.ndarray]:
    x, y = numbers(name, latents, dimensions=2), to_numpy(f"{name}_labels", labels)
    if not x.size or not np.isfinite(x).all():
        raise InputError(name, x.shape, "is empty, or not finite")
    told = f"array of {y.dtype} {y.shape}"
    if y.shape != x.shape[:1]:
        raise InputError(f"{name}_labels", told, f"needs one label for each of {len(x)} samples")
    classes = y.dtype.kind in "iubUS" or (is_real(y.dtype) and np.array_equal(y, np.round(y)))
    if not classes:
        raise InputError(f"{name}_labels", told, "must be whole numbers or texts, one per class")
    return x, y


class Correlation(NamedTuple):
    """Whether two quantities go together from seed to seed.

    Attributes:
      mean: Spearman's correlation over seeds, averaged over cells.
      low: The lower end of its 95 % bootstrap interval over seeds.
      high: The upper end of the interval.
      p: The two-sided permutation p-value.
      seeds: The number of seeds that were there in every cell.
      cells: The number of cells in which both quantities vary.
    """

    mean: float
    low: float
    high: float
    p: float
    seeds: int
    cells: int


def rank_correlation(
    first: np.ndarray, second: np.ndarray, *, permutations: int = 9999, permutation_seed: int = 0
) -> Correlation:
    """Tests whether two quantities go together from seed to seed within cells.

    Spearman's correlation over seeds in every cell, averaged over cells. These share their seeds,
    and with them initial weights and batches: they are no replicates of each other. So the null
    permutes the seeds of one quantity alike in all cells, and the interval (percentile) comes of
    drawing seeds, the same ones for all cells.

    Args:
      first: `(cells, seeds)`.
      second: `(cells, seeds)`.
      permutations: The number of random permutations.
      permutation_seed: Seed of the permutations.

    Returns:
      The `Correlation`. Cells without any number, or of which a quantity does not vary, are left
      out, then seeds that are missing in a cell. Numbers are NaN where no cell is left, the
      interval and p of fewer than 6 seeds.

    Raises:
      InputError: no matrices of one shape, or an argument out of its range.
    """
    a, b = (numbers(k, x, dimensions=2) for k, x in (("first", first), ("second", second)))
    if a.shape != b.shape:
        raise InputError("second", b.shape, f"must have one shape with first, {a.shape}")
    seeded(permutation_seed, field="permutation_seed")
    whole("permutations", permutations, least=1)
    check_fits("permutations", permutations, 32 * permutations * max(1, a.size))
    there = np.isfinite(a) & np.isfinite(b)
    cells = there.any(axis=1)
    seeds = there[cells].all(axis=0) & cells.any()
    a, b = (x[np.ix_(cells, seeds)] for x in (a, b))
    varied = (np.ptp(a, axis=1) > 0) & (np.ptp(b, axis=1) > 0) if a.size else np.zeros(0, bool)
    a, b = a[varied], b[varied]
    count, nan = int(seeds.sum()), float("nan")
    if not a.size:
        return Correlation(nan, nan, nan, nan, count, 0)
    ranked = _ranks(a), _ranks(b)
    mean = float(np.vecdot(*ranked).mean())
    if count < MIN_SEEDS:
        return Correlation(mean, nan, nan, nan, count, len(a))
    rng = np.random.default_rng(permutation_seed)
    orders = np.argsort(rng.random((permutations, count)), axis=1)
    null = np.einsum("cs,cps->p", ranked[0], ranked[1][:, orders]) / len(a)
    p = (1 + (abs(null) >= abs(mean) - 1e-12).sum()) / (permutations + 1)
    drawn = rng.integers(count, size=(RESAMPLES, count))
    again = np.vecdot(_ranks(a[:, drawn]), _ranks(b[:, drawn]))
    # A draw in which a cell does not vary tells nothing of that cell.
    known = np.isfinite(again)
    means = np.where(known, again, 0).sum(axis=0) / np.maximum(known.sum(axis=0), 1)
    low, high = np.quantile(means[known.any(axis=0)], (0.025, 0.975))
    return Correlation(mean, float(low), float(high), float(p), count, len(a))


def _ranks(x: np.ndarray) -> np.ndarray:
    """Returns centred ranks of unit length along the last axis, NaN where nothing varies."""
    from scipy.stats import rankdata

    ranks = rankdata(x, axis=-1)
    ranks = ranks - ranks.mean(axis=-1, keepdims=True)
    length = np.linalg.norm(ranks, axis=-1, keepdims=True)
    scaled: np.ndarray = ranks / np.where(length > 0, length, np.nan)
    return scaled
