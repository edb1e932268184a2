"""Checks, before anything is trained or written, that all processes were given the same arguments.

The arguments of a process are *fields*, a mapping from names to values that JSON can represent. The
comparison is a pure function of the fields of all processes, which the caller exchanges.
"""

import importlib.metadata
import pathlib
import platform
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

from ppp_jax import __version__
from ppp_jax.engine import devices
from ppp_jax.errors import InputError, shortened
from ppp_jax.grid.fingerprints import fingerprints
from ppp_jax.grid.grid import Grid
from ppp_jax.storage import manifest

T = TypeVar("T")
REMEDY = "start the same command, with the same versions and data, on every machine"
WINDOW = 60  # characters shown around the first difference of two long values
# Longest time after which a network's file system shows what another machine wrote.
SHARED_SECONDS = 5.0
_ABSENT = "nothing"


class Disagreement(NamedTuple):
    """A field that has different values in two processes.

    Attributes:
      field: Name of the field.
      values: Values of the field in the two processes.
      processes: Numbers of the two processes, the first of which is 0.
    """

    field: str
    values: tuple[Any, Any]
    processes: tuple[int, int]


def disagreement(fields: Sequence[Mapping[str, Any]]) -> Disagreement | None:
    """Returns the first field in which some process differs from process 0, or None.

    Args:
      fields: Fields of each process, in order.

    Example:
      >>> disagreement([{"epochs": 30}, {"epochs": 30}, {"epochs": 31}])
      Disagreement(field='epochs', values=(30, 31), processes=(0, 2))
    """
    for number, other in enumerate(fields):
        for field in (*fields[0], *other):
            values = fields[0].get(field, _ABSENT), other.get(field, _ABSENT)
            if values[0] != values[1]:
                return Disagreement(field, values, (0, number))
    return None


def check(fields: Sequence[Mapping[str, Any]]) -> None:
    """Checks that all processes have the same fields.

    Args:
      fields: Fields of each process, in order.

    Raises:
      InputError: A field differs. The message, which is the same in all processes, names the field
        and both values.
    """
    found = disagreement(fields)
    if found is not None:
        mine, other = _apart(*(_text(value) for value in found.values))
        problem = f"in process 0, but {other} in process {found.processes[1]}; {REMEDY}"
        raise InputError(found.field, mine, problem)


def _text(value: Any) -> str:
    return "(empty)" if value == "" else str(value)


def _apart(one: str, other: str) -> tuple[str, str]:
    """Shortens two texts so that one line can show both and their difference."""
    short = shortened(one), shortened(other)
    if short[0] != short[1]:
        return short
    pairs = zip(one, other, strict=False)
    first = next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(one), len(other)))
    start = max(0, first - WINDOW // 2)
    return f"…{one[start : start + WINDOW]}…", f"…{other[start : start + WINDOW]}…"


def versions() -> dict[str, str]:
    """Returns the versions of the installed packages on which results depend."""
    major, minor, _ = platform.python_version_tuple()
    return {
        "ppp_jax": __version__,
        "python": f"{major}.{minor}",
        **{name: importlib.metadata.version(name) for name in manifest.PACKAGES},
    }


def together(function: Callable[[], T]) -> T:
    """Calls a function in every process. If it raises `InputError` in one, all processes raise it.

    Args:
      function: The function, which must not communicate with other processes.

    Returns:
      The result of the function in this process.

    Raises:
      InputError: The function raised it in some process. It is the error of the first such process.
    """
    result, refusal = None, None
    try:
        result = function()
    except InputError as error:
        if devices.process_count() == 1:
            raise
        refusal = [error.field, str(error.value), error.problem]
    for number, other in enumerate(devices.exchange(refusal)):
        if other is not None:
            field, value, problem = other
            raise InputError(field, value, f"{problem} (in process {number})")
    return result  # type: ignore[return-value]


def check_call(
    config: Mapping[str, Any], dataset_sha256: str, how: Mapping[str, Any], workdir: str
) -> None:
    """Checks that all processes call `sweep.train` with the same arguments.

    Args:
      config: Result of `Grid.to_json` for the grid to be trained.
      dataset_sha256: SHA-256 of the data.
      how: Other arguments by name.
      workdir: Path or address of the run folder.

    Raises:
      InputError: An argument, version, condition or function differs. The message names it and both
        values; the value of a function is its fingerprint.
    """
    if devices.process_count() == 1:
        return
    conditions = manifest.conditions({})
    own = ("device", "cpu_threads") if how.get("allow_inexact_resume") else ()
    for name in ("seed_batch", *own):  # different machines are accepted if inexact resumption is
        conditions.pop(name, None)
    functions = {
        f"{kind.removesuffix('s')} {name}": text
        for kind, of_kind in fingerprints(Grid.from_json(dict(config))).items()
        for name, text in of_kind.items()
    }
    fields = {
        **config,
        **functions,
        "sha256 of the data": dataset_sha256,
        **how,
        "workdir": workdir,
        **versions(),
        **conditions,
    }
    check(devices.exchange(fields))


def check_shared(workdir: pathlib.Path, lock: str) -> None:
    """Checks that all processes see the same run folder.

    Args:
      workdir: Path of the run folder.
      lock: Name of the lock file in it that process 0 holds, into which a token is written.

    Raises:
      InputError: A process does not see what process 0 has written.
    """
    if devices.process_count() == 1:
        return
    path, token = workdir / lock, secrets.token_hex(16)

    def write() -> None:
        path.write_text(token, encoding="utf-8")

    devices.on_main(write)
    seen = devices.exchange(_sees(path, devices.exchange(token)[0]))
    if not all(seen):
        problem = (
            f"process {seen.index(False)} does not see the folder that process 0 writes into; "
            "choose one on a file system that all machines share"
        )
        raise InputError("workdir", devices.exchange(str(workdir))[0], problem)


def _sees(path: pathlib.Path, token: str) -> bool:
    deadline = time.monotonic() + SHARED_SECONDS
    while True:
        try:
            if path.read_text(encoding="utf-8") == token:
                return True
        except (OSError, ValueError):  # the file does not exist yet, or is not a text
            if time.monotonic() > deadline:
                return False
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
