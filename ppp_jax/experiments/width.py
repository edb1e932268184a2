"""Alignment and quantisation of bottlenecks of growing width."""

from __future__ import annotations

import pathlib
from typing import TYPE_CHECKING, Any

from ppp_jax.analysis import plots, results
from ppp_jax.analysis.plots.style import PAGE, RULE, looks, style
from ppp_jax.analysis.texts import drawn
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


CAPTION = (
    "The figure shows how the bottleneck's shape and its mean dip, above the mean of random "
    "bases, change with its number of units, before and after each activation; points are seeds, "
    "and bars the interquartile mean with its 95 % interval."
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
    return study.Results(tables, {"widths": study.Shown(draw(rows), CAPTION)})


@style()
def draw(rows: list[dict[str, Any]]) -> Figure:
    """Draws shape and dip of the bottleneck against its units: every seed visible."""
    seen = looks({row["activation"]: row["facts"] for row in rows})
    texts = {"shape_excess": "shape (C4)", "axis_quantisation_excess": "mean dip"}
    columns = [(quantity, site) for quantity in texts for site in results.SITES]
    size: dict[str, Any] = {"width": PAGE / len(columns), "height": 170, "above": 40}
    figure, panels = plots.figures.page_panels(
        len(seen), len(columns), sharex=True, sharey="col", **size
    )
    for line, (name, look) in zip(panels, seen.items(), strict=True):
        for axes, (quantity, site) in zip(line, columns, strict=True):
            found = {
                str(row["units"]): row[f"{quantity}_seeds"]
                for row in rows
                if (row["activation"], row["site"]) == (name, site)
            }
            axes.axhline(0, color=RULE, linewidth=0.8)
            plots.evidence.plot_seeds(found, ax=axes, colour=look.color)
        line[0].set_ylabel(drawn(name))
    for axes, (quantity, site) in zip(panels[0], columns, strict=True):
        axes.set_title(f"{texts[quantity]} above null, {site}-activation")
    figure.supxlabel("units of the bottleneck")
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
