"""The one kernel behind PPP and SRM: which samples lie near which privileged plane, and where.

For unit basis vectors b_i, b_j with cosine g, a sample x with projections a_i, a_j has in-plane
coordinates u = a_i, v = (a_j − g a_i)/√(1 − g²); it is accepted iff √(u² + v²) ≥ ε‖x‖
(METHOD §1–2). No matrix product per plane is needed: one product with the whole basis serves all.

Candidates are found quickly, in one of two ways that overlook none, and decided on in double
precision by one function. *Dense*: every plane and sample, jitted, in single precision with a
margin for its rounding. *Pruned*: of the two vectors of an accepted plane, the one on which the
sample projects more has a² ≥ (1 − |g|) ε²‖x‖²/2, which in an orthonormal basis at most ⌊2/ε²⌋
vectors reach, so that most samples of a wide layer are dropped after one look.
"""

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

from ppp_jax.analysis.arrays import Source, open_source, read
from ppp_jax.analysis.frames import Frame, build_frame
from ppp_jax.errors import InputError

WINDOW_ELEMENTS = 2**17  # projections held at once: they stay in the cache
CANDIDATES = 2**22  # (plane, sample) pairs looked at together
# A pair costs the pruned search so many times what it costs the dense one, which also has to start.
PRUNED_COST, DENSE_START = 20, 2**20
LOOK_ROWS = 256  # looked at to choose between the two
SCREENED = 256  # vectors from which on a product in advance pays, to know what to read again
# On the threshold means accepted: a few units of double rounding, however it was reached.
SLACK = 1 - 2.0**-46
SINGLE_MARGIN = 2.0**-20  # more than single precision can be off on unit vectors


class Survey(NamedTuple):
    """What one pass over the samples tells.

    Attributes:
      lengths: ‖x‖, `(rows,)`, 0 of a zero row, NaN of one that is not finite.
      candidates: rows that some plane may accept, ascending.
      zero_rows: samples of length 0; they lie in no plane.
      dropped_rows: samples that are not finite.
    """

    lengths: np.ndarray
    candidates: np.ndarray
    zero_rows: int
    dropped_rows: int


class Prepared(NamedTuple):
    """Everything that the kernel needs.

    Attributes:
      source: the latents.
      frame: the planes.
      survey: what is known of the samples.
      epsilons: acceptance cosines, ascending, float64.
      progress: whether to show a progress bar on stderr.
    """

    source: Source
    frame: Frame
    survey: Survey
    epsilons: np.ndarray
    progress: bool

    @property
    def samples(self) -> int:
        """Samples that are neither zero nor dropped, out of which some are accepted."""
        return self.source.rows - self.survey.zero_rows - self.survey.dropped_rows


class Accepted(NamedTuple):
    """Accepted samples, in blocks of consecutive samples.

    Attributes:
      plane: row of `Frame.planes`, `(accepted,)`; within a plane samples ascend.
      sample: row of the pooled latents, `(accepted,)`.
      u: first in-plane coordinate, in latent units, float64.
      v: second in-plane coordinate.
      share: (r/‖x‖)², the squared cosine between the sample and the plane.
    """

    plane: np.ndarray
    sample: np.ndarray
    u: np.ndarray
    v: np.ndarray
    share: np.ndarray


def check_epsilon(epsilon: Any) -> np.ndarray:
    """Returns acceptance cosines as a float64 vector, and raises `InputError` outside [0, 1]."""
    values = np.atleast_1d(np.asarray(epsilon))
    if values.ndim != 1 or not len(values) or values.dtype.kind not in "iuf":
        raise InputError("epsilon", epsilon, "must be a number in [0, 1], or a list of them")
    for value in values:
        if not 0 <= value <= 1:
            raise InputError("epsilon", value, "must lie in [0, 1]; it is a cosine")
    return values.astype(np.float64)


def threshold(epsilon: np.ndarray) -> np.ndarray:
    """Returns the least squared plane fraction (r/‖x‖)² that each ε accepts."""
    return SLACK * np.square(epsilon)


def prepare(
    latents: Any,
    basis: Any,
    epsilon: Any,
    *,
    nonfinite: str = "raise",
    progress: bool = False,
    **options: Any,
) -> Prepared:
    """Checks what the public functions are given, and passes over the samples once.

    Args:
      latents: `(..., samples, units)`, any array.
      basis: as `build_frame`.
      epsilon: one acceptance cosine or several, in [0, 1].
      nonfinite: `raise`, or `drop` to leave out rows with a NaN or an infinity.
      progress: show a progress bar on stderr.
      **options: of `build_frame`.

    Raises:
      InputError: an argument that cannot be used, naming it.
    """
    if nonfinite not in ("raise", "drop"):
        raise InputError("nonfinite", nonfinite, "must be 'raise' or 'drop'")
    epsilons = np.unique(check_epsilon(epsilon))
    source = open_source(latents)
    frame = build_frame(basis, source.units, **options)
    survey = _survey(source, frame, epsilons[0], progress)
    if survey.dropped_rows and nonfinite == "raise":
        raise InputError(
            "latents",
            f"{survey.dropped_rows} of {source.rows} samples",
            "are not finite; remove them, or say nonfinite='drop'",
        )
    return Prepared(source, frame, survey, epsilons, progress)


def _windows(rows: int, width: int, *, progress: bool, name: str) -> Iterable[range]:
    """Cuts rows into windows small enough for memory."""
    step = max(1, WINDOW_ELEMENTS // width)
    windows = [range(start, min(start + step, rows)) for start in range(0, rows, step)]
    return progress_bar(windows, name) if progress and len(windows) > 1 else windows


def progress_bar(items: list[Any], name: str) -> Iterable[Any]:
    """Shows how far a loop is, where tqdm is installed; the analysis does without it."""
    try:
        from tqdm import tqdm
    except ImportError:
        return items
    bar: Iterable[Any] = tqdm(items, desc=name, leave=False)
    return bar


def _survey(source: Source, frame: Frame, epsilon: float, progress: bool) -> Survey:
    lengths = np.empty(source.rows)
    candidates = []
    windows = _windows(source.rows, max(source.units, frame.size), progress=progress, name="survey")
    for window in windows:
        values, exponent = _in_range(read(source, window.start, window.stop))
        double = values.astype(np.float64, copy=False)
        square = np.vecdot(double, double)
        length = np.ldexp(np.sqrt(square), exponent)
        length[np.isinf(length)] = np.nan
        lengths[window.start : window.stop] = length
        near = length > 0
        values = values if near.all() else values[near]
        near[near] = _may_be_near(values, square[near], frame, epsilon)
        candidates.append(window.start + np.flatnonzero(near))
    dropped = int(np.count_nonzero(np.isnan(lengths)))
    return Survey(lengths, np.concatenate(candidates), int(np.sum(lengths == 0)), dropped)


def _in_range(values: np.ndarray) -> tuple[np.ndarray, Any]:
    """Scales rows of double precision by powers of two, so that their squares are in range.

    Returns:
      `(values / 2^exponent, exponent)`, the exponents `(rows,)`, or 0 where none is needed.
    """
    if values.dtype == np.float32:
        return values, 0
    largest = np.abs(values).max(axis=1)
    exponent = np.where(np.isfinite(largest), np.frexp(largest)[1], 0)
    if np.abs(exponent).max(initial=0) < 400:
        return values, 0
    return np.ldexp(values, -exponent[:, None]), exponent


def _may_be_near(
    values: np.ndarray, square: np.ndarray, frame: Frame, epsilon: float
) -> np.ndarray:
    """Returns which samples project enough on a vector for a plane with it to accept them."""
    length = np.sqrt(square)
    if frame.vectors is None:
        least = (np.sqrt(0.5) * epsilon * (1 - 1e-6)) * length[:, None]
        return (np.abs(values) >= least.astype(values.dtype)).any(axis=1)
    if frame.size < SCREENED:
        return np.ones(len(values), bool)
    direction = (values / length[:, None]).astype(np.float32)
    onto = np.abs(direction @ frame.vectors.T.astype(np.float32))
    margin = frame.vectors.shape[1] * 2.0**-23  # a product of n terms in single precision
    bound = np.sqrt(frame.bound) * epsilon - margin
    return (onto >= bound.astype(np.float32)).any(axis=1)


def accepted(prepared: Prepared) -> Iterator[Accepted]:
    """Yields the samples that the smallest ε accepts, a block at a time.

    Args:
      prepared: what to look at; only its candidates are read.

    Yields:
      `Accepted`: blocks of samples in input order. Memory is bounded whatever the input.
    """
    source, frame, survey = prepared.source, prepared.frame, prepared.survey
    rows, width = source.rows, max(source.units, frame.size)
    least = float(threshold(prepared.epsilons[0]))
    for window in _windows(rows, width, progress=prepared.progress, name="planes"):
        first, last = np.searchsorted(survey.candidates, [window.start, window.stop])
        chosen = survey.candidates[first:last]
        if not len(chosen):
            continue
        values = read(source, window.start, window.stop)
        if len(chosen) < len(window):
            values = values.take(chosen - window.start, axis=0)
        values, exponent = _in_range(values)
        values = values.astype(np.float64, copy=False)
        square = np.vecdot(values, values)
        onto = values if frame.vectors is None else values @ frame.vectors.T
        for candidates in _candidates(onto, square, frame, least):
            block = _decide(onto, square, frame, least, *candidates)
            for part in _number(block, frame, onto):
                yield _place(part, chosen, exponent)


Candidates = tuple[np.ndarray, np.ndarray, np.ndarray]  # row, i, j of the frame's pairs


def _candidates(
    onto: np.ndarray, square: np.ndarray, frame: Frame, least: float
) -> Iterator[Candidates]:
    """Finds all accepted (row, pair), and a few that are not, in the cheaper of the two ways."""
    rows, stride = len(onto), 1 + len(onto) // LOOK_ROWS
    some = np.square(onto[::stride])
    expected = stride * np.count_nonzero(_leads(some, square[::stride], frame, least))
    if PRUNED_COST * expected * frame.size > DENSE_START + rows * len(frame.pairs):
        yield from _dense(onto, square, frame, least)
    else:
        yield from _pruned(onto, square, frame, least)


def _leads(squares: np.ndarray, square: np.ndarray, frame: Frame, least: float) -> np.ndarray:
    """Returns which vectors a sample projects enough on to lead an accepted pair."""
    limit = (least * (1 - 1e-12)) * square[:, None]
    return np.asarray(squares >= limit * frame.bound)


def _pruned(
    onto: np.ndarray, square: np.ndarray, frame: Frame, least: float
) -> Iterator[Candidates]:
    """Pairs each leading vector of a sample with those on which it projects no more."""
    size, squares = frame.size, onto * onto
    leads = np.flatnonzero(_leads(squares, square, frame, least))
    step = max(1, CANDIDATES // size)
    for start in range(0, len(leads), step):
        row, lead = np.divmod(leads[start : start + step], size)
        mine, others = _at(squares, row, lead)[:, None], squares.take(row, axis=0)
        reach = others + mine
        if frame.gram is not None:
            g = frame.gram.take(lead, axis=0)
            reach -= 2 * g * onto.take(row, axis=0) * _at(onto, row, lead)[:, None]
            # Parallel vectors span no plane; what they give here is not used.
            reach /= np.maximum(1 - g * g, 1e-9)
        # Cancellation loses at most eight digits to the division; none is overlooked.
        keep = (reach >= (least - 1e-8) * square.take(row)[:, None]) & (others <= mine)
        which, other = np.divmod(np.flatnonzero(keep), size)
        row, lead = row[which], lead[which]
        # Of two equals the first leads; so no pair comes twice, and no vector with itself.
        once = (_at(squares, row, other) < _at(squares, row, lead)) | (lead < other)
        row, lead, other = row[once], lead[once], other[once]
        i, j = np.minimum(lead, other), np.maximum(lead, other)
        if len(frame.pairs) < size * (size - 1) // 2:
            there = (_at(frame.number, i, j) >= 0) | (_at(frame.number, j, i) >= 0)
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
    onto: np.ndarray, square: np.ndarray, frame: Frame, least: float
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


def _decide(
    onto: np.ndarray,
    square: np.ndarray,
    frame: Frame,
    least: float,
    row: np.ndarray,
    i: np.ndarray,
    j: np.ndarray,
) -> tuple[np.ndarray, ...]:
    """Decides on candidates: the accepted ones' row, i, j, u, v and share."""
    u, v = _at(onto, row, i), _second(onto, frame, row, i, j)
    share = (u * u + v * v) / square.take(row)
    keep = share >= least
    if keep.all():
        return row, i, j, u, v, share
    return tuple(x[keep] for x in (row, i, j, u, v, share))


def _second(
    onto: np.ndarray, frame: Frame, row: np.ndarray, i: np.ndarray, j: np.ndarray
) -> np.ndarray:
    """Returns v, the coordinate across b_i in the plane of b_i and b_j."""
    v = _at(onto, row, j)
    if frame.gram is None:
        return v
    g = _at(frame.gram, i, j)
    result: np.ndarray = (v - g * _at(onto, row, i)) / np.sqrt(1 - g * g)
    return result


def _at(matrix: np.ndarray, row: np.ndarray, column: np.ndarray) -> np.ndarray:
    """Returns `matrix[row, column]`, in half the time."""
    return matrix.take(row.astype(np.int64, copy=False) * matrix.shape[1] + column)


def _number(block: tuple[np.ndarray, ...], frame: Frame, onto: np.ndarray) -> Iterator[Accepted]:
    """Gives pairs the numbers of their planes; the reversed plane holds the mirror image."""
    row, i, j, u, v, share = block
    if frame.ordered:
        yield Accepted(_at(frame.number, i, j), row, u, v, share)
        return
    for a, b in ((i, j), (j, i)):
        plane = _at(frame.number, a, b)
        there = plane >= 0
        row_there, a, b = row[there], a[there], b[there]
        v = _second(onto, frame, row_there, a, b)
        u = _at(onto, row_there, a)
        yield Accepted(plane[there], row_there, u, v, share[there])


def _place(part: Accepted, chosen: np.ndarray, exponent: Any) -> Accepted:
    """Returns to rows of the source and to latent units."""
    sample = chosen[part.sample]
    if isinstance(exponent, int):
        return part._replace(sample=sample)
    power = exponent[part.sample]
    return part._replace(sample=sample, u=np.ldexp(part.u, power), v=np.ldexp(part.v, power))
