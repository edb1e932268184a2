"""The report's evidence: verdicts, differences, certificates, calibration, confounds."""

import html
import pathlib
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from matplotlib.figure import Figure

from ppp_jax.analysis import calibration, charts
from ppp_jax.analysis.compare import MIN_SEEDS, smallest_p
from ppp_jax.analysis.measure import KINDS, cells
from ppp_jax.analysis.statistics import discreteness
from ppp_jax.analysis.summary import as_markdown, number, varying
from ppp_jax.analysis.verdicts import difference_table, rate_table
from ppp_jax.certificates import KINDS as KINDS_CERTIFIED
from ppp_jax.store import CERTIFICATES, certified

DRAWS, ROTATIONS = 100, 99  # of the calibration that the report makes at its own sizes
CONFOUNDS = """
<ul><li><b>Elementwise Adam</b> prefers the axes by itself, and aligns even isotropic networks, more
at high learning rates; so do uniform initial weights, LayerNorm's and BatchNorm's scales, and an L1
penalty on latents. Cells marked <i>clean</i> have an optimiser, an initialiser and an architecture
that know no axes; in the others an alignment may be theirs.</li>
<li><b>A common direction</b> of all latents, such as ReLU's outputs have because none is negative,
is alignment to C4 (with a diagonal), and not to unit kurtosis, which is centred.</li>
<li><b>Trivial anisotropy</b>: an elementwise function makes even noise anisotropic. Only what
training changed (trained − untrained) was learned.</li>
<li><b>Learning rate</b>: which activation reconstructs better can depend on it. Both a fixed rate
and the best one per cell are shown below, where the grid has several.</li>
<li><b>Data</b> have clusters and a shape of their own: discreteness above 0 is first of all
theirs. Compare with the untrained network and with the isotropic activation on the same
data. Lengths that vary more than a Gaussian's look discrete too: <i>beyond lengths</i> is against
latents that have the same ones.</li>
<li><b>Corners of the cube</b> are far from every plane of two axes: A/A0 near 0 is no sign of
isotropy.</li>
<li>The test asks whether the basis is special for these latents. It does not say why; nor does
<i>no evidence</i> mean that there is no effect.</li></ul>
"""
HOW_TO_JUDGE = """
<p>C4 and unit kurtosis: mean over seeds. z: how far from the mean of {rotations} random rotations
of the same latents, in deviations of such a mean. p: each seed's rank among its own rotations is
uniform if no basis is special to it, so whether the seeds agree on a side is tested by flipping
signs; of {fewest} seeds no p is below {smallest}, and fewer than {least}, diverged and dead ones
left out, are not judged. Changes: paired by seed, 95 % BCa interval, sign-flip test. (Such
intervals of few seeds are somewhat short: they cover 87 % of 6 or 8 seeds, 92 % of 16. The test of
alignment is exact; that of a change assumes that changes up and down are as likely if there is
none.) q: false discovery rate over the whole grid. All numbers, with those of the angles, are
in <code>verdicts_{name}.csv</code>.</p>
"""
COLUMNS = {
    "C4 untrained → trained": lambda r: f"{number(r['c4_first'], 2)} → {number(r['c4'], 2)}",
    "z": lambda r: number(r["c4_z"], 1),
    "q": lambda r: number(r["c4_q"], 3),
    "seeds with p ≤ .05": lambda r: f"{r['c4_seeds']}/{r['seeds']}",
    "unit kurtosis (z, q)": lambda r: (
        f"{number(r['unit_kurtosis'], 2)} ({number(r['unit_kurtosis_z'], 1)}, "
        f"{number(r['unit_kurtosis_q'], 3)})"
    ),
    "C4 trained − untrained": lambda r: _change(r, "c4"),
    "unit kurtosis trained − untrained": lambda r: _change(r, "unit_kurtosis"),
    "discreteness": lambda r: _clustering(r, "discreteness"),
    "discreteness trained − untrained": lambda r: _change(r, "discreteness"),
    "beyond lengths": lambda r: _clustering(r, "elliptical"),
    "beyond lengths, trained − untrained": lambda r: _change(r, "elliptical"),
    "verdict": lambda r: "; ".join(dict.fromkeys((r["alignment"], r["training"], r["clusters"]))),
}


def _clustering(row: dict[str, Any], name: str) -> str:
    low, high = number(row[f"{name}_low"], 2), number(row[f"{name}_high"], 2)
    return f"{number(row[f'{name}_first'], 2)} → {number(row[name], 2)} [{low}, {high}]"


def _change(row: dict[str, Any], name: str) -> str:
    low, high = (number(row[f"{name}_change_{end}"], 2) for end in ("low", "high"))
    change, q = number(row[f"{name}_change"], 2), number(row[f"{name}_change_q"], 3)
    return f"{change} [{low}, {high}] (q {q})"


def format_verdicts(rows: list[dict[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Lays a verdict table out as text: header and rows, axes that do not vary left out.

    Args:
      rows: a table of `verdict_table`.
    """
    axes = [*varying(rows), "latents"]
    header = [*(axis.replace("_", " ") for axis in axes), "clean", *COLUMNS]
    body = [
        [*(str(row[axis]) for axis in axes), "yes" if row["clean"] else "no",
         *(column(row) for column in COLUMNS.values())]
        for row in rows
    ]  # fmt: skip
    return header, body


def as_html(header: list[str], body: list[list[str]]) -> str:
    """Renders a table of strings as HTML that scrolls sideways."""
    head = "".join(f"<th>{html.escape(text)}</th>" for text in header)
    lines = "".join(
        "<tr>" + "".join(f"<td>{html.escape(text)}</td>" for text in row) + "</tr>" for row in body
    )
    return (
        f"<div class=wide><table><thead><tr>{head}</tr></thead><tbody>{lines}</tbody></table></div>"
    )


def plain_words(rows: list[dict[str, Any]], *, claim: str) -> str:
    """Says in sentences what the verdict table says, evidence or not.

    Args:
      rows: a table of `verdict_table`.
      claim: which entry to report: `alignment`, `training` or `clusters`.

    Returns:
      One HTML list item per distinct verdict, naming the cells it holds for.
    """
    axes = varying(rows)
    found: dict[str, list[str]] = {}
    for row in rows:
        name = " ".join(str(row[axis]) for axis in axes)
        star = "" if row["clean"] else "*"
        found.setdefault(row[claim], []).append(f"{name}{star} ({row['latents']})")
    return "".join(
        f"<li><b>{html.escape(text)}</b>: {html.escape(', '.join(names))}</li>"
        for text, names in found.items()
    )


def verdict_blocks(
    rows: list[dict[str, Any]], folder: pathlib.Path, name: str, *, rotations: int
) -> list[str]:
    """Writes `verdicts_<name>` as CSV and Markdown, and returns the page's blocks.

    Args:
      rows: a table of `verdict_table`.
      folder: where to write.
      name: what tells this table from others there.
      rotations: K, for the text.
    """
    pd.DataFrame(rows).to_csv(folder / f"verdicts_{name}.csv", index=False)
    table = format_verdicts(rows)
    (folder / f"verdicts_{name}.md").write_text(as_markdown(*table) + "\n", encoding="utf-8")
    items = "".join(
        plain_words(rows, claim=claim) for claim in ("alignment", "training", "clusters")
    )
    note = "" if all(row["clean"] for row in rows) else (
        "<p>* not clean: the optimiser, the initialiser or the architecture prefers the axes "
        "too.</p>")  # fmt: skip
    judged = [row["seeds"] for row in rows if row["seeds"] >= MIN_SEEDS]
    fewest = min(judged, default=MIN_SEEDS)
    return [
        f"<h3>Verdict</h3><ul>{items}</ul>{note}",
        as_html(*table),
        HOW_TO_JUDGE.format(rotations=rotations, least=MIN_SEEDS, fewest=fewest,
                            smallest=f"{smallest_p(fewest):.1g}", name=name),
        f"<details open><summary>Confounds</summary>{CONFOUNDS}</details>",
    ]  # fmt: skip


def difference_figure(runs: xr.Dataset, folder: pathlib.Path, name: str) -> Figure | None:
    """Writes `differences_<name>.csv` and draws the forest; None if there is nothing to compare."""
    rows = difference_table(runs)
    if not rows:
        return None
    pd.DataFrame(rows).to_csv(folder / f"differences_{name}.csv", index=False)
    return charts.plot_forest(rows, labels=varying(rows))


def plane_figures(runs: xr.Dataset) -> dict[str, Figure]:
    """Draws the plane of alignment and discreteness, by kind of latents."""
    labels = varying([names for names, _ in cells(runs)])
    return {kind: charts.plot_plane(runs, kind=kind, labels=labels) for kind in KINDS}


def data_block(inputs: np.ndarray, units: int) -> str:
    """Says how discrete the data are by themselves, in as many principal components as units."""
    centred = inputs.astype(np.float64) - inputs.mean(axis=0)
    components = centred @ np.linalg.svd(centred, full_matrices=False)[2][:units].T
    own = float(discreteness(components, max_samples=1024))
    return (f"<p>The data's own discreteness, in their {components.shape[1]} principal components: "
            f"{number(own, 2)}.</p>")  # fmt: skip


def rate_block(runs: xr.Dataset, folder: pathlib.Path, name: str) -> str:
    """Writes `rates_<name>` as CSV and Markdown, and returns the table for the page."""
    rows = rate_table(runs)
    plain = [{key: value for key, value in row.items() if not key.endswith("_seeds")}
             for row in rows]  # fmt: skip
    pd.DataFrame(plain).to_csv(folder / f"rates_{name}.csv", index=False)
    axes = varying(rows)
    header = [*axes, "fixed rate", "held-out MSE", "best rate", "held-out MSE there"]
    body = [
        [*(str(row[axis]) for axis in axes)]
        + [text for label in ("fixed", "best") for text in (
            f"{row[f'{label}_rate']:g}"
            + (" (end)" if label == "best" and row["best_at_end"] else ""),
            f"{number(row[label], 3)} [{number(row[f'{label}_low'], 3)}, "
            f"{number(row[f'{label}_high'], 3)}]")]
        for row in rows
    ]  # fmt: skip
    (folder / f"rates_{name}.md").write_text(as_markdown(header, body) + "\n", encoding="utf-8")
    several = rows[0]["rates"] > 1
    note = ("the best of the rates tried has the smallest error on the validation samples, which "
            "are not those of the error shown; “end”: the smallest or largest tried, so that a "
            "better one may lie beyond" if several else
            "only one rate was tried, so nothing here is tuned")  # fmt: skip
    return f"<h3>Reconstruction and learning rate</h3>{as_html(header, body)}<p>{note}.</p>"


def certificate_block(workdir: pathlib.Path) -> str:
    """Returns the certificates that the run folder holds, as tables."""
    path = workdir / CERTIFICATES
    if not path.exists():
        return "<h2>Certificates</h2><p>None yet: they are kept when training is done.</p>"
    found = certified(workdir)
    if found is None:
        return ("<h2>Certificates</h2><p>The file is damaged: nothing in it is shown. Training or "
                "reporting the same run again computes them anew.</p>")  # fmt: skip
    blocks = ["<h2>Certificates</h2><p>The symmetry of everything in the grid, computed: relative "
              "residuals of equivariance under each group (0 if it commutes), and the number of "
              "its continuous symmetries and of rotations among them.</p>"]  # fmt: skip
    for kind in KINDS_CERTIFIED:
        rows = found[kind]
        header = [kind, *next(iter(rows.values()))]
        body = [[name, *(_text(value) for value in row.values())] for name, row in rows.items()]
        blocks.append(as_html(header, body))
    return "".join(blocks)


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.1e}" if isinstance(value, float) else str(value)


def calibration_figure(samples: int, units: int) -> tuple[str, Figure]:
    """Tests clouds without a privileged basis, of the grid's own size, and says what came out."""
    p = calibration.null_p_values(samples=samples, units=units, draws=DRAWS, rotations=ROTATIONS)
    rates = calibration.false_positives(p)
    header = ["clouds", *(str(s) for s in rates["statistic"].values)]
    body = [[str(law), *(f"{value:.1%}" for value in rates.sel(law=law).values)]
            for law in rates["law"].values]  # fmt: skip
    figure = Figure(figsize=(4.6, 3.6), dpi=110, layout="constrained")
    charts.plot_p_values(p, ax=figure.add_subplot())
    error = np.sqrt(0.05 * 0.95 / DRAWS)
    text = (f"<p>Share of {DRAWS} isotropic clouds, of {samples} samples in {units} units, with "
            f"p ≤ .05: should be 5 % within {2 * error:.1%}.</p>")  # fmt: skip
    return text + as_html(header, body), figure
