"""Finds chunks that unpack to far more than their array states, without unpacking them as a whole.

A codec unpacks whatever a file holds, and zarr compares the result with the size of a chunk only
afterwards, when the memory may be exhausted.
"""

import bz2
import contextlib
import gzip
import io
import lzma
import os
import pathlib
import re
import zlib
from collections.abc import Callable, Iterable, Iterator
from typing import IO, Any, NamedTuple

import numcodecs
import numpy as np

from ppp_jax.resources import size_text

# A file of each codec unpacks to at most this multiple of its own size.
RATIO = {
    "zlib": 1_100,
    "gzip": 1_100,
    "lzma": 10_000,
    "bz2": 1_500_000,
    "zstd": 50_000,
    "lz4": 300,
    "blosc": 200_000,
}
DAMAGE = (OSError, EOFError, ValueError, IndexError, zlib.error, lzma.LZMAError)
PIECE = 2**20  # Number of bytes that are unpacked at once.
# A chunk may unpack to this multiple of its size, and to so many bytes more, because codecs add
# checksums and texts take more than their pointers.
FACTOR, SLACK = 16, 2**20
ZSTD = b"\x28\xb5\x2f\xfd"
SKIPPED, OLD = 0x0184D2A5, 0x0FD2FB52  # First 28 bits of frames without data, and of old formats.
RUN = 1  # Type of a block that repeats one byte; type 0 is verbatim, and the others are compressed.
BLOCK = 2**17  # Largest number of bytes that a block unpacks to.
LEAST = 2**8  # Every block counts for so many bytes, so that a loop over empty blocks ends too.
FAR = 2**63  # This is more than any limit.
CHUNKS = re.compile(r"c|(c\.)?\d+(\.\d+)*")  # Pattern of the names of files that hold chunks.
BOMB = "bomb"


class Shards(NamedTuple):
    """The layout of a file that holds many chunks.

    Attributes:
      chunks: Largest number of chunks in the file.
      at_end: Whether the table of chunks is at the end of the file, or at its start.
      order: Byte order of the table's numbers, `<` or `>`.
      tail: Bytes of the table's checksum.
    """

    chunks: int
    at_end: bool
    order: str
    tail: int


class Packing(NamedTuple):
    """How the chunks of an array are packed in its files.

    Attributes:
      codec: Name of the compressor, or "" if there is none.
      growth: Largest factor by which filters grow what the compressor unpacks.
      texts: Number of texts in a chunk; None if the chunk holds numbers.
      shards: Layout of a file of several chunks; None if a file holds one chunk.
    """

    codec: str
    growth: float
    texts: int | None
    shards: Shards | None


def find_bomb(
    files: Iterable[os.DirEntry[str]], packing: Packing, *, chunk: int, most: int
) -> str | None:
    """Returns a text about the first file that unpacks to far more than a chunk, or None.

    The text also tells of files whose number of texts is not that of a chunk.

    Args:
      files: The files of an array.
      packing: How chunks are packed in the files.
      chunk: Bytes that a chunk unpacks to, where its numbers are the widest.
      most: Bytes that may be used. Files that cannot unpack to a quarter of them are not opened.
    """
    limit = max(most // 4, min(FACTOR * chunk, most)) + SLACK
    bound = int(limit / packing.growth)  # This bounds the output of the compressor.
    each = (2 if packing.texts is None else FACTOR) * chunk + LEAST
    most_together = most + (packing.shards.chunks * each if packing.shards else 0)
    for entry in files:
        size = entry.stat().st_size
        if packing.shards is not None and size <= most_together:
            found = _in_shard(pathlib.Path(entry.path), size, packing, bound)
        else:
            found = _in_file(pathlib.Path(entry.path), size, packing, bound)
        if found:
            told = f"unpacks to far more than {size_text(chunk)}, which" if found == BOMB else found
            return f"{entry.name}, that {told} a chunk"
    return None


def _in_file(path: pathlib.Path, size: int, packing: Packing, bound: int) -> str:
    if size > bound:
        return BOMB
    if size * RATIO.get(packing.codec, 1) <= bound and not _has_texts(path, packing):
        return ""
    with path.open("rb") as file:
        return _in_chunk(file, size, packing, bound, texts=_has_texts(path, packing))


def _has_texts(path: pathlib.Path, packing: Packing) -> bool:
    """Returns whether a file is a chunk of texts; other files may lie beside chunks."""
    return packing.texts is not None and CHUNKS.fullmatch(path.name) is not None


def _in_shard(path: pathlib.Path, size: int, packing: Packing, bound: int) -> str:
    """Checks those chunks of a shard that could unpack to too many bytes."""
    assert packing.shards is not None
    count, at_end, order, tail = packing.shards
    if not CHUNKS.fullmatch(path.name) or size < 16 * count + tail:
        return ""
    with path.open("rb") as file:
        file.seek(size - 16 * count - tail if at_end else 0)
        table = np.frombuffer(file.read(16 * count), f"{order}u8").reshape(-1, 2)
        table = np.unique(table[table[:, 0] < size], axis=0)
        lengths = np.minimum(table[:, 1], size - table[:, 0])
        if packing.texts is None:  # Most chunks of numbers need no check.
            near = lengths.astype(float) * RATIO.get(packing.codec, 1) > bound
            table, lengths = table[near], lengths[near]
        for start, length in zip(table[:, 0].tolist(), lengths.tolist(), strict=True):
            if length > bound:
                return BOMB
            file.seek(start)
            piece = io.BytesIO(file.read(length))
            found = _in_chunk(piece, length, packing, bound, texts=packing.texts is not None)
            if found:
                return found
    return ""


def _in_chunk(stream: IO[bytes], size: int, packing: Packing, bound: int, *, texts: bool) -> str:
    """Returns a text about what is wrong with one chunk, or an empty text."""
    if size * RATIO.get(packing.codec, 1) > bound and _size(stream, packing.codec, bound) > bound:
        return BOMB
    if texts:
        stream.seek(0)
        with contextlib.suppress(Exception):  # A decoder may raise anything for a damaged chunk.
            stated = int.from_bytes(_first(stream, packing.codec)[:4], "little")
            if stated == packing.texts:
                return ""
            return f"states {stated:,} texts, not the {packing.texts:,} of"
        return f"is damaged, and does not state the {packing.texts:,} texts of"
    return ""


def _first(stream: IO[bytes], codec: str) -> bytes:
    """Returns the first bytes of a chunk whose unpacked size has been checked."""
    if codec in ("zstd", "lz4", "blosc"):
        return bytes(numcodecs.get_codec({"id": codec}).decode(stream.read()))
    return next(_pieces(stream, codec)) if codec else stream.read(4)


def _size(file: IO[bytes], codec: str, limit: int) -> int:
    """Returns the unpacked size of a file, or some number above the limit if it exceeds the limit.

    A damaged file counts up to the damage.
    """
    if codec == "":
        return file.seek(0, os.SEEK_END)
    if codec == "lz4":
        return int.from_bytes(file.read(4), "little")
    if codec == "blosc":
        return int.from_bytes(file.read(8)[4:], "little")
    total = 0
    # Damage raises an error when the file is read.
    with contextlib.suppress(*DAMAGE):
        lengths = _zstd_lengths(file) if codec == "zstd" else map(len, _pieces(file, codec))
        for length in lengths:
            total += length
            if total > limit:
                break
    return total


def _pieces(file: IO[bytes], codec: str) -> Iterator[bytes]:
    """Yields the unpacked bytes of a file, a piece at a time."""
    if codec == "zlib":
        unpacker, given = zlib.decompressobj(), file.read(PIECE)
        while given and not unpacker.eof:
            yield unpacker.decompress(given, PIECE)
            given = unpacker.unconsumed_tail or file.read(PIECE)
        return
    openers: dict[str, Callable[..., Any]] = {"gzip": gzip.open, "lzma": lzma.open, "bz2": bz2.open}
    opened = openers[codec](file, "rb")
    while piece := opened.read(PIECE):
        yield piece


def _zstd_lengths(file: IO[bytes]) -> Iterator[int]:
    """Yields bounds of the unpacked sizes of Zstandard's frames and blocks (RFC 8878)."""
    while len(magic := file.read(4)) == 4:
        number = int.from_bytes(magic, "little")
        if number >> 4 == SKIPPED:
            file.seek(int.from_bytes(file.read(4), "little"), os.SEEK_CUR)
            yield LEAST
        elif magic == ZSTD:
            yield from _frame_lengths(file)
        else:  # No decoder reads this, unless it is a frame of a format before the standard.
            yield FAR if number >> 4 == OLD else 0
            return


def _frame_lengths(file: IO[bytes]) -> Iterator[int]:
    """Yields the size that a frame states, or bounds of its blocks' sizes; seeks to its end."""
    described = file.read(1)[0]
    single, width = described >> 5 & 1, (0, 2, 4, 8)[described >> 6]
    width = 1 if single and not width else width
    window = 0 if single else file.read(1)[0]
    most = min(BLOCK, (8 + (window & 7)) << (7 + (window >> 3)))
    file.seek((0, 1, 2, 4)[described & 3], os.SEEK_CUR)
    yield int.from_bytes(file.read(width), "little") + (256 if width == 2 else 0)
    last = 0
    while not last:
        header = file.read(3)
        if len(header) < 3:
            return
        number = int.from_bytes(header, "little")
        last, kind, length = number & 1, number >> 1 & 3, number >> 3
        file.seek(1 if kind == RUN else length, os.SEEK_CUR)
        made = most if kind > RUN else length
        yield LEAST if width else max(LEAST, made)
    file.seek(4 * (described >> 2 & 1), os.SEEK_CUR)  # This skips a checksum.
