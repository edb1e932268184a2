"""PPP densities against their exact null, and what may not change them."""

import warnings

import numpy as np
import pytest
import xarray as xr

from ppp_jax.analysis import EmptyPPPWarning, plot_ppp, ppp, project
from ppp_jax.analysis.projection import isotropic_null
from ppp_jax.errors import InputError
from tests.clouds import isotropic


def test_grouping_lengths_is_fine_enough():
    """The null of 5,000 lengths, represented by 256, against all 5,000."""
    lengths = np.random.default_rng(0).gamma(2, size=5000)
    r = np.linspace(0, 10, 50)
    share = np.clip(r[:, None] / lengths, 0.85, 1)
    exact = ((1 - 0.85**2) ** 3 - (1 - share**2) ** 3).mean(axis=1)
    grouped = isotropic_null.radius_distribution(r, lengths, 8, 0.85)
    np.testing.assert_allclose(grouped, exact, atol=3e-3 * exact[-1])


@pytest.mark.parametrize("units", [2, 3, 8])
def test_null_density_holds_the_null_acceptance(units):
    lengths = np.random.default_rng(0).uniform(0.5, 1, size=500)
    mass = isotropic_null.density_mass(lengths, units, 0.85, np.linspace(-1.1, 1.1, 101))
    np.testing.assert_allclose(mass.sum(), isotropic_null.acceptance(units, 0.85), rtol=5e-3)
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


@pytest.mark.filterwarnings("ignore::ppp_jax.analysis.EmptyPPPWarning")
def test_nothing_but_zeros_is_an_empty_picture():
    picture = ppp(np.zeros((4, 3)))
    assert picture.samples == 0
    assert not picture["density"].any()
    assert picture["ratio"].isnull().all()
    picture = ppp(np.full((4, 3), np.nan), nonfinite="drop")
    assert picture.dropped_rows == 4


def labelled(seed=0):
    """Two seeds, three snapshots; the second seed stands on the axes."""
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(2, 3, 400, 5))
    values[1] = np.eye(5)[rng.integers(5, size=(3, 400))] + 0.1 * values[1]
    coords = {"seed": [5, 7], "epoch": ("step", [0, 1, 9])}
    return xr.DataArray(values, dims=("seed", "step", "sample", "unit"), coords=coords)


def test_several_epsilons_in_one_pass_are_each_as_alone():
    latents, options = labelled(), {"extent": 3.0, "bins": 40}
    sweep = ppp(latents, epsilon=[0.95, 0.5, 0.7], **options)
    np.testing.assert_array_equal(sweep["epsilon"], [0.5, 0.7, 0.95])
    for epsilon in (0.5, 0.7, 0.95):
        alone = ppp(latents, epsilon=epsilon, **options)
        xr.testing.assert_allclose(sweep.sel(epsilon=epsilon), alone)
        assert alone.accepted == project(latents, epsilon=epsilon).sizes["point"]


def test_axes_kept_apart_are_each_as_alone():
    latents, options = labelled(), {"extent": 3.0, "bins": 40, "epsilon": 0.6}
    apart = ppp(latents, by=("step", "seed"), **options)
    assert apart["ratio"].dims == ("step", "seed", "v", "u")
    np.testing.assert_array_equal(apart["seed"], [5, 7])
    np.testing.assert_array_equal(apart["epoch"], [0, 1, 9])
    for step in range(3):
        for seed in range(2):
            place = {"step": step, "seed": seed}
            alone = ppp(latents.isel(place), **options)
            for name in ("density", "null", "ratio", "log_ratio", "accepted", "acceptance_ratio"):
                np.testing.assert_allclose(apart[name].isel(place), alone[name], atol=1e-12)
    pooled = ppp(latents, by="step", **options)
    assert pooled.accepted.values.tolist() == apart.accepted.sum("seed").values.tolist()
    unnamed = ppp(latents.values, by="axis_0", **options)
    np.testing.assert_array_equal(unnamed.accepted, apart.accepted.sum("step"))


def test_correlated_samples_stay_pairs():
    """A tilted ellipse in one plane is seen tilted: u and v are never taken apart."""
    rng = np.random.default_rng(0)
    u = rng.normal(size=2000)
    latents = np.stack([u, 0.8 * u + 0.2 * rng.normal(size=2000)], axis=1)
    latents[::7, 0] = np.nan
    picture = ppp(latents, epsilon=0.5, bins=60, nonfinite="drop", extent=4, bandwidth=0.1)
    weight = picture["density"] / picture["density"].sum()
    mean = {axis: (weight * picture[axis]).sum() for axis in "uv"}
    cross = (weight * (picture["u"] - mean["u"]) * (picture["v"] - mean["v"])).sum()
    kept = np.delete(latents, np.s_[::7], axis=0)
    np.testing.assert_allclose(cross, np.cov(kept.T)[0, 1], rtol=0.02)


@pytest.mark.parametrize(
    "latents",
    [np.ones((1, 2)), np.ones((500, 3)), np.eye(2), np.full((3, 4), 1e-30), np.ones((2, 5)) * 7],
    ids=["one", "repeated", "two", "tiny", "few"],
)
@pytest.mark.filterwarnings("ignore::ppp_jax.analysis.EmptyPPPWarning")
def test_degenerate_clouds_give_finite_pictures(latents):
    picture = ppp(latents, epsilon=[0.3, 0.9], bins=30)
    for name in ("density", "null", "acceptance_ratio"):
        assert np.isfinite(picture[name]).all()
    area = float(picture["u"][1] - picture["u"][0]) ** 2
    # Up to what the Gaussian spreads over the edge.
    assert (picture["density"].sum(["u", "v"]) * area <= picture["acceptance"] * 1.001).all()


def test_logarithm_is_floored_where_nothing_was_found():
    picture = ppp(labelled().isel(seed=1), epsilon=0.5, bins=40)
    there = np.isfinite(picture["ratio"])
    np.testing.assert_array_equal(there, np.isfinite(picture["log_ratio"]))
    pairs = picture.samples * picture.frame_planes
    half_a_point = 0.5 / (pairs * 4 * np.pi * picture.bandwidth**2)
    found = (there & (picture["density"] >= half_a_point)).values
    assert 0 < found.sum() < there.sum()
    expected = np.log2(picture["ratio"].values[found])
    np.testing.assert_allclose(picture["log_ratio"].values[found], expected, atol=1e-9)
    lowest = np.log2(half_a_point / picture["null"]).where(there)
    assert (picture["log_ratio"] >= lowest - 1e-9).where(there, True).all()


@pytest.mark.parametrize(
    ("samples", "units", "text", "remedy"),
    [
        (500, 16, "too few samples:\n7.6 expected", "7.6 points of .* or more samples$"),
        (300, 8, "none of 180\nexpected points", "180 points of .* a smaller epsilon$"),
        (2000, 8, "nothing\naccepted,\n1,197 expected", "1,197 points of .* a smaller epsilon$"),
    ],
)
def test_an_empty_picture_says_so_and_how_many_points_were_expected(samples, units, text, remedy):
    corners = np.sign(np.random.default_rng(0).normal(size=(samples, units)))
    with pytest.warns(EmptyPPPWarning, match=remedy):
        picture = ppp(corners)
    axes = plot_ppp(picture)
    assert text in [one.get_text() for one in axes.texts]
    assert "(none)" in axes.get_title()


def test_expected_points_are_those_of_isotropic_latents():
    latents = np.random.default_rng(0).normal(size=(2, 3000, 6))
    picture = ppp(latents, by="axis_0", epsilon=[0.6, 0.8])
    assert picture.expected.dims == picture.accepted.dims
    null = 3000 * 15 * picture.acceptance_null.values
    np.testing.assert_allclose(picture.expected, np.tile(null, (2, 1)))
    np.testing.assert_allclose(picture.accepted, picture.expected, rtol=0.1)


def test_a_warning_is_of_the_pictures_that_are_empty():
    latents = np.tile([[1.0, 0.9, 0.8, 0.0]], (10, 1))  # a cosine of 0.86 with the nearest plane
    with pytest.warns(EmptyPPPWarning, match=r"where 11 points of .*: 1 picture is empty"):
        ppp(latents, epsilon=[0.5, 0.9])


def test_a_wide_layer_has_a_null_below_all_numbers():
    """Samples on the axes lie in 2 of n planes each; A0 = (1 − ε²)^(n/2 − 1) is 10⁻⁸³⁴ here."""
    picture = ppp(np.eye(3000)[::10])
    assert picture.acceptance_null == 0
    assert picture.acceptance_ratio == np.inf
    expected = np.log10(2 / 3000) - 1499 * np.log10(1 - 0.85**2)
    assert picture.log10_acceptance_ratio.item() == pytest.approx(expected)
    axes = plot_ppp(picture)
    assert axes.get_title() == f"A/A0 = 10^{expected:.0f}"
    assert any("(null too small)" in text.get_text() for text in axes.texts)
    assert len(axes.images) == 2


def test_warns_of_empty_pictures_among_several():
    with pytest.warns(EmptyPPPWarning, match="1 picture is empty"):
        ppp(np.ones((5, 16)), epsilon=[0.1, 0.85])


X = np.ones((5, 3))
BAD = {
    "epsilon=1.2: must lie in [0, 1]": {"epsilon": 1.2},
    "epsilon=-0.1: must lie in [0, 1]": {"epsilon": -0.1},
    "epsilon=nan: must lie in [0, 1]": {"epsilon": float("nan")},
    "planes=all: must be": {"planes": "all"},
    "max_planes=0: must be at least 1": {"max_planes": 0},
    "nonfinite=ignore: must be": {"nonfinite": "ignore"},
    "basis=array (2, 2): must be an array of real numbers, (vectors, 3), or one of the names": {
        "basis": np.eye(2)
    },
    "basis=array (2, 3): has a zero": {"basis": np.array([[1.0, 0, 0], [0, 0, 0]])},
    "basis=array (2, 3): spans no plane": {"basis": np.array([[1.0, 0, 0], [-2, 0, 0]])},
    "basis=array (1, 3): spans no plane": {"basis": np.eye(3)[:1]},
    "basis=array (3, 3): must be an array of real numbers": {"basis": np.eye(3) * 1j},
    "basis=simplx: unknown; did you mean simplex": {"basis": "simplx"},
    "basis=thomson: must be one of": {"basis": "thomson"},
    "by=seed: must name different axes among []": {"by": "seed"},
    "epsilon=[]: must be a number": {"epsilon": []},
    "epsilon=1.5: must lie in [0, 1]": {"epsilon": [0.5, 1.5]},
    "bins=2.5: must be a whole number": {"bins": 2.5},
    "bins=100000: must be at most 8192 for so many pictures": {"bins": 100_000},
    "max_planes=2.5: must be a whole number": {"max_planes": 2.5},
    "plane_seed=-1: must be at least 0": {"plane_seed": -1},
    "extent=wide: must be a positive": {"extent": "wide"},
    "bandwidth=9.0: must be at most the extent of the picture, 2": {"bandwidth": 9, "extent": 2},
    "extent=-1: must be a positive": {"extent": -1},
    "bandwidth=0: must be a positive": {"bandwidth": 0},
    "bins=1: must be at least 2": {"bins": 1},
    "extent=1e+200: is too small or too large to be squared": {"extent": 1e200},
}


@pytest.mark.parametrize("text", sorted(BAD))
def test_bad_argument_is_one_line(text):
    with pytest.raises(InputError) as caught:
        ppp(X, **BAD[text])
    assert str(caught.value).startswith(text)


def test_latents_beyond_any_area_are_one_line_and_others_need_no_rescaling():
    latents = isotropic(50)
    for scale in (1e300, 1e-300):
        with pytest.raises(InputError, match=r"extent=.* rescale the latents"):
            ppp(latents * scale)
    for scale in (2.0**200, 2.0**-200):
        np.testing.assert_array_equal(ppp(latents * scale).ratio, ppp(latents).ratio)


def test_what_ppp_does_not_return_is_not_drawn():
    with pytest.raises(InputError, match=r"picture=Dataset: must be what ppp\(…\) returns"):
        plot_ppp(project(isotropic(50)))
    with pytest.raises(InputError, match=r"picture=ndarray: must be what ppp"):
        plot_ppp(X)


def test_no_warning_on_good_input():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ppp(isotropic(500))


def test_pictures_of_single_planes_sum_up_to_that_of_all():
    latents, options = labelled(), {"epsilon": [0.5, 0.8], "bins": 24, "extent": 3.0}
    for by in ((), ("step",), ("seed", "step")):
        pooled = ppp(latents, by=by, **options)
        apart = ppp(latents, by=by, planes_apart=True, **options)
        assert apart["ratio"].dims == (*by, "plane", "epsilon", "v", "u")
        xr.testing.assert_equal(apart["accepted"].sum("plane"), pooled["accepted"])
        xr.testing.assert_allclose(apart["density"].mean("plane"), pooled["density"])
        np.testing.assert_allclose(apart["null"].isel(plane=4), pooled["null"])
        assert apart["first"].values.tolist() == [0, 0, 0, 0, 1, 1, 1, 2, 2, 3]
        assert apart["second"].values.tolist() == [1, 2, 3, 4, 2, 3, 4, 3, 4, 4]


def test_a_picture_of_a_plane_is_that_of_its_two_vectors_alone():
    latents, options = labelled(), {"epsilon": 0.5, "bins": 24, "extent": 3.0}
    apart = ppp(latents, planes_apart=True, **options)
    alone = ppp(latents, basis=np.eye(5)[[1, 3]], **options)
    for name in ("density", "null", "ratio", "accepted", "acceptance_ratio"):
        np.testing.assert_allclose(apart[name].isel(plane=5), alone[name], atol=1e-12)


def test_the_fullest_planes_come_first():
    latents, options = labelled(), {"epsilon": 0.5, "bins": 24, "extent": 3.0}
    every = ppp(latents, planes_apart=True, **options)
    fullest = ppp(latents, planes_apart=True, top=3, **options)
    assert fullest["accepted"].values.tolist() == sorted(every["accepted"].values)[:-4:-1]
    for k, row in enumerate(fullest["row"].values):
        np.testing.assert_array_equal(fullest["density"][k], every["density"][row])
        assert fullest["second"][k] == every["second"][row]
    assert ppp(latents, planes_apart=True, top=99, **options).sizes["plane"] == 10


def test_too_many_planes_name_the_argument_that_helps():
    wide = np.eye(200)
    with pytest.raises(InputError, match=r"top=None: would make pictures of 19,900 planes.* 4,096"):
        ppp(wide, planes_apart=True)
    assert ppp(wide, planes_apart=True, top=2, bins=16).sizes["plane"] == 2
    with pytest.raises(InputError, match=r"top=3: keeps planes that are apart"):
        ppp(wide, top=3)
    named = xr.DataArray(np.ones((2, 5, 3)), dims=("plane", "sample", "unit"))
    with pytest.raises(InputError, match=r"by=plane: .*rename the axis"):
        ppp(named, by="plane", planes_apart=True)
