"""Are the p-values right? False positives on isotropic clouds, power on graded mixtures."""

import contextlib
import math
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import xarray as xr

from ppp_jax.analysis.inference.rotation_test import rotation_test
from ppp_jax.analysis.inference.seeds import paired_difference
from ppp_jax.analysis.io.rows import LongRowWarning
from ppp_jax.analysis.projection.kernel import progress_bar
from ppp_jax.analysis.statistics.registry import Statistic
from ppp_jax.analysis.synthetic import isotropic_clouds, mixture
from ppp_jax.errors import InputError, real, seeded, whole
from ppp_jax.resources import check_product

SHARES = (0.0, 0.02, 0.05, 0.1, 0.2, 0.4, 0.7, 1.0)
KINDS = ("axes", "corners")
LEVEL = 0.05
HELD_NUMBERS = 2**21  # of clouds of one law held at once


def null_p_values(
    *,
    samples: int = 500,
    units: int = 8,
    draws: int = 400,
    rotations: int = 99,
    statistics: Sequence[str | Statistic] | None = None,
    epsilon: float | None = None,
    sample_seed: int = 0,
    progress: bool = False,
) -> xr.DataArray:
    """Returns the p-values of clouds without any privileged basis, which should be uniform.

    Args:
      samples: of each cloud.
      units: n.
      draws: clouds of each law.
      rotations: K of each test.
      statistics: The statistics, as `rotation_test` takes them.
      epsilon: if given, the angles' statistics are tested too.
      sample_seed: of clouds and rotations.
      progress: show a progress bar on stderr.

    Returns:
      `(law, seed, statistic)`, one seed per draw; the laws are those of `isotropic_clouds`.

    Raises:
      InputError: an argument out of its range, naming it.
    """
    rng = np.random.default_rng(seeded(sample_seed, field="sample_seed"))
    _check(draws, samples, units, laws=4)
    # Some draws at a time: all of them may be more than memory holds.
    width = max(1, HELD_NUMBERS // (samples * units))
    places = list(range(0, draws, width))
    found = []
    for first in progress_bar(places, "draws") if progress else places:
        drawn = [
            isotropic_clouds(rng, samples=samples, units=units)
            for _ in range(min(width, draws - first))
        ]
        stacked = np.stack([np.stack(list(clouds.values())) for clouds in drawn])
        labelled = xr.DataArray(
            stacked.astype(np.float32),
            dims=("seed", "law", "sample", "unit"),
            coords={"law": list(drawn[0])},
        )
        with _long_rows():
            tested = rotation_test(
                labelled,
                statistics=statistics,
                rotations=rotations,
                epsilon=epsilon,
                rotation_seed=sample_seed,
                first_seed=first,
            )
        found.append(tested["p"])
    return xr.concat(found, "seed").transpose("law", "seed", "statistic")


@contextlib.contextmanager
def _long_rows() -> Iterator[None]:
    """Lets rows pass that are long because the law has heavy tails, which is what is tested."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", LongRowWarning)
        yield


def _check(draws: Any, samples: Any, units: Any, *, laws: int) -> None:
    """Refuses what is no number, or more than fits, before anything is drawn."""
    numbers = {"draws": draws, "samples": samples, "units": units}
    each = [whole(name, value, least=1) for name, value in numbers.items()]
    check_product(numbers, 16 * laws * math.prod(each))


def false_positives(p: xr.DataArray, *, level: float = LEVEL) -> xr.DataArray:
    """Returns the fraction of p-values up to a level, along `seed`.

    With K rotations the exact fraction is ⌊level·(K + 1)⌋/(K + 1).

    Args:
      p: p-values over `seed` and other axes; missing ones do not count.
      level: at which a test would be called positive.

    Raises:
      InputError: no labelled p-values with seeds, or a level outside [0, 1].
    """
    level = real("level", level, least=0, most=1)
    if not isinstance(p, xr.DataArray) or "seed" not in p.dims:
        raise InputError("p", type(p).__name__, "must be p-values as null_p_values(…) returns them")
    return (p <= level + 1e-12).where(p.notnull()).mean("seed")


def _mixtures(
    rng: np.random.Generator, fractions: Sequence[float], *, draws: int, samples: int, units: int
) -> list[list[np.ndarray]]:
    """Draws clouds of mixtures, `(draws, samples, units)` by kind and fraction."""
    return [
        [
            np.stack(
                [
                    mixture(rng, fraction, samples=samples, units=units, kind=kind)
                    for _ in range(draws)
                ]
            )
            for fraction in fractions
        ]
        for kind in KINDS
    ]


def power(
    *,
    fractions: Sequence[float] = SHARES,
    samples: int = 500,
    units: int = 8,
    draws: int = 100,
    rotations: int = 99,
    statistics: Sequence[str | Statistic] | None = None,
    sample_seed: int = 0,
    progress: bool = False,
) -> xr.Dataset:
    """Measures how often graded mixtures of isotropic and aligned samples are called aligned.

    Args:
      fractions: of aligned samples.
      samples: of each cloud.
      units: n.
      draws: clouds of each fraction.
      rotations: K of each test.
      statistics: The statistics, as `rotation_test` takes them.
      sample_seed: of clouds and rotations.
      progress: show a progress bar on stderr.

    Returns:
      Dataset over `(kind, fraction, statistic)`: `power`, the fraction of p-values up to 5 %, and
      `value`, the statistic's mean.

    Raises:
      InputError: an argument out of its range, naming it.
    """
    rng = np.random.default_rng(seeded(sample_seed, field="sample_seed"))
    if not isinstance(fractions, list | tuple) or not fractions:
        raise InputError(
            "fractions", fractions, "must be fractions of aligned samples, one or more"
        )
    fractions = [real("fractions", fraction, least=0, most=1) for fraction in fractions]
    _check(draws, samples, units, laws=len(KINDS) * len(fractions))
    rows = _mixtures(rng, fractions, draws=draws, samples=samples, units=units)
    found = []
    for kind in progress_bar(rows, "power") if progress else rows:
        labelled = xr.DataArray(
            np.stack(kind).astype(np.float32), dims=("fraction", "seed", "sample", "unit")
        )
        tested = rotation_test(
            labelled, statistics=statistics, rotations=rotations, rotation_seed=sample_seed
        )
        found.append(tested)
    tested = xr.concat(found, "kind").assign_coords(kind=list(KINDS), fraction=list(fractions))
    return xr.Dataset(
        {"power": false_positives(tested["p"]), "value": tested["value"].mean("seed")}
    )


def interval_coverage(seeds: int, *, draws: int = 400, sample_seed: int = 0) -> float:
    """Returns how often the 95 % interval of a paired difference holds the true one.

    Args:
      seeds: pairs; their differences are normal.
      draws: experiments.
      sample_seed: of the draws.

    Raises:
      InputError: an argument out of its range, naming it.
    """
    rng = np.random.default_rng(seeded(sample_seed, field="sample_seed"))
    whole("draws", draws, least=1)
    whole("seeds", seeds, least=2)
    check_product({"seeds": seeds, "draws": draws}, 16 * seeds * draws)
    found = [paired_difference(x, np.zeros(seeds)) for x in rng.normal(size=(draws, seeds))]
    return float(np.mean([one.low < 0 < one.high for one in found]))
