"""Alignment and quantisation of networks of growing depth, layer by layer."""

from __future__ import annotations

import pathlib
from typing import TYPE_CHECKING, Any

from ppp_jax.analysis import plots, results
from ppp_jax.cli import experiment, study
from ppp_jax.grid import Grid

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

QUESTION = "How do alignment and quantisation change with depth, and from layer to layer?"
ABOUT = """\
Networks of 1 to 8 hidden layers on each side of the bottleneck, all layers as wide as it, every
layer's vectors kept.

  python -m experiments.depth [--data=patches --epochs=20 --workdir=runs/depth_patches]
"""
DOCUMENTED = """\
Cost: 256 networks, 203 s on two cores. Leaves runs/depth/study: covariance, shape
and dip of every layer with their tests, and slopes of the bottleneck's along depth, per seed.
"""

DEFAULTS = Grid(
    activations=("tanh", "isotropic_tanh"),
    depths=range(1, 9),
    widths=(16,),
    latent_widths=(16,),
    optimizers=("momentum",),
    learning_rates=(0.03,),
    seeds=range(16),
    epochs=50,
    snapshots=(0,),
    probe_samples=1024,
    capture=("all",),
)
ARCHITECTURES = ("mlp", "conv", "classifier")


def check(grid: Grid) -> None:
    """Refuses networks that are no single row of layers."""
    study.check_architectures(grid, ARCHITECTURES)


def analyse(run: pathlib.Path, options: experiment.Options) -> study.Results:
    """Measures every layer, and tests how the bottleneck changes with depth.

    Args:
      run: The trained run folder.
      options: How it is analysed.
    """
    rows = results.layers.measure_layers(
        run, rotations=options.rotations, progress=options.progress
    )
    rows = [{**row, "position": position(row["layer"], row["depth"])} for row in rows]
    rows.sort(key=lambda row: (row["activation"], row["site"], row["depth"], row["position"]))
    table = study.layer_table(rows, ("activation", "optimizer", "depth", "layer"))
    tables = study.frames(
        layers=table,
        bottlenecks=[row for row in table if row["layer"] == "bottleneck"],
        trends=results.with_q(results.layers.trends(rows, axis="depth")),
        differences=results.with_q(results.layers.differences(rows)),
        errors=study.error_differences(rows),
    )
    return study.Results(tables, {"layers": draw(rows)}, silent=("layers",))


def position(layer: str, depth: int) -> int:
    """Returns where a layer stands, counted from the first."""
    part, _, number = layer.partition("_")
    return {"encoder": 0, "bottleneck": depth, "decoder": depth + 1}[part] + int(number or 0)


def draw(rows: list[dict[str, Any]]) -> Figure:
    """Draws shape and dip of the bottleneck against depth, and the shape layer by layer."""
    from matplotlib.figure import Figure  # imported late: help and plans do without it

    names = list(dict.fromkeys((row["activation"], row["site"]) for row in rows))
    figure = Figure(figsize=(3.6 * len(names), 8), dpi=100, layout="constrained")
    panels = figure.subplots(3, len(names), sharey="row", squeeze=False)
    for (first, second, third), (activation, site) in zip(panels.T, names, strict=True):
        here = [row for row in rows if (row["activation"], row["site"]) == (activation, site)]
        for axes, quantity in ((first, "shape_excess"), (second, "axis_quantisation_excess")):
            columns = {
                str(row["depth"]): row[f"{quantity}_seeds"]
                for row in here
                if row["layer"] == "bottleneck"
            }
            plots.evidence.plot_seeds(columns, ax=axes)
            axes.set_xlabel("hidden layers on each side", fontsize=8)
        _draw_layers(here, third)
        third.set_xlabel("layers after the bottleneck", fontsize=8)
        third.axvline(0, color="0.7", linewidth=0.8)
        first.set_title(f"{activation}, {site}-activation", fontsize=9)
        for axes in (first, second, third):
            axes.axhline(0, color="0.7", linewidth=0.8)
            axes.tick_params(labelsize=7)
    texts = (
        "shape (C4) of the bottleneck above null",
        "mean dip of the bottleneck above null",
        "shape (C4) of every layer above null",
    )
    for axes, text in zip(panels[:, 0], texts, strict=True):
        axes.set_ylabel(text, fontsize=8)
    panels[2, -1].legend(title="depth", fontsize=6, title_fontsize=6)
    return figure


def _draw_layers(rows: list[dict[str, Any]], axes: Axes) -> None:
    """Draws the shape from layer to layer, a line per depth."""
    for k, depth in enumerate(sorted({row["depth"] for row in rows})):
        path = [row for row in rows if row["depth"] == depth]
        places = [row["position"] - depth for row in path]
        axes.plot(
            places,
            [row["shape_excess"] for row in path],
            "o-",
            markersize=3,
            linewidth=0.8,
            color=f"C{k}",
            label=str(depth),
        )


EXPERIMENT = experiment.register(
    experiment.Experiment(
        name="depth",
        question=QUESTION,
        about=ABOUT,
        documented=DOCUMENTED,
        defaults=DEFAULTS,
        workdir="runs/depth",
        analyse=analyse,
        along=("activations", "depths"),
        check=check,
    )
)


def main(*, argv: list[str] | None = None) -> None:
    """Runs the experiment as a command."""
    experiment.main(EXPERIMENT, argv=argv)


if __name__ == "__main__":
    main()
