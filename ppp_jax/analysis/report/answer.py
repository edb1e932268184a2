"""The answer of a report, in one matrix per optimiser and one sentence per question."""

import pathlib
import textwrap
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import xarray as xr
from markupsafe import Markup

from ppp_jax.analysis.inference.seeds import (
    LEVEL,
    MIN_SEEDS,
    Difference,
    attainable,
    interquartile_mean,
    paired_difference,
    seeds_needed,
)
from ppp_jax.analysis.io.facts import facts_of
from ppp_jax.analysis.report.pages import matrix_table, render
from ppp_jax.analysis.results.measure import CELL_AXES, SITES, cells
from ppp_jax.analysis.results.same_functions import Alike
from ppp_jax.analysis.results.tables import number, signed, telling
from ppp_jax.analysis.results.verdicts import (
    ERROR,
    counted_seeds,
    difference_table,
    ending,
    excess,
)
from ppp_jax.analysis.statistics import alignment, registry
from ppp_jax.analysis.texts import as_markdown
from ppp_jax.errors import printable

SEEDS, NETWORKS, NOTHING, UNKNOWN = "●", "◐", "○", "–"  # how far a finding reaches
ALIGNED, QUANTISED = ("mean", "covariance", "shape"), ("quantisation",)  # families of verdicts
WHEN = dict(zip(SITES, ("before the activation", "after the activation"), strict=True))
LEGEND = (
    f"{SEEDS} over seeds, {NETWORKS} in these networks only, {NOTHING} no evidence, {UNKNOWN} not "
    "judged, at a false discovery rate of 5\u00a0%. The number is z, the distance from random "
    "bases of the same latents in their standard deviations: + is towards the axes, a diagonal "
    "covariance, or separate levels; − is away from them. Of the error it is the held-out MSE, "
    "and in brackets its difference from the isotropic partner's. z is of the mean over seeds, "
    f"and no test: {SEEDS} says that the seeds agree on the side, so it may stand beside a small z "
    f"where most of them lie a little to one side, and {NOTHING} beside a large one where a few "
    "lie far off, or where there are few."
)
STARRED = "A star marks cells whose optimiser, initialiser or architecture prefers the axes too."
FURTHER = "†"  # marks a statistic that is not the first of its family
WIDTH = 100  # columns of a terminal
MOST_DIGITS = 4  # behind a point; what is smaller is written with an exponent

Key = tuple[str, ...]
"""The names of a cell along the axes of the grid."""


class Matrix(NamedTuple):
    """The answer of all cells of one optimiser, at one site of the latents.

    Attributes:
      title: The optimiser, and whether it respects rotations.
      header: A text per column.
      body: Rows with a text per column, a row per activation (and other axes that vary).
    """

    title: str
    header: list[str]
    body: list[list[str]]


def matrices(verdicts: pd.DataFrame, errors: Mapping[Key, str], *, site: str) -> list[Matrix]:
    """Says of every cell how far its alignment, its quantisation and its error reach.

    Args:
      verdicts: A table that `verdict_table` returned of one group.
      errors: What `error_texts` returned of that group.
      site: The site of the latents, `pre` or `post`.

    Returns:
      A matrix per optimiser of the grid, in its order.
    """

    def cell(row: Mapping[str, Any]) -> list[str]:
        found = [_finding(row, family) for family in (*ALIGNED, *QUANTISED)]
        return [*found, errors[_key(row)]]

    def title(optimizer: str, rows: pd.DataFrame) -> str:
        respects = bool(rows["optimizer_respects_rotations"].iloc[0])
        about = "respects rotations" if respects else "prefers the axes by itself"
        return f"{optimizer} ({about})"

    return _laid_out(verdicts, cell, title, site=site, starred=True)


def _laid_out(
    verdicts: pd.DataFrame,
    cell: Callable[[Mapping[str, Any]], list[str]],
    title: Callable[[str, pd.DataFrame], str],
    *,
    site: str,
    starred: bool = False,
) -> list[Matrix]:
    """Returns a matrix per optimiser.

    Args:
      verdicts: A table that `verdict_table` returned of one group.
      cell: Function of a row of it that returns a text per column.
      title: Function of an optimiser and its rows that returns the title of its matrix.
      site: The site of the latents, `pre` or `post`.
      starred: Whether cells that are confounded have a star.
    """
    here = verdicts[verdicts["site"] == site]
    axes = _row_axes(here)
    header = [_named(axes), *ALIGNED, "quantised", "held-out MSE"]
    found = []
    for optimizer, rows in here.groupby("optimizer", sort=False):
        body = []
        for row in rows.to_dict("records"):
            star = " *" if starred and not row["unconfounded"] else ""
            body.append([" ".join(str(row[axis]) for axis in axes) + star, *cell(row)])
        found.append(Matrix(title(str(optimizer), rows), header, body))
    return found


def _row_axes(rows: pd.DataFrame) -> list[str]:
    """Returns the axes that name a row of one optimiser's matrix."""
    return [axis for axis in telling(rows) if axis != "optimizer"] or ["activation"]


def _named(axes: Sequence[str]) -> str:
    return ", ".join(axis.replace("_", " ") for axis in axes)


def _cell_name(row: Mapping[str, Any], axes: Sequence[str]) -> str:
    """Returns the name of a cell, such as `tanh (adam)`, by the axes along which cells differ."""
    first, *others = (str(row[axis]) for axis in axes)
    return f"{first} ({', '.join(others)})" if others else first


def _cell_axes(rows: pd.DataFrame) -> list[str]:
    """Returns the axes that tell cells apart, in the order in which a cell's name has them."""
    several = ["optimizer"] if rows["optimizer"].nunique() > 1 else []
    first, *others = _row_axes(rows)
    return [first, *several, *others]


def reach(row: Mapping[str, Any], families: Sequence[str]) -> str:
    """Returns how far the farthest finding of some families reaches: one of the four symbols.

    Args:
      row: A row of a verdict table.
      families: Families of `registry.FAMILIES`.
    """
    names = [name for family in families for name in registry.names(family=family)]
    q = {end: [row.get(f"{name}_{end}", np.nan) for name in names] for end in ("q", "q_networks")}
    if any(value <= LEVEL for value in q["q"]):
        return SEEDS
    if any(value <= LEVEL for value in q["q_networks"]):
        return NETWORKS
    return NOTHING if np.isfinite(q["q_networks"]).any() else UNKNOWN


def _speaks(row: Mapping[str, Any], family: str) -> registry.Statistic | None:
    """Returns the first statistic of a family of those whose finding reaches farthest, or None."""
    judging = [
        one
        for one in registry.chosen(family=family)
        if np.isfinite(row.get(f"{one.name}_q_networks", np.nan))
    ]
    for end in ("q", "q_networks"):
        for one in judging:
            if row[f"{one.name}_{end}"] <= LEVEL:
                return one
    return judging[0] if judging else None


def _finding(row: Mapping[str, Any], family: str) -> str:
    """Returns the symbol and z of the statistic that speaks for a family there."""
    one = _speaks(row, family)
    if one is None:
        return UNKNOWN
    return f"{reach(row, [family])} {signed(row[f'{one.name}_z'])}{_mark(one)}"


def _mark(one: registry.Statistic) -> str:
    """Returns what tells a statistic from the first of its family."""
    return "" if one.name == registry.names(family=one.family)[0] else f" {FURTHER}"


def legend(found: Mapping[str, Sequence[Matrix]]) -> str:
    """Says what the symbols and numbers of matrices are.

    Args:
      found: What `matrices` returned, by sites.
    """
    texts = [
        text for ones in found.values() for one in ones for _, *row in one.body for text in row
    ]
    if not any(text.endswith(FURTHER) for text in texts):
        return LEGEND
    further = {
        family: [one.label for one in registry.chosen(family=family)[1:]]
        for family in (*ALIGNED, *QUANTISED)
    }
    each = "; ".join(
        f"{family}: {', '.join(labels)}" for family, labels in further.items() if labels
    )
    return (
        f"{LEGEND} {FURTHER} marks a further statistic of its column, which shows more there than "
        f"the first ({each}); + is more of it."
    )


class Size(NamedTuple):
    """How far a cell lies from random bases, in the units of a statistic.

    Attributes:
      row: The cell's row of a verdict table.
      statistic: The statistic that speaks for its family there.
      found: Its mean over seeds above the mean of random bases, with its interval.
    """

    row: Mapping[str, Any]
    statistic: registry.Statistic
    found: Difference


def sizes_of(verdicts: pd.DataFrame, runs: xr.Dataset, *, site: str) -> list[Size]:
    """Measures how far the cells of a group lie from random bases.

    Args:
      verdicts: A table that `verdict_table` returned of that group.
      runs: The runs that `measure` measured of it.
      site: The site of the latents, `pre` or `post`.
    """
    places = {_key(names): at for names, at in cells(runs)}
    last = runs.isel(step=-1)
    above = {
        one.name: excess(last, f"{one.name}_{site}")
        for family in (*ALIGNED, *QUANTISED)
        for one in registry.chosen(family=family)
    }
    found = []
    for row in verdicts[verdicts["site"] == site].to_dict("records"):
        for one in (_speaks(row, family) for family in (*ALIGNED, *QUANTISED)):
            if one is not None:
                values = above[one.name].isel(places[_key(row)]).values
                found.append(Size(row, one, paired_difference(values, np.zeros_like(values))))
    return found


def size_matrices(
    verdicts: pd.DataFrame, sizes: Sequence[Size], differences: Sequence[Mapping[str, Any]]
) -> list[Matrix]:
    """Lays sizes out as `matrices` does what was found.

    Args:
      verdicts: A table that `verdict_table` returned of one group.
      sizes: What `sizes_of` returned of it.
      differences: What `error_differences` returned of that group.
    """
    texts = {
        (_key(one.row), one.statistic.family): f"{_between(one.found)}{_mark(one.statistic)}"
        for one in sizes
    }
    errors = {_key(row): _between(_difference(row)) for row in differences}

    def cell(row: Mapping[str, Any]) -> list[str]:
        found = [texts.get((_key(row), family), UNKNOWN) for family in (*ALIGNED, *QUANTISED)]
        return [*found, errors.get(_key(row), "")]

    def title(optimizer: str, _: pd.DataFrame) -> str:
        return f"{optimizer}: distance from random bases"

    return _laid_out(verdicts, cell, title, site=SITES[0])


def size_legend(sizes: Sequence[Size], *, seeds: int) -> str:
    """Says what the numbers of `size_matrices` are.

    Args:
      sizes: What `sizes_of` returned.
      seeds: How many seeds there are.
    """
    labels: dict[str, dict[str, None]] = {}
    for one in sizes:
        labels.setdefault(str(one.statistic.family), {})[one.statistic.label] = None
    each = "; ".join(f"{family}: {' or '.join(of)}" for family, of in labels.items())
    scale = any(one.statistic.function is alignment.c4_of for one in sizes)
    texts = [f"These are the same statistics in their own units ({each})."] if each else []
    texts += ["C4 is +1 on the axes and −1 on the diagonals."] if scale else []
    texts.append("Of the error it is the difference from the isotropic partner's, paired by seed.")
    texts.append(
        f"There is no interval, which takes {MIN_SEEDS} seeds."
        if seeds < MIN_SEEDS
        else "In brackets stands the 95\u00a0% interval of the mean over seeds. The symbols above "
        "are of ranks, which a few seeds far off move less, so that the two may differ."
    )
    return " ".join(texts)


def _difference(row: Mapping[str, Any]) -> Difference:
    """Returns a row of a table of differences as a `Difference`."""
    return Difference(*(row[name] for name in ("difference", "low", "high", "p", "seeds")))


def _between(found: Difference, *, words: bool = False) -> str:
    """Writes a size with its interval: as many digits as the interval leaves, and no more."""
    ends = (found.mean, found.low, found.high)
    if not np.isfinite(found.mean):
        return UNKNOWN
    half = (found.high - found.low) / 2
    half = half if half > 0 else abs(found.mean) / 10 or 1.0
    digits = max(0, int(-np.floor(np.log10(half))))
    texts = [number(one, digits) if digits <= MOST_DIGITS else f"{one:.1e}" for one in ends]
    mean, low, high = (text.replace("-", "−") for text in texts)
    if not np.isfinite(found.low):
        return mean
    return f"{mean} (95\u00a0% interval {low} to {high})" if words else f"{mean} [{low}, {high}]"


def _key(row: Mapping[str, Any]) -> Key:
    return tuple(str(row[axis]) for axis in CELL_AXES if axis in row)


def error_texts(runs: xr.Dataset, differences: Sequence[Mapping[str, Any]]) -> dict[Key, str]:
    """Returns the held-out error of every cell as a text, with the difference from its partner.

    Args:
      runs: The runs that `measure` measured.
      differences: What `error_differences` returned of them.
    """
    compared = {_key(row): row for row in differences}
    found = {}
    last = runs[ERROR].isel(step=-1)
    activations = runs["activation"].values.tolist()
    for names, at in cells(runs):
        own = last.isel(at).values
        mean = interquartile_mean(own)
        row = compared.get(_key(names))
        if row is None or not np.isfinite(row["difference"]):
            found[_key(names)] = number(mean, 3)
            continue
        symbol = SEEDS if row["q"] <= LEVEL else NOTHING if np.isfinite(row["q"]) else UNKNOWN
        other = last.isel(at | {"activation": activations.index(row["against"])}).values
        partner = other[np.isfinite(own) & np.isfinite(other)].mean()  # of the pairs alone
        share = f" ({row['difference'] / partner:+.0%})" if partner > 0 else ""
        found[_key(names)] = f"{symbol} {number(mean, 3)}{share}".replace("-", "−")
    return found


def error_differences(runs: xr.Dataset) -> list[dict[str, Any]]:
    """Returns the differences of other activations' errors from those of isotropic partners.

    Args:
      runs: The runs that `measure` measured.

    Returns:
      Rows of `difference_table`; none if the grid has no isotropic activation.
    """
    isotropic = {name: facts.isotropic for name, facts in facts_of(runs).items()}
    return [
        row
        for row in difference_table(runs, quantities=[ERROR]).to_dict("records")
        if isotropic[row["against"]] and not isotropic[row["activation"]]
    ]


class Share(NamedTuple):
    """Of how many cells something holds.

    Attributes:
      about: Which activations these cells have.
      counts: How many cells there are of each symbol.
    """

    about: str
    counts: dict[str, int]


def shares(verdicts: pd.DataFrame, runs: xr.Dataset, families: Sequence[str]) -> list[Share]:
    """Counts cells, apart those of isotropic activations, by what was found before these act.

    Args:
      verdicts: A table that `verdict_table` returned of one group.
      runs: The runs that `measure` measured of that group.
      families: Families of `registry.FAMILIES`.
    """
    known = facts_of(runs)
    found = []
    for about, isotropic in (("prefers a basis", False), ("is isotropic", True)):
        rows = [
            row
            for row in verdicts[verdicts["site"] == SITES[0]].to_dict("records")
            if known[row["activation"]].isotropic == isotropic
        ]
        symbols = [reach(row, families) for row in rows]
        if rows:
            counts = {s: symbols.count(s) for s in (SEEDS, NETWORKS, NOTHING, UNKNOWN)}
            found.append(Share(about, counts))
    return found


def terms(verdicts: pd.DataFrame, runs: xr.Dataset) -> str:
    """Says in plain words what the words of the answer mean, in a grid of this kind.

    Args:
      verdicts: A table that `verdict_table` returned of one group.
      runs: The runs that `measure` measured of that group.
    """
    here = verdicts[verdicts["site"] == SITES[0]]
    seeds = runs.sizes["seed"]
    by = " with one ".join(axis.replace("_", " ") for axis in _cell_axes(here))
    bases = {facts.basis for facts in facts_of(runs).values()}
    axes = "those of the units" if bases == {"standard"} else "those of the activation's own basis"
    each = f"trained from {counted_seeds(seeds)}" + (", a network each" if seeds > 1 else "")
    return (
        f"A cell is one {by}: there are {len(here)}, each {each}. The axes are {axes}; random "
        "bases are other axes for the same latents, turned at random. An activation prefers a "
        "basis if it treats some directions unlike others, as a function of each unit alone does; "
        "an isotropic one treats all directions alike. What holds over seeds is expected of new "
        "seeds too, because those that were trained agree on it."
    )


def sentences(
    verdicts: pd.DataFrame,
    runs: xr.Dataset,
    differences: Sequence[Mapping[str, Any]],
    *,
    sizes: Sequence[Size] = (),
    alike: Sequence[Alike] = (),
) -> list[tuple[str, str]]:
    """Returns a question and its answer in plain words, for each question that a report answers.

    Args:
      verdicts: A table that `verdict_table` returned of one group.
      runs: The runs that `measure` measured of that group.
      differences: What `error_differences` returned of them.
      sizes: What `sizes_of` returned of them before the activation.
      alike: Pairs of activations that are nearly the same function.
    """
    seeds = runs.sizes["seed"]
    here = verdicts[verdicts["site"] == SITES[0]]
    sure = int(here["unconfounded"].sum())
    aligned, quantised = (_told(shares(verdicts, runs, one)) for one in (ALIGNED, QUANTISED))
    axes = _cell_axes(here)
    return [
        (
            "Are the latents aligned with the axes?",
            f"{WHEN[SITES[0]].capitalize()}, their {', '.join(ALIGNED[:-1])} or {ALIGNED[-1]} "
            f"differs from that in random bases over seeds {aligned} ({_networks(seeds)} per cell)."
            f"{_detail(here, ALIGNED)}{_farthest(sizes, ALIGNED, axes)}",
        ),
        (
            "Are they quantised along the axes?",
            f"{WHEN[SITES[0]].capitalize()}, their projections onto the axes are farther from one "
            f"peak, or nearer, than those onto random bases over seeds {quantised}."
            f"{_detail(here, QUANTISED)}{_farthest(sizes, QUANTISED, axes)}",
        ),
        (
            "Do activations that prefer a basis reconstruct better?",
            _error_told(differences, seeds=seeds, axes=axes),
        ),
        ("Were learning rates tuned?", _rates_told(runs)),
        *([("Are these different functions?", _alike_told(alike))] if alike else []),
        (
            "May I believe it?",
            f"{sure} of {len(here)} cells are unconfounded: optimiser, initialiser and architecture"
            f" respect rotations, so that the activation alone knows the axes. {_limits(here)}",
        ),
    ]


def _farthest(sizes: Sequence[Size], families: Sequence[str], axes: Sequence[str]) -> str:
    """Says of the finding over seeds with the largest z how large it is.

    Those whose mean lies on the other side than most seeds, or may be 0, have no size to tell.
    """
    found = [
        one
        for one in sizes
        if one.statistic.family in families
        and one.row[f"{one.statistic.name}_q"] <= LEVEL
        and one.row[f"{one.statistic.name}_rank"] * one.found.mean > 0
        and one.found.low * one.found.high > 0
    ]
    if not found:
        return ""
    one = max(found, key=lambda one: abs(one.row[f"{one.statistic.name}_z"]))
    size, above = one.found, one.found.mean > 0
    if not above:
        size = size._replace(mean=-size.mean, low=-size.high, high=-size.low)
    return (
        f" By how much: farthest by z lies {_cell_name(one.row, axes)}, whose "
        f"{one.statistic.label} is {_between(size, words=True)} "
        f"{'above' if above else 'below'} that in random bases."
    )


def _rates_told(runs: xr.Dataset) -> str:
    """Says which learning rates were tried, and whether any was chosen."""
    tried: dict[str, dict[str, None]] = {}
    for names, _ in cells(runs):
        tried.setdefault(names["optimizer"], {})[f"{names['learning_rate']:g}"] = None
    listed = ", ".join(f"{one} {' and '.join(rates)}" for one, rates in tried.items())
    if all(len(rates) == 1 for rates in tried.values()):
        return f"No: each optimiser had one learning rate for all activations ({listed})."
    return (
        f"Several were tried ({listed}), and cells are compared at the same one. What each cell "
        "reaches at its best rate, chosen on validation samples, stands in the table of rates."
    )


def _alike_told(alike: Sequence[Alike]) -> str:
    """Says which activations are nearly the same function, so that they are no two findings."""
    pairs = [
        f"{one.first} and {one.second} ({'not at all' if one.apart == 0 else _percent(one.apart)})"
        for one in alike
    ]
    return (
        "Not all: on the latents of these networks some have nearly the same outputs, so that what "
        "they have in common is no second finding. In brackets stands by how much the outputs "
        f"differ: {', '.join(pairs)}."
    )


def _percent(share: float) -> str:
    return "less than 0.1\u00a0%" if share < 0.001 else f"{share:.1%}".replace("%", "\u00a0%")


def _detail(here: pd.DataFrame, families: Sequence[str]) -> str:
    """Says on which side what was found over seeds lies, and of which activations."""
    found: dict[str, dict[str, Counter[str]]] = {}  # numbers of cells
    for row in here.to_dict("records"):
        for one in (one for family in families for one in registry.chosen(family=family)):
            if one.sides and row.get(f"{one.name}_q", np.nan) <= LEVEL:
                of = found.setdefault(one.sides[row[f"{one.name}_rank"] > 0], {})
                of.setdefault(row["activation"], Counter())[row["optimizer"]] += 1
    there = here.groupby(["activation", "optimizer"]).size()
    several = here["optimizer"].nunique()
    listed = {}
    for words, activations in found.items():
        named: dict[str, list[str]] = {}  # activations by where they show it
        for name, under in activations.items():
            where = "" if len(under) == several else f" under {' and '.join(under)} alone"
            total = sum(there[name, optimizer] for optimizer in under)
            some = "" if under.total() == total else f" in {under.total()} of {total} cells"
            named.setdefault(f"{where}{some}", []).append(name)
        listed[words] = "; ".join(f"{', '.join(names)}{where}" for where, names in named.items())
    if len(listed) < 2:
        return "".join(f" In detail, {words}: {names}." for words, names in listed.items())
    end = ending([*listed])
    parts = [f"{words.removesuffix(end)} ({names})" for words, names in listed.items()]
    return f" In detail, {', '.join(parts[:-1])} and {parts[-1]}{end}."


def _networks(seeds: int) -> str:
    return "1 network" if seeds == 1 else f"{seeds} seeds"


def _told(found: Sequence[Share]) -> str:
    """Returns in how many cells something was found, such as "in 2 of 6 cells whose …"."""
    texts = []
    for share in found:
        total = sum(share.counts.values())
        text = f"in {share.counts[SEEDS]} of {total} cells whose activation {share.about}"
        if share.counts[NETWORKS]:
            text += f" (and in {share.counts[NETWORKS]} more in these networks only)"
        if share.counts[UNKNOWN]:
            text += f" ({share.counts[UNKNOWN]} cannot be judged)"
        texts.append(text)
    return ", ".join(texts)


def _error_told(rows: Sequence[Mapping[str, Any]], *, seeds: int, axes: Sequence[str]) -> str:
    """Says in how many cells an activation's error differs from its isotropic partner's."""
    if not rows:
        return "There is no isotropic activation to compare with."
    pairs = [int(row["seeds"]) for row in rows]
    if not (attainable([row["p"] for row in rows], pairs) <= LEVEL).any():
        return _too_few_errors(max(pairs), seeds, len(rows))
    sure = [row for row in rows if row["q"] <= LEVEL]
    better = sum(row["difference"] < 0 for row in sure)
    judged = sum(bool(np.isfinite(row["q"])) for row in rows)
    worse = len(sure) - better
    texts = [
        f"Over seeds, their held-out error is smaller than the isotropic partner's in {better} of "
        f"{judged} cells and larger in {worse}; in {judged - better - worse} there is no evidence."
    ]
    if judged < len(rows):
        texts.append(
            f"In {len(rows) - judged} more fewer than {MIN_SEEDS} seeds have an error of both."
        )
    if sure:
        ends = sorted(sure, key=lambda row: abs(row["difference"]))
        told = [
            f"{_between(_difference(row), words=True)} of {_cell_name(row, axes)}" for row in ends
        ]
        texts.append(
            f"By how much: the difference is {told[0]}."
            if len(told) == 1
            else f"By how much: from {told[0]} to {told[-1]}."
        )
    return " ".join(texts)


def _too_few_errors(pairs: int, seeds: int, tests: int) -> str:
    """Says that no difference of errors can be judged over seeds, and what would do."""
    need = seeds_needed(tests)
    limit = f"{need} would do" if need else "no number would do for so many tests"
    if pairs == seeds:
        return f"This cannot be judged at {counted_seeds(seeds)}: {limit}."
    return (
        f"This cannot be judged: at most {pairs} of {counted_seeds(seeds)} have an error of both "
        f"activations, and {limit}."
    )


def _limits(rows: pd.DataFrame) -> str:
    names = [name for family in (*ALIGNED, *QUANTISED) for name in registry.names(family=family)]
    least = [rows[f"{name}_q_least"] for name in names if f"{name}_q_least" in rows]
    known = np.concatenate([one[np.isfinite(one)] for one in least] or [np.empty(0)])
    if not known.size:
        return "Nothing of alignment can be judged over seeds; the verdicts say why."
    if known.min() > LEVEL:
        return "There are too few seeds to judge new ones; the verdicts say how many would do."
    return "What holds over seeds is expected of new seeds too, on these data and at these sizes."


def answer_block(
    verdicts: pd.DataFrame,
    runs: xr.Dataset,
    folder: pathlib.Path,
    name: str,
    *,
    heading: str,
    strip: Markup,
    alike: Sequence[Alike] = (),
) -> Markup:
    """Writes `answer_<name>.md`, and returns the answer of one group for the top of the page.

    Args:
      verdicts: A table that `verdict_table` returned.
      runs: The runs that `measure` measured of that group.
      folder: The folder to write into.
      name: A part of the file's name that differs between groups.
      heading: The name of the group, for readers.
      strip: The picture that stands below it.
      alike: Pairs of activations that are nearly the same function.
    """
    differences = error_differences(runs)
    errors = error_texts(runs, differences)
    found = {site: matrices(verdicts, errors, site=site) for site in SITES}
    sizes = sizes_of(verdicts, runs, site=SITES[0])
    asked = sentences(verdicts, runs, differences, sizes=sizes, alike=alike)
    words = terms(verdicts, runs)
    text = _as_text(heading, words, asked, found)
    (folder / f"answer_{name}.md").write_text(text, encoding="utf-8")
    return render(
        "answer",
        heading=heading,
        terms=words,
        asked=asked,
        legend=legend(found),
        strip=strip,
        starred=STARRED,
        sizes=[_table(one) for one in size_matrices(verdicts, sizes, differences)],
        size_legend=size_legend(sizes, seeds=runs.sizes["seed"]),
        sites=[(WHEN[site], [_table(one) for one in ones]) for site, ones in found.items()],
    )


def _as_text(
    heading: str,
    words: str,
    asked: Sequence[tuple[str, str]],
    found: Mapping[str, Sequence[Matrix]],
) -> str:
    """Returns the answer as a text that fits into a terminal.

    Args:
      heading: The name of the group.
      words: What `terms` returned.
      asked: What `sentences` returned.
      found: What `matrices` returned, by sites.
    """
    told = [textwrap.fill(f"{one} {told}", WIDTH) for one, told in asked]
    lines = [printable(heading), "", textwrap.fill(words, WIDTH), "", *told]
    for site, ones in found.items():
        for one in ones:
            title = printable(f"{one.title}, {WHEN[site]}")
            lines += ["", title, "", as_markdown(one.header, one.body)]
    lines += ["", textwrap.fill(f"{legend(found)} {STARRED}", WIDTH)]
    return "\n".join(lines) + "\n"


def _table(one: Matrix) -> Markup:
    return matrix_table(one.header, one.body, caption=one.title)
