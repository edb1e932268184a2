"""The run folder: manifest, metrics, checkpoints and labelled latents.

    <workdir>/
      manifest.json     grid, parts and conditions of the run
      metrics.jsonl     mean training losses of every run, one line per part, cell and chunk
      checkpoints/<n>/  newest two checkpoints of part n, written by orbax
      latents.zarr/     labelled latents, errors, probe inputs and labels, readable by xarray

The latents of a snapshot are written before its checkpoint, and the snapshot counts only once the
checkpoint is complete. Whatever a killed process wrote after the newest checkpoint is written
again. All processes call these functions. The main process does the writing, except where the
functions say that all processes share it.
"""

import contextlib
import errno
import itertools
import json
import os
import pathlib
import re
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import numpy as np

from ppp_jax.data.datasets import Dataset
from ppp_jax.engine import devices
from ppp_jax.engine.interrupts import waiting
from ppp_jax.errors import InputError, printable, shortened
from ppp_jax.files import atomic, regular
from ppp_jax.files.atomic import write_text as _write_atomically
from ppp_jax.files.integrity import is_intact, sealed
from ppp_jax.grid.grid import Grid
from ppp_jax.storage import checkpoints, latents, manifest, metrics, remote, strangers
from ppp_jax.storage.manifest import MANIFEST, Manifest

if TYPE_CHECKING:
    import orbax.checkpoint as ocp

METRICS, CHECKPOINTS, LATENTS, REPORT = "metrics.jsonl", "checkpoints", "latents.zarr", "report"
STUDY = "study"
CERTIFICATES = "certificates.json"
OURS = (METRICS, CHECKPOINTS, LATENTS, REPORT, CERTIFICATES)
LOCK = atomic.LOCK
KEPT_CHECKPOINTS = 2
LARGEST_CERTIFICATES = 2**26  # most bytes of the file of certificates
# Most bytes of files. The limit of metrics allows a line per chunk of millions of runs.
LARGEST = {MANIFEST: manifest.LARGEST, METRICS: 2**36, CERTIFICATES: LARGEST_CERTIFICATES}


@contextlib.contextmanager
def locked(workdir: pathlib.Path) -> Iterator[None]:
    """Creates a run folder and keeps other runs out of it for the duration of the block.

    The operating system releases the lock when the process ends, however it ends.

    Raises:
      InputError: The folder cannot be written, or another run is at work in it.
    """
    with contextlib.ExitStack() as held:
        devices.on_main(lambda: held.enter_context(atomic.locked(workdir)))
        yield


def folder(workdir: str | pathlib.Path) -> pathlib.Path:
    """Returns the path of a folder, for what cannot work in a bucket (see `remote`).

    Raises:
      InputError: The value is an address such as `gs://bucket/run`.
    """
    if "://" in str(workdir):
        problem = "is not a folder; choose one on a local disk or a shared file system"
        raise InputError("workdir", workdir, problem)
    return pathlib.Path(workdir).expanduser()


def check(
    workdir: pathlib.Path, grid: Grid, dataset: Dataset, *, overwrite: bool
) -> Manifest | None:
    """Checks that a folder can hold a grid, and returns its manifest, or None for a new folder.

    This function writes nothing. The manifest is the stored one, extended to the grid.

    Args:
      workdir: Path of the run folder.
      grid: The grid to be trained.
      dataset: The dataset.
      overwrite: Whether an existing run is to be replaced.

    Raises:
      InputError: The folder holds runs that `grid` lacks, other data, or files without a manifest;
        its latents are missing; or a folder that would be replaced is a link or holds files that no
        run wrote.
    """
    for name in (CHECKPOINTS, LATENTS):
        atomic.check_aside(workdir / name, field="workdir", value=workdir)
    stored = manifest.read(workdir)
    if stored is None:
        foreign = [name for name in OURS if os.path.lexists(workdir / name)]
        if foreign:
            problem = f"holds {', '.join(foreign)} without a manifest; choose another folder"
            raise InputError("workdir", workdir, problem)
        return None
    _check_entries(workdir, len(stored.parts))
    if overwrite:
        for name in (CHECKPOINTS, LATENTS):
            strangers.refuse(workdir / name, what="overwriting")
        return None
    wanted = manifest.extended(stored, workdir, grid, dataset)
    kept = latents.check(workdir / LATENTS)
    latents.check_run(workdir / LATENTS, kept, stored, dataset)
    lost = not latents.is_there(workdir / LATENTS)
    done = last_steps(workdir, stored)
    if lost and any(step is not None for step in done):
        problem = f"has checkpoints but no {LATENTS}; put it back, or overwrite the run"
        raise InputError("workdir", workdir, problem)
    if grows := wanted.grid.to_json() != stored.grid.to_json():
        strangers.refuse(workdir / LATENTS, what="growing")
    if grows or any(step != wanted.steps for step in done):
        strangers.refuse_saved(workdir / CHECKPOINTS)
    return wanted


def _check_entries(workdir: pathlib.Path, parts: int) -> None:
    """Checks that the entries of a run folder are files and folders as a run writes them."""
    for name, most in LARGEST.items():
        problem = regular.problem(workdir / name, most=most)
        if name == METRICS and problem is None and (workdir / name).is_symlink():
            problem = "is a link, and lines would be appended to the file that it leads to"
        if problem is not None:
            remedy = "put back the original file, or move this one elsewhere"
            raise InputError("workdir", workdir, f"its {name} {problem}; {remedy}")
    for name in (LATENTS, CHECKPOINTS, *(f"{CHECKPOINTS}/{part}" for part in range(parts))):
        if os.path.lexists(workdir / name) and not (workdir / name).is_dir():
            problem = f"its {name} is not a folder; put back the original one, or move this away"
            raise InputError("workdir", workdir, problem)


class Reached(NamedTuple):
    """The step up to which a part was trained.

    Attributes:
      step: Step of the newest intact checkpoint; None if there is no checkpoint.
      damaged: What is wrong with newer checkpoints, by their steps.
    """

    step: int | None
    damaged: dict[int, str]


def examine(workdir: pathlib.Path, stored: Manifest) -> list[Reached]:
    """Finds the newest intact checkpoint of each part, by reading checkpoints from the newest on.

    This function writes nothing. All processes must call it. The main process reads, and all return
    the same steps.

    Raises:
      InputError: A part has checkpoints, and none of them is intact.
    """
    return [_examine(workdir, stored, part) for part in range(len(stored.parts))]


def _examine(workdir: pathlib.Path, stored: Manifest, part: int) -> Reached:
    folder, damaged = workdir / CHECKPOINTS / str(part), dict[int, str]()
    present = devices.tell_all(len(steps := checkpoints.steps(folder, most=stored.steps)))
    for k in reversed(range(present)):
        step = devices.tell_all(steps[k] if devices.is_main() else 0)
        problem = None
        if devices.is_main():
            runs, identity = stored.parts[part].runs_per_cell, stored.identities[part]
            problem = checkpoints.problem(folder / str(step), runs=runs, identity=identity)
        if not devices.tell_all(problem is not None):
            return Reached(step, damaged)
        damaged[step] = problem or ""
    if damaged:
        where = f"{CHECKPOINTS}/{part}"
        raise InputError(
            "workdir",
            workdir,
            f"all checkpoints in {where} are damaged ({', '.join(map(str, damaged))}: "
            f"{shortened(printable(next(iter(damaged.values()))))}); put {where} back from a copy, "
            "or move it elsewhere to train its runs again",
        )
    return Reached(None, {})


def prepare(
    workdir: pathlib.Path,
    wanted: Manifest,
    dataset: Dataset,
    *,
    overwrite: bool,
    reached: Sequence[Reached] = (),
    allow_inexact: bool = False,
) -> None:
    """Creates or extends a run folder according to a manifest, and keeps its trained runs.

    A run writes its manifest first, and overwriting removes it last. So every folder with a
    manifest is a run folder.

    Args:
      workdir: Path of the run folder.
      wanted: Manifest of the folder.
      dataset: The dataset.
      overwrite: Whether an earlier run is removed first.
      reached: Results of `examine` for the parts that are already trained.
      allow_inexact: Whether training continues without lost lines of metrics.

    Raises:
      InputError: Lines of metrics are damaged or missing and `allow_inexact` is False, or the
        latents cannot be extended.
    """
    if overwrite and (workdir / MANIFEST).exists():
        _remove_run(workdir)
        reached = ()
    latents.check_saved(workdir / LATENTS, wanted, dataset, reached=[one.step for one in reached])
    atomic.remove_partial(workdir, (MANIFEST, METRICS, CERTIFICATES))
    latents.check_growth(workdir / LATENTS, wanted.grid, dataset)
    steps = [found.step for found in reached]
    parts = _lines_of_parts(wanted)
    found = metrics.read(workdir / METRICS, parts, steps)
    if found.problem:
        if not allow_inexact:
            raise InputError(
                "workdir",
                workdir,
                f"{METRICS} {found.problem}; put it back from a copy, or set "
                "--allow_inexact_resume to continue without the lost lines, which is recorded",
            )
        wanted = manifest.noted(wanted, METRICS, found.problem)
    for part, of_part in enumerate(reached):
        _set_aside(workdir, wanted, part, of_part)
    text = wanted.to_text()
    if not (workdir / MANIFEST).exists() or (workdir / MANIFEST).read_bytes() != text.encode():
        _write_atomically(workdir / MANIFEST, text)
    latents.fit(workdir / LATENTS, wanted.grid, dataset, text)
    lines, path = found.repaired(parts, steps), workdir / METRICS
    before = path.stat().st_size if path.exists() else 0
    if before != len(lines) or (lines and path.read_bytes() != lines):
        _write_atomically(path, lines.decode())


def _lines_of_parts(wanted: Manifest) -> list[metrics.Part]:
    pairs = zip(wanted.identities, wanted.parts, strict=True)
    return [metrics.Part(identity, len(part.cells)) for identity, part in pairs]


def _set_aside(workdir: pathlib.Path, wanted: Manifest, part: int, reached: Reached) -> None:
    """Moves damaged checkpoints and other files out of a part's folder of checkpoints."""
    folder = workdir / CHECKPOINTS / str(part)
    good = set(checkpoints.steps(folder, most=wanted.steps)) - reached.damaged.keys()
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        if checkpoints.is_temporary(path) or path.name in map(str, good):
            continue
        aside = folder.with_name(f"{part}.damaged")
        aside.mkdir(exist_ok=True)
        ends = itertools.chain([""], (f".{k}" for k in itertools.count(1)))
        free = (aside / f"{path.name}{end}" for end in ends)
        target = next(path for path in free if not path.exists())
        path.rename(target)
        name = printable(f"{CHECKPOINTS}/{part}/{path.name}")
        problem = reached.damaged.get(int(path.name)) if path.name.isdecimal() else None
        what = f"is damaged ({shortened(printable(problem))})" if problem else "is not a checkpoint"
        used = f"; the older one of step {reached.step} is used" if problem else ""
        kept = f"{CHECKPOINTS}/{aside.name}/{printable(target.name)}"
        sys.stderr.write(f"{name} {what}{used}; it is kept as {kept}\n")


def last_steps(workdir: pathlib.Path, stored: Manifest) -> list[int | None]:
    """Returns the step of each part's newest complete checkpoint, None for a part without one."""
    return [last_step(workdir, part, most=stored.steps) for part in range(len(stored.parts))]


def _remove_run(workdir: pathlib.Path) -> None:
    """Removes the files and folders of a run, and no other files.

    Checkpoints are removed first and at once, and the manifest last. If the process is killed in
    between, the rest is a run of the old configuration without checkpoints, so nothing of it
    counts.
    """
    folders = (workdir / CHECKPOINTS, workdir / LATENTS)
    for folder in folders:  # left by an earlier process that was killed
        atomic.close_aside(folder)
    for folder in folders:
        if folder.exists():
            folder.rename(atomic.open_aside(folder) / folder.name)
    for name in (REPORT, STUDY):  # other people's files in them are kept
        atomic.remove(workdir / name)
    for folder in folders:
        atomic.close_aside(folder)
    (workdir / METRICS).unlink(missing_ok=True)
    (workdir / CERTIFICATES).unlink(missing_ok=True)
    (workdir / MANIFEST).unlink()


def certified(workdir: pathlib.Path) -> dict[str, Any] | None:
    """Returns the certificates of a run folder, or None if it has no intact ones."""
    try:
        found: Any = json.loads(regular.read(workdir / CERTIFICATES, most=LARGEST_CERTIFICATES))
    except (FileNotFoundError, ValueError, RecursionError):
        return None
    return found if is_intact(found) else None


def keep_certificates(workdir: pathlib.Path, certificates: dict[str, Any]) -> None:
    """Writes certificates and their digest to a run folder."""
    _write_atomically(workdir / CERTIFICATES, json.dumps(sealed(certificates), indent=2) + "\n")


def append_metrics(
    workdir: pathlib.Path,
    part: int,
    grid: Grid,
    step: int,
    epoch: float,
    losses: Mapping[str, np.ndarray],
    *,
    identity: str,
) -> None:
    """Appends one line per cell, with the mean training loss of each run since the last line.

    In the file, `loss` is nested in the order of the part's `run_axes`, and a loss that is not
    finite is null.

    Args:
      workdir: Path of the run folder.
      part: Number of the part.
      grid: Grid of the part.
      step: Number of steps taken.
      epoch: The same in epochs.
      losses: Mean losses, `(runs,)`, by the names of cells.
      identity: Identity of the part, see `manifest.identity`.
    """
    rows = []
    for cell in grid.cells:
        loss = np.asarray(losses[cell.name], np.float64)
        known = loss.astype(object)
        known[~np.isfinite(loss)] = None
        nested = known.reshape(grid.run_shape).tolist()
        rows.append({"part": part, "step": step, "epoch": epoch, **cell._asdict(), "loss": nested})
    metrics.append(workdir / METRICS, part, identity, rows)


# ------------------------------------------------------------------------------ checkpoints


class Checkpoints(NamedTuple):
    """The opened checkpoints of a part.

    Attributes:
      workdir: Path of the run folder.
      folder: Folder of the part's checkpoints.
      manager: Orbax's manager of the checkpoints, or None if only the main process saves.
      runs: Number of runs of every cell. Rows of the states behind them are padding.
      identity: Identity of the part, see `manifest.identity`.
    """

    workdir: pathlib.Path
    folder: pathlib.Path
    manager: "ocp.CheckpointManager | None"
    runs: int
    identity: str


@contextlib.contextmanager
def checkpoint_manager(
    workdir: pathlib.Path, part: int, *, runs: int, identity: str
) -> Iterator[Checkpoints]:
    """Opens a part's checkpoints for a block, and waits for the last save at its end.

    Args:
      workdir: Path of the run folder.
      part: Number of the part.
      runs: Number of runs of every cell.
      identity: Identity of the part, see `manifest.identity`.

    Raises:
      OSError: A save failed.
    """
    folder = (workdir / CHECKPOINTS / str(part)).absolute()
    devices.on_main(lambda: folder.mkdir(parents=True, exist_ok=True))
    manager = _manager(folder, shared=remote.is_shared(workdir))
    abandoned = False
    try:
        yield Checkpoints(workdir, folder, manager, runs, identity)
    except Exception:
        # Closing waits for the other processes, and one of them can have failed.
        abandoned = jax.process_count() > 1
        raise
    finally:
        if manager is not None and not abandoned:
            with _failed_saves():
                manager.close()


def _manager(folder: pathlib.Path, *, shared: bool) -> "ocp.CheckpointManager | None":
    """Returns orbax's manager of a folder.

    All processes use it together, or the main one alone if the others do not see the folder.
    """
    import orbax.checkpoint as ocp  # imported late: help and plans do without it

    if shared or devices.process_count() == 1:
        options = ocp.CheckpointManagerOptions(max_to_keep=KEPT_CHECKPOINTS)
    elif devices.is_main():
        alone = checkpoints.alone("saved")
        options = ocp.CheckpointManagerOptions(
            max_to_keep=KEPT_CHECKPOINTS, multiprocessing_options=alone, create=False
        )
    else:
        return None
    return ocp.CheckpointManager(folder, options=options)


def save_checkpoint(kept: Checkpoints, step: int, state: Any) -> None:
    """Begins to save the states of all runs after `step` steps. All processes share the work.

    If the run folder is in a bucket, the save is completed and the folder is uploaded.

    Raises:
      OSError: The disk is full, or this save or the one before failed.
      InputError: The bucket cannot be used.
    """
    # Orbax would notice a full disk too, but its writers print a traceback per array.
    if kept.manager and shutil.disk_usage(kept.folder).free < sum(
        x.nbytes for x in jax.tree.leaves(state)
    ):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    about = checkpoints.describe(step, state, runs=kept.runs, identity=kept.identity)
    if not (shared := remote.is_shared(kept.workdir)) and devices.process_count() > 1:
        state = devices.gather(state)
    if kept.manager:
        _save(kept.manager, step, state, about)
        if not shared:
            with _failed_saves():
                kept.manager.wait_until_finished()
    remote.commit(kept.workdir)


def _save(manager: "ocp.CheckpointManager", step: int, state: Any, about: dict[str, Any]) -> None:
    import orbax.checkpoint as ocp  # imported late: help and plans do without it

    args = ocp.args.Composite(state=ocp.args.StandardSave(state), meta=ocp.args.JsonSave(about))
    with _failed_saves():
        saved = manager.save(step, args=args)
    if not saved:
        raise OSError(errno.EEXIST, f"a checkpoint after step {step} is in the way")


@contextlib.contextmanager
def _failed_saves() -> Iterator[None]:
    """Turns orbax's errors of writing, ValueErrors with the system's message, into OSErrors."""
    try:
        with waiting():  # the other processes write their shares
            yield
    except ValueError as error:
        words = re.search(r"([^:]+) \[os_error_code=", str(error))
        raise OSError(words[1].strip() if words else str(error).splitlines()[0]) from error


def restore_checkpoint(kept: Checkpoints, step: int, like: Any) -> Any:
    """Restores the states that were saved after `step` steps.

    Args:
      kept: Checkpoints of the part.
      step: Step of the checkpoint.
      like: Abstract states with the shapes, dtypes and shardings of the result. Their padding can
        differ from that of the saved states, because it depends on the number of devices.
    """
    import orbax.checkpoint as ocp  # imported late: help and plans do without it

    if devices.process_count() > 1 and not remote.is_shared(kept.workdir):
        return checkpoints.restored(kept.folder / str(step), like)
    item = ocp.args.StandardRestore(like, strict=False)
    if kept.manager is None:
        raise RuntimeError("the checkpoints were opened before the folder's copy")
    return kept.manager.restore(step, args=ocp.args.Composite(state=item))["state"]


def last_step(workdir: pathlib.Path, part: int, *, most: int | None = None) -> int | None:
    """Returns the step of a part's newest complete checkpoint, or None.

    Args:
      workdir: Path of the run folder.
      part: Number of the part.
      most: Last step of the training. Checkpoints of later steps are ignored.
    """
    found = checkpoints.steps(workdir / CHECKPOINTS / str(part), most=most)
    return found[-1] if found else None
