"""The default experiment's program lowers for TPU and for CUDA, which need not be there."""

import dataclasses
import re

import jax
import numpy as np
import pytest
from jax import export

from ppp_jax.data import datasets
from ppp_jax.engine import devices, program
from ppp_jax.experiments.ablation import DEFAULTS
from ppp_jax.networks import activations, functional, optimizers


def others(registry, known):
    return sorted(set(registry) - set(known)) or known


REST = dataclasses.replace(
    DEFAULTS,
    activations=others(activations.ACTIVATIONS, DEFAULTS.activations),
    optimizers=others(optimizers.OPTIMIZERS, DEFAULTS.optimizers),
)
GRIDS = {
    "default": DEFAULTS,
    "the rest of the registries": REST,
    # After `init` their programs are the same: not with every activation and optimiser.
    "initializers": dataclasses.replace(
        REST,
        activations=REST.activations[:1],
        optimizers=REST.optimizers[:1],
        initializers=sorted(functional.INITIALIZERS),
    ),
}


@pytest.fixture(scope="module", params=GRIDS)
def calls(request):
    """Each function of a program on one device, with the arguments of a call."""
    mesh = devices.runs_mesh(over=jax.devices()[:1])
    built = program.build(GRIDS[request.param], datasets.load("digits"), seed_batch=16, mesh=mesh)
    states, number = jax.eval_shape(built.init, built.hypers), np.int32(0)
    return {
        "init": (built.init, (built.hypers,)),
        "chunk": (built.chunk, (states, built.hypers, built.arrays, number, number)),
        "observe": (built.observe, (states, built.arrays, number)),
    }


def exported(calls, name, *platforms):
    function, arguments = calls[name]
    return export.export(function, platforms=platforms)(*arguments)


@pytest.mark.parametrize("name", ["init", "chunk", "observe"])
def test_every_function_lowers(calls, name):
    """In single precision, donating what is donated, without the detour that CPUs need.

    For both at once: a text that differed between them would hold what is for either.
    """
    module = exported(calls, name, "tpu", "cuda")
    assert module.platforms == ("tpu", "cuda")
    text = module.mlir_module()
    assert "optimization_barrier" not in text
    assert not re.search(r"\bf64>|xf64>", text)
    products = re.findall(r"stablehlo.dot_general.*", text)
    assert all(product.count("HIGHEST") == 2 for product in products)
    assert products or name == "init"
    states = jax.tree.leaves(calls["chunk"][1][0])
    assert text.count("tf.aliasing_output") == (len(states) if name == "chunk" else 0)
    if name != "observe":
        kept = module.out_avals[: len(states)]
        assert [(x.shape, x.dtype) for x in kept] == [(x.shape, x.dtype) for x in states]


def test_the_detour_is_there_on_a_cpu(calls):
    assert "optimization_barrier" in exported(calls, "chunk", "cpu").mlir_module()
