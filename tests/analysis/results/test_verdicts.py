"""Verdicts on clouds whose structure is known: what must be claimed, and what must not."""

import numpy as np
import pandas as pd
import pytest
import scipy.stats
import xarray as xr
from matplotlib.figure import Figure

from ppp_jax import bases
from ppp_jax.analysis.io.facts import COORDINATES, facts_of, partner_of, with_facts
from ppp_jax.analysis.plots import evidence
from ppp_jax.analysis.report import grid_report
from ppp_jax.analysis.report.evidence import format_verdicts, plain_words
from ppp_jax.analysis.results import layers, verdicts
from ppp_jax.analysis.results.measure import CELL_AXES, cells, measure
from ppp_jax.analysis.synthetic import mixture
from ppp_jax.errors import InputError
from ppp_jax.grid.grid import STATIC, TRACED, axes_of
from ppp_jax.networks import interpolated

FACTS = [f"activation_{fact}" for fact in COORDINATES]
UNITS, SAMPLES, SEEDS = 6, 250, 8
TURN = bases.haar(UNITS, rotation_seed=3)


def cloud(name, seed, trained):
    """Latents of a made-up network: isotropic untrained, trained by what its name says."""
    rng = np.random.default_rng([seed, trained, len(name)])
    shared = {"samples": SAMPLES, "units": UNITS}
    if not trained or name == "isotropic_tanh":
        return mixture(rng, 0.0, **shared) @ bases.rotations(UNITS, 1, rng)[0]
    if name == "tanh":
        return mixture(rng, 1.0, kind="corners", **shared)
    return mixture(rng, 1.0, kind="axes", **shared) @ (TURN if "@" in name else np.eye(UNITS))


def made_up(names=("tanh", "relu", "tanh@haar:3", "isotropic_tanh"), *, seeds=SEEDS, diverged=()):
    dims = ("activation", "depth", "width", "optimizer", "initializer", "rate", "seed", "step")
    latents = np.array(
        [[[cloud(name, seed, step) for step in (0, 1)] for seed in range(seeds)] for name in names],
        np.float32,
    )[:, None, None, None, None, None]
    shape = latents.shape[:-2]
    # Errors that pair by seed: a common part, and a difference between activations.
    common = np.random.default_rng(0).normal(size=seeds)[:, None]
    step = np.array(range(len(names)))[:, None, None] + common[None]
    error = np.broadcast_to(step[:, None, None, None, None, None], shape)
    stopped = np.full(shape, -1)
    for seed in diverged:
        stopped[..., seed, :] = 7
    made = xr.Dataset(
        {
            "pre": ((*dims, "sample", "unit"), latents),
            "post": ((*dims, "sample", "unit"), latents),
            **dict.fromkeys(("train_mse", "validation_mse", "test_mse"), (dims, error)),
            "diverged_step": (dims, stopped),
        },
        coords={
            "activation": list(names),
            **{name: [1] for name in ("depth", "width")},
            "optimizer": ["sgd"],
            "initializer": ["glorot_normal"],
            "seed": range(seeds),
            "step": [0, 50],
            "epoch": ("step", [0, 1]),
            "learning_rate": (("optimizer", "rate"), [[0.1]]),
            "optimizer_respects_rotations": ("optimizer", [True]),
            "initializer_respects_rotations": ("initializer", [True]),
        },
    )
    return with_facts(made)


@pytest.fixture(scope="module")
def measured():
    return measure(made_up(), epsilon=0.6, rotations=99)


def table(measured):
    return verdicts.verdict_table([measured])[0].to_dict("records")


@pytest.fixture(scope="module")
def rows(measured):
    return {(row["activation"], row["site"]): row for row in table(measured)}


def test_verdicts_are_what_the_clouds_are(rows):
    claims = {name: (row["alignment"], row["training"]) for (name, kind), row in rows.items()
              if kind == "pre"}  # fmt: skip
    axes = ("aligned with the axes, units more peaked than other directions",
            "training moved it towards the axes, training made units more peaked")  # fmt: skip
    assert claims == {
        "tanh": (
            "aligned with the diagonals, units flatter than other directions",
            "training moved it towards the diagonals, training made units flatter",
        ),
        "relu": axes,
        "tanh@haar:3": axes,  # seen in its own basis
        "isotropic_tanh": ("no evidence of alignment", "no evidence of a change by training"),
    }
    for row in rows.values():
        more = "no evidence" not in row["clusters"]
        assert more == (row["activation"] != "isotropic_tanh")
        assert "lengths" not in row["clusters"]
        assert row["unconfounded"]


def test_numbers_of_a_verdict_are_the_statistics_own(rows, measured):
    row = rows["relu", "post"]
    runs = measured.runs.isel(step=-1).sel(activation="relu").squeeze()
    np.testing.assert_allclose(row["c4"], runs["c4_post"].mean())
    assert row["c4_seeds"] == (runs["c4_post_p"] <= 0.05).sum() == SEEDS
    assert row["c4_p"] == row["c4_change_p"] == 2 / 2**SEEDS
    assert row["c4_change_low"] < row["c4_change"] < row["c4_change_high"]
    excess = (measured.runs["c4_post"] - measured.runs["c4_post_null"]).sel(activation="relu")
    change = (excess.isel(step=1) - excess.isel(step=0)).mean().item()
    np.testing.assert_allclose(row["c4_change"], change, rtol=1e-6)
    p = [[one[f"{name}_p"] for name in ("c4", "unit_kurtosis")] for one in rows.values()]
    q = scipy.stats.false_discovery_control(np.ravel(p)).reshape(np.shape(p))
    found = [[one[f"{name}_q"] for name in ("c4", "unit_kurtosis")] for one in rows.values()]
    np.testing.assert_allclose(found, q)
    assert (q > p).any()


def test_false_discoveries_are_controlled_over_the_whole_grid(measured):
    """Not group by group: of a second group without effects, q rises."""
    nothing = measure(made_up(("isotropic_tanh",)), epsilon=0.6, rotations=99)
    alone, (both, _) = table(measured), verdicts.verdict_table([measured, nothing])
    beside = both.to_dict("records")
    for one, same in zip(alone, beside, strict=True):
        assert same["c4_p"] == one["c4_p"]
        assert same["c4_q"] >= one["c4_q"]
    assert any(same["c4_q"] > one["c4_q"] for one, same in zip(alone, beside, strict=True))


@pytest.mark.slow
def test_an_effect_in_one_cell_of_many_is_found():
    """Its q is not bounded by the number of rotations: of 16 seeds p can be 3e-5."""
    names = [f"isotropic_tanh@haar:{k}" for k in range(6)]
    dataset = made_up(("isotropic_tanh",), seeds=16).isel(sample=slice(0, 60))
    grid = xr.concat([dataset] * 6, "activation").assign_coords(activation=names)
    aligned = made_up(("relu",), seeds=16)["pre"].isel(activation=0, sample=slice(0, 60))
    both = xr.concat([grid, dataset.assign_coords(activation=["relu"])], "activation")
    both["pre"].loc[{"activation": "relu"}] = aligned
    found = {(row["activation"], row["site"]): row["alignment"]
             for row in table(measure(both, epsilon=0.6, rotations=39))}  # fmt: skip
    assert found.pop(("relu", "pre")).startswith("aligned with the axes")
    assert set(found.values()) == {"no evidence of alignment"}


def test_one_network_of_sixteen_is_no_evidence():
    dataset = made_up(("isotropic_tanh",), seeds=16)
    odd = made_up(("relu",), seeds=16)["pre"].isel(activation=0)
    dataset["pre"][{"seed": 3}] = odd.isel(seed=3)
    row = table(measure(dataset, epsilon=0.6, rotations=39))[0]
    assert row["c4_z"] > 4
    assert row["c4_seeds"] >= 1
    assert row["alignment"] == "no evidence of alignment"


def test_words_say_the_same_and_the_table_has_a_line_per_verdict(rows):
    judged = pd.DataFrame(rows.values())
    header, body = format_verdicts(judged)
    assert len(body) == 8
    assert all(len(line) == len(header) for line in body)
    text = plain_words(judged, claim="alignment")
    assert "<b>no evidence of alignment</b>: isotropic_tanh (pre), isotropic_tanh (post)" in text


def test_fewer_than_six_seeds_are_not_judged():
    few = measure(made_up(("relu",), seeds=5), epsilon=0.6, rotations=19)
    for row in table(few):
        few_seeds = "not judged: 5 seeds whose latents vary, 6 are needed"
        assert row["alignment"] == row["training"] == row["clusters"] == few_seeds
        assert np.isnan([row["c4_p"], row["c4_q"], row["c4_change_p"]]).all()


def test_diverged_seeds_count_in_nothing():
    """Nor does a run count before it diverges: untrained and trained are the same seeds."""
    dataset = made_up(("relu",), seeds=8, diverged=(2, 5))
    dataset["diverged_step"][{"step": 0}] = -1
    broken = measure(dataset, epsilon=0.6, rotations=19)
    whole = measure(made_up(("relu",)).isel(seed=[0, 1, 3, 4, 6, 7]), epsilon=0.6, rotations=19)
    row, same = (table(one)[0] for one in (broken, whole))
    assert row["seeds"] == 6
    for name in ("c4", "c4_first", "discreteness", "c4_change_p"):
        np.testing.assert_allclose(row[name], same[name], rtol=1e-6)
    np.testing.assert_allclose(row["c4_change"], same["c4_change"], atol=0.03)  # other rotations


@pytest.mark.parametrize("constant", [0.0, 1.0])
def test_latents_that_do_not_vary_are_not_judged(constant):
    """Dead networks give one vector for all samples, which may well lie on an axis."""
    dataset = made_up(("relu",))
    axis = xr.DataArray([constant, *[0.0] * (UNITS - 1)], dims="unit").astype(np.float32)
    dataset["pre"][{"seed": slice(0, 7), "step": 1}] = axis.broadcast_like(
        dataset["pre"].isel(seed=slice(0, 7), step=1)
    )
    row = table(measure(dataset, epsilon=0.6, rotations=19))[0]
    assert row["alignment"] == "not judged: 1 seeds whose latents vary, 6 are needed"


def test_one_snapshot_says_nothing_of_training():
    found = table(measure(made_up(("relu",)).isel(step=[1]), epsilon=0.6, rotations=39))[0]
    assert found["alignment"].startswith("aligned with the axes")
    assert found["training"] == found["clusters"] == "not judged: there is one snapshot"


def test_over_a_frame_unit_kurtosis_decides():
    """C4 of vectors that are not orthogonal depends on their order, and has no diagonals."""
    found = table(measure(made_up(("tanh@simplex",)), epsilon=0.6, rotations=39))
    assert {row["alignment"].partition(" ")[0] for row in found} <= {"units", "no"}


def test_lengths_alone_are_told_from_clusters():
    """Training spreads the lengths: discrete against a Gaussian, not beyond them."""
    dataset = made_up(("isotropic_tanh",))
    heavy = (3 / np.random.default_rng(1).chisquare(3, size=(SEEDS, SAMPLES))) ** 0.5
    lengths = xr.DataArray(heavy.astype(np.float32), dims=("seed", "sample"))
    dataset["pre"][{"step": 1}] = dataset["pre"].isel(step=1) * lengths
    row = table(measure(dataset, epsilon=0.6, rotations=19))[0]
    assert row["clusters"] == "more discrete than untrained, mostly by its lengths"


def test_differences_are_paired_and_against_the_partner(measured):
    found = verdicts.difference_table(measured.runs).to_dict("records")
    errors = [row for row in found if row["quantity"] == "test_mse"]
    assert [(row["activation"], row["against"]) for row in errors] == [
        ("tanh", "isotropic_tanh"), ("relu", "isotropic_tanh"), ("tanh@haar:3", "isotropic_tanh"),
    ]  # fmt: skip
    # The seeds' common part cancels: −3, −2, −1 exactly.
    np.testing.assert_allclose([row["difference"] for row in errors], [-3, -2, -1])
    c4 = next(row for row in found if row["quantity"] == "c4_pre" and row["activation"] == "relu")
    last = (measured.runs["c4_pre"] - measured.runs["c4_pre_null"]).isel(step=-1).squeeze()
    apart = last.sel(activation="relu") - last.sel(activation="isotropic_tanh")
    np.testing.assert_allclose(c4["difference"], apart.mean())
    assert {row["quantity"] for row in found} == set(verdicts.paired())
    assert evidence.quantity_title("c4_pre") == "C4 before activation, above null"
    assert all(np.isfinite(row["difference"]) for row in found)
    p = [row["p"] for row in errors]
    np.testing.assert_allclose([row["q"] for row in errors], scipy.stats.false_discovery_control(p))
    with pytest.raises(InputError, match="axis=seed"):
        verdicts.difference_table(measured.runs, axis="seed")


def test_partners():
    def partners(*names):
        known = {name: interpolated.get(name) for name in names}
        return [partner_of(name, known) for name in names]

    assert partners("tanh", "relu", "identity", "isotropic_tanh", "isotropic_relu") == [
        "isotropic_tanh", "isotropic_relu", "isotropic_tanh", None, "isotropic_tanh",
    ]  # fmt: skip
    assert partners("gelu", "relu", "isotropic_relu") == ["isotropic_relu", "isotropic_relu", None]
    assert partners("tanh", "relu") == [None, "tanh"]
    built = ("tanh@rotated", "block_tanh:4", "pnorm_relu:4@haar:1", "dose_relu:0.5")
    assert partners("isotropic_relu", "isotropic_tanh", *built) == [
        None, "isotropic_relu",
        "isotropic_tanh", "isotropic_tanh", "isotropic_relu", "isotropic_relu",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "name", ["identity", "intrinsic_tanh:1", "pnorm_tanh:2", "relu@cross_polytope", "dose_tanh:0"]
)
def test_an_isotropic_activation_of_any_name_is_not_compared_as_an_elementwise_one(name):
    """What says so is its entry, and not how it is called."""
    dataset = with_facts(made_up(("tanh", name, "isotropic_tanh")).drop_vars(FACTS))
    assert facts_of(dataset)[name].isotropic
    seeds = np.arange(6.0)
    rows = [
        {"activation": one, "facts": facts_of(dataset)[one], "layer": "bottleneck",
         "site": "pre", "optimizer": "sgd", "architecture": "mlp", "c4_excess_seeds": seeds}
        for one in dataset["activation"].values.tolist()
    ]  # fmt: skip
    found = layers.differences(rows, quantities=["c4_excess"])
    assert found["activation"].tolist() == ["tanh"]


def test_best_rate_is_chosen_on_validation_and_shown_on_test():
    """The rate with the best validation error has not the best test error, and is shown."""
    dataset = made_up(("relu",))
    rates = xr.concat([dataset] * 3, "rate")
    for name, offsets in (("validation_mse", [5, 1, 2]), ("test_mse", [5, 3, 2])):
        rates[name] = rates[name] * 0 + xr.DataArray(offsets, dims="rate")
    rates = rates.assign_coords(learning_rate=(("optimizer", "rate"), [[0.1, 0.2, 0.3]]))
    (row,) = verdicts.rate_table(rates).to_dict("records")
    assert (row["rates"], row["fixed_rate"], row["best_rate"]) == (3, 0.1, 0.2)
    assert not row["best_at_end"]
    assert (row["fixed"], row["best"]) == (5, 3)
    # A rate at which a seed has diverged is not eligible, however small the others' errors.
    rates["validation_mse"][{"rate": 1, "seed": 0}] = np.nan
    (row,) = verdicts.rate_table(rates).to_dict("records")
    assert (row["best_rate"], row["best"], row["best_at_end"]) == (0.3, 2, True)
    # If there is none left, none is best.
    rates["validation_mse"][{"seed": 0}] = np.nan
    (row,) = verdicts.rate_table(rates).to_dict("records")
    assert np.isnan([row["best_rate"], row["best"], *row["best_seeds"]]).all()
    assert not row["best_at_end"]
    assert row["fixed"] == 5


def test_axes_that_tables_name_are_those_that_the_grid_declares():
    declared = axes_of(STATIC, TRACED).values()
    ours = [axis.coordinate for axis in declared if not axis.grouped and axis.coordinate != "seed"]
    assert list(CELL_AXES) == ours


def test_cells_are_every_place_and_say_whether_they_are_clean(measured):
    runs = measured.runs
    assert len(list(cells(runs))) == 4
    unclean = runs.assign_coords(optimizer_respects_rotations=("optimizer", [False]))
    assert not any(names["unconfounded"] for names, _ in cells(unclean))


def test_angles_are_measured_at_the_ends_only():
    dataset = made_up(("relu",))
    three = xr.concat([dataset, dataset.isel(step=[1]).assign_coords(step=[99])], "step")
    found = measure(three, epsilon=0.6, rotations=19)
    assert np.isfinite(found.runs["mode_4_pre"].isel(step=[0, 2])).all()
    assert np.isnan(found.runs["mode_4_pre"].isel(step=1)).all()


def test_z_are_drawn_as_they_are_and_a_missing_one_is_left_out():
    series = {"tanh": {"R": -30.0, "standard": 0.5}, "relu": {"R": np.nan, "standard": 200.0}}
    axes = evidence.plot_z(series, ax=Figure().subplots())
    for line, (label, points) in zip(axes.lines, series.items(), strict=True):
        assert line.get_label() == label
        np.testing.assert_array_equal(line.get_ydata(), list(points.values()))
    low, high = axes.get_ylim()
    assert low < -30
    assert high > 200
    assert [text.get_text() for text in axes.get_xticklabels()] == ["R", "standard"]


@pytest.mark.parametrize("at", [None, (0, 0.05, 1)])
def test_columns_of_seeds_stand_where_they_are_told(at):
    columns = {name: np.arange(7.0) + k for k, name in enumerate("abc")}
    axes = evidence.plot_seeds(columns, ax=Figure().subplots(), label="seeds", at=at)
    places = np.array([0, 1, 2] if at is None else at, float)
    np.testing.assert_array_equal(axes.get_xticks(), places)
    points, bars, means = (axes.lines[k::3] for k in range(3))
    for place, values, dots, bar, mean in zip(
        places, columns.values(), points, bars, means, strict=True
    ):
        np.testing.assert_array_equal(dots.get_ydata(), values)
        assert np.abs(dots.get_xdata() - place).max() < np.diff(places).min() / 2
        np.testing.assert_array_equal(bar.get_xdata(), [place, place])
        assert (mean.get_xdata()[0], mean.get_ydata()[0]) == (place, values.mean())
    assert axes.get_legend_handles_labels()[1] == ["seeds"]


def test_pictures_leave_out_the_runs_that_tables_leave_out():
    """A run that diverges later is in neither, nor is the snapshot of one whose units have died."""
    dataset = made_up(("relu", "isotropic_tanh"))
    stopped, latents = dataset["diverged_step"].values.copy(), dataset["pre"].values.copy()
    stopped[..., 2, 1] = 7
    latents[..., 4, 1, :, :] = 1.0
    dataset = dataset.assign(
        diverged_step=(dataset["diverged_step"].dims, stopped),
        pre=(dataset["pre"].dims, latents),
    )
    measured = measure(dataset, epsilon=0.6, rotations=19)
    at = dict.fromkeys(("depth", "width", "optimizer", "initializer", "rate"), 0)
    section = grid_report._Section("", "", dataset.isel(at), measured.runs.isel(at))
    panel = grid_report._panels(section, "pre", "relu", 0.6)
    numbers = measured.runs["c4_pre"].isel(at).sel(activation="relu")
    for step, count in ((0, SEEDS - 1), (1, SEEDS - 2)):
        assert numbers.isel(step=step).notnull().sum() == count
        picture = panel(slice(None), step)
        assert picture.attrs["samples"] == count * SAMPLES
