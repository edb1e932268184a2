import numpy as np
import pytest
import xarray as xr

from ppp_jax import bases
from ppp_jax.analysis import (
    acceptance_ratio,
    alignment_c4,
    bootstrap_interval,
    discreteness,
    interquartile_mean,
    known_clouds,
    project,
)
from ppp_jax.errors import InputError
from tests import plain

N = 16
CLOUDS = known_clouds(units=N)
# The table of docs/method.md §13: A/A0 at ε = .85, C4, discreteness; each with what a draw of 6,000
# may be off.
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
    for function, (expected, tolerance) in zip(
        (acceptance_ratio, alignment_c4, discreteness), TABLE[name], strict=True
    ):
        np.testing.assert_allclose(function(CLOUDS[name]), expected, atol=tolerance)


def test_discreteness_does_not_see_rotation_scale_or_order():
    cloud = CLOUDS["axis clusters"][:1500]
    expected = discreteness(cloud)
    turned = cloud @ bases.haar(N, rotation_seed=4)
    for other in (turned, 1e-30 * cloud, cloud[::-1], cloud + 3):
        np.testing.assert_allclose(discreteness(other), expected, atol=0.01)
    assert discreteness(cloud) == discreteness(cloud)
    drawn = discreteness(cloud, max_samples=700)
    assert 0.5 < drawn < expected  # fewer samples, farther neighbours


@pytest.mark.parametrize("units", [1, 2, 16])
def test_discreteness_is_its_definition(units):
    cloud = CLOUDS["Laplace"][:300, :units]
    apart = np.linalg.norm(cloud[:, None] - cloud, axis=-1) + np.diag(np.full(300, np.inf))
    rng = np.random.default_rng(0)
    covariance = np.atleast_2d(np.cov(cloud.T))
    gauss = rng.multivariate_normal(cloud.mean(axis=0), covariance, 300, method="eigh")
    gaps = np.linalg.norm(gauss[:, None] - gauss, axis=-1) + np.diag(np.full(300, np.inf))
    expected = 1 - np.median(apart.min(axis=1)) / np.median(gaps.min(axis=1))
    np.testing.assert_allclose(discreteness(cloud), expected, rtol=1e-9)


def test_discreteness_beyond_lengths_sees_clusters_and_no_heavy_tails():
    rng = np.random.default_rng(2)
    normal = rng.normal(size=(1500, 8))
    tails = normal / np.sqrt(rng.chisquare(3, size=(1500, 1)) / 3)
    assert discreteness(tails) > 0.2
    stretched = tails * np.arange(1, 9)  # elliptical, too
    for cloud in (normal, tails, stretched):
        assert abs(discreteness(cloud, elliptical=True)) < 0.04
    clumps = known_clouds(samples=1500)["clusters in random directions"]
    assert discreteness(clumps, elliptical=True) > 0.5
    flat = np.concatenate([tails, np.zeros((1500, 2))], axis=1)
    turned = flat @ bases.haar(10, rotation_seed=3)
    np.testing.assert_allclose(discreteness(turned, elliptical=True), 0, atol=0.04)


@pytest.mark.parametrize("cloud", [np.ones((5, 3)), np.ones((1, 3)), np.full((4, 3), np.nan)])
def test_discreteness_of_nothing_to_compare_is_missing(cloud):
    assert np.isnan(discreteness(cloud))


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
    for function in (acceptance_ratio, alignment_c4, discreteness):
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


def test_zero_rows_leave_the_denominator_and_nonfinite_clouds_give_nan():
    cloud = CLOUDS["Laplace"][:300]
    padded = np.concatenate([cloud, np.zeros((100, N))])
    np.testing.assert_allclose(acceptance_ratio(padded), acceptance_ratio(cloud), rtol=1e-6)
    broken = cloud.copy()
    broken[7, 3] = np.nan
    for function in (acceptance_ratio, alignment_c4):
        result = function(np.stack([cloud, broken]))
        assert np.isfinite(result[0])
        assert np.isnan(result[1])


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
