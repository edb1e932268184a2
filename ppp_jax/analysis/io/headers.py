"""Zarr stores, looked at before a byte of their data is decoded.

A store's metadata names the programs that decode it, and one of them, pickle, runs what it reads.
So all metadata is read first, as the plain JSON that it is, and every type and codec in it must be
one of those listed here; the sizes it claims are compared with what is there and with the memory.
"""

import itertools
import json
import math
import operator
import os
import pathlib
import re
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from ppp_jax.analysis.io.unpacking import RATIO, Packing, Shards, find_bomb
from ppp_jax.errors import InputError
from ppp_jax.files import regular
from ppp_jax.files.archives import most_bytes
from ppp_jax.resources import size_text

NAMES = (".zarray", ".zgroup", ".zattrs", ".zmetadata", "zarr.json")
LONGEST = 2**26  # bytes of one file of metadata
MOST_DIMENSIONS = 32
DEEPEST = 100  # folders in folders: groups, and one of chunks for every dimension
# Codecs that turn bytes into bytes or numbers into numbers, and do nothing else. Of numcodecs are
# left out what holds or builds Python objects (pickle, json, msgpack, categorize, vlen-array).
CODECS = frozenset(
    {
        "adler32",
        "astype",
        "bitround",
        "blosc",
        "bz2",
        "crc32",
        "crc32c",
        "delta",
        "fixedscaleoffset",
        "fletcher32",
        "gzip",
        "jenkins_lookup3",
        "lz4",
        "lzma",
        "packbits",
        "quantize",
        "shuffle",
        "zlib",
        "zstd",
    }
)
TEXTS = "vlen-utf8"  # texts of any length: no other codec may build objects
OF_FORMAT_3 = frozenset({"bytes", "transpose", "blosc", "crc32c", "gzip", "zstd", TEXTS})
SHARDS = "sharding_indexed"
MOST_IN_SHARD = 2**18  # chunks, of which each costs time, there or not
AT_END = "crc32c"  # of format 3, the one codec that only adds some bytes behind
SELF_TOLD = (0, 1, 2)  # formats of lzma that tell how they are packed: either, .xz, .lzma
PLAIN = re.compile(
    r"[<>|=]?(b1|[iu][1248]|f(2|4|8|12|16)|c(8|16|24|32)|[SU]\d{1,9}"
    r"|[mM]8(\[\d{0,9}[A-Za-z]{1,2}\])?)|bfloat16"
)
PLAIN_3 = re.compile(r"bool|u?int(2|4|8|16|32|64)|float(16|32|64)|bfloat16|complex(64|128)|string")
NAMED_3 = frozenset(
    {"fixed_length_utf32", "null_terminated_bytes", "numpy.datetime64", "numpy.timedelta64"}
)
TYPE_KEYS = frozenset({"dtype", "astype", "encode_dtype", "decode_dtype"})
TYPED = {
    "astype": ("encode_dtype", "decode_dtype"),
    "delta": ("astype", "dtype"),
    "quantize": ("astype", "dtype"),
    "fixedscaleoffset": ("astype", "dtype"),
}
WIDEST = 2**12  # bytes of one number or text that a codec makes
POINTER = 8  # bytes that a text takes at least


Codecs = list[tuple[str, dict[str, Any]]]  # their names and settings


class Array(NamedTuple):
    """What an array of a store says of itself.

    Attributes:
      name: its place in the store, "" of the store itself.
      shape: of the array.
      chunk: shape of what is decoded at once.
      stored: shape of what one file holds: the chunk, or the shard around it.
      itemsize: bytes of one number.
      widest: bytes that a number takes where codecs make it the widest.
      packing: how its chunks lie in its files.
    """

    name: str
    shape: tuple[int, ...]
    chunk: tuple[int, ...]
    stored: tuple[int, ...]
    itemsize: int
    widest: int
    packing: Packing

    @property
    def size(self) -> int:
        """Bytes that the whole array takes."""
        return math.prod(self.shape) * self.itemsize


def check_entries(path: pathlib.Path, *, field: str = "path") -> None:
    """Refuses a store with anything but files and folders in it, of which reading might never end.

    Args:
      path: its folder.
      field: the setting that names it, for the error's text.

    Raises:
      InputError: naming a pipe, a device, or a link that leads out of it.
    """
    try:
        for _ in _walk(path, os.path.realpath(path)):
            pass
    except StoreError as error:
        raise InputError(field, path, str(error)) from None
    except OSError as error:
        raise InputError(field, path, f"cannot be read ({error.strerror or error})") from None


def check_store(
    path: pathlib.Path, *, field: str = "path", max_bytes: int | None = None
) -> dict[str, Array]:
    """Refuses a zarr store that would run code, ask for more than is there, or lead elsewhere.

    All metadata in it is looked at: of either format, consolidated or not, at every depth.

    Args:
      path: the folder of an array or a group.
      field: the setting that names it, for the errors' text.
      max_bytes: that an array may take in memory; None: as much as is free, and more if its chunks
        are there, for it can be read in parts.

    Returns:
      Its arrays by their places.

    Raises:
      InputError: naming the array, and its type, codec, size or file.
    """
    try:
        found = [
            array
            for folder, names in list(_walk(path, os.path.realpath(path)))
            for name in names
            for array in _described(_json(folder / name), name, _place(folder, path))
        ]
        for array in set(found):  # consolidated metadata may say something else of the same array
            _check_sizes(path, array, max_bytes)
    except StoreError as error:
        raise InputError(field, path, str(error)) from None
    except OSError as error:
        raise InputError(field, path, f"cannot be read ({error.strerror or error})") from None
    return {array.name: array for array in found}


def _place(folder: pathlib.Path, path: pathlib.Path) -> str:
    return "" if folder == path else folder.relative_to(path).as_posix()


class StoreError(ValueError):
    """A store that is not opened; its text says why."""


def _walk(
    folder: pathlib.Path, root: str, depth: int = 0
) -> Iterator[tuple[pathlib.Path, list[str]]]:
    """Yields every folder of a store with the names of the metadata in it."""
    if depth > DEEPEST:
        raise StoreError(f"has folders in folders, more than {DEEPEST} deep; it is no honest store")
    names, below = [], []
    with os.scandir(folder) as entries:
        for entry in entries:
            where = pathlib.Path(os.path.realpath(folder), entry.name)
            if entry.is_symlink():
                _check_link(entry, root)
            if entry.is_dir(follow_symlinks=False):
                below.append(pathlib.Path(entry.path))
            elif not where.is_dir() and regular.problem(where) is not None:
                name = where.relative_to(root).as_posix()
                raise StoreError(f"has an entry that is neither file nor folder, {name}")
            elif entry.name.lower() in NAMES:  # some file systems ignore case
                names.append(entry.name)
    yield folder, names
    for each in below:
        yield from _walk(each, root, depth + 1)


def _check_link(entry: os.DirEntry[str], root: str) -> None:
    """Refuses a link that leads out of a store, or nowhere: to itself, or to what is gone."""
    try:
        # Not `Path.resolve`, which raises RuntimeError of a link to itself before Python 3.13.
        target = pathlib.Path(os.path.realpath(entry.path, strict=True))
    except OSError as error:
        raise StoreError(
            f"has a link that leads nowhere, {entry.name} ({error.strerror}); put back what it "
            "means, or remove it"
        ) from None
    if not target.is_relative_to(root):
        raise StoreError(
            f"has a link that leads out of it, {entry.name}; copy what it means into the store"
        )


def _json(path: pathlib.Path) -> Any:
    size = path.stat().st_size
    if size > LONGEST:
        raise StoreError(
            f"has {size_text(size)} of metadata in {path.name}; "
            f"at most {size_text(LONGEST)} are read"
        )
    try:
        found = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        why = " ".join(str(error).split())
        raise StoreError(f"has damaged metadata, {path.parent.name}/{path.name} ({why})") from None
    if not isinstance(found, dict):
        raise StoreError(f"has damaged metadata, {path.parent.name}/{path.name} (no JSON object)")
    return found


def _described(entries: dict[str, Any], name: str, place: str) -> Iterator[Array]:
    """Yields the arrays that one file of metadata describes, checked."""
    name = name.lower()
    try:
        if name == ".zarray":
            yield _format_2(entries, place)
        elif name == ".zmetadata":
            for key, value in _object(entries.get("metadata", {})).items():
                _check_inside(key)
                folder, _, kind = key.rpartition("/")
                if kind.lower() == ".zarray":
                    yield _format_2(_object(value), _joined(place, folder))
        elif name == "zarr.json":
            yield from _format_3(entries, place)
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        if isinstance(error, StoreError):
            raise
        raise StoreError(
            f"has damaged metadata, {name} of {place or 'the array'} "
            f"({type(error).__name__}: {error})"
        ) from None


def _check_inside(key: str) -> None:
    """Refuses a key of consolidated metadata that is no place below its folder."""
    odd = any(part in ("", ".", "..") for part in key.split("/"))
    if key and (odd or "\\" in key or "\0" in key):  # as other systems write paths
        raise StoreError(
            f"names what is outside of itself, {key!r}, in its metadata; "
            "write the consolidated metadata anew"
        )


def _joined(place: str, name: str) -> str:
    return "/".join(part for part in (place, name) if part)


def _object(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise TypeError("no JSON object")
    return value


def _format_2(entries: dict[str, Any], place: str) -> Array:
    dtype, filters, compressor = (entries.get(k) for k in ("dtype", "filters", "compressor"))
    chain = [*(filters or []), *([compressor] if compressor else [])]
    ids = [_object(codec).get("id") for codec in chain]
    if dtype == "|O":
        if ids[:1] != [TEXTS] or TEXTS in ids[1:]:
            raise _foreign(place, "type |O (Python objects)", f"decoded by {ids}")
        chain, itemsize = chain[1:], POINTER
    else:
        itemsize = _itemsize(dtype, place)
    for codec in chain:
        _check_codec(str(codec.get("id")), codec, CODECS, place)
    names = [f"numcodecs.{name}" if name == AT_END else str(name) for name in ids]
    if dtype == "|O":
        _check_texts(names, place)
    shape, chunk = _lengths(entries["shape"], place), _lengths(entries["chunks"], place)
    steps = list(zip(map(str, ids), [*([{}] if dtype == "|O" else []), *chain], strict=True))
    widest, growth = _widths(steps, itemsize, place)
    texts = math.prod(chunk) if dtype == "|O" else None
    packing = Packing(_packed(names, place), growth, texts, None)
    return _array(Array(place, shape, chunk, chunk, itemsize, widest, packing))


def _check_texts(names: list[str], place: str) -> None:
    """Refuses texts below anything but compression, for their number is compared with a chunk's."""
    names = [name for name in names if name != "transpose"]
    if names[:1] != [TEXTS] or not set(names[1:]) <= {*RATIO, AT_END}:
        raise StoreError(
            f"has texts {place or 'in the array'} by codecs {names}; write them with "
            f"{TEXTS}, and a compressor at most"
        )


def _widths(chain: Codecs, itemsize: int, place: str) -> tuple[int, float]:
    """Returns the bytes of a number where it is the widest, and how far it grows when decoded."""
    if sum(name == "packbits" for name, _ in chain) > 1:
        raise StoreError(f"has {place or 'the array'} by several packbits; write it with one")
    widths, steps = [itemsize], []
    for name, settings in chain:
        if name == "packbits":
            steps.append((8, 8, 1))
        elif name in TYPED:
            stored, read = (settings.get(key) for key in TYPED[name])
            decoded = widths[-1] if read is None else _width(read, place)
            encoded = decoded if stored is None else _width(stored, place)
            between = max(8, decoded) if name == "fixedscaleoffset" else decoded  # it divides
            steps.append((between, decoded, encoded))
            widths += [between, decoded, encoded]
    growth = most = 1.0
    for between, decoded, encoded in reversed(steps):
        most = max(most, growth * between / encoded)
        growth *= decoded / encoded
    return max(widths), most


def _width(dtype: str, place: str) -> int:
    return max(1, (_itemsize if PLAIN.fullmatch(dtype) else _itemsize_3)(dtype, place))


def _packed(names: Iterable[str], place: str) -> str:
    """Returns the one codec of a chain that compresses, the last but for a sum at the end."""
    names = list(names)
    found = [name for name in names if name in RATIO]
    if len(found) > 1:
        raise StoreError(
            f"has {place or 'the array'} compressed {len(found)} times over, by {found}"
        )
    after = names[names.index(found[0]) + 1 :] if found else []
    if after not in ([], [AT_END]):  # what they hide cannot be looked into
        raise StoreError(
            f"has {place or 'the array'} compressed by {found[0]} before codec "
            f"{after[0]}; write it with {found[0]} as the last"
        )
    return found[0] if found else ""


def _itemsize(dtype: Any, place: str) -> int:
    if not isinstance(dtype, str) or not PLAIN.fullmatch(dtype):
        raise _foreign(place, f"type {dtype}", "which is no plain number or text")
    if dtype == "bfloat16":
        return 2
    kind = dtype.lstrip("<>|=").partition("[")[0]  # times have their unit in brackets
    return int(kind[1:]) * (4 if kind[0] == "U" else 1)


def _foreign(place: str, what: str, why: str) -> StoreError:
    return StoreError(
        f"has {place or 'an array'} of {what}, {why}: nothing of it is read, for it may "
        "carry code; keep numbers, with the codecs of numcodecs"
    )


def _check_codec(name: str, settings: dict[str, Any], known: frozenset[str], place: str) -> None:
    if name not in known:
        raise _foreign(place, f"codec {name}", "which is not among those known to decode alone")
    if name == "lzma" and settings.get("format", 1) not in SELF_TOLD:
        raise StoreError(
            f"has {place or 'the array'} in lzma of format {settings['format']}, which does not "
            "tell how it is packed and cannot be looked into; write it in format 1 (xz)"
        )
    for key, value in settings.items():
        plain = isinstance(value, str) and (PLAIN.fullmatch(value) or PLAIN_3.fullmatch(value))
        if key in TYPE_KEYS and value is not None and (not plain or value == "string"):
            raise _foreign(place, f"codec {name}", f"whose {key} is {value}")
        if key in TYPE_KEYS and value is not None and _width(value, place) > WIDEST:
            raise StoreError(
                f"has {place or 'the array'} by codec {name}, whose {key} {value} has "
                f"{size_text(_width(value, place))} a number; at most "
                f"{size_text(WIDEST)} are read"
            )


def _lengths(value: Any, place: str) -> tuple[int, ...]:
    if not isinstance(value, list) or len(value) > MOST_DIMENSIONS:
        raise StoreError(f"states no shape of {place or 'the array'} that an array may have")
    for length in value:
        if type(length) is not int or not 0 <= length < 2**63:
            raise StoreError(f"states the length {length} of {place or 'the array'}")
    return tuple(value)


def _array(found: Array) -> Array:
    """Returns an array whose lengths fit each other."""
    place, shape, chunk, stored = found[:4]
    fits = len(shape) == len(chunk) == len(stored) and 0 not in chunk and 0 not in stored
    if not fits or any(a % b for a, b in zip(stored, chunk, strict=True)):
        raise StoreError(f"states chunks {chunk} of {place or 'the array'} that do not fit {shape}")
    if found.size >= 2**63:
        raise StoreError(f"claims {place or 'the array'} of {size_text(found.size)}")
    return found


def _format_3(entries: dict[str, Any], place: str) -> Iterator[Array]:
    consolidated = entries.get("consolidated_metadata")
    if consolidated is not None:
        for key, value in _object(_object(consolidated).get("metadata", {})).items():
            _check_inside(key)
            yield from _format_3(_object(value), _joined(place, key))
    if entries.get("node_type") == "group":
        return
    if entries.get("storage_transformers"):
        raise _foreign(place, "a storage transformer", "which is not known")
    shape, grid = _lengths(entries["shape"], place), _named(entries["chunk_grid"])
    if grid[0] != "regular":
        raise StoreError(
            f"has {place or 'the array'} in chunks of kind {grid[0]}; write it in regular ones"
        )
    stored = _lengths(grid[1]["chunk_shape"], place)
    itemsize = _itemsize_3(entries["data_type"], place)
    chunk, codecs, shards = _check_chain(entries["codecs"], stored, place, 0)
    names = _own(codecs)
    texts = _named(entries["data_type"])[0] == "string"
    if texts or TEXTS in names:
        _check_texts(names, place)
    steps = [(name.removeprefix("numcodecs."), settings) for name, settings in codecs]
    widest, growth = _widths(steps, itemsize, place)
    packing = Packing(_packed(names, place), growth, math.prod(chunk) if texts else None, shards)
    yield _array(Array(place, shape, chunk, stored, itemsize, widest, packing))


def _own(codecs: Codecs) -> list[str]:
    """Returns the names of codecs of format 3; one that may add bytes in front keeps its prefix."""
    return [
        name if name.endswith(f".{AT_END}") else name.removeprefix("numcodecs.")
        for name, _ in codecs
    ]


def _named(value: Any) -> tuple[str, dict[str, Any]]:
    """Returns name and configuration of an extension point of format 3."""
    if isinstance(value, str):
        return value, {}
    return str(_object(value)["name"]), _object(value.get("configuration") or {})


def _itemsize_3(data_type: Any, place: str) -> int:
    name, settings = _named(data_type)
    if name in NAMED_3:
        size = settings.get("length_bytes", 8)
        if type(size) is not int or not 0 <= size < 2**40:
            raise StoreError(f"states {size} bytes for a text of {place or 'the array'}")
        return size
    if not PLAIN_3.fullmatch(name) or settings:
        raise _foreign(place, f"type {name}", "which is no plain number or text")
    bits = re.search(r"\d+$", name)
    return POINTER if name == "string" else max(1, int(bits[0]) // 8) if bits else 1


def _check_chain(
    codecs: Any, stored: tuple[int, ...], place: str, depth: int
) -> tuple[tuple[int, ...], Codecs, Shards | None]:
    """Checks codecs, also those within shards.

    Returns:
      The shape of what is decoded at once, its own codecs, and how shards hold it, where they do.
    """
    if not isinstance(codecs, list) or depth > 3:
        raise StoreError(f"has no list of codecs for {place or 'the array'}")
    chain = [_named(codec) for codec in codecs]
    found: tuple[tuple[int, ...], Codecs, Shards | None] = stored, chain, None
    for name, settings in chain:
        if name == SHARDS:
            inner = _lengths(settings["chunk_shape"], place)
            index = _check_chain(settings["index_codecs"], inner, place, depth + 1)[1]
            chunk, within, shards = _check_chain(settings["codecs"], inner, place, depth + 1)
            if shards is not None or len(chain) > 1:  # of which no chunk could be looked at alone
                raise StoreError(
                    f"has shards of {place or 'the array'} within shards, or below "
                    "other codecs; write it in shards of chunks"
                )
            found = chunk, within, _shards(settings, index, stored, inner, place)
        else:
            own = name.removeprefix("numcodecs.")
            _check_codec(own, settings, CODECS if own != name else OF_FORMAT_3, place)
    return found


def _shards(
    settings: dict[str, Any],
    index: Codecs,
    stored: tuple[int, ...],
    chunk: tuple[int, ...],
    place: str,
) -> Shards:
    """Returns where the table of a shard's chunks is, and refuses what is not read as it is."""
    names, where = [name for name, _ in index], settings.get("index_location", "end")
    endian = index[0][1].get("endian", "little") if index else ""
    if names not in (["bytes"], ["bytes", AT_END]) or where not in ("start", "end"):
        raise StoreError(
            f"has shards of {place or 'the array'} with a table at the {where} by "
            f"codecs {names}; write it by bytes, and {AT_END}"
        )
    count = math.prod(a // max(1, b) for a, b in zip(stored, chunk, strict=False))
    if count > MOST_IN_SHARD:
        raise StoreError(
            f"claims shards of {count:,} chunks for {place or 'the array'}; "
            f"at most {MOST_IN_SHARD:,} are read, so write it in larger ones"
        )
    return Shards(count, where == "end", ">" if endian == "big" else "<", 4 * (len(names) - 1))


def _check_sizes(path: pathlib.Path, array: Array, max_bytes: int | None) -> None:
    """Compares what an array claims with the memory, and with the files that are there."""
    most, name = most_bytes(max_bytes), array.name or "the array"
    chunk = math.prod(array.chunk) * array.widest
    clipped = math.prod(map(min, array.chunk, array.shape)) * array.widest
    told = f"the {size_text(most)} that may be used (max_bytes, or the free memory)"
    if chunk > most:
        of = "" if chunk == clipped else f" for an array of {size_text(array.size)}"
        raise StoreError(
            f"claims {name} in chunks of {size_text(chunk)}{of}, each more than {told}; "
            "write it in smaller ones"
        )
    bomb = find_bomb(_files(path / array.name), array.packing, chunk=chunk, most=most)
    if bomb is not None:
        raise StoreError(f"has a file, {bomb} of {name} has")
    if array.size <= most:
        return
    if max_bytes is not None:
        raise StoreError(f"claims {name} of {size_text(array.size)}, more than {told}")
    expected = math.prod(-(-n // c) for n, c in zip(array.shape, array.stored, strict=True))
    there = _count(path / array.name, expected)
    if 2 * there < expected:
        raise StoreError(
            f"claims {name} of {size_text(array.size)}, more than {told}, and has only "
            f"{there:,} of its {expected:,} chunks"
        )


def _count(folder: pathlib.Path, most: int) -> int:
    """Returns how many files an array has, metadata aside, up to a number."""
    return sum(1 for _ in itertools.islice(_files(folder), most))


def _files(folder: pathlib.Path) -> Iterator[os.DirEntry[str]]:
    """Yields the files of an array, metadata aside; none of one that is only described."""
    if not folder.is_dir():
        return
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                yield from _files(pathlib.Path(entry.path))
            elif entry.name.lower() not in NAMES:
                yield entry


def has_chunks(folder: pathlib.Path, array: Any) -> bool:
    """Returns whether any file of an array's folder is a chunk of it, by its place and name.

    Args:
      folder: of the array, looked at before.
      array: as zarr opens it.
    """
    stored = array.shards or array.chunks
    most = [-(-length // of) for length, of in zip(array.shape, stored, strict=True)]

    def is_chunk(name: str) -> bool:
        at = tuple(int(number) for number in re.findall(r"[0-9]{1,19}", name))
        inside = len(at) == len(most) and all(map(operator.lt, at, most))
        return inside and bool(array.metadata.encode_chunk_key(at) == name)

    paths = (pathlib.Path(file.path) for file in _files(folder))
    return any(is_chunk(path.relative_to(folder).as_posix()) for path in paths)
