"""`manifest.json`, which describes a run folder and the conditions of its training.

A manifest contains the whole grid, the *parts* in which it was trained (one, unless the grid was
extended), the digest of the data, and the conditions on which the bits of a run depend.
"""

import datetime
import importlib.metadata
import json
import os
import pathlib
import platform
import re
import subprocess
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from ppp_jax import __version__, references
from ppp_jax.data.datasets import Dataset
from ppp_jax.errors import InputError, printable, shortened
from ppp_jax.files import regular
from ppp_jax.files.integrity import digest, is_intact, sealed
from ppp_jax.grid.extension import AXES, FIXED, extend, obstacles
from ppp_jax.grid.fingerprints import KINDS, Fingerprints, fingerprints, named_references, sources
from ppp_jax.grid.grid import Grid

MANIFEST = "manifest.json"
SCHEMA = 6
LARGEST = 2**26  # most bytes of a manifest
PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "xarray", "zarr")


class Manifest(NamedTuple):
    """Description of a run folder.

    Attributes:
      grid: Grid of all runs that are trained or will be.
      parts: Disjoint grids whose union is `grid`, each of which is trained by its own program.
      functions: Results of `functions` for each part when its training began, which do not change
        if it continues under another version of JAX; None for a part of schema 5.
      dataset_sha256: SHA-256 of the data.
      conditions: Conditions on which bits depend, in addition to the grid (`conditions`).
      fingerprints: Fingerprints of the functions that the grid names (`ppp_jax.grid.fingerprints`).
      sources: SHA-256 of the source files of the references that the grid names, by reference. The
        file has no such entry if there are none.
      record: Other entries of the file, which are for readers.
    """

    grid: Grid
    parts: tuple[Grid, ...]
    functions: tuple[str | None, ...]
    dataset_sha256: str
    conditions: dict[str, Any]
    fingerprints: Fingerprints
    sources: dict[str, str]
    record: dict[str, Any]

    @property
    def steps_per_epoch(self) -> int:
        """Number of gradient steps of an epoch, which leaves out its last, incomplete batch."""
        samples: int = self.record["data"]["train"][0]
        return samples // self.grid.batch_size

    @property
    def steps(self) -> int:
        """Number of gradient steps of a run."""
        return self.grid.epochs * self.steps_per_epoch

    @property
    def identities(self) -> tuple[str, ...]:
        """Results of `identity` for all parts."""
        pairs = zip(self.parts, self.functions, strict=True)
        return tuple(identity(part, self.dataset_sha256, meant) for part, meant in pairs)

    def to_text(self) -> str:
        """Returns the content of the file."""
        entries = {
            "schema": SCHEMA,
            **self.record,
            "config": self.grid.to_json(),
            "parts": [part.to_json() for part in self.parts],
            "functions": list(self.functions),
            "conditions": self.conditions,
            "fingerprints": self.fingerprints,
            **({"sources": self.sources} if self.sources else {}),
        }
        return json.dumps(sealed(entries), indent=2) + "\n"


def conditions(seed_batch: dict[str, int]) -> dict[str, Any]:
    """Returns the conditions on which the bits of a run depend, in addition to its configuration.

    They do not depend on the numbers of runs, devices and processes.

    Args:
      seed_batch: Number of runs that are vmapped together, by `Cell.shape`.
    """
    device = jax.devices()[0]
    values = {
        "platform": device.platform,
        "device": _cpu_model() if device.platform == "cpu" else device.device_kind,
        **{name: importlib.metadata.version(name) for name in _VERSIONS},
        "ppp_jax": __version__,
        "XLA_FLAGS": " ".join(_compiler_flags()),
        "matmul_precision": _precision(device.platform),
        "x64": bool(jax.config.values["jax_enable_x64"]),
        **{name: str(jax.config.values[f"jax_{name}"]) for name in _RANDOMNESS},
        "seed_batch": seed_batch,
    }
    if device.platform == "cpu":  # large matrix products are divided among the threads
        values["cpu_threads"] = len(os.sched_getaffinity(0)) if _HAS_AFFINITY else os.cpu_count()
    return values


def _precision(platform: str) -> str:
    """Returns the precision of matrix products: on accelerators the engine asks for the highest."""
    asked = jax.config.values["jax_default_matmul_precision"]
    return "highest" if asked is None and platform != "cpu" else str(asked)


_RANDOMNESS = ("default_prng_impl", "threefry_partitionable", "random_seed_offset")
_VERSIONS = ("jax", "jaxlib", "flax", "optax")
# Conditions on which the lowered texts behind fingerprints depend, in addition to the functions.
_OF_FINGERPRINTS = (*_VERSIONS, "x64", "matmul_precision", *_RANDOMNESS)
_TEXTS = (
    "platform",
    "device",
    *_VERSIONS,
    "ppp_jax",
    "XLA_FLAGS",
    "matmul_precision",
    *_RANDOMNESS,
)
_FLAGS_WITHOUT_EFFECT = ("--xla_force_host_platform_device_count", "--xla_dump")
_HAS_AFFINITY = hasattr(os, "sched_getaffinity")  # not on macOS


def identity(part: Grid, dataset_sha256: str, meant: str | None) -> str:
    """Returns a digest that identifies a part.

    It is written to the part's checkpoints, metrics and latents. By it, files of another run or
    part are detected. It does not depend on the epochs and snapshots, which can grow, or on the
    conditions. Files of equal identity are interchangeable.

    Args:
      part: Grid of the part.
      dataset_sha256: SHA-256 of the data.
      meant: Digest of the part's functions, see `Manifest.functions`.
    """
    config = {name: value for name, value in part.to_json().items() if name not in _GROWS}
    of_functions = {} if meant is None else {"functions": meant}
    return digest({"config": config, "data": dataset_sha256, **of_functions})


def functions(part: Grid) -> str:
    """Returns a digest of the functions that a part names.

    Args:
      part: Grid of the part.
    """
    return digest(fingerprints(part))


_GROWS = ("epochs", "snapshots")


def _compiler_flags() -> list[str]:
    """Returns the XLA flags on which numbers can depend, and those that a switch of JAX implies."""
    flags = os.environ.get("XLA_FLAGS", "").split()
    if jax.config.values["jax_disable_most_optimizations"]:
        flags += ["--xla_backend_optimization_level=0", "--xla_llvm_disable_expensive_passes=true"]
    return [flag for flag in flags if not flag.startswith(_FLAGS_WITHOUT_EFFECT)]


def _cpu_model() -> str:
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:  # not Linux
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def create(grid: Grid, dataset: Dataset, conditions: dict[str, Any]) -> Manifest:
    """Returns the manifest of a run that begins now.

    Args:
      grid: The grid to be trained.
      dataset: The dataset.
      conditions: Present conditions, see the function `conditions`.
    """
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
            **_shapes(dataset),
        },
        "inexact_resumes": [],
    }
    found = fingerprints(grid)
    return Manifest(
        grid=grid,
        parts=(grid,),
        functions=(digest(found),),
        dataset_sha256=dataset.sha256,
        conditions=conditions,
        fingerprints=found,
        sources=sources(grid),
        record=record,
    )


def _shapes(dataset: Dataset) -> dict[str, list[int]]:
    return {name: list(getattr(dataset, name).shape) for name in ("train", "validation", "test")}


def check_data(stored: Manifest, workdir: pathlib.Path, dataset: Dataset) -> None:
    """Checks that the shapes of the data in a manifest are right.

    The number of samples determines the steps of an epoch, and so which checkpoints are valid.

    Args:
      stored: The manifest.
      workdir: Path of the run folder.
      dataset: Dataset whose digest is in the manifest.

    Raises:
      InputError: A shape differs from that of the dataset.
    """
    for name, shape in _shapes(dataset).items():
        recorded = stored.record["data"][name]
        if recorded != shape:
            what = f"data: {name} has shape {recorded} there, and {shape} in {dataset.name}"
            raise _damaged(workdir, what)


def _git_commit() -> str | None:
    """Returns the commit of the source tree, marked if there are uncommitted changes."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    folder = pathlib.Path(__file__).parent
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    except FileNotFoundError:  # git is not installed
        return None
    return done.stdout.strip() or None


def read(workdir: pathlib.Path) -> Manifest | None:
    """Returns the manifest of a run folder, or None if there is none.

    Raises:
      InputError: The file cannot be read, has another schema, was changed since it was written, or
        has content that no run writes.
    """
    try:
        wrong = regular.problem(workdir / MANIFEST, most=LARGEST)
        if wrong is not None:
            raise _damaged(workdir, f"it {wrong}")
        return parsed((workdir / MANIFEST).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except OSError as error:
        problem = f"cannot be read ({error.strerror}); choose another folder"
        raise InputError("workdir", workdir, problem) from None
    except InputError:
        raise
    except SchemaError as error:
        problem = f"its {MANIFEST} {error}; choose another folder"
        raise InputError("workdir", workdir, problem) from None
    except ValueError as error:
        raise _damaged(workdir, str(error)) from None


def _damaged(workdir: pathlib.Path, what: str) -> InputError:
    message = shortened(printable(what))
    return InputError(
        "workdir",
        workdir,
        f"its {MANIFEST} is damaged ({message}); put it back from a copy (the attribute `manifest` "
        "of latents.zarr is one), or choose another folder",
    )


class SchemaError(ValueError):
    """A manifest was written by another version of this package, or by another program."""


class _ViolationError(ValueError):
    """An entry of a manifest has content that no run writes."""


def parsed(text: str) -> Manifest:
    """Parses the text of a manifest, and checks all of it.

    Args:
      text: Content of the file, or a store's copy of it.

    Raises:
      SchemaError: The manifest has another schema.
      ValueError: The text was changed since it was written, or has content that no run writes.
    """
    try:
        entries: Any = json.loads(text)
    except RecursionError as error:
        raise ValueError(str(error)) from None
    schema = entries.get("schema") if isinstance(entries, dict) else None
    if type(schema) is not int or not (schema == SCHEMA or schema in OLDER):
        raise SchemaError(_schema_problem(schema))
    if not is_intact(entries):
        raise ValueError("its digest is wrong")
    while schema in OLDER:
        entries, schema = OLDER[schema](entries), schema + 1
    return _parsed(entries)


def _schema_problem(schema: Any) -> str:
    """Returns what is wrong with a schema that cannot be read."""
    text = f"is not of schema {SCHEMA}, which this version reads"
    if type(schema) is not int:
        return text
    if schema > SCHEMA:
        return f"{text}, but of {schema}, for which a newer ppp_jax must be installed"
    return f"{text}, but of {schema}, of before the first release"


def _from_5(entries: dict[str, Any]) -> dict[str, Any]:
    """Returns entries of schema 5 as those of 6, which says by which functions parts were begun."""
    if "functions" in entries:
        raise _ViolationError("has an unknown functions")
    parts = entries.get("parts")
    return {**entries, "functions": [None] * len(parts) if isinstance(parts, list) else []}


# What turns the entries of each older schema into those of the next.
OLDER: dict[int, Callable[[dict[str, Any]], dict[str, Any]]] = {5: _from_5}


def _parsed(entries: dict[str, Any]) -> Manifest:
    """Converts the entries of a manifest, all of which are checked."""
    known = {*_RECORD, "schema", "config", "parts", "functions", "conditions", "fingerprints"}
    known |= {"sha256"}
    known |= {"sources"} & entries.keys()
    _require(entries.keys() == known, _difference(entries.keys(), known))
    for name, is_right in _RECORD.items():
        _require(is_right(entries[name]), f"{name} is {entries[name]!r}")
    grid = _grid(entries["config"], "config")
    _require(_is_list(entries["parts"], lambda _: True) and entries["parts"], "parts is empty")
    parts = tuple(_grid(part, f"parts[{i}]") for i, part in enumerate(entries["parts"]))
    _check_parts(grid, parts)
    meant = entries["functions"]
    right = _is_list(meant, lambda one: one is None or _is_digest(one)) and len(meant) == len(parts)
    _require(right, "functions are not digests, one of each part")
    _check_data(entries["data"], grid)
    _check_conditions(entries["conditions"], grid)
    _check_fingerprints(entries["fingerprints"], grid)
    wanted = {name for names in named_references(grid).values() for name in names}
    found = entries.get("sources", {})
    _require(_is_dict(found, _is_digest), "sources is not of digests")
    _require(found.keys() == wanted, f"sources {_difference(found.keys(), wanted)}")
    return Manifest(
        grid=grid,
        parts=parts,
        functions=tuple(meant),
        dataset_sha256=entries["data"]["sha256"],
        conditions=entries["conditions"],
        fingerprints=entries["fingerprints"],
        sources=found,
        record={name: entries[name] for name in _RECORD},
    )


def _require(holds: Any, otherwise: str) -> None:
    if not holds:
        raise _ViolationError(otherwise)


def _difference(found: Any, known: set[str]) -> str:
    lacking, unknown = sorted(known - set(found)), sorted(set(found) - known)
    return "; ".join(
        f"{what} {', '.join(names)}"
        for what, names in (("lacks", lacking), ("has an unknown", unknown))
        if names
    )


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_list(value: Any, is_right: Callable[[Any], bool]) -> bool:
    return isinstance(value, list) and all(map(is_right, value))


def _is_dict(value: Any, is_right: Callable[[Any], bool]) -> bool:
    return isinstance(value, dict) and all(map(is_right, value.values()))


def _is_count(value: Any) -> bool:
    return type(value) is int and value > 0


def _is_digest(value: Any) -> bool:
    return isinstance(value, str) and re.fullmatch(r"[0-9a-f]{64}", value) is not None


def _is_resume(value: Any) -> bool:
    if not isinstance(value, dict) or value.keys() != {"time", "changed"}:
        return False
    return _is_text(value["time"]) and _is_dict(
        value["changed"], lambda pair: isinstance(pair, list) and len(pair) == 2
    )


_RECORD: dict[str, Callable[[Any], bool]] = {
    "created": _is_text,
    "ppp_jax": _is_text,
    "git_commit": lambda value: value is None or _is_text(value),
    "python": _is_text,
    "packages": lambda value: _is_dict(value, _is_text),
    "devices": lambda value: _is_list(value, _is_text),
    "processes": _is_count,
    "data": lambda value: isinstance(value, dict),
    "inexact_resumes": lambda value: _is_list(value, _is_resume),
}


def _grid(config: Any, name: str) -> Grid:
    """Returns the grid of a configuration that is written exactly as `to_json` writes it."""
    try:
        grid = Grid.from_json(config)
    except references.MissingError:
        raise
    except InputError as error:
        raise _ViolationError(f"{name}: {error}") from None
    written = json.loads(json.dumps(grid.to_json()))
    wrong = [key for key in written if config[key] != written[key]]
    _require(not wrong, f"{name}: {', '.join(wrong)} is not as a run writes it")
    return grid


def _check_parts(grid: Grid, parts: tuple[Grid, ...]) -> None:
    """Checks that parts share the settings of the grid, and together contain every run once."""
    axes = {axis: getattr(grid, axis) or (None,) for axis in AXES}
    seen = np.zeros([len(values) for values in axes.values()], bool)
    for i, part in enumerate(parts):
        for name in (*FIXED, "epochs", "snapshot_epochs"):
            alike = getattr(part, name) == getattr(grid, name)
            _require(alike, f"parts[{i}]: {name} is not that of config")

        indices = []
        for axis, values in axes.items():
            own = getattr(part, axis) or (None,)
            _require(set(own) <= set(values), f"parts[{i}]: {axis} has what config has not")
            indices.append([values.index(value) for value in own])
        runs = np.ix_(*indices)
        _require(not seen[runs].any(), f"parts[{i}] has runs of an earlier part")
        seen[runs] = True
    _require(seen.all(), "parts are not all of config")


def _check_data(data: dict[str, Any], grid: Grid) -> None:
    known = {"name", "sha256", "train", "validation", "test"}
    _require(data.keys() == known, f"data {_difference(data.keys(), known)}")
    _require(data["name"] == grid.data, "data: name is not that of config")
    _require(_is_digest(data["sha256"]), "data: sha256 is not a digest")
    for name in ("train", "validation", "test"):
        shape = data[name]
        right = _is_list(shape, lambda n: type(n) is int and n >= 0) and len(shape) == 2
        _require(right, f"data: {name} is not a shape")
    _require(data["train"][0] >= grid.batch_size, "data: train is smaller than a batch")


def _check_conditions(conditions: Any, grid: Grid) -> None:
    _require(isinstance(conditions, dict), "conditions is not an object")
    known = {*_TEXTS, "x64", "seed_batch"}
    found = conditions.keys() - {"cpu_threads"}
    _require(found == known, f"conditions {_difference(found, known)}")
    for name in _TEXTS:
        _require(_is_text(conditions[name]), f"conditions: {name} is not a text")
    _require(isinstance(conditions["x64"], bool), "conditions: x64 is not a boolean")
    _require(_is_count(conditions.get("cpu_threads", 1)), "conditions: cpu_threads is not a count")
    widths, shapes = conditions["seed_batch"], {cell.shape for cell in grid.cells}
    _require(_is_dict(widths, _is_count), "conditions: seed_batch is not of counts")
    _require(widths.keys() == shapes, f"seed_batch {_difference(widths.keys(), shapes)}")


def _check_fingerprints(found: Any, grid: Grid) -> None:
    _require(isinstance(found, dict), "fingerprints is not an object")
    _require(found.keys() == set(KINDS), f"fingerprints {_difference(found.keys(), set(KINDS))}")
    for kind in KINDS:
        of_kind, names = found[kind], set(getattr(grid, kind))
        _require(_is_dict(of_kind, _is_digest), f"fingerprints: {kind} is not of digests")
        _require(
            of_kind.keys() == names, f"fingerprints: {kind} {_difference(of_kind.keys(), names)}"
        )


def extended(stored: Manifest, workdir: pathlib.Path, grid: Grid, dataset: Dataset) -> Manifest:
    """Returns the manifest of a folder that is to hold `grid`, the stored or an extended one.

    Args:
      stored: Manifest of the folder.
      workdir: Path of the run folder.
      grid: The grid to be trained.
      dataset: The dataset.

    Raises:
      InputError: `grid` is not an extension of the stored grid, or the data differ. The message
        shows the differences.
    """
    differences = obstacles(stored.grid, grid)
    if not differences and stored.dataset_sha256 != dataset.sha256:
        differences = [f"sha256 of the data {stored.dataset_sha256} there, {dataset.sha256} now"]
    if differences:
        raise InputError(
            "workdir",
            workdir,
            f"holds another configuration ({'; '.join(differences)}); to extend it, include "
            "what is there, or choose another workdir, or overwrite this one, which deletes it",
        )
    check_data(stored, workdir, dataset)
    whole, missing = extend(stored.grid, grid)
    if whole.to_json() == stored.grid.to_json():
        return stored
    longer = {"epochs": whole.epochs, "snapshots": whole.snapshots}
    parts = [Grid.from_json({**part.to_json(), **longer}) for part in stored.parts]
    return stored._replace(
        grid=whole,
        parts=(*parts, *missing),
        functions=(*stored.functions, *map(functions, missing)),
    )


def under(
    stored: Manifest, workdir: pathlib.Path, now: dict[str, Any], *, allow_inexact: bool
) -> Manifest:
    """Returns the manifest of a run that continues under the conditions `now`.

    Args:
      stored: Manifest of the run.
      workdir: Path of the run folder.
      now: Present conditions, see the function `conditions`.
      allow_inexact: Whether other conditions are accepted, and recorded.

    Raises:
      InputError: The conditions have changed and `allow_inexact` is False, or a name stands for
        another function than before.
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
            f"was trained under other conditions ({'; '.join(texts)}), so continuing would "
            "not give the same bits; restore the conditions, or set --allow_inexact_resume",
        )
    if not any(name in changed for name in _OF_FINGERPRINTS):
        _check_lowered(stored, workdir)
    changed |= accepted_sources(stored, workdir, allow_inexact=allow_inexact)
    now_meant = fingerprints(stored.grid)
    going_on = stored._replace(
        conditions={**now, "seed_batch": before | after},
        fingerprints=now_meant,
        sources=sources(stored.grid),
    )
    return _recorded(going_on, changed) if changed else going_on


def same_programs(stored: Manifest) -> bool:
    """Returns whether JAX now lowers functions to the same programs as when a run was trained.

    Args:
      stored: Manifest of the run.
    """
    return all(stored.conditions[name] == value for name, value in programs().items())


def programs() -> dict[str, Any]:
    """Returns the conditions on which the programs to which JAX lowers functions depend."""
    now = conditions({})
    return {name: now[name] for name in _OF_FINGERPRINTS}


def check_functions(stored: Manifest, workdir: pathlib.Path) -> None:
    """Checks that every name still stands for the function that was trained.

    Under other versions or settings of JAX the lowered texts can differ for equal functions, and
    nothing is checked.

    Raises:
      InputError: A name stands for another function.
    """
    _check_lowered(stored, workdir)
    accepted_sources(stored, workdir, allow_inexact=False)


def accepted_sources(
    stored: Manifest, workdir: pathlib.Path, *, allow_inexact: bool
) -> dict[str, list[Any]]:
    """Returns the source files that have changed since training began, if that is accepted.

    Args:
      stored: Manifest of the run.
      workdir: Path of the run folder.
      allow_inexact: Whether changed files are accepted.

    Returns:
      The digests of a reference's file there and now, by the reference.

    Raises:
      InputError: A file has changed, and `allow_inexact` is False.
    """
    now = sources(stored.grid)
    changed: dict[str, list[Any]] = {
        name: [old, now[name]] for name, old in stored.sources.items() if now[name] != old
    }
    if changed and not allow_inexact:
        texts = [
            f"{name} of a file with sha256 {old[:12]}… there, {new[:12]}… now"
            for name, (old, new) in changed.items()
        ]
        raise InputError(
            "workdir",
            workdir,
            f"was trained with another source file ({'; '.join(texts)}); put the file back, or, if "
            "what it computes is the same, train with --allow_inexact_resume, which records it",
        )
    return changed


def with_sources(stored: Manifest, workdir: pathlib.Path, *, allow_inexact: bool) -> Manifest:
    """Returns the manifest of a finished run, in which accepted source files are recorded.

    Args:
      stored: Manifest of the run.
      workdir: Path of the run folder.
      allow_inexact: Whether changed source files are accepted if their functions are the same.
    """
    if not allow_inexact or sources(stored.grid) == stored.sources:
        return stored
    _check_lowered(stored, workdir)
    changed = accepted_sources(stored, workdir, allow_inexact=True)
    return _recorded(stored._replace(sources=sources(stored.grid)), changed)


def _check_lowered(stored: Manifest, workdir: pathlib.Path) -> None:
    if not same_programs(stored):
        return
    found = fingerprints(stored.grid)
    changed = [
        f"{kind.removesuffix('s')} {name}"
        for kind in KINDS
        for name, before in stored.fingerprints[kind].items()
        if found[kind][name] != before
    ]
    if changed:
        now = sources(stored.grid)
        files = [
            f"{name.partition(':')[0]} had sha256 {old[:12]}… there and has {now[name][:12]}… now"
            for name, old in stored.sources.items()
            if now[name] != old
        ]
        told = f" ({'; '.join(dict.fromkeys(files))})" if files else ""
        raise InputError(
            "workdir",
            workdir,
            f"was trained with another function under the name of {', '.join(changed)}"
            f"{told}; restore "
            "the function, or give the new one another name and train it in addition",
        )


def noted(going_on: Manifest, what: str, problem: str) -> Manifest:
    """Returns the manifest with a note that something was lost and training continued without it.

    Args:
      going_on: The manifest.
      what: Name of what was lost.
      problem: What was wrong with it.
    """
    return _recorded(going_on, {what: [problem, None]})


def _recorded(going_on: Manifest, changed: dict[str, Any]) -> Manifest:
    when = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    record = going_on.record
    resumes = [*record["inexact_resumes"], {"time": when, "changed": changed}]
    return going_on._replace(record={**record, "inexact_resumes": resumes})
