"""PPP's points against the author's outputs, a slow plain reference, and their symmetries."""

import itertools

import jax
import ml_dtypes
import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

from ppp_jax.analysis import EmptyPPPWarning, project
from ppp_jax.analysis.projection import isotropic_null
from ppp_jax.errors import InputError
from tests import ROOT, plain
from tests.clouds import isotropic

CASES = sorted((ROOT / "tests" / "data").glob("*.npz"))
PLANES = {"COMB": "combinations", "PERM": "permutations"}


def compare_with_author(case, dtype, tolerance):
    projection = project(
        case["latents"].astype(dtype),
        basis=case["basis"],
        epsilon=float(case["epsilon"]),
        planes=PLANES[str(case["mode"])],
    )
    assert projection.points.dtype == dtype
    order = {tuple(pair): k for k, pair in enumerate(projection.planes.values.tolist())}
    theirs = [order[tuple(pair)] for pair in case["planes"].tolist()]
    assert len(order) == len(theirs)
    counts, points = projection.counts.values, projection.points.values
    np.testing.assert_array_equal(counts[theirs], case["counts"])
    ends = np.cumsum(counts)
    mine = [points[ends[k] - counts[k] : ends[k]] for k in theirs]
    np.testing.assert_allclose(np.concatenate(mine), case["points"], rtol=0, atol=tolerance)


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_equals_the_author(path):
    case = np.load(path)
    compare_with_author(case, np.float32, 1e-6 * np.abs(case["points"]).max())
    compare_with_author(case, np.float64, 1e-12)


@settings(max_examples=25)
@given(
    samples=st.integers(1, 12),
    units=st.integers(2, 5),
    extra=st.integers(0, 3),
    epsilon=st.sampled_from([0.0, 0.3, 0.85, 0.99]),
    order=st.sampled_from(["combinations", "permutations"]),
    seed=st.integers(0, 10_000),
)
@pytest.mark.filterwarnings("ignore::ppp_jax.analysis.EmptyPPPWarning")
def test_equals_the_plain_reference(samples, units, extra, epsilon, order, seed):
    rng = np.random.default_rng(seed)
    latents = rng.normal(size=(samples, units))
    latents[rng.random(samples) < 0.2] = 0
    basis = rng.normal(size=(units + extra, units))
    basis[-1] = -2 * basis[0] if extra else basis[-1]  # an antiparallel pair spans no plane
    projection = project(latents, basis=basis, epsilon=epsilon, planes=order)
    expected, _ = plain.ppp(latents, basis, epsilon, order=getattr(itertools, order))
    assert projection.zero_rows == np.sum(~latents.any(axis=1))
    assert projection.skipped_planes == (0 if not extra else 2 if order == "permutations" else 1)
    points = np.array([e[3:] for e in expected]).reshape(-1, 2)
    np.testing.assert_allclose(projection.points, points, atol=1e-12)


def test_rotating_latents_with_their_basis_changes_nothing():
    """PPP(XR, BR) = PPP(X, B)."""
    rng = np.random.default_rng(0)
    latents, basis = rng.laplace(size=(300, 6)), rng.normal(size=(8, 6))
    r = np.asarray(jax.random.orthogonal(jax.random.key(0), 6), np.float64)
    r = np.linalg.qr(r)[0]
    one, other = project(latents, basis=basis), project(latents @ r, basis=basis @ r)
    np.testing.assert_array_equal(one.sample, other.sample)
    np.testing.assert_allclose(one.points, other.points, atol=1e-12)


def test_scaling_and_permutations():
    rng = np.random.default_rng(1)
    latents, basis = rng.laplace(size=(200, 5)), rng.normal(size=(5, 5))
    one = project(latents, basis=basis)
    np.testing.assert_array_equal(one.points, project(latents, basis=4 * basis).points)
    np.testing.assert_allclose(1e9 * one.points, project(1e9 * latents, basis=basis).points)
    # Both orders: the second is the reflection φ → α − φ of the first.
    both = project(latents, basis=basis, planes="permutations")
    unit = basis / np.linalg.norm(basis, axis=1, keepdims=True)
    index = {tuple(pair): k for k, pair in enumerate(both.planes.values.tolist())}
    points, plane = both.points.values, both.plane.values
    for (i, j), k in index.items():
        alpha = np.arccos(unit[i] @ unit[j])
        first = np.arctan2(*points[plane == k].T[::-1])
        second = np.arctan2(*points[plane == index[j, i]].T[::-1])
        np.testing.assert_allclose(np.exp(1j * (alpha - first)), np.exp(1j * second), atol=1e-9)


@pytest.mark.parametrize("units", [2, 3, 8, 16])
@pytest.mark.parametrize("epsilon", [0.0, 0.5, 0.85])
def test_isotropic_acceptance_is_the_exact_null(units, epsilon):
    latents = isotropic(units=units)
    projection = project(latents, epsilon=epsilon)
    share = projection.counts / len(latents)
    expected = isotropic_null.acceptance(units, epsilon)
    error = np.sqrt(max(expected * (1 - expected), 1e-12) / len(latents))
    assert np.abs(share - expected).max() < 5 * error


def test_isotropic_angles_are_uniform_and_radii_follow_the_exact_law():
    latents = isotropic()
    projection = project(latents, epsilon=0.8)
    lengths = np.linalg.norm(latents, axis=1)
    every = projection.points.values
    for plane in (0, 11, 27):
        points = every[projection.plane.values == plane]
        angle = np.arctan2(points[:, 1], points[:, 0])
        for k in (1, 2, 3, 4):
            assert np.abs(np.exp(1j * k * angle).mean()) < 5 / np.sqrt(len(angle))
    radius = np.linalg.norm(every, axis=1)
    at = np.quantile(radius, np.linspace(0.05, 0.95, 10))
    empirical = np.searchsorted(np.sort(radius), at) / (len(latents) * projection.sizes["row"])
    exact = isotropic_null.radius_distribution(at, lengths, 8, 0.8)
    np.testing.assert_allclose(exact, empirical, atol=0.01 * isotropic_null.acceptance(8, 0.8))


def test_any_array_is_read_and_labelled_ones_by_name():
    values = np.random.default_rng(0).normal(size=(3, 20, 4)).astype(np.float32)
    expected = project(values.reshape(60, 4))
    labelled = xr.DataArray(values, dims=("seed", "sample", "unit")).transpose("unit", ...)
    for latents in (values, values.tolist(), jax.numpy.asarray(values), labelled):
        got = project(latents)
        np.testing.assert_array_equal(got.points, expected.points)
        np.testing.assert_array_equal(got.sample, expected.sample)


@pytest.mark.parametrize("dtype", [np.int8, np.uint16, bool, np.float16, ml_dtypes.bfloat16])
def test_narrow_types_are_computed_in_single_precision(dtype):
    values = np.random.default_rng(0).integers(0, 2, size=(50, 4)).astype(dtype)
    got = project(values, epsilon=0.5)
    assert got.points.dtype == np.float32
    expected = project(values.astype(np.float64), epsilon=0.5)
    np.testing.assert_array_equal(got.points, expected.points)


def test_zero_and_nonfinite_rows_are_counted_and_samples_keep_their_place():
    latents = np.array([[1, 0, 0], [0, 0, 0], [np.nan, 1, 0], [0, 1, 0], [np.inf, 0, 0]])
    for dtype in (np.float32, np.float64):
        values = latents.astype(dtype)
        with pytest.raises(InputError, match="2 of 5 samples: are not finite"):
            project(values)
        projection = project(values, nonfinite="drop")
        assert (projection.samples, projection.zero_rows, projection.dropped_rows) == (2, 1, 2)
        assert set(projection.sample.values) == {0, 3}


@pytest.mark.parametrize("epsilon", [0.5, 1.0])
def test_at_two_units_every_sample_lies_in_the_plane(epsilon):
    latents = isotropic(2000, 2).astype(np.float32)
    assert project(latents, epsilon=epsilon).counts == [2000]


@pytest.mark.parametrize("basis", [None, "haar:0", "simplex"])
def test_every_finite_length_will_do(basis):
    latents = isotropic(200, 4)
    near = project(latents, epsilon=0.7, basis=basis)
    for scale in (1e-300, 1e-60, 1e60, 1e300):
        far = project(scale * latents, epsilon=0.7, basis=basis)
        np.testing.assert_array_equal(far.sample, near.sample)
        # A coordinate may be the small difference of large ones: relative to the vectors' length.
        longest = scale * np.abs(near.points).max()
        np.testing.assert_allclose(far.points, scale * near.points, rtol=1e-12,
                                   atol=1e-14 * longest.item())  # fmt: skip
    mixed = np.concatenate([1e-300 * latents, latents, 1e300 * latents])
    counted = project(mixed, epsilon=0.7, basis=basis).counts
    np.testing.assert_array_equal(counted, 3 * near.counts)
    small = project((1e-44 * latents).astype(np.float32), epsilon=0.7, basis=basis)
    assert small.zero_rows < 200
    assert small.samples + small.zero_rows == 200


def test_result_says_how_it_was_made():
    projection = project(np.eye(4), basis="haar:3", epsilon=0.3)
    assert projection.attrs["basis"] == "haar:3"
    assert projection.attrs["epsilon"] == 0.3
    assert projection.attrs["made_by"].startswith("ppp_jax ")
    assert projection.planes.dims == ("row", "vector")


def test_nothing_accepted_is_told_with_the_blind_spot():
    corners = np.sign(np.random.default_rng(0).normal(size=(500, 16)))
    with pytest.warns(EmptyPPPWarning, match=r"does not mean that there is no structure.*0\.354"):
        projection = project(corners)
    assert projection.sizes["point"] == 0


@pytest.mark.parametrize(
    "latents", [np.ones(3), np.ones((0, 3)), np.ones((2, 3), complex), [["a"]]]
)
def test_latents_that_are_no_vectors(latents):
    with pytest.raises(InputError, match=r"must be real, \(samples, units\)"):
        project(latents)


class Tensor:
    """Refuses to become an array, as a PyTorch tensor that needs its gradient does."""

    def __array__(self, *_, **__):
        raise RuntimeError("Can't call numpy() on Tensor that requires grad.")


def test_what_is_no_array_is_told_what_to_do():
    with pytest.raises(InputError, match=r"latents=.*is no array .*\.detach\(\)\.cpu\(\)\.float"):
        project(Tensor())
    with pytest.raises(InputError, match=r"latents=list: has rows of unequal.*concatenate"):
        project([[1, 2], [3]])


def test_a_path_is_asked_to_be_opened():
    with pytest.raises(InputError, match=r"latents=x\.npy: is a path; open it by load"):
        project("x.npy")


def test_what_is_masked_is_not_finite():
    masked = np.ma.masked_greater(np.arange(12.0).reshape(4, 3), 9)
    with pytest.raises(InputError, match="1 of 4 samples: are not finite"):
        project(masked)


def test_a_dataset_is_asked_for_one_array():
    dataset = xr.Dataset({name: (("sample", "unit"), np.ones((3, 2))) for name in ("pre", "post")})
    with pytest.raises(InputError, match=r"name one array of it: \['post', 'pre'\]"):
        project(dataset)


def test_one_epsilon_at_a_time():
    with pytest.raises(InputError, match="must be one number here"):
        project(np.eye(3), epsilon=[0.5, 0.8])
