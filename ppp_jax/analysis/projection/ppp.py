"""PPP densities, divided by their exact null (docs/method.md §2, §4)."""

import functools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import xarray as xr

from ppp_jax.analysis.io.sources import Latents, Source, axis_names, check_free, groups
from ppp_jax.analysis.projection import density
from ppp_jax.analysis.projection.kernel import Accepted, Prepared, accepted, add_accepted, prepare
from ppp_jax.analysis.projection.planes import BasisLike
from ppp_jax.analysis.projection.points import (
    add_counts,
    count_accepted,
    levels,
    null_acceptance,
    over_null,
    provenance,
    warn_if_empty,
)
from ppp_jax.errors import InputError, real, truth, whole

NAMES = (
    *("epsilon", "v", "u", "plane", "first", "second", "row", "density", "null", "ratio"),
    *("log_ratio", "accepted", "expected", "acceptance", "acceptance_null", "acceptance_ratio"),
    "log10_acceptance_ratio",
)  # of the result's axes and variables
EXTENT_QUANTILE = 0.995
BANDWIDTHS_PER_EXTENT = 32
MAX_BINS = 2**26  # Largest number of bins of all pictures together.


def ppp(
    latents: Latents,
    *,
    basis: BasisLike = None,
    epsilon: Any = 0.85,
    planes: str = "combinations",
    max_planes: int | None = None,
    plane_seed: int = 0,
    centre: bool = False,
    whiten: bool = False,
    rotated: int | None = None,
    nonfinite: str = "raise",
    by: str | Sequence[str] = (),
    planes_apart: bool = False,
    top: int | None = None,
    extent: float | None = None,
    bins: int = 128,
    bandwidth: float | None = None,
    progress: bool = False,
) -> xr.Dataset:
    """Returns the PPP density of latents, and the density that isotropic ones would have.

    The accepted points of all planes are pooled, binned, and smoothed by a Gaussian through the
    FFT (docs/method.md §2; the picture is that of arXiv 2507.12070). The null is exact for the
    lengths of these samples (docs/method.md §4) and is binned and smoothed in the same way, so
    the expected ratio is 1 everywhere if no direction is preferred.

    Args:
      latents: Latents, `(..., samples, units)`, of any array type; the axes before the last are
        pooled, except those in `by`. Arrays on disk (memory maps, zarr, dask, lazily opened
        xarray) are read in parts.
      basis: Privileged vectors, `(vectors, units)`, of any length but 0, or a name such as
        `haar:0`, `simplex` or `thomson:64` (`ppp_jax.bases.build`); None for the standard basis.
      epsilon: One acceptance cosine ε, or several, which take one pass over the latents together.
      planes: `combinations`, or `permutations` for both orders of every pair of vectors.
      max_planes: Number of planes to use, drawn without replacement; None uses all.
      plane_seed: Seed of the draw of planes.
      centre: Whether to subtract each cloud's own mean; the axes before the last two tell clouds
        apart.
      whiten: Whether to take out each cloud's own mean and covariance (ZCA), where a cloud has at
        least 5 samples per unit; what is left is the shape (docs/method.md §6).
      rotated: Seed of a random rotation of the whole basis, to show the same latents in a basis
        that nothing prefers; None leaves the basis as it is.
      nonfinite: `raise` to refuse samples that are not finite, or `drop` to leave them out.
      by: Axes of the latents to keep apart, such as `("seed", "step")` for a picture of every seed
        at every snapshot; all others are pooled. Axes without names are called `axis_0`, `axis_1`
        and so on.
      planes_apart: Whether to make a picture of every plane, and not one of all planes pooled.
      top: With `planes_apart`, the number of planes to keep: those that accept the most samples of
        all groups together at the smallest ε, the fullest first. None keeps all, in their order.
      extent: Half-width of the picture in latent units. The default is 1.05 times the 99.5 %
        quantile of the lengths of all samples, or, if isotropic latents would put fewer than 5
        points into the picture, of the samples that may lie near a plane.
      bins: Number of bins along each axis.
      bandwidth: Standard deviation of the Gaussian in latent units; by default `extent`/32.
      progress: Whether to show a progress bar on stderr.

    Returns:
      A Dataset over the axes in `by`, `plane` if these are apart, `epsilon` if there are several,
      and the bin centres `v` and `u` in latent units, with the variables below. The coordinates
      `first` and `second` along `plane` are the indices of the two basis vectors that span it.

      - `density`: the fraction of all (plane, sample) pairs per unit area, which integrates to the
        accepted fraction;
      - `null`: the density that isotropic latents of the same lengths would have;
      - `ratio`: density/null, which is missing where isotropic latents would put fewer than 5
        points under the Gaussian, whose effective area is 4π·bandwidth²;
      - `log_ratio`: the logarithm of the ratio to base 2, in which a density below that of half a
        point under the Gaussian counts as half a point;
      - `accepted`: the number of accepted points;
      - `expected`: the number of points that isotropic latents would have there, A0 of all pairs;
      - `acceptance`: their fraction of all pairs;
      - `acceptance_null`: A0, the same fraction of isotropic latents;
      - `acceptance_ratio` and `log10_acceptance_ratio`: A/A0 and its decimal logarithm, which is
        finite even in wide layers, where A0 may be 10⁻¹⁰⁰⁰.

      The attributes say how the result was made.

    Raises:
      InputError: An argument is out of its range; the error names it.

    Warns:
      EmptyPPPWarning: No sample was accepted.

    Example:
      >>> import numpy as np
      >>> latents = np.random.default_rng(0).normal(size=(5000, 8))
      >>> bool(abs(ppp(latents).acceptance_ratio - 1) < 0.1)
      True
    """
    whole("bins", bins, least=2)
    by = axis_names(by)
    _check_planes(planes_apart, top, by)
    some: dict[str, Any] = {"planes": planes, "max_planes": max_planes, "plane_seed": plane_seed}
    seen: dict[str, Any] = {"centre": centre, "whiten": whiten, "rotated": rotated}
    rest: dict[str, Any] = {"nonfinite": nonfinite, "progress": progress}
    prepared = prepare(latents, basis, epsilon, **some, **seen, **rest)
    _check_names(prepared.source, by)
    panels, shape = _panels(prepared, by, bins, planes_apart=planes_apart, top=top)
    extent = _check_extent(extent, default=_default_extent(prepared))
    bandwidth = _bandwidth(bandwidth, extent)
    values = _values(prepared, panels, np.linspace(-extent, extent, bins + 1), bandwidth)
    made = {"extent": extent, "bandwidth": bandwidth, "plane_order": planes}
    coords: dict[str, Any] = {"epsilon": prepared.epsilons}
    if not np.ndim(epsilon):  # A single ε gets no axis.
        values, coords = _first(values, "epsilon"), {"epsilon": prepared.epsilons[0]}
    values, more = _unfold(values, prepared, panels, dict(zip(by, shape, strict=True)))
    return xr.Dataset(values, coords | more, made | provenance(prepared))


def _panels(
    prepared: Prepared, by: tuple[str, ...], bins: int, *, planes_apart: bool, top: int | None
) -> tuple["_Panels", tuple[int, ...]]:
    """Returns which pictures there are, and how many groups along each axis that is kept apart."""
    group, shape = groups(prepared.source, by)
    pictures = math.prod(shape) * len(prepared.epsilons)
    kept = _kept_planes(prepared, top, pictures * bins**2) if planes_apart else None
    panels = _Panels(group, math.prod(shape), kept)
    _check_size(bins, pictures * panels.per_group)
    return panels, shape


def _check_names(source: Source, by: tuple[str, ...]) -> None:
    """Refuses axes of groups, and their coordinates, whose names the result needs for itself."""
    kept = {name: x for name, x in source.coords.items() if set(x.dims) <= set(by)}
    check_free(source._replace(dims=by, coords=kept), NAMES)


class _Panels(NamedTuple):
    """Which points go into which picture.

    Attributes:
      group: The group of each sample, `(rows,)`.
      groups: Number of groups.
      kept: The planes that have pictures of their own; None if all planes are pooled.
    """

    group: np.ndarray
    groups: int
    kept: np.ndarray | None

    @property
    def per_group(self) -> int:
        """Number of pictures of each group at each ε."""
        return 1 if self.kept is None else len(self.kept)


def _values(
    prepared: Prepared, panels: _Panels, edges: np.ndarray, bandwidth: float
) -> dict[str, xr.Variable]:
    """Returns the density, the null and the ratio of each picture, and the numbers of points."""
    counts, number = _bin_points(prepared, edges, panels)
    warn_if_empty(prepared, number.reshape(panels.groups, panels.per_group, -1).sum(axis=1))
    lengths = prepared.survey.lengths
    there = lengths > 0
    members = _split(lengths[there], panels.group[there], panels.groups)
    planes = len(prepared.frame.planes) if panels.kept is None else 1
    pairs = np.repeat([len(x) * planes for x in members], panels.per_group)
    mass = counts / np.maximum(pairs, 1)[:, None, None, None]
    null = density.null_masses(members, prepared.source.units, prepared.epsilons, edges)
    null = np.repeat(null, panels.per_group, axis=0)
    pictures = density.picture(mass, null, pairs, edges, bandwidth)
    return pictures | _shares(prepared, number, pairs)


def _split(values: np.ndarray, group: np.ndarray, count: int) -> list[np.ndarray]:
    """Returns the values of each group, in a list over groups."""
    if count == 1:
        return [values]
    order = np.argsort(group, kind="stable")
    ends = np.cumsum(np.bincount(group, minlength=count))
    return np.split(values[order], ends[:-1])


def _shares(prepared: Prepared, number: np.ndarray, pairs: np.ndarray) -> dict[str, xr.Variable]:
    """Returns the number of accepted points of each group at each ε, and A/A0."""
    fraction = np.divide(
        number, pairs[:, None], out=np.full(number.shape, np.nan), where=pairs[:, None] > 0
    )
    ratio, log_ratio = over_null(prepared, fraction)
    dims = ("group", "epsilon")
    expected = pairs[:, None] * null_acceptance(prepared)
    isotropic = {"long_name": "points expected of isotropic latents"}
    return {
        "accepted": xr.Variable(dims, number, {"long_name": "accepted points"}),
        "expected": xr.Variable(dims, expected, isotropic),
        "acceptance": xr.Variable(dims, fraction, {"long_name": "accepted fraction of pairs"}),
        "acceptance_null": xr.Variable("epsilon", null_acceptance(prepared), {"long_name": "A0"}),
        "acceptance_ratio": xr.Variable(dims, ratio, {"long_name": "A/A0"}),
        "log10_acceptance_ratio": xr.Variable(dims, log_ratio, {"long_name": "log10 of A/A0"}),
    }


def _first(values: dict[str, Any], dim: str) -> dict[str, Any]:
    """Returns the first entry along an axis of all variables that have it.

    Variables are far faster to index than the Dataset of them would be.
    """
    return {
        name: value.isel({dim: 0}) if dim in getattr(value, "dims", ()) else value
        for name, value in values.items()
    }


def _unfold(
    values: dict[str, Any], prepared: Prepared, panels: _Panels, apart: dict[str, int]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Replaces the axis of groups by the axes that were kept apart; returns their coordinates."""
    known = {k: x for k, x in prepared.source.coords.items() if set(x.dims) <= set(apart)}
    coords: dict[str, Any] = {name: np.arange(length) for name, length in apart.items()}
    if panels.kept is not None:
        apart = apart | {"plane": panels.per_group}
        first, second = prepared.frame.planes[panels.kept].T
        coords |= {"first": ("plane", first), "second": ("plane", second)}
        coords["row"] = ("plane", panels.kept)
    if not apart:
        return _first(values, "group"), coords
    unfolded = {
        name: value.unstack(group=apart).transpose(*apart, ...)
        for name, value in values.items()
        if "group" in getattr(value, "dims", ())
    }
    return values | unfolded, coords | known


def _check_planes(planes_apart: bool, top: int | None, by: tuple[str, ...]) -> None:
    """Refuses arguments about single planes that cannot be used together."""
    if not truth("planes_apart", planes_apart):
        if top is not None:
            raise InputError("top", top, "keeps planes that are apart; give planes_apart=True too")
        return
    if top is not None:
        whole("top", top, least=1)
    if taken := sorted({"plane", "first", "second", "row"} & set(by)):
        problem = "is what pictures of single planes call an axis of theirs; rename the axis"
        raise InputError("by", taken[0], problem)


def _kept_planes(prepared: Prepared, top: int | None, bins: int) -> np.ndarray:
    """Returns the planes that get pictures of their own, of so many bins each."""
    planes = len(prepared.frame.planes)
    count = planes if top is None else min(top, planes)
    if count * bins > MAX_BINS:
        most = max(1, MAX_BINS // bins)
        problem = f"would make pictures of {count:,} planes, which is too much; keep at most"
        raise InputError("top", top, f"{problem} {most:,}")
    if top is None:
        return np.arange(planes)
    return np.argsort(-count_accepted(prepared)[0], kind="stable")[:count]


def _default_extent(prepared: Prepared) -> float:
    """Returns 1.05 times the 99.5 % quantile of the samples' lengths.

    If the null puts fewer than 5 points into the picture, as in a wide layer, only the samples
    that may lie near a plane count. They can be much shorter than the others, and would take up
    a few bins only if the picture were as wide as these.
    """
    lengths = prepared.survey.lengths
    lengths = lengths[lengths > 0]
    pairs = len(lengths) * len(prepared.frame.planes)
    if pairs * null_acceptance(prepared)[0] < density.MIN_EXPECTED:
        lengths = prepared.survey.lengths[prepared.survey.candidates]
    return 1.05 * float(np.quantile(lengths, EXTENT_QUANTILE)) if len(lengths) else 1.0


def _positive(name: str, value: Any, *, default: float) -> float:
    if value is None:
        return default
    try:
        return real(name, value, least=np.finfo(float).tiny)
    except InputError:
        raise InputError(name, value, "must be a positive length in latent units") from None


def _check_extent(value: Any, *, default: float) -> float:
    extent = _positive("extent", value, default=default)
    if not 1e-100 < extent < 1e100:
        raise InputError(
            "extent", extent, "is too small or too large to be squared; rescale the latents"
        )
    return extent


def _bandwidth(value: Any, extent: float) -> float:
    bandwidth = _positive("bandwidth", value, default=extent / BANDWIDTHS_PER_EXTENT)
    if bandwidth > extent:
        raise InputError(
            "bandwidth", bandwidth, f"must be at most the extent of the picture, {extent:g}"
        )
    return bandwidth


def _check_size(bins: int, pictures: int) -> None:
    """Refuses pictures that would not fit into memory, before any point is counted."""
    if pictures * bins**2 > MAX_BINS:
        most = int(np.sqrt(MAX_BINS / pictures))
        raise InputError("bins", bins, f"must be at most {most} for so many pictures ({pictures})")


def _bin_points(
    prepared: Prepared, edges: np.ndarray, panels: _Panels
) -> tuple[np.ndarray, np.ndarray]:
    """Counts the accepted points per bin, a block of points at a time.

    Returns:
      The counts per bin, `(groups · pictures per group, epsilons, v bins, u bins)`, and the numbers
      of all accepted points, `(groups · pictures per group, epsilons)`.
    """
    bins, shape = len(edges) - 1, (panels.groups * panels.per_group, len(prepared.epsilons))
    count = functools.partial(_bin_part, edges=edges, panels=panels)
    counts, number = add_accepted(prepared, count)
    # A point that a larger ε accepts is accepted by every smaller one too.
    counts = _from_the_right(counts.reshape(*shape, bins, bins))
    return counts, _from_the_right(number.reshape(shape))


def _bin_part(
    prepared: Prepared, *, edges: np.ndarray, panels: _Panels
) -> tuple[np.ndarray, np.ndarray]:
    """Counts the accepted points of a part, each at the largest ε that accepts it."""
    bins, shape = len(edges) - 1, (panels.groups * panels.per_group, len(prepared.epsilons))
    counts = np.zeros(math.prod(shape) * bins * bins, np.int64)
    number = np.zeros(math.prod(shape), np.int64)
    picture_of_plane = np.full(len(prepared.frame.planes), -1)
    if panels.kept is not None:
        picture_of_plane[panels.kept] = np.arange(panels.per_group)
    for block in accepted(prepared):
        if panels.kept is not None and len(panels.kept) < len(picture_of_plane):
            keep = picture_of_plane[block.plane] >= 0
            block = Accepted(*(x[keep] for x in block))
        panel = levels(block, prepared)
        if panels.groups > 1:
            panel += shape[1] * panels.per_group * panels.group[block.sample]
        if panels.kept is not None:
            panel += shape[1] * picture_of_plane[block.plane]
        number += np.bincount(panel, minlength=len(number))
        bin_index, inside = density.bin_number(block.u, block.v, edges)
        add_counts(counts, panel[inside] * (bins * bins) + bin_index)
    return counts, number


def _from_the_right(counts: np.ndarray) -> np.ndarray:
    return np.cumsum(counts[:, ::-1], axis=1)[:, ::-1]
