"""The autoencoder, and the conversion of flax NNX modules into pure functions."""

import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import ArrayLike

from ppp_jax import references
from ppp_jax.data.datasets import Shape
from ppp_jax.errors import InputError, enter, lookup
from ppp_jax.networks import checks, confounds

Params = Any  # a nested dict of arrays
BOTTLENECK = "bottleneck"  # name of the layer whose vectors are the latents
ACTIVATION = "activation"  # key in `Params` of the activation's parameter, `(activated layers,)`
Initializer = Callable[..., jax.Array]


class Latents(NamedTuple):
    """Vectors of a layer before and after its activation, both `(vectors, units)`."""

    pre: jax.Array
    post: jax.Array


class Output(NamedTuple):
    """Output of a network.

    Attributes:
      prediction: The reconstruction, `(samples, features)`; for a classifier the logits,
        `(samples, classes)`.
      layers: Vectors of the layers, by the layers' names. `bottleneck`, with one vector per sample,
        is always among them.
    """

    prediction: jax.Array
    layers: dict[str, Latents]

    @property
    def latents(self) -> Latents:
        """The bottleneck's vectors, `(samples, latent_width)`."""
        return self.layers[BOTTLENECK]


class Model(NamedTuple):
    """A network as pure functions.

    Attributes:
      init: Function of a PRNG key that returns initial parameters, a nested dict of arrays.
      apply: Function `(params, x)` that returns the `Output`, with `x` of shape `(samples,
        features)`.
      decode: Function `(params, post)` that returns the prediction from the bottleneck's vectors
        after their activation, `(samples, latent_width)`.
      loss: Function `(output, x, labels)` that returns the scalar which training minimises.
      error: Function `(output, x, labels)` that returns the reported mean squared error.
      activated: Number of layers with an activation. If the activation has a parameter, each of
        these layers has its own value.
    """

    init: Callable[[jax.Array], Params]
    apply: Callable[[Params, ArrayLike], Output]
    decode: Callable[[Params, jax.Array], jax.Array]
    loss: Callable[[Output, jax.Array, jax.Array], jax.Array]
    error: Callable[[Output, jax.Array, jax.Array], jax.Array]
    activated: int


class Sizes(NamedTuple):
    """Sizes of a network, which are axes of a grid.

    Attributes:
      width: Number of units of a hidden layer.
      depth: Number of hidden layers before the bottleneck, and after it.
      latent_width: Number of units of the bottleneck.
    """

    width: int
    depth: int
    latent_width: int


class Activate:
    """Applies an activation layer by layer, and records each layer's vectors.

    An instance is used for one pass through a network while it is traced.
    """

    def __init__(
        self, function: Callable[..., jax.Array], parameter: jax.Array | None, *, first: int = 0
    ):
        """Sets the activation, its parameter per layer, `(activated layers,)`, and the first layer.

        `first` is the index in `parameter` that belongs to the first activated layer of the pass.
        """
        self.function, self.parameter, self.count = function, parameter, first
        self.layers: dict[str, Latents] = {}

    def __call__(self, name: str, pre: jax.Array) -> jax.Array:
        """Applies the activation to `pre`, `(..., units)`, and records both under a name."""
        own = () if self.parameter is None else (self.parameter[self.count],)
        self.count += 1
        post = self.function(pre, *own)
        self.keep(name, pre, post)
        return post

    def keep(self, name: str, pre: jax.Array, post: jax.Array) -> None:
        """Records vectors, `(..., units)`, under a layer's name, as `(vectors, units)`."""
        units = pre.shape[-1]
        self.layers[name] = Latents(pre.reshape(-1, units), post.reshape(-1, units))


class InitializerEntry(NamedTuple):
    """A weight initialiser.

    Attributes:
      make: Function `(key, shape, dtype)` that draws a weight matrix.
      respects_rotations: Whether the law of the matrix is unchanged by rotations. None if it is not
        claimed; then it is found.
    """

    make: Initializer
    respects_rotations: bool | None = None


INITIALIZERS: dict[str, InitializerEntry] = {
    # This is not `nnx.initializers.glorot_normal`, which truncates each entry at two standard
    # deviations. Its law has the support of a cube and so prefers the axes (docs/method.md §11).
    "glorot_normal": InitializerEntry(
        nnx.initializers.variance_scaling(1.0, "fan_avg", "normal"), respects_rotations=True
    ),
    "orthogonal": InitializerEntry(nnx.initializers.orthogonal(), respects_rotations=True),
    "glorot_uniform": InitializerEntry(nnx.initializers.glorot_uniform(), respects_rotations=False),
}
OWN = tuple(INITIALIZERS.values())  # the entries of this package, without those that users register


def register_initializer(name: str, entry: InitializerEntry | Initializer) -> InitializerEntry:
    """Adds an initialiser, which grids, flags, certificates and tables accept from then on.

    Registering a name again replaces what a user registered under it before.

    Args:
      name: Name of the new initialiser.
      entry: A function `(key, shape, dtype)` that draws a weight matrix, or an `InitializerEntry`,
        which holds one and its claimed property. A claim is tested before a grid is trained.

    Returns:
      The entry.

    Raises:
      InputError: The name is not an identifier, or is that of an initialiser of this package; or
        the entry is no function.
    """
    found = brought_initializer(name, entry)
    return enter(INITIALIZERS, name, found, field="initializers", own=OWN)


def brought_initializer(name: str, value: Any) -> InitializerEntry:
    """Returns the entry of an initialiser that a user brings, a function or an `InitializerEntry`.

    Args:
      name: Name of the initialiser, for the error message.
      value: The function or entry.

    Raises:
      InputError: The value is neither.
    """
    if isinstance(value, InitializerEntry):
        return value
    if callable(value):
        return InitializerEntry(value)
    problem = f"is a {type(value).__name__}; it must be a function (key, shape, dtype) that draws "
    raise InputError("initializers", name, f"{problem}a weight matrix, or an InitializerEntry")


def get_initializer(name: str) -> InitializerEntry:
    """Returns the initialiser that is registered under a name, or that a reference stands for.

    Whether its law is unchanged by rotations is found if it is not claimed.

    Raises:
      InputError: No initialiser has this name, or one that is brought cannot be used. The message
        suggests similar names.
    """
    entry = declared_initializer(name)
    if entry.respects_rotations is not None:
        return entry
    kept = _FOUND.get(name)
    if kept is None or kept[0] is not entry.make:
        checks.check_initializer(name, entry.make)
        deviation = confounds.initializer_deviation(entry.make)
        respects = abs(deviation) < confounds.DEVIATIONS
        kept = _FOUND[name] = (entry.make, entry._replace(respects_rotations=respects))
    return kept[1]


# The entries of initialisers without a claim, with what was found of them, by name.
_FOUND: dict[str, tuple[Any, InitializerEntry]] = {}


def declared_initializer(name: str) -> InitializerEntry:
    """Returns an initialiser by its name, without what has to be computed.

    Raises:
      InputError: No initialiser has this name. The message suggests similar names.
    """
    if isinstance(name, str) and references.is_reference(name):
        return brought_initializer(name, references.get(name, field="initializers").value)
    return lookup(INITIALIZERS, name, field="initializers")


@jax.custom_batching.custom_vmap
def _across(x: jax.Array, gradient: jax.Array) -> jax.Array:
    """Returns xᵀg of one network."""
    return x.T @ gradient


@_across.def_vmap
def _weight_gradients(
    size: int, batched: list[bool], x: jax.Array, gradient: jax.Array
) -> tuple[jax.Array, bool]:
    """Returns xᵀg of a batch of networks.

    On XLA:CPU it misses the fast path unless the transpose is computed first, which the
    optimisation barrier enforces. Other platforms, and single networks, do not need it.
    """
    x, gradient = (
        part if mapped else jnp.broadcast_to(part, (size, *part.shape))
        for part, mapped in zip((x, gradient), batched, strict=True)
    )
    product = jax.lax.platform_dependent(
        x.swapaxes(-1, -2),
        gradient,
        cpu=lambda across, gradient: jax.lax.optimization_barrier(across) @ gradient,
        default=lambda across, gradient: across @ gradient,
    )
    return product, True


@jax.custom_jvp
def _weight_gradient(x: jax.Array, gradient: jax.Array) -> jax.Array:
    """Returns xᵀg, the gradient of a product with respect to its weights."""
    product: jax.Array = _across(x, gradient)
    return product


@_weight_gradient.defjvp
def _weight_gradient_tangent(
    primals: tuple[jax.Array, jax.Array], tangents: tuple[jax.Array, jax.Array]
) -> tuple[jax.Array, jax.Array]:
    """Returns xᵀg and its tangent, of which reverse differentiation can take another gradient."""
    (x, gradient), (dx, dg) = primals, tangents
    return _weight_gradient(x, gradient), dx.T @ gradient + x.T @ dg


@jax.custom_vjp
def dense_product(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Returns `x @ kernel`, with a weight gradient that XLA computes fast on CPU.

    Args:
      x: Inputs, `(samples, inputs)`.
      kernel: Weights, `(inputs, outputs)`.

    Returns:
      The product, `(samples, outputs)`.
    """
    return x @ kernel


def _dense_forward(x: jax.Array, kernel: jax.Array) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    return x @ kernel, (x, kernel)


def _dense_backward(
    kept: tuple[jax.Array, ...], gradient: jax.Array
) -> tuple[jax.Array, jax.Array]:
    x, kernel = kept
    return gradient @ kernel.T, _weight_gradient(x, gradient)


dense_product.defvjp(_dense_forward, _dense_backward)


def _dot_general(x: ArrayLike, kernel: jax.Array, _dimensions: Any, **_: Any) -> jax.Array:
    """Computes the product of an `nnx.Linear` by `dense_product`, at the default precision."""
    x = jnp.asarray(x)
    product: jax.Array = dense_product(x.reshape(-1, x.shape[-1]), kernel)
    return product.reshape(*x.shape[:-1], kernel.shape[-1])


def mean_squared(output: Output, x: jax.Array, _labels: jax.Array) -> jax.Array:
    """Returns the mean squared error of a reconstruction, per feature."""
    return jnp.mean(jnp.square(output.prediction - x))


def linear(n_in: int, n_out: int, initializer: Initializer, rngs: nnx.Rngs) -> nnx.Linear:
    """Returns a dense layer that uses `dense_product`, with biases initialised to zero.

    Args:
      n_in: Number of inputs.
      n_out: Number of outputs.
      initializer: Initialiser of the weights.
      rngs: Random streams of flax.
    """
    return nnx.Linear(n_in, n_out, kernel_init=initializer, dot_general=_dot_general, rngs=rngs)


class Autoencoder(nnx.Module):
    """MLP autoencoder, features → width × depth → latent_width → width × depth → features.

    The activation follows every hidden layer and the bottleneck; the output is linear. The latents
    are the bottleneck's vectors before and after its activation. Published pictures show those
    before it, because their radii exceed every bounded output (docs/method.md §14).
    """

    def __init__(self, shape: Shape, sizes: Sizes, initializer: Initializer, rngs: nnx.Rngs):
        """Draws the weights."""
        self.depth = sizes.depth
        names = [*self.encoder_names(), BOTTLENECK, *self.decoder_names(), "output"]
        hidden = {BOTTLENECK: sizes.latent_width, "output": self.outputs(shape)}
        widths = [shape.features, *(hidden.get(name, sizes.width) for name in names)]
        for name, (n_in, n_out) in zip(names, itertools.pairwise(widths), strict=True):
            setattr(self, name, linear(n_in, n_out, initializer, rngs))

    def outputs(self, shape: Shape) -> int:
        """Returns the width of the output."""
        return shape.features

    def encoder_names(self) -> list[str]:
        """Returns the names of the layers before the bottleneck."""
        return [f"encoder_{i}" for i in range(self.depth)]

    def decoder_names(self) -> list[str]:
        """Returns the names of the layers after the bottleneck, without the output."""
        return [f"decoder_{i}" for i in range(self.depth)]

    def encode(self, x: jax.Array, activate: Activate) -> jax.Array:
        """Returns the bottleneck's vectors after its activation."""
        for name in (*self.encoder_names(), BOTTLENECK):
            x = activate(name, getattr(self, name)(x))
        return x

    def decode(self, x: jax.Array, activate: Activate) -> jax.Array:
        """Returns the prediction."""
        for name in self.decoder_names():
            x = activate(name, getattr(self, name)(x))
        prediction: jax.Array = getattr(self, "output")(x)  # noqa: B009
        return prediction


def functional(
    module: Callable[..., Any],
    shape: Shape,
    sizes: Sizes,
    activation: Callable[..., jax.Array],
    initializer: Initializer,
    *,
    loss: Callable[[Output, jax.Array, jax.Array], jax.Array] = mean_squared,
    error: Callable[[Output, jax.Array, jax.Array], jax.Array] = mean_squared,
) -> Model:
    """Turns a flax module with `encode` and `decode` into pure functions.

    Args:
      module: Flax module, called as `module(shape, sizes, initializer, rngs)`.
      shape: Shape of the data.
      sizes: Sizes of the network.
      activation: Activation function, `(..., units) -> (..., units)`, see
        `ppp_jax.networks.activations`. If it takes a parameter, the caller adds the entry
        `ACTIVATION` to the result of `init`, with one number per activated layer.
      initializer: Initialiser of the kernels. Biases are initialised to zero.
      loss: Function `(output, x, labels)` that training minimises.
      error: Function `(output, x, labels)` that is reported as the mean squared error.

    Returns:
      The network as pure functions. Two models of equal shapes have equal initial parameters for
      equal keys, whatever their activations.

    Example:
      >>> model = functional(Autoencoder, Shape(4), Sizes(width=3, depth=1, latent_width=2),
      ...                    jnp.tanh, get_initializer("glorot_normal").make)
      >>> params = model.init(jax.random.key(0))
      >>> model.apply(params, jnp.ones((5, 4))).latents.post.shape
      (5, 2)
    """

    def build(key: jax.Array) -> Any:
        return module(shape, sizes, initializer, nnx.Rngs(key))

    graph = nnx.graphdef(nnx.eval_shape(build, jax.random.key(0)))

    def init(key: jax.Array) -> Params:
        return nnx.to_pure_dict(nnx.state(build(key)))

    def merged(params: Params) -> tuple[Any, jax.Array | None]:
        weights = {name: value for name, value in params.items() if name != ACTIVATION}
        return nnx.merge(graph, nnx.State(weights)), params.get(ACTIVATION)

    def apply(params: Params, x: ArrayLike) -> Output:
        network, parameter = merged(params)
        activate = Activate(activation, parameter)
        prediction = network.decode(network.encode(jnp.asarray(x), activate), activate)
        return Output(prediction, activate.layers)

    shapes = jax.eval_shape(init, jax.random.key(0))
    before, after = _count_activated(lambda params: merged(params)[0], shapes, shape, sizes)

    def decode(params: Params, post: jax.Array) -> jax.Array:
        network, parameter = merged(params)
        prediction: jax.Array = network.decode(post, Activate(activation, parameter, first=before))
        return prediction

    return Model(init, apply, decode, loss, error, before + after)


def _count_activated(
    network: Callable[[Params], Any], params: Params, shape: Shape, sizes: Sizes
) -> tuple[int, int]:
    """Returns the numbers of activations up to the bottleneck (included) and behind it."""
    counts = []

    def run(params: Params) -> int:
        for part, width in (("encode", shape.features), ("decode", sizes.latent_width)):
            activate = Activate(lambda pre, *_: pre, None)
            getattr(network(params), part)(jnp.zeros((1, width)), activate)
            counts.append(activate.count)
        return 0

    jax.eval_shape(run, params)
    return counts[0], counts[1]
