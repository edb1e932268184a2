"""Named optax optimisers, each stating whether its step respects rotations (METHOD §7)."""

from collections.abc import Callable
from typing import NamedTuple

import optax
from jax.typing import ArrayLike

from ppp_jax.errors import lookup

MOMENTUM = 0.9


class Optimizer(NamedTuple):
    """An optimiser and what is claimed of it.

    Attributes:
      make: learning rate (a number or a traced array) to an optax transformation.
      default_learning_rate: what a grid uses when it names no learning rate.
      respects_rotations: whether the step taken from rotated parameters and gradients is the
        rotated step. Where it is not, the optimiser prefers a basis, whatever the activation does.
      description: the update rule.
    """

    make: Callable[[ArrayLike], optax.GradientTransformation]
    default_learning_rate: float
    respects_rotations: bool
    description: str


def _momentum(learning_rate: ArrayLike) -> optax.GradientTransformation:
    return optax.sgd(learning_rate, momentum=MOMENTUM)


OPTIMIZERS: dict[str, Optimizer] = {
    "sgd": Optimizer(optax.sgd, 0.1, True, "stochastic gradient descent"),
    "momentum": Optimizer(
        _momentum, 0.1, True, f"stochastic gradient descent with heavy-ball momentum {MOMENTUM}"
    ),
    "adam": Optimizer(
        optax.adam, 1e-3, False, "Adam: divides by a second moment kept per parameter entry"
    ),
}


def get(name: str) -> Optimizer:
    """Returns the registered optimiser `name`.

    Raises:
      InputError: no such optimiser; the nearest names are suggested.

    Example:
      >>> get("adam").respects_rotations
      False
    """
    return lookup(OPTIMIZERS, name, field="optimizers")
