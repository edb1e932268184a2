"""Functions that are the same are known by their outputs, whatever they are called."""

import numpy as np
import pytest
import xarray as xr

from ppp_jax.analysis.results.same_functions import alike
from ppp_jax.networks import interpolated
from ppp_jax.networks.activations import ACTIVATIONS

UNITS, SAMPLES = 4, 40


@pytest.fixture
def twin(monkeypatch):
    monkeypatch.setitem(ACTIVATIONS, "twin", ACTIVATIONS["tanh"])
    return "twin"


def latents_of(names, *, scale=3.0):
    """Latents of a grid before and after its activations, of two optimisers and seeds."""
    rng = np.random.default_rng(0)
    dims = ("activation", "optimizer", "seed", "step", "sample", "unit")
    before = scale * rng.normal(size=(len(names), 2, 2, 2, SAMPLES, UNITS)).astype(np.float32)
    after = np.stack(
        [np.asarray(interpolated.get(name).apply(x)) for name, x in zip(names, before, strict=True)]
    )
    return xr.Dataset({"pre": (dims, before), "post": (dims, after)}, coords={"activation": names})


def test_equal_functions_of_other_names_are_found(twin):
    (found,) = alike(latents_of(["tanh", "relu", twin, "isotropic_tanh"]))
    assert (found.first, found.second) == ("tanh", twin)
    assert found.apart < 1e-6


def test_of_nearly_equal_functions_is_said_how_far_apart_they_are():
    """By lengths of about 6 and an offset of 0.01: 0.2 %."""
    dataset = latents_of(["isotropic_relu", "isotropic_leaky_relu", "isotropic_tanh"])
    (found,) = alike(dataset)
    assert (found.first, found.second) == ("isotropic_relu", "isotropic_leaky_relu")
    assert 0.001 < found.apart < 0.004
    assert alike(latents_of(["isotropic_relu", "isotropic_leaky_relu"], scale=0.3)) == []


def test_what_is_not_finite_or_dead_or_unknown_is_not_compared(twin):
    dataset = latents_of(["tanh", twin])
    dataset["pre"][{"activation": 0, "optimizer": 1}] = np.nan
    assert len(alike(dataset)) == 1
    assert alike(dataset.assign_coords(activation=["tanh", "of_another_process"])) == []
    dataset["post"][{"activation": 0}] = 0.0
    assert alike(dataset) == []
    assert alike(latents_of(["tanh"])) == []


def test_of_seeds_one_is_looked_at_that_no_network_has_lost(twin):
    dataset = latents_of(["tanh", twin])
    dataset["pre"][{"activation": 0, "seed": 0}] = np.nan
    assert len(alike(dataset)) == 1


def test_a_function_of_jax_arrays_is_applied_to_jax_arrays(monkeypatch):
    first_off = ACTIVATIONS["tanh"]._replace(apply=lambda x: x.at[..., 0].set(0.0))
    monkeypatch.setitem(ACTIVATIONS, "first_off", first_off)
    dataset = latents_of(["tanh", "tanh"]).assign_coords(activation=["tanh", "first_off"])
    assert alike(dataset) == []
