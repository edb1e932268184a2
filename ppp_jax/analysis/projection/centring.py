"""Latents without the mean of each cloud, or without its mean and covariance (docs/method.md §2).

The moments of a cloud are summed part by part, and taken out of its samples whenever these are
read. So latents that are larger than the memory can be centred and whitened too.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from ppp_jax.analysis.io.sources import Source, read
from ppp_jax.analysis.projection import views
from ppp_jax.errors import InputError
from ppp_jax.resources import check_fits

PART_ELEMENTS = 2**22  # numbers whose moments are summed at once
LARGEST = 1e100  # numbers beyond this, or all below its inverse, have no safe squares


class Moments(NamedTuple):
    """What is taken out of the samples of a cloud.

    Attributes:
      mean: The mean of the samples, `(units,)`, float64.
      axes: Directions in which the samples vary, as columns, `(units, rank)`; None if the
        covariance is left as it is.
      deviations: Standard deviations along `axes`, `(rank,)`; None without them.
      at_mean: The squared length up to which a centred sample is rounding.
    """

    mean: np.ndarray
    axes: np.ndarray | None
    deviations: np.ndarray | None
    at_mean: float

    def taken_out(self, values: np.ndarray) -> np.ndarray:
        """Returns samples without these moments; rows of zeros stay, and others at the mean become.

        Args:
          values: `(rows, units)`, float64.
        """
        finite = np.isfinite(values).all(axis=1)
        centred = np.where(finite[:, None], values, np.nan) - self.mean
        gone = ~values.any(axis=1) | (np.vecdot(centred, centred) <= self.at_mean)
        if self.axes is not None:
            centred = (centred @ self.axes / self.deviations) @ self.axes.T
        centred[gone] = 0
        return centred


class Centred:
    """Latents of which moments are taken out as they are read."""

    def __init__(self, source: Source, moments: Sequence[Moments | None]):
        """Wraps latents, given the moments of each cloud; None leaves a cloud as it is."""
        self.source, self.moments = source, moments

    def rows(self, index: Sequence[int], start: int, stop: int) -> np.ndarray:
        """Returns some samples of one cloud, `(stop − start, units)`, float64.

        Args:
          index: Index of the cloud along the leading axes.
          start: Index of the first sample.
          stop: Index after the last sample.
        """
        leading, samples = self.source.shape[:-2], self.source.shape[-2]
        cloud = int(np.ravel_multi_index(tuple(index), leading)) if leading else 0
        first = cloud * samples
        values = read(self.source, first + start, first + stop).astype(np.float64, copy=False)
        moments = self.moments[cloud]
        return values if moments is None else moments.taken_out(values)


def centred(source: Source, *, whiten: bool) -> tuple[Source, int | None]:
    """Takes the mean of each cloud out of its samples, and if asked the covariance too.

    Rows of zeros are no samples, and stay. Latents are whitened by the symmetric root of the
    covariance (ZCA), and on the directions in which they vary if these are not all
    (docs/method.md §6).

    Args:
      source: The latents.
      whiten: Whether to whiten them.

    Returns:
      The latents, and the smallest number of directions in which a cloud varies, or None if they
      are not whitened.

    Raises:
      InputError: A cloud has fewer than 5 samples per unit to be whitened, or does not vary; or
        its numbers cannot be squared.
    """
    clouds = source.rows // source.shape[-2]
    if whiten:
        check_fits("whiten", whiten, 8 * clouds * source.units**2)
    moments = [_moments(source, cloud, whiten) for cloud in range(clouds)]
    ranks = [len(one.deviations) for one in moments if one and one.deviations is not None]
    rank = min(ranks, default=0) if whiten else None
    made = source._replace(array=Centred(source, moments), dtype=np.dtype(np.float64), lazy=True)
    return made, rank


def _moments(source: Source, cloud: int, whiten: bool) -> Moments | None:
    """Returns the moments of a cloud, or None if no row of it is a sample."""
    units = source.units
    count, total, squares = 0, np.zeros(units), np.zeros(units)
    for values in _parts(source, cloud):
        count += len(values)
        total += values.sum(axis=0)
        squares += np.square(values).sum(axis=0)
    if not count:
        return None
    mean = total / count
    rounding = views.rounding_variance(squares / count, count, source.dtype)
    if not whiten:
        return Moments(mean, None, None, float(rounding.sum()))
    if count < (need := views.needed(views.SHAPE, units)):
        problem = f"needs 5 samples per unit, {need:,} here, and a cloud has {count:,}; give more"
        raise InputError("whiten", whiten, f"{problem} samples, or only centre them")
    factor = None
    for values in _parts(source, cloud):
        factor = views.triangle(values - mean, above=factor)
    assert factor is not None  # there are samples
    axes, deviations, _ = views.principal(factor, count, rounding)
    if not len(deviations):
        raise InputError("whiten", whiten, "takes latents that vary, and those of a cloud do not")
    return Moments(mean, axes, deviations, float(rounding.sum()))


def _parts(source: Source, cloud: int) -> Iterator[np.ndarray]:
    """Yields copies of the samples of a cloud, part by part, `(rows, units)`, float64."""
    samples = source.shape[-2]
    first, step = cloud * samples, max(1, PART_ELEMENTS // source.units)
    for start in range(0, samples, step):
        values = read(source, first + start, first + min(start + step, samples))
        there = np.isfinite(values).all(axis=1) & values.any(axis=1)
        values = values[there].astype(np.float64)
        largest = np.abs(values).max(initial=0)
        if len(values) and not 1 / LARGEST < largest < LARGEST:
            problem = "is too small or too large to be squared; rescale the latents"
            raise InputError("latents", f"{largest:g}", problem)
        yield values
