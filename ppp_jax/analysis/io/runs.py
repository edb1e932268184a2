"""Opens the latents that a sweep saved in its run folder, and checks what it reads of them.

Metadata, coordinates and the probe are checked when a store is opened, and latents and errors when
they are read (`ppp_jax.files.ledger`). A reader gets what was written, or an error that names the
damaged file.
"""

import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr
from xarray.core import indexing

from ppp_jax.analysis.io.facts import with_facts
from ppp_jax.analysis.io.headers import check_entries, check_store
from ppp_jax.errors import InputError, printable, shortened
from ppp_jax.files import ledger
from ppp_jax.files.mirrors import located

STORE = "latents.zarr"
BOTTLENECK = "bottleneck"


def load_run(
    path: str | os.PathLike[str],
    *,
    latent_width: int | None = None,
    architecture: str | None = None,
    layer: str = BOTTLENECK,
    units: int | None = None,
    vectors: int | None = None,
) -> xr.Dataset:
    """Opens everything that a sweep saved: latents, errors, and the probe.

    The latents and errors are read, and checked, only where they are used.

    Args:
      path: A run folder, or the `latents.zarr` in it.
      latent_width: The width of the latents, if the grid has several widths.
      architecture: The architecture, if the grid has several.
      layer: The layer, if others than the bottleneck were captured.
      units: The width of this layer, if it comes in several sizes.
      vectors: The vectors per sample of this layer, if it comes in several sizes: a convolution
        has one at every position.

    Returns:
      The Dataset with `pre` and `post` (the layer before and after its activation) over
      `(activation, depth, width, optimizer, initializer, rate, seed, step, sample, unit)`, with
      `dose` before `seed` if the grid has doses; `train_mse`, `validation_mse`, `test_mse` and
      `diverged_step` over the axes of the runs; and the probe's `inputs` (and `labels`, where the
      data has any). Snapshots that not every run has are left out.

    Raises:
      InputError: The path holds no latents, no snapshot exists of every run, the first snapshot is
        not that of untrained networks, several groups match the arguments or none does, or a file
        is damaged or missing. Damage of latents and errors is raised when they are read.
    """
    which = {
        "architecture": architecture,
        "latent_width": latent_width,
        "units": units,
        "vectors": vectors,
    }
    store = _store(located("path", path))
    check_entries(store)  # This comes before the ledger is read.
    tree, kept = _open(store)
    return _dataset(_chosen(tree, layer, which), path, store, kept)


def _dataset(
    node: xr.DataTree,
    path: str | os.PathLike[str],
    store: pathlib.Path,
    kept: ledger.Ledger | None,
) -> xr.Dataset:
    """Returns the Dataset of a group, see `load_run`."""
    tree, group = node.root, _checked(node, store, kept)
    saved = group[ledger.SAVED]
    complete = saved.all([dim for dim in saved.dims if dim != "step"]).values
    if not complete.any():
        raise InputError("path", path, "has no snapshot that every run has; train the grid first")
    dataset = group.drop_vars(ledger.SAVED).isel(step=complete)
    first = int(dataset["epoch"][0])
    if first != 0:  # The first snapshot is taken for that of the untrained networks.
        problem = f"its untrained networks are lost: the first snapshot in {STORE} that every run "
        raise InputError(
            "path", path, f"{problem}has is of epoch {first}; train it anew with overwrite"
        )
    each = int(group.attrs["vectors_per_sample"])
    probe = {name: array.variable for name, array in tree.data_vars.items()}
    if each > 1:  # Every vector gets its sample's label; the inputs belong to whole samples.
        dataset = dataset.rename(vector="sample")
        labels = {"labels": probe["labels"].values.repeat(each)} if "labels" in probe else {}
        probe = {name: xr.Variable(("sample",), values) for name, values in labels.items()}
    about = {key: value for key, value in tree.attrs.items() if key != ledger.MARK}
    return with_facts(dataset.assign(probe).assign_attrs(about))


def _checked(node: xr.DataTree, store: pathlib.Path, kept: ledger.Ledger | None) -> xr.Dataset:
    """Returns a group whose latents and errors are checked when they are read."""
    group, name = node.to_dataset(), str(node.name)
    table = None if kept is None else kept.groups[name]
    parts = _parts(node.root.attrs, store)
    axes = tuple(str(dim) for dim in group[ledger.SAVED].dims)
    labels = {axis: group[axis].values.tolist() for axis in axes}
    labels |= {key: [group.attrs[key]] for key in ("architecture", "latent_width")}
    found = {}
    for key in map(str, group.data_vars):
        array = group[key]
        if key == ledger.SAVED and table is not None:
            found[key] = array.copy(data=table[ledger.SAVED])
            continue
        inner = array.variable
        chunks = inner.encoding.get("chunks") or inner.shape

        def read(at: ledger.Key, inner: xr.Variable = inner) -> np.ndarray:
            return np.asarray(inner[at].values)

        blocks = ledger.Blocks(store, f"{name}/{key}", chunks, labels, axes, table, parts, read)
        lazy: Any = indexing.LazilyIndexedArray(_Checked(blocks, inner))
        # xarray wraps the arrays that it opens in the same way.
        data: Any = indexing.MemoryCachedArray(indexing.CopyOnWriteArray(lazy))
        found[key] = array.copy(data=data)
    return group.assign(found)


class _Checked(xr.backends.BackendArray):
    """A variable of a group on disk that is checked, run by run, when it is read."""

    def __init__(self, blocks: ledger.Blocks, inner: xr.Variable):
        self.blocks, self.shape, self.dtype = blocks, inner.shape, inner.dtype

    def __getitem__(self, key: Any) -> Any:
        support = indexing.IndexingSupport.OUTER
        return indexing.explicit_indexing_adapter(key, self.shape, support, self._read)

    def _read(self, key: tuple[Any, ...]) -> np.ndarray:
        leading = len(self.blocks.axes)
        values = ledger.checked(self.blocks, tuple(map(ledger.span, key[:leading])))
        # A check covers all vectors of a run, so they are read as a whole and selected here.
        inside = xr.Variable([f"axis_{i}" for i in range(values.ndim)], values)
        return np.asarray(inside[(..., *key[leading:])].values)


def _chosen(tree: xr.DataTree, layer: str, which: Mapping[str, Any]) -> xr.DataTree:
    """Returns the one group that matches the arguments."""
    found = [group for group in contents(tree) if group["layer"] == layer]
    if not found:
        known = sorted({group["layer"] for group in contents(tree)})
        raise InputError("layer", layer, f"is not in this grid, which has {known}")
    for name in ("architecture", "latent_width", "units", "vectors"):
        values = sorted({group[name] for group in found})
        value = which.get(name)
        if value is None and len(values) > 1:
            raise InputError(name, None, f"is ambiguous; name one of {values}")
        if value is not None and value not in values:
            raise InputError(name, value, f"is not in this grid, which has {values}")
        found = [group for group in found if value in (None, group[name])]
    return tree.children[found[0]["name"]]


def _parts(attributes: Mapping[Any, Any], store: pathlib.Path) -> list[Mapping[str, Any]]:
    """Returns the configurations of the parts of a grid, from the store's copy of the manifest."""
    try:
        manifest: Any = json.loads(attributes["manifest"])
        parts: list[Mapping[str, Any]] = manifest.get("parts", [])
        if all(isinstance(part, Mapping) for part in (manifest["config"], *parts)):
            return parts
        told = "its entries are not those of a run"
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        told = f"{type(error).__name__} {error}"
    problem = f"its attribute manifest is damaged ({shortened(printable(told))})"
    raise InputError("path", store, f"{problem}; {ledger.ANEW}; {ledger.UNCHECKED}")


def contents(tree: xr.DataTree) -> list[dict[str, Any]]:
    """Returns name, layer, architecture, widths and vectors per sample of every group of a store.

    Args:
      tree: The opened store.

    Raises:
      InputError: A group was not written by a grid.
    """
    found = []
    for name, group in tree.children.items():
        attrs = group.attrs
        try:
            found.append(
                {
                    "name": name,
                    "layer": str(attrs["layer"]),
                    "architecture": str(attrs["architecture"]),
                    "latent_width": int(attrs["latent_width"]),
                    "units": int(group.sizes["unit"]),
                    "vectors": int(attrs["vectors_per_sample"]),
                }
            )
        except (KeyError, TypeError, ValueError, OverflowError):
            problem = (
                f"has a group, {name}, that no grid wrote, because its attributes do not state a "
                f"layer and sizes; give the folder of a trained grid, or rename your own {STORE} "
                "to open it"
            )
            raise InputError("path", tree.encoding.get("source", STORE), problem) from None
    return found


def saved_groups(
    path: str | pathlib.Path, *, layer: str | None = BOTTLENECK
) -> list[dict[str, Any]]:
    """Returns the arguments with which `load_run` opens each group of a run folder.

    Args:
      path: A run folder, or the `latents.zarr` in it.
      layer: The layer whose groups are returned; None for all layers.

    Raises:
      InputError: The path holds no latents, or they are damaged.
    """
    return [
        {key: value for key, value in group.items() if key != "name"}
        for group in _of_layer(_open(_store(located("path", path)))[0], layer)
    ]


def load_groups(
    path: str | pathlib.Path, *, layer: str | None = BOTTLENECK
) -> list[tuple[dict[str, Any], xr.Dataset]]:
    """Opens all groups of a run folder at once, each as `load_run` opens it.

    Args:
      path: A run folder, or the `latents.zarr` in it.
      layer: The layer whose groups are opened; None for all layers.

    Returns:
      The arguments with which `load_run` opens a group, as `saved_groups` returns them, and the
      group's Dataset.

    Raises:
      InputError: What `load_run` raises.
    """
    store = _store(located("path", path))
    check_entries(store)  # This comes before the ledger is read.
    tree, kept = _open(store)
    return [
        (
            {key: value for key, value in group.items() if key != "name"},
            _dataset(tree.children[group["name"]], path, store, kept),
        )
        for group in _of_layer(tree, layer)
    ]


def _of_layer(tree: xr.DataTree, layer: str | None) -> list[dict[str, Any]]:
    """Returns the contents of the groups of a layer, or of all layers, in order of their width."""
    found = sorted(contents(tree), key=lambda group: (group["latent_width"], group["name"]))
    return [group for group in found if layer in (None, group["layer"])]


def _store(path: str | pathlib.Path) -> pathlib.Path:
    path = pathlib.Path(path).expanduser()
    store = path if path.name == STORE else path / STORE
    if not store.is_dir():
        raise InputError("path", path, f"holds no {STORE}; give the folder of a trained grid")
    return store


def _open(store: pathlib.Path) -> tuple[xr.DataTree, ledger.Ledger | None]:
    """Checks and opens a store; returns it with its ledger, or None if it has none."""
    kept = ledger.read(store)
    if kept is not None:
        ledger.check_entries(store)
        ledger.check_files(store, kept)
    check_store(store)
    try:
        return xr.open_datatree(store, engine="zarr", zarr_format=2, consolidated=True), kept
    except MemoryError:
        raise
    except Exception as error:  # A decoder may raise anything for damaged bytes.
        why = " ".join(str(error).split())
        raise InputError("path", store, f"does not open ({why}); {ledger.ANEW}") from error
