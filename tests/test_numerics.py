import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ppp_jax.numerics import p_norm, polar


@pytest.mark.parametrize("size", [1e-37, 1e-20, 1.0, 1e20, 1e37])
def test_polar_recomposes_over_the_whole_range(size):
    x = size * jax.random.normal(jax.random.key(0), (50, 7))
    length, direction = jax.jit(polar)(x)
    np.testing.assert_allclose(length * direction, x, rtol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(direction, axis=-1), 1, rtol=1e-6)


def test_polar_of_zero_is_zero_with_zero_gradient():
    length, direction = polar(jnp.zeros(3))
    assert length == 0
    assert not direction.any()
    jacobian = jax.jit(jax.jacobian(polar))(jnp.zeros(3))
    for leaf in jax.tree.leaves(jacobian):
        np.testing.assert_array_equal(leaf, 0)


def test_gradient_of_length_is_direction():
    x = jax.random.normal(jax.random.key(1), (5,))
    gradient = jax.grad(lambda x: polar(x)[0][0])(x)
    np.testing.assert_allclose(gradient, polar(x)[1], rtol=1e-6)


def test_subnormal_input_has_finite_gradient():
    gradient = jax.jit(jax.jacobian(lambda x: polar(x)[1]))(jnp.full(3, 1e-40))
    assert np.isfinite(gradient).all()


@pytest.mark.parametrize("p", [1, 2, 2.5, 50, 100])
@pytest.mark.parametrize("n", [8, 64])
def test_p_norm_and_its_gradient_for_every_p_and_width(p, n):
    """Σ|x_i|ᵖ vanishes in single precision for large p unless the largest entry is 1."""
    both = jax.jit(jax.value_and_grad(lambda x: p_norm(x, p)[0]))
    for x in (np.ones(n, np.float32), jax.random.normal(jax.random.key(4), (n,))):
        wide = np.asarray(x, np.float64)
        length = np.sum(np.abs(wide) ** p) ** (1 / p)
        slope = np.sign(wide) * (np.abs(wide) / length) ** (p - 1)
        found, gradient = both(x)
        np.testing.assert_allclose(found, length, rtol=1e-5)
        np.testing.assert_allclose(gradient, slope, rtol=1e-3, atol=1e-5)
    for leaf in both(np.zeros(n, np.float32)):
        np.testing.assert_array_equal(leaf, 0)
