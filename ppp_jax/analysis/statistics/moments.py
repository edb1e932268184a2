"""What statistics of samples are made of: sums over samples, along each vector by itself.

On an orthonormal basis every statistic of samples, and of the whitened ones, follows from four sums
along each vector. Of wide layers one product of the samples with a rotation serves all statistics,
and nothing as large as the samples is kept: they are turned window by window, and the sums are
added up. Of narrow layers the sums of even powers follow, for any vector, from those of the
products of pairs of units, which are added up once for all rotations.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from ppp_jax.analysis.projection.turns import Support, Turns, mirrored
from ppp_jax.analysis.projection.views import present
from ppp_jax.numerics import polar
from ppp_jax.resources import on_cores

T = TypeVar("T")

WINDOW = {"cpu": 2**19}  # numbers of a window, which a core's cache should hold
WINDOW_ELSEWHERE = 2**25  # of an accelerator
TOGETHER = 4  # rotations that an accelerator takes at a time
FLAT = 1e-6  # of the mean square: sums of fourth powers that follow from pairs lose a smaller one


class Moments(NamedTuple):
    """Sums over the samples of a cloud, of its projections p onto each vector.

    Attributes:
      absolute: Σ|p|, `(..., vectors)`; None where the others follow from pairs of units.
      square: Σ((p − p̄)/r)², with r the root of the mean square that the units' own mean squares
        give a vector; of the order of the number of samples.
      fourth: Σ((p − p̄)/r)⁴.
      angular: Σ(p/‖x‖)⁴.
      samples: The number of samples, which have a direction.
    """

    absolute: np.ndarray | None
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
    """Returns a cloud as `measure_moments` takes it, on JAX's default device if that is no CPU.

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

    def windowed(values: np.ndarray) -> np.ndarray:
        padded = np.zeros((number * rows, *values.shape[1:]), np.float32)
        padded[: len(values)] = values
        return padded.reshape(number, rows, *values.shape[1:])

    placed = blocks.placed(windowed(turned_back))  # (windows, samples, blocks, width)
    mirror = None if support is None else support.mirror
    parts = (
        np.ascontiguousarray(placed.swapaxes(1, 2)),
        windowed(there),
        windowed(_reciprocal_lengths(cloud)),
        None if whitened else blocks.placed(mean).astype(np.float32),
        blocks.placed(square).astype(np.float32),
        None if mirror is None else np.moveaxis(blocks.placed(mirror.T), 0, -1).astype(np.float32),
    )
    return Windows(*parts) if _on_cpu() else jax.device_put(Windows(*parts))


def _reciprocal_lengths(cloud: np.ndarray) -> np.ndarray:
    """Returns 1/‖x‖ of every sample, and 0 of rows of zeros, `(samples,)`."""
    with jax.debug_nans(False):  # a cloud that is missing has no lengths
        length = np.asarray(polar(cloud.astype(np.float32))[0])[:, 0]
    return np.where(length > 0, 1 / np.where(length > 0, length, 1), 0)


def measure_moments(windows: Windows, turns: Turns) -> Moments:
    """Returns the moments of a cloud X·Q for many rotations Q, in the standard basis.

    Args:
      windows: The cloud, as `windows_of` returns it for the blocks of the rotations.
      turns: The rotations.

    Returns:
      The moments along each unit, `(rotations, units)`, float64.
    """
    given = turns.turns.astype(np.float32)
    measure = _sums_by_blas if _on_cpu() else _sums_by_jax
    sums = [turns.restored(one).astype(np.float64) for one in measure(windows, given)]
    absolute, square, fourth, angular = sums
    samples = float(np.count_nonzero(jax.device_get(windows.reciprocal)))
    return Moments(absolute, square, fourth, angular, samples)


def moments_of_pairs(cloud: np.ndarray, vectors: np.ndarray) -> Moments | None:
    """Returns the moments of a narrow cloud along many vectors, by products of pairs of its units.

    Σ(x·b)⁴ is a quadratic form in the products b_i·b_j, with the sums of x_i·x_j·x_k·x_l in it.

    Args:
      cloud: The samples, `(samples, units)`, of which rows of zeros are none.
      vectors: Unit vectors, `(..., units)`.

    Returns:
      The moments along each vector, float64, without `absolute`; None where that takes longer than
      the samples themselves do, or where the cloud is so flat along a vector that the small
      difference of large sums would not be its fourth power.
    """
    units = cloud.shape[1]
    if (units * (units + 1) // 2) ** 2 > cloud.size:
        return None
    there, values = present(cloud)[:, None], cloud.astype(np.float64)
    samples = int(there.sum())
    count, vectors = max(1, samples), vectors.astype(np.float64)
    centred = np.where(there, values - values.sum(axis=0) / count, 0)
    size = np.square(vectors) @ np.square(centred).sum(axis=0) / count
    scale = 1 / np.where(size > 0, size, 1)
    square = scale * np.vecdot(vectors @ (centred.T @ centred), vectors)
    if np.any((square > 0) & (square < FLAT * count)):
        return None
    largest = np.abs(values).max(axis=1, keepdims=True)
    directions = values / np.where(there, largest, 1)
    directions /= np.where(there, np.linalg.norm(directions, axis=1, keepdims=True), 1)
    fourth, angular = _fourth(vectors, [centred, directions])
    return Moments(None, square, scale * scale * fourth, angular, float(samples))


def _fourth(vectors: np.ndarray, clouds: list[np.ndarray]) -> list[np.ndarray]:
    """Returns Σ(x·b)⁴ of several clouds along many vectors, `(...)` each."""
    first, second = np.triu_indices(vectors.shape[-1])
    weight = np.where(first == second, 1.0, 2.0)
    width = max(1, WINDOW["cpu"] // len(first))  # pairs of so many rows fit into a cache

    def total(cloud: np.ndarray) -> np.ndarray:
        found = np.zeros((len(first), len(first)))
        for start in range(0, len(cloud), width):
            part = cloud[start : start + width]
            products = part[:, first] * part[:, second]
            found += products.T @ products
        return found

    sums = [total(cloud) for cloud in clouds]
    rows = vectors.reshape(-1, vectors.shape[-1])
    found = np.empty((len(clouds), len(rows)))
    for start in range(0, len(rows), width):
        part = rows[start : start + width]
        pairs = part[:, first] * part[:, second] * weight
        for k, matrix in enumerate(sums):
            found[k, start : start + width] = np.vecdot(pairs @ matrix, pairs)
    return [*found.reshape(len(clouds), *vectors.shape[:-1])]


def _on_cpu() -> bool:
    return jax.default_backend() == "cpu"


def _sums_by_blas(windows: Windows, turns: np.ndarray) -> list[np.ndarray]:
    """Returns the four sums for every rotation, `(rotations, blocks, width)`.

    BLAS multiplies faster than XLA does on a CPU, and there XLA adds up along samples slowly.
    """

    def of_rotation(turn: np.ndarray) -> list[np.ndarray]:
        frame = _frame(windows, turn, np)
        parts = [_added_in_place(one, turn, frame, windows.mirror) for one in _each_window(windows)]
        return [sum(column[1:], start=column[0]) for column in zip(*parts, strict=True)]

    return [np.stack(column) for column in zip(*_on_cores(of_rotation, turns), strict=True)]


def _sums_by_jax(windows: Windows, turns: np.ndarray) -> list[np.ndarray]:
    """Returns the four sums for every rotation, `(rotations, blocks, width)`."""
    spare = -len(turns) % TOGETHER  # each part has as many, so that one program does for all
    padded = np.concatenate([turns, turns[:1].repeat(spare, axis=0)])
    with jax.debug_nans(False):  # a cloud that is missing has no number
        found = [
            jax.device_get(_traced(windows, jax.device_put(part)))
            for part in padded.reshape(-1, TOGETHER, *turns.shape[1:])
        ]
    return [np.concatenate(column)[: len(turns)] for column in zip(*found, strict=True)]


@jax.jit
def _traced(windows: Windows, turns: jax.Array) -> Any:
    def of_rotation(turn: jax.Array) -> Any:
        frame = _frame(windows, turn, jnp)

        def add(sums: Any, window: Any) -> Any:
            found = _added(window, turn, frame, windows.mirror)
            return tuple(a + b for a, b in zip(sums, found, strict=True)), None

        none = jnp.zeros(windows.square.shape, windows.square.dtype)
        given = (windows.values, windows.there, windows.reciprocal)
        return jax.lax.scan(add, (none,) * 4, given)[0]

    return jax.lax.map(of_rotation, turns)


def _on_cores(function: Callable[[np.ndarray], T], turns: np.ndarray) -> list[T]:
    """Returns a function of each rotation, several at a time; NaN of missing clouds are no error.

    Args:
      function: The function, which spends its time where Python's lock is not held.
      turns: The rotations.
    """

    def measured(turn: np.ndarray) -> T:
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            return function(turn)

    return on_cores(measured, turns)


def _each_window(windows: Windows) -> Iterator[tuple[Any, Any, Any]]:
    return zip(windows.values, windows.there, windows.reciprocal, strict=True)


def _frame(windows: Windows, turn: Any, xp: Any) -> tuple[Any, Any]:
    """Returns the turned mean, if there is one, and 1/r of each vector."""
    mean, mirror = windows.mean, windows.mirror
    centre = None if mean is None else _back(_product(mean[:, None], turn, xp), mirror, xp)
    size = xp.sqrt(_product(windows.square[:, None], xp.square(turn), xp))
    if mirror is not None:  # whitened samples vary equally in all directions
        size = xp.full_like(size, xp.sqrt(xp.mean(size * size)))
    return centre, 1 / xp.where(size > 0, size, xp.ones_like(size))


def _added(window: Any, turn: Any, frame: tuple[Any, Any], mirror: Any) -> tuple[Any, ...]:
    """Returns the four sums over the samples of one window."""
    (values, there, reciprocal), (centre, scale) = window, frame
    onto = _back(_product(values, turn, jnp), mirror, jnp)
    whole = onto if centre is None else onto + there[None, :, None] * centre
    even, angle = jnp.square(onto * scale), jnp.square(whole * reciprocal[None, :, None])
    parts = (jnp.abs(whole), even, even * even, angle * angle)
    return tuple(jnp.sum(part, axis=1) for part in parts)


def _added_in_place(
    window: Any, turn: np.ndarray, frame: tuple[Any, Any], mirror: Any
) -> tuple[np.ndarray, ...]:
    """Does what `_added` does in NumPy, for which every new array takes longer than the sums."""
    (values, there, reciprocal), (centre, scale) = window, frame
    whole = _back(_product(values, turn, np), mirror, np)
    part = whole * scale
    square = np.square(part, out=part).sum(axis=1)
    fourth = np.square(part, out=part).sum(axis=1)
    if centre is not None:
        whole += np.multiply(there[None, :, None], centre, out=part)
    np.square(np.multiply(whole, reciprocal[None, :, None], out=part), out=part)
    angular = np.square(part, out=part).sum(axis=1)
    return np.abs(whole, out=whole).sum(axis=1), square, fourth, angular


def _product(values: Any, turn: Any, xp: Any) -> Any:
    """Returns values times the rotation of each block, in full precision."""
    how = {} if xp is np else {"precision": jax.lax.Precision.HIGHEST}
    return xp.matmul(values, turn, **how)


def _back(onto: Any, mirror: Any, xp: Any) -> Any:
    """Returns turned samples, `(blocks, samples, width)`, after the reflection of their support."""
    if mirror is None:
        return onto
    within = xp.sum(_product(onto, mirror, xp), axis=0)  # (samples, missing), of all blocks
    return onto - _product(within[None], xp.swapaxes(mirror, 1, 2), xp)


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
    given = turns.turns.astype(np.float32)
    if _on_cpu():
        along = np.stack(_on_cores(lambda turn: _along(inside, turn, np), given))
    else:
        with jax.debug_nans(False):
            along = jax.device_get(_traced_along(*jax.device_put((inside, given))))
    total = float(np.sum(np.square(matrix, dtype=np.float64)))
    return Variances(turns.restored(along).astype(np.float64), total)


@jax.jit
def _traced_along(matrix: jax.Array, turns: jax.Array) -> jax.Array:
    return jax.lax.map(lambda turn: _along(matrix, turn, jnp), turns)


def _along(matrix: Any, turn: Any, xp: Any) -> Any:
    """Returns bᵀMb of each column b of a rotation, `(blocks, width)`."""
    return xp.sum(_product(matrix, turn, xp) * turn, axis=1)
