"""One conformance suite over the registry: a new activation inherits every test."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from ppp_jax.errors import InputError
from ppp_jax.groups import GROUPS, equivariance_residual
from ppp_jax.networks.activations import ACTIVATIONS, elementwise, radial
from ppp_jax.networks.interpolated import get
from ppp_jax.numerics import haar_orthogonal, polar

NAMES = sorted(ACTIVATIONS)
COMPOSED = ["block_tanh:2", "pnorm_tanh:4", "intrinsic_tanh:1", "dose_tanh:0.25", "tanh@simplex"]
RADIAL = [name for name in NAMES if ACTIVATIONS[name].isotropic]
ORDER = ["S_n", "B_n", "O(n)"]  # each contains the one before


def inputs(key=0, shape=(64, 8)):
    return 2 * jax.random.normal(jax.random.key(key), shape)


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
    stretch = jnp.diag(jnp.linspace(0.5, 2, 8))
    x, f = inputs(), ACTIVATIONS[name].apply
    assert jnp.linalg.norm(f(x @ stretch) - f(x) @ stretch) > 0.05 * jnp.linalg.norm(f(x))


@pytest.mark.parametrize("name", RADIAL)
def test_radial_map_changes_only_the_length(name):
    activation, x = ACTIVATIONS[name], inputs()
    length, direction = polar(x)
    y_length, y_direction = polar(activation.apply(x))
    np.testing.assert_allclose(y_length, jnp.abs(activation.profile(length)), rtol=1e-5, atol=1e-6)
    moved = np.asarray(y_length[:, 0] > 1e-6)
    assert moved.any()
    np.testing.assert_allclose(y_direction[moved], direction[moved], atol=1e-5)


@pytest.mark.parametrize("name", [name for name in NAMES if not ACTIVATIONS[name].isotropic])
def test_elementwise_map_acts_on_each_coordinate(name):
    activation, x = ACTIVATIONS[name], inputs()
    one_by_one = jnp.stack([activation.profile(x[:, i]) for i in range(x.shape[1])], axis=1)
    np.testing.assert_array_equal(activation.apply(x), one_by_one)


@pytest.mark.parametrize("name", NAMES)
def test_jacobian_at_zero(name):
    activation = ACTIVATIONS[name]
    jacobian = jax.jacobian(activation.apply)(jnp.zeros(5))
    np.testing.assert_allclose(jacobian, activation.slope_at_zero * np.eye(5), atol=1e-7)
    np.testing.assert_array_equal(activation.apply(jnp.zeros(5)), 0)


@pytest.mark.parametrize("name", RADIAL)
def test_slope_at_zero_is_the_slope_of_the_profile(name):
    activation = ACTIVATIONS[name]
    slope = jax.grad(lambda r: activation.profile(r))(jnp.float32(1e-4))
    np.testing.assert_allclose(slope, activation.slope_at_zero, atol=1e-3)


@pytest.mark.parametrize("name", RADIAL)
def test_continuous_across_the_linearised_core(name):
    """Just inside and outside the radius below which the map is its linearisation."""
    f, x = ACTIVATIONS[name].apply, inputs(shape=(5,))
    x = x / jnp.linalg.norm(x)
    eps = jnp.finfo(jnp.float32).eps
    inside, outside = f(0.9 * eps * x) / 0.9, f(1.1 * eps * x) / 1.1
    np.testing.assert_allclose(inside, outside, rtol=1e-3, atol=1e-12)


@pytest.mark.parametrize("name", [*NAMES, *COMPOSED])
@pytest.mark.usefixtures("x64")
def test_gradients(name):
    # No coordinate or length at a kink: coordinates ±0.3…2, lengths below or above 1.
    x = jnp.array([[0.3, -0.4, 0.35, 0.31], [1.2, -2.0, 0.7, 0.5]])
    check_grads(get(name).apply, (x,), order=1, modes=("fwd", "rev"), eps=1e-5)


@pytest.mark.parametrize("name", [*NAMES, *COMPOSED])
@pytest.mark.parametrize("size", [0.0, 1e-30, 1e30])
def test_extreme_input_stays_finite(name, size):
    f, x = get(name).apply, size * jnp.array([1.0, -2.0, 3.0, 0.0])
    assert np.isfinite(f(x)).all()
    assert np.isfinite(jax.jacobian(f)(x)).all()


@pytest.mark.parametrize("name", RADIAL)
def test_extreme_input_keeps_its_direction(name):
    x = 1e30 * jnp.array([1.0, -2.0, 3.0])
    np.testing.assert_allclose(polar(ACTIVATIONS[name].apply(x))[1], polar(x)[1], rtol=1e-5)


@pytest.mark.parametrize("name", [*NAMES, *COMPOSED])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float64])
@pytest.mark.usefixtures("x64")
def test_dtype_and_shape_are_kept(name, dtype):
    x = inputs(shape=(2, 3, 4)).astype(dtype)
    y = get(name).apply(x)
    assert y.dtype == dtype
    assert y.shape == x.shape
    exact = get(name).apply(x.astype(jnp.float64))
    tolerance = float(8 * jnp.finfo(dtype).eps)
    np.testing.assert_allclose(y.astype(jnp.float64), exact, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", NAMES)
def test_jit_and_vmap_change_nothing(name):
    f, x = ACTIVATIONS[name].apply, inputs(shape=(6, 4, 8))
    np.testing.assert_allclose(jax.jit(f)(x), f(x), rtol=1e-6, atol=1e-6)
    looped = jnp.stack([jnp.stack([f(row) for row in block]) for block in x])
    np.testing.assert_allclose(f(x), looped, rtol=1e-6, atol=1e-6)
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
    g = GROUPS[name].sample(jax.random.key(1), 6)
    np.testing.assert_allclose(g @ g.T, np.eye(6), atol=1e-6)


def test_rotated_relu_commutes_with_rotated_permutations_only():
    r = haar_orthogonal(jax.random.key(2), 6)
    g = GROUPS["S_n"].sample(jax.random.key(3), 6)

    def rotated(x):
        return get("relu").apply(x @ r) @ r.T

    x = inputs(shape=(10, 6))
    np.testing.assert_allclose(rotated(x @ r @ g @ r.T), rotated(x) @ r @ g @ r.T, atol=1e-5)
    assert jnp.abs(rotated(x @ g) - rotated(x) @ g).max() > 0.1


def test_unknown_name_suggests_the_nearest():
    with pytest.raises(InputError, match=r"activations=tahn: unknown; did you mean tanh"):
        get("tahn")
