"""A statistic is one entry: tests, tables, figures and pages follow from it."""

import jax.numpy as jnp
import numpy as np
import pytest
import xarray as xr

import ppp_jax.analysis as pa
from ppp_jax.analysis.plots import evidence
from ppp_jax.analysis.report.evidence import format_verdicts
from ppp_jax.analysis.results import tables, verdicts
from ppp_jax.analysis.results.measure import measure
from ppp_jax.analysis.statistics import registry
from ppp_jax.analysis.statistics.registry import BASIS, CLOUD, STATISTICS, Statistic
from ppp_jax.errors import InputError
from tests.analysis.results.test_verdicts import made_up


def largest_share(cloud, vectors, planes):
    """A toy: how much of a sample's length is its largest projection."""
    del planes
    onto = jnp.abs(cloud @ vectors.T)
    return jnp.mean(jnp.max(onto, axis=-1) / jnp.linalg.norm(cloud, axis=-1))


TOY = Statistic(
    "largest_share", "largest share of a vector", "largest share", BASIS, largest_share,
    family="shape",
    sides=("samples nearer to the diagonals", "samples nearer to single vectors"),
    moves=("training spread it", "training gathered it"),
    compared=("pre",),
)  # fmt: skip


@pytest.fixture
def toy(monkeypatch):
    monkeypatch.setattr(registry, "STATISTICS", dict(STATISTICS))
    return registry.register_statistic(TOY)


def test_one_registration_reaches_every_table_and_figure(toy):
    measured = measure(made_up(("relu", "isotropic_tanh")), epsilon=0.6, rotations=19)
    assert "largest_share_pre_z" in measured.runs
    assert measured.runs["largest_share_pre"].attrs["long_name"].startswith(toy.label)
    (table,) = verdicts.verdict_table([measured])
    row = table[table["activation"] == "relu"].iloc[0]
    assert row["largest_share_q"] <= 0.05
    assert f"{toy.sides[1]}, over seeds" in row["verdict_shape"]
    assert toy.moves[1].removeprefix("training ") in row["verdict_training"]
    header, body = format_verdicts(table)
    assert f"{toy.short}: z, q networks, q seeds" in header
    assert len(body[0]) == len(header)
    differences = verdicts.difference_table(measured.runs)
    assert "largest_share_pre" in set(differences["quantity"])
    figure = evidence.plot_forest(differences, labels=["activation"])
    titles = {axes.get_title(loc="left").replace("\n", " ") for axes in figure.axes}
    assert "largest share before activation, above null" in titles
    assert "largest_share_pre" in tables.cell_table(measured.runs)


@pytest.mark.parametrize("orthonormal", [True, False])
def test_each_basis_is_judged_by_its_own_statistics(orthonormal):
    """C4 means axes and diagonals, which vectors that are not orthogonal do not have."""
    found = {
        family: [one.name for one in registry.judging(orthonormal=orthonormal, family=family)]
        for family in registry.FAMILIES
    }
    assert found == {
        "mean": ["mean_axes", "mean_ones"] if orthonormal else ["mean_ones"],
        "covariance": ["covariance"],
        "shape": ["shape"] if orthonormal else ["shape_kurtosis"],
        "quantisation": ["axis_quantisation"],
        "angles": ["mode_1", "mode_2", "mode_3"],
    }
    together = {one.name for one in registry.judging(orthonormal=orthonormal)}
    assert together == {name for names in found.values() for name in names}


def test_every_statistic_that_judges_has_words_and_none_that_describes_does():
    judges = {*registry.judging(orthonormal=True), *registry.judging(orthonormal=False)}
    for one in registry.chosen(only_reported=False):
        assert (one in judges) == (one.family is not None), one.name
        words = (*one.sides, *one.moves) if one.family else ()
        assert len(set(words)) == len(words), one.name
    for name in ("c4", "unit_kurtosis", "neighbour_ratio", "valley_depth", "acceptance_ratio"):
        assert registry.STATISTICS[name].family is None
    reference = registry.reference()
    assert all(f"| `{name}` " in reference for name in registry.STATISTICS)


def test_a_rotation_test_measures_what_it_is_asked_for_and_no_more():
    cloud = np.random.default_rng(0).laplace(size=(300, 5)).astype(np.float32)
    whole = pa.rotation_test(cloud, epsilon=0.6, rotations=19)
    asked = ["mode_4", "c4"]
    some = pa.rotation_test(cloud, statistics=asked, epsilon=0.6, rotations=19)
    assert some["statistic"].values.tolist() == asked
    for name in ("value", "null", "p", "rank"):
        np.testing.assert_allclose(
            some[name].values, whole[name].sel(statistic=asked).values, rtol=1e-6
        )
    own = pa.rotation_test(cloud, statistics=[TOY], rotations=19)
    expected = np.mean(np.abs(cloud).max(axis=1) / np.linalg.norm(cloud, axis=1))
    np.testing.assert_allclose(own["value"].item(), expected, rtol=1e-6)


def test_each_function_is_called_once():
    calls = []

    def counted(clouds):
        calls.append(len(clouds))
        return {"one": np.ones(len(clouds)), "two": np.zeros(len(clouds))}

    both = [Statistic(name, name, name, CLOUD, counted) for name in ("one", "two")]
    found = registry.measured(both, np.zeros((3, 4, 2)))
    assert calls == [3]
    assert found["one"].tolist() == [1, 1, 1]


@pytest.mark.parametrize(
    ("statistics", "problem"),
    [
        (["c5"], "statistics=c5: unknown"),
        ("c4", "must be names"),
        ([], "must be names"),
        (["neighbour_ratio"], "does not change under rotations"),
        (["mode_1"], "epsilon=None: is needed for mode_1"),
        (["c4", "c4"], "must be different"),
        ([5], "must be a name"),
    ],
)
def test_what_cannot_be_tested_is_one_error(statistics, problem):
    with pytest.raises(InputError, match=problem):
        pa.rotation_test(np.eye(4), statistics=statistics)


@pytest.mark.parametrize(
    ("entry", "problem"),
    [
        (TOY._replace(name="c4"), "is registered already"),
        (TOY._replace(name="a b"), "letters, digits"),
        (TOY._replace(of="samples"), "must be 'basis'"),
        (TOY._replace(of="cloud", sees="shape"), "sees=shape"),
        (TOY._replace(of="projections"), "everywhere=True"),
        (TOY._replace(judges="simplex"), "judges=simplex"),
        (TOY._replace(family="alignment"), "family=alignment"),
        (TOY._replace(moves=None), "family=shape: must be None of a statistic without"),
        (TOY._replace(of="cloud"), "family=shape: must be None of a statistic without rotation"),
    ],
)
def test_an_entry_that_cannot_be_used_is_refused(entry, problem):
    with pytest.raises(InputError, match=problem):
        registry.register_statistic(entry)


@pytest.mark.parametrize(
    "function",
    [pa.alignment_c4, pa.alignment_kurtosis, pa.unit_kurtosis, pa.acceptance_ratio,
     pa.neighbour_ratio, pa.axis_quantisation, lambda x: pa.density_peaks(x).depth,
     lambda x: pa.angles(x).entropy_deficit],
    ids=["c4", "kurtosis", "unit_kurtosis", "acceptance_ratio", "neighbour_ratio", "dip", "peaks",
         "angles"],
)  # fmt: skip
def test_labels_come_out_as_they_went_in(function):
    values = np.random.default_rng(1).normal(size=(2, 3, 60, 4))
    labelled = xr.DataArray(
        values, dims=("activation", "seed", "sample", "unit"),
        coords={"activation": ["relu", "tanh"], "seed": [5, 6, 7]},
    )  # fmt: skip
    plain, found = function(values), function(labelled)
    assert isinstance(found, xr.DataArray)
    assert found.dims == ("activation", "seed")
    assert found["seed"].values.tolist() == [5, 6, 7]
    np.testing.assert_array_equal(found.values, plain)
    turned = function(labelled.transpose("unit", "seed", "sample", "activation"))
    np.testing.assert_array_equal(turned.transpose("activation", "seed").values, plain)


def test_modes_have_an_axis_of_their_own():
    cloud = xr.DataArray(np.eye(4)[None], dims=("seed", "sample", "unit"))
    modes = pa.angles(cloud).modes
    assert modes.dims == ("seed", "mode")
    np.testing.assert_allclose(modes.sel(mode=4).values, [1.0])
