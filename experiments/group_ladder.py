"""Where do clusters sit relative to the orbits of the activation's group?

tanh over ever more symmetric bases of 16 units (simplex, cross-polytope, 64 Thomson points) and
radial on ever larger blocks (1: elementwise, 16: isotropic). Orbits of directions: the basis
vectors, their opposites, the edges b_i + b_j, and the corners Σ ±b_k.

  python -m experiments.group_ladder [--data=patches --workdir=runs/ladder_patches]

Cost: 256 networks, five minutes on two cores. Outcome: runs/ladder/study with the mean largest
cosine between cluster centres and each orbit, against the rotation null; what came out is in
BUILD_NOTES.md.
"""

import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np
import xarray as xr
from absl import flags
from matplotlib.figure import Figure
from sklearn.cluster import KMeans

from experiments import flags as experiment_flags
from experiments import study
from ppp_jax import bases
from ppp_jax.analysis.measure import KINDS, cells, own_basis
from ppp_jax.analysis.planes import progress_bar
from ppp_jax.analysis.rotations import verdict
from ppp_jax.grid import Grid

CENTRES = 20
DEFAULTS = Grid(
    activations=("tanh@thomson:17", "tanh@thomson:32", "tanh@thomson:64", "block_tanh:1",
                 "block_tanh:2", "block_tanh:4", "block_tanh:8", "block_tanh:16"),
    widths=(16,),
    latent_widths=(16,),
    optimizers=("momentum", "adam"),
    seeds=range(16),
    snapshots=(0,),
)  # fmt: skip
experiment_flags.define(DEFAULTS, workdir="runs/ladder")


def main() -> None:
    """Trains the grid, prints the table."""
    study.run(analyse)


def analyse(workdirs: list[pathlib.Path]) -> None:
    """Finds cluster centres and holds them against the orbits."""
    latents = study.load(workdirs[0])
    runs = latents[["test_mse", "diverged_step"]].load()
    places = [(kind, names, at) for kind in KINDS for names, at in cells(runs)]
    rows: list[dict[str, Any]] = []
    for kind, names, at in progress_bar(places, "clusters"):
        healthy = runs["diverged_step"].isel(at).isel(step=-1) < 0
        clouds = latents[kind].isel(at).isel(step=-1).load().values[healthy.values]
        basis = bases.build(own_basis(names["activation"]) or "standard", clouds.shape[-1])
        for orbit, (value, z, p) in positions(clouds, basis, flags.FLAGS.rotations).items():
            rows.append({"activation": names["activation"], "optimizer": names["optimizer"],
                         "rate": names["learning_rate"], "latents": kind, "orbit": orbit,
                         "largest cosine": value, "z": z, "p": p})  # fmt: skip
    rows = study.add_q(rows)
    with study.writing(workdirs[0]) as folder:
        study.keep_table(folder, "orbits", rows)
        study.keep_figure(folder, "orbits", draw(rows))


def vertices(x: np.ndarray, basis: np.ndarray) -> np.ndarray:
    """Returns the largest cosine of unit vectors with the basis vectors."""
    found: np.ndarray = (x @ basis.T).max(axis=-1)
    return found


def edges(x: np.ndarray, basis: np.ndarray) -> np.ndarray:
    """Returns the largest cosine with the normalised sums of two basis vectors."""
    i, j = np.triu_indices(len(basis), 1)
    sums = basis[i] + basis[j]
    length = np.linalg.norm(sums, axis=1)
    there = length > 1e-6  # opposite vectors have no edge
    found: np.ndarray = (x @ (sums[there] / length[there, None]).T).max(axis=-1)
    return found


def corners(x: np.ndarray, basis: np.ndarray) -> np.ndarray:
    """Returns the cosine with the corner Σ ±b_k of the same signs."""
    corner = np.sign(x @ basis.T) @ basis
    length = np.linalg.norm(corner, axis=-1)
    found: np.ndarray = np.vecdot(x, corner) / np.where(length > 0, length, 1)
    return found


ORBITS: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "vertices": vertices,
    "opposites": lambda x, basis: vertices(-x, basis),
    "edges": edges,
    "corners": corners,
}


def positions(
    clouds: np.ndarray, basis: np.ndarray, rotations: int
) -> dict[str, tuple[float, float, float]]:
    """Holds directions of cluster centres against every orbit, pooled over seeds.

    Args:
      clouds: `(seeds, samples, units)`.
      basis: unit rows, `(vectors, units)`.
      rotations: K.

    Returns:
      Orbit to the mean largest cosine, its z and p under the rotation null.
    """
    values = {name: np.empty((len(clouds), rotations + 1)) for name in ORBITS}
    for seed, cloud in enumerate(clouds):
        centres = KMeans(CENTRES, n_init=1, random_state=0).fit(cloud).cluster_centers_
        unit = centres / np.linalg.norm(centres, axis=1, keepdims=True)
        drawn = bases.rotations(cloud.shape[1], rotations, np.random.default_rng([0, seed]))
        for k, turn in enumerate([np.eye(cloud.shape[1]), *drawn]):
            for name, cosine in ORBITS.items():
                values[name][seed, k] = cosine(unit @ turn, basis).mean()
    found = {}
    for name, table in values.items():
        mean = table.mean(axis=0)
        tested = verdict(xr.Dataset({"value": mean[0], "null": ("rotation", mean[1:])}))
        found[name] = tuple(tested[part].item() for part in ("value", "z", "p"))
    return found


def draw(rows: list[dict[str, Any]]) -> Figure:
    """Draws z of every orbit along the ladder, a panel per optimiser and kind of latents."""
    ladder = list(dict.fromkeys(row["activation"] for row in rows))
    places = list(dict.fromkeys((row["latents"], row["optimizer"]) for row in rows))
    figure = Figure(figsize=(12, 3.2 * len(places) / 2), dpi=110, layout="constrained")
    for axes, (kind, optimizer) in zip(
        figure.subplots(-(-len(places) // 2), 2, squeeze=False).flat, places, strict=False
    ):
        axes.axhspan(-2, 2, color="0.9")
        for k, orbit in enumerate(ORBITS):
            z = [
                row["z"]
                for row in rows
                if (row["latents"], row["optimizer"], row["orbit"]) == (kind, optimizer, orbit)
            ]
            axes.plot(z, "o-", color=f"C{k}", markersize=4, linewidth=0.8, label=orbit)  # fmt: skip
        axes.set_xticks(range(len(ladder)), [n.replace("@", "\n@") for n in ladder], fontsize=6)
        axes.set_yscale("symlog", linthresh=3)
        axes.set_title(f"{optimizer}, {kind}-activation: z of the largest cosine", fontsize=8)
        axes.legend(fontsize=6)
    return figure


if __name__ == "__main__":
    experiment_flags.run(main)
