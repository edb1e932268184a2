"""A folder of figures and tables that describe an array of latents."""

import itertools
import json
import os
import pathlib
import warnings
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import xarray as xr
from markupsafe import Markup
from matplotlib.figure import Figure

from ppp_jax.analysis.inference.acceptance import acceptance_test
from ppp_jax.analysis.inference.rotation_test import (
    MOST_ROTATIONS,
    ROTATIONS,
    pool,
    rotation_test,
)
from ppp_jax.analysis.io.load import is_run, load
from ppp_jax.analysis.io.rows import RAISE, check_rows
from ppp_jax.analysis.io.sources import Latents, axis_names
from ppp_jax.analysis.limits import LEAST_ROTATIONS
from ppp_jax.analysis.plots.figures import page_panels
from ppp_jax.analysis.plots.ppp import plot_srm
from ppp_jax.analysis.plots.strips import plot_strip
from ppp_jax.analysis.plots.style import PAGE, style
from ppp_jax.analysis.projection.kernel import check_epsilon
from ppp_jax.analysis.projection.planes import resolve_vectors
from ppp_jax.analysis.projection.points import EmptyPPPWarning, count_planes, top_planes
from ppp_jax.analysis.projection.ppp import ppp
from ppp_jax.analysis.projection.srm import srm
from ppp_jax.analysis.report import array_page
from ppp_jax.analysis.report.pages import html_figure
from ppp_jax.analysis.results.comparisons import with_q
from ppp_jax.analysis.results.layer_comparison import NO_ROW
from ppp_jax.analysis.statistics import registry
from ppp_jax.analysis.texts import drawn, write_csv, write_markdown
from ppp_jax.errors import InputError, whole
from ppp_jax.files import atomic
from ppp_jax.files.mirrors import located
from ppp_jax.notebook import Folder

RECORD, PAGE_FILE = "analysis.json", "index.html"
TOP, MAX_GROUPS = 100, 64
MOST_TESTED = 2**36  # multiplications of samples by rotations: more take minutes
MOST_POINTS = 2**26  # accepted points under all rotations of A/A0: more take above 5 s
PAIRS_PER_POINT = 32  # pairs of a sample and a plane that take as long as an accepted point
ROTATED_SEED = 0  # of the rotations of A/A0, the first of which pictures stand beside
TESTED = ("statistic", "value", "null", "low", "high", "z", "p", "q")
ROWS = ("rows", "rows_nonfinite", "rows_zero", "rows_long")
WHY = "not_judged"
SPECIAL = {
    "rows_nonfinite": "rows that are not finite, which are left out",
    "rows_zero": "rows of zeros",
    "rows_long": "rows longer than 100 times the median row",
}
SRM_COLUMNS = 4
NOTED = "Below a picture: where A/A0 of 95 % of random bases lies"
COLUMNS = [
    "accepted",
    "acceptance",
    "acceptance_null",
    "acceptance_ratio",
    "log10_acceptance_ratio",
]


def write_analysis(
    latents: Latents | str | os.PathLike[str],
    out: str | pathlib.Path,
    *,
    by: Sequence[str] = (),
    epsilon: Any = 0.85,
    angles: Any = 360,
    signed: bool = False,
    rotations: int | None = None,
    drop_outliers: float | None = None,
    **options: Any,
) -> pathlib.Path:
    """Writes pictures, curves, tests, tables and a page into a folder, all of them or none.

    `index.html` says in plain words what was found, and shows the pictures and the tables.
    `ppp.png` and `srm.png` have a row per group and a column per ε; beside each picture of PPP
    stands that of the same latents in a rotated basis. `fractions.csv` and `fractions.md` hold A/A0
    and, where tests are made, the mean, the 2.5 and 97.5 % quantiles and p of its rotation null.
    `tests.csv` and `tests.md` hold the parts of alignment and the quantisation of each group
    against the rotation null (docs/method.md §6, §8), `srm.csv` holds
    the mean SRM curves, and `planes.csv` holds the 100 planes of each group that accept the most
    samples at the largest ε. `analysis.json` says how everything was made.

    Args:
      latents: A single array of latents, `(..., samples, units)`, or the path of a file that holds
        a single array, as `load` opens it.
      out: The folder to write. An earlier analysis in it is replaced, and other files in it are
        kept.
      by: Axes of the latents to keep apart as groups; all others are pooled.
      epsilon: One acceptance cosine ε in [0, 1], or several.
      angles: Number of angles of the SRM curves, or the angles themselves in radians.
      signed: Whether SRM subtracts the samples near the opposite of the probe.
      rotations: K of the rotation null; 0 makes no tests. None means 200, or no tests of latents
        of which these would take minutes: 200 times all numbers times the units above 7·10¹⁰; and
        fewer of A/A0, or none, where these would take above some seconds. Pictures of a
        rotated basis are left out of latents 200 times as large. `analysis.json` says what was
        done.
      drop_outliers: Rows longer than so many times the median row are left out of `tests.csv`; None
        keeps them. Pictures, curves and A/A0 see directions, and keep them.
      **options: The arguments `basis`, `planes`, `max_planes`, `plane_seed`, `centre`, `whiten`,
        `nonfinite` and `progress` of `ppp`; the tests in `tests.csv`, which take mean, covariance
        and shape apart themselves, are of the latents as they are.

    Returns:
      The path of the folder.

    Raises:
      InputError: An argument is out of its range, `out` exists and is no analysis, `out` cannot be
        written, or another process is writing it.
    """
    out = pathlib.Path(os.path.abspath(pathlib.Path(out).expanduser()))
    atomic.check(out, field="out", value=out, kind=atomic.ANALYSIS)
    epsilons = np.unique(check_epsilon(epsilon))
    check_rows(options.get("nonfinite", RAISE), drop_outliers)
    if isinstance(latents, str | os.PathLike) and is_run(located("latents", latents)):
        problem = "is a run folder; open one array of it by load(…, name='pre')"
        raise InputError("latents", latents, problem)
    array = _named(load(latents))
    names, groups = _groups(array, axis_names(by))
    chosen = _chosen(rotations, array)
    lock = atomic.hidden(out, "lock")
    with (
        atomic.locked(out.parent, name=lock, field="out", value=out),
        atomic.replacing(out, field="out", value=out, kind=atomic.ANALYSIS) as folder,
    ):
        _analyse(
            names,
            groups,
            folder,
            epsilons=epsilons,
            angles=angles,
            signed=signed,
            chosen=chosen,
            drop_outliers=drop_outliers,
            **options,
        )
    return Folder(out)


def _named(array: xr.DataArray) -> xr.DataArray:
    """Calls the last two axes of an array without such names `sample` and `unit`."""
    if {"sample", "unit"} & set(array.dims):
        return array
    return array.rename(dict(zip(array.dims[-2:], ("sample", "unit"), strict=True)))


class _Chosen(NamedTuple):
    """What is done, so that nothing takes minutes that was not asked for.

    Attributes:
      rotations: K of the tests; 0 makes none.
      asked: Whether K is what was asked for, however long it takes.
      beside: Whether pictures of a rotated basis are made.
    """

    rotations: int
    asked: bool
    beside: bool


def _chosen(asked: int | None, array: xr.DataArray) -> _Chosen:
    cost = array.size * array.sizes["unit"]
    if asked is None:
        rotations = ROTATIONS if ROTATIONS * cost <= MOST_TESTED else 0
    else:
        rotations = whole("rotations", asked, least=0, most=MOST_ROTATIONS)
    return _Chosen(rotations, asked is not None, cost <= MOST_TESTED)


class _Group(NamedTuple):
    """What was found of one group.

    Attributes:
      picture: PPP at every ε.
      beside: The same in a rotated basis, or None.
      curve: SRM at every ε.
      top: The planes with the most samples.
      tests: The tests of alignment and quantisation, or None.
      acceptance: The test of A/A0 at every ε, or None.
      rotations: How many rotations that took.
    """

    picture: xr.Dataset
    beside: xr.Dataset | None
    curve: xr.Dataset
    top: xr.Dataset
    tests: pd.DataFrame | None
    acceptance: xr.Dataset | None
    rotations: int


def _analyse(
    names: list[dict[str, Any]],
    groups: Iterator[xr.DataArray],
    folder: pathlib.Path,
    *,
    epsilons: np.ndarray,
    angles: Any,
    signed: bool,
    chosen: _Chosen,
    drop_outliers: float | None,
    **options: Any,
) -> None:
    """Computes the pictures, curves, tests and tables of every group, and then writes them."""
    curve = {"angles": angles, "signed": signed}
    found = [_found(group, epsilons, curve, chosen, drop_outliers, options) for group in groups]
    told = json.dumps(_made(names, found, epsilons, chosen, drop_outliers), indent=1, default=str)
    (folder / RECORD).write_text(told, encoding="utf-8")
    tests = _tests(names, [group.tests for group in found if group.tests is not None])
    tables = _write_tables(names, found, folder) | _write_tests(names, tests, folder)
    called = _unique([_called(name) for name in names])
    page = array_page.render_page(
        dict(zip(called, (table.to_dict("records") for table in tests), strict=True))
        if tests
        else {},
        _told(found, chosen, options),
        pictures=_draw(found, [_title(name) for name in names], folder),
        tables=tables,
        epsilon=", ".join(f"{epsilon:g}" for epsilon in epsilons),
        made=told,
    )
    (folder / PAGE_FILE).write_text(page, encoding="utf-8")


def _made(
    names: list[dict[str, Any]],
    found: list[_Group],
    epsilons: np.ndarray,
    chosen: _Chosen,
    drop_outliers: float | None,
) -> dict[str, Any]:
    """Returns what `analysis.json` says."""
    dropped = {} if drop_outliers is None else {"drop_outliers": drop_outliers}
    return {
        "by": list(names[0]),
        "groups": names,
        **found[0].curve.attrs,
        "epsilon": epsilons.tolist(),
        "rotations": chosen.rotations,
        "acceptance_rotations": [group.rotations for group in found],
        "rotated_beside": chosen.beside,
        **dropped,
    }


def _told(found: list[_Group], chosen: _Chosen, options: dict[str, Any]) -> array_page.Told:
    """Returns what the page says of how the tests were made."""
    curve, basis = found[0].curve.attrs, options.get("basis")
    tests = [group.tests for group in found if group.tests is not None]
    return array_page.Told(
        basis=str(curve["basis"]),
        orthonormal=resolve_vectors(basis, curve["units"]).orthonormal,
        rotations=chosen.rotations,
        long=not chosen.asked and not chosen.rotations,
        networks=any("low" not in table for table in tests),
        special={
            what: sum(int(table[key].iloc[0]) for table in tests) for key, what in SPECIAL.items()
        },
    )


def _found(
    group: xr.DataArray,
    epsilons: np.ndarray,
    curve: dict[str, Any],
    chosen: _Chosen,
    drop_outliers: float | None,
    options: dict[str, Any],
) -> _Group:
    """Computes everything of one group."""
    options = {**options, "epsilon": epsilons}
    rules: dict[str, Any] = {
        key: options[key] for key in ("basis", "nonfinite", "progress") if key in options
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", EmptyPPPWarning)  # Panels and tables show it.
        picture, beside = ppp(group, **options), None
        if chosen.beside:
            turned = {"rotated": ROTATED_SEED, "extent": picture.attrs["extent"]}
            beside = ppp(group, **options | turned)
        curves = srm(group, **curve, **options)
    top = top_planes(count_planes(group, **options), TOP)
    rules |= {"rotations": chosen.rotations, "drop_outliers": drop_outliers}
    tests = _tested(group, **rules) if chosen.rotations else None
    rotations, acceptance = _acceptance_rotations(picture, chosen), None
    if rotations:
        acceptance = acceptance_test(
            group, rotations=rotations, rotation_seed=ROTATED_SEED, **options
        )
    return _Group(picture, beside, curves, top, tests, acceptance, rotations)


def _acceptance_rotations(picture: xr.Dataset, chosen: _Chosen) -> int:
    """Returns K of the test of A/A0: as many as of the others, unless that takes long."""
    pairs = picture.attrs["samples"] * picture.attrs["frame_planes"]
    points = int(picture["accepted"].max()) + pairs // PAIRS_PER_POINT
    if chosen.asked or points * chosen.rotations <= MOST_POINTS:
        return chosen.rotations
    fewer = MOST_POINTS // points
    return fewer if fewer >= LEAST_ROTATIONS else 0


def _groups(
    array: xr.DataArray, by: Sequence[str]
) -> tuple[list[dict[str, Any]], Iterator[xr.DataArray]]:
    """Returns the names of all groups, and an iterator over their latents."""
    known = [dim for dim in array.dims if dim not in ("sample", "unit")]
    for axis in by:
        if axis not in known:
            raise InputError("by", axis, f"is no axis that can be kept apart; choose among {known}")
    sizes = [array.sizes[axis] for axis in by]
    if np.prod(sizes) > MAX_GROUPS:
        raise InputError("by", list(by), f"makes {np.prod(sizes)} groups; at most {MAX_GROUPS} fit")
    selections = [dict(zip(by, index, strict=True)) for index in np.ndindex(*sizes)]
    labels = {axis: array[axis].values.tolist() for axis in by}  # Unlabelled axes have indices.
    names = [{axis: labels[axis][k] for axis, k in chosen.items()} for chosen in selections]
    return names, (array.isel(chosen) for chosen in selections)


def _tested(group: xr.DataArray, **options: Any) -> pd.DataFrame:
    """Tests one group: each cloud of it, or those along `seed` together.

    Args:
      group: The latents, `(..., samples, units)`.
      **options: Arguments of `rotation_test`.
    """
    names = [*registry.names(of=[registry.BASIS], only_reported=False), "axis_quantisation"]
    tested = rotation_test(group, statistics=names, **options)
    networks = "seed" in tested["value"].dims
    found = pool(tested) if networks else tested
    table = found[["value", "mean", "z", "rank"]].assign(p=found["p_networks" if networks else "p"])
    if not networks:
        table = table.assign(low=found["low"], high=found["high"])
    rows = table.to_dataframe().reset_index().assign(**{key: tested.attrs[key] for key in ROWS})
    why = dict(one.split(": ", 1) for one in tested.attrs.get(WHY, "").split("; ") if one)
    if not tested.attrs["rows"]:
        why = dict.fromkeys(names, NO_ROW)
    rows[WHY] = [why.get(name, "") for name in rows["statistic"]]
    return rows.rename(columns={"mean": "null"})


def _tests(names: list[dict[str, Any]], tests: list[pd.DataFrame]) -> list[pd.DataFrame]:
    """Returns the tests of every group with its name, and q over the groups of each statistic."""
    if not tests:
        return []
    tables = [table.assign(**name) for name, table in zip(names, tests, strict=True)]
    table = with_q(pd.concat(tables, ignore_index=True), by=["statistic"])
    ends = np.cumsum([0, *(len(one) for one in tests)])
    return [table.iloc[a:b] for a, b in itertools.pairwise(ends)]


def _write_tests(
    names: list[dict[str, Any]], tests: list[pd.DataFrame], folder: pathlib.Path
) -> dict[str, array_page.Table]:
    """Writes the tests of all groups, and returns the table as the page shows it."""
    if not tests:
        return {}
    axes, table = list(names[0]), pd.concat(tests)
    columns = [*axes, *(name for name in (*TESTED, *ROWS, WHY) if name in table)]
    write_csv(table[columns], folder / "tests.csv")
    shown = _texts(table[columns])
    write_markdown(*shown, folder / "tests.md")
    return {"tests": shown}


def _texts(table: pd.DataFrame) -> tuple[list[str], list[list[str]]]:
    """Returns the header and the rows of a table, with four digits of every number."""
    body = [
        [f"{x:.4g}" if isinstance(x, float) else str(x) for x in row]
        for row in table.itertuples(index=False)
    ]
    return [str(column).replace("_", " ") for column in table], body


def _called(name: dict[str, Any]) -> str:
    return _title(name).replace("\n", ", ")


def _unique(names: list[str]) -> list[str]:
    """Returns names, with a number behind those that stood before."""
    found: list[str] = []
    for name in names:
        before = sum(other == name for other in names[: len(found)])
        found.append(f"{name} ({before + 1})" if before else name)
    return found


def _title(name: dict[str, Any]) -> str:
    return "\n".join(
        value if isinstance(value, str) else f"{axis} {value}" for axis, value in name.items()
    )


def _draw(found: list[_Group], rows: list[str], folder: pathlib.Path) -> dict[str, Markup]:
    """Writes the figures, and returns them for the page by their headings."""
    epsilons = found[0].picture["epsilon"].values
    columns = [f"ε = {epsilon:g}" for epsilon in epsilons]
    every = range(len(epsilons))
    panels = [[group.picture.isel(epsilon=k) for k in every] for group in found]
    turned = [
        [None if group.beside is None else group.beside.isel(epsilon=k) for k in every]
        for group in found
    ]
    notes = [[_note(group, k) for k in every] for group in found]
    title = NOTED if any(note for line in notes for note in line) else ""
    strip = plot_strip(panels, rows=rows, columns=columns, title=title, beside=turned, notes=notes)
    shown = " and ".join(columns) if len(columns) < 3 else f"{columns[0]} to {columns[-1]}"
    of = "the latents" if rows == [""] else ", ".join(row.replace("\n", " ") for row in rows)
    turned_too = (
        ", beside the same latents in a rotated basis" if found[0].beside is not None else ""
    )
    alt = f"Density in the privileged planes of {of} at {shown}{turned_too}."
    pictures = {"PPP: where the samples lie": html_figure(strip, folder / "ppp.png", alt)}
    alt = f"Spotlight resonance of {of} at {shown}: fraction of samples near each direction."
    curves = _draw_srm(found, rows, epsilons)
    return pictures | {"SRM: round the planes": html_figure(curves, folder / "srm.png", alt)}


@style()
def _draw_srm(found: list[_Group], rows: list[str], epsilons: np.ndarray) -> Figure:
    """Draws the curves of every group at every ε: a row per group, unless there is one ε."""
    places = [(row, group, k) for row, group in zip(rows, found, strict=True)
              for k in range(len(epsilons))]  # fmt: skip
    each = len(places) if len(epsilons) == 1 else len(epsilons)  # panels of a row, if it is wide
    across = min(each, SRM_COLUMNS)
    down = -(-each // across)
    lines = [places[start : start + each][k * across : (k + 1) * across]
             for start in range(0, len(places), each) for k in range(down)]  # fmt: skip
    polar: dict[str, Any] = {"projection": "polar"}
    size: dict[str, Any] = {"width": PAGE / SRM_COLUMNS, "height": 300 + 15 * bool(any(rows))}
    figure, grid = page_panels(len(lines), across, **size, subplot_kw=polar)
    for line, panels in itertools.zip_longest(lines, grid):
        for place, axes in itertools.zip_longest(line, panels):
            if place is None:
                axes.set_axis_off()
                continue
            name, group, k = place
            plot_srm(group.curve.isel(epsilon=k), ax=axes)
            texts = drawn(name.replace("\n", ", ")), axes.get_title(loc="center")
            axes.set_title("\n".join(filter(None, texts)), loc="center")
    return figure


def _note(group: _Group, level: int) -> str:
    """Returns where A/A0 of 95 % of the rotated bases lies, as a text, or '' if it is unknown."""
    if group.acceptance is None:
        return ""
    low, high = (float(group.acceptance[end][level]) for end in ("low", "high"))
    return f"{low:.3g} to {high:.3g}" if np.isfinite([low, high]).all() else ""


def _write_tables(
    names: list[dict[str, Any]], found: list[_Group], folder: pathlib.Path
) -> dict[str, array_page.Table]:
    """Writes the fractions, curves and planes, and returns the fractions as the page shows them."""
    fractions, turns, planes = [], [], []
    for name, group in zip(names, found, strict=True):
        picture = group.picture
        at_epsilon = picture[COLUMNS].to_dataframe()[COLUMNS].reset_index()
        if group.acceptance is not None:
            ends = ("mean", "low", "high", "p")
            at_epsilon = at_epsilon.assign(
                **{f"rotated_{end}": group.acceptance[end].values for end in ends}
            )
        counted = {k: picture.attrs[k] for k in ("samples", "zero_rows", "dropped_rows")}
        fractions.append(at_epsilon.assign(**counted, **name))
        turns.append(group.curve[["pooled", "null"]].to_dataframe().reset_index().assign(**name))
        table = group.top.isel(epsilon=-1).to_dataframe().reset_index(drop=True)
        planes.append(table[["first", "second", "counts", "acceptance_ratio"]].assign(**name))
    axes = list(names[0])
    for tables, file in ((fractions, "fractions"), (turns, "srm"), (planes, "planes")):
        table = pd.concat(tables, ignore_index=True)
        table = table[axes + [column for column in table if column not in axes]]
        write_csv(table, folder / f"{file}.csv")
        if file == "fractions":
            shown = _texts(table)
    write_markdown(*shown, folder / "fractions.md")
    return {"fractions": shown}
