import numpy as np
import pytest
import xarray as xr

import ppp_jax.analysis as pa
from ppp_jax import bases
from ppp_jax.analysis.projection import views
from ppp_jax.errors import InputError

UNITS = 32  # in narrow layers one unit's tails change the directions of all others


def heavy(seed=0, samples=3000, at=(4, 9)):
    """Gaussian but for two units with heavy tails."""
    cloud = np.random.default_rng(seed).normal(size=(samples, UNITS))
    for power, unit in zip((2, 1.7), at, strict=True):
        cloud[:, unit] = np.sign(cloud[:, unit]) * np.abs(cloud[:, unit]) ** power
    return cloud


def test_the_units_that_carry_the_shape_are_named_whatever_their_widths():
    cloud = heavy() * np.geomspace(1, 1000, UNITS) + 5
    found = pa.top_units(cloud)
    assert set(found["unit"].values[:2]) == {4, 9}
    assert (np.diff(np.abs(found["share"].values)) <= 0).all()
    assert (found["share"].values[:2] > 0.2).all()
    assert np.abs(found["share"].sum()) <= 1
    variances = cloud.var(axis=0)
    expected = variances[found["unit"].values] / variances.sum()
    np.testing.assert_allclose(found["variance"], expected, rtol=1e-5)
    assert found.attrs["statistic"] == "shape"
    assert found.attrs["rows"] == len(cloud)


@pytest.mark.parametrize("statistic", ["c4", "shape"])
def test_parts_add_up_to_the_statistic(statistic):
    """C4 is ((n+2)F − 3)/((n−2)F + 1) of the sum F of the parts and of what is random."""
    cloud = heavy() + 0.3
    found = pa.top_units(cloud, statistic=statistic, count=UNITS)
    seen = views.view(cloud, {"c4": views.SAMPLES, "shape": views.SHAPE}[statistic])
    direction = seen / np.linalg.norm(seen, axis=1, keepdims=True)
    parts = np.mean(direction**4, axis=0) - 3 / UNITS / (UNITS + 2)
    np.testing.assert_allclose(
        found["share"], parts[found["unit"].values] / np.abs(parts).sum(), rtol=1e-6
    )
    fourth = parts.sum() + 3 / (UNITS + 2)
    c4 = ((UNITS + 2) * fourth - 3) / ((UNITS - 2) * fourth + 1)
    np.testing.assert_allclose(pa.alignment_c4(seen), c4, rtol=1e-4)


def test_saturated_units_have_shares_below_zero_and_dips():
    cloud = np.random.default_rng(1).normal(size=(4000, UNITS))
    cloud[:, 3] = np.sign(cloud[:, 3]) + 0.1 * cloud[:, 3]
    found = pa.top_units(cloud, count=3)
    assert found["unit"].values[0] == 3
    assert found["share"].values[0] < 0
    assert found["kurtosis"].values[0] < 0.5
    assert found["dip"].values[0] > 5 * found["dip"].values[1]


def test_the_covariance_names_the_widest_unit():
    cloud = (
        np.random.default_rng(2).normal(size=(900, UNITS))
        * np.r_[np.ones(7), 30, np.ones(UNITS - 8)]
    )
    found = pa.top_units(cloud, statistic="covariance", count=1)
    assert found["unit"].item() == 7
    assert found["variance"].item() > 0.9


def test_turning_latents_and_basis_together_changes_nothing():
    turn = bases.haar(UNITS, rotation_seed=3)
    plain, turned = pa.top_units(heavy()), pa.top_units(heavy() @ turn, basis=turn)
    np.testing.assert_array_equal(plain["unit"], turned["unit"])
    for name in ("share", "variance", "kurtosis", "dip"):
        np.testing.assert_allclose(turned[name], plain[name], rtol=1e-4)


def test_clouds_are_looked_at_one_by_one():
    clouds = np.stack([heavy(), heavy(at=(0, 1))])
    latents = xr.DataArray(clouds, dims=("seed", "sample", "unit"), coords={"seed": [5, 6]})
    found = pa.top_units(latents, count=2)
    assert set(found["unit"].sel(seed=6).values) == {0, 1}
    alone = pa.top_units(heavy(), count=2)
    for name in alone:
        np.testing.assert_array_equal(found[name].sel(seed=5), alone[name])


@pytest.mark.parametrize(
    ("cloud", "statistic"),
    [
        (heavy(samples=20), "shape"),  # fewer than 5 samples per unit
        (np.ones((100, UNITS)), "covariance"),
        (np.zeros((100, UNITS)), "c4"),
    ],
)
def test_what_cannot_be_judged_names_no_unit(cloud, statistic):
    found = pa.top_units(cloud, statistic=statistic)
    assert (found["unit"] == -1).all()
    assert found["share"].isnull().all()


def test_rows_are_left_out_as_elsewhere():
    spoilt = np.concatenate([heavy(), np.full((3, UNITS), np.nan), np.zeros((500, UNITS))])
    with pytest.raises(InputError, match="3 rows that are not finite"):
        pa.top_units(spoilt)
    found = pa.top_units(spoilt, nonfinite="drop")
    np.testing.assert_allclose(found["share"], pa.top_units(heavy())["share"], rtol=1e-6)
    assert found.attrs["rows_nonfinite"] == 3
    sink = np.concatenate([heavy(), np.full((1, UNITS), 1e5)])
    with pytest.warns(pa.LongRowWarning):
        pa.top_units(sink)
    with pytest.raises(InputError, match="statistic=dip"):
        pa.top_units(heavy(), statistic="dip")
