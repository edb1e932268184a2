"""Do representations quantise along the axes because of the functions we chose?

Trains the same autoencoders on the same data with the same seeds, with elementwise activations
(which know the axes) and with their isotropic counterparts (which do not), under an optimiser that
respects rotations and one that does not, and shows the latents in every privileged plane.

  python -m experiments.ablation

Cost: 192 networks of 64-48-8-48-64 on 1,438 digits for 100 epochs; two to three minutes on two
cores. Outcome: runs/ablation/report/index.html; what it shows is written down in README.md.
"""

import pathlib

from absl import flags

from experiments import flags as experiment_flags
from ppp_jax import devices, plan, sweep
from ppp_jax.analysis import check_epsilon, write_report
from ppp_jax.grid import Grid

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
)

experiment_flags.define(DEFAULTS, workdir="runs/ablation")


def main() -> None:
    """Trains what is not trained yet, writes the report, prints the table."""
    grid, values = experiment_flags.grid(), flags.FLAGS
    check_epsilon(values.epsilon)
    how = experiment_flags.training_options()
    if values.dry_run:
        planned = plan.plan(grid, values.workdir, **how)
        devices.on_main(lambda: print(planned))
        return
    workdir = sweep.train(grid, values.workdir, **how)
    devices.on_main(lambda: report(workdir, values.epsilon))


def report(workdir: pathlib.Path, epsilon: float) -> None:
    """Writes the report and prints the table."""
    page = write_report(workdir, epsilon=epsilon)
    for path in sorted(page.parent.glob("cells_*.md")):
        print(path.read_text(encoding="utf-8"))
    print(f"report: {page}")


if __name__ == "__main__":
    experiment_flags.run(main)
