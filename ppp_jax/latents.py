"""`latents.zarr`: labelled latents and errors of every run, written snapshot by snapshot.

One xarray group per latent width, with a dimension for every axis of the grid, and beside them
the probe inputs and labels. `xarray.open_datatree(path)` opens it with nothing of ours, and
`ppp_jax.analysis.load` does so leaving out snapshots that are not complete.
"""

import os
import pathlib
import shutil
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr

from ppp_jax import models, optimizers
from ppp_jax.data import Dataset
from ppp_jax.grid import CELL_AXES, RUN_AXES, Grid
from ppp_jax.training import NEVER, Observation

RUN_DIMS = (*CELL_AXES, *RUN_AXES, "step")


def group_name(latent_width: int) -> str:
    """Name of the group that holds the latents of one width."""
    return f"latent_{latent_width}"


def create(path: pathlib.Path, grid: Grid, dataset: Dataset, manifest: str) -> None:
    """Lays out the whole store, latents and errors missing (NaN), in place of an earlier one."""
    partial = path.with_suffix(".partial")
    for old in (partial, path):
        if old.exists():
            shutil.rmtree(old)
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
    for width in grid.latent_widths:
        group = _empty_group(grid, width, root.sizes["sample"], steps_per_epoch)
        tree[f"/{group_name(width)}"] = group
        chunks = tuple(
            size if dim in ("seed", "sample", "unit") else 1
            for dim, size in group["pre"].sizes.items()
        )
        encoding[f"/{group_name(width)}"] = {kind: {"chunks": chunks} for kind in ("pre", "post")}
    xr.DataTree.from_dict(tree).to_zarr(partial, zarr_format=2, encoding=encoding)
    os.replace(partial, path)


def _empty_group(grid: Grid, width: int, samples: int, steps_per_epoch: int) -> xr.Dataset:
    """Returns the layout of one latent width: all names and axes, nothing measured yet."""
    coords = _coordinates(grid, steps_per_epoch)
    shape = tuple(len(coords[dim][1]) for dim in RUN_DIMS)
    # A broadcast scalar: the store is laid out without ever being held in memory.
    missing = np.broadcast_to(np.float32(np.nan), (*shape, samples, width))
    variables = {
        "pre": (missing, "bottleneck before its activation"),
        "post": (missing, "bottleneck after its activation"),
        "train_mse": (missing[..., 0, 0], "training MSE, per feature"),
        "test_mse": (missing[..., 0, 0], "held-out MSE, per feature"),
        "diverged_step": (
            np.full(shape, NEVER, np.int32),
            f"first step whose loss was not finite, {NEVER} for none",
        ),
    }
    dims = (*RUN_DIMS, "sample", "unit")
    group = xr.Dataset(
        {
            name: (dims[: values.ndim], values, {"long_name": text})
            for name, (values, text) in variables.items()
        },
        coords=coords,
        attrs={"latent_width": width},
    )
    return group.assign(
        saved=("step", np.zeros(shape[-1], bool), {"long_name": "snapshot complete"})
    )


def _coordinates(grid: Grid, steps_per_epoch: int) -> dict[str, tuple[Any, Any]]:
    axes: dict[str, list[Any]] = {
        "activation": list(grid.activations),
        "depth": list(grid.depths),
        "width": list(grid.widths),
        "optimizer": list(grid.optimizers),
        "initializer": list(grid.initializers),
        "rate": list(range(grid.rate_count)),
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
    grid: Grid,
    index: int,
    observations: Mapping[str, Observation],
) -> None:
    """Writes one snapshot of every run, and marks it saved once all of it is there.

    Args:
      path: the store.
      grid: what is trained.
      index: position in `grid.snapshot_epochs`.
      observations: per cell, every leaf with a leading axis over the runs.
    """
    region = {"step": slice(index, index + 1)}
    for width in grid.latent_widths:
        cells = [cell for cell in grid.cells if cell.latent_width == width]
        stacked = {
            "pre": _stack(grid, [observations[c.name].latents.pre for c in cells]),
            "post": _stack(grid, [observations[c.name].latents.post for c in cells]),
            "train_mse": _stack(grid, [observations[c.name].train_mse for c in cells]),
            "test_mse": _stack(grid, [observations[c.name].test_mse for c in cells]),
            "diverged_step": _stack(grid, [observations[c.name].diverged_step for c in cells]),
        }
        variables = {
            name: ((*RUN_DIMS, "sample", "unit")[: values.ndim], values)
            for name, values in stacked.items()
        }
        for part in (variables, {"saved": ("step", np.ones(1, bool))}):
            xr.Dataset(part).to_zarr(
                path, group=group_name(width), region=region, consolidated=False, zarr_format=2
            )


def _stack(grid: Grid, values: Sequence[Any]) -> np.ndarray:
    """Arranges per-cell arrays `(runs, …)` as the store does: cell axes, run axes, step, rest."""
    array = np.stack([np.asarray(value) for value in values])
    sizes = [len(getattr(grid, f"{axis}s")) for axis in CELL_AXES]
    return array.reshape(*sizes, grid.rate_count, len(grid.seeds), 1, *array.shape[2:])
