"""Networks that users bring as linen or equinox modules, NNX modules, or plain functions.

Each is turned into the same pure functions as this package's own (`functional.Model`). What is
brought calls `activate(name, pre)` where an activation stands, once under the name `bottleneck`.
"""

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen, nnx
from jax.typing import ArrayLike

from ppp_jax.data.datasets import Shape
from ppp_jax.errors import InputError, printable, shortened
from ppp_jax.networks.functional import (
    ACTIVATION,
    BOTTLENECK,
    Activate,
    Initializer,
    Model,
    Output,
    Params,
    Sizes,
)

NETWORK = "network"  # key in the parameters of what the network's own `init` returned
FIELD = "architectures"
KNOWN = "a linen module, a module with the argument key or rngs, or a pair (init, apply)"


class Network(NamedTuple):
    """A network as pure functions.

    Attributes:
      init: Function of a PRNG key that returns parameters, a tree of arrays.
      apply: Function `(params, x, activate)` that returns the prediction.
    """

    init: Callable[[jax.Array], Any]
    apply: Callable[[Any, jax.Array, Activate], jax.Array]


class _Given(Activate):
    """Replaces the bottleneck's vectors after the activation by given ones."""

    def __init__(
        self, function: Callable[..., jax.Array], parameter: jax.Array | None, post: jax.Array
    ):
        super().__init__(function, parameter)
        self.post = post

    def __call__(self, name: str, pre: jax.Array) -> jax.Array:
        found = super().__call__(name, pre)
        return self.post if name == BOTTLENECK else found


def _unchanged(pre: jax.Array, *_: Any) -> jax.Array:
    return pre


def network(make: Callable[..., Any], shape: Shape, sizes: Sizes, draw: Initializer) -> Network:
    """Builds what a user brings, and returns it as pure functions.

    Args:
      make: Function or class, called as `make(shape, sizes, initializer)`, and with `rngs` (flax
        NNX) or `key` (equinox) if it has an argument of that name.
      shape: Shape of the data.
      sizes: Sizes of the network.
      draw: Initialiser of the weights.

    Raises:
      InputError: It makes nothing that is known.
    """
    # Of flax NNX' classes, the signature itself is that of any class.
    called: Any = getattr(make, "__init__") if isinstance(make, type) else make  # noqa: B009
    arguments = inspect.signature(called).parameters
    if "rngs" in arguments:
        return _of_nnx(lambda key: make(shape, sizes, draw, rngs=nnx.Rngs(key)))
    if "key" in arguments:
        return _of_tree(lambda key: make(shape, sizes, draw, key=key))
    made = make(shape, sizes, draw)
    if isinstance(made, linen.Module):
        return _of_linen(made, shape)
    if isinstance(made, tuple) and len(made) == 2 and all(map(callable, made)):
        return Network(*made)
    told = f"makes a {type(made).__name__}; it must make {KNOWN}"
    raise InputError(FIELD, getattr(make, "__name__", "network"), told)


def _of_linen(module: linen.Module, shape: Shape) -> Network:
    def init(key: jax.Array) -> Any:
        x = jnp.zeros((1, shape.features))
        made = dict(module.init(key, x, Activate(_unchanged, None)))
        params = made.pop("params", {})
        if made:
            problem = f"keeps {', '.join(made)} beside its parameters; leave that out"
            raise InputError(FIELD, type(module).__name__, problem)
        return params

    def apply(params: Any, x: jax.Array, activate: Activate) -> jax.Array:
        prediction: Any = module.apply({"params": params}, x, activate)
        return prediction

    return Network(init, apply)


def _of_nnx(build: Callable[[jax.Array], Any]) -> Network:
    graph = nnx.graphdef(nnx.eval_shape(build, jax.random.key(0)))

    def apply(params: Any, x: jax.Array, activate: Activate) -> jax.Array:
        prediction: jax.Array = nnx.merge(graph, nnx.State(params))(x, activate)
        return prediction

    return Network(lambda key: nnx.to_pure_dict(nnx.state(build(key))), apply)


def _of_tree(build: Callable[[jax.Array], Any]) -> Network:
    """Returns a module that is a tree of arrays and of other things, as equinox' modules are."""
    known: list[Any] = []

    def init(key: jax.Array) -> list[jax.Array]:
        leaves, tree = jax.tree.flatten(build(key))
        others = [None if _is_array(leaf) else leaf for leaf in leaves]
        known[:] = [tree, others]
        return [leaf for leaf in leaves if _is_array(leaf)]

    jax.eval_shape(init, jax.random.key(0))

    def apply(params: list[jax.Array], x: jax.Array, activate: Activate) -> jax.Array:
        (tree, others), arrays = known, iter(params)
        leaves = [next(arrays) if leaf is None else leaf for leaf in others]
        prediction: jax.Array = jax.tree.unflatten(tree, leaves)(x, activate)
        return prediction

    return Network(init, apply)


def _is_array(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array)


def model(
    make: Callable[..., Any],
    shape: Shape,
    sizes: Sizes,
    activation: Callable[..., jax.Array],
    initializer: Initializer,
    *,
    loss: Callable[[Output, jax.Array, jax.Array], jax.Array],
    error: Callable[[Output, jax.Array, jax.Array], jax.Array],
) -> Model:
    """Turns a network that a user brings into pure functions.

    The arguments are those of `functional.functional`, and `make` is that of `network`.

    Raises:
      InputError: The network fails, or has no bottleneck.
    """
    name = getattr(make, "__name__", type(make).__name__)
    try:
        made = network(make, shape, sizes, initializer)
        activated = _activated(made, name, shape, sizes)
    except InputError:
        raise
    except Exception as problem:  # whatever the user's network raises
        why = (str(problem).strip().splitlines() or [""])[0]
        told = shortened(printable(f"{type(problem).__name__}: {why}"))
        raise InputError(FIELD, name, f"fails when it is built ({told}); correct it") from problem

    def init(key: jax.Array) -> Params:
        return {NETWORK: made.init(key)}

    def apply(params: Params, x: ArrayLike) -> Output:
        activate = Activate(activation, params.get(ACTIVATION))
        prediction = made.apply(params[NETWORK], jnp.asarray(x), activate)
        return Output(prediction, activate.layers)

    def decode(params: Params, post: jax.Array) -> jax.Array:
        # The layers before the bottleneck see zeros, and their vectors are not used.
        x = jnp.zeros((len(post), shape.features))
        return made.apply(params[NETWORK], x, _Given(activation, params.get(ACTIVATION), post))

    return Model(init, apply, decode, loss, error, activated)


def _activated(made: Network, name: str, shape: Shape, sizes: Sizes) -> int:
    """Returns the number of activations of a network, whose bottleneck is checked."""
    activate = Activate(_unchanged, None)

    def run(key: jax.Array) -> jax.Array:
        return made.apply(made.init(key), jnp.zeros((2, shape.features)), activate)

    jax.eval_shape(run, jax.random.key(0))
    found = activate.layers.get(BOTTLENECK)
    wanted = (2, sizes.latent_width)
    if found is None or found.pre.shape != wanted:
        got = "no such layer" if found is None else f"vectors of shape {found.pre.shape}"
        problem = f"needs activate('{BOTTLENECK}', x) with x of shape (samples, latent_width)"
        raise InputError(FIELD, name, f"{problem}, here {wanted}; it has {got}")
    return activate.count
