"""Spotlight Resonance: interval counting against the definition, the author, the exact null."""

import itertools
import pathlib

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure

from ppp_jax.analysis import EmptyPPPWarning, plot_srm, project, srm
from ppp_jax.analysis.projection import isotropic_null
from ppp_jax.errors import InputError
from tests import plain
from tests.analysis.projection.test_kernel import made, made_basis
from tests.analysis.projection.test_points import CASES, PLANES
from tests.clouds import isotropic


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("key", ["srm", "signed_srm"])
def test_equals_the_author(path: pathlib.Path, dtype, key):
    case = np.load(path)
    curves = srm(
        case["latents"].astype(dtype),
        basis=case["basis"],
        epsilon=float(case["epsilon"]),
        planes=PLANES[str(case["mode"])],
        angles=case["angles"],
        signed=key == "signed_srm",
        orientation="reference",
    )
    pairs = list(zip(curves.first.values.tolist(), curves.second.values.tolist(), strict=True))
    order = {pair: k for k, pair in enumerate(pairs)}
    theirs = [order[tuple(pair)] for pair in case["planes"].tolist()]
    # Zero rows stay in the author's denominator.
    mine = curves.srm.values[theirs] * (curves.samples / len(case["latents"]))
    np.testing.assert_allclose(mine, case[key], rtol=0, atol=1e-12)


@settings(max_examples=60)
@given(
    kind=st.sampled_from(["normal", "heavy", "integer", "axes", "equal"]),
    basis=st.sampled_from(["standard", "rotated", "frame"]),
    units=st.integers(2, 5),
    epsilon=st.sampled_from([0.0, 0.3, 0.5, np.sqrt(0.5), 0.85, 1.0]),
    angles=st.sampled_from([1, 4, 8, 12, "random"]),
    signed=st.booleans(),
    order=st.sampled_from(["combinations", "permutations"]),
    seed=st.integers(0, 10_000),
)
@pytest.mark.filterwarnings("ignore::ppp_jax.analysis.EmptyPPPWarning")
def test_is_the_definition(kind, basis, units, epsilon, angles, signed, order, seed):
    """On thresholds too: at 8 angles a diagonal sample and ε = √½ meet the probe exactly."""
    rng = np.random.default_rng(seed)
    latents = made(kind, 8, units, rng)
    latents[0] = 1
    vectors = made_basis(basis, units, rng)
    if angles == "random":
        angles = rng.uniform(-10, 10, size=9)
    curves = srm(
        latents, basis=vectors, epsilon=epsilon, angles=angles, signed=signed, planes=order
    )
    expected = plain.srm(
        latents,
        vectors,
        epsilon,
        curves.angle.values,
        signed=signed,
        order=getattr(itertools, order),
    )
    np.testing.assert_allclose(curves.srm, expected, atol=1e-12)
    np.testing.assert_allclose(curves.pooled, expected.mean(axis=0), atol=1e-12)


@pytest.mark.parametrize("units", [2, 3, 8])
@pytest.mark.parametrize("epsilon", [0.0, 0.5, 0.75])
def test_isotropic_latents_give_the_exact_null(units, epsilon):
    latents = isotropic(units=units)
    curves = srm(latents, epsilon=epsilon, angles=12)
    null = isotropic_null.spotlight(units, epsilon)
    assert curves.null == null
    error = np.sqrt(null * (1 - null) / len(latents))
    assert np.abs(curves.srm - null).max() < 5 * error
    both = srm(latents, epsilon=epsilon, angles=12, signed=True)
    assert both.null == 0
    assert np.abs(both.srm).max() < 5 * np.sqrt(2) * error


def test_null_at_known_places():
    assert isotropic_null.spotlight(8, 0.75) == pytest.approx(0.00997, abs=5e-6)
    assert isotropic_null.spotlight(5, 0.0) == pytest.approx(0.5)
    assert isotropic_null.spotlight(2, 0.5) == pytest.approx(1 / 3)  # 120° of the circle
    assert isotropic_null.spotlight(3, 0.5) == pytest.approx(0.25)  # a cap of the sphere: (1 − ε)/2
    with pytest.raises(InputError):
        isotropic_null.spotlight(1, 0.5)


def test_turns_towards_the_second_vector():
    latents = np.array([[0.0, 1.0, 0.0]])
    curves = srm(latents, epsilon=0.99, angles=[0, np.pi / 2, -np.pi / 2])
    first = curves.sel(plane=(curves.first == 0) & (curves.second == 1)).srm.values
    np.testing.assert_array_equal(first, [[0, 1, 0]])
    against = srm(latents, epsilon=0.99, angles=[0, np.pi / 2, -np.pi / 2], orientation="reference")
    np.testing.assert_array_equal(against.srm.values[0], [0, 0, 1])


def test_equal_angles_have_no_duplicated_end():
    angles = srm(np.eye(3), angles=8).angle.values
    np.testing.assert_allclose(angles, np.arange(8) * np.pi / 4)


def test_several_epsilons_in_one_pass_are_each_as_alone():
    latents = isotropic(500, 5)
    together = srm(latents, epsilon=[0.9, 0.3, 0.6], angles=20, signed=True)
    for epsilon in (0.3, 0.6, 0.9):
        alone = srm(latents, epsilon=epsilon, angles=20, signed=True)
        xr.testing.assert_identical(together.sel(epsilon=epsilon), alone)


def test_top_planes_keep_their_curves_and_the_mean_is_of_all():
    latents = isotropic(400, 7)
    everything = srm(latents, epsilon=0.7, angles=24, top=None)
    some = srm(latents, epsilon=0.7, angles=24, top=5)
    counts = project(latents, epsilon=0.7).counts.values
    assert sorted(counts[some.row.values]) == sorted(counts)[-5:]
    np.testing.assert_array_equal(some.srm, everything.srm.values[some.row.values])
    np.testing.assert_array_equal(some.pooled, everything.pooled)


def test_an_empty_spotlight_warns():
    corners = np.sign(np.random.default_rng(0).normal(size=(50, 16)))
    with pytest.warns(EmptyPPPWarning, match="blind|does not mean"):
        curves = srm(corners)
    assert not curves.pooled.any()


BAD = {
    "angles=0: must be at least 1": {"angles": 0},
    "angles=nan: must be a number of angles": {"angles": float("nan")},
    "angles=[]: must be a number of angles": {"angles": []},
    "angles=[inf]: must be finite": {"angles": [float("inf")]},
    "orientation=left: must be 'ppp' or 'reference'": {"orientation": "left"},
    "top=0: must be at least 1": {"top": 0},
    "top=None: would keep 3 curves, which is too many": {"top": None, "angles": 12_000_000},
    "epsilon=2: must lie in [0, 1]": {"epsilon": 2},
}


@pytest.mark.parametrize("text", sorted(BAD))
def test_bad_argument_is_one_line(text):
    with pytest.raises(InputError) as caught:
        srm(np.eye(3), **BAD[text])
    assert str(caught.value).startswith(text)


def test_plot_closes_the_circle_and_draws_the_null():
    curves = srm(isotropic(300, 4), epsilon=0.5, angles=[1.0, 0.5, -1.0])
    axes = Figure().add_subplot(projection="polar")
    assert plot_srm(curves, ax=axes) is axes
    assert len(axes.lines) == 6 + 2
    null, mean = axes.lines[-2:]
    turn, share = mean.get_data()
    np.testing.assert_allclose(turn, [0.5, 1.0, 2 * np.pi - 1, 2 * np.pi + 0.5])
    np.testing.assert_array_equal(share, curves.pooled.values[[1, 0, 2, 1]])
    assert set(null.get_ydata()) == {curves.null.item()}
    with pytest.raises(InputError, match="select one along epsilon"):
        plot_srm(srm(np.eye(3), epsilon=[0.1, 0.2]))
    with pytest.raises(InputError, match=r"curves=Dataset: must be what srm"):
        plot_srm(project(np.eye(3)))
