"""Do two networks find the same axes? Matching units against matching whole latent spaces.

Two networks of different seeds can agree up to a rotation of the latents, or unit by unit up to
order and sign. Without a privileged basis the second is no more than a rotation happens to give;
with one it comes near the first. This sign of a privileged basis needs no angles and no planes.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import linear_sum_assignment

from ppp_jax import bases
from ppp_jax.analysis.inference.rotation_test import (
    MOST_ROTATIONS,
    ROTATIONS,
    pool,
    under_rotations,
)
from ppp_jax.analysis.io.sources import Latents, numbers
from ppp_jax.errors import InputError, seeded, whole


class Match(NamedTuple):
    """How well one cloud of latents turns into another, sample by sample.

    Attributes:
      units: The best one-to-one matching of units, signs free: Σ |correlation-like products|.
      orthogonal: The best rotation or reflection (Procrustes); never less than `units`.
    """

    units: float
    orthogonal: float


class Convergence(NamedTuple):
    """Matches of independent pairs of networks, and their rotation test.

    Attributes:
      units: `(pairs,)`, the units' match of every pair.
      orthogonal: `(pairs,)`, the orthogonal match.
      null: `(pairs,)`, the mean over rotations of the units' match.
      z: The distance of the mean over pairs from the rotation null, in its deviations.
      p: Whether pairs agree on a sign (`pool`); missing of fewer than 6 pairs.
    """

    units: np.ndarray
    orthogonal: np.ndarray
    null: np.ndarray
    z: float
    p: float


def cross_product(a: Any, b: Any) -> np.ndarray:
    """Returns AᵀB of two clouds, each centred and brought to unit Frobenius norm.

    Args:
      a: `(samples, units)`.
      b: `(samples, units)`, the same samples.

    Raises:
      InputError: the shapes differ, or a cloud does not vary or is not finite.
    """
    found = []
    for name, x in (("a", a), ("b", b)):
        x = numbers(name, x, dimensions=2)
        if x.shape != np.shape(a) or not x.size:
            raise InputError(name, x.shape, "both must have one shape (samples, units)")
        x = x - x.mean(axis=0)
        norm = np.linalg.norm(x)
        if not (np.isfinite(norm) and norm > 0):
            raise InputError(name, x.shape, "does not vary, or is not finite")
        found.append(x / norm)
    return found[0].T @ found[1]


def match(a: Any, b: Any) -> Match:
    """Matches two clouds of the same samples, unit by unit and as wholes.

    Both are fractions: 1 if the clouds are the same up to a signed permutation (`units`), or up to
    an orthogonal map (`orthogonal`).

    Args:
      a: `(samples, units)`.
      b: `(samples, units)`.

    Raises:
      InputError: see `cross_product`.

    Example:
      >>> x = np.random.default_rng(0).normal(size=(50, 3))
      >>> found = match(x, -x[:, [2, 0, 1]])
      >>> round(found.units, 6), round(found.orthogonal, 6)
      (1.0, 1.0)
    """
    product = cross_product(a, b)
    return Match(_assigned(product), float(np.linalg.norm(product, "nuc")))


def _assigned(product: np.ndarray) -> float:
    weight = np.abs(product)
    return float(weight[linear_sum_assignment(weight, maximize=True)].sum())


def convergence(
    latents: Latents,
    *,
    basis: str | ArrayLike | None = None,
    rotations: int = ROTATIONS,
    rotation_seed: int = 0,
) -> Convergence:
    """Tests whether networks of different seeds find the same axes.

    Seeds are taken in disjoint pairs, first with second, third with fourth, so that pairs are
    independent. The null turns one of a pair by Haar-random rotations, each pair by its own, which
    changes the units' match and not the orthogonal one: if no basis is privileged, the observed
    match is exchangeable with these.

    Args:
      latents: `(seeds, samples, units)`; an odd last seed is left out.
      basis: An orthonormal basis whose vectors count as units, or its name; None: the standard one.
      rotations: Number K of random rotations.
      rotation_seed: Seed of the random rotations.

    Raises:
      InputError: fewer than two seeds, a basis that is not orthonormal, or see `cross_product`.
    """
    whole("rotations", rotations, least=1, most=MOST_ROTATIONS)  # before anything is computed
    seeded(rotation_seed, field="rotation_seed")
    x = numbers("latents", latents)
    if x.ndim != 3 or len(x) < 2 or not x.size:
        raise InputError("latents", x.shape, "must be (seeds, samples, units) of two seeds or more")
    units = x.shape[-1]
    named = "standard" if basis is None else basis
    axes = bases.build(named, units) if isinstance(named, str) else numbers("basis", named)
    if axes.shape != (units, units) or not np.allclose(axes @ axes.T, np.eye(units), atol=1e-6):
        raise InputError("basis", basis, "must be orthonormal here: units are matched one to one")
    pairs = [(axes @ cross_product(x[k], x[k + 1]) @ axes.T) for k in range(0, len(x) - 1, 2)]
    each = under_rotations(
        {"units": lambda k, q: _assigned(pairs[k] @ q)},
        clouds=len(pairs),
        units=units,
        rotations=rotations,
        rotation_seed=rotation_seed,
        axis="pair",
    ).isel(statistic=0)
    tested = pool(each, over="pair")
    orthogonal = np.array([np.linalg.norm(product, "nuc") for product in pairs])
    z, p = (tested[name].item() for name in ("z", "p"))
    return Convergence(each["value"].values, orthogonal, each["mean"].values, z, p)
