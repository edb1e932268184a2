"""The answer says of every cell what its tests say, and no more."""

import itertools

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from markupsafe import Markup

from ppp_jax.analysis.report import answer
from ppp_jax.analysis.results.measure import SITES, cells
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
    return xr.Dataset(
        {"test_mse": (dims, errors)},
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
        told["Do activations that prefer a basis reconstruct better?"] == "Too few seeds to judge."
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
        " In detail, covariance more diagonal than after rotations: relu (momentum alone); "
        "whitened samples nearer the diagonals than after rotations: relu."
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
    assert page.count("<table") == 4
