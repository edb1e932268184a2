"""Elementwise activations and their isotropic counterparts, in every privileged plane."""

import pathlib

import ppp_jax.analysis as pa
from ppp_jax.cli import experiment, study
from ppp_jax.errors import printable
from ppp_jax.grid import Grid
from ppp_jax.storage import run_dir

QUESTION = "Do representations quantise along the axes because of the functions we chose?"
ABOUT = """\
Trains the same autoencoders on the same data with the same seeds, with elementwise activations
(which know the axes) and with their isotropic counterparts (which do not), under an optimiser that
respects rotations and one that does not, and shows the latents in every privileged plane.

  python -m experiments.ablation [--data=patches --epochs=20 --workdir=runs/ablation_patches]
"""
DOCUMENTED = """\
Cost: 192 networks of 64-48-8-48-64 on 1,438 digits for 100 epochs; 4 min on two cores, half a
minute of it training. Leaves runs/ablation/report/index.html.
"""

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


def analyse(run: pathlib.Path, options: experiment.Options) -> study.Results:
    """Writes the report of the whole grid, and returns its tables and its answer.

    Args:
      run: The trained run folder.
      options: How it is analysed.
    """
    import pandas as pd  # imported late: help and plans do without it

    page = pa.write_report(
        run, epsilon=options.epsilon, rotations=options.rotations, progress=options.progress
    )
    paths = [
        path
        for kind in ("cells", "rates", "verdicts")
        for path in sorted(page.parent.glob(f"{kind}_*.csv"))
    ]
    tables = {path.stem: pd.read_csv(path) for path in paths}
    answers = [path.read_text(encoding="utf-8") for path in sorted(page.parent.glob("answer_*.md"))]
    notes = (*answers, f"report: {printable(page)}")
    return study.Results(tables, {}, silent=(*tables,), notes=notes)


EXPERIMENT = experiment.register(
    experiment.Experiment(
        name="ablation",
        question=QUESTION,
        about=ABOUT,
        documented=DOCUMENTED,
        defaults=DEFAULTS,
        workdir="runs/ablation",
        analyse=analyse,
        writes=run_dir.REPORT,
        pictures=True,
    )
)


def main(*, argv: list[str] | None = None) -> None:
    """Runs the experiment as a command."""
    experiment.main(EXPERIMENT, argv=argv)


if __name__ == "__main__":
    main()
