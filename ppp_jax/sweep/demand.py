"""What training a grid demands of the machine, from shapes alone: memory, disk, minutes.

Nothing is compiled here and no array is made, so that a grid which could never be trained is
refused at once. Minutes come from what earlier trainings on this machine took, which is kept beside
the compiled programs.
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
LARGEST = 2**24  # bytes of that file
CHECKPOINTS = 2  # held at a time, the newest and the one before
LOWER = "lower --seeds, --seed_batch, --widths, --latent_widths, --probe_samples or --capture"


class Demand(NamedTuple):
    """Bytes that a grid demands.

    Attributes:
      largest: memory without which not one network can be trained: data, and the largest state.
      least: memory without which the grid cannot: data, and the states of all runs, of one process.
      memory: memory predicted of one device.
      process: memory predicted of all devices of a process, which on a CPU share it.
      checkpoints: disk of the newest two.
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
    """Predicts what training a grid takes.

    Args:
      grid: what is trained.
      dataset: what it is trained on.
      widths: `Cell.shape` to the number of runs trained at a time on a device.
      needs: `Cell.shape` to what a run takes, as the compiler says; None: from shapes.
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
    """Returns the size of a grid's latents at some snapshots, before compression.

    Args:
      grid: what is trained.
      dataset: what it is trained on.
      snapshots: how many.
    """
    probes = min(grid.probe_samples, len(dataset.train)) * snapshots
    kept = latents.groups(grid, dataset.shape)
    numbers = sum(2 * group.units * group.vectors * group.grid.runs for group in kept)
    return numbers * probes * seed_batches.NUMBER


def free_for_training() -> int:
    """Returns the free bytes of what networks are trained in: a device's memory, or the host's."""
    stats = jax.local_devices()[0].memory_stats() if jax.default_backend() != "cpu" else None
    return stats["bytes_limit"] - stats["bytes_in_use"] if stats else resources.free_memory()


def shares_memory() -> bool:
    """Returns whether all devices of a process live in the host's memory."""
    return jax.default_backend() == "cpu"


def left(
    dataset: Dataset, parts: Sequence[Grid], reached: Sequence[int | None]
) -> list[tuple[Grid, int]]:
    """Returns each part with the number of its snapshots that are still to be made.

    Args:
      dataset: what is trained on.
      parts: disjoint grids that together are the whole.
      reached: each part's steps that are done already.
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
    """Returns what training is bound to fail for want of, if anything.

    Args:
      demand: of the whole grid.
      to_do: what `left` returns.
      dataset: what is trained on.
      workdir: the run folder.
    """
    if not any(count for _, count in to_do):
        return None  # finished: nothing is trained
    text, (grid, _) = resources.size_text, to_do[0]
    free, local = free_for_training(), jax.local_device_count()
    least = demand.least if shares_memory() else demand.least // local
    if least > free:
        one = demand.largest > free
        field = max(("widths", "latent_widths"), key=lambda axis: max(getattr(grid, axis)))
        named, value = (field, max(getattr(grid, field))) if one else ("seeds", _few(grid.seeds))
        what = "a single network" if one else "the networks"
        problem = f"memory does not suffice: data and {what} alone take "
        size = demand.largest if one else least
        return InputError(named, value, f"{problem}{text(size)}, {text(free)} are free; {LOWER}")
    more = sum(latent_bytes(part, dataset, count) for part, count in to_do)
    room = resources.free_disk(workdir)
    if more > room:
        problem = f"the disk has no room: latents take {text(more)}, {text(room)} are free"
        return InputError("workdir", workdir, f"{problem}; name another --workdir, or {LOWER}")
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
    """Refuses what is bound to fail for want of memory or disk, before anything is computed.

    Args:
      dataset: what is trained on.
      parts: disjoint grids, each trained by a program of its own.
      reached: each part's steps that are done already.
      workdir: the run folder.
      seed_batch: how many runs are trained at a time; None: not chosen yet.

    Raises:
      InputError: naming what does not fit, by how much, and what to lower.
    """
    for part, count in left(dataset, parts, reached):
        widths = dict.fromkeys((cell.shape for cell in part.cells), seed_batch or 1)
        lacking = shortage(demanded(part, dataset, widths), [(part, count)], dataset, workdir)
        if lacking is not None:
            raise lacking


# ------------------------------------------------------------------------------------ minutes


def minutes(
    grid: Grid, dataset: Dataset, widths: Mapping[str, int], *, run_steps: int
) -> float | None:
    """Predicts how long training takes, or None where no such networks were trained before.

    Args:
      grid: what is trained.
      dataset: what it is trained on.
      widths: `Cell.shape` to the number of runs trained at a time on a device.
      run_steps: gradient steps that are left, over all runs of all cells.
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
    """Keeps what training took, for predictions of later ones.

    The cells of a grid are one program: its time is shared out among them by their arithmetic.

    Args:
      grid: what was trained.
      dataset: what on.
      widths: `Cell.shape` to the number of runs trained at a time on a device.
      seconds: that the steps took, compilation left out.
      steps: of every run.
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
    with contextlib.suppress(OSError):  # a cache that cannot be written is no reason to stop
        atomic.write_text(path, json.dumps({**_known_rates(), **new}, indent=1))


def _known_rates() -> dict[str, float]:
    """Returns what is remembered: nothing, where it is not there or damaged."""
    folder = jax.config.values["jax_compilation_cache_dir"]
    try:
        found = json.loads(regular.read(pathlib.Path(folder or "") / RATES, most=LARGEST))
    except (OSError, ValueError):
        return {}
    pairs = found.items() if isinstance(found, dict) else ()
    return {key: rate for key, rate in pairs if isinstance(rate, float) and 0 < rate < math.inf}


def _key(grid: Grid, cell: Cell, dataset: Dataset) -> str:
    """Returns a digest of what the time of a step depends on, of one run among others."""
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
    """Compiles and times a little of every network shape and optimiser, and keeps the rates.

    Args:
      grid: what would be trained.
      dataset: what it would be trained on.
      widths: `Cell.shape` to the number of runs trained at a time on a device.

    Returns:
      `Cell.shape` to what a run of it takes of memory, as the compiler says.
    """
    kinds = {(cell.shape, cell.optimizer): cell for cell in grid.cells}
    for cell in kinds.values():
        width = widths[cell.shape]
        alone = seed_batches.alone(grid, cell, range(width * jax.device_count()))
        seconds = seed_batches.seconds_per_step(grid, cell, dataset, width)
        remember_rate(alone, dataset, widths, seconds=seconds, steps=1)
    return {shape: seed_batches.measure(grid, shape, dataset) for shape in widths}
