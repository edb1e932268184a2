"""Activations over a rotated basis, held against that basis and against others."""

from __future__ import annotations

import pathlib
from typing import TYPE_CHECKING, Any

from ppp_jax.analysis import plots, results
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
    return study.Results(study.frames(bases=results.with_q(rows)), {"bases": draw(rows)})


def draw(rows: list[dict[str, Any]]) -> Figure:
    """Draws z against every basis, a row of panels per statistic and site of latents."""
    from matplotlib.figure import Figure  # imported late: help and plans do without it

    conditions = list(dict.fromkeys((row["optimizer"], row["rate"]) for row in rows))
    lines = list(dict.fromkeys((row["statistic"], row["site"]) for row in rows))
    figure = Figure(
        figsize=(3.4 * len(conditions), 2.5 * len(lines)), dpi=100, layout="constrained"
    )
    panels = figure.subplots(len(lines), len(conditions), sharey="row", squeeze=False)
    for line, (statistic, site) in zip(panels, lines, strict=True):
        for axes, (optimizer, rate) in zip(line, conditions, strict=True):
            series: dict[str, dict[str, float]] = {}
            for row in rows:
                if (row["optimizer"], row["rate"], row["statistic"], row["site"]) == (
                    optimizer,
                    rate,
                    statistic,
                    site,
                ):
                    series.setdefault(row["activation"], {})[row["basis"]] = row["z"]
            plots.evidence.plot_z(series, ax=axes)
            axes.set_title(f"{optimizer}, rate {rate:g}", fontsize=8)
        line[0].set_ylabel(f"z of {statistic}, {site}\n(grey: ±2)", fontsize=8)
    panels[0, -1].legend(fontsize=6)
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
