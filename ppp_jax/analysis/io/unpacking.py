"""Chunks that unpack to far more than their array says, found without unpacking them whole.

A codec unpacks whatever a file holds, and what the array says of its chunks is compared only then.
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

# How much more than its own size a file of each codec can unpack to.
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
PIECE = 2**20  # bytes unpacked at once
# What codecs may add to a chunk's numbers, as checksums, and what texts take beyond their places.
FACTOR, SLACK = 16, 2**20
ZSTD = b"\x28\xb5\x2f\xfd"
SKIPPED, OLD = 0x0184D2A5, 0x0FD2FB52  # first 28 bits of frames without data, and of old formats
RUN = 1  # kind of a block that repeats one byte; 0 is verbatim, and the others are packed
BLOCK = 2**17  # bytes that a block unpacks to at most
LEAST = 2**8  # bytes that any block counts for, so that empty ones come to an end too
FAR = 2**63  # more than any limit
CHUNKS = re.compile(r"c|(c\.)?\d+(\.\d+)*")  # names of files that hold chunks
BOMB = "bomb"


class Shards(NamedTuple):
    """Where the chunks of a file lie that holds many.

    Attributes:
      chunks: how many there can be.
      at_end: whether the table of them is behind them, or in front.
      order: of the bytes of its numbers, as NumPy writes it.
      tail: bytes of its checksum.
    """

    chunks: int
    at_end: bool
    order: str
    tail: int


class Packing(NamedTuple):
    """How the chunks of an array lie in its files.

    Attributes:
      codec: that compresses them, "" where none does.
      growth: how many times what it unpacks filters make of it at most.
      texts: how many texts a chunk has; None where it has numbers.
      shards: how a file holds several; None where it is one chunk.
    """

    codec: str
    growth: float
    texts: int | None
    shards: Shards | None


def find_bomb(
    files: Iterable[os.DirEntry[str]], packing: Packing, *, chunk: int, most: int
) -> str | None:
    """Returns a file that unpacks to far more than a chunk, and what it does, or None.

    Args:
      files: of chunks.
      packing: how they lie in them.
      chunk: bytes that each should unpack to, where its numbers are widest.
      most: bytes that may be used; files that cannot reach a part of them are not opened.
    """
    limit = max(most // 4, min(FACTOR * chunk, most)) + SLACK
    bound = int(limit / packing.growth)  # of what is unpacked, before the filters
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
    """Tells chunks of texts from what else may lie beside them."""
    return packing.texts is not None and CHUNKS.fullmatch(path.name) is not None


def _in_shard(path: pathlib.Path, size: int, packing: Packing, bound: int) -> str:
    """Looks into those chunks of a shard that could unpack to too much."""
    assert packing.shards is not None
    count, at_end, order, tail = packing.shards
    if not CHUNKS.fullmatch(path.name) or size < 16 * count + tail:
        return ""
    with path.open("rb") as file:
        file.seek(size - 16 * count - tail if at_end else 0)
        table = np.frombuffer(file.read(16 * count), f"{order}u8").reshape(-1, 2)
        table = np.unique(table[table[:, 0] < size], axis=0)
        lengths = np.minimum(table[:, 1], size - table[:, 0])
        if packing.texts is None:  # of numbers most need no look
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
    """Returns what is wrong with one chunk, or an empty text."""
    if size * RATIO.get(packing.codec, 1) > bound and _size(stream, packing.codec, bound) > bound:
        return BOMB
    if texts:
        stream.seek(0)
        with contextlib.suppress(Exception):  # whatever a decoder makes of a damaged chunk
            stated = int.from_bytes(_first(stream, packing.codec)[:4], "little")
            if stated == packing.texts:
                return ""
            return f"states {stated:,} texts, not the {packing.texts:,} of"
        return f"is damaged, and does not state the {packing.texts:,} texts of"
    return ""


def _first(stream: IO[bytes], codec: str) -> bytes:
    """Returns the beginning of a chunk that is known to unpack to no more than it may."""
    if codec in ("zstd", "lz4", "blosc"):
        return bytes(numcodecs.get_codec({"id": codec}).decode(stream.read()))
    return next(_pieces(stream, codec)) if codec else stream.read(4)


def _size(file: IO[bytes], codec: str, limit: int) -> int:
    """Returns what a file unpacks to, or any number above the limit; damaged ones up to there."""
    if codec == "":
        return file.seek(0, os.SEEK_END)
    if codec == "lz4":
        return int.from_bytes(file.read(4), "little")
    if codec == "blosc":
        return int.from_bytes(file.read(8)[4:], "little")
    total = 0
    # A damaged file is told where it is read.
    with contextlib.suppress(*DAMAGE):
        lengths = _zstd_lengths(file) if codec == "zstd" else map(len, _pieces(file, codec))
        for length in lengths:
            total += length
            if total > limit:
                break
    return total


def _pieces(file: IO[bytes], codec: str) -> Iterator[bytes]:
    """Yields what is unpacked, a piece at a time."""
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
    """Yields what the frames of Zstandard unpack to, as they state or at most (RFC 8878)."""
    while len(magic := file.read(4)) == 4:
        number = int.from_bytes(magic, "little")
        if number >> 4 == SKIPPED:
            file.seek(int.from_bytes(file.read(4), "little"), os.SEEK_CUR)
            yield LEAST
        elif magic == ZSTD:
            yield from _frame_lengths(file)
        else:  # no frame, which no decoder reads either, or one older than the standard
            yield FAR if number >> 4 == OLD else 0
            return


def _frame_lengths(file: IO[bytes]) -> Iterator[int]:
    """Yields what a frame states, or at most its blocks make where it does not; leaves its end."""
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
    file.seek(4 * (described >> 2 & 1), os.SEEK_CUR)  # a checksum
