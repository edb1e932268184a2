"""Verdicts on clouds whose structure is known: what must be claimed, and what must not."""

import contextlib

import numpy as np
import pandas as pd
import pytest
import scipy.stats
import xarray as xr
from matplotlib.figure import Figure

import ppp_jax.analysis as pa
from ppp_jax import bases
from ppp_jax.analysis.io.facts import COORDINATES, facts_of, partner_of, with_facts
from ppp_jax.analysis.plots import evidence
from ppp_jax.analysis.projection.planes import resolve_basis
from ppp_jax.analysis.report import sections
from ppp_jax.analysis.report.evidence import format_verdicts, plain_words
from ppp_jax.analysis.results import layers, verdicts
from ppp_jax.analysis.results.measure import CELL_AXES, SITES, Measured, cells, measure
from ppp_jax.analysis.statistics import registry
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
            "post": ((*dims, "sample", "unit"), latents.copy()),
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
    return measure(made_up(), epsilon=0.6, rotations=39)


def table(measured):
    return verdicts.verdict_table([measured])[0].to_dict("records")


@pytest.fixture(scope="module")
def rows(measured):
    return {(row["activation"], row["site"]): row for row in table(measured)}


NONE = "no evidence in these 8 networks, nor over seeds"
NO_MEAN = "not judged: the mean of no network can be told from 0"
# Clusters on the axes: most units are at 0 at a time, which is one peak with two small ones.
SPARSE = {
    "mean": NO_MEAN,
    "shape": "whitened samples nearer the axes than after rotations, over seeds",
    "quantisation": (
        "projections nearer to unimodal along the vectors than after rotations, over seeds"
    ),
    "training": "training moved whitened samples towards the axes",
}
KNOWN = {
    "relu": SPARSE,
    "tanh@haar:3": SPARSE,  # seen in its own basis
    # Of few corners, which have some mean and equal variances, but other ones in each network.
    "tanh": {
        "mean": NONE,
        "covariance": "covariance less diagonal than after rotations, over seeds",
        "shape": "whitened samples nearer the diagonals than after rotations, over seeds",
        "quantisation": (
            "projections farther from unimodal along the vectors than after rotations, over seeds"
        ),
        "training": "training moved whitened samples towards the diagonals",
    },
    "isotropic_tanh": {
        "mean": NO_MEAN, "covariance": NONE, "shape": NONE, "quantisation": NONE,
        "training": "no evidence of a change by training",
    },
}  # fmt: skip


@pytest.mark.parametrize("name", KNOWN)
def test_verdicts_are_what_the_clouds_are(rows, name):
    for site in SITES:
        row = rows[name, site]
        claims = {family: row[f"verdict_{family}"] for family in KNOWN[name]}
        said = claims.pop("training")
        assert claims.items() <= KNOWN[name].items()
        assert KNOWN[name]["training"].removeprefix("training ") in said
        assert row["unconfounded"]
        assert (row["rows"], row["rows_zero"], row["rows_long"]) == (SEEDS * SAMPLES, 0, 0)


def test_numbers_of_a_verdict_are_the_statistics_own(rows, measured):
    row = rows["relu", "post"]
    runs = measured.runs.isel(step=-1).sel(activation="relu").squeeze()
    np.testing.assert_allclose(row["shape"], runs["shape_post"].mean())
    assert row["shape_seeds"] == (runs["shape_post_p"] <= 0.05).sum() == SEEDS
    assert row["shape_p"] == row["shape_change_p"] == 2 / 2**SEEDS
    assert row["shape_p_networks"] < 40.0**-4  # all 8 ranks are the highest of 40
    assert row["shape_change_low"] < row["shape_change"] < row["shape_change_high"]
    excess = (measured.runs["shape_post"] - measured.runs["shape_post_null"]).sel(activation="relu")
    change = (excess.isel(step=1) - excess.isel(step=0)).mean().item()
    np.testing.assert_allclose(row["shape_change"], change, rtol=1e-6)
    assert row["neighbour_ratio_low"] <= row["neighbour_ratio"] <= row["neighbour_ratio_high"]


@pytest.mark.parametrize("family", registry.FAMILIES)
@pytest.mark.parametrize(
    ("end", "to"), [("p", "q"), ("p_networks", "q_networks"), ("change_p", "change_q")]
)
def test_false_discoveries_are_counted_in_each_family_over_the_grid(rows, family, end, to):
    """Of statistics that judge: what is described is no test, nor is another family's p."""
    names = [one.name for one in registry.judging(orthonormal=True, family=family)]
    p = np.array([[row[f"{name}_{end}"] for name in names] for row in rows.values()])
    q = np.full(p.shape, np.nan)
    if np.isfinite(p).any():
        q[np.isfinite(p)] = scipy.stats.false_discovery_control(p[np.isfinite(p)])
    found = [[row[f"{name}_{to}"] for name in names] for row in rows.values()]
    np.testing.assert_allclose(found, q)
    judged = np.isfinite(p).any(axis=1).sum()
    assert judged == (8 if family != "mean" else 0 if end == "change_p" else 2)
    assert not any(f"{name}_{to}" in row for row in rows.values() for name in ("c4", "peaks"))


def test_false_discoveries_are_controlled_over_the_whole_grid(measured):
    """Not group by group: of a second group without effects, q rises."""
    empty = measured.runs.sel(activation=["isotropic_tanh"])
    nothing = Measured(empty, measured.pooled.sel(activation=["isotropic_tanh"]))
    alone, (both, _) = table(measured), verdicts.verdict_table([measured, nothing])
    rises = []
    for one, same in zip(alone, both.to_dict("records"), strict=True):
        for end in ("", "_networks"):
            assert same[f"shape_p{end}"] == one[f"shape_p{end}"]
            assert same[f"shape_q{end}"] >= one[f"shape_q{end}"]
            rises.append(same[f"shape_q{end}"] > one[f"shape_q{end}"])
    assert any(rises)


@pytest.mark.slow
def test_an_effect_in_one_cell_of_many_is_found():
    """Its q is not bounded by the number of rotations: of 16 seeds p can be 3e-5."""
    names = [f"isotropic_tanh@haar:{k}" for k in range(6)]
    dataset = made_up(("isotropic_tanh",), seeds=16).isel(sample=slice(0, 60))
    grid = xr.concat([dataset] * 6, "activation").assign_coords(activation=names)
    aligned = made_up(("relu",), seeds=16)["pre"].isel(activation=0, sample=slice(0, 60))
    both = xr.concat([grid, dataset.assign_coords(activation=["relu"])], "activation")
    both["pre"].loc[{"activation": "relu"}] = aligned
    found = {(row["activation"], row["site"]): row["verdict_shape"]
             for row in table(measure(both, epsilon=0.6, rotations=39))}  # fmt: skip
    assert found.pop(("relu", "pre")) == SPARSE["shape"]
    assert set(found.values()) == {"no evidence in these 16 networks, nor over seeds"}


# Known laws before and after the activation, small, and trained from the start.

FEW, FOUR = 60, 4
FRAME = bases.simplex(FOUR)
STRETCH = np.array([0.1, 0.5, 1.0, 2.0])


def on_vectors(rng, vectors):
    """Clusters around ± the vectors of a basis."""
    chosen = rng.integers(len(vectors), size=FEW)
    signs = rng.choice([-1.0, 1.0], size=(FEW, 1))
    return signs * vectors[chosen] + 0.06 * rng.normal(size=(FEW, FOUR))


LAWS = {
    "axes": lambda rng: on_vectors(rng, np.eye(FOUR)),
    "corners": lambda rng: np.sign(rng.normal(size=(FEW, FOUR))) + 0.1 * rng.normal(
        size=(FEW, FOUR)),
    "frame": lambda rng: on_vectors(rng, FRAME),
    "mean": lambda rng: rng.normal(size=(FEW, FOUR)) + 3,
    "covariance": lambda rng: rng.normal(size=(FEW, FOUR)) * STRETCH,
    "nothing": lambda rng: rng.normal(size=(FEW, FOUR)),
}  # fmt: skip
PLACES = {  # the laws before and after each activation
    "relu": ("axes", "mean"),
    "tanh": ("corners", "covariance"),
    "tanh@simplex": ("frame", "nothing"),
}
# What must be said, of which family, of each law: the beginning of the verdict.
CLAIMED = {
    ("axes", "shape"): "whitened samples nearer the axes than after rotations",
    ("corners", "shape"): "whitened samples nearer the diagonals than after rotations",
    ("corners", "quantisation"): (
        "projections farther from unimodal along the vectors than after rotations"
    ),
    ("frame", "shape"): "whitened latents more peaked along the vectors than after rotations",
    ("mean", "mean"): "mean nearer the diagonals",
    ("covariance", "covariance"): "covariance more diagonal than after rotations",
}
# What must not be said of them, whatever else is: a mean is no shape, nor is an ellipsoid. Of the
# clusters' covariance there is something to say: where their law has none, that of its samples is
# noise, which depends on fourth moments.
UNCLAIMED = {
    **dict.fromkeys(("axes", "corners", "frame"), ("mean",)),
    "mean": ("covariance", "shape", "quantisation"),
    "covariance": ("mean", "shape", "quantisation"),
    "nothing": ("mean", "covariance", "shape", "quantisation"),
}  # fmt: skip


def laws(seeds, places=PLACES):
    """Latents of networks of which every snapshot is what the law says: there is but one."""
    made = made_up(tuple(places), seeds=seeds).isel(
        step=[1], sample=slice(0, FEW), unit=slice(0, FOUR)
    )
    for where, site in enumerate(SITES):
        latents = [
            [LAWS[both[where]](np.random.default_rng([7, seed, k])) for seed in range(seeds)]
            for k, both in enumerate(places.values())
        ]
        shape = made[site].shape
        made[site] = (made[site].dims, np.array(latents, np.float32).reshape(shape))
    return made


@contextlib.contextmanager
def nothing_but_what_judges():
    """Leaves what is described out of the registry, which takes most of the time."""
    judging = {*registry.judging(orthonormal=True), *registry.judging(orthonormal=False)}
    kept = {name: one for name, one in registry.STATISTICS.items() if one in judging}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry, "STATISTICS", kept)
        yield


@pytest.fixture(scope="module", params=[1, 3, 6, 16])
def judged(request):
    """Verdicts of each activation alone, by the number of seeds: rows by law."""
    seeds, found = request.param, {}
    with nothing_but_what_judges():
        both = measure(laws(seeds), epsilon=0.6, rotations=99 if seeds == 1 else 39)
        for name, kinds in PLACES.items():
            one = Measured(*(part.sel(activation=[name]) for part in both))
            found |= dict(zip(kinds, table(one), strict=True))
    return seeds, found


def test_of_known_laws_their_own_part_is_claimed_and_no_other(judged):
    seeds, found = judged
    for (law, family), begins in CLAIMED.items():
        text = found[law][f"verdict_{family}"]
        assert text.startswith(begins), (law, family, text)
        enough = {16: ", over seeds", 1: ", in this network"}.get(seeds, f", in these {seeds} ")
        assert enough in text or ", over seeds" in text
    told = {
        (law, family)
        for law, families in UNCLAIMED.items()
        for family in families
        if not found[law][f"verdict_{family}"].startswith(("no evidence", "not judged"))
    }
    assert len(told) <= 1  # of some ten tests at 5 %
    assert not told & {("mean", "shape"), ("covariance", "shape"), ("mean", "covariance")}


def test_few_seeds_are_said_to_be_few_and_how_many_are_needed(judged):
    """Of two tests in a family q ≤ .05 takes 2 · 2/2^S ≤ .05: 7 seeds."""
    seeds, found = judged
    networks = "this network" if seeds == 1 else f"these {seeds} networks"
    few = f"cannot be judged at {'1 seed' if seeds == 1 else f'{seeds} seeds'}: 7 would do"
    claim = CLAIMED["corners", "shape"]
    corners, nothing = (found[law]["verdict_shape"] for law in ("corners", "nothing"))
    if seeds == 16:
        assert corners == f"{claim}, over seeds"
    else:
        assert corners == f"{claim}, in {networks} (over seeds it {few})"
        assert found["corners"]["shape_q_least"] > 0.05
    if seeds < 6:
        assert nothing == f"no evidence in {networks}; over seeds it {few}"
        assert np.isnan(found["nothing"]["shape_kurtosis_p"])
    else:  # the other of the two has the smallest p of 6 seeds: beside it this one could have a q
        assert nothing == f"no evidence in {networks}, nor over seeds"


def test_over_a_frame_the_kurtosis_judges_and_c4_has_no_q(judged):
    """C4 of vectors that are not orthogonal depends on their order, and has no diagonals."""
    row = judged[1]["frame"]
    for end in ("q", "q_networks", "q_least", "change_q"):
        assert np.isnan(row[f"shape_{end}"])
        assert np.isnan(judged[1]["axes"][f"shape_kurtosis_{end}"])
    assert row["shape_kurtosis_q_networks"] <= 0.05
    assert row["verdict_mean"] == "not judged: the mean of no network can be told from 0"


def test_one_snapshot_says_nothing_of_training(judged):
    assert {row["verdict_training"] for row in judged[1].values()} == {
        "not judged: there is one snapshot"
    }


def test_one_network_of_sixteen_is_no_evidence():
    """Neither of these networks nor over seeds, however far off it lies: z is only a size."""
    dataset = made_up(("isotropic_tanh",), seeds=16).isel(step=[1])
    odd = made_up(("relu",), seeds=4)["pre"].isel(activation=0, step=[1], seed=3)
    dataset["pre"][{"seed": 3}] = odd
    with nothing_but_what_judges():
        row = table(measure(dataset, epsilon=0.6, rotations=39))[0]
    assert row["shape_z"] > 4
    assert row["shape_seeds"] >= 1
    assert row["verdict_shape"] == "no evidence in these 16 networks, nor over seeds"


# Every sentence, of rows made by hand.

TWO = {family: {"p": 2, "change_p": 2} for family in registry.FAMILIES}
SHAPE, COVARIANCE = (registry.STATISTICS[name] for name in ("shape", "covariance"))
LOW, HIGH = SHAPE.sides
TOO_FEW = "cannot be judged at 8 seeds: 7 would do"
BOTH = "the change of the shape and the covariance"
BOTH_MOVED = (
    "training moved whitened samples towards the diagonals, and made the covariance less diagonal",
    "training moved whitened samples towards the axes, and made the covariance more diagonal",
)


def said(family="shape", tests=2, **numbers):
    """Returns the claim of a row that has but these numbers."""
    row = {"clouds": 8, "q": 0.5, "q_networks": 0.5, "q_least": 0.01, "rank": 0.4,
           "z": 3.0, "seeds": numbers.get("clouds") or 8} | numbers  # fmt: skip
    judged = registry.judging(orthonormal=True)
    table = {f"{one.name}_{key}": value for one in judged for key, value in row.items()}
    return verdicts._claim(table | {"seeds": row["seeds"]}, family, judged, {family: {"p": tests}})


@pytest.mark.parametrize(
    ("numbers", "text"),
    [
        ({"q": 0.01, "q_networks": 0.01}, f"{HIGH}, over seeds"),
        ({"q": 0.05, "q_networks": 0.01, "rank": -0.4, "z": -3.0}, f"{LOW}, over seeds"),
        ({"q": 0.01, "rank": -0.3, "z": 3.0}, f"{LOW}, a few seeds far off, over seeds"),
        ({"q_networks": 0.05}, f"{HIGH}, in these 8 networks (no evidence over seeds)"),
        (
            {"q_networks": 0.01, "q": np.nan, "q_least": 0.25, "clouds": 3},
            f"{HIGH}, in these 3 networks (over seeds it cannot be judged at 3 seeds: 7 would do)",
        ),
        (
            {"q_networks": 0.01, "q": np.nan, "q_least": 1.0, "clouds": 1, "tests": 1},
            f"{HIGH}, in this network (over seeds it cannot be judged at 1 seed: 6 would do)",
        ),
        ({}, "no evidence in these 8 networks, nor over seeds"),
        (
            {"q": np.nan, "q_least": 0.25, "clouds": 2},
            "no evidence in these 2 networks; over seeds it cannot be judged at 2 seeds: "
            "7 would do",
        ),
        (
            {"q": np.nan, "q_least": 0.25, "clouds": 1, "tests": 24},
            "no evidence in this network; over seeds it cannot be judged at 1 seed: 10 would do",
        ),
        (
            {"q_least": 0.06, "clouds": 16, "tests": 4000},
            "no evidence in these 16 networks; over seeds it cannot be judged at 16 seeds: "
            "no number would do for so many tests",
        ),
        ({"seeds": 0}, "not judged: there is no network whose latents vary"),
        *(
            ({"family": family, "clouds": 0}, f"not judged: {why}")
            for family, why in verdicts.UNKNOWN.items()
        ),
    ],
)
def test_a_claim_says_side_and_reach_and_what_cannot_be_told(numbers, text):
    assert said(**numbers) == text


def test_how_many_seeds_are_needed_is_said_of_those_that_are_too_few():
    judged = registry.judging(orthonormal=True)
    row = {"clouds": 16, "q": 0.5, "q_networks": 0.5, "q_least": 0.01}
    table = {f"{one.name}_{key}": value for one in judged for key, value in row.items()}
    few = {"seeds": 16, "mean_ones_clouds": 5, "mean_ones_q": np.nan, "mean_ones_q_least": 0.5}
    text = (
        "no evidence in these 16 networks; over seeds it cannot be judged: 5 of 16 seeds have a "
        "mean that can be told from 0, and 10 such seeds would do"
    )
    assert verdicts._claim(table | few, "mean", judged, {"mean": {"p": 20}}) == text


def test_each_family_has_a_reason_why_it_is_not_judged():
    assert set(verdicts.UNKNOWN) == set(registry.FAMILIES)
    assert list(verdicts.CLAIMS) == [f"verdict_{name}" for name in (*registry.FAMILIES, "training")]


@pytest.mark.parametrize(
    ("numbers", "text"),
    [
        ({"q": 0.01}, BOTH_MOVED[1]),
        ({"q": 0.05, "change": -1.0}, BOTH_MOVED[0]),
        ({}, "no evidence of a change by training"),
        ({"least": (0.1, 0.01)},
         "no evidence of a change by training; the change of the shape " + TOO_FEW),
        ({"q": (0.2, 0.01), "least": (0.1, 0.01)},
         f"{COVARIANCE.moves[1]}; the change of the shape {TOO_FEW}"),
        ({"least": 0.1, "seeds": 6}, f"{BOTH} cannot be judged at 6 seeds: 7 would do"),
        ({"least": 0.5, "seeds": 1}, f"{BOTH} cannot be judged at 1 seed: 7 would do"),
        ({"seeds": (8, 0), "q": (0.01, np.nan), "least": (0.01, np.nan)},
         f"{SHAPE.moves[1]}; the change of the covariance cannot be judged: 0 of 8 seeds have "
         "latents that vary, untrained and trained"),
        ({"seeds": (8, 2), "q": 0.5, "least": (0.01, 0.5)},
         "no evidence of a change by training; the change of the covariance cannot be judged: "
         "2 of 8 seeds have latents that vary, untrained and trained, and 7 such seeds would do"),
        ({"seeds": 0}, "not judged: there is no network whose latents vary"),
        ({"snapshots": 1}, "not judged: there is one snapshot"),
    ],
)  # fmt: skip
def test_of_training_is_said_what_moved_and_what_cannot_be_told(numbers, text):
    given = {"change": 1.0, "q": 0.5, "least": 0.01, "seeds": 8, "snapshots": 2} | numbers
    seeds = given["seeds"]
    row = {"snapshots": given.pop("snapshots")}
    row["seeds"] = max(seeds) if isinstance(seeds, tuple) else seeds
    ends = {"change": "change", "q": "change_q", "least": "change_q_least", "seeds": "change_seeds"}
    for key, value in given.items():
        for k, one in enumerate((SHAPE, COVARIANCE)):
            row[f"{one.name}_{ends[key]}"] = value[k] if isinstance(value, tuple) else value
    assert verdicts._training(row, (SHAPE, COVARIANCE), TWO) == text


def test_words_say_the_same_and_the_table_has_a_line_per_verdict(rows):
    judged = pd.DataFrame(rows.values())
    header, body = format_verdicts(judged)
    assert len(body) == 8
    assert all(len(line) == len(header) for line in body)
    text = plain_words(judged, claim="verdict_shape")
    nothing = "no evidence in these 8 networks, nor over seeds"
    assert f"<b>{nothing}</b>: isotropic_tanh (pre), isotropic_tanh (post)" in text
    assert all(
        row["verdict_shape"] in line[-1] for row, line in zip(rows.values(), body, strict=True)
    )


def test_diverged_seeds_count_in_nothing():
    """Nor does a run count before it diverges: untrained and trained are the same seeds."""
    dataset = made_up(("relu",), seeds=8, diverged=(2, 5))
    dataset["diverged_step"][{"step": 0}] = -1
    broken = measure(dataset, epsilon=0.6, rotations=19)
    whole = measure(made_up(("relu",)).isel(seed=[0, 1, 3, 4, 6, 7]), epsilon=0.6, rotations=19)
    row, same = (table(one)[0] for one in (broken, whole))
    assert row["seeds"] == 6
    for name in ("shape", "shape_first", "neighbour_ratio", "shape_change_p", "rows"):
        np.testing.assert_allclose(row[name], same[name], rtol=1e-5)
    # Of other rotations:
    np.testing.assert_allclose(row["shape_change"], same["shape_change"], atol=0.03)


@pytest.mark.parametrize("constant", [0.0, 1.0])
def test_latents_that_do_not_vary_are_not_judged(constant):
    """Dead networks give one vector for all samples, which may well lie on an axis."""
    dataset = made_up(("relu",))
    axis = xr.DataArray([constant, *[0.0] * (UNITS - 1)], dims="unit").astype(np.float32)
    dataset["pre"][{"seed": slice(0, 7), "step": 1}] = axis.broadcast_like(
        dataset["pre"].isel(seed=slice(0, 7), step=1)
    )
    row, other = table(measure(dataset, epsilon=0.6, rotations=19))
    assert (row["seeds"], row["shape_clouds"], row["shape_change_seeds"]) == (1, 1, 1)
    assert row["rows"] == SAMPLES
    few = "over seeds it cannot be judged at 1 seed: 7 would do"
    assert row["verdict_shape"] == f"no evidence in this network; {few}"  # p is at best 2/20
    assert "and the angles cannot be judged at 1 seed: 8 would do" in row["verdict_training"]
    assert other["verdict_shape"] == SPARSE["shape"]


def test_differences_are_paired_and_against_the_partner(measured):
    found = verdicts.difference_table(measured.runs).to_dict("records")
    errors = [row for row in found if row["quantity"] == "test_mse"]
    assert [(row["activation"], row["against"]) for row in errors] == [
        ("tanh", "isotropic_tanh"), ("relu", "isotropic_tanh"), ("tanh@haar:3", "isotropic_tanh"),
    ]  # fmt: skip
    # The seeds' common part cancels: −3, −2, −1 exactly.
    np.testing.assert_allclose([row["difference"] for row in errors], [-3, -2, -1])
    shape = next(row for row in found
                 if (row["quantity"], row["activation"]) == ("shape_pre", "relu"))  # fmt: skip
    last = (measured.runs["shape_pre"] - measured.runs["shape_pre_null"]).isel(step=-1).squeeze()
    apart = last.sel(activation="relu") - last.sel(activation="isotropic_tanh")
    np.testing.assert_allclose(shape["difference"], apart.mean())
    assert {row["quantity"] for row in found} == set(verdicts.paired())
    assert set(verdicts.paired()) == {
        "test_mse", "covariance_pre", "shape_pre", "shape_post", "axis_quantisation_pre"
    }  # fmt: skip
    assert evidence.quantity_title("shape_pre").endswith(" before activation, above null")
    for row in found:  # the interval and the p of a difference never disagree
        assert (row["low"] <= 0 <= row["high"]) == (row["p"] > 0.05)
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
         "site": "pre", "optimizer": "sgd", "architecture": "mlp", "shape_excess_seeds": seeds}
        for one in dataset["activation"].values.tolist()
    ]  # fmt: skip
    found = layers.differences(rows, quantities=["shape_excess"])
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


def test_what_takes_long_is_measured_at_the_ends_only_and_rows_are_counted():
    dataset = made_up(("relu",), seeds=2)
    dataset["pre"][{"seed": 0, "sample": slice(0, 40)}] = 0
    three = xr.concat([dataset, dataset.isel(step=[1]).assign_coords(step=[99])], "step")
    found = measure(three, epsilon=0.6, rotations=19)
    for one in registry.chosen():
        there = np.isfinite(found.runs[f"{one.name}_pre"]).any(("seed", "activation"))
        assert there.isel(step=[0, 2]).all() or one.family == "mean", one.name
        assert there.isel(step=1).item() == (one.everywhere and one.family != "mean"), one.name
    counts = {name: found.runs[name].isel(step=[0, 2]).squeeze().values for name in
              ("rows_pre", "rows_zero_pre", "rows_long_pre", "rows_post")}  # fmt: skip
    np.testing.assert_array_equal(counts["rows_pre"], [[SAMPLES - 40] * 2, [SAMPLES] * 2])
    np.testing.assert_array_equal(counts["rows_zero_pre"], [[40] * 2, [0] * 2])
    np.testing.assert_array_equal(counts["rows_long_pre"], 0)
    np.testing.assert_array_equal(counts["rows_post"], SAMPLES)
    assert np.isnan(found.runs["rows_pre"].isel(step=1)).all()


def plain_networks(ranks, places):
    """The two-sided p of a sum of uniform ranks, by all sums of two networks."""
    steps = np.arange(places) + 0.5 - places / 2
    sums = np.abs(np.add.outer(steps, steps))
    return np.mean(sums >= abs(np.sum(ranks) * places) - 1e-6)


def test_pooled_numbers_are_those_of_the_seeds_together():
    """Against a rotation test of each seed by itself, and the law of two ranks by enumeration."""
    dataset = laws(2, {"relu": ("axes", "nothing")})
    found = measure(dataset, epsilon=0.6, rotations=19)
    for site in SITES:
        clouds = dataset[site].squeeze(drop=True)
        tested = pa.rotation_test(clouds, rotations=19)
        for name in ("shape", "covariance", "c4"):
            one, key = tested.sel(statistic=name), f"{name}_{site}"
            expected = {
                "": one["value"].mean(), "_null": one["null"].mean(),
                "_z": (one["value"] - one["mean"]).mean() / np.sqrt((one["sd"] ** 2).sum() / 4),
                "_rank": one["rank"].mean(), "_clouds": 2,
                "_p_networks": plain_networks(one["rank"].values, 20),
            }  # fmt: skip
            for end, value in expected.items():
                np.testing.assert_allclose(
                    found.pooled[key + end].item(), float(value), rtol=2e-5, atol=1e-7
                )
            assert np.isnan(found.pooled[f"{key}_p"].item())  # of two seeds none over seeds


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
    frames = {"relu": resolve_basis(None, UNITS)}
    section = sections.Section(
        "", "", dataset.isel(at), measured.runs.isel(at), measured.pooled.isel(at), frames
    )
    panel = sections._panels(section, "pre", "relu", 0.6)
    numbers = measured.runs["shape_pre"].isel(at).sel(activation="relu")
    for step, count in ((0, SEEDS - 1), (1, SEEDS - 2)):
        assert numbers.isel(step=step).notnull().sum() == count
        picture = panel(slice(None), step, None)
        assert picture.attrs["samples"] == count * SAMPLES


def test_words_that_verdicts_have_in_common_are_said_once():
    modes = [registry.STATISTICS[f"mode_{m}"] for m in (1, 2, 3)]
    less = "angles of accepted samples less even in mode"
    assert (
        verdicts.joined([one.sides[1] for one in modes])
        == f"{less} 1, 2 and 3 than after rotations"
    )
    mean = [registry.STATISTICS[name].sides[1] for name in ("mean_axes", "mean_ones")]
    both = "mean nearer the axes and the sum of the vectors than after rotations"
    assert verdicts.joined(mean) == both
    assert verdicts.joined(mean[:1] * 2) == mean[0]
    # No word is left hanging before an article that its noun lost.
    assert verdicts.joined(["made it flatter along the axes", "moved it to the axes"]) == (
        "made it flatter along the axes and moved it to the axes"
    )
    assert verdicts.ending(mean) == " than after rotations"
    assert verdicts.ending(["a", "b"]) == ""


def test_what_training_did_to_one_family_is_said_together_whatever_the_direction():
    both = tuple(registry.STATISTICS[name] for name in ("mean_axes", "mean_ones"))
    row = {"snapshots": 2, "seeds": 8}
    for one, change in zip(both, (-1.0, 1.0), strict=True):
        ends = {"change": change, "change_q": 0.01, "change_q_least": 0.01, "change_seeds": 8}
        row |= {f"{one.name}_{end}": value for end, value in ends.items()}
    assert verdicts._training(row, both, TWO) == (
        "training moved the mean towards the diagonals and the sum of the vectors"
    )
