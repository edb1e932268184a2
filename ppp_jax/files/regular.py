"""Checks that a path is a regular file of plausible size, before it is opened.

Reading a pipe can block for ever, and reading a device can go on without end. A run folder can come
from another person, or can have been changed. So every reader of its files calls these functions
first.
"""

import errno
import os
import pathlib
import stat
from collections.abc import Callable, Iterator

from ppp_jax.resources import size_text


def problem(path: pathlib.Path, *, most: int | None = None) -> str | None:
    """Returns the reason why a path must not be opened, or None if it may be or does not exist.

    Args:
      path: Path of the file. Links are followed.
      most: Largest plausible size in bytes; None means that there is no limit.

    Raises:
      OSError: The system does not allow access to the path.

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
        return f"has {size_text(about.st_size)}, more than expected"
    return None


def read(path: pathlib.Path, *, most: int) -> bytes:
    """Returns the content of a file.

    Args:
      path: Path of the file.
      most: Largest plausible size in bytes.

    Raises:
      FileNotFoundError: The file does not exist.
      OSError: The path is not a regular file, is too large, or cannot be read.
    """
    wrong = problem(path, most=most)
    if wrong is not None:
        raise OSError(wrong)
    return path.read_bytes()


def odd(
    folder: pathlib.Path, *, most: Callable[[pathlib.Path], int | None], leaf: str = ""
) -> Iterator[tuple[str, str]]:
    """Yields the paths inside a folder, at any depth, that must not be opened, and the reasons.

    Args:
      folder: The folder, which may be a link. Links to folders inside it are reported.
      most: Function of a file's path that returns its largest plausible size in bytes, or None.
      leaf: Name of a file that occurs only in folders without subfolders.
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
