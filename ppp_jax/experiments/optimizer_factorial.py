"""Every activation under every optimiser, at the same learning rates."""

from __future__ import annotations

import pathlib
from typing import TYPE_CHECKING, Any

import ppp_jax.analysis as pa
from ppp_jax.analysis import inference, plots, report, results, statistics
from ppp_jax.analysis.plots.style import PAGE, RULE, shades, style
from ppp_jax.analysis.texts import drawn
from ppp_jax.cli import experiment, study
from ppp_jax.errors import InputError
from ppp_jax.grid import Grid

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr
    from matplotlib.figure import Figure

QUESTION = "How much of the alignment is the activation's, and how much the optimiser's?"
ABOUT = """\
Every activation under every optimiser at the same three learning rates: elementwise Adam prefers
the axes whatever the function does, the others do not (docs/method.md §11).

  python -m experiments.optimizer_factorial \
      [--data=patches --epochs=20 --workdir=runs/factorial_patches]
"""
DOCUMENTED = """\
Cost: 960 networks, seven minutes on two cores. Leaves runs/factorial/study: covariance, shape
and dip of every cell against the rotation null, the effect of the function under isotropic Adam and
that of every optimiser on each function, paired by seed.
"""

REFERENCE = "isotropic_adam"
CLAIMED = ("covariance", "shape", "quantisation")
DEFAULTS = Grid(
    activations=("tanh", "isotropic_tanh", "relu", "isotropic_relu"),
    optimizers=(REFERENCE, "adam", "sgd", "momentum", "muon"),
    learning_rates=(0.001, 0.01, 0.1),
    seeds=range(16),
    epochs=50,
    snapshots=(0, 5),
)


def check(grid: Grid) -> None:
    """Refuses a grid without the optimiser under which functions are compared."""
    if REFERENCE not in grid.optimizers:
        problem = f"name {REFERENCE} too: under it the functions' effects are measured"
        raise InputError("optimizers", ",".join(grid.optimizers), problem)


def analyse(run: pathlib.Path, options: experiment.Options) -> study.Results:
    """Separates the function's effect from the optimiser's.

    Args:
      run: The trained run folder.
      options: How it is analysed.
    """
    measured = pa.measure(
        study.load(run),
        epsilon=options.epsilon,
        rotations=options.rotations,
        progress=options.progress,
    )
    (verdicts,) = pa.verdict_table([measured])
    cells = [_row(row) for row in verdicts.to_dict("records")]
    tables = study.frames(cells=cells, effects=effects(measured.runs))
    return study.Results(tables, _figures(measured.runs))


def _figures(runs: xr.Dataset) -> dict[str, study.Shown]:
    """Returns the figures of both sites."""
    return {
        f"shape_{site}": study.Shown(
            draw(runs, site),
            "The figure shows how aligned the shape is with the axes, above the mean of random "
            f"bases, {report.answer.WHEN[site]}, under each optimiser and learning rate (darker: "
            "larger); points are seeds, and bars the interquartile mean with its 95 % interval.",
        )
        for site in results.SITES
    }


def _row(row: dict[str, Any]) -> dict[str, Any]:
    return {
        "activation": row["activation"],
        "optimizer": row["optimizer"],
        "rate": row["learning_rate"],
        "site": row["site"],
        "unconfounded": row["unconfounded"],
        "seeds": row["seeds"],
        "shape untrained": row["shape_first"],
        "shape": row["shape"],
        "shape z": row["shape_z"],
        "shape q": row["shape_q"],
        "covariance z": row["covariance_z"],
        "covariance q": row["covariance_q"],
        "dip z": row["axis_quantisation_z"],
        "dip q": row["axis_quantisation_q"],
        "verdict": "; ".join(row[f"verdict_{claim}"] for claim in CLAIMED),
    }


def effects(runs: xr.Dataset) -> pd.DataFrame:
    """Returns paired effects on alignment: of functions under the reference, of optimisers on each.

    Args:
      runs: the runs that `measure` measured.

    Returns:
      Rows of differences of alignment above its rotation null's mean, q over all of them.
    """
    compared = [one.name for one in statistics.registry.chosen() if one.compared]
    alignment = {
        f"{statistic}_{site}": (statistic, site) for statistic in compared for site in results.SITES
    }
    rows = []
    for axis in ("activation", "optimizer"):
        found = pa.difference_table(runs, axis=axis, quantities=tuple(alignment))
        for row in found.to_dict("records"):
            if axis == "activation" and row["optimizer"] != REFERENCE:
                continue
            statistic, site = alignment[row["quantity"]]
            rows.append(
                {
                    "effect of": row[axis],
                    "against": row["against"],
                    "on": row["optimizer" if axis == "activation" else "activation"],
                    "rate": row["learning_rate"],
                    "site": site,
                    "statistic": statistic,
                    "difference": row["difference"],
                    "low": row["low"],
                    "high": row["high"],
                    "p": row["p"],
                    "seeds": row["seeds"],
                }
            )
    table = results.with_q(rows)
    return table if table.empty else table.assign(**{"q ≤ .05": table["q"] <= inference.LEVEL})


@style()
def draw(runs: xr.Dataset, site: str) -> Figure:
    """Draws every seed's shape (C4) above its null: a panel per activation, a shade per rate."""
    activations = [str(name) for name in runs["activation"].values]
    across = min(2, len(activations))
    down = -(-len(activations) // across)
    size: dict[str, Any] = {"width": PAGE / 2, "height": 230, "above": 30}
    figure, panels = plots.figures.page_panels(down, across, sharey=True, **size)
    last = results.excess(runs, f"shape_{site}").isel(step=-1)
    found: dict[tuple[str, float], dict[str, Any]] = {}
    for names, at in results.cells(runs):
        columns = found.setdefault((names["activation"], names["learning_rate"]), {})
        columns[names["optimizer"].replace("_", "\n")] = last.isel(at).values
    for axes, name in zip(panels.flat, activations, strict=False):
        axes.axhline(0, color=RULE, linewidth=0.8)
        rates = sorted(rate for activation, rate in found if activation == name)
        for k, (rate, shade) in enumerate(zip(rates, shades(len(rates)), strict=True)):
            shift = 0.22 * (k - (len(rates) - 1) / 2)
            columns = found[name, rate]
            plots.evidence.plot_seeds(
                columns, ax=axes, colour=shade, shift=shift, label=f"{rate:g}"
            )
        axes.set_title(drawn(name))
    for axes in panels.flat[len(activations) :]:
        axes.set_axis_off()
    figure.supylabel(f"shape (C4) above null, {site}-activation")
    handles, labels = panels[0, 0].get_legend_handles_labels()
    figure.legend(handles, [f"rate {text}" for text in labels], loc="outside upper right", ncols=6)
    return figure


EXPERIMENT = experiment.register(
    experiment.Experiment(
        name="optimizer_factorial",
        question=QUESTION,
        about=ABOUT,
        documented=DOCUMENTED,
        defaults=DEFAULTS,
        workdir="runs/factorial",
        analyse=analyse,
        along=("activations", "optimizers", "learning_rates"),
        check=check,
        pictures=True,
    )
)


def main(*, argv: list[str] | None = None) -> None:
    """Runs the experiment as a command."""
    experiment.main(EXPERIMENT, argv=argv)


if __name__ == "__main__":
    main()
