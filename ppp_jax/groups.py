"""Groups of orthogonal matrices, and how far a map is from commuting (docs/method.md §10)."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy  # its parts are imported when they are first used

from ppp_jax import bases
from ppp_jax.errors import InputError, lookup

SAME_COSINE = 1e-4  # smaller differences are rounding: bases are optimised in single precision
# Smaller relative residuals are rounding in single precision: those of this package's activations
# are below 1e-5 at all lengths from 1e-3 to 1e3. A map that is this close to a linear one counts as
# linear, because its residual could not tell it from that one.
COMMUTES = 1e-4
# Differences that are smaller, relative to the numbers that a map computes with, can be rounding:
# about eight times the precision of those numbers.
ROUNDING = 1e-6
# Groups among which that of a function is looked for, the larger before the smaller.
KNOWN = ("O(n)", "O(n-1)xO(1)", "O(n-1)", "blocks:4", "blocks:2", "B_n", "S_n")
TURNED = ("blocks:4@haar:0", "blocks:2@haar:0", "B_n@haar:0", "S_n@haar:0")
TRIVIAL = "trivial"
COMMON = ("S_n", "B_n", "O(n)", "S_n@haar:0", "B_n@haar:0")  # groups that every map is tested under
# Constants in maps, such as thresholds, are taken to be of this order or below when the numbers
# that a map computes with at short inputs are judged.
ORDINARY = 10.0
DECADES = tuple((10.0**k, 10.0 ** (k + 1)) for k in range(-3, 3))  # lengths tested by default
SHORTEST, LONGEST, MOST_RANGES = 1e-30, 1e30, 64
SAMPLES, ELEMENTS = 128, 8  # inputs of a range of lengths, and elements of a group
COMMUTING, LINEAR, DIFFERS = "commutes", "linear", "differs"
ZERO, IN_ROUNDING, NOT_FINITE = "zero", "within rounding errors", "not finite"
FINDINGS = (DIFFERS, COMMUTING, LINEAR, ZERO, IN_ROUNDING, NOT_FINITE)

Map = Callable[[jax.Array], jax.Array]
Draw = Callable[[np.random.Generator, int], np.ndarray]
Scale = float | Sequence[float | tuple[float, float]]


class Group(NamedTuple):
    """A subgroup of O(n).

    Attributes:
      description: What the group's elements do, for readers.
      sample: Function `(key, n) -> (n, n)` that draws an element; every element can be drawn. It is
        not traced: NumPy draws from the key's bits.
      rotations: Function of n that returns the dimension of the group's Lie algebra, which is 0 for
        a discrete group.
      has_inversion: Whether the inversion −1 is in the group; None if that depends on the basis.
    """

    description: str
    sample: Callable[[jax.Array, int], jax.Array]
    rotations: Callable[[int], int]
    has_inversion: bool | None


def _none(_: int) -> int:
    return 0


def _all(n: int) -> int:
    return n * (n - 1) // 2


def _sampler(draw: Draw) -> Callable[[jax.Array, int], jax.Array]:
    """Returns the function of a key that draws a group's elements.

    They are drawn by NumPy, because XLA takes seconds to compile a shuffle or a QR decomposition.
    """

    def sample(key: jax.Array, n: int) -> jax.Array:
        return jnp.asarray(draw(_generator(key), n), float)

    return sample


def _generator(key: jax.Array) -> np.random.Generator:
    return np.random.default_rng(np.asarray(jax.random.key_data(key)))


def _permutation(rng: np.random.Generator, n: int) -> np.ndarray:
    return np.eye(n)[rng.permutation(n)]


def _identity(_: np.random.Generator, n: int) -> np.ndarray:
    return np.eye(n)


def _signed_permutation(rng: np.random.Generator, n: int) -> np.ndarray:
    return _permutation(rng, n) * rng.choice([-1.0, 1.0], n)


def _rotation(rng: np.random.Generator, n: int) -> np.ndarray:
    return bases.rotations(n, 1, rng)[0]


def _stabilizer(rng: np.random.Generator, n: int) -> np.ndarray:
    """Draws a rotation or reflection that leaves (1, …, 1) where it is."""
    if n == 1:
        return np.eye(1)
    # The Householder reflection that exchanges (1, 0, …, 0) and (1, …, 1)/√n.
    across = n**-0.5 - np.eye(n)[:, :1]
    exchange = np.eye(n) - across @ across.T * (2 / np.sum(across * across))
    turn = scipy.linalg.block_diag(1.0, _rotation(rng, n - 1))
    return exchange @ turn @ exchange


def _line_stabilizer(rng: np.random.Generator, n: int) -> np.ndarray:
    return _stabilizer(rng, n) * rng.choice([-1.0, 1.0])


def _fixing_one(n: int) -> int:
    return _all(n - 1)


GROUPS: dict[str, Group] = {
    "S_n": Group("permutes the axes", _sampler(_permutation), _none, has_inversion=False),
    "B_n": Group(
        "permutes the axes and flips their signs",
        _sampler(_signed_permutation),
        _none,
        has_inversion=True,
    ),
    "O(n)": Group("rotates and reflects freely", _sampler(_rotation), _all, has_inversion=True),
    "O(n-1)": Group(
        "rotates and reflects freely around (1, …, 1)",
        _sampler(_stabilizer),
        _fixing_one,
        has_inversion=False,
    ),
    "O(n-1)xO(1)": Group(
        "rotates and reflects freely around (1, …, 1), and flips its sign",
        _sampler(_line_stabilizer),
        _fixing_one,
        has_inversion=True,
    ),
    TRIVIAL: Group("does nothing", _sampler(_identity), _none, has_inversion=None),
}


def get_group(name: str) -> Group:
    """Returns a group by its name (docs/method.md §10).

    Args:
      name: `trivial`; `S_n`; `B_n`; `O(n)`; `O(n-1)`, the stabiliser of (1, …, 1); `O(n-1)xO(1)`,
        that of its line, which is LayerNorm's group; `blocks:K` for O(K) ≀ S_{n/K}; or such a group
        with respect to another basis. `G@haar:SEED` is R G Rᵀ, where G is any of them. `S_n@BASIS`
        consists of the orthogonal maps that permute the vectors of a basis, and `B_n@BASIS` of
        those that permute them up to sign.

    Raises:
      InputError: No group has this name.

    Example:
      >>> get_group("blocks:2").description
      'rotates blocks of 2 axes freely, and permutes the blocks'
    """
    plain, separator, basis = name.partition("@")
    blocks = plain.startswith("blocks:")
    inner = _blocks(plain) if blocks else lookup(GROUPS, plain, field="group")
    if not separator:
        return inner
    if basis.partition(":")[0] == "haar":
        text = f"{inner.description}, with respect to {basis}"
        return inner._replace(description=text, sample=_turned(inner, basis))
    if plain not in ("S_n", "B_n"):
        problem = f"only S_n and B_n act on {basis}; choose S_n@{basis} or B_n@{basis}"
        raise InputError("group", name, problem)
    how = "permutes the vectors" if plain == "S_n" else "permutes and flips the vectors"
    signed = plain == "B_n"

    def rotations(n: int) -> int:  # the orthogonal complement of all vectors turns freely
        return _all(n - int(np.linalg.matrix_rank(bases.build(basis, n))))

    return Group(
        f"{how} of {basis}",
        _basis_symmetry(basis, signed=signed),
        rotations,
        True if signed else None,
    )


def _blocks(name: str) -> Group:
    text = name.removeprefix("blocks:")
    if not (text.isdecimal() and int(text)):
        raise InputError("group", name, "needs a whole number of at least 1 after the colon")
    size = int(text)

    def draw(rng: np.random.Generator, n: int) -> np.ndarray:
        if n % size:
            raise InputError("group", name, f"blocks of {size} do not divide {n} units")
        count = n // size
        blocks = scipy.linalg.block_diag(*bases.rotations(size, count, rng))
        turned: np.ndarray = np.kron(_permutation(rng, count), np.eye(size)) @ blocks
        return turned

    description = f"rotates blocks of {size} axes freely, and permutes the blocks"
    return Group(description, _sampler(draw), lambda n: n // size * _all(size), has_inversion=True)


def _turned(group: Group, basis: str) -> Callable[[jax.Array, int], jax.Array]:
    def sample(key: jax.Array, n: int) -> jax.Array:
        vectors = bases.build(basis, n)
        return jnp.asarray(vectors.T @ np.asarray(group.sample(key, n)) @ vectors, float)

    return sample


def _basis_symmetry(basis: str, *, signed: bool) -> Callable[[jax.Array, int], jax.Array]:
    """Returns a sampler of the orthogonal maps that permute a basis's vectors (`signed`: ±them)."""

    def draw(rng: np.random.Generator, n: int) -> np.ndarray:
        vectors = bases.build(basis, n)
        return _automorphism(np.concatenate([vectors, -vectors]) if signed else vectors, rng)

    return _sampler(draw)


def _automorphism(vectors: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Draws an orthogonal G such that `vectors @ G` has the rows of `vectors` in another order.

    This is a search with backtracking. Images of linearly independent vectors are tried in random
    order. Each image must have the right cosines to the images before it. The search cannot fail,
    because the identity is a solution.
    """
    gram, anchors = vectors @ vectors.T, _independent(vectors)
    profile = np.sort(gram, axis=1)  # a vector and its image have the same cosines to all vectors
    alike = np.abs(profile[:, None] - profile).max(axis=-1) < SAME_COSINE
    images: list[int] = []
    untried = [list(rng.permutation(np.flatnonzero(alike[anchors[0]])))]
    while True:
        if not untried[-1]:
            untried.pop()
            images.pop()
            continue
        images.append(int(untried[-1].pop()))
        if len(images) == len(anchors):
            turn = _map_between(vectors[anchors], vectors[images], rng)
            moved = (vectors @ turn) @ vectors.T
            if (moved.max(axis=1) > 1 - SAME_COSINE).all():
                return turn
            images.pop()
            continue
        following, before = anchors[len(images)], anchors[: len(images)]
        fits = np.abs(gram[:, images] - gram[following, before]).max(axis=1) < SAME_COSINE
        untried.append(list(rng.permutation(np.flatnonzero(fits & alike[following]))))


def _independent(vectors: np.ndarray) -> list[int]:
    """Returns the indices of a largest set of linearly independent rows."""
    chosen: list[int] = []
    left = vectors.copy()
    lengths = np.linalg.norm(left, axis=1)
    while lengths.max() > 1e-3:
        chosen.append(int(np.argmax(lengths)))
        direction = left[chosen[-1]] / lengths[chosen[-1]]
        left = left - np.outer(left @ direction, direction)
        lengths = np.linalg.norm(left, axis=1)
    return chosen


def _map_between(first: np.ndarray, second: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Returns an orthogonal map that takes the rows of `first` to those of `second`.

    On the orthogonal complement of the rows it is a random orthogonal map.
    """
    units, rank = first.shape[1], len(first)
    spans = [np.linalg.svd(rows)[2] for rows in (first, second)]
    inside = np.linalg.lstsq(first @ spans[0][:rank].T, second, rcond=None)[0]
    drawn = np.linalg.qr(rng.normal(size=(units - rank, units - rank)))[0]
    return spans[0][:rank].T @ inside + spans[0][rank:].T @ drawn @ spans[1][rank:]


class LieAlgebra(NamedTuple):
    """Dimensions of the Lie algebra of a map's continuous symmetries.

    Attributes:
      dimension: Dimension of the space of matrices M for which x ↦ exp(tM)x commutes with the map.
      rotations: Dimension of the space of antisymmetric ones among them, which is n(n − 1)/2 for an
        isotropic map.
    """

    dimension: int
    rotations: int


class AtLengths(NamedTuple):
    """What a test found at inputs of one range of lengths.

    Attributes:
      low: Smallest length ‖x‖ of the inputs.
      high: Largest length of the inputs.
      finding: One of `FINDINGS`. The map `commutes` with the claimed group or `differs` from it;
        or it commutes, but is `linear` there, as maps of many groups are; or nothing can be told,
        because its output is `zero`, is not larger than `rounding` errors, or is `not finite`.
      residual: Relative equivariance residual under the claimed group, which is 0 where nothing can
        be told.
    """

    low: float
    high: float
    finding: str
    residual: float


def ranges(scale: Scale) -> tuple[tuple[float, float], ...]:
    """Returns the ranges of lengths that an argument `scale` names.

    Args:
      scale: A length, or a sequence whose elements are lengths and pairs `(low, high)` of lengths.

    Raises:
      InputError: There is no length, there are more than 64, or one is not from 1e-30 to 1e30.

    Example:
      >>> ranges([5, (1, 100)])
      ((5.0, 5.0), (1.0, 100.0))
    """
    problem = (
        f"needs a length from {SHORTEST:g} to {LONGEST:g}, or a list of at most {MOST_RANGES} "
        "lengths and pairs (low, high) of lengths"
    )
    named: Any = scale
    listed = named if isinstance(named, Sequence) else np.atleast_1d(named)
    listed = [] if isinstance(named, str) else listed  # and not its digits
    try:
        pairs = [one if np.ndim(one) else (one, one) for one in listed]
        found = tuple((float(low), float(high)) for low, high in pairs)
    except (TypeError, ValueError):
        raise InputError("scale", scale, problem) from None
    right = all(SHORTEST <= low <= high <= LONGEST for low, high in found)
    if not (right and 0 < len(found) <= MOST_RANGES):
        raise InputError("scale", scale, problem)
    return found


def _inputs(
    key: jax.Array, spans: Sequence[tuple[float, float]], samples: int, units: int
) -> np.ndarray:
    """Draws vectors of random directions, `(ranges, samples, units)`.

    Their lengths divide each range into equal ratios, so that no part of it is left out.
    """
    x = _generator(key).normal(size=(len(spans), samples, units))
    low, high = np.array(spans).T[:, :, None]
    lengths = low * (high / low) ** ((np.arange(samples)[None] + 0.5) / samples)
    return x * (lengths / np.linalg.norm(x, axis=-1))[..., None]


class _Seen(NamedTuple):
    """A map's values at inputs of several ranges of lengths, in double precision.

    Attributes:
      x: Inputs, `(ranges, samples, units)`.
      y: Values of the map, of the same shape, 0 where the range is not finite.
      slopes: Jacobians, `(ranges, samples, units, units)`, 0 where the range is not finite.
      finite: Whether all values and Jacobians of a range are finite, `(ranges,)`.
      gains: The largest ‖f(x)‖/‖x‖, or root mean square of the Jacobian's singular values, of each
        range, `(ranges,)`.
      apart: Norms ‖f(XG) − f(X)G‖ over a range's inputs, `(elements, ranges)`.
      sizes: The larger of ‖f(XG)‖ and ‖f(X)‖, `(elements, ranges)`.
      floors: Norms of differences that can be rounding errors, `(ranges,)`.
    """

    x: np.ndarray
    y: np.ndarray
    slopes: np.ndarray
    finite: np.ndarray
    gains: np.ndarray
    apart: np.ndarray
    sizes: np.ndarray
    floors: np.ndarray

    @property
    def relative(self) -> np.ndarray:
        """Relative residuals, `(elements, ranges)`, which are 0 where both values are 0."""
        return np.divide(
            self.apart, self.sizes, out=np.zeros_like(self.apart), where=self.sizes > 0
        )

    @property
    def beyond_rounding(self) -> np.ndarray:
        """Relative residuals, `(elements, ranges)`, which are 0 where rounding can explain them."""
        told = (self.relative < COMMUTES) | (self.apart > self.floors[None])
        return np.where(told, self.relative, 0.0)


def _see(function: Map, x: np.ndarray, elements: np.ndarray, *, constant: bool) -> _Seen:
    """Evaluates a map and its Jacobian at inputs `x`, and the map at their images `x @ G`.

    A map that is not `constant` is traced anew, because what it reads can have changed.
    """
    evaluate = _kept_program(function) if constant else _program(function)
    turned = np.einsum("rsi,eij->ersj", x, elements)
    # A value that overflows is a finding, and no error of the caller's.
    with jax.debug_nans(False), jax.debug_infs(False):
        found = evaluate(jnp.asarray(np.concatenate([x[None], turned]), float))
    values, slopes = (np.asarray(one, np.float64) for one in found)
    y, at = values[0], values[1:]
    finite: np.ndarray = np.logical_and.reduce(
        [
            np.isfinite(slopes).all(axis=(1, 2, 3)),
            np.isfinite(y).all(axis=(1, 2)),
            np.isfinite(at).all(axis=(0, 2, 3)),
        ]
    )
    with np.errstate(invalid="ignore"):
        y, at = (np.where(finite[:, None, None], one, 0.0) for one in (y, at))
        slopes = np.where(finite[:, None, None, None], slopes, 0.0)
    expected = np.einsum("rsi,eij->ersj", y, elements)
    apart = np.linalg.norm(at - expected, axis=(2, 3))
    sizes = np.maximum(np.linalg.norm(at, axis=(2, 3)), np.linalg.norm(y, axis=(1, 2))[None])
    lengths, values = np.linalg.norm(x, axis=-1), np.linalg.norm(y, axis=-1)
    steepness = np.linalg.norm(slopes, axis=(2, 3)) / np.sqrt(x.shape[-1])
    gains = np.maximum(values / lengths, steepness).max(axis=1)
    floors = _floors(lengths, values, steepness, lengths.max(axis=1))
    return _Seen(x, y, slopes, finite, gains, apart, sizes, floors)


def _program(function: Map) -> Callable[[jax.Array], tuple[jax.Array, jax.Array]]:
    """Returns the compiled values of a map at inputs and turned ones, and Jacobians at the first.

    The inputs are `(1 + elements, ranges, samples, units)`.
    """
    slope = jax.jacobian(lambda row: function(row[None])[0])

    def evaluate(inputs: jax.Array) -> tuple[jax.Array, jax.Array]:
        return jax.vmap(jax.vmap(function))(inputs), jax.vmap(jax.vmap(slope))(inputs[0])

    return jax.jit(evaluate)


_kept_program = functools.lru_cache(maxsize=128)(_program)


def _floors(
    lengths: np.ndarray, values: np.ndarray, steepness: np.ndarray, longest: np.ndarray
) -> np.ndarray:
    """Returns the norms of differences that can be rounding errors, `(ranges,)`.

    Rounding of the inputs moves the values by about ε‖J‖‖x‖. Where a threshold leaves little of the
    input, as in max(‖x‖ − 1, 0), the map subtracts numbers that are larger than its value. They are
    taken to be of the size of the values that the map has, or would have with its largest gain, at
    inputs that are not longer than these or than 10.
    """

    def norm(a: np.ndarray) -> np.ndarray:
        total: np.ndarray = np.sqrt(np.sum(np.square(a), axis=1))
        return total

    near = longest[None] <= np.maximum(longest, ORDINARY)[:, None]  # (ranges, others)
    gains = np.where(near, np.max(values / lengths, axis=1)[None], 0.0).max(axis=1)
    largest = np.where(near, norm(values)[None], 0.0).max(axis=1)
    subtracted = np.minimum(gains * norm(lengths), largest)
    return ROUNDING * np.maximum(norm(steepness * lengths), subtracted)


def _algebra(seen: _Seen, told: np.ndarray) -> LieAlgebra:
    """Returns the dimensions of the null space of J M x − M f(x) = 0, over inputs of many lengths.

    The equations are divided by the length of their input and by the largest gain of their range,
    so that short inputs count as much as long ones, and the threshold does not depend on the map's
    scale. Where the map is 0, or a multiple of the identity, all M are solutions, so that these
    lengths add nothing. The Gram matrix of the equations is summed directly: with the rows
    J_ia x_b − δ_ia f_b it consists of four products of a matrix of (a, c) and one of (b, d).

    Args:
      seen: The map's values and Jacobians.
      told: The ranges of lengths that are used, `(ranges,)`.
    """
    units, samples = seen.x.shape[-1], seen.x.shape[1]
    used = told & (seen.gains > 0)
    gains = seen.gains[used][:, None, None]
    lengths = np.linalg.norm(seen.x[used], axis=-1, keepdims=True)
    x = (seen.x[used] / lengths).reshape(-1, units)
    y = (seen.y[used] / (lengths * gains)).reshape(-1, units)
    slopes = (seen.slopes[used] / gains[..., None]).reshape(-1, units, units)
    back = slopes.swapaxes(1, 2)
    identity = np.broadcast_to(np.eye(units), slopes.shape)
    first = np.concatenate([back @ slopes, -back, -slopes, identity]).reshape(-1, units**2)
    pairs = ((x, x), (x, y), (y, x), (y, y))
    second = np.concatenate([a[:, :, None] * b[:, None, :] for a, b in pairs])
    gram = (first.T @ second.reshape(-1, units**2)).reshape([units] * 4).transpose(0, 2, 1, 3)
    i, j = np.triu_indices(units, 1)
    turning = gram[i, j] - gram[j, i]
    turning = turning[:, i, j] - turning[:, j, i]
    # A map that differs from a more symmetric one by a share δ of its values has singular values of
    # about δ/units per root of the number of equations.
    least = (COMMUTES / units) ** 2 * samples * units
    return LieAlgebra(_nullity(gram.reshape(units**2, units**2), least), _nullity(turning, least))


def _nullity(gram: np.ndarray, least: float) -> int:
    """Returns the number of eigenvalues of a Gram matrix that are not above `least`."""
    return int(np.sum(np.linalg.eigvalsh(gram) <= least))


def lie_algebra(
    function: Map,
    *,
    units: int,
    key: jax.Array,
    samples: int = SAMPLES,
    scale: Scale = DECADES,
) -> LieAlgebra:
    """Finds a map's continuous symmetries: all M with J_f(x) M x = M f(x) (docs/method.md §10).

    Args:
      function: Map on the last axis, `(samples, units) -> (samples, units)`.
      units: Number of units, n.
      key: PRNG key of the inputs x, which are drawn as in `equivariance_residual`.
      samples: Number of inputs of each range of lengths.
      scale: Lengths of the inputs, see `ranges`.

    Returns:
      The dimensions, which are the numbers of vanishing singular values of these linear equations
      in M. Lengths at which the map is not finite are left out.

    Raises:
      InputError: `scale` is not valid.
    """
    x = _inputs(key, ranges(scale), samples, units)
    with jax.default_matmul_precision("highest"):
        seen = _see(function, x, np.eye(units)[None], constant=False)
    return _algebra(seen, seen.finite)


def equivariance_residual(
    function: Map,
    group: Group,
    *,
    units: int,
    key: jax.Array,
    samples: int = SAMPLES,
    elements: int = ELEMENTS,
    scale: Scale = DECADES,
) -> float:
    """Returns the worst relative residual ‖f(XG) − f(X)G‖ / ‖f(X)‖ over random group elements.

    The inputs X have random directions and the lengths that `scale` names, by default all from
    10⁻³ to 10³, in six decades. The residual of a decade has the norms over all its inputs, of
    which the larger of ‖f(XG)‖ and ‖f(X)‖ is the divisor (docs/method.md §10).

    Args:
      function: Map on the last axis, `(samples, units) -> (samples, units)`.
      group: Group whose elements are drawn.
      units: Number of units, n.
      key: PRNG key of the inputs and the group elements.
      samples: Number of inputs of each range of lengths.
      elements: Number of group elements.
      scale: Lengths of the inputs, see `ranges`.

    Returns:
      The residual of the worst range of lengths. It is of the size of rounding errors if `function`
      commutes with `group`, and of order 1 if it does not. Ranges in which the map is 0, not finite
      or not larger than rounding errors count as 0.

    Raises:
      InputError: `scale` is not valid.
    """
    drawn, members = jax.random.split(key)
    x = _inputs(drawn, ranges(scale), samples, units)
    # By default accelerators would multiply in less than single precision.
    with jax.default_matmul_precision("highest"):
        seen = _see(function, x, _draw(group, members, units, elements), constant=False)
    return float(seen.beyond_rounding.max())


def _draw(group: Group, key: jax.Array, units: int, count: int) -> np.ndarray:
    drawn = [np.asarray(group.sample(k, units)) for k in jax.random.split(key, count)]
    return np.stack(drawn).astype(np.float64)


class Certificate(NamedTuple):
    """Result of a numerical test of a map's claimed symmetry.

    Attributes:
      claimed: Name of the claimed group.
      residual: Equivariance residual under the claimed group, see `equivariance_residual`.
      inversion: Equivariance residual under the inversion x ↦ −x.
      residuals: Equivariance residuals under the `COMMON` groups, by their names.
      algebra: Dimensions of the Lie algebra of the map's continuous symmetries.
      lengths: What was found at each range of lengths that was tested.
      problem: Why the claim does not hold, in words; empty if it holds.
    """

    claimed: str
    residual: float
    inversion: float
    residuals: dict[str, float]
    algebra: LieAlgebra
    lengths: tuple[AtLengths, ...]
    problem: str

    @property
    def holds(self) -> bool:
        """Whether the map has exactly the claimed symmetry at the lengths that were tested.

        It commutes with the claimed group, and has neither further continuous symmetries nor the
        inversion if the group lacks it.
        """
        return not self.problem


def describe(lengths: Sequence[AtLengths]) -> str:
    """Returns in words what was found at which lengths.

    Args:
      lengths: What was found at each range of lengths.

    Example:
      >>> describe([AtLengths(1, 10, LINEAR, 0.0), AtLengths(10, 99, COMMUTING, 0.0)])
      'holds at 10 to 99; undetermined at 1 to 10 (linear)'
    """
    texts = []
    for finding in FINDINGS:
        found = _where(lengths, finding)
        if not found:
            continue
        if finding in (DIFFERS, COMMUTING):
            texts.append(f"{'fails' if finding == DIFFERS else 'holds'} at {found}")
        else:
            texts.append(f"undetermined at {found} ({finding})")
    return "; ".join(texts)


def _where(lengths: Sequence[AtLengths], *findings: str) -> str:
    """Returns the ranges of lengths with some findings as a text, neighbouring ones as one."""
    merged: list[tuple[float, float]] = []
    for one in lengths:
        if one.finding not in findings:
            continue
        if merged and merged[-1][1] == one.low:
            merged[-1] = (merged[-1][0], one.high)
        else:
            merged.append((one.low, one.high))
    texts = [f"{low:.4g}" if low == high else f"{low:.4g} to {high:.4g}" for low, high in merged]
    return ", ".join(texts)


def certify(
    function: Map,
    claimed: str,
    *,
    units: int,
    key: jax.Array,
    scale: Scale = DECADES,
    constant: bool = False,
) -> Certificate:
    """Tests whether a map has exactly the claimed symmetry (docs/method.md §10).

    The certificate says at which lengths of the inputs the map was tested, and nothing is known
    beyond them. A discrete group larger than the claimed one is noticed only if it contains the
    inversion −1.

    Args:
      function: Map on the last axis, `(samples, units) -> (samples, units)`.
      claimed: Name of the claimed group, as `get_group` accepts it.
      units: Number of units, n.
      key: PRNG key of the inputs and the group elements.
      scale: Lengths of the inputs, see `ranges`; by default all from 10⁻³ to 10³, in six decades.
      constant: Whether the map depends on nothing that can change, such as a global variable, so
        that it need not be compiled anew each time.

    Returns:
      The `Certificate`.

    Raises:
      InputError: No group has this name, or `scale` is not valid.

    Example:
      >>> clipped, key = lambda x: jnp.clip(x, -50, 50), jax.random.key(0)
      >>> certify(clipped, "B_n", units=8, key=key).holds
      True
      >>> certify(clipped, "O(n)", units=8, key=key).problem
      'it does not commute with O(n) at lengths 10 to 1000'
    """
    spans, (drawn, members) = ranges(scale), jax.random.split(key)
    elements = _elements(claimed, units, members)
    # By default accelerators would multiply in less than single precision.
    with jax.default_matmul_precision("highest"):
        x = _inputs(drawn, spans, SAMPLES, units)
        _check_shape(function, units)
        seen = _see(function, x, elements, constant=constant)
    worst = seen.beyond_rounding.max(axis=1)
    inversion = float(worst[0])
    of_groups = worst[1:].reshape(-1, ELEMENTS).max(axis=1).tolist()
    residuals = dict(zip(COMMON, of_groups[:-1], strict=True))
    lengths = _tested(spans, seen)
    told = np.array([one.finding in (COMMUTING, LINEAR, DIFFERS) for one in lengths])
    algebra = _algebra(seen, told)
    problem = _problem(claimed, units, lengths, inversion, algebra)
    return Certificate(claimed, of_groups[-1], inversion, residuals, algebra, lengths, problem)


def find(function: Map, *, units: int, key: jax.Array, also: Sequence[str] = ()) -> str:
    """Finds the largest group with which a map commutes, among those that have a name.

    Args:
      function: Map on the last axis, `(samples, units) -> (samples, units)`.
      units: Number of units, a multiple of 4 if groups of blocks are to be found.
      key: PRNG key of the inputs and the group elements.
      also: Names of further groups, the larger before the smaller.

    Returns:
      The name of the first group in `KNOWN`, `also` and `TURNED` of which `certify` holds, or
      `trivial` if there is none.

    Example:
      >>> find(jnp.tanh, units=8, key=jax.random.key(0))
      'B_n'
      >>> find(lambda x: x[..., ::-1] * x, units=8, key=jax.random.key(0))
      'trivial'
    """
    drawn, members = jax.random.split(key)
    # By default accelerators would multiply in less than single precision.
    with jax.default_matmul_precision("highest"):
        x = _inputs(drawn, DECADES, SAMPLES, units)
        # The dimension of the algebra leaves few groups, whose elements then need to be drawn.
        seen = _see(function, x, -np.eye(units)[None], constant=False)
        algebra, inversion = _algebra(seen, seen.finite), float(seen.beyond_rounding.max())
        for name in (*KNOWN, *also, *TURNED):
            if units % _block_size(name) or get_group(name).rotations(units) != algebra.rotations:
                continue
            elements = _draw(get_group(name), members, units, ELEMENTS)
            lengths = _tested(DECADES, _see(function, x, elements, constant=False))
            if not _problem(name, units, lengths, inversion, algebra):
                return name
    return TRIVIAL


def _block_size(name: str) -> int:
    plain = name.partition("@")[0]
    return int(plain.removeprefix("blocks:")) if plain.startswith("blocks:") else 1


def _check_shape(function: Map, units: int) -> None:
    """Refuses a map that does not return vectors of the width that it is given."""
    vectors = jax.ShapeDtypeStruct((SAMPLES, units), jnp.float32)
    found = jax.eval_shape(function, vectors).shape
    if found != vectors.shape:
        problem = f"must return vectors as wide as it is given: {vectors.shape} became {found}"
        raise InputError("function", getattr(function, "__name__", "a map"), problem)


def _elements(claimed: str, units: int, key: jax.Array) -> np.ndarray:
    """Returns the inversion, and elements of the `COMMON` groups and of the claimed one."""
    drawn = [_draw(get_group(name), key, units, ELEMENTS) for name in (*COMMON, claimed)]
    return np.concatenate([-np.eye(units)[None], *drawn])


def _tested(spans: Sequence[tuple[float, float]], seen: _Seen) -> tuple[AtLengths, ...]:
    """Returns what the last elements, which are the claimed group's, say of each range."""
    relative, residuals = (
        one[-ELEMENTS:].max(axis=0) for one in (seen.relative, seen.beyond_rounding)
    )
    mean_slope = seen.slopes.mean(axis=1)
    bent = np.linalg.norm(seen.y - np.einsum("rij,rsj->rsi", mean_slope, seen.x), axis=(1, 2))
    cases = {
        NOT_FINITE: ~seen.finite,
        ZERO: seen.sizes[-ELEMENTS:].max(axis=0) == 0,
        DIFFERS: residuals >= COMMUTES,
        IN_ROUNDING: relative >= COMMUTES,
        LINEAR: bent < COMMUTES * np.linalg.norm(seen.y, axis=(1, 2)),
    }
    found = np.select(list(cases.values()), list(cases), COMMUTING).tolist()
    both = zip(spans, found, residuals.tolist(), strict=True)
    return tuple(AtLengths(*span, finding, residual) for span, finding, residual in both)


def _problem(
    claimed: str, units: int, lengths: tuple[AtLengths, ...], inversion: float, algebra: LieAlgebra
) -> str:
    """Returns why a claim does not hold, or an empty text."""
    group, failing = get_group(claimed), _where(lengths, DIFFERS)
    if failing:
        return f"it does not commute with {claimed} at lengths {failing}"
    if not _where(lengths, COMMUTING, LINEAR):
        return f"nothing can be told: {describe(lengths)}; test other lengths"
    linear = "" if _where(lengths, COMMUTING) else ", as it is linear at all lengths tested"
    odd, wanted = inversion < COMMUTES, group.rotations(units)
    if group.has_inversion is not None and odd != group.has_inversion:
        also = "commutes with −1, which is not" if odd else "does not commute with −1, which is"
        return f"it {also} in {claimed}{linear}"
    if algebra.rotations != wanted:
        found = f"a continuous group of {algebra.rotations} dimensions, {claimed} of {wanted}"
        return f"it commutes with {found}{linear}"
    return ""
