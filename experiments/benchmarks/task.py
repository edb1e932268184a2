"""The task of all sides of sweep_throughput.py: autoencoders a-b-c-b-a with tanh, Adam and MSE."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

BATCH, SAMPLES, LEARNING_RATE = 24, 1440, 1e-3
Train = Callable[[int], None]  # trains all seeds for so many steps, and waits for the end


class Size(NamedTuple):
    """Layer widths: features-width-latent-width-features."""

    features: int
    width: int
    latent: int


def samples(features: int) -> np.ndarray:
    """Returns the training set."""
    return np.random.default_rng(0).normal(size=(SAMPLES, features)).astype(np.float32)
