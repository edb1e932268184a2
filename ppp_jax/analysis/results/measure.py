"""Every number of docs/method.md §6–8, of every run of a grid, with its rotation null."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import xarray as xr

from ppp_jax.analysis.inference.rotation_test import ANGLES, ROTATIONS, pool, rotation_test
from ppp_jax.analysis.projection.kernel import progress_bar
from ppp_jax.analysis.statistics.angles import acceptance_ratio
from ppp_jax.analysis.statistics.neighbours import discreteness

KINDS = ("pre", "post")
STATISTICS = ("c4", "unit_kurtosis")  # on orthonormal bases `kurtosis` is C4 once more
ENDS = ("z", "p", "null", "clouds", "rank")
ROUNDING = 1e-6  # a range below this share of the largest number is none
ERRORS = ("train_mse", "validation_mse", "test_mse")
NETWORK = "architecture_respects_rotations"  # the attribute of a run folder's Dataset
HELD_BYTES = 2**26  # of one activation's latents held at once, unless a snapshot has more
NEIGHBOUR_SAMPLES = 1024  # of each cloud, for its discreteness at every snapshot
TEXT = {
    "c4": "alignment C4",
    "unit_kurtosis": "unit kurtosis",
    "acceptance_ratio": "A/A0",
    "discreteness": "discreteness",
    "elliptical": "discreteness beyond its lengths",
    "entropy_deficit": "angular entropy deficit, bits",
    **{f"mode_{m}": f"angular mode {m}" for m in (1, 2, 3, 4)},
}


class Measured(NamedTuple):
    """A grid in numbers.

    Attributes:
      runs: over the axes of the grid, `seed` and `step`: errors, `diverged_step`, and for each
        kind of latents (`pre` and `post`) `c4`, `unit_kurtosis`, `acceptance_ratio`,
        `discreteness`, as `c4_pre` and so on; their rotation null's mean `…_null`, its
        `…_z` and `…_p`. The angles'
        (`entropy_deficit`, `mode_1` to `mode_4`), the acceptance ratio's tests and `elliptical`
        (discreteness against the elliptical reference) are there at the first and the last
        snapshot, and missing in between. Numbers of a run that diverged, at whatever time, and of
        latents that do not vary, are missing.
      pooled: the same tests of the seeds together (`pool`), over the axes of the grid and `step`:
        `c4_pre`, `c4_pre_null` (the null's mean), `c4_pre_z`, `c4_pre_p`, `c4_pre_rank` (above 0
        if most seeds lie above their null), `c4_pre_clouds` (how many seeds) and so on.
    """

    runs: xr.Dataset
    pooled: xr.Dataset


def own_basis(activation: str) -> str | None:
    """Returns the basis that an activation's name gives after `@`, or None for the standard one."""
    return activation.partition("@")[2] or None


def usable(clouds: xr.DataArray, runs: xr.Dataset) -> xr.DataArray:
    """Loads clouds, missing where a run has diverged, at whatever time, or its units have died.

    A run that diverges later is none of the untrained ones either: all snapshots have one sample.

    Args:
      clouds: `(..., sample, unit)`.
      runs: with `diverged_step` of the same runs, over `step` and the clouds' other axes.
    """
    return living(clouds.load().where(runs["diverged_step"].isel(step=-1, drop=True) < 0))


def living(clouds: xr.DataArray) -> xr.DataArray:
    """Returns the clouds, missing where nothing varies, as of a network whose units have died.

    All vectors of such a cloud are one, which may well point along an axis: no distribution.

    Args:
      clouds: `(..., sample, unit)`.
    """
    low, high = clouds.min("sample", skipna=False), clouds.max("sample", skipna=False)
    largest = abs(clouds).max(("sample", "unit"), skipna=False)
    return clouds.where((high - low).max("unit", skipna=False) > ROUNDING * largest)


def measure(
    dataset: xr.Dataset,
    *,
    epsilon: float,
    rotations: int = ROTATIONS,
    seed: int = 0,
    progress: bool = False,
) -> Measured:
    """Measures every run at every snapshot, each against its activation's own basis.

    Args:
      dataset: what `load` returns of a run folder; latents are read in parts.
      epsilon: acceptance cosine.
      rotations: K of the rotation null.
      seed: of the rotations.
      progress: show a progress bar on stderr.
    """
    runs = dataset[[*ERRORS, "diverged_step"]].load()
    places = [(kind, i) for kind in KINDS for i in range(dataset.sizes["activation"])]
    columns: dict[str, list[xr.Dataset]] = {kind: [] for kind in KINDS}
    pooled: dict[str, list[xr.Dataset]] = {kind: [] for kind in KINDS}
    # In parts: the latents of a grid need not fit into memory.
    for kind, i in progress_bar(places, "rotations") if progress else places:
        here = {"activation": [i]}
        one = _Test(own_basis(str(dataset["activation"].values[i])), epsilon, rotations, seed)
        tests = _measure(dataset[kind].isel(here), runs.isel(here), one)
        angles = _at_all_steps(_columns(tests.angles), dataset["step"])
        columns[kind].append(_columns(tests.everywhere).assign(angles).assign(tests.numbers))
        ends = _at_all_steps(_columns(pool(tests.angles)), dataset["step"])
        pooled[kind].append(_columns(pool(tests.everywhere)).assign(ends))
    healthy = runs["diverged_step"].isel(step=-1, drop=True) < 0
    errors = {name: runs[name].where(healthy) for name in ERRORS}
    numbers, whole = _joined(columns), _joined(pooled)
    runs = _described(runs.assign(errors).assign(numbers)).assign_attrs(rotations=rotations)
    return Measured(runs, xr.Dataset(whole))


def _joined(columns: dict[str, list[xr.Dataset]]) -> dict[str, xr.DataArray]:
    """Puts the activations together again, and the kind of latents into the names."""
    return {
        _named(str(name), kind): xr.concat([one[name] for one in parts], "activation")
        for kind, parts in columns.items()
        for name in parts[0]
    }


class _Test(NamedTuple):
    """How latents are tested."""

    basis: Any
    epsilon: float
    rotations: int
    seed: int


class _Tests(NamedTuple):
    """What was found of one activation's latents, over the axes of the grid, `seed` and `step`.

    Attributes:
      everywhere: the rotation test of alignment, without the rotated values.
      angles: that of the angles' statistics, at the first and the last snapshot.
      numbers: `acceptance_ratio`, `discreteness`, and at those two `elliptical`.
    """

    everywhere: xr.Dataset
    angles: xr.Dataset
    numbers: xr.Dataset


def _measure(latents: xr.DataArray, runs: xr.Dataset, how: _Test) -> _Tests:
    """Measures one activation's latents, of one kind, part by part."""
    last = latents.sizes["step"] - 1
    found = _Tests(*(_nothing(latents) for _ in _Tests._fields))
    for at, part in _parts(latents):
        of_runs = {dim: where for dim, where in at.items() if dim != "step"}
        clouds = usable(part, runs.isel(of_runs))
        steps = np.arange(last + 1)[at["step"]]
        at_end = np.isin(steps, [0, last])
        options: dict[str, Any] = {"basis": how.basis, "rotations": how.rotations,
                                   "seed": how.seed, "first_seed": at["seed"].start}  # fmt: skip
        _put(found.numbers, at, _numbers(
            clouds,
            acceptance_ratio=acceptance_ratio(clouds, basis=how.basis, epsilon=how.epsilon),
            discreteness=discreteness(clouds, max_samples=NEIGHBOUR_SAMPLES),
        ))  # fmt: skip
        if not at_end.all():
            tested = rotation_test(clouds.isel(step=~at_end), **options)
            _put(found.everywhere, {**at, "step": steps[~at_end]}, _of(tested, STATISTICS))
        if at_end.any():
            there, ends = {**at, "step": steps[at_end]}, clouds.isel(step=at_end)
            tested = rotation_test(ends, epsilon=how.epsilon, **options)
            _put(found.everywhere, there, _of(tested, STATISTICS))
            _put(found.angles, there, _of(tested, ANGLES))
            _put(found.numbers, there, _numbers(ends, elliptical=discreteness(
                ends, elliptical=True, max_samples=NEIGHBOUR_SAMPLES)))  # fmt: skip
    return found._replace(angles=found.angles.isel(step=[0, -1] if last else [0]))


def _of(tested: xr.Dataset, statistics: Sequence[str]) -> xr.Dataset:
    """Chooses statistics; the rotated values have told what they tell."""
    return tested.drop_vars("null").sel(statistic=list(statistics))


def _numbers(clouds: xr.DataArray, **numbers: np.ndarray) -> xr.Dataset:
    """Labels one number per cloud."""
    return xr.Dataset({name: (clouds.dims[:-2], values) for name, values in numbers.items()})


def _nothing(latents: xr.DataArray) -> xr.Dataset:
    """Returns the axes and labels of clouds, of which nothing is measured yet."""
    dims = latents.dims[:-2]
    coords = {name: coord.variable for name, coord in latents.coords.items()
              if coord.dims and set(coord.dims) <= set(dims)}  # fmt: skip
    return xr.Dataset(coords=coords, attrs={"shape": latents.shape[:-2]})


def _put(whole: xr.Dataset, at: Mapping[str, Any], part: xr.Dataset) -> None:
    """Puts what was measured of a part in its place; what is never put is missing."""
    for name, values in part.data_vars.items():
        if name not in whole:
            more = values.shape[len(at) :]
            missing = np.full((*whole.attrs["shape"], *more), np.nan)
            labels = {dim: values[dim] for dim in values.dims[len(at) :]}
            whole[name] = xr.DataArray(missing, coords=labels, dims=values.dims)
        whole[name].values[tuple(at.values())] = values.values


def _parts(latents: xr.DataArray) -> Iterator[tuple[dict[str, slice], xr.DataArray]]:
    """Yields where parts stand, and the parts: all of it, or a cell's snapshot, or a run's.

    Seeds share the files of a snapshot: where they can, they are read together.
    """
    sizes = {str(dim): size for dim, size in latents.sizes.items() if dim not in ("sample", "unit")}
    cloud = latents.nbytes / np.prod(list(sizes.values()))
    apart = [dim for dim in sizes if dim != "seed"]
    if latents.nbytes <= HELD_BYTES:
        apart = []
    elif cloud * sizes["seed"] > HELD_BYTES:
        apart = list(sizes)
    for place in np.ndindex(*(sizes[dim] for dim in apart)):
        at = {dim: slice(0, size) for dim, size in sizes.items()}
        at |= {dim: slice(k, k + 1) for dim, k in zip(apart, place, strict=True)}
        yield at, latents.isel(at)


def _at_all_steps(ends: xr.Dataset, steps: xr.DataArray) -> dict[Any, xr.DataArray]:
    """Spreads what was measured at some snapshots over all, missing elsewhere."""
    return dict(ends.reindex(step=steps).data_vars)


def _columns(tested: xr.Dataset) -> xr.Dataset:
    """Spreads a test's statistics out: `c4`, `c4_null` and so on; if pooled, `c4_clouds` too."""
    parts = {"": "value", "_null": "mean", "_z": "z", "_p": "p"}
    if "clouds" in tested:
        parts |= {"_clouds": "clouds", "_rank": "rank"}
    return xr.Dataset({
        f"{statistic}{end}": tested[part].sel(statistic=statistic, drop=True)
        for statistic in tested["statistic"].values.tolist()
        for end, part in parts.items()
    })  # fmt: skip


def _named(name: str, kind: str) -> str:
    """Returns `c4_pre_z` of `c4_z`."""
    stem, _, end = name.rpartition("_")
    return f"{stem}_{kind}_{end}" if end in ENDS else f"{name}_{kind}"


def _described(runs: xr.Dataset) -> xr.Dataset:
    for kind in KINDS:
        for name, text in TEXT.items():
            if f"{name}_{kind}" in runs:
                runs[f"{name}_{kind}"].attrs["long_name"] = f"{text}, {kind}-activation"
    return runs


def cell_dims(runs: xr.Dataset) -> tuple[str, ...]:
    """Returns the axes of the grid, without seeds and snapshots."""
    return tuple(str(dim) for dim in runs["test_mse"].dims if dim not in ("seed", "step"))


def cells(runs: xr.Dataset) -> Iterable[tuple[dict[str, Any], dict[str, int]]]:
    """Yields each cell at each learning rate and dose: its names, and its place along the axes.

    Among the names is `clean`: whether nothing but the activation prefers a basis, so far as
    optimiser, initialiser and architecture go (docs/method.md §11).
    """
    dims = cell_dims(runs)
    for place in np.ndindex(*(runs.sizes[dim] for dim in dims)):
        at = dict(zip(dims, place, strict=True))
        part = runs[["test_mse"]].isel(at)
        names = {dim: part[dim].item() for dim in dims if dim != "rate"}
        rotation = [f"{axis}_respects_rotations" for axis in ("optimizer", "initializer")]
        names |= {name: part[name].item() for name in ("learning_rate", *rotation)}
        clean = all(names[name] for name in rotation)
        yield names | {"clean": clean and bool(runs.attrs.get(NETWORK, True))}, at
