"""What somebody else has put into the folders of a run that are replaced as a whole.

Training anew replaces checkpoints and latents, a larger grid the latents. So whatever is in them
that neither the ledger names nor is laid out as orbax and zarr do it is looked for before.
"""

import functools
import json
import operator
import os
import pathlib
import re
import stat
from collections.abc import Callable, Iterator

from ppp_jax.errors import InputError, printable
from ppp_jax.files import atomic, ledger

REPLACED = (ledger.FILE, ".zattrs", ".zmetadata")  # files of a store, each replaced in one move
_METADATA = (".zgroup", ".zarray", ".zattrs", ".zmetadata")
_N = "(0|[1-9][0-9]*)"
_CHUNK = re.compile(rf"{_N}(\.{_N})*")
# Of a writer that was killed; zarr puts this in the place of what follows the last dot, if any.
_ZARR_PARTIAL = re.compile(r"(.*)\.[0-9a-f]{32}\.partial")
LARGEST_METADATA = 2**20  # bytes
# Orbax writes below another name until a save is complete, and tensorstore locks files it writes.
_SAVING = r"(\.orbax-checkpoint-tmp)?"
_ARRAYS = r"(manifest\.ocdbt|d/[0-9a-f]{32})(\.__lock)?"
_STATE = (
    rf"(_METADATA|_sharding(\.__lock)?|array_metadatas/process_{_N}|(ocdbt\.process_{_N}/)?{_ARRAYS}"
    r"|commit_success\.txt)"
)
_STEP = (
    rf"(_CHECKPOINT_METADATA|commit_success\.txt|meta{_SAVING}/(metadata|commit_success\.txt)"
    rf"|state{_SAVING}/{_STATE})"
)
_SAVED_STEP = re.compile(rf"{_N}/{_N}{_SAVING}/")
# What was set aside as damaged has a number behind its name if that was taken.
_CHECKPOINT = re.compile(rf"({_N}/{_N}{_SAVING}|{_N}\.damaged/{_N}(\.{_N})?)/{_STEP}")


def refuse(folder: pathlib.Path, *, what: str) -> None:
    """Refuses to replace a folder that is a link, or holds a file of somebody else's.

    Args:
      folder: `checkpoints` or `latents.zarr` of a run folder, there or not.
      what: is about to be done.

    Raises:
      InputError: naming the link or the first such file.
    """
    workdir, name = folder.parent, folder.name
    if folder.is_symlink():
        problem = (
            f"its {name} is a link, and {what} would not follow it; move the folder that it leads "
            "to here in its place, or move the whole run folder and link that"
        )
        raise InputError("workdir", workdir, problem)
    is_ours = _of_latents(folder) if folder.suffix == ".zarr" else _is_of_checkpoints
    _refuse_first(folder, (file for file in _files(folder) if not is_ours(file)), what)


def refuse_saved(folder: pathlib.Path) -> None:
    """Refuses to train on if a checkpoint holds a file of somebody else's: old ones are deleted.

    Args:
      folder: `checkpoints` of a run folder, there or not.

    Raises:
      InputError: naming the first such file.
    """
    inside = (file for file in _files(folder) if _SAVED_STEP.match(file))
    others = (file for file in inside if not _is_of_checkpoints(file))
    _refuse_first(folder, others, "training on")


def _refuse_first(folder: pathlib.Path, others: Iterator[str], what: str) -> None:
    for file in others:
        named = f"{folder.name}/{printable(file)}"
        problem = f"{named} is not of a run, and {what} would delete it; move it to another folder"
        raise InputError("workdir", folder.parent, problem)


def _is_of_checkpoints(name: str) -> bool:
    return _CHECKPOINT.fullmatch(name) is not None


def _files(folder: pathlib.Path) -> Iterator[str]:
    """Yields the paths of all files in a folder, and of links whatever they lead to, in order."""
    for where, folders, files in os.walk(folder):
        folders.sort()
        here = pathlib.Path(where)
        links = [name for name in folders if (here / name).is_symlink()]
        for name in sorted(files + links):
            yield (here / name).relative_to(folder).as_posix()


def _of_latents(store: pathlib.Path) -> Callable[[str], bool]:
    """Returns what tells whether a file of a store, by its path there, is one that a run wrote."""
    try:
        kept = ledger.read(store)
    except InputError:  # a damaged store may be overwritten
        kept = None
    known = None if kept is None else kept.files
    counts = functools.cache(lambda folder: _chunk_counts(store / folder / ".zarray"))

    def is_chunk(folder: str, numbers: list[int]) -> bool:
        if known and f"{folder}/.zarray" not in known:
            return False
        if (most := counts(folder)) is None:  # of a damaged store, whose metadata may be lost
            return not (store / folder / ".zgroup").exists()
        return len(numbers) == len(most) and all(map(operator.lt, numbers, most))

    def is_ours(name: str) -> bool:
        folder, slash, file = name.rpartition("/")
        if known is not None and name in known:
            return True
        if partial := _ZARR_PARTIAL.fullmatch(file):
            return any(is_ours(folder + slash + partial[1] + end) for end in ("", ".0"))
        if _CHUNK.fullmatch(file):
            return is_chunk(folder, [int(number) for number in file.split(".")])
        if atomic.is_partial(store / name, REPLACED):
            return True
        return name == ledger.FILE or (known is None and file in _METADATA)

    return is_ours


def _chunk_counts(metadata: pathlib.Path) -> list[int] | None:
    """Returns how many chunks an array has along each axis; None if that cannot be read.

    An array of no axes has one chunk, whose name is 0 too.
    """
    try:
        if not stat.S_ISREG(metadata.stat().st_mode):
            return None
        with metadata.open("rb") as file:
            about = json.loads(file.read(LARGEST_METADATA))
        pairs = zip(about["shape"], about["chunks"], strict=True)
        return [-(-length // chunk) for length, chunk in pairs] or [1]
    except (OSError, ValueError, TypeError, KeyError, ZeroDivisionError, RecursionError):
        return None
