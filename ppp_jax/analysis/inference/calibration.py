"""Are the p-values right? False positives on laws that prefer no axes, power on those that do."""

import contextlib
import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import scipy  # its parts are imported when they are first used
import xarray as xr
from numpy.typing import ArrayLike

from ppp_jax.analysis.inference.rotation_test import pool, rotation_test
from ppp_jax.analysis.inference.seeds import LEVEL, paired_difference
from ppp_jax.analysis.io.progress import progress_bar
from ppp_jax.analysis.io.rows import LongRowWarning
from ppp_jax.analysis.io.sources import check_made
from ppp_jax.analysis.statistics.registry import Statistic
from ppp_jax.analysis.synthetic import (
    SHAPELESS,
    draw_law,
    heavy_rows,
    isotropic_clouds,
    mixture,
)
from ppp_jax.errors import InputError, real, seeded, whole
from ppp_jax.resources import check_product

SHARES = (0.0, 0.02, 0.05, 0.1, 0.2, 0.4, 0.7, 1.0)
KINDS = ("axes", "corners")
HELD_NUMBERS = 2**21  # of clouds of one law held at once
NETWORKS = (1, 2, 6, 16)  # whose ranks are combined
SEEDS = (6, 16)  # over which signs are flipped
CONFIDENCE = 0.999  # of the Monte Carlo interval

SHAPE = ("shape", "shape_kurtosis")
EVERY = ("c4", "unit_kurtosis", "mean_axes", "mean_ones", "covariance", *SHAPE, "outlier_kurtosis",
         "max_median_ratio", "axis_quantisation")  # fmt: skip
NULLS: Mapping[str, tuple[str, ...]] = {
    **dict.fromkeys(SHAPELESS, SHAPE),
    "normal": EVERY,
    "mean along (1, …, 1)": ("unit_kurtosis", "covariance", *SHAPE, "axis_quantisation"),
}
"""The statistics for which the axes are not special, of each law of `synthetic.SHAPELESS`.

Of independent normal rows that is exact. Where rows differ in width or are alike, and units differ
in width too, it holds the better the more samples there are per unit.
"""


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

    def draw() -> dict[str, np.ndarray]:
        return isotropic_clouds(rng, samples=samples, units=units)

    how: dict[str, Any] = {"statistics": statistics, "rotations": rotations, "epsilon": epsilon}
    how["rotation_seed"] = sample_seed
    return _some_at_a_time(draw, draws, samples * units, progress, **how)["p"]


def law_tests(
    *,
    laws: Sequence[str] = tuple(SHAPELESS),
    turned: bool = False,
    samples: int = 500,
    units: int = 16,
    draws: int = 400,
    rotations: int = 39,
    statistics: Sequence[str | Statistic] | None = None,
    sample_seed: int = 0,
    progress: bool = False,
) -> xr.Dataset:
    """Tests clouds of laws whose structure is known.

    Args:
      laws: Names in `synthetic.SHAPELESS` and `synthetic.SHAPED`.
      turned: Whether each cloud is turned by a random rotation of its own, so that the axes are
        special for no statistic.
      samples: Number of samples of each cloud.
      units: Number of units n.
      draws: Number of clouds of each law.
      rotations: K of each test; with 39 both p of one cloud and its rank reach 5 % exactly.
      statistics: The statistics, as `rotation_test` takes them.
      sample_seed: Seed of clouds and rotations.
      progress: Whether to show a progress bar on stderr.

    Returns:
      What `rotation_test` returns, without the null, over `(law, seed, statistic)`: one seed per
      draw, with rotations of its own.

    Raises:
      InputError: An argument is out of its range; the error names it.
    """
    rng = np.random.default_rng(seeded(sample_seed, field="sample_seed"))
    if isinstance(laws, str) or not isinstance(laws, Sequence) or not laws:
        raise InputError("laws", laws, "must be names of laws, one or more, in a list")
    _check(draws, samples, units, laws=len(laws))

    def draw() -> dict[str, np.ndarray]:
        size: dict[str, Any] = {"samples": samples, "units": units, "turned": turned}
        return {law: draw_law(rng, law, **size) for law in laws}

    how: dict[str, Any] = {
        "statistics": statistics,
        "rotations": rotations,
        "rotation_seed": sample_seed,
    }
    return _some_at_a_time(draw, draws, samples * units, progress, **how)


def _some_at_a_time(
    draw: Callable[[], Mapping[str, np.ndarray]],
    draws: int,
    numbers: int,
    progress: bool,
    **options: Any,
) -> xr.Dataset:
    """Tests draws of clouds by law, by rotations; all of them may be more than memory holds."""
    width = max(1, HELD_NUMBERS // numbers)
    places = list(range(0, draws, width))
    found = []
    for first in progress_bar(places, "draws") if progress else places:
        drawn = [draw() for _ in range(min(width, draws - first))]
        stacked = np.stack([np.stack(list(clouds.values())) for clouds in drawn])
        labelled = xr.DataArray(
            stacked.astype(np.float32),
            dims=("seed", "law", "sample", "unit"),
            coords={"law": list(drawn[0])},
        )
        with _long_rows():
            tested = rotation_test(labelled, first_seed=first, **options)
        found.append(tested.drop_vars("null"))
    joined = xr.concat(found, "seed", combine_attrs="drop")
    return joined.transpose("law", "seed", "statistic", ...)


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


def heavy_tailed(
    *,
    samples: int,
    units: int,
    freedom: float,
    draws: int = 100,
    rotations: int = 39,
    sample_seed: int = 0,
) -> xr.DataArray:
    """Returns how often the shape of heavy-tailed elliptical clouds is called aligned.

    Whitening by a sample covariance makes their law isotropic only as the number of samples per
    unit grows, and the more slowly the heavier the tails are.

    Args:
      samples: Number of samples of each cloud.
      units: Number of units n, whose widths fall as 1/i.
      freedom: Degrees of freedom of Student's t, of whole rows.
      draws: Number of clouds.
      rotations: K of each test.
      sample_seed: Seed of clouds and rotations.

    Returns:
      The fraction of p-values up to 5 %, over `statistic`: of the shape.

    Raises:
      InputError: An argument is out of its range; the error names it.
    """
    rng = np.random.default_rng(seeded(sample_seed, field="sample_seed"))
    _check(draws, samples, units, laws=1)

    def draw() -> dict[str, np.ndarray]:
        cloud = heavy_rows(rng, freedom=freedom, samples=samples, units=units)
        return {"elliptical": cloud}

    how: dict[str, Any] = {
        "statistics": SHAPE,
        "rotations": rotations,
        "rotation_seed": sample_seed,
    }
    p = _some_at_a_time(draw, draws, samples * units, False, **how)["p"]
    return false_positives(p).sel(law="elliptical", drop=True)


def sizes(tested: xr.Dataset, *, level: float = LEVEL) -> xr.Dataset:
    """Returns how often tests of one and of several clouds call a law aligned.

    Draws are put into groups, which share none, as if they were the networks of one experiment.

    Args:
      tested: What `law_tests` returns.
      level: The level at which a test is called positive.

    Returns:
      Dataset over `(test, law, statistic)`: `rate`; `groups`, the number of groups in which all
      clouds are judged; and `low` and `high`, between which 99.9 % of rates lie if the law is a
      null. The tests are "1 cloud" (its p); "S networks" (`p_networks` of `pool`) and "S seeds"
      (its `p`), as far as there are clouds for them. Along `test`, `clouds` of a group, and
      `exact`, the probability that the test calls a null positive.

    Raises:
      InputError: `tested` is something else, or the level lies outside [0, 1].
    """
    level = real("level", level, least=0, most=1)
    check_made("tested", tested, ("p", "rank", "places"), "law_tests")
    rows = [("1 cloud", 1, tested["p"].rename(seed="group"), _of_places(tested, level))]
    for clouds in NETWORKS:
        if clouds <= tested.sizes["seed"]:
            name = "1 network" if clouds == 1 else f"{clouds} networks"
            p = _pooled(tested, clouds)["p_networks"]
            rows.append((name, clouds, p, _of_ranks(tested, clouds, level)))
    for clouds in SEEDS:
        if clouds <= tested.sizes["seed"]:
            patterns = 2 ** (clouds - 1)
            exact = math.floor(level * patterns + 1e-9) / patterns
            rows.append((f"{clouds} seeds", clouds, _pooled(tested, clouds)["p"], exact))
    found = [_size(p, clouds, exact, level) for _, clouds, p, exact in rows]
    return xr.concat(found, "test").assign_coords(test=[name for name, *_ in rows])


def _size(p: xr.DataArray, clouds: int, exact: float, level: float) -> xr.Dataset:
    groups = p.notnull().sum("group")
    low, high = monte_carlo(exact, groups.values)
    rate = false_positives(p.rename(group="seed"), level=level)
    columns = {"rate": rate, "groups": groups, "clouds": clouds, "exact": exact}
    return xr.Dataset({**columns, "low": (rate.dims, low), "high": (rate.dims, high)})


def monte_carlo(
    size: float, count: ArrayLike, *, confidence: float = CONFIDENCE
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the interval of the fraction of tests that are positive, by the binomial law.

    Args:
      size: The probability that one test is positive.
      count: The numbers of independent tests.
      confidence: The probability that the fraction lies in the interval, or more.

    Returns:
      The ends, of the counts' shape; NaN of no tests.
    """
    tests = np.maximum(np.asarray(count), 1)
    low, high = scipy.stats.binom.interval(confidence, tests, size)
    there = np.where(np.asarray(count) > 0, 1.0, np.nan)
    return low / tests * there, high / tests * there


def _pooled(tested: xr.Dataset, clouds: int) -> xr.Dataset:
    """Pools groups of so many clouds; those with a cloud that is not judged are missing."""
    groups = tested.sizes["seed"] // clouds
    kept = tested[["value", "mean", "sd", "rank", "places"]].isel(seed=slice(groups * clouds))
    grouped = kept.coarsen(seed=clouds).construct(seed=("group", "seed"))
    pooled = pool(grouped)
    return pooled.where(pooled["clouds"] == clouds)


def _of_places(tested: xr.Dataset, level: float) -> float:
    """Returns the exact size of one cloud's p, which is one of so many places."""
    places = int(tested["places"].max())
    return math.floor(level * places + 1e-9) / places


def _of_ranks(tested: xr.Dataset, clouds: int, level: float) -> float:
    """Returns the exact size of combined ranks, by their law in plain convolutions."""
    places = int(tested["places"].max())
    law = np.ones(1)
    for _ in range(clouds):
        law = np.convolve(law, np.full(places, 1 / places))
    far = np.abs(np.arange(len(law)) - (len(law) - 1) / 2)
    p = np.array([law[far >= one - 1e-9].sum() for one in far])
    return float(law[p <= level + 1e-12].sum())


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
