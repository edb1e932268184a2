"""Every number of docs/method.md §6–8, of every run of a grid, with its rotation null."""

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import xarray as xr

from ppp_jax.analysis.inference.rotation_test import ROTATIONS, observed, pool, rotation_test
from ppp_jax.analysis.io.progress import progress_bar
from ppp_jax.analysis.io.rows import Rows, kept_rows
from ppp_jax.analysis.projection.planes import Basis, resolve_basis
from ppp_jax.analysis.results.kept_numbers import Once, always
from ppp_jax.analysis.statistics import registry
from ppp_jax.analysis.statistics.registry import BASIS, CLOUD, PLANES, PROJECTIONS

SITES = ("pre", "post")
# The axes of a grid that tell cells apart, in its order; `grid` itself would import optax.
CELL_AXES = (
    "activation",
    "depth",
    "width",
    "optimizer",
    "initializer",
    "learning_rate",
    "dose",
)
ENDS = ("p_networks", "z", "p", "null", "clouds", "rank")
THINNING_SEED = 0
DIP_SAMPLES = 512  # of each cloud, for dips under many rotations
# Angles and dips take most of the time: of several seeds they get K divided by these, but not fewer
# than the least. Of one seed p is at least 1/(K + 1): it gets them all.
SHARES = {BASIS: 1, PLANES: 2, PROJECTIONS: 4}
LEAST_SHARE = 49
ROUNDING = 1e-6  # a range below this fraction of the largest number is none
ERRORS = ("train_mse", "validation_mse", "test_mse")
COUNTS = {"rows": "samples", "rows_zero": "zero", "rows_long": "long"}  # of the rows of a cloud
COUNTED = "counted"  # whether a cloud is one of those that tables and pictures show
NETWORK = "architecture_respects_rotations"  # the attribute of a run folder's Dataset
HELD_BYTES = 2**26  # of one activation's latents held at once, unless a snapshot has more


class Measured(NamedTuple):
    """A grid in numbers.

    Attributes:
      runs: over the axes of the grid, `seed` and `step`: errors, `diverged_step`, and every
        reported statistic of the registry for each site of latents (`pre` and `post`), as
        `shape_pre` and so on; of those with a rotation null also its mean `…_null`, `…_z` and
        `…_p`. Tests, and statistics that are not measured everywhere, are there at the first and
        the last snapshot, and missing in between. Numbers of a run that
        diverged, at whatever time, and of latents that do not vary, are missing; `counted_pre` and
        `counted_post` are 1 where latents are looked at, in tables and pictures alike, and 0 where
        not. `rows_pre`, `rows_zero_pre` and `rows_long_pre` count rows at these two snapshots:
        those that count, those of zeros, which are left out, and those far longer than others.
        Attributes say against how many rotations what is a function of a basis, of its planes and
        of projections was held: `rotations_basis` and so on.
      pooled: the same tests of the seeds together (`pool`), over the axes of the grid and `step`:
        `shape_pre`, `shape_pre_null` (the null's mean), `shape_pre_z`, `shape_pre_p` (over seeds),
        `shape_pre_p_networks` (of these networks), `shape_pre_rank` (above 0 if most seeds lie
        above their null), `shape_pre_clouds` (how many seeds) and so on.
    """

    runs: xr.Dataset
    pooled: xr.Dataset


def mask(clouds: xr.DataArray, runs: xr.Dataset) -> xr.DataArray:
    """Loads clouds, missing where a run has diverged, at whatever time, or its units have died.

    A run that diverges later is none of the untrained ones either: all snapshots have one sample.

    Args:
      clouds: `(..., sample, unit)`.
      runs: The same runs' `diverged_step`, over `step` and the clouds' other axes.
    """
    return mask_constant(clouds.load().where(healthy(runs)))


def healthy(runs: xr.Dataset) -> xr.DataArray:
    """Returns which runs are looked at: those that have not diverged by the last snapshot.

    Args:
      runs: The `diverged_step` of the runs, over `step` and their axes.
    """
    return runs["diverged_step"].isel(step=-1, drop=True) < 0


def thinned(clouds: xr.DataArray, most: int) -> xr.DataArray:
    """Draws vectors, the same of every run: a stride would keep the same positions of all images.

    They stay in their order.

    Args:
      clouds: `(..., sample, unit)`.
      most: The number that is drawn if there are more.
    """
    count = clouds.sizes["sample"]
    if count <= most:
        return clouds
    drawn = np.random.default_rng(THINNING_SEED).choice(count, most, replace=False)
    return clouds.isel(sample=np.sort(drawn))


def mask_constant(clouds: xr.DataArray) -> xr.DataArray:
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
    rotation_seed: int = 0,
    progress: bool = False,
    once: Once = always,
) -> Measured:
    """Measures every run at every snapshot, each against its activation's own basis.

    Args:
      dataset: The Dataset that `load_run` returned; latents are read in parts.
      epsilon: The acceptance cosine.
      rotations: K of the rotation null; `rotations_of` says how many of them angles and dips get.
      rotation_seed: Seed of the random rotations.
      progress: Whether to show a progress bar on stderr.
      once: Returns what takes long, given what that depends on: computed, or kept.
    """
    runs = dataset[[*ERRORS, "diverged_step"]].load()
    places = [(site, i) for site in SITES for i in range(dataset.sizes["activation"])]
    columns: dict[str, list[dict[str, xr.Variable]]] = {site: [] for site in SITES}
    pooled: dict[str, list[dict[str, xr.Variable]]] = {site: [] for site in SITES}
    # In parts: the latents of a grid need not fit into memory.
    for site, i in progress_bar(places, "rotations") if progress else places:
        here = {"activation": [i]}
        basis = str(dataset["activation_basis"].values[i])
        frame = resolve_basis(basis, dataset.sizes["unit"])
        about = {"site": site, "activation": i, "basis": basis}
        one = _Test(frame, epsilon, rotations, rotation_seed, dataset.sizes["seed"], about, once)
        tests = _measure(dataset[site].isel(here), runs.isel(here), one)
        columns[site].append({**_columns(tests.everywhere), **_columns(tests.at_ends)})
        columns[site][-1] |= {str(name): one.variable for name, one in tests.numbers.items()}
        everywhere, at_ends = pool(tests.everywhere), pool(tests.at_ends)
        pooled[site].append({**_columns(everywhere), **_columns(at_ends)})
    errors = {name: runs[name].where(healthy(runs)) for name in ERRORS}
    numbers, whole = _joined(columns), _joined(pooled)
    seeds = dataset.sizes["seed"]
    held = {f"rotations_{kind}": rotations_of(kind, rotations, seeds=seeds) for kind in SHARES}
    runs = _described(runs.assign(errors).assign(numbers))
    runs = runs.assign_attrs(rotations=rotations, **held)
    labels = {name: one.variable for name, one in runs.coords.items() if "seed" not in one.dims}
    return Measured(runs, xr.Dataset(whole, coords=labels))


def _joined(columns: dict[str, list[dict[str, xr.Variable]]]) -> dict[str, xr.Variable]:
    """Puts the activations together again, and the site of latents into the names."""
    return {
        _named(name, site): xr.Variable.concat([part[name] for part in parts], "activation")
        for site, parts in columns.items()
        for name in parts[0]
    }


def rotations_of(kind: str, rotations: int, *, seeds: int) -> int:
    """Returns against how many rotations a report holds a statistic; exact ranks know how many.

    Args:
      kind: What it is a function of: `basis`, `planes` or `projections`.
      rotations: K of the rotation null.
      seeds: How many networks there are.
    """
    share = SHARES[kind] if seeds > 1 else 1
    return min(rotations, max(LEAST_SHARE, rotations // share))


class _Test(NamedTuple):
    """How latents are tested: against which basis, at which ε, by which rotations.

    Attributes:
      frame: The basis.
      epsilon: The acceptance cosine.
      rotations: K of the rotation null.
      rotation_seed: Seed of the random rotations.
      seeds: How many networks there are.
      about: Which latents they are.
      once: Returns what was kept of them, or computes it.
    """

    frame: Basis
    epsilon: float
    rotations: int
    rotation_seed: int
    seeds: int
    about: Mapping[str, Any]
    once: Once

    def rotated(self, clouds: xr.DataArray, first_seed: int, kind: str) -> xr.Dataset:
        """Tests what is of a kind, and lets the rotated values go, which told what they tell."""
        how: dict[str, Any] = {
            "epsilon": self.epsilon if kind == PLANES else None,
            "rotations": rotations_of(kind, self.rotations, seeds=self.seeds),
            "rotation_seed": self.rotation_seed,
            "first_seed": first_seed,
        }
        return self.kept(
            kind,
            how,
            lambda: rotation_test(
                clouds, basis=self.frame, statistics=registry.chosen(of=[kind]), **how
            ).drop_vars("null"),
        )

    def observed(self, clouds: xr.DataArray) -> xr.Dataset:
        """Measures what is a function of the basis as it is."""
        of_basis = registry.chosen(of=[BASIS])
        return self.kept(
            "observed",
            {},
            lambda: observed(clouds, basis=self.frame, statistics=of_basis),
        )

    def kept(
        self, kind: str, how: Mapping[str, Any], compute: Callable[[], xr.Dataset]
    ) -> xr.Dataset:
        """Returns numbers of these latents, computed once."""
        return self.once({**self.about, "kind": kind, **how}, compute)


class _Tests(NamedTuple):
    """What was found of one activation's latents, over the axes of the grid, `seed` and `step`.

    Only `statistic` has labels: to compare those of all axes, number by number, takes longer than
    what is done with the numbers.

    Attributes:
      everywhere: the rotation test of what is a function of a basis, without rotated values; its
        values are there at all snapshots, its tests at the first and the last.
      at_ends: that of what is a function of its planes or of projections, missing but at the first
        and the last snapshot.
      numbers: what has no rotation null, or has none between those two snapshots.
    """

    everywhere: xr.Dataset
    at_ends: xr.Dataset
    numbers: xr.Dataset


def _measure(latents: xr.DataArray, runs: xr.Dataset, how: _Test) -> _Tests:
    """Measures one activation's latents, of one site, part by part."""
    last = latents.sizes["step"] - 1
    found = _Tests(*(_nothing(latents) for _ in _Tests._fields))
    for at, part in _parts(latents):
        of_runs = {dim: where for dim, where in at.items() if dim != "step"}
        clouds = mask(part, runs.isel(of_runs))
        steps = np.arange(last + 1)[at["step"]]
        at_end, first = np.isin(steps, [0, last]), at["seed"].start
        where = {dim: [one.start, one.stop] for dim, one in at.items()}
        part_how = how._replace(about={**how.about, "part": where})
        _put(found.numbers, at, _numbers(clouds, how, everywhere=True))
        if not at_end.all():
            seen = part_how.observed(clouds.isel(step=~at_end))
            _put(found.everywhere, {**at, "step": steps[~at_end]}, seen)
        if at_end.any():
            there, ends = {**at, "step": steps[at_end]}, clouds.isel(step=at_end)
            _put(found.everywhere, there, part_how.rotated(ends, first, BASIS))
            angles = part_how.rotated(ends, first, PLANES)
            dips = part_how.rotated(thinned(ends, DIP_SAMPLES), first, PROJECTIONS)
            _put(found.at_ends, there, xr.concat([angles, dips], "statistic"))
            clouds_alone = functools.partial(_numbers, ends, part_how, everywhere=False)
            _put(found.numbers, there, part_how.kept(CLOUD, {}, clouds_alone))
    return found


def _numbers(clouds: xr.DataArray, how: _Test, *, everywhere: bool) -> xr.Dataset:
    """Measures what has no rotation null here: statistics of clouds alone, and A/A0."""
    of_planes = registry.chosen(of=[PLANES], everywhere=True) if everywhere else ()
    of_clouds = registry.chosen(of=[CLOUD], everywhere=everywhere)
    values = clouds.values.reshape(-1, *clouds.shape[-2:])
    found = {
        **registry.measured(of_planes, values, how.frame, how.epsilon),
        **registry.measured(of_clouds, values),
    }
    if everywhere:
        found[COUNTED] = np.isfinite(values).all(axis=(1, 2))
    else:
        counts = np.array([kept_rows(cloud)[1] for cloud in values]).reshape(-1, len(Rows._fields))
        found |= {name: counts[:, Rows._fields.index(field)] for name, field in COUNTS.items()}
    shape, dims = clouds.shape[:-2], clouds.dims[:-2]
    return xr.Dataset({name: (dims, one.reshape(shape)) for name, one in found.items()})


def _nothing(latents: xr.DataArray) -> xr.Dataset:
    """Returns a Dataset of what is measured of clouds, with nothing in it yet."""
    return xr.Dataset(attrs={"shape": latents.shape[:-2]})


def _put(whole: xr.Dataset, at: Mapping[str, Any], part: xr.Dataset) -> None:
    """Puts what was measured of a part in its place; what is never put is missing."""
    for name, values in part.data_vars.items():
        if name not in whole:
            more = values.shape[len(at) :]
            missing = np.full((*whole.attrs["shape"], *more), np.nan)
            whole[name] = xr.Variable(values.dims, missing)
            if "statistic" in values.dims:
                whole.coords["statistic"] = part["statistic"].values
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


def _columns(tested: xr.Dataset) -> dict[str, xr.Variable]:
    """Spreads a test's statistics out: `c4`, `c4_null` and so on; if pooled, `c4_clouds` too."""
    parts = {"": "value", "_null": "mean", "_z": "z", "_p": "p"}
    if "clouds" in tested:
        parts |= {"_p_networks": "p_networks", "_clouds": "clouds", "_rank": "rank"}
    return {
        f"{statistic}{end}": tested[part].variable.isel(statistic=k)
        for k, statistic in enumerate(tested["statistic"].values.tolist())
        for end, part in parts.items()
    }


def _named(name: str, site: str) -> str:
    """Returns `c4_pre_z` of `c4_z`."""
    end = next((f"_{end}" for end in ENDS if name.endswith(f"_{end}")), "")
    return f"{name.removesuffix(end)}_{site}{end}"


def _described(runs: xr.Dataset) -> xr.Dataset:
    for site in SITES:
        for one in registry.chosen():
            if f"{one.name}_{site}" in runs:
                runs[f"{one.name}_{site}"].attrs["long_name"] = f"{one.label}, {site}-activation"
    return runs


def cell_dims(runs: xr.Dataset) -> tuple[str, ...]:
    """Returns the axes of the grid, without seeds and snapshots."""
    return tuple(str(dim) for dim in runs["test_mse"].dims if dim not in ("seed", "step"))


def cells(runs: xr.Dataset) -> Iterable[tuple[dict[str, Any], dict[str, int]]]:
    """Yields each cell at each learning rate and dose: its names, and its place along the axes.

    Among the names is `unconfounded`: whether nothing but the activation prefers a basis, so far as
    optimiser, initialiser and architecture go (docs/method.md §11).
    """
    dims = cell_dims(runs)
    for place in np.ndindex(*(runs.sizes[dim] for dim in dims)):
        at = dict(zip(dims, place, strict=True))
        part = runs[["test_mse"]].isel(at)
        names = {dim: part[dim].item() for dim in dims if dim != "rate"}
        rotation = [f"{axis}_respects_rotations" for axis in ("optimizer", "initializer")]
        names |= {name: part[name].item() for name in ("learning_rate", *rotation)}
        unconfounded = all(names[name] for name in rotation)
        yield names | {"unconfounded": unconfounded and bool(runs.attrs.get(NETWORK, True))}, at
