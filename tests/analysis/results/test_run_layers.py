"""The layers of a run folder, of which the seeds of a cell are networks tested together."""

import numpy as np
import pytest

from ppp_jax.analysis import compare_layers, load_run, measure
from ppp_jax.analysis.results.run_layers import open_all, run_layers
from ppp_jax.errors import InputError
from ppp_jax.experiments import analyze as main
from ppp_jax.files import ledger
from ppp_jax.grid import Grid
from ppp_jax.sweep import sweep
from tests import odd_commands

pytestmark = pytest.mark.usefixtures("quick_compilation")

GRID = Grid(activations=("tanh", "isotropic_tanh"), depths=(1,), widths=(6,), latent_widths=(4,),
            optimizers=("adam",), learning_rates=(1e-3, 1e18), seeds=(0, 1), epochs=1,
            capture=("all",), probe_samples=32)  # fmt: skip
TEST = {"rotations": 19}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return sweep.train(GRID, tmp_path_factory.mktemp("trained") / "run", progress=False)


@pytest.fixture(scope="module")
def found(run):
    return compare_layers(run, statistics=["covariance", "shape"], **TEST)


def test_layers_are_captured_ones_in_their_order_and_models_are_cells_that_did_not_diverge(run):
    opened = open_all(str(run))
    assert opened.names == tuple(f"{layer}.{site}" for layer in (
        "encoder_0", "bottleneck", "decoder_0") for site in ("pre", "post"))  # fmt: skip
    assert opened.models == tuple(f"{activation}, learning_rate=0.001"
                                  for activation in GRID.activations)  # fmt: skip
    assert {one.shape for one in opened.layers} == {(2, 32, 4), (2, 32, 6)}
    assert opened.left_aside == tuple(
        f"2 of 2 runs of {activation}, learning_rate=1e+18 (diverged)"
        for activation in GRID.activations
    )
    assert run_layers(run / "latents.zarr").names == opened.names


def test_the_numbers_are_those_of_the_report(run, found):
    pooled = measure(load_run(run), epsilon=0.5, **TEST).pooled.isel(step=-1, rate=0)
    for site in ("pre", "post"):
        for name in ("covariance", "shape"):
            here = found.sel(layer=f"bottleneck.{site}", statistic=name)
            for ours, theirs in (("value", ""), ("p", "_p_networks"), ("rank", "_rank")):
                expected = pooled[f"{name}_{site}{theirs}"].values.ravel()
                np.testing.assert_allclose(here[ours], expected, rtol=1e-6)
    assert (found["networks"] == 2).all()
    assert (found["rows"] == 64).all()


def test_a_layer_is_that_of_the_last_snapshot(run):
    opened = open_all(run)
    (one,) = [one for one in opened.layers if one.name == "encoder_0.post"
              and one.model.startswith("tanh")]  # fmt: skip
    saved = load_run(run, layer="encoder_0")["post"].isel(step=-1, rate=0).sel(activation="tanh")
    assert np.array_equal(one.open(), saved.squeeze(drop=True))


def test_a_basis_of_ones_own_is_taken_instead_of_the_activations(run, found):
    assert found.attrs["basis"] == "standard"
    other = compare_layers(run, basis="haar:0", statistics=["covariance"], **TEST)
    assert other.attrs["basis"] == "haar:0"
    assert not other["value"].equals(found["value"].sel(statistic=["covariance"]))


def test_the_command_takes_all_layers_of_a_run(run, tmp_path):
    flags = [f"--latents={run}", "--all_layers", "--rotations=3", f"--out={tmp_path / 'out'}"]
    done = odd_commands.run(main, flags, tmp_path)
    assert (done["status"], done["traceback"]) == (None, "")
    text = (tmp_path / "out" / "layers.md").read_text(encoding="utf-8")
    assert text.count("| tanh, learning_rate=0.001") == 6
    assert "2 of 2 runs of tanh, learning_rate=1e+18 (diverged)" in text


def test_a_damaged_run_is_one_line(tmp_path):
    (tmp_path / "latents.zarr").mkdir()
    (tmp_path / "latents.zarr" / ledger.FILE).write_text("{")
    with pytest.raises(InputError) as caught:
        open_all(tmp_path)
    assert (caught.value.field, str(caught.value).isprintable()) == ("layers", True)
