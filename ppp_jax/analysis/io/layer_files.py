"""Layers of a network: arrays by name, in a mapping, a folder of files or a file of several arrays.

What each layer is, is found without reading it as a whole where its file allows that; it is opened
when its turn has come, so that one layer at a time is in memory.
"""

import contextlib
import functools
import os
import pathlib
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from ppp_jax.analysis.io.load import Contents, contents, is_run, load
from ppp_jax.analysis.io.sources import open_source
from ppp_jax.errors import InputError, printable
from ppp_jax.files import atomic
from ppp_jax.files.paths import located

ENDINGS = (".npy", ".npz", ".zarr")  # of files and folders that are layers
STORES = (".zarray", ".zgroup", "zarr.json")  # in a folder that is a zarr array or group
SEED = "seed"  # the one axis beside samples and units: networks, which are tested together
MOST_NAMED = 5  # things of a folder that an error lists
GIVE = (
    "a mapping from names to arrays, a folder of .npy files, or an .npz file or zarr group of "
    "several arrays"
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
    """

    name: str
    shape: tuple[int, ...]
    where: object
    open: Callable[[], Any]
    model: str = ""

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

    Args:
      layers: A mapping from names to latents that `load` takes, in the order of the mapping; a
        mapping from names of models to such mappings; the path of a folder, whose `.npy`, `.npz`
        and zarr arrays are layers; or the path of an `.npz` file or zarr group of several arrays.
        Folders and groups are in natural order, `b_2` before `b_10`, and an `.npz` in its own.
        Hidden files of a folder are left out, and its other files and folders are named in
        `left_aside`, as are arrays of fewer than two axes in a file. What `open_layers` returned is
        returned as it is.

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
    if isinstance(layers, Mapping):
        found = _in_mapping(layers)
    else:
        path = _path_of(layers)
        found = _in_folder(path, aside) if _is_folder(path) else _in_file(path, aside)
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

    Args:
      path: Any path.

    Raises:
      InputError: The path is an `.npz` file or a zarr group that does not open.
    """
    if is_run(path) or not path.exists():
        return False
    if _is_folder(path):
        return True
    held = contents(path) if path.is_dir() or path.suffix == ".npz" else None
    return held is not None and len(held.vectors) > 1


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


def _path_of(layers: Any) -> pathlib.Path:
    if not isinstance(layers, str | os.PathLike):
        problem = f"must be {GIVE}; rotation_test tests a single array"
        raise InputError("layers", type(layers).__name__, problem)
    return located("layers", layers)


def _is_folder(path: pathlib.Path) -> bool:
    """Returns whether a path is a folder, and not a zarr array or group."""
    return path.is_dir() and not _is_store(path)


def _is_store(path: pathlib.Path) -> bool:
    return any((path / name).exists() for name in STORES)


def _in_mapping(layers: Mapping[Any, Any]) -> Iterator[Layer]:
    """Yields the layers of a mapping, or of the mappings in it, which are models."""
    if not layers:
        raise InputError("layers", layers, f"holds no layer; give {GIVE}")
    kinds: set[bool] = set()
    models: set[str] = set()
    for key in layers:
        value = _value(layers, key)
        kinds.add(isinstance(value, Mapping))
        if len(kinds) > 1:
            problem = "is {}; every value must be a mapping (of a model's layers), or none"
            kind = "a mapping, and values before it are not" if isinstance(value, Mapping) else (
                "no mapping, and values before it are"
            )  # fmt: skip
            raise InputError("layers", key, problem.format(kind))
        if not isinstance(value, Mapping):
            yield _checked(str(key), key, functools.partial(_of_mapping, layers, key), value)
            continue
        if not str(key) or str(key) in models:
            raise InputError("layers", key, "is no name of a single model; rename it")
        models.add(str(key))
        yield from _of_model(str(key), value)


def _of_model(model: str, layers: Mapping[Any, Any]) -> Iterator[Layer]:
    if not layers:
        raise InputError("layers", model, "holds no layer; give arrays by the names of layers")
    for key in layers:
        where, value = f"{model}/{key}", _value(layers, key)
        if isinstance(value, Mapping):
            problem = "is a mapping in a mapping in a mapping; give {model: {layer: array}}"
            raise InputError("layers", where, problem)
        opener = functools.partial(_of_mapping, layers, key)
        yield _checked(str(key), where, opener, value)._replace(model=model)


def _of_mapping(layers: Mapping[Any, Any], key: Any) -> Any:
    return load(_value(layers, key))


def _value(layers: Mapping[Any, Any], key: Any) -> Any:
    try:
        return layers[key]
    except Exception as error:  # A mapping that reads from a file may raise anything.
        why = " ".join(f"{error or type(error).__name__}".split())
        raise InputError("layers", key, f"cannot be read ({why}); write it again") from error


def _in_file(path: pathlib.Path, aside: list[str]) -> Iterator[Layer]:
    with about(path):
        held = _readable(path)
    if held is None:
        raise InputError("layers", path, f"is one array, which rotation_test tests; give {GIVE}")
    if not held.vectors:
        raise InputError("layers", path, "holds no array of vectors, (samples, units)")
    aside += held.others
    # A zarr group has no order of its own.
    for name in sorted(held.vectors, key=natural) if path.is_dir() else held.vectors:
        yield _checked(name, f"{name} of {path}", functools.partial(load, path, name=name))


def _readable(path: pathlib.Path) -> Contents | None:
    """Returns what a file or a zarr group holds, if each of its arrays can be read."""
    held = contents(path)
    for name, problem in held.unreadable.items() if held else ():
        raise InputError("path", path, f"has an array {name} that {problem}")
    return held


def _in_folder(path: pathlib.Path, aside: list[str]) -> Iterator[Layer]:
    if is_run(path):
        problem = "is a run folder; measure(load_run(…)) tests it, or give {name: array} of it"
        raise InputError("layers", path, problem)
    if (path / atomic.RECORD).exists():
        problem = "was written by an earlier analysis; give the folder of the layers themselves"
        raise InputError("layers", path, problem)
    try:
        entries = sorted((one for one in path.iterdir() if one.name[0] != "."), key=_order)
    except OSError as error:
        problem = f"cannot be listed ({error.strerror or error}); give another folder"
        raise InputError("layers", path, problem) from None
    layers = [one for one in entries if one.suffix in ENDINGS or _is_store(one)]
    aside += [one.name for one in entries if one not in layers]
    if not layers:
        more = ", …" if len(aside) > MOST_NAMED else ""
        holds = f"it holds {', '.join(aside[:MOST_NAMED])}{more}" if aside else "it is empty"
        raise InputError(
            "layers", path, f"holds no .npy, .npz or zarr array ({holds}); give {GIVE}"
        )
    for one in layers:
        yield _checked(one.stem, one, functools.partial(_only_array, one))


def _order(path: pathlib.Path) -> tuple[Any, ...]:
    return natural(path.stem)


def _only_array(path: pathlib.Path) -> Any:
    """Opens a file of a folder, which is one layer."""
    held = None if is_run(path) or path.suffix == ".npy" else _readable(path)
    if held is not None and len(held.vectors) != 1:
        problem = (
            f"holds {len(held.vectors)} arrays of vectors, and a file in a folder is one layer; "
            "give this file by itself, or a mapping from names to arrays"
        )
        raise InputError("path", path, problem)
    return load(path)


def _checked(name: str, where: object, opener: Callable[[], Any], value: Any = None) -> Layer:
    """Returns a layer whose axes and types are right; its value may have been read already."""
    with about(where):
        source = open_source(opener() if value is None else load(value))
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
        raise InputError("layers", where, told + error.problem) from error
