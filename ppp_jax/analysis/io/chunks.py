"""Chunks of dask arrays: what is counted of samples is counted where the chunks are, and added up.

Other arrays are read window by window by whoever looks at them (`sources.read`). A chunk of a dask
array is a task of the scheduler that the user has set, be it threads, processes or a cluster.
"""

import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import xarray as xr

from ppp_jax.analysis.io.sources import Kept, Source

CHUNK_BYTES = 2**26  # of samples that a task looks at; larger chunks are divided
TOGETHER = 16  # results that are added by one task


def rows_of(source: Source) -> Any:
    """Returns the pooled samples as a dask array, `(rows, units)`, or None if they are in none.

    Args:
      source: The latents. Those that were small enough to be read as a whole are no longer lazy.
    """
    module = sys.modules.get("dask.array")  # no dask array was made without it
    array = source.array.array if isinstance(source.array, Kept) else None
    if isinstance(array, xr.DataArray):
        array = array.data
    if module is None or not isinstance(array, module.Array):
        return None
    rows = array.reshape(-1, source.units)
    most = max(1, CHUNK_BYTES // (source.units * array.dtype.itemsize))
    parts = [_cut(length, most) for length in rows.chunks[0]]
    return rows.rechunk((tuple(size for part in parts for size in part), source.units))


def _cut(length: int, most: int) -> list[int]:
    """Divides a length into parts that are at most so long, and as even as can be."""
    count = -(-length // most)
    return [length // count + (k < length % count) for k in range(count)]


def map_rows(rows: Any, function: Callable[..., Any], shared: Any) -> list[Any]:
    """Returns what a function finds of every chunk, in the order of the chunks.

    Args:
      rows: What `rows_of` returned.
      function: Called with the samples of a chunk, a NumPy array, and `shared`.
      shared: What all chunks need; a cluster gets it once.
    """
    import dask

    given = dask.delayed(shared, traverse=False)
    one = dask.delayed(function, pure=False)
    tasks = [one(block, given) for block in rows.to_delayed().ravel()]
    return list(dask.compute(*tasks))


def add_rows(
    rows: Any, function: Callable[..., Any], shared: Any, each: Sequence[Any]
) -> tuple[np.ndarray, ...]:
    """Adds up what a function counts in every chunk; few of the results are held at once.

    Args:
      rows: What `rows_of` returned.
      function: Called with the samples of a chunk, a NumPy array, with `shared`, and with its own
        entry of `each`; it returns arrays.
      shared: What all chunks need; a cluster gets it once.
      each: An entry for every chunk.
    """
    import dask

    given = dask.delayed(shared, traverse=False)
    one, add = dask.delayed(function, pure=False), dask.delayed(_added, pure=False)
    blocks = rows.to_delayed().ravel()
    tasks = [one(block, given, own) for block, own in zip(blocks, each, strict=True)]
    while len(tasks) > 1:
        tasks = [add(tasks[k : k + TOGETHER]) for k in range(0, len(tasks), TOGETHER)]
    (found,) = dask.compute(*tasks)
    return tuple(found)


def _added(results: list[tuple[np.ndarray, ...]]) -> tuple[np.ndarray, ...]:
    return tuple(sum(parts[1:], parts[0]) for parts in zip(*results, strict=True))
