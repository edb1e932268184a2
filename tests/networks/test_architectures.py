"""The networks by name: what each gives, what turns it, and that a grid trains it like a loop."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from ppp_jax.analysis import alignment_c4, load, load_run, project, rotation_test
from ppp_jax.analysis.io.runs import saved_groups
from ppp_jax.analysis.results import layers
from ppp_jax.data import datasets
from ppp_jax.data.datasets import Shape
from ppp_jax.engine import program
from ppp_jax.engine.training import batch_indices, build_model
from ppp_jax.errors import InputError
from ppp_jax.grid import Grid
from ppp_jax.networks import architectures, functional, interpolated, optimizers
from ppp_jax.networks.functional import Sizes
from ppp_jax.storage import restore
from ppp_jax.sweep import sweep
from tests.experiments.test_analyze import analyze, rows

pytestmark = pytest.mark.usefixtures("quick_compilation")

NAMES = sorted(architectures.ARCHITECTURES)
SHAPE = Shape(64, (8, 8, 1), 10)
WIDTH, DEPTH, LATENT = 6, 2, 5
# Layers whose units an activation follows, with the layers that read them. Of a convolution's
# units each stands in the flat vectors beside it once per position.
TURNED = {
    "mlp": [("encoder_0", "encoder_1"), ("encoder_1", "bottleneck"), ("bottleneck", "decoder_0"),
            ("decoder_0", "decoder_1"), ("decoder_1", "output")],
    "classifier": [("encoder_0", "encoder_1"), ("bottleneck", "output")],
    "conv": [("encoder_0", "encoder_1"), ("encoder_1", "bottleneck"), ("bottleneck", "decoder_0"),
             ("decoder_0", "decoder_1"), ("decoder_1", "output")],
    "sparse": [("bottleneck", "output")],
    "transformer": [("encoder_0.hidden", "encoder_0.back"), ("bottleneck", "expand"),
                    ("decoder_1.hidden", "decoder_1.back")],
}  # fmt: skip
TURNED["transformer_layernorm"] = TURNED["transformer"]
PAIRS = [(name, *pair) for name, pairs in TURNED.items() for pair in pairs]


def build(name, activation="tanh", *, depth=DEPTH, shape=SHAPE):
    return architectures.build(
        name, shape, Sizes(WIDTH, depth, LATENT), activation=interpolated.get(activation).apply,
        initializer=functional.get_initializer("glorot_normal").make,
    )  # fmt: skip


def inputs(samples=7, features=64):
    return jax.random.normal(jax.random.key(9), (samples, features))


@functools.cache
def started(name, *, depth=DEPTH):
    """Returns a network's initial parameters, drawn one by one: those of one shape are alike."""
    return build(name, depth=depth).init(jax.random.key(1))


@pytest.mark.parametrize("depth", [1, 2])
@pytest.mark.parametrize("name", NAMES)
def test_shapes_names_and_decoding(name, depth):
    model, params = build(name, depth=depth), started(name, depth=depth)
    output = model.apply(params, inputs())
    outputs = 10 if name == "classifier" else 64
    assert output.prediction.shape == (7, outputs)
    assert output.prediction.dtype == jnp.float32
    assert list(output.layers) == architectures.get(name).names(depth)
    assert output.latents.post.shape == (7, LATENT)
    for vectors in output.layers.values():
        assert vectors.pre.shape == vectors.post.shape
        assert vectors.pre.ndim == 2
        assert len(vectors.pre) % 7 == 0
    again = model.decode(params, output.latents.post)
    np.testing.assert_allclose(again, output.prediction, rtol=1e-5, atol=1e-6)
    # Every activated layer is counted, and only those: residual streams have no activation.
    residual = sum("residual" in layer for layer in output.layers)
    assert model.activated == len(output.layers) - residual


@pytest.mark.parametrize("name", NAMES)
def test_decoding_takes_the_decoder_s_own_parameters(name):
    model = build(name, "intrinsic_tanh:trained")
    trained = jnp.arange(1.0, model.activated + 1)
    params = started(name) | {functional.ACTIVATION: trained}
    output = jax.jit(model.apply)(params, inputs())
    again = jax.jit(model.decode)(params, output.latents.post)
    np.testing.assert_allclose(again, output.prediction, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", [name for name in NAMES if name != "sparse"])
@pytest.mark.parametrize("shape", [Shape(3 * 7 * 5, (7, 5, 3), 4), Shape(28 * 28, (28, 28, 1), 10)])
def test_images_of_any_size(name, shape):
    model, x = build(name, shape=shape), jax.ShapeDtypeStruct((3, shape.features), jnp.float32)
    shown = jax.eval_shape(lambda key, x: model.apply(model.init(key), x), jax.random.key(0), x)
    assert shown.prediction.shape == (3, shape.classes if name == "classifier" else shape.features)


def entry(params, dotted):
    for part in dotted.split("."):
        params = params[part]
    return params


def units_of(params, name, layer):
    """Returns how many units an activation sees as one vector behind a layer."""
    spread = name == "conv" and layer == "decoder_0"
    return WIDTH if spread else entry(params, layer)["kernel"].shape[-1]


def turn_units(params, layer, reader, q):
    """Turns a layer's units, at every position, and the weights that read them."""
    params, n = jax.tree.map(jnp.asarray, params), len(q)
    writes, reads = entry(params, layer), entry(params, reader)
    for part, value in writes.items():
        writes[part] = (value.reshape(*value.shape[:-1], -1, n) @ q).reshape(value.shape)
    kernel = reads["kernel"]  # (…, units, outputs), of a convolution with positions before
    split = kernel.reshape(*kernel.shape[:-2], -1, n, kernel.shape[-1])
    reads["kernel"] = jnp.einsum("ji,...jo->...io", q, split).reshape(kernel.shape)
    return params


@functools.cache
def network(name, activation):
    """Returns a network's parameters and its compiled function, for all that turn it."""
    return started(name), jax.jit(build(name, activation).apply)


@pytest.mark.parametrize(("name", "layer", "reader"), PAIRS)
@pytest.mark.parametrize("activation", ["tanh", "isotropic_tanh"])
def test_only_isotropic_networks_do_not_know_their_hidden_basis(name, layer, reader, activation):
    params, predict = network(name, activation)
    units = units_of(params, name, layer)
    q = jax.random.orthogonal(jax.random.key(2), units)
    before = predict(params, inputs()).prediction
    after = predict(turn_units(params, layer, reader, q), inputs()).prediction
    same = np.allclose(before, after, rtol=1e-4, atol=1e-5)
    assert same == (activation == "isotropic_tanh")
    # A signed permutation of units changes neither.
    signed = jnp.eye(units)[::-1] * jnp.where(jnp.arange(units) % 2, -1.0, 1.0)[:, None]
    moved = predict(turn_units(params, layer, reader, signed), inputs()).prediction
    np.testing.assert_allclose(moved, before, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["transformer", "transformer_layernorm"])
def test_the_residual_stream_has_no_basis_under_rmsnorm_and_one_under_layernorm(name):
    model = build(name, "isotropic_tanh", depth=1)
    params, predict = started(name, depth=1), jax.jit(model.apply)
    before = predict(params, inputs()).prediction
    q = jax.random.orthogonal(jax.random.key(4), WIDTH)
    turned = jax.tree.map(jnp.asarray, params)
    tokens = len(turned["position"])
    turned["position"] = turned["position"] @ q
    turned["embedding"] = {k: v @ q for k, v in turned["embedding"].items()}
    for block in (turned["encoder_0"], turned["decoder_0"]):
        for part in ("query", "key", "value"):
            kernel = block["attention"][part]["kernel"]
            block["attention"][part]["kernel"] = jnp.einsum("ji,jhd->ihd", q, kernel)
        block["attention"]["out"] = {k: v @ q for k, v in block["attention"]["out"].items()}
        block["hidden"]["kernel"] = q.T @ block["hidden"]["kernel"]
        block["back"] = {k: v @ q for k, v in block["back"].items()}
    flat = turned["bottleneck"]["kernel"].reshape(tokens, WIDTH, -1)
    turned["bottleneck"]["kernel"] = jnp.einsum("ji,tjo->tio", q, flat).reshape(tokens * WIDTH, -1)
    for key, value in turned["expand"].items():
        shaped = value.reshape(*value.shape[:-1], tokens, WIDTH) @ q
        turned["expand"][key] = shaped.reshape(value.shape)
    turned["output"]["kernel"] = q.T @ turned["output"]["kernel"]
    after = predict(turned, inputs()).prediction
    same = np.allclose(before, after, rtol=1e-4, atol=1e-5)
    assert same == architectures.get(name).respects_rotations == (name == "transformer")


def test_attention_is_that_of_flax_to_rounding():
    """Also where products are so large that their exponentials overflow."""
    query, key, value = 9 * jax.random.normal(jax.random.key(5), (3, 2, 16, 2, 3))
    query = query.at[0].multiply(30)

    def mixed(attention):
        def total(*parts):
            return jnp.sum(jnp.sin(attention(*parts, mask=None, dropout_rate=0.0)))

        return jax.jit(jax.value_and_grad(total, argnums=(0, 1, 2)))(query, key, value)

    ours, flax = mixed(architectures._attention), mixed(nnx.dot_product_attention)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3), ours, flax)


def test_classifier_is_judged_by_cross_entropy_and_brier_score():
    logits, labels = np.random.default_rng(0).normal(size=(6, 4)), np.array([0, 1, 2, 3, 0, 1])
    output = functional.Output(jnp.asarray(logits, jnp.float32), {})
    chance = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    entropy = -np.log(chance[np.arange(6), labels]).mean()
    brier = np.mean((chance - np.eye(4)[labels]) ** 2)
    for error, expected in ((architectures.cross_entropy, entropy), (architectures.brier, brier)):
        found = jax.jit(lambda output, labels, error=error: error(output, 0, labels))
        np.testing.assert_allclose(found(output, labels), expected, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["classifier", "conv", "sparse", "transformer"])
def test_grid_equals_a_loop_of_single_runs(name):
    """Against a Python loop over the steps of one network, with nothing of the program."""
    grid = Grid(activations=["isotropic_tanh"], architectures=[name], widths=[WIDTH], seeds=[3, 8],
                latent_widths=[LATENT], optimizers=["momentum"], learning_rates=[0.05],
                probe_samples=20, capture=["all"])  # fmt: skip
    dataset, (cell,), steps = datasets.load("digits"), grid.cells, 4
    built = program.build(grid, dataset, seed_batch=2)
    states, _ = built.chunk(built.init(built.hypers), built.hypers, built.arrays, np.int32(0),
                            np.int32(steps))  # fmt: skip
    seen = built.observe(states, built.arrays, np.int32(steps))[cell.name]
    model, make = build_model(cell, dataset.shape), optimizers.get("momentum").make
    params = jax.jit(model.init)(jax.random.fold_in(jax.random.key(8), 0))
    state = make(0.05).init(params)

    order = jax.jit(lambda k, t: batch_indices(k, t, samples=len(dataset.train), batch_size=24))

    @jax.jit
    def step(params, state, chosen):
        x, y = jnp.asarray(dataset.train)[chosen], jnp.asarray(dataset.train_labels)[chosen]
        gradient = jax.grad(lambda p: model.loss(model.apply(p, x), x, y))(params)
        updates, state = make(0.05).update(gradient, state, params)
        return optax.apply_updates(params, updates), state

    for t in range(steps):
        key = jax.random.fold_in(jax.random.key(8), 1)
        chosen = order(key, jnp.int32(t))
        params, state = step(params, state, chosen)
    output = jax.jit(model.apply)(params, dataset.test)
    error = model.error(output, dataset.test, dataset.labels[2])
    np.testing.assert_allclose(seen.test_mse[1], error, rtol=1e-3)
    layers = jax.jit(model.apply)(params, dataset.train[:20]).layers
    assert set(seen.captured) == set(layers) - {functional.BOTTLENECK}
    for layer, vectors in {**seen.captured, functional.BOTTLENECK: seen.latents}.items():
        for a, b in zip(vectors, layers[layer], strict=True):
            np.testing.assert_allclose(a[1], b, rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize(
    ("axes", "problem"),
    [
        ({"data": "synthetic", "architectures": ["conv"]}, "data=synthetic: has no images"),
        ({"data": "patches", "architectures": ["classifier"]}, "data=patches: has no labels"),
        ({"architectures": ["transformer"], "widths": [7]}, "widths=7: must be a multiple of 2"),
        (
            {"capture": ["encoder_3"], "depths": [2]},
            "capture=encoder_3: no network of this grid "
            "has this layer .known: decoder_0, decoder_1, encoder_0, encoder_1",
        ),
    ],
)
def test_data_and_sizes_that_a_network_cannot_take(tmp_path, axes, problem):
    with pytest.raises(InputError, match=problem):
        sweep.train(Grid(**axes), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_unknown_names_are_refused_with_the_nearest():
    with pytest.raises(InputError, match="architectures=convv: unknown; did you mean conv"):
        Grid(architectures=["convv"])
    with pytest.raises(InputError, match="capture=encodr_0: unknown; did you mean encoder_0"):
        Grid(capture=["encodr_0"])


def test_a_jax_that_cannot_train_convolutions_is_refused(tmp_path, monkeypatch):
    newer = architectures.get("conv")._replace(oldest_jax=(99, 0, 0))
    monkeypatch.setitem(architectures.ARCHITECTURES, "conv", newer)
    problem = rf"architectures=conv: needs jax 99.0.0 or later, .* {jax.__version__} is installed"
    with pytest.raises(InputError, match=problem):
        sweep.train(Grid(architectures=["mlp", "conv"]), tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()


@pytest.fixture(scope="module")
def captured(tmp_path_factory):
    """A grid of two architectures and depths with every layer kept, grown once."""
    if jax.__version_info__ < architectures.CONVOLVES:
        pytest.skip("this JAX does not train convolutions")
    grid = {
        "activations": ["tanh"], "widths": [4], "latent_widths": [3], "depths": [1, 2],
        "architectures": ["mlp"], "optimizers": ["sgd"], "epochs": 1, "probe_samples": 30,
        "capture": ["all"], "seeds": [0, 1],
    }  # fmt: skip
    workdir = tmp_path_factory.mktemp("captured") / "run"
    sweep.train(Grid(**grid), workdir, seed_batch=2, progress=False)
    whole = grid | {"architectures": ["mlp", "conv"]}
    sweep.train(Grid(**whole), workdir, seed_batch=2, progress=False)
    return workdir


@pytest.mark.slow
def test_captured_layers_are_groups_of_their_own(captured):
    groups = saved_groups(captured, layer=None)
    assert {g["layer"] for g in groups if g["architecture"] == "conv"} == set(
        architectures.get("conv").names(2)
    )
    for group in groups:
        if group["architecture"] == "mlp":
            latents = load_run(captured, **group)
            assert latents.sizes["unit"] == group["units"]
            assert np.isfinite(latents["post"].values).all()
            np.testing.assert_allclose(latents["post"], np.tanh(latents["pre"]), atol=1e-5)
            deep = group["layer"] in ("encoder_1", "decoder_1")
            assert latents["depth"].values.tolist() == ([2] if deep else [1, 2])
    shallow = load_run(captured, layer="encoder_0", architecture="conv", units=4)
    assert shallow.sizes["sample"] == 30 * 16  # 30 images, 4 × 4 positions each
    assert shallow["labels"].values[:16].tolist() == [shallow["labels"].values[0]] * 16


def test_a_layer_in_several_sizes_must_be_chosen(captured):
    with pytest.raises(
        InputError, match=r"architecture=None: is ambiguous; name one of \['conv', 'mlp'\]"
    ):
        load_run(captured)
    with pytest.raises(InputError, match=r"units=5: is not in this grid, which has \[4\]"):
        load_run(captured, architecture="mlp", layer="encoder_0", units=5)
    with pytest.raises(InputError, match=r"vectors=None: is ambiguous; name one of \[4, 16\]"):
        load_run(captured, architecture="conv", layer="decoder_0")
    with pytest.raises(InputError, match="layer=encoder_9: is not in this grid"):
        load_run(captured, layer="encoder_9")


def test_analyze_opens_any_layer_of_any_network(captured, tmp_path):
    done = analyze(f"--latents={captured}")
    error = "error: --architecture=None: is ambiguous; name one of ['conv', 'mlp']\n"
    assert (done.returncode, done.stderr) == (1, error)
    done = analyze(f"--latents={captured}", "--architecture=conv", "--layer=decoder_0", "--units=4",
                   "--vectors=16", "--epsilon=0.6", f"--out={tmp_path / 'out'}")  # fmt: skip
    assert done.returncode == 0, done.stderr
    layer = load(captured, name="pre", architecture="conv", layer="decoder_0", units=4, vectors=16)
    clouds = layer.isel(step=-1)
    assert clouds.sizes["sample"] == 30 * 16
    shares = rows(tmp_path / "out" / "fractions.csv")
    accepted = project(clouds, epsilon=0.6).sizes["point"]
    assert sum(int(share["accepted"]) for share in shares) == accepted


def test_restored_networks_give_the_latents_that_were_saved(captured):
    dataset = datasets.load("digits")
    found = {one.cell.name: one for one in restore.restore(captured, dataset)}
    assert len(found) == 4
    for one in found.values():
        saved = load_run(captured, architecture=one.cell.architecture)
        saved = saved["post"].isel(step=-1).sel(depth=one.cell.depth).squeeze(drop=True)
        apply, parameters = jax.jit(one.model.apply), jax.tree.map(np.asarray, one.params)
        for run in (0, 1):
            params = jax.tree.map(lambda leaf, run=run: leaf[run], parameters)
            latents = apply(params, dataset.train[:30]).latents.post
            np.testing.assert_allclose(latents, saved.values[run], rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_a_folder_that_was_grown_is_restored_as_one_grid(tmp_path):
    """Seeds and rates added later: every network stands where its latents do."""
    axes = {
        "activations": ["tanh"], "widths": [4], "latent_widths": [3], "optimizers": ["sgd"],
        "learning_rates": [0.2], "epochs": 1, "probe_samples": 20, "seeds": [3],
    }  # fmt: skip
    for added in ({}, {"seeds": [2, 3, 0], "learning_rates": [0.05, 0.2]}):
        sweep.train(Grid(**axes | added), tmp_path, seed_batch=1, progress=False)
    dataset, saved = datasets.load("digits"), load_run(tmp_path)["post"].isel(step=-1)
    (one,) = restore.restore(tmp_path, dataset)
    assert one.grid.run_shape == (2, 3)
    latents = jax.vmap(lambda p: one.model.apply(p, dataset.train[:20]).latents.post)(one.params)
    expected = saved.squeeze(drop=True)
    assert expected.dims[:2] == one.grid.run_axes
    expected = expected.values.reshape(6, 20, 3)
    assert len(np.unique(expected[:, 0, 0])) == 6
    np.testing.assert_allclose(latents, expected, rtol=1e-4, atol=1e-5)


def test_what_is_not_trained_is_not_restored(tmp_path, captured):
    with pytest.raises(InputError, match="holds no run"):
        restore.restore(tmp_path, datasets.load("digits"))
    with pytest.raises(InputError, match="other data than patches"):
        restore.restore(captured, datasets.load("patches"))


@pytest.mark.slow
def test_every_layer_is_measured(captured):
    rows = layers.measure_layers(captured, rotations=19)
    mlp = [row for row in rows if row["architecture"] == "mlp"]
    # Of 1 and 2 hidden layers on each side: 3 and 5 layers, before and after the activation.
    assert len(mlp) == 2 * (3 + 5)
    assert {(row["layer"], row["depth"]) for row in mlp} >= {("encoder_1", 2), ("encoder_0", 1)}
    bottleneck = load_run(captured, architecture="mlp")["post"].isel(step=-1).squeeze(drop=True)
    for row in mlp:
        assert row["seeds"] == 2
        assert len(row["shape_excess_seeds"]) == 2
        if (row["layer"], row["site"]) == ("bottleneck", "post"):
            x = bottleneck.sel(depth=row["depth"]).transpose("seed", "sample", "unit")
            shape = rotation_test(x, rotations=19).sel(statistic="shape")
            above = (shape["value"] - shape["mean"]).values
            np.testing.assert_allclose(row["shape_excess_seeds"], above, rtol=1e-4)
            np.testing.assert_allclose(row["shape_excess"], above.mean(), rtol=1e-4)
            np.testing.assert_allclose(row["c4"], alignment_c4(x.values).mean(), rtol=1e-4)
    turned = [{**row, "activation": "isotropic_tanh",
               "shape_excess_seeds": row["shape_excess_seeds"] - 0.5} for row in mlp]  # fmt: skip
    apart = layers.differences([*mlp, *turned]).to_dict("records")
    assert len(apart) == 2 * 2 * len(layers.compared())  # depths, kinds of latents
    for row in apart:
        assert (row["activation"], row["against"]) == ("tanh", "isotropic_tanh")
        np.testing.assert_allclose(
            row["difference"], 0.5 if row["quantity"] == "shape_excess" else 0
        )
    slopes = layers.trends(mlp, axis="depth").to_dict("records")
    assert {(row["site"], row["quantity"]) for row in slopes} == {
        (kind, name) for kind in ("pre", "post") for name in layers.compared()
    }
