import functools

import numpy as np
import pytest
import xarray as xr

from ppp_jax import bases
from ppp_jax.analysis import (
    acceptance_ratio,
    alignment_c4,
    axis_quantisation,
    bootstrap_interval,
    interquartile_mean,
    known_clouds,
    neighbour_ratio,
    project,
)
from ppp_jax.errors import InputError
from tests import plain

pytestmark = pytest.mark.filterwarnings("ignore::ppp_jax.analysis.RepeatedRowWarning")

N = 16
CLOUDS = known_clouds(units=N)
# The table of docs/method.md §13: A/A0 at ε = .85, C4, neighbour ratio; each with what a draw of
# 6,000 may be off.
TABLE = {
    "isotropic normal": ((1, 0.35), (0, 0.01), (0, 0.01)),
    "axis clusters": ((990, 5), (0.97, 0.005), (0.69, 0.01)),
    "hypercube-corner clusters": ((0, 0), (-0.80, 0.01), (0.66, 0.015)),
    "axis clusters, rotated": ((0, 1), (0, 0.05), (0.69, 0.01)),
    "clusters in random directions": ((0.1, 0.9), (0, 0.05), (0.66, 0.015)),
    "tanh(1.5·normal)": ((0, 0), (-0.62, 0.005), (0.06, 0.01)),
    "axis-aligned ellipsoid": ((57, 4), (0.37, 0.02), (0, 0.01)),
    "Laplace": ((31, 1.5), (0.31, 0.01), (0.07, 0.015)),
}


@pytest.mark.parametrize("name", sorted(TABLE))
def test_known_clouds_have_their_known_numbers(name):
    one_draw = functools.partial(neighbour_ratio, draws=1)  # of 6,000 samples: there is no need
    for function, (expected, tolerance) in zip(
        (acceptance_ratio, alignment_c4, one_draw), TABLE[name], strict=True
    ):
        np.testing.assert_allclose(function(CLOUDS[name]), expected, atol=tolerance)


def test_the_neighbour_ratio_does_not_see_rotation_scale_or_order():
    cloud = CLOUDS["axis clusters"][:1500]
    expected = neighbour_ratio(cloud)
    turned = cloud @ bases.haar(N, rotation_seed=4)
    for other in (turned, 1e-30 * cloud, cloud[::-1], cloud + 3):
        np.testing.assert_allclose(neighbour_ratio(other), expected, atol=0.01)
    assert neighbour_ratio(cloud) == neighbour_ratio(cloud)
    drawn = neighbour_ratio(cloud, max_samples=700)
    assert 0.5 < drawn < expected  # fewer samples, farther neighbours


def plain_distance(cloud):
    apart = np.linalg.norm(cloud[:, None] - cloud, axis=-1)
    return np.median([np.delete(row, k).min() for k, row in enumerate(apart)])


@pytest.mark.parametrize("units", [1, 2, 16])
@pytest.mark.parametrize("draws", [1, 3])
def test_the_neighbour_ratio_is_its_definition(units, draws):
    """Rows of zeros and repeated rows left out, against the mean of the references' distances."""
    cloud = CLOUDS["Laplace"][:200, :units]
    covariance, rng = np.atleast_2d(np.cov(cloud.T)), np.random.default_rng(5)
    expected = np.mean([
        plain_distance(rng.multivariate_normal(cloud.mean(0), covariance, 200, method="eigh"))
        for _ in range(draws)
    ])  # fmt: skip
    given = np.concatenate([cloud, cloud[:50], np.zeros((20, units))])
    found = neighbour_ratio(given, draws=draws, reference_seed=5)
    np.testing.assert_allclose(found, 1 - plain_distance(cloud) / expected, rtol=1e-9)


def test_the_neighbour_ratio_beyond_lengths_sees_clusters_and_no_heavy_tails():
    rng = np.random.default_rng(2)
    normal = rng.normal(size=(1500, 8))
    tails = normal / np.sqrt(rng.chisquare(3, size=(1500, 1)) / 3)
    assert neighbour_ratio(tails) > 0.2
    stretched = tails * np.arange(1, 9)  # elliptical, too
    for cloud in (normal, tails, stretched):
        assert abs(neighbour_ratio(cloud, elliptical=True)) < 0.04
    clumps = known_clouds(samples=1500)["clusters in random directions"]
    assert neighbour_ratio(clumps, elliptical=True) > 0.5
    flat = np.concatenate([tails, np.zeros((1500, 2))], axis=1)
    turned = flat @ bases.haar(10, rotation_seed=3)
    np.testing.assert_allclose(neighbour_ratio(turned, elliptical=True), 0, atol=0.04)


def test_the_neighbour_ratio_is_not_quantisation():
    """It is high on a ring and low on sixteen saturated bits; of dips it is the other way."""
    rng = np.random.default_rng(6)
    angle = rng.uniform(0, 2 * np.pi, 600)
    ring = np.pad(np.c_[np.cos(angle), np.sin(angle)], ((0, 0), (0, N - 2)))
    ring = ring @ bases.haar(N, rotation_seed=1)
    bits = np.tanh(3 * rng.normal(size=(600, N)))
    assert neighbour_ratio(ring) > 0.85
    assert abs(neighbour_ratio(bits)) < 0.06
    assert axis_quantisation(bits) > 2 * axis_quantisation(ring)


@pytest.mark.parametrize("cloud", [np.ones((5, 3)), np.ones((1, 3)), np.full((4, 3), np.nan)])
def test_the_neighbour_ratio_of_nothing_to_compare_is_missing(cloud):
    assert np.isnan(neighbour_ratio(cloud))


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("vectors", [2, 5, 7])
def test_c4_is_its_definition(vectors):
    """Closed form on an orthonormal basis and plane sums on a frame, against the plain loop."""
    x = np.random.default_rng(1).laplace(size=(30, 5))
    q = np.linalg.qr(np.random.default_rng(2).normal(size=(5, 5)))[0]
    frame = np.random.default_rng(3).normal(size=(vectors, 5))
    # As many vectors as units and every plane square, but not orthonormal.
    folded = np.array([q[0], -q[0], q[1], q[2], q[3]])
    for basis in (np.eye(5), q, frame, folded):
        expected = plain.c4(x, basis)
        np.testing.assert_allclose(alignment_c4(x, basis=basis), expected, rtol=1e-10)


def test_c4_ignores_scale_even_where_powers_would_overflow():
    x = CLOUDS["Laplace"][:200]
    for scale in (1e-12, 1e12):
        np.testing.assert_allclose(
            alignment_c4((scale * x).astype(np.float32)), alignment_c4(x), rtol=1e-4
        )
    for scale in (1e-200, 1e200):  # float64 input, computed in float32
        np.testing.assert_allclose(alignment_c4(scale * x), alignment_c4(x), rtol=1e-4)
        np.testing.assert_allclose(acceptance_ratio(scale * x), acceptance_ratio(x), rtol=1e-4)


def test_leading_axes_are_separate_clouds():
    stacked = np.stack([cloud[:500] for cloud in CLOUDS.values()]).reshape(8, 1, 500, N)
    for function in (acceptance_ratio, alignment_c4, neighbour_ratio, axis_quantisation):
        together = function(stacked)
        assert together.shape == (8, 1)
        alone = [function(cloud) for cloud in stacked[:, 0]]
        np.testing.assert_allclose(together[:, 0], alone, rtol=1e-5)


@pytest.mark.parametrize("epsilon", [0.0, 0.5, 0.85])
@pytest.mark.parametrize("name", sorted(CLOUDS))
@pytest.mark.filterwarnings("ignore::ppp_jax.analysis.EmptyPPPWarning")
def test_acceptance_ratio_counts_what_project_counts(name, epsilon):
    cloud = CLOUDS[name][:400]
    projection = project(cloud, epsilon=epsilon)
    share = projection.sizes["point"] / (projection.samples * projection.sizes["row"])
    expected = share / (1 - epsilon**2) ** ((N - 2) / 2)
    np.testing.assert_allclose(acceptance_ratio(cloud, epsilon=epsilon), expected, rtol=1e-5)


@pytest.mark.parametrize("function", [acceptance_ratio, alignment_c4])
def test_labelled_arrays_are_read_by_name_and_bad_ones_refused(function):
    cloud = CLOUDS["Laplace"][:100]
    labelled = xr.DataArray(cloud, dims=("sample", "unit")).transpose("unit", "sample")
    np.testing.assert_allclose(function(labelled), function(cloud))
    for bad in (cloud[0], cloud * 1j, cloud[:0], cloud.astype(str)):
        with pytest.raises(InputError, match=r"latents=.*must be real"):
            function(bad)


def test_interquartile_mean_drops_the_tails():
    assert interquartile_mean([-1e9, 1, 2, 3, 4, 5, 6, 1e9]) == 3.5
    assert interquartile_mean([1.0, np.nan, 3.0]) == 2.0
    assert np.isnan(interquartile_mean([np.nan]))


def test_bootstrap_interval_covers():
    """Nominal 95 % on normal samples of 16 seeds; percentile intervals fall a little short."""
    rng = np.random.default_rng(4)
    hits = 0
    for _ in range(300):
        low, high = bootstrap_interval(rng.normal(size=16))
        hits += low < 0 < high
    assert 0.90 < hits / 300 < 0.98


def test_bootstrap_interval_is_deterministic_and_needs_two_values():
    values = np.arange(8.0)
    assert bootstrap_interval(values) == bootstrap_interval(values)
    assert np.isnan(bootstrap_interval([1.0])).all()
    assert np.isnan(bootstrap_interval([1.0, np.nan])).all()
    assert bootstrap_interval([2.0, 2.0, 2.0]) == (2.0, 2.0)
    with pytest.raises(InputError, match="confidence"):
        bootstrap_interval(values, confidence=1.5)
