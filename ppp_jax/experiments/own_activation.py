"""Functions of one's own, swept from a file like any other: a soft shrinkage in two versions."""

from __future__ import annotations

import pathlib
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from ppp_jax.analysis import plots, results, statistics
from ppp_jax.analysis.plots.style import BAND, BLACK, COLOURS, PAGE, RULE, style
from ppp_jax.analysis.texts import drawn
from ppp_jax.cli import experiment, study
from ppp_jax.grid import Grid
from ppp_jax.networks import interpolated
from ppp_jax.networks.activations import Activation
from ppp_jax.networks.functional import BOTTLENECK
from ppp_jax.numerics import polar

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

QUESTION = "Does a function of one's own align the latents, one that shrinks units or lengths?"
ABOUT = """\
This file defines both functions, and the grid names them `module:attribute`, as flags can name
those of any file in the working directory. One takes 0.5 off every unit and knows the axes, the
other takes 0.5 off the length and knows none. Copy the file for functions of yours.

  python -m experiments.own_activation
"""
DOCUMENTED = """\
Cost: 64 networks, 90 s on two cores. Leaves runs/own_activation/study: covariance, shape and dip
of the bottleneck with their tests, differences paired by seed, and a figure of both functions.
"""

THRESHOLD = 0.5
HERE = "ppp_jax.experiments.own_activation"
ACTS = {"pre": "before it acts", "post": "after it acts"}
DRAWN = ("covariance", "shape", "axis_quantisation")


def shrunk(length: jax.Array) -> jax.Array:
    """Returns lengths less the threshold, and 0 for those below it."""
    return jnp.maximum(length - THRESHOLD, 0.0)


def shrink_units(x: jax.Array) -> jax.Array:
    """Shrinks every unit by itself.

    Args:
      x: Vectors, `(..., units)`.
    """
    return jnp.sign(x) * shrunk(jnp.abs(x))


def shrink_length(x: jax.Array) -> jax.Array:
    """Shrinks the vector's length, and keeps its direction.

    Args:
      x: Vectors, `(..., units)`.
    """
    length, direction = polar(x)
    return direction * shrunk(length)


isotropic_soft_shrink = Activation(
    apply=shrink_length,
    formula="x max(1 - 1/(2 |x|), 0)",
    slope_at_zero=0.0,
    group="O(n)",
    profile=shrunk,
    profile_name="soft shrink",
    isotropic=True,
)
soft_shrink = Activation(
    apply=shrink_units,
    formula="sign(x_i) max(|x_i| - 1/2, 0)",
    slope_at_zero=0.0,
    group="B_n",
    profile=shrunk,
    profile_name="soft shrink",
    isotropic=False,
    partner=f"{HERE}:isotropic_soft_shrink",
)
DEFAULTS = Grid(
    activations=(f"{HERE}:soft_shrink", f"{HERE}:isotropic_soft_shrink"),
    optimizers=("momentum", "isotropic_adam"),
    seeds=range(16),
    snapshots=(0,),
    probe_samples=1024,
)


CAPTION = (
    "The figure shows to where each function of two units moves circles (grey), and how far its "
    "latents lie from random bases, before and after the activation, under each optimiser; "
    "points are seeds, and bars the interquartile mean with its 95 % interval."
)


def analyse(run: pathlib.Path, options: experiment.Options) -> study.Results:
    """Measures the bottleneck of every cell, and compares the functions paired by seed.

    Args:
      run: The trained run folder.
      options: How it is analysed.
    """
    rows = results.layers.measure_layers(
        run, layer=BOTTLENECK, rotations=options.rotations, progress=options.progress
    )
    tables = study.frames(
        functions=study.layer_table(rows, ("activation", "optimizer", "learning_rate")),
        differences=results.with_q(results.layers.differences(rows)),
        errors=study.error_differences(rows),
    )
    return study.Results(tables, {"functions": study.Shown(draw(rows), CAPTION)})


@style()
def draw(rows: list[dict[str, Any]]) -> Figure:
    """Draws each function in the plane, and what it left in the latents, every seed visible."""
    names = list(dict.fromkeys(row["activation"] for row in rows))
    across = 1 + len(DRAWN)
    size: dict[str, Any] = {"width": PAGE / across, "height": 250, "above": 30}
    figure, panels = plots.figures.page_panels(len(names), across, **size)
    for column, statistic in zip(panels.T[1:], DRAWN, strict=True):
        for axes in column[1:]:
            axes.sharey(column[0])
        column[0].set_title(f"{statistics.registry.STATISTICS[statistic].short}, above null")
    for line, name in zip(panels, names, strict=True):
        _draw_function(name, line[0])
        here = [row for row in rows if row["activation"] == name]
        for axes, statistic in zip(line[1:], DRAWN, strict=True):
            _draw_seeds(here, f"{statistic}_excess_seeds", axes)
    handles, labels = panels[0, 1].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper right", ncols=len(labels))
    return figure


def _draw_function(name: str, axes: Axes) -> None:
    """Draws to where a function of two units moves circles."""
    angles = np.linspace(0, 2 * np.pi, 361)
    for radius in (0.4, 0.8, 1.2, 1.6, 2.0):
        circle = radius * np.stack([np.cos(angles), np.sin(angles)], axis=-1)
        axes.plot(*circle.T, color=BAND, linewidth=0.8)
        moved = np.asarray(interpolated.get(name).apply(jnp.asarray(circle, jnp.float32)))
        axes.plot(*moved.T, color=BLACK, linewidth=1.2)
    axes.set_aspect("equal")
    axes.set_title(drawn(name.replace(":", ":\n")))


def _draw_seeds(rows: list[dict[str, Any]], quantity: str, axes: Axes) -> None:
    """Draws a quantity of every seed, by optimiser and site of latents."""
    for k, (site, colour) in enumerate(zip(results.SITES, COLOURS, strict=False)):
        columns = {
            f"{row['optimizer']}\nrate {row['learning_rate']:g}": row[quantity]
            for row in rows
            if row["site"] == site
        }
        shift = 0.25 * (k - (len(results.SITES) - 1) / 2)
        plots.evidence.plot_seeds(columns, ax=axes, colour=colour, shift=shift, label=ACTS[site])
    axes.axhline(0, color=RULE, linewidth=0.8)


EXPERIMENT = experiment.register(
    experiment.Experiment(
        name="own_activation",
        question=QUESTION,
        about=ABOUT,
        documented=DOCUMENTED,
        defaults=DEFAULTS,
        workdir="runs/own_activation",
        analyse=analyse,
        along=("activations", "optimizers", "learning_rates"),
    )
)


def main(*, argv: list[str] | None = None) -> None:
    """Runs the experiment as a command."""
    experiment.main(EXPERIMENT, argv=argv)


if __name__ == "__main__":
    main()
