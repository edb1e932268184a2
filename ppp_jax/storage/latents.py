"""`latents.zarr`, the labelled latents and errors of every run, written snapshot by snapshot.

The store has one xarray group per architecture and latent width, with a dimension for every other
axis of the grid. Further groups hold the captured layers, and the root holds the probe inputs and
labels. `xarray.open_datatree(path)` opens the store without this package.
`ppp_jax.analysis.load_run` opens it without snapshots that some runs lack. zarr checks a CRC-32 of
every chunk, and `ppp_jax.files.ledger` checks that nothing is missing or exchanged.
"""

import contextlib
import dataclasses
import hashlib
import itertools
import json
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import jax
import numpy as np

from ppp_jax.data.datasets import Dataset, Shape
from ppp_jax.engine import devices
from ppp_jax.engine.training import NEVER, Observation, build_model
from ppp_jax.errors import InputError, printable, shortened
from ppp_jax.files import atomic, ledger
from ppp_jax.grid.extension import AXES, indices, obstacles, run_indices
from ppp_jax.grid.grid import STATIC, TRACED, Cell, Grid, axes_of, cell_axes, grouped_axes
from ppp_jax.networks import architectures, functional, interpolated, optimizers
from ppp_jax.storage import strangers
from ppp_jax.storage.manifest import Manifest, parsed

if TYPE_CHECKING:
    import xarray as xr

LATENTS = ("pre", "post")
CELL_AXES, GROUPED = cell_axes(), grouped_axes()  # axes that are dimensions, and that are groups
SCALARS = ("train_mse", "validation_mse", "test_mse", "diverged_step")
SAVED = ledger.SAVED
_NEW, _OLD = "new", "old"  # two stores in the folder aside, while one replaces the other
_OVERWRITE = "put it back from a copy, or overwrite the run, which trains it again"


def run_dims(grid: Grid) -> tuple[str, ...]:
    """Returns the names of the axes over cells, runs and snapshots."""
    return (*CELL_AXES, *grid.run_axes, "step")


class Group(NamedTuple):
    """A group of the store: the vectors of one layer, for the runs in which it has one size.

    Attributes:
      name: Name of the group in the store.
      layer: Name of the layer, `bottleneck` or a captured one.
      grid: Grid of the runs.
      vectors: Number of vectors per sample.
      units: Number of units of a vector.
    """

    name: str
    layer: str
    grid: Grid
    vectors: int
    units: int

    def holds(self, cell: Cell) -> bool:
        """Returns whether this group holds the vectors of a cell's layer."""
        axes = [*CELL_AXES, *GROUPED]
        return all(getattr(cell, axis) in getattr(self.grid, f"{axis}s") for axis in axes)


def groups(grid: Grid, shape: Shape) -> tuple[Group, ...]:
    """Returns the groups of a grid's store.

    Args:
      grid: The grid to be trained.
      shape: Shape of the data.
    """
    found = []
    for architecture, width in itertools.product(grid.architectures, grid.latent_widths):
        one = dataclasses.replace(grid, architectures=[architecture], latent_widths=[width])
        name = ("" if architecture == "mlp" else f"{architecture}_") + f"latent_{width}"
        found.append(Group(name, functional.BOTTLENECK, one, 1, width))
        found += _captured(one, name, shape) if grid.capture else []
    return tuple(found)


def _captured(grid: Grid, prefix: str, shape: Shape) -> list[Group]:
    """Returns the groups of captured layers. A layer has one group for each of its sizes."""
    sizes: dict[tuple[str, int, int], set[tuple[int, int]]] = {}
    first = grid.cells[0]
    for depth, width in itertools.product(grid.depths, grid.widths):
        cell = first._replace(depth=depth, width=width)
        model, chosen = build_model(cell, shape), grid.captured(cell)
        params = jax.eval_shape(model.init, jax.random.key(0))
        output = jax.eval_shape(model.apply, params, np.zeros((1, shape.features), np.float32))
        for layer in chosen:
            vectors, units = output.layers[layer].pre.shape
            sizes.setdefault((layer, vectors, units), set()).add((depth, width))
    found = []
    for (layer, vectors, units), where in sizes.items():
        depths, widths = (sorted(set(values)) for values in zip(*where, strict=True))
        size = f"{units}" if vectors == 1 else f"{vectors}x{units}"
        name, own = (
            f"{prefix}_{layer}_{size}",
            dataclasses.replace(grid, depths=depths, widths=widths),
        )
        found.append(Group(name, layer, own, vectors, units))
    return found


def fit(path: pathlib.Path, grid: Grid, dataset: Dataset, manifest: str) -> None:
    """Creates the store of a grid, or extends an existing store to the grid.

    In a new store all latents and errors are missing (NaN). The content of an existing store, of a
    smaller grid or of before there were ledgers, is copied by its labels. The new store replaces
    the old one once it is complete.

    Args:
      path: Path of the store.
      grid: Grid of the store.
      dataset: Dataset of the grid.
      manifest: Text of the run's manifest, which is kept as an attribute.

    Raises:
      InputError: The existing store is damaged. It is not changed.
    """
    _recover(path)
    kept, stored = check(path), _stored_manifest(path)
    before = None if stored is None else Grid.from_json(json.loads(stored)["config"])
    if kept is not None and before is not None and before.to_json() == grid.to_json():
        _restore_numbers(path, kept, groups(grid, dataset.shape))
        # Two digests of a file mean that a process was killed while it replaced the manifest.
        unsettled = any(len(digests) > 1 for digests in kept.files.values())
        if stored != manifest or unsettled:
            _replace_manifest(path, kept, manifest)
        return
    aside = atomic.open_aside(path)
    partial = aside / _NEW
    made = _create(partial, grid, dataset, manifest)
    if before is not None:
        after = groups(grid, dataset.shape)
        _copy(path, groups(before, dataset.shape), kept, partial, after, made)
        path.rename(aside / _OLD)
    partial.rename(path)
    atomic.close_aside(path)


def is_there(path: pathlib.Path) -> bool:
    """Returns whether a store exists, or was moved aside by a killed process.

    Args:
      path: Path of the store.
    """
    return path.exists() or (atomic.has_aside(path) and (atomic.aside(path) / _OLD).exists())


def _recover(path: pathlib.Path) -> None:
    """Moves a store back that a killed process moved aside, and removes its temporary files."""
    if (
        is_there(path) and not path.exists()
    ):  # a process was killed between the two renames of `fit`
        new, old = (atomic.aside(path) / name for name in (_NEW, _OLD))
        (new if new.exists() else old).rename(path)
    atomic.close_aside(path)
    atomic.remove_partial(path, strangers.REPLACED)


def check(path: pathlib.Path) -> ledger.Ledger | None:
    """Checks a store except its latents, and returns its ledger, or None if there is no ledger.

    Args:
      path: Path of the store, which need not exist.

    Raises:
      InputError: Metadata, a coordinate, the probe or the ledger itself is damaged or missing.
    """
    if not path.exists():
        return None
    with _of_the_run(path):
        ledger.check_entries(path)
        kept = ledger.read(path)
        if kept is not None:
            ledger.check_files(path, kept)
    return kept


def check_run(
    path: pathlib.Path, kept: ledger.Ledger | None, stored: Manifest, dataset: Dataset
) -> None:
    """Checks that a store belongs to a run, and is not of a newer state of the run.

    An older state is valid, because a process can be killed after it wrote a larger manifest.

    Args:
      path: Path of the store, which need not exist.
      kept: Ledger of the store, see `check`.
      stored: Manifest of the run.
      dataset: Dataset of the run.

    Raises:
      InputError: The store has runs or snapshots that are not in the manifest, or other data.
    """
    theirs = _manifest_of(path)
    if theirs is None:
        return
    back = "put back the right one, or overwrite the run"
    if theirs.identities != stored.identities[: len(theirs.parts)]:
        problem = f"its {path.name} belongs to another run than its manifest; {back}"
        raise InputError("workdir", path.parent, problem)
    more = obstacles(theirs.grid, stored.grid)
    if not more and not set(theirs.grid.snapshot_epochs) <= set(stored.grid.snapshot_epochs):
        more = ["snapshots"]
    if more:
        problem = f"its {path.name} is newer than its manifest ({'; '.join(more)}); {back}"
        raise InputError("workdir", path.parent, problem)
    if kept is None:
        return
    for group in groups(theirs.grid, dataset.shape):
        grid, table = group.grid, kept.groups.get(group.name, {})
        cells = (len(getattr(grid, f"{axis}s")) for axis in CELL_AXES)
        shape = (*cells, *grid.run_shape, len(grid.snapshot_epochs))
        if SAVED not in table or table[SAVED].shape != shape:
            problem = f"its {path.name} lacks {group.name} for the runs in its own manifest; {back}"
            raise InputError("workdir", path.parent, problem)


def _manifest_of(path: pathlib.Path) -> Manifest | None:
    """Returns a store's copy of the manifest, or None if there is no store."""
    text = _stored_manifest(path)
    try:
        return None if text is None else parsed(text)
    except ValueError as error:
        problem = f"its {path.name}/.zattrs is damaged ({shortened(printable(str(error)))})"
        raise InputError("workdir", path.parent, f"{problem}; {_OVERWRITE}") from None


def check_saved(
    path: pathlib.Path, stored: Manifest, dataset: Dataset, *, reached: Sequence[int | None]
) -> None:
    """Checks that a store has all snapshots that the checkpoints have passed.

    A store or ledger that lacks one is an older copy. Training would continue after that snapshot
    and never write it. The expected snapshots are those of the run's own manifest.

    Args:
      path: Path of the store, which need not exist.
      stored: Manifest of the run.
      dataset: Dataset of the run.
      reached: Steps of the parts' valid checkpoints, None for a part without one. Parts behind the
        end of this list have none.

    Raises:
      InputError: A snapshot is not saved.
    """
    with _of_the_run(path):
        kept = ledger.read(path)  # the files are checked by other calls, before and after this one
    theirs = _manifest_of(path)
    if kept is None or theirs is None:
        return
    existing = {group.name: group for group in groups(theirs.grid, dataset.shape)}
    for number, step in enumerate(reached):
        if step is None:  # this part is not trained yet, or is to be trained again
            continue
        epochs, part = stored.grid.snapshot_epochs, stored.parts[number]
        passed = [epoch for epoch in epochs if epoch * stored.steps_per_epoch <= step]
        for group in groups(stored.grid, dataset.shape):
            inside = _inside(part, group)
            if inside is None:
                continue
            missing = _unsaved(kept, existing.get(group.name), inside, passed)
            if missing:
                raise InputError(
                    "workdir",
                    path.parent,
                    f"its {path.name}/{group.name} lacks the snapshot of epoch {missing[0]}, which "
                    f"checkpoints/{number} has passed; put back the right {path.name}, or "
                    f"remove checkpoints/{number} to train its runs again",
                )


def _unsaved(
    kept: ledger.Ledger, group: Group | None, runs: Grid, epochs: Sequence[int]
) -> list[int]:
    """Returns the epochs at which a group of a store lacks some runs."""
    if group is None or not _is_within(runs, group.grid):
        return list(epochs)
    saved = kept.groups[group.name][SAVED]
    saved = saved[np.ix_(*_indices(group.grid, runs), range(saved.shape[-1]))]
    index = {epoch: k for k, epoch in enumerate(group.grid.snapshot_epochs)}
    return [epoch for epoch in epochs if epoch not in index or not saved[..., index[epoch]].all()]


def _is_within(part: Grid, grid: Grid) -> bool:
    return all(set(getattr(part, axis)) <= set(getattr(grid, axis)) for axis in AXES)


def check_growth(path: pathlib.Path, grid: Grid, dataset: Dataset) -> None:
    """Checks that a store can be extended to a grid.

    Latents that would be copied must not be damaged. The store must not be a link, and must not
    contain other people's files, which would not be copied.

    Args:
      path: Path of the store, which need not exist.
      grid: Grid to which the store is to be extended.
      dataset: Dataset of the grid.

    Raises:
      InputError: A file is damaged, is missing or was not written by a run, or the store is a link.
    """
    kept, stored = check(path), _stored_manifest(path)
    if stored is None or json.loads(stored)["config"] == grid.to_json():
        return
    strangers.refuse(path, what="growing")
    before = Grid.from_json(json.loads(stored)["config"])
    store = _opened(path, mode="r")
    with _of_the_run(path):
        for group in groups(before, dataset.shape):
            if group.name not in store:
                raise InputError("path", path / group.name, f"is missing; {_OVERWRITE}")
            table = None if kept is None else kept.groups[group.name]
            for blocks in (_blocks(path, store, group, name, table, stored) for name in LATENTS):
                for index in _cell_indices(group.grid, group.grid):
                    ledger.checked(blocks, (*index, slice(None)))


@contextlib.contextmanager
def _of_the_run(path: pathlib.Path) -> Iterator[None]:
    """Turns an error about a file of a store into one about the run folder, the user's setting."""
    try:
        yield
    except InputError as error:
        name = pathlib.Path(str(error.value)).relative_to(path.parent)
        raise InputError("workdir", path.parent, f"its {name} {error.problem}") from error


def _blocks(
    path: pathlib.Path,
    store: Any,
    group: Group,
    name: str,
    table: ledger.Table | None,
    manifest: str,
) -> ledger.Blocks:
    """Returns one variable of a group, whose values can be read and checked."""
    array, grid = _array(store[group.name], name), group.grid
    axes = run_dims(grid)
    values = {"rate": range(grid.rate_count), "step": grid.snapshot_epochs}
    names = [*axes, *GROUPED]
    labels = {n: values[n] if n in values else getattr(grid, f"{n}s") for n in names}
    parts = json.loads(manifest)["parts"]
    read = lambda key: np.asarray(array.oindex[key])  # noqa: E731
    return ledger.Blocks(
        path, f"{group.name}/{name}", array.chunks, labels, axes, table, parts, read
    )


def _stored_manifest(path: pathlib.Path) -> str | None:
    if not path.exists():
        return None
    try:
        entries = json.loads((path / ".zmetadata").read_text(encoding="utf-8"))
        return str(entries["metadata"][".zattrs"]["manifest"])
    except (
        OSError,
        ValueError,
        KeyError,
        TypeError,
    ) as error:  # only possible in a store without a ledger
        problem = f"its {path.name}/.zmetadata is damaged ({error}); {_OVERWRITE}"
        raise InputError("workdir", path.parent, problem) from error


def _replace_manifest(path: pathlib.Path, kept: ledger.Ledger, manifest: str) -> None:
    """Replaces the manifest in a store's attributes.

    Meanwhile the ledger has the digests of the old and of the new files, so that a process can be
    killed at any point.
    """
    texts = {}
    for name in (".zattrs", ".zmetadata"):
        entries = json.loads((path / name).read_text(encoding="utf-8"))
        attributes = entries if name == ".zattrs" else entries["metadata"][".zattrs"]
        attributes["manifest"] = manifest
        texts[name] = json.dumps(entries, indent=2)
    new = {name: hashlib.sha256(text.encode()).hexdigest() for name, text in texts.items()}
    both = {name: [ledger.sha256(path / name), new[name]] for name in texts}
    ledger.write(path, kept._replace(files=kept.files | both))
    for name, text in texts.items():
        atomic.write_text(path / name, text)
    ledger.write(path, kept._replace(files=kept.files | {name: [new[name]] for name in texts}))


def _copy(
    source: pathlib.Path,
    before: tuple[Group, ...],
    kept: ledger.Ledger | None,
    target: pathlib.Path,
    after: tuple[Group, ...],
    made: ledger.Ledger,
) -> None:
    """Copies the content of a smaller grid's store into that of a larger grid."""
    old, new = (_opened(path, mode="r+") for path in (source, target))
    larger = {group.name: group.grid for group in after}
    for group in before:
        small, large = group.grid, larger[group.name]
        steps = indices(large.snapshot_epochs, small.snapshot_epochs)
        table = _table_of_numbers(old[group.name]) if kept is None else kept.groups[group.name]
        pairs = zip(_cell_indices(small, small), _cell_indices(large, small), strict=True)
        for (in_old, in_new), name in itertools.product(pairs, LATENTS):
            values = _array(old[group.name], name).oindex[(*in_old, slice(None))]
            if kept is None:
                values = ledger.canonical(values)
                table[name][(*in_old, slice(None))] = ledger.checksums(values, values.ndim - 2)
            _array(new[group.name], name).oindex[(*in_new, steps)] = values
        at = np.ix_(*_indices(large, small), steps)
        for name, marks in table.items():
            made.groups[group.name][name][at] = marks
    _write_numbers(target, after, made)
    ledger.write(target, made)


def _table_of_numbers(group: Any) -> ledger.Table:
    """Returns the table, without latents, that a ledger would have for a group without one."""
    saved = np.asarray(_array(group, SAVED)[...])
    numbers = {name: np.asarray(_array(group, name)[...]) for name in SCALARS}
    marks = {name: ledger.checksums(x, x.ndim) for name, x in numbers.items()}
    return {**ledger.unsaved(saved.shape, LATENTS), **marks, SAVED: saved}


def _indices(grid: Grid, part: Grid) -> tuple[list[int], ...]:
    """Returns the indices of a part along each axis of the whole grid except `step`."""
    cells = [indices(getattr(grid, f"{a}s"), getattr(part, f"{a}s")) for a in CELL_AXES]
    return (*cells, *run_indices(grid, part))


def _cell_indices(grid: Grid, part: Grid) -> Iterator[tuple[Any, ...]]:
    """Yields the indices of each of a part's cells and of its runs, in the order of cells."""
    axes = _indices(grid, part)
    runs = [ledger.span(index) for index in axes[len(CELL_AXES) :]]
    for cell in itertools.product(*axes[: len(CELL_AXES)]):
        yield (*cell, *runs)


def _opened(path: pathlib.Path, *, mode: Literal["r", "r+"]) -> Any:
    import zarr  # imported late: help and plans do without it

    return zarr.open_group(path, mode=mode, zarr_format=2)


def _array(group: Any, name: str) -> Any:
    import zarr  # imported late: help and plans do without it

    # Empty chunks are written too, so that a chunk without a file is a lost one.
    with zarr.config.set({"array.write_empty_chunks": True}):
        return group[name]


def _create(path: pathlib.Path, grid: Grid, dataset: Dataset, manifest: str) -> ledger.Ledger:
    """Creates a store in which all latents and errors are missing (NaN), and returns its ledger."""
    import numcodecs  # imported late: help and plans do without these
    import xarray as xr

    checked = {"filters": [numcodecs.CRC32()]}  # checksum of the bytes before compression
    whole = {**checked, "write_empty_chunks": True}
    probe = slice(0, grid.probe_samples)
    root = xr.Dataset(
        {"inputs": (("sample", "feature"), dataset.train[probe], {"long_name": "probe inputs"})},
        attrs={
            "title": "Latents of a grid of autoencoders, recorded as training went",
            "manifest": manifest,
            "batch_size": grid.batch_size,
            ledger.MARK: ledger.FILE,
        },
    )
    if dataset.train_labels is not None:
        root["labels"] = ("sample", dataset.train_labels[probe], {"long_name": "probe labels"})
    steps_per_epoch = len(dataset.train) // grid.batch_size
    tree = {"/": root}
    encoding = {"/": dict.fromkeys(root.variables, whole)}
    tables = {}
    for group in groups(grid, dataset.shape):
        empty = _empty_group(group, root.sizes["sample"], steps_per_epoch)
        tree[f"/{group.name}"] = empty
        chunks = tuple(
            size if dim in ("seed", "sample", "vector", "unit") else 1
            for dim, size in empty["pre"].sizes.items()
        )
        encoding[f"/{group.name}"] = {
            **dict.fromkeys(empty.variables, whole),
            **{name: {**checked, "chunks": chunks} for name in LATENTS},
        }
        tables[group.name] = ledger.unsaved(empty[SAVED].shape, (*LATENTS, *SCALARS))
    xr.DataTree.from_dict(tree).to_zarr(path, zarr_format=2, encoding=encoding)
    made = ledger.Ledger(_written_once(path), tables)
    ledger.write(path, made)
    return made


def _written_once(path: pathlib.Path) -> dict[str, list[str]]:
    """Returns the digests of all files of a new store except the chunks that training writes."""
    changing = {*LATENTS, *SCALARS, SAVED}
    return {
        file.relative_to(path).as_posix(): [ledger.sha256(file)]
        for file in sorted(path.rglob("*"))
        if file.is_file() and (file.name.startswith(".") or file.parent.name not in changing)
    }


def _empty_group(group: Group, samples: int, steps_per_epoch: int) -> "xr.Dataset":
    """Returns one group with all variables and axes, in which all values are missing."""
    import xarray as xr  # imported late: help and plans do without it

    grid = group.grid
    coords = _coordinates(grid, steps_per_epoch)
    shape = tuple(len(coords[dim][1]) for dim in run_dims(grid))
    # A broadcast scalar takes no memory, so that the store is created without holding it in memory.
    missing = np.broadcast_to(np.float32(np.nan), (*shape, samples * group.vectors, group.units))
    variables = {
        "pre": (missing, f"{group.layer} before its activation"),
        "post": (missing, f"{group.layer} after its activation"),
        "train_mse": (missing[..., 0, 0], "training MSE, per feature"),
        "validation_mse": (missing[..., 0, 0], "validation MSE, per feature"),
        "test_mse": (missing[..., 0, 0], "held-out MSE, per feature"),
        "diverged_step": (
            np.full(shape, NEVER, np.int32),
            f"first step whose loss was not finite, {NEVER} for none",
        ),
    }
    # With several vectors per sample the axis is longer than that of the samples.
    dims = (*run_dims(grid), "sample" if group.vectors == 1 else "vector", "unit")
    empty = xr.Dataset(
        {
            name: (dims[: values.ndim], values, {"long_name": text})
            for name, (values, text) in variables.items()
        },
        coords=coords,
        attrs=_attributes(group),
    )
    return empty.assign(
        saved=(
            run_dims(grid),
            np.zeros(shape, bool),
            {"long_name": "snapshot of this run is complete"},
        )
    )


def _attributes(group: Group) -> dict[str, Any]:
    (architecture,), (latent_width,) = group.grid.architectures, group.grid.latent_widths
    respects = architectures.get(architecture).respects_rotations
    return {
        "layer": group.layer,
        "architecture": architecture,
        "latent_width": latent_width,
        "vectors_per_sample": group.vectors,
        "architecture_respects_rotations": int(respects),
    }


def _coordinates(grid: Grid, steps_per_epoch: int) -> dict[str, tuple[Any, Any]]:
    declared = axes_of(STATIC, TRACED).items()
    known = {axis.coordinate: list(getattr(grid, name)) for name, axis in declared}
    known["rate"] = list(range(grid.rate_count))  # an optimiser's own rates differ
    known["step"] = [epoch * steps_per_epoch for epoch in grid.snapshot_epochs]
    axes: dict[str, list[Any]] = {dim: known[dim] for dim in run_dims(grid)}
    rates = np.array([grid.rates(name) for name in grid.optimizers])
    # Optimisers and initialisers can prefer a basis too (docs/method.md §11).
    rotation = {
        "optimizer": [optimizers.get(name).respects_rotations for name in grid.optimizers],
        "initializer": [
            functional.get_initializer(name).respects_rotations for name in grid.initializers
        ],
    }
    facts = [interpolated.get(name) for name in grid.activations]
    return {
        **{dim: (dim, values) for dim, values in axes.items()},
        "activation_isotropic": ("activation", [one.isotropic for one in facts]),
        "activation_group": ("activation", [one.group for one in facts]),
        "activation_basis": ("activation", [one.basis for one in facts]),
        "activation_partner": ("activation", [one.partner or "" for one in facts]),
        "epoch": ("step", list(grid.snapshot_epochs)),
        "learning_rate": (("optimizer", "rate"), rates),
        **{f"{dim}_respects_rotations": (dim, values) for dim, values in rotation.items()},
    }


def write_snapshot(
    path: pathlib.Path,
    wanted: tuple[Group, ...],
    part: Grid,
    epoch: int,
    observations: Mapping[str, Observation],
) -> None:
    """Writes one snapshot of a part's runs, and marks it as saved once it is complete.

    Processes share the work. Each writes the latents of some cells, and no two write the same file.

    Args:
      path: Path of the store.
      wanted: Groups of the store.
      part: Grid of the runs, a part of the whole grid.
      epoch: Epoch of the snapshot, one of `grid.snapshot_epochs`.
      observations: NumPy arrays by the names of the part's cells, with a leading axis over the
        cell's runs.
    """
    step = indices(wanted[0].grid.snapshot_epochs, [epoch])[0]
    written = [(group, inside) for group in wanted if (inside := _inside(part, group)) is not None]
    devices.on_main(lambda: _unmark(path, written, step))
    store = _opened(path, mode="r+")
    for group, inside in written:
        pairs = zip(inside.cells, _cell_indices(group.grid, inside), strict=True)
        for cell, index in list(pairs)[jax.process_index() :: jax.process_count()]:
            vectors = _vectors(observations[cell.name], group, inside)
            for name, values in vectors.items():
                _write_chunks(path, store, group, name, (*index, slice(step, step + 1)), values)
    devices.barrier("latents")
    if devices.is_main():
        _mark(path, written, step, observations)


def lengths(
    path: pathlib.Path, stored: Manifest, dataset: Dataset
) -> dict[str, list[tuple[int, float, float]]]:
    """Returns the lengths of the latents before their activations, at the last snapshot of a run.

    Args:
      path: Path of the store.
      stored: Manifest of the run, which is trained to the end.
      dataset: Dataset of the run.

    Returns:
      For the name of each activation, and each latent width: the number of units, and the smallest
      and the largest length. These are the 0.1 % and 99.9 % quantiles of a cell's lengths, without
      those that are 0 or not finite, and the extremes of these over the cells. The list is empty if
      no length is left.

    Raises:
      InputError: A file is missing or damaged.
    """
    kept, store = _ledger(path), _opened(path, mode="r")
    manifest = _stored_manifest(path) or ""
    found: dict[str, list[tuple[int, float, float]]] = {
        name: [] for name in stored.grid.activations
    }
    for group in groups(stored.grid, dataset.shape):
        if group.layer != functional.BOTTLENECK:
            continue
        blocks = _blocks(path, store, group, "pre", kept.groups[group.name], manifest)
        for index in _cell_indices(group.grid, group.grid):
            with _of_the_run(path):
                rows = ledger.checked(blocks, (*index, len(group.grid.snapshot_epochs) - 1))
            name = group.grid.activations[index[CELL_AXES.index("activation")]]
            found[name] += _range(rows.reshape(-1, group.units))
    return {name: _spanned(ranges) for name, ranges in found.items()}


def _range(rows: np.ndarray) -> list[tuple[int, float, float]]:
    """Returns the units and the range of lengths of vectors, or nothing if none has a length."""
    # The root of a sum of float32 squares would overflow and underflow.
    measured = np.linalg.norm(rows.astype(np.float64), axis=1)
    measured = measured[np.isfinite(measured) & (measured > 0)]
    if not len(measured):
        return []
    low, high = np.quantile(measured, [0.001, 0.999]).tolist()
    return [(rows.shape[1], low, high)]


def _spanned(ranges: list[tuple[int, float, float]]) -> list[tuple[int, float, float]]:
    """Returns one range for each number of units."""
    widths = sorted({units for units, _, _ in ranges})
    of_width = {width: [one for one in ranges if one[0] == width] for width in widths}
    return [
        (width, min(low for _, low, _ in ones), max(high for _, _, high in ones))
        for width, ones in of_width.items()
    ]


def _inside(part: Grid, group: Group) -> Grid | None:
    """Returns the grid of a part's runs whose vectors a group holds, or None if there are none."""
    axes: dict[str, Any] = {}
    for axis in ("depths", "widths", *(f"{axis}s" for axis in GROUPED)):
        kept = set(getattr(group.grid, axis))
        axes[axis] = [value for value in getattr(part, axis) if value in kept]
    return dataclasses.replace(part, **axes) if all(axes.values()) else None


def _vectors(observed: Observation, group: Group, part: Grid) -> dict[str, np.ndarray]:
    """Returns the saved vectors of a cell's runs by site, `(*runs, 1, vectors, units)`."""
    vectors = observed.captured.get(group.layer, observed.latents)
    both = {name: np.asarray(getattr(vectors, name), np.float32) for name in LATENTS}
    shape = (*part.run_shape, 1)
    return {name: ledger.canonical(x.reshape(*shape, *x.shape[1:])) for name, x in both.items()}


def _write_chunks(
    path: pathlib.Path, store: Any, group: Group, name: str, index: Any, values: np.ndarray
) -> None:
    """Writes latents into chunks that other runs share, so that the chunks must be readable."""
    try:
        _array(store[group.name], name).oindex[index] = values
    except (OSError, MemoryError):  # not caused by damaged data
        raise
    except Exception as error:
        manifest = _stored_manifest(path) or ""
        blocks = _blocks(path, store, group, name, None, manifest)
        starts = [np.atleast_1d(np.r_[one])[0] for one in index]
        with _of_the_run(path):
            raise ledger.damaged_chunk(blocks, starts, error) from error


def _unmark(path: pathlib.Path, written: list[tuple[Group, Grid]], step: int) -> None:
    """Removes the mark that a snapshot is saved, before the snapshot is written again."""
    kept = _ledger(path)
    marks = [
        (kept.groups[group.name][SAVED], np.ix_(*_indices(group.grid, inside), [step]))
        for group, inside in written
    ]
    if any(saved[at].any() for saved, at in marks):
        for saved, at in marks:
            saved[at] = False
        ledger.write(path, kept)
        _write_numbers(path, [group for group, _ in written], kept)


def _mark(
    path: pathlib.Path,
    written: list[tuple[Group, Grid]],
    step: int,
    observations: Mapping[str, Observation],
) -> None:
    """Writes a snapshot's numbers and checksums, and marks it as saved."""
    kept = _ledger(path)
    for group, inside in written:
        table, index = kept.groups[group.name], _indices(group.grid, inside)
        at, shape = np.ix_(*index, [step]), [*map(len, index), 1]
        cells = [observations[cell.name] for cell in inside.cells]
        for name in SCALARS:
            values = ledger.canonical(np.stack([getattr(one, name) for one in cells]))
            number = values.astype(_dtype(name), copy=False)
            table[name][at] = ledger.checksums(number, number.ndim).reshape(shape)
        rows = [_vectors(one, group, inside) for one in cells]
        for name in LATENTS:
            marks = [ledger.checksums(row[name], row[name].ndim - 2) for row in rows]
            table[name][at] = np.stack(marks).reshape(shape)
        table[SAVED][at] = True
    _write_numbers(path, [group for group, _ in written], kept)
    ledger.write(path, kept)


def _ledger(path: pathlib.Path) -> ledger.Ledger:
    with _of_the_run(path):
        kept = ledger.read(path)
        if kept is None:
            raise InputError("path", path / ledger.FILE, f"is missing; {_OVERWRITE}")
    return kept


def _dtype(name: str) -> Any:
    return np.int32 if name == "diverged_step" else np.float32


def _numbers(table: ledger.Table, name: str) -> np.ndarray:
    """Returns a variable of single numbers for all runs and snapshots, from the ledger."""
    if name == SAVED:
        return table[SAVED]
    missing = _dtype(name)(NEVER if name == "diverged_step" else np.nan)
    return np.where(table[SAVED], table[name].view(_dtype(name)), missing)


def _write_numbers(path: pathlib.Path, wanted: Sequence[Group], kept: ledger.Ledger) -> None:
    """Writes all single numbers from the ledger, and the marks of saved snapshots last."""
    store = _opened(path, mode="r+")
    for name, group in itertools.product((*SCALARS, SAVED), wanted):
        _array(store[group.name], name)[...] = _numbers(kept.groups[group.name], name)


def _restore_numbers(path: pathlib.Path, kept: ledger.Ledger, wanted: Sequence[Group]) -> None:
    """Restores lost or damaged single numbers from the ledger."""
    store = _opened(path, mode="r+")
    for name, group in itertools.product((*SCALARS, SAVED), wanted):
        array, numbers = _array(store[group.name], name), _numbers(kept.groups[group.name], name)
        if not _holds(array, numbers):
            array[...] = numbers


def _holds(array: Any, numbers: np.ndarray) -> bool:
    try:
        return np.asarray(array[...]).tobytes() == numbers.tobytes()
    except Exception:  # decoders raise many types of errors for damaged bytes
        return False
