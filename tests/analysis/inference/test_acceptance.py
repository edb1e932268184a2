"""A/A0 against rotated bases, of the pooled latents and with the options of a picture."""

import numpy as np
import pytest

from ppp_jax.analysis import ppp
from ppp_jax.analysis.inference.acceptance import acceptance_test
from ppp_jax.errors import InputError

CLOUDS = np.random.default_rng(0).laplace(size=(2, 1500, 6)) + 3 * np.eye(6)[0]


@pytest.mark.parametrize(
    "options",
    [{}, {"whiten": True}, {"max_planes": 4, "plane_seed": 1}, {"basis": "simplex"}],
    ids=str,
)
def test_value_and_first_rotation_are_those_of_the_pictures(options):
    epsilon = [0.5, 0.7]
    found = acceptance_test(CLOUDS, epsilon=epsilon, rotations=1, rotation_seed=3, **options)
    for name, rotated in (("value", None), ("mean", 3)):
        expected = ppp(CLOUDS, epsilon=epsilon, rotated=rotated, **options)
        np.testing.assert_allclose(found[name], expected["acceptance_ratio"])


def test_axes_are_told_from_random_bases_and_no_others():
    found = acceptance_test(CLOUDS, epsilon=0.85, rotations=99, whiten=True)
    assert found["p"].item() == 0.01
    assert found["low"] < found["mean"] < found["high"] < found["value"]
    flat = np.random.default_rng(1).normal(size=(500, 3))
    turned = flat @ np.linalg.qr(np.random.default_rng(2).normal(size=(16, 16)))[0][:3]
    ratio = acceptance_test(turned, epsilon=0.85, rotations=99)
    assert ratio["value"] > 1.5  # red, and nothing of it is the basis
    assert ratio["p"].item() > 0.05


def test_a_wide_layer_is_tested_where_a0_is_below_all_numbers():
    found = acceptance_test(np.eye(150)[:40], epsilon=1 - 1e-6, rotations=1)
    assert found["value"].item() == np.inf
    assert found["mean"].item() == 0


def test_no_rotations_are_refused():
    with pytest.raises(InputError, match="rotations=0: must be at least 1"):
        acceptance_test(CLOUDS, rotations=0)
