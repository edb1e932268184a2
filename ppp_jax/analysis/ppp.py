"""Privileged-plane projection: accepted points, and their density against the exact null."""

import warnings
from typing import Any, NamedTuple

import numpy as np
import scipy.signal
import scipy.special
import xarray as xr

from ppp_jax import __version__
from ppp_jax.analysis import nulls
from ppp_jax.analysis.planes import (
    Frame,
    Samples,
    accepted_blocks,
    as_samples,
    build_frame,
    check_epsilon,
    rescale,
)
from ppp_jax.errors import InputError

MIN_EXPECTED = 5  # points under the smoothing kernel; where fewer are expected, a ratio is noise
EXTENT_QUANTILE = 0.995
BANDWIDTHS_PER_EXTENT = 32


class EmptyPPPWarning(UserWarning):
    """No sample was accepted: the picture is empty, which does not mean there is no structure."""


class Projection(NamedTuple):
    """The samples near each privileged plane.

    Attributes:
      points: in-plane coordinates (u, v), `(accepted, 2)`, plane by plane, in latent units.
      plane: row of `planes` of each point, `(accepted,)`.
      sample: position of each point's sample in the flattened input, `(accepted,)`.
      planes: indices of the two basis vectors that span each plane, `(planes, 2)`.
      counts: accepted samples per plane, `(planes,)`.
      samples: nonzero samples, out of which they were accepted.
      zero_rows: samples of length 0, excluded.
      dropped_rows: samples that are not finite, excluded.
      skipped_planes: parallel or antiparallel pairs, excluded.
    """

    points: np.ndarray
    plane: np.ndarray
    sample: np.ndarray
    planes: np.ndarray
    counts: np.ndarray
    samples: int
    zero_rows: int
    dropped_rows: int
    skipped_planes: int


def project(
    latents: Any,
    *,
    basis: Any = None,
    epsilon: float = 0.85,
    planes: str = "combinations",
    max_planes: int | None = None,
    seed: int = 0,
    nonfinite: str = "raise",
) -> Projection:
    """Projects samples onto every privileged plane that they lie near.

    A sample x is accepted by a plane iff its in-plane radius is at least ε‖x‖: ε is the cosine of
    the largest angle allowed between them (METHOD §2).

    Args:
      latents: `(..., units)`, any array; axes before the last are pooled.
      basis: privileged vectors, `(vectors, units)`, of any length; None for the standard basis.
      epsilon: acceptance cosine, in [0, 1].
      planes: `combinations`, or `permutations` for both orders of every pair.
      max_planes: use so many planes, drawn without replacement; None for all.
      seed: of that draw.
      nonfinite: `raise`, or `drop` to leave out samples that are not finite.

    Returns:
      The `Projection`.

    Raises:
      InputError: an argument out of its range, naming it.

    Example:
      >>> project([[3.0, 1.0, 0.0], [1.0, 1.0, 1.0]], epsilon=0.9).points.round(3).tolist()
      [[3.0, 1.0], [3.0, 0.0]]
    """
    options = {"planes": planes, "max_planes": max_planes, "seed": seed}
    samples, frame = _prepare(latents, basis, epsilon, nonfinite, options)
    blocks = list(accepted_blocks(samples.values, frame, epsilon))
    plane = np.concatenate([block.plane for block in blocks])
    zero_rows = _zero_rows(samples)
    return Projection(
        points=np.concatenate([block.points for block in blocks]),
        plane=plane,
        sample=samples.rows[np.concatenate([block.sample for block in blocks])],
        planes=frame.planes,
        counts=np.bincount(plane, minlength=len(frame.planes)),
        samples=len(samples.values) - zero_rows,
        zero_rows=zero_rows,
        dropped_rows=samples.dropped,
        skipped_planes=frame.skipped,
    )


def _prepare(
    latents: Any, basis: Any, epsilon: float, nonfinite: str, options: dict[str, Any]
) -> tuple[Samples, Frame]:
    check_epsilon(epsilon)
    samples = as_samples(latents, nonfinite=nonfinite)
    return samples, build_frame(basis, samples.values.shape[1], **options)


def _zero_rows(samples: Samples) -> int:
    return int(np.count_nonzero(~samples.values.any(axis=1)))


def ppp(
    latents: Any,
    *,
    basis: Any = None,
    epsilon: float = 0.85,
    planes: str = "combinations",
    max_planes: int | None = None,
    seed: int = 0,
    nonfinite: str = "raise",
    extent: float | None = None,
    bins: int = 128,
    bandwidth: float | None = None,
) -> xr.Dataset:
    """Returns the PPP density of latents, and the density that isotropic ones would have.

    Accepted points of all planes are pooled, binned, and smoothed by a Gaussian through the FFT.
    The null is exact for the samples' own lengths (METHOD §4), binned and smoothed alike, so
    their ratio is 1 everywhere in expectation if no direction is preferred.

    Args:
      latents: as `project`.
      basis: as `project`.
      epsilon: as `project`.
      planes: as `project`.
      max_planes: as `project`.
      seed: as `project`.
      nonfinite: as `project`.
      extent: half-width of the picture in latent units; by default 1.05 times the 99.5 % quantile
        of the samples' lengths.
      bins: bins along each axis.
      bandwidth: standard deviation of the Gaussian in latent units; by default `extent`/32.

    Returns:
      Dataset over `v` and `u` (bin centres, latent units): `density`, the share of all (plane,
      sample) pairs per unit area, which integrates to the accepted share; `null`, the same for
      isotropic latents; and `ratio`, missing where isotropic latents would put fewer than 5
      points under the Gaussian (over its effective area of 4π bandwidth²).
      Attributes hold `acceptance_ratio` (A/A0) and everything the picture was made with.

    Raises:
      InputError: an argument out of its range, naming it.

    Warns:
      EmptyPPPWarning: nothing was accepted.

    Example:
      >>> import numpy as np
      >>> latents = np.random.default_rng(0).normal(size=(5000, 8))
      >>> bool(abs(ppp(latents).attrs["acceptance_ratio"] - 1) < 0.1)
      True
    """
    if bins < 2:
        raise InputError("bins", bins, "must be at least 2")
    options = {"planes": planes, "max_planes": max_planes, "seed": seed}
    samples, frame = _prepare(latents, basis, epsilon, nonfinite, options)
    lengths = _nonzero_lengths(samples)
    extent = _positive("extent", extent, default=_default_extent(lengths))
    bandwidth = _positive("bandwidth", bandwidth, default=extent / BANDWIDTHS_PER_EXTENT)
    edges = np.linspace(-extent, extent, bins + 1)
    counts, accepted = _bin_points(samples.values, frame, epsilon, edges)
    pairs, units = max(1, len(lengths) * len(frame.planes)), samples.values.shape[1]
    if accepted == 0:
        warnings.warn(_empty_message(epsilon, units), EmptyPPPWarning, stacklevel=2)
    expected = nulls.acceptance(units, epsilon)
    null = nulls.density_mass(lengths, units, epsilon, edges)
    return _picture(counts / pairs, null, edges, bandwidth, pairs).assign_attrs(
        acceptance=accepted / pairs,
        acceptance_null=expected,
        acceptance_ratio=accepted / pairs / expected if expected else np.nan,
        accepted=accepted,
        samples=len(lengths),
        epsilon=epsilon,
        bandwidth=bandwidth,
        basis="standard" if basis is None else f"given, {len(frame.vectors)} vectors",
        plane_order=planes,
        **_provenance(samples, frame),
    )


def _provenance(samples: Samples, frame: Frame) -> dict[str, Any]:
    return {
        "units": samples.values.shape[1],
        "planes": len(frame.planes),
        "zero_rows": _zero_rows(samples),
        "dropped_rows": samples.dropped,
        "skipped_planes": frame.skipped,
        "made_by": f"ppp_jax {__version__}",
    }


def _nonzero_lengths(samples: Samples) -> np.ndarray:
    values, scale = rescale(samples.values.astype(np.float64))  # its squares may overflow too
    lengths = scale * np.linalg.norm(values, axis=1)
    return lengths[lengths > 0]


def _default_extent(lengths: np.ndarray) -> float:
    return 1.05 * float(np.quantile(lengths, EXTENT_QUANTILE)) if len(lengths) else 1.0


def _positive(name: str, value: float | None, *, default: float) -> float:
    if value is None:
        return default
    if not (np.isfinite(value) and value > 0):
        raise InputError(name, value, "must be a positive length, in latent units")
    return float(value)


def _empty_message(epsilon: float, units: int) -> str:
    return (
        f"no sample lies within epsilon={epsilon} of a plane: the picture is empty, which does not "
        "mean that there is no structure (the corners of the cube have plane fraction "
        f"{np.sqrt(2 / units):.3f} at {units} units); try a smaller epsilon"
    )


def _bin_points(
    values: np.ndarray, frame: Frame, epsilon: float, edges: np.ndarray
) -> tuple[np.ndarray, int]:
    """Counts accepted points per bin, `(v bins, u bins)`, and in all, never holding them all."""
    bins = len(edges) - 1
    counts = np.zeros(bins * bins, np.int64)
    accepted = 0
    for block in accepted_blocks(values, frame, epsilon):
        accepted += len(block.points)
        place = np.floor((block.points - edges[0]) / (edges[1] - edges[0])).astype(np.int64)
        u, v = place[((place >= 0) & (place < bins)).all(axis=1)].T
        counts += np.bincount(v * bins + u, minlength=bins * bins)
    return counts.reshape(bins, bins), accepted


def _gaussian(bandwidth: float, edges: np.ndarray) -> np.ndarray:
    """Returns the Gaussian's mass in bins around its centre, cut at 5 deviations, summing to 1."""
    width = edges[1] - edges[0]
    reach = int(np.ceil(5 * bandwidth / width))
    borders = (np.arange(-reach, reach + 2) - 0.5) * width
    mass = np.diff(scipy.special.ndtr(borders / bandwidth))
    return np.outer(mass, mass) / mass.sum() ** 2


def _smooth(mass: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    reach = len(kernel) // 2
    full = scipy.signal.fftconvolve(mass, kernel, mode="full")
    # The FFT leaves rounding errors of either sign where there is nothing.
    return np.maximum(full[reach : reach + len(mass), reach : reach + len(mass)], 0)


def _picture(
    mass: np.ndarray, null_mass: np.ndarray, edges: np.ndarray, bandwidth: float, pairs: int
) -> xr.Dataset:
    """Smooths the binned shares of pairs, observed and expected, and divides them."""
    kernel, area = _gaussian(bandwidth, edges), (edges[1] - edges[0]) ** 2
    density, null = _smooth(mass, kernel) / area, _smooth(null_mass, kernel) / area
    floor = MIN_EXPECTED / (pairs * 4 * np.pi * bandwidth**2)
    ratio = np.divide(density, null, out=np.full_like(density, np.nan), where=null >= floor)
    centres = (edges[:-1] + edges[1:]) / 2
    return xr.Dataset(
        {
            "density": (("v", "u"), density, {"units": "share of pairs per unit area"}),
            "null": (("v", "u"), null, {"units": "share of pairs per unit area"}),
            "ratio": (("v", "u"), ratio, {"long_name": "density over isotropic null"}),
        },
        coords={"u": centres, "v": centres},
    )
