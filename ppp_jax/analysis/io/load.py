"""Opens latents from a run folder, a file, or an array in memory."""

import functools
import os
import pathlib
import stat
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import xarray as xr
import zarr

from ppp_jax.analysis.io.headers import Array, check_store, has_chunks
from ppp_jax.analysis.io.runs import BOTTLENECK, STORE, load_run
from ppp_jax.analysis.io.sources import (
    SAMPLE,
    UNIT,
    Latents,
    Lazy,
    labelled,
    named_axes,
    open_source,
    ordered_axes,
    stated_axes,
)
from ppp_jax.errors import InputError
from ppp_jax.files import archives, ledger
from ppp_jax.files.mirrors import located

WHOLE = "load_run opens all of it"
SITES = ("pre", "post")
KNOWN = "a run folder, .npy, .npz, or zarr"
LAYERS = " (compare_layers and experiments.analyze take a folder of several layers)"
# Attributes by which files of xarray say that numbers are packed or missing.
PACKED = frozenset({"scale_factor", "add_offset", "_FillValue", "missing_value", "_Unsigned"})


def load(
    latents: Latents | str | os.PathLike[str],
    *,
    name: str | None = None,
    latent_width: int | None = None,
    architecture: str | None = None,
    layer: str = BOTTLENECK,
    units: int | None = None,
    vectors: int | None = None,
    max_bytes: int | None = None,
) -> xr.DataArray:
    """Opens latents as a DataArray; large latents are read only where they are used.

    A zarr array keeps the names of its axes, whether it is opened by its own path or in its group.
    Its missing chunks hold its fill value, as zarr defines; an array without any chunk is refused.
    `load_run` opens everything that a run folder holds, with errors and the probe.

    Args:
      latents: A run folder, or the `latents.zarr` in it; the path of an `.npy` or `.npz` file or of
        a zarr array or group; or any array, `(..., samples, units)`.
      name: The array to open, where there are several; `pre` or `post` of a run folder.
      latent_width: The width of the latents of a run folder, if its grid has several widths.
      architecture: The architecture of a run folder, if its grid has several.
      layer: The layer of a run folder, if others than the bottleneck were captured.
      units: The width of this layer, if it comes in several sizes.
      vectors: The vectors per sample of this layer, if it comes in several sizes: a convolution
        has one at every position.
      max_bytes: Largest size in bytes of an array of a file. The default is the free memory, and
        no limit for an array on disk of which at least half of the chunks exist, because it is
        read in parts.

    Returns:
      A DataArray over `(..., sample, unit)`; an array that names its axes without either of these
      keeps its names, and its last two axes are samples and units.

    Raises:
      InputError: The path does not exist or does not open; the file holds no array of vectors, or
        several of which none was named; an array states a larger size than allowed, holds other
        types than numbers, or could run code of its author; a run folder has no snapshot that
        every run has; or an argument for run folders is given with something else.

    Example:
      >>> import numpy as np
      >>> load(np.zeros((2, 5, 4))).dims
      ('axis_0', 'sample', 'unit')
    """
    given = {
        "architecture": architecture,
        "latent_width": latent_width,
        "units": units,
        "vectors": vectors,
    }
    which: dict[str, Any] = {key: value for key, value in given.items() if value is not None}
    if not isinstance(latents, str | os.PathLike):
        _refuse_choices(layer, which)
        if name is not None:
            raise InputError("name", name, "chooses in files, but this is one array; leave it out")
        return _labelled(labelled(latents))
    path = located("path", latents)
    if is_run(path):
        found = _of_run(load_run(path, layer=layer, **which))
        if name is None:
            raise InputError("name", None, f"{path} is a run folder: name pre or post; {WHOLE}")
        array: xr.DataArray = _choose(found, name, path)
        return array
    _refuse_choices(layer, which)
    return _of_file(path, name, max_bytes)


def _of_file(path: pathlib.Path, name: str | None, max_bytes: int | None) -> xr.DataArray:
    found: xr.DataArray = _reading(
        path, lambda: _labelled(_choose(_look(path, max_bytes), name, path))
    )
    return found


def _reading(path: pathlib.Path, read: Callable[[], Any]) -> Any:
    """Returns what a function reads of a path, and makes each of its errors one about the path."""
    if not path.exists():
        raise InputError("path", path, f"is not there; give {KNOWN}")
    try:
        return read()
    except InputError:
        raise
    except archives.ReadError as error:
        raise InputError("path", path, str(error)) from None
    except Exception as error:  # Any codec of any file may raise anything.
        why = " ".join(f"{error or type(error).__name__}".split())
        raise InputError("path", path, f"does not open ({why}); give {KNOWN}") from error


class Contents(NamedTuple):
    """What a file or a zarr group of named arrays holds.

    Attributes:
      vectors: Names of the arrays with at least two axes, in the order of the file.
      others: Names of the other arrays.
      unreadable: Why an array cannot be read, by its name.
    """

    vectors: list[str]
    others: list[str]
    unreadable: dict[str, str]


def contents(path: pathlib.Path) -> Contents | None:
    """Returns what a file or a zarr group holds; None for one array, which has no name.

    Args:
      path: An `.npy` or `.npz` file, or a zarr array or group.

    Raises:
      InputError: The path does not open.
    """
    found = _reading(path, lambda: _look(path, None))
    if not isinstance(found, Mapping):
        return None
    unreadable = {name: array.problem for name, array in found.items() if array.problem}
    vectors = [name for name, array in found.items() if array.dimensions >= 2]
    others = [name for name in found if name not in vectors and name not in unreadable]
    return Contents(vectors, others, unreadable)


def _refuse_choices(layer: str, which: Mapping[str, Any]) -> None:
    for key, value in ({"layer": layer} if layer != BOTTLENECK else which).items():
        raise InputError(key, value, "chooses in run folders, and this is none; leave it out")


def is_run(path: pathlib.Path) -> bool:
    """Returns whether a path is a run folder or the `latents.zarr` of one.

    Another array of that name has neither a ledger nor a manifest.

    Args:
      path: Any path.

    Raises:
      InputError: The path is a zarr group of that name that cannot be opened safely.
    """
    if (path / STORE).is_dir() or (path.name == STORE and (path / ledger.FILE).exists()):
        return True
    if path.name != STORE or not (path / ".zgroup").exists():
        return False
    check_store(path)
    return "manifest" in zarr.open_group(path, mode="r", zarr_format=2).attrs


def _labelled(latents: Any) -> xr.DataArray:
    source = open_source(latents)
    if not isinstance(latents, xr.DataArray):
        dims = (*source.dims, UNIT)
        if not source.lazy:
            return xr.DataArray(source.array.reshape(source.shape), dims=dims)
        # Without this wrapper xarray would read the whole array at the first selection.
        lazy = xr.core.indexing.LazilyIndexedArray(Lazy(source.array.array))
        return xr.DataArray(xr.Variable(dims, lazy))
    if {SAMPLE, UNIT} <= set(latents.dims) or not {SAMPLE, UNIT} & set(latents.dims):
        return latents
    ordered, _ = ordered_axes(latents)  # One of the two axes has another name.
    named = dict(zip(ordered.dims[-2:], (SAMPLE, UNIT), strict=True))
    renamed = {old: new for old, new in named.items() if old != new}
    return ordered.drop_vars(renamed.values(), errors="ignore").rename(renamed)


class _Named(NamedTuple):
    """An array of a file that has not been read yet.

    Attributes:
      dimensions: Number of its dimensions, or 0 if it cannot be read.
      read: Function that opens it.
      problem: Why it cannot be read, or an empty text if it can.
    """

    dimensions: int
    read: Callable[[], Any]
    problem: str


def _look(path: pathlib.Path, max_bytes: int | None) -> Any:
    """Returns the single array of a file or zarr folder, or its arrays by name."""
    if path.is_dir():
        if not any((path / n).exists() for n in (".zarray", ".zgroup", "zarr.json")):
            raise InputError("path", path, f"holds no {STORE}; give {KNOWN}{LAYERS}")
        return _look_into_store(path, max_bytes)
    if not stat.S_ISREG(path.stat().st_mode):
        raise InputError("path", path, f"is no regular file; give {KNOWN}")
    if path.suffix not in (".npy", ".npz"):
        raise InputError(
            "path", path, f"is of no known kind; give {KNOWN} (numpy.save writes .npy)"
        )
    if archives.is_npy(path):  # The content decides, because files get renamed.
        return archives.map_npy(path, max_bytes=max_bytes)
    if path.suffix == ".npy" and not archives.is_zip(path):
        raise InputError(
            "path",
            path,
            f"does not open, because its content is not that of an .npy file; give {KNOWN}",
        )
    return _members(archives.open_archive(path, field="path", max_bytes=max_bytes))


def _members(archive: archives.Archive) -> dict[str, _Named]:
    return {
        name: _Named(len(member.header.shape) if member.header else 0,
                     functools.partial(archive.__getitem__, name), member.problem)
        for name, member in archive.members.items()
    }  # fmt: skip


def _look_into_store(path: pathlib.Path, max_bytes: int | None) -> Any:
    arrays = check_store(path, max_bytes=max_bytes)
    opened = zarr.open(path, mode="r")
    if isinstance(opened, zarr.Array):
        _check_there(path, opened)
        return _unpacked(opened, named_axes(opened))
    others = {
        name: array for name, array in arrays.items()
        if name and "/" not in name and (path / name).is_dir()
    }  # fmt: skip
    return {
        name: _Named(len(array.shape), functools.partial(_from_group, path, name, others), "")
        for name, array in others.items()
    }


def _from_group(path: pathlib.Path, name: str, arrays: Mapping[str, Array]) -> Any:
    """Opens one array of a group, with the coordinates that the group has for its axes.

    In format 2 xarray takes the fill value of chunks that were never written for a missing number,
    which most writers do not mean. Here it does so only if attributes of the array say that numbers
    are packed or missing.
    """
    group = zarr.open_group(path, mode="r", use_consolidated=False)
    _check_there(path / name, group[name])
    axes = named_axes(group[name])
    if axes is None or axes != stated_axes(group[name]):  # xarray would not open these.
        return _unpacked(group[name], axes)
    others = [other for other, found in arrays.items() if other != name and len(found.shape) > 1]
    packed = {each: bool(PACKED & set(group[each].attrs)) for each in arrays if each not in others}
    return xr.open_dataset(
        path, engine="zarr", consolidated=False, drop_variables=others, mask_and_scale=packed,
        decode_times={name: False}, cache=False,
    )[name]  # fmt: skip


def _check_there(folder: pathlib.Path, array: Any) -> None:
    """Refuses an array none of whose chunks exists, because its files are lost or misnamed.

    If only some chunks are missing, they hold the fill value, as zarr defines.
    """
    if array.size and not has_chunks(folder, array):
        first = array.metadata.encode_chunk_key((0,) * array.ndim)
        raise archives.ReadError(
            f"has none of its chunks, such as {first}, and would be {array.fill_value} throughout; "
            "put them back, or correct the names of chunks that its metadata state"
        )


def _unpacked(array: Any, axes: list[str] | None) -> Any:
    """Returns an array with named axes, and with its numbers unpacked as its attributes say.

    It is then the same, whether it is opened by its own path or in its group.
    """
    attrs = dict(array.attrs)
    if array.ndim < 2 or (axes is None and not PACKED & set(attrs)):
        return array
    missing = attrs.get("_FillValue")
    if array.metadata.zarr_format == 2:
        missing = array.fill_value
    elif isinstance(missing, str | list):  # xarray encodes numbers so in format 3.
        missing = xr.backends.zarr.FillValueCoder.decode(missing, array.dtype)
    if missing is not None and PACKED & set(attrs):
        attrs["_FillValue"] = missing
    dims = axes or (*(f"axis_{k}" for k in range(array.ndim - 2)), SAMPLE, UNIT)
    lazy = xr.core.indexing.LazilyIndexedArray(Lazy(array))
    packed = xr.Variable(dims, lazy, attrs)
    return xr.DataArray(
        xr.conventions.decode_cf_variable("latents", packed, decode_times=False)
    )  # fmt: skip


def _of_run(dataset: xr.Dataset) -> dict[str, _Named]:
    return {
        str(name): _Named(array.ndim, functools.partial(dataset.__getitem__, name), "")
        for name, array in dataset.items()
        if name in SITES
    }


def _choose(found: Any, name: str | None, path: pathlib.Path) -> Any:
    """Returns the named array, or the only array of vectors if none is named."""
    if not isinstance(found, Mapping):
        if name is not None:
            raise InputError("name", name, f"{path} is one array without names; leave name out")
        return found
    arrays = sorted(key for key, value in found.items() if value.dimensions >= 2)
    unread = sorted(key for key, value in found.items() if value.problem)
    beside = f"; not readable: {unread} ({found[unread[0]].problem})" if unread else ""
    if name is None and len(arrays) != 1:
        which = f"name one of {arrays}" if arrays else "give a file that has an array of vectors"
        raise InputError("name", None, f"{path} has {len(arrays)} arrays; {which}{beside}")
    if name is not None and (not isinstance(name, str) or name not in arrays):
        problem = found[name].problem if isinstance(name, str) and name in found else ""
        why = problem or f"is no array of vectors in {path}"
        raise InputError("name", name, f"{why}; name one of {arrays}")
    return found[arrays[0] if name is None else name].read()
