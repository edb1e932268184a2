"""Which units carry the alignment of a layer: outlier dimensions by name (docs/method.md §6)."""

from typing import NamedTuple

import numpy as np
import xarray as xr

from ppp_jax.analysis.io.rows import RAISE, Rows, check_rows, kept_rows, told, warn_of_long_rows
from ppp_jax.analysis.io.sources import Latents, check_free, open_source, read, rescale
from ppp_jax.analysis.projection import views
from ppp_jax.analysis.projection.planes import Basis, BasisLike, resolve_vectors
from ppp_jax.analysis.statistics import quantisation
from ppp_jax.errors import choice, whole

SHAPE, C4, COVARIANCE = "shape", "c4", "covariance"
SEES = {SHAPE: views.SHAPE, C4: views.SAMPLES, COVARIANCE: views.COVARIANCE}
COUNT = 5
NUMBERS = ("unit", "share", "variance", "kurtosis", "dip")
WINDOW = 2**22  # projections held at once


class _Along(NamedTuple):
    """What a cloud is along each vector, `(vectors,)` each."""

    excess: np.ndarray
    variance: np.ndarray
    kurtosis: np.ndarray


def top_units(
    latents: Latents,
    *,
    basis: BasisLike = None,
    statistic: str = SHAPE,
    count: int = COUNT,
    nonfinite: str = RAISE,
    drop_outliers: float | None = None,
) -> xr.Dataset:
    """Finds the units, or vectors of a basis, that carry the alignment of a layer.

    C4 on an orthonormal basis is a function of Σ_k Σ_x (x·b_k)⁴/‖x‖⁴, in which every vector has a
    part of its own. A random direction has 3/(n(n + 2)) per sample, whatever the samples are: what
    a vector has beyond that is its share of the alignment. The covariance's part of a vector is
    (b_kᵀ S b_k)², beyond that of a vector of mean variance.

    Args:
      latents: `(..., samples, units)`, of any kind; leading axes are separate clouds.
      basis: The privileged vectors, `(vectors, units)`, or a name; None means the standard basis.
      statistic: Whose parts are looked at: `shape` (of the whitened samples), `c4` or `covariance`.
      count: How many vectors are returned of each cloud; at most as many as there are.
      nonfinite: `raise` refuses rows that are not finite, and `drop` leaves them out.
      drop_outliers: Rows longer than so many times the median row are left out; None keeps them,
        with a warning about rows longer than 100 times the median.

    Returns:
      Dataset over the leading axes and `place`, the vectors with the largest parts first: `unit`,
      the number of the vector, from 0; `share`, its part over the sum of the parts' sizes, above 0
      if it is nearer to the axis than a random direction and below 0 otherwise; `variance`, its
      share of the variance along all vectors; `kurtosis` along it over a Gaussian's 3; and `dip`,
      Hartigan's dip along it, of at most 2,048 samples. Where the statistic cannot be judged
      `share` is missing and `unit` is −1. Attributes name the `statistic` and count the rows.

    Raises:
      InputError: An argument is out of its range, or rows are not finite; the error names it.

    Example:
      >>> cloud = np.random.default_rng(0).normal(size=(2000, 8))
      >>> cloud[:, 3] = cloud[:, 3] ** 3  # heavy tails along one unit
      >>> top_units(cloud, count=2)["unit"].values[0].item()
      3
    """
    choice("statistic", statistic, tuple(SEES))
    whole("count", count, least=1)
    check_rows(nonfinite, drop_outliers)
    source = open_source(latents)
    check_free(source, ("place", *NUMBERS))
    frame = resolve_vectors(basis, source.units)
    samples, most = source.shape[-2], min(count, frame.size)
    found, counts = [], []
    for start in range(0, source.rows, samples):
        cloud, rows = kept_rows(
            read(source, start, start + samples), nonfinite=nonfinite, drop_outliers=drop_outliers
        )
        counts.append(rows)
        found.append(_of_cloud(cloud, rows, frame, statistic, most))
    if drop_outliers is None:
        warn_of_long_rows(sum(rows.long for rows in counts))
    dims = (*source.dims[:-1], "place")
    shaped = np.stack(found).reshape(*source.shape[:-2], most, len(NUMBERS))
    columns = {name: (dims, shaped[..., k]) for k, name in enumerate(NUMBERS)}
    made = xr.Dataset(columns, source.coords, {"statistic": statistic, **told(counts)})
    return made.assign(unit=made["unit"].astype(np.int64))


def _of_cloud(cloud: np.ndarray, rows: Rows, frame: Basis, statistic: str, most: int) -> np.ndarray:
    """Returns the numbers of the vectors with the largest parts, `(most, numbers)`."""
    none = np.column_stack([np.full(most, -1.0), np.full((most, len(NUMBERS) - 1), np.nan)])
    if rows.samples < 2:
        return none
    values, _ = rescale(cloud)
    view = views.view(values, SEES[statistic])
    if view is None:
        return none
    along = _along(values, view, frame, statistic)
    total = np.abs(along.excess).sum()
    if not total > 0:
        return none
    top = np.argsort(-np.abs(along.excess), kind="stable")[:most]
    dips = _dips(values, frame, top)
    share, variance = along.excess / total, along.variance / along.variance.sum()
    return np.column_stack([top, share[top], variance[top], along.kurtosis[top], dips])


def _along(values: np.ndarray, view: np.ndarray, frame: Basis, statistic: str) -> _Along:
    """Measures every vector, window by window of the samples."""
    there = views.present(values)
    mean, count = views.mean_of(values), np.count_nonzero(there)
    sums = np.zeros((3, frame.size))
    width = max(1, WINDOW // frame.size)
    for start in range(0, len(values), width):
        rows = slice(start, start + width)
        centred = np.where(there[rows, None], values[rows] - mean, 0)
        square = np.square(_onto(centred, frame))
        sums[0] += square.sum(axis=0)
        sums[1] += np.square(square).sum(axis=0)
        if statistic != COVARIANCE:
            sums[2] += _angular(view[rows], frame)
    variance, fourth = sums[:2] / count
    spread = variance > 0
    kurtosis = np.where(spread, fourth / (3 * np.square(np.where(spread, variance, 1))), np.nan)
    if statistic == COVARIANCE:
        part = np.square(variance)
        return _Along(part - np.square(variance.mean()), variance, kurtosis)
    directions, units = np.count_nonzero(views.present(view)), values.shape[1]
    random = 3 / (units * (units + 2))
    return _Along(sums[2] / max(directions, 1) - random, variance, kurtosis)


def _onto(values: np.ndarray, frame: Basis) -> np.ndarray:
    """Returns projections onto every vector, `(samples, vectors)`, float64."""
    exact = values.astype(np.float64)
    return exact if frame.vectors is None else exact @ frame.vectors.T


def _angular(view: np.ndarray, frame: Basis) -> np.ndarray:
    """Returns the sum over samples of (x·b)⁴/‖x‖⁴ of every vector."""
    length = np.linalg.norm(view.astype(np.float64), axis=1, keepdims=True)
    direction = view / np.where(length > 0, length, 1)
    found: np.ndarray = np.square(np.square(_onto(direction, frame))).sum(axis=0)
    return found


def _dips(values: np.ndarray, frame: Basis, top: np.ndarray) -> np.ndarray:
    """Returns the dip along some vectors; NaN along those in which nothing varies."""
    samples = quantisation.drawn_for_dips(values[views.present(values)])
    vectors = np.eye(frame.size)[top] if frame.vectors is None else frame.vectors[top]
    onto = quantisation.project(samples, vectors)
    return np.array([quantisation.mean_dip(one[None]) for one in onto])
