"""The pictures of a section of a report: the strips of all activations at one site of latents.

They are made and drawn here from what can be sent to another process: many of them take longer than
all tests of a grid.
"""

import pathlib
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import xarray as xr
from markupsafe import Markup

from ppp_jax.analysis.io.sources import LOAD_BYTES
from ppp_jax.analysis.plots.ppp import PAPER, RATIO
from ppp_jax.analysis.plots.strips import plot_strip
from ppp_jax.analysis.projection.planes import Basis, resolve_basis
from ppp_jax.analysis.projection.points import EmptyPPPWarning
from ppp_jax.analysis.projection.ppp import ppp
from ppp_jax.analysis.report.pages import html_figure
from ppp_jax.analysis.results.measure import COUNTED, HELD_BYTES, SITES, Measured, cell_dims
from ppp_jax.analysis.texts import file_stem

BINS = 64
TWIN_SEED = 0  # of the rotation of the basis beside which pictures stand
PAPER_SITE = "pre"  # where the paper's pictures are taken (docs/method.md §14)


class Section(NamedTuple):
    """A section of the page: all activations of a grid, where everything else is fixed.

    Attributes:
      title: What is fixed, in words.
      slug: The same as a part of file names.
      latents: The latents, which are not read yet.
      statistics: The numbers of its runs, as `Measured` has them.
      pooled: Those of seeds together.
      bases: Each activation's basis: other processes do not know those that users register.
    """

    title: str
    slug: str
    latents: xr.Dataset
    statistics: xr.Dataset
    pooled: xr.Dataset
    bases: Mapping[str, Basis]

    @property
    def pictures(self) -> int:
        """About how many pictures its strips show."""
        return pictures_of(self.latents)


class Place(NamedTuple):
    """Where a section stands in a grid: its title, its slug, and its index of every axis."""

    title: str
    slug: str
    at: dict[str, int]


def pictures_of(latents: xr.Dataset) -> int:
    """Returns about how many pictures the strips of a section show.

    Args:
      latents: The part of the Dataset that the section is about.
    """
    sizes = latents.sizes
    return len(SITES) * sizes["activation"] * (2 * sizes["step"] + sizes["seed"])


def places_of(dataset: xr.Dataset) -> Iterator[Place]:
    """Yields where the sections of one architecture and one width of latents stand.

    Args:
      dataset: The Dataset that `load_run` returned.
    """
    dims = [dim for dim in cell_dims(dataset) if dim != "activation"]
    for index in np.ndindex(*(dataset.sizes[dim] for dim in dims)):
        at = dict(zip(dims, index, strict=True))
        part = dataset.isel(at)
        rate = f"learning rate {part['learning_rate'].item():g}"
        names = [f"optimiser {_with_symmetry(part, 'optimizer')}", rate]
        sizes = ("depth", "width", "dose")
        names += [f"{dim} {part[dim].item()}" for dim in sizes if dataset.sizes.get(dim, 1) > 1]
        names.append(f"initial weights {_with_symmetry(part, 'initializer')}")
        yield Place(", ".join(names), file_stem("-".join(str(part[d].item()) for d in dims)), at)


def bases_of(dataset: xr.Dataset) -> dict[str, Basis]:
    """Returns the basis of each activation by its name.

    Args:
      dataset: The Dataset that `load_run` returned.
    """
    named = zip(dataset["activation"].values, dataset["activation_basis"].values, strict=True)
    return {str(name): resolve_basis(str(basis), dataset.sizes["unit"]) for name, basis in named}


def sections_of(dataset: xr.Dataset, measured: Measured) -> Iterator[Section]:
    """Yields the sections of one architecture and one width of latents.

    Args:
      dataset: The Dataset that `load_run` returned.
      measured: What `measure` returned of it.
    """
    bases = bases_of(dataset)
    for place in places_of(dataset):
        numbers = measured.runs.isel(place.at), measured.pooled.isel(place.at)
        yield Section(place.title, place.slug, dataset.isel(place.at), *numbers, bases)


def seeds_text(count: int) -> str:
    """Returns how many seeds a strip shows, as a text."""
    return "1 seed" if count == 1 else f"{count} seeds pooled"


def _with_symmetry(part: xr.Dataset, axis: str) -> str:
    """Returns an optimiser's or initialiser's name with its symmetry (docs/method.md §11)."""
    respects = part[f"{axis}_respects_rotations"].item()
    return f"{part[axis].item()} ({'respects rotations' if respects else 'prefers the axes'})"


def draw_site(section: Section, site: str, prefix: str, epsilon: float) -> dict[str, list[Markup]]:
    """Draws a section's strips at one site: pooled over seeds in two styles, and of single seeds.

    Args:
      section: The section.
      site: `pre` or `post`.
      prefix: The folder and the beginning of the name of the PNG files that are written.
      epsilon: Acceptance cosine ε.

    Returns:
      The pictures as HTML: `pooled`, `paper` and `single`.
    """
    seeds = section.latents["seed"].values
    epochs = [f"epoch {epoch}" for epoch in section.latents["epoch"].values]
    names = [str(name) for name in section.latents["activation"].values]
    first, last = f"seed {seeds[0]} alone", f"every seed alone, {epochs[-1]}"
    every, all_seeds = seeds_text(len(seeds)), [f"seed {k}" for k in seeds]
    strips = _strips(section, site, names, epsilon)
    wanted = [
        ("pooled", RATIO, strips.pooled, epochs, every, "pooled"),
        ("single", RATIO, strips.first, epochs, first, f"seed{seeds[0]}"),
        ("single", RATIO, strips.seeds, all_seeds, last, "every-seed"),
    ]
    if site == PAPER_SITE:
        wanted.append(("paper", PAPER, strips.pooled, epochs, every, "paper"))
    drawn: dict[str, list[Markup]] = {"pooled": [], "paper": [], "single": []}
    for target, style, strip, columns, about, file in wanted:
        title = f"{section.title} · {site}-activation · {about}"
        texts: dict[str, Any] = {"rows": names, "columns": columns, "title": title}
        figure = plot_strip(
            strip.panels, beside=strip.beside, notes=strip.notes, style=style, **texts
        )
        path = pathlib.Path(f"{prefix}-{section.slug}-{file_stem(f'{site}-{file}')}.png")
        drawn[target].append(html_figure(figure, path, strip_alt(**texts)))
    return drawn


def strip_alt(*, rows: list[str], columns: list[str], title: str) -> str:
    """Returns a sentence that says what a strip shows, for screen readers.

    Args:
      rows: Its activations.
      columns: What its columns are.
      title: Its title.
    """
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


def _strips(section: Section, site: str, names: list[str], epsilon: float) -> _Strips:
    """Makes the pictures of all activations at one site."""
    strips = _Strips(*(_Strip([], [], []) for _ in _Strips._fields))
    seeds, steps = section.latents.sizes["seed"], section.latents.sizes["step"]
    first, every = slice(1), slice(None)
    for name in names:
        panel = _panels(section, site, name, epsilon)
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
        f"random {null:.2g}, z {z:+.1f}".replace("-", "−") if np.isfinite([null, z]).all() else ""
        for null, z in zip(*(one.values.ravel() for one in found), strict=True)
    ]
    return np.array(texts, object).reshape(found[0].shape)


def _panels(
    section: Section, site: str, name: str, epsilon: float
) -> Callable[[slice, int, xr.Dataset | None], xr.Dataset]:
    """Returns a function that makes one activation's picture of pooled seeds at one snapshot.

    The function takes the seeds, the snapshot, and None; or a picture that it made of them, whose
    latents it then shows in a rotated basis at the same size. Runs that the tables leave out, such
    as diverged ones, are left out here too. The latents of a small cell are read once; those of a
    large cell are read for each picture.
    """
    latents = section.latents[site].sel(activation=name)
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
        return picture_of(cloud, section.bases[name], epsilon=epsilon, beside=beside)

    return panel


def picture_of(
    cloud: Any, basis: Basis, *, epsilon: float, beside: xr.Dataset | None = None
) -> xr.Dataset:
    """Makes one picture of a page.

    Args:
      cloud: Latents, `(..., samples, units)`, with missing numbers in the place of runs that are
        left out.
      basis: Privileged basis.
      epsilon: Acceptance cosine ε.
      beside: A picture of the same latents beside which they are shown in a rotated basis, at the
        same size; None shows them as they are.
    """
    options: dict[str, Any] = {"basis": basis, "epsilon": epsilon, "bins": BINS}
    if beside is not None:
        options |= {"rotated": TWIN_SEED, "extent": beside.attrs["extent"]}
    with warnings.catch_warnings():
        # An empty picture says that it is empty, and the page explains what that means.
        warnings.simplefilter("ignore", EmptyPPPWarning)
        return ppp(cloud, nonfinite="drop", **options)
