"""What the numbers allow to say of each cell of a grid, and of differences between cells.

Two questions are kept apart (docs/method.md §9). Do these networks prefer the basis? That is asked
of the ranks of all of them together, of any number. Does it hold over seeds? That is asked by
flipping signs, whose smallest p-value is 2/2^seeds: where so few seeds cannot tell, the verdict
says so and how many would. A claim needs a false discovery rate of at most 5 % over the whole grid.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import xarray as xr

from ppp_jax import bases
from ppp_jax.analysis.inference.seeds import (
    LEVEL,
    attainable,
    bootstrap_interval,
    false_discovery,
    interquartile_mean,
    paired_difference,
    seeds_needed,
)
from ppp_jax.analysis.io.facts import facts_of
from ppp_jax.analysis.projection.views import LEAST_PER_UNIT
from ppp_jax.analysis.results.comparisons import Cell, compare, partner_in, with_q
from ppp_jax.analysis.results.measure import (
    COUNTED,
    COUNTS,
    ENDS,
    SITES,
    Measured,
    cell_dims,
    cells,
)
from ppp_jax.analysis.statistics import registry
from ppp_jax.analysis.statistics.registry import CLOUD, FAMILIES, TESTED, Statistic
from ppp_jax.errors import InputError

TRAINING = "training"
CLAIMS = tuple(f"verdict_{claim}" for claim in (*FAMILIES, TRAINING))  # columns of verdicts
ERROR = "test_mse"  # what is compared beside the statistics
UNKNOWN = {
    "mean": "the mean of no network can be told from 0",
    "covariance": "nothing varies",
    "shape": f"too few samples, or nothing varies; {LEAST_PER_UNIT} samples per unit are needed",
    "quantisation": "nothing varies",
    "angles": "no sample is accepted",
}  # why a family is not judged
NEEDED = {
    "mean": "a mean that can be told from 0",
    "covariance": "latents that vary",
    "shape": f"latents that vary and {LEAST_PER_UNIT} samples per unit",
    "quantisation": "latents that vary",
    "angles": "accepted samples",
}  # what a network needs so that it counts in a test of a family
ENDED = ", untrained and trained"  # when a network needs it so that its change is known
ARTICLES = ("a", "an", "the")


def paired() -> tuple[str, ...]:
    """Returns the variables of which differences are shown: the error, and what statistics ask."""
    return (ERROR, *(f"{one.name}_{site}" for one in registry.chosen() for site in one.compared))


def verdict_table(grid: Sequence[Measured]) -> list[pd.DataFrame]:
    """Judges every cell, before and after the activation, at the last snapshot.

    Args:
      grid: What `measure` returned of every group of latents (architecture and width) of a grid.

    Returns:
      For each group a table, a row per cell and site of latents: its names; `seeds`, how many
      neither diverged nor died; the `rows` of their latents, and those of zeros and far longer ones
      (`rows_zero`, `rows_long`). For every statistic with a rotation null the mean over seeds,
      untrained (`…_first`) and trained, the null's mean (`…_null`), `…_z`, `…_rank`, `…_clouds` and
      p of all seeds (see `pool`): `…_p_networks` of these networks, `…_p` over seeds; and how many
      seeds have p ≤ .05 alone (`…_seeds`). For the others the interquartile mean with its interval.
      For each, above the null's mean, the change by training paired by seed, `…_change` with
      `…_change_low`, `…_change_high`, `…_change_p`, `…_change_seeds`. For those on which verdicts
      rest q of each p (`…_q_networks`, `…_q`, `…_change_q`), and the smallest q that so many seeds
      allow (`…_q_least`, `…_change_q_least`). And the verdicts in words, a column for each of
      `registry.FAMILIES`, such as `verdict_shape`, and `verdict_training`. Each family is one of
      false discoveries over the whole grid, for each of the three p.
    """
    tables = [_group(measured) for measured in grid]
    rows = [row for table in tables for row in table]
    tests = {family: _discover(rows, family) for family in FAMILIES}
    for row in rows:
        judged = row.pop("judged")
        said = [_claim(row, family, judged, tests) for family in FAMILIES]
        row |= dict(zip(CLAIMS, [*said, _training(row, judged, tests)], strict=True))
    return [pd.DataFrame(table) for table in tables]


class _Question(NamedTuple):
    """A p-value of every statistic, of how many seeds it is, and where its q goes."""

    p: str
    seeds: str
    q: str
    least: str | None  # where the smallest q goes that the seeds allow, of sign flips


QUESTIONS = (
    _Question("p_networks", "clouds", "q_networks", None),
    _Question("p", "clouds", "q", "q_least"),
    _Question("change_p", "change_seeds", "change_q", "change_q_least"),
)


def _discover(rows: list[dict[str, Any]], family: str) -> dict[str, int]:
    """Adds q to all rows: one family of hypotheses, of the statistics that judge there.

    Returns:
      How many tests there are, of each p.
    """
    members, tests = registry.chosen(family=family), {}
    for question in QUESTIONS:
        p = np.full((len(rows), len(members)), np.nan)
        seeds = np.zeros(p.shape)
        for i, row in enumerate(rows):
            for k, one in enumerate(members):
                if one in row["judged"]:
                    p[i, k] = row[f"{one.name}_{question.p}"]
                    seeds[i, k] = row[f"{one.name}_{question.seeds}"]
        q = false_discovery(p)
        least = attainable(p, seeds) if question.least else None
        tests[question.p] = int(np.count_nonzero(seeds))
        for i, row in enumerate(rows):
            for k, one in enumerate(members):
                row[f"{one.name}_{question.q}"] = q[i, k]
                if least is not None:
                    row[f"{one.name}_{question.least}"] = least[i, k]
    return tests


class _Numbers(NamedTuple):
    """What was measured, as arrays over the axes of the grid, by name.

    To select within labelled arrays takes a hundred times as long, cell by cell.

    Attributes:
      runs: of every run, over `seed` and `step` beside.
      pooled: of the seeds together, over `step` beside.
      above: what `excess` returns of every statistic and site, as `runs`.
    """

    runs: dict[str, np.ndarray]
    pooled: dict[str, np.ndarray]
    above: dict[str, np.ndarray]


def _numbers(measured: Measured) -> _Numbers:
    runs, pooled = measured
    names = [f"{one.name}_{site}" for one in registry.chosen() for site in SITES]
    above = {name: excess(runs, name) for name in names}
    return _Numbers(*(_arrays(values, cell_dims(runs)) for values in (runs, pooled, above)))


def _arrays(values: Mapping[Any, xr.DataArray], dims: tuple[str, ...]) -> dict[str, np.ndarray]:
    return {
        str(name): one.transpose(
            *dims, *(dim for dim in ("seed", "step") if dim in one.dims)
        ).values
        for name, one in values.items()
    }


def _group(measured: Measured) -> list[dict[str, Any]]:
    known, numbers = facts_of(measured.runs), _numbers(measured)
    ran = {
        "snapshots": measured.runs.sizes["step"],
        "epoch": measured.runs["epoch"].values[-1].item(),
    }
    found = []
    for names, at in cells(measured.runs):
        orthonormal = bases.is_orthonormal(known[names["activation"]].basis)
        judged = registry.judging(orthonormal=orthonormal)
        place = tuple(at.values())
        for site in SITES:
            row = {**names, "site": site, **_cell(numbers, place, site, ran), "judged": judged}
            found.append(row)
    return found


def _cell(
    numbers: _Numbers, place: tuple[int, ...], site: str, ran: dict[str, Any]
) -> dict[str, Any]:
    """Returns the numbers of a cell: those of its seeds at the first and the last snapshot."""
    runs, pooled, above = numbers

    def of_seeds(name: str, step: int) -> np.ndarray:
        found: np.ndarray = runs[f"{name}_{site}"][place][:, step]
        return found

    row: dict[str, Any] = {
        "seeds": int((of_seeds(COUNTED, -1) > 0).sum()),
        **ran,
        **{name: int(np.nansum(of_seeds(name, -1))) for name in COUNTS},
    }
    for one in registry.chosen(of=TESTED):
        name, of_all = one.name, pooled[f"{one.name}_{site}"][place]
        row |= {f"{name}_first": of_all[0].item(), name: of_all[-1].item()}
        ends = {end: pooled[f"{name}_{site}_{end}"][place][-1].item() for end in ENDS}
        row |= {f"{name}_{end}": value for end, value in ends.items()}
        row[f"{name}_seeds"] = int((runs[f"{name}_{site}_p"][place][:, -1] <= LEVEL).sum())
    for one in registry.chosen(of=[CLOUD]):
        values = of_seeds(one.name, -1)
        low, high = bootstrap_interval(values)
        row |= {one.name: interquartile_mean(values)}
        row |= {f"{one.name}_low": low, f"{one.name}_high": high}
        row[f"{one.name}_first"] = interquartile_mean(of_seeds(one.name, 0))
    for one in registry.chosen():
        change = above[f"{one.name}_{site}"][place]
        found = paired_difference(change[:, -1], change[:, 0])
        ends = {"": found.mean, "_low": found.low, "_high": found.high, "_p": found.p}
        ends["_seeds"] = found.seeds
        row |= {f"{one.name}_change{end}": value for end, value in ends.items()}
    return row


def excess(runs: xr.Dataset, quantity: str) -> xr.DataArray:
    """Returns a quantity per seed, over the mean of its rotation null if it has one.

    A change of the latents' shape alike in all directions is none of their alignment.
    """
    value, null = runs[quantity], f"{quantity}_null"
    return value - runs[null] if null in runs else value


Tests = Mapping[str, Mapping[str, int]]
"""How many tests each family has, of each p."""


def _claim(row: dict[str, Any], family: str, judged: tuple[Statistic, ...], tests: Tests) -> str:
    """Says of one family what the tests of a cell allow to say, and no more."""
    if not row["seeds"]:
        return "not judged: there is no network whose latents vary"
    members = [one for one in judged if one.family == family and row[f"{one.name}_clouds"]]
    if not members:
        return f"not judged: {UNKNOWN[family]}"
    found: dict[str, list[str]] = {}  # sides by how far they reach
    for one in members:
        if row[f"{one.name}_q_networks"] <= LEVEL or row[f"{one.name}_q"] <= LEVEL:
            found.setdefault(_scope(row, one, tests), []).append(_side(row, one))
    if found:
        return "; ".join(f"{joined(sides)}{scope}" for scope, sides in found.items())
    few = [one for one in members if row[f"{one.name}_q_least"] > LEVEL]
    clouds = int(max(row[f"{one.name}_clouds"] for one in members))
    if not few:
        return f"no evidence in {_networks(clouds)}, nor over seeds"
    fewest = int(min(row[f"{one.name}_clouds"] for one in few))
    needed = _too_few(fewest, row["seeds"], family, tests[family]["p"])
    return f"no evidence in {_networks(clouds)}; over seeds it {needed}"


def joined(texts: Sequence[str], *, last: str = " and ") -> str:
    """Returns several texts as one, in which words that all begin or end with are said once.

    Args:
      texts: The texts, of which equal ones count once.
      last: What stands before the last of them.

    Example:
      >>> joined(["the mean is near the axes here", "the mean is near the diagonals here"])
      'the mean is near the axes and the diagonals here'
    """
    words = [text.split() for text in dict.fromkeys(texts)]
    if len(words) == 1:
        return " ".join(words[0])
    begin = _alike(words)
    if begin and words[0][begin - 1] in ARTICLES:  # An article stays with its noun.
        begin -= 1
    rest = [each[begin:] for each in words]
    end = _alike([each[::-1] for each in rest])
    if end and rest[0][-end] in ARTICLES:  # What stands before it differs, and would hang.
        end = 0
    parts = [" ".join(each[: len(each) - end]) for each in rest]
    listed = ", ".join(parts[:-1]) + last + parts[-1]
    return " ".join([*words[0][:begin], listed, *rest[0][len(rest[0]) - end :]])


def ending(texts: Sequence[str]) -> str:
    """Returns the words with which all of several texts end, with the space before them, or ''.

    Args:
      texts: The texts.

    Example:
      >>> ending(["more round than before", "less round than before"])
      ' round than before'
    """
    words = [text.split() for text in texts]
    count = _alike([each[::-1] for each in words])
    return "".join(f" {word}" for word in words[0][len(words[0]) - count :])


def _alike(texts: Sequence[Sequence[str]]) -> int:
    """Returns with how many words all of several texts begin, at least one of each left over."""
    most = min(map(len, texts)) - 1
    count = 0
    while count < most and len({text[count] for text in texts}) == 1:
        count += 1
    return count


def _scope(row: dict[str, Any], one: Statistic, tests: Tests) -> str:
    """Returns how a finding is to be taken: whether by most seeds only, and how far it reaches."""
    clouds = int(row[f"{one.name}_clouds"])
    apart = row[f"{one.name}_rank"] * row[f"{one.name}_z"] <= 0
    far = ", a few seeds far off" if apart else ""
    if row[f"{one.name}_q"] <= LEVEL:
        return f"{far}, over seeds"
    these = f"{far}, in {_networks(clouds)}"
    if row[f"{one.name}_q_least"] > LEVEL:
        family = str(one.family)
        few = _too_few(clouds, row["seeds"], family, tests[family]["p"])
        return f"{these} (over seeds it {few})"
    return f"{these} (no evidence over seeds)"


def _networks(clouds: int) -> str:
    return "this network" if clouds == 1 else f"these {clouds} networks"


def _too_few(known: int, seeds: int, family: str, tests: int, *, when: str = "") -> str:
    """Says why a test over seeds cannot reach q ≤ 5 %, and what would do.

    Args:
      known: How many seeds count in the test.
      seeds: How many there are.
      family: The family of the test.
      tests: How many tests the family has.
      when: When each network needs what it needs to count; '' is always.
    """
    need = seeds_needed(tests) if known else None
    if known == seeds:
        limit = f"{need} would do" if need else "no number would do for so many tests"
        return f"cannot be judged at {counted_seeds(seeds)}: {limit}"
    more = f", and {need} such seeds would do" if need else ""
    has = "has" if known == 1 else "have"
    return f"cannot be judged: {known} of {counted_seeds(seeds)} {has} {NEEDED[family]}{when}{more}"


def counted_seeds(seeds: int) -> str:
    """Returns a number of seeds as a text, such as `1 seed` or `8 seeds`.

    Args:
      seeds: The number.
    """
    return "1 seed" if seeds == 1 else f"{seeds} seeds"


def _training(row: dict[str, Any], judged: tuple[Statistic, ...], tests: Tests) -> str:
    """Says which statistics training changed, over seeds, and of which families it cannot tell."""
    if row["snapshots"] == 1:
        return "not judged: there is one snapshot"
    if not any(row[f"{one.name}_change_seeds"] for one in judged):
        return "not judged: there is no network whose latents vary"
    moves: dict[tuple[str | None, ...], list[str]] = {}  # by families, and how they begin
    known: dict[str, list[int]] = {}  # of families that cannot be judged, how many seeds count
    for one in judged:
        if row[f"{one.name}_change_q"] <= LEVEL:
            text = _of_two(one.moves, above=bool(row[f"{one.name}_change"] > 0))
            moves.setdefault((one.family, *text.split()[:2]), []).append(text)
        if not row[f"{one.name}_change_q_least"] <= LEVEL:
            seeds = int(row[f"{one.name}_change_seeds"])
            known.setdefault(str(one.family), []).append(seeds)
    few = _few_changes(row["seeds"], {family: min(each) for family, each in known.items()}, tests)
    if known.keys() == {str(one.family) for one in judged}:
        return few
    found = joined([joined(each) for each in moves.values()], last=", and ") if moves else ""
    found = found or "no evidence of a change by training"
    return f"{found}; {few}" if few else found


def _few_changes(seeds: int, known: Mapping[str, int], tests: Tests) -> str:
    """Says of which families the change cannot be judged, and why.

    Args:
      seeds: How many seeds there are.
      known: Of how many of them the change of each family is known.
      tests: How many tests each family has.
    """
    families: dict[str, list[str]] = {}
    most = max((tests[one]["change_p"] for one in known if known[one] == seeds), default=0)
    for family, count in known.items():
        here = most if count == seeds else tests[family]["change_p"]
        why = _too_few(count, seeds, family, here, when=ENDED)
        families.setdefault(why, []).append(f"the {family}")
    return "; ".join(f"the change of {joined(names)} {why}" for why, names in families.items())


def _side(row: dict[str, Any], one: Statistic) -> str:
    """Returns the words for the side of the null on which most seeds lie."""
    return _of_two(one.sides, above=row[f"{one.name}_rank"] > 0)


def _of_two(words: tuple[str, str] | None, *, above: bool) -> str:
    assert words is not None  # the registry refuses a family without words
    return words[above]


def difference_table(
    runs: xr.Dataset, *, axis: str = "activation", quantities: Sequence[str] | None = None
) -> pd.DataFrame:
    """Compares cells that differ along one axis only, paired by seed, at the last snapshot.

    Args:
      runs: The runs that `measure` measured.
      axis: `activation`, each against its partner (`partner_of`); or another axis of the grid, each
        value against the first.
      quantities: The variables of `runs` to compare; None means those of `paired`.

    Returns:
      A row per comparison and quantity: names, `against`, `quantity`, `difference` with `low`,
      `high`, `p` and `q`, the false discovery rate over the rows of the same quantity. What has a
      rotation null is compared above the null's mean.

    Raises:
      InputError: the grid has no such axis.
    """
    if axis not in runs["test_mse"].dims or axis in ("seed", "step"):
        raise InputError("axis", axis, "is no axis of the grid")
    quantities = paired() if quantities is None else quantities
    above = {quantity: excess(runs.isel(step=-1), quantity) for quantity in quantities}
    values = [x.item() for x in runs[axis].values]
    found = compare(
        (
            Cell(
                {**at, axis: values[at[axis]]},
                names,
                {quantity: one.isel(at) for quantity, one in above.items()},
            )
            for names, at in cells(runs)
        ),
        axis=axis,
        against=partner_in(facts_of(runs), isotropic=True)
        if axis == "activation"
        else lambda _: values[0],
    )
    return with_q(found, by=["quantity"])


def rate_table(runs: xr.Dataset) -> pd.DataFrame:
    """Shows held-out error at a fixed learning rate and at the best one, for every cell.

    The fixed rate is the grid's first. The best one has the smallest interquartile mean of the
    validation error over seeds, which is not the error reported; a rate at which a seed diverged
    is not eligible, and if there is no other, `best` is missing.

    Args:
      runs: The runs that `measure` measured.

    Returns:
      A row per cell: its names, `rates` (how many were tried), `fixed_rate`, `best_rate`, and
      `fixed` and `best`, the interquartile mean of the held-out error, each with `…_low` and
      `…_high`, and one value per seed in `fixed_seeds` and `best_seeds`; `best_at_end` says that
      the best rate is the smallest or the largest of several, so that a better one may lie beyond.
    """
    last = runs[["test_mse", "validation_mse"]].isel(step=-1)
    rows = []
    for names, at in cells(runs):
        if at["rate"]:
            continue
        alone = {dim: place for dim, place in at.items() if dim != "rate"}
        cell = last.isel(alone).transpose("rate", "seed")
        shown = cell["validation_mse"].values
        score = [interquartile_mean(x) if np.isfinite(x).all() else np.inf for x in shown]
        best = int(np.argmin(score)) if np.isfinite(score).any() else None
        row = {name: value for name, value in names.items() if name != "learning_rate"}
        rates = cell["learning_rate"].values.tolist()
        row["rates"] = len(rates)
        for label, k in (("fixed", 0), ("best", best)):
            errors = (
                np.full(cell.sizes["seed"], np.nan) if k is None else cell["test_mse"].values[k]
            )
            rate = np.nan if k is None else rates[k]
            low, high = bootstrap_interval(errors)
            row |= {
                f"{label}_rate": rate,
                label: interquartile_mean(errors),
                f"{label}_low": low,
                f"{label}_high": high,
                f"{label}_seeds": errors,
            }
        row["best_at_end"] = len(rates) > 1 and row["best_rate"] in (min(rates), max(rates))
        rows.append(row)
    return pd.DataFrame(rows)
