"""A report with other options measures only what these options change."""

import json
import shutil

import numpy as np
import pytest
import xarray as xr

from ppp_jax.analysis import load_run
from ppp_jax.analysis.results import measure as measuring
from ppp_jax.analysis.results.kept_numbers import FILE, KeptNumbers
from ppp_jax.analysis.results.measure import measure
from ppp_jax.analysis.statistics.registry import BASIS, CLOUD, PLANES, PROJECTIONS
from ppp_jax.files.integrity import sealed
from ppp_jax.grid import Grid
from ppp_jax.sweep import sweep

pytestmark = pytest.mark.usefixtures("quick_compilation")

GRID = Grid(
    activations=["tanh", "isotropic_tanh"],
    widths=[6],
    latent_widths=[4],
    optimizers=["sgd"],
    learning_rates=[0.1, 1e12],  # at the second tanh diverges, and has no numbers
    seeds=[0, 1],
    epochs=2,
    probe_samples=60,
)
OPTIONS = {"epsilon": 0.8, "rotations": 19}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return load_run(sweep.train(GRID, tmp_path_factory.mktemp("run"), progress=False))


@pytest.fixture(scope="module")
def plain(dataset):
    return measure(dataset, **OPTIONS)


@pytest.fixture(scope="module")
def written(dataset, tmp_path_factory):
    """A folder with the numbers of the grid."""
    folder = tmp_path_factory.mktemp("kept")
    numbers = KeptNumbers(folder, "these latents")
    measure(dataset, **OPTIONS, once=numbers.once)
    numbers.write(folder)
    return folder


@pytest.fixture
def kept(written, tmp_path):
    """A copy of it, which a test can damage."""
    return shutil.copytree(written, tmp_path / "kept")


def measured(dataset, folder, monkeypatch, made_of="these latents", **changed):
    """What is measured with other options, and the kinds of what was computed for it."""
    computed, test, alone = [], measuring.rotation_test, measuring._numbers

    def tested(*given, statistics, **how):
        computed.append(statistics[0].of)
        return test(*given, statistics=statistics, **how)

    def numbers(*given, everywhere):
        computed.extend([] if everywhere else [CLOUD])
        return alone(*given, everywhere=everywhere)

    monkeypatch.setattr(measuring, "rotation_test", tested)
    monkeypatch.setattr(measuring, "_numbers", numbers)
    found = measure(dataset, **OPTIONS | changed, once=KeptNumbers(folder, made_of).once)
    return found, set(computed)


@pytest.mark.parametrize(
    ("changed", "new"),
    [
        ({}, set()),
        ({"epsilon": 0.6}, {PLANES}),
        ({"rotations": 29}, {BASIS, PLANES, PROJECTIONS}),
        ({"rotation_seed": 1}, {BASIS, PLANES, PROJECTIONS}),
    ],
)
def test_what_options_do_not_change_is_not_computed_again(
    dataset, plain, kept, monkeypatch, changed, new
):
    found, computed = measured(dataset, kept, monkeypatch, **changed)
    assert computed == new
    expected = measure(dataset, **OPTIONS | changed) if changed else plain
    for one, other in zip(found, expected, strict=True):
        xr.testing.assert_identical(one, other)


@pytest.mark.parametrize("made_of", ["other latents", None])
def test_numbers_of_other_latents_are_not_taken(dataset, kept, monkeypatch, made_of):
    _, computed = measured(dataset, kept, monkeypatch, made_of)
    assert computed == {BASIS, PLANES, PROJECTIONS, CLOUD}


def _seal_nonsense(path):
    told = json.loads(path.read_text())
    kept = {key: {"statistic": 3, "numbers": []} for key in told["kept"]}
    path.write_text(json.dumps(sealed({"kept": kept})))


def _edit(path):
    told = json.loads(path.read_text())
    next(iter(told["kept"].values()))["statistic"] = []
    path.write_text(json.dumps(told))


@pytest.mark.parametrize(
    "damage",
    [
        _edit,
        _seal_nonsense,
        lambda path: path.write_bytes(path.read_bytes()[:99]),
        lambda path: path.unlink(),
    ],
)
def test_numbers_that_somebody_changed_are_not_taken(dataset, plain, kept, monkeypatch, damage):
    damage(kept / FILE)
    found, computed = measured(dataset, kept, monkeypatch)
    assert computed == {BASIS, PLANES, PROJECTIONS, CLOUD}
    np.testing.assert_array_equal(found.runs["shape_pre_p"], plain.runs["shape_pre_p"])
