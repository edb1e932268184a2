"""The host loop: trains a grid chunk by chunk and keeps what it finds."""

import contextlib
import dataclasses
import itertools
import pathlib
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from ppp_jax.data import datasets
from ppp_jax.data.datasets import Dataset
from ppp_jax.engine import devices, interrupts, program
from ppp_jax.engine.program import Program, States
from ppp_jax.engine.training import Arrays
from ppp_jax.errors import InputError
from ppp_jax.grid.grid import ALL, Grid, check_feasible
from ppp_jax.networks import architectures, functional
from ppp_jax.storage import latents, manifest, run_dir
from ppp_jax.storage.manifest import Manifest
from ppp_jax.sweep import agreement, demand, seed_batches
from ppp_jax.sweep.progress import Progress
from ppp_jax.symmetry import certificates

CHUNKS_PER_SNAPSHOT = 25  # so that the bar moves, and a request to stop is heard
MIN_CHUNK_STEPS = 100  # below this, the host's share of the time is felt
OUT_OF_MEMORY = ("RESOURCE_EXHAUSTED", "Out of memory")  # in XLA's errors
CHECKPOINT_SECONDS = 60  # what a killed process may lose, beside the chunk it was in


def load_data(grid: Grid, *, seed_batch: int | None = None) -> Dataset:
    """Loads a grid's data.

    Raises:
      InputError: they cannot be used, or the batch is larger than the training set; or
        `seed_batch` is not positive.
    """
    if seed_batch is not None and seed_batch < 1:
        raise InputError("seed_batch", seed_batch, "must be at least 1")
    dataset = datasets.load(grid.data)
    _check_networks(grid, dataset)
    if grid.batch_size > len(dataset.train):
        raise InputError(
            "batch_size",
            grid.batch_size,
            f"is larger than the training set; {grid.data} has {len(dataset.train)} samples",
        )
    check_feasible(grid, len(dataset.train))
    return dataset


def _check_networks(grid: Grid, dataset: Dataset) -> None:
    """Refuses data that an architecture cannot take, and layers that no network has."""
    for name in grid.architectures:
        for width in grid.widths:
            architectures.check(name, dataset.shape, width=width, data=grid.data)
    all_layers = dataclasses.replace(grid, capture=(ALL,))
    everywhere = {layer for cell in grid.cells for layer in all_layers.captured(cell)}
    for layer in grid.capture:
        if layer not in (ALL, functional.BOTTLENECK) and layer not in everywhere:
            raise InputError(
                "capture",
                layer,
                f"no network of this grid has it; known: {', '.join(sorted(everywhere)) or 'none'}",
            )


def train(
    grid: Grid,
    workdir: str | pathlib.Path,
    *,
    seed_batch: int | None = None,
    overwrite: bool = False,
    allow_inexact_resume: bool = False,
    progress: bool = True,
) -> pathlib.Path:
    """Trains a grid and saves its latents, continuing where an earlier call was stopped.

    The whole grid is one compiled program, called once per chunk of steps; between chunks the
    losses are written down, and at each snapshot epoch the latents, the errors and a checkpoint.
    A call on a finished folder trains nothing. A call with a larger grid (more values on an axis,
    more epochs) trains what is missing, each addition by a program of its own.

    Under several processes all make the same call, and `workdir` is a folder that all share.

    Args:
      grid: what to train.
      workdir: the run folder, see `ppp_jax.storage.run_dir`; created if it does not exist.
      seed_batch: how many runs a device trains at a time; chosen by
        `ppp_jax.sweep.seed_batches` if None. Bits depend on it.
      overwrite: remove an earlier run in `workdir` first.
      allow_inexact_resume: go on under other conditions than those so far (see
        `manifest.conditions`), though it changes bits.
      progress: show a progress bar, and a line of losses at each snapshot, on stderr.

    Returns:
      The run folder, for `ppp_jax.analysis.load`.

    Raises:
      InputError: the data cannot be used, the batch is larger than the training set, or the
        folder cannot be written, is in use, or holds something that `grid` does not, or was
        trained under other conditions. Nothing is trained before. Also, later, if the disk fails
        or the memory does not suffice.
      Stopped: a KeyboardInterrupt: Ctrl-C or SIGTERM, and a checkpoint has been kept at the end of
        the chunk.

    Example:
      >>> import tempfile
      >>> grid = Grid(activations=["tanh"], epochs=1, probe_samples=10)
      >>> folder = train(grid, tempfile.mkdtemp(), progress=False)
      >>> sorted(path.name for path in folder.iterdir())
      ['certificates.json', 'checkpoints', 'latents.zarr', 'manifest.json', 'metrics.jsonl']
    """
    workdir, inexact = agreement.together(lambda: run_dir.folder(workdir)), allow_inexact_resume
    how = {"seed_batch": seed_batch, "overwrite": overwrite, "allow_inexact_resume": inexact}
    dataset = _agreed(grid, workdir, how)
    with run_dir.locked(workdir), _disk_errors(workdir):
        agreement.check_shared(workdir, run_dir.LOCK)
        stored, reached = _looked_at(workdir, grid, dataset, how)
        with _memory_errors(seed_batch):  # widths may be timed
            wanted = resolve(
                stored,
                workdir,
                grid,
                dataset,
                seed_batch=seed_batch,
                allow_inexact=inexact,
                reached=[one.step for one in reached],
            )
        devices.on_main(
            lambda: run_dir.prepare(
                workdir,
                wanted,
                dataset,
                overwrite=overwrite,
                reached=reached,
                allow_inexact=inexact,
            )
        )
        with _memory_errors(max(wanted.conditions["seed_batch"].values())):
            _train_parts(wanted, dataset, workdir, progress and devices.is_main())
        devices.on_main(lambda: _certify(workdir, wanted))
    return workdir


def _agreed(grid: Grid, workdir: pathlib.Path, how: dict[str, Any]) -> Dataset:
    """Returns the data, once all processes mean the same and a new run of it can fit."""
    seed_batch = how["seed_batch"]
    dataset = agreement.together(lambda: load_data(grid, seed_batch=seed_batch))
    agreement.check_call(grid.to_json(), dataset.sha256, how, workdir)

    def check_new() -> None:
        if how["overwrite"] or manifest.read(workdir) is None:  # before a folder is made
            demand.check(dataset, (grid,), [None], workdir, seed_batch=seed_batch)

    agreement.together(check_new)
    return dataset


def _looked_at(
    workdir: pathlib.Path, grid: Grid, dataset: Dataset, how: dict[str, Any]
) -> tuple[Manifest | None, list[run_dir.Reached]]:
    """Returns what a folder is to hold and how far its parts are, once that is known to fit."""
    stored = agreement.together(
        lambda: run_dir.check(workdir, grid, dataset, overwrite=how["overwrite"])
    )
    if stored is None:
        return None, []
    reached = run_dir.examine(workdir, stored)
    steps, batch = [part.step for part in reached], how["seed_batch"]
    agreement.together(
        lambda: demand.check(dataset, stored.parts, steps, workdir, seed_batch=batch)
    )
    return stored, reached


def _certify(workdir: pathlib.Path, wanted: Manifest) -> None:
    """Keeps certificates of everything in the grid, unless they are there and of the same.

    Raises:
      InputError: they are not, and a name stands for another function than was trained.
    """
    there, subject = run_dir.certified(workdir), certificates.subject(wanted.grid)
    fits = there is not None and certificates.fits(there, wanted.grid)
    if fits and not manifest.same_programs(wanted):
        return  # computed where the run was trained, and nothing is trained here
    if there is None or not fits or there.get("subject") != subject:
        manifest.check_functions(wanted, workdir)
        found = certificates.certify_grid(wanted.grid)
        run_dir.keep_certificates(workdir, {**found, "subject": subject})


def total_steps(grid: Grid, dataset: Dataset) -> int:
    """Returns the gradient steps of every run."""
    return grid.epochs * steps_per_epoch(grid, dataset)


def steps_per_epoch(grid: Grid, dataset: Dataset) -> int:
    """Returns the gradient steps of an epoch, whose last, incomplete batch is left out."""
    return len(dataset.train) // grid.batch_size


def is_finished(wanted: Manifest, dataset: Dataset, reached: Sequence[int | None]) -> bool:
    """Returns whether every part of a run is trained to the end.

    Args:
      wanted: the run.
      dataset: what it is trained on.
      reached: the step that counts of every part.
    """
    total = total_steps(wanted.grid, dataset)
    return all(done == total for done in reached)


def resolve(
    stored: Manifest | None,
    workdir: pathlib.Path,
    grid: Grid,
    dataset: Dataset,
    *,
    seed_batch: int | None,
    allow_inexact: bool,
    timed: bool = True,
    reached: Sequence[int | None] | None = None,
) -> Manifest:
    """Returns the manifest under which training starts or goes on, widths chosen.

    Of a finished folder it is the stored one, whatever the conditions: nothing is trained.

    Raises:
      InputError: the conditions have changed and `allow_inexact` is not set, or a name means
        another function than so far.
    """
    if stored is not None and reached is None:
        reached = run_dir.last_steps(workdir, stored)
    if stored is not None and is_finished(stored, dataset, reached or ()):
        return stored
    whole = grid if stored is None else stored.grid
    if seed_batch is None:
        recorded = {} if stored is None else stored.conditions["seed_batch"]
        steps = total_steps(whole, dataset)
        widths = seed_batches.seed_batches(
            whole, dataset, recorded=recorded, steps=steps, timed=timed
        )
    else:
        widths = {cell.shape: int(seed_batch) for cell in whole.cells}
    now = manifest.conditions(widths)
    if stored is None:
        return manifest.create(grid, dataset, now)
    return manifest.under(stored, workdir, now, allow_inexact=allow_inexact)


@contextlib.contextmanager
def _disk_errors(workdir: pathlib.Path) -> Iterator[None]:
    """Turns what goes wrong with the disk into one line that says what to do.

    Raises:
      InputError: a write failed; what was saved before is intact.
    """
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise InputError(
            "workdir",
            workdir,
            f"cannot be written any more ({reason}); what is saved is kept: mend that and say the "
            "same again",
        ) from error


@contextlib.contextmanager
def _memory_errors(width: int | None) -> Iterator[None]:
    """Turns a lack of memory, of devices or of the host, into one line that says what to lower.

    Args:
      width: the seed batch in use, None where it is still being chosen.

    Raises:
      InputError: memory does not suffice; what was saved before is intact.
    """
    try:
        yield
    except (MemoryError, jax.errors.JaxRuntimeError) as error:
        text = str(error) or "the host's"
        if not isinstance(error, MemoryError) and not any(sign in text for sign in OUT_OF_MEMORY):
            raise
        raise InputError(
            "seed_batch",
            "auto" if width is None else width,
            f"memory does not suffice ({text.splitlines()[0]}); what is saved is kept: lower "
            "--seed_batch (saying --allow_inexact_resume, since bits depend on it), or in another "
            "--workdir --probe_samples, --capture, --batch_size or --widths; --dry_run predicts "
            "what is needed",
        ) from error


def _train_parts(wanted: Manifest, dataset: Dataset, workdir: pathlib.Path, show: bool) -> None:
    """Trains every part from where it is to the end.

    Raises:
      Stopped: to stop was requested; a checkpoint holds everything up to here.
    """
    reached = run_dir.last_steps(workdir, wanted)
    total = total_steps(wanted.grid, dataset)
    bar = Progress(total=total * len(reached), done=sum(step or 0 for step in reached), show=show)
    with bar, interrupts.stop_requests() as stop_requested:
        arrays = None
        for index, (grid, done) in enumerate(zip(wanted.parts, reached, strict=True)):
            if done != total:
                arrays = program.put_data(grid, dataset) if arrays is None else arrays
                part, before = _build_part(wanted, index, dataset, arrays, workdir), bar.seconds
                _train_part(part, done, bar, stop_requested)
                if devices.is_main():
                    demand.remember_rate(
                        grid,
                        dataset,
                        wanted.conditions["seed_batch"],
                        seconds=bar.seconds - before,
                        steps=total - (done or 0),
                    )


class _Part(NamedTuple):
    """A part as it is trained.

    Attributes:
      number: its place in the manifest.
      grid: its runs.
      identity: see `manifest.identity`.
      built: its program.
      workdir: the run folder.
      steps_per_epoch: of every run.
      record: `(step, states)`: writes the snapshot after `step` steps.
    """

    number: int
    grid: Grid
    identity: str
    built: Program
    workdir: pathlib.Path
    steps_per_epoch: int
    record: Callable[[int, States], None]


def _build_part(
    wanted: Manifest, index: int, dataset: Dataset, arrays: Arrays, workdir: pathlib.Path
) -> _Part:
    grid, widths = wanted.parts[index], wanted.conditions["seed_batch"]
    built = program.build(grid, dataset, seed_batch=widths, arrays=arrays)
    per_epoch = steps_per_epoch(grid, dataset)
    kept = latents.groups(wanted.grid, dataset.shape)

    def record(step: int, states: States) -> None:
        seen = _gathered(grid, built.observe(states, built.arrays, np.int32(step)))
        latents.write_snapshot(workdir / run_dir.LATENTS, kept, grid, step // per_epoch, seen)

    return _Part(index, grid, wanted.identities[index], built, workdir, per_epoch, record)


def _gathered(grid: Grid, tree: Any) -> Any:
    """Returns what all devices hold of every run, without the padding."""
    return jax.tree.map(lambda leaf: leaf[: grid.runs_per_cell], devices.gather(tree))


def _train_part(
    part: _Part, done: int | None, bar: Progress, stop_requested: Callable[[], bool]
) -> None:
    """Trains a part from step `done` (None: from nothing) to the end."""
    built, snapshots = part.built, [e * part.steps_per_epoch for e in part.grid.snapshot_epochs]
    bar.compiling()
    with run_dir.checkpoint_manager(
        part.workdir, part.number, runs=part.grid.runs_per_cell, identity=part.identity
    ) as checkpoints:
        states = _start(part, done, checkpoints)
        # Scalars come as NumPy's: the same in all processes.
        chunk = built.chunk.lower(
            states, built.hypers, built.arrays, np.int32(0), np.int32(0)
        ).compile()
        bar.compiled()
        saved = time.monotonic()
        for first, steps in _chunks(snapshots, done or 0):
            states, trained = chunk(
                states, built.hypers, built.arrays, np.int32(first), np.int32(steps)
            )
            losses, step = _gathered(part.grid, trained), first + steps
            epoch = step / part.steps_per_epoch
            if devices.is_main():
                here, reached = (part.workdir, part.number, part.grid), (step, epoch, losses)
                run_dir.append_metrics(*here, *reached, identity=part.identity)
            bar.advance(part.grid, losses, steps=steps, epoch=epoch, run_steps=snapshots[-1])
            stopping = devices.any_process(stop_requested())
            due = devices.any_process(time.monotonic() - saved > CHECKPOINT_SECONDS)
            if step in snapshots:
                part.record(step, states)
                bar.write(part.grid, losses, epoch=epoch)
            if step in snapshots or stopping or due:
                run_dir.save_checkpoint(checkpoints, step, states)
                saved = time.monotonic()
            if stopping:
                raise interrupts.Stopped


def _start(part: _Part, done: int | None, checkpoints: Any) -> States:
    """Returns the states of a part after `done` steps, or untrained ones, kept like all others."""
    if done is None:
        states: States = part.built.init(part.built.hypers)
        part.record(0, states)
        run_dir.save_checkpoint(checkpoints, 0, states)
        return states
    like = program.abstract_states(part.built)
    restored: States = run_dir.restore_checkpoint(checkpoints, done, like)
    return restored


def _chunks(snapshots: list[int], done: int) -> Iterator[tuple[int, int]]:
    """Yields `(first step, steps)` from `done` on: the way between snapshots, cut for the bar.

    The cuts depend on the snapshots alone, so a resumed run makes the same ones.
    """
    for start, end in itertools.pairwise(snapshots):
        longest = max(MIN_CHUNK_STEPS, (end - start) // CHUNKS_PER_SNAPSHOT)
        for cut in range(start, end, longest):
            first, after = max(cut, done), min(cut + longest, end)
            if first < after:
                yield first, after - first
