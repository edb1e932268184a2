import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ppp_jax.data.datasets import Shape
from ppp_jax.errors import InputError
from ppp_jax.networks import activations, functional, interpolated


def build(activation="tanh", initializer="glorot_normal", depth=2):
    return functional.functional(
        functional.Autoencoder, Shape(10), functional.Sizes(width=7, depth=depth, latent_width=3),
        interpolated.get(activation).apply, functional.get_initializer(initializer).make,
    )  # fmt: skip


@pytest.mark.parametrize("depth", [1, 2, 4])
def test_shapes_and_zero_biases(depth):
    model = build(depth=depth)
    params = model.init(jax.random.key(0))
    assert len(params) == 2 * depth + 2
    for layer in params.values():
        np.testing.assert_array_equal(layer["bias"], 0)
    output = model.apply(params, jnp.ones((5, 10)))
    assert output.prediction.shape == (5, 10)
    assert output.latents.pre.shape == output.latents.post.shape == (5, 3)


@pytest.mark.parametrize("name", sorted(activations.ACTIVATIONS))
def test_network_is_what_it_says(name):
    """Against the network written out by hand."""
    f, model = jax.jit(interpolated.get(name).apply), build(name)
    params = model.init(jax.random.key(1))
    x = jax.random.normal(jax.random.key(2), (5, 10))

    def layer(key, x):
        return np.asarray(x) @ np.asarray(params[key]["kernel"]) + np.asarray(params[key]["bias"])

    h = f(layer("encoder_1", f(layer("encoder_0", x))))
    pre = layer("bottleneck", h)
    y = layer("output", f(layer("decoder_1", f(layer("decoder_0", f(pre))))))
    output = jax.jit(model.apply)(params, x)
    np.testing.assert_allclose(output.latents.pre, pre, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(output.latents.post, f(pre), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(output.prediction, y, rtol=1e-5, atol=1e-6)


def test_equal_keys_give_equal_weights_whatever_the_activation():
    first = build("tanh").init(jax.random.key(3))
    second = build("isotropic_relu").init(jax.random.key(3))
    jax.tree.map(np.testing.assert_array_equal, first, second)


@pytest.mark.parametrize("name", sorted(functional.INITIALIZERS))
def test_initializer_respects_rotations_as_claimed(name):
    """The law of W is unchanged by W → WQ: compare fourth moments of entries of W and WQ."""
    entry = functional.INITIALIZERS[name]
    keys = jax.random.split(jax.random.key(4), 4000)
    kernels = np.asarray(jax.jit(jax.vmap(lambda k: entry.make(k, (6, 6), jnp.float32)))(keys))
    rotated = kernels @ np.asarray(jax.random.orthogonal(jax.random.key(5), 6))
    kurtosis = [float(np.mean(w**4) / np.mean(w**2) ** 2) for w in (kernels, rotated)]
    difference = abs(kurtosis[0] - kurtosis[1])
    assert (difference < 0.05) == entry.respects_rotations, kurtosis


def test_truncated_normal_would_not_respect_rotations():
    """Why `glorot_normal` here is not flax's: that one cuts each entry at two deviations."""
    flax_one = jax.nn.initializers.glorot_normal()
    w = flax_one(jax.random.key(6), (400, 400), jnp.float32)
    assert abs(float(jnp.mean(w**4) / jnp.mean(w**2) ** 2) - 3) > 0.3


@pytest.mark.parametrize("name", ["isotropic_tanh", "isotropic_leaky_relu"])
def test_isotropic_network_has_no_preferred_hidden_basis(name):
    """Rotating every hidden layer with its weights leaves an isotropic network unchanged."""
    x = jax.random.normal(jax.random.key(7), (5, 10))
    for activation, unchanged in [(name, True), (name.removeprefix("isotropic_"), False)]:
        model = build(activation, depth=1)
        params = model.init(jax.random.key(8))
        q, p = (
            jax.random.orthogonal(jax.random.key(9), 7),
            jax.random.orthogonal(jax.random.key(10), 3),
        )
        turned = jax.tree.map(lambda leaf: leaf, params)
        turned["encoder_0"]["kernel"] = params["encoder_0"]["kernel"] @ q
        turned["bottleneck"]["kernel"] = q.T @ params["bottleneck"]["kernel"] @ p
        turned["decoder_0"]["kernel"] = p.T @ params["decoder_0"]["kernel"]
        before, after = model.apply(params, x), model.apply(turned, x)
        same = np.allclose(before.prediction, after.prediction, atol=1e-5)
        assert same == unchanged
        if unchanged:
            np.testing.assert_allclose(before.latents.post @ p, after.latents.post, atol=1e-5)


def test_unknown_initializer():
    with pytest.raises(InputError, match="did you mean orthogonal"):
        functional.get_initializer("ortogonal")


def plain_product(x, kernel):
    return x @ kernel


@pytest.mark.parametrize(
    ("levels", "shared"),
    [(0, None), *((levels, one) for levels in (1, 2) for one in (None, "x", "kernel"))],
)
def test_gradients_of_a_product_are_the_plain_ones(levels, shared):
    """Of single networks, of batches and of batches of batches, which take different paths."""
    rng, leading = np.random.default_rng(0), (3, 2)[:levels]
    sizes = {"x": (24, 7), "kernel": (7, 5), "gradient": (24, 5)}
    arrays = [
        rng.normal(size=(*(() if name == shared else leading), *size)).astype(np.float32)
        for name, size in sizes.items()
    ]

    def gradients(product):
        def of(x, kernel, gradient):
            return jax.vjp(product, x, kernel)[1](gradient)

        for _ in leading:
            of = jax.vmap(of, in_axes=tuple(None if name == shared else 0 for name in sizes))
        return jax.jit(of)(*arrays)

    ours, expected = gradients(functional.dense_product), gradients(plain_product)
    for found, plain in zip(ours, expected, strict=True):
        np.testing.assert_allclose(found, plain, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("batched", [False, True])
def test_second_derivatives_of_a_product_are_the_plain_ones(batched):
    rng = np.random.default_rng(1)
    x, kernel = (rng.normal(size=(2, *size)).astype(np.float32) for size in ((6, 4), (4, 3)))

    def second(product):
        def loss(kernel, x):
            return jnp.sum(jnp.tanh(product(jnp.tanh(product(x, kernel)), kernel.T)) ** 2)

        def reverse(kernel, x):
            return jax.grad(lambda k: jnp.sum(jax.grad(loss)(k, x) ** 2))(kernel)

        if batched:
            return jax.jit(jax.vmap(reverse))(kernel, x)
        return jax.jit(reverse)(kernel[0], x[0])

    ours, expected = second(functional.dense_product), second(plain_product)
    np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-4)
