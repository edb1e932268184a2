"""The page of an array of latents: the answer in plain words, the pictures, and all numbers."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from markupsafe import Markup

from ppp_jax.analysis.inference.rotation_test import ROTATIONS
from ppp_jax.analysis.inference.seeds import LEVEL, false_discovery
from ppp_jax.analysis.report.answer import ALIGNED, NOTHING, QUANTISED, UNKNOWN
from ppp_jax.analysis.report.pages import html_table, matrix_table, render
from ppp_jax.analysis.results.tables import probability, signed
from ppp_jax.analysis.statistics import registry

QUESTIONS = {
    "Are the latents aligned with the axes?": ALIGNED,
    "Are they quantised along the axes?": QUANTISED,
}
EVIDENCE = "●"
COLUMNS = {**{family: family for family in ALIGNED}, "quantisation": "quantised"}
WHAT = {"quantisation": "levels along the axes"}  # the words for a family that are not its name
MOST_NAMED = 8  # groups that a sentence names

Row = Mapping[str, Any]
Table = tuple[Sequence[str], Sequence[Sequence[str]]]


class Told(NamedTuple):
    """How the tests of an analysis were made.

    Attributes:
      basis: The name of the basis.
      orthonormal: Whether its vectors are.
      rotations: K of the rotation null; 0: nothing was tested.
      long: Whether nothing was tested because that would have taken minutes.
      networks: Whether several networks were tested together.
      special: Numbers of rows by what is special about them.
    """

    basis: str
    orthonormal: bool
    rotations: int
    long: bool
    networks: bool
    special: Mapping[str, int]


class Found(NamedTuple):
    """What one family of statistics says of one group.

    Attributes:
      group: The name of the group; '' if there is only one.
      family: One of `registry.FAMILIES`.
      statistic: The statistic that judges it there.
      z: Distance of its value from the mean of the random bases, in their standard deviations.
      above: Whether the value lies above the middle of the random bases.
      q: The false discovery rate among all tests of the question; missing if not judged.
      why: Why it cannot be judged, or ''.
      first: Whether the statistic is the first that judges its family there.
      tried: How many tests the question has.
    """

    group: str
    family: str
    statistic: registry.Statistic
    z: float
    above: bool
    q: float
    why: str
    first: bool
    tried: int

    @property
    def symbol(self) -> str:
        """What stands in the matrix."""
        if not np.isfinite(self.q):
            return UNKNOWN
        return EVIDENCE if self.q <= LEVEL else NOTHING

    @property
    def words(self) -> str:
        """The words for the side of the null on which the group lies."""
        assert self.statistic.sides is not None  # what judges has them
        return self.statistic.sides[self.above]


def findings(tests: Mapping[str, Sequence[Row]], *, orthonormal: bool) -> list[Found]:
    """Returns what each family says of each group: the statistic with the smallest q speaks.

    All tests that can answer a question are one family of false discoveries: those of every group,
    and of each statistic that judges it.

    Args:
      tests: Rows of tests, with `rank` and `p`, by the names of the groups.
      orthonormal: Whether the vectors of the basis are, which decides what judges.
    """
    by_name = {name: {row["statistic"]: row for row in rows} for name, rows in tests.items()}
    found: list[Found] = []
    for families in QUESTIONS.values():
        asked = [
            (group, one)
            for group, rows in by_name.items()
            for family in families
            for one in registry.judging(orthonormal=orthonormal, family=family)
            if one.name in rows
        ]
        q = false_discovery([by_name[group][one.name]["p"] for group, one in asked])
        tried = int(np.isfinite(q).sum())
        least: dict[tuple[str, str], Found] = {}
        for (group, one), value in zip(asked, q.tolist(), strict=True):
            row, where = by_name[group][one.name], (group, str(one.family))
            if where not in least or value < least[where].q or np.isnan(least[where].q):
                side, why, first = bool(row["rank"] > 0), row["not_judged"], where not in least
                least[where] = Found(*where, one, row["z"], side, value, why, first, tried)
        found += least.values()
    return sorted(found, key=lambda one: [*by_name].index(one.group))


def sentences(found: Sequence[Found], told: Told) -> list[tuple[str, str]]:
    """Returns a question and its answer in plain words, for each question that the page answers.

    Args:
      found: What `findings` returned; nothing if no tests were made.
      told: How the tests were made.
    """
    if not found:
        text = (
            f"This was not tested: {ROTATIONS} rotations of so many numbers take minutes, and "
            "`rotations=200` makes them anyway."
            if told.long
            else "This was not tested, because no rotations were asked for."
        )
        return [(question, text) for question in QUESTIONS]
    asked = []
    for question, families in QUESTIONS.items():
        here = [one for one in found if one.family in families]
        one_group = len({one.group for one in here}) == 1
        asked.append((question, _of_one(here) if one_group else _of_several(here)))
    return [*asked, ("May I believe it?", _believed(found, told))]


def _is_yes(one: Found) -> bool:
    """Returns whether a finding answers its question with yes; levels are on one side only."""
    return one.symbol == EVIDENCE and (one.above or one.family not in QUANTISED)


def _of_one(found: Sequence[Found]) -> str:
    """Says what the families say of a single group."""
    sure = [one for one in found if one.symbol == EVIDENCE]
    begin = "Yes" if any(map(_is_yes, sure)) else "No"
    told = "; ".join(f"{one.words} (q {_q(one.q)})" for one in sure)
    texts = [f"{begin}: {told}."] if sure else []
    unsure = [f"{_what(one)} (q {_q(one.q)})" for one in found if one.symbol == NOTHING]
    if unsure:
        texts.append(f"There is no evidence in {', '.join(unsure)}.")
    texts += [f"The {_what(one)} cannot be judged{_why(one)}." for one in _unknown(found)]
    return " ".join(texts)


def _unknown(found: Sequence[Found]) -> list[Found]:
    return [one for one in found if one.symbol == UNKNOWN]


def _why(one: Found) -> str:
    """Returns the reason, such as ` in 1 of 2 clouds (nothing varies)`, or after a colon."""
    why = one.why or "there is no null"
    return f" in {why}" if why[0].isdigit() else f": {why}"


def _of_several(found: Sequence[Found]) -> str:
    """Says of how many groups the families find something, and what."""
    groups = len({one.group for one in found})
    judged = len({one.group for one in found if one.symbol != UNKNOWN})
    sides: dict[str, list[str]] = {}
    for one in found:
        if one.symbol == EVIDENCE:
            sides.setdefault(one.words, []).append(one.group)
    texts = (
        [] if sides or not judged else [f"There is no evidence of it in any of {judged} groups."]
    )
    if sides:
        yes = len({one.group for one in found if _is_yes(one)})
        told = [f"{words}: {_listed(named)}" for words, named in sides.items()]
        texts.append(f"Yes in {yes} of {groups} groups. In detail, {'; '.join(told)}.")
    lost: dict[str, list[str]] = {}
    for one in _unknown(found):
        lost.setdefault(f"The {_what(one)} cannot be judged{_why(one)}", []).append(one.group)
    return " ".join([*texts, *(f"{text}: {_listed(named)}." for text, named in lost.items())])


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    return ", ".join(names[:MOST_NAMED]) + more


def _what(one: Found) -> str:
    return WHAT.get(one.family, one.family)


def _q(value: float) -> str:
    text = probability(value)
    return text if text.startswith("<") else f"= {text}"


def _believed(found: Sequence[Found], told: Told) -> str:
    """Says of what the tests are, and what they cannot say."""
    texts = [
        f"The latents are held against themselves in {told.rotations:,} random bases, which is "
        "exact: where the basis is not special, 5 % of p are at most 0.05."
    ]
    if told.networks:
        texts.append("They are of these networks, and say nothing of new seeds.")
    else:
        texts.append("They are of this network, and say nothing of another one.")
        tried = max(one.tried for one in found)
        if tried / (told.rotations + 1) > LEVEL:
            texts.append(
                f"One test alone among {tried} cannot reach q ≤ {LEVEL:g} with so few: "
                f"{round(tried / LEVEL) - 1:,} rotations suffice."
            )
    special = [f"{count:,} {what}" for what, count in told.special.items() if count]
    if special:
        texts.append(f"Among the rows are {', '.join(special)}.")
    texts.append("They say that the basis is special, and not why.")
    return " ".join(texts)


def matrix(found: Sequence[Found]) -> tuple[list[str], list[list[str]]]:
    """Returns the header and the rows of the answer: a row per group, a column per family."""
    families = list(dict.fromkeys(one.family for one in found))
    cells = {(one.group, one.family): _cell(one) for one in found}
    groups = list(dict.fromkeys(one.group for one in found))
    body = [
        [group or "all", *(cells.get((group, family), UNKNOWN) for family in families)]
        for group in groups
    ]
    return ["group", *(COLUMNS[family] for family in families)], body


def _cell(one: Found) -> str:
    if one.symbol == UNKNOWN:
        return UNKNOWN
    named = "" if one.first else f" ({one.statistic.short})"
    return f"{one.symbol} {signed(one.z)}{named}"


def render_page(
    tests: Mapping[str, Sequence[Row]],
    told: Told,
    *,
    pictures: Mapping[str, Markup],
    tables: Mapping[str, Table],
    epsilon: str,
    made: str,
) -> Markup:
    """Returns the page of an analysis.

    Args:
      tests: Rows of tests, with `rank` and `q`, by the names of the groups; empty if there are
        none.
      told: How the tests were made.
      pictures: The figures by their headings.
      tables: The tables that the page shows, by the names of their files.
      epsilon: The acceptance cosines ε.
      made: What `analysis.json` says.
    """
    found = findings(tests, orthonormal=told.orthonormal)
    shown = [(name, html_table(*table, label=name)) for name, table in tables.items()]
    return render(
        "array",
        title="ppp_jax analysis",
        asked=sentences(found, told),
        answer=matrix_table(*matrix(found), label="The answer") if found else "",
        basis=told.basis,
        networks=told.networks,
        pictures=pictures.items(),
        tables=shown,
        epsilon=epsilon,
        made=made,
    )
