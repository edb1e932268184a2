"""The angles of samples in the privileged planes, in a few numbers (docs/method.md §7)."""

import functools
from typing import NamedTuple

import numpy as np
import scipy.special
import xarray as xr

from ppp_jax.analysis.io.rows import (
    DROP,
    RAISE,
    check_rows,
    count_rows,
    refuse_nonfinite,
    told,
)
from ppp_jax.analysis.io.sources import Latents, PerCloud, check_free, labelled_like
from ppp_jax.analysis.projection import isotropic_null
from ppp_jax.analysis.projection.kernel import Prepared, accepted, add_accepted, prepare
from ppp_jax.analysis.projection.planes import Basis, BasisLike
from ppp_jax.errors import InputError

SECTORS = 32
MODES = 4
FOURFOLD = 4  # the mode of axes and diagonals


def acceptance_ratio(
    latents: Latents,
    *,
    basis: BasisLike = None,
    epsilon: float = 0.85,
    nonfinite: str = RAISE,
) -> PerCloud:
    """Returns A/A0: the fraction of (plane, sample) pairs accepted, over the isotropic fraction.

    1 for isotropic latents, larger if they crowd the privileged planes, 0 if they avoid them; the
    corners of the cube do, so 0 does not mean that there is no structure (docs/method.md §2).

    Args:
      latents: `(..., samples, units)`; leading axes are separate clouds.
      basis: The privileged vectors, `(vectors, units)`; None means the standard basis.
      epsilon: The acceptance cosine, in [0, 1].
      nonfinite: `raise` refuses rows that are not finite, and `drop` leaves them out.

    Returns:
      Array of the leading shape, labelled if the latents are, with the counts of rows as
      attributes; NaN for a cloud without any finite row, or with nothing but zeros.

    Raises:
      InputError: An argument is out of its range, or rows are not finite; the error names it.

    Example:
      >>> round(float(acceptance_ratio(np.eye(4))), 3)  # each axis lies in half of the planes
      1.802
    """
    prepared = _prepare(latents, basis, epsilon, nonfinite)
    per_cloud = prepared.source.shape[-2]
    clouds = prepared.source.rows // per_cloud
    part = functools.partial(_count_part, per_cloud=per_cloud, clouds=clouds)
    (count,) = add_accepted(prepared, part)
    return labelled_like(latents, _over_null(prepared, count), _rows(prepared))


def _count_part(prepared: Prepared, *, per_cloud: int, clouds: int) -> tuple[np.ndarray]:
    count = np.zeros(clouds, np.int64)
    for block in accepted(prepared):
        count += np.bincount(block.sample // per_cloud, minlength=clouds)
    return (count,)


class Angles(NamedTuple):
    """What the angles φ of the accepted samples, all planes pooled, say of a cloud.

    Attributes:
      acceptance_ratio: The number that the function `acceptance_ratio` returns.
      entropy_deficit: Kullback–Leibler divergence from the uniform law of 32 equal sectors, in
        bits: 0 if uniform, 5 if all are in one sector. Few samples look less uniform than they
        are, which the rotation null shares.
      modes: |mean of exp(imφ)| for m = 1, 2, 3, 4, on a last axis: 4 are four-fold patterns, on
        the axes or the diagonals, 1 a preferred quadrant. Taken absolutely, they do not depend on
        the order of a plane's two vectors if those are orthogonal.
      fourfold: The mean of cos 4φ: 1 if all samples lie on the axes of their planes, −1 if all lie
        on the diagonals. φ is counted from the first of a plane's two vectors, and from the second
        too, of which the mean is taken; for orthogonal vectors both are the same. If they are α
        apart, their directions have cos² 2α and their bisector cos 2α, which tells the two apart
        from 45° to 135° alone.
    """

    acceptance_ratio: PerCloud
    entropy_deficit: PerCloud
    modes: PerCloud
    fourfold: PerCloud


def angles(
    latents: Latents,
    *,
    basis: BasisLike = None,
    epsilon: float = 0.85,
    nonfinite: str = RAISE,
) -> Angles:
    """Measures the angles of accepted samples (docs/method.md §7).

    Args:
      latents: `(..., samples, units)`; leading axes are separate clouds.
      basis: The privileged vectors, `(vectors, units)`; None means the standard basis.
      epsilon: The acceptance cosine, in [0, 1].
      nonfinite: `raise` refuses rows that are not finite, and `drop` leaves them out.

    Returns:
      `Angles` of the leading shape, labelled if the latents are, with the counts of rows as
      attributes; NaN for a cloud without any finite row, or of which no sample was accepted.

    Raises:
      InputError: An argument is out of its range, or rows are not finite; the error names it.

    Example:
      >>> found = angles(np.eye(4))  # φ is 0 or π/2, half of the samples each
      >>> float(found.entropy_deficit), found.modes.round(3).tolist()
      (4.0, [0.707, 0.0, 0.707, 1.0])
      >>> float(found.fourfold)
      1.0
    """
    prepared = _prepare(latents, basis, epsilon, nonfinite)
    found = _measured(prepared)
    rows = _rows(prepared)
    return Angles(
        labelled_like(latents, found.acceptance_ratio, rows),
        labelled_like(latents, found.entropy_deficit, rows),
        _labelled(latents, found.modes, rows),
        labelled_like(latents, found.fourfold, rows),
    )


class _Measured(NamedTuple):
    """What `Angles` holds, without labels."""

    acceptance_ratio: np.ndarray
    entropy_deficit: np.ndarray
    modes: np.ndarray
    fourfold: np.ndarray


def _measured(prepared: Prepared) -> _Measured:
    """Returns A/A0 and what the angles say, of every cloud."""
    per_cloud = prepared.source.shape[-2]
    clouds = prepared.source.rows // per_cloud
    part = functools.partial(_measure_part, per_cloud=per_cloud, clouds=clouds)
    count, histogram, modes, fourfold = add_accepted(prepared, part)
    ratio = _over_null(prepared, count)
    return _described(histogram.reshape(*ratio.shape, SECTORS), modes, fourfold, ratio)


def _measure_part(
    prepared: Prepared, *, per_cloud: int, clouds: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Returns the sums of a part, by cloud: accepted samples, sectors, modes, and cos 4φ."""
    count, histogram = np.zeros(clouds, np.int64), np.zeros(clouds * SECTORS, np.int64)
    modes, fourfold = np.zeros((clouds, MODES), np.complex128), np.zeros(clouds)
    for block in accepted(prepared):
        cloud = block.sample // per_cloud
        count += np.bincount(cloud, minlength=clouds)
        there = block.squared_cosine > 0  # across the plane there is no angle
        cloud, point = cloud[there], block.u[there] + 1j * block.v[there]
        # Rounded to the nearest sector, so that the axes are centres and not edges.
        sector = np.rint(np.angle(point) * (SECTORS / 2 / np.pi)).astype(np.int64) % SECTORS
        histogram += np.bincount(cloud * SECTORS + sector, minlength=len(histogram))
        power = direction = point / np.abs(point)
        for m in range(MODES):
            modes[:, m] += np.bincount(cloud, power.real, clouds)
            modes[:, m] += 1j * np.bincount(cloud, power.imag, clouds)
            if m + 1 == FOURFOLD:
                cosines = _fourfold(power, prepared.frame, block.plane[there])
                fourfold += np.bincount(cloud, cosines, clouds)
            power = power * direction
    return count, histogram, modes, fourfold


def _fourfold(power: np.ndarray, frame: Basis, plane: np.ndarray) -> np.ndarray:
    """Returns cos 4φ of accepted samples, the mean over the two vectors from which φ is counted.

    Args:
      power: exp(4iφ), φ from the first vector of each sample's plane, `(accepted,)`.
      frame: The basis.
      plane: The samples' planes, `(accepted,)`.
    """
    first = power.real
    if frame.gram is None:  # the second vector is a quarter of a turn away
        return first
    cosines = frame.gram[frame.planes[plane, 0], frame.planes[plane, 1]]
    between = np.arccos(np.clip(cosines, -1, 1))
    return np.asarray((first + (power * np.exp(-1j * FOURFOLD * between)).real) / 2)


def _described(
    histogram: np.ndarray, modes: np.ndarray, fourfold: np.ndarray, ratio: np.ndarray
) -> _Measured:
    """Returns what the angles say; NaN where no sample has an angle."""
    seen = histogram.sum(axis=-1)
    known = np.isfinite(ratio) & (seen > 0)
    fraction = histogram / np.maximum(seen, 1)[..., None]
    deficit = np.log2(SECTORS) + scipy.special.xlogy(fraction, fraction).sum(axis=-1) / np.log(2)
    sizes = np.abs(modes.reshape(*ratio.shape, MODES)) / np.maximum(seen, 1)[..., None]
    mean = fourfold.reshape(ratio.shape) / np.maximum(seen, 1)
    return _Measured(
        ratio,
        np.where(known, deficit, np.nan),
        np.where(known[..., None], sizes, np.nan),
        np.where(known, mean, np.nan),
    )


def _rows(prepared: Prepared) -> dict[str, int]:
    lengths = prepared.survey.lengths.reshape(-1, prepared.source.shape[-2])
    return told([count_rows(cloud) for cloud in lengths])


def _labelled(latents: Latents, modes: np.ndarray, rows: dict[str, int]) -> PerCloud:
    first = labelled_like(latents, modes[..., 0], rows)
    if not isinstance(first, xr.DataArray):
        return modes
    numbers = xr.DataArray(np.arange(1, MODES + 1), dims="mode", name="mode")
    return first.expand_dims(mode=numbers, axis=-1).copy(data=modes)


def angles_of(clouds: np.ndarray, frame: Basis, epsilon: float) -> dict[str, np.ndarray]:
    """Returns every statistic of `angles` by its name.

    Args:
      clouds: `(clouds, samples, units)`.
      frame: The basis.
      epsilon: The acceptance cosine.
    """
    # Rows are counted by who asks, and not again under every rotation.
    found = _measured(_prepare(clouds, frame, epsilon, DROP))._asdict()
    sizes = found.pop("modes")
    return found | {f"mode_{m + 1}": sizes[:, m] for m in range(MODES)}


def _prepare(latents: Latents, basis: BasisLike, epsilon: float, nonfinite: str) -> Prepared:
    check_rows(nonfinite, None)
    prepared = prepare(latents, basis, epsilon, nonfinite=DROP)
    check_free(prepared.source, ("mode",))
    if len(prepared.epsilons) != 1:
        raise InputError("epsilon", epsilon, "must be one number")
    lost = np.isnan(prepared.survey.lengths.reshape(-1, prepared.source.shape[-2]))
    some = lost.any(axis=1) & ~lost.all(axis=1)  # a cloud without any finite row is missing
    if nonfinite == RAISE and some.any():
        refuse_nonfinite(int(lost[some].sum()), prepared.source.shape)
    return prepared


def _over_null(prepared: Prepared, count: np.ndarray) -> np.ndarray:
    """Returns A/A0 of each cloud, given how many (plane, sample) pairs were accepted."""
    lengths = prepared.survey.lengths.reshape(len(count), -1)
    pairs = np.sum(lengths > 0, axis=1) * len(prepared.frame.planes)
    expected = pairs * isotropic_null.acceptance(prepared.source.units, float(prepared.epsilons[0]))
    usable = expected > 0
    ratio = np.divide(count, expected, out=np.full(len(count), np.nan), where=usable)
    return ratio.reshape(prepared.source.shape[:-2])
