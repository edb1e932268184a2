"""Files are looked at before they are opened: a pipe would be waited for, a device has no end.

A folder may have come from somebody else, or something else may have got into it since. Whatever
reads one of its files asks here first whether that is a file, and no larger than it can be.
"""

import errno
import os
import pathlib
import stat
from collections.abc import Callable, Iterator

from ppp_jax.resources import size_text


def problem(path: pathlib.Path, *, most: int | None = None) -> str | None:
    """Returns why a file is not to be opened, or None if it may be, or nothing is there.

    Args:
      path: the file; of a link, what it leads to is looked at.
      most: bytes that it can have; None: any number.

    Raises:
      OSError: the system does not let it be looked at.

    Example:
      >>> problem(pathlib.Path("/dev/zero"))
      'is not a regular file'
    """
    try:
        about = path.stat()
    except OSError as error:
        if error.errno == errno.ELOOP or path.is_symlink():
            return "is a link that leads nowhere"
        if isinstance(error, FileNotFoundError | NotADirectoryError):
            return None
        raise
    if not stat.S_ISREG(about.st_mode):
        return "is not a regular file"
    if most is not None and about.st_size > most:
        return f"has {size_text(about.st_size)}, more than it can have"
    return None


def read(path: pathlib.Path, *, most: int) -> bytes:
    """Returns what is in a file.

    Args:
      path: the file.
      most: bytes that it can have.

    Raises:
      FileNotFoundError: there is none.
      OSError: it is no regular file, or larger, or cannot be read.
    """
    wrong = problem(path, most=most)
    if wrong is not None:
        raise OSError(wrong)
    return path.read_bytes()


def odd(
    folder: pathlib.Path, *, most: Callable[[pathlib.Path], int | None], leaf: str = ""
) -> Iterator[tuple[str, str]]:
    """Yields what a folder holds, at any depth, that is not to be opened, and why.

    Args:
      folder: which may itself be a link, as none inside it may that leads to a folder.
      most: bytes that a file in it can have, by its path.
      leaf: a file that stands only in folders without folders in them.
    """
    for where, folders, files in os.walk(folder):
        folders.sort()
        for name in folders:
            path = pathlib.Path(where, name)
            if path.is_symlink() or leaf in files:
                what = "is a link" if path.is_symlink() else "is not a regular file"
                yield path.relative_to(folder).as_posix(), what
        for name in sorted(files):
            path = pathlib.Path(where, name)
            wrong = problem(path, most=most(path))
            if wrong is not None:
                yield path.relative_to(folder).as_posix(), wrong
