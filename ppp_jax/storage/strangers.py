"""What somebody else has put into the folders of a run that are replaced as a whole.

Training anew replaces checkpoints and latents, a larger grid the latents. So whatever is in them
that neither the ledger names nor is laid out as orbax and zarr do it is looked for before.
"""

import os
import pathlib
import re
from collections.abc import Callable, Iterator

from ppp_jax.errors import InputError, printable
from ppp_jax.files import atomic, ledger

REPLACED = (ledger.FILE, ".zattrs", ".zmetadata")  # files of a store, each replaced in one move
_METADATA = (".zgroup", ".zarray", ".zattrs", ".zmetadata")
_CHUNK = re.compile(r"\d+(\.\d+)*")
_ZARR_PARTIAL = re.compile(r".*\.[0-9a-f]{32}\.partial")  # of a writer that was killed
_SAVED_STEP = re.compile(r"\d+/\d+/")
# Orbax writes below another name until a save is complete, and tensorstore locks files it writes.
_SAVED = r"(_[^/]*|metadata|manifest\.ocdbt|array_metadatas/[^/]*|d/[0-9a-f]+)"
_CHECKPOINT = re.compile(
    r"\d+(\.damaged)?/\d+(\.[^/]*)?/"
    r"((state|meta|descriptor)(\.[^/]*)?/(ocdbt\.process_[^/]*/)?)?"
    rf"({_SAVED}(\.__lock)?|commit_success\.txt|descriptor\.pbtxt)"
)


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

    def is_ours(name: str) -> bool:
        file = store / name
        if known is not None and name in known:
            return True
        if _ZARR_PARTIAL.fullmatch(file.name) or atomic.is_partial(file, REPLACED):
            return True
        if _CHUNK.fullmatch(file.name):
            array = f"{name.rpartition('/')[0]}/.zarray"
            # Of a damaged store, it may have no metadata any more.
            return array in known if known else not (file.parent / ".zgroup").exists()
        return name == ledger.FILE or (known is None and file.name in _METADATA)

    return is_ours
