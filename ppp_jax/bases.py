"""Privileged bases: the directions that a function, or a hypothesis, singles out.

Every function returns unit vectors as rows, `(vectors, units)`, float64.
"""

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from ppp_jax.errors import InputError, lookup, seeded, whole
from ppp_jax.resources import check_fits, check_product

THOMSON_STARTS, THOMSON_STEPS = 8, 3000
MOST_DISTANCES = 2**26  # components of distances at every step: minutes, and a gigabyte
LONGEST_NUMBER = 18  # digits in a basis's name
ALIASES = {"rotated": "haar:0"}
ORTHONORMAL = ("standard", "haar")  # the kinds of bases that have as many vectors as axes
FORMS = ("standard", "haar:SEED", "simplex", "cross_polytope", "thomson:VECTORS[:SEED]")


def standard(units: int) -> np.ndarray:
    """Returns the unit vectors of the axes."""
    check_fits("units", units, 8 * whole("units", units, least=1) ** 2)
    return np.eye(units)


def haar(units: int, *, seed: int = 0) -> np.ndarray:
    """Returns a random orthonormal basis, from the Haar measure of O(n).

    Args:
      units: n.
      seed: of the draw.
    """
    return rotations(units, 1, np.random.default_rng(seeded(seed)))[0]


def rotations(units: int, count: int, rng: np.random.Generator) -> np.ndarray:
    """Draws orthogonal matrices from the Haar measure of O(n).

    QR of normal matrices, with the signs of R's diagonals moved into Q, without which Q is not
    Haar distributed (Mezzadri 2007, "How to generate random matrices from the classical compact
    groups").

    Args:
      units: n.
      count: how many.
      rng: where they are drawn from.

    Returns:
      `(count, n, n)`.
    """
    size = whole("count", count, least=0), *(whole("units", units, least=1),) * 2
    check_product({"units": units, "count": count}, 24 * math.prod(size))
    if not isinstance(rng, np.random.Generator):
        raise InputError("rng", type(rng).__name__, "must be numpy.random.default_rng(seed)")
    q, r = np.linalg.qr(rng.normal(size=size))
    return q * np.sign(np.diagonal(r, axis1=1, axis2=2))[:, None, :]


def simplex(units: int, *, vectors: int | None = None) -> np.ndarray:
    """Returns the corners of a regular simplex around the origin, all cosines −1/(vectors − 1).

    Args:
      units: n.
      vectors: number of corners, at most n + 1, which is the default; with fewer the simplex lies
        in a subspace.

    Raises:
      InputError: a number of corners that n dimensions do not hold.

    Example:
      >>> corners = simplex(3)
      >>> (corners @ corners.T).round(3)[0].tolist()
      [1.0, -0.333, -0.333, -0.333]
    """
    least = whole("units", units, least=1) + 1
    corners = least if vectors is None else whole("vectors", vectors, least=2)
    if corners > least:
        raise InputError("vectors", corners, f"a simplex in {units} units has 2 to {units + 1}")
    check_fits("units", units, 32 * corners**2 + 8 * corners * units)
    # The axes of one dimension more, seen along their diagonal: its orthogonal complement.
    centred = np.eye(corners) - 1 / corners
    inside = np.linalg.svd(centred)[2][: corners - 1]
    rows = np.zeros((corners, units))
    rows[:, : corners - 1] = centred @ inside.T
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def cross_polytope(units: int) -> np.ndarray:
    """Returns ±e_i, `(2 units, units)`: the axes, then their opposites."""
    return np.concatenate([standard(units), -standard(units)])


def thomson(vectors: int, units: int, *, seed: int = 0, starts: int = THOMSON_STARTS) -> np.ndarray:
    """Spreads vectors over the sphere as if they were charges that repel each other.

    Up to n + 1 vectors form the regular simplex and 2n the cross-polytope, which are built; other
    numbers have no name, and the Coulomb energy Σ 1/‖b_i − b_j‖ is minimised by Adam from several
    random starts, of which the lowest is kept (docs/method.md §1). Needs optax.

    Args:
      vectors: how many.
      units: n.
      seed: of the starts.
      starts: how many; no minimum is guaranteed to be the global one.

    Returns:
      `(vectors, units)`.

    Raises:
      InputError: fewer than two vectors or units, no start, or more of them than can be spread.
    """
    whole("vectors", vectors, least=2)
    whole("units", units, least=2)
    whole("starts", starts, least=1)
    seed = seeded(seed)
    if vectors <= units + 1:
        return simplex(units, vectors=vectors)
    if vectors == 2 * units:
        return cross_polytope(units)
    distances = starts * vectors * (vectors - 1) // 2 * units
    if distances > MOST_DISTANCES:
        most = math.isqrt(2 * MOST_DISTANCES // (starts * units))
        raise InputError("vectors", vectors, f"so many would be spread for days; at most {most:,} "
                         f"in {units:,} units from {starts:,} starts")  # fmt: skip
    return minimise_energy(vectors, units, seed, starts).copy()


def energy(vectors: np.ndarray) -> float:
    """Returns the Coulomb energy Σ_{i<j} 1/‖b_i − b_j‖ of unit vectors.

    Example:
      >>> round(energy(cross_polytope(3)), 6)  # the octahedron
      9.985281
    """
    vectors = np.asarray(vectors)
    if vectors.ndim != 2 or vectors.dtype.kind not in "iuf":
        raise InputError(
            "vectors", f"array of {vectors.dtype} {vectors.shape}", "must be unit rows"
        )
    i, j = np.triu_indices(len(vectors), 1)
    return float(np.sum(1 / np.linalg.norm(vectors[i] - vectors[j], axis=1)))


@functools.lru_cache(maxsize=32)
def minimise_energy(vectors: int, units: int, seed: int, starts: int) -> np.ndarray:
    """Returns the lowest of several minima of the Coulomb energy, whatever their name.

    Args:
      vectors: how many.
      units: n.
      seed: of the starts.
      starts: how many.
    """
    first = jax.random.normal(jax.random.key(seed), (starts, vectors, units))
    ends = np.array(jax.jit(jax.vmap(_descend))(first), np.float64)
    ends /= np.linalg.norm(ends, axis=-1, keepdims=True)
    return min(ends, key=energy)


def _descend(points: jax.Array) -> jax.Array:
    """Follows the energy downhill; the step shrinks to nothing, so the end is not jittery."""
    try:
        import optax
    except ImportError as error:
        problem = "needs optax to find it: pip install optax"
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
    """Builds a basis from its name, as flags give it.

    Args:
      name: `standard`, `rotated` (the same as `haar:0`), `haar:SEED`, `simplex`,
        `cross_polytope`, `thomson:VECTORS` or `thomson:VECTORS:SEED`.
      units: n.

    Returns:
      `(vectors, units)`.

    Raises:
      InputError: no such name, or numbers that do not fit it.

    Example:
      >>> build("thomson:32", 16).shape
      (32, 16)
    """
    if not isinstance(name, str):
        raise InputError("basis", name, f"must be one of {', '.join(FORMS)}")
    whole("units", units, least=1)
    kind, *texts = ALIASES.get(name, name).split(":")
    makers: dict[str, tuple[Callable[..., np.ndarray], range]] = {
        "standard": (lambda: standard(units), range(1)),
        "haar": (lambda seed=0: haar(units, seed=seed), range(2)),
        "simplex": (lambda: simplex(units), range(1)),
        "cross_polytope": (lambda: cross_polytope(units), range(1)),
        "thomson": (lambda vectors, seed=0: thomson(vectors, units, seed=seed), range(1, 3)),
    }
    maker, takes = lookup(makers, kind, field="basis")
    if len(texts) not in takes or not all(map(_is_number, texts)):
        raise InputError("basis", name, f"must be one of {', '.join(FORMS)}")
    try:
        return maker(*(int(text) for text in texts))
    except InputError as error:  # the number is a part of the name, which is the setting
        raise InputError("basis", name, f"{error.field} {error.problem}") from None


def is_orthonormal(name: str) -> bool:
    """Returns whether a basis is orthonormal, whatever the number of units.

    Args:
      name: as `build` reads it.

    Example:
      >>> is_orthonormal("rotated"), is_orthonormal("haar:3"), is_orthonormal("simplex")
      (True, True, False)
    """
    return ALIASES.get(name, name).partition(":")[0] in ORTHONORMAL


def _is_number(text: str) -> bool:
    """Returns whether a text is a whole number of plain digits, and not beyond all sense."""
    return text.isascii() and text.isdecimal() and len(text) <= LONGEST_NUMBER
