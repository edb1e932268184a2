"""Opens the latents of a run folder."""

import pathlib

import xarray as xr

from ppp_jax.errors import InputError

STORE = "latents.zarr"


def load(path: str | pathlib.Path, *, latent_width: int | None = None) -> xr.Dataset:
    """Opens the latents that a sweep saved, lazily, with every axis named.

    Args:
      path: a run folder, or the `latents.zarr` in it.
      latent_width: which latents, if the grid has several widths.

    Returns:
      Dataset with `pre` and `post` (the bottleneck before and after its activation) over
      `(activation, depth, width, optimizer, initializer, rate, seed, step, sample, unit)`,
      `train_mse`, `test_mse`, `diverged_step`, and the probe `inputs` (and `labels`, where the
      data has any). Snapshots that not every run has are left out.

    Raises:
      InputError: nothing is there, there is no snapshot that every run has, or the grid has several
        latent widths and none was named.
    """
    tree = _open(path)
    widths = _widths(tree)
    if latent_width is None and len(widths) > 1:
        raise InputError("latent_width", None, f"name one of {sorted(widths)}")
    width = next(iter(widths)) if latent_width is None else latent_width
    if width not in widths:
        raise InputError("latent_width", width, f"not in this grid, which has {sorted(widths)}")
    group = widths[width].to_dataset()
    complete = group["saved"].all([dim for dim in group["saved"].dims if dim != "step"]).values
    if not complete.any():
        raise InputError("path", path, "has no snapshot that every run has; train it first")
    probe = {name: array.variable for name, array in tree.data_vars.items()}
    dataset = group.drop_vars("saved").isel(step=complete).assign(probe)
    return dataset.assign_attrs(tree.attrs)


def latent_widths(path: str | pathlib.Path) -> list[int]:
    """Returns the latent widths of a run folder, ascending.

    Raises:
      InputError: nothing is there.
    """
    return sorted(_widths(_open(path)))


def _open(path: str | pathlib.Path) -> xr.DataTree:
    path = pathlib.Path(path).expanduser()
    store = path if path.name == STORE else path / STORE
    if not store.is_dir():
        raise InputError("path", path, f"holds no {STORE}; give the folder of a trained grid")
    return xr.open_datatree(store, engine="zarr")


def _widths(tree: xr.DataTree) -> dict[int, xr.DataTree]:
    return {int(group.attrs["latent_width"]): group for group in tree.children.values()}
