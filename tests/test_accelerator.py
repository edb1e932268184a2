"""What a GPU computes is what a CPU does, to single precision, and its bits are its own.

Everything here is skipped where there is no accelerator.
"""

import json
import os
import subprocess
import sys

import jax
import numpy as np
import pytest

import ppp_jax.analysis as pa
from experiments.benchmarks import rotations
from ppp_jax import Grid, bases, train
from ppp_jax.data import datasets
from ppp_jax.engine import devices, program
from ppp_jax.networks import functional, interpolated, optimizers
from ppp_jax.networks.activations import ACTIVATIONS
from ppp_jax.networks.architectures import ARCHITECTURES
from ppp_jax.symmetry import certificates
from tests import ROOT, bits, plain

CLOSE = 5e-6  # ‖there − here‖ / ‖here‖ in single precision; factors of 11 bits miss it by far
LOSSES = 2e-4  # of a loss, after a few steps in which roundings have grown
STEPS = 30
COMPOSED = [*interpolated.EXAMPLES, "dose_tanh", "tanh@rotated"]
# At its own rate a transformer diverges, and no two roundings do so alike.
SMALL_STEPS = {
    "activations": ["tanh"],
    "optimizers": ["sgd"],
    "architectures": sorted(ARCHITECTURES),
    "learning_rates": [0.01],
}


@pytest.fixture(scope="module", autouse=True)
def accelerator():
    """Skips without one."""
    if jax.default_backend() == "cpu":
        pytest.skip("needs a GPU or TPU")


@pytest.fixture(scope="module")
def cpu():
    return jax.devices("cpu")[0]


def apart(there, here):
    """Returns ‖there − here‖ / ‖here‖ of two arrays."""
    there, here = (np.asarray(x, np.float64) for x in (there, here))
    return np.linalg.norm(there - here) / max(np.linalg.norm(here), np.finfo(np.float32).tiny)


def on_both(function, cpu, *arguments):
    """Returns what a jitted function computes by default, and on the CPU."""
    there = jax.jit(function)(*arguments)
    with jax.default_device(cpu):
        here = jax.jit(function)(*arguments)
    assert there.devices() != here.devices()
    return there, here


# ------------------------------------------------------------------------------ functions


@pytest.mark.parametrize("name", [*sorted(ACTIVATIONS), *COMPOSED])
def test_activations_and_their_gradients(name, cpu):
    entry = interpolated.get(name)
    rng = np.random.default_rng(0)
    x, gradient = rng.normal(size=(2, 200, 12)).astype(np.float32)
    x *= 10 ** rng.uniform(-1, 1, (200, 1)).astype(np.float32)
    own = () if entry.parameter is None else (np.float32(0.7),)
    assert apart(*on_both(entry.apply, cpu, x, *own)) < CLOSE

    def slope(x, gradient):
        return jax.vjp(lambda x: entry.apply(x, *own), x)[1](gradient)[0]

    assert apart(*on_both(slope, cpu, x, gradient)) < CLOSE


@pytest.mark.parametrize("name", [*sorted(ACTIVATIONS), *COMPOSED])
def test_activations_are_certified(name):
    found = certificates.certify_activation(name, units=8)
    assert found.holds, found.problem


@pytest.mark.parametrize("name", sorted(optimizers.OPTIMIZERS))
def test_optimizers_are_certified(name):
    found = certificates.certify_optimizer(name)
    assert found["holds"], found


@pytest.mark.parametrize("name", sorted(functional.INITIALIZERS))
def test_initializers_are_certified(name):
    found = certificates.certify_initializer(name)
    assert found["holds"], found


# ------------------------------------------------------------------------------ training


def losses(axes, device):
    """Returns the mean losses of a short training, every cell's."""
    grid = Grid(**axes, widths=[32], latent_widths=[8], seeds=range(3), probe_samples=30)
    mesh = devices.runs_mesh(over=[device])
    built = program.build(grid, datasets.load("digits"), seed_batch=3, mesh=mesh)
    states = built.init(built.hypers)
    _, found = built.chunk(states, built.hypers, built.arrays, np.int32(0), np.int32(STEPS))
    return {name: np.asarray(value) for name, value in found.items()}


@pytest.mark.parametrize(
    "axes",
    [
        {"activations": ["tanh", "relu", "isotropic_tanh"], "optimizers": ["adam", "momentum"]},
        {"activations": ["tanh"], "optimizers": ["muon", "isotropic_adam"]},
        SMALL_STEPS,
    ],
    ids=["activations", "optimizers", "architectures"],
)
def test_trainings_lose_alike(axes, cpu):
    there, here = losses(axes, jax.devices()[0]), losses(axes, cpu)
    for name, loss in here.items():
        np.testing.assert_allclose(there[name], loss, rtol=LOSSES, err_msg=name)


def test_a_step_is_in_single_precision(cpu):
    """One gradient step of a wide network, whose products 11 bits would spoil."""
    grid = Grid(activations=["identity"], optimizers=["sgd"], widths=[256], latent_widths=[64],
                seeds=[0], learning_rates=[1.0], probe_samples=30)  # fmt: skip
    found = []
    for device in (jax.devices()[0], cpu):
        mesh = devices.runs_mesh(over=[device])
        built = program.build(grid, datasets.load("digits"), seed_batch=1, mesh=mesh)
        (start,) = built.init(built.hypers).values()
        before = jax.device_get(start.params)
        states, _ = built.chunk(
            built.init(built.hypers), built.hypers, built.arrays, np.int32(0), np.int32(1)
        )
        after = jax.device_get(next(iter(states.values())).params)
        found.append(jax.tree.map(lambda a, b: a - b, after, before))
    for there, here in zip(*map(jax.tree.leaves, found), strict=True):
        assert apart(there, here) < 1e-5


@pytest.mark.parametrize(
    "axes",
    [
        {"activations": ["tanh", "isotropic_tanh"], "optimizers": ["adam", "sgd"]},
        {"activations": ["isotropic_softplus"], "optimizers": ["muon", "isotropic_adam"]},
        SMALL_STEPS,
    ],
    ids=["activations", "optimizers", "architectures"],
)
def test_bits_are_the_same_in_any_company_and_any_chunks(axes):
    alone = bits.digests(axes, 4, 1, 1, [15])
    assert bits.digests(axes, 4, 1, 1, [1, 4, 10]) == alone
    assert bits.digests(axes, 4, 9, 1, [15]) == alone


def test_bits_are_the_same_in_another_process():
    """Each compiles for itself, and would take what it finds to be the fastest products."""
    axes = json.dumps({"activations": ["isotropic_tanh"], "optimizers": ["adam", "muon"]})
    command = [sys.executable, "-m", "tests.bits", axes, "[[9, 1, [15]]]", "4"]
    environment = os.environ | {"JAX_ENABLE_COMPILATION_CACHE": "false"}
    started = [
        subprocess.Popen(command, stdout=subprocess.PIPE, env=environment, cwd=ROOT)
        for _ in range(2)
    ]
    one, other = (process.communicate()[0] for process in started)
    assert one == other
    assert b"muon" in one


def test_a_training_that_goes_on_is_the_same_as_one_that_was_not_stopped(tmp_path):
    def grid(epochs):
        return Grid(activations=["tanh", "isotropic_tanh"], widths=[12], latent_widths=[4],
                    seeds=range(4), epochs=epochs, snapshots=[1, 2, 4][: epochs // 2 + 1],
                    probe_samples=30)  # fmt: skip

    train(grid(2), tmp_path / "stopped", progress=False)
    train(grid(4), tmp_path / "stopped", progress=False)
    train(grid(4), tmp_path / "whole", progress=False)
    one, other = (pa.load_run(tmp_path / name) for name in ("stopped", "whole"))
    for name in ("pre", "post"):
        assert one[name].values.tobytes() == other[name].values.tobytes()


# ------------------------------------------------------------------------------ analysis


def cloud(samples, units):
    return np.random.default_rng(1).laplace(size=(samples, units)).astype(np.float32)


def test_alignment_is_the_plain_reference():
    x = cloud(300, 8)
    exact = x.astype(np.float64)
    np.testing.assert_allclose(pa.alignment_c4(x), plain.c4(exact, np.eye(8)), rtol=1e-4)
    kurtosis = plain.kurtosis(exact, np.eye(8))
    np.testing.assert_allclose(pa.alignment_kurtosis(x), kurtosis, rtol=CLOSE)
    unit = plain.unit_kurtosis(exact, np.eye(8))
    np.testing.assert_allclose(pa.unit_kurtosis(x), unit, rtol=CLOSE)


@pytest.mark.parametrize(("samples", "units"), [(2000, 16), (500, 256)])
def test_the_rotation_null_is_numpys(samples, units):
    x = cloud(samples, units)
    tested = pa.rotation_test(x, statistics=rotations.NAMES, rotations=8)
    null = tested["null"].transpose("statistic", "rotation")
    exact = rotations.plain_null(x.astype(np.float64), 8)
    np.testing.assert_allclose(null.values, exact.T, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("units", "epsilon"), [(6, 0.7), (24, 0.85)])
def test_accepted_samples_are_the_plain_references(units, epsilon):
    """Candidates are found here, and decided on by the host in double precision."""
    x = cloud(60, units)
    accepted, _ = plain.ppp(x, np.eye(units), epsilon)
    counts = np.zeros((units, units), int)
    np.add.at(counts, tuple(np.array([(i, j) for i, j, *_ in accepted]).T), 1)
    mine = pa.project(x, epsilon=epsilon)
    first, second = mine.planes.values.T
    np.testing.assert_array_equal(mine.counts.values, counts[first, second])


def test_optimised_bases_are_as_good():
    vectors = bases.build("thomson:7", 4)
    assert bases.energy(vectors) == pytest.approx(14.045759, rel=1e-5)
