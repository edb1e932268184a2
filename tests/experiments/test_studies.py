"""The experiments as commands: real training, tables, figures, one line for what is wrong."""

import csv
import math
import re
import subprocess
import sys
from typing import NamedTuple

import numpy as np
import pytest
from sklearn.cluster import KMeans

import ppp_jax.analysis as pa
from ppp_jax import bases
from ppp_jax.analysis import load_run, rotation_test
from ppp_jax.analysis.inference import special_directions, unit_matching
from ppp_jax.analysis.inference.seeds import interquartile_mean
from ppp_jax.analysis.projection.views import whiten
from tests import ROOT, forks

pytestmark = pytest.mark.usefixtures("quick_compilation")

GRID = ["--widths=6", "--latent_widths=4", "--optimizers=momentum", "--epochs=1", "--rotations=19",
        "--seed_batch=6", "--seeds=0:6", "--probe_samples=128"]  # fmt: skip
PAIR = "--activations=tanh,isotropic_tanh"


class Study(NamedTuple):
    """One main, made small: its flags, the rows of its tables, columns that must be numbers."""

    flags: list[str]
    rows: dict[str, int]
    numbers: tuple[str, ...]


# Of what is compared: over the null, and its tests.
LAYER = ("shape", "shape_z", "shape_q", "shape_q_networks", "covariance", "axis_quantisation_z")
# Rows: kinds of latents (2) × quantities and so on, as each line says.
STUDIES = {
    "depth": Study(
        [PAIR, "--depths=1,2", "--snapshots=0"],
        # 3 layers at depth 1, 5 at depth 2; slopes and differences of three quantities.
        {"layers": 2 * 2 * 8, "bottlenecks": 2 * 2 * 2, "trends": 2 * 2 * 3,
         "differences": 2 * 2 * 3, "errors": 2},
        ("test_mse", *LAYER, "slope", "low", "high", "p", "q", "difference"),
    ),
    "width": Study(
        [PAIR, "--latent_widths=3,4", "--snapshots=0"],
        {"widths": 2 * 2 * 2, "trends": 2 * 2 * 3, "differences": 2 * 2 * 3, "errors": 2},
        ("test_mse", *LAYER, "slope", "low", "high", "p", "q", "difference"),
    ),
    "architectures": Study(
        [PAIR, "--architectures=mlp,classifier", "--capture=encoder_0", "--snapshots=0",
         "--batch_size=48"],
        # Two layers each, and the bottleneck of the sparse autoencoder.
        {"layers": 2 * 2 * 5, "bottlenecks": 2 * 2 * 3, "differences": 3 * 2 * 3},
        ("test_mse", *LAYER, "q", "p", "low", "high", "difference"),
    ),
    "consequences": Study(
        [PAIR, "--snapshots=0"],
        # What goes with the first two of ten quantities: error, probe, noise, rounding.
        {"cells": 2, "differences": 10, "correlations": 2 * 8},
        ("mean dip", "|C4| of the shape", "error", "difference", "p", "q", "rank correlation",
         "low"),
    ),
    "convergence": Study(
        [PAIR, "--snapshots=0"],
        {"matches": 2 * 2}, ("orthogonal", "units", "above rotated", "low", "high"),
    ),
    "optimizer_factorial": Study(
        [PAIR, "--optimizers=isotropic_adam,sgd", "--learning_rates=0.01", "--snapshots=0"],
        {"cells": 2 * 2 * 2, "effects": 2 * 3 * (1 + 2)},
        ("shape", "shape z", "shape q", "covariance z", "dip q", "difference", "p"),
    ),
    "own_activation": Study(
        ["--snapshots=0"],
        {"functions": 2 * 2, "differences": 2 * 3, "errors": 1},
        ("test_mse", *LAYER, "difference", "low", "high", "p", "q"),
    ),
    "rotated_basis": Study(
        ["--activations=tanh@rotated", "--snapshots=0"],
        {"bases": 2 * 5 * 2}, ("value", "z", "p networks", "p", "q"),
    ),
    "dose_response": Study(
        ["--doses=0,0.3,0.6,1", "--snapshots=0"],
        {"doses": 2 * 3 * (4 + 6), "kinks": 2 * 3 * 2},
        ("value", "excess", "z", "p networks", "held-out MSE"),
    ),
    "group_ladder": Study(
        ["--activations=tanh@simplex,tanh@haar:2", "--snapshots=0"],
        {"orbits": 2 * 2 * 4}, ("cosine", "z", "p", "q"),
    ),
    "emergence": Study(
        ["--data=digits", PAIR, "--snapshots=0"],
        # Of 2 functions at 2 sites and 2 snapshots: 5 statistics that judge, and 3 directions; at
        # one site 2 of the pictures. Of claims, each function's own, the pair's, that of errors,
        # of angles, 2 phases of each, and their order.
        {"courses": 2 * 2 * (2 * (5 + 3) + 2), "onsets": 2 * (2 * (5 + 3) + 2),
         "claims": 3 + 3 + 1 + 3 + 2 * 2 + 1, "summary": 3 + 3 + 1 + 3 + 2 * 2 + 1},
        ("seeds",),
    ),
}  # fmt: skip

# Half a minute of a processor and more each.
LONG = ("architectures", "consequences", "depth", "dose_response", "optimizer_factorial", "width")


def command(module, *flags):
    return forks.run(f"experiments.{module}", *flags)


@pytest.mark.slow
def test_reconstruction_at_fixed_and_best_rates(tmp_path):
    small = ["--activations=tanh,isotropic_tanh", "--optimizers=momentum", "--seeds=0:6",
             "--learning_rates=0.1,0.001,1e9", "--epochs=1", "--rotations=19"]  # fmt: skip
    done = command("reconstruction", f"--workdir={tmp_path / 'run'}", *small)
    assert done.returncode == 0, done.stderr
    assert "mlp, tanh, momentum at 1e+09: 6 of 6 seeds diverged" in done.stderr
    study = tmp_path / "run" / "study"
    assert sorted(path.name for path in study.iterdir()) == [
        ".written.json", "differences.csv", "differences.md", "index.html", "rates.csv",
        "rates.md", "rates.png",
    ]  # fmt: skip
    with (study / "differences.csv").open() as file:
        fixed, best = csv.DictReader(file)
    # After one epoch the larger rate, which is the fixed one, is the best for both: no difference.
    assert [(row["rate"], row["rates"]) for row in (fixed, best)] == [
        ("fixed", "0.1, 0.1"), ("best", "0.1, 0.1"),
    ]  # fmt: skip
    error = load_run(tmp_path / "run")["test_mse"].isel(step=-1, rate=0).squeeze()
    apart = error.sel(activation="tanh") - error.sel(activation="isotropic_tanh")
    for row in (fixed, best):
        assert math.isclose(float(row["MSE difference"]), apart.mean(), rel_tol=1e-6)
        assert int(row["seeds"]) == 6
    assert f"study: {study}" in done.stdout
    assert not list((tmp_path / "run").glob(".study.*"))


def tables(study):
    """Returns the rows of every table of a study."""
    found = {}
    for path in study.glob("*.csv"):
        with path.open() as file:
            found[path.stem] = list(csv.DictReader(file))
    return found


# What a table says, once more from the latents that were saved, each cell by itself.


def cloud(latents, row, *, step=-1):
    """Returns the latents of a row's cell, `(seed, sample, unit)`."""
    at = {name: row[name] for name in ("activation", "optimizer", "dose") if name in row}
    if "dose" in at:
        at["dose"] = float(at["dose"])
    if "rate" in row:
        at["rate"] = 0
    found = latents[row["site"]].isel(step=step).sel(at).squeeze(drop=True)
    return found.transpose("seed", "sample", "unit")


def excess(latents, row, statistic):
    """Returns a statistic of each seed above the mean of its 19 rotations."""
    basis = row["activation"].partition("@")[2] or None
    one = rotation_test(
        cloud(latents, row), basis=basis, statistics=[statistic], rotations=19
    ).squeeze("statistic")
    return (one["value"] - one["mean"]).values


def same(text, value, *, tolerance=1e-4):
    assert math.isclose(float(text), float(value), rel_tol=tolerance, abs_tol=1e-6), (text, value)


def rotated_again(latents, found):
    names = {"R": "rotated", "standard": "standard", "random 1": "haar:11", "random 2": "haar:12",
             "random 3": "haar:13"}  # fmt: skip
    for row in found["bases"]:
        x, basis = cloud(latents, row).values.astype(float), names[row["basis"]]
        vectors = bases.build(basis, 4) if basis != "standard" else np.eye(4)
        each = {
            "shape": lambda one: pa.alignment_c4(whiten(one).samples, basis=vectors),  # noqa: B023
            "covariance": lambda one: diagonal(np.cov((one @ vectors.T).T)),  # noqa: B023
        }[row["statistic"]]
        same(row["value"], np.mean([each(one) for one in x]))


def diagonal(covariance):
    return np.sum(np.diag(covariance) ** 2) / np.sum(covariance**2)


def ladder_again(latents, found):
    for row in found["orbits"]:
        basis = bases.build(row["activation"].partition("@")[2], 4)
        cosines = []
        for x in cloud(latents, row).values:
            centres = KMeans(20, n_init=1, random_state=0).fit(x).cluster_centers_
            unit = centres / np.linalg.norm(centres, axis=1, keepdims=True)
            cosines.append(special_directions.ORBITS[row["orbit"]](unit, basis).mean())
        same(row["cosine"], np.mean(cosines))


def dose_again(latents, found):
    rows = [row for row in found["doses"] if row["road"].startswith("t,")]
    assert len(rows) == 2 * 3 * 4
    for row in rows:
        cell = {**row, "activation": "dose_tanh", "optimizer": "momentum"}
        isotropic = excess(latents, {**cell, "dose": "0"}, row["statistic"])
        here = excess(latents, cell, row["statistic"])
        same(row["excess"], here.mean())
        same(row["from isotropic"], (here - isotropic).mean(), tolerance=1e-3)


def factorial_again(latents, found):
    for row in found["effects"]:
        function = row["effect of"] == "tanh"
        names = ("activation", "optimizer") if function else ("optimizer", "activation")
        first = {names[0]: row["effect of"], names[1]: row["on"], "site": row["site"]}
        pair = [excess(latents, cell, row["statistic"])
                for cell in (first, {**first, names[0]: row["against"]})]  # fmt: skip
        same(row["difference"], (pair[0] - pair[1]).mean(), tolerance=1e-3)


def convergence_again(latents, found):
    for row in found["matches"]:
        x = cloud(latents, row).values
        matches = [unit_matching.match(x[k], x[k + 1]) for k in (0, 2, 4)]
        null = unit_matching.convergence(x, rotations=19).null.mean()
        same(row["above rotated"], np.mean([match.units for match in matches]) - null)
        same(row["orthogonal"], np.mean([match.orthogonal for match in matches]))


def depth_again(latents, found):
    del latents
    orders = {"1": ["encoder_0", "bottleneck", "decoder_0"],
              "2": ["encoder_0", "encoder_1", "bottleneck", "decoder_0", "decoder_1"]}  # fmt: skip
    rows = [row for row in found["layers"]
            if (row["activation"], row["site"]) == ("tanh", "pre")]  # fmt: skip
    for depth, names in orders.items():
        assert [row["layer"] for row in rows if row["depth"] == depth] == names


def consequences_again(latents, found):
    # The tables are of held-out samples; of the probes numbers are near.
    for row in found["cells"]:
        probes = cloud(latents, {**row, "site": "post"}).values
        near = np.abs([pa.alignment_c4(whiten(one).samples) for one in probes])
        assert abs(float(row["|C4| of the shape"]) - interquartile_mean(near)) < 0.1
        dip = interquartile_mean(pa.axis_quantisation(probes))
        assert abs(float(row["mean dip"]) - dip) < 0.02


def emergence_again(latents, found):
    rows = [row for row in found["courses"] if row["statistic"] == "shape"]
    assert len(rows) == 2 * 2 * 2
    for row in rows:
        clouds = cloud(latents, row, step=0 if row["epoch"] == "0" else -1).values
        same(row["value"], np.mean([pa.alignment_c4(whiten(one).samples) for one in clouds]))


RECOMPUTED = {
    "rotated_basis": rotated_again, "group_ladder": ladder_again, "dose_response": dose_again,
    "optimizer_factorial": factorial_again, "convergence": convergence_again,
    "depth": depth_again, "consequences": consequences_again, "emergence": emergence_again,
}  # fmt: skip


def unjudged(row, key):
    """Whether there are too few of what it takes.

    Of a sparse autoencoder's shape 5 samples per feature are not there, and of 6 seeds there are 3
    pairs, which have no interval.
    """
    if key in ("low", "high") and 0 < int(row.get("pairs") or 6) < 6:
        return row[key] == ""
    shape = key.startswith("shape") or row.get("quantity") == "shape_excess"
    return shape and row.get("architecture") == "sparse"


@pytest.mark.parametrize(
    "module",
    [pytest.param(one, marks=pytest.mark.slow) if one in LONG else one for one in STUDIES],
)
def test_every_study_runs_as_a_command(module, tmp_path):
    want = STUDIES[module]
    done = command(module, f"--workdir={tmp_path / 'run'}", *GRID, *want.flags)
    assert done.returncode == 0, done.stderr
    study = tmp_path / "run" / "study"
    assert f"study: {study / 'index.html'}" in done.stdout
    page = (study / "index.html").read_text()
    # The documentation's outcome is not this run's, whose command and grid stand above it.
    documented = page.index("<summary>What the project's documentation says")
    assert page.index("<h2>This run</h2>") < page.index("--widths=6") < documented
    assert documented < page.index("\nOutcome" if "\nOutcome" in page else "Cost: ")
    found = tables(study)
    assert found
    assert {name: len(found[name]) for name in want.rows} == want.rows
    for name in found:
        assert f"<h2>{name}</h2>" in page
        assert (study / f"{name}.md").stat().st_size > 0
    alts = re.findall(r'<img alt="([^"]*)"', page)
    assert len(alts) == len(list(study.glob("*.png"))) > 0
    for alt in alts:
        assert len(alt) > 40
        assert alt.endswith(".")
        assert page.count(alt) >= 2  # below the picture, too
    named = {key for rows in found.values() for row in rows for key in row}
    assert set(want.numbers) <= named
    for name, rows in found.items():
        for row in rows:
            wrong = {key: row[key] for key in want.numbers if key in row and not unjudged(row, key)
                     and not math.isfinite(float(row[key] or "nan"))}  # fmt: skip
            assert not wrong, (name, row)
    if module in RECOMPUTED:
        RECOMPUTED[module](load_run(tmp_path / "run"), found)


@pytest.mark.slow
def test_views_of_every_seed_and_their_differences(tmp_path):
    done = command("views", f"--workdir={tmp_path / 'run'}", *GRID, PAIR, "--seeds=0,1",
                   "--probe_samples=60", "--snapshots=0")  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = tables(tmp_path / "run" / "study")
    seeds = {(row["cloud"], row["view"], int(row["seed"])): row for row in found["seeds"]}
    assert len(seeds) == len(found["seeds"]) == 2 * len(found["views"])
    for row in found["views"]:
        first, second = (seeds[row["cloud"], row["view"], seed] for seed in (0, 1))
        mean = (float(first["C4"]) + float(second["C4"])) / 2
        assert math.isclose(float(row["C4"]), mean, rel_tol=1e-9)
        assert row["C4 rotated"] == first["C4 rotated"] != ""
        assert second["C4 rotated"] == ""
        known = [x["AMI with full space"] for x in (first, second) if x["AMI with full space"]]
        assert int(row["AMI with full space, seeds"]) == len(known)
        if row["view"] in ("pca", "tsne"):  # they see distances alone, and all samples
            assert float(row["change by rotation"]) < 1e-6
            assert float(row["samples shown, rotated"]) == 1
    labels = {row["view"]: row for row in found["differences"]
              if row["quantity"] == "AMI with labels"}  # fmt: skip
    for view in ("pca", "tsne"):
        apart = [float(seeds["tanh, trained", view, seed]["AMI with labels"])
                 - float(seeds["isotropic_tanh, trained", view, seed]["AMI with labels"])
                 for seed in (0, 1)]  # fmt: skip
        assert math.isclose(float(labels[view]["difference"]), sum(apart) / 2, abs_tol=1e-9)
        assert labels[view]["p"] == ""  # two seeds claim nothing, and it is said
    text = "p and q are missing where there are fewer than 6 seeds."
    assert done.stdout.count(text) == 1
    assert text in (tmp_path / "run" / "study" / "index.html").read_text()


@pytest.mark.slow
def test_few_seeds_are_said_to_be_few(tmp_path):
    done = command("width", f"--workdir={tmp_path / 'run'}", *GRID, PAIR, "--seeds=0,1",
                   "--latent_widths=3")  # fmt: skip
    assert done.returncode == 0, done.stderr
    text = "p and q are missing where there are fewer than 6 seeds."
    assert done.stdout.count(text) == 1
    study = tmp_path / "run" / "study"
    assert text in (study / "index.html").read_text()
    assert "trends" not in tables(study)  # of one width there is none


@pytest.mark.slow
def test_sparse_autoencoders_follow_the_run_that_they_are_derived_from(tmp_path):
    """Of another first seed they are other latents: those that are there are trained anew."""
    workdir = tmp_path / "run"
    small = [f"--workdir={workdir}", *GRID, "--architectures=mlp", "--capture=bottleneck",
             "--batch_size=48",
             "--activations=tanh"]  # fmt: skip
    for seeds in ("0", "1,0"):
        done = command("architectures", *small, f"--seeds={seeds}")
        assert done.returncode == 0, done.stderr
        rows = [r for r in tables(workdir / "study")["layers"] if r["architecture"] == "sparse"]
        assert [row["seeds"] for row in rows] == [str(len(seeds.split(",")))] * 2


@pytest.mark.slow
def test_diverged_networks_have_no_consequences_and_keep_nobody_from_theirs():
    """One of three networks is not finite, then all: what is left is as without it."""
    program = """
import jax, numpy as np
from ppp_jax.experiments import consequences
from ppp_jax.data import datasets
from ppp_jax.engine import training
from ppp_jax.grid import Grid
from ppp_jax.storage import restore

dataset = datasets.load("digits")
grid = Grid(activations=["tanh"], widths=[4], latent_widths=[3], seeds=range(3))
(cell,) = grid.cells
model = training.build_model(cell, dataset.shape)
params = jax.device_get(jax.vmap(model.init)(jax.random.split(jax.random.key(0), 3)))

def measured(runs, factor):
    scaled = jax.tree.map(lambda x: x[runs] * factor.reshape(-1, *[1] * (x.ndim - 1)), params)
    return consequences.measure(restore.Trained(cell, grid, model, scaled), dataset)

some = measured([0, 1, 2], np.array([1, np.nan, 1], np.float32))
alone = measured([0, 2], np.ones(2, np.float32))
assert list(some) == list(alone) and len(some) == 10
for name, values in some.items():
    assert np.isnan(values[1]), name
    if "noise" not in name:  # drawn for all at once
        np.testing.assert_allclose(values[[0, 2]], alone[name], rtol=1e-5)
assert consequences.cell_rows({("tanh", "adam"): some})[0]["seeds"] == 2
assert measured([0, 1], np.array([np.nan] * 2, np.float32)) == {}
rows = consequences.correlation_rows({("tanh", "adam"): some})
assert set(rows["seeds"]) == {2}
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("module", "flags", "problem"),
    [
        ("depth", ["--architectures=transformer"], "--architectures=transformer: "
         "is not supported by this experiment; choose among mlp, conv, classifier"),
        ("consequences", ["--architectures=classifier"], "--architectures=classifier: "
         "is not supported by this experiment; choose among mlp, conv, transformer, "
         "transformer_layernorm, sparse"),
        ("depth", ["--latent_widths=4,5"], "--latent_widths=4,5: give one value, because "
         "this experiment compares activations and depths"),
        ("convergence", ["--activations=tanh@simplex"], "--activations=tanh@simplex: its basis "
         "must be orthonormal here: units are matched one to one"),
        ("views", ["--activations=tanh@haar:1"], "--activations=tanh@haar:1: this experiment uses "
         "only the standard basis; leave out the part from @ on"),
        ("optimizer_factorial", ["--optimizers=adam,sgd"], "--optimizers=adam,sgd: name "
         "isotropic_adam too: under it the functions' effects are measured"),
    ],
)  # fmt: skip
def test_what_a_study_cannot_take_is_refused_before_training(module, flags, problem, tmp_path):
    done = command(module, f"--workdir={tmp_path / 'run'}", *flags)
    assert (done.returncode, done.stderr) == (1, f"error: {problem}\n")
    assert not (tmp_path / "run").exists()


def test_a_transformer_of_pytorch_is_kept_for_the_analysis(tmp_path):
    pytest.importorskip("torch")
    done = command("torch_transformer", f"--workdir={tmp_path}", "--networks=1", "--epochs=1",
                   "--rotations=19")  # fmt: skip
    assert done.returncode == 0, done.stderr
    rows = tables(tmp_path / "study")["layers"]
    assert len(rows) == 2 * 3 * 3  # blocks, places, statistics
    done = command("analyze", f"--latents={tmp_path / 'latents.npz'}", f"--out={tmp_path / 'out'}",
                   "--name=block_0_hidden_after_gelu", "--epsilon=0.6", "--by=axis_0")  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "ppp.png").stat().st_size > 0


def test_calibration_draws_its_figure(tmp_path):
    done = command("calibration", "--draws=5", "--samples=40", "--rotations=19",
                   f"--out={tmp_path}")  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "calibration.png").stat().st_size > 0
    assert "| clumped, randomly rotated |" in done.stdout


@pytest.mark.parametrize("module", ["optimizer_factorial", "group_ladder"])
def test_a_setting_that_cannot_be_used_is_refused_before_training(module, tmp_path):
    done = command(module, f"--workdir={tmp_path / 'run'}", "--rotations=3")
    assert done.returncode == 1
    assert done.stderr == "error: --rotations=3: must be at least 19\n"
    assert not (tmp_path / "run").exists()
