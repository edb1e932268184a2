"""Anyone's latents, read block by block: NumPy, JAX, PyTorch, xarray, zarr, dask, memory maps."""

import math
import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import xarray as xr
from numpy.typing import ArrayLike

from ppp_jax.errors import InputError
from ppp_jax.files.archives import ReadError
from ppp_jax.resources import check_fits

LOAD_BYTES = 2**28  # lazy arrays up to this size are read once and kept
KEPT_BYTES = 2**25  # of a lazy array read at once: its chunks are larger than the kernels' windows
SAMPLE, UNIT = "sample", "unit"
Latents = ArrayLike | xr.DataArray  # `(..., samples, units)`, of any library
PerCloud = np.ndarray | xr.DataArray  # a number per cloud; labelled if the latents are


class Source(NamedTuple):
    """Latents that need not be in memory.

    Attributes:
      array: `(..., units)`: `(rows, units)` if in memory (or mapped into it), else a `Kept`.
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


class Kept:
    """An array that lies elsewhere, of which the samples read last are kept.

    Whatever is decoded anew is a whole chunk, and windows are smaller than most chunks.

    Attributes:
      array: anything that can be sliced.
    """

    def __init__(self, array: Any):
        """Keeps nothing yet."""
        self.array = array
        self._place: tuple[int, ...] | None = None
        self._start, self._block = 0, np.empty(0)

    def rows(self, place: Sequence[Any], start: int, stop: int) -> np.ndarray:
        """Returns samples of the cloud at a place along the leading axes.

        Args:
          place: a number per leading axis.
          start: first sample.
          stop: behind the last one.

        Raises:
          InputError: they cannot be read.
        """
        at = tuple(map(int, place))
        first, last = self._start, self._start + len(self._block)
        if at != self._place or not first <= start <= stop <= last:
            samples, units = self.array.shape[-2:]
            least = KEPT_BYTES // (units * self.array.dtype.itemsize)
            self._block = np.empty(0)  # let go before the next one is read
            self._block = self._read((*at, slice(start, min(samples, max(stop, start + least)))))
            self._place, self._start = at, start
        return self._block[start - self._start : stop - self._start]

    def _read(self, key: tuple[Any, ...]) -> np.ndarray:
        try:
            return np.asarray(self.array[key])
        except InputError:
            raise
        except Exception as error:  # of any codec: a chunk is damaged, or gone
            why = " ".join(f"{error or type(error).__name__}".split())
            problem = f"cannot be read ({why}); a file of it is damaged: write it again"
            raise InputError("latents", f"array {tuple(self.array.shape)}", problem) from error


class Lazy(xr.backends.BackendArray):
    """An array on disk that xarray reads slice by slice."""

    def __init__(self, array: Any):
        """Takes anything that can be sliced."""
        self.array, self.shape, self.dtype = array, tuple(array.shape), np.dtype(array.dtype)

    def __getitem__(self, key: Any) -> Any:
        """Returns what xarray asks for, and reads no more."""
        return xr.core.indexing.explicit_indexing_adapter(
            key, self.shape, xr.core.indexing.IndexingSupport.BASIC, self._slice
        )

    def _slice(self, key: tuple[Any, ...]) -> np.ndarray:
        return np.asarray(self.array[key])


def stated_axes(array: Any) -> Any:
    """Returns what an array of zarr says of its axes in the place that its format has for that.

    Args:
      array: of zarr.
    """
    if array.metadata.zarr_format == 2:
        stated = array.attrs.get("_ARRAY_DIMENSIONS")
    else:
        stated = array.metadata.dimension_names
    return list(stated) if isinstance(stated, tuple) else stated


def named_axes(array: Any) -> list[str] | None:
    """Returns the names of a zarr array's axes, None if it has none; by whatever path it is opened.

    An axis without a name among named ones is called by its number.

    Args:
      array: of zarr.

    Raises:
      ReadError: what it says are no names of its axes, or two have one name.
    """
    stated = stated_axes(array) or array.attrs.get("_ARRAY_DIMENSIONS")
    if stated is None or stated == [None] * array.ndim:
        return None
    plain = isinstance(stated, list) and all(isinstance(name, str | None) for name in stated)
    named = [name for name in stated if name is not None] if plain else []
    if not plain or len(stated) != array.ndim or len(set(named)) < len(named):
        raise ReadError(
            f"names its axes {stated}, and they are {array.ndim} that need different names; mend "
            "_ARRAY_DIMENSIONS or dimension_names, or remove them"
        )
    return [f"axis_{k}" if name is None else name for k, name in enumerate(stated)]


def labelled(latents: Any) -> Any:
    """Returns an array with the names that it has for its axes, and as it is where it has none.

    Arrays of zarr may have names, and variables of xarray always have.

    Args:
      latents: anything.

    Raises:
      InputError: what it says are no names of its axes.
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
    """Finds out what an array of latents is, without reading it if it is large and lies elsewhere.

    Args:
      latents: array of real numbers, at least two-dimensional, `(..., samples, units)`; of an
        xarray array the dimensions `sample` and `unit` may stand anywhere. Arrays of zarr, dask
        and h5py, lazily opened xarray arrays and NumPy memory maps are not read as a whole.

    Returns:
      The `Source`.

    Raises:
      InputError: not an array of real vectors, or one whose axes leave open which are samples.
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


def ordered_axes(latents: xr.DataArray) -> tuple[xr.DataArray, tuple[str, ...]]:
    """Returns a labelled array as `(..., samples, units)`, and the names of all axes but the last.

    Axes are found by name where they have one, and stand last where they have none. An array that
    names but one of the two, and has it somewhere else, could mean several things.

    Args:
      latents: of any number of dimensions.

    Raises:
      InputError: it could mean several things, or two axes have one name.
    """
    names = [str(dim) for dim in latents.dims]
    if len(set(names)) < len(names):
        raise InputError("latents", names, "axes must have different names")
    known = [name for name in (SAMPLE, UNIT) if name in names]
    if len(known) == 1 and len(names) == 2:
        (other,) = (name for name in names if name not in known)
        order = [known[0], other] if known == [SAMPLE] else [other, known[0]]
    elif len(known) == 1 and len(names) > 2 and known[0] != names[{SAMPLE: -2, UNIT: -1}[known[0]]]:
        lacks = UNIT if known == [SAMPLE] else SAMPLE
        others = [name for name in names if name not in known]
        problem = f"has an axis {known[0]} and none called {lacks}; say which of {others} that is: "
        raise InputError("latents", names, f"{problem}.rename({others[-1]}='{lacks}')")
    else:
        last = known if len(known) == 2 else []
        order = [name for name in names if name not in last] + last
    by_name = dict(zip(names, latents.dims, strict=True))
    leading = order[:-2] if len(order) > 2 else []
    sample = [SAMPLE] if known else order[-2:-1]
    return latents.transpose(*(by_name[name] for name in order)), (*leading, *sample)


def to_numpy(field: str, given: Any) -> np.ndarray:
    """Returns anything that is an array as one of NumPy's, and refuses what is none.

    Args:
      field: the argument, for the error's text.
      given: anything.

    Raises:
      InputError: a mapping, a path, lists of unequal lengths, or another thing that is no array;
        the error says what to do.
    """
    kind = type(given).__name__
    if isinstance(given, str | bytes | os.PathLike):
        what = "is a path; open it by load(…)" if field == "latents" else "is a text, not numbers"
        raise InputError(field, given, what)
    if isinstance(given, Mapping | xr.DataTree):
        names = [str(name) for name in getattr(given, "data_vars", given)]
        raise InputError(field, kind, f"name one array of it: {sorted(names)}")
    if isinstance(given, np.ma.MaskedArray):  # what is masked is not known
        given = _unmasked(field, given)
    try:
        array = np.asarray(given)  # also of subclasses: a matrix would stay two-dimensional
    except Exception as error:  # whatever a foreign array raises, it cannot be had
        why = " ".join(f"{error or type(error).__name__}".split())
        if "inhomogeneous" in why:
            raise InputError(
                field,
                kind,
                "has rows of unequal lengths; concatenate arrays of one "
                "width: numpy.concatenate(…)",
            ) from None
        stored = f"cannot be read ({why}); a file of it is damaged: write it again"
        tensor = f"is no array ({why}); a PyTorch tensor: .detach().cpu().float()"
        raise InputError(field, kind, stored if hasattr(given, "chunks") else tensor) from error
    if array.dtype.kind == "O" and not isinstance(given, np.ndarray):
        dense = "; a sparse matrix: .toarray()" if hasattr(given, "toarray") else ""
        raise InputError(field, kind, f"is no array of numbers{dense}")
    return array


def _unmasked(field: str, given: Any) -> Any:
    if given.dtype.kind not in "biuf":
        raise InputError(field, f"masked array of {given.dtype}", "must be real")
    return np.ma.filled(given.astype(np.result_type(given, np.float32)), np.nan)


def numbers(field: str, given: Any, *, dimensions: int | None = None) -> np.ndarray:
    """Returns an array of real numbers in double precision.

    Args:
      field: the argument, for the error's text.
      given: any array; what is not finite is left as it is.
      dimensions: that it must have; None: any.

    Raises:
      InputError: it is no array, of other types than real numbers, or of other dimensions.
    """
    array = to_numpy(field, given)
    told = f"array of {array.dtype} {array.shape}"
    if not is_real(array.dtype):
        raise InputError(field, told, "must be real numbers")
    if dimensions is not None and array.ndim != dimensions:
        raise InputError(field, told, f"must have {dimensions} dimension{'s'[: dimensions != 1]}")
    return array.astype(np.float64)


def check_made(field: str, made: Any, names: Sequence[str], maker: str) -> None:
    """Refuses what is not the Dataset that a function of this package returns.

    Args:
      field: the argument.
      made: what was given.
      names: of variables that it must have.
      maker: the function.

    Raises:
      InputError: it is another thing.
    """
    if not isinstance(made, xr.Dataset) or not set(names) <= set(made.variables):
        raise InputError(field, type(made).__name__, f"must be what {maker}(…) returns")


def is_real(dtype: np.dtype) -> bool:
    """Returns whether numbers of a type are real: times are not, which NumPy counts as integers.

    Args:
      dtype: NumPy's or an accelerator's, such as bfloat16.
    """
    return dtype.kind in "biuf" or bool(jnp.issubdtype(dtype, jnp.floating))


def _dtype(array: Any) -> np.dtype:
    """Returns float64 for float64 and wider ones, and float32 for every other real type."""
    dtype = np.dtype(array.dtype)
    if len(array.shape) < 2 or 0 in array.shape or not is_real(dtype):
        raise InputError(
            "latents",
            f"array of {dtype} {array.shape}",
            "must be real, (samples, units), and not empty",
        )
    return np.dtype(np.float64 if dtype.kind == "f" and dtype.itemsize >= 8 else np.float32)


def read(source: Source, start: int, stop: int) -> np.ndarray:
    """Returns rows `start` to `stop` of the pooled samples, `(stop − start, units)`, floating."""
    if not source.lazy:
        return source.array[start:stop].astype(source.dtype, copy=False)
    leading, samples = source.shape[:-2], source.shape[-2]
    pieces = []
    for cloud in range(start // samples, -(-stop // samples)):
        first = cloud * samples
        part = slice(max(start - first, 0), min(stop - first, samples))
        pieces.append(source.array.rows(np.unravel_index(cloud, leading), part.start, part.stop))
    return np.concatenate(pieces).astype(source.dtype, copy=False)


def as_clouds(latents: Latents) -> np.ndarray:
    """Reads latents of any array type as `(..., samples, units)`, float32 or float64.

    Raises:
      InputError: not an array of real vectors.
    """
    source = open_source(latents)
    if source.lazy:
        size = math.prod(source.shape) * source.dtype.itemsize
        check_fits("latents", f"array {source.shape}", size)
    return read(source, 0, source.rows).reshape(source.shape)


def labelled_like(latents: Latents, values: np.ndarray) -> PerCloud:
    """Returns one number per cloud, with the labels of the latents if these have some.

    Args:
      latents: what a public function was given, an array that `open_source` takes.
      values: of the leading shape of the latents.
    """
    if not isinstance(latents, xr.DataArray):
        return values
    source = open_source(latents)
    return xr.DataArray(values, source.coords, source.dims[:-1])


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
    names = (by,) if isinstance(by, str) else tuple(by) if isinstance(by, list | tuple) else None
    if names is None or not all(isinstance(name, str) for name in names):
        raise InputError("by", by, "must be the name of an axis, or several")
    return names


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
