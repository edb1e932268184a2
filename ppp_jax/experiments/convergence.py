"""Units of two seeds, matched one to one and as whole spaces."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

import ppp_jax.analysis as pa
from ppp_jax import bases
from ppp_jax.analysis import inference, io, plots, results
from ppp_jax.analysis.plots.style import PAGE, RULE, looks, style
from ppp_jax.analysis.texts import drawn
from ppp_jax.cli import experiment, study
from ppp_jax.errors import InputError
from ppp_jax.grid import Grid
from ppp_jax.networks import interpolated

if TYPE_CHECKING:
    from matplotlib.figure import Figure

QUESTION = (
    "Do two seeds find the same axes? Matching units one to one against matching whole spaces."
)
ABOUT = """\
Without a privileged basis two networks agree up to a rotation, and their units match no better than
a rotation's; with one they match better.

  python -m experiments.convergence [--data=patches --epochs=20 --workdir=runs/convergence_patches]
"""
DOCUMENTED = """\
Cost: 448 networks, 75 s on two cores (74 s on patches). Leaves runs/convergence/study: both matches
of every pair of seeds, and the units' against the rotation null.
"""

DEFAULTS = Grid(
    activations=(
        "relu",
        "leaky_relu",
        "tanh",
        "tanh@rotated",
        "isotropic_relu",
        "isotropic_leaky_relu",
        "isotropic_tanh",
    ),
    optimizers=("momentum", "adam"),
    seeds=range(32),
    snapshots=(0,),
)


def check(grid: Grid) -> None:
    """Refuses what leaves nothing to match: a single seed, or bases of more vectors than units."""
    if len(grid.seeds) < 2:
        raise InputError("seeds", grid.seeds[0], "name two or more: networks are held in pairs")
    for activation in grid.activations:
        if not bases.is_orthonormal(interpolated.get(activation).basis):
            problem = "its basis must be orthonormal here: units are matched one to one"
            raise InputError("activations", activation, problem)


CAPTION = (
    "The figure shows how much better the units of two networks match than after a rotation, "
    "before and after each activation, under each optimiser; points are pairs of seeds, and bars "
    "the interquartile mean with its 95 % interval."
)


def analyse(run: pathlib.Path, options: experiment.Options) -> study.Results:
    """Matches disjoint pairs of seeds, untrained and trained.

    Args:
      run: The trained run folder.
      options: How it is analysed.
    """
    latents = study.load(run)
    runs, known = latents[["test_mse", "diverged_step"]].load(), io.facts_of(latents)
    rows: list[dict[str, Any]] = []
    pairs: dict[tuple[str, str, str], np.ndarray] = {}
    for site in results.SITES:
        for names, at in results.cells(runs):
            both = results.mask(latents[site].isel(at).isel(step=[0, -1]), runs.isel(at))
            clouds = both.values[np.isfinite(both.values).all(axis=(1, 2, 3))]
            basis, few = known[names["activation"]].basis, len(clouds) < 2
            first, last = (
                _nothing()
                if few
                else inference.convergence(
                    clouds[:, step], basis=basis, rotations=options.rotations
                )
                for step in (0, 1)
            )
            rows.append(
                {
                    "activation": names["activation"],
                    "optimizer": names["optimizer"],
                    "site": site,
                    "unconfounded": names["unconfounded"],
                    "pairs": len(clouds) // 2,
                    **_described(first, last),
                }
            )
            pairs[site, names["optimizer"], names["activation"]] = last.units - last.null
    shown = study.Shown(draw(pairs, known), CAPTION)
    return study.Results(study.frames(matches=results.with_q(rows)), {"matches": shown})


def _nothing() -> inference.Convergence:
    """Returns what is known of fewer than two networks."""
    missing = np.full(1, np.nan)
    return inference.Convergence(missing, missing, missing, np.nan, np.nan)


def _described(first: inference.Convergence, last: inference.Convergence) -> dict[str, float]:
    """Returns a row: means over pairs; of the match above rotated ones the 95 % interval."""
    above = pa.paired_difference(last.units, last.null)
    return {
        "orthogonal": float(last.orthogonal.mean()),
        "units": float(last.units.mean()),
        "rotated": float(last.null.mean()),
        "above rotated": above.mean,
        "low": above.low,
        "high": above.high,
        "above rotated, untrained": float((first.units - first.null).mean()),
        "z untrained": first.z,
        "z": last.z,
        "p": last.p,
    }


@style()
def draw(pairs: dict[tuple[str, str, str], np.ndarray], known: Mapping[str, io.Facts]) -> Figure:
    """Draws the units' match above that of rotated latents, every pair visible.

    Args:
      pairs: The matches by site of latents, optimiser and activation.
      known: The facts about every activation.
    """
    sites, optimizers = (list(dict.fromkeys(key[k] for key in pairs)) for k in (0, 1))
    size: dict[str, Any] = {"width": PAGE / max(2, len(optimizers)), "height": 230, "above": 90}
    figure, panels = plots.figures.page_panels(
        len(sites), len(optimizers), sharex=True, sharey=True, **size
    )
    seen = looks(known)
    for line, site in zip(panels, sites, strict=True):
        for axes, optimizer in zip(line, optimizers, strict=True):
            names = [name for where, how, name in pairs if (where, how) == (site, optimizer)]
            for x, name in enumerate(names):
                how: dict[str, Any] = {"colour": seen[name].color, "at": [x]}
                plots.evidence.plot_seeds({name: pairs[site, optimizer, name]}, ax=axes, **how)
            axes.set_xticks(range(len(names)), map(drawn, names), rotation=35, ha="right")
            axes.axhline(0, color=RULE, linewidth=0.8)
            axes.set_title(f"{optimizer}, {site}-activation")
    figure.supylabel("units' match above the rotated one")
    return figure


EXPERIMENT = experiment.register(
    experiment.Experiment(
        name="convergence",
        question=QUESTION,
        about=ABOUT,
        documented=DOCUMENTED,
        defaults=DEFAULTS,
        workdir="runs/convergence",
        analyse=analyse,
        along=("activations", "optimizers"),
        check=check,
    )
)


def main(*, argv: list[str] | None = None) -> None:
    """Runs the experiment as a command."""
    experiment.main(EXPERIMENT, argv=argv)


if __name__ == "__main__":
    main()
