"""Chunks that unpack to far more than their array says, found without unpacking them whole.

A codec unpacks whatever a file holds, and what the array says of its chunks is compared only then.
"""

import bz2
import contextlib
import gzip
import lzma
import os
import pathlib
import zlib
from collections.abc import Callable, Iterable, Iterator
from typing import IO, Any

# How much more than its own size a file of each codec can unpack to.
RATIO = {"zlib": 1_100, "gzip": 1_100, "lzma": 10_000, "bz2": 1_500_000, "zstd": 50_000,
         "lz4": 300, "blosc": 200_000}  # fmt: skip
DAMAGE = (OSError, EOFError, ValueError, IndexError, zlib.error, lzma.LZMAError)
PIECE = 2**20  # bytes unpacked at once
# What filters may add to a chunk's numbers before they are packed.
FACTOR, SLACK = 16, 2**20
ZSTD = b"\x28\xb5\x2f\xfd"
SKIPPED, OLD = 0x0184D2A5, 0x0FD2FB52  # first 28 bits of frames without data, and of old formats
RUN = 1  # kind of a block that repeats one byte; 0 is verbatim, and the others are packed
BLOCK = 2**17  # bytes that a block unpacks to at most
LEAST = 2**8  # bytes that any block counts for, so that empty ones come to an end too
FAR = 2**63  # more than any limit


def find_bomb(
    files: Iterable[os.DirEntry[str]], codec: str, *, chunk: int, most: int
) -> str | None:
    """Returns the name of a file that unpacks to far more than a chunk, or None.

    Args:
      files: of chunks.
      codec: that packed them.
      chunk: bytes that each should unpack to.
      most: bytes that are no danger, whatever they should be; files that cannot reach them are
        not opened.
    """
    limit = max(most // 4, FACTOR * chunk + SLACK) if codec in RATIO else 0
    for entry in files if limit else ():
        size = entry.stat().st_size
        if size > limit or (size * RATIO[codec] > limit and _size(
            pathlib.Path(entry.path), codec, limit
        ) > limit):  # fmt: skip
            return entry.name
    return None


def _size(path: pathlib.Path, codec: str, limit: int) -> int:
    """Returns what a file unpacks to, or any number above the limit; damaged ones up to there."""
    with path.open("rb") as file:
        if codec == "lz4":
            return int.from_bytes(file.read(4), "little")
        if codec == "blosc":
            return int.from_bytes(file.read(8)[4:], "little")
        total = 0
        # A damaged file is told where it is read.
        with contextlib.suppress(*DAMAGE):
            for length in _pieces(file, codec):
                total += length
                if total > limit:
                    break
        return total


def _pieces(file: IO[bytes], codec: str) -> Iterator[int]:
    """Yields the lengths of what is unpacked, a piece at a time."""
    if codec == "zstd":
        yield from _zstd_lengths(file)
        return
    if codec == "zlib":
        unpacker, given = zlib.decompressobj(), file.read(PIECE)
        while given and not unpacker.eof:
            yield len(unpacker.decompress(given, PIECE))
            given = unpacker.unconsumed_tail or file.read(PIECE)
        return
    openers: dict[str, Callable[..., Any]] = {
        "gzip": gzip.open, "lzma": lzma.open, "bz2": bz2.open
    }  # fmt: skip
    opened = openers[codec](file, "rb")
    while piece := opened.read(PIECE):
        yield len(piece)


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
