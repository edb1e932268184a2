"""The run folder: manifest, metrics, checkpoints and labelled latents.

    <workdir>/
      manifest.json   what was trained: configuration, data, versions, devices
      metrics.jsonl   one line per cell and chunk: mean training loss of every run
      checkpoints/    orbax, the newest two snapshots
      latents.zarr/   xarray: latents, errors, probe inputs and labels, all labelled

A snapshot is written latents first, checkpoint last. The checkpoint is what makes it count:
whatever a killed process left behind after the newest checkpoint is written again.
"""

import datetime
import importlib.metadata
import json
import os
import pathlib
import platform
import shutil
import subprocess
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from ppp_jax import __version__, latents
from ppp_jax.data import Dataset
from ppp_jax.errors import InputError
from ppp_jax.grid import Grid

SCHEMA = 1
PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "xarray", "zarr")
MANIFEST, METRICS, CHECKPOINTS, LATENTS = (
    "manifest.json",
    "metrics.jsonl",
    "checkpoints",
    "latents.zarr",
)
REPORT = "report"
OURS = (METRICS, CHECKPOINTS, LATENTS, REPORT)
KEPT_CHECKPOINTS = 2


def open_run(workdir: pathlib.Path, grid: Grid, dataset: Dataset, *, overwrite: bool) -> int | None:
    """Makes `workdir` the folder of this grid, or checks that it already is.

    A manifest is the first thing a run writes and the last that overwriting removes: a folder
    with one is ours. Without a checkpoint nothing counts yet, and the latents are laid out anew.

    Args:
      workdir: the folder; created if it does not exist.
      grid: what is trained.
      dataset: what it is trained on.
      overwrite: remove an earlier run first, of whatever configuration.

    Returns:
      The step of the newest checkpoint, or None.

    Raises:
      InputError: the folder cannot be written, holds another configuration or other data, holds
        files under our names that no manifest explains, or has lost its latents.
    """
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        probe = workdir / ".writable"
        probe.touch()
        probe.unlink()
    except OSError as error:
        reason = error.strerror or str(error)
        problem = f"cannot be written ({reason}); choose another folder"
        raise InputError("workdir", workdir, problem) from None
    if overwrite and read_manifest(workdir) is not None:
        _remove_run(workdir)
    if not is_same(workdir, grid, dataset):
        foreign = [name for name in OURS if (workdir / name).exists()]
        if foreign:
            problem = f"holds {', '.join(foreign)} of something else; choose another folder"
            raise InputError("workdir", workdir, problem)
        text = json.dumps(_manifest(grid, dataset), indent=2) + "\n"
        _write_atomically(workdir / MANIFEST, text)
    done = last_step(workdir)
    if done is None:
        text = (workdir / MANIFEST).read_text(encoding="utf-8")
        latents.create(workdir / LATENTS, grid, dataset, manifest=text)
    elif not (workdir / LATENTS).exists():
        problem = f"has checkpoints but lost its {LATENTS}; put it back, or overwrite the run"
        raise InputError("workdir", workdir, problem)
    return done


def read_manifest(workdir: pathlib.Path) -> dict[str, Any] | None:
    """Returns the manifest of a run folder, or None if there is none.

    Raises:
      InputError: the file cannot be read, is not a manifest, or is of another schema.
    """
    try:
        manifest: Any = json.loads((workdir / MANIFEST).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except OSError as error:
        problem = f"cannot be read ({error.strerror}); choose another folder"
        raise InputError("workdir", workdir, problem) from None
    except ValueError as error:
        raise InputError("workdir", workdir, f"its {MANIFEST} is damaged ({error})") from None
    if not isinstance(manifest, dict) or manifest.get("schema") != SCHEMA:
        problem = f"its {MANIFEST} is not of schema {SCHEMA}, which this version reads"
        raise InputError("workdir", workdir, f"{problem}; choose another folder")
    if not {"config", "data"} <= manifest.keys():
        raise InputError("workdir", workdir, f"its {MANIFEST} is damaged (entries are missing)")
    return manifest


def _manifest(grid: Grid, dataset: Dataset) -> dict[str, Any]:
    return {
        "schema": SCHEMA,
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "config": grid.to_json(),
        "data": {
            "sha256": dataset.sha256,
            "train_shape": list(dataset.train.shape),
            "test_shape": list(dataset.test.shape),
        },
        "ppp_jax": __version__,
        "git_commit": _git_commit(),
        "python": platform.python_version(),
        "packages": {name: importlib.metadata.version(name) for name in PACKAGES},
        "devices": [f"{device.platform}: {device.device_kind}" for device in jax.devices()],
    }


def _git_commit() -> str | None:
    """Returns the commit of the source tree, marked if there are uncommitted changes."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    folder = pathlib.Path(__file__).parent
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    except FileNotFoundError:  # git is not installed: the versions alone must do
        return None
    return done.stdout.strip() or None


def is_same(workdir: pathlib.Path, grid: Grid, dataset: Dataset) -> bool:
    """Returns whether `workdir` is the folder of this grid (True) or of none yet (False).

    Raises:
      InputError: it holds another configuration; the text shows the difference.
    """
    stored = read_manifest(workdir)
    if stored is None:
        return False
    old, new = stored["config"], grid.to_json()
    differences = [
        f"{key} {old.get(key)} there, {new.get(key)} now"
        for key in sorted(old.keys() | new.keys())
        if old.get(key) != new.get(key)
    ]
    if not differences and stored["data"]["sha256"] != dataset.sha256:
        differences = [f"sha256 of the data {stored['data']['sha256']} there, {dataset.sha256} now"]
    if differences:
        raise InputError(
            "workdir",
            workdir,
            f"holds another configuration ({'; '.join(differences)}); choose another workdir or "
            "overwrite this one",
        )
    return True


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
    for name in (trash.name, LATENTS, REPORT, f"{REPORT}.partial"):
        if (workdir / name).exists():
            shutil.rmtree(workdir / name)
    (workdir / METRICS).unlink(missing_ok=True)
    (workdir / MANIFEST).unlink()


def _write_atomically(path: pathlib.Path, text: str) -> None:
    partial = path.with_suffix(path.suffix + ".partial")
    partial.write_text(text)
    os.replace(partial, path)


# ---------------------------------------------------------------------------- metrics.jsonl


def append_metrics(
    workdir: pathlib.Path, grid: Grid, step: int, epoch: float, losses: Mapping[str, np.ndarray]
) -> None:
    """Appends one line per cell: the mean training loss of each run since the last line.

    `loss` is nested as learning rate × seed; a loss that is not finite is null.
    """
    with (workdir / METRICS).open("a") as file:
        for cell in grid.cells:
            loss = np.asarray(losses[cell.name], np.float64).reshape(grid.rate_count, -1)
            nested = [[x if np.isfinite(x) else None for x in row] for row in loss.tolist()]
            row = {"step": step, "epoch": epoch, **cell._asdict(), "loss": nested}
            file.write(json.dumps(row) + "\n")


def truncate_metrics(workdir: pathlib.Path, last_step: int) -> None:
    """Drops the lines after `last_step`, and a line that a killed process left unfinished."""
    path = workdir / METRICS
    if not path.exists():
        return
    lines = [line for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]
    kept = [line for line in lines if json.loads(line)["step"] <= last_step]
    _write_atomically(path, "".join(kept))


# ------------------------------------------------------------------------------ checkpoints


def checkpoint_manager(workdir: pathlib.Path) -> ocp.CheckpointManager:
    """Opens the folder's checkpoints; use it in a `with` block, which waits for the last save."""
    options = ocp.CheckpointManagerOptions(max_to_keep=KEPT_CHECKPOINTS)
    return ocp.CheckpointManager((workdir / CHECKPOINTS).absolute(), options=options)


def save_checkpoint(manager: ocp.CheckpointManager, step: int, state: Any) -> None:
    """Saves the states of all runs after `step` steps."""
    manager.save(
        step,
        args=ocp.args.Composite(
            state=ocp.args.StandardSave(state), meta=ocp.args.JsonSave({"step": step})
        ),
    )


def restore_checkpoint(manager: ocp.CheckpointManager, step: int, like: Any) -> Any:
    """Restores the states saved after `step` steps, as arrays like the abstract ones `like`."""
    restored = manager.restore(step, args=ocp.args.Composite(state=ocp.args.StandardRestore(like)))
    return restored["state"]


def last_step(workdir: pathlib.Path) -> int | None:
    """Returns the step of the newest complete checkpoint, or None."""
    if not (workdir / CHECKPOINTS).exists():
        return None
    with checkpoint_manager(workdir) as manager:
        step: int | None = manager.latest_step()
        return step
