"""What statistics of wide layers are made of: sums over samples, of each unit by itself.

On an orthonormal basis every statistic of samples, and of the whitened ones, follows from four sums
along each vector. So one product of the samples with a rotation serves all statistics, and nothing
as large as the samples is kept: they are turned window by window, and the sums are added up.
"""

import concurrent.futures
import functools
import os
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ppp_jax.analysis.projection.turns import Support, Turns, mirrored
from ppp_jax.analysis.projection.views import present
from ppp_jax.numerics import polar

WINDOW = {"cpu": 2**17}  # numbers of a window, which a core's cache should hold
WINDOW_ELSEWHERE = 2**25  # of an accelerator
TOGETHER = 4  # rotations that a core takes at a time


class Moments(NamedTuple):
    """Sums over the samples of a cloud, of its projections p onto each vector.

    Attributes:
      absolute: Σ|p|, `(..., vectors)`.
      square: Σ((p − p̄)/r)², with r the root of the mean square that the units' own mean squares
        give a vector; of the order of the number of samples.
      fourth: Σ((p − p̄)/r)⁴.
      angular: Σ(p/‖x‖)⁴.
      samples: The number of samples, which have a direction.
    """

    absolute: np.ndarray
    square: np.ndarray
    fourth: np.ndarray
    angular: np.ndarray
    samples: float


class Variances(NamedTuple):
    """What a matrix of second moments is along each vector.

    Attributes:
      along: bᵀMb of each vector b, `(..., vectors)`.
      total: ‖M‖², the sum of the squares of its entries, which no rotation changes.
    """

    along: np.ndarray
    total: float


class Windows(NamedTuple):
    """A cloud in windows of samples, and its units in blocks.

    Attributes:
      values: The samples without their mean, `(windows, blocks, samples, width)`.
      there: 1 for a sample and 0 for a row that is none, `(windows, samples)`.
      reciprocal: 1/‖x‖ of the sample, or 0, `(windows, samples)`.
      mean: The mean sample, `(blocks, width)`; None of whitened samples, which have none.
      square: The mean square of each unit around its mean, `(blocks, width)`.
      mirror: V of the reflection I − V·Vᵀ after the rotation, `(blocks, width, missing)`, or None.
    """

    values: Any
    there: Any
    reciprocal: Any
    mean: Any
    square: Any
    mirror: Any


def windows_of(
    cloud: np.ndarray,
    place: np.ndarray,
    *,
    support: Support | None = None,
    whitened: bool = False,
) -> Windows:
    """Returns a cloud as `measure_moments` takes it, on JAX's default device.

    Args:
      cloud: `(samples, units)`, of which rows of zeros are no samples.
      place: The units of each block, as `Turns` has them.
      support: How rotations stay within the subspace in which the cloud varies; None if it varies
        in all directions.
      whitened: Whether the samples are whitened: their mean is 0.
    """
    if support is not None and support.axes is not None:
        # The coordinates in the subspace, which are taken for units.
        cloud = (cloud @ support.axes.astype(cloud.dtype)).astype(cloud.dtype)
        place, support = np.arange(cloud.shape[1])[None], None
    blocks = Turns(place, np.empty((0, *place.shape, place.shape[1])))
    there = present(cloud)
    count = max(1, np.count_nonzero(there))
    mean = cloud.sum(axis=0, dtype=np.float64) / count
    centred = np.where(there[:, None], cloud - mean, 0).astype(np.float32)
    turned_back, mean = mirrored(centred, support), mirrored(mean[None], support)[0]
    square = np.einsum("su,su->u", centred, centred, dtype=np.float64) / count
    size = WINDOW.get(jax.default_backend(), WINDOW_ELSEWHERE)
    rows = min(len(cloud), max(1, size // cloud.shape[1]))
    number = -(-len(cloud) // rows)
    with jax.debug_nans(False):  # a cloud that is missing has no lengths
        length = np.asarray(polar(cloud.astype(np.float32))[0])[:, 0]
    reciprocal = np.where(length > 0, 1 / np.where(length > 0, length, 1), 0)

    def windowed(values: np.ndarray) -> np.ndarray:
        padded = np.zeros((number * rows, *values.shape[1:]), np.float32)
        padded[: len(values)] = values
        return padded.reshape(number, rows, *values.shape[1:])

    placed = blocks.placed(windowed(turned_back))  # (windows, samples, blocks, width)
    mirror = None if support is None else support.mirror
    parts = (
        np.ascontiguousarray(placed.swapaxes(1, 2)),
        windowed(there),
        windowed(reciprocal),
        None if whitened else blocks.placed(mean).astype(np.float32),
        blocks.placed(square).astype(np.float32),
        None if mirror is None else np.moveaxis(blocks.placed(mirror.T), 0, -1).astype(np.float32),
    )
    return jax.device_put(Windows(*parts))


def measure_moments(windows: Windows, turns: Turns) -> Moments:
    """Returns the moments of a cloud X·Q for many rotations Q, in the standard basis.

    Args:
      windows: The cloud, as `windows_of` returns it for the blocks of the rotations.
      turns: The rotations.

    Returns:
      The moments along each unit, `(rotations, units)`, float64.
    """
    given = turns.turns.astype(np.float32)
    spare = -len(given) % TOGETHER  # each part has as many, so that one program does for all
    padded = np.concatenate([given, given[:1].repeat(spare, axis=0)])
    parts = padded.reshape(-1, TOGETHER, *given.shape[1:])

    def measure(part: np.ndarray) -> Any:
        with jax.debug_nans(False):  # a cloud that is missing has no number
            return jax.device_get(_sums(windows, jax.device_put(part)))

    # XLA:CPU computes sums on one core: several parts at once keep all of them at work.
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as workers:
        found = list(workers.map(measure, parts))
    sums = [np.concatenate(column)[: len(given)] for column in zip(*found, strict=True)]
    samples = float(np.count_nonzero(jax.device_get(windows.reciprocal)))
    absolute, square, fourth, angular = (turns.restored(one).astype(np.float64) for one in sums)
    return Moments(absolute, square, fourth, angular, samples)


@jax.jit
def _sums(windows: Windows, turns: jax.Array) -> Any:
    """Returns the four sums, `(rotations, blocks, width)` each."""
    mean, square = windows.mean, windows.square[:, None]

    def of_rotation(turn: jax.Array) -> Any:
        centre = None if mean is None else _back(_product(mean[:, None], turn), windows.mirror)
        size = jnp.sqrt(_product(square, jnp.square(turn)))
        if windows.mirror is not None:  # whitened samples vary equally in all directions
            size = jnp.full_like(size, jnp.sqrt(jnp.mean(size * size)))
        scale = 1 / jnp.where(size > 0, size, 1)

        def add(sums: Any, window: Any) -> Any:
            values, there, reciprocal = window
            onto = _back(_product(values, turn), windows.mirror)
            whole = onto if centre is None else onto + there[None, :, None] * centre
            even, angle = jnp.square(onto * scale), jnp.square(whole * reciprocal[None, :, None])
            parts = (jnp.abs(whole), even, even * even, angle * angle)
            return tuple(a + jnp.sum(b, axis=1) for a, b in zip(sums, parts, strict=True)), None

        none = jnp.zeros(scale[:, 0].shape, scale.dtype)
        given = (windows.values, windows.there, windows.reciprocal)
        return jax.lax.scan(add, (none,) * 4, given)[0]

    return jax.lax.map(of_rotation, turns)


def _product(values: jax.Array, turn: jax.Array) -> jax.Array:
    """Returns values times the rotation of each block, in full precision."""
    return jnp.matmul(values, turn, precision=jax.lax.Precision.HIGHEST)


def _back(onto: jax.Array, mirror: jax.Array | None) -> jax.Array:
    """Returns turned samples, `(blocks, samples, width)`, after the reflection of their support."""
    if mirror is None:
        return onto
    full = functools.partial(jnp.einsum, precision=jax.lax.Precision.HIGHEST)
    return onto - full("sm,bwm->bsw", full("bsw,bwm->sm", onto, mirror), mirror)


def measure_variances(matrix: np.ndarray, turns: Turns) -> Variances:
    """Returns what QᵀMQ is along each unit for many rotations Q, `(rotations, units)`.

    Within blocks the rotations see no more of the matrix than the blocks on its diagonal.

    Args:
      matrix: M, `(units, units)`.
      turns: The rotations Q.
    """
    there = turns.place >= 0
    inside = matrix[turns.place[:, :, None], turns.place[:, None, :]]
    inside = np.where(there[:, :, None] & there[:, None, :], inside, 0).astype(np.float32)
    with jax.debug_nans(False):
        placed = jax.device_put((inside, turns.turns.astype(np.float32)))
        along = turns.restored(jax.device_get(_along(*placed)))
    return Variances(along.astype(np.float64), float(np.sum(np.square(matrix, dtype=np.float64))))


@jax.jit
def _along(matrix: jax.Array, turns: jax.Array) -> jax.Array:
    return jax.lax.map(lambda turn: jnp.sum(_product(matrix, turn) * turn, axis=1), turns)
