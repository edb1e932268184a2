"""One registration each: a toy of every kind is found wherever the built ones are."""

import csv
import json

import jax.numpy as jnp
import numpy as np
import optax
import pytest

import ppp_jax
from ppp_jax.analysis.statistics import registry
from ppp_jax.data import datasets
from ppp_jax.errors import InputError
from ppp_jax.grid.grid import Grid, axes_of
from ppp_jax.networks import activations, architectures, functional, optimizers
from tests.analysis.statistics.test_registry import TOY

pytestmark = pytest.mark.usefixtures("quick_compilation")


def shrink(x):
    """Zero up to a half, then linear: odd, so that it commutes with signed permutations."""
    x = jnp.asarray(x)
    return jnp.sign(x) * jnp.maximum(jnp.abs(x) - 0.5, 0.0).astype(x.dtype)


def noise():
    """Samples without structure, of a few features."""
    x = np.random.default_rng(0).normal(size=(240, 6))
    return datasets.Raw(x[:180], x[180:])


ENTRY = activations.Activation(
    apply=shrink, formula="sign(x_i) max(|x_i| - 1/2, 0)", slope_at_zero=0.0, group="B_n",
    profile=shrink, profile_name="toy_shrink", isotropic=False, partner="isotropic_tanh",
)  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def toys():
    """Puts a toy into each registry, and takes it out again."""
    patch = pytest.MonkeyPatch()
    patch.setattr(registry, "STATISTICS", dict(registry.STATISTICS))
    ppp_jax.register_activation("toy_shrink", ENTRY)
    nesterov = lambda rate: optax.sgd(rate, momentum=0.5, nesterov=True)  # noqa: E731
    ppp_jax.register_optimizer(
        "toy_nesterov", optimizers.Optimizer(nesterov, 0.05, True, "a toy: Nesterov's momentum")
    )
    mlp = architectures.get("mlp")
    ppp_jax.register_architecture("toy_mlp", mlp)
    ppp_jax.register_initializer("toy_normal", functional.get_initializer("glorot_normal"))
    ppp_jax.register_dataset("toy_noise", noise)
    ppp_jax.register_statistic(TOY)
    yield
    for table, name in ((activations.ACTIVATIONS, "toy_shrink"), (datasets.DATASETS, "toy_noise"),
                        (optimizers.OPTIMIZERS, "toy_nesterov"),
                        (architectures.ARCHITECTURES, "toy_mlp"),
                        (functional.INITIALIZERS, "toy_normal")):  # fmt: skip
        del table[name]
    patch.undo()


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("toys") / "run"
    grid = Grid(
        activations=["toy_shrink", "isotropic_tanh"], optimizers=["toy_nesterov"],
        architectures=["toy_mlp"], initializers=["toy_normal"], data="toy_noise",
        widths=[6], latent_widths=[4], seeds=range(6), epochs=1, probe_samples=64,
    )  # fmt: skip
    ppp_jax.train(grid, workdir, progress=False)
    ppp_jax.analysis.write_report(workdir, rotations=19, progress=False)
    return workdir


def rows(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


NAMES = ["toy_shrink", "toy_nesterov", "toy_mlp", "toy_normal", "toy_noise"]


@pytest.mark.parametrize("name", NAMES)
def test_help_names_it(name):
    assert any(name in axis.text() for axis in axes_of().values())


def test_the_certificate_holds_its_claim(report):
    kept = json.loads((report / "certificates.json").read_text())
    assert kept["activations"]["toy_shrink"]["holds"]
    assert kept["optimizers"]["toy_nesterov"]["holds"]
    assert kept["initializers"]["toy_normal"]["holds"]


def test_the_page_and_the_tables_name_it(report):
    page = (report / "report" / "index.html").read_text(encoding="utf-8")
    for name in (*NAMES, TOY.short):
        assert name in page, name
    (verdicts,) = (report / "report").glob("verdicts_*.csv")
    named = {(row["activation"], row["optimizer"], row["initializer"]) for row in rows(verdicts)}
    assert ("toy_shrink", "toy_nesterov", "toy_normal") in named
    assert "largest_share_q" in rows(verdicts)[0]
    (differences,) = (report / "report").glob("differences_*.csv")
    found = rows(differences)
    assert {(row["activation"], row["against"]) for row in found} == {
        ("toy_shrink", "isotropic_tanh")
    }
    assert "largest_share_pre" in {row["quantity"] for row in found}


@pytest.mark.parametrize(
    ("register", "entry", "field"),
    [
        ("register_activation", ENTRY, "activations"),
        ("register_optimizer", shrink, "optimizers"),
        ("register_architecture", shrink, "architectures"),
        ("register_initializer", shrink, "initializers"),
        ("register_dataset", noise, "data"),
    ],
)
@pytest.mark.parametrize("name", ["", "a b", "a:b", "ünit", 5])
def test_a_name_that_cannot_stand_in_a_flag_is_refused(register, entry, field, name):
    with pytest.raises(InputError, match=f"{field}=.*must consist of letters"):
        getattr(ppp_jax, register)(name, entry)


def test_a_name_that_is_taken_is_refused():
    with pytest.raises(InputError, match="activations=tanh: is registered already"):
        ppp_jax.register_activation("tanh", ENTRY)
