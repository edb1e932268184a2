"""Two ways to find the samples that may lie near a plane, of which neither overlooks one.

*Dense*: every plane and sample, jitted, in single precision with a margin for its rounding.
*Pruned*: of the two vectors of an accepted plane, the one on which the sample projects more has
a² ≥ (1 − |g|) ε²‖x‖²/2, which in an orthonormal basis at most ⌊2/ε²⌋ vectors reach, so that most
samples of a wide layer are dropped after one look.
"""

from collections.abc import Iterator

import jax
import numpy as np

from ppp_jax.analysis.projection.planes import Basis

CANDIDATES = 2**22  # (plane, sample) pairs looked at together
# A pair costs the pruned search so many times what it costs the dense one, which also has to start.
PRUNED_COST, DENSE_START = 20, 2**20
LOOK_ROWS = 256  # looked at to choose between the two
SINGLE_MARGIN = 2.0**-19  # more than single precision can be off on unit vectors

Candidates = tuple[np.ndarray, np.ndarray, np.ndarray]  # row, i, j of the frame's pairs


def find(onto: np.ndarray, square: np.ndarray, frame: Basis, least: float) -> Iterator[Candidates]:
    """Finds all accepted (row, pair), and a few that are not, in the cheaper of the two ways.

    Args:
      onto: projections of some samples onto the frame's vectors, `(rows, vectors)`, float64.
      square: ‖x‖² of these samples, positive, `(rows,)`.
      frame: the planes.
      least: the smallest (r/‖x‖)² that is accepted.

    Yields:
      Row, i and j of each candidate, i < j; each at most once.
    """
    rows, stride = len(onto), 1 + len(onto) // LOOK_ROWS
    some = np.square(onto[::stride])
    expected = stride * np.count_nonzero(_leads(some, square[::stride], frame, least))
    if PRUNED_COST * expected * frame.size > DENSE_START + rows * len(frame.pairs):
        yield from _dense(onto, square, frame, least)
    else:
        yield from _pruned(onto, square, frame, least)


def _leads(squares: np.ndarray, square: np.ndarray, frame: Basis, least: float) -> np.ndarray:
    """Returns which vectors a sample projects enough on to lead an accepted pair."""
    return np.asarray(squares >= least * square[:, None] * frame.bound)


def _pruned(
    onto: np.ndarray, square: np.ndarray, frame: Basis, least: float
) -> Iterator[Candidates]:
    """Pairs each leading vector of a sample with those on which it projects no more."""
    size, squares = frame.size, onto * onto
    leads = np.flatnonzero(_leads(squares, square, frame, least))
    step = max(1, CANDIDATES // size)
    for start in range(0, len(leads), step):
        row, lead = np.divmod(leads[start : start + step], size)
        mine, others = at(squares, row, lead)[:, None], squares.take(row, axis=0)
        reach = others + mine
        if frame.gram is not None:
            g = frame.gram.take(lead, axis=0)
            reach -= 2 * g * onto.take(row, axis=0) * at(onto, row, lead)[:, None]
            # Parallel vectors span no plane; what they give here is not used.
            reach /= np.maximum(1 - g * g, 1e-9)
        # Cancellation loses at most eight digits to the division; none is overlooked.
        keep = (reach >= (least - 1e-8) * square.take(row)[:, None]) & (others <= mine)
        which, other = np.divmod(np.flatnonzero(keep), size)
        row, lead = row[which], lead[which]
        # Of two equals the first leads; so no pair comes twice, and no vector with itself.
        once = (at(squares, row, other) < at(squares, row, lead)) | (lead < other)
        row, lead, other = row[once], lead[once], other[once]
        i, j = np.minimum(lead, other), np.maximum(lead, other)
        if len(frame.pairs) < size * (size - 1) // 2:
            there = (at(frame.number, i, j) >= 0) | (at(frame.number, j, i) >= 0)
            row, i, j = row[there], i[there], j[there]
        yield row, i, j


@jax.jit
def _reach(
    direction: jax.Array,
    first: jax.Array,
    second: jax.Array,
    cosine: jax.Array,
    inverse: jax.Array,
    least: jax.Array,
) -> jax.Array:
    """Returns which samples may lie near each pair's plane, `(pairs, samples)`."""
    u = direction[first]
    v = direction[second] - cosine[:, None] * u
    return u * u + v * v * inverse[:, None] >= least[:, None]


def _dense(
    onto: np.ndarray, square: np.ndarray, frame: Basis, least: float
) -> Iterator[Candidates]:
    """Looks at every pair and sample."""
    first, second = frame.pairs.T
    g = np.zeros(len(first)) if frame.gram is None else frame.gram[first, second]
    inverse = 1 / (1 - g * g)
    # v is off by a rounding unit over the sine of the angle between the vectors.
    bounds = least - SINGLE_MARGIN * (1 + np.sqrt(inverse))
    plane = [x.astype(np.float32) for x in (g, inverse, bounds)]
    step = _block_rows(len(onto), len(first))
    direction = (onto / np.sqrt(square)[:, None]).astype(np.float32)
    for start in range(0, len(onto), step):
        block = direction[start : start + step]
        padded = np.zeros((frame.size, step), np.float32)  # few shapes, few compilations
        padded[:, : len(block)] = block.T
        near = np.asarray(_reach(padded, first, second, *plane))[:, : len(block)]
        pair, row = np.divmod(np.flatnonzero(near), len(block))
        yield start + row, first[pair], second[pair]


def _block_rows(rows: int, pairs: int) -> int:
    """Returns a power of two of rows, no more than needed or than memory is meant to hold."""
    most = max(1, CANDIDATES // pairs)
    return min(2 ** (most.bit_length() - 1), 2 ** (rows - 1).bit_length())


def at(matrix: np.ndarray, row: np.ndarray, column: np.ndarray) -> np.ndarray:
    """Returns `matrix[row, column]`, in half the time.

    Args:
      matrix: `(rows, columns)`.
      row: any shape.
      column: of the same shape.
    """
    return matrix.take(row.astype(np.int64, copy=False) * matrix.shape[1] + column)
