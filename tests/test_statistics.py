import numpy as np
import pytest
import xarray as xr

from ppp_jax.analysis import (
    acceptance_ratio,
    alignment_c4,
    bootstrap_interval,
    interquartile_mean,
    project,
)
from ppp_jax.errors import InputError
from tests import plain

RNG = np.random.default_rng(0)
N, SAMPLES = 16, 6000


def clusters(centres, noise):
    chosen = centres[RNG.integers(len(centres), size=SAMPLES)]
    return chosen + noise * RNG.normal(size=(SAMPLES, N))


NORMAL = RNG.normal(size=(SAMPLES, N))
CLOUDS = {  # METHOD §5: (cloud, C4, tolerance)
    "isotropic": (NORMAL, 0.0, 0.01),
    # METHOD does not state its clusters' noise; these are the closest round numbers.
    "axes": (clusters(np.concatenate([np.eye(N), -np.eye(N)]), 0.06), 0.97, 0.01),
    "corners": (clusters(np.sign(RNG.normal(size=(32, N))), 0.25), -0.80, 0.02),
    "tanh": (np.tanh(1.5 * NORMAL), -0.62, 0.005),
    "laplace": (RNG.laplace(size=(SAMPLES, N)), 0.31, 0.01),
}


@pytest.mark.parametrize("name", sorted(CLOUDS))
def test_c4_of_known_clouds(name):
    cloud, expected, tolerance = CLOUDS[name]
    np.testing.assert_allclose(alignment_c4(cloud), expected, atol=tolerance)


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
    x = CLOUDS["laplace"][0][:200]
    for scale in (1e-12, 1e12):
        np.testing.assert_allclose(
            alignment_c4((scale * x).astype(np.float32)), alignment_c4(x), rtol=1e-4
        )
    for scale in (1e-200, 1e200):  # float64 input, computed in float32
        np.testing.assert_allclose(alignment_c4(scale * x), alignment_c4(x), rtol=1e-4)
        np.testing.assert_allclose(acceptance_ratio(scale * x), acceptance_ratio(x), rtol=1e-4)


def test_leading_axes_are_separate_clouds():
    stacked = np.stack([cloud[:500] for cloud, *_ in CLOUDS.values()]).reshape(5, 1, 500, N)
    for function in (acceptance_ratio, alignment_c4):
        together = function(stacked)
        assert together.shape == (5, 1)
        alone = [function(cloud) for cloud in stacked[:, 0]]
        np.testing.assert_allclose(together[:, 0], alone, rtol=1e-5)


@pytest.mark.parametrize("epsilon", [0.0, 0.5, 0.85])
@pytest.mark.parametrize("name", sorted(CLOUDS))
@pytest.mark.filterwarnings("ignore::ppp_jax.analysis.EmptyPPPWarning")
def test_acceptance_ratio_counts_what_project_counts(name, epsilon):
    cloud = CLOUDS[name][0][:400]
    projection = project(cloud, epsilon=epsilon)
    share = projection.sizes["point"] / (projection.samples * projection.sizes["row"])
    expected = share / (1 - epsilon**2) ** ((N - 2) / 2)
    np.testing.assert_allclose(acceptance_ratio(cloud, epsilon=epsilon), expected, rtol=1e-5)


def test_zero_rows_leave_the_denominator_and_nonfinite_clouds_give_nan():
    cloud = CLOUDS["laplace"][0][:300]
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
    cloud = CLOUDS["laplace"][0][:100]
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
