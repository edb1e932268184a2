"""The ledger of `latents.zarr`, which holds checksums of all its files and numbers.

Bits flip, files are lost or exchanged, and zarr reads a lost chunk as a fill value. The ledger
detects this. It is one sealed file in the store, `checksums.json`, and contains

* the SHA-256 of every file that is written once (metadata, coordinates, probe inputs and labels);
* for every run and snapshot, whether it is saved, and a checksum of each of its variables. For
  vectors it is the CRC-32 of their bytes, and for a single number its own 32 bits.

The checksums are of values and not of chunks, because runs that are trained at different times
share chunks. If a process is killed between writing a chunk and writing the ledger, all values
that the ledger covers are unchanged. The ledger is replaced atomically, and a snapshot counts as
saved from that moment.
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
# Attribute of the store that names the ledger. Stores of before there were ledgers lack it.
MARK = "checksums"
METADATA = ".zmetadata"
FORMAT = 1
SAVED = "saved"
LARGEST = 2**31  # most bytes of a ledger, enough for a hundred million runs and snapshots
LARGEST_METADATA = 2**26  # most bytes of one of zarr's metadata files
ANEW = "put it back from a copy, or train the folder anew with overwrite"
UNCHECKED = "xarray.open_datatree opens what is left, unchecked"

Key = tuple[Any, ...]
Table = dict[str, np.ndarray]


class Ledger(NamedTuple):
    """Checksums of everything that a store should contain.

    Attributes:
      files: SHA-256 of each file that is written once, by its path in the store. For a file that is
        being replaced, the digests of the old and of the new one are listed.
      groups: Tables by the names of groups. A table's arrays are over the axes of the group's runs
        and `step`: `saved`, and for each variable its checksums, which are valid where `saved` is
        True.
    """

    files: dict[str, list[str]]
    groups: dict[str, Table]


def unsaved(shape: tuple[int, ...], variables: Sequence[str]) -> Table:
    """Returns the table of a group without a saved snapshot.

    Args:
      shape: Lengths of the axes of the group's runs, and of `step`.
      variables: Names of the variables.
    """
    return {SAVED: np.zeros(shape, bool), **{name: np.zeros(shape, "<u4") for name in variables}}


def checksums(values: np.ndarray, leading: int) -> np.ndarray:
    """Returns the checksum of every run and snapshot.

    Args:
      values: Values of a variable, of four bytes each.
      leading: Number of leading axes that are over runs and snapshots. If all axes are, the
        checksum of a number consists of its bits.

    Returns:
      The checksums, uint32, over the leading axes.

    Example:
      >>> checksums(np.zeros((2, 3, 4), np.float32), 2).shape
      (2, 3)
    """
    values = np.ascontiguousarray(values).reshape(
        values.shape
    )  # ascontiguousarray turns a scalar into a vector
    if leading == values.ndim:
        return values.view("<u4")
    blocks = values.reshape(-1, *values.shape[leading:])
    found = [zlib.crc32(block) for block in blocks]
    return np.array(found, "<u4").reshape(values.shape[:leading])


def span(index: Any) -> Any:
    """Returns consecutive indices as a slice, with which whole chunks are read and written at once.

    Args:
      index: Indices along one axis. A single number, a slice or other indices are returned
        unchanged.

    Example:
      >>> span([2, 3]), span([3, 2])
      (slice(2, 4, None), [3, 2])
    """
    if np.ndim(index) == 0 or len(index) == 0:
        return index
    first, after = int(index[0]), int(index[0]) + len(index)
    return slice(first, after) if np.array_equal(index, np.arange(first, after)) else index


def canonical(values: np.ndarray) -> np.ndarray:
    """Replaces every NaN by the one bit pattern that NumPy and xarray write.

    Args:
      values: Floats, or integers, which are returned unchanged.
    """
    if not np.issubdtype(values.dtype, np.floating):
        return values
    missing = np.isnan(values)
    return np.where(missing, values.dtype.type(np.nan), values) if missing.any() else values


# ------------------------------------------------------------------------------- the file


def write(store: pathlib.Path, ledger: Ledger) -> None:
    """Writes a ledger into a store, and replaces the earlier one atomically.

    Args:
      store: Folder of the store.
      ledger: The ledger.
    """
    groups = {
        name: {"shape": list(table[SAVED].shape), **{key: _hex(x) for key, x in table.items()}}
        for name, table in ledger.groups.items()
    }
    entries = sealed({"format": FORMAT, "files": ledger.files, "groups": groups})
    write_text(store / FILE, json.dumps(entries, separators=(",", ":")))


def read(store: pathlib.Path) -> Ledger | None:
    """Returns a store's ledger, or None for a store of before there were ledgers.

    Args:
      store: Folder of the store.

    Raises:
      InputError: The ledger is damaged or missing.
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
        raise _damage(store, FILE, f"is of format {entries.get('format')}", "update ppp_jax")
    try:
        return _parsed(entries)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        message = shortened(printable(f"{type(error).__name__} {error}"))
        raise _damage(store, FILE, f"is not a ledger ({message})", f"{ANEW}; {UNCHECKED}") from None


def _parsed(entries: dict[str, Any]) -> Ledger:
    """Converts the entries of a ledger's file, all of which are checked.

    Raises:
      KeyError, TypeError, ValueError, AttributeError: The entries are not those of a ledger.
    """
    if entries.keys() != {"format", "files", "groups", SEAL}:
        raise KeyError(", ".join(sorted(entries.keys() ^ {"format", "files", "groups", SEAL})))
    for name, digests in entries["files"].items():
        inside = pathlib.PurePosixPath(name)
        os.fsencode(name)  # raises ValueError for names that no file system can represent
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
        raise ValueError(f"{shape} is not a shape")
    size = math.prod(shape)
    if len(raw) != (-(-size // 8) if truths else 4 * size):  # checked before an array is allocated
        raise ValueError(f"{len(raw)} bytes are not those of {shape}")
    values = np.unpackbits(raw, count=size).astype(bool) if truths else raw.view("<u4").copy()
    return values.reshape(shape)


def _has_mark(store: pathlib.Path) -> bool:
    """Returns whether one of the two files with the store's attributes names a ledger."""
    texts = [store / name for name in (".zattrs", ".zmetadata")]
    readable = [path for path in texts if regular.problem(path, most=LARGEST_METADATA) is None]
    return any(f'"{MARK}"'.encode() in path.read_bytes() for path in readable if path.exists())


# --------------------------------------------------------------------- files written once


def sha256(path: pathlib.Path) -> str:
    """Returns the SHA-256 of a file, in hexadecimal.

    Args:
      path: Path of the file.

    Raises:
      OSError: The path is not a regular file, or cannot be read.
    """
    wrong = regular.problem(path)
    if wrong is not None:
        raise OSError(wrong)
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_entries(store: pathlib.Path) -> None:
    """Checks that all files of a store are regular files of plausible size.

    Only the small files that state the size of chunks are opened.

    Args:
      store: Folder of the store.

    Raises:
      InputError: The store contains a pipe, a device, a folder among chunks, or a file that is too
        large, which the message names.
    """
    limit = functools.lru_cache(maxsize=None)(_largest_chunk)  # computed once per array

    def most(path: pathlib.Path) -> int | None:
        if path.name.startswith("."):
            return LARGEST_METADATA
        return LARGEST if path == store / FILE else limit(path.parent)

    for name, wrong in regular.odd(store, most=most, leaf=".zarray"):
        raise _damage(store, name, wrong, "remove it, or put back the original file")


def _largest_chunk(folder: pathlib.Path) -> int | None:
    """Returns the most bytes that a chunk of an array can have, or None if it is unknown."""
    try:
        entries = json.loads(regular.read(folder / ".zarray", most=LARGEST_METADATA))
        size, dtype = math.prod(map(int, entries["chunks"])), np.dtype(entries["dtype"])
    except (
        OSError,
        ValueError,
        KeyError,
        TypeError,
        RecursionError,
    ):  # damage of this file is reported by `check_files`
        return None
    # Incompressible data take a little more than their size. Texts can have any length.
    return None if dtype.hasobject else 2 * size * dtype.itemsize + 2**16


def check_files(store: pathlib.Path, ledger: Ledger) -> None:
    """Checks that the files which are written once have not changed.

    The ledger must also agree with the store's metadata. A ledger that lacks files, groups or axes
    was not written by a run, even if its seal is intact.

    Args:
      store: Folder of the store.
      ledger: The store's ledger.

    Raises:
      InputError: A file is damaged or missing, or the ledger does not belong to this store.
    """
    for name, wanted in ledger.files.items():
        try:
            intact = sha256(store / name) in wanted
        except (FileNotFoundError, NotADirectoryError):
            raise _damage(store, name, "is missing", f"{ANEW}; {UNCHECKED}") from None
        except OSError as error:
            what = f"cannot be read ({error.strerror or error})"
            raise _damage(store, name, what, f"correct the cause, or {ANEW}") from None
        if not intact:
            raise _damage(store, name, "is damaged (not what was written)", f"{ANEW}; {UNCHECKED}")
    try:
        entries = json.loads(regular.read(store / METADATA, most=LARGEST_METADATA))
        wrong = _difference(ledger, entries["metadata"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        message = shortened(printable(f"{type(error).__name__} {error}"))
        raise _damage(store, METADATA, f"is damaged ({message})", f"{ANEW}; {UNCHECKED}") from None
    if wrong is not None:
        what = f"is not the ledger of this store ({wrong} is missing or wrong)"
        raise _damage(store, FILE, what, f"{ANEW}; {UNCHECKED}")


def _difference(ledger: Ledger, metadata: Mapping[str, Any]) -> str | None:
    """Returns the first file, group or variable in which a ledger differs from a store's metadata.

    Raises:
      KeyError, TypeError, ValueError, AttributeError: The metadata are not those of a store.
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
    """Yields the chunks of arrays that training does not write: coordinates and the probe."""
    for name in arrays:
        group, _, variable = name.rpartition("/")
        if variable not in changing.get(group, {}):
            entries = metadata[f"{name}/.zarray"]
            pairs = zip(entries["shape"], entries["chunks"], strict=True)
            counts = [range(-(-length // size)) for length, size in pairs]
            for index in _indices(counts):
                yield f"{name}/{'.'.join(map(str, index)) or '0'}"


def _indices(counts: Sequence[range]) -> Iterator[tuple[int, ...]]:
    """Yields the elements of `itertools.product(*counts)` without holding all ranges in memory."""
    if not counts:
        yield ()
        return
    for first in counts[0]:
        yield from ((first, *rest) for rest in _indices(counts[1:]))


def _damage(store: pathlib.Path, name: str, what: str, remedy: str) -> InputError:
    return InputError("path", store / name, f"{what}; {remedy}")


# --------------------------------------------------------------------- runs and snapshots


class Blocks(NamedTuple):
    """One variable of a group, whose runs and snapshots can be read and checked.

    Attributes:
      store: Folder of the store.
      name: Path of the variable in the store, `group/variable`.
      chunks: Lengths of a chunk along all axes.
      labels: Labels of the leading axes by the axes' names, and `architecture` and `latent_width`
        of the group.
      axes: Names of the leading axes, which are over runs and snapshots.
      table: Table of the group; None for a store of before there were ledgers.
      parts: Configurations of the run's parts, in their order.
      read: Function that reads values at a key, which has a number, a slice or an array for each
        leading axis.
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
    """Reads values of a variable, and checks that they are those which were written.

    Args:
      blocks: The variable.
      key: A number, a slice or an array for each leading axis.

    Returns:
      The values, as `blocks.read(key)` returns them.

    Raises:
      InputError: A file is missing or damaged. The message names the file and the remedy.
    """
    sizes = [len(blocks.labels[axis]) for axis in blocks.axes]
    indices = [np.arange(size)[one] for size, one in zip(sizes, key, strict=True)]
    try:
        values = blocks.read(key)
    except MemoryError:
        raise
    except Exception as error:  # decoders raise many types of errors for damaged bytes
        raise _unreadable(blocks, indices, error) from error
    if blocks.table is None:
        return values
    at = np.ix_(*(np.atleast_1d(index) for index in indices))
    wanted, saved = (blocks.table[name][at] for name in (blocks.name.split("/")[-1], SAVED))
    leading = sum(np.ndim(index) for index in indices)
    found = checksums(values, leading).reshape(wanted.shape)
    wrong = np.argwhere(saved & (found != wanted))
    if len(wrong):
        pairs = zip(indices, wrong[0], strict=True)
        raise damaged_chunk(blocks, [int(np.atleast_1d(p)[i]) for p, i in pairs], None)
    return values


def _unreadable(blocks: Blocks, indices: list[Any], error: Exception) -> InputError:
    """Returns the error that names the unreadable chunk among those that were to be read."""
    chunks = [
        sorted({int(i) // size * size for i in np.atleast_1d(index)})
        for index, size in zip(indices, blocks.chunks[: len(indices)], strict=True)
    ]
    for start in itertools.product(*chunks):
        try:
            blocks.read(start)
        except Exception as reason:
            return damaged_chunk(blocks, list(start), reason)
    why = " ".join(str(error).split())
    return InputError("path", blocks.store / blocks.name, f"cannot be read ({why})")


def damaged_chunk(blocks: Blocks, index: Sequence[int], reason: Exception | None) -> InputError:
    """Returns the error that names a damaged chunk, and tells how to train its runs again.

    Args:
      blocks: The variable.
      index: Indices, along the leading axes, of a run and a snapshot in the chunk.
      reason: Exception raised when the chunk was read; None if it was read and its checksum is
        wrong.
    """
    starts = [*index, *[0] * (len(blocks.chunks) - len(index))]
    chunk = [i // size for i, size in zip(starts, blocks.chunks, strict=True)]
    file = f"{blocks.name}/{'.'.join(map(str, chunk))}"
    why = " ".join(str(reason).split()) if reason else "not what was written"
    exists = (blocks.store / file).exists()
    what = f"is damaged ({why})" if exists else "is missing"
    return _damage(blocks.store, file, what, _remedy(blocks, chunk, exists))


def _remedy(blocks: Blocks, chunk: list[int], exists: bool) -> str:
    single = len(blocks.chunks) == len(blocks.axes)
    if single and blocks.table is not None:
        return f"run the command that trained it again, which restores it from {FILE}"
    inside = {axis: set(labels) for axis, labels in blocks.labels.items()}
    for axis, i, size in zip(blocks.axes, chunk, blocks.chunks, strict=False):
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
    gone = " and ".join([*(["this file"] if exists else []), *parts])
    return (
        f"put it back from a copy, or train its runs again: remove {gone} from the run folder "
        "and run the command that trained it"
    )
