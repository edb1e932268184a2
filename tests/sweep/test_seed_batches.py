"""How many runs at a time: laws of the choice, and the memory it is made for."""

import json
from typing import NamedTuple

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ppp_jax.data import datasets
from ppp_jax.engine import program
from ppp_jax.grid import Grid
from ppp_jax.storage import manifest
from ppp_jax.sweep import demand, seed_batches
from ppp_jax.sweep.seed_batches import MAX_CPU_WIDTH, Needs, balanced, cache_rule

pytestmark = pytest.mark.usefixtures("quick_compilation")

SIZES, COUNTS = st.integers(1, 2**40), st.integers(1, 300)
DIGITS = datasets.load("digits")
LITTLE = DIGITS._replace(train=DIGITS.train[:100], held_out=DIGITS.held_out[:30])


def tiny(**changes):
    axes = {"activations": ["tanh"], "widths": [6], "latent_widths": [3], "probe_samples": 30}
    return Grid(**(axes | changes))


@given(SIZES, SIZES, COUNTS)
def test_cache_rule_fills_half_the_cache(bytes_per_run, l3_bytes, cores):
    def taken(width):
        return cores * width * bytes_per_run

    width = cache_rule(bytes_per_run, l3_bytes=l3_bytes, cores=cores)
    assert 1 <= width <= MAX_CPU_WIDTH
    assert width == 1 or taken(width) <= l3_bytes / 2
    assert width == MAX_CPU_WIDTH or taken(width + 1) > l3_bytes / 2 - 1


@given(SIZES, SIZES, COUNTS, st.integers(0, 2**40))
def test_cache_rule_is_monotone(bytes_per_run, l3_bytes, cores, more):
    width = cache_rule(bytes_per_run, l3_bytes=l3_bytes, cores=cores)
    assert cache_rule(bytes_per_run, l3_bytes=l3_bytes + more, cores=cores) >= width
    assert cache_rule(bytes_per_run + more, l3_bytes=l3_bytes, cores=cores) <= width
    assert cache_rule(bytes_per_run, l3_bytes=l3_bytes, cores=cores + more) <= width


@given(COUNTS, COUNTS)
def test_balanced_takes_the_fewest_batches_and_wastes_less_than_one_run_of_each(runs, at_most):
    width = balanced(runs, at_most)
    assert 1 <= width <= min(runs, at_most)
    batches = -(-runs // width)
    assert batches == -(-runs // at_most)
    assert 0 <= batches * width - runs < batches


def test_a_system_that_does_not_say_its_cache(monkeypatch):
    monkeypatch.setattr(seed_batches.os, "sysconf", lambda _: 0)
    assert seed_batches._l3_bytes() == seed_batches.USUAL_L3_BYTES


# ---------------------------------------------------------------------------------- memory

# Case to grid, data and width. With little data, training takes most; with more, observing.
CASES = {
    "training": (
        Grid(
            activations=["relu", "tanh"],
            widths=[64],
            latent_widths=[6],
            learning_rates=[0.1, 0.2],
            seeds=range(20),
            probe_samples=30,
        ),
        LITTLE,
        10,
    ),
    "observing": (
        Grid(
            activations=["tanh"],
            widths=[32],
            latent_widths=[4],
            optimizers=["sgd", "momentum"],
            seeds=range(24),
        ),
        DIGITS,
        8,
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", sorted(CASES))
def test_predicted_memory_is_the_compilers(case):
    """Of a whole program, from measurements of batches of 2 and 4 of one cell."""
    grid, dataset, width = CASES[case]
    mesh = program.devices.runs_mesh(over=jax.devices()[:1])
    built = program.build(grid, dataset, seed_batch=width, mesh=mesh)
    states, number = jax.eval_shape(built.init, built.hypers), np.int32(0)
    if case == "training":
        lowered = built.chunk.lower(states, built.hypers, built.arrays, number, number)
    else:
        lowered = built.observe.lower(states, built.arrays, number)
    sizes = lowered.compile().memory_analysis()
    arguments, output = sizes.argument_size_in_bytes, sizes.output_size_in_bytes
    taken = arguments + output - sizes.alias_size_in_bytes + sizes.temp_size_in_bytes
    (shape,) = {cell.shape for cell in grid.cells}
    needs = {shape: seed_batches.measure(grid, shape, dataset)}
    predicted = seed_batches.memory_bytes(grid, dataset, {shape: width}, needs)
    assert 0.7 < predicted / taken < 1.3
    # Without compiling: coarser, and what nothing can do without is never more than it takes.
    demanded = demand.demanded(grid, dataset, {shape: width})
    assert 0.4 < demanded.memory / taken < 2.5
    assert demanded.least <= taken


# Of the last, training takes most of small batches, and observing of large ones.
NEEDS = {
    "training": Needs(step=90_000, look=10_000),
    "observing": Needs(step=10_000, look=90_000),
    "both": Needs(step=1_000, look=25_000),
}


def memory(grid, width, needs):
    return seed_batches.memory_bytes(grid, LITTLE, {"1x6-3": width}, {"1x6-3": needs})


@pytest.mark.parametrize("case", sorted(CASES))
def test_predicted_memory_is_linear_in_seeds(case):
    seeds = [range(count * jax.device_count()) for count in (8, 16, 24)]
    first, second, third = (memory(tiny(seeds=some), 4, NEEDS[case]) for some in seeds)
    assert third - second == second - first > 0


class Choices(NamedTuple):
    """What is predicted of each width that splits 6 runs equally, and the widths chosen."""

    taken: dict[int, int]
    by_limit: list[tuple[int, int]]


@pytest.fixture(scope="module", params=NEEDS.values(), ids=NEEDS)
def choices(request):
    """The accelerator's choice with exactly the memory that a width takes, and a byte less."""
    grid = tiny(seeds=range(6 * jax.device_count()))
    taken = {width: memory(grid, width, request.param) for width in (1, 2, 3, 6)}
    limits = sorted([*taken.values(), *(size - 1 for size in taken.values()), 10**12])
    chosen = [
        seed_batches._memory_width(grid, LITTLE, request.param, limit=limit) for limit in limits
    ]
    return Choices(taken, list(zip(limits, chosen, strict=True)))


def test_what_an_accelerator_trains_at_a_time_fits(choices):
    assert all(size == 1 or choices.taken[size] <= limit for limit, size in choices.by_limit)


def test_no_more_would_fit(choices):
    for limit, width in choices.by_limit:
        larger = [size for size in choices.taken if size > width]
        assert not larger or choices.taken[larger[0]] > limit, (limit, width)


def test_more_memory_never_gives_a_smaller_width(choices):
    widths = [width for _, width in choices.by_limit]
    assert widths == sorted(widths)
    assert (widths[0], widths[-1]) == (1, 6)


# ---------------------------------------------------------------------------------- timing


class Trainer:
    """A clockwork in place of `tuning._Trainer`: compiles for long, hiccups in one round."""

    seconds_per_batch: dict[int, float] = {}  # noqa: RUF012
    made: list[int] = []  # noqa: RUF012

    def __init__(self, _grid, _cell, _dataset, width, _arrays):  # noqa: D107
        self.made.append(width)
        self.width = width
        self.delays = iter([1000, 0, 50])

    def seconds(self, *, steps):
        return steps * self.seconds_per_batch[self.width] + next(self.delays, 0)


@pytest.fixture
def trainer(monkeypatch, tmp_path):
    """Puts the clockwork in place, beside a memory of its own and a cache rule that says 4."""
    monkeypatch.setattr(Trainer, "made", [])
    monkeypatch.setattr(seed_batches, "_Trainer", Trainer)
    monkeypatch.setattr(seed_batches, "cache_rule", lambda *_, **__: 4)
    before = jax.config.values["jax_compilation_cache_dir"]
    jax.config.update("jax_compilation_cache_dir", str(tmp_path))
    yield Trainer
    jax.config.update("jax_compilation_cache_dir", before)


GRID = tiny(seeds=range(16 * jax.device_count()))
LONG = 10**9  # steps, worth timing for


def choose(grid=GRID, *, steps=LONG):
    return seed_batches.seed_batches(grid, LITTLE, recorded={}, steps=steps)


# Seconds of all 16 runs at each width to the width chosen.
TIMES = [
    ({4: 1.0, 2: 0.79, 8: 1.0}, 2),
    ({4: 1.0, 2: 1.0, 8: 0.79}, 8),
    ({4: 1.0, 2: 0.81, 8: 0.81}, 4),
    ({4: 1.0, 2: 0.7, 8: 0.6}, 8),
    ({4: 1.0, 2: 3.0, 8: 2.0}, 4),
]


@pytest.mark.parametrize(("times", "best"), TIMES)
def test_a_timing_overrules_the_cache_rule_only_if_clear(times, best, trainer, monkeypatch):
    costs = {width: seconds * width / 16 for width, seconds in times.items()}
    monkeypatch.setattr(trainer, "seconds_per_batch", costs)
    assert choose() == {"1x6-3": best}
    assert trainer.made == [4, 2, 8]


def test_a_choice_is_remembered_for_the_same_question(trainer, monkeypatch, tmp_path):
    monkeypatch.setattr(trainer, "seconds_per_batch", {4: 1.0, 2: 1.0, 8: 0.1})
    first = choose()
    kept = tmp_path / seed_batches.REMEMBERED
    assert list(json.loads(kept.read_text()).values()) == [8]
    assert [path.name for path in tmp_path.iterdir()] == [seed_batches.REMEMBERED]
    monkeypatch.setattr(trainer, "seconds_per_batch", {4: 1.0, 2: 0.1, 8: 1.0})
    assert choose() == first == {"1x6-3": 8}
    assert len(trainer.made) == 3  # once each
    # Another question, asked and remembered beside it:
    monkeypatch.setattr(manifest, "__version__", "9.9")
    assert choose() == {"1x6-3": 2}
    assert choose(tiny(seeds=GRID.seeds, batch_size=12)) == {"1x6-3": 2}
    assert sorted(json.loads(kept.read_text()).values()) == [2, 2, 8]


def test_nothing_is_timed_where_the_choice_costs_more_than_it_saves(trainer):
    assert choose(steps=1) == {"1x6-3": 4}
    assert choose(tiny(seeds=[0])) == {"1x6-3": 1}  # no choice
    assert trainer.made == []


@pytest.mark.parametrize("text", ["[]", "{", '{"a": -5}', "5", "null", "\x00"])
def test_a_damaged_memory_of_choices_counts_for_nothing(text, trainer, monkeypatch, tmp_path):
    monkeypatch.setattr(trainer, "seconds_per_batch", {4: 1.0, 2: 1.0, 8: 0.1})
    (tmp_path / seed_batches.REMEMBERED).write_text(text)
    assert choose() == {"1x6-3": 8}
    assert list(seed_batches._known(tmp_path / seed_batches.REMEMBERED).values()) == [8]


def test_a_plan_times_nothing(trainer):
    assert seed_batches.seed_batches(GRID, LITTLE, recorded={}, steps=LONG, timed=False) == {
        "1x6-3": 4
    }
    assert trainer.made == []


def test_recorded_widths_are_kept_and_others_chosen(trainer):
    grid = tiny(widths=[6, 9], seeds=range(7 * jax.device_count()))
    recorded = {"1x6-3": 5, "2x8-8": 3}
    chosen = seed_batches.seed_batches(grid, LITTLE, recorded=recorded, steps=1)
    assert chosen == {"1x6-3": 5, "1x9-3": balanced(7, 4)}
    kept = seed_batches.seed_batches(tiny(), LITTLE, recorded=recorded, steps=LONG)
    assert kept == {"1x6-3": 5}
    assert trainer.made == []


def test_flops_are_six_per_sample_and_parameter():
    """Two for the forward pass and four for the gradient, of every cell's one step of one run."""
    grid = Grid(activations=["relu", "tanh"], widths=[128], latent_widths=[16], seeds=range(5))
    parameters = (64 * 128 + 128) + (128 * 16 + 16) + (16 * 128 + 128) + (128 * 64 + 64)
    counted = seed_batches.flops_per_step(grid, LITTLE) / (2 * 6 * grid.batch_size * parameters)
    assert 0.7 < counted < 1.3
