"""The host loop: trains a grid chunk by chunk and keeps what it finds."""

import itertools
import pathlib
import sys
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from ppp_jax import data, interrupts, latents, program, store
from ppp_jax.data import Dataset
from ppp_jax.errors import InputError
from ppp_jax.grid import Grid

PROGRESS_UPDATES = 50  # a run is cut into about so many chunks, so that the bar moves
MIN_CHUNK_STEPS = 100  # below this, the host's share of the time is felt


class Plan(NamedTuple):
    """What training a grid amounts to.

    Attributes:
      cells: static configurations, each compiled.
      runs: trained networks.
      steps: gradient steps per run.
      steps_done: steps that the workdir already holds.
      parameters: trained numbers in all runs together.
      memory_bytes: estimate of the memory held at once: states twice (a step's old and new), the
        data, and one snapshot with the largest layers behind it.
      latents_bytes: size of the saved latents, uncompressed.
    """

    cells: int
    runs: int
    steps: int
    steps_done: int
    parameters: int
    memory_bytes: int
    latents_bytes: int

    def __str__(self) -> str:
        """One line per figure."""
        return (
            f"cells       {self.cells:,}\n"
            f"runs        {self.runs:,}\n"
            f"steps       {self.steps:,} per run, {self.steps * self.runs:,} in all, "
            f"{self.steps_done:,} per run already done\n"
            f"parameters  {self.parameters:,}\n"
            f"memory      {self.memory_bytes / 2**20:,.0f} MiB, estimated\n"
            f"latents     {self.latents_bytes / 2**20:,.0f} MiB on disk, before compression"
        )


def _load(grid: Grid) -> Dataset:
    dataset = data.load(grid.data)
    if grid.batch_size > len(dataset.train):
        raise InputError(
            "batch_size",
            grid.batch_size,
            f"is larger than the training set; {grid.data} has {len(dataset.train)} samples",
        )
    return dataset


def _total_steps(grid: Grid, dataset: Dataset) -> int:
    return grid.epochs * (len(dataset.train) // grid.batch_size)


def plan(grid: Grid, workdir: str | pathlib.Path, *, overwrite: bool = False) -> Plan:
    """Counts what `train` would do, without compiling, training or writing anything.

    Args:
      grid: what would be trained.
      workdir: the run folder, which need not exist.
      overwrite: plan for `train` with the same option.

    Returns:
      The `Plan`.

    Raises:
      InputError: as `train`, but for what only writing can show.
    """
    dataset, workdir = _load(grid), pathlib.Path(workdir).expanduser()
    steps_done = 0
    if not overwrite and store.is_same(workdir, grid, dataset):
        steps_done = store.last_step(workdir) or 0
    built = program.build(grid, dataset)
    states = jax.eval_shape(built.init, built.hypers)
    seen = jax.eval_shape(built.observe, states, built.arrays, jnp.int32(0))
    params = [state.params for state in states.values()]
    features = dataset.train.shape[1]
    layers = max(2 * features + 2 * cell.depth * cell.width for cell in grid.cells)
    observing = 4 * layers * len(dataset.train) * grid.runs_per_cell
    return Plan(
        cells=len(grid.cells),
        runs=len(grid.cells) * grid.runs_per_cell,
        steps=_total_steps(grid, dataset),
        steps_done=steps_done,
        parameters=sum(leaf.size for leaf in jax.tree.leaves(params)),
        memory_bytes=2 * _bytes(states) + _bytes(built.arrays) + _bytes(seen) + observing,
        latents_bytes=_bytes([o.latents for o in seen.values()]) * len(grid.snapshot_epochs),
    )


def _bytes(tree: object) -> int:
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def train(
    grid: Grid,
    workdir: str | pathlib.Path,
    *,
    overwrite: bool = False,
    progress: bool = True,
) -> pathlib.Path:
    """Trains a grid and saves its latents, continuing where an earlier call was stopped.

    The whole grid is one compiled program, called once per chunk of steps; between chunks the
    losses are written down, and at each snapshot epoch the latents, the errors and a checkpoint.
    A call on a finished folder trains nothing.

    Args:
      grid: what to train.
      workdir: the run folder, see `ppp_jax.store`; created if it does not exist.
      overwrite: remove an earlier run in `workdir` first.
      progress: show a progress bar, and a line of losses at each snapshot, on stderr.

    Returns:
      The run folder, for `ppp_jax.analysis.load`.

    Raises:
      InputError: the data cannot be used, the batch is larger than the training set, or the
        folder cannot be written or holds another configuration. Nothing is compiled before.
      KeyboardInterrupt: Ctrl-C or SIGTERM; a checkpoint has been kept at the end of the chunk.

    Example:
      >>> import tempfile
      >>> grid = Grid(activations=["tanh"], epochs=1, probe_samples=10)
      >>> folder = train(grid, tempfile.mkdtemp(), progress=False)
      >>> sorted(path.name for path in folder.iterdir())
      ['checkpoints', 'latents.zarr', 'manifest.json', 'metrics.jsonl']
    """
    dataset, workdir = _load(grid), pathlib.Path(workdir).expanduser()
    done = store.open_run(workdir, grid, dataset, overwrite=overwrite)
    total = _total_steps(grid, dataset)
    if done == total:
        return workdir
    bar = tqdm(
        total=total,
        initial=done or 0,
        unit="step",
        disable=not progress,
        mininterval=0.1 if sys.stderr.isatty() else 10,
        desc="compiling",
    )
    with bar:
        _run(grid, dataset, workdir, done, bar)
    return workdir


def _run(grid: Grid, dataset: Dataset, workdir: pathlib.Path, done: int | None, bar: tqdm) -> None:
    """Trains from step `done` (None: from nothing) to the end.

    Raises:
      KeyboardInterrupt: to stop was requested; a checkpoint holds everything up to here.
    """
    built = program.build(grid, dataset)
    steps_per_epoch = len(dataset.train) // grid.batch_size
    snapshots = [epoch * steps_per_epoch for epoch in grid.snapshot_epochs]
    store.truncate_metrics(workdir, last_step=-1 if done is None else done)

    def record(step: int, states: program.States) -> None:
        seen = built.observe(states, built.arrays, jnp.int32(step))
        latents.write_snapshot(workdir / store.LATENTS, grid, snapshots.index(step), seen)

    with (
        store.checkpoint_manager(workdir) as checkpoints,
        interrupts.stop_requests() as stop_requested,
    ):
        if done is None:
            states = built.init(built.hypers)
            record(0, states)
            store.save_checkpoint(checkpoints, 0, states)
        else:
            like = jax.eval_shape(built.init, built.hypers)
            states = store.restore_checkpoint(checkpoints, done, like)
        for first, steps in _chunks(snapshots, done or 0):
            states, trained = built.chunk(
                states, built.hypers, built.arrays, jnp.int32(first), jnp.int32(steps)
            )
            losses, step = jax.device_get(trained), first + steps
            store.append_metrics(workdir, grid, step, step / steps_per_epoch, losses)
            stopping = stop_requested()
            if step in snapshots:
                record(step, states)
            if step in snapshots or stopping:
                store.save_checkpoint(checkpoints, step, states)
            _show(bar, grid, step, steps, steps_per_epoch, losses if step in snapshots else None)
            if stopping:
                raise KeyboardInterrupt


def _chunks(snapshots: list[int], done: int) -> Iterator[tuple[int, int]]:
    """Yields `(first step, steps)` from `done` on: the way between snapshots, cut for the bar.

    The cuts depend on the snapshots alone, so a resumed run makes the same ones.
    """
    longest = max(MIN_CHUNK_STEPS, snapshots[-1] // PROGRESS_UPDATES)
    for start, end in itertools.pairwise(snapshots):
        for cut in range(start, end, longest):
            first, after = max(cut, done), min(cut + longest, end)
            if first < after:
                yield first, after - first


def _show(
    bar: tqdm,
    grid: Grid,
    step: int,
    steps: int,
    steps_per_epoch: int,
    losses: Mapping[str, np.ndarray] | None,
) -> None:
    """Moves the bar, and writes a line above it where there are losses to show."""
    bar.set_description(f"epoch {step / steps_per_epoch:.0f}", refresh=False)
    bar.update(steps)
    if losses is not None and not bar.disable:
        bar.write(_losses_line(grid, step // steps_per_epoch, losses), file=sys.stderr)


def _median(losses: np.ndarray) -> float:
    """Returns the median of the runs that have not diverged, or NaN."""
    finite = losses[np.isfinite(losses)]
    return float(np.median(finite)) if len(finite) else float("nan")


def _losses_line(grid: Grid, epoch: int, losses: Mapping[str, np.ndarray]) -> str:
    """Returns one line: each activation's median training loss over all its runs."""
    medians = []
    for name in grid.activations:
        runs = [losses[cell.name] for cell in grid.cells if cell.activation == name]
        medians.append(f"{name} {_median(np.concatenate(runs)):.3f}")
    return f"epoch {epoch:>4}  loss  " + "  ".join(medians)
