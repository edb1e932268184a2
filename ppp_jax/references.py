"""References `module:attribute` to what users bring in files of their own.

A name in a flag or in a grid is one of

  tanh                       a registered name,
  block_tanh:4               a form, whose text behind the colon is a number or the word `trained`,
  my_file:shrink             a reference, whose text behind the colon is an attribute's name,
  tanh@rotated, my_file:shrink@my_file:frame
                             one of these over a basis, which is a name, a form or a reference.

The module of a reference is imported as Python imports it, and from the working directory. The
attribute can lie in another one, as in `my_file:Family.shrink`.
"""

import hashlib
import importlib
import importlib.util
import os
import pathlib
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from ppp_jax.errors import InputError, printable, shortened

WORDS = ("trained",)  # texts behind a colon that are no attributes
_PATH = r"[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*"
_REFERENCE = re.compile(rf"(?P<module>{_PATH}):(?P<attribute>{_PATH})")
HOW = "a reference is module:attribute, with the module's file in the working directory"


class MissingError(InputError):
    """A reference cannot be imported here."""


class Reference(NamedTuple):
    """What a reference stands for.

    Attributes:
      name: The reference, `module:attribute`.
      value: The object.
      file: Name of the module's source file, or of its compiled one.
      sha256: SHA-256 of the file when the object was imported.
    """

    name: str
    value: Any
    file: str
    sha256: str


# What was imported, by the reference. A module that is reloaded has other objects.
_IMPORTED: dict[str, Reference] = {}


def is_reference(text: str) -> bool:
    """Returns whether a text has the form of a reference.

    Args:
      text: A name without a basis.

    Example:
      >>> [is_reference(text) for text in ("my_file:shrink", "tanh", "haar:0", "a.b:C.d")]
      [True, False, False, True]
    """
    found = _REFERENCE.fullmatch(text)
    return found is not None and found["attribute"] not in WORDS


def get(name: str, *, field: str) -> Reference:
    """Imports what a reference stands for.

    An object keeps the digest of the file from which it was imported, also if the file is changed
    while the program runs.

    Args:
      name: The reference, of which `is_reference` is true.
      field: Name of the setting that gives it, for the error message.

    Returns:
      The `Reference`. Equal calls return the same one, until the module is reloaded.

    Raises:
      MissingError: The module cannot be imported, or lacks the attribute.
    """
    path, _, attribute = name.partition(":")
    module = _module(path, name, field)
    value: Any = module
    for part in attribute.split("."):
        try:
            value = getattr(value, part)
        except AttributeError:
            known = [one for one in vars(module) if not one.startswith("_")]
            listed = shortened(", ".join(known)) or "nothing"
            problem = f"{_file(module)} has no {attribute} (it has: {listed})"
            raise MissingError(field, name, problem) from None
    kept = _IMPORTED.get(name)
    if kept is None or kept.value is not value:
        kept = Reference(name, value, _file(module), _digest(module))
        _IMPORTED[name] = kept
    return kept


def check_unchanged(names: Iterable[str], *, field: str) -> None:
    """Checks that the files of references are as they were when they were imported.

    Args:
      names: References.
      field: Name of the setting that gives them, for the error message.

    Raises:
      InputError: A file was changed since, so that the program would use what no file holds.
    """
    for name in names:
        kept = get(name, field=field)
        if kept.sha256 != _digest(_module(name.partition(":")[0], name, field)):
            module = name.partition(":")[0]
            raise InputError(
                field,
                name,
                f"{kept.file} has changed since it was imported; restart Python, or call "
                f"importlib.reload({module})",
            )


def name_of(value: Callable[..., Any], *, field: str, register: str) -> str:
    """Returns the reference of a function or a class that can be imported.

    Args:
      value: The object.
      field: Name of the setting that gives it, for the error message.
      register: Name of the function that registers such objects, for the error message.

    Raises:
      InputError: The object cannot be imported by a name, as functions of notebooks, lambdas and
        functions in functions cannot.

    Example:
      >>> name_of(pathlib.Path, field="data", register="register_dataset")
      'pathlib:Path'
    """
    module = getattr(value, "__module__", None)
    attribute = getattr(value, "__qualname__", getattr(value, "__name__", None))
    told = attribute if isinstance(attribute, str) else type(value).__name__
    name = f"{module}:{attribute}"
    importable = isinstance(module, str) and module != "__main__" and is_reference(name)
    if importable and module in sys.modules and get(name, field=field).value is value:
        return name
    raise InputError(
        field,
        told,
        "cannot be imported by its name; register it, "
        f'ppp_jax.{register}("my_name", {told if told.isidentifier() else "..."}), and give the '
        "name, or move it into a file of its own",
    )


def named(value: Any, registry: Mapping[str, Any], *, field: str, register: str) -> Any:
    """Returns the name of an entry or of a function, and other values unchanged.

    Args:
      value: A name, an entry of a registry, or the function of an entry.
      registry: The registry. An entry is a function, or a tuple that begins with one.
      field: Name of the setting that gives the value, for the error message.
      register: Name of the function that registers such objects, for the error message.

    Raises:
      InputError: The value is a function that is not registered and cannot be imported.
    """
    if isinstance(value, str):
        return value
    for name, entry in registry.items():
        if entry is value or (isinstance(entry, tuple) and entry[0] is value):
            return name
    if callable(value) or (isinstance(value, tuple) and value and callable(value[0])):
        return name_of(value, field=field, register=register)
    return value


def _module(path: str, name: str, field: str) -> Any:
    loaded = sys.modules.get(path)
    if loaded is not None:
        return loaded
    here = os.getcwd()
    if here not in sys.path and "" not in sys.path:  # `python -m` puts it there
        sys.path.append(here)
    try:
        importlib.invalidate_caches()  # the file can be newer than the listing of its folder
        return importlib.import_module(path)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{path}.".startswith(f"{error.name}."):
            raise MissingError(field, name, f"{path} needs {error.name}; install it") from None
        problem = f"there is no module {path} in {here} or among the installed ones; {HOW}"
        raise MissingError(field, name, problem) from None
    except InputError:
        raise
    except (Exception, SystemExit) as error:  # whatever the user's file raises
        why = shortened(printable(f"{type(error).__name__}: {error}"))
        raise MissingError(field, name, f"importing {path} fails ({why}); correct it") from error


def _file(module: Any) -> str:
    path = getattr(module, "__file__", None)
    return pathlib.Path(path).name if path else module.__name__


def _digest(module: Any) -> str:
    path = getattr(module, "__file__", None)
    try:
        content = pathlib.Path(path).read_bytes() if path else module.__name__.encode()
    except OSError:  # the file was removed after the import
        content = b""
    return hashlib.sha256(content).hexdigest()
