"""Alignment and quantisation of bottlenecks of growing width."""

from __future__ import annotations

import pathlib
from typing import TYPE_CHECKING, Any

from ppp_jax.analysis import plots, results
from ppp_jax.cli import experiment, study
from ppp_jax.grid import Grid
from ppp_jax.networks.functional import BOTTLENECK

if TYPE_CHECKING:
    from matplotlib.figure import Figure

QUESTION = "How do alignment and quantisation change with width?"
ABOUT = """\
Autoencoders with bottlenecks of 4 to 64 units between hidden layers of 48, in one program.

  python -m experiments.width [--data=patches --epochs=20 --workdir=runs/width_patches]
"""
DOCUMENTED = """\
Cost: 320 networks, 43 s on two cores. Leaves runs/width/study: covariance, shape and
dip of every bottleneck with their tests, and slopes per doubling, per seed.
"""

WIDTHS = (4, 8, 16, 32, 64)
DEFAULTS = Grid(
    activations=("relu", "tanh", "isotropic_relu", "isotropic_tanh"),
    widths=(48,),
    latent_widths=WIDTHS,
    optimizers=("momentum",),
    seeds=range(16),
    epochs=50,
    snapshots=(0,),
    probe_samples=1024,
)


def analyse(run: pathlib.Path, options: experiment.Options) -> study.Results:
    """Measures every bottleneck, and tests how they change as it widens.

    Args:
      run: The trained run folder.
      options: How it is analysed.
    """
    rows = results.layers.measure_layers(
        run, layer=BOTTLENECK, rotations=options.rotations, progress=options.progress
    )
    rows.sort(key=lambda row: (row["activation"], row["site"], row["units"]))
    tables = study.frames(
        widths=study.layer_table(rows, ("activation", "optimizer", "units")),
        trends=results.with_q(results.layers.trends(rows, axis="latent_width", doublings=True)),
        differences=results.with_q(results.layers.differences(rows)),
        errors=study.error_differences(rows),
    )
    return study.Results(tables, {"widths": draw(rows)})


def draw(rows: list[dict[str, Any]]) -> Figure:
    """Draws shape and dip of the bottleneck against its units: every seed visible."""
    from matplotlib.figure import Figure  # imported late: help and plans do without it

    names = list(dict.fromkeys((row["activation"], row["site"]) for row in rows))
    figure = Figure(figsize=(2.6 * len(names), 5), dpi=100, layout="constrained")
    panels = figure.subplots(2, len(names), sharey="row", squeeze=False)
    for column, (activation, site) in zip(panels.T, names, strict=True):
        here = [row for row in rows if (row["activation"], row["site"]) == (activation, site)]
        for axes, quantity in zip(
            column, ("shape_excess", "axis_quantisation_excess"), strict=True
        ):
            columns = {str(row["units"]): row[f"{quantity}_seeds"] for row in here}
            plots.evidence.plot_seeds(columns, ax=axes)
            axes.axhline(0, color="0.7", linewidth=0.8)
        column[0].set_title(f"{activation}, {site}", fontsize=8)
        column[1].set_xlabel("units of the bottleneck", fontsize=8)
    panels[0, 0].set_ylabel("shape (C4) above null", fontsize=8)
    panels[1, 0].set_ylabel("mean dip above null", fontsize=8)
    return figure


EXPERIMENT = experiment.register(
    experiment.Experiment(
        name="width",
        question=QUESTION,
        about=ABOUT,
        documented=DOCUMENTED,
        defaults=DEFAULTS,
        workdir="runs/width",
        analyse=analyse,
        along=("activations", "latent_widths"),
    )
)


def main(*, argv: list[str] | None = None) -> None:
    """Runs the experiment as a command."""
    experiment.main(EXPERIMENT, argv=argv)


if __name__ == "__main__":
    main()
