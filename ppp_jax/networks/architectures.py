"""Named network architectures, all with the same interface of pure functions (`functional.Model`).

The architectures differ in what the *vector* is on which an isotropic activation acts. In `mlp`,
`classifier` and `sparse` it consists of all units of a layer; in `conv`, of the channels at one
pixel; in the transformers, of the hidden units of the MLP block at one token.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from ppp_jax import references
from ppp_jax.data.datasets import Shape
from ppp_jax.errors import InputError, enter, lookup
from ppp_jax.networks import adapters, functional
from ppp_jax.networks.functional import BOTTLENECK, Activate, Initializer, Model, Output, Sizes

# Side and stride of a convolution's kernel: a hidden layer halves both sides of the image.
KERNEL, STRIDE = 3, 2
HEADS = 2  # number of attention heads
HIDDEN = 2  # ratio of the hidden units of a transformer's MLP block to its width
CONVOLVES = (0, 8, 0)  # first version of JAX that can vmap the gradient of a convolution
SPARSITY = 0.01  # weight of the sparse autoencoder's penalty


def _names(count: int, *stems: str) -> list[str]:
    return [stem.format(i) for i in range(count) for stem in stems]


class _Convolutional(nnx.Module):
    """Autoencoder of strided convolutions, a dense bottleneck and transposed convolutions."""

    def __init__(self, shape: Shape, sizes: Sizes, initializer: Initializer, rngs: nnx.Rngs):
        self.image, self.width, self.depth = shape.image, sizes.width, sizes.depth
        height, width, channels = shape.image or (0, 0, 0)
        stride = STRIDE**sizes.depth
        self.small = (-(-height // stride), -(-width // stride))
        flat = math.prod(self.small) * sizes.width
        options: dict[str, Any] = {
            "kernel_size": (KERNEL, KERNEL),
            "strides": (STRIDE, STRIDE),
            "padding": "SAME",
            "kernel_init": initializer,
            "rngs": rngs,
        }
        ins = [channels, *[sizes.width] * (sizes.depth - 1)]
        for i, n_in in enumerate(ins):
            setattr(self, f"encoder_{i}", nnx.Conv(n_in, sizes.width, **options))
        self.bottleneck = functional.linear(flat, sizes.latent_width, initializer, rngs)
        self.decoder_0 = functional.linear(sizes.latent_width, flat, initializer, rngs)
        for i, n_out in enumerate([*[sizes.width] * (sizes.depth - 1), channels]):
            name = "output" if i == sizes.depth - 1 else f"decoder_{i + 1}"
            setattr(self, name, nnx.ConvTranspose(sizes.width, n_out, **options))

    def encode(self, x: jax.Array, activate: Activate) -> jax.Array:
        x = x.reshape(-1, *(self.image or ()))
        for name in _names(self.depth, "encoder_{}"):
            x = activate(name, getattr(self, name)(x))
        return activate(BOTTLENECK, self.bottleneck(x.reshape(len(x), -1)))

    def decode(self, x: jax.Array, activate: Activate) -> jax.Array:
        x = activate("decoder_0", self.decoder_0(x).reshape(-1, *self.small, self.width))
        for name in _names(self.depth, "decoder_{}")[1:]:
            x = activate(name, getattr(self, name)(x))
        height, width, channels = self.image or (0, 0, 0)
        images = getattr(self, "output")(x)  # noqa: B009
        flat: jax.Array = images[:, :height, :width].reshape(-1, height * width * channels)
        return flat


def _attention(query: jax.Array, key: jax.Array, value: jax.Array, **_: Any) -> jax.Array:
    """Returns scaled dot-product attention (Vaswani et al. 2017, arXiv 1706.03762).

    The result equals that of `nnx.dot_product_attention` to rounding. This function multiplies by a
    reciprocal where `jax.nn.softmax` divides, because XLA:CPU rounds the division differently for
    different numbers of devices (see `numerics._scaled`).

    Args:
      query: Queries, `(samples, tokens, heads, units)`.
      key: Keys, `(samples, tokens, heads, units)`.
      value: Values, `(samples, tokens, heads, units)`.

    Returns:
      The weighted sums of the values, `(samples, tokens, heads, units)`.
    """
    scores = jnp.einsum("sqhu,skhu->shqk", query, key) * query.shape[-1] ** -0.5
    # The subtraction prevents overflow and does not change the softmax, so it needs no gradient.
    largest = jax.lax.stop_gradient(scores.max(axis=-1, keepdims=True))
    weights = jnp.exp(scores - largest)
    weights = weights * (1 / weights.sum(axis=-1, keepdims=True))
    return jnp.einsum("shqk,skhu->sqhu", weights, value)


class _Block(nnx.Module):
    """Transformer block: normalised attention and normalised MLP, both added to the residual."""

    def __init__(
        self, width: int, norm: Callable[..., Any], initializer: Initializer, rngs: nnx.Rngs
    ):
        self.norm_attention, self.norm_mlp = norm(width, rngs=rngs), norm(width, rngs=rngs)
        self.attention = nnx.MultiHeadAttention(
            HEADS, width, kernel_init=initializer, rngs=rngs, attention_fn=_attention, decode=False
        )
        self.hidden = functional.linear(width, HIDDEN * width, initializer, rngs)
        self.back = functional.linear(HIDDEN * width, width, initializer, rngs)

    def __call__(self, x: jax.Array, name: str, activate: Activate) -> jax.Array:
        x = x + self.attention(self.norm_attention(x))
        x = x + self.back(activate(f"{name}_mlp", self.hidden(self.norm_mlp(x))))
        activate.keep(f"{name}_residual", x, x)
        return x


def _rms(width: int, *, rngs: nnx.Rngs) -> nnx.RMSNorm:
    """Returns an RMSNorm without a scale per unit, so that it respects rotations."""
    return nnx.RMSNorm(width, use_scale=False, rngs=rngs)


class _Transformer(nnx.Module):
    """Autoencoder of transformer blocks on patches of an image, with a dense bottleneck."""

    norm: Any = staticmethod(_rms)

    def __init__(self, shape: Shape, sizes: Sizes, initializer: Initializer, rngs: nnx.Rngs):
        height, width, channels = self.image = shape.image or (0, 0, 0)
        self.patch, self.depth, self.width = patch_side(height, width), sizes.depth, sizes.width
        self.grid = (height // self.patch, width // self.patch)
        pixels, tokens = self.patch**2 * channels, math.prod(self.grid)
        self.embedding = functional.linear(pixels, sizes.width, initializer, rngs)
        self.position = nnx.Param(initializer(rngs.params(), (tokens, sizes.width), jnp.float32))
        for name in _names(sizes.depth, "encoder_{}", "decoder_{}"):
            setattr(self, name, _Block(sizes.width, self.norm, initializer, rngs))
        flat = tokens * sizes.width
        self.bottleneck = functional.linear(flat, sizes.latent_width, initializer, rngs)
        self.expand = functional.linear(sizes.latent_width, flat, initializer, rngs)
        self.output = functional.linear(sizes.width, pixels, initializer, rngs)

    def encode(self, x: jax.Array, activate: Activate) -> jax.Array:
        (rows, columns), side, channels = self.grid, self.patch, self.image[2]
        x = x.reshape(-1, rows, side, columns, side, channels).swapaxes(2, 3)
        x = self.embedding(x.reshape(len(x), rows * columns, -1)) + self.position[...][None]
        for name in _names(self.depth, "encoder_{}"):
            x = getattr(self, name)(x, name, activate)
        return activate(BOTTLENECK, self.bottleneck(x.reshape(len(x), -1)))

    def decode(self, x: jax.Array, activate: Activate) -> jax.Array:
        (rows, columns), side, channels = self.grid, self.patch, self.image[2]
        x = self.expand(x).reshape(-1, rows * columns, self.width) + self.position[...][None]
        for name in _names(self.depth, "decoder_{}"):
            x = getattr(self, name)(x, name, activate)
        x = self.output(x).reshape(-1, rows, columns, side, side, channels).swapaxes(2, 3)
        return x.reshape(len(x), -1)


class _LayerNormTransformer(_Transformer):
    """Transformer with LayerNorm, which prefers (1, …, 1) and, by its scales per unit, the axes."""

    norm = nnx.LayerNorm


class _Classifier(functional.Autoencoder):
    """MLP classifier, features → width × depth → latent_width → classes."""

    def outputs(self, shape: Shape) -> int:
        """Returns the number of logits."""
        return shape.classes

    def decoder_names(self) -> list[str]:
        """Returns no names, because the logits follow the bottleneck directly."""
        return []


class _Sparse(functional.Autoencoder):
    """Sparse autoencoder, features → latent_width → features, with a penalty on the latents."""

    def encoder_names(self) -> list[str]:
        """Returns no names, because the bottleneck is the only hidden layer."""
        return []

    decoder_names = encoder_names


def patch_side(height: int, width: int) -> int:
    """Returns the side of a transformer's patches, the largest one that gives 16 tokens or more.

    Args:
      height: Height of the image in pixels.
      width: Width of the image in pixels.

    Returns:
      A common divisor of both sides; 1 if no side gives 16 tokens.

    Example:
      >>> patch_side(8, 8), patch_side(28, 28), patch_side(32, 32)
      (2, 7, 8)
    """
    sides = [s for s in range(1, min(height, width) + 1) if height % s == width % s == 0]
    return max([s for s in sides if height * width >= 16 * s * s], default=1)


def cross_entropy(output: Output, _x: jax.Array, labels: jax.Array) -> jax.Array:
    """Returns the mean cross-entropy of a classifier's logits."""
    return optax.softmax_cross_entropy_with_integer_labels(output.prediction, labels).mean()


def brier(output: Output, _x: jax.Array, labels: jax.Array) -> jax.Array:
    """Returns the mean squared error of a classifier's probabilities, per class (Brier score)."""
    wanted = jax.nn.one_hot(labels, output.prediction.shape[-1])
    return jnp.mean(jnp.square(jax.nn.softmax(output.prediction) - wanted))


def _sparse_loss(output: Output, x: jax.Array, labels: jax.Array) -> jax.Array:
    """Returns the mean squared error plus an L1 penalty on the latents, which prefers the axes."""
    return (
        functional.mean_squared(output, x, labels) + SPARSITY * jnp.abs(output.latents.post).mean()
    )


class Architecture(NamedTuple):
    """A network architecture.

    Attributes:
      module: Flax module with `encode` and `decode`, called as `module(shape, sizes, initializer,
        rngs)`; or a network of one's own (`adapters.network`).
      needs: What the data must have in addition to features: `""` (nothing), `image` or `labels`.
      respects_rotations: Whether nothing in the network except the activation prefers a basis of
        the hidden layers (docs/method.md §11).
      names: Function of the depth that returns the names of all layers whose vectors can be saved.
      loss: Function `(output, x, labels)` that training minimises.
      error: Function `(output, x, labels)` that is reported as the mean squared error.
      multiple_of: Number by which the width must be divisible.
      oldest_jax: Oldest version of JAX that can train the architecture.
    """

    module: Callable[..., Any]
    needs: str = ""
    respects_rotations: bool = False
    names: Callable[[int], list[str]] = lambda _: [BOTTLENECK]
    loss: Callable[[Output, jax.Array, jax.Array], jax.Array] = functional.mean_squared
    error: Callable[[Output, jax.Array, jax.Array], jax.Array] = functional.mean_squared
    multiple_of: int = 1
    oldest_jax: tuple[int, ...] = ()


def _encoder_and_decoder(depth: int) -> list[str]:
    return [*_names(depth, "encoder_{}"), BOTTLENECK, *_names(depth, "decoder_{}")]


def _block_names(depth: int) -> list[str]:
    encoder = _names(depth, "encoder_{}_mlp", "encoder_{}_residual")
    decoder = [name.replace("encoder", "decoder") for name in encoder]
    return [*encoder, BOTTLENECK, *decoder]


ARCHITECTURES: dict[str, Architecture] = {
    "mlp": Architecture(functional.Autoencoder, "", True, _encoder_and_decoder),
    "conv": Architecture(_Convolutional, "image", True, _encoder_and_decoder, oldest_jax=CONVOLVES),
    "transformer": Architecture(_Transformer, "image", True, _block_names, multiple_of=HEADS),
    "transformer_layernorm": Architecture(
        _LayerNormTransformer, "image", False, _block_names, multiple_of=HEADS
    ),
    "classifier": Architecture(
        _Classifier,
        "labels",
        True,
        lambda depth: [*_names(depth, "encoder_{}"), BOTTLENECK],
        cross_entropy,
        brier,
    ),
    "sparse": Architecture(_Sparse, "", False, lambda _: [BOTTLENECK], _sparse_loss),
}
OWN = tuple(ARCHITECTURES.values())  # entries of this package, without those that users register


def register_architecture(name: str, entry: Architecture | Callable[..., Any]) -> Architecture:
    """Adds an architecture, which grids, flags and tables accept from then on.

    Registering a name again replaces what a user registered under it before.

    Args:
      name: Name of the new architecture.
      entry: The architecture and its properties, or a network alone (`adapters.network`). Of that
        the bottleneck is saved, and it is not claimed to respect rotations.

    Returns:
      The entry.

    Raises:
      InputError: The name is not an identifier, or is that of an architecture of this package; or
        the entry is no network.
    """
    return enter(ARCHITECTURES, name, brought(name, entry), field="architectures", own=OWN)


def brought(name: str, value: Any) -> Architecture:
    """Returns the entry of an architecture that a user brings, a network or an `Architecture`.

    Args:
      name: Name of the architecture, for the error message.
      value: The network or entry.

    Raises:
      InputError: The value is neither.
    """
    if isinstance(value, Architecture):
        return value
    if callable(value):
        return Architecture(value)
    problem = f"is a {type(value).__name__}; it must be called with (shape, sizes, initializer) and"
    raise InputError("architectures", name, f"{problem} make {adapters.KNOWN}")


def get(name: str) -> Architecture:
    """Returns the architecture that is registered under a name, or that a reference stands for.

    Raises:
      InputError: No architecture has this name. The message suggests similar names.
    """
    if isinstance(name, str) and references.is_reference(name):
        return brought(name, references.get(name, field="architectures").value)
    return lookup(ARCHITECTURES, name, field="architectures")


def check(name: str, shape: Shape, *, width: int, data: str) -> None:
    """Checks that an architecture accepts data and a width, and that this JAX can train it.

    Args:
      name: Name of the architecture.
      shape: Shape of the data.
      width: Width of the hidden layers.
      data: Name of the dataset, for the error message.

    Raises:
      InputError: The architecture needs images or labels that the data lack, the width is not
        divisible by the number of heads, or JAX is too old.
    """
    entry = get(name)
    needs = entry.needs
    if needs == "image" and shape.image is None:
        problem = f"has no images, which {name} needs; an .npz needs arrays of shape (samples, "
        raise InputError("data", data, f"{problem}height, width, channels)")
    if needs == "labels" and not shape.classes:
        problem = f"has no labels 0, 1, …, which {name} needs; an .npz needs y_train and y_test"
        raise InputError("data", data, problem)
    if width % entry.multiple_of:
        problem = f"must be a multiple of {entry.multiple_of}, the number of heads of {name}"
        raise InputError("widths", width, problem)
    if jax.__version_info__ < entry.oldest_jax:
        least = ".".join(map(str, entry.oldest_jax))
        problem = f"needs jax {least} or later, which can vmap gradients of convolutions, but "
        raise InputError("architectures", name, f"{problem}{jax.__version__} is installed")


def build(
    name: str,
    shape: Shape,
    sizes: Sizes,
    *,
    activation: Callable[..., jax.Array],
    initializer: Initializer,
) -> Model:
    """Builds a network of a named architecture.

    Args:
      name: Name of the architecture.
      shape: Shape of the data.
      sizes: Sizes of the network.
      activation: Activation function, see `functional.functional`.
      initializer: Initialiser of the weights, see `functional.functional`.

    Returns:
      The network as pure functions.

    Raises:
      InputError: No architecture has this name.

    Example:
      >>> draw = functional.get_initializer("orthogonal").make
      >>> model = build("conv", Shape(64, (8, 8, 1)), Sizes(width=4, depth=1, latent_width=3),
      ...               activation=jnp.tanh, initializer=draw)
      >>> output = model.apply(model.init(jax.random.key(0)), jnp.ones((5, 64)))
      >>> output.prediction.shape, output.layers["encoder_0"].pre.shape
      ((5, 64), (80, 4))
    """
    try:
        return of_entry(get(name), shape, sizes, activation, initializer)
    except InputError as error:  # the user knows the name, and not that of the class behind it
        raise InputError(error.field, name, error.problem) from error.__cause__


def of_entry(
    entry: Architecture,
    shape: Shape,
    sizes: Sizes,
    activation: Callable[..., jax.Array],
    initializer: Initializer,
) -> Model:
    """Builds a network of an architecture; the arguments are those of `build`."""
    parts = all(hasattr(entry.module, part) for part in ("encode", "decode"))
    make = functional.functional if parts else adapters.model
    return make(
        entry.module, shape, sizes, activation, initializer, loss=entry.loss, error=entry.error
    )
