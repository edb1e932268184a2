"""How do alignment and discreteness change with width?

Autoencoders with bottlenecks of 4 to 64 units between hidden layers of 48, in one program.

  python -m experiments.width [--data=patches --epochs=20 --workdir=runs/width_patches]

Cost: 320 networks, 43 s on two cores. Leaves runs/width/study: every bottleneck's C4, kurtosis and
discreteness with their tests, and slopes per doubling, per seed.

Outcome on digits: the wider, the surer. ReLU's C4 before the activation goes from −0.09 (z −3) to
−0.41 (z −16), tanh's stays near −0.1 with z from −5 to −41; isotropic ones keep |z| ≤ 2.1. From 32
units on, isotropic ReLU reconstructs best.
"""

import pathlib
from typing import Any

from absl import flags
from matplotlib.figure import Figure

from ppp_jax.analysis.plots import evidence
from ppp_jax.analysis.results import layers
from ppp_jax.cli import flags as experiment_flags
from ppp_jax.cli import study
from ppp_jax.grid import Grid
from ppp_jax.networks.functional import BOTTLENECK

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
experiment_flags.define(DEFAULTS, workdir="runs/width")


def main() -> None:
    """Trains the grid, prints the tables."""
    study.run(analyse, along=("activations", "latent_widths"))


def analyse(workdirs: list[pathlib.Path]) -> None:
    """Measures every bottleneck, and tests how they change as it widens."""
    rows = layers.measure_layers(workdirs[0], layer=BOTTLENECK, rotations=flags.FLAGS.rotations,
                                 progress=True)  # fmt: skip
    rows.sort(key=lambda row: (row["activation"], row["latents"], row["units"]))
    with study.writing(workdirs[0]) as folder:
        table = study.layer_table(rows, ("activation", "optimizer", "units"))
        study.keep_table(folder, "widths", table)
        slopes = layers.trends(rows, axis="latent_width", doublings=True)
        study.keep_table(folder, "trends", study.add_q(slopes))
        study.keep_table(folder, "differences", study.add_q(layers.differences(rows)))
        study.keep_table(folder, "errors", study.error_differences(rows))
        study.keep_figure(folder, "widths", draw(rows))


def draw(rows: list[dict[str, Any]]) -> Figure:
    """Draws C4 and discreteness of the bottleneck against its units: every seed visible."""
    names = list(dict.fromkeys((row["activation"], row["latents"]) for row in rows))
    figure = Figure(figsize=(2.6 * len(names), 5), dpi=100, layout="constrained")
    panels = figure.subplots(2, len(names), sharey="row", squeeze=False)
    for column, (activation, kind) in zip(panels.T, names, strict=True):
        here = [row for row in rows if (row["activation"], row["latents"]) == (activation, kind)]
        for axes, quantity in zip(column, ("c4_excess", "discreteness"), strict=True):
            columns = {str(row["units"]): row[f"{quantity}_seeds"] for row in here}
            evidence.plot_seeds(columns, ax=axes)
            axes.axhline(0, color="0.7", linewidth=0.8)
        column[0].set_title(f"{activation}, {kind}", fontsize=8)
        column[1].set_xlabel("units of the bottleneck", fontsize=8)
    panels[0, 0].set_ylabel("C4 above null", fontsize=8)
    panels[1, 0].set_ylabel("discreteness", fontsize=8)
    return figure


if __name__ == "__main__":
    experiment_flags.run(main)
