"""The layers of a run folder: every captured layer, before and after its activation, of every cell.

They are those of the last snapshot, and the seeds of a cell are networks that are tested together.
"""

import functools
import os
import pathlib
from typing import Any, NamedTuple

import xarray as xr

from ppp_jax.analysis.io.facts import facts_of
from ppp_jax.analysis.io.layer_files import SEED, Layer, Layers, LayersLike, about, open_layers
from ppp_jax.analysis.io.layer_sources import natural
from ppp_jax.analysis.io.load import is_run
from ppp_jax.analysis.io.runs import BOTTLENECK, load_run, saved_groups
from ppp_jax.analysis.results.layers import MOST_VECTORS
from ppp_jax.analysis.results.measure import SITES, cells, healthy, mask, thinned
from ppp_jax.errors import InputError
from ppp_jax.files.mirrors import located

OF_GROUPS = ("architecture", "latent_width", "units", "vectors")  # what tells groups apart


class _Cell(NamedTuple):
    """A cell of a group: its names, its place, and the basis of its activation."""

    group: dict[str, Any]
    dataset: xr.Dataset  # of the group; latents are read where they are used, and not kept
    names: dict[str, Any]
    at: dict[str, int]
    basis: str
    seeds: int
    healthy: int
    samples: int


def open_all(layers: LayersLike | Layers) -> Layers:
    """Lists layers as `open_layers` does, and those of a run folder as `run_layers` does.

    Args:
      layers: The layers, as `open_layers` takes them, or the path of a run folder.

    Raises:
      InputError: The layers cannot be opened.
    """
    if isinstance(layers, str | os.PathLike):
        path = located("layers", layers)
        with about(path):
            run = is_run(path)
        if run:
            return run_layers(path)
    return open_layers(layers)


def run_layers(path: str | pathlib.Path) -> Layers:
    """Lists the layers that a run folder keeps, of the last snapshot.

    A layer is a captured one before or after its activation, such as `bottleneck.pre`, and a model
    is a cell: its activation and whatever else varies in the grid. Of a run with more than 2,048
    vectors so many are used, drawn at random. Runs that have diverged and networks whose units have
    died are left out. Each is tested against the basis of its own activation.

    Args:
      path: The run folder, or the `latents.zarr` in it.

    Raises:
      InputError: The path holds no latents, or they are damaged.
    """
    found: list[_Cell] = []
    try:
        for group in saved_groups(path, layer=None):
            found += _cells(path, group)
    except InputError as error:
        raise InputError("layers", error.value, error.problem) from error
    found.sort(key=lambda one: _depth(one.group["layer"]))  # the sort keeps the order of cells
    varying = _varying(found)
    layers: dict[tuple[str, str], Layer] = {}
    unhealthy: list[str] = []
    for one in found:
        model = ", ".join(
            str(one.names[name]) if name == "activation" else f"{name}={one.names[name]}"
            for name in ("activation", *varying)
        )
        lost = one.seeds - one.healthy
        if lost and (told := f"{lost} of {one.seeds} runs of {model}") not in unhealthy:
            unhealthy.append(told)
        if not one.healthy:
            continue
        for site in SITES:
            layer = _layer(one, site, model)
            if (model, layer.name) in layers:  # one layer of several sizes, such as of convolutions
                layer = layer._replace(name=f"{layer.name} ({one.group['units']} units)")
            layers[model, layer.name] = layer
    if not layers:
        raise InputError("layers", path, "has no run that did not diverge; train it anew")
    ordered = sorted(layers.values(), key=lambda one: _first(layers, one.model))
    models = tuple(dict.fromkeys(one.model for one in ordered))
    aside = tuple(f"{told} (diverged)" for told in unhealthy)
    return Layers(tuple(ordered), aside, models)


def _first(layers: dict[tuple[str, str], Layer], model: str) -> int:
    return next(k for k, key in enumerate(layers) if key[0] == model)


def _cells(path: str | pathlib.Path, group: dict[str, Any]) -> list[_Cell]:
    """Returns the cells of one group of a run folder."""
    dataset = load_run(path, **group)
    runs, known = dataset[["test_mse", "diverged_step"]].load(), facts_of(dataset)
    return [
        _Cell(
            group,
            dataset,
            {**names, **{name: group[name] for name in ("architecture", "latent_width")}},
            at,
            known[names["activation"]].basis,
            runs.sizes[SEED],
            int(healthy(runs.isel(at)).sum()),
            dataset.sizes["sample"],
        )
        for names, at in cells(runs)
    ]


def _varying(found: list[_Cell]) -> list[str]:
    """Returns what else than the activation tells cells apart."""
    names = [name for name in found[0].names if not name.endswith("_rotations")]
    names = [name for name in names if name not in ("activation", "unconfounded")]
    return [name for name in names if len({str(one.names.get(name)) for one in found}) > 1]


def _depth(layer: str) -> tuple[Any, ...]:
    """Returns a key that puts layers before the bottleneck before it, and the others after it."""
    place = 0 if layer.startswith("encoder") else 1 if layer == BOTTLENECK else 2
    return place, natural(layer)


def _layer(one: _Cell, site: str, model: str) -> Layer:
    name = f"{one.group['layer']}.{site}"
    shape = (one.seeds, min(one.samples, MOST_VECTORS), one.group["units"])
    opener = functools.partial(_open, one.dataset, one.at, site)
    return Layer(name, shape, f"{model}/{name}", opener, model, one.basis)


def _open(dataset: xr.Dataset, at: dict[str, int], site: str) -> xr.DataArray:
    runs = dataset[["test_mse", "diverged_step"]].isel(at).load()
    last = dataset[site].isel(at).isel(step=[-1])
    clouds = mask(thinned(last, MOST_VECTORS), runs).isel(step=0)
    return clouds.drop_vars([name for name in clouds.coords if name != SEED], errors="ignore")
