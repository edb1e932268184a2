"""Distribution of arrays over devices, and communication between processes.

Runs are spread over all devices of all processes along one mesh axis. Every process holds the
same Python values and makes the same calls in the same order. In a single process, the functions
that communicate return at once.
"""

import json
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from ppp_jax.engine.interrupts import waiting
from ppp_jax.errors import InputError

RUNS = "runs"
REASON = 160  # most characters of the main process's error that other processes quote
ALIGNMENT = 64  # alignment of XLA:CPU's arrays, in bytes


def runs_mesh(*, over: list[jax.Device] | None = None) -> Mesh:
    """Returns a mesh with one axis over devices, by default over all devices of all processes."""
    over = jax.devices() if over is None else over
    return jax.make_mesh((len(over),), (RUNS,), axis_types=(AxisType.Auto,), devices=over)


def runs_sharding(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of an array whose leading axis is over runs."""
    return NamedSharding(mesh, PartitionSpec(RUNS))


def padded_count(runs: int, *, seed_batch: int, mesh: Mesh) -> int:
    """Returns a number of runs rounded up to whole seed batches on every device.

    Args:
      runs: Number of runs.
      seed_batch: Number of runs in a seed batch.
      mesh: Mesh of the devices.
    """
    block = seed_batch * mesh.size
    return -(-runs // block) * block


def shard_runs(tree: Any, mesh: Mesh) -> Any:
    """Shards NumPy arrays, which are equal in all processes, along their leading axis.

    Args:
      tree: Tree of arrays, whose leading axis is over runs.
      mesh: Mesh of the devices.
    """
    return _put(tree, runs_sharding(mesh))


def replicate(tree: Any, mesh: Mesh) -> Any:
    """Copies NumPy arrays, which are equal in all processes, to every device.

    All CPU devices of a process share one copy, because JAX uses the memory of an aligned NumPy
    array directly. The arrays are copied once, so that later changes of the caller's arrays have no
    effect.

    Args:
      tree: Tree of arrays.
      mesh: Mesh of the devices.
    """
    return _put(jax.tree.map(_aligned, tree), NamedSharding(mesh, PartitionSpec()))


def _aligned(array: np.ndarray) -> np.ndarray:
    """Returns a copy of an array whose memory is aligned as XLA:CPU requires."""
    buffer = np.empty(array.nbytes + ALIGNMENT, np.uint8)
    start = -buffer.ctypes.data % ALIGNMENT
    copy = buffer[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy


def _put(tree: Any, sharding: NamedSharding) -> Any:
    def put(array: np.ndarray) -> jax.Array:
        # `device_put` would compare the arrays of all processes.
        return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])

    return jax.tree.map(put, tree)


def gather(tree: Any) -> Any:
    """Returns sharded arrays as complete NumPy arrays in every process."""
    if jax.process_count() == 1:
        return jax.device_get(tree)
    with waiting():
        return multihost_utils.process_allgather(tree, tiled=True)


def process_count() -> int:
    """Returns the number of processes."""
    return jax.process_count()


def process_index() -> int:
    """Returns the number of this process, from 0."""
    return jax.process_index()


def exchange(value: Any) -> list[Any]:
    """Sends a value to all processes, and returns the values of all processes in their order.

    Args:
      value: Value of this process, which must be representable in JSON.
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
    """Returns whether this is the main process, which prints, reports and writes unshared files."""
    return jax.process_index() == 0


def meet() -> None:
    """Waits without limit until all processes have called this, and connects their devices.

    The first message over a connection fails after a minute, and later ones wait without limit. So
    this function must be called once, before anything that can take longer in one process than in
    another.

    Raises:
      InputError: The processes do not have equally many devices. All processes raise it.
    """
    if jax.process_count() == 1:
        return
    owners = [device.process_index for device in jax.devices()]
    check_equal_device_counts([owners.count(number) for number in range(jax.process_count())])
    from orbax import checkpoint as ocp  # imported late: help and plans do without it

    wait = ocp.multihost.get_barrier_sync_fn()
    with waiting():
        wait(key="ppp_jax", timeout_ms=24 * 3600 * 1000)
    mesh = runs_mesh()
    gather(shard_runs(np.zeros(mesh.size, np.float32), mesh))
    barrier("connected")


def check_equal_device_counts(counts: Sequence[int]) -> None:
    """Checks that all processes have equally many devices, which JAX needs to gather arrays.

    Args:
      counts: Number of devices of each process, in order.

    Raises:
      InputError: A process has another number of devices. The message names the first such process
        and both numbers.

    Example:
      >>> check_equal_device_counts([2, 2])
    """
    for number, count in enumerate(counts):
        if count != counts[0]:
            problem = (
                f"process 0 has {counts[0]} devices, but process {number} has {count}; give all "
                "processes equally many cores (taskset, containers), GPUs (CUDA_VISIBLE_DEVICES) "
                "or CPU devices (XLA_FLAGS=--xla_force_host_platform_device_count)"
            )
            raise InputError("distributed", True, problem)


def barrier(name: str) -> None:
    """Waits until every process has called this function with the same name."""
    if jax.process_count() > 1:
        with waiting():
            multihost_utils.sync_global_devices(name)


def on_main(function: Callable[[], None]) -> None:
    """Calls a function in the main process while the others wait. If it raises, all of them raise.

    Args:
      function: The function.

    Raises:
      InputError: In the other processes, if the function raised in the main process. It is the
        error of the main process if that is an `InputError`.
    """
    failure: Exception | None = None
    if is_main():
        try:
            function()
        except Exception as error:
            failure = error
    arguments = exchange(_error_arguments(failure))[0]
    if arguments is not None:
        raise failure or InputError(*arguments)


def _error_arguments(failure: Exception | None) -> list[str] | None:
    """Returns the arguments of the `InputError` that the other processes raise, or None."""
    if failure is None:
        return None
    if isinstance(failure, InputError):
        return [failure.field, str(failure.value), f"{failure.problem} (in process 0)"]
    reason = f"{type(failure).__name__}: {str(failure)[:REASON]}"
    problem = f"has failed ({reason}), and so all processes stop; its output tells more"
    return ["process_id", "0", problem]


def tell_all(value: int) -> int:
    """Returns the main process's integer in every process."""
    if jax.process_count() == 1:
        return value
    with waiting():
        return int(multihost_utils.broadcast_one_to_all(np.int32(value)))


def any_process(flag: bool) -> bool:
    """Returns whether a flag is set in any process."""
    if jax.process_count() == 1:
        return flag
    with waiting():
        return bool(multihost_utils.process_allgather(np.array(flag)).any())
