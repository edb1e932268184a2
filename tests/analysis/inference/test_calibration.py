"""Sizes of the tests under laws that prefer no axes, and known rates of those that do."""

import math

import numpy as np
import pytest
import scipy.stats
import xarray as xr

import ppp_jax.analysis as pa
from ppp_jax.analysis import synthetic
from ppp_jax.analysis.inference import calibration
from ppp_jax.analysis.inference.seeds import combined_rank, sign_flip
from ppp_jax.errors import InputError

DRAWS, LEVEL = 192, 0.1
SMALL = {"samples": 60, "units": 6, "draws": DRAWS, "rotations": 19}
TURNED = ["c4", "mean_ones", "covariance", "shape"]
OWN = ["unit_kurtosis", "covariance", "shape", "shape_kurtosis", "max_median_ratio"]
CONFIDENCE = 0.9999  # of each of some 400 fractions, of which few are independent
CLOUDS = {"1 cloud": 1, "1 network": 1, "2 networks": 2, "6 networks": 6, "16 networks": 16,
          "6 seeds": 6, "16 seeds": 16}  # fmt: skip


@pytest.fixture(scope="module")
def own():
    return calibration.law_tests(**SMALL, statistics=OWN)


def check_sizes(tested, *, least):
    """Every fraction of nulls lies in its binomial interval; returns nothing."""
    found = calibration.sizes(tested, level=LEVEL)
    names = found["statistic"].values
    assert found["groups"].sel(statistic="shape", law="normal").values.tolist() == [
        DRAWS // clouds for clouds in CLOUDS.values()
    ]
    exact = found["exact"].broadcast_like(found["groups"]).values
    low, high = calibration.monte_carlo(exact, found["groups"].values, confidence=CONFIDENCE)
    # Means that cannot be told from 0 are not judged.
    outside = found["groups"].values > 0
    checked = outside.sum()
    outside &= (found["rate"].values < low) | (found["rate"].values > high)
    assert [(found["test"].values[k], found["law"].values[law], names[j])
            for k, law, j in np.argwhere(outside)] == []  # fmt: skip
    assert checked >= least


def test_sizes_are_exact_of_every_law_that_is_turned_at_random():
    """Of one cloud and of several; to within the error of so many draws."""
    check_sizes(calibration.law_tests(**SMALL, turned=True, statistics=TURNED), least=7 * 9 * 3)


def test_sizes_are_exact_of_what_each_law_s_own_axes_do_not_move(own):
    nulls = [[name in calibration.NULLS[law] for name in OWN] for law in own["law"].values]
    null = xr.DataArray(nulls, dims=("law", "statistic"))
    check_sizes(own.where(null.assign_coords(law=own["law"], statistic=OWN)), least=7 * 9 * 2)


def test_many_networks_reveal_what_one_hides():
    """The axes are special for these: fractions are no sizes, and are not hidden as such."""
    found = calibration.sizes(
        calibration.law_tests(
            laws=["dead units", "mean along (1, …, 1)"], samples=120, units=8, draws=96,
            statistics=["covariance", "c4"],
        )
    )["rate"]  # fmt: skip
    assert (found.sel(law="dead units", statistic="covariance").drop_sel(test="1 cloud") == 1).all()
    shifted = found.sel(law="mean along (1, …, 1)", statistic="c4")
    assert shifted.sel(test="16 networks") > 3 * shifted.sel(test="1 cloud")


# Known fractions of p ≤ .05, of 500 samples in 16 units: what raw statistics make of a covariance.
FALSE_ALARMS = {
    "elliptical, 1/i": {"c4": 1, "unit_kurtosis": 0.39, "shape": 0.042, "shape_kurtosis": 0.052},
    "outlier unit, 30×": {"c4": 1, "unit_kurtosis": 0.75, "shape": 0.05, "shape_kurtosis": 0.065},
    "elliptical t5, 1/i": {"c4": 1, "unit_kurtosis": 0.52, "shape": 0.04, "shape_kurtosis": 0.06},
}


def test_a_covariance_raises_false_alarms_of_raw_statistics_as_often_as_is_known():
    draws = 120
    found = calibration.law_tests(
        laws=list(FALSE_ALARMS), draws=draws, statistics=["c4", "unit_kurtosis", "shape",
                                                          "shape_kurtosis"],
    )  # fmt: skip
    rates = calibration.false_positives(found["p"])
    for law, known in FALSE_ALARMS.items():
        for name, rate in known.items():
            # Both are fractions of draws, the known one of some 400.
            error = math.sqrt(rate * (1 - rate) * (1 / draws + 1 / 400))
            assert abs(rates.sel(law=law, statistic=name) - rate) <= 3.5 * error, (law, name)


def test_exact_sizes_are_those_of_the_product_s_own_p():
    places, ranks = 12, (np.arange(12) + 0.5) / 12 - 0.5
    tested = xr.Dataset({"places": ((), places)})
    for clouds in (1, 2, 3):
        every = np.stack(np.meshgrid(*[ranks] * clouds)).reshape(clouds, -1).T
        p = [combined_rank(one, [places] * clouds) for one in every]
        found = calibration._of_ranks(tested, clouds, 0.2)
        np.testing.assert_allclose(found, np.mean(np.array(p) <= 0.2 + 1e-12), atol=1e-12)
    rng = np.random.default_rng(0)
    six = rng.uniform(-0.5, 0.5, size=6)
    signs = np.array(np.meshgrid(*[[-1, 1]] * 6)).reshape(6, -1).T
    assert np.mean([sign_flip(one * six) <= 0.05 for one in signs]) == 1 / 32


def test_groups_share_no_clouds_and_are_pooled_as_a_user_would(own):
    part = own.isel(seed=slice(0, 12)).sel(law=["normal"])
    by_hand = [pa.pool(part.isel(seed=slice(k, k + 6)))["p"] for k in (0, 6)]
    expected = (xr.concat(by_hand, "group") <= 0.05).mean("group")
    xr.testing.assert_allclose(calibration.sizes(part)["rate"].sel(test="6 seeds", drop=True),
                               expected)  # fmt: skip


def test_the_interval_is_the_binomial_one():
    low, high = calibration.monte_carlo(0.05, [400, 0])
    inside = scipy.stats.binom(400, 0.05)
    assert inside.cdf(400 * high[0]) - inside.cdf(400 * low[0] - 1) >= 0.999
    assert np.isnan([low[1], high[1]]).all()


def test_heavy_tails_and_few_samples_per_unit_are_known_to_fail():
    """The limit of whitening by a covariance that the documents name."""
    enough = calibration.heavy_tailed(samples=500, units=16, freedom=5, draws=60)
    assert (enough <= 0.15).all()
    few = calibration.heavy_tailed(samples=160, units=32, freedom=2.5, draws=30)
    assert few.sel(statistic="shape_kurtosis") > 0.3


@pytest.mark.parametrize("law", [*synthetic.SHAPELESS, *synthetic.SHAPED])
def test_laws_have_the_size_asked_for(law):
    for samples in (7, 40):
        cloud = synthetic.draw_law(np.random.default_rng(0), law, samples=samples, units=6)
        assert cloud.shape == (samples, 6)
    turned = synthetic.draw_law(np.random.default_rng(0), law, samples=40, units=6, turned=True)
    np.testing.assert_allclose(np.linalg.norm(turned, axis=1), np.linalg.norm(cloud, axis=1))
    assert not np.allclose(turned, cloud)


@pytest.mark.parametrize(
    ("call", "field"),
    [
        (lambda: calibration.law_tests(laws="normal"), "laws"),
        (lambda: calibration.law_tests(laws=["nothing"], draws=1), "law"),
        (lambda: calibration.sizes(xr.Dataset()), "tested"),
        (lambda: synthetic.density_clouds(units=3), "units"),
        (lambda: calibration.heavy_tailed(samples=9, units=3, freedom=0), "freedom"),
    ],
)
def test_what_cannot_be_used_is_refused(call, field):
    with pytest.raises(InputError, match=f"^{field}"):
        call()
