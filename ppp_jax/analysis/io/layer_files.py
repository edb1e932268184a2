"""Layers of a network: arrays by name, in a mapping, a folder of files or a file of several arrays.

What each layer is, is found without reading it as a whole where its file allows that; it is opened
when its turn has come, so that one layer at a time is in memory.
"""

import contextlib
import functools
import os
import pathlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import zarr

from ppp_jax.analysis.io.layer_sources import (
    HDF5,
    NAMED,
    SAFETENSORS,
    Held,
    held,
    is_store,
    natural,
)
from ppp_jax.analysis.io.load import is_run, load
from ppp_jax.analysis.io.sources import open_source
from ppp_jax.errors import InputError, printable
from ppp_jax.files import atomic
from ppp_jax.files.paths import located

ENDINGS = (".npy", ".zarr", *NAMED)  # of files and folders that are layers
KINDS = ".npy, .npz, .h5, .safetensors or zarr array"
SEED = "seed"  # the one axis beside samples and units: networks, which are tested together
MOST_NAMED = 5  # things of a folder that an error lists
GIVE = (
    "a mapping from names to arrays, a folder of .npy files, or an .npz, HDF5 or safetensors file "
    "or zarr group of several arrays"
)
BFLOAT16 = (
    "as NumPy saves bfloat16, whose name it does not know: save x.astype('float32'), or a "
    "safetensors file"
)
LayersLike = Mapping[Any, Any] | str | os.PathLike[str]
"""Latents by name of layer, or such mappings by name of model; or the path of what holds layers."""


class Layer(NamedTuple):
    """A layer that has not been read.

    Attributes:
      name: Name of the layer.
      shape: Shape of its latents, `(samples, units)` or `(seeds, samples, units)`.
      where: What errors call it: its key, or its file.
      open: Function that opens its latents as a DataArray.
      model: Name of the model that it is a layer of; empty where there is only one.
      basis: Name of the basis that it is tested against where the user names none; None for the
        standard basis.
    """

    name: str
    shape: tuple[int, ...]
    where: object
    open: Callable[[], Any]
    model: str = ""
    basis: str | None = None

    @property
    def units(self) -> int:
        """Number of units n."""
        return self.shape[-1]

    @property
    def told(self) -> str:
        """Name that is this layer's alone: its own, after that of its model if there are any."""
        return f"{self.model}/{self.name}" if self.model else self.name


class Layers(NamedTuple):
    """The layers of a network or of several, in their order.

    Attributes:
      layers: The layers, those of a model together.
      left_aside: Names of what lies beside them and is no layer.
      models: Names of the models; empty where the layers are those of a single network.
    """

    layers: tuple[Layer, ...]
    left_aside: tuple[str, ...]
    models: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the layers of all models, each once, in the order of first appearance."""
        return tuple(dict.fromkeys(layer.name for layer in self.layers))


def open_layers(layers: LayersLike | Layers) -> Layers:
    """Lists layers, and checks the axes and the types of all of them before any is measured.

    Models are a second level: mappings in a mapping, or paths in one; folders in a folder, or files
    of several arrays in one; groups in a zarr group or an HDF5 file, if every array is in a group.
    Other groups are a part of the layer's name, `block_0.mlp`.

    Args:
      layers: A mapping from names to latents that `load` takes, in the order of the mapping, or
        such mappings by the names of models; objects of h5py, zarr, xarray and other libraries that
        hold arrays by name, too. Or the path of a folder of `.npy`, `.npz`, `.h5`, `.safetensors`
        and zarr files of one array each; or the path of an `.npz`, HDF5 or safetensors file or zarr
        group of several arrays. Folders, groups and safetensors are in natural order, `b_2` before
        `b_10`, and an `.npz` in its own. Hidden files of a folder are left out, and its other files
        and folders are named in `left_aside`, as are arrays of fewer than two axes in a file. What
        `open_layers` returned is returned as it is.

    Raises:
      InputError: There are no layers, two have the same name, one does not open or has an axis
        beside samples, units and `seed`; some values of a mapping are mappings and others arrays;
        or the path is a run folder, or an earlier analysis.

    Example:
      >>> import numpy as np
      >>> found = open_layers({"first": np.eye(4), "second": np.ones((5, 3))})
      >>> [(layer.name, layer.shape) for layer in found.layers]
      [('first', (4, 4)), ('second', (5, 3))]
    """
    if isinstance(layers, Layers):
        return layers
    aside: list[str] = []
    given = _mapping(layers)
    found = _in_path(_path_of(layers), aside) if given is None else _in_mapping(given, aside)
    named: dict[tuple[str, str], Layer] = {}
    for layer in found:
        if (layer.model, layer.name) in named:
            problem = f"is a second layer called {layer.name}; rename one"
            raise InputError("layers", layer.where, problem)
        named[layer.model, layer.name] = layer
    models = dict.fromkeys(layer.model for layer in named.values() if layer.model)
    return Layers(tuple(named.values()), tuple(aside), tuple(models))


def holds_layers(path: pathlib.Path) -> bool:
    """Returns whether a path holds layers rather than one array or a run.

    HDF5 and safetensors files always do, because nothing else opens them.

    Args:
      path: Any path.

    Raises:
      InputError: The path is an `.npz` file or a zarr group that does not open.
    """
    if is_run(path) or not path.exists():
        return False
    if _is_folder(path) or path.suffix in (*HDF5, SAFETENSORS):
        return True
    return _holds_several(path)


def _holds_several(path: pathlib.Path) -> bool:
    """Returns whether a file or a zarr group holds several arrays of vectors."""
    if path.suffix not in NAMED and not is_store(path):
        return False
    found = held(path)
    if found is None:
        return False
    return len(found.arrays) > 1 or any(model for model, _ in found.named())


def _path_of(layers: Any) -> pathlib.Path:
    if not isinstance(layers, str | os.PathLike):
        problem = f"must be {GIVE}; rotation_test tests a single array"
        raise InputError("layers", type(layers).__name__, problem)
    return located("layers", layers)


def _is_folder(path: pathlib.Path) -> bool:
    """Returns whether a path is a folder, and not a zarr array or group."""
    return path.is_dir() and not is_store(path)


# --------------------------------------------------------------------------------- mappings


def _mapping(value: Any) -> Mapping[Any, Any] | None:
    """Returns an object of arrays by name as a mapping; None if it is something else."""
    if isinstance(value, Mapping):  # also what xarray, h5py and numpy.load give
        return value
    if isinstance(value, zarr.Group):
        return dict(sorted(value.members(), key=lambda member: natural(member[0])))
    if hasattr(value, "keys") and hasattr(value, "items") and not hasattr(value, "__array__"):
        return dict(value.items())  # a cache of activations; tables of pandas are arrays
    return None


def _in_mapping(layers: Mapping[Any, Any], aside: list[str]) -> Iterator[Layer]:
    """Yields the layers of a mapping, or of the mappings and files in it, which are models."""
    if not layers:
        raise InputError("layers", layers, f"holds no layer; give {GIVE}")
    kind: bool | None = None
    models: set[str] = set()
    for key in layers:
        value = _value(layers, key, key)
        is_model = _is_model(value)
        if kind not in (None, is_model):
            what = ("an array", "a mapping")[is_model]
            problem = f"is {what}, and values before it are none; all must be of one kind"
            raise InputError("layers", key, problem)
        kind = is_model
        if not is_model:
            yield _checked(str(key), key, functools.partial(_of_mapping, layers, key), value=value)
            continue
        if not str(key) or str(key) in models:
            raise InputError("layers", key, "is no name of a single model; rename it")
        models.add(str(key))
        yield from _of_model(str(key), value, aside)


def _is_model(value: Any) -> bool:
    """Returns whether a value holds several layers: it is a mapping, or the path of such things."""
    if not isinstance(value, str | os.PathLike):
        return _mapping(value) is not None
    path = pathlib.Path(value).expanduser()
    with contextlib.suppress(OSError, ValueError, InputError):  # which opening it tells
        return holds_layers(path)
    return False


def _of_model(model: str, value: Any, aside: list[str]) -> Iterator[Layer]:
    layers = _mapping(value)
    if layers is None:
        yield from _below(model, _in_path(_path_of(value), aside))
        return
    if not layers:
        raise InputError("layers", model, "holds no layer; give arrays by the names of layers")
    for key in layers:
        where = f"{model}/{key}"
        one = _value(layers, key, where)
        if _mapping(one) is not None:
            problem = "is a mapping in a mapping in a mapping; give {model: {layer: array}}"
            raise InputError("layers", where, problem)
        opener = functools.partial(_of_mapping, layers, key)
        yield _checked(str(key), where, opener, value=one)._replace(model=model)


def _below(model: str, layers: Iterator[Layer]) -> Iterator[Layer]:
    """Yields the layers of a file or folder as those of a model."""
    for layer in layers:
        if layer.model:
            problem = f"holds models by itself, such as {layer.model}; give {{model: {{layer: …}}}}"
            raise InputError("layers", model, problem)
        yield layer._replace(model=model)


def _of_mapping(layers: Mapping[Any, Any], key: Any) -> Any:
    return load(_value(layers, key, key))


def _value(layers: Mapping[Any, Any], key: Any, where: object) -> Any:
    try:
        return layers[key]
    except Exception as error:  # A mapping that reads from a file may raise anything.
        why = " ".join(f"{error or type(error).__name__}".split())
        raise InputError("layers", where, f"cannot be read ({why}); write it again") from error


# ------------------------------------------------------------------------ files and folders


def _in_path(path: pathlib.Path, aside: list[str]) -> Iterator[Layer]:
    return _in_folder(path, aside) if _is_folder(path) else _in_file(path, aside)


def _in_file(path: pathlib.Path, aside: list[str]) -> Iterator[Layer]:
    with about(path):
        found = _readable(path)
    if found is None:
        raise InputError("layers", path, f"is one array, which rotation_test tests; give {GIVE}")
    if not found.arrays:
        raise InputError("layers", path, "holds no array of vectors, (samples, units)")
    aside += found.others
    for (model, name), one in found.named().items():
        where = f"{f'{model}/{name}' if model else name} of {path}"
        yield _checked(name, where, one.open, like=one.like)._replace(model=model)


def _readable(path: pathlib.Path) -> Held | None:
    """Returns what a file or a zarr group holds, if each of its arrays can be read."""
    found = held(path)
    for name, problem in found.unreadable.items() if found else ():
        raise InputError("path", path, f"has an array {name} that {problem}")
    return found


def _in_folder(path: pathlib.Path, aside: list[str]) -> Iterator[Layer]:
    """Yields the layers of a folder: each file is one, or each file and folder is a model."""
    if is_run(path):
        raise InputError("layers", path, "is a run folder; give it by itself")
    if (path / atomic.RECORD).exists():
        problem = "was written by an earlier analysis; give the folder of the layers themselves"
        raise InputError("layers", path, problem)
    entries = _listed(path)
    files = [one for one in entries if _is_file(one)]
    several = []
    for one in files:
        with about(one):
            several += [one] if _holds_several(one) else []
    models = several + [one for one in entries if one not in files and _has_files(one)]
    if several and len(several) < len(files):
        problem = (
            "holds several arrays of vectors, and beside it there are files of one, each of which "
            "is a layer; give this file by itself, or a mapping from names to arrays"
        )
        raise InputError("layers", several[0], problem)
    here = files if files and not several else sorted(models, key=_natural)
    aside += [one.name for one in entries if one not in here]
    if not here:
        more = ", …" if len(aside) > MOST_NAMED else ""
        holds = f"it holds {', '.join(aside[:MOST_NAMED])}{more}" if aside else "it is empty"
        raise InputError("layers", path, f"holds no {KINDS} ({holds}); give {GIVE}")
    for one in here:
        if here is files:
            yield _checked(one.stem, one, functools.partial(_only_array, one))
            continue
        beside: list[str] = []
        yield from _below(one.stem, _in_path(one, beside))
        aside += [f"{one.name}/{name}" for name in beside]


def _listed(path: pathlib.Path) -> list[pathlib.Path]:
    """Returns what is in a folder and not hidden, in natural order."""
    try:
        return sorted((one for one in path.iterdir() if one.name[0] != "."), key=_natural)
    except OSError as error:
        problem = f"cannot be listed ({error.strerror or error}); give another folder"
        raise InputError("layers", path, problem) from None


def _is_file(path: pathlib.Path) -> bool:
    return path.suffix in ENDINGS or is_store(path)


def _has_files(path: pathlib.Path) -> bool:
    """Returns whether a path is a folder with arrays in it."""
    return path.is_dir() and any(_is_file(one) for one in _listed(path))


def _natural(path: pathlib.Path) -> tuple[Any, ...]:
    return natural(path.stem)


def _only_array(path: pathlib.Path) -> Any:
    """Opens a file of a folder, which is one layer."""
    if path.suffix not in NAMED and not is_store(path):
        return load(path)
    found = _readable(path)
    if found is None:
        return load(path)
    if len(found.arrays) != 1:
        raise InputError("path", path, "holds no array of vectors, (samples, units)")
    (one,) = found.arrays.values()
    return one.open()


def _checked(
    name: str, where: object, opener: Callable[[], Any], *, value: Any = None, like: Any = None
) -> Layer:
    """Returns a layer whose axes and types are right.

    Its value may have been read already, or its file may have told what it is like.
    """
    with about(where):
        if like is None:
            like = opener() if value is None else load(value)
        source = open_source(like)
    others = [axis for axis in source.dims[:-1] if axis != SEED]
    if others:
        problem = (
            f"has the shape {source.shape}, and it is not known what its axes {others} mean: "
            f"reshape(-1, {source.units}) makes all vectors one cloud, and an axis named 'seed' "
            "(xarray.DataArray(x, dims=('seed', 'sample', 'unit'))) holds networks, which are "
            "tested together"
        )
        raise InputError("layers", where, problem)
    return Layer(name, source.shape, where, opener)


@contextlib.contextmanager
def about(where: object) -> Iterator[None]:
    """Puts a layer into the errors about latents that occur in the block.

    Args:
      where: What the errors call the layer.

    Raises:
      InputError: An error about the latents occurred; it names the layer.
    """
    try:
        yield
    except InputError as error:
        if error.field not in ("latents", "path", "name"):
            raise
        told = f"{printable(error.value)} " if error.field == "latents" else ""
        more = f" ({BFLOAT16})" if told.startswith("array of |V2 ") else ""
        raise InputError("layers", where, told + error.problem + more) from error
