"""The rotation null: is the basis special for this cloud, however clumped (docs/method.md §5)?

A statistic T of latents X is held against T of X·Q_k with Haar-random rotations Q_k. If the law of
the latents does not change under rotations, all of these are exchangeable, so the rank of the
observed one is uniform, at any number of samples.
"""

import concurrent.futures
import contextlib
import functools
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import xarray as xr

from ppp_jax import bases
from ppp_jax.analysis import limits
from ppp_jax.analysis.inference.seeds import combined_rank, sign_flip
from ppp_jax.analysis.inference.turned_clouds import (
    BLOCK_BYTES,
    Clouds,
    Design,
    Rules,
    cloud_of,
    measure,
)
from ppp_jax.analysis.io.progress import progress_bar
from ppp_jax.analysis.io.rows import RAISE, Rows, check_rows, told, warn_of_long_rows
from ppp_jax.analysis.io.sources import Latents, Source, check_free, check_made, open_source
from ppp_jax.analysis.projection import turns as turning
from ppp_jax.analysis.projection import views
from ppp_jax.analysis.projection.kernel import check_epsilon
from ppp_jax.analysis.projection.planes import BasisLike, resolve_vectors
from ppp_jax.analysis.projection.turns import Turns
from ppp_jax.analysis.statistics import registry
from ppp_jax.analysis.statistics.alignment import Target, measure_all
from ppp_jax.analysis.statistics.quantisation import DIP_SAMPLES, DIP_VECTORS
from ppp_jax.analysis.statistics.registry import Statistic
from ppp_jax.errors import InputError, seeded, truth, whole
from ppp_jax.resources import ONE_BLAS_THREAD, on_cores

ROTATIONS, MOST_ROTATIONS = limits.ROTATIONS, limits.MOST_ROTATIONS
WORKERS = min(4, os.cpu_count() or 1)  # clouds tested at once; each takes a few blocks of memory
BAND = (0.025, 0.975)  # quantiles of the null that are shown
NAMES = (
    "statistic",
    "rotation",
    "value",
    "null",
    "mean",
    "sd",
    "low",
    "high",
    "z",
    "p",
    "rank",
    "places",
    "p_networks",
    "clouds",
)  # of the results of a test
ROUNDING = 1e-6  # differences below this fraction of the values are no differences


def rotation_test(
    latents: Latents,
    *,
    basis: BasisLike = None,
    statistics: Sequence[str | Statistic] | None = None,
    epsilon: float | None = None,
    rotations: int = ROTATIONS,
    null: str = turning.AUTO,
    rotation_seed: int = 0,
    first_seed: int = 0,
    nonfinite: str = RAISE,
    drop_outliers: float | None = None,
    progress: bool = False,
) -> xr.Dataset:
    """Tests alignment statistics against the rotation null.

    Clouds that differ along an axis called `seed` get rotations of their own, so that their nulls
    are independent and can be pooled (`pool`); along all other axes the rotations are shared, so
    that clouds compared with each other differ in nothing else.

    Args:
      latents: `(..., samples, units)`, of any kind; leading axes are separate clouds.
      basis: The privileged vectors, `(vectors, units)`, or a name; None means the standard basis.
      statistics: what to test: names of `statistics.registry`, or entries of one's own. None: all
        that are functions of a basis, and with an ε those of its planes.
      epsilon: acceptance cosine of the statistics of planes (`angles`), which take several times
        as long as the others.
      rotations: Number K of random rotations.
      null: `full` draws rotations of all units. `blocks` draws rotations within blocks of 64 units,
        which are put together at random, once for the test; it is as exact, costs a 64th of the
        products of a layer 4,096 wide, and mixes an axis with 63 others. It needs an orthonormal
        basis. `auto` takes blocks beyond 512 units (docs/method.md §5).
      rotation_seed: Seed of the random rotations.
      first_seed: place along `seed` of the first cloud, where these are a part of more: it gets
        the rotations that it has among all.
      nonfinite: What to do about rows that are not finite: `raise` refuses them, `drop` leaves
        them out. A cloud without any finite row is missing, such as that of a network that
        diverged, and so are its numbers.
      drop_outliers: Rows longer than so many times the median row are left out; None keeps them,
        with a warning about rows longer than 100 times the median.
      progress: Whether to show a progress bar on stderr.

    Returns:
      Dataset over the leading axes and `statistic`: `value`; `null`, the K rotated values on a
      last axis `rotation`; and what `verdict` adds: `mean` and `sd` of them, `z`, `p` and `rank`.
      A statistic of the shape is missing of a cloud with fewer than 5 samples per unit, and one
      of the mean of a cloud whose mean cannot be told from 0. Attributes
      count the rows: `rows` that count, and `rows_nonfinite`, `rows_zero` and `rows_long`; of
      statistics that cannot be judged, `not_judged` says why; `shape_rank` is the smallest number
      of directions in which a cloud varies, and in which it was whitened. Dips are of at most 2,048
      samples, drawn at random, and in layers wider than 256 along 256 vectors, drawn at random;
      `dip_samples` and `dip_vectors` say of how many. `null` is `full` or `blocks`, and
      `block_units` the width of the latter.

    Raises:
      InputError: An argument is out of its range, or rows are not finite; the error names it.

    Example:
      >>> cloud = np.random.default_rng(0).laplace(size=(2000, 8))
      >>> found = rotation_test(cloud, rotations=99)
      >>> float(found["p"].sel(statistic="shape"))
      0.01
    """
    options = Options(
        basis, statistics, epsilon, rotations, null, rotation_seed, first_seed, nonfinite,
        drop_outliers,
    )  # fmt: skip
    return judge_clouds(latents, options, progress=progress)[0]


class Options(NamedTuple):
    """How clouds are tested; the arguments of `rotation_test`, as the user gave them."""

    basis: BasisLike = None
    statistics: Sequence[str | Statistic] | None = None
    epsilon: float | None = None
    rotations: int = ROTATIONS
    null: str = turning.AUTO
    rotation_seed: int = 0
    first_seed: int = 0
    nonfinite: str = RAISE
    drop_outliers: float | None = None


def judge_clouds(
    latents: Latents, options: Options, *, progress: bool
) -> tuple[xr.Dataset, Clouds]:
    """Does what `rotation_test` does, and returns what was seen of the clouds as well.

    Args:
      latents: The clouds, as `rotation_test` takes them.
      options: How they are tested.
      progress: Whether to show a progress bar on stderr.
    """
    epsilon, rotations, seed = options.epsilon, options.rotations, options.rotation_seed
    whole("rotations", rotations, least=1, most=MOST_ROTATIONS)
    seeded(seed, field="rotation_seed")
    whole("first_seed", options.first_seed, least=0)
    truth("progress", progress)
    if epsilon is not None and len(check_epsilon(epsilon)) != 1:
        raise InputError("epsilon", epsilon, "must be one number")
    rules = Rules(options.nonfinite, options.drop_outliers)
    check_rows(*rules)
    asked = registry.resolve(options.statistics, epsilon)
    source = open_source(latents)
    check_free(source, NAMES)
    test = Design.of_basis(asked, options.basis, source.units, epsilon, rules, options.null)
    rows = _counted(source, rules)
    groups = _groups(source, test.null, rotations, (seed, options.first_seed), progress)
    seen = Clouds(source, test)
    found = _values(seen, groups)
    names = [one.name for one in asked]
    dims = (*source.dims[:-1], "statistic")
    shaped = found.reshape(*source.shape[:-2], len(names), rotations + 1)
    attributes = _told(rows, test, shaped[..., 0], list(seen.ranks.values()))
    tested = xr.Dataset(
        {"value": (dims, shaped[..., 0]), "null": ((*dims, "rotation"), shaped[..., 1:])},
        coords={**source.coords, "statistic": names},
        attrs={"rotations": rotations, "rotation_seed": seed} | test.told() | attributes,
    )
    return verdict(tested), seen


def observed(latents: Latents, *, basis: BasisLike, statistics: Sequence[Statistic]) -> xr.Dataset:
    """Measures statistics of a basis as `rotation_test` does, without any rotation.

    Args:
      latents: `(..., samples, units)`, of any kind; a cloud without any finite row is missing.
      basis: privileged vectors, `(vectors, units)`, or a name; None for the standard basis.
      statistics: entries of the registry that are functions of a basis.

    Returns:
      Dataset over the leading axes and `statistic`: `value`.

    Raises:
      InputError: An argument is out of its range, or rows are not finite; the error names it.
    """
    source = open_source(latents)
    frame = resolve_vectors(basis, source.units)
    test = Design(tuple(statistics), frame, None, Rules(), turning.FULL, wide=False)
    seen = Clouds(source, test)
    measured = [
        _as_they_are([one.whole for one in on_cores(seen.of, part)], test, seen.target)
        for part in seen.parts()
    ]
    found = np.concatenate(measured, axis=1).T
    names = [one.name for one in statistics]
    dims = (*source.dims[:-1], "statistic")
    return xr.Dataset(
        {"value": (dims, found.reshape(*source.shape[:-2], len(names)))},
        coords={**source.coords, "statistic": names},
    )


def _as_they_are(
    clouds: list[dict[str, np.ndarray | None]], test: Design, target: Target
) -> np.ndarray:
    """Measures what is seen of clouds, all by one call, `(statistics, clouds)`."""
    found: dict[str, np.ndarray] = {}
    for sees in dict.fromkeys(one.sees for one in test.statistics):
        seeing = [one for one in test.statistics if one.sees == sees]
        there = {k: view for k, cloud in enumerate(clouds) if (view := cloud[sees]) is not None}
        values = np.full((len(seeing), len(clouds)), np.nan)
        if there:
            functions = tuple(one.function for one in seeing)
            values[:, list(there)] = measure_all(functions, np.stack([*there.values()]), target)
        found |= dict(zip([one.name for one in seeing], values, strict=True))
    return np.stack([found[one.name] for one in test.statistics])


def _values(seen: Clouds, groups: Iterable[tuple[list[int], Turns]]) -> np.ndarray:
    """Returns every statistic of every cloud, as it is and rotated K times.

    These are `(clouds, statistics, K + 1)`. Clouds are tested at the same time, unless they are
    large.
    """
    source = seen.source
    small = source.shape[-2] * source.units * source.dtype.itemsize <= BLOCK_BYTES
    blocks: dict[int, list[np.ndarray]] = {k: [] for k in range(math.prod(source.shape[:-2]))}
    with contextlib.ExitStack() as opened:
        if seen.test.wide or small:  # each product takes one core, and several are computed at once
            opened.enter_context(ONE_BLAS_THREAD)
        pool = concurrent.futures.ThreadPoolExecutor(WORKERS if small else 1)
        workers = opened.enter_context(pool)
        for members, turns in groups:
            one = functools.partial(measure, seen, turns)
            for cloud, values in zip(members, workers.map(one, members), strict=True):
                blocks[cloud].append(values)
    return np.stack([np.concatenate(each, axis=1) for each in blocks.values()])


def _groups(
    source: Source, null: str, rotations: int, seeds: tuple[int, int], progress: bool
) -> Iterator[tuple[list[int], Turns]]:
    """Yields clouds that share rotations, and parts of these, the very first of which is none.

    A cloud's rotations come in their order. Of wide layers few come at once.
    """
    leading, units = source.shape[:-2], source.units
    number = np.zeros(leading, np.int64)
    if "seed" in source.dims:
        axis = source.dims.index("seed")
        along = [-1 if k == axis else 1 for k in range(len(leading))]
        number = number + np.arange(leading[axis]).reshape(along)
    mixed = units if null == turning.FULL else min(units, turning.BLOCK_UNITS)
    each = 4 if null == turning.FULL and units > views.NARROW else 8  # bytes, see `turning.draw`
    width = max(1, BLOCK_BYTES // (each * units * mixed))
    width -= width % WORKERS if width > WORKERS else 0  # each core measures as many
    parts = [
        (group, start)
        for group in range(int(number.max(initial=0)) + 1)
        for start in range(0, rotations + 1, width)
    ]
    rng, place = np.random.default_rng(), None
    for group, start in progress_bar(parts, "rotations") if progress else parts:
        if start == 0:
            rng = np.random.default_rng([seeds[0], seeds[1] + group])
            place = turning.blocks_of(units, rng) if null == turning.BLOCKS else None
        stop = min(start + width, rotations + 1)
        drawn = turning.draw(units, stop - start - (start == 0), rng, place=place)
        turns = drawn.with_none() if start == 0 else drawn
        members = np.flatnonzero(number.ravel() == group).tolist()
        yield members, turns._replace(turns=turns.turns.astype(source.dtype))


def _counted(source: Source, rules: Rules) -> list[Rows]:
    """Returns the counts of rows of every cloud, and refuses or warns before anything is tested."""
    clouds = source.rows // source.shape[-2]
    counts = [cloud_of(source, cloud, rules)[1] for cloud in range(clouds)]
    if rules.drop_outliers is None:
        warn_of_long_rows(sum(rows.long for rows in counts))
    return counts


def _told(counts: list[Rows], test: Design, values: np.ndarray, ranks: list[int]) -> dict[str, Any]:
    """Returns what attributes say of rows, ranks, and statistics that cannot be judged."""
    found: dict[str, Any] = {**told(counts)} | ({"shape_rank": min(ranks)} if ranks else {})
    if test.of(registry.PROJECTIONS):
        found["dip_samples"] = min(DIP_SAMPLES, max(rows.samples for rows in counts))
        if test.frame.units > DIP_VECTORS and test.wide:
            found["dip_vectors"] = DIP_VECTORS
    there = np.array([rows.samples for rows in counts]) > 0
    if not there.any():
        return found | {"not_judged": "no row of any cloud is a sample"}
    missing = np.isnan(values.reshape(len(counts), -1))[there]
    fewest = min((rows.samples for rows in counts if rows.samples), default=0)
    why = []
    for one, lost in zip(test.statistics, missing.sum(axis=0), strict=True):
        need = views.needed(one.sees, test.frame.units)
        few = f"{fewest} samples, {need} needed" if fewest < need else views.MISSING[one.sees]
        if lost and one.of != registry.PLANES:
            why.append(f"{one.name}: {lost} of {len(missing)} clouds ({few})")
    return found | ({"not_judged": "; ".join(why)} if why else {})


def under_rotations(
    statistics: Mapping[str, Callable[[int, np.ndarray], float]],
    *,
    clouds: int,
    units: int,
    rotations: int,
    rotation_seed: int,
    axis: str = "seed",
) -> xr.Dataset:
    """Tests any numbers against the same null, each cloud by rotations of its own.

    Args:
      statistics: by name, a function of a cloud's number and a rotation Q, `(units, units)`.
      clouds: The number of clouds.
      units: The number of units n.
      rotations: Number K of random rotations.
      rotation_seed: Seed of the random rotations.
      axis: The name of the axis along which the clouds stand.

    Returns:
      As `rotation_test`, over `axis` and `statistic`.
    """
    turns = whole("rotations", rotations, least=1, most=MOST_ROTATIONS)
    seeded(rotation_seed, field="rotation_seed")
    found = np.empty((clouds, len(statistics), turns + 1))
    for k in range(clouds):
        drawn = bases.rotations(units, turns, np.random.default_rng([rotation_seed, k]))
        for turn, q in enumerate([np.eye(units), *drawn]):
            found[k, :, turn] = [measure(k, q) for measure in statistics.values()]
    dims = (axis, "statistic")
    return verdict(
        xr.Dataset(
            {"value": (dims, found[..., 0]), "null": ((*dims, "rotation"), found[..., 1:])},
            coords={"statistic": list(statistics)},
        )
    )


def verdict(tested: xr.Dataset) -> xr.Dataset:
    """Adds `mean`, `sd`, `low` and `high` of the null, `z = (value − mean)/sd`, `p`, and `rank`.

    `low` and `high` are the null's 2.5 and 97.5 % quantiles; z is only a size, since the null may
    be skewed.

    p = (1 + #{|T_k − T̄| ≥ |T − T̄|})/(K + 1), where T̄ is the mean of all K + 1 values, observed
    and rotated: so they are treated alike, and p is valid exactly. Rotated values that are missing
    (nothing was accepted there) do not count. `rank` is the observed value's place among all of
    them, from −½ (the smallest) to ½: uniform, and symmetric around 0, under the null.

    Args:
      tested: Dataset with `value`, and `null` with one axis `rotation` more.

    Returns:
      The same with `mean`, `sd`, `low`, `high`, `z`, `p`, `rank`, and `places`, the number of
      values among which the observed one has its rank; missing where the value is, or where
      nothing varies.
    """
    value, null = tested["value"], tested["null"]
    there = null.notnull()
    count = there.sum("rotation")
    mean = null.mean("rotation")
    sd = np.sqrt(((null - mean) ** 2).sum("rotation") / (count - 1).where(count > 1))
    centre = (null.sum("rotation") + value) / (count + 1)
    slack = ROUNDING * np.maximum(abs(value), abs(mean))
    far = abs(null - centre) >= abs(value - centre) - slack
    p = (1 + (far & there).sum("rotation")) / (count + 1)
    # A tie counts half, also the observed value's with itself.
    below, upto = ((null < value + side * slack).sum("rotation") for side in (-1, 1))
    rank = (below + upto + 1) / 2 / (count + 1) - 0.5
    known = value.notnull() & (count > 1) & (sd > slack)
    low, high = (
        xr.apply_ufunc(
            _quantile, null, count, input_core_dims=[["rotation"], []], kwargs={"at": at}
        )
        for at in BAND
    )
    return tested.assign(
        mean=mean,
        sd=sd,
        low=low,
        high=high,
        places=(count + 1).where(known),
        z=((value - mean) / sd).where(known),
        p=p.where(known),
        rank=rank.where(known),
    )


def _quantile(null: np.ndarray, count: np.ndarray, at: float) -> np.ndarray:
    """Returns a quantile along the last axis of the `count` values there that are not missing."""
    ordered = np.sort(null, axis=-1)  # what is missing comes last
    place = at * np.maximum(count - 1, 0)
    below, above = (
        np.take_along_axis(ordered, rounded(place).astype(int)[..., None], axis=-1)[..., 0]
        for rounded in (np.floor, np.ceil)
    )
    found: np.ndarray = below + (place % 1) * (above - below)
    return found


def pool(tested: xr.Dataset, *, over: str = "seed") -> xr.Dataset:
    """Tests several clouds together, such as those of seeds, which are the units of replication.

    z says how large the effect is: the mean value against the mean null, whose rotations must be
    independent between clouds, as `rotation_test` makes them along `seed`. `p_networks` says
    whether these networks prefer the basis: their ranks are independent and uniform under the null,
    so that the law of their sum is known exactly, of any number of clouds (`combined_rank`). `p`
    says whether that generalises over seeds: the sign of each one's `rank` among its own rotations
    is a coin toss under the null, so the mean rank is held against all patterns of signs
    (`sign_flip`). It is exact whatever the statistic's law, a single odd cloud among many decides
    nothing, and its smallest value is 2/2^clouds, however few rotations there are.

    Args:
      tested: The Dataset that `rotation_test` returned.
      over: The axis to pool.

    Returns:
      Dataset without that axis: `value`, `mean` (of the null) and `rank`, averaged; `sd` of the
      average value; `z`; `p`, missing of fewer than 6 clouds, of which no significance is claimed;
      `p_networks`, of any number of them along `seed`, whose rotations are independent; and
      `clouds`, how many there were. Clouds without a rank are left out. A few clouds far on one
      side can give z another sign than the mean rank, whose side is the one that p tests.

    Raises:
      InputError: `tested` is something else, or has no such axis.
    """
    check_made("tested", tested, ("value", "mean", "sd", "rank", "places"), "rotation_test")
    if not isinstance(over, str) or over not in tested["rank"].dims:
        raise InputError("over", over, f"must be an axis of {[*tested['rank'].dims]}")
    known = tested["rank"].notnull()
    value, mean, sd = (tested[name].where(known) for name in ("value", "mean", "sd"))
    clouds = known.sum(over)
    spread = np.sqrt((sd * sd).sum(over)) / clouds.where(clouds > 0)
    rank, axes = tested["rank"], [[over]]
    p = xr.apply_ufunc(sign_flip, rank, input_core_dims=axes, vectorize=True)
    networks = xr.apply_ufunc(
        combined_rank, rank, tested["places"], input_core_dims=2 * axes, vectorize=True
    )
    return xr.Dataset(
        {
            "value": value.mean(over),
            "mean": mean.mean(over),
            "rank": tested["rank"].mean(over),
            "sd": spread,
            "z": (value - mean).mean(over) / spread,
            "p": p,
            "p_networks": networks.where(over == "seed"),
            "clouds": clouds,
        }
    )
