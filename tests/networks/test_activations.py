"""One conformance suite over the registry: a new activation inherits every test."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from ppp_jax.errors import InputError
from ppp_jax.groups import GROUPS, equivariance_residual
from ppp_jax.networks.activations import ACTIVATIONS, elementwise, radial
from ppp_jax.networks.interpolated import get
from ppp_jax.numerics import polar

NAMES = sorted(ACTIVATIONS)
COMPOSED = ["block_tanh:2", "pnorm_tanh:4", "intrinsic_tanh:1", "dose_tanh:0.25", "tanh@simplex"]
RADIAL = [name for name in NAMES if ACTIVATIONS[name].isotropic]
ORDER = ["S_n", "B_n", "O(n)"]  # each contains the one before


def inputs(key=0, shape=(64, 8)):
    return 2 * jax.random.normal(jax.random.key(key), shape)


@functools.cache
def compiled(name):
    """Returns an activation as one program: operation by operation each would be a program."""
    return jax.jit(get(name).apply)


compiled_polar = jax.jit(polar)


@functools.cache
def compiled_jacobian(name):
    return jax.jit(jax.jacobian(get(name).apply))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("group", ORDER)
def test_commutes_with_its_group_and_no_larger_one(name, group):
    activation = ACTIVATIONS[name]
    residual = equivariance_residual(
        activation.apply, GROUPS[group], units=8, key=jax.random.key(0)
    )
    if ORDER.index(group) <= ORDER.index(activation.group):
        assert residual < 1e-5
    else:
        assert residual > 0.01


@pytest.mark.parametrize("name", [name for name in RADIAL if name != "identity"])
def test_isotropic_does_not_commute_with_stretching(name):
    stretch = np.diag(np.linspace(0.5, 2, 8, dtype=np.float32))
    x, f = np.asarray(inputs()), compiled(name)
    assert np.linalg.norm(f(x @ stretch) - f(x) @ stretch) > 0.05 * np.linalg.norm(f(x))


@pytest.mark.parametrize("name", RADIAL)
def test_radial_map_changes_only_the_length(name):
    activation, x = ACTIVATIONS[name], inputs()
    length, direction = map(np.asarray, compiled_polar(x))
    y_length, y_direction = map(np.asarray, compiled_polar(compiled(name)(x)))
    np.testing.assert_allclose(y_length, np.abs(activation.profile(length)), rtol=1e-5, atol=1e-6)
    moved = y_length[:, 0] > 1e-6
    assert moved.any()
    np.testing.assert_allclose(y_direction[moved], direction[moved], atol=1e-5)


@pytest.mark.parametrize("name", [name for name in NAMES if not ACTIVATIONS[name].isotropic])
def test_elementwise_map_acts_on_each_coordinate(name):
    activation, x = ACTIVATIONS[name], np.asarray(inputs())
    one_by_one = np.stack([activation.profile(x[:, i]) for i in range(x.shape[1])], axis=1)
    np.testing.assert_array_equal(activation.apply(x), one_by_one)


@pytest.mark.parametrize("name", NAMES)
def test_jacobian_at_zero(name):
    activation = ACTIVATIONS[name]
    zero = np.zeros(4, np.float32)
    jacobian = compiled_jacobian(name)(zero)
    np.testing.assert_allclose(jacobian, activation.slope_at_zero * np.eye(4), atol=1e-7)
    np.testing.assert_array_equal(compiled(name)(zero), 0)


@pytest.mark.parametrize("name", RADIAL)
def test_slope_at_zero_is_the_slope_of_the_profile(name):
    activation = ACTIVATIONS[name]
    slope = jax.jit(jax.grad(lambda r: activation.profile(r)))(jnp.float32(1e-4))
    np.testing.assert_allclose(slope, activation.slope_at_zero, atol=1e-3)


@pytest.mark.parametrize("name", RADIAL)
def test_continuous_across_the_linearised_core(name):
    """Just inside and outside the radius below which the map is its linearisation."""
    f, x = compiled(name), np.asarray(inputs(shape=(5,)))
    x = x / np.linalg.norm(x)
    eps = np.finfo(np.float32).eps
    inside, outside = (np.asarray(f(np.float32(r) * eps * x)) / r for r in (0.9, 1.1))
    np.testing.assert_allclose(inside, outside, rtol=1e-3, atol=1e-12)


@pytest.mark.parametrize("name", [*NAMES, *COMPOSED])
@pytest.mark.usefixtures("x64")
def test_gradients(name):
    # No coordinate or length at a kink: coordinates ±0.3…2, lengths below or above 1.
    x = jnp.array([[0.3, -0.4, 0.35, 0.31], [1.2, -2.0, 0.7, 0.5]])
    check_grads(compiled(name), (x,), order=1, modes=("fwd", "rev"), eps=1e-5)


@pytest.mark.parametrize("name", [*NAMES, *COMPOSED])
@pytest.mark.parametrize("size", [0.0, 1e-30, 1e30])
def test_extreme_input_stays_finite(name, size):
    x = np.float32(size) * np.array([1, -2, 3, 0], np.float32)
    assert np.isfinite(compiled(name)(x)).all()
    assert np.isfinite(compiled_jacobian(name)(x)).all()


@pytest.mark.parametrize("name", RADIAL)
def test_extreme_input_keeps_its_direction(name):
    x = np.array([1e30, -2e30, 3e30], np.float32)
    after = compiled_polar(compiled(name)(x))[1]
    np.testing.assert_allclose(after, compiled_polar(x)[1], rtol=1e-5)


@pytest.mark.parametrize("name", [*NAMES, *COMPOSED])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float64])
@pytest.mark.usefixtures("x64")
def test_dtype_and_shape_are_kept(name, dtype):
    x = np.asarray(inputs(shape=(2, 3, 4))).astype(dtype)
    y = compiled(name)(x)
    assert y.dtype == dtype
    assert y.shape == x.shape
    exact = compiled(name)(x.astype(np.float64))
    tolerance = float(8 * jnp.finfo(dtype).eps)
    np.testing.assert_allclose(np.asarray(y, np.float64), exact, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", NAMES)
def test_jit_and_vmap_change_nothing(name):
    f, x = ACTIVATIONS[name].apply, inputs(shape=(6, 4, 8))
    plain, whole, x = f(x), jax.jit(f), np.asarray(x)
    np.testing.assert_allclose(whole(x), plain, rtol=1e-6, atol=1e-6)
    looped = np.stack([[whole(row) for row in block] for block in x])
    np.testing.assert_allclose(plain, looped, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(jax.vmap(jax.vmap(f))(x), looped, rtol=1e-6, atol=1e-6)


def test_every_claimed_group_exists():
    assert {activation.group for activation in ACTIVATIONS.values()} <= GROUPS.keys()


def test_builders_are_the_registry():
    x = inputs()
    np.testing.assert_array_equal(elementwise(jnp.tanh)(x), get("tanh").apply(x))
    built = radial(jnp.tanh, slope_at_zero=1.0)
    np.testing.assert_array_equal(built(x), get("isotropic_tanh").apply(x))


def test_residual_sees_a_small_violation():
    def almost(x):
        return get("isotropic_tanh").apply(x) + 1e-3 * jnp.tanh(x)

    residual = equivariance_residual(almost, GROUPS["O(n)"], units=8, key=jax.random.key(0))
    assert 1e-5 < residual < 1e-2


@pytest.mark.parametrize("name", GROUPS)
def test_group_elements_are_orthogonal(name):
    g = np.asarray(GROUPS[name].sample(jax.random.key(1), 6))
    np.testing.assert_allclose(g @ g.T, np.eye(6), atol=1e-6)


def test_rotated_relu_commutes_with_rotated_permutations_only():
    r = np.asarray(jax.random.orthogonal(jax.random.key(2), 6))
    g = np.asarray(GROUPS["S_n"].sample(jax.random.key(3), 6))

    def rotated(x):
        return np.asarray(compiled("relu")(x @ r)) @ r.T

    x = np.asarray(inputs(shape=(10, 6)))
    np.testing.assert_allclose(rotated(x @ r @ g @ r.T), rotated(x) @ r @ g @ r.T, atol=1e-5)
    assert np.abs(rotated(x @ g) - rotated(x) @ g).max() > 0.1


def test_unknown_name_suggests_the_nearest():
    with pytest.raises(InputError, match=r"activations=tahn: unknown; did you mean tanh"):
        get("tahn")
