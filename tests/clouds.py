"""Clouds of latents whose law is known."""

import numpy as np


def isotropic(samples=20_000, units=8, seed=0):
    """Directions uniform on the sphere, lengths not all alike."""
    rng = np.random.default_rng(seed)
    return rng.normal(size=(samples, units)) * rng.gamma(2, size=(samples, 1))
