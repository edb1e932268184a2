"""What counts as a sample: one rule for all statistics."""

import warnings

import numpy as np
import pytest
import xarray as xr

import ppp_jax.analysis as pa
from ppp_jax.analysis.io.rows import LongRowWarning, kept_rows
from ppp_jax.errors import InputError

pytestmark = pytest.mark.filterwarnings("ignore::ppp_jax.analysis.RepeatedRowWarning")

X = np.random.default_rng(0).normal(size=(400, 8))
ZEROS = np.zeros((120, 8))


# Every public number of a cloud, whatever it is of: rows of zeros and others follow one rule.
MEASURES = {
    "alignment_c4": pa.alignment_c4,
    "alignment_kurtosis": pa.alignment_kurtosis,
    "unit_kurtosis": pa.unit_kurtosis,
    "acceptance_ratio": lambda x, **how: pa.acceptance_ratio(x, epsilon=0.6, **how),
    "angles": lambda x, **how: pa.angles(x, epsilon=0.6, **how).entropy_deficit,
    "modes": lambda x, **how: pa.angles(x, epsilon=0.6, **how).modes[..., 3],
    "neighbour_ratio": pa.neighbour_ratio,
    "axis_quantisation": pa.axis_quantisation,
    "density_peaks": lambda x, **how: pa.density_peaks(x, **how).depth,
    "dimension": lambda x, **how: pa.density_peaks(x, **how).dimension,
}
LENGTHS = [name for name in MEASURES if name not in ("acceptance_ratio", "angles", "modes")]
HOLES = np.insert(np.insert(X, 7, np.nan, axis=0), [90, 91], [[np.inf], [-np.inf]], axis=0)


def value(cloud, **options):
    return pa.rotation_test(cloud, rotations=19, **options)


def same(found, expected):
    np.testing.assert_allclose(found["value"], expected["value"], rtol=2e-5, equal_nan=True)
    np.testing.assert_allclose(found["p"], expected["p"], equal_nan=True)


def test_rows_of_zeros_are_counted_and_change_no_number():
    beside = np.concatenate([X[:100], ZEROS, X[100:]])
    found, expected = value(beside), value(X)
    same(found, expected)
    assert found.attrs["rows_zero"] == 120
    assert found.attrs["rows"] == expected.attrs["rows"] == 400
    dips = {"statistics": ["axis_quantisation"]}
    same(value(beside, **dips), value(X, **dips))
    assert pa.density_peaks(beside).depth == pa.density_peaks(X).depth


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_rows_that_are_not_finite_are_refused_or_left_out(bad):
    hole = np.insert(X, 7, bad, axis=0)
    with pytest.raises(InputError, match=r"has 1 row that is not finite; nonfinite='drop'"):
        value(hole)
    found = value(hole, nonfinite="drop")
    same(found, value(X))
    assert found.attrs["rows_nonfinite"] == 1
    assert found.attrs["rows_zero"] == 0


def test_a_row_far_longer_than_the_others_is_told_of_and_left_out_where_asked():
    sink = np.insert(X, 0, 3000.0, axis=0)
    with pytest.warns(LongRowWarning, match="1 row is more than 100 times as long"):
        found = value(sink)
    assert found.attrs["rows_long"] == 1
    same(value(sink, drop_outliers=100), value(X))


@pytest.mark.parametrize("name", MEASURES)
def test_every_number_of_a_cloud_follows_the_rule(name):
    """Rows that do not count change nothing, are refused where they may be, and are counted."""
    measure = MEASURES[name]
    expected = float(measure(X))
    beside = np.concatenate([HOLES, ZEROS])
    np.testing.assert_allclose(measure(beside, nonfinite="drop"), expected, rtol=1e-5)
    np.testing.assert_allclose(measure(np.concatenate([ZEROS, X])), expected, rtol=1e-5)
    with pytest.raises(InputError, match=r"^latents=.* has 3 rows that are not finite; "):
        measure(HOLES)
    nowhere = np.stack([beside, np.full_like(beside, np.nan)])
    labelled = xr.DataArray(nowhere, dims=("seed", "sample", "unit"))
    with pytest.raises(InputError, match=r"nonfinite='drop' leaves such rows out"):
        measure(labelled)
    found = measure(labelled, nonfinite="drop")
    np.testing.assert_allclose(found, [expected, np.nan], rtol=1e-5)
    counts = {key: found.attrs[key] for key in ("rows", "rows_nonfinite", "rows_zero")}
    assert counts == {"rows": 400, "rows_nonfinite": 3 + len(beside), "rows_zero": 120}
    assert np.isnan(measure(nowhere[1]))  # a network that diverged is missing, and no error
    assert np.isnan(measure(ZEROS))
    with pytest.raises(InputError, match="nonfinite=ignore"):
        measure(X, nonfinite="ignore")


@pytest.mark.parametrize("name", LENGTHS)
def test_a_long_row_is_told_of_where_the_call_stands_and_left_out_where_asked(name):
    measure, sink = MEASURES[name], np.insert(X, 0, 3000.0, axis=0)
    with pytest.warns(LongRowWarning, match="1 row is more than 100 times as long") as caught:
        measure(sink)
    assert [one.filename for one in caught] == [__file__]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = measure(sink, drop_outliers=100)
    np.testing.assert_allclose(found, measure(X), rtol=1e-5)
    with pytest.raises(InputError, match=r"drop_outliers=0\.5"):
        measure(X, drop_outliers=0.5)


@pytest.mark.parametrize(
    "measure", [pa.neighbour_ratio, lambda x: pa.density_peaks(x).depth], ids=["ratio", "peaks"]
)
def test_repetitions_of_a_row_are_counted_and_change_no_number_of_neighbours(measure):
    once = xr.DataArray(X[None], dims=("seed", "sample", "unit"))
    twice = once.isel(sample=np.repeat(np.arange(400), 2))
    assert measure(twice).item() == measure(once).item()
    assert (measure(twice).attrs["rows"], measure(twice).attrs["rows_duplicate"]) == (800, 400)
    with pytest.warns(pa.RepeatedRowWarning, match="400 rows are copies of others: left out"):
        measure(twice)
    assert measure(once).attrs["rows_duplicate"] == 0


def test_a_cloud_without_any_finite_row_is_missing():
    found = value(np.stack([X, np.full_like(X, np.nan)]))
    assert found["value"].isel(axis_0=1).isnull().all()
    assert found["value"].isel(axis_0=0).notnull().any()


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"nonfinite": "ignore"}, "nonfinite=ignore"),
        ({"drop_outliers": 0.5}, "drop_outliers=0.5"),
        ({"drop_outliers": "100"}, "drop_outliers=100"),
    ],
)
def test_settings_that_mean_nothing_are_refused(options, text):
    with pytest.raises(InputError, match=text):
        value(X, **options)


def test_lengths_beyond_the_squares_of_single_precision_are_told_apart():
    cloud = np.concatenate([X * 1e-30, X[:1] * 1e-20]).astype(np.float32)
    _, rows = kept_rows(cloud)
    assert (rows.samples, rows.long) == (401, 1)


def test_the_former_name_of_the_neighbour_ratio_warns_and_goes_on():
    with pytest.warns(FutureWarning, match="called neighbour_ratio now"):
        assert pa.discreteness(X) == pa.neighbour_ratio(X)
