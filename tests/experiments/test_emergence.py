"""The paper's claims and their answers, on sites that are made by hand."""

import itertools

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from ppp_jax import bases
from ppp_jax.analysis.inference import special_directions
from ppp_jax.analysis.io.facts import Facts
from ppp_jax.analysis.results.emergence import AXES, Course, course_table, pictures_course
from ppp_jax.errors import InputError
from ppp_jax.experiments import emergence

UNITS, SEEDS = 4, 8
NOTHING = pd.DataFrame(columns=["statistic", "epoch", "z", "p networks", "seeds", "activation",
                                "optimizer", "site"])  # fmt: skip
BASES = {"tanh": "standard", "tanh@thomson:17": "thomson:17", "tanh@thomson:5:1": "thomson:5:1",
         "relu@thomson:5": "thomson:5", "tanh@haar:2": "haar:2",
         "isotropic_tanh": "standard"}  # fmt: skip


def site(activation, *, dips=None, peaks=None, errors=None, where="pre"):
    """A site whose numbers are given, or else rise from seed to seed."""
    rising = np.linspace(1, 2, SEEDS)
    dips, peaks, errors = (rising if one is None else one for one in (dips, peaks, errors))
    names = {"activation": activation, "optimizer": "adam", "site": where}
    value = xr.DataArray(dips, dims="seed").expand_dims(step=1, statistic=[emergence.DIP])
    course = Course(names, xr.Dataset({"value": value, "mean": 0 * value}), xr.Dataset())
    isotropic = activation.startswith("isotropic")
    facts = Facts(isotropic, "", BASES[activation], "isotropic_tanh")
    return emergence.Site(names, facts, course, course, peaks, errors)


def row(effect, *, towards, seeds=8, p=1e-4, asked=emergence.OVER_SEEDS, floor=1e-9):
    return {"claim": f"{effect} {towards} {seeds} {p}", "difference": effect, "p": p,
            "seeds": seeds, "towards": towards, "quantity": "dip", "optimizer": "adam",
            "asked": asked, "floor": floor}  # fmt: skip


@pytest.mark.parametrize(
    ("claim", "answer"),
    [
        (row(1.0, towards="more"), "holds"),
        (row(-1.0, towards="more"), "the opposite holds"),
        (row(-1.0, towards="some"), "holds"),
        (row(1.0, towards="more", p=0.3), "no evidence"),
        (row(1.0, towards="no more"), "does not hold"),
        (row(-1.0, towards="no more"), "no more than after rotations"),
        (row(-1.0, towards="nothing"), "does not hold"),
        (row(1.0, towards="no more", p=0.3), "no evidence against it"),
        (row(1.0, towards="more", seeds=2, p=np.nan), "cannot be judged at 2 seeds"),
        (row(1.0, towards="more") | {"why": "it is dark"}, "cannot be judged: it is dark"),
        # Of these networks p is of the side that is asked, whatever z.
        (row(-1.0, towards="more", seeds=2, asked=emergence.NETWORKS), "holds"),
        (row(-1.0, towards="no more", seeds=2, asked=emergence.NETWORKS), "does not hold"),
        (
            row(9.0, towards="more", seeds=1, p=0.06, asked=emergence.NETWORKS, floor=0.06),
            "cannot be judged at 1 seeds",
        ),
    ],
)
def test_every_answer(claim, answer):
    assert emergence.answers([claim])["answer"].tolist() == [answer]


def test_a_family_too_large_for_its_seeds_cannot_be_judged():
    rows = [{**row(1.0, towards="more", p=0.5), "claim": "one"}] * 10
    assert set(emergence.answers(rows)["answer"]) == {"cannot be judged at 8 seeds"}
    assert emergence.answers([]).empty


def test_a_summary_counts_cells_by_their_answers():
    rows = [{**row(effect, towards="more", p=p), "claim": "one"}
            for effect, p in ((1.0, 1e-4), (3.0, 1e-4), (-1.0, 1e-4), (5.0, 0.9))]  # fmt: skip
    rows += [{**row(effect, towards="no more", seeds=seeds, p=p), "claim": "other"}
             for effect, seeds, p in ((1, 8, 1e-4), (-1, 8, 1e-4), (1, 2, np.nan))]  # fmt: skip
    rows += [{**row(1.0, towards="more"), "claim": "one", "optimizer": "momentum"}]
    one, other, third = emergence.summary(emergence.answers(rows)).to_dict("records")
    assert one == {"claim": "one", "optimizer": "adam", "cells": 4, "for": 2, "against": 1,
                   "open": 1, "unjudged": 0, "least": -1, "median": 2, "most": 5}  # fmt: skip
    assert np.isnan(other.pop("for"))
    counts = {name: other[name] for name in ("cells", "against", "open", "unjudged")}
    assert counts == {"cells": 3, "against": 1, "open": 1, "unjudged": 1}
    assert (third["optimizer"], third["cells"], third["for"]) == ("momentum", 1, 1)
    assert emergence.summary(emergence.answers([])).empty


def test_claims_of_one_isotropic_function_alone():
    alone = site("isotropic_tanh", dips=-np.linspace(1, 2, SEEDS), peaks=np.full(SEEDS, 2.0))
    rows = emergence.claims([alone, site("isotropic_tanh", where="post")], [], NOTHING)
    assert [(one["quantity"], one["towards"]) for one in rows] == [
        ("dip", "no more"),
        ("peaks beyond one", "no more"),
    ]
    found = emergence.answers(rows)
    assert found["answer"].tolist() == ["no more than after rotations", "does not hold"]
    assert set(found["asked"]) == {emergence.OVER_SEEDS}


@pytest.mark.parametrize("seeds", [2, SEEDS])
def test_a_discrete_function_and_its_partner(seeds):
    few = np.where(np.arange(SEEDS) < seeds, np.linspace(1, 2, SEEDS), np.nan)
    discrete = site("tanh", dips=2 * few, peaks=2 * few, errors=-few)
    rows = emergence.claims([discrete, site("isotropic_tanh", dips=few)], [], NOTHING)
    found = emergence.answers(rows).set_index("claim")
    pairs = found[found["against"] == "isotropic_tanh"]
    assert pairs["quantity"].tolist() == ["dip", "peaks", "error"]
    said = ["holds", "holds", "the opposite holds"]
    assert pairs["answer"].tolist() == (said if seeds > 2 else ["cannot be judged at 2 seeds"] * 3)


def test_without_isotropic_functions_only_numbers_of_vectors_are_compared():
    rows = emergence._pairs([site(name) for name in BASES if name != "isotropic_tanh"])
    # Neither 17 and 5 as texts, nor another function, nor a basis with another number.
    found = [(one["activation"], one["against"], one["quantity"]) for one in rows]
    assert found == [("tanh@thomson:17", "tanh@thomson:5:1", "dip")]


@pytest.fixture(scope="module")
def planted():
    """Clusters on axes when untrained, then on diagonals, then on axes."""
    both = special_directions.signed(bases.build("standard", UNITS))
    sums = special_directions._sums(both.tobytes(), UNITS)
    rng, steps = np.random.default_rng(0), []
    for places in (both, sums, both):
        drawn = places[rng.integers(len(places), size=(SEEDS, 200))]
        steps.append(drawn + 0.02 * rng.normal(size=drawn.shape))
    return xr.DataArray(
        np.stack(steps, axis=1),
        dims=AXES,
        coords={"seed": range(SEEDS), "step": range(3), "epoch": ("step", [0, 2, 4])},
    )


def pictures(planted, activation):
    names = {"activation": activation, "optimizer": "adam", "site": "pre"}
    how = {"names": names, "basis": "standard", "epsilon": 0.85, "rotations": 19}
    facts = Facts(activation.startswith("isotropic"), "", "standard", "isotropic_tanh")
    return emergence.Pictures(facts, pictures_course(planted, **how))


def table_of(shown):
    return course_table([one.course for one in shown])


def test_phases_are_of_training_and_isotropic_functions_their_control(planted):
    shown = [pictures(planted, name) for name in ("tanh", "isotropic_tanh")]
    table = table_of(shown)
    rows = list(emergence._phases(shown, table))
    assert [(one["activation"], one["epoch"]) for one in rows] == [
        ("tanh", 4), ("tanh", 2), ("isotropic_tanh", 4), ("isotropic_tanh", 2),
    ]  # fmt: skip
    assert [one["claim"].split(" has ")[1] for one in rows] == [
        "an axis phase: z", "a diagonal phase: z", "no axis phase: z", "no diagonal phase: z",
    ]  # fmt: skip
    found = emergence.answers(rows)
    assert found["answer"].tolist() == ["holds"] * 2 + ["does not hold"] * 2
    assert list(emergence._phases(shown, table[table["epoch"] == 0])) == []


def test_the_order_of_phases_is_a_claim_of_discrete_functions(planted):
    shown = [pictures(planted, name) for name in ("tanh", "isotropic_tanh")]
    (found,) = emergence._order(shown, table_of(shown))
    assert (found["activation"], found["quantity"], found["towards"]) == ("tanh", "epochs", "more")
    assert (found["difference"], found["seeds"]) == (2, SEEDS)
    assert emergence.answers([found])["answer"].tolist() == ["holds"]
    # Without one of them in training there is no order, and the claim is not silent.
    never = planted.isel(step=[1, 2, 2]).assign_coords(step=range(3), epoch=("step", [0, 2, 4]))
    shown = [pictures(never, "tanh")]
    (found,) = emergence.answers(list(emergence._order(shown, table_of(shown)))).to_dict("records")
    assert found["answer"] == "cannot be judged: there are not both phases"


def test_a_phase_is_judged_by_ranks_and_times_the_snapshots(planted):
    shown = [pictures(planted, "tanh")]
    table = table_of(shown)
    axes, diagonals = emergence._phases(shown, table)
    p = table[(table["statistic"] == "fourfold") & (table["epoch"] == 4)]["p networks"].item()
    assert axes["p"] == 2 * p
    assert axes["floor"] == 2 * 2 / 20**SEEDS
    # A few networks far on one side give z another sign than the ranks, which decide.
    table["z"] = -table["z"]
    assert [one["epoch"] for one in emergence._phases(shown, table)] == [4, 2]
    table["rank"] = abs(table["rank"])
    axes, diagonals = emergence._phases(shown, table)
    assert (diagonals["p"], axes["p"]) == (1, pytest.approx(2 * table["p networks"].min(), rel=1))


def test_phases_of_cells_without_accepted_samples_cannot_be_judged(planted):
    shown = [pictures(planted, "tanh"), pictures(planted, "isotropic_tanh")]
    table = table_of(shown)
    empty = (table["activation"] == "tanh") & (table["epoch"] > 0)
    table.loc[empty, ["z", "rank", "p networks"]] = np.nan
    table.loc[empty, "seeds"] = 0
    found = emergence.answers(list(emergence._phases(shown, table)))
    assert found["answer"].tolist() == ["cannot be judged at 0 seeds"] * 2 + ["does not hold"] * 2


def test_samples_on_diagonals_are_compared_with_the_partner(planted):
    later = planted.isel(step=[2, 0, 1]).assign_coords(step=range(3), epoch=("step", [0, 2, 4]))
    shown = [pictures(later, "tanh"), pictures(later.isel(step=[1, 2, 0]), "isotropic_tanh")]
    found = emergence.answers(list(emergence._angles(shown)))
    said = dict(zip(found["claim"], found["answer"], strict=True))
    assert said == {
        "a discrete function brings samples to the diagonals: −cos 4φ": "holds",
        "an isotropic function prefers neither axes nor diagonals: cos 4φ": "does not hold",
        "a discrete function brings more samples to the diagonals: −cos 4φ": "holds",
    }


def test_a_run_folder_without_any_cloud_is_refused(monkeypatch):
    monkeypatch.setattr(emergence.study, "load", lambda *_: None)
    monkeypatch.setattr(emergence, "_sites", lambda *_: iter(()))
    with pytest.raises(InputError, match="no network whose latents vary") as caught:
        emergence.analyse("some/run", None)
    assert caught.value.field == "workdir"


def test_figures_say_of_which_seeds_they_are():
    assert emergence._numbered([0, 0]) == "seed 0"
    assert emergence._numbered([0, 2]) == "seeds 0, 2 from the top"


@pytest.mark.parametrize("optimizers", [1, 4])
def test_courses_have_at_most_six_lines_a_panel_and_none_is_left_out(optimizers):
    names = [f"f{k}" for k in range(8)]
    known = {name: Facts(False, "", "standard", None) for name in names}
    table = pd.DataFrame(
        {"activation": name, "statistic": statistic, "site": "pre", "width": 64, "rate": 0.1,
         "optimizer": f"adam {k}", "epoch": epoch, "z": k + epoch, "q networks": [0.01, 0.5][epoch]}
        for name in names for k in range(optimizers) for epoch in range(2)
        for statistic in (emergence.DIP, "shape")
    )  # fmt: skip
    figure = emergence.draw_courses(table, known)
    shown = [axes.get_legend_handles_labels()[1] for axes in figure.axes]
    assert max(map(len, shown)) <= 6
    assert sorted(itertools.chain(*shown)) == sorted(names * optimizers * 2)
    # Hollow points are drawn below filled ones, which are those with evidence.
    (line, hollow, filled, *_) = figure.axes[0].lines
    assert (len(hollow.get_xdata()), len(filled.get_xdata())) == (2, 1)
    assert line.get_color() == filled.get_color()


def test_the_opening_figure_is_of_a_function_and_its_partner_under_one_optimiser():
    clouds = xr.DataArray(np.random.default_rng(0).normal(size=(2, 3, 300, UNITS)), dims=AXES)
    known = {name: Facts(name.startswith("isotropic"), "", "standard", "isotropic_tanh")
             for name in (emergence.FACE, "isotropic_tanh")}  # fmt: skip
    strips = [
        emergence._Strip({"activation": name, "optimizer": optimizer, "learning_rate": rate,
                          "width": 4}, 0, clouds, [], [])
        for optimizer in ("adam", emergence.CONTROL) for rate in (0.1, 0.2) for name in known
    ]  # fmt: skip
    epochs = np.array([0, 2, 4])
    (shown,) = emergence._opening(strips, known, epochs, 0.5).values()
    title = "PPP before the activation, isotropic_adam 0.1, 4 units wide, 2 seeds pooled"
    assert shown.figure.get_suptitle().replace("\n", " ") == title
    assert shown.caption.startswith(f"{title}: {emergence.FACE} and isotropic_tanh.")
    assert emergence._opening(strips[:4], known, epochs, 0.5) == {}
    assert emergence._opening(strips, {"tanh": known["isotropic_tanh"]}, epochs, 0.5) == {}
