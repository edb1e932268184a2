"""Activations over a rotated basis, held against that basis and against others."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ppp_jax.analysis import io, plots, results, statistics
from ppp_jax.analysis.plots.style import MOST_LINES, PAGE, looks, style
from ppp_jax.cli import experiment, study
from ppp_jax.grid import Grid

if TYPE_CHECKING:
    from matplotlib.figure import Figure

QUESTION = (
    "Does alignment follow the basis? "
    "The activation R σ(Rᵀx) knows R's axes, not the standard ones."
)
ABOUT = """\
Latents are held against R, the standard basis and three random ones, under momentum, which has no
basis of its own, and under Adam, which prefers the standard one.

  python -m experiments.rotated_basis --rotations=999 \
      [--data=patches --epochs=20 --workdir=runs/rotated_patches]
"""
DOCUMENTED = """\
Cost: 192 networks, 56 s on two cores (74 s on patches). Leaves runs/rotated/study: covariance
and shape, z and q, against every basis.
"""

STATISTICS = ("covariance", "shape")
BASES = {
    "R": "rotated",
    "standard": "standard",
    "random 1": "haar:11",
    "random 2": "haar:12",
    "random 3": "haar:13",
}
DEFAULTS = Grid(
    activations=("tanh", "tanh@rotated", "relu", "relu@rotated"),
    optimizers=("momentum", "isotropic_adam", "adam"),
    seeds=range(16),
    snapshots=(0,),
)


CAPTION = (
    "The figure shows how far the latents lie from random bases, as z, held against the basis of "
    "each activation and against the others, under each optimiser."
)


def analyse(run: pathlib.Path, options: experiment.Options) -> study.Results:
    """Tests every cell against every basis.

    Args:
      run: The trained run folder.
      options: How it is analysed.
    """
    latents = study.load(run)
    runs = latents[["test_mse", "diverged_step"]].load()
    rows: list[dict[str, Any]] = []
    for site in results.SITES:
        for names, at in results.cells(runs):
            clouds = results.mask(latents[site].isel(at).isel(step=-1), runs.isel(at))
            seeds = int(clouds.isel(sample=0, unit=0).notnull().sum())
            for label, basis in BASES.items():
                found = study.against(
                    clouds, basis, rotations=options.rotations, statistics=STATISTICS
                )
                for statistic, (value, z, networks, p) in found.items():
                    rows.append(
                        {
                            "activation": names["activation"],
                            "optimizer": names["optimizer"],
                            "rate": names["learning_rate"],
                            "site": site,
                            "seeds": seeds,
                            "basis": label,
                            "statistic": statistic,
                            "value": value,
                            "z": z,
                            "p networks": networks,
                            "p": p,
                        }
                    )
    shown = study.Shown(draw(rows, io.facts_of(latents)), CAPTION)
    return study.Results(study.frames(bases=results.with_q(rows)), {"bases": shown})


@style()
def draw(rows: list[dict[str, Any]], known: Mapping[str, io.Facts]) -> Figure:
    """Draws z against every basis, a row of panels per statistic and site of latents."""
    conditions = list(dict.fromkeys((row["optimizer"], row["rate"]) for row in rows))
    lines = list(dict.fromkeys((row["statistic"], row["site"]) for row in rows))
    size: dict[str, Any] = {"width": PAGE / len(conditions), "height": 190, "above": 30}
    figure, panels = plots.figures.page_panels(
        len(lines), len(conditions), sharey="row", sharex=True, **size
    )
    seen = looks(known)
    for line, (statistic, site) in zip(panels, lines, strict=True):
        for axes, condition in zip(line, conditions, strict=True):
            series: dict[str, dict[str, float]] = {}
            for row in rows:
                where = (row["optimizer"], row["rate"]), row["statistic"], row["site"]
                if where == (condition, statistic, site):
                    series.setdefault(row["activation"], {})[row["basis"]] = row["z"]
            plots.evidence.plot_z(series, ax=axes, seen=seen)
        line[0].set_ylabel(
            f"z of {statistics.registry.STATISTICS[statistic].short},\n{site}-activation"
        )
    for axes, (optimizer, rate) in zip(panels[0], conditions, strict=True):
        axes.set_title(f"{optimizer}, rate {rate:g} (grey: ±2)")
    handles, labels = panels[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper right", ncols=MOST_LINES)
    return figure


EXPERIMENT = experiment.register(
    experiment.Experiment(
        name="rotated_basis",
        question=QUESTION,
        about=ABOUT,
        documented=DOCUMENTED,
        defaults=DEFAULTS,
        workdir="runs/rotated",
        analyse=analyse,
        along=("activations", "optimizers", "learning_rates"),
    )
)


def main(*, argv: list[str] | None = None) -> None:
    """Runs the experiment as a command."""
    experiment.main(EXPERIMENT, argv=argv)


if __name__ == "__main__":
    main()
