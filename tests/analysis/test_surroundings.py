"""Debug modes of JAX and names of axes change no number: either the same, or one clear error."""

import functools

import jax
import numpy as np
import pytest
import xarray as xr

import ppp_jax.analysis as pa
from ppp_jax.analysis.projection import ppp
from ppp_jax.errors import InputError

CLOUDS = np.random.default_rng(0).laplace(size=(3, 120, 4)).astype(np.float32)
CLOUDS[0, :5] = 0
CLOUDS[1] = np.nan  # a cloud that is missing, as of a run that diverged

MEASURES = {
    "alignment_c4": pa.alignment_c4,
    "unit_kurtosis": pa.unit_kurtosis,
    "acceptance_ratio": lambda x: pa.acceptance_ratio(x, epsilon=0.5),
    "angles": lambda x: pa.angles(x, epsilon=0.5).modes,
    "neighbour_ratio": pa.neighbour_ratio,
    "axis_quantisation": pa.axis_quantisation,
    "density_peaks": lambda x: pa.density_peaks(x).depth,
    "rotation_test": lambda x: pa.rotation_test(x, rotations=9, epsilon=0.4)["p"],
}


@pytest.mark.parametrize("name", MEASURES)
def test_debug_modes_change_nothing(name):
    expected = np.asarray(MEASURES[name](CLOUDS))
    with jax.debug_nans(True), jax.transfer_guard("disallow"):
        np.testing.assert_array_equal(np.asarray(MEASURES[name](CLOUDS)), expected)


@pytest.mark.parametrize(
    "axis",
    [
        "epsilon",
        "u",
        "density",
        "plane",
        "statistic",
        "rotation",
        "value",
        "p",
        "null",
        "rank",
        "mode",
    ],
)
@pytest.mark.parametrize("as_axis", [True, False], ids=["axis", "coordinate"])
def test_an_axis_named_like_a_result_is_one_error(axis, as_axis):
    dim = axis if as_axis else "seed"
    labelled = xr.DataArray(
        CLOUDS[[0, 2]], dims=(dim, "sample", "unit"), coords={axis: (dim, ["a", "b"])}
    )
    measure = MEASURES["angles" if axis == "mode" else "rotation_test"]
    if axis in ppp.NAMES and axis != "null":
        measure = functools.partial(pa.ppp, by=dim, epsilon=0.4)
    with pytest.raises(InputError, match=rf"{axis}.*rename"):
        measure(labelled)
