"""`latents.zarr`: labelled latents and errors of every run, written snapshot by snapshot.

One xarray group per architecture and latent width, with a dimension for every other axis of the
grid, one more for every captured layer, and beside them the probe inputs and labels.
`xarray.open_datatree(path)` opens it with nothing of ours, and `ppp_jax.analysis.load` does so
leaving out snapshots that not every run has.
"""

import dataclasses
import itertools
import json
import pathlib
import shutil
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
import xarray as xr
import zarr

from ppp_jax import architectures, devices, models, optimizers
from ppp_jax.data import Dataset, Shape
from ppp_jax.extension import run_places
from ppp_jax.grid import CELL_AXES, Cell, Grid
from ppp_jax.training import NEVER, Observation, build_model

LATENTS = ("pre", "post")
GROUPED = ("latent_width", "architecture")  # the axes that are groups, not dimensions
SCALARS = ("train_mse", "validation_mse", "test_mse", "diverged_step")


def run_dims(grid: Grid) -> tuple[str, ...]:
    """Names of the axes that every number of a run has."""
    return (*CELL_AXES, *grid.run_axes, "step")


class Group(NamedTuple):
    """Vectors of one layer, of the runs in which it has one size.

    Attributes:
      name: of the group in the store.
      layer: `bottleneck`, or a captured one.
      grid: the runs.
      vectors: per sample.
      units: of a vector.
    """

    name: str
    layer: str
    grid: Grid
    vectors: int
    units: int

    def holds(self, cell: Cell) -> bool:
        """Returns whether the cell's layer is kept here."""
        axes = [*CELL_AXES, *GROUPED]
        return all(getattr(cell, axis) in getattr(self.grid, f"{axis}s") for axis in axes)


def groups(grid: Grid, shape: Shape) -> tuple[Group, ...]:
    """Returns what a grid's store holds.

    Args:
      grid: what is trained.
      shape: of the data.
    """
    found = []
    for architecture, width in itertools.product(grid.architectures, grid.latent_widths):
        one = dataclasses.replace(grid, architectures=[architecture], latent_widths=[width])
        name = ("" if architecture == "mlp" else f"{architecture}_") + f"latent_{width}"
        found.append(Group(name, models.BOTTLENECK, one, 1, width))
        found += _captured(one, name, shape) if grid.capture else []
    return tuple(found)


def _captured(grid: Grid, prefix: str, shape: Shape) -> list[Group]:
    """Returns the groups of captured layers: the same layer of other sizes is another group."""
    places: dict[tuple[str, int, int], set[tuple[int, int]]] = {}
    first = grid.cells[0]
    for depth, width in itertools.product(grid.depths, grid.widths):
        cell = first._replace(depth=depth, width=width)
        model, chosen = build_model(cell, shape), grid.captured(cell)
        params = jax.eval_shape(model.init, jax.random.key(0))
        seen = jax.eval_shape(model.apply, params, np.zeros((1, shape.features), np.float32))
        for layer in chosen:
            vectors, units = seen.layers[layer].pre.shape
            places.setdefault((layer, vectors, units), set()).add((depth, width))
    found = []
    for (layer, vectors, units), where in places.items():
        depths, widths = (sorted(set(values)) for values in zip(*where, strict=True))
        size = f"{units}" if vectors == 1 else f"{vectors}x{units}"
        name, own = (
            f"{prefix}_{layer}_{size}",
            dataclasses.replace(grid, depths=depths, widths=widths),
        )
        found.append(Group(name, layer, own, vectors, units))
    return found


def fit(path: pathlib.Path, grid: Grid, dataset: Dataset, manifest: str) -> None:
    """Makes the store one of `grid`, whatever was there before.

    A new store is laid out with latents and errors missing (NaN). Of a store of a smaller grid all
    is kept, under its names. The new store takes the old one's place once it is complete.

    Args:
      path: the store.
      grid: what the store is for.
      dataset: what the grid is trained on.
      manifest: text of the run's manifest, kept as an attribute.
    """
    partial, old = path.with_suffix(".partial"), path.with_suffix(".old")
    if old.exists() and not path.exists():  # killed between the two renames below
        partial.rename(path)
    for leftover in (partial, old):
        if leftover.exists():
            shutil.rmtree(leftover)
    stored = _stored_manifest(path)
    before = None if stored is None else Grid.from_json(json.loads(stored)["config"])
    if before is not None and before.to_json() == grid.to_json():
        if stored != manifest:
            zarr.open_group(path, mode="r+", zarr_format=2).attrs["manifest"] = manifest
            zarr.consolidate_metadata(path, zarr_format=2)
        return
    _create(partial, grid, dataset, manifest)
    if before is not None:
        _copy(path, groups(before, dataset.shape), partial, groups(grid, dataset.shape))
        path.rename(old)
    partial.rename(path)
    if old.exists():
        shutil.rmtree(old)


def _stored_manifest(path: pathlib.Path) -> str | None:
    if not path.exists():
        return None
    return str(zarr.open_group(path, mode="r", zarr_format=2).attrs["manifest"])


def _copy(
    source: pathlib.Path,
    before: tuple[Group, ...],
    target: pathlib.Path,
    after: tuple[Group, ...],
) -> None:
    """Copies what a smaller grid has to its places in a larger one, cell by cell."""
    old, new = (zarr.open_group(path, mode="r+", zarr_format=2) for path in (source, target))
    larger = {group.name: group.grid for group in after}
    for group in before:
        small, large = group.grid, larger[group.name]
        epochs = small.snapshot_epochs
        steps = np.array([large.snapshot_epochs.index(epoch) for epoch in epochs])
        for cell in small.cells:
            here, there = (_place(within, small, cell) for within in (small, large))
            for variable in (*LATENTS, *SCALARS, "saved"):
                values = _array(old[group.name], variable).oindex[*here, slice(None)]
                _array(new[group.name], variable).oindex[*there, steps] = values


def _place(grid: Grid, part: Grid, cell: Cell) -> tuple[Any, ...]:
    """Returns where the runs of a part's cell stand in the store of the whole grid."""
    cell_axes = [getattr(grid, f"{axis}s").index(getattr(cell, axis)) for axis in CELL_AXES]
    return (*cell_axes, *run_places(grid, part))


def _array(group: Any, name: str) -> zarr.Array:
    array: zarr.Array = group[name]
    return array


def _create(path: pathlib.Path, grid: Grid, dataset: Dataset, manifest: str) -> None:
    """Lays out a store, latents and errors missing (NaN)."""
    probe = slice(0, grid.probe_samples)
    root = xr.Dataset(
        {"inputs": (("sample", "feature"), dataset.train[probe], {"long_name": "probe inputs"})},
        attrs={
            "title": "Latents of a grid of autoencoders, recorded as training went",
            "manifest": manifest,
            "batch_size": grid.batch_size,
        },
    )
    if dataset.train_labels is not None:
        root["labels"] = ("sample", dataset.train_labels[probe], {"long_name": "probe labels"})
    steps_per_epoch = len(dataset.train) // grid.batch_size
    tree = {"/": root}
    encoding = {}
    for group in groups(grid, dataset.shape):
        empty = _empty_group(group, root.sizes["sample"], steps_per_epoch)
        tree[f"/{group.name}"] = empty
        chunks = tuple(
            size if dim in ("seed", "sample", "vector", "unit") else 1
            for dim, size in empty["pre"].sizes.items()
        )
        encoding[f"/{group.name}"] = {kind: {"chunks": chunks} for kind in LATENTS}
    xr.DataTree.from_dict(tree).to_zarr(path, zarr_format=2, encoding=encoding)


def _empty_group(group: Group, samples: int, steps_per_epoch: int) -> xr.Dataset:
    """Returns the layout of one group: all names and axes, nothing measured yet."""
    grid = group.grid
    coords = _coordinates(grid, steps_per_epoch)
    shape = tuple(len(coords[dim][1]) for dim in run_dims(grid))
    # A broadcast scalar: the store is laid out without ever being held in memory.
    missing = np.broadcast_to(np.float32(np.nan), (*shape, samples * group.vectors, group.units))
    variables = {
        "pre": (missing, f"{group.layer} before its activation"),
        "post": (missing, f"{group.layer} after its activation"),
        "train_mse": (missing[..., 0, 0], "training MSE, per feature"),
        "validation_mse": (missing[..., 0, 0], "validation MSE, per feature"),
        "test_mse": (missing[..., 0, 0], "held-out MSE, per feature"),
        "diverged_step": (
            np.full(shape, NEVER, np.int32),
            f"first step whose loss was not finite, {NEVER} for none",
        ),
    }
    # Several vectors per sample are an axis of another length than the samples'.
    dims = (*run_dims(grid), "sample" if group.vectors == 1 else "vector", "unit")
    empty = xr.Dataset(
        {
            name: (dims[: values.ndim], values, {"long_name": text})
            for name, (values, text) in variables.items()
        },
        coords=coords,
        attrs=_attributes(group),
    )
    return empty.assign(
        saved=(
            run_dims(grid),
            np.zeros(shape, bool),
            {"long_name": "snapshot of this run is complete"},
        )
    )


def _attributes(group: Group) -> dict[str, Any]:
    (architecture,), (latent_width,) = group.grid.architectures, group.grid.latent_widths
    respects = architectures.get(architecture).respects_rotations
    return {
        "layer": group.layer,
        "architecture": architecture,
        "latent_width": latent_width,
        "vectors_per_sample": group.vectors,
        "architecture_respects_rotations": int(respects),
    }


def _coordinates(grid: Grid, steps_per_epoch: int) -> dict[str, tuple[Any, Any]]:
    axes: dict[str, list[Any]] = {
        "activation": list(grid.activations),
        "depth": list(grid.depths),
        "width": list(grid.widths),
        "optimizer": list(grid.optimizers),
        "initializer": list(grid.initializers),
        "rate": list(range(grid.rate_count)),
        **({"dose": list(grid.doses)} if grid.doses else {}),
        "seed": list(grid.seeds),
        "step": [epoch * steps_per_epoch for epoch in grid.snapshot_epochs],
    }
    rates = np.array([grid.rates(name) for name in grid.optimizers])
    # METHOD §7: what, besides the activation, prefers a basis.
    rotation = {
        "optimizer": [optimizers.get(name).respects_rotations for name in grid.optimizers],
        "initializer": [
            models.get_initializer(name).respects_rotations for name in grid.initializers
        ],
    }
    return {
        **{dim: (dim, values) for dim, values in axes.items()},
        "epoch": ("step", list(grid.snapshot_epochs)),
        "learning_rate": (("optimizer", "rate"), rates),
        **{f"{dim}_respects_rotations": (dim, values) for dim, values in rotation.items()},
    }


def write_snapshot(
    path: pathlib.Path,
    wanted: tuple[Group, ...],
    part: Grid,
    epoch: int,
    observations: Mapping[str, Observation],
) -> None:
    """Writes one snapshot of a part's runs, and marks it saved once all of it is there.

    Processes share the work: each writes the latents of some cells, no two in the same files.

    Args:
      path: the store.
      wanted: its groups.
      part: the runs, a part of the grid.
      epoch: one of `grid.snapshot_epochs`.
      observations: per cell of the part, NumPy arrays with a leading axis over its runs.
    """
    store = zarr.open_group(path, mode="r+", zarr_format=2)
    step = np.array([wanted[0].grid.snapshot_epochs.index(epoch)])
    runs = (*part.run_shape, 1)
    for cell in part.cells[jax.process_index() :: jax.process_count()]:
        for group in (group for group in wanted if group.holds(cell)):
            seen = observations[cell.name]
            vectors = seen.captured.get(group.layer, seen.latents)
            place = (*_place(group.grid, part, cell), step)
            for name in LATENTS:
                values = getattr(vectors, name)
                shaped = np.reshape(values, (*runs, *values.shape[1:]))
                _array(store[group.name], name).oindex[place] = shaped
    devices.barrier("latents")
    if devices.is_main():
        for name in (*SCALARS, "saved"):
            for group in wanted:
                inside = _inside(part, group)
                if inside is None:
                    continue
                members = [observations[cell.name] for cell in inside.cells]
                values = np.array(True) if name == "saved" else np.stack(
                    [getattr(one, name) for one in members]
                )  # fmt: skip
                _write_all_cells(_array(store[group.name], name), group.grid, inside, step, values)


def _inside(part: Grid, group: Group) -> Grid | None:
    """Returns the runs of a part whose vectors a group keeps, if any."""
    axes: dict[str, Any] = {
        axis: [value for value in getattr(part, axis) if value in getattr(group.grid, axis)]
        for axis in ("depths", "widths", *(f"{axis}s" for axis in GROUPED))
    }
    return dataclasses.replace(part, **axes) if all(axes.values()) else None


def _write_all_cells(
    array: zarr.Array, grid: Grid, part: Grid, step: np.ndarray, values: np.ndarray
) -> None:
    """Writes one number per run, `(cells × runs)` in the order of `part.cells`, in one go."""
    axes = [f"{axis}s" for axis in CELL_AXES]
    places: list[Any] = [
        [getattr(grid, axis).index(v) for v in getattr(part, axis)] for axis in axes
    ]
    runs: tuple[Any, ...] = run_places(grid, part)
    shape = [len(place) for place in (*places, *runs, step)]
    shaped = values if values.ndim == 0 else values.reshape(shape)
    array.oindex[*places, *runs, step] = np.broadcast_to(shaped, shape)
