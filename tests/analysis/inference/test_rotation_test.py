"""The rotation null: exactness, invariances, agreement with plain loops, power."""

import numpy as np
import pytest
import scipy.stats
import xarray as xr

import ppp_jax.analysis as pa
from ppp_jax import bases
from ppp_jax.analysis.inference import calibration, rotation_test
from ppp_jax.analysis.inference.rotation_test import verdict
from ppp_jax.analysis.statistics import registry
from ppp_jax.analysis.synthetic import mixture
from ppp_jax.errors import InputError
from tests import plain

CLOUDS = pa.known_clouds(samples=1500)
FRAMES = {
    "standard": np.eye(5),
    "turned": bases.haar(5, rotation_seed=2),
    "simplex": bases.simplex(5),
}
# The rotation z of the table of docs/method.md §13, and how far another draw may be off.
KURTOSIS_Z = {
    "isotropic normal": (0, 3),
    "axis clusters": (55, 25),
    "hypercube-corner clusters": (-14, 6),
    "axis clusters, rotated": (0, 3),
    "clusters in random directions": (0, 3),
    "tanh(1.5·normal)": (-69, 30),
    "axis-aligned ellipsoid": (1, 3),
    "Laplace": (44, 20),
}


PLAIN = ["c4", "kurtosis", "unit_kurtosis", "acceptance_ratio", "entropy_deficit",
         *(f"mode_{m}" for m in range(1, 5)), "fourfold"]  # fmt: skip
JUDGED = ["c4", "kurtosis", "unit_kurtosis", "covariance", "shape", "shape_kurtosis"]


def draw(samples=60, units=5, seed=1):
    return np.random.default_rng(seed).laplace(size=(samples, units)) + 0.3


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", FRAMES)
def test_statistics_are_their_definitions(name):
    x, basis = draw(), FRAMES[name]
    kurtosis = pa.alignment_kurtosis(x, basis=basis)
    np.testing.assert_allclose(kurtosis, plain.kurtosis(x, basis), rtol=1e-10)
    np.testing.assert_allclose(
        pa.unit_kurtosis(x, basis=basis), plain.unit_kurtosis(x, basis), rtol=1e-10
    )
    deficit, modes = plain.angles(x, basis, 0.6)
    found = pa.angles(x, basis=basis, epsilon=0.6)
    np.testing.assert_allclose(found.entropy_deficit, deficit, rtol=1e-10)
    np.testing.assert_allclose(found.modes, modes, rtol=1e-10)
    np.testing.assert_allclose(found.fourfold, plain.fourfold(x, basis, 0.6), rtol=1e-10)
    np.testing.assert_array_equal(
        found.acceptance_ratio, pa.acceptance_ratio(x, basis=basis, epsilon=0.6)
    )


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", FRAMES)
def test_null_is_the_statistic_of_rotated_latents(name):
    """Against a plain loop that turns the latents, where ours turns the basis."""
    x, basis = draw(), FRAMES[name]
    tested = pa.rotation_test(x, basis=basis, epsilon=0.6, rotations=4, rotation_seed=7)
    turns = bases.rotations(5, 4, np.random.default_rng([7, 0]))
    for k, turn in enumerate(turns):
        turned = x @ turn
        modes = pa.angles(turned, basis=basis, epsilon=0.6)
        expected = [
            pa.alignment_c4(turned, basis=basis),
            plain.kurtosis(turned, basis),
            plain.unit_kurtosis(turned, basis),
            modes.acceptance_ratio,
            modes.entropy_deficit,
            *modes.modes,
            modes.fourfold,
        ]
        found = tested["null"].sel(statistic=PLAIN)
        np.testing.assert_allclose(found.values[:, k], expected, rtol=1e-9)
    null = tested["null"].values
    np.testing.assert_allclose(tested["mean"], null.mean(-1))
    z = (tested["value"].values - null.mean(-1)) / null.std(-1, ddof=1)
    np.testing.assert_allclose(tested["z"], z)


@pytest.mark.usefixtures("x64")
def test_on_an_orthonormal_basis_kurtosis_and_c4_are_one_number():
    n = 5
    s = 3 * pa.alignment_kurtosis(draw()) / (n + 2)
    np.testing.assert_allclose(pa.alignment_c4(draw()), ((n + 2) * s - 3) / ((n - 2) * s + 1))


def fourfold(x, **how):
    return pa.angles(x, **how).fourfold


SYMMETRIC = (
    pa.alignment_c4,
    pa.alignment_kurtosis,
    pa.unit_kurtosis,
    pa.acceptance_ratio,
    fourfold,
)


@pytest.mark.parametrize(
    "function",
    [
        *SYMMETRIC,
        lambda x, **k: pa.angles(x, **k).modes,
        lambda x, **k: pa.angles(x, **k).entropy_deficit,
    ],
)
def test_statistics_ignore_scale_order_and_a_common_rotation(function):
    x, turn = draw(300), bases.haar(5, rotation_seed=9)
    expected = function(x)
    for same in (1e-12 * x, 1e12 * x, x[::-1]):
        np.testing.assert_allclose(function(same), expected, rtol=1e-4)
    together = function(x @ turn, basis=turn)
    np.testing.assert_allclose(together, expected, rtol=1e-4)
    permuted = x[:, [3, 0, 4, 1, 2]]
    if function in SYMMETRIC:
        np.testing.assert_allclose(function(permuted), expected, rtol=1e-4)
        np.testing.assert_allclose(function(-x), expected, rtol=1e-4)


def test_fourfold_tells_axes_from_diagonals():
    both = np.concatenate([np.eye(6), -np.eye(6)])
    sums = np.concatenate([both[i] + both[j] for i in range(12) for j in [(i + 1) % 6]])
    diagonals = sums.reshape(-1, 6)
    assert fourfold(both) == pytest.approx(1)
    assert fourfold(diagonals[np.abs(diagonals).sum(axis=1) == 2]) == pytest.approx(-1)
    # Half way between an axis and a diagonal neither is nearer, and along a wedge the order of
    # vectors does not matter.
    between = np.array([[np.cos(np.pi / 8), np.sin(np.pi / 8)]])
    assert fourfold(between) == pytest.approx(0, abs=1e-6)
    wedge, x = bases.simplex(5), draw(300)
    np.testing.assert_allclose(fourfold(x, basis=wedge[::-1]), fourfold(x, basis=wedge), rtol=1e-4)


def test_clouds_of_very_different_scale_are_measured_together():
    x = draw(300)
    together = np.stack([1e-30 * x, x, 1e5 * x]).astype(np.float64)
    for function in (pa.alignment_kurtosis, pa.unit_kurtosis):
        np.testing.assert_allclose(function(together)[1:], function(x), rtol=1e-4)
    assert np.isnan(pa.unit_kurtosis(np.ones((4, 3))))
    with_dead_unit = np.concatenate([x, np.zeros((300, 1))], axis=1)
    np.testing.assert_allclose(pa.unit_kurtosis(with_dead_unit), pa.unit_kurtosis(x), rtol=1e-4)


def test_known_clouds_have_their_known_kurtosis():
    stacked = xr.DataArray(
        np.stack(list(pa.known_clouds(samples=6000).values())), dims=("cloud", "sample", "unit")
    )
    z = pa.rotation_test(stacked, rotations=60)["z"].sel(statistic="unit_kurtosis")
    for found, (expected, tolerance) in zip(z.values, KURTOSIS_Z.values(), strict=True):
        assert abs(found - expected) <= tolerance


def test_c4_and_the_plain_kurtosis_see_an_ellipsoid_that_unit_kurtosis_does_not():
    z = pa.rotation_test(CLOUDS["axis-aligned ellipsoid"], rotations=99)["z"]
    assert z.sel(statistic="c4") > 8
    assert z.sel(statistic="kurtosis") > 8
    assert abs(z.sel(statistic="unit_kurtosis")) < 3


@pytest.fixture(scope="module")
def null():
    return calibration.null_p_values(samples=150, draws=400, rotations=39, epsilon=0.8)


def test_p_values_are_uniform_on_isotropic_clouds(null):
    """K = 39: p is uniform on {1/40, …, 1}, so that p ≤ .05 has probability .05 exactly."""
    rates = calibration.false_positives(null)
    # Means that cannot be told from 0 are not judged, of whatever law.
    assert rates.sel(statistic=["mean_axes", "mean_ones"]).max() <= 0.01
    rates = rates.drop_sel(statistic=["mean_axes", "mean_ones"])
    # Four standard errors of 400 draws; rates of four laws are looked at.
    assert float(abs(rates - 0.05).max()) < 4 * np.sqrt(0.05 * 0.95 / 400)
    for law in null["law"].values:
        for statistic in rates["statistic"].values:
            p = null.sel(law=law, statistic=statistic).values
            rank = np.rint(p[np.isfinite(p)] * 40).astype(int)
            groups = np.bincount((rank - 1) // 5, minlength=8)
            assert scipy.stats.chisquare(groups).pvalue > 1e-4, (law, statistic)


def labelled_seeds(clouds):
    return xr.DataArray(np.asarray(clouds), dims=("seed", "sample", "unit"))


def test_one_odd_seed_among_many_decides_nothing_and_many_weak_ones_do():
    """Seeds are the units of replication: the mean's z may be large by one of them alone."""
    rng = np.random.default_rng(4)
    isotropic = [rng.normal(size=(200, 6)) for _ in range(15)]
    odd = mixture(rng, 1.0, samples=200, units=6, kind="axes")
    found = pa.pool(pa.rotation_test(labelled_seeds([*isotropic, odd]), rotations=99))
    found = found.sel(statistic="c4")
    assert found["z"] > 4
    assert found["p"] > 0.1
    weak = [mixture(rng, 0.03, samples=200, units=6, kind="axes") for _ in range(16)]
    tested = pa.rotation_test(labelled_seeds(weak), rotations=99).sel(statistic="c4")
    assert (tested["p"] > 0.05).sum() >= 4
    assert pa.pool(tested)["p"] < 0.001


def test_a_rank_is_its_place_ties_half_and_is_symmetric():
    null = xr.DataArray([[1.0, 2, 3, 4]] * 4, dims=("case", "rotation"))
    value = xr.DataArray([0.0, 5.0, 2.5, 2.0], dims="case")
    rank = verdict(xr.Dataset({"value": value, "null": null}))["rank"]
    # Of five places: the first, the last, the third, and the second or third.
    np.testing.assert_allclose(rank, [-0.4, 0.4, 0, -0.1])


def test_fewer_than_six_clouds_are_not_judged_together():
    clouds = [draw(80, seed=k) for k in range(6)]
    options = {"statistics": JUDGED, "rotations": 19}
    assert pa.pool(pa.rotation_test(labelled_seeds(clouds), **options))["p"].notnull().all()
    clouds[2] = clouds[2] * np.nan
    found = pa.pool(pa.rotation_test(labelled_seeds(clouds), **options))
    assert found["p_networks"].notnull().all()
    assert (found["clouds"] == 5).all()
    assert np.isnan(found["p"]).all()
    assert np.isfinite(found["z"]).all()


def test_power_grows_with_the_fraction_of_aligned_samples():
    found = calibration.power(fractions=(0.0, 0.1, 0.5), samples=300, draws=40, rotations=39)
    for kind, sign in (("axes", 1), ("corners", -1)):
        c4 = found.sel(kind=kind, statistic="c4")
        power = c4["power"].values
        assert power[0] < 0.2
        assert power[2] == 1
        assert (np.diff(power) >= 0).all()
        assert (np.diff(sign * c4["value"].values) > 0).all()


def test_seeds_have_rotations_of_their_own_and_other_axes_share_them():
    x = draw(80)
    stacked = xr.DataArray(np.broadcast_to(x, (2, 3, *x.shape)),
                           dims=("step", "seed", "sample", "unit"))  # fmt: skip
    null = pa.rotation_test(stacked, rotations=5)["null"]
    np.testing.assert_array_equal(null.isel(step=0), null.isel(step=1))
    assert not np.allclose(null.isel(seed=0), null.isel(seed=1))
    again = pa.rotation_test(stacked, rotations=5)["null"]
    np.testing.assert_array_equal(null, again)
    assert not np.allclose(null, pa.rotation_test(stacked, rotations=5, rotation_seed=1)["null"])


def test_blocks_of_rotations_change_nothing(monkeypatch):
    """As in wide layers, whose rotations do not fit into memory together."""
    stacked = xr.DataArray(np.stack([draw(60, seed=k) for k in range(2)]),
                           dims=("seed", "sample", "unit"))  # fmt: skip
    expected = pa.rotation_test(stacked, rotations=7, epsilon=0.5)
    monkeypatch.setattr(rotation_test, "BLOCK_BYTES", 3 * 8 * 25)
    found = pa.rotation_test(stacked, rotations=7, epsilon=0.5)
    np.testing.assert_allclose(found["null"], expected["null"], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found["p"], expected["p"])


def test_pool_leaves_out_seeds_that_are_missing():
    x = np.stack([draw(80, seed=k) for k in range(3)])
    labelled = xr.DataArray(x, dims=("seed", "sample", "unit"))
    broken = labelled.copy(deep=True)
    broken[1] = np.nan
    tested = pa.rotation_test(broken, rotations=9, epsilon=0.5)
    assert np.isnan(tested["p"].values[1]).all()
    pooled = pa.pool(tested)
    whole = pa.rotation_test(labelled, rotations=9, epsilon=0.5).isel(seed=[0, 2])
    np.testing.assert_allclose(pooled["z"], pa.pool(whole)["z"], rtol=1e-6)


def test_p_counts_by_hand_and_says_nothing_where_nothing_varies():
    null = xr.DataArray([[1.0, 2, 3, 4], [5, 5, 5, 5]], dims=("statistic", "rotation"))
    value = xr.DataArray([6.0, 5.0], dims="statistic")
    found = verdict(xr.Dataset({"value": value, "null": null}))
    # The five values' mean is 3.2: only the observed one is 2.8 or more from it.
    assert found["p"].values[0] == 1 / 5
    assert np.isnan(found["p"].values[1])
    assert np.isnan(found["z"].values[1])


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"rotations": 0}, "rotations=0"),
        ({"rotations": 2.5}, "rotations=2.5"),
        ({"rotation_seed": -1}, "rotation_seed=-1"),
        ({"epsilon": 1.2}, "epsilon=1.2"),
        ({"epsilon": [0.1, 0.2]}, "epsilon"),
        ({"basis": np.eye(3)}, "basis"),
    ],
)
def test_what_cannot_be_used_is_refused(options, text):
    with pytest.raises(InputError, match=text):
        pa.rotation_test(draw(), **options)


@pytest.mark.parametrize(("fraction", "kind"), [(1.5, "axes"), (0.5, "faces")])
def test_mixtures_refuse_what_they_do_not_know(fraction, kind):
    with pytest.raises(InputError):
        mixture(np.random.default_rng(0), fraction, kind=kind)


@pytest.mark.parametrize("name", FRAMES)
def test_what_is_observed_without_rotations_is_what_the_test_observes(name):
    rng = np.random.default_rng(5)
    clouds = rng.laplace(size=(5, 80, 5)).astype(np.float32) * [3, 1, 1, 1, 0.2] + 0.5
    clouds[1, :, 2] = 0  # a dead unit
    clouds[2, :30] = 0
    clouds[3] = np.nan  # a network that diverged
    clouds[4] -= clouds[4].mean(axis=-1, keepdims=True)
    statistics = registry.chosen(of=[registry.BASIS], only_reported=False)
    seen = rotation_test.observed(clouds, basis=FRAMES[name], statistics=statistics)
    tested = pa.rotation_test(clouds, basis=FRAMES[name], statistics=statistics, rotations=2)
    assert np.isnan(seen["value"][3]).all()
    np.testing.assert_allclose(seen["value"], tested["value"], rtol=2e-5, atol=1e-6)
