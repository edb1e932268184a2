"""Latents of any library, read in blocks: NumPy, JAX, PyTorch, xarray, zarr, dask, memory maps."""

import math
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import xarray as xr
from numpy.typing import ArrayLike

from ppp_jax.errors import InputError
from ppp_jax.files.archives import ReadError
from ppp_jax.resources import check_fits

LOAD_BYTES = 2**28  # Lazy arrays up to this size are read once and kept in memory.
KEPT_BYTES = 2**25  # Bytes read at once of larger ones, whose chunks exceed the kernels' windows.
SAMPLE, UNIT = "sample", "unit"
Latents = ArrayLike | xr.DataArray
"""Latents, `(..., samples, units)`, as an array of any library."""
PerCloud = np.ndarray | xr.DataArray
"""A number per cloud, of the leading shape of the latents; labelled if the latents are labelled."""


class Source(NamedTuple):
    """Latents that need not be in memory.

    Attributes:
      array: An array `(rows, units)` if the latents are in memory or mapped into it, and otherwise
        a `Kept`.
      shape: Shape of the latents, `(..., samples, units)`.
      dims: Names of all axes except the last.
      coords: Coordinates of a labelled array along these axes, as xarray variables.
      dtype: Type of the numbers that `read` returns, float32 or float64.
      lazy: Whether `array` is a `Kept`, or another object with its method `rows`.
    """

    array: Any
    shape: tuple[int, ...]
    dims: tuple[str, ...]
    coords: Mapping[str, Any]
    dtype: np.dtype
    lazy: bool

    @property
    def rows(self) -> int:
        """Number of samples, where all axes except the last are pooled."""
        return int(np.prod(self.shape[:-1]))

    @property
    def units(self) -> int:
        """Number of units n."""
        return self.shape[-1]


class Kept:
    """An array outside of memory, of which the samples that were read last are kept.

    A read decodes whole chunks, and the kernels' windows are smaller than most chunks. So more is
    read than is asked for, and the rest is kept for the next window.

    Attributes:
      array: The array, `(..., samples, units)`, of any type that can be sliced.
    """

    def __init__(self, array: Any):
        """Wraps an array without reading it."""
        self.array = array
        self._cloud: tuple[int, ...] | None = None
        self._start, self._block = 0, np.empty(0)

    def rows(self, index: Sequence[Any], start: int, stop: int) -> np.ndarray:
        """Returns some samples of one cloud, `(stop − start, units)`.

        Args:
          index: Index of the cloud along the leading axes.
          start: Index of the first sample.
          stop: Index after the last sample.

        Raises:
          InputError: The samples cannot be read.
        """
        cloud = tuple(map(int, index))
        first, last = self._start, self._start + len(self._block)
        if cloud != self._cloud or not first <= start <= stop <= last:
            samples, units = self.array.shape[-2:]
            least = KEPT_BYTES // (units * self.array.dtype.itemsize)
            self._block = np.empty(0)  # Free the memory before the next read.
            self._block = self._read((*cloud, slice(start, min(samples, max(stop, start + least)))))
            self._cloud, self._start = cloud, start
        return self._block[start - self._start : stop - self._start]

    def _read(self, key: tuple[Any, ...]) -> np.ndarray:
        try:
            return np.asarray(self.array[key])
        except InputError:
            raise
        except Exception as error:  # Any codec may raise anything for a damaged chunk.
            why = " ".join(f"{error or type(error).__name__}".split())
            problem = f"cannot be read ({why}); one of its files is damaged: write it again"
            raise InputError("latents", f"array {tuple(self.array.shape)}", problem) from error


class Lazy(xr.backends.BackendArray):
    """An array on disk that xarray reads slice by slice."""

    def __init__(self, array: Any):
        """Wraps an array of any type that can be sliced."""
        self.array, self.shape, self.dtype = array, tuple(array.shape), np.dtype(array.dtype)

    def __getitem__(self, key: Any) -> Any:
        """Reads the slice that xarray asks for, and nothing else."""
        return xr.core.indexing.explicit_indexing_adapter(
            key, self.shape, xr.core.indexing.IndexingSupport.BASIC, self._slice
        )

    def _slice(self, key: tuple[Any, ...]) -> np.ndarray:
        return np.asarray(self.array[key])


def stated_axes(array: Any) -> Any:
    """Returns the names of the axes where the format of a zarr array keeps them, unchecked.

    Format 2 keeps them in an attribute and format 3 in the metadata.

    Args:
      array: A zarr array.
    """
    if array.metadata.zarr_format == 2:
        stated = array.attrs.get("_ARRAY_DIMENSIONS")
    else:
        stated = array.metadata.dimension_names
    return list(stated) if isinstance(stated, tuple) else stated


def named_axes(array: Any) -> list[str] | None:
    """Returns the names of a zarr array's axes, or None if it has none.

    If only some axes have names, axis k without one is called `axis_k`.

    Args:
      array: A zarr array, opened by its own path or in its group.

    Raises:
      ReadError: The metadata hold no names of the axes, or two axes have the same name.
    """
    stated = stated_axes(array) or array.attrs.get("_ARRAY_DIMENSIONS")
    if stated is None or stated == [None] * array.ndim:
        return None
    plain = isinstance(stated, list) and all(isinstance(name, str | None) for name in stated)
    named = [name for name in stated if name is not None] if plain else []
    if not plain or len(stated) != array.ndim or len(set(named)) < len(named):
        raise ReadError(
            f"names its axes {stated}, but it has {array.ndim} axes, which need different names; "
            "mend _ARRAY_DIMENSIONS or dimension_names, or remove them"
        )
    return [f"axis_{k}" if name is None else name for k, name in enumerate(stated)]


def labelled(latents: Any) -> Any:
    """Returns a DataArray if the axes of an array have names, and otherwise the array as it is.

    The axes of zarr arrays may have names, and those of xarray variables always have.

    Args:
      latents: Any object.

    Raises:
      InputError: The metadata of a zarr array hold no valid names of its axes.
    """
    if isinstance(latents, xr.Variable):
        return xr.DataArray(latents)
    names: list[str] | None = None
    if hasattr(getattr(latents, "metadata", None), "zarr_format") and hasattr(latents, "shape"):
        try:
            names = named_axes(latents)
        except ReadError as error:
            raise InputError("latents", f"array {latents.shape}", str(error)) from None
    if names is None:
        return latents
    return xr.DataArray(xr.Variable(names, xr.core.indexing.LazilyIndexedArray(Lazy(latents))))


def open_source(latents: Latents) -> Source:
    """Returns a description of latents from which they can be read in parts.

    Args:
      latents: Real numbers, `(..., samples, units)`, as an array of any library. The axes `sample`
        and `unit` of a labelled array may be anywhere. Large arrays of zarr, dask and h5py, large
        lazily opened xarray arrays, and NumPy memory maps are not read as a whole.

    Returns:
      The `Source`.

    Raises:
      InputError: `latents` are no array of real vectors, or the names of the axes do not say which
        axis holds the samples.
    """
    coords: Mapping[str, Any] = {}
    dims: tuple[str, ...] | None = None
    given = labelled(latents)
    lazy = hasattr(given, "chunks") and hasattr(given, "nbytes")  # zarr, dask, h5py; xarray
    if isinstance(given, xr.DataArray):
        given, dims = ordered_axes(given)
        coords = {
            str(name): coord.variable
            for name, coord in given.coords.items()
            if coord.dims and set(coord.dims) <= set(dims[:-1])
        }
    lazy = lazy and given.nbytes > LOAD_BYTES
    array: Any = given if lazy else to_numpy("latents", given)
    shape, dtype = tuple(array.shape), _dtype(array)
    dims = dims or (*(f"axis_{k}" for k in range(len(shape) - 2)), SAMPLE)
    array = Kept(array) if lazy else array.reshape(-1, shape[-1])
    return Source(array, shape, dims, coords, dtype, lazy)


def check_free(source: Source, names: Collection[str]) -> None:
    """Refuses latents that are labelled with names that a result needs for itself.

    Args:
      source: The latents.
      names: Of the result's own axes, variables and coordinates.

    Raises:
      InputError: An axis or a coordinate of the leading axes has one of these names.
    """
    taken = [name for name in (*source.dims, *source.coords) if name in names]
    if taken:
        problem = "has a name that the result gives to something else; rename it: "
        problem += f"latents.rename({taken[0]}='{taken[0]}_of_latents')"
        raise InputError("latents", f"axis or coordinate {taken[0]}", problem)


def ordered_axes(latents: xr.DataArray) -> tuple[xr.DataArray, tuple[str, ...]]:
    """Returns a labelled array as `(..., samples, units)`, and the names of all axes but the last.

    Axes named `sample` and `unit` are moved to the end. If neither exists, the last two axes are
    taken as they are. If only one exists and is not where the order says, it is ambiguous which
    axis is the other.

    Args:
      latents: A labelled array of any number of dimensions.

    Raises:
      InputError: It is ambiguous which axes are samples and units, or two axes have the same name.
    """
    names = [str(dim) for dim in latents.dims]
    if len(set(names)) < len(names):
        raise InputError("latents", names, "must have different names for all axes")
    known = [name for name in (SAMPLE, UNIT) if name in names]
    if len(known) == 1 and len(names) == 2:
        (other,) = (name for name in names if name not in known)
        order = [known[0], other] if known == [SAMPLE] else [other, known[0]]
    elif len(known) == 1 and len(names) > 2 and known[0] != names[{SAMPLE: -2, UNIT: -1}[known[0]]]:
        lacks = UNIT if known == [SAMPLE] else SAMPLE
        others = [name for name in names if name not in known]
        problem = f"has an axis {known[0]} but none called {lacks}; say which of {others} it is by "
        raise InputError("latents", names, f"{problem}.rename({others[-1]}='{lacks}')")
    else:
        last = known if len(known) == 2 else []
        order = [name for name in names if name not in last] + last
    by_name = dict(zip(names, latents.dims, strict=True))
    leading = order[:-2] if len(order) > 2 else []
    sample = [SAMPLE] if known else order[-2:-1]
    return latents.transpose(*(by_name[name] for name in order)), (*leading, *sample)


def to_numpy(field: str, given: Any) -> np.ndarray:
    """Returns an array of any library as a NumPy array.

    Args:
      field: Name of the argument, for the error's text.
      given: Any object.

    Raises:
      InputError: The object is no array, such as a mapping, a path, or lists of unequal lengths.
        The error says how to make it one.
    """
    kind = type(given).__name__
    if isinstance(given, str | bytes | os.PathLike):
        what = (
            "is a path; open it by load(…)" if field == "latents" else "must be numbers, not text"
        )
        raise InputError(field, given, what)
    if isinstance(given, Mapping | xr.DataTree):
        names = [str(name) for name in getattr(given, "data_vars", given)]
        raise InputError(
            field, kind, f"holds several arrays; name one array of it: {sorted(names)}"
        )
    if isinstance(given, np.ma.MaskedArray):  # Masked entries become NaN.
        given = _unmasked(field, given)
    try:
        array = np.asarray(given)  # np.matrix would stay two-dimensional.
    except Exception as error:  # An array of another library may raise anything.
        why = " ".join(f"{error or type(error).__name__}".split())
        if "inhomogeneous" in why:
            raise InputError(
                field,
                kind,
                "has rows of unequal lengths; concatenate arrays of the same width by "
                "numpy.concatenate(…)",
            ) from None
        stored = f"cannot be read ({why}); one of its files is damaged: write it again"
        tensor = f"is no array ({why}); convert a PyTorch tensor by .detach().cpu().float()"
        raise InputError(field, kind, stored if hasattr(given, "chunks") else tensor) from error
    if array.dtype.kind == "O" and not isinstance(given, np.ndarray):
        dense = "; convert a sparse matrix by .toarray()" if hasattr(given, "toarray") else ""
        raise InputError(field, kind, f"is no array of numbers; give one of real numbers{dense}")
    return array


def _unmasked(field: str, given: Any) -> Any:
    if given.dtype.kind not in "biuf":
        raise InputError(field, f"masked array of {given.dtype}", "must hold real numbers")
    return np.ma.filled(given.astype(np.result_type(given, np.float32)), np.nan)


def numbers(field: str, given: Any, *, dimensions: int | None = None) -> np.ndarray:
    """Returns an array of real numbers in double precision.

    Args:
      field: Name of the argument, for the error's text.
      given: An array of any library. Numbers that are not finite stay as they are.
      dimensions: Number of dimensions that it must have; None allows any.

    Raises:
      InputError: It is no array, holds other types than real numbers, or has another number of
        dimensions.
    """
    array = to_numpy(field, given)
    told = f"array of {array.dtype} {array.shape}"
    if not is_real(array.dtype):
        raise InputError(field, told, "must be real numbers")
    if dimensions is not None and array.ndim != dimensions:
        raise InputError(field, told, f"must have {dimensions} dimension{'s'[: dimensions != 1]}")
    return array.astype(np.float64)


def check_made(field: str, made: Any, names: Sequence[str], maker: str) -> None:
    """Checks that an argument is a Dataset that a function of this package returned.

    Args:
      field: Name of the argument.
      made: Its value.
      names: Names of the variables that it must have.
      maker: Name of the function that returns such a Dataset.

    Raises:
      InputError: It is no Dataset, or lacks one of the variables.
    """
    if not isinstance(made, xr.Dataset) or not set(names) <= set(made.variables):
        raise InputError(field, type(made).__name__, f"must be what {maker}(…) returns")


def is_real(dtype: np.dtype) -> bool:
    """Returns whether a type is one of real numbers; dates and times are not.

    Args:
      dtype: A type of NumPy or of an accelerator, such as bfloat16.
    """
    return dtype.kind in "biuf" or bool(jnp.issubdtype(dtype, jnp.floating))


def _dtype(array: Any) -> np.dtype:
    """Returns float64 for float64 and wider types, and float32 for every other real type."""
    dtype = np.dtype(array.dtype)
    if len(array.shape) < 2 or 0 in array.shape or not is_real(dtype):
        raise InputError(
            "latents",
            f"array of {dtype} {array.shape}",
            "must be real, (samples, units), and not empty",
        )
    return np.dtype(np.float64 if dtype.kind == "f" and dtype.itemsize >= 8 else np.float32)


def read(source: Source, start: int, stop: int) -> np.ndarray:
    """Returns some rows of the pooled samples, `(stop − start, units)`, in the source's dtype.

    Args:
      source: The latents.
      start: Index of the first row.
      stop: Index after the last row.
    """
    if not source.lazy:
        return source.array[start:stop].astype(source.dtype, copy=False)
    leading, samples = source.shape[:-2], source.shape[-2]
    pieces = []
    for cloud in range(start // samples, -(-stop // samples)):
        first = cloud * samples
        part = slice(max(start - first, 0), min(stop - first, samples))
        pieces.append(source.array.rows(np.unravel_index(cloud, leading), part.start, part.stop))
    return np.concatenate(pieces).astype(source.dtype, copy=False)


def windows(source: Source, cloud: int) -> Iterator[np.ndarray]:
    """Yields the samples of a cloud part by part, `(rows, units)`, as `read` returns them.

    Args:
      source: The latents.
      cloud: Number of the cloud along the leading axes, which are pooled.
    """
    samples = source.shape[-2]
    step = max(1, KEPT_BYTES // (source.units * source.dtype.itemsize))
    first, stop = cloud * samples, (cloud + 1) * samples
    for start in range(first, stop, step):
        yield read(source, start, min(start + step, stop))


def drawn(source: Source, most: int) -> np.ndarray:
    """Returns samples of every cloud drawn without replacement, in their order.

    A random part of the samples has the law of all of them, so that a test of it is as exact.

    Args:
      source: The latents.
      most: Number of samples of each cloud, fewer than there are.

    Returns:
      `(..., most, units)`. The same of each cloud are drawn whenever there are as many.
    """
    samples, units = source.shape[-2:]
    rows = np.sort(np.random.default_rng(0).choice(samples, most, replace=False))
    clouds = source.rows // samples
    check_fits("latents", f"{most:,} samples", clouds * most * units * source.dtype.itemsize)
    found = np.empty((clouds, most, units), source.dtype)
    for cloud in range(clouds):
        start = 0
        for values in windows(source, cloud):
            first, last = np.searchsorted(rows, [start, start + len(values)])
            found[cloud, first:last] = values[rows[first:last] - start]
            start += len(values)
    return found.reshape(*source.shape[:-2], most, units)


def as_clouds(latents: Latents) -> np.ndarray:
    """Reads latents of any array type as `(..., samples, units)`, float32 or float64.

    Raises:
      InputError: They are no array of real vectors, or do not fit into memory.
    """
    source = open_source(latents)
    if source.lazy:
        size = math.prod(source.shape) * source.dtype.itemsize
        check_fits("latents", f"array {source.shape}", size)
    return read(source, 0, source.rows).reshape(source.shape)


def labelled_like(
    latents: Latents, values: np.ndarray, attributes: Mapping[str, Any] | None
) -> PerCloud:
    """Returns one number per cloud, with the labels of the latents if they are labelled.

    Args:
      latents: Latents, `(..., samples, units)`, as the public function was given them.
      values: The numbers, of the leading shape of the latents.
      attributes: What is said beside the numbers, if they are labelled.
    """
    if not isinstance(latents, xr.DataArray):
        return values
    source = open_source(latents)
    return xr.DataArray(values, source.coords, source.dims[:-1], attrs=attributes)


def rescale(values: np.ndarray) -> tuple[np.ndarray, np.floating[Any]]:
    """Divides an array by the power of two below its largest entry, which causes no rounding.

    JAX computes in float32 by default, whose range float64 input can exceed.

    Args:
      values: Floating-point numbers of any shape; those that are not finite do not affect the
        scale.

    Returns:
      The scaled values and the scale, both in the dtype of `values`.
    """
    finite = np.abs(values[np.isfinite(values)])
    largest = float(finite.max()) if finite.size else 0.0
    power = np.clip(np.floor(np.log2(largest)), -1000, 1000) if largest > 0 else 0.0
    scale = values.dtype.type(2.0**power)
    return values / scale, scale


def axis_names(by: str | Sequence[str]) -> tuple[str, ...]:
    """Returns one name of an axis or several as a tuple; raises `InputError` for other values."""
    names = (by,) if isinstance(by, str) else tuple(by) if isinstance(by, list | tuple) else None
    if names is None or not all(isinstance(name, str) for name in names):
        raise InputError("by", by, "must be the name of an axis, or a list of names")
    return names


def groups(source: Source, by: tuple[str, ...]) -> tuple[np.ndarray, tuple[int, ...]]:
    """Numbers the groups of samples that share an index along some axes.

    Args:
      source: The latents.
      by: Names of the axes to keep apart; all others are pooled.

    Returns:
      The number of the group of each row, `(rows,)`, and the lengths of the axes in `by`.

    Raises:
      InputError: A name occurs twice, is no axis, or is the axis of the samples.

    Example:
      >>> source = open_source(np.zeros((2, 3, 5, 4)))
      >>> groups(source, ("axis_1",))[1]
      (3,)
    """
    known = [dim for dim in source.dims if dim != source.dims[-1]]
    for name in by:
        if name not in known or by.count(name) > 1:
            raise InputError("by", name, f"must name different axes among {known}")
    lengths = dict(zip(source.dims, source.shape, strict=False))
    shape = tuple(lengths[name] for name in by)
    number = np.zeros([1] * len(source.dims), np.int64)
    for name in by:
        along = [lengths[name] if dim == name else 1 for dim in source.dims]
        number = number * lengths[name] + np.arange(lengths[name]).reshape(along)
    return np.broadcast_to(number, source.shape[:-1]).reshape(-1), shape
