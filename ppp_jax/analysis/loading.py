"""Opens latents: of a run folder, of a file, or an array in memory."""

import pathlib
import zipfile
from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr
import zarr

from ppp_jax import ledger
from ppp_jax.analysis.arrays import open_source
from ppp_jax.analysis.runs import BOTTLENECK, STORE, load_run
from ppp_jax.errors import InputError

KNOWN = "a run folder, .npy, .npz, or zarr"


def load(
    latents: Any,
    *,
    name: str | None = None,
    latent_width: int | None = None,
    architecture: str | None = None,
    layer: str = BOTTLENECK,
    units: int | None = None,
    vectors: int | None = None,
) -> xr.Dataset | xr.DataArray:
    """Opens latents, with every axis named; large ones are read only where they are looked at.

    Args:
      latents: a run folder, or the `latents.zarr` in it; the path of an `.npy` or `.npz` file or of
        a zarr array or group; or any array, `(..., samples, units)`.
      name: which array, if there are several; `pre` or `post` of a run folder.
      latent_width: which latents of a run folder, if the grid has several widths.
      architecture: likewise, if it has several.
      layer: of which layer, if others than the bottleneck were captured.
      units: of this layer, if it comes in several sizes.
      vectors: per sample, likewise: a convolution has one at every position.

    Returns:
      Of a run folder the Dataset with `pre` and `post` (the bottleneck before and after its
      activation) over `(activation, depth, width, optimizer, initializer, rate, seed, step,
      sample, unit)`, with `dose` before `seed` if the grid has doses, `train_mse`,
      `validation_mse`, `test_mse`, `diverged_step`, and the probe `inputs` (and
      `labels`, where the data has any); snapshots that not every run has are left out. Of anything
      else, and if a `name` is given, a DataArray over `(..., sample, unit)`.

    Raises:
      InputError: nothing is there, it does not open, it holds no array of vectors or several and
        none was named, there is no snapshot that every run has, or something else than a run
        folder is chosen from as if it were one.

    Example:
      >>> load(np.zeros((2, 5, 4))).dims
      ('axis_0', 'sample', 'unit')
    """
    given = {"architecture": architecture, "latent_width": latent_width, "units": units,
             "vectors": vectors}  # fmt: skip
    which = {key: value for key, value in given.items() if value is not None}
    file = isinstance(latents, str | pathlib.Path)
    path = pathlib.Path(latents if file else ".").expanduser()
    if file and _is_run(path):
        dataset = load_run(path, layer=layer, **which)
        return dataset if name is None else _choose(dataset, name, path)
    for key, value in ({"layer": layer} if layer != BOTTLENECK else which).items():
        raise InputError(key, value, "chooses in run folders, and this is none; leave it out")
    if not file:
        return _labelled(latents)
    if not path.exists():
        raise InputError("path", path, f"is not there; give {KNOWN}")
    try:
        return _labelled(_choose(_read(path), name, path))
    except InputError:
        raise
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile) as error:
        why = " ".join(str(error).split())
        raise InputError("path", path, f"does not open ({why}); give {KNOWN}") from error


def _is_run(path: pathlib.Path) -> bool:
    """Tells our store from somebody's array that has its name."""
    if (path / STORE).is_dir() or (path.name == STORE and (path / ledger.FILE).exists()):
        return True
    group = path.name == STORE and (path / ".zgroup").exists()
    return group and "manifest" in zarr.open_group(path, mode="r", zarr_format=2).attrs


def _labelled(latents: Any) -> xr.DataArray:
    source = open_source(latents)
    if isinstance(latents, xr.DataArray):
        return latents
    array = source.array if source.lazy else source.array.reshape(source.shape)
    data = xr.Variable((*source.dims, "unit"), _Lazy(array) if source.lazy else array)
    return xr.DataArray(data)


def _read(path: pathlib.Path) -> Any:
    """Returns an array, or the arrays by name, of a file or a zarr folder."""
    if path.suffix == ".npy":
        return np.load(path, mmap_mode="r", allow_pickle=False)
    if path.suffix == ".npz":
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    if path.is_dir() and any((path / n).exists() for n in (".zarray", ".zgroup", "zarr.json")):
        opened = zarr.open(path, mode="r")
        return opened if isinstance(opened, zarr.Array) else xr.open_zarr(path, consolidated=False)
    if path.is_dir():
        raise InputError("path", path, f"holds no {STORE}; give {KNOWN}")
    raise InputError("path", path, f"is of no known kind; give {KNOWN} (numpy.save writes .npy)")


def _choose(found: Any, name: str | None, path: pathlib.Path) -> Any:
    """Returns the array asked for, or the only one that could be meant."""
    if not isinstance(found, Mapping):
        if name is not None:
            raise InputError("name", name, f"{path} is one array without names")
        return found
    arrays = {str(key): value for key, value in found.items() if value.ndim >= 2}
    if name is None and len(arrays) != 1:
        which = f"one of {sorted(arrays)}" if arrays else "none is an array of vectors"
        raise InputError("name", None, f"{path} has {len(arrays)} arrays; name {which}")
    if name is not None and name not in arrays:
        raise InputError("name", name, f"is no array of vectors in {path}: {sorted(arrays)}")
    return arrays[name] if name is not None else next(iter(arrays.values()))


class _Lazy(xr.backends.BackendArray):
    """An array on disk that xarray reads slice by slice."""

    def __init__(self, array: Any):
        self.array, self.shape, self.dtype = array, tuple(array.shape), np.dtype(array.dtype)

    def __getitem__(self, key: Any) -> Any:
        return xr.core.indexing.explicit_indexing_adapter(
            key, self.shape, xr.core.indexing.IndexingSupport.BASIC, self._slice
        )

    def _slice(self, key: tuple[Any, ...]) -> np.ndarray:
        return np.asarray(self.array[key])
