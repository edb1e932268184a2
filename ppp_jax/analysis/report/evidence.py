"""The statistical part of the report: verdicts, differences, certificates and calibration."""

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
from ppp_jax.analysis.plots import evidence
from ppp_jax.analysis.report.kept_report import CERTIFICATES
from ppp_jax.analysis.report.pages import fragment, html_table, render
from ppp_jax.analysis.results.measure import SITES, cells, rotations_of
from ppp_jax.analysis.results.tables import number, probability, telling, varying
from ppp_jax.analysis.results.verdicts import CLAIMS, difference_table, rate_table
from ppp_jax.analysis.statistics import registry
from ppp_jax.analysis.statistics.quantisation import density_peaks
from ppp_jax.analysis.statistics.registry import PLANES, PROJECTIONS
from ppp_jax.analysis.texts import write_csv, write_markdown
from ppp_jax.files import regular
from ppp_jax.files.integrity import SEAL, is_intact

DATA_SAMPLES = 1024  # Largest number of samples of the data whose density is looked at.
DRAWS, ROTATIONS = 100, 99  # Numbers of clouds and of rotations in the report's calibration.
PART = 4096  # Number of samples of the data that are centred at once.
MOST_CALIBRATED = 4096  # Largest number of samples of a cloud in the calibration.
SUBJECT, TESTED = "subject", "tested"
LARGEST = 2**26  # Largest size in bytes of a file of certificates.
Row = Mapping[str, Any]
Column = Callable[[Row], str]
CERTIFIED = ("activations", "optimizers", "initializers")


def _columns() -> dict[str, Column]:
    """Returns the functions that fill the columns of a verdict table, by the columns' headings."""
    found: dict[str, Column] = {}
    judging = [one for family in registry.FAMILIES for one in registry.chosen(family=family)]
    for one in judging:
        found[f"{one.short} untrained → trained"] = partial(_first_and_last, name=one.name)
        found[f"{one.short}: z, q networks, q seeds"] = partial(_test, name=one.name)
    for one in judging:
        found[f"{one.short} trained − untrained"] = partial(_change, name=one.name)
    for one in registry.chosen(of=[registry.BASIS, registry.PLANES]):
        if one.everywhere and not one.family:
            found[f"{one.short} untrained → trained"] = partial(_first_and_last, name=one.name)
            found[f"{one.short}: z, p networks"] = partial(_described, name=one.name)
    for one in registry.chosen(of=[registry.CLOUD]):
        found[one.short] = partial(_with_interval, name=one.name)
    found["rows, of zeros, long"] = lambda row: "{rows}, {rows_zero}, {rows_long}".format(**row)
    found["verdict"] = _verdict
    return found


def _verdict(row: Row) -> str:
    return "; ".join(f"{claim.removeprefix('verdict_')}: {row[claim]}" for claim in CLAIMS)


def _first_and_last(row: Row, *, name: str) -> str:
    return f"{number(row[f'{name}_first'], 2)} → {number(row[name], 2)}"


def _test(row: Row, *, name: str) -> str:
    ends = (probability(row[f"{name}_{end}"]) for end in ("q_networks", "q"))
    return ", ".join([number(row[f"{name}_z"], 1), *ends])


def _described(row: Row, *, name: str) -> str:
    return f"{number(row[f'{name}_z'], 1)}, {probability(row[f'{name}_p_networks'])}"


def _with_interval(row: Row, *, name: str) -> str:
    low, high = number(row[f"{name}_low"], 2), number(row[f"{name}_high"], 2)
    return f"{number(row[f'{name}_first'], 2)} → {number(row[name], 2)} [{low}, {high}]"


def _change(row: Row, *, name: str) -> str:
    low, high = (number(row[f"{name}_change_{end}"], 2) for end in ("low", "high"))
    change, q = number(row[f"{name}_change"], 2), row.get(f"{name}_change_q", np.nan)
    return f"{change} [{low}, {high}] (q {probability(q)})"


def format_verdicts(verdicts: pd.DataFrame) -> tuple[list[str], list[list[str]]]:
    """Returns the header and the rows of a verdict table as texts, without axes that do not vary.

    Args:
      verdicts: A table that `verdict_table` returned.
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
    """Lists the verdicts of one claim, with the cells for which each holds.

    Args:
      verdicts: A table that `verdict_table` returned.
      claim: The column of verdicts to list, one of `verdicts.CLAIMS`.

    Returns:
      An HTML list item per distinct verdict, with the names of its cells.
    """
    axes = varying(verdicts)
    found: dict[str, list[str]] = {}
    for row in verdicts.to_dict("records"):
        name = " ".join(str(row[axis]) for axis in axes)
        star = "" if row["unconfounded"] else "*"
        found.setdefault(row[claim], []).append(f"{name}{star} ({row['site']})")
    return render("claims", claims={text: ", ".join(names) for text, names in found.items()})


def verdict_block(
    verdicts: pd.DataFrame, folder: pathlib.Path, name: str, *, rotations: int, seeds: int
) -> Markup:
    """Writes `verdicts_<name>` as CSV and Markdown, and returns them for the page.

    Args:
      verdicts: A table that `verdict_table` returned.
      folder: The folder to write into.
      name: A part of the files' names that differs between tables.
      rotations: Number K of rotations of the null, which the text below the table mentions.
      seeds: How many networks of each kind there are.
    """
    write_csv(verdicts, folder / f"verdicts_{name}.csv")
    table = format_verdicts(verdicts)
    write_markdown(*table, folder / f"verdicts_{name}.md")
    return render(
        "verdict",
        claims={
            claim.removeprefix("verdict_"): plain_words(verdicts, claim=claim) for claim in CLAIMS
        },
        unconfounded=bool(verdicts["unconfounded"].all()),
        table=html_table(*table, label="Verdicts of all cells"),
        rotations=rotations,
        fewer={kind: rotations_of(kind, rotations, seeds=seeds) for kind in (PLANES, PROJECTIONS)},
        name=name,
    )


def difference_figure(runs: xr.Dataset, folder: pathlib.Path, name: str) -> Figure | None:
    """Writes `differences_<name>.csv` and draws a forest plot; None if there are no differences."""
    table = difference_table(runs)
    if table.empty:
        return None
    write_csv(table, folder / f"differences_{name}.csv")
    return evidence.plot_forest(table, labels=telling(table))


def plane_figures(runs: xr.Dataset) -> dict[str, Figure]:
    """Draws quantisation against the shape's alignment, a figure for each site of the latents."""
    labels = telling(pd.DataFrame([names for names, _ in cells(runs)]))
    return {site: evidence.plot_plane(runs, site=site, labels=labels) for site in SITES}


def data_block(dataset: xr.Dataset, units: int) -> Markup:
    """Says how the planes are read, and how clustered the data are in as many components as units.

    Args:
      dataset: A group of a run folder; without inputs, as where a layer has several vectors of each
        sample, nothing is said of the data.
      units: The width of the latents.
    """
    own = ""
    if "inputs" in dataset:
        components = _principal_components(dataset["inputs"].values, units)
        found = density_peaks(components, max_samples=DATA_SAMPLES)
        depth, reference = (number(float(x), 2) for x in (found.depth, found.reference))
        own = (
            " The table of all cells has the deepest valley of each density. For comparison, the "
            f"data themselves, in their first {components.shape[1]} principal "
            f"components, have a deepest valley of {depth} nats, and an elliptical law of the same "
            f"covariance and lengths has one of {reference}."
        )
    return fragment(
        "<p>Each line leads from the untrained networks (hollow point) to the trained ones along "
        "the medians over seeds; small points are single seeds after training.{{ own }}</p>",
        own=own,
    )


def _principal_components(inputs: np.ndarray, count: int) -> np.ndarray:
    """Returns the first principal components, `(samples, components)`, in double precision.

    They are computed from the second moments, which are summed over parts of the samples. A
    singular value decomposition of MNIST would take ten times the memory of its samples.
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
    header = [*axes, "fixed rate", "held-out MSE", "best rate", "held-out MSE at best rate"]
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
        "The best rate is the one with the smallest error on the validation samples; the errors in "
        "the table are those of other samples. “(end)” marks the smallest or the largest rate that "
        "was tried, so that a better one may lie beyond"
        if several
        else "Only one learning rate was tried, so no rate is tuned"
    )
    return fragment(
        "{{ table }}<p>{{ note }}.</p>",
        table=html_table(header, body, label="Errors of all cells"),
        note=note,
    )


def certificate_block(workdir: pathlib.Path, config: Mapping[str, Any]) -> Markup:
    """Returns the certificates of a run folder as HTML tables (docs/method.md §10).

    Args:
      workdir: The run folder.
      config: The configuration of the grid, as its manifest holds it. Certificates of another grid
        are not shown.
    """
    path = workdir / CERTIFICATES
    if not path.exists():
        return fragment(
            "<h2 id=certificates>Certificates</h2><p>There are none yet. They are computed when "
            "training ends.</p>"
        )
    tables = _certificates(path, config)
    if tables is None:
        return fragment(
            "<h2 id=certificates>Certificates</h2><p>They are not shown, because {{ name }} is "
            "damaged, belongs to another grid, was changed since it was written, or is of an "
            "earlier version, which did not say at which lengths it tested. The same training "
            "command computes them anew.</p>",
            name=CERTIFICATES,
        )
    return render(
        "certificates", tables=[html_table(*table, label="Certificates") for table in tables]
    )


def _certificates(
    path: pathlib.Path, config: Mapping[str, Any]
) -> list[tuple[list[str], list[list[str]]]] | None:
    """Returns the header and the rows of a table per axis; None if the file is not this grid's."""
    try:
        found = json.loads(regular.read(path, most=LARGEST))
        if not is_intact(found) or any(
            found[site].keys() != set(config[site]) for site in CERTIFIED
        ):
            return None
        if not all(TESTED in row for row in found["activations"].values()):
            return None  # of a version that did not say at which lengths it tested
        for row in found["activations"].values():
            del row[TESTED]  # numbers, which the row's texts say as well
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
    ):  # The file has another structure.
        return None


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.1e}" if isinstance(value, float) else str(value)


def calibration_figure(samples: int, units: int) -> tuple[Markup, Figure]:
    """Tests isotropic clouds of the grid's own size, and returns the result as text and figure.

    The clouds have at most 4,096 samples, because 400 clouds of 60,000 samples would take a second
    each, and the test is exact at any number of samples.
    """
    samples = min(samples, MOST_CALIBRATED)
    p = calibration.null_p_values(
        samples=samples,
        units=units,
        draws=DRAWS,
        rotations=ROTATIONS,
        statistics=[one.name for one in registry.chosen(of=[registry.BASIS]) if one.family],
    )
    rates = calibration.false_positives(p)
    header = ["clouds", *(registry.STATISTICS[str(s)].short for s in rates["statistic"].values)]
    body = [
        [str(law), *("–" if np.isnan(x) else f"{x:.1%}" for x in rates.sel(law=law).values)]
        for law in rates["law"].values
    ]
    figure = evidence.plot_p_values(p)
    error = np.sqrt(0.05 * 0.95 / DRAWS)
    text = fragment(
        "<p>The rotation test was applied to clouds that have no privileged basis. The table shows "
        "the fraction of {{ draws }} such clouds, of {{ samples }} samples in {{ units }} units, "
        "with p ≤ .05. It should be 5 %, up to a sampling error of {{ error }}; – stands where "
        "no cloud has a mean that can be told from 0, which that test needs. In the figure, the "
        "p-values of a calibrated test follow the diagonal.</p>{{ table }}",
        draws=DRAWS,
        samples=samples,
        units=units,
        error=f"{2 * error:.1%}",
        table=html_table(header, body, label="False positives of the rotation test"),
    )
    return text, figure
