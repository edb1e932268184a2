"""Centred, whitened and rotated latents: laws, and the same numbers however they are read."""

import numpy as np
import pytest
import xarray as xr

from ppp_jax import bases
from ppp_jax.analysis import count_planes, ppp, project, rotation_test, srm
from ppp_jax.analysis.io import sources
from ppp_jax.analysis.projection import centring, views
from ppp_jax.errors import InputError

RNG = np.random.default_rng(0)
MIXED = RNG.normal(size=(8, 8)) * np.geomspace(1, 20, 8)
CLOUDS = RNG.laplace(size=(2, 700, 8)) @ MIXED + RNG.normal(size=(2, 1, 8)) * 30


def by_hand(cloud):
    """The whitened latents by an inverse square root of the covariance, without any care."""
    centred = cloud - cloud.mean(axis=0)
    values, axes = np.linalg.eigh(centred.T @ centred / len(cloud))
    return centred @ axes @ np.diag(values**-0.5) @ axes.T


def test_each_cloud_is_centred_and_whitened_by_its_own_moments():
    options = {"epsilon": 0.6, "bins": 24}
    for change, plain in (
        ({"centre": True}, CLOUDS - CLOUDS.mean(axis=1, keepdims=True)),
        ({"whiten": True}, np.stack([by_hand(cloud) for cloud in CLOUDS])),
    ):
        found, expected = ppp(CLOUDS, **options, **change), ppp(plain, **options)
        assert found.accepted == expected.accepted
        np.testing.assert_allclose(found.density, expected.density, rtol=1e-6, atol=1e-9)
        assert found.attrs["centre"] == 1
        assert found.attrs["whiten"] == int("whiten" in change)
    assert ppp(CLOUDS, **options).attrs["centre"] == 0


@pytest.mark.parametrize("function", [ppp, srm, project, count_planes])
def test_all_functions_of_planes_see_the_same_whitened_latents(function):
    found = function(CLOUDS[0], epsilon=0.6, whiten=True)
    expected = function(views.whiten(CLOUDS[0]).samples, epsilon=0.6)
    assert found.attrs["whitened_rank"] == 8
    for name in expected.data_vars:
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-6, atol=1e-9)


def test_turning_latents_and_basis_together_changes_nothing():
    turn = bases.haar(8, rotation_seed=3)
    for change in ({}, {"centre": True}, {"whiten": True}):
        found = count_planes(CLOUDS[0] @ turn, basis=turn, epsilon=0.6, **change)
        expected = count_planes(CLOUDS[0], epsilon=0.6, **change)
        np.testing.assert_array_equal(found.counts, expected.counts)


@pytest.mark.parametrize("spectrum", [np.ones(8), np.geomspace(1, 1e4, 8), 1 / np.arange(1, 9)])
def test_any_gaussian_is_isotropic_once_it_is_whitened(spectrum):
    rng = np.random.default_rng(1)
    gaussian = rng.normal(size=(20_000, 8)) * np.sqrt(spectrum) + 5 * rng.normal(size=8)
    assert ppp(gaussian, epsilon=0.7, whiten=True).acceptance_ratio == pytest.approx(1, abs=0.03)


def test_latents_are_whitened_on_their_support():
    """What LayerNorm gives has no component along (1, …, 1)."""
    flat = CLOUDS[0] - CLOUDS[0].mean(axis=1, keepdims=True)
    found = project(flat, epsilon=0.5, whiten=True)
    assert found.attrs["whitened_rank"] == 7
    expected = project(views.whiten(flat).samples, epsilon=0.5)
    np.testing.assert_allclose(found.points, expected.points, atol=1e-8)


def test_rows_that_are_no_samples_stay_what_they_are():
    odd = CLOUDS[0].copy()
    odd[5], odd[6], odd[7] = 0, np.nan, np.inf
    found = count_planes(odd, epsilon=0.6, whiten=True, nonfinite="drop")
    expected = count_planes(np.delete(odd, [5, 6, 7], axis=0), epsilon=0.6, whiten=True)
    np.testing.assert_array_equal(found.counts, expected.counts)
    assert (found.zero_rows, found.dropped_rows) == (1, 2)
    with pytest.raises(InputError, match=r"2 of 700 samples: are not finite"):
        count_planes(odd, whiten=True)


@pytest.mark.filterwarnings("ignore::ppp_jax.analysis.EmptyPPPWarning")
def test_a_sample_at_the_mean_has_no_direction():
    cloud = np.concatenate([CLOUDS[0], CLOUDS[0].mean(axis=0, keepdims=True)])
    assert count_planes(cloud, centre=True).zero_rows == 1
    constant = np.tile(CLOUDS[0][:1], (50, 1)).astype(np.float32)
    assert count_planes(constant, centre=True).zero_rows == 50


def test_latents_on_disk_are_whitened_as_those_in_memory(monkeypatch, tmp_path):
    path = str(tmp_path / "a.zarr")
    named = xr.Dataset({"a": (("seed", "sample", "unit"), CLOUDS.astype(np.float32))})
    named.to_zarr(path, zarr_format=2, encoding={"a": {"chunks": (1, 100, 8)}})
    expected = ppp(named["a"], epsilon=0.6, by="seed", whiten=True)
    monkeypatch.setattr(sources, "LOAD_BYTES", 0)
    monkeypatch.setattr(sources, "KEPT_BYTES", 2000)
    monkeypatch.setattr(centring, "PART_ELEMENTS", 800)
    with xr.open_zarr(path, chunks=None) as found:
        read = ppp(found["a"], epsilon=0.6, by="seed", whiten=True)
    xr.testing.assert_allclose(read.drop_vars("log_ratio"), expected.drop_vars("log_ratio"))


def test_precision_and_scale_do_not_matter():
    single = CLOUDS[0].astype(np.float32)
    expected = count_planes(single.astype(np.float64), epsilon=0.6, whiten=True).counts
    for latents in (single, single.astype(np.float64) * 2.0**250):
        found = count_planes(latents, epsilon=0.6, whiten=True).counts
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    ("latents", "change", "text"),
    [
        (CLOUDS[0][:39], "whiten", r"whiten=True: needs 5 samples per unit, 40 here.* has 39"),
        (np.ones((60, 8)), "whiten", r"whiten=True: takes latents that vary"),
        (CLOUDS * 1e120, "centre", r"latents=.*: is too small or too large .* rescale"),
        (CLOUDS * 1e-120, "whiten", r"latents=.*: is too small or too large .* rescale"),
    ],
)
def test_what_has_no_moments_is_refused(latents, change, text):
    with pytest.raises(InputError, match=text):
        ppp(latents, **{change: True})


def test_the_rotated_basis_is_the_rotated_latents():
    """The turned basis sees what the first rotation of the test shows the basis."""
    turned = ppp(CLOUDS[0], epsilon=0.6, rotated=5)
    assert turned.attrs["rotated"] == 5
    assert turned.attrs["basis"] == "standard (rotated)"
    (turn,) = bases.rotations(8, 1, np.random.default_rng([5, 0]))
    expected = ppp(CLOUDS[0] @ turn, epsilon=0.6, extent=turned.extent)
    assert turned.accepted == expected.accepted
    np.testing.assert_allclose(turned.density, expected.density, atol=1e-9)
    tested = rotation_test(
        CLOUDS[0], statistics=["acceptance_ratio"], epsilon=0.6, rotations=1, rotation_seed=5
    )
    assert turned.acceptance_ratio == pytest.approx(tested["null"].item(), rel=1e-6)


@pytest.mark.parametrize("basis", ["simplex", "haar:0"])
def test_a_turned_basis_keeps_its_angles_and_its_planes(basis):
    options = {"basis": basis, "epsilon": 0.5, "max_planes": 7}
    turned, plain = (count_planes(CLOUDS[0], **options, rotated=k) for k in (0, None))
    np.testing.assert_array_equal(turned["first"], plain["first"])
    (turn,) = bases.rotations(8, 1, np.random.default_rng([0, 0]))
    vectors = bases.build(basis, 8) @ turn.T
    expected = count_planes(CLOUDS[0], **options | {"basis": vectors})
    np.testing.assert_array_equal(turned.counts, expected.counts)
