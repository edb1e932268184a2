"""Summaries over seeds, with intervals. Seeds are the unit of replication, never samples."""

import numpy as np
import scipy.stats
from numpy.typing import ArrayLike

from ppp_jax.errors import InputError

RESAMPLES = 2000
BOOTSTRAP_SEED = 0


def interquartile_mean(values: ArrayLike) -> float:
    """Returns the mean of the middle half of `values` (Agarwal et al. 2021, "Deep RL at the edge").

    A quarter of the values, rounded down, is cut from either end; what is not finite is left out
    beforehand.

    Args:
      values: any shape, pooled.

    Returns:
      The mean, or NaN of no values.

    Example:
      >>> interquartile_mean([1, 2, 3, 100])
      2.5
    """
    present = _present(values)
    return float(scipy.stats.trim_mean(present, 0.25)) if len(present) else float("nan")


def bootstrap_interval(
    values: ArrayLike, *, confidence: float = 0.95, seed: int = BOOTSTRAP_SEED
) -> tuple[float, float]:
    """Returns the percentile-bootstrap interval of the interquartile mean.

    Args:
      values: one number per seed; what is not finite is left out.
      confidence: coverage, in (0, 1).
      seed: of the 2,000 resamples.

    Returns:
      `(low, high)`; NaN for fewer than two values, of which nothing can be said.

    Raises:
      InputError: `confidence` outside (0, 1).

    Example:
      >>> low, high = bootstrap_interval([1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
      >>> bool(low < 3.5 < high)
      True
    """
    if not 0 < confidence < 1:
        raise InputError("confidence", confidence, "must lie between 0 and 1")
    present = _present(values)
    if len(present) < 2:
        return float("nan"), float("nan")
    drawn = scipy.stats.bootstrap(
        (present,),
        lambda x, axis: scipy.stats.trim_mean(x, 0.25, axis=axis),
        n_resamples=RESAMPLES,
        confidence_level=confidence,
        method="percentile",
        rng=np.random.default_rng(seed),
    )
    return float(drawn.confidence_interval.low), float(drawn.confidence_interval.high)


def _present(values: ArrayLike) -> np.ndarray:
    flat = np.asarray(values, np.float64).ravel()
    return flat[np.isfinite(flat)]
