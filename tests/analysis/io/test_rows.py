"""What counts as a sample: one rule for all statistics."""

import numpy as np
import pytest

import ppp_jax.analysis as pa
from ppp_jax.analysis.io.rows import LongRowWarning, kept_rows
from ppp_jax.errors import InputError

X = np.random.default_rng(0).normal(size=(400, 8))
ZEROS = np.zeros((120, 8))


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
