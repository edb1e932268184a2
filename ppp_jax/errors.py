"""The one error a user's setting can cause, and the checks of settings that raise it."""

import contextlib
import difflib
import math
import operator
import unicodedata
from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from typing import Any, TypeVar

T = TypeVar("T")
WRITE_REMEDY = "correct the cause, or choose another path"
LONGEST_VALUE = 200  # most characters of an offending value that an error quotes


def printable(text: object) -> str:
    r"""Returns a text as one line without characters that a terminal would act on.

    Control characters are replaced by Python's escapes. Among them are those that begin a
    terminal's escape sequences, those that break lines and those that reverse the writing
    direction.

    Args:
      text: Any object, which is converted by `str`.

    Example:
      >>> printable("a\x1b[31mred\nb")
      'a\\x1b[31mred\\nb'
    """
    whole = str(text)
    if whole.isprintable():  # pages show pictures as texts of a million letters
        return whole
    return "".join(
        character if unicodedata.category(character) not in _UNPRINTABLE else ascii(character)[1:-1]
        for character in whole
    )


# Control, format, surrogate, private-use characters, and separators of lines and paragraphs.
_UNPRINTABLE = {"Cc", "Cf", "Cs", "Co", "Zl", "Zp"}


def shortened(text: str) -> str:
    """Returns a text of at most `LONGEST_VALUE` characters; of a longer one the middle is left out.

    Args:
      text: One line of text.
    """
    half = LONGEST_VALUE // 2 - 2
    return text if len(text) <= LONGEST_VALUE else f"{text[:half]} … {text[-half:]}"


class InputError(ValueError):
    """A setting that cannot be used.

    The message is one line, `field=value: what is wrong and what to do`. `field` is both the
    argument's name in Python and the flag's name on the command line.

    Attributes:
      field: Name of the setting.
      value: The offending value.
      problem: What is wrong with the value, and the remedy.
    """

    def __init__(self, field: str, value: object, problem: str):
        """Composes the message of the setting's name, the offending value and the remedy."""
        quoted = shortened(printable(_text(value)))
        super().__init__(f"{field}={quoted}: {printable(problem)}")
        self.field = field
        self.value = value
        self.problem = problem

    def _render_traceback_(self) -> list[str]:
        """Returns what a notebook shows in place of a traceback."""
        return [f"InputError: {self}"]


def _text(value: object) -> str:
    """Returns `str` of a value, or the name of its type where `str` fails."""
    try:
        return str(value)
    except Exception:  # e.g. integers of thousands of digits, or a user's own __str__
        return f"<{type(value).__name__}>"


def whole(field: str, value: Any, *, least: int, most: int | None = None) -> int:
    """Returns a setting that must be a whole number.

    Args:
      field: Name of the setting, for the error message.
      value: Value of the setting. True and False are not accepted as numbers.
      least: Smallest valid number.
      most: Largest valid number; None means that there is no upper limit.

    Raises:
      InputError: The value is not a whole number, or lies outside the limits.
    """
    try:
        number = operator.index(_no_truth(value))
    except TypeError:
        raise InputError(field, value, "must be a whole number") from None
    if number < least:
        raise InputError(field, value, f"must be at least {least}")
    if most is not None and number > most:
        raise InputError(field, value, f"must be at most {most:,}")
    return number


def seeded(value: Any, *, field: str = "seed") -> int:
    """Returns a setting that must be a seed, a whole number from 0 to 2**32 − 1.

    JAX ignores the higher bits of a larger seed, so that two different seeds would draw the same.

    Args:
      value: Value of the setting.
      field: Name of the setting, for the error message.

    Raises:
      InputError: The value is not such a number.
    """
    return whole(field, value, least=0, most=2**32 - 1)


def real(field: str, value: Any, *, least: float = -math.inf, most: float = math.inf) -> float:
    """Returns a setting that must be one finite number.

    Args:
      field: Name of the setting, for the error message.
      value: Value of the setting: a Python or NumPy number, or an array without dimensions.
      least: Smallest valid number.
      most: Largest valid number.

    Raises:
      InputError: The value is not a finite number, or lies outside the limits.
    """
    kind = getattr(getattr(value, "dtype", None), "kind", None)
    number = isinstance(value, int | float) if kind is None else kind in "iuf"
    try:
        found = float(_no_truth(value)) if number else math.nan
    except (TypeError, ValueError, OverflowError):  # e.g. arrays, or integers of 400 digits
        found = math.nan
    if not math.isfinite(found):
        raise InputError(field, value, "must be a finite number")
    if not least <= found <= most:
        between = (
            f"lie in [{least:g}, {most:g}]" if math.isfinite(most) else f"be at least {least:g}"
        )
        raise InputError(field, value, f"must {between}")
    return found


def _no_truth(value: Any) -> Any:
    if isinstance(value, bool) or getattr(getattr(value, "dtype", None), "kind", None) == "b":
        raise TypeError("True and False are not numbers")
    return value


def choice(field: str, value: Any, known: Sequence[str]) -> str:
    """Returns a setting that must be one of a few words.

    Args:
      field: Name of the setting, for the error message.
      value: Value of the setting.
      known: The valid words.

    Raises:
      InputError: The value is not one of the words.
    """
    if isinstance(value, str) and value in known:
        return value
    raise InputError(field, value, f"must be {' or '.join(map(repr, known))}")


def truth(field: str, value: Any) -> bool:
    """Returns a setting that must be True or False.

    Other values are not converted, because `bool("no")` is True.

    Args:
      field: Name of the setting, for the error message.
      value: Value of the setting.

    Raises:
      InputError: The value is neither True nor False.
    """
    # NumPy calls its boolean type "bool" or "bool_", depending on the version.
    if isinstance(value, bool) or type(value).__name__ in ("bool", "bool_"):
        return bool(value)
    raise InputError(field, value, "must be True or False")


@contextlib.contextmanager
def writing(field: str, path: object) -> Iterator[None]:
    """Turns an `OSError` that occurs in the block into an `InputError`.

    Args:
      field: Name of the setting that gives the path, for the error message.
      path: Path that is written to in the block.

    Raises:
      InputError: The path cannot be written.
    """
    try:
        yield
    except OSError as error:
        problem = f"cannot be written ({error.strerror or error}); {WRITE_REMEDY}"
        raise InputError(field, path, problem) from error


def enter(
    registry: MutableMapping[str, T], name: str, entry: T, *, field: str, own: Sequence[T]
) -> T:
    """Adds an entry to a registry, or replaces one that a user added before.

    A cell of a notebook that is run again registers its name again. Run folders keep fingerprints,
    by which another function under the same name is noticed.

    Args:
      registry: Mapping from names to entries, which is changed.
      name: Name of the new entry: a Python identifier in ASCII, because flags, tables and paths
        contain it.
      entry: The new entry.
      field: What kind of thing is named, such as `activation`, for the error message.
      own: The entries of this package, which cannot be replaced.

    Returns:
      The entry.

    Raises:
      InputError: The name is not an identifier, or is that of an entry of this package.
    """
    if not isinstance(name, str) or not (name.isascii() and name.isidentifier()):
        problem = "must consist of letters, digits and underscores, and must not begin with a digit"
        raise InputError(field, name, problem)
    if any(registry.get(name) is one for one in own):
        raise InputError(field, name, "is registered already; choose another name")
    registry[name] = entry
    return entry


def lookup(registry: Mapping[str, T], name: str, *, field: str) -> T:
    """Returns an entry of a registry, `registry[name]`.

    Args:
      registry: Mapping from names to entries.
      name: Name of the entry.
      field: Name of the setting that gives the name, for the error message.

    Raises:
      InputError: The value is not a text, or no entry has this name. The message suggests similar
        names and lists all names.

    Example:
      >>> lookup({"tanh": 1, "relu": 2}, "tahn", field="activations")
      Traceback (most recent call last):
      ppp_jax.errors.InputError: activations=tahn: unknown; did you mean tanh? (known: relu, tanh)
    """
    if not isinstance(name, str):
        raise InputError(field, name, f"must be a name (known: {', '.join(sorted(registry))})")
    if name in registry:
        return registry[name]
    near = difflib.get_close_matches(name, registry, n=3, cutoff=0.5)
    hint = f"; did you mean {' or '.join(near)}?" if near else ""
    raise InputError(field, name, f"unknown{hint} (known: {', '.join(sorted(registry))})")
