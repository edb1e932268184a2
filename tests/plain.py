"""Slow, plain references: docs/method.md, one plane and one sample at a time."""

import itertools

import numpy as np

# On the threshold means accepted, whichever way rounding went on the path to it.
TOUCHES = 1e-14


def ppp(latents, basis, epsilon, *, order=itertools.combinations):
    """Accepted points per plane: `[(i, j, sample, u, v), …]`, and all squared plane fractions."""
    basis = np.array([b / np.linalg.norm(b) for b in np.asarray(basis, float)])
    accepted, fractions = [], []
    for i, j in order(range(len(basis)), 2):
        g = basis[i] @ basis[j]
        if 1 - g * g < 1e-6:
            continue
        for s, x in enumerate(np.asarray(latents, float)):
            square = x @ x
            if square == 0:
                continue
            u = x @ basis[i]
            v = (x @ basis[j] - g * u) / np.sqrt(1 - g * g)
            fraction = (u * u + v * v) / square
            fractions.append(fraction)
            if fraction >= (1 - TOUCHES) * epsilon**2:
                accepted.append((i, j, s, u, v))
    return accepted, np.array(fractions)


def srm(latents, basis, epsilon, angles, *, signed=False, order=itertools.combinations):
    """Spotlight Resonance from its definition, `(planes, angles)`: a probe, and every sample."""
    basis = np.array([b / np.linalg.norm(b) for b in np.asarray(basis, float)])
    x = np.asarray(latents, float)
    x = x[x.any(axis=1)]
    x = x / np.linalg.norm(x, axis=1, keepdims=True)
    curves = []
    for i, j in order(range(len(basis)), 2):
        g = basis[i] @ basis[j]
        if 1 - g * g < 1e-6:
            continue
        across = (basis[j] - g * basis[i]) / np.sqrt(1 - g * g)
        curve = []
        for angle in angles:
            cosine = x @ (np.cos(angle) * basis[i] + np.sin(angle) * across)
            seen = np.mean(cosine >= epsilon - TOUCHES)
            curve.append(seen - signed * np.mean(cosine <= -epsilon + TOUCHES))
        curves.append(curve)
    return np.array(curves)


def c4(latents, basis):
    """Alignment C4 over all planes, from the definition, of samples brought to unit length."""
    points, _ = ppp([x / np.linalg.norm(x) for x in latents], basis, 0.0)
    z = np.array([u + 1j * v for *_, u, v in points])
    return np.sum((z**4).real) / np.sum(np.abs(z) ** 4)


def kurtosis(latents, basis):
    """Kurtosis alignment: n(n + 2)/3 Σ(x·b)⁴/‖x‖⁴ per vector, averaged over samples."""
    n = latents.shape[1]
    basis = [b / np.linalg.norm(b) for b in basis]
    each = [sum((x @ b) ** 4 for b in basis) / (x @ x) ** 2 / len(basis) for x in latents]
    return n * (n + 2) / 3 * np.mean(each)


def unit_kurtosis(latents, basis):
    """Mean kurtosis of the projections, over a Gaussian's."""
    each = []
    for b in basis:
        onto = latents @ b
        apart = onto - onto.mean()
        each.append(np.mean(apart**4) / np.mean(apart**2) ** 2)
    return np.mean(each) / 3


def angles(latents, basis, epsilon):
    """Entropy deficit in bits over 32 sectors centred on the axes, and four Fourier modes."""
    points, _ = ppp(latents, basis, epsilon)
    turns = np.array([np.arctan2(v, u) for *_, u, v in points])
    shares = [0] * 32
    for turn in turns:
        shares[round(turn / (2 * np.pi / 32)) % 32] += 1 / len(turns)
    deficit = sum(s * np.log2(s * 32) for s in shares if s)
    return deficit, [abs(np.mean(np.exp(1j * m * turns))) for m in (1, 2, 3, 4)]


def fourfold(latents, basis, epsilon):
    """Mean of cos 4φ over samples and over the two vectors of each plane, by their angle."""
    basis = np.array([b / np.linalg.norm(b) for b in np.asarray(basis, float)])
    each = []
    for i, j, _, u, v in ppp(latents, basis, epsilon)[0]:
        across = basis[j] - (basis[j] @ basis[i]) * basis[i]
        point = u * basis[i] + v * across / np.linalg.norm(across)
        # By its Chebyshev polynomial, of the cosine with each vector.
        cosines = np.array([point @ basis[k] for k in (i, j)]) / np.linalg.norm(point)
        each.append(np.mean(8 * cosines**4 - 8 * cosines**2 + 1))
    return np.mean(each)
