"""The run folder: manifest, metrics, checkpoints and labelled latents.

    <workdir>/
      manifest.json     what was trained, in which parts, under which conditions: `ppp_jax.manifest`
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
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from ppp_jax import atomic, devices, latents, manifest
from ppp_jax.data import Dataset
from ppp_jax.errors import InputError
from ppp_jax.grid import Grid
from ppp_jax.manifest import MANIFEST, Manifest

METRICS, CHECKPOINTS, LATENTS, REPORT = "metrics.jsonl", "checkpoints", "latents.zarr", "report"
STUDY = "study"
CERTIFICATES = "certificates.json"
OURS = (METRICS, CHECKPOINTS, LATENTS, REPORT, CERTIFICATES)
LOCK = atomic.LOCK
KEPT_CHECKPOINTS = 2


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
        names that no manifest explains; or it has lost its latents.
    """
    stored = manifest.read(workdir)
    if stored is None:
        foreign = [name for name in OURS if (workdir / name).exists()]
        if foreign:
            problem = f"holds {', '.join(foreign)} of something else; choose another folder"
            raise InputError("workdir", workdir, problem)
        return None
    if overwrite:
        return None
    wanted = manifest.extended(stored, workdir, grid, dataset)
    lost = not any((workdir / LATENTS).with_suffix(end).exists() for end in (".zarr", ".old"))
    if lost and any(done is not None for done in last_steps(workdir, stored)):
        problem = f"has checkpoints but lost its {LATENTS}; put it back, or overwrite the run"
        raise InputError("workdir", workdir, problem)
    return wanted


def prepare(workdir: pathlib.Path, wanted: Manifest, dataset: Dataset, *, overwrite: bool) -> None:
    """Makes `workdir` the folder that `wanted` describes, keeping what is trained already.

    A manifest is the first thing a run writes and the last that overwriting removes: a folder
    with one is ours.
    """
    if overwrite and (workdir / MANIFEST).exists():
        _remove_run(workdir)
    text = wanted.to_text()
    if not (workdir / MANIFEST).exists() or (workdir / MANIFEST).read_text() != text:
        _write_atomically(workdir / MANIFEST, text)
    latents.fit(workdir / LATENTS, wanted.grid, dataset, text)


def last_steps(workdir: pathlib.Path, stored: Manifest) -> list[int | None]:
    """Returns each part's step of its newest complete checkpoint, or None."""
    return [last_step(workdir, part) for part in range(len(stored.parts))]


def _remove_run(workdir: pathlib.Path) -> None:
    """Removes what a run folder consists of, and nothing else.

    Checkpoints go first and in one move, the manifest last: killed in between, what is left is a
    run of the old configuration without a checkpoint, of which nothing counts.
    """
    trash = workdir / f"{CHECKPOINTS}.trash"
    if trash.exists():  # an earlier removal was killed
        shutil.rmtree(trash)
    if (workdir / CHECKPOINTS).exists():
        (workdir / CHECKPOINTS).rename(trash)
    leftovers = [f"{REPORT}.partial", *(f"latents.{end}" for end in ("partial", "old"))]
    for name in (REPORT, STUDY):  # but for what others have put there
        atomic.remove(workdir / name)
    for name in (trash.name, LATENTS, *leftovers):
        if (workdir / name).exists():
            shutil.rmtree(workdir / name)
    (workdir / METRICS).unlink(missing_ok=True)
    (workdir / CERTIFICATES).unlink(missing_ok=True)
    (workdir / MANIFEST).unlink()


def _write_atomically(path: pathlib.Path, text: str) -> None:
    partial = path.with_suffix(path.suffix + ".partial")
    partial.write_text(text)
    os.replace(partial, path)


def certified(workdir: pathlib.Path) -> dict[str, Any]:
    """Returns the certificates that a run folder holds; nothing if they are damaged."""
    try:
        found: dict[str, Any] = json.loads((workdir / CERTIFICATES).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    return found


def keep_certificates(workdir: pathlib.Path, certificates: dict[str, Any]) -> None:
    """Writes what `certificates.certify_grid` returns."""
    _write_atomically(workdir / CERTIFICATES, json.dumps(certificates, indent=2) + "\n")


# ---------------------------------------------------------------------------- metrics.jsonl


def append_metrics(
    workdir: pathlib.Path,
    part: int,
    grid: Grid,
    step: int,
    epoch: float,
    losses: Mapping[str, np.ndarray],
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
        row = {"part": part, "step": step, "epoch": epoch, **cell._asdict(), "loss": nested}
        rows.append(json.dumps(row) + "\n")
    with (workdir / METRICS).open("a") as file:
        file.write("".join(rows))


def truncate_metrics(workdir: pathlib.Path, part: int, last_step: int) -> None:
    """Drops a part's lines after `last_step`, and a line that a killed process left unfinished."""
    path = workdir / METRICS
    if not path.exists():
        return
    lines = [line for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]
    rows = [json.loads(line) for line in lines]
    kept = [
        line
        for line, row in zip(lines, rows, strict=True)
        if row["part"] != part or row["step"] <= last_step
    ]
    _write_atomically(path, "".join(kept))


# ------------------------------------------------------------------------------ checkpoints


@contextlib.contextmanager
def checkpoint_manager(workdir: pathlib.Path, part: int) -> Iterator[ocp.CheckpointManager]:
    """Opens a part's checkpoints for a block, at whose end the last save is waited for.

    Raises:
      OSError: a save failed.
    """
    folder = (workdir / CHECKPOINTS / str(part)).absolute()
    devices.on_main(lambda: folder.mkdir(parents=True, exist_ok=True))
    options = ocp.CheckpointManagerOptions(max_to_keep=KEPT_CHECKPOINTS)
    manager = ocp.CheckpointManager(folder, options=options)
    abandoned = False
    try:
        yield manager
    except Exception:
        # Closing waits for the other processes, and one of them may be what has failed.
        abandoned = jax.process_count() > 1
        raise
    finally:
        if not abandoned:
            with _failed_saves():
                manager.close()


def save_checkpoint(manager: ocp.CheckpointManager, step: int, state: Any) -> None:
    """Begins to save the states of all runs after `step` steps; all processes share the work.

    Raises:
      OSError: there is no room, or this save or the one before failed.
    """
    # Orbax would notice too, but its writers print a traceback per array.
    if shutil.disk_usage(manager.directory).free < sum(x.nbytes for x in jax.tree.leaves(state)):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with _failed_saves():
        manager.save(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardSave(state), meta=ocp.args.JsonSave({"step": step})
            ),
        )


@contextlib.contextmanager
def _failed_saves() -> Iterator[None]:
    """Turns the writer's errors, ValueErrors with the system's words in them, into OSErrors."""
    try:
        yield
    except ValueError as error:
        words = re.search(r"([^:]+) \[os_error_code=", str(error))
        raise OSError(words[1].strip() if words else str(error).splitlines()[0]) from error


def restore_checkpoint(manager: ocp.CheckpointManager, step: int, like: Any) -> Any:
    """Restores the states saved after `step` steps, as arrays like the abstract ones `like`.

    Their number of runs may differ by padding: other devices, other padding.
    """
    item = ocp.args.StandardRestore(like, strict=False)
    return manager.restore(step, args=ocp.args.Composite(state=item))["state"]


def last_step(workdir: pathlib.Path, part: int) -> int | None:
    """Returns the step of a part's newest complete checkpoint, or None."""
    folder = workdir / CHECKPOINTS / str(part)
    if not folder.exists():
        return None
    options = ocp.CheckpointManagerOptions(create=False)
    with ocp.CheckpointManager(folder.absolute(), options=options) as manager:
        step: int | None = manager.latest_step()
        return step
