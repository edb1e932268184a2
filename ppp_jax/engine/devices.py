"""Devices and processes: where runs live, and what processes tell each other.

Runs are spread over all devices of all processes along one mesh axis. Every process holds the
same Python values and makes the same calls in the same order; with one process, the functions that
speak to others return at once.
"""

import json
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from ppp_jax.engine.interrupts import waiting
from ppp_jax.errors import InputError

RUNS = "runs"
REASON = 160  # characters of an error that other processes repeat
ALIGNMENT = 64  # bytes, of XLA:CPU


def runs_mesh(*, over: list[jax.Device] | None = None) -> Mesh:
    """Returns the mesh of one axis over the devices `over`, by default all there are."""
    over = jax.devices() if over is None else over
    return jax.make_mesh((len(over),), (RUNS,), axis_types=(AxisType.Auto,), devices=over)


def runs_sharding(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of an array whose leading axis is over runs."""
    return NamedSharding(mesh, PartitionSpec(RUNS))


def padded_count(runs: int, *, seed_batch: int, mesh: Mesh) -> int:
    """Returns `runs` rounded up to whole seed batches on every device."""
    block = seed_batch * mesh.size
    return -(-runs // block) * block


def shard_runs(tree: Any, mesh: Mesh) -> Any:
    """Places NumPy arrays, equal in all processes, with their leading axis over the mesh."""
    return _place(tree, runs_sharding(mesh))


def replicate(tree: Any, mesh: Mesh) -> Any:
    """Places NumPy arrays, equal in all processes, whole on every device.

    All CPU devices of a process read one copy: JAX uses the memory of an aligned NumPy array as it
    is. A copy it is nonetheless, so that no later change of the caller's arrays is seen.
    """
    return _place(jax.tree.map(_aligned, tree), NamedSharding(mesh, PartitionSpec()))


def _aligned(array: np.ndarray) -> np.ndarray:
    """Returns a copy that starts where XLA:CPU wants arrays to start."""
    room = np.empty(array.nbytes + ALIGNMENT, np.uint8)
    start = -room.ctypes.data % ALIGNMENT
    copy = room[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy


def _place(tree: Any, sharding: NamedSharding) -> Any:
    def place(array: np.ndarray) -> jax.Array:
        # Unlike `device_put`, this compares nothing between processes.
        return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])

    return jax.tree.map(place, tree)


def gather(tree: Any) -> Any:
    """Returns the arrays as NumPy arrays, whole in every process."""
    if jax.process_count() == 1:
        return jax.device_get(tree)
    with waiting():
        return multihost_utils.process_allgather(tree, tiled=True)


def process_count() -> int:
    """Returns how many processes there are."""
    return jax.process_count()


def exchange(value: Any) -> list[Any]:
    """Returns the value of every process, in order, in every process.

    Args:
      value: what JSON can hold.
    """
    if jax.process_count() == 1:
        return [value]
    text = np.frombuffer(json.dumps(value, default=str).encode(), np.uint8)
    with waiting():
        lengths = multihost_utils.process_allgather(np.array(text.size, np.int32))
        padded = np.zeros(lengths.max(), np.uint8)
        padded[: text.size] = text
        rows = multihost_utils.process_allgather(padded)
    return [
        json.loads(np.asarray(row)[:length].tobytes())
        for row, length in zip(rows, lengths, strict=True)
    ]


def is_main() -> bool:
    """Returns whether this is the process that prints, reports and writes what is not shared."""
    return jax.process_index() == 0


def meet() -> None:
    """Waits, however long, until all processes are here, and connects their devices.

    The first message over a connection gives up after a minute, later ones wait. Call it once,
    before anything that may take longer in one process than in another.

    Raises:
      InputError: the same in all processes: they do not have equally many devices.
    """
    if jax.process_count() == 1:
        return
    owners = [device.process_index for device in jax.devices()]
    check_equal_shares([owners.count(number) for number in range(jax.process_count())])
    wait = ocp.multihost.get_barrier_sync_fn()
    with waiting():
        wait(key="ppp_jax", timeout_ms=24 * 3600 * 1000)
    mesh = runs_mesh()
    gather(shard_runs(np.zeros(mesh.size, np.float32), mesh))
    barrier("connected")


def check_equal_shares(counts: Sequence[int]) -> None:
    """Refuses processes that do not have equally many devices: JAX can gather nothing from them.

    Args:
      counts: the number of devices of each process, in order.

    Raises:
      InputError: naming the first process that differs, and both numbers.

    Example:
      >>> check_equal_shares([2, 2])
    """
    for number, count in enumerate(counts):
        if count != counts[0]:
            problem = (
                f"process 0 has {counts[0]} devices, but process {number} has {count}; give each "
                "equally many: cores (taskset, containers), GPUs (CUDA_VISIBLE_DEVICES), or "
                "XLA_FLAGS=--xla_force_host_platform_device_count"
            )
            raise InputError("distributed", True, problem)


def barrier(name: str) -> None:
    """Waits until every process is at the same place."""
    if jax.process_count() > 1:
        with waiting():
            multihost_utils.sync_global_devices(name)


def on_main(function: Callable[[], None]) -> None:
    """Calls `function` in the main process, while the others wait; if it raises, all raise.

    Raises:
      InputError: in the other processes, if `function` raised in the main one: the same, if that
        is what it raised.
    """
    failure: Exception | None = None
    if is_main():
        try:
            function()
        except Exception as error:
            failure = error
    told = exchange(_told(failure))[0]
    if told is not None:
        raise failure or InputError(*told)


def _told(failure: Exception | None) -> list[str] | None:
    """Returns what the other processes raise if the main one has failed."""
    if failure is None:
        return None
    if isinstance(failure, InputError):
        return [failure.field, str(failure.value), f"{failure.problem} (in process 0)"]
    reason = f"{type(failure).__name__}: {str(failure)[:REASON]}"
    problem = f"has failed ({reason}), and with it all others; what it printed says more"
    return ["process_id", "0", problem]


def tell_all(value: int) -> int:
    """Returns the main process's `value` in every process."""
    if jax.process_count() == 1:
        return value
    with waiting():
        return int(multihost_utils.broadcast_one_to_all(np.int32(value)))


def any_process(flag: bool) -> bool:
    """Returns whether `flag` is set in any process."""
    if jax.process_count() == 1:
        return flag
    with waiting():
        return bool(multihost_utils.process_allgather(np.array(flag)).any())
