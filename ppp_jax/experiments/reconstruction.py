"""Held-out error of every activation, at a fixed learning rate and at the best one."""

from __future__ import annotations

import itertools
import pathlib
from typing import TYPE_CHECKING, Any

from ppp_jax.analysis import io, plots, results
from ppp_jax.analysis.plots.style import MOST_LINES, PAGE, looks, split, style
from ppp_jax.cli import experiment, study
from ppp_jax.grid import Grid

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr
    from matplotlib.figure import Figure

QUESTION = (
    "Which activation reconstructs better, at a fixed learning rate and at the best one for each?"
)
ABOUT = """\
The best rate has the smallest error on validation samples; the error shown is of other held-out
samples. docs/method.md §11: the learning rate is a confound.

  python -m experiments.reconstruction \
      [--data=patches --epochs=20 --workdir=runs/reconstruction_patches]
"""
DOCUMENTED = """\
Cost: 1,728 networks, 150 s on two cores (155 s on patches). Leaves runs/reconstruction/study: the
error of every activation at both rates, and elementwise − isotropic paired by seed.
"""
RATES = ("fixed", "best")  # the grid's first one, and the best on validation

DEFAULTS = Grid(
    activations=(
        "relu",
        "leaky_relu",
        "tanh",
        "isotropic_relu",
        "isotropic_leaky_relu",
        "isotropic_tanh",
    ),
    optimizers=("momentum", "adam"),
    learning_rates=(0.01, 0.0001, 0.0003, 0.001, 0.003, 0.03, 0.1, 0.3, 1),
    seeds=range(16),
    snapshots=(0,),
)
MOST = 2  # of what is drawn: an untrained network is near 1
TICKS = (0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.7, 1, 1.5, 2)


CAPTION = (
    "The figure shows the held-out error of every activation against the learning rate, under "
    "each optimiser; points are seeds, and bars the interquartile mean with its 95 % interval."
)


def analyse(run: pathlib.Path, options: experiment.Options) -> study.Results:
    """Compares errors at the fixed rate and at the best one.

    Args:
      run: The trained run folder.
      options: How it is analysed.
    """
    del options  # nothing is drawn at random, and nothing takes long
    latents = study.load(run)
    runs = latents[["test_mse", "validation_mse", "diverged_step"]].load()
    runs = runs.where(runs["diverged_step"] < 0)
    rows = results.rate_table(runs).to_dict("records")
    tables = study.frames(
        rates=[{name: value for name, value in row.items() if _is_shown(name)} for row in rows],
        differences=differences(rows, io.facts_of(latents)),
    )
    return study.Results(tables, {"rates": study.Shown(draw(runs), CAPTION)})


def _is_shown(name: str) -> bool:
    """Returns whether a column of `rate_table` names a cell, or is one number of a rate."""
    named = name in ("activation", "optimizer") or name.startswith(("fixed", "best"))
    return named and not name.endswith("_seeds")


def differences(rows: list[dict[str, Any]], known: dict[str, io.Facts]) -> pd.DataFrame:
    """Returns elementwise − isotropic held-out error, at the fixed and at each one's best rate.

    Args:
      rows: the rows of what `rate_table` returns.
      known: the facts of every activation.
    """
    by_name = {(row["activation"], row["optimizer"]): row for row in rows}
    conditions = []
    for (activation, optimizer), row in by_name.items():
        names = {"activation": activation, "optimizer": optimizer}
        conditions.append(
            results.Cell(names, names, {rate: row[f"{rate}_seeds"] for rate in RATES})
        )
    found = results.compare(
        conditions, axis="activation", against=results.partner_in(known, isotropic=False)
    )
    found["rates"] = [
        f"{by_name[one.activation, one.optimizer][f'{one.quantity}_rate']:g}, "
        f"{by_name[one.against, one.optimizer][f'{one.quantity}_rate']:g}"
        for one in found.itertuples()
    ]
    return results.with_q(
        found.rename(columns={"quantity": "rate", "difference": "MSE difference"})
    )


@style()
def draw(runs: xr.Dataset) -> Figure:
    """Draws held-out error against learning rate, every seed visible, a column per optimiser."""
    from matplotlib.ticker import (  # imported late: help and plans do without it
        FixedLocator,
        NullLocator,
    )

    optimizers, known = [str(name) for name in runs["optimizer"].values], io.known_of(runs)
    parts, seen = split(known), looks(known)
    across = len(optimizers)
    size: dict[str, Any] = {"width": PAGE / max(2, across), "height": 330, "above": 50}
    figure, panels = plots.figures.page_panels(len(parts), across, sharey=True, sharex=True, **size)
    last = runs["test_mse"].isel(step=-1)
    curves: dict[tuple[str, str], dict[float, Any]] = {}
    for names, at in results.cells(runs):
        curve = curves.setdefault((names["optimizer"], names["activation"]), {})
        curve[names["learning_rate"]] = last.isel(at).values
    for line, part in zip(panels, parts, strict=True):
        for axes, optimizer in zip(line, optimizers, strict=True):
            for k, name in enumerate(part):
                curve, look = curves[optimizer, name], seen[name]
                columns = {f"{rate:g}": curve[rate] for rate in sorted(curve)}
                shift = 0.12 * (k - (len(part) - 1) / 2)
                how: dict[str, Any] = {"colour": look.color, "marker": look.marker}
                plots.evidence.plot_seeds(columns, ax=axes, label=name, shift=shift, **how)
            axes.set(yscale="log", title=optimizer, ylim=(None, MOST))
            axes.yaxis.set_major_locator(FixedLocator(TICKS))
            axes.yaxis.set_minor_locator(NullLocator())
            axes.yaxis.set_major_formatter("{x:g}")
    figure.supylabel(f"held-out MSE (above {MOST:g}: off the scale)")
    figure.supxlabel("learning rate")
    handles = [line[0].get_legend_handles_labels() for line in panels]
    points, labels = (list(itertools.chain(*each)) for each in zip(*handles, strict=True))
    figure.legend(points, labels, loc="outside upper center", ncols=MOST_LINES)
    return figure


EXPERIMENT = experiment.register(
    experiment.Experiment(
        name="reconstruction",
        question=QUESTION,
        about=ABOUT,
        documented=DOCUMENTED,
        defaults=DEFAULTS,
        workdir="runs/reconstruction",
        analyse=analyse,
        along=("activations", "optimizers", "learning_rates"),
    )
)


def main(*, argv: list[str] | None = None) -> None:
    """Runs the experiment as a command."""
    experiment.main(EXPERIMENT, argv=argv)


if __name__ == "__main__":
    main()
