"""Clouds whose structure is known, to test an instrument's judgement (METHOD §5)."""

import numpy as np

from ppp_jax import bases

CLUSTERS = 32
# METHOD does not state the widths of its clusters, nor the axes of its ellipsoid: these reproduce
# its table.
AXIS_NOISE, CORNER_NOISE, DIRECTION_NOISE, SHORTEST_AXIS = 0.062, 0.245, 0.061, 0.14


def known_clouds(*, samples: int = 6000, units: int = 16, seed: int = 0) -> dict[str, np.ndarray]:
    """Returns the eight clouds of METHOD §5's table.

    Args:
      samples: of each cloud.
      units: n.
      seed: of all draws.

    Returns:
      Names to latents, `(samples, units)`, float64.
    """
    rng = np.random.default_rng(seed)

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
        "axis clusters, rotated": axes @ bases.haar(units, seed=seed),
        "clusters in random directions": clusters(directions, DIRECTION_NOISE),
        "tanh(1.5·normal)": np.tanh(1.5 * normal),
        "axis-aligned ellipsoid": normal * np.geomspace(SHORTEST_AXIS, 1, units),
        "Laplace": rng.laplace(size=(samples, units)),
    }
