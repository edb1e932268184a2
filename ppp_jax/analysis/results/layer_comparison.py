"""Layers of a network side by side: statistics with their null, p, and q over the layers."""

import contextlib
import re
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import xarray as xr

from ppp_jax.analysis.inference.rotation_test import (
    BLOCK_BYTES,
    MOST_ROTATIONS,
    ROTATIONS,
    pool,
    rotation_test,
    verdict,
)
from ppp_jax.analysis.inference.seeds import LEVEL, false_discovery
from ppp_jax.analysis.io.layer_files import SEED, Layer, Layers, LayersLike, about, open_layers
from ppp_jax.analysis.io.rows import RAISE, LongRowWarning, check_rows, kept_rows
from ppp_jax.analysis.io.sources import open_source, read
from ppp_jax.analysis.projection.kernel import progress_bar
from ppp_jax.analysis.projection.planes import Basis, BasisLike, resolve_basis
from ppp_jax.analysis.statistics import registry
from ppp_jax.analysis.statistics.registry import Statistic
from ppp_jax.errors import InputError, seeded, shortened, truth, whole

KINDS = (registry.BASIS, registry.PROJECTIONS)  # what is tested of layers
NUMBERS = ("value", "mean", "low", "high", "z", "p", "rank")  # of each layer and statistic
ROWS = ("rows", "rows_nonfinite", "rows_zero", "rows_long")
COUNTS = ("units", "networks", "rows", "rows_left_out", "rows_nonfinite", "rows_zero", "rows_long")
NO_ROW = "no row is a sample"
NO_LAYER = "no such layer"


class _Tested(NamedTuple):
    """What was found of one layer.

    Attributes:
      numbers: By each name of `NUMBERS`, the numbers of all statistics, `(statistics,)`.
      counts: How many rows there are of each kind, and networks.
      not_judged: Which statistics are missing, and why.
    """

    numbers: dict[str, np.ndarray]
    counts: dict[str, int]
    not_judged: str


def compare_layers(
    layers: LayersLike | Layers,
    *,
    basis: BasisLike = None,
    statistics: Sequence[str | Statistic] | None = None,
    groups: Mapping[str, str] | None = None,
    rotations: int | None = None,
    rotation_seed: int = 0,
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
        models a mapping from their names to such mappings; or the path of a folder of such arrays
        (`.npy`, `.npz`, zarr), of an `.npz` file or of a zarr group of several arrays
        (`open_layers`). Networks along an axis called `seed` are tested together; any other axis
        beside samples and units is refused.
      basis: Privileged vectors, `(vectors, units)`, or a name; None for the standard basis.
      statistics: Names of `statistics.registry`, or entries of one's own, but no statistics of
        planes. None: `default_statistics`.
      groups: A mapping from the name of every layer to that of its group, such as
        `{"block_0.residual": "residual"}`, where layers of several kinds are compared: false
        discoveries are counted in each group for itself. None: all layers are one group.
      rotations: K of the rotation null. None means 200, or more where one layer alone among many
        could not have a q of 5 % with 200: 20 per layer of all models (of the largest group, if
        there are groups), minus one.
      rotation_seed: Seed of the random rotations.
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
      Of each layer there are `units`, `networks`,
      `rows` that count, `rows_left_out`, of them `rows_nonfinite` and `rows_zero`, `rows_long` of
      more than 100 times the median length, and `not_judged`, which says what is missing and why.
      Attributes are `rotations`, `rotation_seed`, `basis` and whether it is `orthonormal`,
      `drop_outliers` if it is given, and `left_aside`, what lay beside the layers and is none.

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
    seeded(rotation_seed, field="rotation_seed")
    truth("progress", progress)
    check_rows(nonfinite, drop_outliers)
    asked = _asked(statistics)
    opened = open_layers(layers)
    of_group = _grouped(groups, opened)
    turns = resolve_rotations(rotations, layers=max(Counter(of_group).values()))
    bases = _Bases(basis)
    _check(opened, bases, nonfinite, progress)
    options = {
        "statistics": asked,
        "rotations": turns,
        "rotation_seed": rotation_seed,
        "nonfinite": nonfinite,
        "drop_outliers": drop_outliers,
    }
    found = []
    with _long_rows(drop_outliers) as long:
        for layer in _each(opened, "layers", progress):
            found.append(_tested(layer, basis=bases.of(layer), progress=progress, **options))
            long[layer.told] = found[-1].counts["rows_long"]
    dropped = {} if drop_outliers is None else {"drop_outliers": drop_outliers}
    return _table(opened, [one.name for one in asked], found, groups).assign_attrs(
        **dropped,
        rotations=turns, rotation_seed=rotation_seed, basis=bases.name,
        orthonormal=int(bases.orthonormal), left_aside=", ".join(opened.left_aside),
    )  # fmt: skip


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
    """The basis of each width; that of the last layer is kept, since the next is often as wide."""

    def __init__(self, basis: BasisLike):
        self.given = basis
        self.kept: Basis | None = None

    @property
    def name(self) -> str:
        return "" if self.kept is None else self.kept.name

    @property
    def orthonormal(self) -> bool:
        return (
            self.kept is not None and self.kept.gram is None and self.kept.size >= self.kept.units
        )

    def of(self, layer: Layer) -> Basis:
        """Returns the basis of a layer, and names the layer where there is none."""
        if self.kept is not None and self.kept.units == layer.units:
            return self.kept
        try:
            with about(layer.where):
                self.kept = resolve_basis(self.given, layer.units)
        except InputError as error:
            if error.field != "basis":
                raise
            problem = f"{error.problem} (layer {layer.told}, {layer.units} units)"
            raise InputError("basis", error.value, problem) from error
        return self.kept


def _check(opened: Layers, bases: _Bases, nonfinite: str, progress: bool) -> None:
    """Refuses layers that have no such basis, or rows that are not finite, before any is tested."""
    for layer in opened.layers:
        bases.of(layer)
    if nonfinite == RAISE:
        for layer in _each(opened, "rows", progress):
            with about(layer.where):
                source, samples = open_source(layer.open()), layer.shape[-2]
                for start in range(0, source.rows, samples):
                    kept_rows(read(source, start, start + samples))


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
            stacklevel=4,
        )


def _tested(layer: Layer, *, progress: bool, **options: Any) -> _Tested:
    """Tests one layer, its networks together if it has several."""
    blocks = 8 * options["rotations"] * layer.units**2 / BLOCK_BYTES
    with about(layer.where):
        # A layer of few blocks of rotations needs no bar of its own.
        tested = rotation_test(layer.open(), progress=progress and blocks > 1, **options)
    counts = {name: int(tested.attrs[name]) for name in ROWS}
    networks = layer.shape[0] if SEED in tested["value"].dims else 1
    rows = int(np.prod(layer.shape[:-1]))
    counts |= {"rows_left_out": rows - counts["rows"], "networks": networks, "units": layer.units}
    why = str(tested.attrs.get("not_judged", "")) if counts["rows"] else NO_ROW
    found = _together(tested) if SEED in tested["value"].dims else tested
    return _Tested(
        {name: found[name].values for name in NUMBERS},
        counts,
        _by_reason(why),
    )


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
    opened: Layers, names: list[str], found: list[_Tested], groups: Mapping[str, str] | None
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
    told = np.array([one.not_judged for one in found], dtype=object)
    counts = {name: [one.counts[name] for one in found] for name in COUNTS}
    return xr.Dataset(
        {
            **{name: (both, spread(values, np.nan)) for name, values in numbers.items()},
            **{name: (along, spread(values, 0)) for name, values in counts.items()},
            "not_judged": (along, spread(told, NO_LAYER).astype(str)),
        },
        coords={
            **({"model": list(models)} if opened.models else {}),
            "layer": list(layers),
            "statistic": names,
            **({"group": ("layer", [groups[name] for name in layers])} if groups else {}),
        },
    )


def _over_groups(p: np.ndarray, of_group: list[str]) -> np.ndarray:
    """Returns q of p, `(layers, statistics)`: of each statistic over the layers of each group."""
    q = np.full(p.shape, np.nan)
    for group in dict.fromkeys(of_group):
        members = np.array([one == group for one in of_group])
        for k in range(p.shape[1]):
            q[members, k] = false_discovery(p[members, k])
    return q
