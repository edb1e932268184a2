"""When statistics appear in training, on latents whose course is made up."""

import numpy as np
import pytest
import xarray as xr

from ppp_jax import bases
from ppp_jax.analysis import rotation_test
from ppp_jax.analysis.inference import special_directions
from ppp_jax.analysis.results import emergence
from ppp_jax.errors import InputError

EPOCHS = [0, 2, 4, 8, 16]
SEEDS, UNITS = 6, 4
NAMES = {"activation": "made up", "site": "pre"}


def latents(*, corners_from, stretched_from, samples=300):
    """Gaussian latents that become corners at one snapshot, and an ellipsoid at another."""
    rng = np.random.default_rng(0)
    values = rng.normal(size=(SEEDS, len(EPOCHS), samples, UNITS))
    values[:, corners_from:] = np.sign(values[:, corners_from:]) + 0.1 * values[:, corners_from:]
    values[:, stretched_from:] *= [1, 2, 3, 4]
    return xr.DataArray(
        values.astype(np.float32),
        dims=emergence.AXES,
        coords={"seed": np.arange(SEEDS), "epoch": ("step", EPOCHS)},
    ).assign_coords(step=[10 * epoch for epoch in EPOCHS])


@pytest.fixture(scope="module")
def course():
    clouds = latents(corners_from=3, stretched_from=1)
    return emergence.statistics_course(clouds, names=NAMES, basis="standard", rotations=49)


def along(values):
    return xr.DataArray(values, dims=("step", "seed"), coords={"epoch": ("step", EPOCHS)})


def test_an_onset_is_the_first_snapshot_from_which_half_of_the_end_is_kept():
    excess = along(np.array([[0.0, 2, -1, np.nan], [3, 2, -1, 1], [0, 2, 1, 1], [1, 2, -2, 1],
                             [2, 2, -2, 0]]))  # fmt: skip
    found = emergence.onsets(excess)
    assert found.dims == ("seed",)
    np.testing.assert_array_equal(found, [8, 0, 8, np.nan])


def test_evidence_lasts_to_the_end():
    q = along(np.array([[0.01, 0.9], [0.2, 0.01], [0.05, 0.01], [0.001, 0.01], [0.04, np.nan]]))
    rank = along(np.array([[0.2, 0.3], [0.2, 0.3], [-0.4, 0.3], [0.4, 0.3], [0.4, np.nan]]))
    np.testing.assert_array_equal(emergence.evident(q, abs(rank)), [4, np.nan])
    np.testing.assert_array_equal(emergence.evident(q, rank), [8, np.nan])


def test_a_summit_is_the_first_epoch_of_the_largest_excess():
    excess = along(np.array([[0.0, np.nan], [3, np.nan], [np.nan, np.nan], [3, np.nan],
                             [-5, np.nan]]))  # fmt: skip
    np.testing.assert_array_equal(emergence.summits(excess), [2, np.nan])


def test_phases_are_ordered_by_their_summits_though_one_has_passed():
    both = special_directions.signed(np.eye(UNITS))
    sums = special_directions._sums(both.tobytes(), UNITS)
    gaussian = at_places(np.zeros((1, UNITS)), steps=1, noise=1)
    trained = [at_places(places, steps=1, noise=0.02) for places in (sums, both)]
    clouds = xr.concat([gaussian, *trained, gaussian], "step")
    clouds = clouds.assign_coords(epoch=("step", [0, 2, 4, 8]), step=range(4))
    how = {"names": NAMES, "basis": "standard", "epsilon": 0.85, "rotations": 19}
    found = emergence.pictures_course(clouds, **how)
    table = emergence.course_table([found])
    z = table.set_index(["statistic", "epoch"])["z"]
    assert z["fourfold", 2] < -5 < 5 < z["fourfold", 4]
    (row,) = emergence.phase_table([found], table).to_dict("records")
    assert (row["first"], row["second"], row["by"]) == ("axes", "diagonals", "summit")
    assert (row["difference"], row["seeds"]) == (2, SEEDS)
    assert (row["z first"], row["z second"]) == (z["fourfold", 8], -z["fourfold", 8])
    untrained = clouds.isel(step=[1, 2, 3]).assign_coords(epoch=("step", [0, 4, 8]))
    axes_only = emergence.pictures_course(untrained, **how)
    assert emergence.phase_table([axes_only], emergence.course_table([axes_only])).empty


def test_pictures_are_missing_where_nothing_is_accepted_and_thinned(monkeypatch):
    corners = np.sign(np.random.default_rng(0).normal(size=(400, 16)))
    clouds = at_places(corners, steps=2, noise=0)
    how = {"names": NAMES, "basis": "standard", "epsilon": 0.85}
    found = emergence.pictures_course(clouds, **how)
    here = found.tested["value"].sel(statistic="fourfold")
    assert here.isnull().all()
    assert (found.tested["value"].sel(statistic="acceptance_ratio") == 0).all()
    assert found.tested.attrs["rotations"] == emergence.PICTURE_ROTATIONS
    alone = emergence.pictures_course(clouds.isel(seed=[0]), rotations=30, **how)
    assert alone.tested.attrs["rotations"] == 30
    monkeypatch.setattr(emergence, "PICTURE_SAMPLES", 50)
    assert emergence.pictures_course(clouds, **how).tested.attrs["rows"] == 6 * 2 * 50


def test_a_snapshot_is_tested_as_by_itself(course):
    clouds = latents(corners_from=3, stretched_from=1)
    alone = rotation_test(clouds.isel(step=3), statistics=["shape", "covariance"], rotations=49)
    here = course.tested.isel(step=3).sel(statistic=["shape", "covariance"])
    for part in ("value", "mean", "sd", "p", "rank"):
        np.testing.assert_allclose(here[part], alone[part], rtol=1e-4, atol=1e-6)


def test_what_was_made_first_appears_first(course):
    table = emergence.course_table([course])
    assert len(table) == len(EPOCHS) * course.tested.sizes["statistic"]
    rows = emergence.onset_table([course], table).set_index("statistic")
    assert rows.loc["covariance", ["evident", "half", "low", "high"]].tolist() == [2] * 4
    assert rows.loc["shape", ["evident", "half", "low", "high"]].tolist() == [8] * 4
    assert rows.loc["axis_quantisation", "half"] == 8
    order = emergence.order_table([course], table, first="shape", second="covariance")
    (row,) = order.to_dict("records")
    assert (row["difference"], row["low"], row["high"], row["seeds"]) == (6, 6, 6, SEEDS)
    assert row["activation"] == "made up"
    assert emergence.order_table([course], table, first="shape", second="axes").empty


def test_the_untrained_has_no_evidence_and_each_statistic_is_a_family(course):
    table = emergence.course_table([course, course])
    first = table[(table["epoch"] == 0) & table["statistic"].isin(["covariance", "shape"])]
    assert (first["q networks"] > 0.05).all()
    alone = emergence.course_table([course])
    both = table.iloc[: len(alone)]
    # Twice the same tests in a family: the same q, since each has its like.
    np.testing.assert_allclose(both["q networks"], alone["q networks"], rtol=1e-6)


def test_clusters_are_held_against_special_directions_at_every_snapshot():
    rng = np.random.default_rng(1)
    places = np.concatenate([np.eye(UNITS), -np.eye(UNITS)])
    values = rng.normal(size=(SEEDS, 2, 400, UNITS))
    values[:, 1] = places[rng.integers(len(places), size=(SEEDS, 400))] + 0.02 * values[:, 1]
    clouds = xr.DataArray(
        values, dims=emergence.AXES, coords={"seed": range(SEEDS), "epoch": ("step", [0, 2])}
    ).assign_coords(step=[0, 10])
    clouds[2] = np.nan  # a network that diverged
    found = emergence.orbits_course(clouds, names=NAMES, basis="standard", rotations=49)
    assert found.tested["seed"].values.tolist() == list(range(SEEDS))
    assert (found.pooled["clouds"] == SEEDS - 1).all()
    table = emergence.course_table([found]).set_index(["statistic", "epoch"])
    assert table.loc[("axes", 2), "z"] > 5
    assert (
        table.loc[("axes", 2), "q networks"] < 0.001 < 0.05 < table.loc[("axes", 0), "q networks"]
    )
    assert table.loc[("diagonals", 2), "z"] < -2


def test_other_axes_are_refused_and_nothing_healthy_is_missing():
    clouds = latents(corners_from=3, stretched_from=1)
    with pytest.raises(InputError, match="must have the axes"):
        emergence.statistics_course(clouds.isel(step=0), names=NAMES, basis="standard")
    found = emergence.orbits_course(clouds * np.nan, names=NAMES, basis="standard", rotations=9)
    assert found.tested["value"].isnull().all()
    assert (found.pooled["clouds"] == 0).all()


def at_places(places, *, seeds=6, steps=2, samples=200, noise=0.01, seed=3):
    """Clouds with clusters at places, and one coordinate `epoch` per snapshot."""
    rng = np.random.default_rng(seed)
    drawn = places[rng.integers(len(places), size=(seeds, steps, samples))]
    values = drawn + noise * rng.normal(size=drawn.shape)
    return xr.DataArray(
        values,
        dims=emergence.AXES,
        coords={"seed": range(seeds), "step": range(steps), "epoch": ("step", range(steps))},
    )


def test_only_the_axes_hold_a_vector_of_a_basis_with_its_opposites():
    for name in ("thomson:32", "standard"):
        vectors = bases.build(name, 16)
        both = special_directions.signed(vectors)
        assert both.shape == (32, 16)
        for orbit, cosine in special_directions.SIGNED.items():
            assert (cosine(vectors, both).max() > 1 - 1e-6) == (orbit == "axes")


@pytest.mark.parametrize("name", ["thomson:17", "thomson:32"])
def test_planted_clusters_are_found_on_a_frame(name):
    vectors = bases.build(name, 16)
    both = special_directions.signed(vectors)
    assert len(both) == {"thomson:17": 34, "thomson:32": 32}[name]
    sums = special_directions._sums(both.tobytes(), 16)
    for places, there, elsewhere in ((both, "axes", "diagonals"), (sums, "diagonals", "axes")):
        some = places[np.random.default_rng(0).choice(len(places), 10, replace=False)]
        clouds = at_places(np.concatenate([some, -some]), steps=1, seeds=2)
        # A mean of the latents, along a corner, is no place of clusters.
        found = emergence.orbits_course(clouds + 5, names=NAMES, basis=name, rotations=9)
        last = found.pooled.isel(step=0)
        assert last["z"].sel(statistic=there) > 3
        # A diagonal is nearer an axis, too, than directions are by chance.
        assert last["value"].sel(statistic=there) > last["value"].sel(statistic=elsewhere) + 0.1


def test_rows_of_zeros_are_no_cluster_and_few_samples_are_none():
    places = np.concatenate([np.eye(UNITS), -np.eye(UNITS)])
    clouds = at_places(places)
    alone = emergence.orbits_course(clouds, names=NAMES, basis="standard", rotations=9)
    zeros = xr.zeros_like(clouds).isel(sample=slice(0, 86))  # 30 % of all rows
    more = xr.concat([clouds, zeros], "sample")
    found = emergence.orbits_course(more, names=NAMES, basis="standard", rotations=9)
    xr.testing.assert_allclose(found.tested, alone.tested)
    few = clouds.isel(sample=np.arange(100) % (special_directions.CENTRES - 1)).values[0, 0]
    assert np.isnan(special_directions.centres(few)).all()


def test_a_cloud_missing_at_one_snapshot_is_missing_there_alone():
    clouds = at_places(np.eye(UNITS))
    alone = emergence.orbits_course(clouds, names=NAMES, basis="standard", rotations=9)
    clouds[1, 0] = np.nan
    found = emergence.orbits_course(clouds, names=NAMES, basis="standard", rotations=9)
    there = found.tested["value"].notnull().any("statistic")
    want = [[k != 1, True] for k in range(6)]
    assert there.transpose("seed", "step").values.tolist() == want
    xr.testing.assert_allclose(found.tested, alone.tested.where(there))
    assert found.pooled["clouds"].transpose("statistic", "step").values.tolist() == [[5, 6]] * 3
