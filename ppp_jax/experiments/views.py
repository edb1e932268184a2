"""Latents seen by PCA, t-SNE and UMAP, and in the fullest privileged plane."""

from __future__ import annotations

import functools
import importlib.util
import itertools
import pathlib
import textwrap
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

import ppp_jax.analysis as pa
from ppp_jax import bases
from ppp_jax.analysis import embeddings, inference, io, plots, results
from ppp_jax.analysis.io.progress import progress_bar
from ppp_jax.analysis.plots.style import BLACK, COLOURS, PAGE, style
from ppp_jax.analysis.synthetic import known_clouds
from ppp_jax.cli import experiment, study
from ppp_jax.errors import whole
from ppp_jax.grid import Grid

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr
    from matplotlib.figure import Figure

QUESTION = "What do t-SNE, UMAP and PCA show that PPP does not, and the other way round?"
ABOUT = """\
Clouds whose structure is known and trained bottlenecks, of every seed, each seen by PCA, t-SNE,
UMAP (if `umap-learn` is installed) and in the fullest privileged plane. Clusters found in each view
are held against those of the full latent space (adjusted mutual information), and of the first
seed's clouds every view is made again once they are rotated: what does not change there cannot show
alignment.

  python -m experiments.views
"""
DOCUMENTED = """\
Cost: 18 networks and 77 t-SNE runs, 188 s on two cores (290 s with UMAP). Leaves runs/views/study:
agreements and changes by rotation as tables, and the first seed's views coloured by label and by
the nearest orbit.
"""

PPP = "PPP"
VIEWS = [m for m in embeddings.METHODS if m != "umap" or importlib.util.find_spec("umap")] + [PPP]
# Agreements are of the samples that both group, and how many these are tells what they are worth.
AGREEMENTS = {"AMI with full space": "clustered in both", "AMI with labels": "clustered"}
NOTHING = embeddings.Agreement(float("nan"), float("nan"), float("nan"))  # there are no labels
ROTATED = ("C4 rotated", "samples shown, rotated", "change by rotation")  # of the first seed alone
DEFAULTS = Grid(
    activations=("relu", "tanh", "isotropic_tanh"),
    latent_widths=(16,),
    optimizers=("momentum",),
    seeds=range(6),
    snapshots=(0,),
    probe_samples=1000,
)
EPSILON = 0.7  # wide enough that planes show something


class Cloud(NamedTuple):
    """Latents, a label of each sample, if there is one, and its cluster in the full space."""

    latents: np.ndarray
    labels: np.ndarray | None
    clusters: np.ndarray


def check(grid: Grid) -> None:
    """Refuses fewer samples than can be embedded, and other bases than the standard one."""
    whole("probe_samples", grid.probe_samples, least=embeddings.LEAST_SAMPLES)
    study.check_standard(grid)


CAPTION = (
    "The figure shows every cloud (rows) in every view (columns); a point is a sample and has the "
    "colour of"
)


def analyse(run: pathlib.Path, options: experiment.Options) -> study.Results:
    """Looks at every cloud of every seed in every way.

    Args:
      run: The trained run folder.
      options: How it is analysed.
    """
    saved = study.load(run)
    seeds = saved["seed"].values.tolist()
    shown: dict[str, Cloud] = {}
    pictures: dict[str, dict[str, np.ndarray]] = {}
    rows: list[dict[str, Any]] = []
    samples = study.trained_grid(run).probe_samples
    places = [(seed, *each) for seed in seeds for each in clouds(saved, seed, samples).items()]
    for seed, name, cloud in progress_bar(places, "views") if options.progress else places:
        look = functools.partial(embed, seed=seed, epsilon=options.epsilon)
        seen = {view: look(cloud.latents, view) for view in VIEWS}
        turned = None if name in shown else turn(cloud.latents)
        for view, points in seen.items():
            row = {"cloud": name, "view": view, "seed": seed, **measure(cloud, points)}
            if turned is not None:
                row |= rotated(view, points, turned, look(turned, view))
            rows.append(row)
        shown.setdefault(name, cloud)
        pictures.setdefault(name, seen)
    tables = study.frames(
        seeds=rows, views=summarise(rows), differences=difference_rows(rows, saved)
    )
    figures = {
        "labels": study.Shown(
            draw(shown, pictures, by_orbit=False), f"{CAPTION} its label, or else of its cluster."
        ),
        "orbits": study.Shown(
            draw(shown, pictures, by_orbit=True),
            f"{CAPTION} the orbit of the basis to which it is nearest, compared with chance.",
        ),
    }
    return study.Results(tables, figures, silent=("seeds",))


def clouds(saved: xr.Dataset, seed: int, samples: int) -> dict[str, Cloud]:
    """Returns one seed's draws of the known clouds, and its bottlenecks that can be judged.

    Args:
      saved: The latents of a run.
      seed: The seed.
      samples: How many samples a known cloud has.
    """
    known = known_clouds(samples=samples, sample_seed=seed)
    found = {name: Cloud(x, None, embeddings.find_clusters(x)) for name, x in known.items()}
    labels = saved["labels"].values if "labels" in saved else None
    for names, at in results.cells(saved):
        one = saved.isel(at).sel(seed=seed)
        latents = results.mask(one["pre"].isel(step=-1), one).values
        if np.isfinite(latents).all():
            clusters = embeddings.find_clusters(latents)
            found[_trained(names["activation"])] = Cloud(latents, labels, clusters)
    return found


def _trained(activation: str) -> str:
    return f"{activation}, trained"


def turn(latents: np.ndarray) -> np.ndarray:
    """Returns latents under a random rotation, always the same one."""
    rotated: np.ndarray = latents @ bases.haar(latents.shape[1])
    return rotated


def embed(latents: np.ndarray, view: str, *, seed: int, epsilon: float) -> np.ndarray:
    """Returns where a view puts each sample, `(samples, 2)`; missing if it shows none.

    Args:
      latents: The cloud, `(samples, units)`.
      view: One of `VIEWS`.
      seed: The seed of views that draw at random.
      epsilon: The acceptance cosine of PPP.
    """
    if view != PPP:
        return embeddings.embed(latents, method=view, embedding_seed=seed)
    plane = embeddings.fullest_plane(latents, epsilon=epsilon)
    points = np.full((len(latents), 2), np.nan)
    points[plane.sample] = plane.points
    return points


def measure(cloud: Cloud, points: np.ndarray) -> dict[str, Any]:
    """Returns what a view agrees with; what rotating the cloud changes in it is missing.

    Args:
      cloud: The cloud.
      points: Where the view puts each sample, as `embed` returns it.
    """
    shown = np.flatnonzero(np.isfinite(points[:, 0]))
    return {
        "samples shown": len(shown) / len(points),
        **_agreements(points[shown], shown, cloud),
        "C4": float(pa.alignment_c4(cloud.latents)),
        **dict.fromkeys(ROTATED, np.nan),
    }


def rotated(view: str, points: np.ndarray, turned: np.ndarray, again: np.ndarray) -> dict[str, Any]:
    """Returns what rotating a cloud changes in a view of it.

    Args:
      view: The view.
      points: Where the view puts each sample, as `embed` returns it.
      turned: The rotated cloud.
      again: Where the view puts each sample of the rotated cloud.
    """
    found = {
        "C4 rotated": float(pa.alignment_c4(turned)),
        "samples shown, rotated": float(np.isfinite(again[:, 0]).mean()),
    }
    if view != PPP:  # which shows other samples then
        found["change by rotation"] = embeddings.difference(points, again)
    return found


def summarise(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Returns interquartile means over seeds, agreements with their 95 % intervals."""
    table = []
    for (name, view), here in _grouped(rows).items():
        row: dict[str, Any] = {"cloud": name, "view": view, "seeds": len(here)}
        for quantity in ("samples shown", "clusters in full space", "clusters seen"):
            row[quantity] = pa.interquartile_mean([one[quantity] for one in here])
        for quantity, share in AGREEMENTS.items():
            values = [one[quantity] for one in here]
            row[quantity] = pa.interquartile_mean(values)
            row[f"{quantity}, low"], row[f"{quantity}, high"] = pa.bootstrap_interval(values)
            row[f"{quantity}, seeds"] = int(np.isfinite(values).sum())
            row[share] = pa.interquartile_mean([one[share] for one in here])
            row[f"{quantity}, all samples"] = pa.interquartile_mean(
                [one[f"{quantity}, all samples"] for one in here]
            )
        row["C4"] = pa.interquartile_mean([one["C4"] for one in here])
        table.append(row | {name: here[0][name] for name in ROTATED})
    return table


def difference_rows(rows: list[dict[str, Any]], saved: xr.Dataset) -> pd.DataFrame:
    """Returns elementwise − isotropic agreement of every view, paired by seed."""
    known = io.facts_of(saved)
    seeds = sorted({row["seed"] for row in rows})
    found, conditions = _grouped(rows), []
    for name, view in itertools.product(known, VIEWS):
        by_seed = {one["seed"]: one for one in found.get((_trained(name), view), [])}
        values = {
            quantity: [by_seed[seed][quantity] if seed in by_seed else np.nan for seed in seeds]
            for quantity in AGREEMENTS
        }
        names = {"activation": name, "view": view}
        conditions.append(results.Cell(names, names, values))
    return results.with_q(
        results.compare(
            conditions, axis="activation", against=results.partner_in(known, isotropic=False)
        )
    )


def _grouped(rows: list[dict[str, Any]]) -> dict[tuple[str, str], list[dict[str, Any]]]:
    """Puts the rows of a cloud in a view together."""
    found: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in rows:
        found.setdefault((row["cloud"], row["view"]), []).append(row)
    return found


def _agreements(points: np.ndarray, sample: np.ndarray, cloud: Cloud) -> dict[str, Any]:
    few = len(points) < embeddings.LEAST_SAMPLES
    seen = np.full(len(points), -1) if few else embeddings.find_clusters(points)
    row: dict[str, Any] = {
        "clusters in full space": _count(cloud.clusters),
        "clusters seen": _count(seen),
    }
    others = (cloud.clusters, cloud.labels)
    for (quantity, share), other in zip(AGREEMENTS.items(), others, strict=True):
        found = NOTHING if other is None else embeddings.agreement(seen, other[sample])
        row |= {
            quantity: found.information,
            share: found.fraction,
            f"{quantity}, all samples": found.overall,
        }
    return row


def _count(clusters: np.ndarray) -> int:
    return len(set(clusters.tolist()) - {embeddings.NO_CLUSTER})


@style()
def draw(
    shown: dict[str, Cloud], seen: dict[str, dict[str, np.ndarray]], *, by_orbit: bool
) -> Figure:
    """Draws every view of every cloud, coloured by label (or cluster), or by the nearest orbit."""
    views = list(next(iter(seen.values())))
    size: dict[str, Any] = {"width": PAGE / len(views), "height": 200, "above": 30}
    figure, panels = plots.figures.page_panels(len(seen), len(views), **size)
    for line, (name, points) in zip(panels, seen.items(), strict=True):
        x = shown[name].latents
        groups = _label(shown[name])
        if by_orbit:
            groups = inference.special_directions.nearest(x, np.eye(x.shape[1]))
        for axes, (view, xy) in zip(line, points.items(), strict=True):
            axes.scatter(*xy.T, c=_colours(groups), s=3)
            axes.set_xticks([])
            axes.set_yticks([])
            share = np.isfinite(xy[:, 0]).mean()
            axes.set_title(view + ("" if share == 1 else f", {share:.0%} of samples"))
        line[0].set_ylabel(textwrap.fill(name, 24))
    if by_orbit:
        _add_orbits(figure)
    else:
        text = "colour: the label, or else the cluster in the full space (black: none)"
        figure.suptitle(text)
    return figure


def _add_orbits(figure: Figure) -> None:
    """Adds the legend of the orbits' colours."""
    from matplotlib.lines import Line2D  # imported late: help and plans do without it

    orbits = inference.special_directions.ORBITS
    handles = [
        Line2D([], [], marker="o", linestyle="", color=colour, label=name)
        for name, colour in zip(orbits, _colours(np.arange(len(orbits))), strict=True)
    ]
    figure.legend(
        handles=handles,
        loc="outside upper center",
        ncols=len(handles),
        title="nearest orbit of the standard basis, compared with chance",
    )


def _label(cloud: Cloud) -> np.ndarray:
    """Returns each sample's label, or else its cluster."""
    return cloud.clusters if cloud.labels is None else cloud.labels


def _colours(groups: np.ndarray) -> np.ndarray:
    """Returns a colour per sample, `(samples, 3)`: black, which no group has, for none.

    Six colours come again in lighter and darker shades, because data can have ten classes.
    """
    from matplotlib.colors import to_rgb  # imported late: help and plans do without it

    plain = np.array([to_rgb(colour) for colour in COLOURS if colour != BLACK])
    table = np.concatenate([plain, 1 - 0.5 * (1 - plain), 0.6 * plain])
    colours: np.ndarray = np.where(groups[:, None] < 0, 0.0, table[groups % len(table)])
    return colours


EXPERIMENT = experiment.register(
    experiment.Experiment(
        name="views",
        question=QUESTION,
        about=ABOUT,
        documented=DOCUMENTED,
        defaults=DEFAULTS,
        workdir="runs/views",
        analyse=analyse,
        along=("activations",),
        epsilon=EPSILON,
        check=check,
        pictures=True,
    )
)


def main(*, argv: list[str] | None = None) -> None:
    """Runs the experiment as a command."""
    experiment.main(EXPERIMENT, argv=argv)


if __name__ == "__main__":
    main()
