"""The privileged planes of a basis (docs/method.md §1)."""

from typing import NamedTuple

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike

from ppp_jax import bases
from ppp_jax.analysis.io.sources import is_real, to_numpy
from ppp_jax.errors import InputError, choice, seeded, whole
from ppp_jax.resources import check_fits

MIN_SINE_SQUARED = 1e-6  # of the angle between two vectors, below which they span no plane
PAIR_BYTES = 24  # that the tables of planes take for every two vectors
ORTHONORMAL = 1e-14  # cosines up to this are rounding


class Basis(NamedTuple):
    """The privileged planes of a basis.

    Attributes:
      vectors: unit rows, `(vectors, units)`, float64; None for the standard basis.
      size: how many vectors there are.
      gram: cosines g = b_i·b_j of all pairs, `(vectors, vectors)`; None if orthonormal.
      planes: indices (i, j) of the vectors that span each plane, `(planes, 2)`.
      ordered: whether i < j in all of them.
      pairs: the planes without regard to order, i < j, `(pairs, 2)`.
      number: row of `planes` of each (i, j), −1 where there is none, `(vectors, vectors)`.
      bound: of two vectors that span an accepted plane, the one on which the sample projects
        more has a squared projection of at least `bound`·ε²‖x‖², `(vectors,)`; `(1,)` if all
        have the same.
      skipped: planes left out because their vectors are parallel or antiparallel.
      name: what the basis is, for people.
    """

    vectors: np.ndarray | None
    size: int
    gram: np.ndarray | None
    planes: np.ndarray
    ordered: bool
    pairs: np.ndarray
    number: np.ndarray
    bound: np.ndarray
    skipped: int
    name: str


BasisLike = str | ArrayLike | xr.DataArray | Basis | None
"""A privileged basis as callers give it: a name, vectors `(vectors, units)`, or None."""


def resolve_basis(
    basis: BasisLike,
    units: int,
    *,
    planes: str = "combinations",
    max_planes: int | None = None,
    plane_seed: int = 0,
) -> Basis:
    """Lists the privileged planes of a basis.

    Args:
      basis: `(vectors, units)`, rows of any length but 0; or a name that `bases.build` knows; None
        for the standard basis. A `Basis` of these units is returned as it is.
      units: width of the latents.
      planes: `combinations` (i < j) or `permutations` (both orders, which adds only the
        reflections of the first; docs/method.md §1).
      max_planes: keep so many planes, drawn without replacement; None for all.
      plane_seed: Seed of the draw of planes.

    Returns:
      The `Basis`.

    Raises:
      InputError: a basis of the wrong shape, with a zero or non-finite row, or fewer than two
        directions; an unknown kind of planes; `max_planes` below 1.

    Example:
      >>> resolve_basis(None, 4).planes.shape
      (6, 2)
    """
    if isinstance(basis, Basis):  # built before
        return basis
    if units < 2:
        raise InputError("latents", f"{units} unit", "must have at least 2 units to span a plane")
    choice("planes", planes, ("combinations", "permutations"))
    plane_seed = seeded(plane_seed, field="plane_seed")
    if max_planes is not None:
        max_planes = whole("max_planes", max_planes, least=1)
    vectors, name = _unit_vectors(basis, units)
    size = units if vectors is None else len(vectors)
    check_fits("basis", f"{name} of {size:,} vectors", PAIR_BYTES * size**2)
    gram = None if vectors is None else _cosines(vectors)
    spans = ~np.eye(size, dtype=bool)
    if gram is not None:
        spans &= 1 - gram**2 >= MIN_SINE_SQUARED
    skipped = size * (size - 1) - int(np.count_nonzero(spans))
    if planes == "combinations":
        spans, skipped = np.triu(spans), skipped // 2
    if not spans.any():
        raise InputError("basis", name, "spans no plane")
    chosen = _places(spans)
    if max_planes is not None and max_planes < len(chosen):
        rng = np.random.default_rng(plane_seed)
        chosen = chosen[np.sort(rng.choice(len(chosen), size=max_planes, replace=False))]
    number = np.full((size, size), -1, np.int32)
    number[chosen[:, 0], chosen[:, 1]] = np.arange(len(chosen))
    ordered = bool((chosen[:, 0] < chosen[:, 1]).all())
    pairs = chosen if ordered else _places(np.triu((number >= 0) | (number.T >= 0)))
    bound = _bound(number, gram)
    return Basis(vectors, size, gram, chosen, ordered, pairs, number, bound, skipped, name)


def _places(matrix: np.ndarray) -> np.ndarray:
    """Returns row and column of what is true, `(places, 2)`, row by row."""
    flat = np.flatnonzero(matrix)  # several times faster than in two dimensions
    return np.stack(np.divmod(flat, len(matrix)), axis=1).astype(np.int32)


def _bound(number: np.ndarray, gram: np.ndarray | None) -> np.ndarray:
    """Returns each vector's bound, by the largest eigenvalue 1/(1 − |g|) of an inverse Gram.

    u² + v² ≤ (a_i² + a_j²)/(1 − |g|) ≤ 2 max(a_i², a_j²)/(1 − |g|).
    """
    largest = np.zeros(1)
    if gram is not None:
        there = (number >= 0) | (number.T >= 0)
        largest = np.max(np.abs(gram), axis=1, where=there, initial=0)
    # A little less, for the rounding of projections onto nearly parallel vectors.
    return np.maximum((1 - largest) / 2 * (1 - 1e-6) - 1e-12, 0)


def _unit_vectors(basis: BasisLike, units: int) -> tuple[np.ndarray | None, str]:
    """Returns the unit vectors of a basis, None for the standard one, and its name."""
    if basis is None or (isinstance(basis, str) and basis == "standard"):
        return None, "standard"
    built = bases.build(basis, units) if isinstance(basis, str) else basis
    vectors = to_numpy("basis", built)
    label = basis if isinstance(basis, str) else f"array {vectors.shape}"
    if vectors.ndim != 2 or vectors.shape[1] != units or not _is_real(vectors):
        problem = f"must be real, (vectors, {units}), or one of {', '.join(bases.FORMS)}"
        raise InputError("basis", label, problem)
    vectors = vectors.astype(np.float64)
    largest = np.abs(vectors).max(axis=1, keepdims=True, initial=0)
    if not (np.isfinite(largest).all() and (largest > 0).all()):
        raise InputError("basis", label, "has a zero or non-finite row")
    vectors = vectors / largest
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True), label


def _is_real(vectors: np.ndarray) -> bool:
    return vectors.dtype.kind != "b" and is_real(vectors.dtype)


def _cosines(vectors: np.ndarray) -> np.ndarray | None:
    """Returns the Gram matrix, or None if the vectors are orthonormal but for rounding."""
    gram = vectors @ vectors.T
    gram = (gram + gram.T) / 2
    np.fill_diagonal(gram, 0)  # no vector spans a plane with itself
    return None if np.abs(gram).max(initial=0) <= ORTHONORMAL else gram
