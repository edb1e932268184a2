"""Is a dose-response a threshold or a slope? A line with a kink against a straight one."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ppp_jax.analysis.inference.seeds import MIN_SEEDS
from ppp_jax.analysis.io.sources import numbers
from ppp_jax.errors import InputError, seeded

RESAMPLES, PLACES = 200, 101


class Kink(NamedTuple):
    """Two descriptions of a dose-response.

    Attributes:
      line: The fraction of the variance between doses that c + s·d explains.
      kink: The fraction that c + s·max(d − start, 0) explains, which is never less.
      start: The dose at which the response begins; 0 is the line itself.
      low: The lower end of its 95 % bootstrap interval over seeds. An interval that holds the first
        dose is no evidence of a threshold.
      high: The upper end of the interval.
      seeds: The number of seeds at every dose. Of fewer than 6 nothing is said: all else is NaN.
    """

    line: float
    kink: float
    start: float
    low: float
    high: float
    seeds: int


def kink(doses: Sequence[float], values: Sequence[np.ndarray], *, bootstrap_seed: int = 0) -> Kink:
    """Fits both descriptions to the means over seeds, and resamples the seeds.

    Args:
      doses: The doses, at least four, in ascending order.
      values: One array per dose, one number per seed; seeds with a missing number are left out.
      bootstrap_seed: Seed of the resamples.

    Raises:
      InputError: see `check_doses`; values that are no numbers, or not a row for each dose.
    """
    check_doses(doses)
    seeded(bootstrap_seed, field="bootstrap_seed")
    x, table = np.asarray(doses, float), numbers("values", values, dimensions=2)
    if len(table) != len(x):
        raise InputError(
            "values", f"array {table.shape}", f"needs a row for each of {len(x)} doses"
        )
    table = table[:, np.isfinite(table).all(axis=0)]
    rng, seeds = np.random.default_rng(bootstrap_seed), table.shape[1]
    if seeds < MIN_SEEDS:
        nothing = float("nan")
        return Kink(nothing, nothing, nothing, nothing, nothing, seeds)
    starts = [
        _hinge(x, table[:, rng.integers(seeds, size=seeds)].mean(axis=1))[1]
        for _ in range(RESAMPLES)
    ]
    mean = table.mean(axis=1)
    fraction, start = _hinge(x, mean)
    low, high = np.quantile(starts, [0.025, 0.975])
    return Kink(float(_explained(x, mean)), fraction, start, float(low), float(high), seeds)


def check_doses(doses: Sequence[float]) -> None:
    """Refuses doses in which no kink can be told from a line.

    Raises:
      InputError: fewer than four doses, or not ascending.
    """
    x = numbers("doses", doses, dimensions=1)
    if len(x) < 4 or not np.isfinite(x).all() or not (np.diff(x) > 0).all():
        raise InputError("doses", x.tolist(), "must be at least four, ascending")


def _explained(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Returns the fraction of the variance of y that each x, `(..., doses)`, explains."""
    a, b = x - x.mean(axis=-1, keepdims=True), y - y.mean()
    fraction: np.ndarray = (a @ b) ** 2 / (np.sum(a * a, axis=-1) * (b @ b))
    return fraction


def _hinge(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """Returns the largest explained fraction over kinks before the last dose but one."""
    places = np.linspace(x[0], x[-2], PLACES)
    fractions = _explained(np.maximum(x - places[:, None], 0), y)
    best = int(np.argmax(fractions))
    return float(fractions[best]), float(places[best])
