"""The rotation null of wide layers: sums along the units, and rotations within blocks."""

import numpy as np
import pytest
import xarray as xr

import ppp_jax.analysis as pa
from ppp_jax import bases
from ppp_jax.analysis.projection import turns as turning
from ppp_jax.analysis.projection import views
from ppp_jax.analysis.projection.planes import resolve_vectors
from ppp_jax.analysis.statistics import moments, registry
from ppp_jax.analysis.statistics.alignment import build_target, measure_turned
from ppp_jax.analysis.statistics.moments import measure_moments, measure_variances, windows_of
from ppp_jax.errors import InputError

SAMPLES = 700
ALONG = [one for one in registry.chosen(of=[registry.BASIS], only_reported=False) if one.along]


def drawn(units, count=3, null="blocks", seed=0):
    rng = np.random.default_rng(seed)
    place = turning.blocks_of(units, rng) if null == "blocks" else None
    found = turning.draw(units, count, rng, place=place).with_none()
    return found._replace(turns=found.turns.astype(np.float32))


def cloud_of(units, seed=0):
    rng = np.random.default_rng(seed)
    cloud = rng.laplace(size=(SAMPLES, units)) * rng.uniform(0.1, 10, units) + 3
    cloud[5] = 0  # no sample
    return (cloud @ (np.eye(units) + rng.normal(size=(units, units)) / units)).astype(np.float32)


@pytest.mark.parametrize("null", ["blocks", "full"])
@pytest.mark.parametrize("units", [130, 128, 70, 12])
@pytest.mark.parametrize("one", ALONG, ids=lambda one: one.name)
@pytest.mark.parametrize("by_blas", [True, False], ids=["BLAS", "XLA"])  # of a CPU, of another
def test_sums_along_the_units_give_what_the_statistic_itself_gives(
    by_blas, one, units, null, monkeypatch
):
    monkeypatch.setattr(moments, "_on_cpu", lambda: by_blas)
    turns = drawn(units, null=null)
    view = views.view(cloud_of(units), one.sees)
    target = build_target(resolve_vectors(None, units), np.dtype(np.float32))
    (expected,) = measure_turned((one.function,), view, target, turns.dense())
    samples = one.sees in (views.SAMPLES, views.SHAPE)
    windows = windows_of(view, turns.place) if samples else None
    sums = measure_moments(windows, turns) if samples else measure_variances(view, turns)
    np.testing.assert_allclose(one.along(sums), expected, rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("units", [2, 8, 12])
@pytest.mark.parametrize("one", [one for one in ALONG if one.even], ids=lambda one: one.name)
def test_pairs_of_units_give_what_the_statistic_itself_gives(one, units, dtype):
    turns = drawn(units, null="full").turns[:, 0]
    view = views.view(cloud_of(units).astype(dtype), one.sees)
    frame = resolve_vectors(None, units)
    (expected,) = measure_turned((one.function,), view, build_target(frame, dtype), turns)
    found = one.along(moments.moments_of_pairs(view, turns.swapaxes(1, 2).astype(np.float64)))
    np.testing.assert_allclose(found, expected, rtol=2e-5, atol=2e-6)


def test_pairs_of_units_are_not_taken_where_sums_cancel_or_the_samples_are_fewer():
    cloud, axes = cloud_of(8).astype(np.float64), np.eye(8)
    assert moments.moments_of_pairs(cloud, axes) is not None
    dead = cloud * (np.arange(8) > 0)  # along the first axis there is nothing that could cancel
    assert moments.moments_of_pairs(dead, axes) is not None
    normal = np.linalg.qr(np.random.default_rng(0).normal(size=(8, 8)))[0]
    flat = (cloud @ normal * np.where(np.arange(8) > 0, 1, 1e-5)) @ normal.T
    assert moments.moments_of_pairs(flat, normal.T) is None
    assert moments.moments_of_pairs(cloud[:100], axes) is None


def test_pairs_of_units_of_many_samples_are_added_up_in_windows(monkeypatch):
    cloud, turns = cloud_of(8), drawn(8, count=50, null="full").turns[:, 0]
    expected = moments.moments_of_pairs(cloud, turns)
    monkeypatch.setitem(moments.WINDOW, "cpu", 36 * 7)
    for one, other in zip(moments.moments_of_pairs(cloud, turns), expected, strict=True):
        if other is not None:
            np.testing.assert_allclose(one, other, rtol=1e-12)


@pytest.mark.parametrize("units", [4, 130])
def test_a_cloud_of_zeros_has_no_number(units):
    found = pa.rotation_test(np.zeros((2000, units), np.float32), rotations=5)
    assert found["value"].isnull().all()
    assert found["null"].isnull().all()


@pytest.mark.parametrize("units", [64, 65, 130, 200])
def test_blocks_are_rotations_that_mix_every_unit_with_those_of_its_block_alone(units):
    turns, cloud = drawn(units), np.random.default_rng(1).normal(size=(9, units))
    dense = turns.dense().astype(np.float64)
    sizes = np.count_nonzero(turns.place >= 0, axis=1)
    assert sizes.sum() == units
    assert sizes.max() <= 64
    assert sizes.max() - sizes.min() <= 1
    np.testing.assert_array_equal(np.sort(turns.place[turns.place >= 0]), np.arange(units))
    np.testing.assert_array_equal(dense[0], np.eye(units))
    np.testing.assert_allclose(
        dense @ dense.swapaxes(1, 2), np.eye(units)[None].repeat(4, 0), atol=1e-5
    )
    together = np.zeros((units, units), bool)
    for members in turns.place:
        inside = members[members >= 0]
        together[np.ix_(inside, inside)] = True
    np.testing.assert_array_equal(dense[1:].any(axis=0), together)
    for k in range(4):
        np.testing.assert_allclose(turns.turned(cloud, k), cloud @ dense[k], atol=1e-5)
    np.testing.assert_array_equal(turns.restored(turns.placed(cloud)), cloud)


@pytest.mark.parametrize("units", [1, 2, 3, 150])
def test_products_of_reflections_are_haar_distributed(units):
    count = 4000 if units < 9 else 40
    turns = bases.reflected(units, count, np.random.default_rng(2)).astype(np.float64)
    np.testing.assert_allclose(
        turns @ turns.swapaxes(1, 2), np.eye(units)[None].repeat(count, 0), atol=1e-5
    )
    error = 4 / np.sqrt(count)
    np.testing.assert_allclose(turns.mean(axis=0), 0, atol=error)
    np.testing.assert_allclose((turns**2).mean(axis=0), 1 / units, atol=10 / units / np.sqrt(count))
    np.testing.assert_allclose((turns**4).mean(), 3 / units / (units + 2), rtol=error)
    assert abs(np.linalg.slogdet(turns)[0].mean()) < error
    # In law nothing is changed by another rotation in front: so the traces of Q and of A·Q agree.
    traces = np.trace(bases.haar(units) @ turns, axis1=1, axis2=2)
    assert abs(traces.var() - 1) < (error if units > 1 else 1e-2)


@pytest.mark.parametrize("kind", ["dead units", "layer norm", "subspace", "few directions"])
def test_rotations_of_the_shape_stay_where_it_varies(kind):
    units, rng = 140, np.random.default_rng(3)
    cloud = rng.laplace(size=(5 * units, units))
    cloud = {
        "dead units": cloud * (np.arange(units) >= 9),
        "layer norm": cloud - cloud.mean(axis=1, keepdims=True),
        "subspace": cloud @ np.diag(np.arange(units) >= 30) @ bases.haar(units),
        "few directions": cloud @ np.diag(np.arange(units) >= 100) @ bases.haar(units),
    }[kind]
    rank = {"dead units": 131, "layer norm": 139, "subspace": 110, "few directions": 40}[kind]
    whitened = views.whiten(cloud)
    assert whitened.rank == rank
    support = turning.support_of(whitened.still)
    assert (support.mirror is None) == (kind in ("dead units", "few directions"))
    assert (support.axes is not None) == (kind == "few directions")
    for null in ("blocks", "full"):
        turns = turning.within(drawn(units, null=null), support)
        dense = turning.dense_within(turns, support)
        np.testing.assert_allclose(dense[0], np.eye(units), atol=1e-5)
        np.testing.assert_allclose(dense[1] @ dense[1].T, np.eye(units), atol=1e-5)
        turned = whitened.samples @ dense[1]
        np.testing.assert_allclose(turned @ whitened.still, 0, atol=1e-4)
        if kind == "dead units":
            np.testing.assert_allclose(turned[:, :9], 0, atol=1e-5)
        windows = windows_of(whitened.samples.astype(np.float32), turns.place, support=support)
        maps = turns if support.axes is None else turning.onto_units(turns, support.axes)
        found = measure_moments(windows, maps)
        target = build_target(resolve_vectors(None, units), np.dtype(np.float32))
        for name in ("shape", "shape_kurtosis"):
            one = registry.STATISTICS[name]
            view = whitened.samples.astype(np.float32)
            (expected,) = measure_turned((one.function,), view, target, dense.astype(np.float32))
            np.testing.assert_allclose(one.along(found), expected, rtol=1e-4, atol=1e-5)


LAWS = {
    "normal": lambda rng, shape: rng.normal(size=shape),
    "lengths": lambda rng, shape: rng.normal(size=shape) * rng.standard_exponential((shape[0], 1)),
}


@pytest.mark.parametrize("null", ["blocks", "full"])
@pytest.mark.parametrize("law", LAWS)
def test_the_null_is_exact_of_isotropic_laws(law, null):
    clouds, units = 60, 130
    rng = np.random.default_rng(4)
    latents = np.stack([LAWS[law](rng, (5 * units, units)) for _ in range(clouds)])
    labelled = xr.DataArray(latents.astype(np.float32), dims=("seed", "sample", "unit"))
    asked = ["c4", "covariance", "shape", "shape_kurtosis", "max_median_ratio"]
    tested = pa.rotation_test(labelled, statistics=asked, rotations=19, null=null)
    rejected = (tested["p"] <= 0.05).mean("seed").values
    assert (rejected < 0.05 + 3 * np.sqrt(0.05 * 0.95 / clouds)).all()
    middle = tested["rank"].mean("seed").values
    assert (abs(middle) < 3 / np.sqrt(12 * clouds)).all()


@pytest.mark.parametrize("units", [256, 1024])
def test_blocks_have_nearly_the_power_of_all_rotations(units):
    rng = np.random.default_rng(5)
    weak = rng.normal(size=(600, units)) + 0.5 * rng.laplace(size=(600, units))
    tested = {
        null: pa.rotation_test(weak, statistics=["c4", "unit_kurtosis"], rotations=39, null=null)
        for null in ("blocks", "full")
    }
    assert tested["blocks"].attrs["null"] == "blocks"
    assert tested["blocks"].attrs["block_units"] == 64
    gaps = {null: (one["value"] - one["mean"]).values for null, one in tested.items()}
    assert (gaps["full"] > 0).all()
    # A unit keeps a 64th of its excess: the weight of the fourth power of an entry of Q.
    np.testing.assert_allclose(gaps["blocks"], gaps["full"], rtol=0.12)
    spreads = [one["sd"].values for one in tested.values()]
    np.testing.assert_allclose(*spreads, rtol=0.5)
    assert (tested["blocks"]["p"].values <= 0.05).all()


def test_wide_layers_get_blocks_unless_all_is_asked_for():
    cloud = np.random.default_rng(6).normal(size=(60, 513))
    options = {"statistics": ["c4"], "rotations": 2}
    assert pa.rotation_test(cloud, **options).attrs["null"] == "blocks"
    assert pa.rotation_test(cloud[:, :512], **options).attrs["null"] == "full"
    assert pa.rotation_test(cloud, null="full", **options).attrs["null"] == "full"
    assert "block_units" not in pa.rotation_test(cloud, null="full", **options).attrs


def test_blocks_follow_an_orthonormal_basis():
    """Turning latents and basis together changes nothing, of blocks as of all rotations."""
    units, turn = 150, bases.haar(150, rotation_seed=7)
    cloud = np.random.default_rng(7).laplace(size=(800, units))
    options = {"statistics": ["c4", "covariance", "shape", "mean_ones"], "rotations": 5}
    for null in ("blocks", "full"):
        plain = pa.rotation_test(cloud + 1, null=null, **options)
        turned = pa.rotation_test((cloud + 1) @ turn, basis=turn, null=null, **options)
        np.testing.assert_allclose(turned["null"], plain["null"], rtol=1e-3, atol=1e-5)
        np.testing.assert_allclose(turned["value"], plain["value"], rtol=1e-3, atol=1e-5)


def test_a_statistic_of_one_s_own_is_turned_in_blocks_too():
    def largest(cloud, vectors, planes):
        del planes
        onto = abs(cloud @ vectors.T)
        return onto.max() / onto.mean()

    own = registry.Statistic("largest", "largest", "largest", registry.BASIS, largest)
    cloud = np.random.default_rng(8).normal(size=(300, 140))
    found = pa.rotation_test(cloud, statistics=[own], rotations=3, null="blocks")
    turns = drawn_as_the_test(140, 3)
    onto = [np.abs(cloud @ turn) for turn in turns.dense()]
    expected = [one.max() / one.mean() for one in onto]
    np.testing.assert_allclose(found["value"].item(), expected[0], rtol=1e-5)
    np.testing.assert_allclose(found["null"].values[0], expected[1:], rtol=1e-5)


def drawn_as_the_test(units, count):
    rng = np.random.default_rng([0, 0])
    return turning.draw(units, count, rng, place=turning.blocks_of(units, rng)).with_none()


def test_dips_of_wide_layers_are_of_some_vectors():
    rng = np.random.default_rng(9)
    levels = np.sign(rng.normal(size=(400, 600))) + 0.1 * rng.normal(size=(400, 600))
    for null in ("blocks", "full"):
        found = pa.rotation_test(levels, statistics=["axis_quantisation"], rotations=19, null=null)
        assert found.attrs["dip_vectors"] == 256
        assert found["p"].item() == 0.05
        assert found["value"].item() > 2 * found["high"].item()


def test_blocks_need_an_orthonormal_basis():
    with pytest.raises(InputError, match="null=blocks: needs an orthonormal basis"):
        pa.rotation_test(np.ones((9, 4)), basis="simplex", null="blocks")
    with pytest.raises(InputError, match="null=block:"):
        pa.rotation_test(np.ones((9, 4)), null="block")
