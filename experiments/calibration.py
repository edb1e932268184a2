"""False positives and power of the tests, on clouds whose law is known."""

import pathlib
from typing import Any

import numpy as np
import xarray as xr
from absl import flags
from matplotlib.figure import Figure

from ppp_jax.analysis.inference import calibration
from ppp_jax.analysis.plots import evidence
from ppp_jax.analysis.projection.kernel import check_epsilon
from ppp_jax.analysis.statistics import registry
from ppp_jax.analysis.texts import as_markdown
from ppp_jax.cli import flags as experiment_flags
from ppp_jax.errors import writing

ABOUT = """\
Are the tests right? False positives on isotropic clouds, power on graded mixtures.

  python -m experiments.calibration

Cost: 46 s on two cores. Leaves experiments/figures/calibration.png, and prints the fraction of
clouds with p ≤ .05.
"""

SEEDS = (6, 8, 16, 32)
COUNTS = {  # default, smallest, largest: all clouds of one law are held at once
    "draws": (400, 1, 10_000, "isotropic clouds of each law"),
    "samples": (500, 2, 100_000, "samples of each cloud"),
    "units": (8, 2, 256, "n"),
    "rotations": (99, 19, 10_000, "random rotations of each test"),
}

CALIBRATED = ("c4", "kurtosis", "unit_kurtosis")


def define() -> None:
    """Defines the flags."""
    flags.DEFINE_string("out", "experiments/figures", "folder for the figure")
    for name, (default, least, most, text) in COUNTS.items():
        experiment_flags.define_count(name, default, text, least=least, most=most)
    flags.DEFINE_float("epsilon", 0.7, "acceptance cosine of the angles' statistics")


def command() -> None:
    """Calibrates the tests as the flags say."""
    values = flags.FLAGS
    check_epsilon(values.epsilon)
    out = pathlib.Path(values.out).expanduser()
    with writing("out", out):
        out.mkdir(parents=True, exist_ok=True)
    path = calibrate(
        out,
        draws=values.draws,
        samples=values.samples,
        units=values.units,
        rotations=values.rotations,
        epsilon=values.epsilon,
    )
    print(f"\nfigure: {path}")


def calibrate(
    out: pathlib.Path, *, draws: int, samples: int, units: int, rotations: int, epsilon: float
) -> pathlib.Path:
    """Draws clouds, tests them, prints the tables and saves the figure.

    Args:
      out: The folder for the figure, which is there.
      draws: How many isotropic clouds are drawn from each law.
      samples: The samples of each cloud.
      units: The units of each cloud.
      rotations: The random rotations of each test.
      epsilon: The acceptance cosine of the angles' statistics.

    Returns:
      The path of the figure.
    """
    size: dict[str, Any] = {"samples": samples, "units": units, "rotations": rotations}
    planes = registry.names(of=[registry.PLANES])
    p = calibration.null_p_values(
        **size, draws=draws, statistics=(*CALIBRATED, *planes), epsilon=epsilon, progress=True
    )
    found = calibration.power(**size, statistics=CALIBRATED, progress=True)
    tell_false_positives(p, draws)
    tell_power(found)
    covered = [f"{calibration.interval_coverage(seeds):.0%}" for seeds in SEEDS]
    print("\nexperiments whose 95 % interval of a paired difference holds the true one")
    print(as_markdown([f"{seeds} seeds" for seeds in SEEDS], [covered]))
    draw(p, found).savefig(out / "calibration.png")
    return out / "calibration.png"


def tell_false_positives(p: xr.DataArray, draws: int) -> None:
    """Prints how many isotropic clouds every test takes for aligned ones.

    Args:
      p: The p-values, as `calibration.null_p_values` returns them.
      draws: How many clouds of each law there are.
    """
    rates = calibration.false_positives(p)
    error = np.sqrt(0.05 * 0.95 / draws)
    print(f"fraction of {draws} isotropic clouds with p ≤ .05, standard error {error:.1%}")
    header = ["clouds", *(str(name) for name in rates["statistic"].values)]
    body = [
        [str(law), *(f"{x:.1%}" for x in rates.sel(law=law).values)] for law in rates["law"].values
    ]
    print(as_markdown(header, body))


def tell_power(found: xr.Dataset) -> None:
    """Prints how many mixtures every test takes for aligned ones.

    Args:
      found: What `calibration.power` returns.
    """
    print("\nshare of mixtures with p ≤ .05")
    fractions = [f"{fraction:.0%}" for fraction in found["fraction"].values]
    body = [
        [kind, str(name), *(f"{x:.0%}" for x in found["power"].sel(kind=kind, statistic=name))]
        for kind in calibration.KINDS
        for name in found["statistic"].values
    ]
    print(as_markdown(["on", "statistic", *fractions], body))


def draw(p: xr.DataArray, found: xr.Dataset) -> Figure:
    """Draws the distributions of p-values, and the power of every test.

    Args:
      p: The p-values of isotropic clouds.
      found: What `calibration.power` returns.
    """
    figure = Figure(figsize=(11, 3.6), dpi=110, layout="constrained")
    axes = figure.subplots(1, 3)
    evidence.plot_p_values(p, ax=axes[0])
    for kind, place in zip(calibration.KINDS, axes[1:], strict=True):
        evidence.plot_power(found, kind=kind, ax=place)
    return figure


def main(*, argv: list[str] | None = None) -> None:
    """Runs the command."""
    experiment_flags.run(command, define=define, about=ABOUT, argv=argv)


if __name__ == "__main__":
    main()
