"""PPP against the author's outputs, a slow plain reference, its symmetries and its exact null."""

import itertools
import pathlib
import warnings

import jax
import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

from ppp_jax.analysis import EmptyPPPWarning, nulls, ppp, project
from ppp_jax.analysis.planes import build_frame
from ppp_jax.errors import InputError
from ppp_jax.numerics import haar_orthogonal
from tests import plain

CASES = sorted((pathlib.Path(__file__).parent / "data").glob("*.npz"))
PLANES = {"COMB": "combinations", "PERM": "permutations"}


def compare_with_author(case, dtype, tolerance):
    projection = project(
        case["latents"].astype(dtype),
        basis=case["basis"],
        epsilon=float(case["epsilon"]),
        planes=PLANES[str(case["mode"])],
    )
    order = {tuple(pair): k for k, pair in enumerate(projection.planes.tolist())}
    theirs = [order[tuple(pair)] for pair in case["planes"].tolist()]
    assert len(order) == len(theirs)
    np.testing.assert_array_equal(projection.counts[theirs], case["counts"])
    ends = np.cumsum(projection.counts)
    mine = [projection.points[ends[k] - projection.counts[k] : ends[k]] for k in theirs]
    np.testing.assert_allclose(np.concatenate(mine), case["points"], rtol=0, atol=tolerance)


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_equals_the_author_in_single_precision(path):
    case = np.load(path)
    compare_with_author(case, np.float32, 2e-6 * np.abs(case["points"]).max())


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
@pytest.mark.usefixtures("x64")
def test_equals_the_author_in_double_precision(path):
    compare_with_author(np.load(path), np.float64, 1e-12)


@pytest.mark.usefixtures("x64")
@settings(max_examples=25)
@given(
    samples=st.integers(1, 12),
    units=st.integers(2, 5),
    extra=st.integers(0, 3),
    epsilon=st.sampled_from([0.0, 0.3, 0.85, 0.99]),
    order=st.sampled_from(["combinations", "permutations"]),
    seed=st.integers(0, 10_000),
)
def test_equals_the_plain_reference(samples, units, extra, epsilon, order, seed):
    rng = np.random.default_rng(seed)
    latents = rng.normal(size=(samples, units))
    latents[rng.random(samples) < 0.2] = 0
    basis = rng.normal(size=(units + extra, units))
    basis[-1] = -2 * basis[0] if extra else basis[-1]  # an antiparallel pair spans no plane
    projection = project(latents, basis=basis, epsilon=epsilon, planes=order)
    expected, fractions = plain.ppp(latents, basis, epsilon, order=getattr(itertools, order))
    assert np.abs(fractions - epsilon).min(initial=1) > 1e-9  # else the order of rounding decides
    assert projection.zero_rows == np.sum(~latents.any(axis=1))
    assert projection.skipped_planes == (0 if not extra else 2 if order == "permutations" else 1)
    pairs = [tuple(projection.planes[k]) for k in projection.plane]
    assert [(i, j, s) for i, j, s, *_ in expected] == [
        (*pair, s) for pair, s in zip(pairs, projection.sample, strict=True)
    ]
    points = np.array([e[3:] for e in expected]).reshape(-1, 2)
    np.testing.assert_allclose(projection.points, points, atol=1e-12)


@pytest.mark.usefixtures("x64")
def test_rotating_latents_with_their_basis_changes_nothing():
    """PPP(XR, BR) = PPP(X, B)."""
    rng = np.random.default_rng(0)
    latents, basis = rng.laplace(size=(300, 6)), rng.normal(size=(8, 6))
    r = np.asarray(haar_orthogonal(jax.random.key(0), 6))
    one, other = project(latents, basis=basis), project(latents @ r, basis=basis @ r)
    np.testing.assert_array_equal(one.sample, other.sample)
    np.testing.assert_allclose(one.points, other.points, atol=1e-12)


@pytest.mark.usefixtures("x64")
def test_scaling_and_permutations():
    rng = np.random.default_rng(1)
    latents, basis = rng.laplace(size=(200, 5)), rng.normal(size=(5, 5))
    one = project(latents, basis=basis)
    np.testing.assert_array_equal(one.points, project(latents, basis=4 * basis).points)
    np.testing.assert_allclose(1e9 * one.points, project(1e9 * latents, basis=basis).points)
    # Both orders: the second is the reflection φ → α − φ of the first.
    both = project(latents, basis=basis, planes="permutations")
    unit = basis / np.linalg.norm(basis, axis=1, keepdims=True)
    index = {tuple(pair): k for k, pair in enumerate(both.planes.tolist())}
    for (i, j), k in index.items():
        alpha = np.arccos(unit[i] @ unit[j])
        first = np.arctan2(*both.points[both.plane == k].T[::-1])
        second = np.arctan2(*both.points[both.plane == index[j, i]].T[::-1])
        np.testing.assert_allclose(np.exp(1j * (alpha - first)), np.exp(1j * second), atol=1e-9)


def isotropic(samples=20_000, units=8, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(samples, units)) * rng.gamma(2, size=(samples, 1))


@pytest.mark.parametrize("units", [2, 3, 8, 16])
@pytest.mark.parametrize("epsilon", [0.0, 0.5, 0.85])
def test_isotropic_acceptance_is_the_exact_null(units, epsilon):
    latents = isotropic(units=units)
    projection = project(latents, epsilon=epsilon)
    share = projection.counts / len(latents)
    expected = nulls.acceptance(units, epsilon)
    error = np.sqrt(max(expected * (1 - expected), 1e-12) / len(latents))
    assert np.abs(share - expected).max() < 5 * error


def test_isotropic_angles_are_uniform_and_radii_follow_the_exact_law():
    latents = isotropic()
    projection = project(latents, epsilon=0.8)
    lengths = np.linalg.norm(latents, axis=1)
    for plane in (0, 11, 27):
        points = projection.points[projection.plane == plane]
        angle = np.arctan2(points[:, 1], points[:, 0])
        for k in (1, 2, 3, 4):
            assert np.abs(np.exp(1j * k * angle).mean()) < 5 / np.sqrt(len(angle))
    radius = np.linalg.norm(projection.points, axis=1)
    at = np.quantile(radius, np.linspace(0.05, 0.95, 10))
    empirical = np.searchsorted(np.sort(radius), at) / (len(latents) * len(projection.planes))
    exact = nulls.radius_distribution(at, lengths, 8, 0.8)
    np.testing.assert_allclose(exact, empirical, atol=0.01 * nulls.acceptance(8, 0.8))


def test_grouping_lengths_is_fine_enough():
    """The null of 5,000 lengths, represented by 256, against all 5,000."""
    lengths = np.random.default_rng(0).gamma(2, size=5000)
    r = np.linspace(0, 10, 50)
    share = np.clip(r[:, None] / lengths, 0.85, 1)
    exact = ((1 - 0.85**2) ** 3 - (1 - share**2) ** 3).mean(axis=1)
    grouped = nulls.radius_distribution(r, lengths, 8, 0.85)
    np.testing.assert_allclose(grouped, exact, atol=3e-3 * exact[-1])


@pytest.mark.parametrize("units", [2, 3, 8])
def test_null_density_holds_the_null_acceptance(units):
    lengths = np.random.default_rng(0).uniform(0.5, 1, size=500)
    mass = nulls.density_mass(lengths, units, 0.85, np.linspace(-1.1, 1.1, 101))
    np.testing.assert_allclose(mass.sum(), nulls.acceptance(units, 0.85), rtol=5e-3)
    np.testing.assert_allclose(mass, mass.T)
    np.testing.assert_allclose(mass, mass[::-1])


@pytest.mark.parametrize("units", [3, 8])
def test_isotropic_density_is_its_null(units):
    picture = ppp(isotropic(60_000, units), epsilon=0.6, bins=64, bandwidth=1.0)
    area = float(picture["u"][1] - picture["u"][0]) ** 2
    np.testing.assert_allclose(picture["density"].sum() * area, picture.acceptance, rtol=0.02)
    assert abs(picture.acceptance_ratio - 1) < 0.05
    seen = picture["null"] > 0.05 * picture["null"].max()
    ratio = picture["ratio"].where(seen).values
    assert np.nanmax(np.abs(ratio - 1)) < 0.2
    assert abs(np.nanmean(ratio) - 1) < 0.02


def test_axis_clusters_stand_on_the_axes():
    rng = np.random.default_rng(0)
    latents = np.eye(8)[rng.integers(8, size=4000)] + 0.02 * rng.normal(size=(4000, 8))
    picture = ppp(latents, bins=65)
    u, v = np.meshgrid(picture["u"], picture["v"])
    peak = np.argmax(picture["density"].values)
    assert min(abs(u.ravel()[peak]), abs(v.ravel()[peak])) < 0.1
    assert picture.acceptance_ratio > 5
    on_axis = picture["ratio"].sel(u=0.98, v=0.0, method="nearest")
    assert on_axis > 20
    diagonal = picture["density"].sel(u=0.7, v=0.7, method="nearest")
    assert diagonal < 1e-6 * picture["density"].max()


def test_u_and_v_are_not_swapped():
    picture = ppp(np.array([[1.0, 0.2]]), extent=2, bins=40)
    peak = picture["density"].argmax(["u", "v"])
    np.testing.assert_allclose(picture["u"][peak["u"]], 1.0, atol=0.06)
    np.testing.assert_allclose(picture["v"][peak["v"]], 0.2, atol=0.06)


def test_bandwidth_is_in_latent_units():
    """One point smears into a Gaussian of exactly the stated deviation."""
    for bins in (64, 200):
        picture = ppp(np.array([[1e-9, 1e-9]]), extent=5, bins=bins, bandwidth=0.7)
        along = picture["density"].sum("v")
        variance = float((along * picture["u"] ** 2).sum() / along.sum())
        width = 10 / bins
        np.testing.assert_allclose(variance, 0.49, atol=width**2)


def test_cube_corners_are_the_blind_spot():
    corners = np.sign(np.random.default_rng(0).normal(size=(500, 16)))
    with pytest.warns(EmptyPPPWarning, match=r"does not mean that there is no structure.*0\.354"):
        picture = ppp(corners)
    assert picture.accepted == 0
    assert picture.acceptance_ratio == 0
    assert not picture["density"].any()


def test_any_array_is_read_and_labelled_ones_by_name():
    values = np.random.default_rng(0).normal(size=(3, 20, 4)).astype(np.float32)
    expected = project(values.reshape(60, 4))
    labelled = xr.DataArray(values, dims=("seed", "sample", "unit")).transpose("unit", ...)
    for latents in (values, values.tolist(), jax.numpy.asarray(values), labelled):
        got = project(latents)
        np.testing.assert_array_equal(got.points, expected.points)
        np.testing.assert_array_equal(got.sample, expected.sample)


def test_zero_and_nonfinite_rows_are_counted_and_samples_keep_their_place():
    latents = np.array([[1, 0, 0], [0, 0, 0], [np.nan, 1, 0], [0, 1, 0], [np.inf, 0, 0]])
    with pytest.raises(InputError, match="2 of 5 samples: are not finite"):
        project(latents)
    projection = project(latents, nonfinite="drop")
    assert (projection.samples, projection.zero_rows, projection.dropped_rows) == (2, 1, 2)
    assert set(projection.sample) == {0, 3}


@pytest.mark.filterwarnings("ignore::ppp_jax.analysis.EmptyPPPWarning")
def test_nothing_but_zeros_is_an_empty_picture():
    picture = ppp(np.zeros((4, 3)))
    assert picture.samples == 0
    assert not picture["density"].any()
    assert picture["ratio"].isnull().all()
    picture = ppp(np.full((4, 3), np.nan), nonfinite="drop")
    assert picture.dropped_rows == 4


def test_max_planes_is_drawn_by_a_seed_without_replacement():
    frames = [build_frame(None, 10, max_planes=7, seed=seed) for seed in (0, 0, 1)]
    assert len({tuple(pair) for pair in frames[0].planes.tolist()}) == 7
    np.testing.assert_array_equal(frames[0].planes, frames[1].planes)
    assert not np.array_equal(frames[0].planes, frames[2].planes)
    assert len(build_frame(None, 4, max_planes=100).planes) == 6


def test_blocks_of_planes_change_nothing(monkeypatch):
    latents = isotropic(300, 6)
    whole = project(latents, epsilon=0.5)
    monkeypatch.setattr("ppp_jax.analysis.planes.BLOCK_ELEMENTS", 700)
    blocked = project(latents, epsilon=0.5)
    for a, b in zip(whole, blocked, strict=True):
        np.testing.assert_array_equal(a, b)


X = np.ones((5, 3))
BAD = {
    "epsilon=1.2: must lie in [0, 1]": {"epsilon": 1.2},
    "epsilon=-0.1: must lie in [0, 1]": {"epsilon": -0.1},
    "epsilon=nan: must lie in [0, 1]": {"epsilon": float("nan")},
    "planes=all: must be": {"planes": "all"},
    "max_planes=0: must be at least 1": {"max_planes": 0},
    "nonfinite=ignore: must be": {"nonfinite": "ignore"},
    "basis=array (2, 2): must be (vectors, 3)": {"basis": np.eye(2)},
    "basis=array (2, 3): has a zero": {"basis": np.array([[1.0, 0, 0], [0, 0, 0]])},
    "basis=array (2, 3): spans no plane": {"basis": np.array([[1.0, 0, 0], [-2, 0, 0]])},
    "basis=array (1, 3): spans no plane": {"basis": np.eye(3)[:1]},
    "extent=-1: must be a positive": {"extent": -1},
    "bandwidth=0: must be a positive": {"bandwidth": 0},
    "bins=1: must be at least 2": {"bins": 1},
}


@pytest.mark.parametrize("text", sorted(BAD))
def test_bad_argument_is_one_line(text):
    with pytest.raises(InputError) as caught:
        ppp(X, **BAD[text])
    assert str(caught.value).startswith(text)


@pytest.mark.parametrize("epsilon", [0.5, 1.0])
def test_at_two_units_every_sample_lies_in_the_plane(epsilon):
    latents = isotropic(2000, 2).astype(np.float32)
    assert project(latents, epsilon=epsilon).counts == [2000]


def test_float64_latents_need_not_fit_into_float32():
    latents = isotropic(200, 4)
    for scale in (1e-60, 1e60):
        far = project(scale * latents, epsilon=0.7)
        near = project(latents, epsilon=0.7)
        np.testing.assert_array_equal(far.sample, near.sample)
        np.testing.assert_allclose(far.points, scale * near.points, rtol=1e-5)


@pytest.mark.parametrize("latents", [np.ones(3), np.ones((0, 3)), np.ones((2, 3), complex)])
def test_latents_that_are_no_vectors(latents):
    with pytest.raises(InputError, match=r"must be real, \(samples, units\)"):
        project(latents)


def test_no_warning_on_good_input():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ppp(isotropic(500))
