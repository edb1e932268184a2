"""The baseline of `projection.py`: docs/method.md §1–3 in plain NumPy, plane by plane."""

import itertools
from collections.abc import Iterator

import numpy as np


def _planes(basis: np.ndarray, order: str) -> Iterator[np.ndarray]:
    """Yields an orthonormal pair of vectors, `(2, units)`, for each plane."""
    for i, j in getattr(itertools, order)(range(len(basis)), 2):
        cosine = basis[i] @ basis[j]
        if 1 - cosine**2 >= 1e-6:
            yield np.stack([basis[i], (basis[j] - cosine * basis[i]) / np.sqrt(1 - cosine**2)])


def points(
    x: np.ndarray, basis: np.ndarray, epsilon: float, *, order: str, planes: int | None = None
) -> np.ndarray:
    """Returns the accepted points, by one matrix product and one norm per plane.

    Args:
      x: Samples, `(samples, units)`.
      basis: Unit vectors, `(vectors, units)`.
      epsilon: Acceptance cosine ε.
      order: Planes to use, `combinations` or `permutations`.
      planes: Number of planes after which to stop; None means all planes.

    Returns:
      The points (u, v), `(points, 2)`.
    """
    least = epsilon * np.linalg.norm(x, axis=1)
    found = []
    for plane in itertools.islice(_planes(basis, order), planes):
        coordinates = x @ plane.T.astype(x.dtype)
        found.append(coordinates[np.linalg.norm(coordinates, axis=1) >= least])
    return np.concatenate(found)


def spotlight(
    x: np.ndarray,
    basis: np.ndarray,
    epsilon: float,
    angles: np.ndarray,
    *,
    planes: int | None = None,
    at_once: bool = False,
) -> np.ndarray:
    """Returns SRM curves, `(planes, angles)`, by comparing every probe with every sample.

    Args:
      x: Samples, `(samples, units)`.
      basis: Unit vectors, `(vectors, units)`.
      epsilon: Cosine of the spotlight's half-angle.
      angles: Angles of the probes in radians.
      planes: Number of planes after which to stop; None means all planes.
      at_once: Whether one matrix product serves all angles of a plane, instead of one per angle.
    """
    direction = x / np.linalg.norm(x, axis=1, keepdims=True)
    turns = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    curves = []
    for plane in itertools.islice(_planes(basis, "combinations"), planes):
        probes = (turns @ plane).astype(x.dtype)
        if at_once:
            curves.append(np.mean(direction @ probes.T >= epsilon, axis=0))
        else:
            curves.append(np.array([np.mean(direction @ probe >= epsilon) for probe in probes]))
    return np.array(curves)


def density(found: np.ndarray, extent: float, *, bins: int, bandwidth: float) -> np.ndarray:
    """Returns a density on a grid, `(bins, bins)`, the mean of one Gaussian per point.

    Args:
      found: Points, `(points, 2)`.
      extent: Half-width of the grid.
      bins: Number of grid points along each axis.
      bandwidth: Standard deviation of the Gaussians.
    """
    axis = np.linspace(-extent, extent, bins)
    u, v = np.meshgrid(axis, axis)
    total = np.zeros((bins, bins))
    for point in found:
        total += np.exp(-((u - point[0]) ** 2 + (v - point[1]) ** 2) / (2 * bandwidth**2))
    return total / (2 * np.pi * bandwidth**2 * len(found))
