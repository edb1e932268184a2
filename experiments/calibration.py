"""Are the tests right? False positives on isotropic clouds, power on graded mixtures.

  python -m experiments.calibration

Cost: 46 s on two cores. Leaves experiments/figures/calibration.png, and prints the share of clouds
with p ≤ .05.

Outcome: 5 % within Monte Carlo error for clouds without a privileged basis, rising to 1 with the
share of samples on axes or corners.
"""

import pathlib

import numpy as np
from absl import flags
from matplotlib.figure import Figure

import ppp_jax.analysis as pa
from ppp_jax.analysis.inference import calibration
from ppp_jax.analysis.plots import evidence
from ppp_jax.analysis.texts import as_markdown
from ppp_jax.cli import flags as experiment_flags
from ppp_jax.errors import writing

SEEDS = (6, 8, 16, 32)
flags.DEFINE_string("out", "experiments/figures", "folder for the figure")
COUNTS = {  # default, smallest, largest: all clouds of one law are held at once
    "draws": (400, 1, 10_000, "isotropic clouds of each law"),
    "samples": (500, 2, 100_000, "samples of each cloud"),
    "units": (8, 2, 256, "n"),
    "rotations": (99, 19, 10_000, "random rotations of each test"),
}
for _name, (_default, _least, _most, _text) in COUNTS.items():
    experiment_flags.define_count(_name, _default, _text, least=_least, most=_most)
flags.DEFINE_float("epsilon", 0.7, "acceptance cosine of the angles' statistics")


def main() -> None:
    """Draws clouds, tests them, prints the tables and saves the figure."""
    values = flags.FLAGS
    pa.check_epsilon(values.epsilon)
    out = pathlib.Path(values.out).expanduser()
    with writing("out", out):
        out.mkdir(parents=True, exist_ok=True)
    size = {"samples": values.samples, "units": values.units, "rotations": values.rotations}
    p = calibration.null_p_values(**size, draws=values.draws, epsilon=values.epsilon, progress=True)
    found = calibration.power(**size, progress=True)
    rates = calibration.false_positives(p)
    print(f"share of {values.draws} isotropic clouds with p ≤ .05, "
          f"standard error {np.sqrt(0.05 * 0.95 / values.draws):.1%}")  # fmt: skip
    header = ["clouds", *(str(name) for name in rates["statistic"].values)]
    print(as_markdown(header, [[str(law), *(f"{x:.1%}" for x in rates.sel(law=law).values)]
                               for law in rates["law"].values]))  # fmt: skip
    print("\nshare of mixtures with p ≤ .05")
    shares = [f"{share:.0%}" for share in found["share"].values]
    print(as_markdown(["on", "statistic", *shares], [
        [kind, str(name), *(f"{x:.0%}" for x in found["power"].sel(kind=kind, statistic=name))]
        for kind in calibration.KINDS for name in found["statistic"].values
    ]))  # fmt: skip
    covered = [f"{calibration.interval_coverage(seeds):.0%}" for seeds in SEEDS]
    print("\nexperiments whose 95 % interval of a paired difference holds the true one")
    print(as_markdown([f"{seeds} seeds" for seeds in SEEDS], [covered]))
    figure = Figure(figsize=(11, 3.6), dpi=110, layout="constrained")
    axes = figure.subplots(1, 3)
    evidence.plot_p_values(p, ax=axes[0])
    for kind, place in zip(calibration.KINDS, axes[1:], strict=True):
        evidence.plot_power(found, kind=kind, ax=place)
    figure.savefig(out / "calibration.png")
    print(f"\nfigure: {out / 'calibration.png'}")


if __name__ == "__main__":
    experiment_flags.run(main)
