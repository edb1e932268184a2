"""Clouds of known structure, on which statistics and tests are checked (docs/method.md §13)."""

from typing import Any

import numpy as np

from ppp_jax import bases
from ppp_jax.errors import InputError, choice, real, seeded, whole
from ppp_jax.resources import check_product

CLUSTERS = 32
ARRAYS = 12  # Number of arrays of the size of one cloud that are held at once.
# The widths of the clusters and the axes of the ellipsoid were chosen to reproduce the table of
# docs/method.md §13.
AXIS_NOISE, CORNER_NOISE, DIRECTION_NOISE, SHORTEST_AXIS = 0.062, 0.245, 0.061, 0.14


def known_clouds(
    *, samples: int = 6000, units: int = 16, sample_seed: int = 0
) -> dict[str, np.ndarray]:
    """Returns the eight clouds of docs/method.md §13.

    Args:
      samples: Number of samples of each cloud.
      units: Number of units n.
      sample_seed: Seed of all random draws.

    Returns:
      A dictionary from the name of each cloud to its latents, `(samples, units)`, float64.

    Raises:
      InputError: An argument is out of its range, or the clouds would not fit into memory.
    """
    _check(samples, units)
    rng = np.random.default_rng(seeded(sample_seed, field="sample_seed"))

    def clusters(centres: np.ndarray, noise: float) -> np.ndarray:
        chosen = centres[rng.integers(len(centres), size=samples)]
        return chosen + noise * rng.normal(size=(samples, units))

    normal = rng.normal(size=(samples, units))
    axes = clusters(bases.cross_polytope(units), AXIS_NOISE)
    directions = rng.normal(size=(CLUSTERS, units))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    return {
        "isotropic normal": normal,
        "axis clusters": axes,
        "hypercube-corner clusters": clusters(
            np.sign(rng.normal(size=(CLUSTERS, units))), CORNER_NOISE
        ),
        "axis clusters, rotated": axes @ bases.haar(units, rotation_seed=sample_seed),
        "clusters in random directions": clusters(directions, DIRECTION_NOISE),
        "tanh(1.5·normal)": np.tanh(1.5 * normal),
        "axis-aligned ellipsoid": normal * np.geomspace(SHORTEST_AXIS, 1, units),
        "Laplace": rng.laplace(size=(samples, units)),
    }


def _check(samples: int, units: int) -> None:
    whole("samples", samples, least=1)
    whole("units", units, least=1)
    given = {"samples": samples, "units": units}
    check_product(given, 8 * ARRAYS * (samples + units) * units)


def _generator(rng: Any) -> None:
    if not isinstance(rng, np.random.Generator):
        raise InputError(
            "rng", type(rng).__name__, "must be a generator, such as numpy.random.default_rng(seed)"
        )


def isotropic_clouds(
    rng: np.random.Generator, *, samples: int = 500, units: int = 8
) -> dict[str, np.ndarray]:
    """Draws clouds whose distribution no rotation changes, although most of them are not normal.

    Args:
      rng: Generator of the random numbers.
      samples: Number of samples of each cloud.
      units: Number of units n.

    Returns:
      A dictionary from names to latents, `(samples, units)`, float64. The clouds are normal;
      uniform on the sphere; heavy-tailed, with Student's t distribution of 1.5 degrees of freedom,
      which has no variance; and clustered on the axes, turned by one random rotation.

    Raises:
      InputError: `rng` is no generator, or a size is out of its range.
    """
    _generator(rng)
    _check(samples, units)
    normal = rng.normal(size=(samples, units))
    axes = bases.cross_polytope(units)
    clumps = axes[rng.integers(len(axes), size=samples)] + AXIS_NOISE * normal
    return {
        "normal": normal,
        "uniform on the sphere": normal / np.linalg.norm(normal, axis=1, keepdims=True),
        "heavy-tailed": normal / np.sqrt(rng.chisquare(1.5, size=(samples, 1)) / 1.5),
        "clumped, randomly rotated": clumps @ bases.rotations(units, 1, rng)[0],
    }


def mixture(
    rng: np.random.Generator,
    fraction: float,
    *,
    samples: int = 500,
    units: int = 8,
    kind: str = "axes",
) -> np.ndarray:
    """Draws normal samples, of which a fraction is replaced by clusters on the axes or the corners.

    Args:
      rng: Generator of the random numbers.
      fraction: Probability that a sample is replaced, in [0, 1].
      samples: Number of samples.
      units: Number of units n.
      kind: `axes` for centres ±√n·e_i, or `corners` for random corners (±1, …, ±1) of the cube.
        Both have length √n, which is the usual length of a normal sample.

    Returns:
      The samples, `(samples, units)`, float64.

    Raises:
      InputError: `kind` is neither word, `fraction` lies outside [0, 1], `rng` is no generator, or
        a size is out of its range.
    """
    real("fraction", fraction, least=0, most=1)
    choice("kind", kind, ("axes", "corners"))
    _generator(rng)
    _check(samples, units)
    if kind == "axes":
        centres = np.sqrt(units) * bases.cross_polytope(units)
    else:
        centres = rng.choice([-1.0, 1.0], size=(CLUSTERS, units))
    normal = rng.normal(size=(samples, units))
    clusters = centres[rng.integers(len(centres), size=samples)] + CORNER_NOISE * normal
    return np.where(rng.random((samples, 1)) < fraction, clusters, normal)
