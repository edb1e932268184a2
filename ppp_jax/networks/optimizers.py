"""Named optax optimisers, and whether they respect rotations (docs/method.md §11)."""

import inspect
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
import optax.contrib
from jax.typing import ArrayLike

from ppp_jax import references
from ppp_jax.errors import InputError, enter, lookup
from ppp_jax.networks import checks, confounds

FIELD = "optimizers"
TEST_RATE = 0.01  # learning rate at which optimisers without a default are tested
MOMENTUM = 0.9
ADAM = (0.9, 0.999, 1e-8)  # optax's decays of the two moments, and its term added to the root


class Optimizer(NamedTuple):
    """An optimiser and the properties that are claimed of it.

    Attributes:
      make: Function of the learning rate (a number or a traced array) that returns an optax
        transformation.
      default_learning_rate: Learning rate of grids that do not set one; NaN if there is none, so
        that grids must.
      respects_rotations: Whether the step from rotated parameters and gradients is the rotated
        step. If it is not, the optimiser prefers a basis, whatever the activation. None if it is
        not claimed; then it is found.
      description: The update rule, for readers.
    """

    make: Callable[[ArrayLike], optax.GradientTransformation]
    default_learning_rate: float = math.nan
    respects_rotations: bool | None = None
    description: str = ""

    @property
    def test_rate(self) -> float:
        """The learning rate at which the optimiser is tested."""
        rate = self.default_learning_rate
        return TEST_RATE if math.isnan(rate) else rate


def _momentum(learning_rate: ArrayLike) -> optax.GradientTransformation:
    return optax.sgd(learning_rate, momentum=MOMENTUM)


class _IsotropicAdam(NamedTuple):
    """Number of steps, first moment of every entry, and one second moment for the whole array."""

    steps: jax.Array
    mean: jax.Array
    square: jax.Array


def _isotropic_adam(learning_rate: ArrayLike) -> optax.GradientTransformation:
    """Returns Adam for one array with a single second moment, the mean over the array's entries.

    Rotations of the array's rows or columns leave this mean unchanged, so the step rotates too.
    """
    b1, b2, eps = ADAM

    def init(param: jax.Array) -> _IsotropicAdam:
        return _IsotropicAdam(jnp.int32(0), jnp.zeros_like(param), jnp.zeros((), param.dtype))

    def update(
        gradient: jax.Array, state: _IsotropicAdam, _: jax.Array | None = None
    ) -> tuple[jax.Array, _IsotropicAdam]:
        steps = state.steps + 1
        mean = b1 * state.mean + (1 - b1) * gradient
        square = b2 * state.square + (1 - b2) * jnp.mean(jnp.square(gradient))
        power = steps.astype(gradient.dtype)
        root = jnp.sqrt(square / (1 - b2**power)) + eps
        # The divisor is applied to one number and not to the array, because XLA:CPU rounds the
        # division of an array differently for different numbers of devices.
        scale = -jnp.asarray(learning_rate, gradient.dtype) / ((1 - b1**power) * root)
        return scale * mean, _IsotropicAdam(steps, mean, square)

    return optax.GradientTransformation(init, update)


def _leafwise(
    choose: Callable[[jax.Array], optax.GradientTransformation],
) -> optax.GradientTransformation:
    """Gives every parameter array its own transformation, and so its own step counter.

    The updates are mathematically the same. But XLA:CPU rounds the division by a bias correction
    that all arrays share differently on one device than on several (BUILD_NOTES.md).
    """

    def init(params: optax.Params) -> optax.OptState:
        return [choose(leaf).init(leaf) for leaf in jax.tree.leaves(params)]

    def update(
        updates: optax.Updates, state: optax.OptState, params: optax.Params | None = None
    ) -> tuple[optax.Updates, optax.OptState]:
        leaves, tree = jax.tree.flatten(updates)
        stepped = [
            choose(leaf).update(leaf, leaf_state, leaf_params)
            for leaf, leaf_state, leaf_params in zip(
                leaves, state, jax.tree.leaves(params), strict=True
            )
        ]
        return jax.tree.unflatten(tree, [leaf for leaf, _ in stepped]), [
            state for _, state in stepped
        ]

    return optax.GradientTransformation(init, update)


def _adam(learning_rate: ArrayLike) -> optax.GradientTransformation:
    return _leafwise(lambda _: optax.adam(learning_rate))


def _isotropic_adams(learning_rate: ArrayLike) -> optax.GradientTransformation:
    return _leafwise(lambda _: _isotropic_adam(learning_rate))


def _muon(learning_rate: ArrayLike) -> optax.GradientTransformation:
    """Returns Muon for matrices and isotropic Adam for all other arrays.

    optax uses AdamW for the other arrays, which prefers the axes.
    """
    matrix, vector = optax.contrib.muon(learning_rate), _isotropic_adam(learning_rate)
    return _leafwise(lambda leaf: matrix if leaf.ndim == 2 else vector)


OPTIMIZERS: dict[str, Optimizer] = {
    "sgd": Optimizer(optax.sgd, 0.1, True, "stochastic gradient descent"),
    "momentum": Optimizer(
        _momentum, 0.1, True, f"stochastic gradient descent with heavy-ball momentum {MOMENTUM}"
    ),
    "adam": Optimizer(
        _adam, 1e-3, False, "Adam: divides by a second moment kept per parameter entry"
    ),
    "isotropic_adam": Optimizer(
        _isotropic_adams, 1e-3, True, "Adam with one second moment per parameter array"
    ),
    "muon": Optimizer(
        _muon, 0.02, True, "momentum, orthogonalised, on matrices; isotropic Adam on biases"
    ),
}
OWN = tuple(OPTIMIZERS.values())  # the entries of this package, without those that users register


def register_optimizer(
    name: str, entry: Optimizer | Callable[[ArrayLike], optax.GradientTransformation]
) -> Optimizer:
    """Adds an optimiser, which grids, flags, certificates and tables accept from then on.

    Registering a name again replaces what a user registered under it before.

    Args:
      name: Name of the new optimiser.
      entry: A function of the learning rate that returns an optax transformation, or an
        `Optimizer`, which holds one and its claimed property. A claim is tested before a grid is
        trained.

    Returns:
      The entry.

    Raises:
      InputError: The name is not an identifier, or is that of an optimiser of this package; or the
        entry is no function.
    """
    return enter(OPTIMIZERS, name, brought(name, entry), field=FIELD, own=OWN)


def brought(name: str, value: Any) -> Optimizer:
    """Returns the entry of an optimiser that a user brings, a function or an `Optimizer`.

    A default of the function's argument is the default learning rate.

    Args:
      name: Name of the optimiser, for the error message.
      value: The function or entry.

    Raises:
      InputError: The value is neither.
    """
    if isinstance(value, Optimizer):
        return value
    if not callable(value):
        problem = f"is a {type(value).__name__}; it must be a function of the learning rate that "
        raise InputError(FIELD, name, f"{problem}returns an optax transformation, or an Optimizer")
    try:
        first = next(iter(inspect.signature(value).parameters.values()))
        default = first.default if isinstance(first.default, float) else math.nan
    except (ValueError, TypeError, StopIteration):  # functions of C have no signature
        default = math.nan
    return Optimizer(value, default)


def get(name: str) -> Optimizer:
    """Returns the optimiser that is registered under a name, or that a reference stands for.

    Whether it respects rotations is found if it is not claimed.

    Raises:
      InputError: No optimiser has this name, or one that is brought cannot be used. The message
        suggests similar names.

    Example:
      >>> get("adam").respects_rotations
      False
    """
    entry = declared(name)
    if entry.respects_rotations is not None:
        return entry
    kept = _FOUND.get(name)
    if kept is None or kept[0] is not entry.make:
        checks.check_optimizer(name, entry.make, entry.test_rate)
        residual = confounds.optimizer_residual(entry.make, entry.test_rate)
        found = entry._replace(respects_rotations=residual < confounds.TOLERANCE)
        kept = _FOUND[name] = (entry.make, found)
    return kept[1]


# The entries of optimisers without a claim, with what was found of them, by name.
_FOUND: dict[str, tuple[Any, Optimizer]] = {}


def declared(name: str) -> Optimizer:
    """Returns an optimiser by its name, without what has to be computed.

    Raises:
      InputError: No optimiser has this name. The message suggests similar names.
    """
    if isinstance(name, str) and references.is_reference(name):
        return brought(name, references.get(name, field=FIELD).value)
    return lookup(OPTIMIZERS, name, field=FIELD)
