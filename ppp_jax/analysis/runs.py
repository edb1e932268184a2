"""Opens the latents that a sweep saved in its run folder."""

import pathlib
from collections.abc import Mapping
from typing import Any

import xarray as xr

from ppp_jax.analysis.headers import check_store
from ppp_jax.errors import InputError

STORE = "latents.zarr"
BOTTLENECK = "bottleneck"


def load_run(path: str | pathlib.Path, *, layer: str = BOTTLENECK, **which: Any) -> xr.Dataset:
    """Opens the latents that a sweep saved.

    Args:
      path: a run folder, or the `latents.zarr` in it.
      layer: whose vectors.
      **which: `architecture`, `latent_width`, `units`, `vectors`, where the grid has several.

    Returns:
      The Dataset that `load` describes.

    Raises:
      InputError: nothing is there, there is no snapshot that every run has, or several groups fit
        or none.
    """
    tree = _open(path)
    group = _chosen(tree, layer, which).to_dataset()
    complete = group["saved"].all([dim for dim in group["saved"].dims if dim != "step"]).values
    if not complete.any():
        raise InputError("path", path, "has no snapshot that every run has; train it first")
    dataset = group.drop_vars("saved").isel(step=complete)
    each = int(group.attrs["vectors_per_sample"])
    probe = {name: array.variable for name, array in tree.data_vars.items()}
    if each > 1:  # a label for every vector; the inputs belong to whole samples
        dataset = dataset.rename(vector="sample")
        labels = {"labels": probe["labels"].values.repeat(each)} if "labels" in probe else {}
        probe = {name: xr.Variable(("sample",), values) for name, values in labels.items()}
    return dataset.assign(probe).assign_attrs(tree.attrs)


def _chosen(tree: xr.DataTree, layer: str, which: Mapping[str, Any]) -> xr.DataTree:
    """Returns the one group that fits."""
    found = [group for group in contents(tree) if group["layer"] == layer]
    if not found:
        known = sorted({group["layer"] for group in contents(tree)})
        raise InputError("layer", layer, f"not in this grid, which has {known}")
    for name in ("architecture", "latent_width", "units", "vectors"):
        values = sorted({group[name] for group in found})
        value = which.get(name)
        if value is None and len(values) > 1:
            raise InputError(name, None, f"name one of {values}")
        if value is not None and value not in values:
            raise InputError(name, value, f"not in this grid, which has {values}")
        found = [group for group in found if value in (None, group[name])]
    return tree.children[found[0]["name"]]


def contents(tree: xr.DataTree) -> list[dict[str, Any]]:
    """Returns what every group of a store holds: its name, layer, architecture and sizes."""
    found = []
    for name, group in tree.children.items():
        attrs = group.attrs
        found.append({
            "name": name,
            "layer": str(attrs["layer"]),
            "architecture": str(attrs["architecture"]),
            "latent_width": int(attrs["latent_width"]),
            "units": int(group.sizes["unit"]),
            "vectors": int(attrs["vectors_per_sample"]),
        })  # fmt: skip
    return found


def saved_groups(
    path: str | pathlib.Path, *, layer: str | None = BOTTLENECK
) -> list[dict[str, Any]]:
    """Returns the arguments with which `load_run` opens each group of a run folder.

    Args:
      path: a run folder, or the `latents.zarr` in it.
      layer: of which layer, or None for all.

    Raises:
      InputError: nothing is there.
    """
    found = contents(_open(path))
    return [
        {key: value for key, value in group.items() if key != "name"}
        for group in sorted(found, key=lambda group: (group["latent_width"], group["name"]))
        if layer in (None, group["layer"])
    ]


def _open(path: str | pathlib.Path) -> xr.DataTree:
    path = pathlib.Path(path).expanduser()
    store = path if path.name == STORE else path / STORE
    if not store.is_dir():
        raise InputError("path", path, f"holds no {STORE}; give the folder of a trained grid")
    check_store(store)
    return xr.open_datatree(store, engine="zarr")
