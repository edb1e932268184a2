"""The page: pictures, curves and tables of a run folder, in one self-contained HTML file."""

import base64
import html
import io
import json
import pathlib
import shutil
import warnings
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from ppp_jax.analysis import evidence, summary
from ppp_jax.analysis.measure import KINDS, Measured, cell_dims, measure, own_basis
from ppp_jax.analysis.planes import check_epsilon, progress_bar
from ppp_jax.analysis.plots import plot_curves, plot_strip
from ppp_jax.analysis.ppp import ppp
from ppp_jax.analysis.projection import EmptyPPPWarning
from ppp_jax.analysis.rotations import ROTATIONS
from ppp_jax.analysis.runs import load_run, saved_groups
from ppp_jax.analysis.verdicts import verdict_table
from ppp_jax.errors import whole

REPORT = "report"
BINS = 64
LEAST_ROTATIONS = 19

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1180px; margin: 2em auto; padding: 0 1em;
       color: #222; }
img { max-width: 100%; height: auto; }
table { border-collapse: collapse; font-size: 12px; font-variant-numeric: tabular-nums; }
th, td { padding: 3px 8px; border-bottom: 1px solid #ddd; text-align: left; white-space: nowrap; }
.wide { overflow-x: auto; }
summary { cursor: pointer; font-weight: 600; }
code, pre { font-size: 12px; background: #f5f5f5; }
pre { padding: 8px; overflow-x: auto; }
"""

HOW_TO_READ = """
<p>Each panel pools the samples that lie near a plane spanned by two units (within the angle whose
cosine is ε = {epsilon}), and divides their density by what the same samples would show if their
directions were isotropic. <b>White</b> is as many as isotropic latents would have, <b>red</b>
more, <b>blue</b> fewer; <b>grey</b> is where too few are expected to tell. A representation that
does not know its axes is white; one that does is not. Every row has one colour scale; every panel
has its own half-width, written in its corner.</p>
<p><b>A/A0</b> is the share of samples accepted over the isotropic share: 1 if isotropic, large if
latents crowd the planes of the axes, 0 if they avoid them. The corners of a cube are far from
every such plane: an empty or dark panel does not mean that there is no structure. <b>C4</b> is +1
on the axes, −1 on the diagonals, 0 if isotropic. Both are given for the untrained network too: an
elementwise function makes even noise anisotropic, so only a change is made by training. Optimiser
and initialiser are confounds where they prefer the axes by themselves, as Adam does: the headings
say so. What is more than chance is said under <i>Verdict</i>.
Pooling over seeds averages over networks; the single seeds stand below.</p>
"""


class _Section(NamedTuple):
    """What is shown together: every activation, all else fixed."""

    title: str
    slug: str
    latents: xr.Dataset
    statistics: xr.Dataset


def write_report(
    workdir: str | pathlib.Path,
    *,
    epsilon: float = 0.85,
    rotations: int = ROTATIONS,
    progress: bool = True,
) -> pathlib.Path:
    """Writes `report/` in a run folder: `index.html`, the figures as PNG, the tables as CSV.

    The folder is replaced once the new one is complete.

    Args:
      workdir: the run folder of a grid that has at least one snapshot.
      epsilon: acceptance cosine, in [0, 1].
      rotations: K of the rotation null; at least 19, or no p-value reaches 5 %.
      progress: show a progress bar on stderr.

    Returns:
      The path of `index.html`.

    Raises:
      InputError: `epsilon` outside [0, 1], too few rotations, or no latents there.
    """
    workdir = pathlib.Path(workdir).expanduser()
    check_epsilon(epsilon)
    whole("rotations", rotations, least=LEAST_ROTATIONS)
    groups = saved_groups(workdir)
    folder = workdir / f"{REPORT}.partial"
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir()
    blocks = []
    how = _How(folder, epsilon, rotations, progress)
    datasets = [load_run(workdir, **group) for group in groups]
    measured = [measure(dataset, epsilon=epsilon, rotations=rotations, progress=progress)
                for dataset in datasets]  # fmt: skip
    for rest in zip(groups, datasets, measured, verdict_table(measured), strict=True):
        blocks += _group_blocks(how, *rest)
    attributes = datasets[0].attrs
    blocks.append(evidence.certificate_block(workdir))
    (folder / "index.html").write_text(_page(blocks, attributes, epsilon), encoding="utf-8")
    final = workdir / REPORT
    if final.exists():
        shutil.rmtree(final)
    folder.rename(final)
    return final / "index.html"


class _How(NamedTuple):
    """How a report is made."""

    folder: pathlib.Path
    epsilon: float
    rotations: int
    progress: bool


def _group_blocks(
    how: _How,
    group: dict[str, Any],
    dataset: xr.Dataset,
    measured: Measured,
    rows: list[dict[str, Any]],
) -> list[str]:
    """Returns everything about one architecture's latents of one width: evidence, then pictures."""
    width, kind = group["latent_width"], group["architecture"]
    name = ("" if kind == "mlp" else f"{kind}_") + f"latent_{width}"
    blocks = [f"<h2>{kind}, {width} latent units</h2>"]
    blocks += evidence.verdict_blocks(rows, how.folder, name, rotations=how.rotations)
    figures = {"differences": evidence.difference_figure(measured.runs, how.folder, name)}
    figures |= {f"plane-{kind}": figure
                for kind, figure in evidence.plane_figures(measured.runs).items()}  # fmt: skip
    text, figures["calibration"] = evidence.calibration_figure(dataset.sizes["sample"], width)
    pictures = {
        label: _embed(figure, how.folder / f"{name}-{label}.png", label)
        for label, figure in figures.items() if figure is not None
    }  # fmt: skip
    blocks += [
        "<h3>Differences between activations, paired by seed</h3>",
        pictures.get("differences", "<p>There is one activation: nothing to compare.</p>"),
        "<h3>Alignment and discreteness through training</h3>",
        evidence.data_block(dataset["inputs"].values, width),
        *(pictures[f"plane-{kind}"] for kind in KINDS),
        evidence.rate_block(measured.runs, how.folder, name),
        "<h3>Calibration</h3>", text, pictures["calibration"],
        "<h3>Numbers</h3>", _tables(measured.runs, how.folder, name),
    ]  # fmt: skip
    sections = list(_sections(dataset, measured.runs))
    for section in progress_bar(sections, "report") if how.progress else sections:
        blocks += _section_blocks(section, how.folder, name, how.epsilon)
    return blocks


def _tables(runs: xr.Dataset, folder: pathlib.Path, name: str) -> str:
    """Writes the tables to disk and returns the one for the page."""
    return (
        evidence.as_html(*summary.format_table(summary.write_tables(runs, folder, name)))
        + "<p>Interquartile mean over seeds; in brackets its 95 % BCa bootstrap interval; an arrow "
        "leads from the untrained network to the trained one. All intervals are in "
        f"<code>cells_{name}.csv</code>, every run in <code>runs_{name}.csv</code>.</p>"
    )


def _sections(dataset: xr.Dataset, statistics: xr.Dataset) -> Iterator[_Section]:
    dims = [dim for dim in cell_dims(statistics) if dim != "activation"]
    for place in np.ndindex(*(dataset.sizes[dim] for dim in dims)):
        at = dict(zip(dims, place, strict=True))
        part = dataset.isel(at)
        rate = f"learning rate {part['learning_rate'].item():g}"
        names = [_with_symmetry(part, "optimizer"), rate]
        sizes = ("depth", "width", "dose")
        names += [f"{dim} {part[dim].item()}" for dim in sizes if dataset.sizes.get(dim, 1) > 1]
        names.append(_with_symmetry(part, "initializer"))
        slug = "-".join(str(part[dim].item()) for dim in dims)
        yield _Section(", ".join(names), slug, part, statistics.isel(at))


def _seeds(count: int) -> str:
    return "1 seed" if count == 1 else f"{count} seeds pooled"


def _with_symmetry(part: xr.Dataset, axis: str) -> str:
    """Names an optimiser or initialiser, and says if it prefers a basis by itself (METHOD §7)."""
    respects = part[f"{axis}_respects_rotations"].item()
    return f"{part[axis].item()} ({'respects rotations' if respects else 'prefers the axes'})"


def _section_blocks(
    section: _Section, folder: pathlib.Path, prefix: str, epsilon: float
) -> list[str]:
    """Draws one section: strips pooled over seeds, curves, strips of single seeds."""

    def picture(figure: Figure, name: str) -> str:
        return _embed(
            figure, folder / f"{prefix}-{section.slug}-{name}.png", f"{section.title}: {name}"
        )

    seeds = section.latents["seed"].values
    epochs = [f"epoch {epoch}" for epoch in section.latents["epoch"].values]
    pooled, single = [], []
    for kind in KINDS:
        clouds = _healthy_clouds(section, kind)
        title = f"{section.title} · {kind}-activation"
        by_step = [[c[:, i] for i in range(len(epochs))] for c in clouds.values()]
        first = [[c[:1, i] for i in range(len(epochs))] for c in clouds.values()]
        by_seed = [[c[k : k + 1, -1] for k in range(len(seeds))] for c in clouds.values()]
        pooled.append(picture(_strip(by_step, list(clouds), epochs, epsilon,
            f"{title} · {_seeds(len(seeds))}"), f"{kind}-pooled"))  # fmt: skip
        single.append(picture(_strip(first, list(clouds), epochs, epsilon,
            f"{title} · seed {seeds[0]} alone"), f"{kind}-seed{seeds[0]}"))  # fmt: skip
        single.append(picture(_strip(by_seed, list(clouds), [f"seed {k}" for k in seeds], epsilon,
            f"{title} · every seed alone, {epochs[-1]}"), f"{kind}-every-seed"))  # fmt: skip
    curves = picture(_curves(section.statistics), "curves")
    return [
        f"<h3>{html.escape(section.title)}</h3>",
        *pooled,
        curves,
        "<details><summary>Single seeds</summary>",
        *single,
        "</details>",
    ]


def _healthy_clouds(section: _Section, kind: str) -> dict[str, np.ndarray]:
    """Returns each activation's latents, `(seed, step, sample, unit)`, NaN where diverged."""
    healthy = section.latents["diverged_step"].load() < 0
    clouds = {}
    for name in section.latents["activation"].values:
        part = section.latents[kind].sel(activation=name).load()
        part = part.where(healthy.sel(activation=name))
        clouds[str(name)] = part.transpose("seed", "step", "sample", "unit").values
    return clouds


def _strip(
    clouds: list[list[np.ndarray]], rows: list[str], columns: list[str], epsilon: float, title: str
) -> Figure:
    with warnings.catch_warnings():
        # An empty panel says so itself, and the page explains it.
        warnings.simplefilter("ignore", EmptyPPPWarning)
        panels = [
            [
                ppp(cloud, basis=own_basis(name), epsilon=epsilon, bins=BINS, nonfinite="drop")
                for cloud in row
            ]
            for name, row in zip(rows, clouds, strict=True)
        ]
    return plot_strip(panels, rows=rows, columns=columns, title=title)


def _curves(statistics: xr.Dataset) -> Figure:
    """Draws errors and alignment against training, every seed visible."""
    figure = Figure(figsize=(11.5, 6.2), dpi=110, layout="constrained")
    names = ("train_mse", "acceptance_ratio_pre", "c4_pre",
             "test_mse", "acceptance_ratio_post", "c4_post")  # fmt: skip
    for axes, name in zip(figure.subplots(2, 3).flat, names, strict=True):
        plot_curves(statistics[name], ax=axes, yscale="log" if name.endswith("_mse") else "linear")
        axes.yaxis.label.set_size(8)
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=6, fontsize=8)
    return figure


def _embed(figure: Figure, path: pathlib.Path, alt: str) -> str:
    """Saves a figure and returns it as an HTML image that needs no file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    path.write_bytes(buffer.getvalue())
    encoded = base64.b64encode(buffer.getvalue()).decode()
    return f'<p><img alt="{html.escape(alt)}" src="data:image/png;base64,{encoded}"></p>'


def _page(blocks: list[str], attributes: dict[str, Any], epsilon: float) -> str:
    manifest = json.loads(attributes["manifest"])
    config = html.escape(json.dumps(manifest, indent=1, ensure_ascii=False))
    return (
        "<!doctype html><html lang=en><meta charset=utf-8><title>ppp_jax report</title>"
        f"<style>{STYLE}</style><h1>Do these latents know their axes?</h1>"
        f"<p>{html.escape(str(manifest['config']['data']))}, trained {manifest['created']}.</p>"
        + HOW_TO_READ.format(epsilon=f"{epsilon:g}")
        + "\n".join(blocks)
        + f"<details><summary>How this was made</summary><pre>{config}</pre></details></html>\n"
    )
