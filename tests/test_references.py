"""What users bring in files of their own: found, checked, kept in the run folder, and held to."""

import json
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ppp_jax
import ppp_jax.analysis as pa
from ppp_jax import groups, references
from ppp_jax.analysis import load_run
from ppp_jax.data import datasets
from ppp_jax.errors import InputError
from ppp_jax.grid import Grid
from ppp_jax.networks import activations, interpolated
from ppp_jax.networks.activations import Activation
from ppp_jax.storage import restore
from ppp_jax.symmetry import brought
from tests import commands

pytestmark = pytest.mark.usefixtures("quick_compilation")

SHRINK = """
import jax, jax.numpy as jnp
def shrink(x):
    r = jnp.sqrt(jnp.sum(x * x, axis=-1, keepdims=True) + 1e-12)
    return x * jax.nn.relu(r - 0.5) / r
"""
AXES = {"widths": [6], "latent_widths": [4], "probe_samples": 64, "snapshots": [1]}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working directory with a file of one's own, which is forgotten again."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    (tmp_path / "own_shrink.py").write_text(SHRINK)
    yield tmp_path
    for name in [name for name in sys.modules if name.startswith("own_")]:
        del sys.modules[name]


def test_a_function_is_swept_stopped_resumed_grown_and_held_to(folder):
    """By real commands from its folder: from flags, in a Grid, and with a changed function."""
    names, run = "tanh,own_shrink:shrink", folder / "run"
    flags = [f"--log_dir={folder}", *commands.flags(AXES), "--seed_batch=2"]

    def command(*more):
        return commands.start(run, [*flags, *more], module="tests.in_folder")

    first = command("--epochs=200", f"--activations={names}")
    assert commands.wait_until(commands.reached(run, 8), first)
    first.kill()
    first.communicate()
    _, told = commands.finish(command("--epochs=200", f"--activations={names}"))
    assert "own_shrink:shrink: group O(n) found, residual" in told
    grown = ["--epochs=200", f"--activations={names}", "--seeds=0,1"]
    commands.finish(command(*grown))
    found = load_run(run)
    assert found["activation_group"].values.tolist() == ["B_n", "O(n)"]
    assert list(json.loads((run / "manifest.json").read_text())["sources"]) == ["own_shrink:shrink"]

    (folder / "own_shrink.py").write_text(SHRINK + "# a remark\n")
    more = ["--epochs=200", f"--activations={names}", "--seeds=0,1,2"]
    process = command(*more)
    _, refused = process.communicate(timeout=commands.TIMEOUT)
    assert process.returncode == 1
    assert "another source file (own_shrink:shrink of a file with sha256" in refused
    (folder / "own_shrink.py").write_text(SHRINK.replace("0.5", "0.25"))
    process = command(*more, "--allow_inexact_resume")
    _, refused = process.communicate(timeout=commands.TIMEOUT)
    assert process.returncode == 1
    assert "another function under the name of activation own_shrink:shrink (own_shrink" in refused


@pytest.mark.usefixtures("folder")
def test_functions_in_a_grid_become_names():
    import own_shrink

    grid = Grid(activations=["tanh", own_shrink.shrink, jnp.tanh])
    assert grid.activations == ("tanh", "own_shrink:shrink", references.name_of(
        jnp.tanh, field="activations", register="register_activation"))  # fmt: skip
    with pytest.raises(InputError, match=r"activations=.*<lambda>: cannot .*register_activation"):
        Grid(activations=[lambda x: x])

    def local(x):
        return jnp.tanh(x)

    with pytest.raises(InputError, match=r"activations=test_func.*local: cannot be imported"):
        Grid(activations=[local])
    try:
        ppp_jax.register_activation("toy_local", local, partner="isotropic_tanh")
        ppp_jax.register_activation("toy_local", local)  # a cell of a notebook is run again
        assert Grid(activations=[local]).activations == ("toy_local",)
        assert interpolated.get("toy_local").group == "B_n"
    finally:
        del activations.ACTIVATIONS["toy_local"]


BAD = {
    "own_bad:missing": "own_bad.py has no missing",
    "own_nowhere:f": "there is no module own_nowhere in",
    "own_bad:number": "is a int; it must be a function",
    "own_bad:narrow": "returns an array of shape",
    "own_bad:half": "returns float16 for float32",
    "own_bad:numpy": "fails on an array of shape",
    "own_bad:mixed": "mixes the vectors of an array",
    "own_bad:kink": "is not finite at 0",
    "own_bad:flat": "has the gradient 0 everywhere",
    "own_bad:claimed": r"claims the group O\(n\), but it does not commute .*residual",
}


def test_what_cannot_be_used_is_one_line(folder):
    (folder / "own_bad.py").write_text("""
import jax.numpy as jnp, numpy
from ppp_jax.networks.activations import Activation
number = 5
def narrow(x): return x.sum(-1)
def half(x): return x.astype(jnp.float16)
def numpy(x, numpy=numpy): return numpy.tanh(x)
def mixed(x): return x / jnp.sqrt(jnp.sum(x * x) + 1)
def kink(x): return x / jnp.linalg.norm(x, axis=-1, keepdims=True)
def flat(x): return jnp.sign(x)
claimed = Activation(jnp.tanh, group="O(n)")
""")
    for name, problem in BAD.items():
        with pytest.raises(InputError, match=problem) as error:
            brought.check(Grid(activations=[name]))
        assert str(error.value).startswith(f"activations={name}: ")
        assert "\n" not in str(error.value)


def test_a_file_that_is_changed_under_a_program_is_refused(folder):
    grid = Grid(activations=["own_shrink:shrink"])
    brought.check(grid)
    (folder / "own_shrink.py").write_text(SHRINK + "#")
    with pytest.raises(InputError, match=r"own_shrink\.py has changed since it was imported"):
        brought.check(grid)


def test_the_group_of_a_function_is_found():
    key = jax.random.key(0)
    layer_norm = lambda x: x - x.mean(axis=-1, keepdims=True)  # noqa: E731
    assert groups.find(layer_norm, units=8, key=key) == "O(n-1)xO(1)"
    assert Activation(jnp.tanh).group == ""


LINEN = """
import flax.linen as nn
class Net(nn.Module):
    shape: tuple
    sizes: tuple
    initializer: object
    @nn.compact
    def __call__(self, x, activate):
        x = activate("encoder_0", nn.Dense(self.sizes.width, kernel_init=self.initializer)(x))
        x = activate("bottleneck", nn.Dense(self.sizes.latent_width)(x))
        return nn.Dense(self.shape.features)(x)
"""
OTHERS = """
import jax, jax.numpy as jnp
from flax import nnx
class Nnx(nnx.Module):
    def __init__(self, shape, sizes, initializer, rngs):
        self.down = nnx.Linear(shape.features, sizes.latent_width, rngs=rngs)
        self.up = nnx.Linear(sizes.latent_width, shape.features, rngs=rngs)
    def __call__(self, x, activate):
        return self.up(activate("bottleneck", self.down(x)))
def plain(shape, sizes, draw):
    def init(key):
        return {"w": draw(key, (shape.features, sizes.latent_width), jnp.float32)}
    return init, lambda params, x, activate: activate("bottleneck", x @ params["w"]) @ params["w"].T
def without(shape, sizes, draw):
    return (lambda key: {"w": jnp.ones(2)}), (lambda params, x, activate: x * params["w"][0])
"""


def test_networks_of_other_libraries_are_trained_restored_and_decoded(folder):
    (folder / "own_linen.py").write_text(LINEN)
    (folder / "own_others.py").write_text(OTHERS)
    names = ["own_linen:Net", "own_others:Nnx", "own_others:plain"]
    dataset = datasets.load("digits")
    grid = Grid(activations=["intrinsic_tanh:trained"], architectures=names, epochs=1, **AXES)
    run = ppp_jax.train(grid, folder / "run", progress=False)
    for one in restore.restore(run, dataset):
        params, x = jax.tree.map(lambda leaf: leaf[0], one.params), dataset.train[:5]
        output = one.model.apply(params, x)
        assert output.prediction.shape == x.shape
        decoded = one.model.decode(params, output.latents.post)
        assert jnp.array_equal(decoded, output.prediction)
    assert load_run(run, architecture=names[0]).attrs["architecture"] == names[0]
    with pytest.raises(InputError, match=r"architectures=own_others:without: needs activate"):
        ppp_jax.plan(Grid(architectures=["own_others:without"]), folder / "other")


REST = """
import jax, jax.numpy as jnp, numpy as np, optax
def frame(units):
    return np.linalg.qr(np.vander(np.linspace(1, 2, units)))[0].T
def share(cloud, vectors, planes):
    return jnp.abs(cloud @ vectors.T).max(-1).mean()
def data():
    rng = np.random.default_rng(0)
    return rng.normal(size=(100, 5)), rng.normal(size=(40, 5))
def step(learning_rate=0.05):
    return optax.sgd(learning_rate, momentum=0.8)
def draw(key, shape, dtype):
    return jax.random.uniform(key, shape, dtype) - 0.5
def long(units):
    return 2 * np.eye(units)
"""


def test_everything_else_is_a_reference_too(folder):
    (folder / "own_rest.py").write_text(REST)
    clouds = np.random.default_rng(0).laplace(size=(200, 6))
    found = pa.rotation_test(
        clouds, statistics=["own_rest:share"], basis="own_rest:frame", rotations=9
    )
    assert found["statistic"].values.tolist() == ["share"]
    with pytest.raises(InputError, match=r"basis=own_rest:long: has vectors of lengths 2 to 2"):
        pa.ppp(clouds, basis="own_rest:long")
    grid = Grid(
        activations=["tanh", "tanh@own_rest:frame"], optimizers=["own_rest:step"],
        initializers=["own_rest:draw"], data="own_rest:data", epochs=1,
        **{**AXES, "probe_samples": 50},
    )  # fmt: skip
    assert grid.rates("own_rest:step") == (0.05,)
    table = pa.table(ppp_jax.train(grid, folder / "run", progress=False))
    assert table["learning_rate"].tolist() == [0.05, 0.05]
    assert table["optimizer_respects_rotations"].all()
    assert not table["initializer_respects_rotations"].any()
    assert table["activation_group"].tolist() == ["B_n", "B_n@own_rest:frame"]
    kept = json.loads((folder / "run" / "manifest.json").read_text())["sources"]
    assert list(kept) == [f"own_rest:{name}" for name in ("data", "draw", "frame", "step")]


@pytest.mark.parametrize(
    ("name", "remedy"),
    [("a.npy", "numpy.load"), ("a.csv", "pandas.read_csv"), ("a.parquet", "pandas.read_parquet")],
)
def test_other_files_of_data_get_the_line_that_makes_them_right(name, remedy):
    with pytest.raises(InputError, match=rf"{remedy}\(path\).*numpy.savez"):
        datasets.load(name)
