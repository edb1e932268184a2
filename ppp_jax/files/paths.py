"""Checks of paths that users give, before anything is opened."""

import os
import pathlib
from typing import Any

from ppp_jax.errors import InputError


def located(field: str, value: Any) -> pathlib.Path:
    """Returns a path, which need not exist, with its `~` resolved.

    Args:
      field: Name of the setting that gives the path, for the error message.
      value: Value of the setting, a text or a path-like object.

    Raises:
      InputError: The value is not a path, is empty, contains a zero byte or an unknown `~user`, or
        cannot be accessed, because a name is too long or a parent folder may not be read.
    """
    if not isinstance(value, str | os.PathLike) or not isinstance(os.fspath(value), str):
        raise InputError(field, value, "must be a path")
    if not os.fspath(value):
        raise InputError(field, value, "is empty; give a path")
    if "\0" in os.fspath(value):
        raise InputError(field, value, "has a zero byte, which paths cannot contain; remove it")
    try:
        path = pathlib.Path(value).expanduser()
    except RuntimeError:
        raise InputError(
            field, value, "names a user (~) who does not exist on this machine"
        ) from None
    try:
        os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return path  # whether it must exist is decided by the caller
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise InputError(field, value, f"cannot be opened ({why})") from None
    return path
