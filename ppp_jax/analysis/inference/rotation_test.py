"""The rotation null: is the basis special for this cloud, however clumped (docs/method.md §5)?

A statistic T of latents X is held against T of X·Q_k with Haar-random rotations Q_k. If the law of
the latents does not change under rotations, all of these are exchangeable, so the rank of the
observed one is uniform, at any number of samples.
"""

import concurrent.futures
import functools
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import xarray as xr

from ppp_jax import bases
from ppp_jax.analysis.inference.seeds import sign_flip
from ppp_jax.analysis.io.sources import Latents, Source, check_made, open_source, read, rescale
from ppp_jax.analysis.projection.kernel import check_epsilon, progress_bar
from ppp_jax.analysis.projection.planes import Basis, BasisLike, resolve_basis
from ppp_jax.analysis.statistics import registry
from ppp_jax.analysis.statistics.alignment import build_target, measure_turned
from ppp_jax.analysis.statistics.registry import Statistic
from ppp_jax.errors import InputError, seeded, truth, whole

ROTATIONS, MOST_ROTATIONS = 200, 10**6
BLOCK_BYTES = 2**26  # of rotated latents held at once
WORKERS = min(4, os.cpu_count() or 1)  # clouds tested at once; each takes a few blocks of memory
ROUNDING = 1e-6  # differences below this fraction of the values are no differences


def rotation_test(
    latents: Latents,
    *,
    basis: BasisLike = None,
    statistics: Sequence[str | Statistic] | None = None,
    epsilon: float | None = None,
    rotations: int = ROTATIONS,
    rotation_seed: int = 0,
    first_seed: int = 0,
    progress: bool = False,
) -> xr.Dataset:
    """Tests alignment statistics against the rotation null.

    Clouds that differ along an axis called `seed` get rotations of their own, so that their nulls
    are independent and can be pooled (`pool`); along all other axes the rotations are shared, so
    that clouds compared with each other differ in nothing else.

    Args:
      latents: `(..., samples, units)`, of any kind; leading axes are separate clouds.
      basis: privileged vectors, `(vectors, units)`, or a name; None for the standard basis.
      statistics: what to test: names of `statistics.registry`, or entries of one's own. None: all
        that are functions of a basis, and with an ε those of its planes.
      epsilon: acceptance cosine of the statistics of planes (`angles`), which take several times
        as long as the others.
      rotations: K.
      rotation_seed: Seed of the random rotations.
      first_seed: place along `seed` of the first cloud, where these are a part of more: it gets
        the rotations that it has among all.
      progress: show a progress bar on stderr.

    Returns:
      Dataset over the leading axes and `statistic`: `value`; `null`, the K rotated values on a
      last axis `rotation`; and what `verdict` adds: `mean` and `sd` of them, `z`, `p` and `rank`.

    Raises:
      InputError: an argument out of its range, naming it.

    Example:
      >>> cloud = np.random.default_rng(0).laplace(size=(2000, 8))
      >>> found = rotation_test(cloud, rotations=99)
      >>> float(found["p"].sel(statistic="c4"))
      0.01
    """
    whole("rotations", rotations, least=1, most=MOST_ROTATIONS)
    seeded(rotation_seed, field="rotation_seed")
    whole("first_seed", first_seed, least=0)
    truth("progress", progress)
    if epsilon is not None and len(check_epsilon(epsilon)) != 1:
        raise InputError("epsilon", epsilon, "must be one number")
    asked = registry.resolve(statistics, epsilon)
    source = open_source(latents)
    test = _Test(asked, resolve_basis(basis, source.units), epsilon)
    found = _values(source, test, _groups(source, rotations, (rotation_seed, first_seed), progress))
    names = [one.name for one in asked]
    dims = (*source.dims[:-1], "statistic")
    shaped = found.reshape(*source.shape[:-2], len(names), rotations + 1)
    tested = xr.Dataset(
        {"value": (dims, shaped[..., 0]), "null": ((*dims, "rotation"), shaped[..., 1:])},
        coords={**source.coords, "statistic": names},
        attrs={"rotations": rotations, "rotation_seed": rotation_seed},
    )
    return verdict(tested)


def _values(
    source: Source, test: "_Test", groups: Iterable[tuple[list[int], np.ndarray]]
) -> np.ndarray:
    """Returns every statistic of every cloud, as it is and rotated, `(clouds, statistics, K + 1)`.

    Clouds are tested at the same time, unless they are large.
    """
    small = source.shape[-2] * source.units * source.dtype.itemsize <= BLOCK_BYTES
    blocks: dict[int, list[np.ndarray]] = {k: [] for k in range(math.prod(source.shape[:-2]))}
    with concurrent.futures.ThreadPoolExecutor(WORKERS if small else 1) as workers:
        for members, turns in groups:
            one = functools.partial(_tested, source, test, turns)
            for cloud, values in zip(members, workers.map(one, members), strict=True):
                blocks[cloud].append(values)
    return np.stack([np.concatenate(each, axis=1) for each in blocks.values()])


def _groups(
    source: Source, rotations: int, seeds: tuple[int, int], progress: bool
) -> Iterator[tuple[list[int], np.ndarray]]:
    """Yields clouds that share rotations, and blocks of these, the very first of which is none.

    A cloud's blocks come in the order of its rotations. In wide layers a block is small.
    """
    leading, units = source.shape[:-2], source.units
    number = np.zeros(leading, np.int64)
    if "seed" in source.dims:
        axis = source.dims.index("seed")
        along = [-1 if k == axis else 1 for k in range(len(leading))]
        number = number + np.arange(leading[axis]).reshape(along)
    width = max(1, BLOCK_BYTES // (8 * units**2))
    blocks = [
        (group, start)
        for group in range(int(number.max(initial=0)) + 1)
        for start in range(0, rotations + 1, width)
    ]
    rng = np.random.default_rng()
    for group, start in progress_bar(blocks, "rotations") if progress else blocks:
        if start == 0:
            rng = np.random.default_rng([seeds[0], seeds[1] + group])
        stop = min(start + width, rotations + 1)
        none = [np.eye(units)] if start == 0 else []
        drawn = bases.rotations(units, stop - start - len(none), rng)
        turns = np.stack([*none, *drawn]).astype(source.dtype)
        yield np.flatnonzero(number.ravel() == group).tolist(), turns


def _cloud(source: Source, cloud: int) -> np.ndarray:
    samples = source.shape[-2]
    return rescale(read(source, cloud * samples, (cloud + 1) * samples))[0]


class _Test(NamedTuple):
    """What is measured, against which basis, at which ε."""

    statistics: tuple[Statistic, ...]
    frame: Basis
    epsilon: float | None

    def of(self, kind: str) -> tuple[Statistic, ...]:
        return tuple(one for one in self.statistics if one.of == kind)


def _tested(source: Source, test: _Test, turns: np.ndarray, cloud: int) -> np.ndarray:
    """Returns all statistics of one cloud under many rotations, `(statistics, rotations)`."""
    values = _cloud(source, cloud)
    of_basis = test.of(registry.BASIS)
    found: dict[str, np.ndarray] = {}
    if of_basis:
        target = build_target(test.frame, values.dtype)
        functions = tuple(one.function for one in of_basis)
        names = [one.name for one in of_basis]
        found |= zip(names, measure_turned(functions, values, target, turns), strict=True)
    if of_planes := test.of(registry.PLANES):
        found |= _of_planes(values, of_planes, test, turns)
    return np.stack([found[one.name] for one in test.statistics])


def _of_planes(
    values: np.ndarray, statistics: tuple[Statistic, ...], test: _Test, turns: np.ndarray
) -> dict[str, np.ndarray]:
    width = max(1, BLOCK_BYTES // values.nbytes)
    parts = [
        registry.measured(
            statistics,
            np.matmul(values, turns[start : start + width]),
            test.frame,
            test.epsilon,
        )
        for start in range(0, len(turns), width)
    ]
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
      clouds: how many there are.
      units: n.
      rotations: K.
      rotation_seed: Seed of the random rotations.
      axis: what the clouds are along.

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
    """Adds `mean` and `sd` of the null, `z = (value − mean)/sd`, `p`, and `rank`.

    p = (1 + #{|T_k − T̄| ≥ |T − T̄|})/(K + 1), where T̄ is the mean of all K + 1 values, observed
    and rotated: so they are treated alike, and p is valid exactly. Rotated values that are missing
    (nothing was accepted there) do not count. `rank` is the observed value's place among all of
    them, from −½ (the smallest) to ½: uniform, and symmetric around 0, under the null.

    Args:
      tested: Dataset with `value`, and `null` with one axis `rotation` more.

    Returns:
      The same with `mean`, `sd`, `z`, `p`, `rank`; missing where the value is, or where nothing
      varies.
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
    return tested.assign(
        mean=mean,
        sd=sd,
        z=((value - mean) / sd).where(known),
        p=p.where(known),
        rank=rank.where(known),
    )


def pool(tested: xr.Dataset, *, over: str = "seed") -> xr.Dataset:
    """Tests several clouds together, such as those of seeds, which are the units of replication.

    z says how large the effect is: the mean value against the mean null, whose rotations must be
    independent between clouds, as `rotation_test` makes them along `seed`. p says whether clouds
    agree: the sign of each one's `rank` among its own rotations is a coin toss under the null, so
    the mean rank is held against all patterns of signs (`sign_flip`). It is exact whatever the
    statistic's law, a single odd cloud among many decides nothing, and its smallest value is
    2/2^clouds, however few rotations there are.

    Args:
      tested: what `rotation_test` returns.
      over: the axis to pool.

    Returns:
      Dataset without that axis: `value`, `mean` (of the null) and `rank`, averaged; `sd` of the
      average value; `z`; `p`, missing of fewer than 6 clouds, of which no significance is claimed;
      and `clouds`, how many there were. Clouds without a rank are left out. A few clouds far on
      one side can give z another sign than the mean rank, whose side is the one that p tests.

    Raises:
      InputError: `tested` is something else, or has no such axis.
    """
    check_made("tested", tested, ("value", "mean", "sd", "rank"), "rotation_test")
    if not isinstance(over, str) or over not in tested["rank"].dims:
        raise InputError("over", over, f"must be an axis of {[*tested['rank'].dims]}")
    known = tested["rank"].notnull()
    value, mean, sd = (tested[name].where(known) for name in ("value", "mean", "sd"))
    clouds = known.sum(over)
    spread = np.sqrt((sd * sd).sum(over)) / clouds.where(clouds > 0)
    p = xr.apply_ufunc(sign_flip, tested["rank"], input_core_dims=[[over]], vectorize=True)
    return xr.Dataset(
        {
            "value": value.mean(over),
            "mean": mean.mean(over),
            "rank": tested["rank"].mean(over),
            "sd": spread,
            "z": (value - mean).mean(over) / spread,
            "p": p,
            "clouds": clouds,
        }
    )
