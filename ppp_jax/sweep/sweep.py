"""The training loop on the host, which trains a grid chunk by chunk and saves the results."""

import contextlib
import dataclasses
import itertools
import pathlib
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent import futures
from typing import Any, NamedTuple

import jax
import numpy as np

from ppp_jax.data import datasets
from ppp_jax.data.datasets import Dataset
from ppp_jax.engine import devices, interrupts, program, training
from ppp_jax.engine.program import Program, States
from ppp_jax.engine.training import Arrays
from ppp_jax.errors import InputError
from ppp_jax.grid.grid import ALL, Grid, check_feasible
from ppp_jax.networks import architectures, functional
from ppp_jax.storage import latents, manifest, remote, run_dir
from ppp_jax.storage.manifest import Manifest
from ppp_jax.sweep import agreement, demand, observers, seed_batches
from ppp_jax.sweep.observers import Observer, Watch
from ppp_jax.sweep.progress import Progress
from ppp_jax.symmetry import brought, certificates

# Chunks between two snapshots. At the end of a chunk the bar moves and requests to stop are served.
CHUNKS_PER_SNAPSHOT = 25
MIN_CHUNK_STEPS = 100  # shorter chunks would be slowed by the host's work between them
OUT_OF_MEMORY = ("RESOURCE_EXHAUSTED", "Out of memory")  # texts in XLA's errors
CHECKPOINT_SECONDS = 60  # longest time between checkpoints, in addition to one chunk


def load_data(grid: Grid, *, seed_batch: int | None = None) -> Dataset:
    """Loads a grid's dataset, and checks that the grid can be trained on it.

    Args:
      grid: The grid to be trained.
      seed_batch: Number of runs that a device trains at a time, or None.

    Raises:
      InputError: The dataset or an architecture cannot be used, the batch is larger than the
        training set, or `seed_batch` is not positive.
    """
    if seed_batch is not None and seed_batch < 1:
        raise InputError("seed_batch", seed_batch, "must be at least 1")
    brought.check(grid)
    dataset = datasets.load(grid.data)
    _check_networks(grid, dataset)
    if grid.batch_size > len(dataset.train):
        raise InputError(
            "batch_size",
            grid.batch_size,
            f"is larger than the training set; choose at most {len(dataset.train)}, the number of "
            f"samples of {grid.data}",
        )
    check_feasible(grid, len(dataset.train))
    return dataset


def _check_networks(grid: Grid, dataset: Dataset) -> None:
    """Checks that the architectures accept the data, and that captured layers exist."""
    for name in grid.architectures:
        for width in grid.widths:
            architectures.check(name, dataset.shape, width=width, data=grid.data)
        if not any(architectures.get(name) is one for one in architectures.OWN):
            for cell in grid.cells:  # the user's network fails here, and not in the middle
                if cell.architecture == name:
                    training.build_model(cell, dataset.shape)
    all_layers = dataclasses.replace(grid, capture=(ALL,))
    everywhere = {layer for cell in grid.cells for layer in all_layers.captured(cell)}
    for layer in grid.capture:
        if layer not in (ALL, functional.BOTTLENECK) and layer not in everywhere:
            raise InputError(
                "capture",
                layer,
                f"no network of this grid has this layer (known: "
                f"{', '.join(sorted(everywhere)) or 'none'})",
            )


def train(
    grid: Grid,
    workdir: str | pathlib.Path,
    *,
    seed_batch: int | None = None,
    overwrite: bool = False,
    allow_inexact_resume: bool = False,
    progress: bool = True,
    profile_steps: Sequence[int] | None = None,
    log_to: Sequence[str] = (observers.JSONL,),
) -> pathlib.Path:
    """Trains a grid and saves its latents. It continues where an earlier call was stopped.

    The whole grid is one compiled program, which is called once per chunk of steps. Losses are
    written after every chunk. Latents, errors and a checkpoint are written at every snapshot epoch.
    A call on a finished folder trains nothing. A call with a larger grid (more values on an axis,
    more epochs) trains the missing runs, each addition by its own program.

    If there are several processes, all make the same call, and `workdir` is a folder that they
    share, or an address in a bucket.

    Args:
      grid: The grid to train.
      workdir: Path of the run folder (`ppp_jax.storage.run_dir`), which is created if it does not
        exist, or its address in a bucket, such as `gs://bucket/run`. A bucket is brought up to date
        with every checkpoint (`ppp_jax.storage.remote`).
      seed_batch: Number of runs that a device trains at a time, on which bits depend. None means
        that `ppp_jax.sweep.seed_batches` chooses it.
      overwrite: Whether an earlier run in `workdir` is removed first.
      allow_inexact_resume: Whether training may continue under other conditions than before (see
        `manifest.conditions`), with other bits.
      progress: Whether to show a progress bar, and the losses at each snapshot, on stderr.
      profile_steps: First step of a profile by JAX's profiler, and the step after its last one. The
        whole chunks that hold them are profiled, into `profile/` in the run folder.
      log_to: Logs of the losses, of `observers.LOGS`. `metrics.jsonl` is always written.

    Returns:
      The run folder, for `ppp_jax.analysis.load_run`; of a bucket, its copy on this machine.

    Raises:
      InputError: The data cannot be used, the batch is larger than the training set, or the folder
        cannot be written, is in use, holds runs that `grid` lacks, or was trained under other
        conditions. All this is checked before anything is trained. It is also raised during
        training if the disk fails or memory does not suffice.
      Stopped: Ctrl-C or SIGTERM was received, and a checkpoint was saved at the end of the chunk.
        `Stopped` is a KeyboardInterrupt.

    Example:
      >>> import tempfile
      >>> grid = Grid(activations=["tanh"], epochs=1, probe_samples=10)
      >>> folder = train(grid, tempfile.mkdtemp(), progress=False)
      >>> sorted(path.name for path in folder.iterdir())
      ['certificates.json', 'checkpoints', 'latents.zarr', 'manifest.json', 'metrics.jsonl']
    """
    how = {
        "seed_batch": seed_batch,
        "overwrite": overwrite,
        "allow_inexact_resume": allow_inexact_resume,
    }
    watch = observers.checked(profile_steps, log_to)
    with remote.opened(workdir) as folder:
        _train(grid, folder, how, progress, watch)
    return folder


def _train(
    grid: Grid, workdir: pathlib.Path, how: dict[str, Any], progress: bool, watch: Watch
) -> None:
    """Trains a grid in a folder of this machine, see `train`."""
    seed_batch, inexact = how["seed_batch"], how["allow_inexact_resume"]
    dataset = _agreed(grid, workdir, how, progress)
    with run_dir.locked(workdir), _disk_errors(workdir):
        if remote.is_shared(workdir):
            agreement.check_shared(workdir, run_dir.LOCK)
        stored, reached = _examined(workdir, grid, dataset, how)
        with _memory_errors(seed_batch):  # choosing widths can compile and time programs
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
                overwrite=how["overwrite"],
                reached=reached,
                allow_inexact=inexact,
            )
        )
        remote.share(workdir)
        with _memory_errors(max(wanted.conditions["seed_batch"].values())):
            _train_parts(wanted, dataset, workdir, progress and devices.is_main(), watch)
        devices.on_main(lambda: _certify(workdir, wanted, dataset))
        remote.share(workdir)


def _tell(findings: Sequence[str]) -> None:
    """Says on stderr what was found of the functions that the user brought."""
    sys.stderr.write("".join(f"{line}\n" for line in findings))


def _agreed(grid: Grid, workdir: pathlib.Path, how: dict[str, Any], progress: bool) -> Dataset:
    """Returns the dataset, after checking that all processes agree and that a new run fits."""
    seed_batch = how["seed_batch"]
    dataset = agreement.together(lambda: load_data(grid, seed_batch=seed_batch))
    agreement.check_call(grid.to_json(), dataset.sha256, how, remote.address(workdir))

    def check_new() -> None:
        if how["overwrite"] or manifest.read(workdir) is None:  # checked before a folder is made
            demand.check(dataset, (grid,), [None], workdir, seed_batch=seed_batch)

    agreement.together(check_new)
    devices.on_main(lambda: _tell(brought.check(grid)) if progress else None)
    return dataset


def _examined(
    workdir: pathlib.Path, grid: Grid, dataset: Dataset, how: dict[str, Any]
) -> tuple[Manifest | None, list[run_dir.Reached]]:
    """Returns the manifest of a folder and how far its parts are trained, after checking sizes."""
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


def _certify(workdir: pathlib.Path, wanted: Manifest, dataset: Dataset) -> None:
    """Certifies the grid and saves the certificates, unless valid ones are saved already.

    Raises:
      InputError: There are no valid certificates, and a name stands for another function than was
        trained, or the latents, whose lengths are tested, are damaged.
    """
    subject = certificates.subject(wanted.grid, programs=manifest.programs())
    saved = run_dir.certified(workdir)
    fits = saved is not None and certificates.fits(saved, wanted.grid)
    if fits and not manifest.same_programs(wanted):
        return  # the certificates are those of the JAX by which the run was trained
    if saved is None or not fits or saved.get("subject") != subject:
        manifest.check_functions(wanted, workdir)
        lengths = latents.lengths(workdir / run_dir.LATENTS, wanted, dataset)
        found = certificates.certify_grid(wanted.grid, lengths=lengths)
        run_dir.keep_certificates(workdir, {**found, "subject": subject})


def total_steps(grid: Grid, dataset: Dataset) -> int:
    """Returns the number of gradient steps of a run."""
    return grid.epochs * steps_per_epoch(grid, dataset)


def steps_per_epoch(grid: Grid, dataset: Dataset) -> int:
    """Returns the number of gradient steps of an epoch, without its last, incomplete batch."""
    return len(dataset.train) // grid.batch_size


def is_finished(wanted: Manifest, dataset: Dataset, reached: Sequence[int | None]) -> bool:
    """Returns whether every part of a run is trained to the end.

    Args:
      wanted: Manifest of the run.
      dataset: The dataset.
      reached: Step of every part's valid checkpoint.
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
    """Returns the manifest under which training starts or continues, and chooses the widths.

    For a finished folder it is the stored manifest, even if the conditions have changed, because
    nothing is trained.

    Args:
      stored: Manifest of the folder, or None for a new folder.
      workdir: Path of the run folder.
      grid: The grid to be trained.
      dataset: The dataset.
      seed_batch: Number of runs that a device trains at a time; None means that it is chosen.
      allow_inexact: Whether other conditions are accepted.
      timed: Whether programs may be compiled and timed to choose widths.
      reached: Step of every part's valid checkpoint; None means that it is read from the folder.

    Raises:
      InputError: The conditions have changed and `allow_inexact` is False, or a name stands for
        another function than before.
    """
    if stored is not None and reached is None:
        reached = run_dir.last_steps(workdir, stored)
    if stored is not None and is_finished(stored, dataset, reached or ()):
        return manifest.with_sources(stored, workdir, allow_inexact=allow_inexact)
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
    """Turns errors of the disk into an `InputError` that tells what to do.

    Raises:
      InputError: A write failed. Earlier results are intact.
    """
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise InputError(
            "workdir",
            workdir,
            f"can no longer be written ({reason}), and saved results are kept; correct "
            "the cause and run the same command again",
        ) from error


@contextlib.contextmanager
def _memory_errors(width: int | None) -> Iterator[None]:
    """Turns a lack of memory into an `InputError` that tells which settings to lower.

    Args:
      width: Number of runs that a device trains at a time; None if it is not chosen yet.

    Raises:
      InputError: Memory does not suffice. Earlier results are intact.
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
            f"memory does not suffice ({text.splitlines()[0]}), and saved results are kept; lower "
            "--seed_batch (with --allow_inexact_resume, because bits depend on it), or choose "
            "another --workdir and lower --probe_samples, --capture, --batch_size or --widths; "
            "--dry_run predicts the memory",
        ) from error


def _train_parts(
    wanted: Manifest, dataset: Dataset, workdir: pathlib.Path, show: bool, watch: Watch
) -> None:
    """Trains every part from its checkpoint to the end.

    Raises:
      Stopped: A stop was requested, and a checkpoint was saved.
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
                with observers.observing(
                    watch, workdir, part=index, done=done or 0, config=grid.to_json()
                ) as observer:
                    _train_part(part, done, bar, stop_requested, observer)
                if devices.is_main():
                    demand.remember_rate(
                        grid,
                        dataset,
                        wanted.conditions["seed_batch"],
                        seconds=bar.seconds - before,
                        steps=total - (done or 0),
                    )


class _Part(NamedTuple):
    """A part and the program that trains it.

    Attributes:
      number: Index of the part in the manifest.
      grid: Grid of the part's runs.
      identity: Identity of the part, see `manifest.identity`.
      built: Program of the part.
      workdir: Path of the run folder.
      steps_per_epoch: Number of gradient steps of an epoch.
      record: Function `(step, states)` that writes the snapshot after `step` steps.
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
        found = _gathered(grid, built.observe(states, built.arrays, np.int32(step)))
        latents.write_snapshot(workdir / run_dir.LATENTS, kept, grid, step // per_epoch, found)

    return _Part(index, grid, wanted.identities[index], built, workdir, per_epoch, record)


def _gathered(grid: Grid, tree: Any) -> Any:
    """Returns the arrays of all devices over the runs, without the padding."""
    return jax.tree.map(lambda leaf: leaf[: grid.runs_per_cell], devices.gather(tree))


def _train_part(
    part: _Part,
    done: int | None,
    bar: Progress,
    stop_requested: Callable[[], bool],
    observer: Observer,
) -> None:
    """Trains a part from step `done` to the end; None means that it is not begun."""
    built, snapshots = part.built, [e * part.steps_per_epoch for e in part.grid.snapshot_epochs]
    bar.compiling()
    with run_dir.checkpoint_manager(
        part.workdir, part.number, runs=part.grid.runs_per_cell, identity=part.identity
    ) as checkpoints:
        states, chunk = _begun(part, done, checkpoints)
        bar.compiled()
        saved = time.monotonic()
        for first, steps in _chunks(snapshots, done or 0):
            observer.begin(first, steps)
            states, trained = chunk(
                states, built.hypers, built.arrays, np.int32(first), np.int32(steps)
            )
            losses, step = _gathered(part.grid, trained), first + steps
            epoch = step / part.steps_per_epoch
            _keep(part, step, epoch, losses)
            observer.end(part.grid, losses, step)
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


def _keep(part: _Part, step: int, epoch: float, losses: Any) -> None:
    if devices.is_main():
        here, reached = (part.workdir, part.number, part.grid), (step, epoch, losses)
        run_dir.append_metrics(*here, *reached, identity=part.identity)


def _begun(
    part: _Part, done: int | None, checkpoints: Any
) -> tuple[States, Callable[..., tuple[States, dict[str, jax.Array]]]]:
    """Returns the states after `done` steps, and the compiled program that trains on from there."""
    built, like = part.built, program.abstract_states(part.built)
    # Scalars are NumPy's, which are equal in all processes.
    lowered = built.chunk.lower(like, built.hypers, built.arrays, np.int32(0), np.int32(0))
    # Meanwhile the programs that draw and observe are compiled: XLA is at work without Python. What
    # is traced is traced here, in the thread that has the caller's settings.
    with futures.ThreadPoolExecutor(1) as compiler:
        compiling = compiler.submit(lowered.compile)
        states = _start(part, done, like, checkpoints)
        return states, compiling.result()


def _start(part: _Part, done: int | None, like: States, checkpoints: Any) -> States:
    """Restores the states after `done` steps, or makes untrained states and saves them."""
    if done is None:
        states: States = part.built.init(part.built.hypers)
        part.record(0, states)
        run_dir.save_checkpoint(checkpoints, 0, states)
        return states
    restored: States = run_dir.restore_checkpoint(checkpoints, done, like)
    return restored


def _chunks(snapshots: list[int], done: int) -> Iterator[tuple[int, int]]:
    """Yields `(first step, steps)` of the chunks from step `done` on.

    The chunks depend only on the snapshots, so a resumed run has the same ones.
    """
    for start, end in itertools.pairwise(snapshots):
        longest = max(MIN_CHUNK_STEPS, (end - start) // CHUNKS_PER_SNAPSHOT)
        for cut in range(start, end, longest):
            first, after = max(cut, done), min(cut + longest, end)
            if first < after:
                yield first, after - first
