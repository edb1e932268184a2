"""Experiments: each is one question, with a grid to train and a function that analyses the runs.

`register` adds an experiment to the registry. As a command, an experiment has the flags of its
grid, trains what is not trained yet, and writes figures, tables and a page. Its analysis can also
be called as a function of a trained run folder.
"""

import contextlib
import dataclasses
import functools
import pathlib
import sys
from collections.abc import Callable, Collection
from typing import Any, NamedTuple

from absl import flags

from ppp_jax.analysis.limits import LEAST_ROTATIONS, MOST_ROTATIONS, ROTATIONS
from ppp_jax.cli import flags as experiment_flags
from ppp_jax.cli import probes, runtime, study
from ppp_jax.engine import devices
from ppp_jax.errors import InputError, real, whole
from ppp_jax.grid import Grid
from ppp_jax.grid.extension import AXES
from ppp_jax.storage import remote
from ppp_jax.sweep import plan, sweep


class Options(NamedTuple):
    """Options of an experiment's analysis.

    Attributes:
      rotations: Number of random rotations that each alignment is compared with.
      epsilon: Acceptance cosine ε of PPP pictures.
      progress: Whether progress bars are shown on stderr.
      prepared: Result of the experiment's `prepare`, or None.
    """

    rotations: int = ROTATIONS
    epsilon: float = experiment_flags.EPSILON
    progress: bool = True
    prepared: Any = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Experiment:
    """One question, with everything that its command, its help and its page need.

    Attributes:
      name: Name of the module in `ppp_jax.experiments`.
      question: The question, which is the first line of the help and of the page.
      about: Text on what is trained and measured, with the command.
      documented: Text on the cost and the results of the command with the default grid.
      defaults: Default grid, which flags can change.
      workdir: Default run folder.
      analyse: Function that analyses a trained run folder.
      along: Axes of the grid, in addition to the seeds, along which the analysis distinguishes
        runs; None means all axes.
      check: Function of the grid that raises `InputError`, before training, if the analysis cannot
        be applied to it.
      more: Function of the grid that returns further grids to train, each in the folder that
        `study.beside` returns.
      prepare: Function of the trained run folder, the given grid and the keyword arguments of
        `sweep.train`, whose result becomes `Options.prepared`. All processes call it, because
        training and restoring networks needs all of them. Only the main process analyses.
      writes: Name of the folder in the run folder that the analysis writes. `study.FOLDER` means
        that tables, figures and a page are written from the results.
      epsilon: Default acceptance cosine ε of PPP pictures.
      pictures: Whether the analysis looks into planes at `--epsilon`, so that the probe samples
        must suffice for that.
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
    pictures: bool = False

    @property
    def asked(self) -> str:
        """The question and its description, with which the help and the page begin."""
        return f"{self.question}\n\n{self.about.rstrip()}"

    def run(
        self,
        grid: Grid,
        workdir: str | pathlib.Path,
        *,
        options: Options | None = None,
        **how: Any,
    ) -> study.Results:
        """Trains what is missing of a grid, and analyses the runs, as the command does.

        It needs no flags, and writes no page; a notebook shows what it returns.

        Args:
          grid: The grid, such as `dataclasses.replace(experiment.defaults, seeds=range(4))`.
          workdir: Path of the run folder. The same call continues what was interrupted in it.
          options: Options of the analysis; None means the experiment's own.
          **how: Further arguments of `sweep.train`.

        Raises:
          InputError: The analysis cannot use the grid, or `sweep.train` raises it.
        """
        options = Options(epsilon=self.epsilon) if options is None else options
        _check(self, grid, options)
        grids = [grid, *(self.more(grid) if self.more else [])]
        how = {"progress": options.progress, **how}
        with contextlib.ExitStack() as opened:
            folders = [
                opened.enter_context(remote.opened(one)) for one in _folders(self, grid, workdir)
            ]
            study.check_folder(folders[0], self.writes)
            options = options._replace(prepared=_train(self, grids, folders, how))
            return self.analyse(folders[0], options)


EXPERIMENTS: dict[str, Experiment] = {}


def register(experiment: Experiment) -> Experiment:
    """Adds an experiment to the registry under its name.

    A module that runs as a command can be imported a second time by another module. The later
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
      argv: Command line with the program's name; None means that of the process.
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
    """Returns the text of the command that runs an experiment with given flags.

    Args:
      name: Name of the module in `ppp_jax.experiments`.
      argv: Command line with the program's name; None means that of the process.

    Example:
      >>> command("depth", argv=["depth", "--epochs=1"])
      'python -m experiments.depth --epochs=1'
    """
    given = (sys.argv if argv is None else argv)[1:]
    return runtime.spelled(" ".join(["python -m", f"experiments.{name}", *given]))


def _train_and_analyse(experiment: Experiment, given: str) -> None:
    """Trains the grid of the flags, and others derived from it, and analyses the runs.

    Raises:
      InputError: A flag cannot be used, or the folder of the analysis cannot be written. This is
        checked before anything is trained.
    """
    values, grid = flags.FLAGS, experiment_flags.grid()
    options = Options(values.rotations, values.epsilon)
    _check(experiment, grid, options)
    how = experiment_flags.training_options() | experiment_flags.watched()
    addresses = _folders(experiment, grid, values.workdir)
    with contextlib.ExitStack() as opened:
        folders = [
            remote.fetched(address)
            if values.dry_run
            else opened.enter_context(remote.opened(address))
            for address in addresses
        ]
        _in_folders(experiment, given, grid, folders, how, options)


def _in_folders(
    experiment: Experiment,
    given: str,
    grid: Grid,
    folders: list[pathlib.Path],
    how: dict[str, Any],
    options: Options,
) -> None:
    """Trains and analyses in folders of this machine, or prints the plan with `--dry_run`."""
    values, workdir = flags.FLAGS, folders[0]
    devices.on_main(lambda: study.check_folder(workdir, experiment.writes))
    grids, chosen = _with_probes(experiment, grid, workdir)
    devices.on_main(functools.partial(experiment_flags.tell_single_numbers, grids[0]))
    if experiment.pictures and (text := probes.remark(chosen, values.epsilon)):
        devices.on_main(functools.partial(print, text, file=sys.stderr))
    if values.dry_run:
        _plan(grids, folders, experiment_flags.training_options())
        devices.on_main(lambda: print(probes.summary(chosen, values.epsilon)))
        return
    options = options._replace(prepared=_train(experiment, grids, folders, how))
    devices.on_main(lambda: _analyse(experiment, workdir, options, given))


def _folders(experiment: Experiment, grid: Grid, workdir: str | pathlib.Path) -> list[str]:
    """Returns the run folders of an experiment's grids, or their addresses."""
    return study.folders(str(workdir), 1 + (len(experiment.more(grid)) if experiment.more else 0))


def _train(
    experiment: Experiment, grids: list[Grid], folders: list[pathlib.Path], how: dict[str, Any]
) -> Any:
    """Trains all grids, and returns what the experiment prepares of the first one's run folder."""
    trained = [sweep.train(one, folder, **how) for one, folder in zip(grids, folders, strict=True)]
    devices.on_main(lambda: study.tell_diverged(trained))
    return experiment.prepare(trained[0], grids[0], how) if experiment.prepare else None


def _with_probes(
    experiment: Experiment, grid: Grid, workdir: pathlib.Path
) -> tuple[list[Grid], probes.Probes]:
    """Returns the grids to train, with the number of probe samples that is chosen for them."""
    values = flags.FLAGS
    grids = [grid, *(experiment.more(grid) if experiment.more else [])]
    chosen = probes.choose(
        grids,
        workdir,
        given=experiment_flags.given_probes(),
        epsilon=values.epsilon,
        overwrite=values.overwrite,
        pictures=experiment.pictures,
    )
    grids = [dataclasses.replace(one, probe_samples=chosen.samples) for one in grids]
    if experiment.check:  # which can ask for a least number
        experiment.check(grids[0])
    return grids, chosen


def _check(experiment: Experiment, grid: Grid, options: Options) -> None:
    """Raises `InputError` for what the analysis cannot use."""
    _check_axes(grid, AXES if experiment.along is None else experiment.along)
    if experiment.check:
        experiment.check(grid)
    real("epsilon", options.epsilon, least=0, most=1)
    whole("rotations", options.rotations, least=LEAST_ROTATIONS, most=MOST_ROTATIONS)


def _check_axes(grid: Grid, along: Collection[str]) -> None:
    """Checks that axes which the analysis does not distinguish have one value.

    Raises:
      InputError: Such an axis has several values.
    """
    for axis in AXES:
        values = getattr(grid, axis)
        if len(values) > 1 and axis not in (*along, "seeds"):
            problem = f"give one value, because this experiment compares {' and '.join(along)}"
            raise InputError(axis, ",".join(str(value) for value in values), problem)


def _plan(grids: list[Grid], folders: list[Any], how: dict[str, Any]) -> None:
    """Prints the plan of each grid's training."""
    for grid, folder in zip(grids, folders, strict=True):
        planned = plan.plan(grid, folder, **how, measure=flags.FLAGS.measure)
        devices.on_main(functools.partial(print, planned))
        if planned.shortage is not None:  # training would raise it too
            raise planned.shortage


def _analyse(experiment: Experiment, workdir: pathlib.Path, options: Options, given: str) -> None:
    """Analyses a run, and writes the study unless the analysis writes its own folder."""
    if experiment.writes != study.FOLDER:
        study.tell(experiment.analyse(workdir, options).notes)
        return
    with study.writing(workdir) as folder:  # the lock keeps other runs out meanwhile
        results = experiment.analyse(workdir, options)
        study.keep(
            results,
            folder,
            asked=runtime.spelled(experiment.asked),
            documented=experiment.documented,
            this_run=study.this_run(given, workdir),
        )
