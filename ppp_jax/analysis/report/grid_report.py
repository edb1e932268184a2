"""The report of a run folder: pictures, curves and tables in one self-contained HTML file."""

import json
import pathlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import pandas as pd
import xarray as xr
from markupsafe import Markup
from matplotlib.figure import Figure

from ppp_jax.analysis.io.progress import progress_bar
from ppp_jax.analysis.plots.curves import plot_pairs
from ppp_jax.analysis.report import evidence
from ppp_jax.analysis.report.answer import WHEN, answer_block
from ppp_jax.analysis.report.drawers import Call, drawers
from ppp_jax.analysis.report.pages import html_figure, html_table, render
from ppp_jax.analysis.report.sections import Section, draw_site, sections_of
from ppp_jax.analysis.results import tables
from ppp_jax.analysis.results.kept_numbers import KeptNumbers, Once
from ppp_jax.analysis.results.measure import (
    SITES,
    Measured,
    measure,
)
from ppp_jax.analysis.results.same_functions import alike
from ppp_jax.analysis.results.verdicts import verdict_table
from ppp_jax.analysis.statistics import registry
from ppp_jax.analysis.texts import file_stem

_PLANE = "Each cell's mean dip against the alignment of its shape, {}, from untrained to trained."
EVIDENCE = {
    "verdicts": "Verdicts, in words and numbers",
    "differences": "Differences between activations, paired by seed",
    "planes": "Alignment of the shape and quantisation, untrained and trained",
    "rates": "Reconstruction error and learning rate",
    "calibration": "Calibration of the rotation test",
    "cells": "Table of all cells",
}  # anchors and titles of the evidence of a group
ALT = {
    "differences": "Differences between activations with their intervals, a row per comparison.",
    "calibration": "P-values of the rotation test on clouds without a preferred basis follow the "
    "diagonal if the test is calibrated.",
    **{f"plane-{site}": _PLANE.format(when) for site, when in WHEN.items()},
}  # what the figures of evidence show, for screen readers


class _How(NamedTuple):
    """The folder of a report and its options."""

    folder: pathlib.Path
    epsilon: float
    rotations: int
    progress: bool


class _Group(NamedTuple):
    """The latents of one architecture and one width, with what was found and is drawn of them.

    Attributes:
      name: The beginning of the names of its files.
      heading: What it is, in words.
      dataset: The Dataset that `load_run` returned.
      measured: What `measure` returned.
      sections: Its sections.
      drawn: Of each section and site a function that waits for the pictures of `draw_site`.
    """

    name: str
    heading: str
    dataset: xr.Dataset
    measured: Measured
    sections: list[Section]
    drawn: list[list[Callable[[], dict[str, list[Markup]]]]]


def write_into(
    folder: pathlib.Path,
    workdir: pathlib.Path,
    earlier: pathlib.Path,
    *,
    groups: Sequence[tuple[dict[str, Any], xr.Dataset]],
    made_of: str | None,
    epsilon: float,
    rotations: int,
    progress: bool,
) -> None:
    """Writes the files of a report, see `write_report`.

    Args:
      folder: The folder to write them into.
      workdir: The run folder, which is locked.
      earlier: The folder of an earlier report, whose numbers are taken where they are the same; it
        need not exist.
      groups: What `load_groups` opened of the run folder.
      made_of: What `numbers_made_of` says of the run folder.
      epsilon: Acceptance cosine ε.
      rotations: Number K of random rotations of the null.
      progress: Whether to show a progress bar on stderr.
    """
    how = _How(folder, epsilon, rotations, progress)
    saved, datasets = zip(*groups, strict=True)
    options: dict[str, Any] = {"epsilon": how.epsilon, "rotations": how.rotations}
    kept = KeptNumbers(earlier, made_of)
    measured = [
        measure(dataset, **options, progress=how.progress, once=_of_group(kept, group))
        for dataset, group in zip(datasets, saved, strict=True)
    ]
    kept.write(how.folder)
    sections = [list(sections_of(*each)) for each in zip(datasets, measured, strict=True)]
    pictures = sum(section.pictures for group in sections for section in group)
    calls = len(SITES) * sum(map(len, sections))
    with drawers(pictures, calls) as call:
        rest = zip(saved, datasets, measured, sections, strict=True)
        begun = [_begun(how, call, *each) for each in rest]
        judged = verdict_table(measured)
        parts = [_group_part(how, *each) for each in zip(begun, judged, strict=True)]
    config = json.loads(datasets[0].attrs["manifest"])["config"]
    certificates = evidence.certificate_block(workdir, config)
    page = _page(parts, certificates, datasets[0].attrs, how.epsilon)
    (how.folder / "index.html").write_text(page, encoding="utf-8")


def _of_group(kept: KeptNumbers, group: dict[str, Any]) -> Once:
    """Returns what keeps the numbers of one group of latents."""
    return lambda about, compute: kept.once({**group, **about}, compute)


def _begun(
    how: _How,
    call: Call,
    saved: dict[str, Any],
    dataset: xr.Dataset,
    measured: Measured,
    sections: list[Section],
) -> _Group:
    """Returns a group of which the strips are being drawn."""
    width, architecture = saved["latent_width"], saved["architecture"]
    name = file_stem(("" if architecture == "mlp" else f"{architecture}_") + f"latent_{width}")
    heading, prefix = f"{architecture}, {width} latent units", str(how.folder / name)
    drawn = [
        [call(draw_site, section, site, prefix, how.epsilon) for site in SITES]
        for section in sections
    ]
    return _Group(name, heading, dataset, measured, sections, drawn)


class _Part(NamedTuple):
    """What the page says of one architecture and one width of latents.

    Attributes:
      answer: The answer, for the top of the page.
      heading: The name of the group, for the table of contents.
      contents: Anchors and titles of what follows.
      blocks: The evidence and the pictures.
    """

    answer: Markup
    heading: str
    contents: list[tuple[str, str]]
    blocks: list[Markup]


def _group_part(how: _How, group: _Group, judged: pd.DataFrame) -> _Part:
    """Returns the answer, the evidence and the pictures of one group of a grid."""
    name, heading = group.name, group.heading
    proof = _evidence_block(how, group, judged)
    waits = progress_bar(group.drawn, "report") if how.progress else group.drawn
    drawn = [[wait() for wait in sites] for sites in waits]
    strip = drawn[0][0]["pooled"][0]
    each = zip(group.sections, drawn, strict=True)
    blocks = [_section_block(section, pictures, how, name) for section, pictures in each]
    contents = [
        *((f"{name}-{part}", title) for part, title in EVIDENCE.items()),
        *((_anchor(name, section), f"Pictures: {section.title}") for section in group.sections),
    ]
    answer = answer_block(
        judged,
        group.measured.runs,
        how.folder,
        name,
        heading=heading,
        strip=strip,
        alike=alike(group.dataset),
    )
    return _Part(answer, heading, contents, [proof, *blocks])


def _evidence_block(
    how: _How,
    group: _Group,
    judged: pd.DataFrame,
) -> Markup:
    """Returns the verdicts, the tables and the figures of one group."""
    name, dataset, measured = group.name, group.dataset, group.measured
    counts = {"rotations": how.rotations, "seeds": dataset.sizes["seed"]}
    units = dataset.sizes["unit"]
    text, calibration = evidence.calibration_figure(dataset.sizes["sample"], units)
    pictures = _pictures(how, measured, name, calibration)
    none = Markup("<p>There is one activation, so there is nothing to compare.</p>")
    cells = tables.format_table(tables.write_tables(measured.runs, how.folder, name))
    return render(
        "group",
        heading=group.heading,
        verdicts=evidence.verdict_block(judged, how.folder, name, **counts),
        text=text,
        differences=pictures.get("differences", none),
        compared="differences" in pictures,
        data=evidence.data_block(dataset, units),
        planes=[pictures[f"plane-{site}"] for site in SITES],
        rates=evidence.rate_block(measured.runs, how.folder, name),
        calibration=pictures["calibration"],
        name=name,
        table=html_table(*cells, label="All cells"),
    )


def _pictures(how: _How, measured: Measured, name: str, calibration: Figure) -> dict[str, Markup]:
    """Returns the figures of evidence by name, without those that have nothing to show."""
    figures: dict[str, Figure | None] = {
        "differences": evidence.difference_figure(measured.runs, how.folder, name),
        "calibration": calibration,
    }
    for site, figure in evidence.plane_figures(measured.runs).items():
        figures[f"plane-{site}"] = figure
    return {
        label: html_figure(figure, how.folder / f"{name}-{label}.png", ALT[label])
        for label, figure in figures.items()
        if figure is not None
    }


def _section_block(
    section: Section, drawn: list[dict[str, list[Markup]]], how: _How, name: str
) -> Markup:
    """Returns a section as HTML: its strips, of each site, and its curves."""
    alt = f"Errors and statistics against epochs, a line per activation: {section.title}."
    path = how.folder / f"{name}-{section.slug}-curves.png"
    strips = {kind: [one for site in drawn for one in site[kind]] for kind in drawn[0]}
    return render(
        "section",
        title=section.title,
        anchor=_anchor(name, section),
        curves=html_figure(_curves(section.statistics), path, alt),
        **strips,
    )


def _anchor(name: str, section: Section) -> str:
    return f"{name}-{section.slug}"


def _curves(statistics: xr.Dataset) -> Figure:
    """Draws the errors, and every statistic at both sites, against training epochs."""
    curved = registry.names(everywhere=True)
    pairs = [("train_mse", "test_mse"), *((f"{name}_pre", f"{name}_post") for name in curved)]
    return plot_pairs(statistics, pairs=pairs)


def _page(
    parts: list[_Part], certificates: Markup, attributes: dict[str, Any], epsilon: float
) -> Markup:
    manifest = json.loads(attributes["manifest"])
    ends = [
        ("certificates", "Certificates of the symmetries"),
        ("settings", "The settings of this run"),
    ]
    return render(
        "report",
        title="ppp_jax report",
        data=manifest["config"]["data"],
        created=manifest["created"],
        epsilon=f"{epsilon:g}",
        answers=[part.answer for part in parts],
        contents=[*((part.heading, part.contents) for part in parts), ("The whole grid", ends)],
        blocks=[*(block for part in parts for block in part.blocks), certificates],
        manifest=json.dumps(manifest, indent=1, ensure_ascii=False),
    )
