import dataclasses
import json

import numpy as np
import pytest

from ppp_jax.errors import InputError
from ppp_jax.grid import Grid


def test_cells_are_the_full_product_with_unique_names():
    grid = Grid(
        activations=["tanh", "relu"],
        depths=[1, 2],
        widths=[4, 8],
        latent_widths=[2, 3],
        optimizers=["sgd", "adam"],
        initializers=["orthogonal", "glorot_normal"],
    )
    assert len(grid.cells) == len({cell.name for cell in grid.cells}) == 2**6


def test_numpy_numbers_are_taken_and_kept_plain():
    grid = Grid(seeds=np.arange(3), learning_rates=np.array([0.1, 0.2]))
    assert json.loads(json.dumps(grid.to_json()))["seeds"] == [0, 1, 2]


def test_default_learning_rates_are_the_optimizers_own():
    grid = Grid(optimizers=["sgd", "adam"])
    assert (grid.rates("sgd"), grid.rates("adam"), grid.rate_count) == ((0.1,), (0.001,), 1)
    assert Grid(learning_rates=[0.1, 0.2], seeds=range(3)).runs_per_cell == 6


@pytest.mark.parametrize(
    ("epochs", "snapshots", "expected"),
    [
        (100, (), (0, 1, 2, 4, 8, 16, 32, 64, 100)),
        (1, (), (0, 1)),
        (8, (), (0, 1, 2, 4, 8)),
        (10, (3,), (0, 3, 10)),
        (10, (0, 10), (0, 10)),
    ],
)
def test_snapshots_always_hold_both_ends(epochs, snapshots, expected):
    assert Grid(epochs=epochs, snapshots=snapshots).snapshot_epochs == expected


def test_json_is_resolved_and_plain():
    grid = Grid(seeds=range(2), epochs=4)
    config = json.loads(json.dumps(grid.to_json()))
    assert config == grid.to_json()
    assert config["learning_rates"] == {"adam": [0.001]}
    assert config["snapshots"] == [0, 1, 2, 4]
    assert set(config) == {field.name for field in dataclasses.fields(Grid)}


BAD = {
    "activations=tahn: unknown; did you mean tanh": {"activations": ["tahn"]},
    "activations=tanh: must be a sequence": {"activations": "tanh"},
    "activations=tanh: appears twice": {"activations": ["tanh", "tanh"]},
    "activations=: is empty": {"activations": []},
    "optimizers=adm: unknown; did you mean adam": {"optimizers": ["adm"]},
    "initializers=normal: unknown": {"initializers": ["normal"]},
    "depths=0: must be a whole number, at least 1": {"depths": [0]},
    "widths=-4: must be a whole number, at least 1": {"widths": [-4]},
    "latent_widths=1.5: must be a whole number": {"latent_widths": [1.5]},
    "latent_widths=1: must be a whole number, at least 2": {"latent_widths": [1]},
    "learning_rates=True: must be a positive": {"learning_rates": [True]},
    "doses=1.5: must be a number from 0": {"activations": ["dose_tanh"], "doses": [1.5]},
    "doses=True: must be a number from 0": {"activations": ["dose_tanh"], "doses": [True]},
    "activations=dose_tanh: needs a dose": {"activations": ["dose_tanh"]},
    "activations=tanh: takes no dose": {"activations": ["dose_tanh", "tanh"], "doses": [0.5]},
    "activations=dose_tanh:0.5: takes no dose": {"activations": ["dose_tanh:0.5"], "doses": [1]},
    "epochs=0: must be": {"epochs": 0},
    "batch_size=0: must be": {"batch_size": 0},
    "batch_size=True: must be": {"batch_size": True},
    "probe_samples=-1: must be": {"probe_samples": -1},
    "seeds=: is empty": {"seeds": range(0)},
    "seeds=-1: must be": {"seeds": [-1]},
    "seeds=2147483648: must be": {"seeds": [2**31]},
    "snapshots=101: must be a whole number, from 0 to 100": {"snapshots": [101]},
    "learning_rates=0: must be a positive": {"learning_rates": [0]},
    "learning_rates=nan: must be a positive": {"learning_rates": [float("nan")]},
}


@pytest.mark.parametrize("text", sorted(BAD))
def test_bad_setting_is_one_line_with_field_value_and_remedy(text):
    with pytest.raises(InputError) as caught:
        Grid(**BAD[text])
    assert str(caught.value).startswith(text)
    assert "\n" not in str(caught.value)
