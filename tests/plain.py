"""Slow, plain references: the method as METHOD.md states it, one plane and one sample at a time."""

import itertools

import numpy as np


def ppp(latents, basis, epsilon, *, order=itertools.combinations):
    """Accepted points per plane: `[(i, j, sample, u, v, fraction), …]`, and all plane fractions."""
    basis = np.array([b / np.linalg.norm(b) for b in np.asarray(basis, float)])
    accepted, fractions = [], []
    for i, j in order(range(len(basis)), 2):
        g = basis[i] @ basis[j]
        if 1 - g * g < 1e-6:
            continue
        e1 = basis[i]
        e2 = (basis[j] - g * basis[i]) / np.sqrt(1 - g * g)
        for s, x in enumerate(np.asarray(latents, float)):
            length = np.linalg.norm(x)
            if length == 0:
                continue
            u, v = x @ e1, x @ e2
            fraction = np.hypot(u, v) / length
            fractions.append(fraction)
            if fraction >= epsilon:
                accepted.append((i, j, s, u, v))
    return accepted, np.array(fractions)


def c4(latents, basis):
    """Alignment C4 over all planes, from the definition, of samples brought to unit length."""
    points, _ = ppp([x / np.linalg.norm(x) for x in latents], basis, 0.0)
    z = np.array([u + 1j * v for *_, u, v in points])
    return np.sum((z**4).real) / np.sum(np.abs(z) ** 4)
