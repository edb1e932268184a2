"""Alignment along two roads from an isotropic activation to an elementwise one."""

from __future__ import annotations

import dataclasses
import pathlib
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

import ppp_jax.analysis as pa
from ppp_jax.analysis import inference, plots, results, statistics
from ppp_jax.analysis.plots.style import PAGE, RULE, style
from ppp_jax.cli import experiment, study
from ppp_jax.grid import Grid

if TYPE_CHECKING:
    from matplotlib.figure import Figure

QUESTION = "Is alignment a threshold or a slope in how elementwise the activation is?"
ABOUT = """\
Two roads from isotropic to elementwise tanh (or another function: --activations=dose_NAME): the
mixture (1 − t)·isotropic + t·elementwise, with t a traced axis of one program, and the p-norm
radial map, isotropic at p = 2, with dose 1 − 2/p. Measured are covariance, shape and dip, each
above its rotation null's mean, which elongated latents move as well.

  python -m experiments.dose_response \
      [--data=patches --epochs=20 --workdir=runs/dose_patches]
"""
DOCUMENTED = """\
Cost: 448 networks, 145 s on two cores (301 s on patches, beside another job). Leaves
runs/dose/study: alignment, its test and the held-out error at every dose, and a line with a kink
against a straight one.
"""

TESTS = ("z", "p_networks", "p")
POWERS = (2, 2.25, 2.5, 3, 4, 8)
DEFAULTS = Grid(
    activations=("dose_tanh",),
    doses=(0, 0.05, 0.1, 0.2, 0.35, 0.5, 0.75, 1),
    optimizers=("momentum", "adam"),
    seeds=range(16),
    snapshots=(0,),
)


def quantities() -> list[tuple[str, str]]:
    """Returns what is measured: the sites, and the statistics that are compared at each."""
    compared = [one.name for one in statistics.registry.chosen() if one.compared]
    return [(site, statistic) for site in results.SITES for statistic in compared]


class Road(NamedTuple):
    """One way from isotropic to elementwise under one optimiser.

    Attributes:
      doses: ascending.
      numbers: `test_mse` and, for each statistic and site of latents, `shape_pre` and
        `shape_pre_excess` (over the mean of its rotation null), both with an array over seeds per
        dose, and `shape_pre_z`, `shape_pre_p_networks` and `shape_pre_p`, a number per dose.
    """

    doses: list[float]
    numbers: dict[str, list[Any]]


def second_road(grid: Grid) -> list[Grid]:
    """Returns the p-norms of the same function, a static cell for every p."""
    inference.dose_response.check_doses(grid.doses)
    (name,) = grid.activations
    powers = [f"pnorm_{name.removeprefix('dose_')}:{p:g}" for p in POWERS]
    return [dataclasses.replace(grid, activations=powers, doses=())]


CAPTION = (
    "The figure shows how alignment and quantisation, above the mean of random bases, and the "
    "held-out error change with the dose of the basis, along each road and under each optimiser; "
    "points are seeds, and bars the interquartile mean with its 95 % interval."
)


def analyse(run: pathlib.Path, options: experiment.Options) -> study.Results:
    """Measures both roads and asks whether a kink describes them better than a line.

    Args:
      run: The trained run folder.
      options: How it is analysed.
    """
    roads: dict[str, Road] = {}
    for road, folder in (("t", run), ("1 − 2/p", study.beside(run))):
        measured = pa.measure(
            study.load(folder),
            epsilon=options.epsilon,
            rotations=options.rotations,
            progress=options.progress,
        )
        for optimizer, one in _by_optimizer(measured, road).items():
            roads[f"{road}, {optimizer}"] = one
    rows = results.with_q([row for name, one in roads.items() for row in _rows(name, one)])
    tables = study.frames(
        doses=rows,
        kinks=[
            {
                "road": name,
                "site": site,
                "statistic": statistic,
                **inference.dose_response.kink(
                    one.doses, one.numbers[f"{statistic}_{site}_excess"]
                )._asdict(),
            }
            for name, one in roads.items()
            for site, statistic in quantities()
        ],
    )
    return study.Results(tables, {"doses": study.Shown(draw(roads), CAPTION)})


def _by_optimizer(measured: results.Measured, road: str) -> dict[str, Road]:
    """Collects what a road's doses did, per optimiser."""
    found: dict[str, Road] = {}
    for names, at in results.cells(measured.runs):
        name = str(names["activation"])
        dose = names["dose"] if road == "t" else 1 - 2 / float(name.partition(":")[2])
        one = found.setdefault(f"{names['optimizer']} {names['learning_rate']:g}", Road([], {}))
        one.doses.append(dose)
        last, pooled = measured.runs.isel(at).isel(step=-1), measured.pooled.isel(at).isel(step=-1)
        here = {"test_mse": last["test_mse"].values}
        for site, statistic in quantities():
            key = f"{statistic}_{site}"
            here[key] = last[key].values
            here[f"{key}_excess"] = results.excess(last, key).values
            here |= {f"{key}_{end}": pooled[f"{key}_{end}"].item() for end in TESTS}
        for key, value in here.items():
            one.numbers.setdefault(key, []).append(value)
    return found


def _rows(name: str, road: Road) -> list[dict[str, Any]]:
    rows = []
    for k, dose in enumerate(road.doses):
        here = {key: values[k] for key, values in road.numbers.items()}
        for site, statistic in quantities():
            key = f"{statistic}_{site}"
            excess = here[f"{key}_excess"]
            change = pa.paired_difference(excess, road.numbers[f"{key}_excess"][0])
            rows.append(
                {
                    "road": name,
                    "dose": float(dose),
                    "site": site,
                    "statistic": statistic,
                    "seeds": int(np.isfinite(excess).sum()),
                    "value": float(np.nanmean(here[key])),
                    "excess": float(np.nanmean(excess)),
                    "z": here[f"{key}_z"],
                    "p networks": here[f"{key}_p_networks"],
                    "p": here[f"{key}_p"],
                    "from isotropic": change.mean,
                    "from isotropic, low": change.low,
                    "from isotropic, high": change.high,
                    "from isotropic, p": change.p,
                    "held-out MSE": pa.interquartile_mean(here["test_mse"]),
                }
            )
    return rows


@style()
def draw(roads: dict[str, Road]) -> Figure:
    """Draws alignment before and after the activation, and error, against dose: every seed."""
    texts = {
        f"{statistic}_{site}_excess": (
            f"{statistics.registry.STATISTICS[statistic].short}\nabove null,\n{site}-activation"
        )
        for site, statistic in quantities()
    } | {"test_mse": "held-out MSE"}
    size: dict[str, Any] = {"width": PAGE / len(roads), "height": 165, "above": 60}
    shared: dict[str, Any] = {"sharex": "col", "sharey": "row"}
    figure, panels = plots.figures.page_panels(len(texts), len(roads), **size, **shared)
    for line, (quantity, text) in zip(panels, texts.items(), strict=True):
        for axes, road in zip(line, roads.values(), strict=True):
            columns = {
                f"{dose:.2g}": values
                for dose, values in zip(road.doses, road.numbers[quantity], strict=True)
            }
            plots.evidence.plot_seeds(columns, ax=axes, at=road.doses)
            axes.tick_params(axis="x", labelrotation=90)
            if quantity != "test_mse":
                axes.axhline(0, color=RULE, linewidth=0.8)
        line[0].set_ylabel(text)
    for axes, name in zip(panels[0], roads, strict=True):
        axes.set_title(name)
    figure.supxlabel("dose")
    return figure


EXPERIMENT = experiment.register(
    experiment.Experiment(
        name="dose_response",
        question=QUESTION,
        about=ABOUT,
        documented=DOCUMENTED,
        defaults=DEFAULTS,
        workdir="runs/dose",
        analyse=analyse,
        along=("doses", "optimizers", "learning_rates"),
        more=second_road,
        pictures=True,
    )
)


def main(*, argv: list[str] | None = None) -> None:
    """Runs the experiment as a command."""
    experiment.main(EXPERIMENT, argv=argv)


if __name__ == "__main__":
    main()
