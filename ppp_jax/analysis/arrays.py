"""Anyone's latents, read block by block: NumPy, JAX, PyTorch, xarray, zarr, dask, memory maps."""

import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import xarray as xr

from ppp_jax.errors import InputError

LOAD_BYTES = 2**28  # lazy arrays up to this size are read once and kept
SAMPLE, UNIT = "sample", "unit"


class Source(NamedTuple):
    """Latents that need not be in memory.

    Attributes:
      array: `(..., units)`: `(rows, units)` if in memory (or mapped into it), else anything that
        can be sliced.
      shape: `(..., units)`.
      dims: names of all axes but the last.
      coords: coordinates along those axes, of a labelled array, as xarray variables.
      dtype: of what `read` returns, float32 or float64.
      lazy: whether `array` is read from elsewhere, slice by slice.
    """

    array: Any
    shape: tuple[int, ...]
    dims: tuple[str, ...]
    coords: Mapping[str, Any]
    dtype: np.dtype
    lazy: bool

    @property
    def rows(self) -> int:
        """Samples, all axes but the last pooled."""
        return int(np.prod(self.shape[:-1]))

    @property
    def units(self) -> int:
        """Length of a sample."""
        return self.shape[-1]


def open_source(latents: Any) -> Source:
    """Finds out what an array of latents is, without reading it if it is large and lies elsewhere.

    Args:
      latents: array of real numbers, at least two-dimensional, `(..., samples, units)`; of an
        xarray array the dimensions `sample` and `unit` may stand anywhere. Arrays of zarr, dask
        and h5py, lazily opened xarray arrays and NumPy memory maps are not read as a whole.

    Returns:
      The `Source`.

    Raises:
      InputError: not an array of real vectors.
    """
    if isinstance(latents, xr.Dataset | xr.DataTree):
        names = sorted(str(name) for name in latents.data_vars)
        raise InputError("latents", type(latents).__name__, f"name one array of it: {names}")
    coords: Mapping[str, Any] = {}
    dims: tuple[str, ...] | None = None
    lazy = hasattr(latents, "chunks")  # zarr, dask, h5py; and xarray, whatever it holds
    if isinstance(latents, xr.DataArray):
        latents = latents.transpose(..., *[d for d in (SAMPLE, UNIT) if d in latents.dims])
        dims = tuple(str(dim) for dim in latents.dims[:-1])
        coords = {
            str(name): coord.variable
            for name, coord in latents.coords.items()
            if coord.dims and set(coord.dims) <= set(dims[:-1])
        }
        lazy = latents.nbytes > LOAD_BYTES
    lazy = lazy and latents.nbytes > LOAD_BYTES
    array = latents if lazy else _to_numpy(latents)
    shape, dtype = tuple(array.shape), _dtype(array)
    dims = dims or (*(f"axis_{k}" for k in range(len(shape) - 2)), SAMPLE)
    if not lazy:
        array = array.reshape(-1, shape[-1])
    return Source(array, shape, dims, coords, dtype, lazy)


def _to_numpy(latents: Any) -> np.ndarray:
    if isinstance(latents, str | os.PathLike):
        raise InputError("latents", latents, "is a path; open it by load(…)")
    if isinstance(latents, np.ma.MaskedArray):  # what is masked is not known
        return np.ma.filled(latents.astype(np.result_type(latents, np.float32)), np.nan)
    try:
        return latents if isinstance(latents, np.ndarray) else np.asarray(latents)
    except (TypeError, ValueError, RuntimeError) as error:
        kind, why = type(latents).__name__, " ".join(str(error).split())
        raise InputError(
            "latents", kind, f"is no array ({why}); a PyTorch tensor: .detach().cpu().float()"
        ) from error


def _dtype(array: Any) -> np.dtype:
    """Returns float64 for float64 and float32 for every other real type."""
    dtype = np.dtype(array.dtype)
    real = (
        dtype.kind == "b" or np.issubdtype(dtype, np.integer) or np.issubdtype(dtype, np.floating)
    )
    # Accelerators' narrow floats (bfloat16, float8) are no subtypes of NumPy's.
    real = real or jnp.issubdtype(dtype, jnp.floating)
    if len(array.shape) < 2 or 0 in array.shape or not real:
        raise InputError(
            "latents",
            f"array of {dtype} {array.shape}",
            "must be real, (samples, units), and not empty",
        )
    return np.dtype(np.float64 if dtype == np.float64 else np.float32)


def read(source: Source, start: int, stop: int) -> np.ndarray:
    """Returns rows `start` to `stop` of the pooled samples, `(stop − start, units)`, floating."""
    if not source.lazy:
        return source.array[start:stop].astype(source.dtype, copy=False)
    leading, samples = source.shape[:-2], source.shape[-2]
    pieces = []
    for cloud in range(start // samples, -(-stop // samples)):
        first = cloud * samples
        part = slice(max(start - first, 0), min(stop - first, samples))
        pieces.append(np.asarray(source.array[(*np.unravel_index(cloud, leading), part)]))
    return np.concatenate(pieces).astype(source.dtype, copy=False)


def as_clouds(latents: Any) -> np.ndarray:
    """Reads latents of any array type as `(..., samples, units)`, float32 or float64.

    Raises:
      InputError: not an array of real vectors.
    """
    source = open_source(latents)
    return read(source, 0, source.rows).reshape(source.shape)


def rescale(values: np.ndarray) -> tuple[np.ndarray, np.floating[Any]]:
    """Divides by the power of two below the largest entry, which rounds nothing.

    JAX computes in float32 unless it is set to more, and float64 input need not fit.

    Args:
      values: floating, any shape; what is not finite has no say in the scale.

    Returns:
      `(values / scale, scale)`, in the dtype of `values`.
    """
    finite = np.abs(values[np.isfinite(values)])
    largest = float(finite.max()) if finite.size else 0.0
    power = np.clip(np.floor(np.log2(largest)), -1000, 1000) if largest > 0 else 0.0
    scale = values.dtype.type(2.0**power)
    return values / scale, scale


def axis_names(by: str | Sequence[str]) -> tuple[str, ...]:
    """Returns one name or several as a tuple, and raises `InputError` for anything else."""
    if not isinstance(by, Sequence):
        raise InputError("by", by, "must be the name of an axis, or several")
    return (by,) if isinstance(by, str) else tuple(by)


def groups(source: Source, by: tuple[str, ...]) -> tuple[np.ndarray, tuple[int, ...]]:
    """Numbers the samples by their place along some axes, all others pooled.

    Args:
      source: the latents.
      by: names of axes to keep apart.

    Returns:
      `(group, shape)`: the group of each row, `(rows,)`, and the lengths of the axes in `by`.

    Raises:
      InputError: a name that is no axis, or is that of the samples.

    Example:
      >>> source = open_source(np.zeros((2, 3, 5, 4)))
      >>> groups(source, ("axis_1",))[1]
      (3,)
    """
    known = [dim for dim in source.dims if dim != source.dims[-1]]
    for name in by:
        if name not in known or by.count(name) > 1:
            raise InputError("by", name, f"must name distinct axes of {known}")
    lengths = dict(zip(source.dims, source.shape, strict=False))
    shape = tuple(lengths[name] for name in by)
    number = np.zeros([1] * len(source.dims), np.int64)
    for name in by:
        along = [lengths[name] if dim == name else 1 for dim in source.dims]
        number = number * lengths[name] + np.arange(lengths[name]).reshape(along)
    return np.broadcast_to(number, source.shape[:-1]).reshape(-1), shape
