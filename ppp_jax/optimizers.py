"""Named optax optimisers, each stating whether its step respects rotations (METHOD §7)."""

from collections.abc import Callable
from typing import NamedTuple

import jax
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


def _leafwise(transformation: optax.GradientTransformation) -> optax.GradientTransformation:
    """Gives every parameter array a transformation, and so a step counter, of its own.

    The updates are the same. But a bias correction shared by all arrays is divided by in another
    way by XLA:CPU on one device than on several, to other bits; see BUILD_NOTES.md.
    """

    def init(params: optax.Params) -> optax.OptState:
        return [transformation.init(leaf) for leaf in jax.tree.leaves(params)]

    def update(
        updates: optax.Updates, state: optax.OptState, params: optax.Params | None = None
    ) -> tuple[optax.Updates, optax.OptState]:
        leaves, tree = jax.tree.flatten(updates)
        stepped = [
            transformation.update(leaf, leaf_state, leaf_params)
            for leaf, leaf_state, leaf_params in zip(
                leaves, state, jax.tree.leaves(params), strict=True
            )
        ]
        return jax.tree.unflatten(tree, [leaf for leaf, _ in stepped]), [
            state for _, state in stepped
        ]

    return optax.GradientTransformation(init, update)


def _adam(learning_rate: ArrayLike) -> optax.GradientTransformation:
    return _leafwise(optax.adam(learning_rate))


OPTIMIZERS: dict[str, Optimizer] = {
    "sgd": Optimizer(optax.sgd, 0.1, True, "stochastic gradient descent"),
    "momentum": Optimizer(
        _momentum, 0.1, True, f"stochastic gradient descent with heavy-ball momentum {MOMENTUM}"
    ),
    "adam": Optimizer(
        _adam, 1e-3, False, "Adam: divides by a second moment kept per parameter entry"
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
