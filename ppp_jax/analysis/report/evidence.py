"""The report's evidence: verdicts, differences, certificates, calibration, confounds."""

import json
import pathlib
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from markupsafe import Markup
from matplotlib.figure import Figure

from ppp_jax.analysis.inference import calibration
from ppp_jax.analysis.inference.seeds import MIN_SEEDS, smallest_p
from ppp_jax.analysis.plots import evidence
from ppp_jax.analysis.report.pages import fragment, html_table, render
from ppp_jax.analysis.results.measure import SITES, cells
from ppp_jax.analysis.results.tables import number, varying
from ppp_jax.analysis.results.verdicts import CLAIMS, difference_table, rate_table
from ppp_jax.analysis.statistics import registry
from ppp_jax.analysis.statistics.neighbours import discreteness
from ppp_jax.analysis.texts import write_csv, write_markdown
from ppp_jax.files import regular
from ppp_jax.files.integrity import SEAL, is_intact

DRAWS, ROTATIONS = 100, 99  # of the calibration that the report makes at its own sizes
PART = 4096  # samples of the data centred at once
MOST_CALIBRATED = 4096  # samples of a cloud of that calibration
CERTIFICATES, SUBJECT = "certificates.json", "subject"
LARGEST = 2**26  # bytes of certificates
Row = Mapping[str, Any]
Column = Callable[[Row], str]
CERTIFIED = ("activations", "optimizers", "initializers")


def _columns() -> dict[str, Column]:
    """Returns the columns of a verdict table, by what stands above them."""
    found: dict[str, Column] = {}
    of_basis = registry.chosen(family=registry.ALIGNMENT)
    of_clouds = registry.chosen(of=[registry.CLOUD])
    for one in of_basis:
        found[f"{one.short} untrained → trained"] = partial(_first_and_last, name=one.name)
        found[f"{one.short}: z, q"] = partial(_test, name=one.name)
        found[f"{one.short}: seeds with p ≤ .05"] = partial(_seeds, name=one.name)
    for one in of_basis:
        found[f"{one.short} trained − untrained"] = partial(_change, name=one.name)
    for one in of_clouds:
        found[one.short] = partial(_clustering, name=one.name)
        found[f"{one.short} trained − untrained"] = partial(_change, name=one.name)
    found["verdict"] = lambda row: "; ".join(dict.fromkeys(row[claim] for claim in CLAIMS))
    return found


def _first_and_last(row: Row, *, name: str) -> str:
    return f"{number(row[f'{name}_first'], 2)} → {number(row[name], 2)}"


def _test(row: Row, *, name: str) -> str:
    return f"{number(row[f'{name}_z'], 1)}, {number(row[f'{name}_q'], 3)}"


def _seeds(row: Row, *, name: str) -> str:
    return f"{row[f'{name}_seeds']}/{row['seeds']}"


def _clustering(row: Row, *, name: str) -> str:
    low, high = number(row[f"{name}_low"], 2), number(row[f"{name}_high"], 2)
    return f"{number(row[f'{name}_first'], 2)} → {number(row[name], 2)} [{low}, {high}]"


def _change(row: Row, *, name: str) -> str:
    low, high = (number(row[f"{name}_change_{end}"], 2) for end in ("low", "high"))
    change, q = number(row[f"{name}_change"], 2), number(row.get(f"{name}_change_q", np.nan), 3)
    return f"{change} [{low}, {high}] (q {q})"


def format_verdicts(verdicts: pd.DataFrame) -> tuple[list[str], list[list[str]]]:
    """Lays a verdict table out as text: header and rows, axes that do not vary left out.

    Args:
      verdicts: a table of `verdict_table`.
    """
    axes = [*varying(verdicts), "site"]
    columns = _columns()
    header = [*(axis.replace("_", " ") for axis in axes), "unconfounded", *columns]
    body = [
        [
            *(str(row[axis]) for axis in axes),
            "yes" if row["unconfounded"] else "no",
            *(column(row) for column in columns.values()),
        ]
        for row in verdicts.to_dict("records")
    ]
    return header, body


def plain_words(verdicts: pd.DataFrame, *, claim: str) -> Markup:
    """Says in sentences what the verdict table says, evidence or not.

    Args:
      verdicts: a table of `verdict_table`.
      claim: which entry to report: `alignment`, `training` or `clusters`.

    Returns:
      One HTML list item per distinct verdict, naming the cells it holds for.
    """
    axes = varying(verdicts)
    found: dict[str, list[str]] = {}
    for row in verdicts.to_dict("records"):
        name = " ".join(str(row[axis]) for axis in axes)
        star = "" if row["unconfounded"] else "*"
        found.setdefault(row[claim], []).append(f"{name}{star} ({row['site']})")
    return render("claims", claims={text: ", ".join(names) for text, names in found.items()})


def verdict_block(
    verdicts: pd.DataFrame, folder: pathlib.Path, name: str, *, rotations: int
) -> Markup:
    """Writes `verdicts_<name>` as CSV and Markdown, and returns them for the page.

    Args:
      verdicts: a table of `verdict_table`.
      folder: where to write.
      name: what tells this table from others there.
      rotations: K, for the text.
    """
    write_csv(verdicts, folder / f"verdicts_{name}.csv")
    table = format_verdicts(verdicts)
    write_markdown(*table, folder / f"verdicts_{name}.md")
    claims = [plain_words(verdicts, claim=claim) for claim in CLAIMS]
    judged = [int(seeds) for seeds in verdicts["seeds"] if seeds >= MIN_SEEDS]
    fewest = min(judged, default=MIN_SEEDS)
    return render(
        "verdict",
        items=Markup("").join(claims),
        unconfounded=bool(verdicts["unconfounded"].all()),
        table=html_table(*table),
        rotations=rotations,
        least=MIN_SEEDS,
        fewest=fewest,
        smallest=f"{smallest_p(fewest):.1g}",
        name=name,
    )


def difference_figure(runs: xr.Dataset, folder: pathlib.Path, name: str) -> Figure | None:
    """Writes `differences_<name>.csv` and draws the forest; None if there is nothing to compare."""
    table = difference_table(runs)
    if table.empty:
        return None
    write_csv(table, folder / f"differences_{name}.csv")
    return evidence.plot_forest(table, labels=varying(table))


def plane_figures(runs: xr.Dataset) -> dict[str, Figure]:
    """Draws the plane of alignment and discreteness, by site of latents."""
    labels = varying(pd.DataFrame([names for names, _ in cells(runs)]))
    return {site: evidence.plot_plane(runs, site=site, labels=labels) for site in SITES}


def data_block(inputs: np.ndarray, units: int) -> Markup:
    """Says how discrete the data are by themselves, in as many principal components as units."""
    components = _principal_components(inputs, units)
    own = float(discreteness(components, max_samples=1024))
    return fragment(
        "<p>The data's own discreteness, in their {{ count }} principal components: {{ own }}.</p>",
        count=components.shape[1],
        own=number(own, 2),
    )


def _principal_components(inputs: np.ndarray, count: int) -> np.ndarray:
    """Returns `(sample, component)`, the first components, in double precision.

    From the second moments, some samples at a time: a decomposition of all the samples of MNIST
    would take ten times their memory.
    """
    mean = inputs.mean(axis=0, dtype=np.float64)
    parts = [inputs[i : i + PART] for i in range(0, len(inputs), PART)]
    moments = np.zeros((inputs.shape[1],) * 2)
    for part in parts:
        centred = part - mean
        moments += centred.T @ centred
    directions = np.linalg.eigh(moments)[1][:, ::-1][:, : min(count, len(inputs))]
    return np.concatenate([(part - mean) @ directions for part in parts])


def rate_block(runs: xr.Dataset, folder: pathlib.Path, name: str) -> Markup:
    """Writes `rates_<name>` as CSV and Markdown, and returns the table for the page."""
    rates = rate_table(runs)
    write_csv(rates.drop(columns=["fixed_seeds", "best_seeds"]), folder / f"rates_{name}.csv")
    axes, rows = varying(rates), rates.to_dict("records")
    header = [*axes, "fixed rate", "held-out MSE", "best rate", "held-out MSE there"]
    body = [
        [*(str(row[axis]) for axis in axes)]
        + [
            text
            for label in ("fixed", "best")
            for text in (
                f"{row[f'{label}_rate']:g}"
                + (" (end)" if label == "best" and row["best_at_end"] else ""),
                f"{number(row[label], 3)} [{number(row[f'{label}_low'], 3)}, "
                f"{number(row[f'{label}_high'], 3)}]",
            )
        ]
        for row in rows
    ]
    write_markdown(header, body, folder / f"rates_{name}.md")
    several = rows[0]["rates"] > 1
    note = (
        "the best of the rates tried has the smallest error on the validation samples, which "
        "are not those of the error shown; “end”: the smallest or largest tried, so that a "
        "better one may lie beyond"
        if several
        else "only one rate was tried, so nothing here is tuned"
    )
    return fragment(
        "<h3>Reconstruction and learning rate</h3>{{ table }}<p>{{ note }}.</p>",
        table=html_table(header, body),
        note=note,
    )


def certificate_block(workdir: pathlib.Path, config: Mapping[str, Any]) -> Markup:
    """Returns the certificates that the run folder holds, as tables.

    Args:
      workdir: the run folder.
      config: of the grid, as its manifest holds it; certificates of another one are not shown.
    """
    path = workdir / CERTIFICATES
    if not path.exists():
        return fragment(
            "<h2>Certificates</h2><p>None yet: they are kept when training is done.</p>"
        )
    tables = _certificates(path, config)
    if tables is None:
        return fragment(
            "<h2>Certificates</h2><p>Not shown: {{ name }} is damaged, of another "
            "grid, or was changed since they were computed.</p>",
            name=CERTIFICATES,
        )
    return render("certificates", tables=[html_table(*table) for table in tables])


def _certificates(
    path: pathlib.Path, config: Mapping[str, Any]
) -> list[tuple[list[str], list[list[str]]]] | None:
    """Lays certificates out, a table per site; None if they are not what was computed of a grid."""
    try:
        found = json.loads(regular.read(path, most=LARGEST))
        if not is_intact(found) or any(
            found[site].keys() != set(config[site]) for site in CERTIFIED
        ):
            return None
        return [
            (
                [site, *next(iter(rows.values()), {})],
                [[name, *(_text(value) for value in row.values())] for name, row in rows.items()],
            )
            for site, rows in found.items()
            if site not in (SUBJECT, SEAL)
        ]
    except (
        ValueError,
        AttributeError,
        KeyError,
        TypeError,
        RecursionError,
        OSError,
    ):  # another shape
        return None


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.1e}" if isinstance(value, float) else str(value)


def calibration_figure(samples: int, units: int) -> tuple[Markup, Figure]:
    """Tests clouds without a privileged basis, of the grid's own size, and says what came out.

    Of more than 4,096 samples that many: 400 clouds take a second each at 60,000, and the test is
    exact at any number.
    """
    samples = min(samples, MOST_CALIBRATED)
    p = calibration.null_p_values(
        samples=samples,
        units=units,
        draws=DRAWS,
        rotations=ROTATIONS,
        statistics=registry.names(family=registry.ALIGNMENT),
    )
    rates = calibration.false_positives(p)
    header = ["clouds", *(str(s) for s in rates["statistic"].values)]
    body = [
        [str(law), *(f"{value:.1%}" for value in rates.sel(law=law).values)]
        for law in rates["law"].values
    ]
    figure = Figure(figsize=(4.6, 3.6), dpi=110, layout="constrained")
    evidence.plot_p_values(p, ax=figure.add_subplot())
    error = np.sqrt(0.05 * 0.95 / DRAWS)
    text = fragment(
        "<p>Share of {{ draws }} isotropic clouds, of {{ samples }} samples in "
        "{{ units }} units, with p ≤ .05: should be 5 % within {{ error }}.</p>"
        "{{ table }}",
        draws=DRAWS,
        samples=samples,
        units=units,
        error=f"{2 * error:.1%}",
        table=html_table(header, body),
    )
    return text, figure
