"""The checkpoints of a part, and checks that a checkpoint is undamaged."""

import contextlib
import json
import logging
import pathlib
import re
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from ppp_jax.engine import states
from ppp_jax.files import regular
from ppp_jax.files.integrity import is_intact, sealed

if TYPE_CHECKING:
    import orbax.checkpoint as ocp

STATE, META, COMMITTED = "state", "meta", "_CHECKPOINT_METADATA"
LARGEST_META = 2**20  # most bytes of a metadata file
AROUND = 2**26  # most bytes of a file in addition to its numbers
MAX_DIGITS = 18  # most digits of a step


def describe(step: int, state: Any, *, runs: int, identity: str) -> dict[str, Any]:
    """Returns the entries that are saved with states, by which damage is later detected.

    All processes must call this function.

    Args:
      step: Step after which the states are saved.
      state: States by the names of cells.
      runs: Number of runs of every cell.
      identity: Identity of the part, see `manifest.identity`.
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
      folder: Folder of the part's checkpoints, which need not exist.
      most: Last step of the training. Checkpoints of later steps are ignored.
    """
    entries = folder.iterdir() if folder.is_dir() else ()
    found = sorted(int(path.name) for path in entries if is_complete(path))
    return [step for step in found if most is None or step <= most]


def is_complete(path: pathlib.Path) -> bool:
    """Returns whether a folder is a completely saved checkpoint.

    Args:
      path: Path of the folder, whose name must be a step.
    """
    if not re.fullmatch(r"0|[1-9][0-9]*", path.name) or len(path.name) > MAX_DIGITS:
        return False
    mark = path / COMMITTED
    return path.is_dir() and mark.is_file() and regular.problem(mark, most=LARGEST_META) is None


def most(path: pathlib.Path) -> int | None:
    """Returns the most bytes that a file of a checkpoint can have; None if its name does not tell.

    Args:
      path: Path of the file.
    """
    return LARGEST_META if path.name in (COMMITTED, "metadata") else None


def is_temporary(path: pathlib.Path) -> bool:
    """Returns whether a folder is an incomplete save, by a process at work or a killed one."""
    return ".orbax-checkpoint-tmp" in path.name


def problem(folder: pathlib.Path, *, runs: int, identity: str) -> str | None:
    """Returns what is wrong with a checkpoint, or None if it equals what was saved, bit for bit.

    A single process may call this function. It reads the states into its memory as a whole.

    Args:
      folder: Folder of the checkpoint, named after its step.
      runs: Number of runs of every cell.
      identity: Identity of the part, see `manifest.identity`.
    """
    try:
        wrong = regular.problem(folder / META / "metadata", most=LARGEST_META)
        if wrong is not None:
            return f"{META}/metadata {wrong}"
        about: Any = json.loads((folder / META / "metadata").read_bytes())
        if not is_intact(about):
            return f"{META} is not what was saved"
        if about.get("part") != identity:
            return "it belongs to another run, or to another part of this run"
        if (about.get("step"), about.get("runs")) != (int(folder.name), runs):
            return f"{META} belongs to another step, or to other runs"
        largest = 2 * about["bytes"] + AROUND
        for name, wrong in regular.odd(folder, most=lambda _: largest):
            return f"{name} {wrong}"  # checked before a library opens it
        with _quiet():
            found = _read((folder / STATE).absolute(), about["bytes"])
            same = found is not None and states.digest(found, runs=runs) == about[STATE]
    except (MemoryError, PermissionError):
        raise
    except Exception as error:  # libraries raise many types of errors for damaged files
        message = (str(error) or type(error).__name__).strip().splitlines()[0]
        return f"{STATE} or {META} cannot be read: {message}"
    return None if same else f"{STATE} is not what was saved"


def _read(folder: pathlib.Path, size: int) -> Any:
    """Returns saved states as NumPy arrays; None if their size is not `size` bytes."""
    import orbax.checkpoint as ocp  # imported late: help and plans do without it

    options = alone("read")
    handler = ocp.PyTreeCheckpointHandler(multiprocessing_options=options)
    with ocp.Checkpointer(handler, multiprocessing_options=options) as reader:
        kept = reader.metadata(folder).item_metadata
        if kept is None:  # the list of arrays is damaged
            return None
        tree = kept.tree
        claimed = sum(
            int(np.prod(leaf.shape, dtype=object)) * np.dtype(leaf.dtype).itemsize
            for leaf in jax.tree.leaves(tree)
        )
        if claimed != size:  # checked before arrays of that size are allocated
            return None
        how = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree)
        return reader.restore(folder, args=ocp.args.PyTreeRestore(restore_args=how))


def alone(what: str) -> "ocp.options.MultiprocessingOptions":
    """Returns orbax's options for a process that works without the others.

    Args:
      what: What is done, which distinguishes simultaneous work.
    """
    import orbax.checkpoint as ocp  # imported late: help and plans do without it

    here = jax.process_index()
    return ocp.options.MultiprocessingOptions(
        primary_host=here, active_processes={here}, barrier_sync_key_prefix=f"{what}_by_{here}"
    )


def restored(folder: pathlib.Path, like: Any) -> Any:
    """Restores saved states in a process that reads all of them from its own copy of the folder.

    Args:
      folder: Folder of a complete checkpoint.
      like: Abstract states with the shapes, dtypes and shardings of the result, whose padding can
        differ from that of the saved states.
    """
    import orbax.checkpoint as ocp  # imported late: help and plans do without it

    here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    local = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=here), like)
    options = alone("restored")
    handler = ocp.StandardCheckpointHandler(multiprocessing_options=options)
    with ocp.Checkpointer(handler, multiprocessing_options=options) as reader:
        item = ocp.args.StandardRestore(local, strict=False)
        found = reader.restore((folder / STATE).absolute(), args=item)

    def spread(leaf: Any, wanted: Any) -> jax.Array:
        values = np.asarray(leaf)
        return jax.make_array_from_callback(values.shape, wanted.sharding, lambda at: values[at])

    return jax.tree.map(spread, found, like)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Suppresses libraries' messages about damaged files, which our error reports in one line."""
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
    """Hook that ignores reads which were cancelled because another read found damage.

    Such reads can end at any later time, and Python would print a traceback of each.
    """

    def __init__(self, otherwise: Callable[[Any], Any]):
        self.otherwise = otherwise

    def __call__(self, unraisable: Any) -> None:
        if str(unraisable.exc_value) != "Event loop is closed":
            self.otherwise(unraisable)
