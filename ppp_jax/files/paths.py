"""Paths as users give them, checked before anything is opened."""

import os
import pathlib
from typing import Any

from ppp_jax.errors import InputError


def located(field: str, value: Any) -> pathlib.Path:
    """Returns a path with its `~` resolved, there or not.

    Args:
      field: the setting that names it.
      value: a text, or a path of Python's.

    Raises:
      InputError: it is neither, it is empty, or no system could open it: a zero byte, a name that
        is too long, a `~user` who is not known, a folder on the way that may not be looked into.
    """
    if not isinstance(value, str | os.PathLike) or not isinstance(os.fspath(value), str):
        raise InputError(field, value, "must be a path")
    if not os.fspath(value):
        raise InputError(field, value, "is empty; give a path")
    if "\0" in os.fspath(value):
        raise InputError(field, value, "has a zero byte, which no path may have")
    try:
        path = pathlib.Path(value).expanduser()
    except RuntimeError:
        raise InputError(field, value, "names a user (~) who is not known here") from None
    try:
        os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return path  # not there, which is for the caller to judge
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise InputError(field, value, f"cannot be opened ({why})") from None
    return path
