"""Where directions stand relative to the orbits of a basis's symmetry group.

Four sets of special directions: the basis vectors (vertices), their opposites, the normalised
sums of two (edges), and the corners Σ ±b_k. On an orthonormal basis these are orbits of its group,
and disjoint. On other frames corners are many orbits: of a simplex, whose vectors sum to 0, they
are the sums of any of them, vertices and edges included.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import xarray as xr

from ppp_jax.analysis.inference.rotation_test import (
    MOST_ROTATIONS,
    ROTATIONS,
    pool,
    under_rotations,
)
from ppp_jax.analysis.io.sources import numbers
from ppp_jax.analysis.projection.views import present
from ppp_jax.errors import InputError, seeded, whole

CENTRES = 20  # clusters of a cloud
ISOTROPIC = 4096  # vectors that say how near an orbit is by chance
ANTIPODAL = 1e-6  # a sum of two unit vectors shorter than this has no direction
ALIKE = 1 - 1e-6  # unit vectors whose cosine is larger are one vector


def vertices(x: np.ndarray, basis: np.ndarray) -> np.ndarray:
    """Returns the largest cosine of unit vectors, `(..., units)`, with the basis vectors."""
    found: np.ndarray = (x @ basis.T).max(axis=-1)
    return found


def opposites(x: np.ndarray, basis: np.ndarray) -> np.ndarray:
    """Returns the largest cosine with the basis vectors' opposites."""
    return vertices(-x, basis)


def edges(x: np.ndarray, basis: np.ndarray) -> np.ndarray:
    """Returns the largest cosine with the normalised sums of two basis vectors."""
    sums = _sums(np.ascontiguousarray(basis, float).tobytes(), basis.shape[1])
    found: np.ndarray = (x @ sums.T).max(axis=-1)
    return found


@functools.lru_cache(maxsize=4)
def _sums(basis: bytes, units: int) -> np.ndarray:
    """Returns the normalised sums of two vectors of a basis, given as the bytes of its float64."""
    vectors = np.frombuffer(basis).reshape(-1, units)
    i, j = np.triu_indices(len(vectors), 1)
    sums = vectors[i] + vectors[j]
    length = np.linalg.norm(sums, axis=1, keepdims=True)
    there = length[:, 0] > ANTIPODAL
    found: np.ndarray = sums[there] / length[there]
    return found


def corners(x: np.ndarray, basis: np.ndarray) -> np.ndarray:
    """Returns the cosine with the corner Σ ±b_k of the same signs.

    On an orthonormal basis that is the nearest corner; on other frames another may be nearer. A
    vector orthogonal to some b_k has one sign there as well as the other, never none: b_j itself is
    no corner.
    """
    along = x @ basis.T
    # One fixed direction decides, so that a vector and its opposite never get the same sign.
    tie = np.random.default_rng(0).normal(size=basis.shape[1]) @ basis.T
    corner = np.sign(np.where(np.abs(along) > ANTIPODAL, along, tie)) @ basis
    length = np.linalg.norm(corner, axis=-1)
    found: np.ndarray = np.vecdot(x, corner) / np.where(length > 0, length, 1)
    return found


def signed(basis: np.ndarray) -> np.ndarray:
    """Returns a basis together with its opposites, each vector once.

    A basis may hold opposites already, as the cross-polytope does: twice the same vector would be a
    sum of two, and so an axis among the diagonals.

    Args:
      basis: Unit rows, `(basis vectors, units)`.

    Returns:
      `(from as many to twice as many, units)`.
    """
    both = np.concatenate([basis, -basis])
    repeated = np.tril(both @ both.T > ALIKE, -1).any(axis=1)
    found: np.ndarray = both[~repeated]
    return found


def centres(cloud: np.ndarray, *, clusters: int = CENTRES) -> np.ndarray:
    """Returns the centres of clusters of one network's latents, found by k-means.

    Rows of zeros are no samples (docs/method.md §5), and are left out.

    Args:
      cloud: `(samples, units)`.
      clusters: How many.

    Returns:
      `(clusters, units)`; missing of a cloud that is missing, or has fewer different samples than
      there are to be clusters.
    """
    from sklearn.cluster import KMeans

    samples = cloud[present(cloud)]
    if not np.isfinite(cloud).all() or len(np.unique(samples, axis=0)) < clusters:
        return np.full((clusters, cloud.shape[1]), np.nan)
    fitted = KMeans(clusters, n_init=1, random_state=0).fit(samples)
    found: np.ndarray = fitted.cluster_centers_
    return found


Cosine = Callable[[np.ndarray, np.ndarray], np.ndarray]
ORBITS: dict[str, Cosine] = {
    "vertices": vertices,
    "opposites": opposites,
    "edges": edges,
    "corners": corners,
}
# On a basis with its opposites (`signed`): a cluster at −b_k lies on an axis as one at b_k does.
SIGNED: dict[str, Cosine] = {"axes": vertices, "diagonals": edges, "corners": corners}


def nearest(vectors: np.ndarray, basis: np.ndarray, *, reference_seed: int = 0) -> np.ndarray:
    """Returns which orbit each vector is nearest to, compared with isotropic vectors.

    Orbits have very different numbers of elements, and some corner of 2ⁿ is always near: so each
    cosine is counted from its mean over isotropic vectors, in their standard deviations.

    Args:
      vectors: `(vectors, units)`, of any length but 0.
      basis: The vectors of the basis, unit rows, `(basis vectors, units)`.
      reference_seed: Seed of the 4,096 isotropic vectors of the reference.

    Returns:
      `(vectors,)`, places in `ORBITS`.

    Raises:
      InputError: vectors or a basis that are none.
    """
    unit, basis = _unit(vectors, 2), _checked_basis(vectors, basis)
    null = np.random.default_rng(seeded(reference_seed, field="reference_seed")).normal(
        size=(ISOTROPIC, unit.shape[1])
    )
    null /= np.linalg.norm(null, axis=1, keepdims=True)
    found = []
    for cosine in ORBITS.values():
        usual = cosine(null, basis)
        found.append((cosine(unit, basis) - usual.mean()) / usual.std())
    place: np.ndarray = np.argmax(found, axis=0)
    return place


def _unit(vectors: Any, dimensions: int) -> np.ndarray:
    x = numbers("vectors", vectors, dimensions=dimensions)
    length = np.linalg.norm(x, axis=-1, keepdims=True)
    if not x.size or not (np.isfinite(length) & (length > 0)).all():
        raise InputError("vectors", f"array {x.shape}", "is empty, or has a zero or non-finite row")
    unit: np.ndarray = x / length
    return unit


def _checked_basis(vectors: Any, basis: Any) -> np.ndarray:
    x, units = numbers("basis", basis, dimensions=2), np.shape(vectors)[-1]
    if len(x) < 2 or x.shape[1] != units or not np.isfinite(x).all():
        raise InputError("basis", f"array {x.shape}", f"must be finite, (two or more, {units})")
    return x


class Position(NamedTuple):
    """The mean cosine with an orbit, over seeds and vectors, and its test (see `pool`)."""

    cosine: float
    z: float
    p: float


def positions(
    vectors: np.ndarray, basis: np.ndarray, *, rotations: int = ROTATIONS, rotation_seed: int = 0
) -> dict[str, Position]:
    """Holds directions, such as those of cluster centres, against every orbit.

    Args:
      vectors: `(seeds, vectors, units)`, of any length but 0; each seed gets rotations of its own.
      basis: The vectors of the basis, unit rows, `(basis vectors, units)`.
      rotations: Number K of random rotations.
      rotation_seed: Seed of the random rotations.

    Returns:
      Orbit to its `Position`; p is missing of fewer than 6 seeds.

    Raises:
      InputError: fewer than one rotation, vectors or a basis that are none.
    """
    tested = pool(cosines(vectors, basis, rotations=rotations, rotation_seed=rotation_seed))
    parts = ("value", "z", "p")
    return {
        name: Position(*(tested[part].sel(statistic=name).item() for part in parts))
        for name in ORBITS
    }


def cosines(
    vectors: np.ndarray,
    basis: np.ndarray,
    *,
    orbits: Mapping[str, Cosine] = ORBITS,
    rotations: int = ROTATIONS,
    rotation_seed: int = 0,
) -> xr.Dataset:
    """Returns the mean cosine of each seed's directions with every orbit, and its rotation test.

    Args:
      vectors: `(seeds, vectors, units)`, of any length but 0; each seed gets rotations of its own.
      basis: The vectors of the basis, unit rows, `(basis vectors, units)`.
      orbits: The cosines by the names of the orbits.
      rotations: Number K of random rotations.
      rotation_seed: Seed of the random rotations.

    Returns:
      As `rotation_test`, over `seed` and `statistic`, which names the orbits.

    Raises:
      InputError: fewer than one rotation, vectors or a basis that are none.
    """
    whole("rotations", rotations, least=1, most=MOST_ROTATIONS)  # before anything is computed
    seeded(rotation_seed, field="rotation_seed")
    unit, vectors_of = _unit(vectors, 3), _checked_basis(vectors, basis)

    def mean_of(cosine: Cosine) -> Callable[[int, np.ndarray], float]:
        return lambda k, q: float(cosine(unit[k] @ q, vectors_of).mean())

    return under_rotations(
        {name: mean_of(cosine) for name, cosine in orbits.items()},
        clouds=len(unit),
        units=unit.shape[-1],
        rotations=rotations,
        rotation_seed=rotation_seed,
    )
