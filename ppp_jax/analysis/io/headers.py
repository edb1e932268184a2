"""Checks of zarr stores that are made before any of their data is decoded.

The metadata of a store name the codecs that decode it, and one of them, pickle, runs code that it
reads. So all metadata are first read as plain JSON, and every type and codec in them must be one
of those listed here. The sizes that they state are compared with the files and with the memory.

In this module `node` is the path of an array within its store, and is empty for the store itself.
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
LONGEST = 2**26  # Largest size in bytes of one file of metadata.
MOST_DIMENSIONS = 32
AGAIN = "write the store again"
DEEPEST = 100  # Largest depth of folders: groups, and in format 3 a folder per dimension of chunks.
# These codecs turn bytes into bytes or numbers into numbers, and do nothing else. Codecs that hold
# or build Python objects (pickle, json, msgpack, categorize, vlen-array) are not among them.
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
TEXTS = "vlen-utf8"  # Only this codec, of texts of any length, may build Python objects.
OF_FORMAT_3 = frozenset({"bytes", "transpose", "blosc", "crc32c", "gzip", "zstd", TEXTS})
SHARDS = "sharding_indexed"
MOST_IN_SHARD = 2**18  # Largest number of chunks in a shard; each costs time, stored or not.
AT_END = "crc32c"  # This codec of format 3 only appends some bytes.
SELF_TOLD = (0, 1, 2)  # These formats of lzma state how they are packed: automatic, .xz, .lzma.
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
WIDEST = 2**12  # Largest size in bytes of one number or text that a codec makes.
POINTER = 8  # Least number of bytes that a text takes.


Codecs = list[tuple[str, dict[str, Any]]]  # Names and settings of codecs, in order of encoding.


class Array(NamedTuple):
    """What the metadata of a store state about one array.

    Attributes:
      name: Path of the array within the store, or "" if the store is the array itself.
      shape: Shape of the array.
      chunk: Shape of a chunk, which is decoded at once.
      stored: Shape of what one file holds, which is a chunk or a shard of several chunks.
      itemsize: Bytes of one number.
      widest: Largest number of bytes that a number takes while it is decoded.
      packing: How chunks are packed in files.
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
        """Bytes of the whole array in memory."""
        return math.prod(self.shape) * self.itemsize


def check_entries(path: pathlib.Path, *, field: str = "path") -> None:
    """Refuses a store that holds anything but files and folders.

    Reading a pipe or a device might never end.

    Args:
      path: The folder of the store.
      field: Name of the argument that holds the path, for the error's text.

    Raises:
      InputError: The store holds a pipe, a device, or a link that leads out of it or nowhere; the
        error names it.
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
    """Refuses a zarr store that could run code, needs too much memory, or leads out of its folder.

    All metadata are checked, of format 2 and 3, consolidated or not, at every depth.

    Args:
      path: The folder of an array or a group.
      field: Name of the argument that holds the path, for the error's text.
      max_bytes: Largest number of bytes that an array may take. None allows the free memory, and
        more if at least half of the array's chunks exist, because it can be read in parts.

    Returns:
      The arrays of the store, by their paths within it.

    Raises:
      InputError: An array is refused; the error names it and its type, codec, size or file.
    """
    try:
        found = [
            array
            for folder, names in list(_walk(path, os.path.realpath(path)))
            for name in names
            for array in _described(_json(folder / name), name, _node_path(folder, path))
        ]
        for array in set(found):  # Consolidated metadata may differ from the array's own.
            _check_sizes(path, array, max_bytes)
    except StoreError as error:
        raise InputError(field, path, str(error)) from None
    except OSError as error:
        raise InputError(field, path, f"cannot be read ({error.strerror or error})") from None
    return {array.name: array for array in found}


def _node_path(folder: pathlib.Path, path: pathlib.Path) -> str:
    return "" if folder == path else folder.relative_to(path).as_posix()


class StoreError(ValueError):
    """Says why a store is refused."""


def _walk(
    folder: pathlib.Path, root: str, depth: int = 0
) -> Iterator[tuple[pathlib.Path, list[str]]]:
    """Yields every folder of a store with the names of the files of metadata in it."""
    if depth > DEEPEST:
        raise StoreError(f"has folders more than {DEEPEST} deep, which no zarr library writes")
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
                raise StoreError(f"has an entry that is neither file nor folder, {name}; remove it")
            elif entry.name.lower() in NAMES:  # Some file systems ignore case.
                names.append(entry.name)
    yield folder, names
    for each in below:
        yield from _walk(each, root, depth + 1)


def _check_link(entry: os.DirEntry[str], root: str) -> None:
    """Refuses a link that leads out of a store, to itself, or to a file that does not exist."""
    try:
        # `Path.resolve` would raise RuntimeError for a link to itself before Python 3.13.
        target = pathlib.Path(os.path.realpath(entry.path, strict=True))
    except OSError as error:
        raise StoreError(
            f"has a link that leads nowhere, {entry.name} ({error.strerror}); put back the file "
            "that it leads to, or remove the link"
        ) from None
    if not target.is_relative_to(root):
        raise StoreError(
            f"has a link that leads out of it, {entry.name}; copy the file that it leads to into "
            "the store"
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
        raise StoreError(
            f"has damaged metadata, {path.parent.name}/{path.name} ({why}); {AGAIN}"
        ) from None
    if not isinstance(found, dict):
        raise StoreError(
            f"has damaged metadata, {path.parent.name}/{path.name} (no JSON object); {AGAIN}"
        )
    return found


def _described(entries: dict[str, Any], name: str, node: str) -> Iterator[Array]:
    """Yields the arrays that one file of metadata describes, after checking them."""
    name = name.lower()
    try:
        if name == ".zarray":
            yield _format_2(entries, node)
        elif name == ".zmetadata":
            for key, value in _object(entries.get("metadata", {})).items():
                _check_inside(key)
                folder, _, kind = key.rpartition("/")
                if kind.lower() == ".zarray":
                    yield _format_2(_object(value), _joined(node, folder))
        elif name == "zarr.json":
            yield from _format_3(entries, node)
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        if isinstance(error, StoreError):
            raise
        raise StoreError(
            f"has damaged metadata, {name} of {node or 'the array'} "
            f"({type(error).__name__}: {error}); {AGAIN}"
        ) from None


def _check_inside(key: str) -> None:
    """Refuses a key of consolidated metadata that is no path below its folder."""
    odd = any(part in ("", ".", "..") for part in key.split("/"))
    if key and (
        odd or "\\" in key or "\0" in key
    ):  # Other systems separate folders by backslashes.
        raise StoreError(
            f"names a path outside of itself, {key!r}, in its metadata; "
            "write the consolidated metadata anew"
        )


def _joined(node: str, name: str) -> str:
    return "/".join(part for part in (node, name) if part)


def _object(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise TypeError("no JSON object")
    return value


def _format_2(entries: dict[str, Any], node: str) -> Array:
    dtype, filters, compressor = (entries.get(k) for k in ("dtype", "filters", "compressor"))
    chain = [*(filters or []), *([compressor] if compressor else [])]
    ids = [_object(codec).get("id") for codec in chain]
    if dtype == "|O":
        if ids[:1] != [TEXTS] or TEXTS in ids[1:]:
            raise _foreign(node, "type |O (Python objects)", f"decoded by {ids}")
        chain, itemsize = chain[1:], POINTER
    else:
        itemsize = _itemsize(dtype, node)
    for codec in chain:
        _check_codec(str(codec.get("id")), codec, CODECS, node)
    names = [f"numcodecs.{name}" if name == AT_END else str(name) for name in ids]
    if dtype == "|O":
        _check_texts(names, node)
    shape, chunk = _lengths(entries["shape"], node), _lengths(entries["chunks"], node)
    steps = list(zip(map(str, ids), [*([{}] if dtype == "|O" else []), *chain], strict=True))
    widest, growth = _widths(steps, itemsize, node)
    texts = math.prod(chunk) if dtype == "|O" else None
    packing = Packing(_packed(names, node), growth, texts, None)
    return _array(Array(node, shape, chunk, chunk, itemsize, widest, packing))


def _check_texts(names: list[str], node: str) -> None:
    """Refuses codecs of texts other than compression.

    Only then the number of texts in a file can be compared with that of a chunk.
    """
    names = [name for name in names if name != "transpose"]
    if names[:1] != [TEXTS] or not set(names[1:]) <= {*RATIO, AT_END}:
        raise StoreError(
            f"has texts {node or 'in the array'} in codecs {names}; write them with {TEXTS} and at "
            "most one compressor"
        )


def _widths(chain: Codecs, itemsize: int, node: str) -> tuple[int, float]:
    """Returns the largest size of a number in bytes, and the largest factor of its growth."""
    if sum(name == "packbits" for name, _ in chain) > 1:
        raise StoreError(f"has {node or 'the array'} packed by several packbits; write it with one")
    widths, steps = [itemsize], []
    for name, settings in chain:
        if name == "packbits":
            steps.append((8, 8, 1))
        elif name in TYPED:
            stored, read = (settings.get(key) for key in TYPED[name])
            decoded = widths[-1] if read is None else _width(read, node)
            encoded = decoded if stored is None else _width(stored, node)
            between = (
                max(8, decoded) if name == "fixedscaleoffset" else decoded
            )  # It divides in float64.
            steps.append((between, decoded, encoded))
            widths += [between, decoded, encoded]
    growth = most = 1.0
    for between, decoded, encoded in reversed(steps):
        most = max(most, growth * between / encoded)
        growth *= decoded / encoded
    return max(widths), most


def _width(dtype: str, node: str) -> int:
    return max(1, (_itemsize if PLAIN.fullmatch(dtype) else _itemsize_3)(dtype, node))


def _packed(names: Iterable[str], node: str) -> str:
    """Returns the compressor of a chain of codecs; only a checksum may follow it."""
    names = list(names)
    found = [name for name in names if name in RATIO]
    if len(found) > 1:
        raise StoreError(
            f"has {node or 'the array'} compressed {len(found)} times over, by {found}; write it "
            "with one compressor"
        )
    after = names[names.index(found[0]) + 1 :] if found else []
    if after not in ([], [AT_END]):  # Other codecs would hide the compressed bytes.
        raise StoreError(
            f"has {node or 'the array'} compressed by {found[0]} before codec {after[0]}; write it "
            f"with {found[0]} as the last"
        )
    return found[0] if found else ""


def _itemsize(dtype: Any, node: str) -> int:
    if not isinstance(dtype, str) or not PLAIN.fullmatch(dtype):
        raise _foreign(node, f"type {dtype}", "which is no plain number or text")
    if dtype == "bfloat16":
        return 2
    kind = dtype.lstrip("<>|=").partition("[")[0]  # Types of times have a unit in brackets.
    return int(kind[1:]) * (4 if kind[0] == "U" else 1)


def _foreign(node: str, what: str, why: str) -> StoreError:
    return StoreError(
        f"has {node or 'an array'} of {what}, {why}: it is not read, because it may carry code; "
        "write plain numbers, with codecs of numcodecs"
    )


def _check_codec(name: str, settings: dict[str, Any], known: frozenset[str], node: str) -> None:
    if name not in known:
        raise _foreign(
            node, f"codec {name}", "which is not among the codecs known to do nothing but decode"
        )
    if name == "lzma" and settings.get("format", 1) not in SELF_TOLD:
        raise StoreError(
            f"has {node or 'the array'} in lzma of format {settings['format']}, which does not "
            "state how it is packed and cannot be looked into; write it in format 1 (xz)"
        )
    for key, value in settings.items():
        plain = isinstance(value, str) and (PLAIN.fullmatch(value) or PLAIN_3.fullmatch(value))
        if key in TYPE_KEYS and value is not None and (not plain or value == "string"):
            raise _foreign(node, f"codec {name}", f"whose {key} is {value}")
        if key in TYPE_KEYS and value is not None and _width(value, node) > WIDEST:
            raise StoreError(
                f"has {node or 'the array'} in codec {name}, whose {key} {value} takes "
                f"{size_text(_width(value, node))} a number; at most "
                f"{size_text(WIDEST)} are allowed"
            )


def _lengths(value: Any, node: str) -> tuple[int, ...]:
    if not isinstance(value, list) or len(value) > MOST_DIMENSIONS:
        raise StoreError(f"states an impossible shape of {node or 'the array'}")
    for length in value:
        if type(length) is not int or not 0 <= length < 2**63:
            raise StoreError(f"states an impossible length of {node or 'the array'}, {length}")
    return tuple(value)


def _array(found: Array) -> Array:
    """Returns the array if the shapes of its chunks fit its shape, and refuses it otherwise."""
    node, shape, chunk, stored = found[:4]
    fits = len(shape) == len(chunk) == len(stored) and 0 not in chunk and 0 not in stored
    if not fits or any(a % b for a, b in zip(stored, chunk, strict=True)):
        raise StoreError(f"states chunks {chunk} of {node or 'the array'} that do not fit {shape}")
    if found.size >= 2**63:
        size = size_text(found.size)
        raise StoreError(f"claims {node or 'the array'} of {size}, which no machine can hold")
    return found


def _format_3(entries: dict[str, Any], node: str) -> Iterator[Array]:
    consolidated = entries.get("consolidated_metadata")
    if consolidated is not None:
        for key, value in _object(_object(consolidated).get("metadata", {})).items():
            _check_inside(key)
            yield from _format_3(_object(value), _joined(node, key))
    if entries.get("node_type") == "group":
        return
    if entries.get("storage_transformers"):
        raise _foreign(node, "a storage transformer", "which is unknown")
    shape, grid = _lengths(entries["shape"], node), _named(entries["chunk_grid"])
    if grid[0] != "regular":
        raise StoreError(
            f"has {node or 'the array'} in chunks of kind {grid[0]}; write it in regular chunks"
        )
    stored = _lengths(grid[1]["chunk_shape"], node)
    itemsize = _itemsize_3(entries["data_type"], node)
    chunk, codecs, shards = _check_chain(entries["codecs"], stored, node, 0)
    names = _own(codecs)
    texts = _named(entries["data_type"])[0] == "string"
    if texts or TEXTS in names:
        _check_texts(names, node)
    steps = [(name.removeprefix("numcodecs."), settings) for name, settings in codecs]
    widest, growth = _widths(steps, itemsize, node)
    packing = Packing(_packed(names, node), growth, math.prod(chunk) if texts else None, shards)
    yield _array(Array(node, shape, chunk, stored, itemsize, widest, packing))


def _own(codecs: Codecs) -> list[str]:
    """Returns the names of codecs of format 3 without the prefix `numcodecs.`.

    Only numcodecs' crc32c keeps its prefix, because it puts its bytes in front.
    """
    return [
        name if name.endswith(f".{AT_END}") else name.removeprefix("numcodecs.")
        for name, _ in codecs
    ]


def _named(value: Any) -> tuple[str, dict[str, Any]]:
    """Returns the name and the configuration of an extension point of format 3."""
    if isinstance(value, str):
        return value, {}
    return str(_object(value)["name"]), _object(value.get("configuration") or {})


def _itemsize_3(data_type: Any, node: str) -> int:
    name, settings = _named(data_type)
    if name in NAMED_3:
        size = settings.get("length_bytes", 8)
        if type(size) is not int or not 0 <= size < 2**40:
            raise StoreError(f"states {size} bytes for a text of {node or 'the array'}")
        return size
    if not PLAIN_3.fullmatch(name) or settings:
        raise _foreign(node, f"type {name}", "which is no plain number or text")
    bits = re.search(r"\d+$", name)
    return POINTER if name == "string" else max(1, int(bits[0]) // 8) if bits else 1


def _check_chain(
    codecs: Any, stored: tuple[int, ...], node: str, depth: int
) -> tuple[tuple[int, ...], Codecs, Shards | None]:
    """Checks a chain of codecs, and those within shards.

    Returns:
      The shape of a chunk, the codecs of a chunk, and the layout of shards, or None without shards.
    """
    if not isinstance(codecs, list) or depth > 3:
        raise StoreError(f"has no valid list of codecs for {node or 'the array'}")
    chain = [_named(codec) for codec in codecs]
    found: tuple[tuple[int, ...], Codecs, Shards | None] = stored, chain, None
    for name, settings in chain:
        if name == SHARDS:
            inner = _lengths(settings["chunk_shape"], node)
            index = _check_chain(settings["index_codecs"], inner, node, depth + 1)[1]
            chunk, within, shards = _check_chain(settings["codecs"], inner, node, depth + 1)
            if shards is not None or len(chain) > 1:  # Their chunks cannot be checked one by one.
                raise StoreError(
                    f"has shards of {node or 'the array'} within shards, or below other codecs; "
                    "write it in shards of chunks"
                )
            found = chunk, within, _shards(settings, index, stored, inner, node)
        else:
            own = name.removeprefix("numcodecs.")
            _check_codec(own, settings, CODECS if own != name else OF_FORMAT_3, node)
    return found


def _shards(
    settings: dict[str, Any],
    index: Codecs,
    stored: tuple[int, ...],
    chunk: tuple[int, ...],
    node: str,
) -> Shards:
    """Returns the layout of a shard, and refuses a table of chunks that is encoded further."""
    names, where = [name for name, _ in index], settings.get("index_location", "end")
    endian = index[0][1].get("endian", "little") if index else ""
    if names not in (["bytes"], ["bytes", AT_END]) or where not in ("start", "end"):
        raise StoreError(
            f"has shards of {node or 'the array'} whose table at the {where} has codecs {names}; "
            f"write it with bytes and {AT_END}"
        )
    count = math.prod(a // max(1, b) for a, b in zip(stored, chunk, strict=False))
    if count > MOST_IN_SHARD:
        raise StoreError(
            f"claims shards of {count:,} chunks for {node or 'the array'}; "
            f"at most {MOST_IN_SHARD:,} are allowed, so write it in larger chunks"
        )
    return Shards(count, where == "end", ">" if endian == "big" else "<", 4 * (len(names) - 1))


def _check_sizes(path: pathlib.Path, array: Array, max_bytes: int | None) -> None:
    """Compares the sizes that an array states with the memory and with its files."""
    most, name = most_bytes(max_bytes), array.name or "the array"
    chunk = math.prod(array.chunk) * array.widest
    clipped = math.prod(map(min, array.chunk, array.shape)) * array.widest
    told = f"the {size_text(most)} that may be used (max_bytes, or the free memory)"
    if chunk > most:
        of = "" if chunk == clipped else f" for an array of {size_text(array.size)}"
        raise StoreError(
            f"claims {name} in chunks of {size_text(chunk)}{of}, each more than {told}; "
            "write it in smaller chunks"
        )
    bomb = find_bomb(_files(path / array.name), array.packing, chunk=chunk, most=most)
    if bomb is not None:
        raise StoreError(f"has a file, {bomb} of {name} has; {AGAIN}")
    if array.size <= most:
        return
    if max_bytes is not None:
        size = size_text(array.size)
        raise StoreError(f"claims {name} of {size}, more than {told}; raise max_bytes")
    expected = math.prod(-(-n // c) for n, c in zip(array.shape, array.stored, strict=True))
    found = _count(path / array.name, expected)
    if 2 * found < expected:
        raise StoreError(
            f"claims {name} of {size_text(array.size)}, more than {told}, and has only "
            f"{found:,} of its {expected:,} chunks; put the others back, or raise max_bytes"
        )


def _count(folder: pathlib.Path, most: int) -> int:
    """Returns the number of files of an array except its metadata, or `most` if there are more."""
    return sum(1 for _ in itertools.islice(_files(folder), most))


def _files(folder: pathlib.Path) -> Iterator[os.DirEntry[str]]:
    """Yields the files of an array except its metadata; an array may have no folder at all."""
    if not folder.is_dir():
        return
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                yield from _files(pathlib.Path(entry.path))
            elif entry.name.lower() not in NAMES:
                yield entry


def has_chunks(folder: pathlib.Path, array: Any) -> bool:
    """Returns whether any file in an array's folder has the path of one of its chunks.

    Args:
      folder: The folder of the array, which `check_store` has checked.
      array: The array as zarr opened it.
    """
    stored = array.shards or array.chunks
    most = [-(-length // of) for length, of in zip(array.shape, stored, strict=True)]

    def is_chunk(name: str) -> bool:
        index = tuple(int(number) for number in re.findall(r"[0-9]{1,19}", name))
        inside = len(index) == len(most) and all(map(operator.lt, index, most))
        return inside and bool(array.metadata.encode_chunk_key(index) == name)

    paths = (pathlib.Path(file.path) for file in _files(folder))
    return any(is_chunk(path.relative_to(folder).as_posix()) for path in paths)
