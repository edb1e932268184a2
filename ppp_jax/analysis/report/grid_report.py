"""The report of a run folder: pictures, curves and tables in one self-contained HTML file."""

import json
import pathlib
import warnings
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import xarray as xr
from markupsafe import Markup
from matplotlib.figure import Figure

from ppp_jax.analysis.inference.rotation_test import MOST_ROTATIONS, ROTATIONS
from ppp_jax.analysis.io.load import is_run
from ppp_jax.analysis.io.progress import progress_bar
from ppp_jax.analysis.io.runs import STORE, load_run, saved_groups
from ppp_jax.analysis.io.sources import LOAD_BYTES
from ppp_jax.analysis.plots.curves import plot_pairs
from ppp_jax.analysis.plots.ppp import PAPER, RATIO
from ppp_jax.analysis.plots.strips import plot_strip
from ppp_jax.analysis.projection.kernel import check_epsilon
from ppp_jax.analysis.projection.points import EmptyPPPWarning
from ppp_jax.analysis.projection.ppp import ppp
from ppp_jax.analysis.report import evidence
from ppp_jax.analysis.report.answer import WHEN, answer_block
from ppp_jax.analysis.report.pages import html_figure, html_table, render
from ppp_jax.analysis.results import tables
from ppp_jax.analysis.results.measure import (
    COUNTED,
    HELD_BYTES,
    SITES,
    Measured,
    cell_dims,
    measure,
)
from ppp_jax.analysis.results.provenance import report_made_of
from ppp_jax.analysis.results.verdicts import verdict_table
from ppp_jax.analysis.statistics import registry
from ppp_jax.analysis.texts import file_stem
from ppp_jax.errors import InputError, whole
from ppp_jax.files import atomic, mirrors
from ppp_jax.notebook import Page

REPORT = "report"
BINS = 64
LEAST_ROTATIONS = 19
TWIN_SEED = 0  # of the rotation of the basis beside which pictures stand
PAPER_SITE = "pre"  # where the paper's pictures are taken (docs/method.md §14)
_PLANE = (
    "Each cell's deepest valley against the alignment of its shape, {}, from untrained to trained."
)
EVIDENCE = {
    "verdicts": "verdicts, in words and numbers",
    "differences": "differences between activations",
    "planes": "alignment and quantisation, untrained and trained",
    "rates": "error and learning rate",
    "calibration": "calibration of the rotation test",
    "cells": "table of all cells",
}  # anchors and titles of the evidence of a group
ALT = {
    "differences": "Differences between activations with their intervals, a row per comparison.",
    "calibration": "P-values of the rotation test on clouds without a preferred basis follow the "
    "diagonal if the test is calibrated.",
    **{f"plane-{site}": _PLANE.format(when) for site, when in WHEN.items()},
}  # what the figures of evidence show, for screen readers


class _Section(NamedTuple):
    """A section of the page: all activations of a grid, where everything else is fixed."""

    title: str
    slug: str
    latents: xr.Dataset
    statistics: xr.Dataset
    pooled: xr.Dataset


def write_report(
    workdir: str | pathlib.Path,
    *,
    epsilon: float = 0.85,
    rotations: int = ROTATIONS,
    progress: bool = True,
) -> pathlib.Path:
    """Writes `report/` in a run folder: `index.html`, the figures as PNG and the tables as CSV.

    An earlier report is replaced when the new one is complete, and files of others in it are kept.
    One that is whole, and made of the same latents, options and versions, is not made anew.
    The run folder is locked meanwhile, so that no training changes it. Latents are read in parts,
    so that a few snapshots of a cell are in memory at any time.

    Args:
      workdir: The run folder of a grid, or its address in a bucket, with at least one snapshot.
      epsilon: Acceptance cosine ε, in [0, 1].
      rotations: Number K of random rotations of the null (docs/method.md §5). It is at least 19,
        because with fewer no p-value reaches 5 %.
      progress: Whether to show a progress bar on stderr.

    Returns:
      The path of `index.html`, which for a bucket is that of its copy on this machine.

    Raises:
      InputError: `epsilon` or `rotations` is out of its range, the folder holds no latents, another
        run is at work in it, or `report/` cannot be written.
    """
    check_epsilon(epsilon)
    whole("rotations", rotations, least=LEAST_ROTATIONS, most=MOST_ROTATIONS)
    with mirrors.writable(workdir) as folder:
        return _write(folder, epsilon, rotations, progress)


def _write(workdir: pathlib.Path, epsilon: float, rotations: int, progress: bool) -> pathlib.Path:
    """Writes the report of a run folder on this machine, see `write_report`."""
    if not is_run(workdir):  # before it is locked, which would make the folder
        problem = f"holds no {STORE}; give the folder of a trained grid"
        raise InputError("workdir", workdir, problem)
    final = workdir / REPORT
    with atomic.locked(workdir):
        options = {"epsilon": epsilon, "rotations": rotations}
        made_of = report_made_of(workdir, evidence.CERTIFICATES, **options)
        if atomic.is_made_of(final, made_of):
            return Page(final / "index.html")
        kind = atomic.REPORT
        with atomic.replacing(
            final, field="workdir", value=workdir, kind=kind, made_of=made_of
        ) as folder:
            _write_into(_How(folder, epsilon, rotations, progress), workdir)
    return Page(final / "index.html")


class _How(NamedTuple):
    """The folder of a report and its options."""

    folder: pathlib.Path
    epsilon: float
    rotations: int
    progress: bool


def _write_into(how: _How, workdir: pathlib.Path) -> None:
    groups = saved_groups(workdir)
    datasets = [load_run(workdir, **group) for group in groups]
    options: dict[str, Any] = {"epsilon": how.epsilon, "rotations": how.rotations}
    measured = [measure(dataset, **options, progress=how.progress) for dataset in datasets]
    parts = [
        _group_part(how, *rest)
        for rest in zip(groups, datasets, measured, verdict_table(measured), strict=True)
    ]
    config = json.loads(datasets[0].attrs["manifest"])["config"]
    certificates = evidence.certificate_block(workdir, config)
    page = _page(parts, certificates, datasets[0].attrs, how.epsilon)
    (how.folder / "index.html").write_text(page, encoding="utf-8")


class _Part(NamedTuple):
    """What the page says of one architecture and one width of latents.

    Attributes:
      answer: The answer, for the top of the page.
      contents: Anchors and titles of what follows.
      blocks: The evidence and the pictures.
    """

    answer: Markup
    contents: list[tuple[str, str]]
    blocks: list[Markup]


def _group_part(
    how: _How,
    group: dict[str, Any],
    dataset: xr.Dataset,
    measured: Measured,
    judged: pd.DataFrame,
) -> _Part:
    """Returns the answer, the evidence and the pictures of one group of a grid."""
    width, architecture = group["latent_width"], group["architecture"]
    name = file_stem(("" if architecture == "mlp" else f"{architecture}_") + f"latent_{width}")
    heading = f"{architecture}, {width} latent units"
    sections = list(_sections(dataset, measured))
    shown = progress_bar(sections, "report") if how.progress else sections
    drawn = [_section_block(section, how, name) for section in shown]
    contents = [
        *((f"{name}-{part}", f"{heading}: {title}") for part, title in EVIDENCE.items()),
        *(
            (_anchor(name, section), f"{heading}: pictures, {section.title}")
            for section in sections
        ),
    ]
    answer = answer_block(
        judged, measured.runs, how.folder, name, heading=heading, strip=drawn[0].strip
    )
    blocks = [_evidence_block(how, dataset, measured, judged, heading, name)]
    return _Part(answer, contents, [*blocks, *(one.block for one in drawn)])


def _evidence_block(
    how: _How,
    dataset: xr.Dataset,
    measured: Measured,
    judged: pd.DataFrame,
    heading: str,
    name: str,
) -> Markup:
    """Returns the verdicts, the tables and the figures of one group."""
    counts = {"rotations": how.rotations, "seeds": dataset.sizes["seed"]}
    units = dataset.sizes["unit"]
    text, calibration = evidence.calibration_figure(dataset.sizes["sample"], units)
    pictures = _pictures(how, measured, name, calibration)
    none = Markup("<p>There is one activation, so there is nothing to compare.</p>")
    cells = tables.format_table(tables.write_tables(measured.runs, how.folder, name))
    return render(
        "group",
        heading=heading,
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


def _sections(dataset: xr.Dataset, measured: Measured) -> Iterator[_Section]:
    dims = [dim for dim in cell_dims(measured.runs) if dim != "activation"]
    for index in np.ndindex(*(dataset.sizes[dim] for dim in dims)):
        selection = dict(zip(dims, index, strict=True))
        part = dataset.isel(selection)
        rate = f"learning rate {part['learning_rate'].item():g}"
        names = [_with_symmetry(part, "optimizer"), rate]
        sizes = ("depth", "width", "dose")
        names += [f"{dim} {part[dim].item()}" for dim in sizes if dataset.sizes.get(dim, 1) > 1]
        names.append(_with_symmetry(part, "initializer"))
        slug = file_stem("-".join(str(part[dim].item()) for dim in dims))
        numbers = measured.runs.isel(selection), measured.pooled.isel(selection)
        yield _Section(", ".join(names), slug, part, *numbers)


def _seeds(count: int) -> str:
    return "1 seed" if count == 1 else f"{count} seeds pooled"


def _with_symmetry(part: xr.Dataset, axis: str) -> str:
    """Returns an optimiser's or initialiser's name with its symmetry (docs/method.md §11)."""
    respects = part[f"{axis}_respects_rotations"].item()
    return f"{part[axis].item()} ({'respects rotations' if respects else 'prefers the axes'})"


class _Drawn(NamedTuple):
    """The pictures of a section, and the strip of them that stands below the answer."""

    block: Markup
    strip: Markup


def _anchor(name: str, section: _Section) -> str:
    return f"{name}-{section.slug}"


def _section_block(section: _Section, how: _How, prefix: str) -> _Drawn:
    """Draws a section: strips pooled over seeds in two styles, curves, strips of single seeds."""

    def picture(figure: Figure, name: str, alt: str) -> Markup:
        path = how.folder / f"{prefix}-{section.slug}-{file_stem(name)}.png"
        return html_figure(figure, path, alt)

    seeds = section.latents["seed"].values
    epochs = [f"epoch {epoch}" for epoch in section.latents["epoch"].values]
    names = [str(name) for name in section.latents["activation"].values]
    first, last = f"seed {seeds[0]} alone", f"every seed alone, {epochs[-1]}"
    every, all_seeds = _seeds(len(seeds)), [f"seed {k}" for k in seeds]
    drawn: dict[str, list[Markup]] = {"pooled": [], "paper": [], "single": []}
    for site in SITES:
        strips = _strips(section, site, names, how)
        wanted = [
            ("pooled", RATIO, strips.pooled, epochs, every, f"{site}-pooled"),
            ("single", RATIO, strips.first, epochs, first, f"{site}-seed{seeds[0]}"),
            ("single", RATIO, strips.seeds, all_seeds, last, f"{site}-every-seed"),
        ]
        if site == PAPER_SITE:
            wanted.append(("paper", PAPER, strips.pooled, epochs, every, f"{site}-paper"))
        for target, style, strip, columns, about, file in wanted:
            title = f"{section.title} · {site}-activation · {about}"
            texts: dict[str, Any] = {"rows": names, "columns": columns, "title": title}
            drawing = plot_strip(
                strip.panels, beside=strip.beside, notes=strip.notes, style=style, **texts
            )
            drawn[target].append(picture(drawing, file, _strip_alt(**texts)))
    alt = f"Errors and statistics against epochs, a line per activation: {section.title}."
    curves = picture(_curves(section.statistics), "curves", alt)
    anchor = _anchor(prefix, section)
    block = render("section", title=section.title, anchor=anchor, curves=curves, **drawn)
    return _Drawn(block, drawn["pooled"][0])


def _strip_alt(*, rows: list[str], columns: list[str], title: str) -> str:
    across = columns[0] if len(columns) == 1 else f"{columns[0]} to {columns[-1]}"
    return f"Density in the privileged planes of {', '.join(rows)}, {across}: {title}."


class _Strip(NamedTuple):
    """Pictures, those of a rotated basis beside them, and the texts below, row by row."""

    panels: list[list[xr.Dataset]]
    beside: list[list[xr.Dataset | None]]
    notes: list[list[str]]


class _Strips(NamedTuple):
    """The strips of a section at one site.

    Attributes:
      pooled: All seeds together at every snapshot, the first and the last beside a rotated basis.
      first: The first seed at every snapshot, the last beside a rotated basis.
      seeds: Every seed at the last snapshot.
    """

    pooled: _Strip
    first: _Strip
    seeds: _Strip


def _strips(section: _Section, site: str, names: list[str], how: _How) -> _Strips:
    """Makes the pictures of all activations at one site."""
    strips = _Strips(*(_Strip([], [], []) for _ in _Strips._fields))
    seeds, steps = section.latents.sizes["seed"], section.latents.sizes["step"]
    first, every = slice(1), slice(None)
    for name in names:
        panel = _panels(section, site, name, how.epsilon)
        null = _nulls(section.pooled, site, name), _nulls(section.statistics, site, name)
        for strip, chosen, turned, texts in (
            (strips.pooled, every, {0, steps - 1}, null[0]),
            (strips.first, first, {steps - 1}, null[1][0]),
        ):
            pictures = [panel(chosen, step, None) for step in range(steps)]
            strip.panels.append(pictures)
            strip.beside.append(
                [panel(chosen, k, x) if k in turned else None for k, x in enumerate(pictures)]
            )
            strip.notes.append(list(texts))
        strips.seeds.panels.append([panel(slice(k, k + 1), steps - 1, None) for k in range(seeds)])
        strips.seeds.beside.append([None] * seeds)
        strips.seeds.notes.append(list(null[1][:, -1]))
    return strips


def _nulls(measured: xr.Dataset, site: str, name: str) -> np.ndarray:
    """Returns what rotations make of one activation's A/A0 as texts, `(…, step)`, '' if untested.

    Args:
      measured: Numbers over `activation` and `step`, and over `seed` where it is not pooled.
      site: Where the latents were taken.
      name: The activation.
    """
    found = [
        measured[f"acceptance_ratio_{site}_{end}"].sel(activation=name).transpose(..., "step")
        for end in ("null", "z")
    ]
    texts = [
        f"rotations: {null:.2g}, z {z:+.1f}".replace("-", "−")
        if np.isfinite([null, z]).all()
        else ""
        for null, z in zip(*(one.values.ravel() for one in found), strict=True)
    ]
    return np.array(texts, object).reshape(found[0].shape)


def _panels(
    section: _Section, site: str, name: str, epsilon: float
) -> Callable[[slice, int, xr.Dataset | None], xr.Dataset]:
    """Returns a function that makes one activation's picture of pooled seeds at one snapshot.

    The function takes the seeds, the snapshot, and None; or a picture that it made of them, whose
    latents it then shows in a rotated basis at the same size. Runs that the tables leave out, such
    as diverged ones, are left out here too. The latents of a small cell are read once; those of a
    large cell are read for each picture.
    """
    latents = section.latents[site].sel(activation=name)
    basis = str(latents["activation_basis"].values)
    latents = latents.load() if latents.nbytes <= HELD_BYTES else latents
    counted: Any = section.statistics[f"{COUNTED}_{site}"].sel(activation=name) > 0
    counted = counted.transpose("seed", "step").values

    def panel(seeds: slice, step: int, beside: xr.Dataset | None) -> xr.Dataset:
        cloud: Any = latents.isel(seed=seeds, step=step).transpose("seed", "sample", "unit")
        healthy = counted[seeds, step]
        if cloud.nbytes > LOAD_BYTES and healthy.any():  # Such latents are read in parts.
            cloud = cloud.isel(seed=np.flatnonzero(healthy))
        else:
            cloud = np.where(healthy[:, None, None], cloud.values, np.float32(np.nan))
        options: dict[str, Any] = {"basis": basis, "epsilon": epsilon, "bins": BINS}
        if beside is not None:
            options |= {"rotated": TWIN_SEED, "extent": beside.attrs["extent"]}
        with warnings.catch_warnings():
            # An empty picture says that it is empty, and the page explains what that means.
            warnings.simplefilter("ignore", EmptyPPPWarning)
            return ppp(cloud, nonfinite="drop", **options)

    return panel


def _curves(statistics: xr.Dataset) -> Figure:
    """Draws the errors, and every statistic at both sites, against training epochs."""
    curved = registry.names(everywhere=True)
    pairs = [("train_mse", "test_mse"), *((f"{name}_pre", f"{name}_post") for name in curved)]
    return plot_pairs(statistics, pairs=pairs)


def _page(
    parts: list[_Part], certificates: Markup, attributes: dict[str, Any], epsilon: float
) -> Markup:
    manifest = json.loads(attributes["manifest"])
    ends = [("certificates", "Certificates"), ("settings", "The settings of this run")]
    return render(
        "report",
        title="ppp_jax report",
        data=manifest["config"]["data"],
        created=manifest["created"],
        epsilon=f"{epsilon:g}",
        answers=[part.answer for part in parts],
        contents=[*(entry for part in parts for entry in part.contents), *ends],
        blocks=[*(block for part in parts for block in part.blocks), certificates],
        manifest=json.dumps(manifest, indent=1, ensure_ascii=False),
    )
