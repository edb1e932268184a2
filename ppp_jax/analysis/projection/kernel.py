"""The one kernel behind PPP and SRM: which samples lie near which privileged plane, and where.

For unit basis vectors b_i, b_j with cosine g, a sample x with projections a_i, a_j has in-plane
coordinates u = a_i, v = (a_j − g a_i)/√(1 − g²); it is accepted iff √(u² + v²) ≥ ε‖x‖
(docs/method.md §1–2). No matrix product per plane is needed: one product with the whole basis
serves all.

Candidates are found quickly (`search`), and decided on in double precision by one function.
"""

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np

from ppp_jax.analysis.io.sources import Latents, Source, open_source, read, to_numpy
from ppp_jax.analysis.projection.candidates import at, find
from ppp_jax.analysis.projection.planes import Basis, BasisLike, resolve_basis
from ppp_jax.errors import InputError, choice, truth

WINDOW_ELEMENTS = 2**17  # projections held at once: they stay in the cache
SCREENED = 256  # vectors from which on a product in advance pays, to know what to read again
# On the threshold means accepted: a few units of double rounding, however it was reached.
SLACK = 1 - 2.0**-46


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
    frame: Basis
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
      plane: row of `Basis.planes`, `(accepted,)`; within a plane samples ascend.
      sample: row of the pooled latents, `(accepted,)`.
      u: first in-plane coordinate, in latent units, float64.
      v: second in-plane coordinate.
      squared_cosine: (r/‖x‖)², the squared cosine between the sample and the plane.
    """

    plane: np.ndarray
    sample: np.ndarray
    u: np.ndarray
    v: np.ndarray
    squared_cosine: np.ndarray


def check_epsilon(epsilon: Any) -> np.ndarray:
    """Returns acceptance cosines as a float64 vector, and raises `InputError` outside [0, 1]."""
    values = np.atleast_1d(to_numpy("epsilon", epsilon))
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
    latents: Latents,
    basis: BasisLike,
    epsilon: Any,
    *,
    nonfinite: str = "raise",
    progress: bool = False,
    **options: Any,
) -> Prepared:
    """Checks what the public functions are given, and passes over the samples once.

    Args:
      latents: `(..., samples, units)`, any array.
      basis: as `resolve_basis`.
      epsilon: one acceptance cosine or several, in [0, 1].
      nonfinite: `raise`, or `drop` to leave out rows with a NaN or an infinity.
      progress: show a progress bar on stderr.
      **options: of `resolve_basis`.

    Raises:
      InputError: an argument that cannot be used, naming it.
    """
    choice("nonfinite", nonfinite, ("raise", "drop"))
    truth("progress", progress)
    epsilons = np.unique(check_epsilon(epsilon))
    source = open_source(latents)
    frame = resolve_basis(basis, source.units, **options)
    survey = _survey(source, frame, epsilons[0], progress)
    if survey.dropped_rows and nonfinite == "raise":
        raise InputError(
            "latents",
            f"{survey.dropped_rows} of {source.rows} samples",
            "are not finite; remove them, or set nonfinite to drop",
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


def _survey(source: Source, frame: Basis, epsilon: float, progress: bool) -> Survey:
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
    values: np.ndarray, square: np.ndarray, frame: Basis, epsilon: float
) -> np.ndarray:
    """Returns which samples project enough on a vector for a plane with it to accept them."""
    length = np.sqrt(square)
    if frame.vectors is None:
        least = np.sqrt(frame.bound) * epsilon * length[:, None]
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
        for candidates in find(onto, square, frame, least):
            block = _decide(onto, square, frame, least, *candidates)
            for part in _number(block, frame, onto):
                yield _place(part, chosen, exponent)


def _decide(
    onto: np.ndarray,
    square: np.ndarray,
    frame: Basis,
    least: float,
    row: np.ndarray,
    i: np.ndarray,
    j: np.ndarray,
) -> tuple[np.ndarray, ...]:
    """Decides on candidates: the accepted ones' row, i, j, u, v and squared cosine."""
    u, v = at(onto, row, i), _second(onto, frame, row, i, j)
    squared_cosine = (u * u + v * v) / square.take(row)
    keep = squared_cosine >= least
    if keep.all():
        return row, i, j, u, v, squared_cosine
    return tuple(x[keep] for x in (row, i, j, u, v, squared_cosine))


def _second(
    onto: np.ndarray, frame: Basis, row: np.ndarray, i: np.ndarray, j: np.ndarray
) -> np.ndarray:
    """Returns v, the coordinate across b_i in the plane of b_i and b_j."""
    v = at(onto, row, j)
    if frame.gram is None:
        return v
    g = at(frame.gram, i, j)
    result: np.ndarray = (v - g * at(onto, row, i)) / np.sqrt(1 - g * g)
    return result


def _number(block: tuple[np.ndarray, ...], frame: Basis, onto: np.ndarray) -> Iterator[Accepted]:
    """Gives pairs the numbers of their planes; the reversed plane holds the mirror image."""
    row, i, j, u, v, squared_cosine = block
    if frame.ordered:
        yield Accepted(at(frame.number, i, j), row, u, v, squared_cosine)
        return
    for a, b in ((i, j), (j, i)):
        plane = at(frame.number, a, b)
        there = plane >= 0
        row_there, a, b = row[there], a[there], b[there]
        v = _second(onto, frame, row_there, a, b)
        u = at(onto, row_there, a)
        yield Accepted(plane[there], row_there, u, v, squared_cosine[there])


def _place(part: Accepted, chosen: np.ndarray, exponent: Any) -> Accepted:
    """Returns to rows of the source and to latent units."""
    sample = chosen[part.sample]
    if isinstance(exponent, int):
        return part._replace(sample=sample)
    power = exponent[part.sample]
    return part._replace(sample=sample, u=np.ldexp(part.u, power), v=np.ldexp(part.v, power))
