"""The paper's set-up: when latents become quantised in training, and what of its claims holds."""

from __future__ import annotations

import itertools
import pathlib
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

import ppp_jax.analysis as pa
from ppp_jax.analysis import inference, io, plots, results, statistics
from ppp_jax.analysis.io.progress import progress_bar
from ppp_jax.analysis.plots.style import PAGE, looks, split, style
from ppp_jax.analysis.texts import file_stem
from ppp_jax.cli import experiment, study
from ppp_jax.errors import InputError, printable
from ppp_jax.grid import Grid

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr
    from matplotlib.figure import Figure

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
Cost: 168 networks of 784-64-16-64-784 for 20 epochs of 60,000 images: 35 minutes of training and 15
of analysis on two cores, 14 GB of disk. Outcome: docs/results/emergence.md. Leaves
runs/emergence/study: the course of every statistic, when each appears and in which order, where
clusters stand, the paper's claims with their answers, how many cells say what, and PPP strips of
one seed.
"""
PAPER_EPOCHS = (0, *range(2, 21, 2), 25, *range(30, 101, 10))
OVER_SEEDS, NETWORKS, ALONG_SEEDS = "over seeds", "these networks", "from seed to seed"
AGAINST = ("the opposite holds", "does not hold")
NOTHING = ("no more", "nothing")  # what claims that nothing is there say of the difference
STRIP, OPENING = 7, 5  # most snapshots of a strip, which then fits a page, and of the README's
# Of the figure with which the README begins: the optimiser knows no axes, so that none are its own.
FACE, CONTROL = "tanh@thomson:32", "isotropic_adam"
FACE_BASIS = "standard"  # the 32 vectors are its axes and their opposites: each point counts once
DIP, PEAKS, ERROR = "axis_quantisation", "peaks", "test_mse"
ORDERS = ((DIP, "covariance"), (DIP, "shape"), (DIP, "shape_kurtosis"))
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


class _Cell(NamedTuple):
    """One cell's latents before or after the activation, as they are read."""

    names: dict[str, Any]
    facts: io.Facts
    runs: xr.Dataset
    clouds: xr.DataArray

    @property
    def varies(self) -> bool:
        """Whether there is any network that has not diverged and whose latents vary."""
        return bool(np.isfinite(self.clouds.values).all(axis=(2, 3)).any())


class Pictures(NamedTuple):
    """What the pictures of one cell show through training, before the activation.

    Attributes:
      facts: The facts about its activation.
      course: Where accepted samples lie, and how many there are, through training.
    """

    facts: io.Facts
    course: results.Course

    @property
    def fourfold(self) -> np.ndarray:
        """The mean cos 4φ above that of rotations, at the last snapshot, `(seed,)`."""
        return np.asarray(self.course.excess.sel(statistic=results.FOURFOLD).isel(step=-1).values)


class Site(NamedTuple):
    """One cell's latents before or after the activation.

    Attributes:
      names: What tells it from others.
      facts: The facts about its activation.
      statistics: Alignment and quantisation through training.
      orbits: How near clusters stand to special directions, through training.
      peaks: The number of density peaks at the end, `(seed,)`.
      errors: The held-out error at the last snapshot, `(seed,)`.
    """

    names: dict[str, Any]
    facts: io.Facts
    statistics: results.Course
    orbits: results.Course
    peaks: np.ndarray
    errors: np.ndarray

    @property
    def dips(self) -> np.ndarray:
        """The mean dip above that of rotations, at the last snapshot, `(seed,)`."""
        last = self.statistics.excess.sel(statistic=DIP).isel(step=-1)
        return np.asarray(last.values)


NUMBERS = ("courses", "The figure shows alignment and quantisation")
CLUSTERS = ("orbits", "The figure shows how near clusters are to the orbits of the basis")
ANGLES = ("phases", "The figure shows how even the angles of accepted samples are")
COURSES = (
    "through training, as z against random bases: a line per activation; filled points have a "
    "false discovery rate of at most 5 % in these networks."
)
STRIPS = (
    "Rows show the points, their density over that of isotropic latents, and the same in a "
    "rotated basis, through training."
)


def analyse(run: pathlib.Path, options: experiment.Options) -> study.Results:
    """Measures every cell through training, and answers the paper's claims.

    Args:
      run: The trained run folder.
      options: How it is analysed.

    Raises:
      InputError: No network of the run folder has latents that vary.
    """
    import pandas as pd  # imported late: help and plans do without it

    latents = study.load(run)
    sites = list(_sites(latents, options))
    pictures = list(_pictures(latents, options)) if sites else []
    if not pictures:
        problem = "has no network whose latents vary and that has not diverged; "
        raise InputError("workdir", run, problem + "smaller --learning_rates may help")
    statistics, orbits = [one.statistics for one in sites], [one.orbits for one in sites]
    of_statistics, of_orbits = results.course_table(statistics), results.course_table(orbits)
    shown = [one.course for one in pictures]
    of_pictures = results.course_table(shown)
    parts = ((statistics, of_statistics), (orbits, of_orbits), (shown, of_pictures))
    orders = [
        results.order_table(statistics, of_statistics, first=first, second=second)
        for first, second in ORDERS
    ]
    orders.append(results.phase_table(shown, of_pictures))
    found = answers(claims(sites, pictures, of_pictures))
    tables = study.frames(
        courses=pd.concat([table for _, table in parts], ignore_index=True),
        onsets=pd.concat([results.onset_table(*part) for part in parts], ignore_index=True),
        orders=results.with_q(pd.concat(orders, ignore_index=True)),
        claims=found,
        summary=summary(found),
    )
    drawn = ((NUMBERS, of_statistics), (CLUSTERS, of_orbits), (ANGLES, of_pictures))
    figures = {
        name: study.Shown(draw_courses(table, io.facts_of(latents)), f"{what} {COURSES}")
        for (name, what), table in drawn
    }
    return study.Results(tables, figures | draw_strips(latents, options), silent=("courses",))


def _cells(
    latents: xr.Dataset,
    options: experiment.Options,
    *,
    sites: Sequence[str],
    steps: Any = slice(None),
    samples: int,
    what: str,
) -> Iterator[_Cell]:
    """Yields every cell's latents at some sites and snapshots, with as many samples at most."""
    runs, known = latents[[ERROR, "diverged_step"]].load(), io.facts_of(latents)
    places = [(site, names, at) for site in sites for names, at in results.cells(runs)]
    for site, names, at in progress_bar(places, what) if options.progress else places:
        part = runs.isel(at)
        clouds = results.mask(
            results.thinned(latents[site].isel(at).isel(step=steps), samples), part
        )
        where = {"activation": names["activation"], "optimizer": names["optimizer"]}
        where |= {"rate": names["learning_rate"], "width": names["width"], "site": site}
        clouds = clouds.transpose("seed", "step", "sample", "unit")
        yield _Cell(where, known[names["activation"]], part, clouds)


def _sites(latents: xr.Dataset, options: experiment.Options) -> Iterator[Site]:
    """Yields what is measured of every cell, at both sites; says which have no clouds at all."""
    left: list[str] = []
    most = results.emergence.MOST_SAMPLES
    for cell in _cells(latents, options, sites=results.SITES, samples=most, what="cells"):
        names = cell.names
        if not cell.varies:
            text = f"{printable(names['activation'])}, {printable(names['optimizer'])}"
            text += (
                f" at {names['rate']:g}, {names['width']} units wide, {names['site']}-activation"
            )
            left.append(f"{text}: left out: its networks have diverged, or nothing varies")
            continue
        how: dict[str, Any] = {"names": names, "basis": cell.facts.basis}
        how["rotations"] = options.rotations
        yield Site(
            names=names,
            facts=cell.facts,
            statistics=results.statistics_course(cell.clouds, **how),
            orbits=results.orbits_course(cell.clouds, **how),
            peaks=statistics.registry.STATISTICS[PEAKS].function(cell.clouds.isel(step=-1).values)[
                PEAKS
            ],
            errors=cell.runs[ERROR].where(results.healthy(cell.runs)).isel(step=-1).values,
        )
    for line in left:  # now, below the progress bar
        print(line, file=sys.stderr)


def _pictures(latents: xr.Dataset, options: experiment.Options) -> Iterator[Pictures]:
    """Yields what the pictures of every cell show, at the snapshots of the strips."""
    what: dict[str, Any] = {"sites": ("pre",), "steps": _shown(latents, STRIP), "what": "pictures"}
    for cell in _cells(latents, options, samples=results.PICTURE_SAMPLES, **what):
        if cell.varies:
            how: dict[str, Any] = {"epsilon": options.epsilon, "rotations": options.rotations}
            how |= {"names": cell.names, "basis": cell.facts.basis}
            yield Pictures(cell.facts, results.pictures_course(cell.clouds, **how))


def _shown(latents: xr.Dataset, most: int) -> np.ndarray:
    """Returns the places of at most so many snapshots, evenly from the first to the last."""
    return _evenly(latents.sizes["step"], most)


def _evenly(count: int, most: int) -> np.ndarray:
    return np.unique(np.linspace(0, count - 1, most).round().astype(int))


def claims(
    sites: list[Site], pictures: list[Pictures], of_pictures: pd.DataFrame
) -> list[dict[str, Any]]:
    """Returns the paper's claims about latents before the activation, each with its effect.

    Args:
      sites: What was measured.
      pictures: What the pictures show.
      of_pictures: What `course_table` returned of these.

    Returns:
      A row per claim and cell: its `quantity`, `difference`, `low`, `high`, `p` and `seeds`,
      whether the claim is `more` than nothing, `some` difference, `no more`, or `nothing` on
      either side, and of what p is `asked`: over seeds, from seed to seed, or of these networks.
    """
    before = [one for one in sites if one.names["site"] == "pre"]
    found = (_alone(before), _pairs(before), _with_error(before), _angles(pictures))
    phases = (_phases(pictures, of_pictures), _order(pictures, of_pictures))
    return list(itertools.chain(*found, *phases))


def _claim(
    text: str,
    names: Mapping[str, Any],
    quantity: str,
    effect: Mapping[str, Any],
    towards: str,
    *,
    asked: str = OVER_SEEDS,
    **more: Any,
) -> dict[str, Any]:
    row = {"claim": f"{text}: {quantity}", **names, **more, "quantity": quantity, **effect}
    return row | {"towards": towards, "asked": asked}


def _alone(before: list[Site]) -> Iterator[dict[str, Any]]:
    """Yields what each function does by itself, over seeds."""
    for one in before:
        nothing = np.zeros(len(one.dips))
        dips = pa.paired_difference(one.dips, nothing).row()
        if one.facts.isotropic:
            text = "an isotropic function makes no levels along axes"
            yield _claim(text, one.names, "dip", dips, "no more")
            more = pa.paired_difference(one.peaks, nothing + 1).row()
            text = "an isotropic function parts no clusters"
            yield _claim(text, one.names, "peaks beyond one", more, "no more")
        else:
            yield _claim("a discrete function quantises latents", one.names, "dip", dips, "more")


def _pairs(before: list[Site]) -> Iterator[dict[str, Any]]:
    """Yields what compares two functions in one cell otherwise alike, paired by seed."""
    known = {str(one.names["activation"]): one.facts for one in before}
    for first, second in itertools.permutations(before, 2):
        one, other = str(first.names["activation"]), str(second.names["activation"])
        if {**first.names, "activation": other} != second.names:
            continue
        discrete = not first.facts.isotropic and second.facts.isotropic
        if discrete and io.partner_of(one, known) == other:
            for text, quantity, a, b in (
                ("a discrete function quantises latents more", "dip", first.dips, second.dips),
                ("a discrete function parts more clusters", "peaks", first.peaks, second.peaks),
                ("a discrete function errs more", "error", first.errors, second.errors),
            ):
                apart = pa.paired_difference(a, b).row()
                yield _claim(text, first.names, quantity, apart, "more", against=other)
        if _vectors(first) > _vectors(second) > 0 and one.split("@")[0] == other.split("@")[0]:
            text = "the number of vectors matters"
            difference = pa.paired_difference(first.dips, second.dips).row()
            yield _claim(text, first.names, "dip", difference, "some", against=other)


def _vectors(site: Site) -> int:
    """Returns the number of Thomson vectors of a site's function, or 0 of another basis."""
    name, *count = site.facts.basis.split(":")  # thomson:VECTORS, or thomson:VECTORS:SEED
    return int(count[0]) if name == "thomson" else 0


def _with_error(before: list[Site]) -> Iterator[dict[str, Any]]:
    """Yields whether, from seed to seed within cells, the error goes with the dip."""
    for optimizer in dict.fromkeys(one.names["optimizer"] for one in before):
        mine = [one for one in before if one.names["optimizer"] == optimizer]
        mine = [one for one in mine if not one.facts.isotropic]
        if not mine:
            continue
        dips, errors = (
            np.stack([getattr(one, name) for one in mine]) for name in ("dips", "errors")
        )
        found = inference.downstream.rank_correlation(dips, errors)
        effect = {"difference": found.mean, "low": found.low, "high": found.high, "p": found.p}
        yield _claim(
            "the error goes with quantisation within cells",
            {"activation": "discrete", "optimizer": optimizer, "site": "pre"},
            "rank correlation",
            {**effect, "seeds": found.seeds},
            "more",
            asked=ALONG_SEEDS,
        )


def _angles(pictures: list[Pictures]) -> Iterator[dict[str, Any]]:
    """Yields where accepted samples lie at the end, over seeds, alone and paired."""
    known = {str(one.course.names["activation"]): one.facts for one in pictures}
    for one in pictures:
        names, nothing = one.course.names, np.zeros(len(one.fourfold))
        if one.facts.isotropic:
            text, effect = "an isotropic function prefers neither axes nor diagonals", one.fourfold
        else:
            text, effect = "a discrete function brings samples to the diagonals", -one.fourfold
        towards = "nothing" if one.facts.isotropic else "more"
        apart = pa.paired_difference(effect, nothing).row()
        yield _claim(text, names, "cos 4φ" if towards == "nothing" else "−cos 4φ", apart, towards)
    for first, second in itertools.permutations(pictures, 2):
        own, other = (str(each.course.names["activation"]) for each in (first, second))
        alike = {**first.course.names, "activation": other} == second.course.names
        if alike and not first.facts.isotropic and io.partner_of(own, known) == other:
            text = "a discrete function brings more samples to the diagonals"
            apart = pa.paired_difference(-first.fourfold, -second.fourfold).row()
            yield _claim(text, first.course.names, "−cos 4φ", apart, "more", against=other)


def _phases(pictures: list[Pictures], table: pd.DataFrame) -> Iterator[dict[str, Any]]:
    """Yields whether samples lie on diagonals of planes, and on axes, at some time of training.

    The snapshot is the one with the smallest p among those whose mean rank is on this side, the
    untrained one left out. p, of these networks, is multiplied by the number of snapshots
    (Bonferroni). Isotropic functions are the control.
    """
    names = {"axes": ("an", "axis"), "diagonals": ("a", "diagonal")}
    for one, (phase, sign) in itertools.product(pictures, results.PHASES.items()):
        mine = results.rows_of(table, one.course, results.FOURFOLD)
        mine = mine[mine["epoch"] > 0]
        if mine.empty:
            continue
        there = mine["p networks"].where(sign * mine["rank"] > 0)
        best = (
            there.idxmin() if there.notna().any() else (sign * mine["z"]).fillna(-np.inf).idxmax()
        )
        article, adjective = names[phase]
        text, towards = f"a discrete function has {article} {adjective} phase", "more"
        if one.facts.isotropic:
            text, towards = f"an isotropic function has no {adjective} phase", "no more"
        seeds, known = mine.loc[best, "seeds"], mine["p networks"].notna().any()
        least = min(1.0, len(mine) * 2 / (one.course.tested.attrs["rotations"] + 1) ** seeds)
        effect = {
            "difference": sign * mine.loc[best, "z"],
            # On the other side there is no evidence of this phase.
            "p": np.minimum(1, len(mine) * there.fillna(1 if known else np.nan)[best]),
            "seeds": seeds,
        }
        more = {"asked": NETWORKS, "epoch": mine.loc[best, "epoch"], "floor": least}
        yield _claim(text, one.course.names, "z", effect, towards, **more)


def _order(pictures: list[Pictures], table: pd.DataFrame) -> Iterator[dict[str, Any]]:
    """Yields by how many epochs the axis phase is at its height later than the diagonal phase."""
    for one in (each for each in pictures if not each.facts.isotropic):
        mine = results.phase_table([one.course], table).to_dict("records")
        effect: dict[str, Any] = dict.fromkeys(("difference", "low", "high", "p"), np.nan)
        effect["seeds"] = len(one.fourfold)
        if mine:
            effect = {name: mine[0][name] for name in effect}
        text = "the diagonal phase comes before the axis phase"
        why = "" if mine else "there are not both phases"
        yield _claim(text, one.course.names, "epochs", effect, "more", why=why)


def answers(rows: list[dict[str, Any]]) -> pd.DataFrame:
    """Answers claims; the cells of a claim are one family of hypotheses.

    Args:
      rows: What `claims` returned; `asked` says of which p: over seeds, from seed to seed, or of
        these networks.

    Returns:
      The rows with `q` and the `answer`: `holds`, `the opposite holds` or `no evidence`; of a claim
      that nothing is there, `does not hold`, `no evidence against it`, or `no more than after
      rotations`, where there is evidence of less; and `cannot be judged`, and why, where so few
      seeds or rotations cannot reach q = .05.
    """
    import pandas as pd  # imported late: help and plans do without it

    table = results.with_q(rows, by=["claim"])
    if table.empty:
        return table
    least = pd.Series(0.0, table.index)
    for _, family in table.groupby("claim"):
        least[family.index] = _attainable(family)
    records = zip(table.to_dict("records"), least, strict=True)
    said = [_answer(row, smallest) for row, smallest in records]
    return table.assign(answer=said)


def _attainable(family: pd.DataFrame) -> np.ndarray:
    """Returns the smallest q that each claim of a family could have had."""
    if (family["asked"] == OVER_SEEDS).all():
        return inference.attainable(family["p"], family["seeds"])
    if (family["asked"] != NETWORKS).any():
        return np.zeros(len(family))
    return inference.attainable_from(family["p"].to_numpy(float), family["floor"].to_numpy(float))


def _answer(row: dict[str, Any], least: float) -> str:
    """Returns the answer of one claim, of which q could have been `least`."""
    why = row.get("why")
    if isinstance(why, str) and why:
        return f"cannot be judged: {why}"
    if not np.isfinite(row["p"]) or least > inference.LEVEL:
        return f"cannot be judged at {row['seeds']:.0f} seeds"
    nothing = row["towards"] in NOTHING
    if row["q"] > inference.LEVEL:
        return "no evidence against it" if nothing else "no evidence"
    upwards = row["difference"] > 0 or row["asked"] == NETWORKS  # whose p is of this side
    if nothing:
        holds = upwards or row["towards"] == "nothing"
        return "does not hold" if holds else "no more than after rotations"
    return "holds" if upwards or row["towards"] == "some" else "the opposite holds"


def summary(answered: pd.DataFrame) -> pd.DataFrame:
    """Counts the cells of each claim by their answers, under each optimiser.

    Args:
      answered: What `answers` returned.

    Returns:
      A row per claim and optimiser, in their order: `cells` (of claims about numbers of vectors,
      pairs of functions), `for` the claim (missing of claims that nothing is there, for which there
      is no evidence), `against` it, `open` (no evidence), `unjudged`, and the smallest, the median
      and the largest `difference`.
    """
    import pandas as pd  # imported late: help and plans do without it

    if answered.empty:
        return answered
    rows = []
    for (claim, optimizer), mine in answered.groupby(["claim", "optimizer"], sort=False):
        said, known = mine["answer"], mine["difference"].astype(float)
        holds, fails = said == "holds", said.isin(AGAINST)
        unjudged = said.str.startswith("cannot")
        rows.append(
            {
                "claim": claim,
                "optimizer": optimizer,
                "cells": len(mine),
                "for": np.nan if mine["towards"].isin(NOTHING).all() else holds.sum(),
                "against": fails.sum(),
                "open": (~holds & ~fails & ~unjudged).sum(),
                "unjudged": unjudged.sum(),
                "least": known.min(),
                "median": known.median(),
                "most": known.max(),
            }
        )
    return pd.DataFrame(rows)


@style()
def draw_courses(table: pd.DataFrame, known: Mapping[str, io.Facts]) -> Figure:
    """Draws z of every statistic against epochs, a column of panels per optimiser and so on.

    Args:
      table: What `course_table` returned.
      known: The facts about every activation.
    """
    others = [name for name in ("optimizer", "width", "rate") if table[name].nunique() > 1]
    if "rate" in others and table.groupby("optimizer")["rate"].nunique().max() == 1:
        others.remove("rate")
    columns = list(table.groupby(others, sort=False)) if others else [((), table)]
    across = min(3, len(columns))
    parts = [[name for name in part if name in set(table["activation"])] for part in split(known)]
    lines = [
        (*each, part, columns[k : k + across])
        for each in dict.fromkeys(zip(table["statistic"], table["site"], strict=True))
        for part in parts
        for k in range(0, len(columns), across)
        if part
    ]
    size: dict[str, Any] = {"width": PAGE / across, "height": 180, "above": 20}
    figure, panels = plots.figures.page_panels(len(lines), across, sharex=True, **size)
    for line, (statistic, site, part, shown) in zip(panels, lines, strict=True):
        for axes in line[len(shown) :]:
            axes.set_axis_off()
        for axes, (names, rows) in zip(line, shown, strict=False):
            here = rows[(rows["statistic"] == statistic) & (rows["site"] == site)]
            here = here[here["activation"].isin(part)]
            plots.evidence.plot_courses(here, seen=looks(known), ax=axes)
            axes.set_title(", ".join(map(str, names)))
        line[0].set_title(f"{_label(statistic)}, {site}-activation\n{line[0].get_title('left')}")
        line[0].set_ylabel("z")
    figure.supxlabel("epoch")
    return figure


def _label(statistic: str) -> str:
    if statistic in statistics.registry.STATISTICS:
        return statistics.registry.STATISTICS[statistic].label
    return f"cosine of clusters with {statistic}"


def draw_strips(latents: xr.Dataset, options: experiment.Options) -> dict[str, study.Shown]:
    """Draws PPP of one network of every cell through training, before the activation.

    It is the first seed's that has not diverged: other networks' clusters stand at other places.

    Args:
      latents: The run folder's latents.
      options: How it is analysed.

    Returns:
      A figure per activation, in which a row is a cell: points as the paper shows them, their ratio
      to the isotropic null, and that of the same latents in a rotated basis. The figure `strip` has
      fewer snapshots of tanh over 32 vectors and its isotropic partner under isotropic Adam, if
      they are there, of all seeds.
    """
    runs, known = latents[[ERROR, "diverged_step"]].load(), io.facts_of(latents)
    steps = _shown(latents, STRIP)
    found: list[_Strip] = []
    places = list(results.cells(runs))
    for names, at in progress_bar(places, "strips") if options.progress else places:
        fine = results.healthy(runs.isel(at))
        if not fine.any():
            continue
        clouds = latents["pre"].isel(at).isel(seed=np.flatnonzero(fine), step=steps)
        clouds = clouds.transpose("seed", "step", "sample", "unit")
        one = _Strip(names, clouds["seed"].values[0], clouds, [], [])
        found.append(_drawn(one, clouds[0], known[names["activation"]].basis, options.epsilon))
    epochs = latents["epoch"].values[steps]
    figures = {}
    for name in dict.fromkeys(str(strip.names["activation"]) for strip in found):
        mine = [strip for strip in found if strip.names["activation"] == name]
        title = f"{name}: PPP before the activation, {_numbered([one.seed for one in mine])}"
        drawing = _draw(mine, [_row(one) for one in mine], title, epochs)
        figures[file_stem(f"strip_{name}")] = study.Shown(drawing, f"{title}. {STRIPS}")
    return figures | _opening(found, known, epochs, options.epsilon)


def _opening(
    strips: list[_Strip], known: Mapping[str, io.Facts], epochs: np.ndarray, epsilon: float
) -> dict[str, study.Shown]:
    """Draws a discrete function and its isotropic partner at fewer snapshots, if they are there.

    Both are drawn over one basis, or pictures would differ by their planes.
    """
    # The first rate and width of each.
    cells_of = {(one.names["activation"], one.names["optimizer"]): one for one in reversed(strips)}
    names = (FACE, io.partner_of(FACE, known)) if FACE in known else ()
    pair = [cells_of.get((name, CONTROL)) for name in names]
    shown = [one for one in pair if one is not None]
    if len(shown) != 2:
        return {}
    few = _evenly(len(epochs), OPENING)
    drawn = []
    for one in shown:
        clouds = one.clouds.isel(step=few).transpose("step", "seed", ...)
        drawn.append(_drawn(one, clouds, FACE_BASIS, epsilon))
    seeds = " and ".join(str(size) for size in dict.fromkeys(len(one.clouds) for one in shown))
    title = f"PPP before the activation, {_row(shown[0])}, {seeds} seeds pooled"
    drawing = _draw(drawn, [str(name) for name in names], title, epochs[few])
    return {"strip": study.Shown(drawing, f"{title}: {' and '.join(map(str, names))}. {STRIPS}")}


def _row(strip: _Strip) -> str:
    """Returns what a strip's cell is called beside those of the same activation."""
    names = strip.names
    return f"{names['optimizer']} {names['learning_rate']:g}, {names['width']} units wide"


def _draw(strips: list[_Strip], rows: list[str], title: str, epochs: np.ndarray) -> Figure:
    """Draws strips below each other."""
    return pa.plot_strip(
        [one.pictures for one in strips],
        rows=rows,
        columns=[f"epoch {epoch}" for epoch in epochs],
        title=title,
        beside=[one.rotated for one in strips],
        style="compared",
    )


def _numbered(seeds: list[Any]) -> str:
    """Returns which seeds the rows of a figure are of."""
    if len(set(seeds)) == 1:
        return f"seed {seeds[0]}"
    return f"seeds {', '.join(str(seed) for seed in seeds)} from the top"


class _Strip(NamedTuple):
    """Pictures through training.

    Attributes:
      names: What tells the cell from others.
      seed: The seed of the network that is drawn by itself.
      clouds: All networks' latents, `(seed, step, sample, unit)`, which are read when needed.
      pictures: The pictures.
      rotated: Those of the same latents in a rotated basis.
    """

    names: Mapping[str, Any]
    seed: Any
    clouds: xr.DataArray
    pictures: list[xr.Dataset]
    rotated: list[xr.Dataset | None]


def _drawn(strip: _Strip, clouds: xr.DataArray, basis: str, epsilon: float) -> _Strip:
    """Returns a strip with the pictures of clouds along their first axis."""
    pictures: list[xr.Dataset] = []
    rotated: list[xr.Dataset | None] = []
    with warnings.catch_warnings():
        # An empty picture says that it is empty.
        warnings.simplefilter("ignore", pa.EmptyPPPWarning)
        for each in clouds:
            how: dict[str, Any] = {"basis": basis, "epsilon": epsilon, "nonfinite": "drop"}
            picture = pa.ppp(each.values, **how)
            how |= {"rotated": 0, "extent": picture.attrs["extent"]}
            pictures.append(picture)
            rotated.append(pa.ppp(each.values, **how))
    return strip._replace(pictures=pictures, rotated=rotated)


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
