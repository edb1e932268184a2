"""The kernel of PPP and SRM: it finds the samples near each privileged plane and their coordinates.

For unit basis vectors b_i, b_j with cosine g, a sample x with projections a_i, a_j has in-plane
coordinates u = a_i, v = (a_j − g a_i)/√(1 − g²), and is accepted if √(u² + v²) ≥ ε‖x‖
(docs/method.md §1–2). One matrix product with the whole basis serves all planes.

The module `candidates` quickly finds the samples that may be accepted, and one function decides on
them in double precision.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np

from ppp_jax.analysis.io import chunks
from ppp_jax.analysis.io.progress import progress_bar
from ppp_jax.analysis.io.sources import Latents, Source, open_source, read, to_numpy
from ppp_jax.analysis.projection.candidates import at, find
from ppp_jax.analysis.projection.centring import centred
from ppp_jax.analysis.projection.planes import Basis, BasisLike, resolve_basis, rotate
from ppp_jax.errors import InputError, choice, truth

WINDOW_ELEMENTS = 2**17  # Number of projections held at once, which fit into the cache.
# From this number of vectors on it pays to screen the samples by a matrix product in single
# precision, so that fewer samples are read again.
SCREENED = 256
# A sample on the threshold is accepted, whatever the order of additions: the threshold is lowered
# by a few rounding units of double precision.
SLACK = 1 - 2.0**-46


class Survey(NamedTuple):
    """The results of one pass over the samples.

    Attributes:
      lengths: Lengths ‖x‖, `(rows,)`; NaN for a sample that is not finite.
      candidates: Indices of the samples that some plane may accept, ascending.
      zero_rows: Number of samples of length 0, which have no direction.
      dropped_rows: Number of samples that are not finite.
    """

    lengths: np.ndarray
    candidates: np.ndarray
    zero_rows: int
    dropped_rows: int


class Prepared(NamedTuple):
    """The checked arguments of the kernel.

    Attributes:
      source: The latents.
      frame: The basis and its planes.
      survey: The results of the first pass over the samples.
      epsilons: Acceptance cosines, ascending, float64, `(epsilons,)`.
      progress: Whether to show a progress bar on stderr.
      changes: What was done to the latents and the basis before, as attributes of results.
      first: The row of the pooled latents that is the first of `source`, which may be a part.
    """

    source: Source
    frame: Basis
    survey: Survey
    epsilons: np.ndarray
    progress: bool
    changes: dict[str, int]
    first: int = 0

    @property
    def samples(self) -> int:
        """Number of samples that are finite and not 0: the denominator of all fractions."""
        return self.source.rows - self.survey.zero_rows - self.survey.dropped_rows


class Accepted(NamedTuple):
    """A block of accepted (plane, sample) pairs.

    Attributes:
      plane: Row of `Basis.planes`, `(accepted,)`; the samples of a plane are ascending.
      sample: Row of the pooled latents, `(accepted,)`.
      u: First in-plane coordinate in latent units, float64, `(accepted,)`.
      v: Second in-plane coordinate in latent units, float64, `(accepted,)`.
      squared_cosine: The squared cosine (r/‖x‖)² between sample and plane, `(accepted,)`.
    """

    plane: np.ndarray
    sample: np.ndarray
    u: np.ndarray
    v: np.ndarray
    squared_cosine: np.ndarray


def check_epsilon(epsilon: Any) -> np.ndarray:
    """Returns acceptance cosines as a float64 vector.

    Args:
      epsilon: One number in [0, 1], or a list of them.

    Raises:
      InputError: It is neither, or a number lies outside [0, 1].
    """
    values = np.atleast_1d(to_numpy("epsilon", epsilon))
    if values.ndim != 1 or not len(values) or values.dtype.kind not in "iuf":
        raise InputError("epsilon", epsilon, "must be a number in [0, 1], or a list of them")
    for value in values:
        if not 0 <= value <= 1:
            raise InputError("epsilon", value, "must lie in [0, 1], because it is a cosine")
    return values.astype(np.float64)


def threshold(epsilon: np.ndarray) -> np.ndarray:
    """Returns the smallest squared plane fraction (r/‖x‖)² that each ε accepts."""
    return SLACK * np.square(epsilon)


def prepare(
    latents: Latents,
    basis: BasisLike,
    epsilon: Any,
    *,
    centre: bool = False,
    whiten: bool = False,
    rotated: int | None = None,
    nonfinite: str = "raise",
    progress: bool = False,
    **options: Any,
) -> Prepared:
    """Checks the arguments of a public function, and passes over the samples once.

    Args:
      latents: Latents, `(..., samples, units)`, of any array type.
      basis: Privileged basis, as `resolve_basis` takes it.
      epsilon: One acceptance cosine or several, in [0, 1].
      centre: Whether to subtract each cloud's mean.
      whiten: Whether to take out each cloud's mean and covariance.
      rotated: Seed of a random rotation of the basis; None leaves it as it is.
      nonfinite: `raise` to refuse samples with a NaN or an infinity, or `drop` to leave them out.
      progress: Whether to show a progress bar on stderr.
      **options: The arguments `planes`, `max_planes` and `plane_seed` of `resolve_basis`.

    Raises:
      InputError: An argument cannot be used; the error names it.
    """
    choice("nonfinite", nonfinite, ("raise", "drop"))
    truth("progress", progress)
    truth("centre", centre)
    truth("whiten", whiten)
    epsilons = np.unique(check_epsilon(epsilon))
    source = open_source(latents)
    frame = resolve_basis(basis, source.units, **options)
    changes = {"centre": int(centre or whiten), "whiten": int(whiten)}
    if rotated is not None:
        frame = rotate(frame, rotated)
        changes["rotated"] = int(rotated)
    if centre or whiten:
        source, rank = centred(source, whiten=whiten)
        changes |= {} if rank is None else {"whitened_rank": rank}
    survey = _survey(source, frame, epsilons[0], progress)
    if survey.dropped_rows and nonfinite == "raise":
        raise InputError(
            "latents",
            f"{survey.dropped_rows} of {source.rows} samples",
            "are not finite; remove them, or leave them out by nonfinite='drop'",
        )
    return Prepared(source, frame, survey, epsilons, progress, changes)


def with_frame(prepared: Prepared, frame: Basis) -> Prepared:
    """Returns the same latents with another basis, and passes over the samples once.

    Args:
      prepared: Latents and planes, as `prepare` returns them.
      frame: The other basis and its planes.
    """
    survey = _survey(prepared.source, frame, prepared.epsilons[0], progress=False)
    return prepared._replace(frame=frame, survey=survey, progress=False)


def _windows(rows: int, width: int, *, progress: bool, name: str) -> Iterable[range]:
    """Cuts the rows into windows whose projections fit into the cache."""
    step = max(1, WINDOW_ELEMENTS // width)
    windows = [range(start, min(start + step, rows)) for start in range(0, rows, step)]
    return progress_bar(windows, name) if progress and len(windows) > 1 else windows


def _survey(source: Source, frame: Basis, epsilon: float, progress: bool) -> Survey:
    rows = chunks.rows_of(source)
    if rows is None:
        return _survey_rows(source, frame, epsilon, progress)
    parts = chunks.map_rows(rows, _survey_chunk, (frame, epsilon))
    starts = np.cumsum([0, *(len(part.lengths) for part in parts[:-1])])
    candidates = [part.candidates + k for part, k in zip(parts, starts, strict=True)]
    return Survey(
        np.concatenate([part.lengths for part in parts]),
        np.concatenate(candidates),
        sum(part.zero_rows for part in parts),
        sum(part.dropped_rows for part in parts),
    )


def _survey_chunk(values: np.ndarray, shared: tuple[Basis, float]) -> Survey:
    return _survey_rows(open_source(values), *shared, progress=False)


def _survey_rows(source: Source, frame: Basis, epsilon: float, progress: bool) -> Survey:
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
    """Scales rows of double precision by powers of two, so that their squares do not overflow.

    Returns:
      The scaled values, `values / 2^exponent`, and the exponents, `(rows,)`, or 0 if no row needs
      to be scaled.
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
    """Returns a mask of the samples that a plane may accept, by their largest projections."""
    length = np.sqrt(square)
    if frame.vectors is None:
        least = np.sqrt(frame.bound) * epsilon * length[:, None]
        return (np.abs(values) >= least.astype(values.dtype)).any(axis=1)
    if frame.size < SCREENED:
        return np.ones(len(values), bool)
    direction = (values / length[:, None]).astype(np.float32)
    onto = np.abs(direction @ frame.vectors.T.astype(np.float32))
    margin = frame.vectors.shape[1] * 2.0**-23  # This bounds the error of n terms.
    bound = np.sqrt(frame.bound) * epsilon - margin
    return (onto >= bound.astype(np.float32)).any(axis=1)


def accepted(prepared: Prepared) -> Iterator[Accepted]:
    """Yields the samples that the smallest ε accepts, a block at a time.

    Args:
      prepared: Latents and planes, as `prepare` returns them.

    Yields:
      Blocks of `Accepted` pairs, in the order of the input. The memory of a block is bounded,
      however large the input is.
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
                yield _to_source(part, prepared.first + chosen, exponent)


def add_accepted(
    prepared: Prepared, measure: Callable[[Prepared], tuple[np.ndarray, ...]]
) -> tuple[np.ndarray, ...]:
    """Adds up what a function counts of the accepted samples.

    Args:
      prepared: Latents and planes, as `prepare` returns them.
      measure: Function of the latents, or of a part of them, that goes through what `accepted`
        yields, and returns arrays of sums. Of a dask array it runs where the chunks are.
    """
    rows = chunks.rows_of(prepared.source)
    if rows is None:
        return measure(prepared)
    survey = prepared.survey
    stops = np.cumsum(rows.chunks[0])
    each = []
    for start, stop in zip([0, *stops[:-1]], stops, strict=True):
        first, last = np.searchsorted(survey.candidates, [start, stop])
        near = survey.candidates[first:last] - start
        part = survey._replace(lengths=survey.lengths[start:stop], candidates=near)
        each.append((int(start), part))
    common = (prepared.frame, prepared.epsilons, prepared.changes, measure)
    return chunks.add_rows(rows, _measure_chunk, common, each)


def _measure_chunk(values: np.ndarray, shared: Any, own: tuple[int, Survey]) -> Any:
    (frame, epsilons, changes, measure), (first, survey) = shared, own
    return measure(Prepared(open_source(values), frame, survey, epsilons, False, changes, first))


def _decide(
    onto: np.ndarray,
    square: np.ndarray,
    frame: Basis,
    least: float,
    row: np.ndarray,
    i: np.ndarray,
    j: np.ndarray,
) -> tuple[np.ndarray, ...]:
    """Returns row, i, j, u, v and squared cosine of the candidates that are accepted."""
    u, v = at(onto, row, i), _second(onto, frame, row, i, j)
    squared_cosine = (u * u + v * v) / square.take(row)
    keep = squared_cosine >= least
    if keep.all():
        return row, i, j, u, v, squared_cosine
    return tuple(x[keep] for x in (row, i, j, u, v, squared_cosine))


def _second(
    onto: np.ndarray, frame: Basis, row: np.ndarray, i: np.ndarray, j: np.ndarray
) -> np.ndarray:
    """Returns v, the coordinate perpendicular to b_i in the plane of b_i and b_j."""
    v = at(onto, row, j)
    if frame.gram is None:
        return v
    g = at(frame.gram, i, j)
    result: np.ndarray = (v - g * at(onto, row, i)) / np.sqrt(1 - g * g)
    return result


def _number(block: tuple[np.ndarray, ...], frame: Basis, onto: np.ndarray) -> Iterator[Accepted]:
    """Yields the pairs with the numbers of their planes, in both orders if both are planes."""
    row, i, j, u, v, squared_cosine = block
    if frame.ordered:
        yield Accepted(at(frame.number, i, j), row, u, v, squared_cosine)
        return
    for a, b in ((i, j), (j, i)):
        plane = at(frame.number, a, b)
        exists = plane >= 0
        kept_row, a, b = row[exists], a[exists], b[exists]
        v = _second(onto, frame, kept_row, a, b)
        u = at(onto, kept_row, a)
        yield Accepted(plane[exists], kept_row, u, v, squared_cosine[exists])


def _to_source(part: Accepted, chosen: np.ndarray, exponent: Any) -> Accepted:
    """Replaces rows of the window by rows of the source, and scaled coordinates by latent units."""
    sample = chosen[part.sample]
    if isinstance(exponent, int):
        return part._replace(sample=sample)
    power = exponent[part.sample]
    return part._replace(sample=sample, u=np.ldexp(part.u, power), v=np.ldexp(part.v, power))
