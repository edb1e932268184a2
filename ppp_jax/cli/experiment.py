"""An experiment is one question: a grid to train, and a function that analyses what came out.

`register` makes it known once. As a command it has the flags of its grid, trains what is not
trained yet, and leaves figures, tables and a page; called as a function, its analysis takes a
trained run folder and returns them.
"""

import dataclasses
import functools
import pathlib
import sys
from collections.abc import Callable, Collection
from typing import Any, NamedTuple

from absl import flags

from ppp_jax.analysis.inference.rotation_test import ROTATIONS
from ppp_jax.analysis.projection.kernel import check_epsilon
from ppp_jax.cli import flags as experiment_flags
from ppp_jax.cli import study
from ppp_jax.engine import devices
from ppp_jax.errors import InputError, whole
from ppp_jax.grid import Grid
from ppp_jax.grid.extension import AXES
from ppp_jax.sweep import plan, sweep

LEAST_ROTATIONS = 19


class Options(NamedTuple):
    """How an experiment analyses a run, whatever the run is.

    Attributes:
      rotations: How many random rotations each alignment is held against.
      epsilon: The acceptance cosine of pictures.
      progress: Whether progress bars are shown on stderr.
      prepared: What the experiment's `prepare` returned; None if nothing was prepared.
    """

    rotations: int = ROTATIONS
    epsilon: float = experiment_flags.EPSILON
    progress: bool = True
    prepared: Any = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Experiment:
    """One question, and everything that its command, its help and its page need.

    Attributes:
      name: The module in `experiments`.
      question: The question, as the first line of the help and of the page.
      about: What is trained and measured, and the command.
      documented: What the command costs and what came out of it, with the defaults.
      defaults: The grid that is trained unless flags say otherwise.
      workdir: The default run folder.
      analyse: It returns what a trained run folder says.
      along: The axes of the grid that the analysis tells apart, beside the seeds; None: all.
      check: It raises `InputError` for what the analysis cannot take, before training.
      more: It returns the grids that are trained beside, each in the folder that `study.beside`
        names.
      prepare: It is called by every process with the trained run folder, the grid that was asked
        for and the keyword arguments of `sweep.train`, and its result becomes `Options.prepared`:
        what trains or restores networks needs all processes, while the main process alone
        analyses.
      writes: The folder in the run folder that the analysis itself writes; `study.FOLDER`: the
        tables, figures and page that are made of its results.
      epsilon: The default acceptance cosine.
    """

    name: str
    question: str
    about: str
    documented: str
    defaults: Grid
    workdir: str
    analyse: Callable[[pathlib.Path, Options], study.Results]
    along: Collection[str] | None = None
    check: Callable[[Grid], Any] | None = None
    more: Callable[[Grid], list[Grid]] | None = None
    prepare: Callable[[pathlib.Path, Grid, dict[str, Any]], Any] | None = None
    writes: str = study.FOLDER
    epsilon: float = experiment_flags.EPSILON

    @property
    def asked(self) -> str:
        """The question and what is done about it, as help and page begin."""
        return f"{self.question}\n\n{self.about.rstrip()}"


EXPERIMENTS: dict[str, Experiment] = {}


def register(experiment: Experiment) -> Experiment:
    """Makes an experiment known by its name.

    A module that runs as a command may be imported once more by another one; the later
    registration replaces the earlier one.

    Args:
      experiment: The experiment.

    Returns:
      The experiment.
    """
    EXPERIMENTS[experiment.name] = experiment
    return experiment


def main(experiment: Experiment, *, argv: list[str] | None = None) -> None:
    """Runs an experiment as a command, and exits with its status.

    Args:
      experiment: The experiment.
      argv: The command line with the program's name; None: the process's own.
    """
    experiment_flags.run(
        functools.partial(_train_and_analyse, experiment, command(experiment.name, argv=argv)),
        define=functools.partial(
            experiment_flags.define,
            experiment.defaults,
            workdir=experiment.workdir,
            epsilon=experiment.epsilon,
        ),
        about=f"{experiment.asked}\n\n{experiment.documented}",
        argv=argv,
    )


def command(name: str, *, argv: list[str] | None = None) -> str:
    """Returns a command as it was given.

    Args:
      name: The module in `experiments`.
      argv: The command line with the program's name; None: the process's own.

    Example:
      >>> command("depth", argv=["depth", "--epochs=1"])
      'python -m experiments.depth --epochs=1'
    """
    given = (sys.argv if argv is None else argv)[1:]
    return " ".join(["python -m", f"experiments.{name}", *given])


def _train_and_analyse(experiment: Experiment, given: str) -> None:
    """Trains the grid of the flags, and others derived from it, and analyses what came out.

    Raises:
      InputError: a flag cannot be used, or something else stands where the analysis is to write;
        before anything is trained.
    """
    values, grid = flags.FLAGS, experiment_flags.grid()
    _check(experiment, grid)
    how = experiment_flags.training_options()
    devices.on_main(lambda: study.check_folder(values.workdir, experiment.writes))
    grids = [grid, *(experiment.more(grid) if experiment.more else [])]
    devices.on_main(functools.partial(experiment_flags.tell_single_numbers, grid))
    folders = [
        values.workdir,
        *(study.beside(values.workdir, number=k + 2) for k in range(len(grids) - 1)),
    ]
    if values.dry_run:
        _plan(grids, folders, how)
        return
    trained = [sweep.train(one, folder, **how) for one, folder in zip(grids, folders, strict=True)]
    devices.on_main(lambda: study.tell_diverged(trained))
    prepared = experiment.prepare(trained[0], grid, how) if experiment.prepare else None
    options = Options(values.rotations, values.epsilon, prepared=prepared)
    devices.on_main(lambda: _analyse(experiment, trained[0], options, given))


def _check(experiment: Experiment, grid: Grid) -> None:
    """Refuses what the analysis cannot take."""
    values = flags.FLAGS
    _check_axes(grid, AXES if experiment.along is None else experiment.along)
    if experiment.check:
        experiment.check(grid)
    check_epsilon(values.epsilon)
    whole("rotations", values.rotations, least=LEAST_ROTATIONS)


def _check_axes(grid: Grid, along: Collection[str]) -> None:
    """Refuses several values of an axis that an analysis would mix up.

    Raises:
      InputError: naming the axis.
    """
    for axis in AXES:
        values = getattr(grid, axis)
        if len(values) > 1 and axis not in (*along, "seeds"):
            problem = f"name one value: this experiment compares {' and '.join(along)}"
            raise InputError(axis, ",".join(str(value) for value in values), problem)


def _plan(grids: list[Grid], folders: list[Any], how: dict[str, Any]) -> None:
    """Says what training would do."""
    for grid, folder in zip(grids, folders, strict=True):
        planned = plan.plan(grid, folder, **how, measure=flags.FLAGS.measure)
        devices.on_main(functools.partial(print, planned))
        if planned.shortage is not None:  # as training would say
            raise planned.shortage


def _analyse(experiment: Experiment, workdir: pathlib.Path, options: Options, given: str) -> None:
    """Analyses a run, and writes what an analysis does not write itself."""
    if experiment.writes != study.FOLDER:
        study.tell(experiment.analyse(workdir, options).notes)
        return
    with study.writing(workdir) as folder:  # no other run is at work there while it is measured
        results = experiment.analyse(workdir, options)
        study.keep(
            results,
            folder,
            asked=experiment.asked,
            documented=experiment.documented,
            this_run=study.this_run(given, workdir),
        )
