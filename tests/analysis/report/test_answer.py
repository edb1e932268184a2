"""The answer says of every cell what its tests say, and no more."""

import itertools
import re

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from markupsafe import Markup

from ppp_jax.analysis.inference.seeds import Difference
from ppp_jax.analysis.report import answer
from ppp_jax.analysis.results.measure import SITES, cells
from ppp_jax.analysis.results.same_functions import Alike
from ppp_jax.analysis.statistics import registry

SEEDS = 16
ACTIVATIONS = ["relu", "isotropic_relu"]
OPTIMIZERS = ["momentum", "adam"]
JUDGED = [name for family in registry.FAMILIES for name in registry.names(family=family)]
SHARE = -0.2  # by how much the elementwise errors differ from those of the partner


def runs_of(*, rates=(0.1,), seeds=SEEDS):
    """Errors of a grid, of which the elementwise ones are a fifth smaller."""
    noise = np.random.default_rng(0).uniform(0.9, 1.1, (len(OPTIMIZERS), len(rates), seeds))
    errors = np.stack([noise * (1 + SHARE), noise])[..., None]
    dims = ("activation", "optimizer", "rate", "seed", "step")
    each = {
        "isotropic": [False, True],
        "group": ["permutations", "orthogonal"],
        "basis": ["standard"] * 2,
        "partner": ["isotropic_relu", ""],
    }
    coords = {f"activation_{fact}": ("activation", values) for fact, values in each.items()}
    apart = np.stack([0.4 * noise, noise - 1])[..., None]  # of every statistic from its null
    statistics = {f"{name}_{site}": (dims, apart) for name in JUDGED for site in SITES}
    return xr.Dataset(
        {"test_mse": (dims, errors), **statistics},
        coords={
            "activation": ACTIVATIONS,
            "optimizer": OPTIMIZERS,
            "optimizer_respects_rotations": ("optimizer", [True, False]),
            "initializer_respects_rotations": True,
            "learning_rate": ("rate", list(rates)),
            **coords,
        },
    )


def verdicts_of(runs, **found):
    """A row per cell and site without any evidence, but for what is found of elementwise ones."""
    rows = []
    for (names, _), site in itertools.product(cells(runs), SITES):
        row = {**names, "site": site}
        for name in JUDGED:
            row |= {
                f"{name}_z": 0.5,
                f"{name}_q": 0.9,
                f"{name}_q_networks": 0.8,
                f"{name}_rank": 0.1,
            }
            row[f"{name}_q_least"] = 1e-4
        rows.append(row | (found if names["activation"] == "relu" else {}))
    return pd.DataFrame(rows)


def matrices(runs, verdicts):
    errors = answer.error_texts(runs, answer.error_differences(runs))
    return answer.matrices(verdicts, errors, site="pre")


@pytest.mark.parametrize(
    ("q", "q_networks", "symbol"),
    [
        (0.05, 0.9, answer.SEEDS),
        (0.051, 0.05, answer.NETWORKS),
        (0.051, 0.051, answer.NOTHING),
        (np.nan, 0.051, answer.NOTHING),
        (np.nan, 0.01, answer.NETWORKS),
        (np.nan, np.nan, answer.UNKNOWN),
    ],
)
@pytest.mark.parametrize("family", [*answer.ALIGNED, *answer.QUANTISED])
def test_a_symbol_says_how_far_the_tests_of_its_family_reach(family, q, q_networks, symbol):
    names = registry.names(family=family)
    row = {f"{name}_{end}": np.nan for name in JUDGED for end in ("q", "q_networks")}
    row |= {f"{names[-1]}_q": q, f"{names[-1]}_q_networks": q_networks}
    assert answer.reach(row, [family]) == symbol
    others = [one for one in (*answer.ALIGNED, *answer.QUANTISED) if one != family]
    assert answer.reach(row, others) == answer.UNKNOWN


def test_every_cell_stands_in_the_matrix_of_its_optimiser():
    runs = runs_of()
    found = {"covariance_q": 0.01, "covariance_z": -4.21, "axis_quantisation_q_networks": 0.02}
    momentum, adam = matrices(runs, verdicts_of(runs, **found))
    assert momentum.title == "momentum (respects rotations)"
    assert adam.title == "adam (prefers the axes by itself)"
    assert momentum.header[0] == "activation"
    relu, isotropic = momentum.body
    assert relu[:5] == ["relu", "○ +0.5", "● −4.2", "○ +0.5", "◐ +0.5"]
    assert isotropic[:5] == ["isotropic_relu", "○ +0.5", "○ +0.5", "○ +0.5", "○ +0.5"]
    assert [row[0] for row in adam.body] == ["relu *", "isotropic_relu *"]


def test_errors_are_compared_with_the_partner_alone():
    runs = runs_of()
    for matrix in matrices(runs, verdicts_of(runs)):
        relu, isotropic = (row[-1] for row in matrix.body)
        assert relu.startswith("● 0.8")
        assert relu.endswith("(−20%)")
        assert "(" not in isotropic
    told = dict(answer.sentences(verdicts_of(runs), runs, answer.error_differences(runs)))
    assert "smaller than the isotropic partner's in 2 of 2 cells and larger in 0" in " ".join(
        told.values()
    )


def test_without_an_isotropic_activation_errors_are_compared_with_none():
    runs = runs_of().assign_coords(activation_isotropic=("activation", [False, False]))
    assert answer.error_differences(runs) == []
    told = dict(answer.sentences(verdicts_of(runs), runs, []))
    assert "There is no isotropic activation to compare with." in told.values()
    assert all("(" not in row[-1] for row in matrices(runs, verdicts_of(runs))[0].body)


def test_an_error_of_zero_has_no_share():
    runs = runs_of()
    runs["test_mse"].loc[{"activation": "isotropic_relu"}] = 0.0
    relu, isotropic = (row[-1] for row in matrices(runs, verdicts_of(runs))[0].body)
    assert relu.startswith("● 0.8")
    assert "(" not in relu
    assert isotropic == "0.000"


def test_few_seeds_say_that_they_are_few():
    runs = runs_of(seeds=2)
    verdicts = verdicts_of(runs).assign(**{f"{name}_q_least": 0.5 for name in JUDGED})
    told = dict(answer.sentences(verdicts, runs, answer.error_differences(runs)))
    assert (
        told["Do activations that prefer a basis reconstruct better?"]
        == "This cannot be judged at 2 seeds: 7 would do."
    )
    assert "too few seeds to judge new ones" in told["May I believe it?"]
    relu = matrices(runs, verdicts)[0].body[0]
    assert relu[-1].startswith(answer.UNKNOWN)


@pytest.mark.parametrize("found", [{}, {"shape_q": 0.001}, {"mean_ones_q_networks": 0.001}])
def test_sentences_count_the_cells_of_the_matrices(found):
    runs = runs_of()
    verdicts = verdicts_of(runs, **found)
    (_, aligned), (_, quantised), *_ = answer.sentences(verdicts, runs, [])
    over_seeds = 2 if "shape_q" in found else 0
    assert f"over seeds in {over_seeds} of 2 cells whose activation prefers a basis" in aligned
    assert "in 0 of 2 cells whose activation is isotropic" in aligned
    more = "(and in 2 more in these networks only)" in aligned
    assert more == ("mean_ones_q_networks" in found)
    assert "over seeds in 0 of 2 cells whose activation prefers a basis" in quantised
    assert "In detail" not in quantised
    detail = " In detail, whitened samples nearer the axes than after rotations: relu."
    assert aligned.endswith(detail) == (over_seeds > 0)


def test_the_answer_names_the_side_and_the_optimiser_that_shows_it():
    runs = runs_of()
    found = {"shape_q": 0.001, "shape_rank": -0.4, "covariance_q": 0.001, "covariance_rank": 0.4}
    verdicts = verdicts_of(runs, **found)
    adam = (verdicts["optimizer"] == "adam") & (verdicts["activation"] == "relu")
    verdicts.loc[adam, "covariance_q"] = 0.9
    (_, aligned), *_ = answer.sentences(verdicts, runs, [])
    assert aligned.endswith(
        " In detail, covariance more diagonal (relu under momentum alone) and whitened samples "
        "nearer the diagonals (relu) than after rotations."
    )


def test_rates_that_an_optimiser_tries_name_the_rows():
    runs = runs_of(rates=(0.1, 0.3))
    momentum, _ = matrices(runs, verdicts_of(runs))
    assert momentum.header[0] == "activation, learning rate"
    assert [row[0] for row in momentum.body] == [
        f"{name} {rate}" for name in ACTIVATIONS for rate in (0.1, 0.3)
    ]


def test_the_answer_fits_into_a_terminal(tmp_path):
    runs = runs_of()
    strip, name = Markup("<p>strip</p>"), "latent_8"
    page = answer.answer_block(
        verdicts_of(runs), runs, tmp_path, name, heading="mlp, 8 latent units", strip=strip
    )
    lines = (tmp_path / "answer_latent_8.md").read_text(encoding="utf-8").splitlines()
    assert max(map(len, lines)) <= answer.WIDTH
    assert lines[0] == "mlp, 8 latent units"
    assert sum(line.startswith("| relu") for line in lines) == 4
    assert str(strip) in page
    assert page.count("<table") == 6


FOUND = {"covariance_q": 0.001, "covariance_z": -4.0}


def told_of(runs, verdicts, **options):
    """The whole answer as one text, with the sizes of what was found."""
    sizes = answer.sizes_of(verdicts, runs, site="pre")
    differences = answer.error_differences(runs)
    return dict(answer.sentences(verdicts, runs, differences, sizes=sizes, **options))


def test_the_answer_says_by_how_much_with_an_interval():
    runs = runs_of()
    told = told_of(runs, verdicts_of(runs, **FOUND))
    values = runs["covariance_pre"].sel(activation="relu").isel(optimizer=0)
    mean = f"{values.mean().item():.2f}"
    found = re.search(
        r"farthest by z lies relu \(momentum\), whose diagonal part of the covariance is (\S+) "
        r"\(95\u00a0% interval (\S+) to (\S+)\) above that",
        told["Are the latents aligned with the axes?"],
    )
    assert found[1].startswith(mean)
    assert float(found[2]) <= float(found[1]) <= float(found[3])
    assert "By how much" not in told["Are they quantised along the axes?"]  # nothing was found
    errors = told["Do activations that prefer a basis reconstruct better?"]
    assert re.search(r"By how much: from −0\.\d+ \(95\u00a0% interval −0\.\d+ to −0\.\d+\)", errors)


def test_what_lies_below_random_bases_is_said_to_lie_below():
    runs = runs_of()
    runs["covariance_pre"] = -runs["covariance_pre"]
    verdicts = verdicts_of(runs, **FOUND, covariance_rank=-0.1)
    told = told_of(runs, verdicts)["Are the latents aligned with the axes?"]
    low, high = re.search(r"interval (\S+) to (\S+)\) below that in random bases", told).groups()
    assert 0 < float(low) < float(high)


def test_sizes_of_every_cell_stand_open_below_the_matrix(tmp_path):
    runs = runs_of()
    verdicts = verdicts_of(runs)
    page = answer.answer_block(
        verdicts, runs, tmp_path, "latent_8", heading="mlp", strip=Markup("")
    )
    assert "By how much, before the activation" in page.partition("<details>")[0]
    sizes = answer.sizes_of(verdicts, runs, site="pre")
    momentum, _ = answer.size_matrices(verdicts, sizes, answer.error_differences(runs))
    relu, isotropic = momentum.body
    assert all(re.fullmatch(r"0\.\d+ \[0\.\d+, 0\.\d+\]", text) for text in relu[1:-1])
    assert re.fullmatch(r"−0\.\d+ \[−0\.\d+, −0\.\d+\]", relu[-1])
    assert isotropic[-1] == ""
    assert "95\u00a0% interval" in answer.size_legend(sizes, seeds=SEEDS)
    assert "takes 6 seeds" in answer.size_legend(sizes, seeds=5)


def test_the_answer_says_whether_learning_rates_were_tuned():
    one, two = (
        dict(answer.sentences(verdicts_of(runs), runs, []))["Were learning rates tuned?"]
        for runs in (runs_of(), runs_of(rates=(0.1, 0.3)))
    )
    assert one.startswith("No:")
    assert "(momentum 0.1, adam 0.1)" in one
    assert "(momentum 0.1 and 0.3, adam 0.1 and 0.3)" in two


def test_activations_that_are_nearly_one_function_are_named():
    runs = runs_of()
    question = "Are these different functions?"
    assert question not in told_of(runs, verdicts_of(runs))
    pairs = [Alike("a", "b", 0.0), Alike("c", "d", 0.0121), Alike("e", "f", 1e-5)]
    told = told_of(runs, verdicts_of(runs), alike=pairs)[question]
    assert told.endswith(
        "a and b (not at all), c and d (1.2\u00a0%), e and f (less than 0.1\u00a0%)."
    )


def test_words_are_defined_before_they_are_used():
    runs = runs_of(seeds=3)
    text = answer.terms(verdicts_of(runs), runs)
    for word in ("A cell is one activation with one optimizer", "prefers a basis if", "over seeds"):
        assert word in text
    assert "there are 4, each trained from 3 seeds" in text
    assert "those of the units" in text
    turned = runs.assign_coords(activation_basis=("activation", ["haar:0", "standard"]))
    assert "the activation's own basis" in answer.terms(verdicts_of(turned), turned)


def test_seeds_are_too_few_only_where_more_would_do():
    runs = runs_of()
    unknown = verdicts_of(runs).assign(**{f"{name}_q_least": np.nan for name in JUDGED})
    told = dict(answer.sentences(unknown, runs, []))["May I believe it?"]
    assert "Nothing of alignment can be judged" in told
    # Of 16 seeds 5 have an error under both: the others diverged, and are not few.
    runs["test_mse"][{"seed": slice(5, None), "activation": 0}] = np.nan
    told = told_of(runs, verdicts_of(runs))
    assert (
        told["Do activations that prefer a basis reconstruct better?"]
        == "This cannot be judged: at most 5 of 16 seeds have an error of both activations, and 7 "
        "would do."
    )


def test_activations_that_show_it_under_the_same_optimiser_are_named_together():
    runs = runs_of()
    verdicts = verdicts_of(runs)
    verdicts.loc[verdicts["optimizer"] == "adam", "shape_q"] = 0.001
    (_, aligned), *_ = answer.sentences(verdicts, runs, [])
    assert aligned.endswith(": relu, isotropic_relu under adam alone.")


def test_where_the_mean_contradicts_most_seeds_no_size_is_told():
    runs = runs_of()
    question = "Are the latents aligned with the axes?"
    assert "By how much" in told_of(runs, verdicts_of(runs, **FOUND))[question]
    other = verdicts_of(runs, **FOUND, covariance_rank=-0.1)
    assert "By how much" not in told_of(runs, other)[question]
    signs = xr.DataArray([1, -1] * (SEEDS // 2), dims="seed")  # the interval holds 0
    runs["covariance_pre"] = runs["covariance_pre"] * signs
    assert "By how much" not in told_of(runs, verdicts_of(runs, **FOUND))[question]


def test_the_number_beside_a_symbol_is_of_the_statistic_that_it_tells_of():
    runs = runs_of()
    plain = {"pre": matrices(runs, verdicts_of(runs))}
    assert answer.legend(plain) == answer.LEGEND
    _, further = registry.chosen(family="mean")
    verdicts = verdicts_of(runs, **{f"{further.name}_q": 0.01, f"{further.name}_z": 9.0})
    found = matrices(runs, verdicts)
    assert found[0].body[0][1] == "● +9.0 †"
    assert f"mean: {further.label}" in answer.legend({"pre": found})
    sizes = answer.sizes_of(verdicts, runs, site="pre")
    assert further in [one.statistic for one in sizes]
    (momentum, _) = answer.size_matrices(verdicts, sizes, answer.error_differences(runs))
    assert momentum.body[0][1].endswith(" †")


def test_small_sizes_keep_their_digits_and_their_sign():
    tiny = Difference(-3e-6, -4e-6, -2e-6, 0.01, 8)
    assert answer._between(tiny) == "−3.0e−06 [−4.0e−06, −2.0e−06]"
    assert answer._between(Difference(0.123, 0.1, 0.15, 0.01, 8)) == "0.12 [0.10, 0.15]"


def test_the_share_of_an_error_is_of_the_seeds_that_both_have():
    runs = runs_of()
    runs["test_mse"][{"activation": 0, "seed": 0}] = 9.0  # its partner has diverged
    runs["test_mse"][{"activation": 1, "seed": 0}] = np.nan
    (relu, _), (row, *_) = matrices(runs, verdicts_of(runs))[0].body, answer.error_differences(runs)
    own, partner = (runs["test_mse"].values[k, 0, 0, 1:, 0] for k in (0, 1))
    share = (own.mean() - partner.mean()) / partner.mean()
    assert row["difference"] == pytest.approx(own.mean() - partner.mean())
    assert relu[-1].endswith(f"({share:+.0%})".replace("-", "−"))


def test_what_only_some_cells_of_an_activation_show_is_said_of_so_many():
    runs = runs_of(rates=(0.1, 0.2, 0.3))
    verdicts = verdicts_of(runs, **FOUND)
    question = "Are the latents aligned with the axes?"
    assert "cells)" not in told_of(runs, verdicts)[question].partition("In detail")[2]
    others = (verdicts["activation"] == "relu") & (verdicts["learning_rate"] > 0.1)
    verdicts.loc[others, "covariance_q"] = 0.9
    assert "relu in 2 of 6 cells" in told_of(runs, verdicts)[question].partition("In detail")[2]
