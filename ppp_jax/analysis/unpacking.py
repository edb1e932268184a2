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
PIECE = 2**20  # bytes unpacked at once
# What filters may add to a chunk's numbers before they are packed.
FACTOR, SLACK = 16, 2**20
ZSTD = b"\x28\xb5\x2f\xfd"


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
        if entry.stat().st_size * RATIO[codec] > limit and _size(
            pathlib.Path(entry.path), codec, limit
        ) > limit:  # fmt: skip
            return entry.name
    return None


def _size(path: pathlib.Path, codec: str, limit: int) -> int:
    """Returns what a file unpacks to, or any number above the limit; damaged ones up to there."""
    with path.open("rb") as file:
        if codec == "lz4":
            return int.from_bytes(file.read(4), "little")
        if codec == "blosc":
            return int.from_bytes(file.read(8)[4:], "little")
        if codec == "zstd":
            return _zstd_size(file.read(18))
        total = 0
        # A damaged file is told where it is read.
        with contextlib.suppress(OSError, EOFError, ValueError, zlib.error, lzma.LZMAError):
            for length in _pieces(file, codec):
                total += length
                if total > limit:
                    break
        return total


def _pieces(file: IO[bytes], codec: str) -> Iterator[int]:
    """Yields the lengths of what is unpacked, a piece at a time."""
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


def _zstd_size(header: bytes) -> int:
    """Returns what a frame of Zstandard says it unpacks to, 0 where it does not say (RFC 8878)."""
    if header[:4] != ZSTD:
        return 0
    described = header[4]
    single, width = described >> 5 & 1, (0, 2, 4, 8)[described >> 6]
    width = 1 if single and not width else width
    start = 5 + (not single) + (0, 1, 2, 4)[described & 3]
    stated = int.from_bytes(header[start : start + width], "little")
    return stated + 256 if width == 2 else stated
