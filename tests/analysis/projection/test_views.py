"""The mean, the covariance and the shape: what each statistic sees, and what moves it."""

import warnings

import numpy as np
import pytest
import scipy.linalg
import scipy.stats
import xarray as xr

import ppp_jax.analysis as pa
from ppp_jax import bases
from ppp_jax.analysis.io.rows import LongRowWarning
from ppp_jax.analysis.projection import views

RNG = np.random.default_rng(0)
UNITS, SAMPLES, DRAWS = 16, 500, 100
OUTLIER = np.where(np.arange(UNITS) == 5, 30.0, 1.0)
SPECTRUM = 1 / np.arange(1, UNITS + 1)
SHAPE = ["shape", "shape_kurtosis"]


def normal(rng, samples=SAMPLES):
    return rng.normal(size=(samples, UNITS))


def heavy(rng):
    return normal(rng) / np.sqrt(rng.chisquare(5, size=(SAMPLES, 1)) / 5)


def without_sum(cloud):
    return cloud - cloud.mean(axis=1, keepdims=True)


# Laws that prefer the axes in nothing but their mean or covariance (docs/method.md §6).
SHAPELESS = {
    "normal": normal,
    "spectrum": lambda rng: normal(rng) * SPECTRUM,
    "outlier": lambda rng: normal(rng) * OUTLIER,
    "elliptical": lambda rng: heavy(rng) * SPECTRUM,
    "mean": lambda rng: normal(rng) + 0.75,
    "rank": lambda rng: normal(rng)[:, :9] @ RANK,
    "dead units": lambda rng: normal(rng) * (np.arange(UNITS) > 2),
    "layer norm": lambda rng: without_sum(normal(rng)),
}
RANK = np.random.default_rng(9).normal(size=(9, UNITS))
SHAPED = {
    "tanh": lambda rng: np.tanh(1.5 * normal(rng)) * SPECTRUM,
    "relu": lambda rng: np.maximum(normal(rng), 0) * SPECTRUM,
    "Laplace": lambda rng: rng.laplace(size=(SAMPLES, UNITS)) * SPECTRUM,
    "Laplace around a mean": lambda rng: rng.laplace(size=(SAMPLES, UNITS)) + 5 * MEAN,
}
MEAN = np.random.default_rng(8).normal(size=UNITS)


def plain_whitened(cloud):
    """By the matrix root of the inverse covariance, in SciPy."""
    covariance = np.cov(cloud.T, bias=True)
    return (cloud - cloud.mean(0)) @ scipy.linalg.inv(scipy.linalg.sqrtm(covariance)).real


def plain_c4(cloud):
    """By its definition: plane by plane."""
    cloud = cloud / np.linalg.norm(cloud, axis=1, keepdims=True)
    along = total = 0.0
    for i in range(cloud.shape[1]):
        for j in range(i + 1, cloud.shape[1]):
            point = cloud[:, i] + 1j * cloud[:, j]
            along, total = along + np.sum((point**4).real), total + np.sum(np.abs(point) ** 4)
    return along / total


@pytest.mark.usefixtures("x64")
def test_shape_is_c4_of_plainly_whitened_samples():
    cloud = SHAPED["Laplace around a mean"](np.random.default_rng(3))
    expected = plain_whitened(cloud)
    np.testing.assert_allclose(views.whiten(cloud).samples, expected, atol=1e-8)
    found = pa.rotation_test(cloud, statistics=["shape"], rotations=3)["value"].item()
    np.testing.assert_allclose(found, plain_c4(expected), rtol=1e-8)


def plain_on_support(cloud):
    """By the singular value decomposition: the scores along each direction, of equal lengths."""
    scores, lengths, axes = np.linalg.svd(cloud - cloud.mean(0), full_matrices=False)
    rank = np.sum(lengths > 1e-6 * lengths[0])
    return np.sqrt(len(cloud)) * scores[:, :rank] @ axes[:rank], axes[:rank].T


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("law", ["rank", "dead units", "layer norm"])
def test_shape_on_a_support_is_that_of_plainly_whitened_samples_turned_within_it(law):
    cloud = SHAPELESS[law](np.random.default_rng(3)) + 2
    expected, axes = plain_on_support(cloud)
    np.testing.assert_allclose(views.whiten(cloud).samples, expected, atol=1e-8)
    found = pa.rotation_test(cloud, statistics=["shape"], rotations=200, rotation_seed=1)
    np.testing.assert_allclose(found["value"].item(), plain_c4(expected), rtol=1e-8)
    # The null's law: of rotations that are drawn within the support from the beginning.
    turns = bases.rotations(axes.shape[1], 200, np.random.default_rng(2))
    null = [plain_c4(expected @ axes @ turn @ axes.T) for turn in turns]
    assert scipy.stats.ks_2samp(null, found["null"].values.ravel()).pvalue > 1e-3


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", views.VIEWS)
def test_every_view_turns_with_the_cloud(name):
    cloud, turn = SHAPED["tanh"](np.random.default_rng(4)) + 0.3, bases.haar(UNITS, rotation_seed=1)
    mine, turned = (views.view(x, name) for x in (cloud, cloud @ turn))
    expected = turn.T @ mine @ turn if mine.shape == (UNITS, UNITS) else mine @ turn
    # A view is scaled by its own largest entry, which no statistic of it sees.
    np.testing.assert_allclose(
        turned / np.linalg.norm(turned), expected / np.linalg.norm(expected), atol=1e-10
    )


@pytest.mark.usefixtures("x64")
def test_whitened_samples_have_no_mean_and_no_covariance_on_their_support():
    found = views.whiten(SHAPELESS["rank"](np.random.default_rng(5)) + 2)
    assert found.rank == 9
    np.testing.assert_allclose(found.samples.mean(0), 0, atol=1e-10)
    variances = np.linalg.eigvalsh(np.cov(found.samples.T, bias=True))
    np.testing.assert_allclose(variances, [0] * 7 + [1] * 9, atol=1e-9)


def rejected(law, statistics):
    rng = np.random.default_rng(6)
    clouds = xr.DataArray(
        np.stack([law(rng) for _ in range(DRAWS)]), dims=("seed", "sample", "unit")
    )
    p = pa.rotation_test(clouds, statistics=statistics, rotations=39)["p"]
    return (p <= 0.05).mean("seed").values


@pytest.mark.parametrize("law", SHAPELESS)
def test_no_mean_and_no_covariance_is_taken_for_a_shape(law):
    """Of 100 draws 5 are rejected; more than 13 have probability 0.0005."""
    assert (rejected(SHAPELESS[law], SHAPE) <= 0.13).all()


def test_the_sum_that_a_layer_norm_takes_away_is_no_shape_however_many_samples_there_are():
    """By rotations of all units its z was −1.7 on average; a mean of 12 nulls is within ±1."""
    rng = np.random.default_rng(11)
    clouds = [without_sum(rng.normal(size=(10_000, UNITS))) for _ in range(12)]
    z = [pa.rotation_test(x, statistics=["shape"], rotations=39)["z"].item() for x in clouds]
    assert abs(np.mean(z)) < 1


def test_a_shape_is_found_beside_dead_units():
    cloud = np.tanh(1.5 * normal(np.random.default_rng(12))) * (np.arange(UNITS) > 2)
    assert (pa.rotation_test(cloud, statistics=SHAPE, rotations=99)["p"] == 0.01).all()


def test_rotations_within_a_subspace_are_haar_there_and_nothing_elsewhere():
    rng = np.random.default_rng(13)
    axes = bases.rotations(6, 1, rng)[0][:, :3]
    turns = np.concatenate([np.eye(6)[None], bases.rotations(6, 4000, rng)])
    found = views.turns_within(axes, turns)
    np.testing.assert_allclose(found @ found.swapaxes(1, 2), np.eye(6) + 0 * found, atol=1e-12)
    np.testing.assert_allclose(found[0], np.eye(6), atol=1e-12)
    outside = np.eye(6) - axes @ axes.T
    np.testing.assert_allclose(found @ outside, outside + 0 * found, atol=1e-12)
    inside = axes.T @ found[1:] @ axes
    # Entries of a Haar matrix of O(3): the mean square is 1/3, the mean fourth power 1/5.
    for power, expected in ((1, 0), (2, 1 / 3), (3, 0), (4, 1 / 5)):
        assert abs(np.mean(inside**power, axis=0) - expected).max() < 0.04
    assert views.turns_within(np.eye(6), turns) is turns


@pytest.mark.parametrize("law", SHAPED)
def test_a_shape_is_found_whatever_the_mean_and_covariance(law):
    assert (rejected(SHAPED[law], SHAPE) == 1).all()


@pytest.mark.parametrize(
    ("law", "statistic", "least", "most"),
    [
        ("spectrum", "covariance", 1, 1),
        ("outlier", "covariance", 1, 1),
        ("mean", "covariance", 0, 0.13),
        ("mean", "mean_axes", 1, 1),
        ("mean", "mean_ones", 1, 1),
        ("normal", "mean_axes", 0, 0.02),
        ("outlier", "mean_axes", 0, 0.02),  # a mean of noise says nothing of the mean
        ("outlier", "outlier_kurtosis", 1, 1),
        ("outlier", "max_median_ratio", 1, 1),
        ("normal", "outlier_kurtosis", 0, 0.13),
        ("normal", "max_median_ratio", 0, 0.13),
    ],
)
def test_each_alignment_sees_its_own_part(law, statistic, least, most):
    assert least <= rejected(SHAPELESS[law], [statistic])[0] <= most


@pytest.mark.usefixtures("x64")
def test_values_are_their_formulas():
    cloud = SHAPED["relu"](np.random.default_rng(7))
    names = ["mean_axes", "mean_ones", "covariance", "outlier_kurtosis", "max_median_ratio"]
    found = dict(
        zip(names, pa.rotation_test(cloud, statistics=names, rotations=2)["value"].values,
            strict=True)
    )  # fmt: skip
    mean, moments = cloud.mean(0), (cloud**2).mean(0)
    covariance, size = np.cov(cloud.T, bias=True), np.abs(cloud).mean(0)
    expected = {
        "mean_axes": plain_c4(mean[None]),
        "mean_ones": mean.sum() / np.linalg.norm(mean) / np.sqrt(UNITS),
        "covariance": np.sum(np.diag(covariance) ** 2) / np.sum(covariance**2),
        "outlier_kurtosis": np.mean(moments**2) / np.mean(moments) ** 2,
        "max_median_ratio": size.max() / np.median(size),
    }
    for name in names:
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-8, err_msg=name)


@pytest.mark.parametrize("basis", ["simplex", "frame"])
def test_any_basis_is_judged_and_a_sum_of_nothing_is_not(basis):
    """Levels along the vectors of a frame are found; those of a simplex add up to nothing."""
    vectors = np.random.default_rng(5).normal(size=(12, 8))
    vectors = bases.simplex(8) if basis == "simplex" else vectors
    vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    rng = np.random.default_rng(1)
    cloud = np.tanh(3 * rng.normal(size=(800, 8)) @ vectors.T) @ vectors + 1
    found = pa.rotation_test(cloud, basis=vectors, rotations=99)
    assert found["p"].sel(statistic="shape_kurtosis") <= 0.02
    assert found["value"].sel(statistic="mean_ones").isnull() == (basis == "simplex")


@pytest.mark.parametrize("samples", [20, 40, 80])
def test_a_mean_of_noise_is_not_judged_however_few_samples_there_are(samples):
    """Hotelling's test at p < .001: of 300 draws more than 3 have probability 0.0003."""
    rng = np.random.default_rng(samples)
    passed = sum(views.has_mean(normal(rng, samples) * OUTLIER) for _ in range(300))
    assert passed <= 3
    assert views.has_mean(normal(rng, samples) + 5)


# Latents whose units differ by many orders of magnitude, and the rank that they have.
RANKED = {
    "scales": (lambda z: z * 10.0 ** np.linspace(-6, 4, UNITS), UNITS),
    "layer norm": (
        lambda z: (z - z.mean(1, keepdims=True)) / z.std(1, keepdims=True), UNITS - 1
    ),
    "duplicated": (lambda z: np.c_[z[:, :-2], z[:, :2]], UNITS - 2),
    "constant": (lambda z: np.c_[z[:, :-3], np.full((len(z), 3), [0.0, 7.0, 1e3])], UNITS - 3),
    "rotated": (lambda z: z @ np.diag([1.0] * 9 + [0.0] * 7) @ bases.haar(UNITS), 9),
    "huge": (lambda z: np.where(np.arange(z.size).reshape(z.shape) == 5, 1e7, z), UNITS),
    "scaled layer norm": (
        lambda z: (z - z.mean(1, keepdims=True)) * 1e-6 / z.std(1, keepdims=True), UNITS - 1
    ),
}  # fmt: skip


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", RANKED)
def test_latents_are_whitened_in_all_directions_in_which_they_vary(name, dtype):
    make, rank = RANKED[name]
    cloud = make(np.random.default_rng(12).normal(size=(400, UNITS))).astype(dtype)
    found = views.whiten(cloud)
    assert found.rank == rank
    assert views.support(views.view(cloud, views.SHAPE)).shape == (UNITS, rank)
    variances = np.linalg.eigvalsh(np.cov(found.samples.T, bias=True))
    np.testing.assert_allclose(variances, [0] * (UNITS - rank) + [1] * rank, atol=1e-6)


def test_the_rank_in_which_clouds_were_whitened_is_told():
    clouds = np.stack([RANKED[name][0](normal(np.random.default_rng(1)))
                       for name in ("constant", "scales")])  # fmt: skip
    found = pa.rotation_test(clouds, rotations=3, statistics=["shape"])
    assert found.attrs["shape_rank"] == UNITS - 3
    alone = pa.rotation_test(clouds[1], rotations=3, statistics=["shape"])
    assert alone.attrs["shape_rank"] == UNITS
    assert "shape_rank" not in pa.rotation_test(clouds, rotations=3, statistics=["c4"]).attrs


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("huge", [1e7, 1e9, -1e9])
def test_one_huge_entry_does_not_hide_the_other_units(huge, dtype):
    cloud = np.random.default_rng(13).laplace(size=(500, UNITS))
    spoilt = cloud.copy()
    spoilt[17, 3] = huge
    spoilt, cloud = spoilt.astype(dtype), np.delete(cloud.astype(dtype), 17, axis=0)
    assert views.whiten(spoilt).rank == UNITS
    rest = np.delete(np.arange(UNITS), 3)
    vectors = np.eye(UNITS)[rest]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", LongRowWarning)
        others = pa.unit_kurtosis(spoilt, basis=vectors)
    kept = pa.unit_kurtosis(cloud, basis=vectors)
    np.testing.assert_allclose(others, kept, rtol=0.01)  # but for the one row that is left out
    alone = pa.unit_kurtosis(spoilt, drop_outliers=100)
    np.testing.assert_allclose(alone, pa.unit_kurtosis(cloud), rtol=1e-4)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_of_a_cloud_that_is_one_point_nothing_is_judged(dtype):
    point = np.random.default_rng(3).normal(size=UNITS).astype(dtype)
    found = pa.rotation_test(np.tile(point, (200, 1)), rotations=19)
    parts = ["covariance", *SHAPE]
    assert found["value"].sel(statistic=parts).isnull().all()


def test_rounding_around_a_large_mean_is_no_direction():
    """Of rank 9 in single precision: the other directions hold nothing but rounding."""
    rng = np.random.default_rng(4)
    clouds = np.stack([SHAPELESS["rank"](rng) + 1e4 * MEAN for _ in range(60)]).astype(np.float32)
    assert {views.whiten(cloud).rank for cloud in clouds} == {9}


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("at", [0.0, 0.3, 1.0, 1e3])
def test_the_shape_is_the_same_wherever_the_cloud_stands(at):
    """Also of many samples at the very mean, which have no direction left."""
    z = np.random.default_rng(5).laplace(size=(150, UNITS))
    cloud = np.concatenate([np.zeros((300, UNITS)), z, -z])
    expected = views.whiten(np.concatenate([z, -z]) + 3).samples
    found = views.whiten(cloud + at + 3).samples
    scale = np.linalg.norm(expected) / np.linalg.norm(found)
    np.testing.assert_allclose(scale * found[300:], expected, atol=1e-6)
    assert not found[:300].any()


def test_too_few_samples_are_not_judged_and_the_number_needed_is_told():
    cloud = np.random.default_rng(2).normal(size=(79, UNITS))
    found = pa.rotation_test(cloud, rotations=19)
    assert found["p"].sel(statistic=SHAPE).isnull().all()
    assert "shape: 1 of 1 clouds (79 samples, 80 needed)" in found.attrs["not_judged"]
    whole = pa.rotation_test(np.concatenate([cloud, cloud[:1]]), rotations=19)
    assert whole["p"].sel(statistic=SHAPE).notnull().all()
    assert "shape" not in whole.attrs["not_judged"]
    assert "mean_axes: 1 of 1 clouds (the mean cannot be told from 0" in whole.attrs["not_judged"]
