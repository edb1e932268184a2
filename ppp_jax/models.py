"""The autoencoder: a flax NNX network behind a pair of pure functions."""

import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import ArrayLike

from ppp_jax.errors import lookup

Params = Any  # a nested dict of arrays
ACTIVATION = "activation"  # the entry of an activation's own parameter, `(activated layers,)`
Initializer = Callable[..., jax.Array]


class Latents(NamedTuple):
    """The bottleneck's vectors, `(samples, latent_width)` each: before and after its activation."""

    pre: jax.Array
    post: jax.Array


class Output(NamedTuple):
    """What a network gives: its reconstruction, `(samples, features)`, and its latents."""

    reconstruction: jax.Array
    latents: Latents


class Model(NamedTuple):
    """A network as two pure functions.

    Attributes:
      init: PRNG key to parameters, a nested dict of arrays.
      apply: `(params, x)` to `Output`, with `x` of shape `(samples, features)`.
    """

    init: Callable[[jax.Array], Params]
    apply: Callable[[Params, ArrayLike], Output]


class InitializerEntry(NamedTuple):
    """A weight initialiser, and whether its law is unchanged by rotations of the weights."""

    make: Initializer
    respects_rotations: bool


INITIALIZERS: dict[str, InitializerEntry] = {
    # Not `nnx.initializers.glorot_normal`, which truncates each entry at two standard deviations:
    # a cube-shaped cut, so its law prefers the axes (METHOD §7 wants one that does not).
    "glorot_normal": InitializerEntry(
        nnx.initializers.variance_scaling(1.0, "fan_avg", "normal"), respects_rotations=True
    ),
    "orthogonal": InitializerEntry(nnx.initializers.orthogonal(), respects_rotations=True),
    "glorot_uniform": InitializerEntry(nnx.initializers.glorot_uniform(), respects_rotations=False),
}


def get_initializer(name: str) -> InitializerEntry:
    """Returns the registered initialiser `name`.

    Raises:
      InputError: no such initialiser; the nearest names are suggested.
    """
    return lookup(INITIALIZERS, name, field="initializers")


@jax.custom_vjp
def dense_product(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Returns `x @ kernel`, with a weight gradient that XLA computes fast on CPU.

    The gradient xᵀg of a batch of networks misses XLA:CPU's fast path unless the transpose is
    made beforehand, which the optimisation barrier enforces; other platforms need no such help.

    Args:
      x: `(samples, inputs)`.
      kernel: `(inputs, outputs)`.

    Returns:
      `(samples, outputs)`.
    """
    return x @ kernel


def _dense_forward(x: jax.Array, kernel: jax.Array) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    return x @ kernel, (x, kernel)


def _dense_backward(
    kept: tuple[jax.Array, ...], gradient: jax.Array
) -> tuple[jax.Array, jax.Array]:
    x, kernel = kept
    kernel_gradient = jax.lax.platform_dependent(
        x,
        gradient,
        cpu=lambda x, gradient: jax.lax.optimization_barrier(x.T) @ gradient,
        default=lambda x, gradient: x.T @ gradient,
    )
    return gradient @ kernel.T, kernel_gradient


dense_product.defvjp(_dense_forward, _dense_backward)


def _dot_general(x: ArrayLike, kernel: jax.Array, _dimensions: Any, **_: Any) -> jax.Array:
    """What `nnx.Linear` asks for, at the default precision."""
    return dense_product(jnp.asarray(x), kernel)


class _Autoencoder(nnx.Module):
    """features → width × depth → latent_width → width × depth → features, biases zero at first."""

    def __init__(
        self,
        *,
        features: int,
        width: int,
        depth: int,
        latent_width: int,
        activation: Callable[..., jax.Array],
        initializer: Initializer,
        rngs: nnx.Rngs,
    ):
        self.depth = depth
        self.activation = activation
        widths = [features, *[width] * depth, latent_width, *[width] * depth, features]
        for name, (n_in, n_out) in zip(self.layer_names(), itertools.pairwise(widths), strict=True):
            layer = nnx.Linear(
                n_in, n_out, kernel_init=initializer, dot_general=_dot_general, rngs=rngs
            )
            setattr(self, name, layer)

    def layer_names(self) -> list[str]:
        """Layers in the order in which they act."""
        hidden = range(self.depth)
        encoder = [f"encoder_{i}" for i in hidden]
        return [*encoder, "bottleneck", *[f"decoder_{i}" for i in hidden], "output"]

    def __call__(self, x: ArrayLike, parameter: jax.Array | None) -> Output:
        *inner, output = self.layer_names()
        for k, name in enumerate(inner):
            pre = getattr(self, name)(x)
            x = self.activation(pre) if parameter is None else self.activation(pre, parameter[k])
            if name == "bottleneck":
                latents = Latents(pre, x)
        return Output(getattr(self, output)(x), latents)


def autoencoder(
    *,
    features: int,
    width: int,
    depth: int,
    latent_width: int,
    activation: Callable[..., jax.Array],
    initializer: Initializer,
) -> Model:
    """Builds the multilayer-perceptron autoencoder.

    The activation follows every hidden layer and the bottleneck; the output is linear. Latents
    are the bottleneck's vectors before and after its activation: the author's published radii
    exceed every bounded output, so his pictures show the former (METHOD §8).

    Args:
      features: width of input and output.
      width: units of each hidden layer.
      depth: hidden layers on each side of the bottleneck.
      latent_width: units of the bottleneck.
      activation: `(..., units) -> (..., units)`, see `ppp_jax.activations`; if it takes a
        parameter, that is one number per layer in the parameters' entry `ACTIVATION`, which `init`
        leaves to the caller.
      initializer: draws the kernels; biases start at zero.

    Returns:
      `Model(init, apply)`. Two models of equal shapes have equal initial parameters for equal
      keys, whatever their activation.

    Example:
      >>> model = autoencoder(features=4, width=3, depth=1, latent_width=2,
      ...                     activation=jax.numpy.tanh,
      ...                     initializer=get_initializer("glorot_normal").make)
      >>> params = model.init(jax.random.key(0))
      >>> model.apply(params, jax.numpy.ones((5, 4))).latents.post.shape
      (5, 2)
    """

    def build(key: jax.Array) -> _Autoencoder:
        return _Autoencoder(
            features=features,
            width=width,
            depth=depth,
            latent_width=latent_width,
            activation=activation,
            initializer=initializer,
            rngs=nnx.Rngs(key),
        )

    graph = nnx.graphdef(nnx.eval_shape(build, jax.random.key(0)))

    def init(key: jax.Array) -> Params:
        return nnx.to_pure_dict(nnx.state(build(key)))

    def apply(params: Params, x: ArrayLike) -> Output:
        weights = {name: value for name, value in params.items() if name != ACTIVATION}
        return nnx.merge(graph, nnx.State(weights))(x, params.get(ACTIVATION))

    return Model(init, apply)
