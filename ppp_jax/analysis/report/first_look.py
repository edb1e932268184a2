"""The first page of a large run folder: one strip, minutes before its tests are there."""

import functools
import json
import pathlib
from collections.abc import Iterable
from typing import Any

import numpy as np
import xarray as xr
from markupsafe import Markup

from ppp_jax.analysis.plots.ppp import RATIO
from ppp_jax.analysis.plots.strips import plot_strip
from ppp_jax.analysis.report.drawers import MANY
from ppp_jax.analysis.report.pages import html_figure, render
from ppp_jax.analysis.report.sections import (
    PAPER_SITE,
    bases_of,
    picture_of,
    pictures_of,
    places_of,
    seeds_text,
    strip_alt,
)
from ppp_jax.analysis.results.measure import mask


def takes_long(datasets: Iterable[xr.Dataset]) -> bool:
    """Returns whether the report of a run folder has so many pictures that it takes minutes.

    Args:
      datasets: Its groups, as `load_groups` opened them.
    """
    pictures = (
        pictures_of(dataset.isel(place.at)) for dataset in datasets for place in places_of(dataset)
    )
    return sum(pictures) >= MANY


def write_into(folder: pathlib.Path, dataset: xr.Dataset, *, epsilon: float) -> None:
    """Writes a page with the strip of the first cells of a grid, untrained and trained.

    Args:
      folder: The folder to write it into.
      dataset: The first group of the run folder, which is locked.
      epsilon: Acceptance cosine ε.
    """
    place = next(places_of(dataset))
    manifest = json.loads(dataset.attrs["manifest"])
    page = render(
        "first_look",
        title="ppp_jax report, being made",
        data=manifest["config"]["data"],
        created=manifest["created"],
        epsilon=f"{epsilon:g}",
        picture=_strip(folder, dataset.isel(place.at), place.title, epsilon),
    )
    (folder / "index.html").write_text(page, encoding="utf-8")


def _strip(folder: pathlib.Path, part: xr.Dataset, title: str, epsilon: float) -> Markup:
    """Draws all activations of a section at the paper's site, beside a rotated basis."""
    last = part.sizes["step"] - 1
    ends, bases = sorted({0, last}), bases_of(part)
    panels: list[list[xr.Dataset]] = []
    beside: list[list[xr.Dataset | None]] = []
    for name in bases:
        one = part.sel(activation=name)
        clouds = mask(one[PAPER_SITE].isel(step=ends), one[["diverged_step"]].load())
        values = clouds.transpose("step", "seed", "sample", "unit").values
        picture = functools.partial(picture_of, basis=bases[name], epsilon=epsilon)
        panels.append([picture(cloud) for cloud in values])
        pairs = zip(values, panels[-1], strict=True)
        beside.append([picture(cloud, beside=panel) for cloud, panel in pairs])
    about = f"{title} · {PAPER_SITE}-activation · {seeds_text(part.sizes['seed'])}"
    columns = [f"epoch {epoch}" for epoch in part["epoch"].values[np.array(ends)]]
    texts: dict[str, Any] = {"rows": list(bases), "columns": columns, "title": about}
    figure = plot_strip(panels, beside=beside, style=RATIO, **texts)
    return html_figure(figure, folder / "first-look.png", strip_alt(**texts))
