"""PPP and SRM of clouds whose structure is known, and of the default ablation."""

from __future__ import annotations

import pathlib
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
from absl import flags

import ppp_jax.analysis as pa
from ppp_jax.analysis import plots, projection
from ppp_jax.analysis.plots.style import PAGE, style
from ppp_jax.cli import flags as experiment_flags
from ppp_jax.cli import study
from ppp_jax.errors import InputError, writing

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.figure import Figure
    from matplotlib.gridspec import GridSpecBase

ABOUT = """\
What do PPP and SRM show of clouds whose structure is known, and of the default ablation?

  python -m experiments.ablation && python -m experiments.gallery

Cost: half a minute. Outcome: runs/figures/gallery.png and training.gif: the eight clouds
of docs/method.md §13, each with its density over the isotropic null, its SRM curve and its numbers;
below them the trained bottlenecks of the default ablation; the film shows tanh's during training.
"""

COLUMNS, FILMED = 3, "tanh"
SHOWN = ("activation", "seed", "step", "sample", "unit")


def define() -> None:
    """Defines the flags."""
    flags.DEFINE_string("workdir", "runs/ablation", "run folder of the default ablation")
    flags.DEFINE_string("out", "runs/figures", "folder for the figure and the film")
    flags.DEFINE_float("epsilon", 0.7, "acceptance cosine, in [0, 1]")


def command() -> None:
    """Draws the gallery and the film of the run folder that the flags name."""
    values = flags.FLAGS
    projection.kernel.check_epsilon(values.epsilon)
    with experiment_flags.naming("workdir"):
        run = bottlenecks(pathlib.Path(values.workdir))
    out = pathlib.Path(values.out).expanduser()
    with writing("out", out):
        out.mkdir(parents=True, exist_ok=True)
    gallery(run, epsilon=values.epsilon).savefig(out / "gallery.png")
    pictures = pa.ppp(run.sel(activation=FILMED), epsilon=values.epsilon, by="step", bins=96)
    print(out / "gallery.png", pa.animate(pictures, out / "training.gif"))


@style()
def gallery(run: xr.DataArray, *, epsilon: float) -> Figure:
    """Draws known clouds and trained bottlenecks, a panel each.

    Args:
      run: Latents, as `bottlenecks` returns them.
      epsilon: The acceptance cosine.
    """
    shown: dict[str, Any] = dict(pa.known_clouds())
    shown |= {
        f"{name}, trained": run.sel(activation=name).isel(step=-1)
        for name in run["activation"].values
    }
    rows = -(-len(shown) // COLUMNS)
    figure = plots.figures.page_figure(PAGE, 235 * rows)
    figure.suptitle(
        f"Density over the isotropic null (left) and SRM (right; dashed: isotropic), ε = "
        f"{epsilon:g}. D: mean dip"
    )
    grid = figure.add_gridspec(rows, COLUMNS)
    for k, (name, latents) in enumerate(shown.items()):
        place = grid[divmod(k, COLUMNS)].subgridspec(1, 2)
        draw(figure, place, name, latents, epsilon)
    return figure


def bottlenecks(workdir: pathlib.Path) -> xr.DataArray:
    """Returns the latents before the activation, over activations, seeds and snapshots."""
    run = study.load(workdir)["pre"]
    for axis, name in (("optimizer", "momentum"), ("activation", FILMED)):
        if name not in run[axis].values:
            problem = f"has no {axis} {name}; name the default ablation's run folder"
            raise InputError("workdir", workdir, problem)
    others = {axis: 0 for axis in run.dims if axis not in SHOWN}
    return run.sel(optimizer=["momentum"]).isel(others, drop=True)


def draw(
    figure: Figure,
    place: GridSpecBase,
    name: str,
    latents: Any,
    epsilon: float,
) -> None:
    """Draws one cloud: its density, its SRM curve, its numbers above."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", pa.EmptyPPPWarning)  # the panel says so
        picture = pa.ppp(latents, epsilon=epsilon, bins=96)
        curves = pa.srm(latents, epsilon=epsilon)
    axes = figure.add_subplot(place[0])
    pa.plot_ppp(picture, ax=axes, colorbar=False)
    ratio = picture.acceptance_ratio.item()
    c4 = float(np.mean(pa.alignment_c4(latents))) + 0.0
    dip = float(np.mean(pa.axis_quantisation(latents)))
    numbers = f"A/A0 {ratio:.2g}, C4 {c4:.2f}, D {dip:.3f}"
    axes.set(xlabel="", ylabel="")
    axes.set_title(f"{name}\n{numbers}")
    polar = figure.add_subplot(place[1], projection="polar")
    pa.plot_srm(curves, ax=polar, planes=False).set_title("", loc="center")


def main(*, argv: list[str] | None = None) -> None:
    """Runs the command."""
    experiment_flags.run(command, define=define, about=ABOUT, argv=argv)


if __name__ == "__main__":
    main()
