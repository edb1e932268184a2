"""PPP densities, divided by their exact null (docs/method.md §2, §4)."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr

from ppp_jax.analysis.io.sources import Latents, axis_names, groups
from ppp_jax.analysis.projection import density
from ppp_jax.analysis.projection.kernel import Prepared, accepted, prepare
from ppp_jax.analysis.projection.planes import BasisLike
from ppp_jax.analysis.projection.points import (
    add_counts,
    levels,
    null_acceptance,
    over_null,
    provenance,
    warn_if_empty,
)
from ppp_jax.errors import InputError, real, whole

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
    nonfinite: str = "raise",
    by: str | Sequence[str] = (),
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
      nonfinite: `raise` to refuse samples that are not finite, or `drop` to leave them out.
      by: Axes of the latents to keep apart, such as `("seed", "step")` for a picture of every seed
        at every snapshot; all others are pooled. Axes without names are called `axis_0`, `axis_1`
        and so on.
      extent: Half-width of the picture in latent units. The default is 1.05 times the 99.5 %
        quantile of the lengths of all samples, or, if isotropic latents would put fewer than 5
        points into the picture, of the samples that may lie near a plane.
      bins: Number of bins along each axis.
      bandwidth: Standard deviation of the Gaussian in latent units; by default `extent`/32.
      progress: Whether to show a progress bar on stderr.

    Returns:
      A Dataset over the axes in `by`, `epsilon` if there are several, and the bin centres `v` and
      `u` in latent units, with these variables:

      - `density`: the fraction of all (plane, sample) pairs per unit area, which integrates to the
        accepted fraction;
      - `null`: the density that isotropic latents of the same lengths would have;
      - `ratio`: density/null, which is missing where isotropic latents would put fewer than 5
        points under the Gaussian, whose effective area is 4π·bandwidth²;
      - `log_ratio`: the logarithm of the ratio to base 2, in which a density below that of half a
        point under the Gaussian counts as half a point;
      - `accepted`: the number of accepted points;
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
    options: dict[str, Any] = {
        "planes": planes,
        "max_planes": max_planes,
        "plane_seed": plane_seed,
        "nonfinite": nonfinite,
    }
    prepared = prepare(latents, basis, epsilon, progress=progress, **options)
    group, shape = groups(prepared.source, by)
    _check_size(bins, math.prod(shape) * len(prepared.epsilons))
    lengths = prepared.survey.lengths
    there, lengths = lengths > 0, lengths[lengths > 0]
    extent = _check_extent(extent, default=_default_extent(prepared, lengths))
    bandwidth = _bandwidth(bandwidth, extent)
    edges = np.linspace(-extent, extent, bins + 1)
    counts, number = _bin_points(prepared, edges, group, math.prod(shape))
    warn_if_empty(prepared, number)
    members = _split(lengths, group[there], len(counts))
    pictures, pairs = _pictures(prepared, counts, members, edges, bandwidth)
    made = {"bandwidth": bandwidth, "plane_order": planes, **provenance(prepared)}
    values = pictures | _shares(prepared, number, pairs)
    result = xr.Dataset(values, {"epsilon": prepared.epsilons}, made)
    return _unfold(result if np.ndim(epsilon) else result.squeeze("epsilon"), prepared, by, shape)


def _pictures(
    prepared: Prepared,
    counts: np.ndarray,
    members: list[np.ndarray],
    edges: np.ndarray,
    bandwidth: float,
) -> tuple[dict[str, xr.Variable], np.ndarray]:
    """Returns each group's density, null and ratio, and its number of (plane, sample) pairs."""
    pairs = np.array([len(x) for x in members]) * len(prepared.frame.planes)
    mass = counts / np.maximum(pairs, 1)[:, None, None, None]
    null = density.null_masses(members, prepared.source.units, prepared.epsilons, edges)
    return density.picture(mass, null, pairs, edges, bandwidth), pairs


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
    return {
        "accepted": xr.Variable(dims, number, {"long_name": "accepted points"}),
        "acceptance": xr.Variable(dims, fraction, {"long_name": "accepted fraction of pairs"}),
        "acceptance_null": xr.Variable("epsilon", null_acceptance(prepared), {"long_name": "A0"}),
        "acceptance_ratio": xr.Variable(dims, ratio, {"long_name": "A/A0"}),
        "log10_acceptance_ratio": xr.Variable(dims, log_ratio, {"long_name": "log10 of A/A0"}),
    }


def _unfold(
    result: xr.Dataset, prepared: Prepared, by: tuple[str, ...], shape: tuple[int, ...]
) -> xr.Dataset:
    """Replaces the axis of groups by the axes that were kept apart, with their coordinates."""
    if not by:
        return result.squeeze("group")
    unfolded = {}
    for name, variable in result.variables.items():
        if "group" in variable.dims:
            apart = variable.unstack(group=dict(zip(by, shape, strict=True)))
            unfolded[name] = apart.transpose(*by, ...)
    coords = {k: x for k, x in prepared.source.coords.items() if set(x.dims) <= set(by)}
    counted = {name: np.arange(length) for name, length in zip(by, shape, strict=True)}
    return result.drop_vars(list(unfolded)).assign(unfolded).assign_coords(counted | coords)


def _default_extent(prepared: Prepared, lengths: np.ndarray) -> float:
    """Returns 1.05 times the 99.5 % quantile of the samples' lengths.

    If the null puts fewer than 5 points into the picture, as in a wide layer, only the samples
    that may lie near a plane count. They can be much shorter than the others, and would take up
    a few bins only if the picture were as wide as these.
    """
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
    prepared: Prepared, edges: np.ndarray, group: np.ndarray, count: int
) -> tuple[np.ndarray, np.ndarray]:
    """Counts the accepted points per bin, a block of points at a time.

    Returns:
      The counts per bin, `(groups, epsilons, v bins, u bins)`, and the numbers of all accepted
      points, `(groups, epsilons)`.
    """
    bins, several = len(edges) - 1, len(prepared.epsilons)
    counts = np.zeros(count * several * bins * bins, np.int64)
    number = np.zeros(count * several, np.int64)
    for block in accepted(prepared):
        panel = levels(block, prepared)
        if count > 1:
            panel += several * group[block.sample]
        number += np.bincount(panel, minlength=len(number))
        bin_index, inside = density.bin_number(block.u, block.v, edges)
        add_counts(counts, panel[inside] * (bins * bins) + bin_index)
    shape = (count, several)
    # A point that a larger ε accepts is accepted by every smaller one too.
    counts = _from_the_right(counts.reshape(*shape, bins, bins))
    return counts, _from_the_right(number.reshape(shape))


def _from_the_right(counts: np.ndarray) -> np.ndarray:
    return np.cumsum(counts[:, ::-1], axis=1)[:, ::-1]
