"""Clusters of latents and the special directions of the activation's group."""

from __future__ import annotations

import pathlib
from typing import TYPE_CHECKING, Any

import numpy as np

from ppp_jax import bases
from ppp_jax.analysis import inference, io, plots, results
from ppp_jax.analysis.io.progress import progress_bar
from ppp_jax.analysis.plots.style import PAGE, style
from ppp_jax.cli import experiment, study
from ppp_jax.grid import Grid

if TYPE_CHECKING:
    from matplotlib.figure import Figure

QUESTION = "Where do clusters sit relative to the orbits of the activation's group?"
ABOUT = """\
tanh over bases of ever more vectors in 16 units (17: simplex, 32: cross-polytope, 64 Thomson
points, which have no symmetry but the identity) and radial on ever larger blocks (1: elementwise,
16: isotropic). Directions: the basis vectors, their opposites, the edges b_i + b_j, and the corners
Σ ±b_k, which are apart only on an orthonormal basis
(`ppp_jax.analysis.inference.special_directions`).

  python -m experiments.group_ladder \
      [--data=patches --epochs=20 --workdir=runs/ladder_patches]
"""
DOCUMENTED = """\
Cost: 256 networks, 101 s on two cores (77 s on patches). Leaves runs/ladder/study: the mean largest
cosine between cluster centres and each orbit, against the rotation null.
"""

DEFAULTS = Grid(
    activations=(
        "tanh@thomson:17",
        "tanh@thomson:32",
        "tanh@thomson:64",
        "block_tanh:1",
        "block_tanh:2",
        "block_tanh:4",
        "block_tanh:8",
        "block_tanh:16",
    ),
    widths=(16,),
    latent_widths=(16,),
    optimizers=("momentum", "adam"),
    seeds=range(16),
    snapshots=(0,),
)


CAPTION = (
    "The figure shows how much nearer the clusters' centres lie to each orbit of the basis than "
    "to a rotated one, as z, along the ladder of groups from the smallest to the isotropic one."
)


def analyse(run: pathlib.Path, options: experiment.Options) -> study.Results:
    """Finds cluster centres and holds them against the orbits.

    Args:
      run: The trained run folder.
      options: How it is analysed.
    """
    latents = study.load(run)
    runs, known = latents[["test_mse", "diverged_step"]].load(), io.facts_of(latents)
    places = [(site, names, at) for site in results.SITES for names, at in results.cells(runs)]
    rows: list[dict[str, Any]] = []
    for site, names, at in progress_bar(places, "clusters") if options.progress else places:
        clouds = results.mask(latents[site].isel(at).isel(step=-1), runs.isel(at)).values
        centres = np.stack([inference.special_directions.centres(cloud) for cloud in clouds])
        centres = centres[np.isfinite(centres).all(axis=(1, 2))]
        if not len(centres):
            continue
        basis = bases.build(known[names["activation"]].basis, centres.shape[-1])
        found = inference.special_directions.positions(centres, basis, rotations=options.rotations)
        for orbit, (value, z, p) in found.items():
            rows.append(
                {
                    "activation": names["activation"],
                    "optimizer": names["optimizer"],
                    "rate": names["learning_rate"],
                    "site": site,
                    "seeds": len(centres),
                    "orbit": orbit,
                    "cosine": value,
                    "z": z,
                    "p": p,
                }
            )
    return study.Results(
        study.frames(orbits=results.with_q(rows)), {"orbits": study.Shown(draw(rows), CAPTION)}
    )


@style()
def draw(rows: list[dict[str, Any]]) -> Figure:
    """Draws z of every orbit along the ladder, a panel per optimiser and site of latents."""
    places = list(dict.fromkeys((row["site"], row["optimizer"]) for row in rows))
    across = min(2, len(places))
    size: dict[str, Any] = {"width": PAGE / 2, "height": 300, "above": 30}
    figure, panels = plots.figures.page_panels(-(-len(places) // across), across, **size)
    for axes, (site, optimizer) in zip(panels.flat, places, strict=False):
        series: dict[str, dict[str, float]] = {}
        for row in rows:
            if (row["site"], row["optimizer"]) == (site, optimizer):
                series.setdefault(row["orbit"], {})[row["activation"]] = row["z"]
        plots.evidence.plot_z(series, ax=axes)
        axes.tick_params(axis="x", labelrotation=35)
        for label in axes.get_xticklabels():
            label.set_horizontalalignment("right")
        axes.set_title(f"{optimizer}, {site}-activation: z of the cosine (grey: ±2)")
    for axes in panels.flat[len(places) :]:
        axes.set_axis_off()
    handles, labels = panels[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper right", ncols=len(labels))
    return figure


EXPERIMENT = experiment.register(
    experiment.Experiment(
        name="group_ladder",
        question=QUESTION,
        about=ABOUT,
        documented=DOCUMENTED,
        defaults=DEFAULTS,
        workdir="runs/ladder",
        analyse=analyse,
        along=("activations", "optimizers"),
    )
)


def main(*, argv: list[str] | None = None) -> None:
    """Runs the experiment as a command."""
    experiment.main(EXPERIMENT, argv=argv)


if __name__ == "__main__":
    main()
