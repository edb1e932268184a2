"""The ledger of `latents.zarr`: what every file and every number in it was when it was written.

Bits flip, files get lost or mixed up, and zarr reads a lost chunk as a fill value. One file in the
store, `checksums.json`, itself sealed, knows better:

* of the files that are written once (metadata, coordinates, probe inputs and labels) the SHA-256;
* of every run and snapshot whether it is saved, and a checksum of each of its variables: of
  vectors the CRC-32 of their bytes, of a single number its own 32 bits.

Checksums are of values, not of chunks: runs trained at different times share chunks, and a process
killed between writing a chunk and writing the ledger has changed nothing that the ledger vouches
for. The ledger is replaced in one move, and a snapshot counts from that moment.
"""

import functools
import hashlib
import itertools
import json
import math
import os
import pathlib
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ppp_jax.errors import InputError, printable, shortened
from ppp_jax.files import regular
from ppp_jax.files.atomic import write_text
from ppp_jax.files.integrity import SEAL, is_intact, sealed

FILE = "checksums.json"
MARK = "checksums"  # the store's attribute that names the file: without it, a store of before
METADATA = ".zmetadata"
FORMAT = 1
SAVED = "saved"
LARGEST = 2**31  # bytes of a ledger, of a hundred million runs and snapshots
LARGEST_METADATA = 2**26  # bytes of one of zarr's files
ANEW = "put it back from a copy, or train the folder anew with overwrite"
UNCHECKED = "xarray.open_datatree opens what is left, unchecked"

Key = tuple[Any, ...]
Table = dict[str, np.ndarray]


class Ledger(NamedTuple):
    """What a store should hold.

    Attributes:
      files: SHA-256 of each file that is written once, by its path in the store; of one that is
        being replaced, the old one's and the new one's.
      groups: of each group, over the axes of its runs and `step`: `saved`, and for each variable
        the checksums (`checksums`), which count where `saved` is set.
    """

    files: dict[str, list[str]]
    groups: dict[str, Table]


def unsaved(shape: tuple[int, ...], variables: Sequence[str]) -> Table:
    """Returns the table of a group of which nothing is saved yet.

    Args:
      shape: lengths of the axes of its runs, and of `step`.
      variables: names.
    """
    return {SAVED: np.zeros(shape, bool), **{name: np.zeros(shape, "<u4") for name in variables}}


def checksums(values: np.ndarray, leading: int) -> np.ndarray:
    """Returns the checksum of every run and snapshot.

    Args:
      values: of four bytes each.
      leading: how many axes are of runs and snapshots; if all are, the checksum of a number is the
        number's bits.

    Example:
      >>> checksums(np.zeros((2, 3, 4), np.float32), 2).shape
      (2, 3)
    """
    values = np.ascontiguousarray(values).reshape(values.shape)  # which makes a vector of a scalar
    if leading == values.ndim:
        return values.view("<u4")
    blocks = values.reshape(-1, *values.shape[leading:])
    found = [zlib.crc32(block) for block in blocks]
    return np.array(found, "<u4").reshape(values.shape[:leading])


def span(places: Any) -> Any:
    """Returns neighbouring places as a slice: whole chunks are then read, and written, at once.

    Args:
      places: along one axis: a number or slice, which is returned as it is, or several numbers.

    Example:
      >>> span([2, 3]), span([3, 2])
      (slice(2, 4, None), [3, 2])
    """
    if np.ndim(places) == 0 or len(places) == 0:
        return places
    first, after = int(places[0]), int(places[0]) + len(places)
    return slice(first, after) if np.array_equal(places, np.arange(first, after)) else places


def canonical(values: np.ndarray) -> np.ndarray:
    """Returns numbers all of whose NaNs are the one that NumPy and xarray write.

    Args:
      values: floats, or integers, which are returned as they are.
    """
    if not np.issubdtype(values.dtype, np.floating):
        return values
    missing = np.isnan(values)
    return np.where(missing, values.dtype.type(np.nan), values) if missing.any() else values


# ------------------------------------------------------------------------------- the file


def write(store: pathlib.Path, ledger: Ledger) -> None:
    """Puts a ledger into a store, in place of the one there.

    Args:
      store: its folder.
      ledger: what it holds.
    """
    groups = {
        name: {"shape": list(table[SAVED].shape), **{key: _hex(x) for key, x in table.items()}}
        for name, table in ledger.groups.items()
    }
    entries = sealed({"format": FORMAT, "files": ledger.files, "groups": groups})
    write_text(store / FILE, json.dumps(entries, separators=(",", ":")))


def read(store: pathlib.Path) -> Ledger | None:
    """Returns a store's ledger, or None for a store of before there were any.

    Args:
      store: its folder.

    Raises:
      InputError: the ledger is damaged or lost.
    """
    try:
        entries = json.loads(regular.read(store / FILE, most=LARGEST))
    except FileNotFoundError:
        if _has_mark(store):
            raise _damage(store, FILE, "is missing", f"{ANEW}; {UNCHECKED}") from None
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise _damage(store, FILE, f"is damaged ({error})", f"{ANEW}; {UNCHECKED}") from None
    if not is_intact(entries):
        raise _damage(store, FILE, "is damaged (its seal is broken)", f"{ANEW}; {UNCHECKED}")
    if type(entries.get("format")) is not int or entries["format"] != FORMAT:
        raise _damage(store, FILE, f"is of format {entries.get('format')}", "update this package")
    try:
        return _parsed(entries)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        told = shortened(printable(f"{type(error).__name__} {error}"))
        raise _damage(store, FILE, f"is no ledger ({told})", f"{ANEW}; {UNCHECKED}") from None


def _parsed(entries: dict[str, Any]) -> Ledger:
    """Returns what a file's entries say, all of them looked at.

    Raises:
      KeyError, TypeError, ValueError, AttributeError: no run wrote them.
    """
    if entries.keys() != {"format", "files", "groups", SEAL}:
        raise KeyError(", ".join(sorted(entries.keys() ^ {"format", "files", "groups", SEAL})))
    for name, digests in entries["files"].items():
        inside = pathlib.PurePosixPath(name)
        os.fsencode(name)  # what no file system can hold is a ValueError
        if inside.is_absolute() or ".." in inside.parts or not inside.parts or "\0" in name:
            raise ValueError(f"{name!r} is not in the store")
        if not isinstance(digests, list) or not all(isinstance(one, str) for one in digests):
            raise TypeError(f"{name} has no digests")
    groups = {
        name: {
            key: _unhex(text, table["shape"], key == SAVED)
            for key, text in table.items()
            if key != "shape"
        }
        for name, table in entries["groups"].items()
    }
    if any(SAVED not in table for table in groups.values()):
        raise KeyError(SAVED)
    return Ledger(entries["files"], groups)


def _hex(values: np.ndarray) -> str:
    return (np.packbits(values) if values.dtype == bool else values.astype("<u4")).tobytes().hex()


def _unhex(text: str, shape: list[int], truths: bool) -> np.ndarray:
    raw = np.frombuffer(bytes.fromhex(text), np.uint8)
    if not all(type(length) is int and length >= 0 for length in shape):
        raise ValueError(f"{shape} is no shape")
    size = math.prod(shape)
    if len(raw) != (-(-size // 8) if truths else 4 * size):  # before anything of it is allocated
        raise ValueError(f"{len(raw)} bytes are not those of {shape}")
    values = np.unpackbits(raw, count=size).astype(bool) if truths else raw.view("<u4").copy()
    return values.reshape(shape)


def _has_mark(store: pathlib.Path) -> bool:
    """Returns whether either of the two files with the store's attributes says it has a ledger."""
    texts = [store / name for name in (".zattrs", ".zmetadata")]
    there = [path for path in texts if regular.problem(path, most=LARGEST_METADATA) is None]
    return any(f'"{MARK}"'.encode() in path.read_bytes() for path in there if path.exists())


# --------------------------------------------------------------------- files written once


def sha256(path: pathlib.Path) -> str:
    """Returns the SHA-256 of a file, in hexadecimal.

    Args:
      path: the file.
    """
    wrong = regular.problem(path)
    if wrong is not None:
        raise OSError(wrong)
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_entries(store: pathlib.Path) -> None:
    """Refuses a store in which something else stands in the place of a file, or a larger file.

    Nothing is opened but the small files that say how large a chunk is.

    Args:
      store: its folder.

    Raises:
      InputError: naming a pipe, a device, a folder among chunks, or a file that is too large.
    """
    limit = functools.lru_cache(maxsize=None)(_largest_chunk)  # asked once per array

    def most(path: pathlib.Path) -> int | None:
        if path.name.startswith("."):
            return LARGEST_METADATA
        return LARGEST if path == store / FILE else limit(path.parent)

    for name, wrong in regular.odd(store, most=most, leaf=".zarray"):
        raise _damage(store, name, wrong, "remove it, or put back the file that was there")


def _largest_chunk(folder: pathlib.Path) -> int | None:
    """Returns how many bytes a chunk of an array can have; None where nothing tells."""
    try:
        entries = json.loads(regular.read(folder / ".zarray", most=LARGEST_METADATA))
        size, dtype = math.prod(map(int, entries["chunks"])), np.dtype(entries["dtype"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):  # found out elsewhere
        return None
    # What cannot be compressed takes a little more; texts have any length.
    return None if dtype.hasobject else 2 * size * dtype.itemsize + 2**16


def check_files(store: pathlib.Path, ledger: Ledger) -> None:
    """Refuses a store in which one of the files that are written once has changed.

    The ledger is held against the store too: one that names less, or groups and axes that are not
    there, was never written by a run, whatever its seal says.

    Args:
      store: its folder.
      ledger: what it should hold.

    Raises:
      InputError: one is damaged or missing, or the ledger is not of this store.
    """
    for name, wanted in ledger.files.items():
        try:
            intact = sha256(store / name) in wanted
        except (FileNotFoundError, NotADirectoryError):
            raise _damage(store, name, "is missing", f"{ANEW}; {UNCHECKED}") from None
        except OSError as error:
            what = f"cannot be read ({error.strerror or error})"
            raise _damage(store, name, what, f"mend that, or {ANEW}") from None
        if not intact:
            raise _damage(store, name, "is damaged (not what was written)", f"{ANEW}; {UNCHECKED}")
    try:
        entries = json.loads(regular.read(store / METADATA, most=LARGEST_METADATA))
        wrong = _difference(ledger, entries["metadata"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        told = shortened(printable(f"{type(error).__name__} {error}"))
        raise _damage(store, METADATA, f"is damaged ({told})", f"{ANEW}; {UNCHECKED}") from None
    if wrong is not None:
        what = f"is no ledger of this store (it lacks, or has wrongly, {wrong})"
        raise _damage(store, FILE, what, f"{ANEW}; {UNCHECKED}")


def _difference(ledger: Ledger, metadata: Mapping[str, Any]) -> str | None:
    """Returns the first file, group or variable that is not in a ledger as a store's metadata say.

    Raises:
      KeyError, TypeError, ValueError, AttributeError: no store has such metadata.
    """
    shapes: dict[str, dict[str, tuple[int, ...]]] = {}
    arrays = [key.removesuffix("/.zarray") for key in metadata if key.endswith("/.zarray")]
    dims = {name: metadata[f"{name}/.zattrs"]["_ARRAY_DIMENSIONS"] for name in arrays}
    for group in (name.removesuffix(f"/{SAVED}") for name in arrays if name.endswith(f"/{SAVED}")):
        axes = dims[f"{group}/{SAVED}"]
        shapes[group] = {
            name.rpartition("/")[2]: tuple(metadata[f"{name}/.zarray"]["shape"][: len(axes)])
            for name in arrays
            if name.rpartition("/")[0] == group and dims[name][: len(axes)] == axes
        }
    for name in itertools.chain([METADATA], metadata, _once(metadata, arrays, shapes)):
        if name not in ledger.files:
            return name
    for group in sorted({*shapes, *ledger.groups}):
        found, wanted = ledger.groups.get(group, {}), shapes.get(group, {})
        for name in sorted({*found, *wanted}):
            if name not in found or found[name].shape != wanted.get(name):
                return f"{group}/{name}"
    return None


def _once(
    metadata: Mapping[str, Any], arrays: Sequence[str], changing: Mapping[str, Mapping[str, Any]]
) -> Iterator[str]:
    """Yields the chunks of the arrays that no training writes to: coordinates and the probe."""
    for name in arrays:
        group, _, variable = name.rpartition("/")
        if variable not in changing.get(group, {}):
            entries = metadata[f"{name}/.zarray"]
            pairs = zip(entries["shape"], entries["chunks"], strict=True)
            counts = [range(-(-length // size)) for length, size in pairs]
            for place in _places(counts):
                yield f"{name}/{'.'.join(map(str, place)) or '0'}"


def _places(counts: Sequence[range]) -> Iterator[tuple[int, ...]]:
    """Yields one after the other what `itertools.product` would first hold all of."""
    if not counts:
        yield ()
        return
    for first in counts[0]:
        yield from ((first, *rest) for rest in _places(counts[1:]))


def _damage(store: pathlib.Path, name: str, what: str, remedy: str) -> InputError:
    return InputError("path", store / name, f"{what}; {remedy}")


# --------------------------------------------------------------------- runs and snapshots


class Blocks(NamedTuple):
    """One variable of a group, as its runs and snapshots are read and checked.

    Attributes:
      store: the store's folder.
      name: `group/variable`.
      chunks: lengths of a chunk along all axes.
      labels: of each of the leading axes, and `architecture` and `latent_width` of the group.
      axes: the names of the leading axes, those of runs and snapshots.
      table: the group's, or None for a store of before there were ledgers.
      parts: configurations of the parts of the run, in their order.
      read: reads at a key of the leading axes (numbers, slices or arrays, each axis by itself).
    """

    store: pathlib.Path
    name: str
    chunks: tuple[int, ...]
    labels: Mapping[str, Sequence[Any]]
    axes: tuple[str, ...]
    table: Table | None
    parts: Sequence[Mapping[str, Any]]
    read: Callable[[Key], np.ndarray]


def checked(blocks: Blocks, key: Key) -> np.ndarray:
    """Returns what `blocks.read` reads, once it is what was written.

    Args:
      blocks: the variable.
      key: of the leading axes.

    Raises:
      InputError: a file is missing or damaged; it is named, and so is what trains it again.
    """
    sizes = [len(blocks.labels[axis]) for axis in blocks.axes]
    places = [np.arange(size)[one] for size, one in zip(sizes, key, strict=True)]
    try:
        values = blocks.read(key)
    except MemoryError:
        raise
    except Exception as error:  # whatever a decoder makes of damaged bytes
        raise _unreadable(blocks, places, error) from error
    if blocks.table is None:
        return values
    at = np.ix_(*(np.atleast_1d(place) for place in places))
    wanted, saved = (blocks.table[name][at] for name in (blocks.name.split("/")[-1], SAVED))
    leading = sum(np.ndim(place) for place in places)
    found = checksums(values, leading).reshape(wanted.shape)
    wrong = np.argwhere(saved & (found != wanted))
    if len(wrong):
        pairs = zip(places, wrong[0], strict=True)
        raise damaged_chunk(blocks, [int(np.atleast_1d(p)[i]) for p, i in pairs], None)
    return values


def _unreadable(blocks: Blocks, places: list[Any], error: Exception) -> InputError:
    """Finds the chunk that cannot be read among those that were."""
    chunks = [
        sorted({int(i) // size * size for i in np.atleast_1d(place)})
        for place, size in zip(places, blocks.chunks[: len(places)], strict=True)
    ]
    for place in itertools.product(*chunks):
        try:
            blocks.read(place)
        except Exception as reason:
            return damaged_chunk(blocks, list(place), reason)
    why = " ".join(str(error).split())
    return InputError("path", blocks.store / blocks.name, f"cannot be read ({why})")


def damaged_chunk(blocks: Blocks, place: Sequence[int], reason: Exception | None) -> InputError:
    """Returns the error that names a chunk, and how its runs are trained again.

    Args:
      blocks: the variable.
      place: of a run and a snapshot in the chunk, along the leading axes.
      reason: why it cannot be read; None: it can, but is not what was written.
    """
    starts = [*place, *[0] * (len(blocks.chunks) - len(place))]
    index = [i // size for i, size in zip(starts, blocks.chunks, strict=True)]
    file = f"{blocks.name}/{'.'.join(map(str, index))}"
    why = " ".join(str(reason).split()) if reason else "not what was written"
    there = (blocks.store / file).exists()
    what = f"is damaged ({why})" if there else "is missing"
    return _damage(blocks.store, file, what, _remedy(blocks, index, there))


def _remedy(blocks: Blocks, index: list[int], there: bool) -> str:
    single = len(blocks.chunks) == len(blocks.axes)
    if single and blocks.table is not None:
        return f"the command that trained it, given again, writes it anew from {FILE}"
    inside = {axis: set(labels) for axis, labels in blocks.labels.items()}
    for axis, i, size in zip(blocks.axes, index, blocks.chunks, strict=False):
        inside[axis] = set(blocks.labels[axis][i * size : (i + 1) * size])
    names = (
        "activation",
        "depth",
        "width",
        "optimizer",
        "initializer",
        "architecture",
        "latent_width",
        "seed",
    )
    parts = [
        f"checkpoints/{number}"
        for number, part in enumerate(blocks.parts)
        if all(inside[name].intersection(part[f"{name}s"]) for name in names)
    ]
    if not parts:
        return f"{ANEW}; {UNCHECKED}"
    gone = " and ".join([*(["this file"] if there else []), *parts])
    return (
        f"put it back from a copy, or train its runs again: remove {gone} from the run folder "
        "and give the command that trained it"
    )
