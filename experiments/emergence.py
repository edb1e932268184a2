"""The paper's set-up: when latents become quantised in training, and what of its claims holds."""

import itertools
import pathlib
import warnings
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import xarray as xr
from matplotlib.figure import Figure

from ppp_jax.analysis.inference import downstream
from ppp_jax.analysis.inference.seeds import LEVEL, attainable, paired_difference
from ppp_jax.analysis.io.facts import Facts, facts_of, partner_of
from ppp_jax.analysis.plots import evidence
from ppp_jax.analysis.plots.strips import plot_strip
from ppp_jax.analysis.projection.kernel import progress_bar
from ppp_jax.analysis.projection.points import EmptyPPPWarning
from ppp_jax.analysis.projection.ppp import ppp
from ppp_jax.analysis.results.comparisons import with_q
from ppp_jax.analysis.results.emergence import (
    MOST_SAMPLES,
    Course,
    course_table,
    onset_table,
    orbits_course,
    order_table,
    statistics_course,
    whole,
)
from ppp_jax.analysis.results.measure import SITES, cells, healthy, mask, thinned
from ppp_jax.analysis.statistics import registry
from ppp_jax.analysis.texts import file_stem
from ppp_jax.cli import experiment, study
from ppp_jax.grid import Grid

QUESTION = "Do bottlenecks become quantised in training, when, and in which order?"
ABOUT = """\
The paper's set-up: autoencoders on MNIST with 16 units in the bottleneck, tanh over 17, 32 and 64
Thomson vectors and elementwise, ReLU, and isotropic tanh and ReLU, in batches of 24, the whole
training set probed. Alignment and dips are held against rotations at every snapshot, before and
after the activation, in its own basis, and clusters against the special directions of its group.
Momentum and isotropic Adam know no axes: they are the control of Adam.

  python -m experiments.emergence \
      [--data=fashion_mnist --workdir=runs/emergence_fashion]
"""
DOCUMENTED = """\
Cost: 168 networks of 784-64-16-64-784 for 20 epochs of 60,000 images; --dry_run --measure predicts
42 minutes of training on two cores, and 13 GB of latents before compression. It has not been run in
full yet, and its outcome is not known. Leaves runs/emergence/study: the course of every statistic,
when each appears and in which order, where clusters stand, the paper's claims with their answers,
and PPP strips of one seed.
"""
PAPER_EPOCHS = (0, *range(2, 21, 2), 25, *range(30, 101, 10))
OVER_SEEDS, NETWORKS, ALONG_SEEDS = "over seeds", "these networks", "from seed to seed"
STRIP = 7  # most snapshots of a strip, which then fits a page
DIP, VALLEY, ERROR = "axis_quantisation", "valley_depth", "test_mse"
ORDERS = ((DIP, "covariance"), (DIP, "shape"), (DIP, "shape_kurtosis"), ("axes", "diagonals"))
DEFAULTS = Grid(
    data="mnist",
    activations=(
        "tanh@thomson:17",
        "tanh@thomson:32",
        "tanh@thomson:64",
        "tanh",
        "relu",
        "isotropic_tanh",
        "isotropic_relu",
    ),
    widths=(64,),
    latent_widths=(16,),
    optimizers=("momentum", "adam", "isotropic_adam"),
    seeds=range(8),
    epochs=20,
    snapshots=PAPER_EPOCHS[:-9],
    probe_samples=60_000,
)


class Site(NamedTuple):
    """One cell's latents before or after the activation.

    Attributes:
      names: What tells it from others.
      facts: The facts about its activation.
      statistics: Alignment and quantisation through training.
      orbits: How near clusters stand to special directions, through training.
      valleys: The deepest valley above that of an elliptical cloud, at the end, `(seed,)`.
      errors: The held-out error at the last snapshot, `(seed,)`.
    """

    names: dict[str, Any]
    facts: Facts
    statistics: Course
    orbits: Course
    valleys: np.ndarray
    errors: np.ndarray

    @property
    def dips(self) -> np.ndarray:
        """The mean dip above that of rotations, at the last snapshot, `(seed,)`."""
        last = self.statistics.excess.sel(statistic=DIP).isel(step=-1)
        return np.asarray(last.values)


def analyse(run: pathlib.Path, options: experiment.Options) -> study.Results:
    """Measures every cell through training, and answers the paper's claims.

    Args:
      run: The trained run folder.
      options: How it is analysed.
    """
    latents = study.load(run)
    sites = list(_sites(latents, options))
    statistics, orbits = [one.statistics for one in sites], [one.orbits for one in sites]
    of_statistics, of_orbits = course_table(statistics), course_table(orbits)
    orders = [
        order_table(courses, table, first=first, second=second)
        for courses, table in ((statistics, of_statistics), (orbits, of_orbits))
        for first, second in ORDERS
    ]
    tables = study.frames(
        courses=pd.concat([of_statistics, of_orbits], ignore_index=True),
        onsets=pd.concat(
            [onset_table(statistics, of_statistics), onset_table(orbits, of_orbits)],
            ignore_index=True,
        ),
        orders=with_q(pd.concat(orders, ignore_index=True)),
        claims=answers(claims(sites, of_orbits)),
    )
    figures = {"courses": draw_courses(of_statistics), "orbits": draw_courses(of_orbits)}
    return study.Results(tables, figures | draw_strips(latents, options), silent=("courses",))


def _sites(latents: xr.Dataset, options: experiment.Options) -> Iterator[Site]:
    """Yields what is measured of every cell with two or more healthy networks, at both sites."""
    runs, known = latents[[ERROR, "diverged_step"]].load(), facts_of(latents)
    places = [(site, names, at) for site in SITES for names, at in cells(runs)]
    for site, names, at in progress_bar(places, "cells") if options.progress else places:
        part, facts = runs.isel(at), known[names["activation"]]
        clouds = mask(thinned(latents[site].isel(at), MOST_SAMPLES), part)
        clouds = clouds.transpose("seed", "step", "sample", "unit")
        if not whole(clouds).any():
            continue  # `study.tell_diverged` has said so
        where = {"activation": names["activation"], "optimizer": names["optimizer"]}
        where |= {"rate": names["learning_rate"], "width": names["width"], "site": site}
        how: dict[str, Any] = {"names": where, "basis": facts.basis}
        how["rotations"] = options.rotations
        yield Site(
            names=where,
            facts=facts,
            statistics=statistics_course(clouds, **how),
            orbits=orbits_course(clouds, **how),
            valleys=valleys(clouds.isel(step=-1).values),
            errors=part[ERROR].where(healthy(part)).isel(step=-1).values,
        )


def valleys(clouds: np.ndarray) -> np.ndarray:
    """Returns the depth of each cloud's deepest valley, above that of an elliptical cloud."""
    peaks = registry.STATISTICS[VALLEY].function(clouds)
    above: np.ndarray = peaks[VALLEY] - peaks[f"{VALLEY}_elliptical"]
    return above


def claims(sites: list[Site], of_orbits: pd.DataFrame) -> list[dict[str, Any]]:
    """Returns the paper's claims about latents before the activation, each with its effect.

    Args:
      sites: What was measured.
      of_orbits: The course of the clusters' special directions.

    Returns:
      A row per claim and cell: `difference`, `low`, `high`, `p` and `seeds`, and whether the claim
      is `more` than nothing, `some` difference or `none`.
    """
    before = [one for one in sites if one.names["site"] == "pre"]
    rows = []
    for one in before:
        alone = paired_difference(one.dips, np.zeros(len(one.dips)))
        if one.facts.isotropic:
            text, towards = "an isotropic function leaves latents continuous: dip", "none"
        else:
            text, towards = "a discrete function quantises latents: dip", "more"
        rows.append({"claim": text, **one.names, **alone.row(), "towards": towards})
    rows += [
        {"claim": text, **first.names, "against": other, **apart.row(), "towards": towards}
        for text, first, other, apart, towards in _pairs(before)
    ]
    return rows + _with_error(before) + _phases(before, of_orbits)


def _pairs(before: list[Site]) -> Iterator[tuple[str, Site, str, Any, str]]:
    """Yields what compares two functions in one cell otherwise alike, paired by seed."""
    known = {str(one.names["activation"]): one.facts for one in before}
    for first, second in itertools.permutations(before, 2):
        one, other = str(first.names["activation"]), str(second.names["activation"])
        if {**first.names, "activation": other} != second.names:
            continue
        if not first.facts.isotropic and partner_of(one, known) == other:
            for text, a, b in (
                ("a discrete function quantises latents more: dip", first.dips, second.dips),
                ("a discrete function parts clusters: valley", first.valleys, second.valleys),
                ("a discrete function has the larger error", first.errors, second.errors),
            ):
                yield text, first, other, paired_difference(a, b), "more"
        if "@" in one and "@" in other and one > other:
            text = "the number of vectors matters: dip"
            yield text, first, other, paired_difference(first.dips, second.dips), "some"


def _with_error(before: list[Site]) -> list[dict[str, Any]]:
    """Returns whether, from seed to seed within cells, the error goes with the dip."""
    rows = []
    for optimizer in dict.fromkeys(one.names["optimizer"] for one in before):
        mine = [one for one in before if one.names["optimizer"] == optimizer]
        mine = [one for one in mine if not one.facts.isotropic]
        if not mine:
            continue
        dips, errors = (
            np.stack([getattr(one, name) for one in mine]) for name in ("dips", "errors")
        )
        found = downstream.rank_correlation(dips, errors)
        effect = {"difference": found.mean, "low": found.low, "high": found.high, "p": found.p}
        rows.append(
            {
                "claim": "the error goes with quantisation: rank correlation within cells",
                "activation": "discrete",
                "optimizer": optimizer,
                "site": "pre",
                **effect,
                "seeds": found.seeds,
                "towards": "more",
                "asked": ALONG_SEEDS,
            }
        )
    return rows


def _phases(before: list[Site], of_orbits: pd.DataFrame) -> list[dict[str, Any]]:
    """Returns whether clusters stand near diagonals, and near axes, at some snapshot.

    The snapshot is the one with the largest z. p, of these networks, is multiplied by the number of
    snapshots (Bonferroni).
    """
    rows = []
    for one, (orbit, text) in itertools.product(
        before, (("diagonals", "there is a diagonal phase"), ("axes", "there is an axis phase"))
    ):
        if one.facts.isotropic:
            continue
        mine = of_orbits[of_orbits["statistic"] == orbit]
        for name, value in one.names.items():
            mine = mine[mine[name] == value]
        best = mine.loc[mine["z"].idxmax()] if mine["z"].notna().any() else mine.iloc[0]
        rows.append(
            {
                "claim": f"{text}: z at the best epoch",
                **one.names,
                "difference": best["z"],
                "p": np.minimum(1, len(mine) * best["p networks"]),
                "asked": NETWORKS,
                "seeds": best["seeds"],
                "epoch": best["epoch"],
                "towards": "more",
            }
        )
    return rows


def answers(rows: list[dict[str, Any]]) -> pd.DataFrame:
    """Answers claims; the cells of a claim are one family of hypotheses.

    Args:
      rows: What `claims` returned; `asked` says of which p: over seeds, or of these networks.

    Returns:
      The rows with `q` and the `answer`: `holds`, `the opposite holds` or `no evidence`; of a claim
      that nothing is there, `does not hold` or `no evidence against it`; and `cannot be judged`
      where so few seeds cannot reach q = .05.
    """
    table = with_q(rows, by=["claim"])
    table["asked"] = table["asked"].fillna(OVER_SEEDS)
    least = np.zeros(len(table))  # sign flips alone have a floor so high
    for _, family in table[table["asked"] == OVER_SEEDS].groupby("claim"):
        least[family.index] = attainable(family["p"], family["seeds"])
    said = []
    for row, smallest in zip(table.to_dict("records"), least, strict=True):
        upwards = row["difference"] > 0
        if not np.isfinite(row["p"]) or smallest > LEVEL:
            text = f"cannot be judged at {row['seeds']:.0f} seeds"
        elif row["q"] > LEVEL:
            text = "no evidence against it" if row["towards"] == "none" else "no evidence"
        elif row["towards"] == "none":
            text = "does not hold" if upwards else "holds: fewer levels than after rotations"
        else:
            text = "holds" if upwards or row["towards"] == "some" else "the opposite holds"
        said.append(text)
    return table.assign(answer=said)


def draw_courses(table: pd.DataFrame) -> Figure:
    """Draws z of every statistic against epochs, before and after the activation.

    Args:
      table: What `course_table` returned.
    """
    statistics = list(dict.fromkeys(table["statistic"]))
    figure = Figure(figsize=(9, 1 + 2.2 * len(statistics)), dpi=110, layout="constrained")
    panels = figure.subplots(len(statistics), len(SITES), sharex=True, squeeze=False)
    lines: dict[str, Any] = {}
    for line, statistic in zip(panels, statistics, strict=True):
        for axes, site in zip(line, SITES, strict=True):
            evidence.plot_courses(table, statistic=statistic, site=site, ax=axes)
            axes.set_title(f"{_label(statistic)}, {site}-activation", fontsize=8)
            handles, labels = axes.get_legend_handles_labels()
            lines |= dict(zip(labels, handles, strict=True))
        line[0].set_ylabel("z", fontsize=7)
    for axes in panels[-1]:
        axes.set_xlabel("epoch", fontsize=7)
    figure.legend(lines.values(), lines, loc="outside lower center", ncols=3, fontsize=7)
    return figure


def _label(statistic: str) -> str:
    if statistic in registry.STATISTICS:
        return registry.STATISTICS[statistic].label
    return f"cosine of clusters with {statistic}"


def draw_strips(latents: xr.Dataset, options: experiment.Options) -> dict[str, Figure]:
    """Draws PPP of one network of every cell through training, before the activation.

    It is the network of the first seed: other networks' clusters stand at other places.

    Args:
      latents: The run folder's latents.
      options: How it is analysed.

    Returns:
      A figure per activation, in which a row is a cell: points as the paper shows them, their ratio
      to the isotropic null, and that of the same latents in a rotated basis.
    """
    runs, known = latents[[ERROR, "diverged_step"]].load(), facts_of(latents)
    steps = np.unique(np.linspace(0, latents.sizes["step"] - 1, STRIP).round().astype(int))
    found: dict[str, list[tuple[str, _Strip]]] = {}
    places = list(cells(runs))
    for names, at in progress_bar(places, "strips") if options.progress else places:
        clouds = (
            latents["pre"].isel(at).isel(seed=0, step=steps).transpose("step", "sample", "unit")
        )
        strip = _strip(clouds, known[names["activation"]].basis, options.epsilon)
        row = f"{names['optimizer']} {names['learning_rate']:g}, {names['width']} units wide"
        found.setdefault(str(names["activation"]), []).append((row, strip))
    seed = latents["seed"].values[0]
    return {
        file_stem(f"strip_{name}"): plot_strip(
            [strip.pictures for _, strip in rows],
            rows=[row for row, _ in rows],
            columns=[f"epoch {epoch}" for epoch in latents["epoch"].values[steps]],
            title=f"{name}: PPP before the activation, seed {seed}",
            beside=[strip.rotated for _, strip in rows],
            style="compared",
        )
        for name, rows in found.items()
    }


class _Strip(NamedTuple):
    """Pictures of one network through training, and of the same latents in a rotated basis."""

    pictures: list[xr.Dataset]
    rotated: list[xr.Dataset | None]


def _strip(clouds: xr.DataArray, basis: str, epsilon: float) -> _Strip:
    """Makes the pictures of every snapshot."""
    strip = _Strip([], [])
    with warnings.catch_warnings():
        # An empty picture says that it is empty.
        warnings.simplefilter("ignore", EmptyPPPWarning)
        for each in clouds:
            how: dict[str, Any] = {"basis": basis, "epsilon": epsilon, "nonfinite": "drop"}
            picture = ppp(each.values, **how)
            how |= {"rotated": 0, "extent": picture.attrs["extent"]}
            strip.pictures.append(picture)
            strip.rotated.append(ppp(each.values, **how))
    return strip


EXPERIMENT = experiment.register(
    experiment.Experiment(
        name="emergence",
        question=QUESTION,
        about=ABOUT,
        documented=DOCUMENTED,
        defaults=DEFAULTS,
        workdir="runs/emergence",
        pictures=True,
        analyse=analyse,
        along=("activations", "optimizers", "learning_rates", "widths"),
    )
)


def main(*, argv: list[str] | None = None) -> None:
    """Runs the experiment as a command."""
    experiment.main(EXPERIMENT, argv=argv)


if __name__ == "__main__":
    main()
