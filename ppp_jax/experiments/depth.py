"""Alignment and quantisation of networks of growing depth, layer by layer."""

from __future__ import annotations

import pathlib
from typing import TYPE_CHECKING, Any

import numpy as np

from ppp_jax.analysis import plots, results
from ppp_jax.analysis.plots.style import MOST_LINES, PAGE, RULE, looks, shades, style
from ppp_jax.analysis.texts import drawn
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


BELOW = "hidden layers on each side"
CAPTION = (
    "The figure shows how the bottleneck's shape and its mean dip, above the mean of random "
    "bases, change with depth (points are seeds, and bars the interquartile mean with its 95 % "
    "interval), and the shape from layer to layer, of at most six depths."
)


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
    return study.Results(tables, {"layers": study.Shown(draw(rows), CAPTION)}, silent=("layers",))


def position(layer: str, depth: int) -> int:
    """Returns where a layer stands, counted from the first."""
    part, _, number = layer.partition("_")
    return {"encoder": 0, "bottleneck": depth, "decoder": depth + 1}[part] + int(number or 0)


@style()
def draw(rows: list[dict[str, Any]]) -> Figure:
    """Draws shape and dip of the bottleneck against depth, and the shape layer by layer."""
    seen = looks({row["activation"]: row["facts"] for row in rows})
    names = list(dict.fromkeys((row["activation"], row["site"]) for row in rows))
    size: dict[str, Any] = {"width": PAGE / 3, "height": 185, "above": 20}
    figure, panels = plots.figures.page_panels(len(names), 3, sharex="col", sharey="col", **size)
    for line, (activation, site) in zip(panels, names, strict=True):
        here = [row for row in rows if (row["activation"], row["site"]) == (activation, site)]
        for axes, quantity in zip(line, ("shape_excess", "axis_quantisation_excess"), strict=False):
            columns = {
                str(row["depth"]): row[f"{quantity}_seeds"]
                for row in here
                if row["layer"] == "bottleneck"
            }
            plots.evidence.plot_seeds(columns, ax=axes, colour=seen[activation].color)
        for axes in line:
            axes.axhline(0, color=RULE, linewidth=0.8)
        line[2].axvline(0, color=RULE, linewidth=0.8)
        _draw_layers(here, line[2])
        line[0].set_ylabel(f"{drawn(activation)},\n{site}-activation")
    texts = ("shape (C4) above null, bottleneck", "mean dip above null, bottleneck",
             "shape (C4) above null, every layer")  # fmt: skip
    for axes, text in zip(panels[0], texts, strict=True):
        axes.set_title(text)
    for axes, below in zip(panels[-1], (BELOW, BELOW, "layers after the bottleneck"), strict=True):
        axes.set_xlabel(below)
    return figure


def _draw_layers(rows: list[dict[str, Any]], axes: Axes) -> None:
    """Draws the shape from layer to layer, a line per depth, of at most six depths."""
    every = sorted({row["depth"] for row in rows})
    shown = sorted(
        {every[k] for k in np.linspace(0, len(every) - 1, MOST_LINES).round().astype(int)}
    )
    for depth, shade in zip(shown, shades(len(shown)), strict=True):
        path = [row for row in rows if row["depth"] == depth]
        places = [row["position"] - depth for row in path]
        shape = [row["shape_excess"] for row in path]
        points: dict[str, Any] = {"marker": "o", "markersize": 3, "linewidth": 1.1, "color": shade}
        axes.plot(places, shape, label=f"depth {depth}", **points)
    plots.labels.label_lines(axes)


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
