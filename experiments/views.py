"""What do t-SNE, UMAP and PCA show that PPP does not, and the other way round?

Clouds whose structure is known and trained bottlenecks, each seen by PCA, t-SNE, UMAP (if
`umap-learn` is installed) and in the fullest privileged plane. Clusters found in each view are held
against those of the full latent space (adjusted mutual information), and every view is made again
of the rotated latents: what does not change there cannot show alignment.

  python -m experiments.views

Cost: nine networks and 66 t-SNE runs, 228 s on two cores. Leaves runs/views/study: agreements and
changes by rotation as a table, and every view coloured by label and by the nearest orbit.

Outcome: t-SNE finds all clusters wherever they are (agreement 1.0 on known clouds, 0.9 with the
digits' labels), and rotating the latents changes nothing in it, while C4 goes from 0.97 to 0.02.
PPP's fullest plane shows 0 to 31 % of the samples, none of the clusters at the cube's corners.
"""

import importlib.util
import pathlib
from typing import Any, NamedTuple

import numpy as np
from absl import flags
from matplotlib import colormaps
from matplotlib.figure import Figure

import ppp_jax.analysis as pa
from experiments import flags as experiment_flags
from experiments import study
from ppp_jax import bases
from ppp_jax.analysis import embeddings, orbits
from ppp_jax.analysis.clouds import known_clouds
from ppp_jax.analysis.measure import cells
from ppp_jax.analysis.planes import progress_bar
from ppp_jax.errors import whole
from ppp_jax.grid import Grid

METHODS = [m for m in embeddings.METHODS if m != "umap" or importlib.util.find_spec("umap")]
DEFAULTS = Grid(
    activations=("relu", "tanh", "isotropic_tanh"),
    latent_widths=(16,),
    optimizers=("momentum",),
    seeds=range(3),
    snapshots=(0,),
    probe_samples=1000,
)
experiment_flags.define(DEFAULTS, workdir="runs/views")
flags.FLAGS.set_default("epsilon", 0.7)  # wide enough that planes show something


class Cloud(NamedTuple):
    """Latents, and a label of each sample, if there is one."""

    latents: np.ndarray
    labels: np.ndarray | None


def main() -> None:
    """Trains the grid, prints the tables."""
    study.run(analyse, along=("activations",), check=check)


def check(grid: Grid) -> None:
    """Refuses fewer samples than can be embedded."""
    whole("probe_samples", grid.probe_samples, least=embeddings.LEAST_SAMPLES)


def analyse(workdirs: list[pathlib.Path]) -> None:
    """Looks at every cloud in every way."""
    shown = clouds(workdirs[0])
    rows: list[dict[str, Any]] = []
    seen: dict[str, dict[str, np.ndarray]] = {}
    for name, cloud in progress_bar(list(shown.items()), "views"):
        found, seen[name] = look(name, cloud, len(flags.FLAGS.seeds))
        rows += found
    with study.writing(workdirs[0]) as folder:
        study.keep_table(folder, "views", rows)
        study.keep_figure(folder, "labels", draw(shown, seen, by_orbit=False))
        study.keep_figure(folder, "orbits", draw(shown, seen, by_orbit=True))


def clouds(workdir: pathlib.Path) -> dict[str, Cloud]:
    """Returns known clouds, and bottlenecks of the first seed that did not diverge."""
    known = known_clouds(samples=flags.FLAGS.probe_samples)
    found = {name: Cloud(np.asarray(x), None) for name, x in known.items()}
    saved = study.load(workdir).isel(step=-1)
    labels = saved["labels"].values if "labels" in saved else None
    for names, at in cells(saved):
        healthy = np.flatnonzero(saved["diverged_step"].isel(at) < 0)
        if len(healthy):
            latents = saved["pre"].isel(at).isel(seed=healthy[0]).values
            found[f"{names['activation']}, trained"] = Cloud(latents, labels)
    return found


def look(name: str, cloud: Cloud, seeds: int) -> tuple[list[dict[str, Any]], dict[str, np.ndarray]]:
    """Returns what each view agrees with, a row per view and seed, and the first seed's points."""
    full = embeddings.find_clusters(cloud.latents)
    turn = bases.rotations(cloud.latents.shape[1], 1, np.random.default_rng(0))[0]
    rotated = cloud.latents @ turn
    rows, points = [], {}
    for method in METHODS:
        for seed in range(1 if method == "pca" else seeds):
            view = embeddings.embed(cloud.latents, method=method, seed=seed)
            again = embeddings.embed(rotated, method=method, seed=seed)
            if seed == 0:
                points[method] = view
            rows.append({"cloud": name, "view": method, "seed": seed, "samples shown": 1.0,
                         **_agreements(view, np.arange(len(view)), full, cloud.labels),
                         "change by rotation": embeddings.difference(view, again)})  # fmt: skip
    plane, turned = (embeddings.fullest_plane(x, epsilon=flags.FLAGS.epsilon)
                     for x in (cloud.latents, rotated))  # fmt: skip
    points["PPP"] = np.full((len(full), 2), np.nan)
    points["PPP"][plane.sample] = plane.points
    rows.append({"cloud": name, "view": "PPP", "seed": 0,
                 "samples shown": len(plane.sample) / len(full),
                 **_agreements(plane.points, plane.sample, full, cloud.labels),
                 "change by rotation": _change(len(plane.sample), len(turned.sample))})  # fmt: skip
    c4 = float(pa.alignment_c4(cloud.latents)), float(pa.alignment_c4(rotated))
    return [{**row, "C4": c4[0], "C4 rotated": c4[1]} for row in rows], points


def _change(before: int, after: int) -> float:
    """Returns by which share of its samples the fullest plane's number changes."""
    return abs(after - before) / max(before, after, 1)


def _agreements(
    points: np.ndarray, sample: np.ndarray, full: np.ndarray, labels: np.ndarray | None
) -> dict[str, Any]:
    few = len(points) < embeddings.LEAST_SAMPLES
    seen = np.full(len(points), -1) if few else embeddings.find_clusters(points)
    both = embeddings.agreement(seen, full[sample])
    against = None if labels is None else embeddings.agreement(seen, labels[sample])
    return {
        "clusters in full space": _count(full), "clusters seen": _count(seen),
        "AMI with full space": both.information, "clustered in both": both.share,
        "AMI with labels": float("nan") if against is None else against.information,
    }  # fmt: skip


def _count(clusters: np.ndarray) -> int:
    return len(set(clusters.tolist()) - {embeddings.NO_CLUSTER})


def draw(
    shown: dict[str, Cloud], seen: dict[str, dict[str, np.ndarray]], *, by_orbit: bool
) -> Figure:
    """Draws every view of every cloud, coloured by label (or cluster), or by the nearest orbit."""
    views = list(next(iter(seen.values())))
    figure = Figure(figsize=(2.6 * len(views), 2.5 * len(seen)), dpi=80, layout="constrained")
    panels = figure.subplots(len(seen), len(views), squeeze=False)
    for line, (name, points) in zip(panels, seen.items(), strict=True):
        colours = _colours(_orbit(shown[name].latents) if by_orbit else _label(shown[name]))
        for axes, (view, xy) in zip(line, points.items(), strict=True):
            axes.scatter(*xy.T, c=colours, s=3)
            axes.set_xticks([])
            axes.set_yticks([])
            share = np.isfinite(xy[:, 0]).mean()
            axes.set_title(f"{name}\n{view}" + ("" if share == 1 else f", {share:.0%} of samples"),
                           fontsize=7)  # fmt: skip
    return figure


def _label(cloud: Cloud) -> np.ndarray:
    """Returns each sample's label, or else its cluster."""
    return embeddings.find_clusters(cloud.latents) if cloud.labels is None else cloud.labels


def _colours(groups: np.ndarray) -> np.ndarray:
    """Returns a colour per sample, `(samples, 3)`: black, which no group has, for none."""
    name, count = ("tab10", 10) if groups.max() < 10 else ("tab20", 20)
    table = colormaps[name](np.arange(count))[:, :3]
    colours: np.ndarray = np.where(groups[:, None] < 0, 0.0, table[groups % count])
    return colours


def _orbit(latents: np.ndarray) -> np.ndarray:
    """Returns which orbit of the standard basis each sample is nearest to, by its cosine."""
    unit = latents / np.linalg.norm(latents, axis=1, keepdims=True)
    basis = np.eye(latents.shape[1])
    nearest: np.ndarray = np.argmax([f(unit, basis) for f in orbits.ORBITS.values()], axis=0)
    return nearest


if __name__ == "__main__":
    experiment_flags.run(main)
