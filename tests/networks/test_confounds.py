"""Optimisers and initialisers have the symmetry that is claimed of them, and no other."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ppp_jax.networks import confounds, functional, optimizers


@pytest.mark.parametrize("name", sorted(optimizers.OPTIMIZERS))
@pytest.mark.parametrize("seed", [0, 1])
def test_optimizers_respect_rotations_as_claimed(name, seed):
    entry = optimizers.get(name)
    residual = confounds.optimizer_residual(entry.make, entry.test_rate, test_seed=seed)
    assert np.isfinite(residual)
    if entry.respects_rotations:
        assert residual < confounds.TOLERANCE
    else:
        assert residual > 100 * confounds.TOLERANCE


def test_optax_muon_itself_prefers_a_basis_in_its_biases():
    """Which is why ours gives them to an isotropic Adam."""
    assert confounds.optimizer_residual(optax.contrib.muon, 0.02) > 10 * confounds.TOLERANCE


@pytest.mark.parametrize("name", sorted(functional.INITIALIZERS))
def test_initializers_respect_rotations_as_claimed(name):
    deviation = abs(confounds.initializer_deviation(functional.get_initializer(name).make))
    if functional.get_initializer(name).respects_rotations:
        assert deviation < confounds.DEVIATIONS
    else:
        assert deviation > 4 * confounds.DEVIATIONS


def test_isotropic_adam_of_one_entry_is_adam():
    """With a single entry the shared second moment is the entry's own."""
    ours, theirs = (optimizers.get(name).make(0.1) for name in ("isotropic_adam", "adam"))
    x = y = {"w": jnp.array([2.0])}
    state, other = ours.init(x), theirs.init(y)
    for t in range(20):
        gradient = {"w": jnp.array([jnp.sin(t * 1.7) + 0.2])}
        with jax.numpy_dtype_promotion("standard"):
            step, state = ours.update(gradient, state, x)
            step_, other = theirs.update(gradient, other, y)
        np.testing.assert_allclose(step["w"], step_["w"], rtol=1e-5)
