"""Files of other people in the folders of a run that are replaced as a whole.

Overwriting a run replaces its checkpoints and latents, and extending a grid replaces its latents.
So files that are neither in the ledger nor named as orbax and zarr name theirs are detected
before, and are not deleted.
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

REPLACED = (ledger.FILE, ".zattrs", ".zmetadata")  # files of a store that are replaced atomically
_METADATA = (".zgroup", ".zarray", ".zattrs", ".zmetadata")
_N = "(0|[1-9][0-9]*)"
_CHUNK = re.compile(rf"{_N}(\.{_N})*")
# File of a writer that was killed. zarr writes this ending in place of what follows the last dot.
_ZARR_PARTIAL = re.compile(r"(.*)\.[0-9a-f]{32}\.partial")
LARGEST_METADATA = 2**20  # most bytes of a metadata file
# Orbax writes under another name until a save is complete, and tensorstore adds lock files.
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
# A checkpoint that was set aside as damaged has a number appended if its name was in use.
_CHECKPOINT = re.compile(rf"({_N}/{_N}{_SAVING}|{_N}\.damaged/{_N}(\.{_N})?)/{_STEP}")


def refuse(folder: pathlib.Path, *, what: str) -> None:
    """Checks that a folder can be replaced without deleting other people's files.

    Args:
      folder: `checkpoints` or `latents.zarr` of a run folder, which need not exist.
      what: What would replace the folder, such as `overwriting`, for the error message.

    Raises:
      InputError: The folder is a link, or contains a file that no run wrote.
    """
    workdir, name = folder.parent, folder.name
    if folder.is_symlink():
        problem = (
            f"its {name} is a link, and {what} would not follow it; replace the link by the folder "
            "itself, or move the whole run folder and link to that"
        )
        raise InputError("workdir", workdir, problem)
    is_ours = _of_latents(folder) if folder.suffix == ".zarr" else _is_of_checkpoints
    _refuse_first(folder, (file for file in _files(folder) if not is_ours(file)), what)


def refuse_saved(folder: pathlib.Path) -> None:
    """Checks that checkpoints, which are deleted as training goes on, hold no other people's files.

    Args:
      folder: `checkpoints` of a run folder, which need not exist.

    Raises:
      InputError: A checkpoint contains a file that no run wrote.
    """
    inside = (file for file in _files(folder) if _SAVED_STEP.match(file))
    others = (file for file in inside if not _is_of_checkpoints(file))
    _refuse_first(folder, others, "training on")


def _refuse_first(folder: pathlib.Path, others: Iterator[str], what: str) -> None:
    for file in others:
        named = f"{folder.name}/{printable(file)}"
        problem = f"{named} was not written by a run, and {what} would delete it; move it elsewhere"
        raise InputError("workdir", folder.parent, problem)


def _is_of_checkpoints(name: str) -> bool:
    return _CHECKPOINT.fullmatch(name) is not None


def _files(folder: pathlib.Path) -> Iterator[str]:
    """Yields the relative paths of all files and links in a folder, in order."""
    for where, folders, files in os.walk(folder):
        folders.sort()
        here = pathlib.Path(where)
        links = [name for name in folders if (here / name).is_symlink()]
        for name in sorted(files + links):
            yield (here / name).relative_to(folder).as_posix()


def _of_latents(store: pathlib.Path) -> Callable[[str], bool]:
    """Returns a function that tells whether a run wrote the file at a path in a store."""
    try:
        kept = ledger.read(store)
    except InputError:  # damaged stores can be overwritten
        kept = None
    known = None if kept is None else kept.files
    counts = functools.cache(lambda folder: _chunk_counts(store / folder / ".zarray"))

    def is_chunk(folder: str, numbers: list[int]) -> bool:
        if known and f"{folder}/.zarray" not in known:
            return False
        if (most := counts(folder)) is None:  # the store is damaged and can lack metadata
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
    """Returns the number of chunks of an array along each axis; None if it cannot be read.

    An array without axes has one chunk, whose name is 0.
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
