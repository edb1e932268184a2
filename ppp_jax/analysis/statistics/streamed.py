"""Statistics of samples that are never in memory as a whole, by sums over parts of them.

What a part adds is computed where it is: in the chunks of a dask array, on whatever scheduler is
set, and else window by window. Rows that do not count are left out as `rows.kept_rows` does.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from ppp_jax.analysis.io import chunks
from ppp_jax.analysis.io.rows import RAISE, Rows, count_rows, lengths_of, refuse_nonfinite
from ppp_jax.analysis.io.sources import Source, windows
from ppp_jax.analysis.projection.planes import Basis
from ppp_jax.analysis.statistics.moments import Moments


class _Sums(NamedTuple):
    """The first pass over a part.

    Attributes:
      lengths: Of each row, NaN where it is not finite, `(rows,)`.
      total: Σx of the rows that count, `(units,)`.
      square: Σx², likewise.
    """

    lengths: np.ndarray
    total: np.ndarray
    square: np.ndarray


def moments_of(
    source: Source, cloud: int, frame: Basis, *, nonfinite: str, drop_outliers: float | None
) -> tuple[Moments, Rows]:
    """Returns the moments of a cloud along the vectors of an orthonormal basis, and its rows.

    Args:
      source: The latents.
      cloud: Number of the cloud.
      frame: The basis.
      nonfinite: `raise` refuses rows that are not finite, and `drop` leaves them out.
      drop_outliers: Rows longer than so many times the median row are left out; None keeps them.

    Raises:
      InputError: Some rows are not finite, and `nonfinite` is `raise`.
    """
    parts = _map(source, cloud, _first_pass, np.inf)
    length = np.concatenate([part.lengths for part in parts])
    rows, lost = count_rows(length), int(np.count_nonzero(np.isnan(length)))
    if lost and lost < len(length) and nonfinite == RAISE:
        refuse_nonfinite(lost, source.shape)
    longest = np.inf
    if drop_outliers is not None and rows.samples:
        longest = drop_outliers * float(np.median(length[length > 0]))
        kept = int(np.count_nonzero((length > 0) & (length <= longest)))
        rows = rows._replace(samples=kept)
        parts = _map(source, cloud, _first_pass, longest)
    count = max(1, rows.samples)
    mean = np.sum([part.total for part in parts], axis=0) / count
    square = np.sum([part.square for part in parts], axis=0) / count - np.square(mean)
    vectors = frame.vectors
    size = square if vectors is None else np.square(vectors) @ square
    scale = np.sqrt(np.where(size > 0, size, 1))
    shared = (vectors, mean, scale, longest)
    absolute, even, fourth, angular = np.sum(_map(source, cloud, _second_pass, shared), axis=0)
    return Moments(absolute, even, fourth, angular, float(rows.samples)), rows


def _map(source: Source, cloud: int, function: Callable[..., Any], shared: Any) -> list[Any]:
    """Returns what a function finds of every part of a cloud."""
    rows, samples = chunks.rows_of(source), source.shape[-2]
    if rows is not None:
        of_cloud = rows[cloud * samples : (cloud + 1) * samples]
        return chunks.map_rows(of_cloud, function, shared)
    return [function(values, shared) for values in windows(source, cloud)]


def _first_pass(values: np.ndarray, longest: float) -> _Sums:
    finite = np.isfinite(values).all(axis=1)
    exact = np.where(finite[:, None], values, 0).astype(np.float64)
    length = np.where(finite, lengths_of(exact), np.nan)
    exact = exact if longest == np.inf else exact[length <= longest]
    return _Sums(length, exact.sum(axis=0), np.einsum("su,su->u", exact, exact))


def _second_pass(values: np.ndarray, shared: tuple[Any, ...]) -> np.ndarray:
    """Returns the four sums of `Moments`, `(4, vectors)`."""
    vectors, mean, scale, longest = shared
    exact = values[np.isfinite(values).all(axis=1)].astype(np.float64)
    length = lengths_of(exact)
    there = (length > 0) & (length <= longest)
    exact, length = exact[there], length[there]
    whole = exact if vectors is None else exact @ vectors.T
    centre = mean if vectors is None else vectors @ mean
    even = np.square((whole - centre) / scale)
    angle = np.square(whole / length[:, None])
    parts = (np.abs(whole), even, np.square(even), np.square(angle))
    return np.stack([part.sum(axis=0) for part in parts])
