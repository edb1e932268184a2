"""Whether several processes were told the same: before anything is trained or written.

What each was told are *fields*, names to values that JSON can hold. The comparison is a pure
function; how fields travel is the caller's choice.
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
WINDOW = 60  # characters shown from where two long values begin to differ
SHARED_SECONDS = 5.0  # that a network's file system may take to show what another machine wrote
_ABSENT = "nothing"


class Disagreement(NamedTuple):
    """A field that two processes were told differently.

    Attributes:
      field: its name.
      values: of the two.
      processes: the numbers of the two, the first of which is 0.
    """

    field: str
    values: tuple[Any, Any]
    processes: tuple[int, int]


def disagreement(told: Sequence[Mapping[str, Any]]) -> Disagreement | None:
    """Returns the first field in which some process differs from process 0, or None.

    Args:
      told: the fields of each process, in order.

    Example:
      >>> disagreement([{"epochs": 30}, {"epochs": 30}, {"epochs": 31}])
      Disagreement(field='epochs', values=(30, 31), processes=(0, 2))
    """
    for number, other in enumerate(told):
        for field in (*told[0], *other):
            values = told[0].get(field, _ABSENT), other.get(field, _ABSENT)
            if values[0] != values[1]:
                return Disagreement(field, values, (0, number))
    return None


def check(told: Sequence[Mapping[str, Any]]) -> None:
    """Refuses what processes were told differently, in the same words in all of them.

    Args:
      told: the fields of each process, in order.

    Raises:
      InputError: naming the field and both values.
    """
    found = disagreement(told)
    if found is not None:
        mine, other = _apart(*(_text(value) for value in found.values))
        problem = f"in process 0, but {other} in process {found.processes[1]}; {REMEDY}"
        raise InputError(found.field, mine, problem)


def _text(value: Any) -> str:
    return "(empty)" if value == "" else str(value)


def _apart(one: str, other: str) -> tuple[str, str]:
    """Returns two texts so short that one line holds both, and so that they still differ."""
    short = shortened(one), shortened(other)
    if short[0] != short[1]:
        return short
    pairs = zip(one, other, strict=False)
    first = next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(one), len(other)))
    start = max(0, first - WINDOW // 2)
    return f"…{one[start : start + WINDOW]}…", f"…{other[start : start + WINDOW]}…"


def versions() -> dict[str, str]:
    """Returns what is installed, as far as results depend on it."""
    major, minor, _ = platform.python_version_tuple()
    return {
        "ppp_jax": __version__,
        "python": f"{major}.{minor}",
        **{name: importlib.metadata.version(name) for name in manifest.PACKAGES},
    }


def together(function: Callable[[], T]) -> T:
    """Calls `function` in every process; if one refuses its input, all do, in the same words.

    Args:
      function: what to call; it speaks to no other process.

    Raises:
      InputError: of the first process that raised one.
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
    config: Mapping[str, Any], dataset_sha256: str, how: Mapping[str, Any], workdir: pathlib.Path
) -> None:
    """Refuses calls of `sweep.train` that differ between processes.

    Args:
      config: `Grid.to_json` of what is to be trained.
      dataset_sha256: of the data.
      how: the other arguments.
      workdir: the run folder.

    Raises:
      InputError: naming the argument, version, condition or function that differs, and both
        values, of a function its fingerprint.
    """
    if devices.process_count() == 1:
        return
    conditions = manifest.conditions({})
    own = ("device", "cpu_threads") if how.get("allow_inexact_resume") else ()
    for name in ("seed_batch", *own):  # machines that are not alike, if that is allowed
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
        "workdir": str(workdir),
        **versions(),
        **conditions,
    }
    check(devices.exchange(fields))


def check_shared(workdir: pathlib.Path, lock: str) -> None:
    """Refuses a run folder that is not the same in all processes.

    Args:
      workdir: the run folder.
      lock: the name of the file in it that process 0 holds; a token is written into it.

    Raises:
      InputError: some process does not see what process 0 has written.
    """
    if devices.process_count() == 1:
        return
    path, token = workdir / lock, secrets.token_hex(16)
    mine = token

    def write() -> None:
        path.write_text(mine, encoding="utf-8")

    devices.on_main(write)
    token = devices.exchange(token)[0]
    seen = devices.exchange(_sees(path, token))
    if not all(seen):
        problem = (
            f"process {seen.index(False)} does not see the folder that process 0 writes into; "
            "name one on a file system that all machines share"
        )
        raise InputError("workdir", devices.exchange(str(workdir))[0], problem)


def _sees(path: pathlib.Path, token: str) -> bool:
    deadline = time.monotonic() + SHARED_SECONDS
    while True:
        try:
            if path.read_text(encoding="utf-8") == token:
                return True
        except (OSError, ValueError):  # not there, or something else
            if time.monotonic() > deadline:
                return False
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
