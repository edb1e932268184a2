"""Alignment and quantisation of other networks than the autoencoder, layer by layer."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

import ppp_jax.analysis as pa
from ppp_jax.analysis import plots, results
from ppp_jax.analysis.plots.style import MOST_LINES, PAGE, looks, style
from ppp_jax.cli import experiment, study
from ppp_jax.data import datasets
from ppp_jax.engine import devices
from ppp_jax.grid import Grid, extension
from ppp_jax.storage import manifest
from ppp_jax.sweep import sweep

if TYPE_CHECKING:
    from matplotlib.figure import Figure

QUESTION = "Is it the autoencoder? The same question of other networks, layer by layer."
ABOUT = """\
An MLP, a convolutional and two transformer autoencoders (RMSNorm, LayerNorm) and an MLP classifier,
elementwise and isotropic, every layer kept; then a sparse autoencoder on the MLP's latents of the
probes (512, half of them to train it). What an isotropic activation acts on is a layer's units, the
channels at a position, or a token's hidden units.

  python -m experiments.architectures
"""
DOCUMENTED = """\
Cost: 192 networks, 126 s on two cores. Leaves runs/architectures/study: covariance, shape
and dip of every layer, with their tests.
"""

DEFAULTS = Grid(
    activations=("relu", "tanh", "isotropic_relu", "isotropic_tanh"),
    architectures=("mlp", "conv", "transformer", "transformer_layernorm", "classifier"),
    widths=(16,),
    latent_widths=(8,),
    optimizers=("momentum",),
    learning_rates=(0.03,),
    seeds=range(8),
    epochs=20,
    snapshots=(0,),
    probe_samples=512,
    capture=("all",),
)
SPARSE_UNITS, SPARSE_EPOCHS = 32, 200


CAPTION = (
    "The figure shows how far the shape of every layer's latents lies from random bases, as z, "
    "from the first layer to the last of each architecture, before and after the activation."
)


def analyse(run: pathlib.Path, options: experiment.Options) -> study.Results:
    """Measures every layer of every network.

    `options.prepared` is the run folder of the sparse autoencoders, if there are any.

    Args:
      run: The trained run folder.
      options: How it is analysed.
    """
    rows: list[dict[str, Any]] = []
    for folder in (run, *([options.prepared] if options.prepared else [])):
        rows += results.layers.measure_layers(
            folder, rotations=options.rotations, progress=options.progress
        )
    trained = study.trained_grid(run).architectures
    order = {name: k for k, name in enumerate((*trained, "sparse"))}
    rows.sort(key=lambda row: (order[row["architecture"]], _place(row["layer"])))
    names = ("architecture", "layer", "units", "activation", "optimizer", "unconfounded")
    table = study.layer_table(rows, names)
    tables = study.frames(
        layers=table,
        bottlenecks=[row for row in table if row["layer"] == "bottleneck"],
        differences=results.with_q(results.layers.differences(rows)),
    )
    return study.Results(tables, {"layers": study.Shown(draw(rows), CAPTION)}, silent=("layers",))


def _place(layer: str) -> tuple[int, str]:
    """Returns what sorts layers as they act."""
    return ("encoder", "bottleneck", "decoder").index(layer.partition("_")[0]), layer


def sparse(run: pathlib.Path, grid: Grid, how: dict[str, Any]) -> pathlib.Path | None:
    """Trains sparse autoencoders on the latents that the MLP's first activation left.

    The latents are those of its first seed that neither diverged nor died; half of the probes'
    latents train the sparse autoencoders, half are held out. So their seeds are of the sparse
    autoencoder alone: all learn from one MLP. Their run is derived from another one: if that has
    changed they are trained anew.

    Args:
      run: The trained run folder.
      grid: The grid that was asked for; theirs has the same activations, seeds and snapshots.
      how: The keyword arguments of `sweep.train`.

    Returns:
      Their run folder, or None if there is no such MLP.
    """
    if "mlp" not in grid.architectures:
        return None
    saved = pa.load_run(run, architecture="mlp").isel(activation=0)
    clouds = results.mask(saved["pre"].isel(step=-1), saved)
    clouds = clouds.squeeze([dim for dim in clouds.dims if dim not in ("seed", "sample", "unit")])
    healthy = np.flatnonzero(clouds.notnull().all(("sample", "unit")))
    if not len(healthy):
        devices.on_main(lambda: print("no sparse autoencoders: every MLP has diverged or died"))
        return None
    latents = clouds.isel(seed=healthy[0]).values
    half, path, inner = len(latents) // 2, run / "mlp_latents.npz", run / "sparse"
    devices.on_main(lambda: np.savez(path, x_train=latents[:half], x_test=latents[half:]))
    derived = dataclasses.replace(
        grid,
        architectures=["sparse"],
        latent_widths=[SPARSE_UNITS],
        data=str(path),
        capture=(),
        epochs=SPARSE_EPOCHS,
    )
    overwrite = how.get("overwrite", False) or _is_stale(inner, derived)
    return sweep.train(derived, inner, **{**how, "overwrite": overwrite})


def _is_stale(inner: pathlib.Path, grid: Grid) -> bool:
    """Returns whether a folder holds a run that `grid` does not continue."""
    stored = manifest.read(inner)
    if stored is None:
        return False
    changed = stored.dataset_sha256 != datasets.load(grid.data).sha256
    return changed or bool(extension.obstacles(stored.grid, grid))


@style()
def draw(rows: list[dict[str, Any]]) -> Figure:
    """Draws z of the shape of every layer, a panel per architecture and site of latents."""
    kinds = list(dict.fromkeys(row["architecture"] for row in rows))
    seen = looks({row["activation"]: row["facts"] for row in rows})
    size: dict[str, Any] = {"width": PAGE / 2, "height": 190, "above": 30}
    figure, panels = plots.figures.page_panels(len(kinds), 2, **size)
    for line, kind in zip(panels, kinds, strict=True):
        for axes, site in zip(line, results.SITES, strict=True):
            series: dict[str, dict[str, float]] = {}
            for row in rows:
                if (row["architecture"], row["site"]) == (kind, site):
                    series.setdefault(row["activation"], {})[row["layer"]] = row["shape_z"]
            plots.evidence.plot_z(series, ax=axes, seen=seen)
            axes.set_xticks(axes.get_xticks(), _ticks(next(iter(series.values()))))
            axes.set_title(f"{kind}, {site}-activation: z of the shape (grey: ±2)")
    handles, labels = panels[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper right", ncols=MOST_LINES)
    return figure


def _ticks(layers: Iterable[str]) -> list[str]:
    """Returns the numbers of layers, and below the first one of a part the part's name."""
    ticks, last = [], ""
    for layer in layers:
        part, _, number = layer.partition("_")
        ticks.append(part if not number else number if part == last else f"{number}\n{part}")
        last = part
    return ticks


EXPERIMENT = experiment.register(
    experiment.Experiment(
        name="architectures",
        question=QUESTION,
        about=ABOUT,
        documented=DOCUMENTED,
        defaults=DEFAULTS,
        workdir="runs/architectures",
        analyse=analyse,
        along=("activations", "architectures"),
        prepare=sparse,
    )
)


def main(*, argv: list[str] | None = None) -> None:
    """Runs the experiment as a command."""
    experiment.main(EXPERIMENT, argv=argv)


if __name__ == "__main__":
    main()
