"""Privileged bases against what geometry says of them."""

import numpy as np
import pytest

from ppp_jax import bases
from ppp_jax.analysis import project
from ppp_jax.errors import InputError

ALL = ["standard", "haar:0", "haar:7", "simplex", "cross_polytope", "thomson:7", "thomson:9:1"]


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("units", [3, 4])
def test_rows_are_unit_vectors(name, units):
    vectors = bases.build(name, units)
    assert vectors.dtype == np.float64
    assert vectors.shape[1] == units
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-14)
    np.testing.assert_array_equal(vectors, bases.build(name, units))


def test_haar_is_orthonormal_and_depends_on_its_seed():
    one, other = bases.haar(16, rotation_seed=1), bases.haar(16, rotation_seed=2)
    np.testing.assert_allclose(one @ one.T, np.eye(16), atol=1e-14)
    assert np.abs(one - other).max() > 0.1


def test_haar_prefers_no_direction():
    entries = np.stack([bases.haar(4, rotation_seed=k) for k in range(400)])
    # The mean of every entry is 0 and of its square 1/n; its fourth power 3/(n(n + 2)).
    for power, expected in ((1, 0), (2, 1 / 4), (4, 3 / 24)):
        error = entries**power - expected
        assert np.abs(error.mean(axis=0)).max() < 4.5 * error.std() / 20
    signs = np.linalg.det(entries)
    assert 0.4 < np.mean(signs > 0) < 0.6  # all of O(n), not rotations alone


@pytest.mark.parametrize("n", [1, 2, 5, 16])
def test_haar_is_orthogonal(n):
    (q,) = bases.rotations(n, 1, np.random.default_rng(2))
    np.testing.assert_allclose(q @ q.T, np.eye(n), atol=1e-12)


def test_haar_moments():
    """Haar on O(n): E q_ij = 0, E q_ij² = 1/n, E q_ij⁴ = 3/(n(n+2)), det = ±1 equally often."""
    n, draws = 4, 4000
    q = bases.rotations(n, draws, np.random.default_rng(3))
    np.testing.assert_allclose(q.mean(axis=0), 0, atol=5 * np.sqrt(1 / n / draws))
    np.testing.assert_allclose((q**2).mean(axis=0), 1 / n, atol=0.02)
    np.testing.assert_allclose((q**4).mean(axis=0), 3 / (n * (n + 2)), atol=0.02)
    assert abs(np.sign(np.linalg.det(q)).mean()) < 5 / np.sqrt(draws)


@pytest.mark.parametrize("vectors", [2, 4, 5, 6])
def test_simplex_has_equal_angles_and_no_centre(vectors):
    corners = bases.simplex(5, vectors=vectors)
    cosines = corners @ corners.T
    np.testing.assert_allclose(cosines[~np.eye(vectors, dtype=bool)], -1 / (vectors - 1))
    np.testing.assert_allclose(corners.sum(axis=0), 0, atol=1e-12)


def test_simplex_is_the_same_on_every_processor():
    """Of all its turns one is meant, in closed form: runs and their analysis need not share one."""
    across, back = np.sqrt(2 / 3), np.sqrt(2) / 3
    expected = [[across, back, 1 / 3], [-across, back, 1 / 3], [0, -2 * back, 1 / 3], [0, 0, -1]]
    np.testing.assert_allclose(bases.simplex(3), expected, atol=1e-15)


def test_of_equal_minima_the_first_is_taken():
    """Rounding, which depends on the processor, must not choose among turned minima."""
    rng = np.random.default_rng(1)
    same = bases.cross_polytope(3) @ bases.rotations(3, 5, rng)
    higher = same[:1] * [1, 1, 0.5]
    for _ in range(20):
        ends = np.concatenate([higher, same]) + 1e-8 * rng.normal(size=(6, 6, 3))
        np.testing.assert_array_equal(bases.lowest(ends), ends[1])


def test_cross_polytope_is_the_axes_and_their_opposites():
    corners = bases.cross_polytope(5)
    np.testing.assert_array_equal(corners[5:], -corners[:5])
    projection = project(np.eye(5), basis="cross_polytope", epsilon=0.0)
    assert projection.skipped_planes == 5
    assert projection.sizes["row"] == 10 * 9 // 2 - 5


# Known minima of Thomson's problem on the sphere in three dimensions.
KNOWN = {4: 3.674234614, 6: 9.985281374, 12: 49.165253058}


@pytest.mark.parametrize("vectors", sorted(KNOWN))
def test_minimum_is_the_known_one(vectors):
    found = bases.minimise_energy(vectors, 3, start_seed=0, starts=4)
    assert bases.energy(found) == pytest.approx(KNOWN[vectors], rel=1e-7)
    assert bases.energy(bases.thomson(vectors, 3)) == pytest.approx(KNOWN[vectors], rel=1e-7)


def test_minimum_found_is_the_named_body():
    """docs/method.md §1: simplex and cross-polytope, up to a rotation; and the icosahedron."""
    icosahedron = bases.thomson(12, 3)
    cosines = np.sort(icosahedron @ icosahedron.T, axis=1)
    expected = [-1] + [-1 / np.sqrt(5)] * 5 + [1 / np.sqrt(5)] * 5 + [1]
    np.testing.assert_allclose(cosines, np.tile(expected, (12, 1)), atol=1e-5)


def test_sixteen_units_have_simplex_and_cross_polytope_built():
    np.testing.assert_array_equal(bases.thomson(17, 16), bases.simplex(16))
    np.testing.assert_array_equal(bases.thomson(32, 16), bases.cross_polytope(16))
    for vectors, named in ((17, bases.simplex(16)), (32, bases.cross_polytope(16))):
        # And no descent finds anything lower.
        found = bases.minimise_energy(vectors, 16, start_seed=0, starts=2)
        assert bases.energy(found) >= bases.energy(named) * (1 - 1e-7)
        assert bases.energy(found) == pytest.approx(bases.energy(named), rel=1e-4)


BAD = {
    "basis=simpex: unknown; did you mean simplex": ("simpex", 3),
    "basis=haar:x: must be one of": ("haar:x", 3),
    "basis=haar:1:2: must be one of": ("haar:1:2", 3),
    "basis=thomson: must be one of": ("thomson", 3),
    "basis=thomson:1: vectors must be at least 2": ("thomson:1", 3),
    "units=0: must be at least 1": ("standard", 0),
}


@pytest.mark.parametrize("text", sorted(BAD))
def test_bad_name_is_one_line(text):
    with pytest.raises(InputError) as caught:
        bases.build(*BAD[text])
    assert str(caught.value).startswith(text)


def test_bad_number_is_one_line():
    with pytest.raises(InputError, match="vectors=5: a simplex in 3 units has 2 to 4"):
        bases.simplex(3, vectors=5)
    with pytest.raises(InputError, match="starts=0"):
        bases.thomson(7, 3, starts=0)
