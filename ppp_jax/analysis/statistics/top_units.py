"""Which units carry the alignment of a layer: outlier dimensions by name (docs/method.md §6)."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import xarray as xr

from ppp_jax.analysis.io.rows import RAISE, check_rows, kept_rows, told, warn_of_long_rows
from ppp_jax.analysis.io.sources import Latents, check_free, open_source, read, rescale
from ppp_jax.analysis.projection import views
from ppp_jax.analysis.projection.planes import Basis, BasisLike, resolve_vectors
from ppp_jax.analysis.statistics import quantisation
from ppp_jax.analysis.statistics.alignment import kurtoses
from ppp_jax.analysis.statistics.moments import Moments
from ppp_jax.analysis.statistics.streamed import moments_of
from ppp_jax.errors import choice, whole

SHAPE, C4, COVARIANCE = "shape", "c4", "covariance"
SEES = {SHAPE: views.SHAPE, C4: views.SAMPLES, COVARIANCE: views.COVARIANCE}
COUNT = 5
NUMBERS = ("unit", "share", "variance", "kurtosis", "dip")


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
    a vector has beyond that is its share of the alignment. In a layer of few units the parts depend
    on each other by the length of the samples: heavy tails along one unit bring the others nearer
    to their axes, too, and may have the smaller part themselves. The covariance's part of a vector
    is (b_kᵀ S b_k)², beyond that of a vector of mean variance.

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
        found.append(numbers_of({views.SAMPLES: rescale(cloud)[0]}, frame, statistic, most))
    if drop_outliers is None:
        warn_of_long_rows(sum(rows.long for rows in counts))
    dims = (*source.dims[:-1], "place")
    shaped = np.stack(found).reshape(*source.shape[:-2], most, len(NUMBERS))
    columns = {name: (dims, shaped[..., k]) for k, name in enumerate(NUMBERS)}
    made = xr.Dataset(columns, source.coords, {"statistic": statistic, **told(counts)})
    return made.assign(unit=made["unit"].astype(np.int64))


def numbers_of(
    seen: Mapping[str, np.ndarray | None], frame: Basis, statistic: str, most: int
) -> np.ndarray:
    """Returns the numbers of the vectors with the largest parts, `(most, numbers)`.

    Args:
      seen: Views of a cloud by their names, of which its samples must be there; what else the
        statistic sees is made where it is not.
      frame: The basis.
      statistic: Whose parts are looked at.
      most: How many vectors, at most as many as there are.
    """
    none = np.column_stack([np.full(most, -1.0), np.full((most, len(NUMBERS) - 1), np.nan)])
    values, sees = seen[views.SAMPLES], SEES[statistic]
    if values is None or np.count_nonzero(views.present(values)) < 2:
        return none
    view = seen[sees] if sees in seen else views.view(values, sees)
    if view is None:
        return none
    along = _along(values, view, frame, statistic)
    total = np.abs(along.excess).sum()
    if not (total > 0 and along.variance.sum() > 0):
        return none
    top = np.argsort(-np.abs(along.excess), kind="stable")[:most]
    dips = _dips(values, frame, top)
    share, variance = along.excess / total, along.variance / along.variance.sum()
    return np.column_stack([top, share[top], variance[top], along.kurtosis[top], dips])


def _along(values: np.ndarray, view: np.ndarray, frame: Basis, statistic: str) -> _Along:
    """Measures every vector."""
    variance, units = _variances(values, frame), values.shape[1]
    kurtosis = kurtoses(_moments(values, frame))
    if statistic == COVARIANCE:
        part = np.square(variance)
        return _Along(part - np.square(variance.mean()), variance, kurtosis)
    of_view = _moments(view, frame)
    random = 3 / (units * (units + 2))
    return _Along(of_view.angular / max(of_view.samples, 1) - random, variance, kurtosis)


def _moments(values: np.ndarray, frame: Basis) -> Moments:
    source = open_source(values)
    return moments_of(source, 0, frame, nonfinite=RAISE, drop_outliers=None)[0]


def _variances(values: np.ndarray, frame: Basis) -> np.ndarray:
    """Returns the variance along every vector, float64."""
    there = views.present(values)
    centred = np.where(there[:, None], values - views.mean_of(values), 0)
    onto = centred if frame.vectors is None else centred @ frame.vectors.T
    found: np.ndarray = np.einsum("sk,sk->k", onto, onto) / np.count_nonzero(there)
    return found


def _dips(values: np.ndarray, frame: Basis, top: np.ndarray) -> np.ndarray:
    """Returns the dip along some vectors; NaN along those in which nothing varies."""
    samples = quantisation.drawn_for_dips(values[views.present(values)])
    vectors = np.eye(frame.size)[top] if frame.vectors is None else frame.vectors[top]
    onto = quantisation.project(samples, vectors)
    return np.array([quantisation.mean_dip(one[None]) for one in onto])
