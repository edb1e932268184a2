"""Orbits of a basis, and dose-responses, on made-up data whose answer is known."""

import numpy as np
import pytest

from ppp_jax import bases
from ppp_jax.analysis.inference import dose_response, special_directions
from ppp_jax.errors import InputError

UNITS, SEEDS = 6, 7
DOSES = [0, 0.1, 0.2, 0.4, 0.7, 1]


def placed(orbit, basis, seed):
    """A few vectors close to an orbit, of any length."""
    rng = np.random.default_rng(seed)
    signs = rng.choice([-1.0, 1.0], size=(12, len(basis)))
    pairs = np.array([rng.choice(len(basis), 2, replace=False) for _ in range(12)])
    exact = {
        "vertices": basis[rng.integers(len(basis), size=12)],
        "opposites": -basis[rng.integers(len(basis), size=12)],
        "edges": basis[pairs[:, 0]] + basis[pairs[:, 1]],
        "corners": signs @ basis,
    }[orbit]
    return rng.gamma(2, size=(12, 1)) * (exact + 0.02 * rng.normal(size=exact.shape))


@pytest.mark.parametrize("orbit", special_directions.ORBITS)
@pytest.mark.parametrize("name", ["standard", "haar:2"])
def test_vectors_on_an_orbit_are_found_there(orbit, name):
    basis = bases.build(name, UNITS)
    vectors = np.stack([placed(orbit, basis, seed) for seed in range(SEEDS)])
    found = special_directions.positions(vectors, basis, rotations=39)
    assert found[orbit].cosine > 0.99
    assert max(found, key=lambda other: found[other].cosine) == orbit
    assert found[orbit].z > 5
    assert found[orbit].p == 2 / 2**SEEDS


def test_cosines_are_their_definitions():
    basis = bases.simplex(UNITS)
    x = np.random.default_rng(0).normal(size=(30, UNITS))
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    for row, vertex, opposite, edge, corner in zip(
        x, *(cosine(x, basis) for cosine in special_directions.ORBITS.values()), strict=True
    ):
        own = [row @ b for b in basis]
        assert np.isclose(vertex, max(own))
        assert np.isclose(opposite, -min(own))
        sums = [(a + b) / np.linalg.norm(a + b) for i, a in enumerate(basis) for b in basis[:i]]
        assert np.isclose(edge, max(row @ s for s in sums))
        sign = sum(np.sign(row @ b) * b for b in basis)
        assert np.isclose(corner, row @ sign / np.linalg.norm(sign))


def test_rotated_together_nothing_changes():
    basis, turn = bases.simplex(UNITS), bases.haar(UNITS, rotation_seed=1)
    x = bases.haar(UNITS, rotation_seed=5)
    for cosine in special_directions.ORBITS.values():
        np.testing.assert_allclose(cosine(x @ turn, basis @ turn), cosine(x, basis), atol=1e-12)


def test_random_directions_are_on_no_orbit():
    vectors = np.random.default_rng(3).normal(size=(SEEDS, 20, UNITS))
    found = special_directions.positions(vectors, np.eye(UNITS), rotations=99)
    assert all(abs(position.z) < 3 for position in found.values())


@pytest.mark.parametrize("orbit", special_directions.ORBITS)
@pytest.mark.parametrize("name", ["standard", "haar:2"])
def test_the_nearest_orbit_is_the_own_one_and_of_isotropic_vectors_any(orbit, name):
    basis = bases.build(name, UNITS)
    place = list(special_directions.ORBITS).index(orbit)
    assert (special_directions.nearest(placed(orbit, basis, 0), basis) == place).all()
    near = special_directions.nearest(np.random.default_rng(4).normal(size=(500, UNITS)), basis)
    assert 0.1 < np.mean(near == place) < 0.5  # not all at corners, of which there are many


def seeds(mean):
    rng = np.random.default_rng(0)
    return [value + 0.01 * rng.normal(size=16) for value in mean]


def test_a_slope_starts_at_the_first_dose_and_a_threshold_does_not():
    slope = dose_response.kink(DOSES, seeds([-2 * d for d in DOSES]))
    assert slope.line > 0.999
    assert slope.low == 0
    late = dose_response.kink(DOSES, seeds([max(d - 0.4, 0) for d in DOSES]))
    assert abs(late.start - 0.4) < 0.03
    assert 0.3 < late.low <= late.start <= late.high < 0.5
    assert late.kink > late.line + 0.05


def test_explained_shares_are_those_of_least_squares():
    rng = np.random.default_rng(5)
    x, y = rng.normal(size=(3, 7)), rng.normal(size=7)
    for own, share in zip(x, dose_response._explained(x, y), strict=True):
        design = np.stack([np.ones(7), own], axis=1)
        left = y - design @ np.linalg.lstsq(design, y)[0]
        assert np.isclose(share, 1 - (left @ left) / np.sum((y - y.mean()) ** 2))


def test_few_seeds_have_no_kink():
    values = [x[:5] for x in seeds(DOSES)]
    assert np.isnan(dose_response.kink(DOSES, values)[:5]).all()
    missing = [np.where(np.arange(16) < 11, np.nan, x) for x in seeds(DOSES)]
    assert dose_response.kink(DOSES, missing).seeds == 5
    assert dose_response.kink(DOSES, seeds(DOSES)).seeds == 16


@pytest.mark.parametrize("doses", [[0, 1, 2], [0, 1, 1, 2]])
def test_too_few_doses_are_refused(doses):
    with pytest.raises(InputError, match="doses"):
        dose_response.kink(doses, seeds(doses))
