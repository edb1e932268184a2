"""Is alignment a threshold or a slope in how elementwise the activation is?

Two roads from isotropic to elementwise tanh (or another function: --activations=dose_NAME): the
mixture (1 − t)·isotropic + t·elementwise, with t a traced axis of one program, and the p-norm
radial map, isotropic at p = 2, with dose 1 − 2/p.

  python -m experiments.dose_response \
      [--data=patches --epochs=20 --workdir=runs/dose_patches]

Cost: 448 networks, 244 s on two cores (245 s on patches). Leaves runs/dose/study: C4, its test and
the held-out error at every dose, and a line with a kink against a straight one.

Outcome: a slope on digits, from t = 0.1 to 0.2 beyond chance. On patches neither: alignment with
the diagonals is strongest halfway, and the p-norm's is with the axes instead.
"""

import dataclasses
import pathlib
from typing import Any

import numpy as np
from absl import flags
from matplotlib.figure import Figure

from experiments import flags as experiment_flags
from experiments import study
from ppp_jax.analysis import charts, response
from ppp_jax.analysis.compare import interquartile_mean, paired_difference
from ppp_jax.analysis.measure import KINDS, Measured, cells, measure
from ppp_jax.grid import Grid

POWERS = (2, 2.25, 2.5, 3, 4, 8)
DEFAULTS = Grid(
    activations=("dose_tanh",),
    doses=(0, 0.05, 0.1, 0.2, 0.35, 0.5, 0.75, 1),
    optimizers=("momentum", "adam"),
    seeds=range(16),
    snapshots=(0,),
)
experiment_flags.define(DEFAULTS, workdir="runs/dose")


def main() -> None:
    """Trains both grids, prints the tables."""
    study.run(analyse, along=("doses", "optimizers", "learning_rates"), more=second_road)


def second_road(grid: Grid) -> list[Grid]:
    """Returns the p-norms of the same function, a static cell for every p."""
    response.check_doses(grid.doses)
    (name,) = grid.activations
    powers = [f"pnorm_{name.removeprefix('dose_')}:{p:g}" for p in POWERS]
    return [dataclasses.replace(grid, activations=powers, doses=())]


def analyse(workdirs: list[pathlib.Path]) -> None:
    """Measures both roads and asks whether a kink describes them better than a line."""
    values = flags.FLAGS
    roads: dict[str, dict[str, Any]] = {}
    for road, workdir in zip(("t", "1 − 2/p"), workdirs, strict=True):
        measured = measure(study.load(workdir), epsilon=values.epsilon,
                           rotations=values.rotations, progress=True)  # fmt: skip
        for optimizer, cell in _by_optimizer(measured, road).items():
            roads[f"{road}, {optimizer}"] = cell
    rows = study.add_q([row for name, road in roads.items() for row in _rows(name, road)])
    with study.writing(workdirs[0]) as folder:
        study.keep_table(folder, "doses", rows)
        study.keep_table(folder, "kinks", [
            {"road": name, "latents": kind,
             **response.kink(road["doses"], road[f"c4_{kind}"])._asdict()}
            for name, road in roads.items() for kind in KINDS
        ])  # fmt: skip
        study.keep_figure(folder, "doses", draw(roads))


def _by_optimizer(measured: Measured, road: str) -> dict[str, dict[str, Any]]:
    """Collects, per optimiser, doses and one array `(doses, seeds)` per quantity."""
    found: dict[str, dict[str, Any]] = {}
    for names, at in cells(measured.runs):
        name = str(names["activation"])
        dose = names["dose"] if road == "t" else 1 - 2 / float(name.partition(":")[2])
        cell = found.setdefault(f"{names['optimizer']} {names['learning_rate']:g}", {"doses": []})
        cell["doses"].append(dose)
        last, pooled = measured.runs.isel(at).isel(step=-1), measured.pooled.isel(at).isel(step=-1)
        for quantity in ("test_mse", *(f"c4_{kind}" for kind in KINDS)):
            cell.setdefault(quantity, []).append(last[quantity].values)
        for kind in KINDS:
            for end in ("z", "p"):
                cell.setdefault(f"{kind}_{end}", []).append(pooled[f"c4_{kind}_{end}"].item())
    return found


def _rows(name: str, road: dict[str, Any]) -> list[dict[str, Any]]:
    rows = []
    for k, dose in enumerate(road["doses"]):
        for kind in KINDS:
            c4 = road[f"c4_{kind}"]
            change = paired_difference(c4[k], c4[0])
            rows.append({
                "road": name, "dose": float(dose), "latents": kind,
                "seeds": int(np.isfinite(c4[k]).sum()),
                "C4": interquartile_mean(c4[k]), "z": road[f"{kind}_z"][k],
                "p": road[f"{kind}_p"][k], "from isotropic": change.mean, "low": change.low,
                "high": change.high, "held-out MSE": interquartile_mean(road["test_mse"][k]),
            })  # fmt: skip
    return rows


def draw(roads: dict[str, dict[str, Any]]) -> Figure:
    """Draws C4 before and after the activation, and error, against dose: every seed visible."""
    figure = Figure(figsize=(3.3 * len(roads), 7.2), dpi=110, layout="constrained")
    quantities = {"c4_pre": "C4, pre-activation", "c4_post": "C4, post-activation",
                  "test_mse": "held-out MSE"}  # fmt: skip
    panels = figure.subplots(len(quantities), len(roads), sharey="row", squeeze=False)
    for line, (quantity, text) in zip(panels, quantities.items(), strict=True):
        for axes, (name, road) in zip(line, roads.items(), strict=True):
            columns = {f"{dose:.2g}": values for dose, values
                       in zip(road["doses"], road[quantity], strict=True)}  # fmt: skip
            charts.plot_seeds(columns, ax=axes)
            axes.set_xlabel(name, fontsize=8)
            if quantity != "test_mse":
                axes.axhline(0, color="0.7", linewidth=0.8)
        line[0].set_ylabel(text, fontsize=8)
    return figure


if __name__ == "__main__":
    experiment_flags.run(main)
