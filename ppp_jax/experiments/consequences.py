"""What alignment and quantisation cost, and what they are good for."""

from __future__ import annotations

import itertools
import pathlib
import warnings
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

import ppp_jax.analysis as pa
from ppp_jax.analysis import inference, io, plots, projection, results
from ppp_jax.analysis.io.progress import progress_bar
from ppp_jax.analysis.plots.style import NEITHER, PAGE, looks, style
from ppp_jax.analysis.texts import drawn
from ppp_jax.cli import experiment, study
from ppp_jax.data import datasets
from ppp_jax.errors import InputError
from ppp_jax.grid import Grid
from ppp_jax.networks import interpolated
from ppp_jax.networks.architectures import ARCHITECTURES
from ppp_jax.networks.functional import Model, Params
from ppp_jax.storage import restore

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

QUESTION = "Does quantisation cost or help?"
ABOUT = """\
Of every trained autoencoder: held-out error, the accuracy of a linear probe on its latents, and the
held-out error after noise is added to the latents or these are rounded to 8 or 4 bits, each against
how quantised and how aligned the latents are.

  python -m experiments.consequences
"""
DOCUMENTED = """\
Cost: 192 networks, 40 s on two cores. Leaves runs/consequences/study.
"""

DIP, SHAPE = "mean dip", "|C4| of the shape"
LONG = "long rows"  # of the test samples, over 100 times as long as the median: they may decide all
NOISE = (0.1, 0.3)
BITS = (8, 4)
DEFAULTS = Grid(
    activations=(
        "relu",
        "leaky_relu",
        "tanh",
        "isotropic_relu",
        "isotropic_leaky_relu",
        "isotropic_tanh",
    ),
    optimizers=("momentum", "adam"),
    seeds=range(16),
    snapshots=(0,),
)


def check(grid: Grid) -> None:
    """Refuses networks that reconstruct nothing."""
    study.check_architectures(grid, [name for name in ARCHITECTURES if name != "classifier"])


def restored(run: pathlib.Path, grid: Grid, how: dict[str, Any]) -> list[restore.Trained]:
    """Returns the trained networks.

    Args:
      run: The trained run folder.
      grid: The grid that is trained there.
      how: How it was trained, which restoring does not ask.
    """
    del how
    return restore.restore(run, datasets.load(grid.data))


FILLS = ("full", "none", "left", "right", "top", "bottom")  # of the markers of optimisers
CAPTION = (
    "The figure shows what every network's latents are good for, such as reconstruction, probes, "
    "noise and few bits, against how quantised they are (mean dip); a point is a network."
)


def analyse(run: pathlib.Path, options: experiment.Options) -> study.Results:
    """Measures what every network's latents are good for, and what goes with quantisation.

    `options.prepared` are the trained networks; None: they are restored here.

    Args:
      run: The trained run folder.
      options: How it is analysed.
    """
    grid = study.trained_grid(run)
    networks = restored(run, grid, {}) if options.prepared is None else options.prepared
    dataset = datasets.load(grid.data)
    found = {}
    for one in progress_bar(networks, "networks") if options.progress else networks:
        found[one.cell.activation, one.cell.optimizer] = measure(one, dataset)
    names = next((list(cell) for cell in found.values() if cell), [])
    if not names:
        problem = "no network of it stayed finite; lower learning_rates, and overwrite it"
        raise InputError("workdir", run, problem)
    seeds = len(networks[0].grid.seeds)
    found = {
        key: cell or {name: np.full(seeds, np.nan) for name in names} for key, cell in found.items()
    }
    tables = study.frames(
        cells=cell_rows(found),
        differences=difference_rows(found),
        correlations=correlation_rows(found),
    )
    return study.Results(tables, {"consequences": study.Shown(draw(found), CAPTION)})


def measure(one: restore.Trained, dataset: datasets.Dataset) -> dict[str, np.ndarray]:
    """Returns one number per run of a cell for everything that is asked.

    Of a run that has diverged, or whose units have died, they are missing (NaN); of a cell whose
    runs all have, there is nothing.
    """
    import xarray as xr  # imported late: help and plans do without it

    run = jax.jit(jax.vmap(one.model.apply, in_axes=(0, None)))
    seen = run(one.params, dataset.test)
    finite = np.isfinite(seen.latents.post) & np.isfinite(seen.prediction).all(2, keepdims=True)
    clouds = xr.DataArray(np.asarray(seen.latents.post), dims=("run", "sample", "unit"))
    varied = results.mask_constant(clouds).notnull().all(("sample", "unit")).values
    healthy = np.asarray(finite.all(axis=(1, 2))) & varied
    if not healthy.any():
        return {}
    basis = interpolated.get(one.cell.activation).basis
    params = jax.tree.map(lambda leaf: leaf[healthy], one.params)
    found = _measure(params, one.model, dataset, basis)
    spread = {name: np.full(len(healthy), np.nan) for name in found}
    for name, values in found.items():
        spread[name][healthy] = values
    return spread


def _measure(
    params: Params, model: Model, dataset: datasets.Dataset, basis: str | None
) -> dict[str, np.ndarray]:
    """Returns the same of runs that are all finite."""
    encode = jax.jit(jax.vmap(lambda p, x: model.apply(p, x).latents.post, in_axes=(0, None)))
    decode = jax.jit(jax.vmap(model.decode))
    train, test = (np.asarray(encode(params, x)) for x in (dataset.train, dataset.test))

    def error(latents: np.ndarray) -> np.ndarray:
        apart = decode(params, jnp.asarray(latents)) - dataset.test[None]
        return np.asarray(jnp.mean(jnp.square(apart), axis=(1, 2)))

    clean = error(test)
    whitened = np.stack([projection.views.whiten(cloud).samples for cloud in test])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", pa.LongRowWarning)  # The table of cells tells of such rows.
        found = {
            DIP: np.asarray(pa.axis_quantisation(test, basis=basis)),
            SHAPE: np.abs(np.asarray(pa.alignment_c4(whitened, basis=basis))),
            LONG: np.array([float(io.rows.kept_rows(cloud)[1].long) for cloud in test]),
            "error": clean,
        }
    if dataset.shape.classes:
        (train_labels, _, test_labels) = dataset.labels
        found["probe accuracy"] = np.array(
            [
                inference.downstream.probe_accuracy(a, train_labels, b, test_labels)
                for a, b in zip(train, test, strict=True)
            ]
        )
    for fraction in NOISE:
        noisy = error(inference.downstream.add_noise(test, fraction=fraction))
        found[f"error with {fraction:.0%} noise"] = noisy
        found[f"error with {fraction:.0%} noise, ratio"] = noisy / clean
    for bits in BITS:
        rounded = inference.downstream.quantise(test, bits=bits)
        found[f"error at {bits} bits, ratio"] = error(rounded) / clean
    return found


def quantities(cell: dict[str, np.ndarray]) -> list[str]:
    """Returns what quantisation and alignment may go with, of what `measure` returned."""
    return [name for name in cell if name not in (DIP, SHAPE, LONG)]


def cell_rows(found: dict[tuple[str, str], dict[str, np.ndarray]]) -> list[dict[str, Any]]:
    """Returns interquartile means over seeds, a row per cell, and how many did not diverge."""
    return [
        {
            "activation": activation,
            "optimizer": optimizer,
            "seeds": int(np.isfinite(cell["error"]).sum()),
            **{name: pa.interquartile_mean(values) for name, values in cell.items()},
        }
        for (activation, optimizer), cell in found.items()
    ]


def difference_rows(found: dict[tuple[str, str], dict[str, np.ndarray]]) -> pd.DataFrame:
    """Returns elementwise − isotropic, paired by seed, for every quantity."""
    known = {activation: interpolated.get(activation) for activation, _ in found}
    conditions = []
    for (activation, optimizer), values in found.items():
        names = {"activation": activation, "optimizer": optimizer}
        compared = {name: one for name, one in values.items() if name != LONG}
        conditions.append(results.Cell(names, names, compared))
    return results.with_q(
        results.compare(
            conditions, axis="activation", against=results.partner_in(known, isotropic=False)
        )
    )


def correlation_rows(found: dict[tuple[str, str], dict[str, np.ndarray]]) -> pd.DataFrame:
    """Returns, from seed to seed within cells, what goes with quantisation and alignment."""
    cells = list(found.values())
    rows = []
    for cause in (DIP, SHAPE):
        for quantity in quantities(cells[0]):
            table = [np.stack([cell[name] for cell in cells]) for name in (cause, quantity)]
            one = inference.downstream.rank_correlation(*table)
            rows.append(
                {
                    "of": cause,
                    "with": quantity,
                    "rank correlation": one.mean,
                    "low": one.low,
                    "high": one.high,
                    "p": one.p,
                    "seeds": one.seeds,
                    "cells": one.cells,
                }
            )
    return results.with_q(rows)


@style()
def draw(found: dict[tuple[str, str], dict[str, np.ndarray]]) -> Figure:
    """Draws every consequence against the mean dip, a point per network."""
    from matplotlib.lines import Line2D  # imported late: help and plans do without it

    shown = quantities(next(iter(found.values())))
    across = min(3, len(shown))
    down = -(-len(shown) // across)
    size: dict[str, Any] = {"width": PAGE / 3, "height": 270, "above": 70}
    figure, panels = plots.figures.page_panels(down, across, sharex=True, **size)
    seen = looks({activation: interpolated.get(activation) for activation, _ in found})
    optimizers = list(dict.fromkeys(optimizer for _, optimizer in found))
    for axes, quantity in zip(panels.flat, shown, strict=False):
        for (activation, optimizer), cell in found.items():
            fill = FILLS[optimizers.index(optimizer) % len(FILLS)]
            how: dict[str, Any] = {"fillstyle": fill, "alpha": 0.7, **seen[activation].point}
            axes.plot(cell[DIP], cell[quantity], **how)
        axes.set_title(quantity)
        if "noise" in quantity or "bits" in quantity:  # one network in a hundred is far off
            values = np.concatenate([cell[quantity] for cell in found.values()])
            axes.set_ylim(top=1.1 * np.nanquantile(values, 0.99))
    for axes in panels.flat[len(shown) :]:
        axes.set_axis_off()
    figure.supxlabel(DIP)
    marks = [Line2D([], [], label=drawn(name), **look.point) for name, look in seen.items()]
    for optimizer, fill in zip(optimizers, itertools.cycle(FILLS), strict=False):
        how = {"color": NEITHER, "marker": "o", "linestyle": "", "fillstyle": fill}
        marks.append(Line2D([], [], label=optimizer, **how))
    figure.legend(handles=marks, loc="outside upper center", ncols=8)
    return figure


EXPERIMENT = experiment.register(
    experiment.Experiment(
        name="consequences",
        question=QUESTION,
        about=ABOUT,
        documented=DOCUMENTED,
        defaults=DEFAULTS,
        workdir="runs/consequences",
        analyse=analyse,
        along=("activations", "optimizers"),
        check=check,
        prepare=restored,
    )
)


def main(*, argv: list[str] | None = None) -> None:
    """Runs the experiment as a command."""
    experiment.main(EXPERIMENT, argv=argv)


if __name__ == "__main__":
    main()
