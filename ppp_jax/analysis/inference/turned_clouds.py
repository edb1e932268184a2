"""What is measured of clouds under rotations: what statistics see of each, kept between them.

Narrow clouds are measured against the turned basis: on an orthonormal one by sums of products of
pairs of units, which serve all rotations, else by the function of each statistic. Of wide ones on
an orthonormal basis most statistics follow from sums along the units, which one product with a
rotation gives for all of them.
"""

import concurrent.futures
import functools
import math
import threading
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np

from ppp_jax.analysis.io.rows import RAISE, Rows, kept_rows
from ppp_jax.analysis.io.sources import Source, read, rescale
from ppp_jax.analysis.projection import turns as turning
from ppp_jax.analysis.projection import views
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
    moments_of_pairs,
    windows_of,
)
from ppp_jax.analysis.statistics.quantisation import DIP_VECTORS, drawn_for_dips, project
from ppp_jax.analysis.statistics.registry import Statistic
from ppp_jax.errors import InputError, choice

BLOCK_BYTES = 2**26  # of rotated latents held at once
KEPT_BYTES = 2**28  # of clouds and what statistics see of them, between blocks of rotations


class Rules(NamedTuple):
    """What becomes of rows that are no ordinary samples, as `kept_rows` takes it."""

    nonfinite: str = RAISE
    drop_outliers: float | None = None


def cloud_of(source: Source, cloud: int, rules: Rules) -> tuple[np.ndarray, Rows]:
    """Returns a cloud with zeros in the place of rows that do not count, and its counts of rows."""
    samples = source.shape[-2]
    values = read(source, cloud * samples, (cloud + 1) * samples)
    return kept_rows(values, **rules._asdict())


class Design(NamedTuple):
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
    ) -> "Design":
        """Decides the null that a basis allows, and how it is measured."""
        choice("null", null, turning.NULLS)
        planes = any(one.of == registry.PLANES for one in statistics)
        frame = resolve_basis(basis, units) if planes else resolve_vectors(basis, units)
        orthonormal = frame.orthonormal
        if null == turning.BLOCKS and not orthonormal:
            problem = f"needs an orthonormal basis, which {frame.name} is not; use null='full'"
            raise InputError("null", null, problem)
        if null == turning.AUTO:
            blocks = orthonormal and units > turning.MOST_FULL
            null = turning.BLOCKS if blocks else turning.FULL
        wide = null == turning.BLOCKS or (orthonormal and units > views.NARROW)
        return cls(statistics, frame, epsilon, rules, null, wide)

    def of(self, kind: str) -> tuple[Statistic, ...]:
        """Returns the statistics that are functions of something, such as `registry.BASIS`."""
        return tuple(one for one in self.statistics if one.of == kind)

    def told(self) -> dict[str, Any]:
        """Returns what attributes say of the null."""
        blocks = self.null == turning.BLOCKS
        width = min(self.frame.units, turning.BLOCK_UNITS)
        return {"null": self.null} | ({"block_units": width} if blocks else {})


class Views(NamedTuple):
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


class Clouds:
    """What statistics see of each cloud, made once for all blocks of rotations where it fits."""

    def __init__(self, source: Source, test: Design):
        """Looks at no cloud yet."""
        self.source, self.test = source, test
        # A wide cloud is taken in the coordinates of its orthonormal basis, the standard one there.
        self.frame = resolve_vectors(None, source.units) if test.wide else test.frame
        self.target = build_target(self.frame, source.dtype)
        self.asked = dict.fromkeys([views.SAMPLES, *(one.sees for one in test.statistics)])
        self.kept: dict[int, Views] = {}
        self.ranks: dict[int, int] = {}  # of clouds that were whitened
        size = math.prod(source.shape[-2:]) * source.dtype.itemsize
        self.most = max(1, KEPT_BYTES // (2 * size))  # clouds, each with its whitened samples
        self.lock = threading.Lock()

    def parts(self) -> Iterator[range]:
        """Yields numbers of clouds that may be held at once."""
        clouds = math.prod(self.source.shape[:-2])
        for start in range(0, clouds, self.most):
            yield range(start, min(start + self.most, clouds))

    def of(self, cloud: int, place: np.ndarray | None = None) -> Views:
        """Returns the views of a cloud.

        Args:
          cloud: Number of the cloud.
          place: The blocks within which a wide cloud is turned, the same in every call.
        """
        with self.lock:
            if cloud in self.kept:
                return self.kept[cloud]
        values, _ = rescale(cloud_of(self.source, cloud, self.test.rules)[0])
        if self.test.wide and self.test.frame.vectors is not None:
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


def _narrow(found: dict[str, np.ndarray | None]) -> Views:
    shape = found.get(views.SHAPE)
    return Views(found, {}, None if shape is None else views.support(shape), None)


def _in_blocks(test: Design, found: dict[str, np.ndarray | None], place: np.ndarray) -> Views:
    """Puts the views of a wide cloud into windows."""
    support = turning.support_of(found.get(views.STILL))
    windows = {}
    for name in (views.SAMPLES, views.SHAPE):
        values = found.get(name)
        seeing = [one for one in test.of(registry.BASIS) if one.sees == name]
        if values is None or not any(one.along for one in seeing):
            continue
        within = support if name == views.SHAPE else None
        windows[name] = windows_of(values, place, support=within, whitened=name == views.SHAPE)
    return Views(found, windows, None, support)


def measure(seen: Clouds, turns: Turns, cloud: int) -> np.ndarray:
    """Returns all statistics of one cloud under many rotations, `(statistics, rotations)`.

    Args:
      seen: The clouds.
      turns: The rotations.
      cloud: Number of the cloud.
    """
    test, target = seen.test, seen.target
    of_cloud = seen.of(cloud, turns.place if test.wide else None)
    values = of_cloud.whole[views.SAMPLES]
    assert values is not None  # the samples can always be seen
    found: dict[str, np.ndarray] = {}
    with concurrent.futures.ThreadPoolExecutor(1) as beside:
        # Dips are measured on one core: of a wide cloud beside its products, which need both.
        of_projections = test.of(registry.PROJECTIONS)
        onto = functools.partial(
            _of_projections, values, of_projections, target, turns, wide=test.wide
        )
        dips = beside.submit(onto) if test.wide and of_projections else None
        for sees in dict.fromkeys(one.sees for one in test.of(registry.BASIS)):
            found |= _of_seen(of_cloud, sees, test, target, turns)
        if of_projections:
            found |= onto() if dips is None else dips.result()
    if of_planes := test.of(registry.PLANES):
        planes = resolve_basis(None, test.frame.units) if test.wide else test.frame
        found |= _of_planes(values, of_planes, planes, test.epsilon, turns)
    return np.stack([found[one.name] for one in test.statistics])


def _of_seen(
    of_cloud: Views, sees: str, test: Design, target: Target, turns: Turns
) -> dict[str, np.ndarray]:
    """Measures the functions of a basis that see the same of a cloud."""
    seeing = [one for one in test.of(registry.BASIS) if one.sees == sees]
    if of_cloud.whole[sees] is None:  # what cannot be told has no number
        return {one.name: np.full(len(turns.turns), np.nan) for one in seeing}
    if test.wide:
        return _of_wide(of_cloud, sees, seeing, target, turns)
    return _of_view(of_cloud, sees, seeing, target, turns.turns[:, 0])


def _of_view(
    of_cloud: Views, sees: str, statistics: list[Statistic], target: Target, turns: np.ndarray
) -> dict[str, np.ndarray]:
    """Measures what functions of a basis see of a narrow cloud."""
    values = of_cloud.whole[sees]
    assert values is not None
    if sees == views.SHAPE and of_cloud.axes is not None:
        turns = views.turns_within(of_cloud.axes, turns)
    found: dict[str, np.ndarray] = {}
    if target.planes is None and (quick := [one for one in statistics if one.even]):
        vectors = np.matmul(target.vectors.astype(np.float64), turns.swapaxes(1, 2))
        with np.errstate(divide="ignore", invalid="ignore"):  # a missing cloud has no number
            if (sums := moments_of_pairs(values, vectors)) is not None:
                found = {one.name: one.along(sums) for one in quick if one.along}
    if slow := [one for one in statistics if one.name not in found]:
        functions = tuple(one.function for one in slow)
        measured = measure_turned(functions, values, target, turns)
        found |= dict(zip([one.name for one in slow], measured, strict=True))
    return found


def _of_wide(
    of_cloud: Views, sees: str, statistics: list[Statistic], target: Target, turns: Turns
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
