"""What is watched while a grid is trained: a profile of some steps, and losses for other programs.

Losses are always written to `metrics.jsonl`, from which a run continues. TensorBoard and Weights &
Biases get, per chunk of steps and cell, the mean loss of the runs that have not diverged.
"""

import contextlib
import importlib.util
import os
import pathlib
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from ppp_jax.engine import devices
from ppp_jax.errors import InputError, lookup
from ppp_jax.grid.grid import Grid

JSONL, TENSORBOARD, WANDB = "jsonl", "tensorboard", "wandb"
PROFILE = "profile"  # name of the profile's folder in a run folder
Losses = Mapping[str, float]
Log = Callable[[int, Losses], None]  # called with a step and the losses by tag


class Watch(NamedTuple):
    """What is watched.

    Attributes:
      profile_steps: First step of a profile and the step after its last one; None for no profile.
      log_to: Names of logs, of `LOGS`.
    """

    profile_steps: tuple[int, int] | None = None
    log_to: tuple[str, ...] = (JSONL,)


def checked(profile_steps: Sequence[int] | None, log_to: Sequence[str]) -> Watch:
    """Checks what is to be watched, before anything is computed.

    Args:
      profile_steps: First step of a profile and the step after its last one, or None.
      log_to: Names of logs, of `LOGS`.

    Raises:
      InputError: The steps are no range, a log is not known, or its package is not installed.
    """
    for name in log_to:
        package = lookup(LOGS, name, field="log_to").package
        if package is not None and importlib.util.find_spec(package) is None:
            problem = f"needs {package}; run pip install 'ppp_jax[{name}]'"
            raise InputError("log_to", name, problem)
    if profile_steps is None:
        return Watch(None, tuple(log_to))
    first, after = profile_steps
    if not 0 <= first < after:
        problem = "must be a range of steps such as 10:20, whose end exceeds its start"
        raise InputError("profile_steps", f"{first}:{after}", problem)
    return Watch((first, after), tuple(log_to))


class Observer:
    """Watches the training of one part in the main process. Other processes watch nothing."""

    def __init__(self, watch: Watch, workdir: pathlib.Path, logs: Sequence[Log]):
        """Starts nothing yet. `observing` returns an observer.

        Args:
          watch: What is watched.
          workdir: Path of the run folder.
          logs: The opened logs.
        """
        self._steps = watch.profile_steps if devices.is_main() else None
        self._folder, self._logs = workdir / PROFILE, logs
        self._since: int | None = None  # first step of the profile that is being taken

    def begin(self, first: int, steps: int) -> None:
        """Starts the profile if one of its steps is among those that follow.

        Args:
          first: Number of the first step.
          steps: Number of steps, all of which are then in the profile.
        """
        if self._steps is None or self._since is not None:
            return
        if first < self._steps[1] and first + steps > self._steps[0]:
            jax.profiler.start_trace(str(self._folder))
            self._since = first

    def end(self, grid: Grid, losses: Mapping[str, np.ndarray], step: int) -> None:
        """Logs the losses of steps, and ends the profile after its last step.

        Args:
          grid: Grid of the part.
          losses: Mean losses, `(runs,)`, by the names of cells.
          step: Number of steps taken.
        """
        if self._logs:
            means = {f"train_loss/{cell.name}": _mean(losses[cell.name]) for cell in grid.cells}
            for log in self._logs:
                log(step, means)
        if self._steps is not None and self._since is not None and step >= self._steps[1]:
            self.close(step)

    def close(self, step: int | None = None) -> None:
        """Ends the profile if it is still being taken.

        Args:
          step: Number of steps taken; None if the training was interrupted.
        """
        if self._since is None:
            return
        jax.profiler.stop_trace()
        until = "the interruption" if step is None else f"{step}"
        text = f"profile of steps {self._since} to {until} (whole chunks): {self._folder}"
        sys.stderr.write(f"\n{text}\n")
        self._steps = self._since = None


def _mean(losses: Any) -> float:
    finite = np.asarray(losses, np.float64)
    finite = finite[np.isfinite(finite)]
    return float(finite.mean()) if finite.size else float("nan")


@contextlib.contextmanager
def observing(
    watch: Watch, workdir: pathlib.Path, *, part: int, done: int, config: Mapping[str, Any]
) -> Iterator[Observer]:
    """Opens what is watched during the training of a part.

    Args:
      watch: What is watched.
      workdir: Path of the run folder.
      part: Number of the part.
      done: Steps that are already taken. Later ones in a log are of a killed process.
      config: Configuration of the grid, which a log may show.
    """
    with contextlib.ExitStack() as opened:
        names = watch.log_to if devices.is_main() else ()
        kinds = [LOGS[name] for name in dict.fromkeys(names)]
        logs = [
            opened.enter_context(kind.open(workdir, part, done, config))
            for kind in kinds
            if kind.open is not None
        ]
        observer = Observer(watch, workdir, logs)
        opened.callback(observer.close)
        yield observer


@contextlib.contextmanager
def _tensorboard(
    workdir: pathlib.Path, part: int, done: int, _config: Mapping[str, Any]
) -> Iterator[Log]:
    import tensorboardX

    with tensorboardX.SummaryWriter(
        str(workdir / TENSORBOARD / f"part_{part}"), purge_step=done
    ) as writer:

        def log(step: int, losses: Losses) -> None:
            for tag, value in losses.items():
                writer.add_scalar(tag, value, step)

        yield log


@contextlib.contextmanager
def _wandb(
    workdir: pathlib.Path, part: int, _done: int, config: Mapping[str, Any]
) -> Iterator[Log]:
    import wandb

    run = wandb.init(
        project="ppp_jax",
        name=f"{workdir.name}_{part}",
        dir=str(workdir),
        config=dict(config),
        mode=os.environ.get("WANDB_MODE", "offline"),
        settings=wandb.Settings(silent=True),
    )
    try:
        yield lambda step, losses: run.log(dict(losses), step=step)
    finally:
        run.finish()


class _Kind(NamedTuple):
    """A kind of log.

    Attributes:
      package: Package that it needs, which the extra of the log's name installs.
      open: Function that opens it for a block; None if it is always written.
    """

    package: str | None
    open: Callable[..., contextlib.AbstractContextManager[Log]] | None


LOGS = {
    JSONL: _Kind(None, None),
    TENSORBOARD: _Kind("tensorboardX", _tensorboard),
    WANDB: _Kind("wandb", _wandb),
}
