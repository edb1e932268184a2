"""Two ways to find the samples that may lie near a plane; neither overlooks one.

The *dense* search looks at every plane and sample, jitted, in single precision with a margin for
rounding. The *pruned* search uses that, of the two vectors of an accepted plane, the one with the
larger projection has a² ≥ (1 − |g|) ε²‖x‖²/2. In an orthonormal basis at most ⌊2/ε²⌋ vectors reach
this, so most samples of a wide layer are dropped after one comparison per vector.
"""

from collections.abc import Iterator

import jax
import numpy as np

from ppp_jax.analysis.projection.planes import Basis

CANDIDATES = 2**22  # Number of (plane, sample) pairs that are looked at together.
# A pair costs the pruned search 20 times what it costs the dense search, whose start costs as much
# as 2**20 of its pairs.
PRUNED_COST, DENSE_START = 20, 2**20
LOOK_ROWS = 256  # Number of rows from which the cheaper of the two searches is estimated.
SINGLE_MARGIN = 2.0**-19  # This is more than the error of single precision on unit vectors.

Candidates = tuple[np.ndarray, np.ndarray, np.ndarray]  # These are row, i and j of each candidate.


def find(onto: np.ndarray, square: np.ndarray, frame: Basis, least: float) -> Iterator[Candidates]:
    """Finds all accepted pairs of a sample and a plane, and a few others, by the cheaper search.

    Args:
      onto: Projections of some samples onto the vectors of the basis, `(rows, vectors)`, float64.
      square: Squared lengths ‖x‖² of these samples, positive, `(rows,)`.
      frame: The basis and its planes.
      least: The smallest (r/‖x‖)² that is accepted.

    Yields:
      Row, i and j of each candidate, with i < j; each candidate occurs at most once.
    """
    rows, stride = len(onto), 1 + len(onto) // LOOK_ROWS
    some = np.square(onto[::stride])
    expected = stride * np.count_nonzero(_leads(some, square[::stride], frame, least))
    if PRUNED_COST * expected * frame.size > DENSE_START + rows * len(frame.pairs):
        yield from _dense(onto, square, frame, least)
    else:
        yield from _pruned(onto, square, frame, least)


def _leads(squares: np.ndarray, square: np.ndarray, frame: Basis, least: float) -> np.ndarray:
    """Returns which vectors may lead an accepted pair, `(rows, vectors)`.

    The vector with the larger projection of the two *leads* the pair.
    """
    return np.asarray(squares >= least * square[:, None] * frame.bound)


def _pruned(
    onto: np.ndarray, square: np.ndarray, frame: Basis, least: float
) -> Iterator[Candidates]:
    """Pairs each leading vector of a sample with the vectors of smaller or equal projection."""
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
            # Parallel vectors span no plane, so their values are not used.
            reach /= np.maximum(1 - g * g, 1e-9)
        # Cancellation and the division cost at most eight digits, which the margin of 1e-8 covers.
        keep = (reach >= (least - 1e-8) * square.take(row)[:, None]) & (others <= mine)
        which, other = np.divmod(np.flatnonzero(keep), size)
        row, lead = row[which], lead[which]
        # If both projections are equal the first vector leads, so that no pair occurs twice and no
        # vector is paired with itself.
        once = (at(squares, row, other) < at(squares, row, lead)) | (lead < other)
        row, lead, other = row[once], lead[once], other[once]
        i, j = np.minimum(lead, other), np.maximum(lead, other)
        if len(frame.pairs) < size * (size - 1) // 2:
            exists = (at(frame.number, i, j) >= 0) | (at(frame.number, j, i) >= 0)
            row, i, j = row[exists], i[exists], j[exists]
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
    """Returns a mask of the samples that may lie near each plane, `(pairs, samples)`."""
    u = direction[first]
    v = direction[second] - cosine[:, None] * u
    return u * u + v * v * inverse[:, None] >= least[:, None]


def _dense(
    onto: np.ndarray, square: np.ndarray, frame: Basis, least: float
) -> Iterator[Candidates]:
    """Finds candidates among all pairs and samples."""
    first, second = frame.pairs.T
    g = np.zeros(len(first)) if frame.gram is None else frame.gram[first, second]
    inverse = 1 / (1 - g * g)
    # The error of v is a rounding unit divided by the sine of the angle between the vectors.
    bounds = least - SINGLE_MARGIN * (1 + np.sqrt(inverse))
    plane = [x.astype(np.float32) for x in (g, inverse, bounds)]
    step = _block_rows(len(onto), len(first))
    direction = (onto / np.sqrt(square)[:, None]).astype(np.float32)
    for start in range(0, len(onto), step):
        block = direction[start : start + step]
        padded = np.zeros((frame.size, step), np.float32)  # Few shapes need few compilations.
        padded[:, : len(block)] = block.T
        near = np.asarray(_reach(padded, first, second, *plane))[:, : len(block)]
        pair, row = np.divmod(np.flatnonzero(near), len(block))
        yield start + row, first[pair], second[pair]


def _block_rows(rows: int, pairs: int) -> int:
    """Returns a number of rows, a power of two, for which all pairs fit into a block."""
    most = max(1, CANDIDATES // pairs)
    return min(2 ** (most.bit_length() - 1), 2 ** (rows - 1).bit_length())


def at(matrix: np.ndarray, row: np.ndarray, column: np.ndarray) -> np.ndarray:
    """Returns `matrix[row, column]`, in half the time that NumPy's indexing takes.

    Args:
      matrix: A matrix, `(rows, columns)`.
      row: Indices of rows, of any shape.
      column: Indices of columns, of the same shape.
    """
    return matrix.take(row.astype(np.int64, copy=False) * matrix.shape[1] + column)
