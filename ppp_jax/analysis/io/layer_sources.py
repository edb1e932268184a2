"""Files of several arrays by name: `.npz`, zarr groups, HDF5 and safetensors, opened lazily.

The libraries of HDF5 and of safetensors are imported only where such a file is given.
"""

import functools
import importlib
import pathlib
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import xarray as xr

from ppp_jax.analysis.io.load import contents, load
from ppp_jax.analysis.io.sources import Lazy
from ppp_jax.errors import InputError
from ppp_jax.files import archives, regular

STORES = (".zarray", ".zgroup", "zarr.json")  # in a folder that is a zarr array or group
HDF5 = (".h5", ".hdf5")
SAFETENSORS = ".safetensors"
NAMED = (".npz", *HDF5, SAFETENSORS)  # files of arrays by name
Parts = tuple[str, ...]


class Opener(NamedTuple):
    """An array in a file that has not been read.

    Attributes:
      open: Function that opens it as a DataArray, lazily where it is large.
      like: An array without any numbers in memory that has its shape, its type and the names of its
        axes, where the file tells these before it is read; otherwise None.
    """

    open: Callable[[], Any]
    like: Any = None


class Held(NamedTuple):
    """What a file of arrays by name holds.

    Attributes:
      arrays: The arrays of at least two axes, by the names of their groups and their own.
      others: Names of the other arrays.
      unreadable: Why an array cannot be read, by its name.
    """

    arrays: dict[Parts, Opener]
    others: list[str]
    unreadable: Mapping[str, str] = {}

    def named(self) -> dict[tuple[str, str], Opener]:
        """Returns the arrays by model and layer.

        If every array is in a group, the outermost groups are models, as mappings in a mapping are;
        other groups are a part of the layer's name, `block_0.mlp`.
        """
        models = min((len(parts) for parts in self.arrays), default=0) > 1
        return {
            (parts[0] if models else "", ".".join(parts[models:])): opener
            for parts, opener in self.arrays.items()
        }


def is_store(path: pathlib.Path) -> bool:
    """Returns whether a path is a zarr array or group.

    Args:
      path: Any path.
    """
    return path.is_dir() and any((path / name).exists() for name in STORES)


def held(path: pathlib.Path) -> Held | None:
    """Returns what a file or a zarr group holds; None for one array, which has no name.

    Args:
      path: A file whose name ends as one of `NAMED` does, an `.npy` file, or a zarr array or group.

    Raises:
      InputError: The path does not open, an array of an HDF5 or safetensors file cannot be read, or
        a library is missing.
    """
    if path.suffix in HDF5 and not path.is_dir():
        return _reading(path, _in_hdf5)
    if path.suffix == SAFETENSORS and not path.is_dir():
        return _reading(path, _in_safetensors)
    return _in_group(path, ()) if path.is_dir() else _in_archive(path)


def natural(name: str) -> tuple[Any, ...]:
    """Returns a key that sorts names with the numbers in them as numbers.

    Args:
      name: Any text.

    Example:
      >>> sorted(["b_10", "b_2", "b", "2", "a"], key=natural)
      ['2', 'a', 'b', 'b_2', 'b_10']
    """
    parts = re.split("([0-9]+)", name)
    return tuple(int(part) if k % 2 else part for k, part in enumerate(parts)), name


def _in_archive(path: pathlib.Path) -> Held | None:
    """Returns the arrays of an `.npz`, which has an order of its own, or of a zarr group."""
    there = contents(path)
    if there is None:
        return None
    arrays: dict[Parts, Opener] = {
        (name,): Opener(functools.partial(load, path, name=name)) for name in there.vectors
    }
    return Held(arrays, there.others, there.unreadable)


def _in_group(path: pathlib.Path, parts: Parts) -> Held | None:
    """Returns the arrays of a zarr group and of the groups in it, in natural order."""
    whole = _in_archive(path)
    if whole is None:
        return None
    arrays = {(*parts, *key): opener for key, opener in whole.arrays.items()}
    others = ["/".join((*parts, name)) for name in whole.others]
    for below in sorted(path.iterdir()):
        inside = _in_group(below, (*parts, below.name)) if is_store(below) else None
        if inside is not None:
            arrays |= inside.arrays
            others += inside.others
    return Held(dict(sorted(arrays.items(), key=_order)), others)


def _order(item: tuple[Parts, Any]) -> tuple[Any, ...]:
    return tuple(natural(part) for part in item[0])


class Stored:
    """An array in a file, which is opened anew whenever a part of it is read."""

    def __init__(self, shape: tuple[int, ...], dtype: np.dtype, read: Callable[[Any], Any]):
        """Describes an array, and does not read it."""
        self.shape, self.dtype, self.ndim = shape, dtype, len(shape)
        self.chunks = None  # what has such an attribute is read in parts where it is large
        self.nbytes = int(np.prod(shape, dtype=object)) * dtype.itemsize
        self._read = read

    def __getitem__(self, key: Any) -> np.ndarray:
        """Reads the numbers at a key of whole numbers and slices."""
        return np.asarray(self._read(key))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """Reads all numbers."""
        return self[...] if dtype is None else self[...].astype(dtype)


def _opener(array: Stored, axes: list[str] | None = None) -> Opener:
    archives.check_size(array.nbytes, archives.most_bytes(None))
    like: Any = np.broadcast_to(np.zeros((), array.dtype), array.shape)
    if axes is None:
        return Opener(functools.partial(load, array), like)
    lazy = xr.Variable(axes, xr.core.indexing.LazilyIndexedArray(Lazy(array)))
    return Opener(functools.partial(load, xr.DataArray(lazy)), xr.DataArray(like, dims=axes))


# ------------------------------------------------------------------------------------- HDF5


def _in_hdf5(path: pathlib.Path) -> Held:
    h5py = _library("h5py", "an HDF5 file")
    arrays: dict[Parts, Opener] = {}
    others = []
    with h5py.File(path, "r") as file:
        for parts, array in _datasets(h5py, file, (), set()):
            name = "/".join(parts)
            if array.shape is None or array.ndim < 2:
                others.append(name)
                continue
            if array.is_virtual or array.external:
                raise archives.ReadError(_elsewhere(name))
            read = functools.partial(_read_hdf5, path, name)
            labels = [axis.label for axis in array.dims]
            axes = labels if all(labels) and len({*labels}) == array.ndim else None
            arrays[parts] = _opener(Stored(array.shape, np.dtype(array.dtype), read), axes)
    return Held(dict(sorted(arrays.items(), key=_order)), others)


def _read_hdf5(path: pathlib.Path, name: str, key: Any) -> Any:
    with importlib.import_module("h5py").File(path, "r") as file:
        return file[name][key]


def _datasets(h5py: Any, group: Any, parts: Parts, seen: set[int]) -> Iterator[tuple[Parts, Any]]:
    """Yields the arrays of a group and of those in it, each once, also where links go round."""
    for name in group:
        here = (*parts, name)
        if isinstance(group.get(name, getlink=True), h5py.ExternalLink):
            raise archives.ReadError(_elsewhere("/".join(here)))
        one = group.get(name)
        if one is None:
            raise archives.ReadError(
                f"has a link {'/'.join(here)} that leads nowhere; remove it, or write it again"
            )
        address = h5py.h5o.get_info(one.id).addr
        if address in seen:
            continue
        seen.add(address)
        if isinstance(one, h5py.Group):
            yield from _datasets(h5py, one, here, seen)
        elif isinstance(one, h5py.Dataset):
            yield here, one


def _elsewhere(name: str) -> str:
    return f"has an array {name} that lies in another file; write the array itself into this one"


# ------------------------------------------------------------------------------ safetensors


def _in_safetensors(path: pathlib.Path) -> Held:
    library = _library("safetensors", "a safetensors file")
    arrays: dict[Parts, Opener] = {}
    others = []
    with library.safe_open(path, framework="numpy") as file:
        for name in sorted(file.keys(), key=natural):
            part = file.get_slice(name)
            shape = tuple(part.get_shape())
            if len(shape) < 2:
                others.append(name)
                continue
            dtype = np.dtype(part[:0].dtype)  # an array of no rows
            arrays[(name,)] = _opener(
                Stored(shape, dtype, functools.partial(_read_safetensors, path, name))
            )
    return Held(arrays, others)


def _read_safetensors(path: pathlib.Path, name: str, key: Any) -> Any:
    with importlib.import_module("safetensors").safe_open(path, framework="numpy") as file:
        return file.get_tensor(name) if key is Ellipsis else file.get_slice(name)[key]


# ----------------------------------------------------------------------------------- errors


def _library(name: str, kind: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        raise archives.ReadError(
            f"is {kind}, and {name} is not installed; pip install {name}"
        ) from None


def _reading(path: pathlib.Path, read: Callable[[pathlib.Path], Held]) -> Held:
    """Returns what a function reads of a path, and makes each of its errors one about the path."""
    if not path.exists():
        raise InputError("path", path, "is not there; give a file")
    if (problem := regular.problem(path)) is not None:
        raise InputError("path", path, f"{problem}; give a file")
    try:
        return read(path)
    except (InputError, MemoryError):
        raise
    except archives.ReadError as error:
        raise InputError("path", path, str(error)) from None
    except Exception as error:  # A decoder may raise anything for damaged bytes.
        why = " ".join(f"{error or type(error).__name__}".split())
        problem = f"does not open ({why}); it is truncated or damaged, so write it again"
        raise InputError("path", path, problem) from error
