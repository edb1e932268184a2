"""The run folder: manifest, metrics, checkpoints and labelled latents.

    <workdir>/
      manifest.json     what was trained, in which parts, under which conditions
      metrics.jsonl     one line per part, cell and chunk: mean training loss of every run
      checkpoints/<n>/  of the n-th part: orbax, the newest two
      latents.zarr/     xarray: latents, errors, probe inputs and labels, all labelled

A snapshot is written latents first, checkpoint last. The checkpoint is what makes it count:
whatever a killed process left behind after the newest checkpoint is written again. All processes
call these functions; what is said to be written is written by the main process, unless all share
the work.
"""

import contextlib
import errno
import json
import os
import pathlib
import re
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp

from ppp_jax.data.datasets import Dataset
from ppp_jax.engine import devices
from ppp_jax.engine.interrupts import waiting
from ppp_jax.errors import InputError, printable, shortened
from ppp_jax.files import atomic, regular
from ppp_jax.files.atomic import write_text as _write_atomically
from ppp_jax.files.integrity import is_intact, sealed
from ppp_jax.grid.grid import Grid
from ppp_jax.storage import checkpoints, latents, manifest, metrics, strangers
from ppp_jax.storage.manifest import MANIFEST, Manifest

METRICS, CHECKPOINTS, LATENTS, REPORT = "metrics.jsonl", "checkpoints", "latents.zarr", "report"
STUDY = "study"
CERTIFICATES = "certificates.json"
OURS = (METRICS, CHECKPOINTS, LATENTS, REPORT, CERTIFICATES)
LOCK = atomic.LOCK
KEPT_CHECKPOINTS = 2
LARGEST_CERTIFICATES = 2**26  # bytes
# Of metrics, whatever a line for every chunk and millions of runs may take.
LARGEST = {MANIFEST: manifest.LARGEST, METRICS: 2**36, CERTIFICATES: LARGEST_CERTIFICATES}


@contextlib.contextmanager
def locked(workdir: pathlib.Path) -> Iterator[None]:
    """Creates the folder and keeps other runs out of it for the duration of the block.

    The operating system takes the lock away with the process, however that ends.

    Raises:
      InputError: the folder cannot be written, or another run is at work in it.
    """
    with contextlib.ExitStack() as held:
        devices.on_main(lambda: held.enter_context(atomic.locked(workdir)))
        yield


def folder(workdir: str | pathlib.Path) -> pathlib.Path:
    """Returns a run folder's path.

    Raises:
      InputError: it is the address of a bucket, where no file can be appended to or renamed.
    """
    if "://" in str(workdir):
        problem = "is not a folder; name one on a local disk or a shared file system"
        raise InputError("workdir", workdir, problem)
    return pathlib.Path(workdir).expanduser()


def check(
    workdir: pathlib.Path, grid: Grid, dataset: Dataset, *, overwrite: bool
) -> Manifest | None:
    """Returns the manifest of a folder that is to hold `grid`, or None for a new one.

    Writes nothing. The manifest is the stored one, extended by what it lacks.

    Raises:
      InputError: the folder holds something that `grid` does not, other data, or files under our
        names that no manifest explains; or it has lost its latents; or what is to be replaced
        holds files that no run wrote, or is a link.
    """
    for name in (CHECKPOINTS, LATENTS):
        atomic.check_aside(workdir / name, field="workdir", value=workdir)
    stored = manifest.read(workdir)
    if stored is None:
        foreign = [name for name in OURS if os.path.lexists(workdir / name)]
        if foreign:
            problem = f"holds {', '.join(foreign)} of something else; choose another folder"
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
        problem = f"has checkpoints but lost its {LATENTS}; put it back, or overwrite the run"
        raise InputError("workdir", workdir, problem)
    if grows := wanted.grid.to_json() != stored.grid.to_json():
        strangers.refuse(workdir / LATENTS, what="growing")
    if grows or any(step != wanted.steps for step in done):
        strangers.refuse_saved(workdir / CHECKPOINTS)
    return wanted


def _check_entries(workdir: pathlib.Path, parts: int) -> None:
    """Refuses a run folder in which something else stands in the place of a file or folder."""
    for name, most in LARGEST.items():
        problem = regular.problem(workdir / name, most=most)
        if name == METRICS and problem is None and (workdir / name).is_symlink():
            problem = "is a link, and what is appended would be written where it leads"
        if problem is not None:
            remedy = "put back the file that was here, or move this elsewhere"
            raise InputError("workdir", workdir, f"its {name} {problem}; {remedy}")
    for name in (LATENTS, CHECKPOINTS, *(f"{CHECKPOINTS}/{part}" for part in range(parts))):
        if os.path.lexists(workdir / name) and not (workdir / name).is_dir():
            problem = f"its {name} is no folder; put back the one that was here, or move it away"
            raise InputError("workdir", workdir, problem)


class Reached(NamedTuple):
    """How far a part was trained.

    Attributes:
      step: of the newest intact checkpoint, None if there never was one.
      damaged: newer checkpoints by their step, and what is wrong with each.
    """

    step: int | None
    damaged: dict[int, str]


def examine(workdir: pathlib.Path, stored: Manifest) -> list[Reached]:
    """Reads each part's newest checkpoint, and older ones while they turn out to be damaged.

    Writes nothing. All processes call it, the main one reads, and all return the same steps.

    Raises:
      InputError: a part has checkpoints and none is intact.
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
            "or move it elsewhere to train its runs anew",
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
    """Makes `workdir` the folder that `wanted` describes, keeping what is trained already.

    A manifest is the first thing a run writes and the last that overwriting removes: a folder
    with one is ours.

    Args:
      workdir: the run folder.
      wanted: what it is to hold.
      dataset: what it is trained on.
      overwrite: remove an earlier run first.
      reached: of the parts that are there, what `examine` found.
      allow_inexact: go on without lines of metrics that are lost.

    Raises:
      InputError: lines of metrics are damaged or lost, and `allow_inexact` is not set.
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
                f"{METRICS} {found.problem}; put it back from a copy, or say "
                "--allow_inexact_resume to go on without what is lost, which is then recorded",
            )
        wanted = manifest.noted(wanted, METRICS, found.problem)
    for part, of_part in enumerate(reached):
        _set_aside(workdir, wanted, part, of_part)
    text = wanted.to_text()
    if not (workdir / MANIFEST).exists() or (workdir / MANIFEST).read_bytes() != text.encode():
        _write_atomically(workdir / MANIFEST, text)
    latents.fit(workdir / LATENTS, wanted.grid, dataset, text)
    lines, path = found.mended(parts, steps), workdir / METRICS
    before = path.stat().st_size if path.exists() else 0
    if before != len(lines) or (lines and path.read_bytes() != lines):
        _write_atomically(path, lines.decode())


def _lines_of_parts(wanted: Manifest) -> list[metrics.Part]:
    pairs = zip(wanted.identities, wanted.parts, strict=True)
    return [metrics.Part(identity, len(part.cells)) for identity, part in pairs]


def _set_aside(workdir: pathlib.Path, wanted: Manifest, part: int, reached: Reached) -> None:
    """Moves what is damaged, or no checkpoint, out of the way of checkpoints to come."""
    folder = workdir / CHECKPOINTS / str(part)
    good = set(checkpoints.steps(folder, most=wanted.steps)) - reached.damaged.keys()
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        if checkpoints.is_temporary(path) or path.name in map(str, good):
            continue
        aside = folder.with_name(f"{part}.damaged")
        aside.mkdir(exist_ok=True)
        free = (aside / f"{path.name}{end}" for end in ("", *(f".{k}" for k in range(1, 10**6))))
        target = next(place for place in free if not place.exists())
        path.rename(target)
        name = printable(f"{CHECKPOINTS}/{part}/{path.name}")
        problem = reached.damaged.get(int(path.name)) if path.name.isdecimal() else None
        what = f"is damaged ({shortened(printable(problem))})" if problem else "is no checkpoint"
        used = f"; the older one of step {reached.step} is used" if problem else ""
        kept = f"{CHECKPOINTS}/{aside.name}/{printable(target.name)}"
        sys.stderr.write(f"{name} {what}{used}; it is kept as {kept}\n")


def last_steps(workdir: pathlib.Path, stored: Manifest) -> list[int | None]:
    """Returns each part's step of its newest complete checkpoint, or None."""
    return [last_step(workdir, part, most=stored.steps) for part in range(len(stored.parts))]


def _remove_run(workdir: pathlib.Path) -> None:
    """Removes what a run folder consists of, and nothing else.

    Checkpoints go first and in one move, the manifest last: killed in between, what is left is a
    run of the old configuration without a checkpoint, of which nothing counts.
    """
    folders = (workdir / CHECKPOINTS, workdir / LATENTS)
    for folder in folders:  # of an earlier process that was killed
        atomic.close_aside(folder)
    for folder in folders:
        if folder.exists():
            folder.rename(atomic.open_aside(folder) / folder.name)
    for name in (REPORT, STUDY):  # but for what others have put there
        atomic.remove(workdir / name)
    for folder in folders:
        atomic.close_aside(folder)
    (workdir / METRICS).unlink(missing_ok=True)
    (workdir / CERTIFICATES).unlink(missing_ok=True)
    (workdir / MANIFEST).unlink()


def certified(workdir: pathlib.Path) -> dict[str, Any] | None:
    """Returns the certificates that a run folder holds; None if there are none that are intact."""
    try:
        found: Any = json.loads(regular.read(workdir / CERTIFICATES, most=LARGEST_CERTIFICATES))
    except (FileNotFoundError, ValueError, RecursionError):
        return None
    return found if is_intact(found) else None


def keep_certificates(workdir: pathlib.Path, certificates: dict[str, Any]) -> None:
    """Writes certificates, sealed."""
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
    """Appends one line per cell: the mean training loss of each run since the last line.

    `loss` is nested as `Grid.run_axes` of the part; a loss that is not finite is null.
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
    """A part's checkpoints, open.

    Attributes:
      manager: orbax's.
      runs: of every cell; what is behind them in the states is padding.
      identity: of the part.
    """

    manager: ocp.CheckpointManager
    runs: int
    identity: str


@contextlib.contextmanager
def checkpoint_manager(
    workdir: pathlib.Path, part: int, *, runs: int, identity: str
) -> Iterator[Checkpoints]:
    """Opens a part's checkpoints for a block, at whose end the last save is waited for.

    Args:
      workdir: the run folder.
      part: its number.
      runs: of every cell.
      identity: of the part, see `manifest.identity`.

    Raises:
      OSError: a save failed.
    """
    folder = (workdir / CHECKPOINTS / str(part)).absolute()
    devices.on_main(lambda: folder.mkdir(parents=True, exist_ok=True))
    options = ocp.CheckpointManagerOptions(max_to_keep=KEPT_CHECKPOINTS)
    manager = ocp.CheckpointManager(folder, options=options)
    abandoned = False
    try:
        yield Checkpoints(manager, runs, identity)
    except Exception:
        # Closing waits for the other processes, and one of them may be what has failed.
        abandoned = jax.process_count() > 1
        raise
    finally:
        if not abandoned:
            with _failed_saves():
                manager.close()


def save_checkpoint(kept: Checkpoints, step: int, state: Any) -> None:
    """Begins to save the states of all runs after `step` steps; all processes share the work.

    Raises:
      OSError: there is no room, or this save or the one before failed.
    """
    # Orbax would notice too, but its writers print a traceback per array.
    if shutil.disk_usage(kept.manager.directory).free < sum(
        x.nbytes for x in jax.tree.leaves(state)
    ):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    about = checkpoints.describe(step, state, runs=kept.runs, identity=kept.identity)
    with _failed_saves():
        saved = kept.manager.save(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardSave(state), meta=ocp.args.JsonSave(about)
            ),
        )
    if not saved:
        raise OSError(errno.EEXIST, f"a checkpoint after step {step} is in the way")


@contextlib.contextmanager
def _failed_saves() -> Iterator[None]:
    """Turns the writer's errors, ValueErrors with the system's words in them, into OSErrors."""
    try:
        with waiting():  # for the other processes' share
            yield
    except ValueError as error:
        words = re.search(r"([^:]+) \[os_error_code=", str(error))
        raise OSError(words[1].strip() if words else str(error).splitlines()[0]) from error


def restore_checkpoint(kept: Checkpoints, step: int, like: Any) -> Any:
    """Restores the states saved after `step` steps, as arrays like the abstract ones `like`.

    Their number of runs may differ by padding: other devices, other padding.
    """
    item = ocp.args.StandardRestore(like, strict=False)
    return kept.manager.restore(step, args=ocp.args.Composite(state=item))["state"]


def last_step(workdir: pathlib.Path, part: int, *, most: int | None = None) -> int | None:
    """Returns the step of a part's newest complete checkpoint, or None.

    Args:
      workdir: the run folder.
      part: its number.
      most: steps of the whole training; what claims to be of a later one does not count.
    """
    found = checkpoints.steps(workdir / CHECKPOINTS / str(part), most=most)
    return found[-1] if found else None
