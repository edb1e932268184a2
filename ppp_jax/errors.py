"""The one error a user's setting can cause, and the checks of settings that raise it."""

import contextlib
import difflib
import math
import operator
import unicodedata
from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from typing import Any, TypeVar

T = TypeVar("T")
LONGEST_VALUE = 200  # characters of an offending value that an error repeats


def printable(text: object) -> str:
    r"""Returns a text as one line that a terminal can show and no terminal obeys.

    Control characters, among them those that begin a terminal's escape sequences, those that break
    lines and those that turn the direction of writing, become Python's escapes.

    Args:
      text: anything; `str` of it.

    Example:
      >>> printable("a\x1b[31mred\nb")
      'a\\x1b[31mred\\nb'
    """
    return "".join(
        character if unicodedata.category(character) not in _UNPRINTABLE else
        ascii(character)[1:-1] for character in str(text)
    )  # fmt: skip


# Control, format, surrogate, private-use characters, and separators of lines and paragraphs.
_UNPRINTABLE = {"Cc", "Cf", "Cs", "Co", "Zl", "Zp"}


def shortened(text: str) -> str:
    """Returns a text of at most `LONGEST_VALUE` characters, its middle left out if it has more.

    Args:
      text: one line.
    """
    half = LONGEST_VALUE // 2 - 2
    return text if len(text) <= LONGEST_VALUE else f"{text[:half]} … {text[-half:]}"


class InputError(ValueError):
    """A setting that cannot be used.

    Its text is one line, `field=value: what is wrong and what to do`, in which `field` is both the
    argument's name in Python and the flag's name on the command line.
    """

    def __init__(self, field: str, value: object, problem: str):
        """Names the setting, the offending value and the remedy."""
        told = shortened(printable(_text(value)))
        super().__init__(f"{field}={told}: {printable(problem)}")
        self.field = field
        self.value = value
        self.problem = problem


def _text(value: object) -> str:
    """Returns what Python says of a value, or its type where it does not say anything."""
    try:
        return str(value)
    except Exception:  # whole numbers of thousands of digits; an author's own __str__
        return f"<{type(value).__name__}>"


def whole(field: str, value: Any, *, least: int, most: int | None = None) -> int:
    """Returns a setting that must be a whole number, and raises `InputError` if it is not.

    Args:
      field: the setting.
      value: what it is set to; a truth value is no number.
      least: the smallest that makes sense.
      most: the largest; None: any.
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
    """Returns the seed of a draw: a whole number of 32 bits, which is what JAX keeps of it.

    Args:
      value: what it is set to.
      field: the setting.
    """
    return whole(field, value, least=0, most=2**32 - 1)


def real(field: str, value: Any, *, least: float = -math.inf, most: float = math.inf) -> float:
    """Returns a setting that must be one finite number, and raises `InputError` if it is not.

    Args:
      field: the setting.
      value: what it is set to: a number of Python or NumPy, or an array of no dimension.
      least: the smallest that makes sense.
      most: the largest.
    """
    kind = getattr(getattr(value, "dtype", None), "kind", None)
    number = isinstance(value, int | float) if kind is None else kind in "iuf"
    try:
        found = float(_no_truth(value)) if number else math.nan
    except (TypeError, ValueError, OverflowError):  # arrays; whole numbers of 400 digits
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
        raise TypeError("a truth value")
    return value


def choice(field: str, value: Any, known: Sequence[str]) -> str:
    """Returns a setting that must be one of a few words, and raises `InputError` if it is not.

    Args:
      field: the setting.
      value: what it is set to.
      known: the words.
    """
    if isinstance(value, str) and value in known:
        return value
    raise InputError(field, value, f"must be {' or '.join(map(repr, known))}")


def truth(field: str, value: Any) -> bool:
    """Returns a setting that must be True or False, and raises `InputError` if it is neither.

    Args:
      field: the setting.
      value: what it is set to; a text such as "no" would count as true.
    """
    if isinstance(value, bool) or type(value).__name__ in ("bool", "bool_"):  # NumPy's
        return bool(value)
    raise InputError(field, value, "must be True or False")


@contextlib.contextmanager
def writing(field: str, path: object) -> Iterator[None]:
    """Turns the system's refusal to write into an `InputError`.

    Args:
      field: the setting that names the place.
      path: the place.
    """
    try:
        yield
    except OSError as error:
        problem = f"cannot be written ({error.strerror or error}); mend that or name another place"
        raise InputError(field, path, problem) from error


def enter(registry: MutableMapping[str, T], name: str, entry: T, *, field: str) -> T:
    """Adds an entry to a registry.

    Args:
      registry: names to entries.
      name: letters, digits and underscores, a letter first; it stands in flags, tables and paths.
      entry: what is registered.
      field: what the name is of, for the error's text.

    Returns:
      The entry.

    Raises:
      InputError: the name is no such name, or is taken.
    """
    if not isinstance(name, str) or not (name.isascii() and name.isidentifier()):
        raise InputError(field, name, "must be letters, digits and underscores, a letter first")
    if name in registry:
        raise InputError(field, name, "is registered already; choose another name")
    registry[name] = entry
    return entry


def lookup(registry: Mapping[str, T], name: str, *, field: str) -> T:
    """Returns `registry[name]`.

    Args:
      registry: names to entries.
      name: the name asked for.
      field: the setting that named it, for the error's text.

    Raises:
      InputError: no name, or no such one; the error suggests the nearest ones and lists all.

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
