import dataclasses
import itertools
import json
import pathlib

import numpy as np
import pytest

from ppp_jax.errors import InputError
from ppp_jax.grid import extension
from ppp_jax.grid.grid import (
    SETTING,
    STATIC,
    TRACED,
    Cell,
    Grid,
    axes_of,
    cell_axes,
    check_feasible,
    grouped_axes,
)


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


def test_an_axis_is_declared_once_and_everything_follows():
    static, traced = axes_of(STATIC), axes_of(TRACED)
    assert tuple(axis.coordinate for axis in static.values()) == Cell._fields
    assert {*static, *traced} == set(extension.AXES)
    assert cell_axes() == ("activation", "depth", "width", "optimizer", "initializer")
    assert grouped_axes() == ("latent_width", "architecture")
    assert set(axes_of()) == {field.name for field in dataclasses.fields(Grid)}
    for name, axis in axes_of().items():
        assert axis.text(), name
        assert axis.role in (STATIC, TRACED, SETTING), name


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
    "learning_rates=0.0: must be a positive": {"learning_rates": [0]},
    "learning_rates=nan: must be a positive": {"learning_rates": [float("nan")]},
    "learning_rates=inf: must be a positive": {"learning_rates": [10**400]},
    # Numbers that single precision, in which is trained, takes for infinite or for zero:
    "learning_rates=1e+300: must be a positive": {"learning_rates": [1e300]},
    "learning_rates=1e-300: must be a positive": {"learning_rates": [1e-300]},
    "learning_rates=0.1: must be a positive": {"learning_rates": ["0.1"]},
    "activations=5: must be a name": {"activations": [5]},
    "activations=None: must be a sequence": {"activations": None},
    "activations=b'tanh': must be a sequence": {"activations": b"tanh"},
    "activations={'tanh': 1}: must be a sequence": {"activations": {"tanh": 1}},
    "activations={'tanh'}: has no order": {"activations": {"tanh"}},
    "activations=['tanh']: must be a name": {"activations": [["tanh"]]},
    "architectures=None: must be a name": {"architectures": [None]},
    "capture=3: must be a name": {"capture": [3]},
    "optimizers=sgd: appears twice": {"optimizers": ["sgd", "sgd"]},
    "doses=0.0: appears twice": {"activations": ["dose_tanh"], "doses": [0.0, -0.0]},
    "seeds=True: must be a whole number": {"seeds": [True]},
    "seeds=[0, 1]: must be a whole number": {"seeds": [[0, 1], [2, 3]]},
    "seeds=[0 1]: must be a whole number": {"seeds": np.arange(4).reshape(2, 2)},
    "seeds=3: must be a sequence": {"seeds": np.array(3)},
    "seeds=1.0: must be a whole number": {"seeds": np.array([1.0])},
    "seeds=0, …: has more than 100,000 values": {"seeds": itertools.count()},
    "widths=99999999999999999999: must be a whole number, from 1 to 16777216": {
        "widths": [99999999999999999999]
    },
    "depths=10000000: must be a whole number, from 1 to 256": {"depths": [10_000_000]},
    "epochs=99999999999999999999: must be": {"epochs": 99999999999999999999},
    "epochs=10.0: must be a whole number": {"epochs": 10.0},
    "batch_size=[24]: must be a whole number": {"batch_size": [24]},
    "probe_samples=10000000000: must be": {"probe_samples": 10**10},
    "data=None: must be the name": {"data": None},
    "data=b'digits': must be the name": {"data": b"digits"},
    "data=['digits']: must be the name": {"data": ["digits"]},
    "data=: is empty": {"data": ""},
}


def test_a_path_iterators_and_scalars_of_numpy_are_taken_and_kept_plain():
    grid = Grid(
        data=pathlib.Path("mine.npz"),
        activations=(name for name in ["tanh"]),
        seeds=iter([np.int64(3)]),
        epochs=np.int32(4),
        learning_rates=[np.float32(0.5), 1],
        capture=np.array(["encoder_0"]),
    )
    plain = Grid(data="mine.npz", activations=["tanh"], seeds=[3], epochs=4,
                 learning_rates=[0.5, 1.0], capture=["encoder_0"])  # fmt: skip
    assert grid == plain
    assert json.loads(json.dumps(grid.to_json())) == plain.to_json()


class Counted(int):
    """A whole number that counts how often one is compared with another, or hashed."""

    looked = 0

    def __eq__(self, other):
        Counted.looked += 1
        return int(self) == int(other)

    def __hash__(self):
        Counted.looked += 1
        return int.__hash__(self)

    def __index__(self):
        return self


def test_long_axes_are_checked_and_looked_up_without_comparing_all_with_all(monkeypatch):
    """Operations are counted, not seconds: 20,000² would be 400 million."""
    count = 20_000
    monkeypatch.setattr("ppp_jax.grid.grid.operator.index", lambda value: value)
    seeds = [Counted(i) for i in range(count)]
    larger = Grid(seeds=[*seeds, Counted(count)], snapshots=range(101))
    smaller = Grid(seeds=seeds, snapshots=range(101))
    with pytest.raises(InputError, match="seeds=7: appears twice"):
        Grid(seeds=[*seeds, Counted(7)])
    assert not extension.obstacles(smaller, larger)
    (missing,) = extension.extend(smaller, larger).missing
    assert missing.seeds == (count,)
    assert extension.run_indices(larger, smaller)[-1] == list(range(count))
    assert 0 < Counted.looked < 50 * count


def test_a_grid_that_no_program_can_be_made_of_is_refused():
    check_feasible(Grid(epochs=100), 1438)
    with pytest.raises(InputError, match=r"widths=1, … \(20,000 values\): makes 40,000 cells"):
        check_feasible(Grid(widths=range(1, 20_001)), 1438)
    with pytest.raises(InputError, match=r"epochs=1000000000: makes 59,000,000,000 steps per run"):
        check_feasible(Grid(epochs=10**9), 1438)


@pytest.mark.parametrize("text", sorted(BAD))
def test_bad_setting_is_one_line_with_field_value_and_remedy(text):
    with pytest.raises(InputError) as caught:
        Grid(**BAD[text])
    assert str(caught.value).startswith(text)
    assert "\n" not in str(caught.value)
