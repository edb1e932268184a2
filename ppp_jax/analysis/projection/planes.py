"""The privileged planes of a basis (docs/method.md §1)."""

from typing import NamedTuple

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike

from ppp_jax import bases
from ppp_jax.analysis.io.sources import is_real, to_numpy
from ppp_jax.errors import InputError, choice, seeded, whole
from ppp_jax.resources import check_fits

MIN_SINE_SQUARED = 1e-6  # Two vectors whose angle has a smaller squared sine span no plane.
PAIR_BYTES = 24  # Bytes that the tables of planes take for every pair of vectors.
ORTHONORMAL = 1e-14  # Cosines up to this size are rounding errors.


class Basis(NamedTuple):
    """The privileged planes of a basis.

    Attributes:
      vectors: Unit rows, `(vectors, units)`, float64; None for the standard basis.
      size: Number of vectors.
      gram: Cosines g = b_i·b_j of all pairs, `(vectors, vectors)`, with zeros on the diagonal;
        None if the vectors are orthonormal.
      planes: Indices (i, j) of the two vectors that span each plane, `(planes, 2)`.
      ordered: Whether i < j in every row of `planes`.
      pairs: The planes without regard to order, i < j, `(pairs, 2)`.
      number: Row of `planes` that holds (i, j), or −1 if none does, `(vectors, vectors)`.
      bound: A factor per vector, `(vectors,)`, or `(1,)` if all have the same. If a plane accepts
        a sample x, then the squared projection of x onto one of its two vectors is at least
        `bound`·ε²‖x‖².
      skipped: Number of planes left out because their vectors are parallel or antiparallel.
      name: Name of the basis in messages and attributes.
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

    @property
    def units(self) -> int:
        """The width of the latents that it is a basis for."""
        return self.size if self.vectors is None else self.vectors.shape[1]

    @property
    def orthonormal(self) -> bool:
        """Whether it is an orthonormal basis of all units, and no part of one."""
        return self.gram is None and self.size == self.units


BasisLike = str | ArrayLike | xr.DataArray | Basis | None
"""A privileged basis: a name, vectors `(vectors, units)`, a `Basis`, or None for the standard."""


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
      basis: Vectors, `(vectors, units)`, whose rows may have any length but 0; or a name that
        `bases.build` knows; or None for the standard basis. A `Basis` is returned as it is.
      units: Number of units of the latents.
      planes: `combinations` (i < j) or `permutations` (both orders). The second order adds only
        the reflections of the first (docs/method.md §1).
      max_planes: Number of planes to keep, drawn without replacement; None keeps all.
      plane_seed: Seed of the draw of planes.

    Returns:
      The `Basis`.

    Raises:
      InputError: The basis has the wrong shape, has a zero or non-finite row, or spans no plane;
        there are fewer than two units; `planes` is neither word; or `max_planes` is below 1.

    Example:
      >>> resolve_basis(None, 4).planes.shape
      (6, 2)
    """
    if isinstance(basis, Basis):
        _check_resolved(basis, units, planes, max_planes)
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
        raise InputError("basis", name, "spans no plane; give two vectors that are not parallel")
    chosen = _true_entries(spans)
    if max_planes is not None and max_planes < len(chosen):
        rng = np.random.default_rng(plane_seed)
        chosen = chosen[np.sort(rng.choice(len(chosen), size=max_planes, replace=False))]
    number = np.full((size, size), -1, np.int32)
    number[chosen[:, 0], chosen[:, 1]] = np.arange(len(chosen))
    ordered = bool((chosen[:, 0] < chosen[:, 1]).all())
    pairs = chosen if ordered else _true_entries(np.triu((number >= 0) | (number.T >= 0)))
    bound = _bound(number, gram)
    return Basis(vectors, size, gram, chosen, ordered, pairs, number, bound, skipped, name)


def resolve_vectors(basis: BasisLike, units: int) -> Basis:
    """Resolves a basis for what needs its vectors alone, without the planes of orthonormal ones.

    The tables of planes of a layer 16,384 wide would take gigabytes.

    Args:
      basis: As `resolve_basis` takes it.
      units: Number of units of the latents, at least 2.

    Returns:
      The `Basis`; its planes are missing if it is orthonormal and was not resolved before.

    Raises:
      InputError: As `resolve_basis`.
    """
    if isinstance(basis, Basis) or units < 2:
        return resolve_basis(basis, units)
    vectors, name = _unit_vectors(basis, units)
    if vectors is not None and _cosines(vectors) is not None:
        return resolve_basis(basis, units)
    size = units if vectors is None else len(vectors)
    if size < 2:
        return resolve_basis(basis, units)  # which says that it spans no plane
    none, number = np.empty((0, 2), np.int32), np.empty((0, 0), np.int32)
    return Basis(vectors, size, None, none, True, none, number, np.ones(1), 0, name)


def rotate(frame: Basis, rotated: int) -> Basis:
    """Turns the vectors of a basis together, by a random rotation of O(n).

    Args:
      frame: The basis.
      rotated: Seed of the rotation, which is the first one that `rotation_test` draws from this
        seed. The turned basis sees of the latents what the basis sees of the rotated latents.

    Returns:
      The turned basis, with planes spanned by the same pairs of vectors.

    Raises:
      InputError: `rotated` is no seed.
    """
    rng = np.random.default_rng([seeded(rotated, field="rotated"), 0])
    return turned(frame, bases.rotations(frame.units, 1, rng)[0])


def turned(frame: Basis, turn: np.ndarray) -> Basis:
    """Returns the basis that sees of latents X what the given one sees of X·Q.

    Args:
      frame: The basis.
      turn: The rotation Q, `(units, units)`.
    """
    vectors = turn.T.copy() if frame.vectors is None else frame.vectors @ turn.T
    return frame._replace(vectors=vectors, name=f"{frame.name} (rotated)")


def _check_resolved(basis: Basis, units: int, planes: str, max_planes: int | None) -> None:
    """Refuses a resolved basis of another width, and a choice of planes, which it has made."""
    if basis.units != units:
        raise InputError(
            "basis", basis.name, f"has {basis.units} units, and the latents have {units}"
        )
    if planes != "combinations" or max_planes is not None:
        field, value = ("max_planes", max_planes) if max_planes is not None else ("planes", planes)
        raise InputError(field, value, "chooses planes, which a resolved basis has; give its name")


def _true_entries(matrix: np.ndarray) -> np.ndarray:
    """Returns row and column of every true entry, `(entries, 2)`, row by row."""
    flat = np.flatnonzero(matrix)  # This is several times faster than np.nonzero of the matrix.
    return np.stack(np.divmod(flat, len(matrix)), axis=1).astype(np.int32)


def _bound(number: np.ndarray, gram: np.ndarray | None) -> np.ndarray:
    """Returns the `bound` of each vector (see `Basis`).

    The inverse Gram matrix of two vectors has the largest eigenvalue 1/(1 − |g|), so that
    u² + v² ≤ (a_i² + a_j²)/(1 − |g|) ≤ 2 max(a_i², a_j²)/(1 − |g|).
    """
    largest = np.zeros(1)
    if gram is not None:
        spans = (number >= 0) | (number.T >= 0)
        largest = np.max(np.abs(gram), axis=1, where=spans, initial=0)
    # The bound is lowered a little, because projections onto nearly parallel vectors are rounded.
    return np.maximum((1 - largest) / 2 * (1 - 1e-6) - 1e-12, 0)


def _unit_vectors(basis: BasisLike, units: int) -> tuple[np.ndarray | None, str]:
    """Returns the unit vectors of a basis, None for the standard one, and its name."""
    if basis is None or (isinstance(basis, str) and basis == "standard"):
        return None, "standard"
    built = bases.build(basis, units) if isinstance(basis, str) else basis
    vectors = to_numpy("basis", built)
    label = basis if isinstance(basis, str) else f"array {vectors.shape}"
    if vectors.ndim != 2 or vectors.shape[1] != units or not _is_real(vectors):
        problem = (
            f"must be an array of real numbers, (vectors, {units}), or one of the names "
            f"{', '.join(bases.FORMS)}"
        )
        raise InputError("basis", label, problem)
    vectors = vectors.astype(np.float64)
    largest = np.abs(vectors).max(axis=1, keepdims=True, initial=0)
    if not (np.isfinite(largest).all() and (largest > 0).all()):
        raise InputError("basis", label, "has a zero or non-finite row; remove that row")
    vectors = vectors / largest
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True), label


def _is_real(vectors: np.ndarray) -> bool:
    return vectors.dtype.kind != "b" and is_real(vectors.dtype)


def _cosines(vectors: np.ndarray) -> np.ndarray | None:
    """Returns the Gram matrix, or None if the vectors are orthonormal up to rounding."""
    gram = vectors @ vectors.T
    gram = (gram + gram.T) / 2
    np.fill_diagonal(gram, 0)  # No vector spans a plane with itself.
    return None if np.abs(gram).max(initial=0) <= ORTHONORMAL else gram
