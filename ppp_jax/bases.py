"""Privileged bases: the directions that a function or a hypothesis singles out (docs/method.md §1).

Every function that makes a basis returns unit vectors as rows, `(vectors, units)`, in float64.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy  # its parts are imported when they are first used

from ppp_jax import references
from ppp_jax.errors import InputError, lookup, printable, seeded, shortened, whole
from ppp_jax.resources import check_fits, check_product, on_cores

THOMSON_STARTS, THOMSON_STEPS = 8, 3000
# Most components of distances that one step of `thomson` may compute. This many take minutes, and
# a gigabyte of memory.
MOST_DISTANCES = 2**26
SAME_ENERGY = 1e-6  # relative difference of energies up to which two minima count as one
REFLECTED = 128  # reflections that are multiplied together
LONGEST_NUMBER = 18  # most digits of a number in a basis's name
ALIASES = {"rotated": "haar:0"}
ORTHONORMAL = ("standard", "haar")  # forms of names of orthonormal bases
FORMS = ("standard", "haar:SEED", "simplex", "cross_polytope", "thomson:VECTORS[:SEED]")


def standard(units: int) -> np.ndarray:
    """Returns the standard basis, the unit vectors of the axes, `(units, units)`."""
    check_fits("units", units, 8 * whole("units", units, least=1) ** 2)
    return np.eye(units)


def haar(units: int, *, rotation_seed: int = 0) -> np.ndarray:
    """Draws an orthonormal basis from the Haar measure of O(n).

    Args:
      units: Number of units, n.
      rotation_seed: Seed of the draw.

    Returns:
      The basis, `(units, units)`.
    """
    rng = np.random.default_rng(seeded(rotation_seed, field="rotation_seed"))
    return rotations(units, 1, rng)[0]


def rotations(units: int, count: int, rng: np.random.Generator) -> np.ndarray:
    """Draws orthogonal matrices from the Haar measure of O(n).

    Each matrix is the Q of the QR decomposition of a normal matrix. The signs of R's diagonal are
    moved into Q, without which Q is not Haar distributed (Mezzadri 2007, "How to generate random
    matrices from the classical compact groups").

    Args:
      units: Number of units, n.
      count: Number of matrices.
      rng: NumPy's random generator.

    Returns:
      The matrices, `(count, n, n)`.

    Raises:
      InputError: A number is too small, the matrices do not fit into memory, or `rng` is not a
        generator.
    """
    size = _size(units, count, rng, bytes_each=24)
    q, r = np.linalg.qr(rng.normal(size=size))
    return q * np.sign(np.diagonal(r, axis1=1, axis2=2))[:, None, :]


def _size(units: int, count: int, rng: Any, *, bytes_each: int) -> tuple[int, int, int]:
    """Checks the arguments of a draw, and returns the shape of the matrices."""
    size = whole("count", count, least=0), *(whole("units", units, least=1),) * 2
    check_product({"units": units, "count": count}, bytes_each * math.prod(size))
    if not isinstance(rng, np.random.Generator):
        raise InputError("rng", type(rng).__name__, "must be numpy.random.default_rng(seed)")
    return size


def reflected(units: int, count: int, rng: np.random.Generator) -> np.ndarray:
    """Draws orthogonal matrices from the Haar measure of O(n) as products of reflections.

    The QR decomposition of a normal matrix is a product of Householder reflections, the k-th of
    which takes n − k + 1 normal numbers to the first of them. These numbers are independent of the
    earlier reflections, so that they can be drawn, and nothing has to be decomposed (Stewart 1980,
    "The efficient generation of random orthogonal matrices"). That takes a third of the time of
    `rotations` in wide layers.

    Args:
      units: Number of units, n.
      count: Number of matrices.
      rng: NumPy's random generator.

    Returns:
      The matrices, `(count, n, n)`, float32; they are other ones than those of `rotations`.

    Raises:
      InputError: A number is too small, the matrices do not fit into memory, or `rng` is not a
        generator.
    """
    size = _size(units, count, rng, bytes_each=16)
    found = np.empty(size, np.float32)

    def multiply(drawn: tuple[int, np.ndarray]) -> None:
        found[drawn[0]] = _reflect(drawn[1])

    normal = (rng.standard_normal(size[1:], np.float32) for _ in range(size[0]))
    on_cores(multiply, enumerate(normal))
    return found


def _reflect(normal: np.ndarray) -> np.ndarray:
    """Multiplies the reflections that the columns below the diagonal of a matrix say.

    A block of reflections is I − V·T·Vᵀ, so that nearly all of it is products of matrices
    (Schreiber and Van Loan 1989, "A storage-efficient WY representation").
    """
    below = np.tril(normal)
    first, length = np.diagonal(below).copy(), np.linalg.norm(below, axis=0)
    # The k-th reflection takes its numbers to −sign(first)·length on the k-th axis.
    sign = np.where(first < 0, np.float32(-1), np.float32(1))
    below /= first + sign * length
    np.fill_diagonal(below, 1)
    inverse_scale = length / (length + np.abs(first))
    found = np.eye(len(normal), dtype=np.float32)
    for start in reversed(range(0, len(normal), REFLECTED)):
        v = below[start:, start : start + REFLECTED]
        triangle = np.triu(v.T @ v, 1) + np.diag(inverse_scale[start : start + REFLECTED])
        rest = found[start:, start:]
        rest -= v @ scipy.linalg.solve_triangular(triangle, v.T @ rest)
    # R's diagonal is −sign·length: without its signs Q is not Haar distributed.
    found *= -sign
    return found


def simplex(units: int, *, vectors: int | None = None) -> np.ndarray:
    """Returns the corners of a regular simplex around the origin.

    The cosine between any two corners is −1/(vectors − 1).

    Args:
      units: Number of units, n.
      vectors: Number of corners, at most n + 1, which is the default. A simplex with fewer corners
        lies in a subspace.

    Returns:
      The corners, `(vectors, units)`.

    Raises:
      InputError: There are fewer than 2 or more than n + 1 corners.

    Example:
      >>> corners = simplex(3)
      >>> (corners @ corners.T).round(3)[0].tolist()
      [1.0, -0.333, -0.333, -0.333]
    """
    least = whole("units", units, least=1) + 1
    corners = least if vectors is None else whole("vectors", vectors, least=2)
    if corners > least:
        problem = f"a simplex in {units} units has 2 to {units + 1} vectors"
        raise InputError("vectors", corners, problem)
    check_fits("units", units, 32 * corners**2 + 8 * corners * units)
    # The simplex is the projection of the unit vectors of as many axes as there are corners onto
    # the orthogonal complement of their diagonal. Helmert's matrix spans that in closed form: the
    # directions of a decomposition would be other ones on another processor.
    rows = np.zeros((corners, units))
    rows[:, : corners - 1] = scipy.linalg.helmert(corners).T
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def cross_polytope(units: int) -> np.ndarray:
    """Returns the axes and then their opposites, ±e_i, `(2 units, units)`."""
    return np.concatenate([standard(units), -standard(units)])


def thomson(
    vectors: int, units: int, *, start_seed: int = 0, starts: int = THOMSON_STARTS
) -> np.ndarray:
    """Spreads vectors over the sphere as if they were charges that repel each other.

    Up to n + 1 vectors form the regular simplex, and 2n vectors form the cross-polytope; both are
    constructed exactly. For other numbers the Coulomb energy Σ 1/‖b_i − b_j‖ is minimised by Adam
    from several random starts, and the first result of lowest energy is returned (docs/method.md
    §1). It need not be the global minimum. The minimisation needs optax.

    Args:
      vectors: Number of vectors.
      units: Number of units, n.
      start_seed: Seed of the random starts.
      starts: Number of random starts.

    Returns:
      The vectors, `(vectors, units)`.

    Raises:
      InputError: There are fewer than two vectors or units, there is no start, the numbers are too
        large, or optax is not installed.
    """
    whole("vectors", vectors, least=2)
    whole("units", units, least=2)
    whole("starts", starts, least=1)
    start_seed = seeded(start_seed, field="start_seed")
    if vectors <= units + 1:
        return simplex(units, vectors=vectors)
    if vectors == 2 * units:
        return cross_polytope(units)
    distances = starts * vectors * (vectors - 1) // 2 * units
    if distances > MOST_DISTANCES:
        most = math.isqrt(2 * MOST_DISTANCES // (starts * units))
        raise InputError(
            "vectors",
            vectors,
            f"spreading so many vectors would take days; choose at most {most:,} "
            f"in {units:,} units from {starts:,} starts",
        )
    return minimise_energy(vectors, units, start_seed, starts).copy()


def energy(vectors: np.ndarray) -> float:
    """Returns the Coulomb energy Σ_{i<j} 1/‖b_i − b_j‖ of unit vectors.

    Args:
      vectors: Unit vectors as rows, `(vectors, units)`.

    Raises:
      InputError: The vectors are not a matrix of real numbers.

    Example:
      >>> round(energy(cross_polytope(3)), 6)  # the octahedron
      9.985281
    """
    vectors = np.asarray(vectors)
    if vectors.ndim != 2 or vectors.dtype.kind not in "iuf":
        given = f"array of {vectors.dtype} {vectors.shape}"
        raise InputError("vectors", given, "must be a matrix whose rows are unit vectors")
    i, j = np.triu_indices(len(vectors), 1)
    return float(np.sum(1 / np.linalg.norm(vectors[i] - vectors[j], axis=1)))


@functools.lru_cache(maxsize=32)
def minimise_energy(vectors: int, units: int, start_seed: int, starts: int) -> np.ndarray:
    """Returns the lowest of several minima of the Coulomb energy, for any number of vectors.

    The same array is returned by equal calls, so the caller must not change it.

    Args:
      vectors: Number of vectors.
      units: Number of units, n.
      start_seed: Seed of the random starts.
      starts: Number of random starts.

    Returns:
      The vectors, `(vectors, units)`.
    """
    first = jax.random.normal(jax.random.key(start_seed), (starts, vectors, units))
    ends = np.array(jax.jit(jax.vmap(_descend))(first), np.float64)
    ends /= np.linalg.norm(ends, axis=-1, keepdims=True)
    return lowest(ends)


def lowest(ends: np.ndarray) -> np.ndarray:
    """Returns the first of the sets of unit vectors whose energy is the lowest, up to rounding.

    Many starts end in the same minimum, turned. Rounding must not choose among them: the vectors
    would be other ones on another processor.

    Args:
      ends: Sets of unit vectors, `(sets, vectors, units)`.
    """
    energies = np.array([energy(end) for end in ends])
    return np.asarray(ends[np.argmax(energies <= (1 + SAME_ENERGY) * energies.min())])


def _descend(points: jax.Array) -> jax.Array:
    """Minimises the energy from one start, `(vectors, units)`, by Adam.

    The learning rate decays to 0, so that the points have settled at the end.
    """
    try:
        import optax
    except ImportError as error:
        problem = "needs optax, which is not installed; pip install optax"
        raise InputError("basis", "thomson", problem) from error

    i, j = np.triu_indices(len(points), 1)

    def repulsion(x: jax.Array) -> jax.Array:
        unit = x / jnp.linalg.norm(x, axis=-1, keepdims=True)
        return jnp.sum(1 / jnp.linalg.norm(unit[i] - unit[j], axis=-1))

    optimizer = optax.adam(optax.cosine_decay_schedule(0.05, THOMSON_STEPS))

    def step(_: int, carry: tuple[jax.Array, optax.OptState]) -> tuple[jax.Array, optax.OptState]:
        x, state = carry
        updates, state = optimizer.update(jax.grad(repulsion)(x), state)
        return optax.apply_updates(x, updates), state

    # optax raises floats to integer powers, which strict promotion refuses.
    with jax.numpy_dtype_promotion("standard"):
        end, _ = jax.lax.fori_loop(0, THOMSON_STEPS, step, (points, optimizer.init(points)))
    return end


def build(name: str, units: int) -> np.ndarray:
    """Builds a basis from its name, as given by flags.

    Args:
      name: `standard`, `rotated` (the same as `haar:0`), `haar:SEED`, `simplex`,
        `cross_polytope`, `thomson:VECTORS`, `thomson:VECTORS:SEED`, or a reference
        `module:function` to a function of the number of units that returns unit vectors as rows.
      units: Number of units, n.

    Returns:
      The basis, `(vectors, units)`.

    Raises:
      InputError: The name has no such form, or one of its numbers is not valid.

    Example:
      >>> build("thomson:32", 16).shape
      (32, 16)
    """
    if not isinstance(name, str):
        raise InputError("basis", name, f"must be one of {', '.join(FORMS)}")
    whole("units", units, least=1)
    form, *texts = ALIASES.get(name, name).split(":")
    makers: dict[str, tuple[Callable[..., np.ndarray], range]] = {
        "standard": (lambda: standard(units), range(1)),
        "haar": (lambda seed=0: haar(units, rotation_seed=seed), range(2)),
        "simplex": (lambda: simplex(units), range(1)),
        "cross_polytope": (lambda: cross_polytope(units), range(1)),
        "thomson": (lambda vectors, seed=0: thomson(vectors, units, start_seed=seed), range(1, 3)),
    }
    if form not in makers and references.is_reference(name):
        return _brought(name, units)
    maker, counts = lookup(makers, form, field="basis")
    if len(texts) not in counts or not all(map(_is_number, texts)):
        raise InputError("basis", name, f"must be one of {', '.join(FORMS)}")
    try:
        return maker(*(int(text) for text in texts))
    except InputError as error:  # the user set the name, and not the number in it
        raise InputError("basis", name, f"{error.field} {error.problem}") from None


def _brought(name: str, units: int) -> np.ndarray:
    """Returns the basis that a user's function makes, which is checked."""
    make = references.get(name, field="basis").value
    try:
        vectors = np.asarray(make(units) if callable(make) else make, np.float64)
    except InputError:
        raise
    except Exception as error:  # whatever the user's function raises
        why = shortened(printable(f"{type(error).__name__}: {error}"))
        raise InputError("basis", name, f"fails in {units} units ({why}); correct it") from error
    if vectors.ndim != 2 or vectors.shape[1] != units or not len(vectors):
        problem = f"has shape {vectors.shape} in {units} units; it must be (vectors, {units})"
        raise InputError("basis", name, problem)
    lengths = np.linalg.norm(vectors, axis=1)
    if not np.allclose(lengths, 1, atol=1e-5):
        problem = f"has vectors of lengths {lengths.min():.3g} to {lengths.max():.3g}; divide them "
        raise InputError("basis", name, f"{problem}by their lengths")
    return vectors / lengths[:, None]


def is_orthonormal(name: str) -> bool:
    """Returns whether a basis is orthonormal in every number of units.

    A reference is judged by its basis in 8 units.

    Args:
      name: Name of the basis, in one of the forms that `build` accepts.

    Example:
      >>> is_orthonormal("rotated"), is_orthonormal("haar:3"), is_orthonormal("simplex")
      (True, True, False)
    """
    form = ALIASES.get(name, name).partition(":")[0]
    if form in ORTHONORMAL or not references.is_reference(name):
        return form in ORTHONORMAL
    vectors = _brought(name, 8)
    return vectors.shape == (8, 8) and np.allclose(vectors @ vectors.T, np.eye(8), atol=1e-5)


def _is_number(text: str) -> bool:
    """Returns whether a text consists of ASCII digits, and not of too many."""
    return text.isascii() and text.isdecimal() and len(text) <= LONGEST_NUMBER
