"""Trains what its flags say, as an experiment's main does, and reports nothing.

python -m tests.train --workdir=… [flags of experiments.ablation]
"""

import functools

from absl import flags

from ppp_jax.cli import flags as experiment_flags
from ppp_jax.grid import Grid
from ppp_jax.sweep import sweep


def main():
    sweep.train(experiment_flags.grid(), flags.FLAGS.workdir, **experiment_flags.training_options())


if __name__ == "__main__":
    experiment_flags.run(
        main, define=functools.partial(experiment_flags.define, Grid(), workdir="runs/test")
    )
