"""Clouds of known structure, on which statistics and tests are checked (docs/method.md §13)."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from ppp_jax import bases
from ppp_jax.errors import InputError, choice, real, seeded, whole
from ppp_jax.resources import check_product

CLUSTERS = 32
ARRAYS = 12  # Number of arrays of the size of one cloud that are held at once.
# The widths of the clusters and the axes of the ellipsoid were chosen to reproduce the table of
# docs/method.md §13.
OUTLIER_WIDTH = 30.0  # of one unit, where the others have 1
FREEDOM = 5  # degrees of freedom of heavy-tailed rows
SHIFT = 0.75  # of every unit
TEXT_ROWS, TEXT_SHARE = 10, 0.5  # rows of one text, and the share of variance that they have alike
GAIN = 1.5  # of tanh
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


def _normal(rng: np.random.Generator, samples: int, units: int) -> np.ndarray:
    return rng.normal(size=(samples, units))


def _spectrum(units: int) -> np.ndarray:
    """Returns widths of the units that fall as 1/i."""
    return 1 / np.arange(1, units + 1)


def _elliptical(rng: np.random.Generator, samples: int, units: int) -> np.ndarray:
    return _normal(rng, samples, units) * _spectrum(units)


def heavy_rows(rng: np.random.Generator, *, freedom: float, samples: int, units: int) -> np.ndarray:
    """Draws elliptical rows of Student's t distribution, of units whose widths fall as 1/i.

    Args:
      rng: Generator of the random numbers.
      freedom: Degrees of freedom; a row is heavy-tailed as a whole.
      samples: Number of samples.
      units: Number of units n.

    Returns:
      The samples, `(samples, units)`, float64.

    Raises:
      InputError: `rng` is no generator, or a number is out of its range.
    """
    real("freedom", freedom, least=0.01)
    _generator(rng)
    _check(samples, units)
    stretched = _elliptical(rng, samples, units)
    return stretched / np.sqrt(rng.chisquare(freedom, size=(samples, 1)) / freedom)


def _heavy_tailed(rng: np.random.Generator, samples: int, units: int) -> np.ndarray:
    return heavy_rows(rng, freedom=FREEDOM, samples=samples, units=units)


def _outlier_unit(rng: np.random.Generator, samples: int, units: int) -> np.ndarray:
    widths = np.where(np.arange(units) == units // 3, OUTLIER_WIDTH, 1.0)
    return _normal(rng, samples, units) * widths


def _mean_shifted(rng: np.random.Generator, samples: int, units: int) -> np.ndarray:
    return _normal(rng, samples, units) + SHIFT


def _without_sum(rng: np.random.Generator, samples: int, units: int) -> np.ndarray:
    values = _normal(rng, samples, units)
    return values - values.mean(axis=1, keepdims=True)


def _dead_units(rng: np.random.Generator, samples: int, units: int) -> np.ndarray:
    return _normal(rng, samples, units) * (np.arange(units) >= units // 5)


def _duplicated(rng: np.random.Generator, samples: int, units: int) -> np.ndarray:
    return np.repeat(_elliptical(rng, -(-samples // 2), units), 2, axis=0)[:samples]


def _token_correlated(rng: np.random.Generator, samples: int, units: int) -> np.ndarray:
    texts = _normal(rng, -(-samples // TEXT_ROWS), units)
    alike = np.repeat(texts, TEXT_ROWS, axis=0)[:samples]
    own = _normal(rng, samples, units)
    rows: np.ndarray = np.sqrt(TEXT_SHARE) * alike + np.sqrt(1 - TEXT_SHARE) * own
    return rows * _spectrum(units)


def _tanh(rng: np.random.Generator, samples: int, units: int) -> np.ndarray:
    saturated: np.ndarray = np.tanh(GAIN * _normal(rng, samples, units)) * _spectrum(units)
    return saturated


def _relu(rng: np.random.Generator, samples: int, units: int) -> np.ndarray:
    return np.maximum(_normal(rng, samples, units), 0) * _spectrum(units)


def _laplace(rng: np.random.Generator, samples: int, units: int) -> np.ndarray:
    return rng.laplace(size=(samples, units)) * _spectrum(units)


Law = Callable[[np.random.Generator, int, int], np.ndarray]
"""Draws a cloud, of a generator and the numbers of samples and of units."""

SHAPELESS: Mapping[str, Law] = {
    "normal": _normal,
    "elliptical, 1/i": _elliptical,
    "elliptical t5, 1/i": _heavy_tailed,
    "outlier unit, 30×": _outlier_unit,
    "mean along (1, …, 1)": _mean_shifted,
    "sum taken away": _without_sum,
    "dead units": _dead_units,
    "every row twice, 1/i": _duplicated,
    "correlated rows, 1/i": _token_correlated,
}
"""Laws whose shape prefers no axes, although their mean or their covariance may."""

SHAPED: Mapping[str, Law] = {
    "tanh(1.5·normal), 1/i": _tanh,
    "ReLU(normal), 1/i": _relu,
    "Laplace, 1/i": _laplace,
}
"""Laws whose shape prefers the axes, with units of unequal widths."""


def draw_law(
    rng: np.random.Generator, law: str, *, samples: int, units: int, turned: bool = False
) -> np.ndarray:
    """Draws a cloud of a law whose structure is known.

    Args:
      rng: Generator of the random numbers.
      law: A name in `SHAPELESS` or `SHAPED`. In "1/i" the widths of the units fall as 1/i; "sum
        taken away" is what a LayerNorm leaves; rows of "correlated rows" come in texts of ten, and
        half of their variance is their text's.
      samples: Number of samples.
      units: Number of units n.
      turned: Whether the cloud is turned by one random rotation, so that its law knows no axes.

    Returns:
      The samples, `(samples, units)`, float64.

    Raises:
      InputError: `law` is unknown, `rng` is no generator, or a size is out of its range.
    """
    laws = {**SHAPELESS, **SHAPED}
    choice("law", law, tuple(laws))
    _generator(rng)
    _check(samples, units)
    cloud = laws[law](rng, samples, units)
    return cloud @ bases.rotations(units, 1, rng)[0] if turned else cloud


def density_clouds(
    *, samples: int = 600, units: int = 16, sample_seed: int = 0
) -> dict[str, dict[str, np.ndarray]]:
    """Draws the clouds on which dips and valleys of the density are judged.

    Args:
      samples: Number of samples of each cloud.
      units: Number of units n, at least 4.
      sample_seed: Seed of all random draws.

    Returns:
      By name, `(samples, units)`, float64: `continuous` clouds, of one piece; `quantised` ones, on
      levels along the axes; and `clusters`, 8 in random directions and one on each axis.

    Raises:
      InputError: An argument is out of its range, or the clouds would not fit into memory.
    """
    whole("units", units, least=4)
    _check(samples, units)
    rng = np.random.default_rng(seeded(sample_seed, field="sample_seed"))
    z, centres = rng.normal(size=(samples, units)), 3 * rng.normal(size=(8, units))
    corners = np.sign(rng.normal(size=(samples, units)))
    axes = 4 * np.eye(units)[rng.integers(units, size=samples)]
    return {
        "continuous": _continuous(rng, samples, units),
        "quantised": {
            "corners, noise 0.1": corners + 0.1 * z,
            "corners, noise 0.5": corners + 0.5 * z,
            "three levels": rng.integers(-1, 2, size=z.shape) + 0.1 * z,
            "tanh(3·normal)": np.tanh(3 * z),
        },
        "clusters": {
            "eight clusters": centres[rng.integers(8, size=samples)] + 0.3 * z,
            "axis clusters": axes + 0.3 * z,
        },
    }


def _continuous(rng: np.random.Generator, samples: int, units: int) -> dict[str, np.ndarray]:
    def embedded(*columns: np.ndarray) -> np.ndarray:
        points = np.stack(columns, axis=1)
        padded = np.pad(points, ((0, 0), (0, units - points.shape[1])))
        return padded @ bases.rotations(units, 1, rng)[0]

    z = rng.normal(size=(samples, units))
    angle, other = rng.uniform(0, 2 * np.pi, (2, samples))
    roll, height = rng.uniform(1.5 * np.pi, 4.5 * np.pi, samples), rng.uniform(0, 20, samples)
    circle = np.cos(angle), np.sin(angle)
    sphere = z[:, :3] / np.linalg.norm(z[:, :3], axis=1, keepdims=True)
    return {
        "ring": embedded(*circle),
        "sphere": embedded(*sphere.T),
        "torus": embedded(*circle, np.cos(other), np.sin(other)),
        "swiss roll": embedded(roll * np.cos(roll), height, roll * np.sin(roll)),
        "normal": z,
        "t3": rng.standard_t(3, size=(samples, units)),
        "Laplace": rng.laplace(size=(samples, units)),
        "two scales": z * rng.choice([1, 0.1], size=(samples, 1)),
        "rank 2": embedded(*z[:, :2].T),
        "every row twice": np.repeat(z[: samples // 2], 2, axis=0),
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
