"""The rates of this machine for matrix products and for copies of memory."""

import statistics
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp

ROUNDS = 5
COPIES = 10  # started one after another, so that starting them is not what takes time


def median_seconds(call: Callable[[], object]) -> float:
    """Returns the median time of a call in seconds, without the first call, which compiles."""
    times = []
    for _ in range(ROUNDS + 1):
        start = time.perf_counter()
        jax.block_until_ready(call())
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:])


def _on_every_device(size: tuple[int, ...]) -> jax.Array:
    """Returns random numbers, because GPUs multiply equal ones faster."""
    mesh = jax.make_mesh((jax.device_count(),), ("d",), axis_types=(jax.sharding.AxisType.Auto,))
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("d"))
    key, shape = jax.random.key(0), (mesh.size, *size)
    return jax.jit(lambda: jax.random.normal(key, shape, jnp.float32), out_shardings=sharding)()


def matrix_product_rate(*, precision: str = "highest") -> float:
    """Returns the FLOP/s of large float32 products, computed on all devices at the same time.

    Args:
      precision: A precision of JAX; `highest` is single precision.
    """
    n = 1024 if jax.default_backend() == "cpu" else 8192
    a = _on_every_device((n, n))
    product = jax.jit(lambda x: jnp.einsum("dij,djk->dik", x, x, precision=precision))
    return 2 * n**3 * jax.device_count() / median_seconds(lambda: product(a))


def copy_rate() -> float:
    """Returns the bytes/s that are read and written when all devices add 1 to large arrays."""
    a = _on_every_device((2**26 if jax.default_backend() == "cpu" else 2**29,))
    add = jax.jit(lambda x: x + 1)

    def copy() -> jax.Array:
        for _ in range(COPIES):
            last = add(a)
        return last

    return 2 * a.nbytes * COPIES / median_seconds(copy)
