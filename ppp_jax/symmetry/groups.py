"""Groups of orthogonal matrices, and how far a map is from commuting (docs/method.md §10)."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ppp_jax import bases
from ppp_jax.errors import InputError, lookup
from ppp_jax.numerics import haar_orthogonal

SAME_COSINE = 1e-4  # smaller differences are rounding: bases are optimised in single precision
COMMUTES = 1e-4  # smaller residuals are rounding in single precision
COMMON = ("S_n", "B_n", "O(n)", "S_n@haar:0", "B_n@haar:0")  # groups that every map is tested under
# Largest singular value, relative to the map's largest gain and per root of the number of
# equations, that counts as vanishing.
NULL_SINGULAR = 1e-5


class Group(NamedTuple):
    """A subgroup of O(n).

    Attributes:
      description: What the group's elements do, for readers.
      sample: Function `(key, n) -> (n, n)` that draws an element; every element can be drawn.
      rotations: Function of n that returns the dimension of the group's Lie algebra, which is 0 for
        a discrete group.
      has_inversion: Whether the inversion −1 is in the group; None if that depends on the basis.
    """

    description: str
    sample: Callable[[jax.Array, int], jax.Array]
    rotations: Callable[[int], int]
    has_inversion: bool | None


# By default accelerators would multiply in less than single precision.
_product = functools.partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)


def _none(_: int) -> int:
    return 0


def _all(n: int) -> int:
    return n * (n - 1) // 2


def _permutation(key: jax.Array, n: int) -> jax.Array:
    return jnp.eye(n)[jax.random.permutation(key, n)]


def _signed_permutation(key: jax.Array, n: int) -> jax.Array:
    order, signs = jax.random.split(key)
    return _permutation(order, n) * jax.random.rademacher(signs, (1, n), dtype=float)


GROUPS: dict[str, Group] = {
    "S_n": Group("permutes the axes", _permutation, _none, has_inversion=False),
    "B_n": Group(
        "permutes the axes and flips their signs", _signed_permutation, _none, has_inversion=True
    ),
    "O(n)": Group("rotates and reflects freely", haar_orthogonal, _all, has_inversion=True),
}


def get_group(name: str) -> Group:
    """Returns a group by its name (docs/method.md §10).

    Args:
      name: `S_n`, `B_n`, `O(n)`, `blocks:K` for O(K) ≀ S_{n/K}, or such a group with respect to
        another basis. `G@haar:SEED` is R G Rᵀ, where G is any of them. `S_n@BASIS` consists of the
        orthogonal maps that permute the vectors of a basis, and `B_n@BASIS` of those that permute
        them up to sign.

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
    if basis.startswith("haar"):
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

    def sample(key: jax.Array, n: int) -> jax.Array:
        if n % size:
            raise InputError("group", name, f"blocks of {size} do not divide {n} units")
        order, turns = jax.random.split(key)
        count = n // size
        turned = jax.vmap(lambda k: haar_orthogonal(k, size))(jax.random.split(turns, count))
        blocks = jax.scipy.linalg.block_diag(*turned)
        return _product(jnp.kron(_permutation(order, count), jnp.eye(size)), blocks)

    description = f"rotates blocks of {size} axes freely, and permutes the blocks"
    return Group(description, sample, lambda n: n // size * _all(size), has_inversion=True)


def _turned(group: Group, basis: str) -> Callable[[jax.Array, int], jax.Array]:
    def sample(key: jax.Array, n: int) -> jax.Array:
        vectors = jnp.asarray(bases.build(basis, n), float)
        return _product(_product(vectors.T, group.sample(key, n)), vectors)

    return sample


def _basis_symmetry(basis: str, *, signed: bool) -> Callable[[jax.Array, int], jax.Array]:
    """Returns a sampler of the orthogonal maps that permute a basis's vectors (`signed`: ±them)."""

    def sample(key: jax.Array, n: int) -> jax.Array:
        vectors = bases.build(basis, n)
        vectors = np.concatenate([vectors, -vectors]) if signed else vectors
        rng = np.random.default_rng(np.asarray(jax.random.key_data(key)))
        return jnp.asarray(_automorphism(vectors, rng), float)

    return sample


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


def lie_algebra(
    function: Callable[[jax.Array], jax.Array], *, units: int, key: jax.Array, samples: int = 256
) -> LieAlgebra:
    """Finds a map's continuous symmetries: all M with J_f(x) M x = M f(x) (docs/method.md §10).

    Args:
      function: Map on the last axis, `(samples, units) -> (samples, units)`.
      units: Number of units, n.
      key: PRNG key of the inputs x, which are drawn as in `equivariance_residual`.
      samples: Number of inputs.

    Returns:
      The dimensions, which are the numbers of vanishing singular values of these linear equations
      in M.
    """
    x = _inputs(key, samples, units)
    slopes = jax.jit(jax.vmap(jax.jacobian(lambda row: function(row[None])[0])))(x)
    points, values, jacobians = (np.asarray(a, np.float64) for a in (x, function(x), slopes))
    equations = np.einsum("sia,sb->siab", jacobians, points)
    equations -= np.einsum("ia,sb->siab", np.eye(units), values)
    # The equations are divided by the length of their sample and by the map's largest gain, so that
    # short samples count as much as long ones and the threshold does not depend on the map's scale.
    lengths = np.linalg.norm(points, axis=1)
    gain = np.max(np.linalg.norm(values, axis=1) / lengths)
    equations /= lengths[:, None, None, None] * (gain if gain > 0 else 1)
    i, j = np.triu_indices(units, 1)
    turning = (equations[..., i, j] - equations[..., j, i]).reshape(-1, len(i))
    return LieAlgebra(_nullity(equations.reshape(-1, units**2)), _nullity(turning))


def _nullity(equations: np.ndarray) -> int:
    singular = np.linalg.svd(equations, compute_uv=False)
    return int(np.sum(singular <= NULL_SINGULAR * max(1.0, float(np.sqrt(len(equations))))))


def _inputs(key: jax.Array, samples: int, units: int) -> jax.Array:
    """Draws normal vectors, `(samples, units)`, scaled by factors over two decades around 1."""
    inputs, lengths = jax.random.split(key)
    x = jax.random.normal(inputs, (samples, units))
    return x * 10 ** jax.random.uniform(lengths, (samples, 1), minval=-1.0, maxval=1.0)


def equivariance_residual(
    function: Callable[[jax.Array], jax.Array],
    group: Group,
    *,
    units: int,
    key: jax.Array,
    samples: int = 256,
    elements: int = 8,
) -> jax.Array:
    """Returns the worst relative residual ‖f(XG) − f(X)G‖ / ‖f(X)‖ over random group elements.

    The inputs X are normal vectors whose lengths are spread over two decades around 1, so that
    both the linear and the saturated part of an activation are tested. Norms are taken over all
    inputs together, so an input that is mapped to 0 causes no division by 0 (docs/method.md §10).

    Args:
      function: Map on the last axis, `(samples, units) -> (samples, units)`.
      group: Group whose elements are drawn.
      units: Number of units, n.
      key: PRNG key of the inputs and the group elements.
      samples: Number of inputs.
      elements: Number of group elements.

    Returns:
      A scalar. It is of the size of rounding errors if `function` commutes with `group`, and of
      order 1 if it does not.
    """
    drawn, members = jax.random.split(key)
    x = _inputs(drawn, samples, units)
    # By default accelerators would multiply in less than single precision.
    with jax.default_matmul_precision("highest"):
        g = jnp.stack([group.sample(k, units) for k in jax.random.split(members, elements)])
        return _worst(function, x, g)


@functools.partial(jax.jit, static_argnums=0)  # compiled once for all groups
def _worst(function: Callable[[jax.Array], jax.Array], x: jax.Array, g: jax.Array) -> jax.Array:
    y = function(x)
    residual = jax.vmap(function)(x @ g) - y @ g
    return jnp.max(jnp.linalg.norm(residual, axis=(1, 2))) / jnp.linalg.norm(y)


class Certificate(NamedTuple):
    """Result of a numerical test of a map's claimed symmetry.

    Attributes:
      claimed: Name of the claimed group.
      residual: Equivariance residual under the claimed group, see `equivariance_residual`.
      inversion: Equivariance residual under the inversion x ↦ −x.
      residuals: Equivariance residuals under the `COMMON` groups, by their names.
      algebra: Dimensions of the Lie algebra of the map's continuous symmetries.
      holds: Whether the map commutes with the claimed group, and has neither further continuous
        symmetries nor the inversion if the group lacks it.
    """

    claimed: str
    residual: float
    inversion: float
    residuals: dict[str, float]
    algebra: LieAlgebra
    holds: bool


def certify(
    function: Callable[[jax.Array], jax.Array], claimed: str, *, units: int, key: jax.Array
) -> Certificate:
    """Tests whether a map has exactly the claimed symmetry (docs/method.md §10).

    A discrete group larger than the claimed one is noticed only if it contains the inversion −1.

    Args:
      function: Map on the last axis, `(samples, units) -> (samples, units)`.
      claimed: Name of the claimed group, as `get_group` accepts it.
      units: Number of units, n.
      key: PRNG key of the inputs and the group elements.

    Returns:
      The `Certificate`.

    Raises:
      InputError: No group has this name.
    """
    group = get_group(claimed)
    x = _inputs(key, 256, units)
    residual_of = functools.partial(equivariance_residual, function, units=units, key=key)
    with jax.default_matmul_precision("highest"):  # the map may multiply, too
        y = function(x)
        inversion = float(jnp.linalg.norm(function(-x) + y) / jnp.linalg.norm(y))
        residual = float(residual_of(group))
        residuals = {name: float(residual_of(get_group(name))) for name in COMMON}
        algebra = lie_algebra(function, units=units, key=key)
    no_more = group.has_inversion in (None, inversion < COMMUTES)
    no_more &= algebra.rotations == group.rotations(units)
    return Certificate(
        claimed, residual, inversion, residuals, algebra, residual < COMMUTES and no_more
    )
