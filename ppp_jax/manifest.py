"""`manifest.json`: what a run folder holds, and under which conditions it was trained.

A manifest names the whole grid, the *parts* in which it was trained (one, unless the grid was
extended later), the data, and the conditions that the bits of a run depend on.
"""

import datetime
import importlib.metadata
import json
import os
import pathlib
import platform
import subprocess
from typing import Any, NamedTuple

import jax

from ppp_jax import __version__
from ppp_jax.data import Dataset
from ppp_jax.errors import InputError
from ppp_jax.extension import extend, obstacles
from ppp_jax.grid import Grid

MANIFEST = "manifest.json"
SCHEMA = 3
PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "xarray", "zarr")
_ENTRIES = {"config", "parts", "data", "conditions"}


class Manifest(NamedTuple):
    """What a run folder holds.

    Attributes:
      grid: everything that is or will be trained.
      parts: disjoint grids that together are `grid`, each trained by its own program.
      dataset_sha256: of the data.
      conditions: what bits depend on, beside the grid: see `conditions`.
      record: the file's other entries, which are for readers.
    """

    grid: Grid
    parts: tuple[Grid, ...]
    dataset_sha256: str
    conditions: dict[str, Any]
    record: dict[str, Any]

    def to_text(self) -> str:
        """The file's content."""
        entries = {
            "schema": SCHEMA,
            **self.record,
            "config": self.grid.to_json(),
            "parts": [part.to_json() for part in self.parts],
            "conditions": self.conditions,
        }
        return json.dumps(entries, indent=2) + "\n"


def conditions(seed_batch: dict[str, int]) -> dict[str, Any]:
    """Returns what the bits of a run depend on, beside its configuration (DESIGN §2).

    The numbers of runs, devices and processes are not among them.

    Args:
      seed_batch: `Cell.shape` to the number of runs vmapped together.
    """
    device = jax.devices()[0]
    values = {
        "platform": device.platform,
        "device": _cpu_model() if device.platform == "cpu" else device.device_kind,
        **{name: importlib.metadata.version(name) for name in ("jax", "jaxlib", "flax", "optax")},
        "ppp_jax": __version__,
        "XLA_FLAGS": " ".join(
            flag
            for flag in os.environ.get("XLA_FLAGS", "").split()
            if not flag.startswith(_FLAGS_WITHOUT_EFFECT)
        ),
        "matmul_precision": str(jax.config.values["jax_default_matmul_precision"]),
        "x64": bool(jax.config.values["jax_enable_x64"]),
        **{name: str(jax.config.values[f"jax_{name}"]) for name in _RANDOMNESS},
        "seed_batch": seed_batch,
    }
    if device.platform == "cpu":  # large matrix products are cut up by the number of threads
        values["cpu_threads"] = len(os.sched_getaffinity(0)) if _HAS_AFFINITY else os.cpu_count()
    return values


_RANDOMNESS = ("default_prng_impl", "threefry_partitionable", "random_seed_offset")
_FLAGS_WITHOUT_EFFECT = ("--xla_force_host_platform_device_count", "--xla_dump")
_HAS_AFFINITY = hasattr(os, "sched_getaffinity")  # not on macOS


def _cpu_model() -> str:
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:  # not Linux
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def create(grid: Grid, dataset: Dataset, conditions: dict[str, Any]) -> Manifest:
    """Returns the manifest of a run that begins now."""
    record = {
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "ppp_jax": __version__,
        "git_commit": _git_commit(),
        "python": platform.python_version(),
        "packages": {name: importlib.metadata.version(name) for name in PACKAGES},
        "devices": [f"{device.platform}: {device.device_kind}" for device in jax.devices()],
        "processes": jax.process_count(),
        "data": {
            "name": grid.data,
            "sha256": dataset.sha256,
            "train": list(dataset.train.shape),
            "validation": list(dataset.validation.shape),
            "test": list(dataset.test.shape),
        },
        "inexact_resumes": [],
    }
    return Manifest(grid, (grid,), dataset.sha256, conditions, record)


def _git_commit() -> str | None:
    """Returns the commit of the source tree, marked if there are uncommitted changes."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    folder = pathlib.Path(__file__).parent
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    except FileNotFoundError:  # git is not installed: the versions alone must do
        return None
    return done.stdout.strip() or None


def read(workdir: pathlib.Path) -> Manifest | None:
    """Returns the manifest of a run folder, or None if there is none.

    Raises:
      InputError: the file cannot be read, is not a manifest, or is of another schema.
    """
    try:
        entries: Any = json.loads((workdir / MANIFEST).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except OSError as error:
        problem = f"cannot be read ({error.strerror}); choose another folder"
        raise InputError("workdir", workdir, problem) from None
    except ValueError as error:
        raise InputError("workdir", workdir, f"its {MANIFEST} is damaged ({error})") from None
    if not isinstance(entries, dict) or entries.pop("schema", None) != SCHEMA:
        problem = f"its {MANIFEST} is not of schema {SCHEMA}, which this version reads"
        raise InputError("workdir", workdir, f"{problem}; choose another folder")
    if not entries.keys() >= _ENTRIES:
        raise InputError("workdir", workdir, f"its {MANIFEST} is damaged (entries are missing)")
    config, parts, conditions = (entries.pop(key) for key in ("config", "parts", "conditions"))
    return Manifest(
        grid=Grid.from_json(config),
        parts=tuple(Grid.from_json(part) for part in parts),
        dataset_sha256=entries["data"]["sha256"],
        conditions=conditions,
        record=entries,
    )


def extended(stored: Manifest, workdir: pathlib.Path, grid: Grid, dataset: Dataset) -> Manifest:
    """Returns the manifest of a folder that is asked for `grid`: the stored one, or a larger one.

    Raises:
      InputError: the folder holds something that `grid` does not, or other data; the text shows
        the difference.
    """
    differences = obstacles(stored.grid, grid)
    if not differences and stored.dataset_sha256 != dataset.sha256:
        differences = [f"sha256 of the data {stored.dataset_sha256} there, {dataset.sha256} now"]
    if differences:
        raise InputError(
            "workdir",
            workdir,
            f"holds another configuration ({'; '.join(differences)}); to grow it, name what is "
            "there too; or choose another workdir, or overwrite this one, which deletes it",
        )
    whole, missing = extend(stored.grid, grid)
    if whole.to_json() == stored.grid.to_json():
        return stored
    longer = {"epochs": whole.epochs, "snapshots": whole.snapshots}
    parts = [Grid.from_json({**part.to_json(), **longer}) for part in stored.parts]
    return stored._replace(grid=whole, parts=(*parts, *missing))


def under(
    stored: Manifest, workdir: pathlib.Path, now: dict[str, Any], *, allow_inexact: bool
) -> Manifest:
    """Returns the manifest of a run that goes on under the conditions `now`.

    Raises:
      InputError: they differ from those so far and `allow_inexact` is not set.
    """
    changed = {
        name: [stored.conditions.get(name), now.get(name)]
        for name in sorted(stored.conditions.keys() | now.keys() - {"seed_batch"})
        if name != "seed_batch" and stored.conditions.get(name) != now.get(name)
    }
    before, after = stored.conditions["seed_batch"], now["seed_batch"]
    for shape in sorted(before.keys() & after.keys()):
        if before[shape] != after[shape]:
            changed[f"seed_batch of {shape}"] = [before[shape], after[shape]]
    if changed and not allow_inexact:
        texts = [f"{name} {old!r} there, {new!r} now" for name, (old, new) in changed.items()]
        raise InputError(
            "workdir",
            workdir,
            f"was trained under other conditions ({'; '.join(texts)}), so going on would not give "
            "the same bits; restore them, or say --allow_inexact_resume",
        )
    record = stored.record
    if changed:
        when = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        resumes = [*record["inexact_resumes"], {"time": when, "changed": changed}]
        record = {**record, "inexact_resumes": resumes}
    return stored._replace(conditions={**now, "seed_batch": before | after}, record=record)
