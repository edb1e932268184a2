"""Layers of a network side by side: statistics with their null, p, and q over the layers."""

import contextlib
import re
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import xarray as xr

from ppp_jax.analysis import limits
from ppp_jax.analysis.inference.rotation_test import (
    MOST_ROTATIONS,
    ROTATIONS,
    Options,
    judge_clouds,
    pool,
    verdict,
)
from ppp_jax.analysis.inference.seeds import LEVEL, false_discovery
from ppp_jax.analysis.inference.turned_clouds import BLOCK_BYTES, Clouds
from ppp_jax.analysis.io.layer_files import SEED, Layer, Layers, LayersLike, about
from ppp_jax.analysis.io.progress import progress_bar
from ppp_jax.analysis.io.rows import RAISE, LongRowWarning, check_rows, refuse_nonfinite
from ppp_jax.analysis.io.sources import UNIT, drawn, open_source, windows
from ppp_jax.analysis.projection.planes import Basis, BasisLike, resolve_vectors
from ppp_jax.analysis.projection.turns import AUTO, BLOCKS, NULLS
from ppp_jax.analysis.results.run_layers import open_all
from ppp_jax.analysis.statistics import registry
from ppp_jax.analysis.statistics import top_units as top
from ppp_jax.analysis.statistics.registry import Statistic
from ppp_jax.errors import InputError, choice, printable, seeded, shortened, truth, whole

KINDS = (registry.BASIS, registry.PROJECTIONS)  # what is tested of layers
NUMBERS = ("value", "mean", "low", "high", "z", "p", "rank")  # of each layer and statistic
ROWS = ("rows", "rows_nonfinite", "rows_zero", "rows_long")
COUNTS = (
    "units",
    "networks",
    "block_units",
    "rows_drawn",
    "rows",
    "rows_left_out",
    "rows_nonfinite",
    "rows_zero",
    "rows_long",
)
TOP_STATISTICS = ("shape", "c4")  # whose units are named: of the second where the first is missing
MOST_SAMPLES = limits.MOST_SAMPLES
TOLD = ("rotations", "rotation_seed", "null", "max_samples", "drop_outliers")  # of settings
NO_ROW = "no row is a sample"
NO_LAYER, UNREAD = "no such layer", "cannot be read"


class LayerTest(NamedTuple):
    """What was found of one layer.

    Attributes:
      numbers: By each name of `NUMBERS`, the numbers of all statistics, `(statistics,)`.
      counts: How many rows there are of each kind, and networks.
      not_judged: Which statistics are missing, and why.
      top: By each name of `top_units.NUMBERS`, those of the units that carry the alignment.
      top_statistic: Of which statistic these are; empty where there are none.
    """

    numbers: dict[str, np.ndarray]
    counts: dict[str, int]
    not_judged: str
    top: dict[str, np.ndarray]
    top_statistic: str


def compare_layers(
    layers: LayersLike | Layers,
    *,
    basis: BasisLike = None,
    statistics: Sequence[str | Statistic] | None = None,
    groups: Mapping[str, str] | None = None,
    rotations: int | None = None,
    null: str = AUTO,
    rotation_seed: int = 0,
    max_samples: int = MOST_SAMPLES,
    nonfinite: str = RAISE,
    drop_outliers: float | None = None,
    progress: bool = False,
) -> xr.Dataset:
    """Tests every layer of a network against the rotation null, with q over the layers.

    One layer at a time is in memory. All of them are opened first, and their rows are looked at, so
    that one that cannot be used is an error before any is measured. Layers of the same width share
    their rotations, also those of several models, which so differ in nothing else.

    Args:
      layers: A mapping from names to latents, `(samples, units)`, of any kind and width; of several
        models a mapping from their names to such mappings; the path of a folder of such arrays
        (`.npy`, `.npz`, `.h5`, `.safetensors`, zarr), or of an `.npz`, HDF5 or safetensors file or
        zarr group of several arrays (`open_layers`); or a run folder, of which every captured layer
        is tested before and after its activation, and every cell is a model (`run_layers`).
        Networks along an axis called `seed` are tested together; any other axis beside samples and
        units is refused.
      basis: Privileged vectors, `(vectors, units)`, or a name; None for the standard basis, and of
        a run folder for that of each cell's activation.
      statistics: Names of `statistics.registry`, or entries of one's own, but no statistics of
        planes. None: `default_statistics`.
      groups: A mapping from the name of every layer to that of its group, such as
        `{"block_0.residual": "residual"}`, where layers of several kinds are compared: false
        discoveries are counted in each group for itself. None: all layers are one group.
      rotations: K of the rotation null. None means 200, or more where one layer alone among many
        could not have a q of 5 % with 200: 20 per layer of all models (of the largest group, if
        there are groups), minus one.
      null: `full` for rotations of all units, `blocks` for rotations within blocks of 64 units, or
        `auto` for blocks in layers wider than 512 (`rotation_test`).
      rotation_seed: Seed of the random rotations.
      max_samples: Of layers with more samples so many are drawn, the same of layers with as many.
      nonfinite: What to do about rows that are not finite: `raise` refuses them, and `drop` leaves
        them out.
      drop_outliers: Rows longer than so many times the median row are left out; None keeps them,
        with a warning about rows longer than 100 times the median.
      progress: Whether to show a progress bar on stderr.

    Returns:
      Dataset over `layer` and `statistic`: `value`; of its null the `mean` and the 2.5 and 97.5 %
      quantiles, `low` and `high`; `z`; `p`, of networks the exact one of their ranks together
      (`pool`); `rank`, from −½ to ½, whose sign is the side that p is of; and `q`, the false
      discovery rate (Benjamini and Hochberg 1995) of each statistic over the layers of all models
      (of each group), in which a missing p is no test. Of several models there is an axis `model`
      before `layer`, which then has the layers of all of them in the order of first appearance; a
      layer that a model lacks is missing there. Groups are a coordinate `group` along `layer`.
      Of each layer there are `units`, `networks`, `block_units` (the width of the blocks within
      which units were mixed, 0 if all were), `rows_drawn`, of them the `rows` that count and
      `rows_left_out`, of these `rows_nonfinite` and `rows_zero`, `rows_long` of more than 100 times
      the median length, and `not_judged`, which says what is missing and why: a layer that can no
      longer be read when its turn comes is missing, too.
      `top_units` names the five units, or vectors of the basis, that carry the shape's alignment,
      each with its share; `top_unit`, `top_share`, `top_variance`, `top_kurtosis` and `top_dip` are
      the numbers of the first, as the function `top_units` returns them. Where the shape cannot be
      judged they are those of the samples' C4, as `top_statistic` says; of several networks there
      are none, because their units are not the same.
      Attributes are `rotations`, `rotation_seed`, `null`, `max_samples`, `basis` and whether it is
      `orthonormal`, `drop_outliers` if it is given, and `left_aside`, what lay beside the layers
      and is none.

    Raises:
      InputError: A layer cannot be used, and the error names it; or an argument is out of its
        range.

    Example:
      >>> rng = np.random.default_rng(0)
      >>> found = compare_layers(
      ...     {"noise": rng.normal(size=(300, 4)), "peaks": rng.laplace(size=(300, 6))},
      ...     statistics=["shape"], rotations=99,
      ... )
      >>> (found["q"].sel(statistic="shape") <= 0.05).values.tolist()
      [False, True]
    """
    settings = Settings(
        basis=basis,
        statistics=statistics,
        groups=groups,
        rotations=rotations,
        null=null,
        rotation_seed=rotation_seed,
        max_samples=max_samples,
        nonfinite=nonfinite,
        drop_outliers=drop_outliers,
    )
    return compare_and_keep(layers, settings, kept=None, progress=progress)


class Kept(Protocol):
    """Where the numbers of finished layers are kept, so that they need not be measured again."""

    def recall(self, layer: Layer, settings: Mapping[str, Any]) -> LayerTest | None:
        """Returns what was found of a layer by the same settings, or None."""

    def keep(self, layer: Layer, settings: Mapping[str, Any], tested: LayerTest) -> None:
        """Keeps what was found of a layer."""


class Settings(NamedTuple):
    """How layers are tested; the arguments of `compare_layers`, as the user gave them."""

    basis: BasisLike = None
    statistics: Sequence[str | Statistic] | None = None
    groups: Mapping[str, str] | None = None
    rotations: int | None = None
    null: str = AUTO
    rotation_seed: int = 0
    max_samples: int = MOST_SAMPLES
    nonfinite: str = RAISE
    drop_outliers: float | None = None


def compare_and_keep(
    layers: LayersLike | Layers, settings: Settings, *, kept: Kept | None, progress: bool
) -> xr.Dataset:
    """Does what `compare_layers` does, and keeps what was found of each layer.

    Args:
      layers: The layers, as `compare_layers` takes them.
      settings: How they are tested.
      kept: Where finished layers are looked up and kept; None for nowhere.
      progress: Whether to show a progress bar on stderr.
    """
    seeded(settings.rotation_seed, field="rotation_seed")
    truth("progress", progress)
    check_rows(settings.nonfinite, settings.drop_outliers)
    choice("null", settings.null, NULLS)
    whole("max_samples", settings.max_samples, least=2)
    asked = _asked(settings.statistics)
    opened = open_all(layers)
    of_group = _grouped(settings.groups, opened)
    turns = resolve_rotations(settings.rotations, layers=max(Counter(of_group).values()))
    bases = _Bases(settings.basis)
    _check(opened, bases, settings.nonfinite, progress)
    if settings.null == BLOCKS and not bases.orthonormal:
        problem = f"needs orthonormal bases, and {bases.name} is none; use null='full'"
        raise InputError("null", settings.null, problem)
    options = {**settings._asdict(), "statistics": asked, "rotations": turns}
    del options["groups"], options["basis"]  # which are not of each layer
    found = _of_each(opened, bases, options, kept, progress)
    told = {name: options[name] for name in TOLD if options[name] is not None}
    names = [one.name for one in asked]
    return _table(opened, names, found, settings.groups).assign_attrs(
        **told,
        basis=bases.name,
        orthonormal=int(bases.orthonormal),
        left_aside=", ".join(opened.left_aside),
    )


def _of_each(
    opened: Layers, bases: "_Bases", options: dict[str, Any], kept: Kept | None, progress: bool
) -> list[LayerTest]:
    """Returns what was found of every layer, one after the other."""
    found = []
    with _long_rows(options["drop_outliers"]) as long:
        for layer in _each(opened, "layers", progress):
            settings = {"basis": bases.of(layer), **options}
            found.append(_kept(kept, layer, settings, progress))
            long[layer.told] = found[-1].counts["rows_long"]
    if all(one.not_judged.startswith(UNREAD) for one in found):
        problem = f"{found[0].not_judged}; nor can any other layer"
        raise InputError("layers", opened.layers[0].where, problem)
    return found


def _kept(
    kept: Kept | None, layer: Layer, settings: Mapping[str, Any], progress: bool
) -> LayerTest:
    """Returns what was found of a layer earlier, or tests it now and keeps that."""
    there = None if kept is None else kept.recall(layer, settings)
    if there is not None:
        return there
    tested = _judged(layer, progress=progress, **settings)
    if kept is not None and not tested.not_judged.startswith(UNREAD):
        kept.keep(layer, settings, tested)
    return tested


def default_statistics() -> tuple[str, ...]:
    """Returns the statistics that layers are tested by: of a basis, and of projections onto it."""
    return registry.names(of=KINDS, only_reported=False)


def main_statistics(tested: Sequence[str], *, orthonormal: bool = True) -> list[str]:
    """Returns the statistics that a short table of layers shows, of those that were tested.

    Args:
      tested: Names of statistics. Where no verdict rests on any of them, all are shown.
      orthonormal: Whether the vectors of the basis are; on others other statistics judge.

    Example:
      >>> main_statistics(["c4", "shape", "covariance"]), main_statistics(["c4"])
      (['covariance', 'shape'], ['c4'])
    """
    judging = registry.judging(orthonormal=orthonormal)
    main = sorted(judging, key=lambda one: registry.FAMILIES.index(str(one.family)))
    return [one.name for one in main if one.name in tested] or list(tested)


def resolve_rotations(rotations: int | None, *, layers: int) -> int:
    """Returns the number of rotations K.

    Args:
      rotations: As the user gave it; None means 200, or as many as let one layer alone among all
        have a q of 5 %, since its p is at least 1/(K + 1) and its q is that times the layers.
      layers: Number of layers.

    Raises:
      InputError: It is no whole number from 1 to 1,000,000.

    Example:
      >>> resolve_rotations(None, layers=3), resolve_rotations(None, layers=50)
      (200, 999)
    """
    if rotations is None:
        return max(ROTATIONS, round(layers / LEVEL) - 1)
    return whole("rotations", rotations, least=1, most=MOST_ROTATIONS)


def _grouped(groups: Any, opened: Layers) -> list[str]:
    """Returns the name of the group of every layer of every model."""
    if groups is None:
        return [""] * len(opened.layers)
    if not isinstance(groups, Mapping):
        problem = "must be a mapping from the name of every layer to the name of its group"
        raise InputError("groups", type(groups).__name__, problem)
    for name in opened.names:
        if not isinstance(groups.get(name), str):
            problem = f"must give the group of every layer, as a text, and gives none of {name}"
            raise InputError("groups", groups, problem)
    for name in groups:
        if name not in opened.names:
            problem = f"is no layer; the layers are {', '.join(opened.names)}"
            raise InputError("groups", name, shortened(problem))
    return [groups[layer.name] for layer in opened.layers]


def _asked(statistics: Sequence[str | Statistic] | None) -> tuple[Statistic, ...]:
    # With an ε statistics of planes are known ones, and get an error that says where to ask.
    asked = registry.resolve(default_statistics() if statistics is None else statistics, 0.5)
    for one in asked:
        if one.of == registry.PLANES:
            problem = "needs an ε, which is not taken here; rotation_test(…, epsilon=0.85) tests it"
            raise InputError("statistics", one.name, problem)
    return asked


class _Bases:
    """The basis of each layer; that of the last one is kept, since the next often has the same."""

    def __init__(self, basis: BasisLike):
        self.given = basis
        self.names: dict[str, None] = {}
        self.orthonormal = True
        self.kept: tuple[object, Basis] | None = None

    @property
    def name(self) -> str:
        """Names of the bases: one, unless layers have their own."""
        return ", ".join(self.names)

    def of(self, layer: Layer) -> Basis:
        """Returns the basis of a layer, and names the layer where there is none."""
        which = (layer.units, layer.basis)
        if self.kept is not None and self.kept[0] == which:
            return self.kept[1]
        given = layer.basis if self.given is None else self.given
        try:
            with about(layer.where):
                found = resolve_vectors(given, layer.units)
        except InputError as error:
            if error.field != "basis":
                raise
            problem = f"{error.problem} (layer {layer.told}, {layer.units} units)"
            raise InputError("basis", error.value, problem) from error
        self.kept = which, found
        self.names[found.name] = None
        self.orthonormal &= found.orthonormal
        return found


def _check(opened: Layers, bases: _Bases, nonfinite: str, progress: bool) -> None:
    """Refuses layers that have no such basis, or rows that are not finite, before any is tested."""
    for layer in opened.layers:
        bases.of(layer)
    if nonfinite == RAISE:
        for layer in _each(opened, "rows", progress):
            with about(layer.where):
                source = open_source(layer.open())
                for cloud in range(source.rows // layer.shape[-2]):
                    finite = [np.isfinite(part).all(axis=1) for part in windows(source, cloud)]
                    lost = int(np.count_nonzero(~np.concatenate(finite)))
                    if 0 < lost < layer.shape[-2]:  # without any finite row it is missing
                        refuse_nonfinite(lost, layer.shape[-2:])


def _each(opened: Layers, name: str, progress: bool) -> Any:
    several = progress and len(opened.layers) > 1
    return progress_bar(list(opened.layers), name) if several else opened.layers


@contextlib.contextmanager
def _long_rows(drop_outliers: float | None) -> Iterator[dict[str, int]]:
    """Warns once of the long rows of all layers, which the block counts, and not once for each."""
    counts: dict[str, int] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", LongRowWarning)
        yield counts
    named = [f"{name} ({count:,})" for name, count in counts.items() if count]
    if named and drop_outliers is None:
        warnings.warn(
            f"rows more than 100 times as long as the median row may decide every statistic of "
            f"{', '.join(named)}; drop_outliers=100 leaves them out",
            LongRowWarning,
            stacklevel=6,
        )


def _judged(layer: Layer, **options: Any) -> LayerTest:
    """Tests one layer; one that can no longer be read is not judged, and the others are kept."""
    try:
        return _tested(layer, **options)
    except InputError:
        why = _unreadable(layer)
        if why is None:
            raise
    missing = np.full(len(options["statistics"]), np.nan)
    lost = {"units": layer.units, "rows_left_out": int(np.prod(layer.shape[:-1]))}
    counts = dict.fromkeys(COUNTS, 0) | lost
    none = dict.fromkeys(top.NUMBERS, np.full(top.COUNT, np.nan))
    return LayerTest(dict.fromkeys(NUMBERS, missing), counts, why, none, "")


def _unreadable(layer: Layer) -> str | None:
    """Returns why a layer cannot be read, or None if it can be."""
    try:
        source = open_source(layer.open())
        for cloud in range(source.rows // layer.shape[-2]):
            for _ in windows(source, cloud):
                continue
    except InputError as error:
        told = re.match(r"cannot be read \((.*)\); ", error.problem)
        why = told[1] if told else error.problem.partition(";")[0]
        return f"{UNREAD} ({shortened(printable(why))})"
    return None


def _tested(layer: Layer, *, progress: bool, max_samples: int, **options: Any) -> LayerTest:
    """Tests one layer, its networks together if it has several."""
    blocks = 8 * options["rotations"] * layer.units**2 / BLOCK_BYTES
    with about(layer.where):
        latents = layer.open()
        source = open_source(latents)
        if layer.shape[-2] > max_samples:
            latents = xr.DataArray(drawn(source, max_samples), dims=(*source.dims, UNIT))
        # A layer of few blocks of rotations needs no bar of its own.
        tested, seen = judge_clouds(latents, Options(**options), progress=progress and blocks > 1)
        carriers = _top_units(layer, seen)
    counts = {name: int(tested.attrs[name]) for name in ROWS}
    networks = 1
    if SEED in tested["value"].dims:  # without those of which nothing can be told
        networks = int(tested["value"].notnull().any("statistic").sum())
    rows = int(np.prod(layer.shape[:-2])) * min(layer.shape[-2], max_samples)
    counts |= {"rows_drawn": rows, "rows_left_out": rows - counts["rows"], "networks": networks}
    counts |= {"units": layer.units, "block_units": int(tested.attrs.get("block_units", 0))}
    why = str(tested.attrs.get("not_judged", "")) if counts["rows"] else NO_ROW
    found = _together(tested) if SEED in tested["value"].dims else tested
    return LayerTest(
        {name: found[name].values for name in NUMBERS},
        counts,
        _by_reason(why),
        *carriers,
    )


def _top_units(layer: Layer, seen: Clouds) -> tuple[dict[str, np.ndarray], str]:
    """Returns the units that carry a layer's alignment, and of which statistic they are."""
    none = dict.fromkeys(top.NUMBERS, np.full(top.COUNT, np.nan))
    if len(layer.shape) != 2:  # units of several networks are not the same
        return none, ""
    most = min(top.COUNT, seen.frame.size)
    for statistic in TOP_STATISTICS:
        found = top.numbers_of(seen.kept[0].whole, seen.frame, statistic, most)
        if (found[:, 0] >= 0).all():
            padded = np.full((top.COUNT, len(top.NUMBERS)), np.nan)
            padded[:most] = found
            return dict(zip(top.NUMBERS, padded.T, strict=True)), statistic
    return none, ""


def _by_reason(told: str) -> str:
    """Returns what cannot be judged, with the statistics of the same reason together."""
    found = re.findall(r"(\w+): (\d+ of \d+) clouds \(([^()]*)\)", told)
    reasons: dict[str, list[str]] = {}
    for statistic, count, why in found:
        of = "" if count == "1 of 1" else f" in {count} networks"
        reasons.setdefault(f"{of}: {why}", []).append(statistic)
    return "; ".join(", ".join(names) + why for why, names in reasons.items()) or told


def _together(tested: xr.Dataset) -> xr.Dataset:
    """Tests the networks of a layer together.

    The mean over the networks of their k-th rotated values is one draw of the mean value's null,
    since their rotations are independent: `low` and `high` are quantiles of these.
    """
    pooled = pool(tested, over=SEED)
    known = tested["rank"].notnull()
    averages = {name: tested[name].where(known).mean(SEED) for name in ("value", "null")}
    band = verdict(xr.Dataset(averages))
    return pooled.assign(p=pooled["p_networks"], low=band["low"], high=band["high"])


def _table(
    opened: Layers, names: list[str], found: list[LayerTest], groups: Mapping[str, str] | None
) -> xr.Dataset:
    """Puts what was found of the layers into one Dataset, and adds q."""
    models, layers = opened.models or ("",), opened.names
    places = [(models.index(one.model), layers.index(one.name)) for one in opened.layers]
    rows, columns = map(list, zip(*places, strict=True))
    along = ("model", "layer") if opened.models else ("layer",)

    def spread(values: Any, missing: Any) -> np.ndarray:
        values = np.asarray(values)
        whole = np.full((len(models), len(layers), *values.shape[1:]), missing, values.dtype)
        whole[rows, columns] = values
        return whole if opened.models else whole[0]

    both = (*along, "statistic")
    numbers = {
        name: np.stack([one.numbers[name] for one in found]).astype(float) for name in NUMBERS
    }
    numbers["q"] = _over_groups(numbers["p"], _grouped(groups, opened))
    return xr.Dataset(
        {
            **{name: (both, spread(values, np.nan)) for name, values in numbers.items()},
            **{name: (along, spread(*column)) for name, column in _of_layers(found).items()},
        },
        coords={
            **({"model": list(models)} if opened.models else {}),
            "layer": list(layers),
            "statistic": names,
            **({"group": ("layer", [groups[name] for name in layers])} if groups else {}),
        },
    )


def _of_layers(found: list[LayerTest]) -> dict[str, tuple[np.ndarray, Any]]:
    """Returns what there is one of for each layer, and what stands there for no layer."""
    counts = {name: (np.array([one.counts[name] for one in found]), 0) for name in COUNTS}
    texts = {
        "not_judged": (_texts([one.not_judged for one in found], NO_LAYER), NO_LAYER),
        "top_statistic": (_texts([one.top_statistic for one in found], ""), ""),
        "top_units": (_texts([_carriers(one) for one in found], ""), ""),
    }
    first = {f"top_{name}": (np.array([one.top[name][0] for one in found]), np.nan)
             for name in top.NUMBERS}  # fmt: skip
    return {**counts, **texts, **first}


def _texts(texts: list[str], missing: str) -> np.ndarray:
    """Returns texts in an array that has room for that of a missing layer, too."""
    return np.array([*texts, missing])[:-1]


def _carriers(one: LayerTest) -> str:
    """Returns the units that carry the alignment, each with its share."""
    each = zip(one.top["unit"], one.top["share"], strict=True)
    return ", ".join(f"{unit:.0f} ({share:+.0%})" for unit, share in each if unit >= 0)


def _over_groups(p: np.ndarray, of_group: list[str]) -> np.ndarray:
    """Returns q of p, `(layers, statistics)`: of each statistic over the layers of each group."""
    q = np.full(p.shape, np.nan)
    for group in dict.fromkeys(of_group):
        members = np.array([one == group for one in of_group])
        for k in range(p.shape[1]):
            q[members, k] = false_discovery(p[members, k])
    return q
