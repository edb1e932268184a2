"""Safe reading of NumPy's `.npy` and `.npz` files, whose headers are checked before any array.

A header of a few bytes can claim an array of any size, a member of a zip archive can unpack to a
thousand times its own size, and an array of Python objects can execute code. So headers are read
and checked first. Then only the requested members are read, one at a time.
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
LONGEST_HEADER = 10_000  # most bytes of a header, NumPy's own limit for untrusted files
MOST_DIMENSIONS = 32  # the most that every version of NumPy supports
RESERVE = 0.9  # fraction of free memory that one array may take
# Compression methods that NumPy writes. With others, zipfile unpacks 4 KiB of input at a time,
# however large the result.
METHODS = frozenset({zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED})
OTHERS = {zipfile.ZIP_BZIP2: "bzip2", zipfile.ZIP_LZMA: "lzma"}
# Exceptions of numpy and zipfile for files that are damaged, encrypted or not archives.
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
    """An array cannot be read. The message tells the reason and the remedy."""


class Header(NamedTuple):
    """Header of an `.npy` file.

    Attributes:
      shape: Shape of the array.
      fortran: Whether the first axis varies fastest.
      dtype: Type of the array's elements.
      start: Number of bytes before the first element.
    """

    shape: tuple[int, ...]
    fortran: bool
    dtype: np.dtype
    start: int

    @property
    def size(self) -> int:
        """Size of the array in bytes."""
        return math.prod(self.shape) * self.dtype.itemsize


def most_bytes(max_bytes: int | None) -> int:
    """Returns the most bytes that one array may take, by default nearly all free memory.

    Args:
      max_bytes: Limit set by the user, or None.

    Raises:
      InputError: The limit is not a positive whole number.
    """
    if max_bytes is None:
        return int(RESERVE * free_memory())
    return whole("max_bytes", max_bytes, least=1)


def check_size(size: int, most: int) -> None:
    """Checks that an array is not too large.

    Args:
      size: Size of the array in bytes.
      most: Largest accepted size in bytes.

    Raises:
      ReadError: The array is larger.
    """
    if size > most:
        raise ReadError(
            f"claims {size_text(size)}, more than the {size_text(most)} that may be "
            "used (max_bytes, or the free memory); read only a part of it"
        )


def read_header(file: IO[bytes], length: int) -> Header:
    """Reads and checks the header of an `.npy` file, and does not read its array.

    Args:
      file: The file, opened at its beginning.
      length: Length of the file in bytes.

    Raises:
      ReadError: The array does not consist of plain numbers, texts or booleans, or the file is too
        short for it.
      ValueError: The file does not begin with a header.
    """
    version = np.lib.format.read_magic(file)
    readers = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    if version not in readers:
        raise ReadError(f"has NumPy's format {version} for structured arrays; save one plain array")
    shape, fortran, dtype = readers[version](file, max_header_size=LONGEST_HEADER)
    if any(type(length) is not int for length in shape):  # some versions of NumPy accept True
        raise ReadError(f"states a shape that does not consist of whole numbers, {shape}")
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
            f"claims {size_text(header.size)} and holds {found}; it is truncated or damaged, "
            "so write it again"
        )
    return header


def is_npy(path: pathlib.Path) -> bool:
    """Returns whether a file's content, and not its name, is that of an `.npy`.

    Args:
      path: Path of a regular file.
    """
    with path.open("rb") as file:
        return file.read(len(NPY)) == NPY


def is_zip(path: pathlib.Path) -> bool:
    """Returns whether a file's content, and not its name, begins like a zip archive.

    Args:
      path: Path of a regular file.
    """
    with path.open("rb") as file:
        return file.read(len(ZIP)) == ZIP


def map_npy(path: pathlib.Path, *, max_bytes: int | None = None) -> np.ndarray:
    """Maps an `.npy` file into memory, so that only the accessed parts are read.

    Args:
      path: Path of the file.
      max_bytes: Largest accepted size of the array in bytes. None means that there is no limit,
        because the array is not read as a whole.

    Raises:
      ReadError: The array cannot be read (`read_header`) or is too large (`check_size`).
      ValueError: The file is not an `.npy`. Other exceptions of `UNREADABLE` are possible.
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
    """A member of an archive.

    Attributes:
      info: Entry of the member in the archive's directory.
      header: Header of the array; None if it cannot be read.
      problem: Reason why the array cannot be read; empty if it can.
    """

    info: zipfile.ZipInfo
    header: Header | None
    problem: str


class Archive(Mapping[str, np.ndarray]):
    """Mapping from names to the arrays of an `.npz`, each of which is read when it is accessed.

    Attributes:
      members: All members of the archive by name, readable or not.
      most: Largest accepted size of an array in bytes.
    """

    def __init__(self, path: pathlib.Path, *, max_bytes: int | None = None):
        """Reads the headers of all members, and no array.

        Args:
          path: Path of the archive.
          max_bytes: Largest accepted size of an array in bytes; None means nearly all free memory.

        Raises:
          ReadError: Two members have the same name.
          OSError: The file cannot be read. Other exceptions of `UNREADABLE` are possible.
        """
        self.path, self.most = path, most_bytes(max_bytes)
        with path.open("rb") as file, zipfile.ZipFile(file) as archive:
            found: dict[str, zipfile.ZipInfo] = {}
            for info in archive.infolist():
                name = info.filename.removesuffix(".npy")
                if name in found:  # it is unknown which of them was meant
                    raise ReadError(
                        f"has two members named {name}; write it again with different names"
                    )
                found[name] = info
            self.members = {name: _member(archive, info) for name, info in found.items()}

    def __iter__(self) -> Iterator[str]:
        """Yields the names of the arrays that can be read."""
        return (name for name, member in self.members.items() if member.header is not None)

    def __len__(self) -> int:
        """Returns the number of arrays that can be read."""
        return sum(1 for _ in self)

    def header(self, name: str) -> Header:
        """Returns the header of an array, and raises `ReadError` if it cannot be read."""
        member = self.members[name]
        if member.header is None:
            raise ReadError(f"{name} {member.problem}")
        return member.header

    def __getitem__(self, name: str) -> np.ndarray:
        """Reads one array, and raises one of `UNREADABLE` if it cannot be read."""
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
            stream.read(1)  # at the end of the member, zipfile verifies its checksum
        return array


def _member(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> Member:
    """Reads the header of one member. If that fails, the other members remain readable."""
    if info.compress_type not in METHODS:
        how = OTHERS.get(info.compress_type, f"method {info.compress_type}")
        return Member(
            info,
            None,
            f"is compressed by {how}, and its size cannot be checked before it is unpacked; "
            "write it with numpy.savez_compressed",
        )
    try:
        with archive.open(info) as stream:
            return Member(info, read_header(stream, info.file_size), "")
    except UNREADABLE as error:
        what = " ".join(str(error).split())
        problem = what if isinstance(error, ReadError) else f"is not an array ({what})"
        return Member(info, None, problem)


def open_archive(path: pathlib.Path, *, field: str, max_bytes: int | None = None) -> Archive:
    """Opens an `.npz` archive.

    Args:
      path: Path of the archive.
      field: Name of the setting that gives the path, for the error message.
      max_bytes: Largest accepted size of an array in bytes; None means nearly all free memory.

    Raises:
      InputError: The archive cannot be opened, or two of its arrays have the same name.
    """
    try:
        return Archive(path, max_bytes=max_bytes)
    except InputError:
        raise
    except ReadError as error:
        raise InputError(field, path, str(error)) from None
    except UNREADABLE as error:
        why = error.strerror if isinstance(error, OSError) else "it is damaged or no archive"
        problem = f"cannot be read as .npz ({why}); write it with numpy.savez(path, name=array)"
        raise InputError(field, path, problem) from None
