"""What an activation takes beside the vector: a traced dose, a trained intrinsic length."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ppp_jax.analysis.io.runs import load_run
from ppp_jax.data.datasets import Shape
from ppp_jax.engine.training import Hyper, build_run
from ppp_jax.grid import Grid, extension
from ppp_jax.networks.functional import ACTIVATION
from ppp_jax.networks.interpolated import get
from ppp_jax.sweep import sweep

SMALL = {"widths": [8], "latent_widths": [3], "epochs": 2, "probe_samples": 50, "seeds": [0, 1]}
DOSED = Grid(activations=["dose_tanh"], doses=[0.0, 1.0], learning_rates=[0.001, 0.01], **SMALL)


def train(grid, folder):
    return load_run(sweep.train(grid, folder, seed_batch=1, progress=False))


@pytest.fixture(scope="module")
def dosed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dosed")
    return folder, train(DOSED, folder).load()


def test_dose_is_an_axis_whose_ends_are_the_pure_activations(dosed, tmp_path):
    _, latents = dosed
    assert latents["pre"].dims[-6:] == ("rate", "dose", "seed", "step", "sample", "unit")
    pure = train(
        Grid(activations=["isotropic_tanh", "tanh"], learning_rates=[0.001, 0.01], **SMALL),
        tmp_path,
    )
    for t, name in ((0, "isotropic_tanh"), (1, "tanh")):
        mine, theirs = latents.sel(activation="dose_tanh", dose=t), pure.sel(activation=name)
        start = {"step": 0}  # the same networks; other programs may round their products otherwise
        np.testing.assert_allclose(
            mine["pre"].isel(start), theirs["pre"].isel(start), rtol=1e-5, atol=1e-6
        )
        for kind in ("pre", "post"):
            np.testing.assert_allclose(mine[kind], theirs[kind], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("base", ["tanh", "relu", "leaky_relu"])
def test_traced_ends_are_the_pure_activations_bitwise(base):
    x = jax.random.normal(jax.random.key(0), (200, 8)) * 3
    traced = jax.jit(get(f"dose_{base}").apply)
    for t, name in ((0.0, f"isotropic_{base}"), (1.0, base)):
        got, expected = traced(x, jnp.float32(t)), jax.jit(get(name).apply)(x)
        np.testing.assert_array_equal(got, expected)
    np.testing.assert_allclose(traced(x, jnp.float32(0.25)), get(f"dose_{base}:0.25").apply(x),
                               rtol=1e-6, atol=1e-7)  # fmt: skip


def test_metrics_are_nested_as_the_run_axes(dosed):
    folder, _ = dosed
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert all(np.shape(row["loss"]) == (2, 2, 2) for row in rows)


def test_a_dose_can_be_added_to_a_finished_run(dosed):
    folder, before = dosed
    more = Grid(**{**vars(DOSED), "doses": [0.0, 0.5, 1.0]})
    after = train(more, folder)
    kept = after.sel(dose=[0.0, 1.0])
    np.testing.assert_array_equal(kept["pre"], before["pre"])
    assert np.isfinite(after["pre"].values).all()
    obstacles = extension.obstacles(more, DOSED)
    assert len(obstacles) == 1
    assert obstacles[0].startswith("doses [0.0, 0.5, 1.0] there, [0.0, 1.0] now")


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["momentum", "adam", "isotropic_adam", "muon"])
def test_a_dose_is_never_trained_and_an_intrinsic_length_is(optimizer):
    rng = np.random.default_rng(0)
    data = jnp.asarray(rng.normal(size=(48, 6)), jnp.float32)
    hyper = Hyper(jnp.int32(0), jnp.float32(0.01), jnp.float32(0.3))
    ends = {}
    for name in ("dose_tanh", "intrinsic_tanh:trained"):
        grid = Grid(**{**SMALL, "activations": [name], "optimizers": [optimizer],
                       "doses": [0.3] if name == "dose_tanh" else []})  # fmt: skip
        run = build_run(grid.cells[0], shape=Shape(6), batch_size=24)
        state = run.init(run.draw(hyper.seed), hyper)
        arrays = type(
            "Arrays", (), {"train": data, "train_labels": jnp.zeros(len(data), jnp.int32)}
        )
        for step in range(4):
            state, _ = run.update(state, hyper, arrays, jnp.int32(step))
        ends[name] = np.asarray(state.params[ACTIVATION])
    assert ends["dose_tanh"].shape == (3,)  # hidden, bottleneck, hidden
    np.testing.assert_array_equal(ends["dose_tanh"], np.float32(0.3))
    assert (np.abs(ends["intrinsic_tanh:trained"]) > 1e-4).all()


def test_a_trained_length_starts_at_one():
    x = jax.random.normal(jax.random.key(0), (20, 8))
    np.testing.assert_array_equal(
        get("intrinsic_tanh:trained").apply(x), get("intrinsic_tanh:1").apply(x)
    )
    longer = get("intrinsic_tanh:trained").apply(x, jnp.log(2.0))
    np.testing.assert_allclose(longer, get("intrinsic_tanh:2").apply(x), rtol=1e-6)
