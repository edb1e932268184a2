"""The progress bar of a sweep, with steps, runs per second, remaining time and diverged runs."""

import sys
import time
from collections.abc import Mapping
from types import TracebackType

import numpy as np
from tqdm.auto import tqdm

from ppp_jax.grid.grid import Grid


class Progress:
    """A progress bar over the gradient steps of all parts of a sweep, used in a `with` block.

    The rate and the remaining time do not include compilation.
    """

    def __init__(self, *, total: int, done: int, show: bool):
        """Opens a bar of `total` steps, of which `done` were taken by earlier calls."""
        self.bar = tqdm(
            total=total,
            initial=done,
            unit="step",
            disable=not show,
            mininterval=0.1 if sys.stderr.isatty() else 10,
        )
        self.seconds, self.run_steps, self.since = 0.0, 0, time.monotonic()

    def __enter__(self) -> "Progress":
        """Returns the bar."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Closes the bar."""
        self.bar.close()

    def compiled(self) -> None:
        """Marks the end of compilation, from which on the rate is measured."""
        self.bar.unpause()
        self.since = time.monotonic()

    def compiling(self) -> None:
        """Shows that a program is being compiled."""
        self.bar.last_print_t = time.time()  # steps since the bar was last drawn stay in its rate
        self.bar.set_description("compiling")

    def advance(
        self,
        grid: Grid,
        losses: Mapping[str, np.ndarray],
        *,
        steps: int,
        epoch: float,
        run_steps: int,
    ) -> None:
        """Moves the bar.

        Args:
          grid: Grid of the trained runs.
          losses: Mean losses over the chunk, `(runs,)`, by the names of cells.
          steps: Number of steps of the chunk.
          epoch: Epoch at the end of the chunk.
          run_steps: Number of steps of a complete run.
        """
        now = time.monotonic()
        self.seconds, self.since = self.seconds + now - self.since, now
        self.run_steps += steps * len(grid.cells) * grid.runs_per_cell
        rate = self.run_steps / run_steps / self.seconds
        diverged = sum(int((~np.isfinite(loss)).sum()) for loss in losses.values())
        self.bar.set_description(f"epoch {epoch:.0f}", refresh=False)
        self.bar.set_postfix_str(f"{rate:.3g} runs/s, {diverged} diverged", refresh=False)
        self.bar.update(steps)

    def write(self, grid: Grid, losses: Mapping[str, np.ndarray], *, epoch: float) -> None:
        """Writes each activation's median training loss over its runs in a line above the bar."""
        if self.bar.disable:
            return
        medians = []
        for name in grid.activations:
            runs = [losses[cell.name] for cell in grid.cells if cell.activation == name]
            medians.append(f"{name} {_median(np.concatenate(runs)):.3f}")
        self.bar.write(f"epoch {epoch:>4.0f}  loss  " + "  ".join(medians), file=sys.stderr)


def _median(losses: np.ndarray) -> float:
    """Returns the median of the runs that have not diverged, or NaN."""
    finite = losses[np.isfinite(losses)]
    return float(np.median(finite)) if len(finite) else float("nan")
