"""The rotation null: is the basis special for this cloud, however clumped (docs/method.md §5)?

A statistic T of latents X is held against T of X·Q_k with Haar-random rotations Q_k. If the law of
the latents does not change under rotations, all of these are exchangeable, so the rank of the
observed one is uniform, at any number of samples.
"""

import concurrent.futures
import functools
import math
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import xarray as xr

from ppp_jax import bases
from ppp_jax.analysis.inference.seeds import combined_rank, sign_flip
from ppp_jax.analysis.io.progress import progress_bar
from ppp_jax.analysis.io.rows import RAISE, Rows, check_rows, kept_rows, told, warn_of_long_rows
from ppp_jax.analysis.io.sources import (
    Latents,
    Source,
    check_free,
    check_made,
    open_source,
    read,
    rescale,
)
from ppp_jax.analysis.projection import turns as turning
from ppp_jax.analysis.projection import views
from ppp_jax.analysis.projection.kernel import check_epsilon
from ppp_jax.analysis.projection.planes import (
    Basis,
    BasisLike,
    resolve_basis,
    resolve_vectors,
)
from ppp_jax.analysis.projection.turns import Support, Turns
from ppp_jax.analysis.statistics import registry
from ppp_jax.analysis.statistics.alignment import (
    Target,
    build_target,
    measure_all,
    measure_turned,
)
from ppp_jax.analysis.statistics.moments import (
    Windows,
    measure_moments,
    measure_variances,
    windows_of,
)
from ppp_jax.analysis.statistics.quantisation import (
    DIP_SAMPLES,
    DIP_VECTORS,
    drawn_for_dips,
    project,
)
from ppp_jax.analysis.statistics.registry import Statistic
from ppp_jax.errors import InputError, choice, seeded, truth, whole

ROTATIONS, MOST_ROTATIONS = 200, 10**6
BLOCK_BYTES = 2**26  # of rotated latents held at once
WORKERS = min(4, os.cpu_count() or 1)  # clouds tested at once; each takes a few blocks of memory
BAND = (0.025, 0.975)  # quantiles of the null that are shown
KEPT_BYTES = 2**28  # of clouds and what statistics see of them, between blocks of rotations
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
      rotations: K.
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
    whole("rotations", rotations, least=1, most=MOST_ROTATIONS)
    seeded(rotation_seed, field="rotation_seed")
    whole("first_seed", first_seed, least=0)
    truth("progress", progress)
    if epsilon is not None and len(check_epsilon(epsilon)) != 1:
        raise InputError("epsilon", epsilon, "must be one number")
    check_rows(nonfinite, drop_outliers)
    asked = registry.resolve(statistics, epsilon)
    source = open_source(latents)
    rules = Rules(nonfinite, drop_outliers)
    check_free(source, NAMES)
    test = _Test.of_basis(asked, basis, source.units, epsilon, rules, null)
    rows = _counted(source, rules)
    groups = _groups(source, test.null, rotations, (rotation_seed, first_seed), progress)
    found, ranks = _values(source, test, groups)
    names = [one.name for one in asked]
    dims = (*source.dims[:-1], "statistic")
    shaped = found.reshape(*source.shape[:-2], len(names), rotations + 1)
    attributes = _told(rows, test, shaped[..., 0], ranks)
    tested = xr.Dataset(
        {"value": (dims, shaped[..., 0]), "null": ((*dims, "rotation"), shaped[..., 1:])},
        coords={**source.coords, "statistic": names},
        attrs={"rotations": rotations, "rotation_seed": rotation_seed} | test.told() | attributes,
    )
    return verdict(tested)


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
    test = _Test(tuple(statistics), frame, None, Rules(), turning.FULL, wide=False)
    seen = _Seen(source, test)
    target = build_target(test.frame, source.dtype)
    parts = list(seen.parts())
    with concurrent.futures.ThreadPoolExecutor(WORKERS) as workers:
        measured = [
            _as_they_are([one.whole for one in workers.map(seen.of, part)], test, target)
            for part in parts
        ]
    found = np.concatenate(measured, axis=1).T
    names = [one.name for one in statistics]
    dims = (*source.dims[:-1], "statistic")
    return xr.Dataset(
        {"value": (dims, found.reshape(*source.shape[:-2], len(names)))},
        coords={**source.coords, "statistic": names},
    )


def _as_they_are(
    clouds: list[dict[str, np.ndarray | None]], test: "_Test", target: Target
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


def _values(
    source: Source, test: "_Test", groups: Iterable[tuple[list[int], Turns]]
) -> tuple[np.ndarray, list[int]]:
    """Returns every statistic of every cloud, and the rank of each that was whitened.

    The first are `(clouds, statistics, K + 1)`, as they are and rotated K times. Clouds are tested
    at the same time, unless they are large.
    """
    small = source.shape[-2] * source.units * source.dtype.itemsize <= BLOCK_BYTES
    blocks: dict[int, list[np.ndarray]] = {k: [] for k in range(math.prod(source.shape[:-2]))}
    seen = _Seen(source, test)
    with concurrent.futures.ThreadPoolExecutor(WORKERS if small else 1) as workers:
        for members, turns in groups:
            one = functools.partial(_tested, seen, test, turns)
            for cloud, values in zip(members, workers.map(one, members), strict=True):
                blocks[cloud].append(values)
    found = np.stack([np.concatenate(each, axis=1) for each in blocks.values()])
    return found, list(seen.ranks.values())


class _Seen:
    """What statistics see of each cloud, made once for all blocks of rotations where it fits."""

    def __init__(self, source: Source, test: "_Test"):
        self.source, self.test = source, test
        self.asked = dict.fromkeys([views.SAMPLES, *(one.sees for one in test.statistics)])
        self.kept: dict[int, _Views] = {}
        self.ranks: dict[int, int] = {}  # of clouds that were whitened
        size = math.prod(source.shape[-2:]) * source.dtype.itemsize
        self.most = max(1, KEPT_BYTES // (2 * size))  # clouds, each with its whitened samples
        self.lock = threading.Lock()

    def parts(self) -> Iterator[range]:
        """Yields numbers of clouds that may be held at once."""
        clouds = math.prod(self.source.shape[:-2])
        for start in range(0, clouds, self.most):
            yield range(start, min(start + self.most, clouds))

    def of(self, cloud: int, place: np.ndarray | None = None) -> "_Views":
        """Returns the views of a cloud.

        Args:
          cloud: Number of the cloud.
          place: The blocks within which a wide cloud is turned, the same in every call.
        """
        with self.lock:
            if cloud in self.kept:
                return self.kept[cloud]
        values, _ = rescale(_cloud(self.source, cloud, self.test.rules)[0])
        if self.test.wide and self.test.frame.vectors is not None:
            # An orthonormal basis is the standard one in its own coordinates.
            values = values @ self.test.frame.vectors.T.astype(values.dtype)
        found = views.views_of(values, self.asked)
        made = _in_blocks(self.test, found, place) if place is not None else _narrow(found)
        with self.lock:
            if (shape := found.get(views.SHAPE)) is not None:
                still = found[views.STILL]
                self.ranks[cloud] = shape.shape[1] - (0 if still is None else still.shape[1])
            while len(self.kept) >= self.most:
                del self.kept[next(iter(self.kept))]
            self.kept[cloud] = made
        return made


class _Views(NamedTuple):
    """What statistics see of a cloud.

    Attributes:
      whole: Its views by their names; None where there is none.
      windows: Of a wide cloud, the samples and the shape as `measure_moments` takes them.
      axes: Of a narrow cloud, the axes along which the shape varies, `(units, rank)`.
      support: Of a wide cloud, how rotations stay within them; None if it varies along all.
    """

    whole: dict[str, np.ndarray | None]
    windows: dict[str, Windows]
    axes: np.ndarray | None
    support: Support | None


def _narrow(found: dict[str, np.ndarray | None]) -> _Views:
    shape = found.get(views.SHAPE)
    return _Views(found, {}, None if shape is None else views.support(shape), None)


def _in_blocks(test: "_Test", found: dict[str, np.ndarray | None], place: np.ndarray) -> _Views:
    """Puts the views of a wide cloud into windows, and lets go of what nothing else sees."""
    support = turning.support_of(found.get(views.STILL))
    windows, whole = {}, dict(found)
    for name in (views.SAMPLES, views.SHAPE):
        values = found.get(name)
        seeing = [one for one in test.of(registry.BASIS) if one.sees == name]
        if values is None or not any(one.along for one in seeing):
            continue
        within = support if name == views.SHAPE else None
        windows[name] = windows_of(values, place, support=within)
        if name == views.SHAPE and all(one.along for one in seeing):
            whole[name] = values[:1]  # it is there, and its windows are what is measured
    return _Views(whole, windows, None, support)


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
    width = max(1, BLOCK_BYTES // (8 * units * mixed))
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


class Rules(NamedTuple):
    """What becomes of rows that are no ordinary samples, as `kept_rows` takes it."""

    nonfinite: str = RAISE
    drop_outliers: float | None = None


def _cloud(source: Source, cloud: int, rules: Rules) -> tuple[np.ndarray, Rows]:
    samples = source.shape[-2]
    values = read(source, cloud * samples, (cloud + 1) * samples)
    return kept_rows(values, **rules._asdict())


def _counted(source: Source, rules: Rules) -> list[Rows]:
    """Returns the counts of rows of every cloud, and refuses or warns before anything is tested."""
    clouds = source.rows // source.shape[-2]
    counts = [_cloud(source, cloud, rules)[1] for cloud in range(clouds)]
    if rules.drop_outliers is None:
        warn_of_long_rows(sum(rows.long for rows in counts))
    return counts


def _told(
    counts: list[Rows], test: "_Test", values: np.ndarray, ranks: list[int]
) -> dict[str, Any]:
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


class _Test(NamedTuple):
    """What is measured, against which basis, at which ε, and against which null."""

    statistics: tuple[Statistic, ...]
    frame: Basis
    epsilon: float | None
    rules: Rules
    null: str
    wide: bool

    @classmethod
    def of_basis(
        cls,
        statistics: tuple[Statistic, ...],
        basis: BasisLike,
        units: int,
        epsilon: float | None,
        rules: Rules,
        null: str,
    ) -> "_Test":
        """Decides the null that a basis allows, and how it is measured."""
        choice("null", null, turning.NULLS)
        planes = any(one.of == registry.PLANES for one in statistics)
        frame = resolve_basis(basis, units) if planes else resolve_vectors(basis, units)
        orthonormal = frame.gram is None and frame.size == units
        if null == turning.BLOCKS and not orthonormal:
            problem = f"needs an orthonormal basis, which {frame.name} is not; use null='full'"
            raise InputError("null", null, problem)
        if null == turning.AUTO:
            blocks = orthonormal and units > turning.MOST_FULL
            null = turning.BLOCKS if blocks else turning.FULL
        wide = null == turning.BLOCKS or (orthonormal and units > views.NARROW)
        return cls(statistics, frame, epsilon, rules, null, wide)

    def of(self, kind: str) -> tuple[Statistic, ...]:
        return tuple(one for one in self.statistics if one.of == kind)

    def told(self) -> dict[str, Any]:
        """Returns what attributes say of the null."""
        blocks = self.null == turning.BLOCKS
        width = min(self.frame.units, turning.BLOCK_UNITS)
        return {"null": self.null} | ({"block_units": width} if blocks else {})


def _tested(seen: _Seen, test: _Test, turns: Turns, cloud: int) -> np.ndarray:
    """Returns all statistics of one cloud under many rotations, `(statistics, rotations)`."""
    of_cloud = seen.of(cloud, turns.place if test.wide else None)
    values = of_cloud.whole[views.SAMPLES]
    assert values is not None  # the samples can always be seen
    found: dict[str, np.ndarray] = {}
    frame = resolve_vectors(None, test.frame.units) if test.wide else test.frame
    target = build_target(frame, values.dtype)
    for sees in dict.fromkeys(one.sees for one in test.of(registry.BASIS)):
        seeing = [one for one in test.of(registry.BASIS) if one.sees == sees]
        if of_cloud.whole[sees] is None:  # what cannot be told has no number
            found |= {one.name: np.full(len(turns.turns), np.nan) for one in seeing}
        elif test.wide:
            found |= _of_wide(of_cloud, sees, seeing, target, turns)
        else:
            found |= _of_view(of_cloud, sees, seeing, target, turns.turns[:, 0])
    if of_projections := test.of(registry.PROJECTIONS):
        found |= _of_projections(values, of_projections, target, turns, wide=test.wide)
    if of_planes := test.of(registry.PLANES):
        planes = resolve_basis(None, frame.units) if test.wide else test.frame
        found |= _of_planes(values, of_planes, planes, test.epsilon, turns)
    return np.stack([found[one.name] for one in test.statistics])


def _of_view(
    of_cloud: _Views, sees: str, statistics: list[Statistic], target: Target, turns: np.ndarray
) -> dict[str, np.ndarray]:
    """Measures what functions of a basis see of a narrow cloud."""
    values = of_cloud.whole[sees]
    assert values is not None
    if sees == views.SHAPE and of_cloud.axes is not None:
        turns = views.turns_within(of_cloud.axes, turns)
    functions = tuple(one.function for one in statistics)
    names = [one.name for one in statistics]
    return dict(zip(names, measure_turned(functions, values, target, turns), strict=True))


def _of_wide(
    of_cloud: _Views, sees: str, statistics: list[Statistic], target: Target, turns: Turns
) -> dict[str, np.ndarray]:
    """Measures what functions of the standard basis see of a wide cloud.

    What follows from sums along the units takes one product for all of them. The others, those of
    the mean and of users, get the basis.
    """
    values, support = of_cloud.whole[sees], None
    assert values is not None
    if sees == views.SHAPE:
        support = of_cloud.support
        turns = turns if support is None else turning.within(turns, support)
    found: dict[str, np.ndarray] = {}
    if quick := [one for one in statistics if one.along]:
        samples = sees in (views.SAMPLES, views.SHAPE)
        axes = None if support is None else support.axes
        maps = turns if axes is None else turning.onto_units(turns, axes)
        sums = (
            measure_moments(of_cloud.windows[sees], maps)
            if samples
            else measure_variances(values, turns)
        )
        with np.errstate(divide="ignore", invalid="ignore"):  # a missing cloud has no number
            found |= {one.name: one.along(sums) for one in quick if one.along}
    if slow := [one for one in statistics if not one.along]:
        functions = tuple(one.function for one in slow)
        if sees == views.MEAN:
            turned = np.stack([turns.turned(values, k) for k in range(len(turns.turns))])
            measured = measure_all(functions, turned, target)
        else:
            dense = turning.dense_within(turns, support)
            measured = measure_turned(functions, values, target, dense)
        found |= dict(zip([one.name for one in slow], measured, strict=True))
    return found


def _of_projections(
    values: np.ndarray,
    statistics: tuple[Statistic, ...],
    target: Target,
    turns: Turns,
    *,
    wide: bool,
) -> dict[str, np.ndarray]:
    """Measures projections onto the vectors of the turned basis, rotation by rotation."""
    samples = values[views.present(values)]
    if len(samples) < 2 or not np.isfinite(samples).all():
        return {one.name: np.full(len(turns.turns), np.nan) for one in statistics}
    samples, vectors = drawn_for_dips(samples), target.vectors
    if wide and len(turns.place) == 1 and len(vectors) > DIP_VECTORS:
        drawn = np.random.default_rng(0).choice(len(vectors), DIP_VECTORS, replace=False)
        vectors = vectors[np.sort(drawn)]
    onto: Iterable[np.ndarray] = (project(samples, vectors @ q.T) for q in turns.turns[:, 0])
    if len(turns.place) > 1:
        onto = _onto_blocks(samples, turns)
    found = [registry.measured(statistics, each) for each in onto]
    return {one.name: np.array([each[one.name] for each in found]) for one in statistics}


def _onto_blocks(samples: np.ndarray, turns: Turns) -> Iterator[np.ndarray]:
    """Yields the projections onto the turned axes of some blocks, `(vectors, samples)`."""
    sizes = np.cumsum(np.count_nonzero(turns.place >= 0, axis=1))
    blocks = range(1 + int(np.argmax(sizes >= min(DIP_VECTORS, sizes[-1]))))
    for turn in turns.turns:
        parts = []
        for block in blocks:
            there = turns.place[block] >= 0
            members = turns.place[block][there]
            parts.append(project(samples[:, members], turn[block][there][:, there].T))
        yield np.concatenate(parts)


def _of_planes(
    values: np.ndarray,
    statistics: tuple[Statistic, ...],
    frame: Basis,
    epsilon: float | None,
    turns: Turns,
) -> dict[str, np.ndarray]:
    width = max(1, BLOCK_BYTES // values.nbytes)
    parts = []
    for start in range(0, len(turns.turns), width):
        which = range(start, min(start + width, len(turns.turns)))
        turned = np.stack([turns.turned(values, k) for k in which])
        parts.append(registry.measured(statistics, turned, frame, epsilon))
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


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
      rotations: K.
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
