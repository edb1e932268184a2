"""Which checkpoints there are, and whether one is what was saved."""

import contextlib
import json
import logging
import pathlib
import re
import sys
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from ppp_jax.engine import states
from ppp_jax.files import regular
from ppp_jax.files.integrity import is_intact, sealed

STATE, META, COMMITTED = "state", "meta", "_CHECKPOINT_METADATA"
LARGEST_META = 2**20  # bytes
AROUND = 2**26  # bytes of a file beside the numbers that it holds
MAX_DIGITS = 18


def describe(step: int, state: Any, *, runs: int, identity: str) -> dict[str, Any]:
    """Returns what is kept beside the states to tell later whether they are intact.

    All processes call it.

    Args:
      step: after which they are saved.
      state: cell name to its states.
      runs: of every cell.
      identity: of the part, see `manifest.identity`.
    """
    return sealed(
        {
            "part": identity,
            "step": step,
            "runs": runs,
            "bytes": sum(leaf.nbytes for leaf in jax.tree.leaves(state)),
            "state": states.digest(state, runs=runs),
        }
    )


def steps(folder: pathlib.Path, *, most: int | None = None) -> list[int]:
    """Returns the steps of a part's complete checkpoints, ascending.

    Args:
      folder: of the part's checkpoints; it need not exist.
      most: steps of the whole training; what claims to be of a later one does not count.
    """
    entries = folder.iterdir() if folder.is_dir() else ()
    found = sorted(int(path.name) for path in entries if is_complete(path))
    return [step for step in found if most is None or step <= most]


def is_complete(path: pathlib.Path) -> bool:
    """Returns whether a folder is named after a step and says that all of it was saved.

    Args:
      path: the folder.
    """
    if not re.fullmatch(r"0|[1-9][0-9]*", path.name) or len(path.name) > MAX_DIGITS:
        return False
    mark = path / COMMITTED
    return path.is_dir() and mark.is_file() and regular.problem(mark, most=LARGEST_META) is None


def most(path: pathlib.Path) -> int | None:
    """Returns how many bytes a file of a checkpoint can have, where its name tells.

    Args:
      path: the file.
    """
    return LARGEST_META if path.name in (COMMITTED, "metadata") else None


def is_temporary(path: pathlib.Path) -> bool:
    """Returns whether a save is at work in a folder, or was when its process was killed."""
    return ".orbax-checkpoint-tmp" in path.name


def problem(folder: pathlib.Path, *, runs: int, identity: str) -> str | None:
    """Returns what is wrong with a checkpoint, or None if it holds what was saved, bit for bit.

    One process alone may ask; the states are read whole into its memory.

    Args:
      folder: of the checkpoint, named after its step.
      runs: of every cell.
      identity: of the part, see `manifest.identity`.
    """
    try:
        wrong = regular.problem(folder / META / "metadata", most=LARGEST_META)
        if wrong is not None:
            return f"{META}/metadata {wrong}"
        about: Any = json.loads((folder / META / "metadata").read_bytes())
        if not is_intact(about):
            return f"{META} is not what was saved"
        if about.get("part") != identity:
            return "it is of another run, or of another part of this one"
        if (about.get("step"), about.get("runs")) != (int(folder.name), runs):
            return f"{META} is of another step, or of other runs"
        largest = 2 * about["bytes"] + AROUND
        for name, wrong in regular.odd(folder, most=lambda _: largest):
            return f"{name} {wrong}"  # before a library opens it
        with _quiet():
            found = _read((folder / STATE).absolute(), about["bytes"])
            same = found is not None and states.digest(found, runs=runs) == about[STATE]
    except (MemoryError, PermissionError):
        raise
    except Exception as error:  # whatever libraries find in damaged files
        told = (str(error) or type(error).__name__).strip().splitlines()[0]
        return f"{STATE} or {META} cannot be read: {told}"
    return None if same else f"{STATE} is not what was saved"


def _read(folder: pathlib.Path, size: int) -> Any:
    """Returns saved states as NumPy's arrays; None if they are not of the size in bytes."""
    here = jax.process_index()
    alone = ocp.options.MultiprocessingOptions(
        primary_host=here, active_processes={here}, barrier_sync_key_prefix=f"read_by_{here}"
    )
    handler = ocp.PyTreeCheckpointHandler(multiprocessing_options=alone)
    with ocp.Checkpointer(handler, multiprocessing_options=alone) as reader:
        kept = reader.metadata(folder).item_metadata
        if kept is None:  # what says which arrays there are is damaged
            return None
        tree = kept.tree
        claimed = sum(
            int(np.prod(leaf.shape, dtype=object)) * np.dtype(leaf.dtype).itemsize
            for leaf in jax.tree.leaves(tree)
        )
        if claimed != size:  # looked at before anything of that size is allocated
            return None
        how = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree)
        return reader.restore(folder, args=ocp.args.PyTreeRestore(restore_args=how))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keeps what libraries say of damaged files from the user, who is told in one line."""
    if not isinstance(sys.unraisablehook, _WithoutLateReads):
        sys.unraisablehook = _WithoutLateReads(sys.unraisablehook)
    logger = logging.getLogger("absl")
    before = logger.disabled
    logger.disabled = True
    try:
        yield
    finally:
        logger.disabled = before


class _WithoutLateReads:
    """Says nothing of reads that end after the one that found the damage has ended them all.

    They may end at any time later, and Python would print a traceback of each.
    """

    def __init__(self, otherwise: Callable[[Any], Any]):
        self.otherwise = otherwise

    def __call__(self, unraisable: Any) -> None:
        if str(unraisable.exc_value) != "Event loop is closed":
            self.otherwise(unraisable)
