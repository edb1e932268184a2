"""NumPy's files, looked at before anything in them is read.

A header of some bytes can claim any size, a member of a zip can unpack to a thousand times its own,
and an array of objects is a program. So the claims are read first, and what is read is what was
looked at: one member at a time, and only those that are asked for.
"""

import math
import pathlib
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from typing import IO, Any, NamedTuple

import numpy as np

from ppp_jax.errors import InputError, whole
from ppp_jax.resources import free_memory, size_text

NPY, ZIP = b"\x93NUMPY", b"PK"
LONGEST_HEADER = 10_000  # bytes; NumPy's own limit for files that are not trusted
MOST_DIMENSIONS = 32  # what every NumPy has
RESERVE = 0.9  # of the free memory, what one array may take
# How numpy writes members. Of the others zipfile unpacks 4 KiB at a time, whatever they become.
METHODS = frozenset({zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED})
OTHERS = {zipfile.ZIP_BZIP2: "bzip2", zipfile.ZIP_LZMA: "lzma"}
# What numpy and zipfile raise of files that are damaged, encrypted or no archives at all.
UNREADABLE = (
    OSError,
    ValueError,
    TypeError,
    KeyError,
    EOFError,
    RuntimeError,
    MemoryError,
    SyntaxError,
    zipfile.BadZipFile,
    zlib.error,
    zipfile.LargeZipFile,
)


class ReadError(ValueError):
    """An array that is not read; its text says why, and what to do."""


class Header(NamedTuple):
    """What an `.npy` says of itself.

    Attributes:
      shape: of the array.
      fortran: whether the first axis is the fastest.
      dtype: of its numbers.
      start: bytes before them.
    """

    shape: tuple[int, ...]
    fortran: bool
    dtype: np.dtype
    start: int

    @property
    def size(self) -> int:
        """Bytes that the array takes."""
        return math.prod(self.shape) * self.dtype.itemsize


def most_bytes(max_bytes: int | None) -> int:
    """Returns how many bytes one array may take: as told, or nearly all memory that is free.

    Args:
      max_bytes: what the user allows, or None.

    Raises:
      InputError: it is no number of bytes.
    """
    if max_bytes is None:
        return int(RESERVE * free_memory())
    return whole("max_bytes", max_bytes, least=1)


def check_size(size: int, most: int) -> None:
    """Refuses an array that would not fit.

    Args:
      size: bytes that it takes.
      most: bytes that it may take.

    Raises:
      ReadError: it takes more.
    """
    if size > most:
        raise ReadError(
            f"claims {size_text(size)}, more than the {size_text(most)} that may be "
            "used (max_bytes, or the free memory); read a part of it"
        )


def read_header(file: IO[bytes], length: int) -> Header:
    """Reads the header of an `.npy`, and nothing behind it.

    Args:
      file: opened at its beginning.
      length: how many bytes there are in all.

    Raises:
      ReadError: it is no array of plain numbers, texts or truth values, or longer than its file.
      ValueError: it is no header.
    """
    version = np.lib.format.read_magic(file)
    readers = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    if version not in readers:
        raise ReadError(
            f"is of NumPy's format {version}, for structured arrays; save one plain array"
        )
    shape, fortran, dtype = readers[version](file, max_header_size=LONGEST_HEADER)
    if any(type(length) is not int for length in shape):  # True counts as one, for some readers
        raise ReadError(f"states a shape of other things than whole numbers, {shape}")
    header = Header(tuple(shape), bool(fortran), dtype, file.tell())
    if dtype.hasobject:
        raise ReadError(
            "holds Python objects, which only pickle could read, and pickle runs what "
            "it reads; save numbers: numpy.asarray(x, float)"
        )
    if dtype.names or dtype.subdtype:
        raise ReadError(f"is structured, with fields {dtype.names}; save one field: x['name']")
    if len(shape) > MOST_DIMENSIONS or any(not 0 <= n < 2**63 for n in header.shape):
        raise ReadError(f"states an impossible shape of {len(shape)} dimensions")
    if header.start + header.size > length:
        found = size_text(max(0, length - header.start))
        raise ReadError(
            f"claims {size_text(header.size)} and holds {found}: it is cut short, or "
            "no honest file; write it again"
        )
    return header


def is_npy(path: pathlib.Path) -> bool:
    """Returns whether a file is an `.npy` by its content, whatever its name.

    Args:
      path: a regular file.
    """
    with path.open("rb") as file:
        return file.read(len(NPY)) == NPY


def is_zip(path: pathlib.Path) -> bool:
    """Returns whether a file begins as a zip does, whatever its name.

    Args:
      path: a regular file.
    """
    with path.open("rb") as file:
        return file.read(len(ZIP)) == ZIP


def map_npy(path: pathlib.Path, *, max_bytes: int | None = None) -> np.ndarray:
    """Maps an `.npy` into memory, of which only what is looked at is read.

    Args:
      path: the file.
      max_bytes: that the array may have; None: any number, for it is not read as a whole.

    Raises:
      ReadError: see `read_header` and `check_size`.
      ValueError: it is no `.npy`; and the other `UNREADABLE`.
    """
    with path.open("rb") as file:
        header = read_header(file, path.stat().st_size)
    if max_bytes is not None:
        check_size(header.size, most_bytes(max_bytes))
    if not header.size:
        return np.empty(header.shape, header.dtype)
    order: Any = "F" if header.fortran else "C"
    return np.memmap(path, header.dtype, "r", header.start, header.shape, order)


class Member(NamedTuple):
    """An array of an archive that has not been read.

    Attributes:
      info: its place in the archive.
      header: what it says of itself; None where it is not read.
      problem: why it is not read; empty where it is.
    """

    info: zipfile.ZipInfo
    header: Header | None
    problem: str


class Archive(Mapping[str, np.ndarray]):
    """The arrays of an `.npz` by name, each read when it is asked for.

    Attributes:
      members: everything in it, readable or not.
      most: bytes that one array may take.
    """

    def __init__(self, path: pathlib.Path, *, max_bytes: int | None = None):
        """Reads the headers of all members, and no array.

        Raises one of `UNREADABLE` if the file is no archive, and `ReadError` if two of its members
        have one name.
        """
        self.path, self.most = path, most_bytes(max_bytes)
        with path.open("rb") as file, zipfile.ZipFile(file) as archive:
            found: dict[str, zipfile.ZipInfo] = {}
            for info in archive.infolist():
                name = info.filename.removesuffix(".npy")
                if name in found:  # which of them was meant, nobody knows
                    raise ReadError(
                        f"has two members named {name}; write it anew, with one of "
                        "them or other names"
                    )
                found[name] = info
            self.members = {name: _member(archive, info) for name, info in found.items()}

    def __iter__(self) -> Iterator[str]:
        """Yields the names of what can be read."""
        return (name for name, member in self.members.items() if member.header is not None)

    def __len__(self) -> int:
        """Returns how many arrays can be read."""
        return sum(1 for _ in self)

    def header(self, name: str) -> Header:
        """Returns the header of an array, and raises `ReadError` if it cannot be read."""
        member = self.members[name]
        if member.header is None:
            raise ReadError(f"{name} {member.problem}")
        return member.header

    def __getitem__(self, name: str) -> np.ndarray:
        """Reads one array; raises one of `UNREADABLE` if it cannot be."""
        header = self.header(name)
        try:
            check_size(header.size, self.most)
        except ReadError as error:
            raise ReadError(f"{name} {error}") from None
        with (
            self.path.open("rb") as file,
            zipfile.ZipFile(file) as archive,
            archive.open(self.members[name].info) as stream,
        ):
            array: np.ndarray = np.lib.format.read_array(
                stream, allow_pickle=False, max_header_size=LONGEST_HEADER
            )
            stream.read(1)  # to the end, where the checksum is looked at
        return array


def _member(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> Member:
    """Looks at the header of a member; the others are readable whatever it is."""
    if info.compress_type not in METHODS:
        how = OTHERS.get(info.compress_type, f"method {info.compress_type}")
        return Member(
            info,
            None,
            f"is compressed by {how}, which cannot be looked into before it "
            "is unpacked; write it with numpy.savez_compressed",
        )
    try:
        with archive.open(info) as stream:
            return Member(info, read_header(stream, info.file_size), "")
    except UNREADABLE as error:
        told = " ".join(str(error).split())
        return Member(info, None, told if isinstance(error, ReadError) else f"is no array ({told})")


def open_archive(path: pathlib.Path, *, field: str, max_bytes: int | None = None) -> Archive:
    """Opens an `.npz`.

    Args:
      path: the file.
      field: the setting that names it, for the error's text.
      max_bytes: that one array may take; None: what is free.

    Raises:
      InputError: it does not open, or has two arrays of one name.
    """
    try:
        return Archive(path, max_bytes=max_bytes)
    except InputError:
        raise
    except ReadError as error:
        raise InputError(field, path, str(error)) from None
    except UNREADABLE as error:
        why = error.strerror if isinstance(error, OSError) else "damaged or not an archive"
        problem = f"cannot be read as .npz ({why}); write it with numpy.savez(path, name=array)"
        raise InputError(field, path, problem) from None
