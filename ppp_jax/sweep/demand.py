"""The memory, disk space and time that the training of a grid needs, predicted from shapes.

The prediction compiles nothing and makes no arrays, so that a grid that is too large is refused at
once. Times are predicted from those of earlier trainings on this machine, which are kept in JAX's
cache of compiled programs.
"""

import contextlib
import hashlib
import json
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax

from ppp_jax import resources
from ppp_jax.data.datasets import Dataset
from ppp_jax.engine import program
from ppp_jax.errors import InputError
from ppp_jax.files import atomic, regular
from ppp_jax.grid.grid import Cell, Grid
from ppp_jax.storage import latents, manifest
from ppp_jax.sweep import seed_batches
from ppp_jax.sweep.seed_batches import Needs

RATES = "seconds_per_step.json"
LARGEST = 2**24  # most bytes of that file
CHECKPOINTS = 2  # number of checkpoints that are kept at a time
LOWER = "lower --seeds, --seed_batch, --widths, --latent_widths, --probe_samples or --capture"


class Demand(NamedTuple):
    """Memory and disk space that a grid needs, in bytes.

    Attributes:
      largest: Least memory in which a single network can be trained: the data and the largest
        state.
      least: Least memory of one process: the data and the states of all its runs.
      memory: Predicted memory of one device.
      process: Predicted memory of all devices of a process, which share it on a CPU.
      checkpoints: Disk space of the newest two checkpoints.
    """

    largest: int
    least: int
    memory: int
    process: int
    checkpoints: int


def demanded(
    grid: Grid,
    dataset: Dataset,
    widths: Mapping[str, int],
    *,
    needs: Mapping[str, Needs] | None = None,
) -> Demand:
    """Predicts the memory and disk space that the training of a grid needs.

    Args:
      grid: The grid to be trained.
      dataset: The dataset.
      widths: Number of runs that a device trains at a time, by `Cell.shape`.
      needs: Temporary memory of a run as measured by the compiler, by `Cell.shape`. None means
        that it is predicted from shapes.
    """
    shapes = {cell: seed_batches.run_shapes(grid, cell, dataset) for cell in grid.cells}
    rough = {cell.shape: shapes[cell].needs for cell in grid.cells}
    states = sum(
        seed_batches.padded_runs(grid, widths[cell.shape]) * shapes[cell].state
        for cell in grid.cells
    )
    data = seed_batches.size_bytes(program.outline(grid, dataset))
    memory = seed_batches.memory_bytes(grid, dataset, widths, rough if needs is None else needs)
    on_disk = grid.runs_per_cell * sum(one.state for one in shapes.values())
    return Demand(
        largest=data + max(one.state for one in shapes.values()),
        least=data + jax.local_device_count() * states,
        memory=memory,
        process=data + jax.local_device_count() * (memory - data),
        checkpoints=CHECKPOINTS * on_disk,
    )


def latent_bytes(grid: Grid, dataset: Dataset, snapshots: int) -> int:
    """Returns the size of a grid's latents at some snapshots before compression, in bytes.

    Args:
      grid: The grid to be trained.
      dataset: The dataset.
      snapshots: Number of snapshots.
    """
    probes = min(grid.probe_samples, len(dataset.train)) * snapshots
    kept = latents.groups(grid, dataset.shape)
    numbers = sum(2 * group.units * group.vectors * group.grid.runs for group in kept)
    return numbers * probes * seed_batches.NUMBER


def free_for_training() -> int:
    """Returns the free memory for training in bytes: a device's, or on a CPU the host's."""
    stats = jax.local_devices()[0].memory_stats() if jax.default_backend() != "cpu" else None
    return stats["bytes_limit"] - stats["bytes_in_use"] if stats else resources.free_memory()


def shares_memory() -> bool:
    """Returns whether all devices of a process use the host's memory."""
    return jax.default_backend() == "cpu"


def left(
    dataset: Dataset, parts: Sequence[Grid], reached: Sequence[int | None]
) -> list[tuple[Grid, int]]:
    """Returns each part with the number of its snapshots that are not saved yet.

    Args:
      dataset: The dataset.
      parts: Disjoint grids whose union is the whole grid.
      reached: Number of steps that are done, for each part; None for a part that is not begun.
    """
    return [
        (
            part,
            sum(
                done is None or epoch * (len(dataset.train) // part.batch_size) > done
                for epoch in part.snapshot_epochs
            ),
        )
        for part, done in zip(parts, reached, strict=True)
    ]


def shortage(
    demand: Demand, to_do: Sequence[tuple[Grid, int]], dataset: Dataset, workdir: pathlib.Path
) -> InputError | None:
    """Returns the error for a lack of memory or disk space, or None if there is enough.

    Args:
      demand: Memory and disk space that the grid needs.
      to_do: Parts with the numbers of their missing snapshots, as `left` returns them.
      dataset: The dataset.
      workdir: Path of the run folder.
    """
    if not any(count for _, count in to_do):
        return None  # the run is finished, so nothing is trained
    text, (grid, _) = resources.size_text, to_do[0]
    free, local = free_for_training(), jax.local_device_count()
    least = demand.least if shares_memory() else demand.least // local
    if least > free:
        one = demand.largest > free
        field = max(("widths", "latent_widths"), key=lambda axis: max(getattr(grid, axis)))
        named, value = (field, max(getattr(grid, field))) if one else ("seeds", _few(grid.seeds))
        what = "a single network" if one else "the networks"
        problem = f"memory does not suffice: the data and {what} take "
        size = demand.largest if one else least
        return InputError(
            named, value, f"{problem}{text(size)}, and {text(free)} are free; {LOWER}"
        )
    more = sum(latent_bytes(part, dataset, count) for part, count in to_do)
    free = resources.free_disk(workdir)
    if more > free:
        problem = f"the disk is too full: latents take {text(more)}, and {text(free)} are free"
        return InputError("workdir", workdir, f"{problem}; choose another --workdir, or {LOWER}")
    return None


def _few(values: Sequence[int]) -> str:
    texts = [str(value) for value in values[:3]]
    return ",".join(texts if len(values) < 4 else [*texts, f"… ({len(values):,} of them)"])


def check(
    dataset: Dataset,
    parts: Sequence[Grid],
    reached: Sequence[int | None],
    workdir: pathlib.Path,
    *,
    seed_batch: int | None,
) -> None:
    """Checks, before anything is computed, that memory and disk space suffice.

    Args:
      dataset: The dataset.
      parts: Disjoint grids, each of which is trained by its own program.
      reached: Number of steps that are done, for each part; None for a part that is not begun.
      workdir: Path of the run folder.
      seed_batch: Number of runs that a device trains at a time; None if it is not chosen yet.

    Raises:
      InputError: Memory or disk space does not suffice. The message tells the sizes and which
        settings to lower.
    """
    for part, count in left(dataset, parts, reached):
        if not count:  # the part is finished, so nothing is trained
            continue
        widths = dict.fromkeys((cell.shape for cell in part.cells), seed_batch or 1)
        lacking = shortage(demanded(part, dataset, widths), [(part, count)], dataset, workdir)
        if lacking is not None:
            raise lacking


# ------------------------------------------------------------------------------------ minutes


def minutes(
    grid: Grid, dataset: Dataset, widths: Mapping[str, int], *, run_steps: int
) -> float | None:
    """Predicts the minutes that training takes, or returns None if no such networks were trained.

    Args:
      grid: The grid to be trained.
      dataset: The dataset.
      widths: Number of runs that a device trains at a time, by `Cell.shape`.
      run_steps: Number of remaining gradient steps, over all runs of all cells.
    """
    known = _known_rates()
    rates = [known.get(_key(grid, cell, dataset)) for cell in grid.cells]
    found = [rate for rate in rates if rate is not None]
    if len(found) < len(rates):
        return None
    batches = [seed_batches.padded_runs(grid, widths[cell.shape]) for cell in grid.cells]
    seconds = sum(rate * count for rate, count in zip(found, batches, strict=True))
    return seconds * run_steps / grid.runs / 60


def remember_rate(
    grid: Grid, dataset: Dataset, widths: Mapping[str, int], *, seconds: float, steps: int
) -> None:
    """Saves the time of a training, from which later ones are predicted.

    All cells of a grid are trained by one program. Its time is divided among the cells in
    proportion to their numbers of parameters.

    Args:
      grid: The grid that was trained.
      dataset: The dataset.
      widths: Number of runs that a device trains at a time, by `Cell.shape`.
      seconds: Duration of the steps in seconds, without compilation.
      steps: Number of steps of a run.
    """
    folder = jax.config.values["jax_compilation_cache_dir"]
    if not folder or not pathlib.Path(folder).is_dir() or steps < 1 or seconds <= 0:
        return
    works = [seed_batches.run_shapes(grid, cell, dataset).parameters for cell in grid.cells]
    new = {
        _key(grid, cell, dataset): (
            seconds / steps * work / sum(works) / seed_batches.padded_runs(grid, widths[cell.shape])
        )
        for cell, work in zip(grid.cells, works, strict=True)
    }
    path = pathlib.Path(folder) / RATES
    with contextlib.suppress(OSError):  # training goes on if the cache cannot be written
        atomic.write_text(path, json.dumps({**_known_rates(), **new}, indent=1))


def _known_rates() -> dict[str, float]:
    """Returns the saved times; none if their file is missing or damaged."""
    folder = jax.config.values["jax_compilation_cache_dir"]
    try:
        found = json.loads(regular.read(pathlib.Path(folder or "") / RATES, most=LARGEST))
    except (OSError, ValueError):
        return {}
    pairs = found.items() if isinstance(found, dict) else ()
    return {key: rate for key, rate in pairs if isinstance(rate, float) and 0 < rate < math.inf}


def _key(grid: Grid, cell: Cell, dataset: Dataset) -> str:
    """Returns a digest of everything on which the time of a run's step depends."""
    question: list[Any] = [
        cell.architecture,
        cell.shape,
        cell.optimizer,
        grid.batch_size,
        dataset.train.shape[1],
        manifest.conditions({}),
    ]
    return hashlib.sha256(json.dumps(question).encode()).hexdigest()


def measure(grid: Grid, dataset: Dataset, widths: Mapping[str, int]) -> dict[str, Needs]:
    """Compiles and times a short chunk for every network shape and optimiser, and saves the times.

    Args:
      grid: The grid to be trained.
      dataset: The dataset.
      widths: Number of runs that a device trains at a time, by `Cell.shape`.

    Returns:
      Temporary memory of a run as reported by the compiler, by `Cell.shape`.
    """
    kinds = {(cell.shape, cell.optimizer): cell for cell in grid.cells}
    for cell in kinds.values():
        width = widths[cell.shape]
        alone = seed_batches.alone(grid, cell, range(width * jax.device_count()))
        seconds = seed_batches.seconds_per_step(grid, cell, dataset, width)
        remember_rate(alone, dataset, widths, seconds=seconds, steps=1)
    return {shape: seed_batches.measure(grid, shape, dataset) for shape in widths}
