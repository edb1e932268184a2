"""The other side: docs/method.md §1–3 in plain NumPy, plane by plane, as one first would."""

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
    """Returns accepted points: one matrix product and one norm per plane.

    Args:
      x: samples, `(samples, units)`.
      basis: unit vectors, `(vectors, units)`.
      epsilon: acceptance cosine.
      order: `combinations` or `permutations`.
      planes: stop after so many.
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
    """Returns SRM curves, `(planes, angles)`: every angle's probe against every sample.

    Args:
      x: samples, `(samples, units)`.
      basis: unit vectors, `(vectors, units)`.
      epsilon: cosine of the spotlight's half-angle.
      angles: in radians.
      planes: stop after so many.
      at_once: one matrix product for all angles of a plane, instead of one for each.
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
    """Returns a density on a grid, `(bins, bins)`: one Gaussian per point.

    Args:
      found: points, `(points, 2)`.
      extent: half-width of the grid.
      bins: grid points along each axis.
      bandwidth: standard deviation of the Gaussians.
    """
    axis = np.linspace(-extent, extent, bins)
    u, v = np.meshgrid(axis, axis)
    total = np.zeros((bins, bins))
    for point in found:
        total += np.exp(-((u - point[0]) ** 2 + (v - point[1]) ** 2) / (2 * bandwidth**2))
    return total / (2 * np.pi * bandwidth**2 * len(found))
