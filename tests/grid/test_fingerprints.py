"""A fingerprint, and a certificate, is of the function as it is now, however it is put together."""

import functools
import types

import jax
import jax.numpy as jnp
import optax
import pytest
from flax import nnx

from ppp_jax.grid.fingerprints import fingerprints
from ppp_jax.grid.grid import Grid
from ppp_jax.networks import activations, architectures, functional, optimizers
from ppp_jax.symmetry import certificates

SHIFT = 0.0  # what the functions below read, as in a notebook, where a cell is run again


def mine(x):
    return jnp.tanh(x + SHIFT)


class Mine(nnx.Module):
    def __call__(self, x):
        return mine(x)


def called_first(functions):
    """Returns a function of JAX's by its name that closes over a container of functions."""
    return functools.wraps(jnp.tanh)(lambda x: functions[0](x))


def by_default(x, function=mine):
    return function(x)


def by_keyword(x, *, function=mine):
    return function(x)


def renamed(function):
    function.__module__ = "jax.numpy"
    return function


WAYS = {
    "wrapped": functools.wraps(jnp.tanh)(lambda x: mine(x)),
    "renamed": renamed(types.FunctionType(mine.__code__, globals(), "tanh")),
    "in an object of a package": nnx.Sequential(mine),
    "an object": Mine(),
    "a bound method": Mine().__call__,
    "in a list": called_first([mine]),
    "in a dict": called_first({0: mine}),
    "in a tuple": called_first((functools.partial(mine),)),
    "by default": renamed(by_default),
    "by keyword": renamed(by_keyword),
    "partial": functools.partial(by_keyword, function=mine),
    "compiled": jax.jit(mine),
    "elementwise": activations.elementwise(mine),
}  # fmt: skip


def register(monkeypatch, function):
    entry = activations.ACTIVATIONS["tanh"]._replace(apply=function, partner=None)
    monkeypatch.setitem(activations.ACTIVATIONS, "mine", entry)


def change(monkeypatch):
    monkeypatch.setitem(globals(), "SHIFT", 1.0)


@pytest.mark.parametrize("way", WAYS)
def test_what_a_function_reads_is_read_anew(way, monkeypatch):
    register(monkeypatch, WAYS[way])
    grid = Grid(activations=["tanh", "mine"])
    before = fingerprints(grid)["activations"]
    change(monkeypatch)
    after = fingerprints(grid)["activations"]
    assert after["tanh"] == before["tanh"]
    assert after["mine"] != before["mine"]


def test_certificates_are_computed_anew_too(monkeypatch):
    register(monkeypatch, WAYS["wrapped"])
    assert certificates.certify_activation("mine", 4).holds
    change(monkeypatch)
    assert not certificates.certify_activation("mine", 4).holds


@pytest.mark.parametrize("name", ["block_mine:2", "dose_tanh:0.5"])
def test_what_is_composed_of_a_changed_function_is_read_anew(name, monkeypatch):
    entry = activations.ACTIVATIONS["isotropic_tanh"]
    profile = functools.wraps(jnp.tanh)(lambda r: r * mine(r))
    changed = entry._replace(apply=activations.radial(profile, slope_at_zero=0.0), profile=profile)
    monkeypatch.setitem(activations.ACTIVATIONS, "isotropic_tanh", changed)
    named = changed._replace(profile_name="mine")
    monkeypatch.setitem(activations.ACTIVATIONS, "isotropic_mine", named)
    before = fingerprints(Grid(activations=[name]))
    change(monkeypatch)
    assert fingerprints(Grid(activations=[name])) != before


def test_optimizers_initializers_and_architectures_are_read_anew(monkeypatch):
    draw = functional.INITIALIZERS["orthogonal"]
    step = optimizers.OPTIMIZERS["sgd"]
    network = architectures.ARCHITECTURES["mlp"]
    make = functools.wraps(optax.sgd)(lambda rate: optax.sgd(rate * (1 + SHIFT)))
    shifted = functools.wraps(draw.make)(lambda *of: draw.make(*of) + SHIFT)
    loss = functools.wraps(network.loss)(lambda *of: network.loss(*of) + SHIFT)
    monkeypatch.setitem(optimizers.OPTIMIZERS, "mine", step._replace(make=make))
    monkeypatch.setitem(functional.INITIALIZERS, "mine", draw._replace(make=shifted))
    monkeypatch.setitem(architectures.ARCHITECTURES, "mine", network._replace(loss=loss))
    grid = Grid(optimizers=["mine"], initializers=["mine"], architectures=["mine"])
    before = fingerprints(grid)
    change(monkeypatch)
    after = fingerprints(grid)
    same = {kind: before[kind] == after[kind] for kind in before}
    assert same == {"activations": True, "architectures": False, "optimizers": False,
                    "initializers": False}  # fmt: skip


def test_what_the_package_registers_is_computed_once(monkeypatch):
    grid = Grid(activations=["tanh", "block_tanh:4"])
    before = fingerprints(grid)
    monkeypatch.setattr(jax, "jit", None)  # nothing is lowered again
    assert fingerprints(grid) == before
