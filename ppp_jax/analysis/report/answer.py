"""The answer of a report, in one matrix per optimiser and one sentence per question."""

import pathlib
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import xarray as xr
from markupsafe import Markup

from ppp_jax.analysis.inference.seeds import LEVEL, interquartile_mean
from ppp_jax.analysis.io.facts import facts_of
from ppp_jax.analysis.report.pages import html_table, render
from ppp_jax.analysis.results.measure import CELL_AXES, SITES, cells
from ppp_jax.analysis.results.tables import number, signed, varying
from ppp_jax.analysis.results.verdicts import ERROR, difference_table
from ppp_jax.analysis.statistics import registry
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
    "and in brackets its difference from the isotropic partner's."
)
STARRED = "A star marks cells whose optimiser, initialiser or architecture prefers the axes too."
WIDTH = 100  # columns of a terminal

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
    here = verdicts[verdicts["site"] == site]
    axes = _row_axes(here)
    found = []
    for optimizer, rows in here.groupby("optimizer", sort=False):
        respects = bool(rows["optimizer_respects_rotations"].iloc[0])
        about = "respects rotations" if respects else "prefers the axes by itself"
        body = [
            [
                " ".join(str(row[axis]) for axis in axes) + ("" if row["unconfounded"] else " *"),
                *(_finding(row, family) for family in (*ALIGNED, *QUANTISED)),
                errors[_key(row)],
            ]
            for row in rows.to_dict("records")
        ]
        names = ", ".join(axis.replace("_", " ") for axis in axes)
        header = [names, *ALIGNED, "quantised", "held-out MSE"]
        found.append(Matrix(f"{optimizer} ({about})", header, body))
    return found


def _row_axes(rows: pd.DataFrame) -> list[str]:
    """Returns the axes that name a row; a rate that an optimiser always has is none of them."""
    axes = [axis for axis in varying(rows) if axis not in ("optimizer", "learning_rate")]
    if rows.groupby("optimizer")["learning_rate"].nunique().max() > 1:
        axes.append("learning_rate")
    return axes or ["activation"]


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


def _finding(row: Mapping[str, Any], family: str) -> str:
    """Returns the symbol and z of the first statistic that judges a family there."""
    judging = [
        name
        for name in registry.names(family=family)
        if np.isfinite(row.get(f"{name}_q_networks", np.nan))
    ]
    if not judging:
        return UNKNOWN
    return f"{reach(row, [family])} {signed(row[f'{judging[0]}_z'])}"


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
    for names, at in cells(runs):
        mean = interquartile_mean(last.isel(at).values)
        row = compared.get(_key(names))
        if row is None or not np.isfinite(row["difference"]):
            found[_key(names)] = number(mean, 3)
            continue
        symbol = SEEDS if row["q"] <= LEVEL else NOTHING if np.isfinite(row["q"]) else UNKNOWN
        partner = np.nanmean(last.isel(at).values) - row["difference"]
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


def sentences(
    verdicts: pd.DataFrame, runs: xr.Dataset, differences: Sequence[Mapping[str, Any]]
) -> list[tuple[str, str]]:
    """Returns a question and its answer in plain words, for each question that a report answers.

    Args:
      verdicts: A table that `verdict_table` returned of one group.
      runs: The runs that `measure` measured of that group.
      differences: What `error_differences` returned of them.
    """
    seeds = runs.sizes["seed"]
    here = verdicts[verdicts["site"] == SITES[0]]
    sure = int(here["unconfounded"].sum())
    named = f"{', '.join(ALIGNED[:-1])} or {ALIGNED[-1]}"
    aligned, quantised = (_told(shares(verdicts, runs, one)) for one in (ALIGNED, QUANTISED))
    return [
        (
            "Are the latents aligned with the axes?",
            f"{WHEN[SITES[0]].capitalize()}, their {named} differs from that in random bases "
            f"over seeds {aligned} ({_networks(seeds)} per cell).{_detail(here, ALIGNED)}",
        ),
        (
            "Are they quantised along the axes?",
            f"{WHEN[SITES[0]].capitalize()}, their projections onto the axes are farther from one "
            f"peak, or nearer, than those onto random bases over seeds {quantised}."
            f"{_detail(here, QUANTISED)}",
        ),
        ("Do activations that prefer a basis reconstruct better?", _error_told(differences)),
        (
            "May I believe it?",
            f"{sure} of {len(here)} cells are unconfounded: optimiser, initialiser and architecture"
            f" respect rotations, so that the activation alone knows the axes. {_limits(here)}",
        ),
    ]


def _detail(here: pd.DataFrame, families: Sequence[str]) -> str:
    """Says on which side what was found over seeds lies, and of which activations."""
    found: dict[str, dict[str, dict[str, None]]] = {}
    for row in here.to_dict("records"):
        for one in (one for family in families for one in registry.chosen(family=family)):
            if one.sides and row.get(f"{one.name}_q", np.nan) <= LEVEL:
                of = found.setdefault(one.sides[row[f"{one.name}_rank"] > 0], {})
                of.setdefault(row["activation"], {})[row["optimizer"]] = None
    several = here["optimizer"].nunique()
    texts = []
    for words, activations in found.items():
        named = (
            name if len(under) == several else f"{name} ({', '.join(under)} alone)"
            for name, under in activations.items()
        )
        texts.append(f"{words}: {', '.join(named)}")
    return f" In detail, {'; '.join(texts)}." if texts else ""


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


def _error_told(rows: Sequence[Mapping[str, Any]]) -> str:
    """Says in how many cells an activation's error differs from its isotropic partner's."""
    if not rows:
        return "There is no isotropic activation to compare with."
    sure = [row for row in rows if row["q"] <= LEVEL]
    better = sum(row["difference"] < 0 for row in sure)
    judged = sum(np.isfinite(row["q"]) for row in rows)
    if not judged:
        return "Too few seeds to judge."
    worse = len(sure) - better
    return (
        f"Over seeds, their held-out error is smaller than the isotropic partner's in {better} of "
        f"{judged} cells and larger in {worse}; in {judged - better - worse} there is no evidence."
    )


def _limits(rows: pd.DataFrame) -> str:
    names = [name for family in (*ALIGNED, *QUANTISED) for name in registry.names(family=family)]
    least = [rows[f"{name}_q_least"].min() for name in names if f"{name}_q_least" in rows]
    if not np.nanmin([*least, np.inf]) <= LEVEL:
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
) -> Markup:
    """Writes `answer_<name>.md`, and returns the answer of one group for the top of the page.

    Args:
      verdicts: A table that `verdict_table` returned.
      runs: The runs that `measure` measured of that group.
      folder: The folder to write into.
      name: A part of the file's name that differs between groups.
      heading: The name of the group, for readers.
      strip: The picture that stands below it.
    """
    differences = error_differences(runs)
    errors = error_texts(runs, differences)
    found = {site: matrices(verdicts, errors, site=site) for site in SITES}
    asked = sentences(verdicts, runs, differences)
    lines = [
        printable(heading),
        "",
        *(textwrap.fill(f"{one} {told}", WIDTH) for one, told in asked),
    ]
    for site, ones in found.items():
        for one in ones:
            title = printable(f"{one.title}, {WHEN[site]}")
            lines += ["", title, "", as_markdown(one.header, one.body)]
    lines += ["", textwrap.fill(f"{LEGEND} {STARRED}", WIDTH)]
    (folder / f"answer_{name}.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return render(
        "answer",
        heading=heading,
        asked=asked,
        legend=LEGEND,
        strip=strip,
        starred=STARRED,
        sites=[
            (WHEN[site], [html_table(one.header, one.body, caption=one.title) for one in ones])
            for site, ones in found.items()
        ],
    )
