"""The progress bar: what it counts, and what its clock leaves out."""

import re
from types import SimpleNamespace

import numpy as np
import pytest
import tqdm

from ppp_jax.grid import Grid
from ppp_jax.sweep import progress
from ppp_jax.sweep.progress import Progress

GRID = Grid(activations=["tanh", "relu"], optimizers=["sgd", "adam"], seeds=[0, 1, 2])
RUNS, RUN_STEPS = 12, 100


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still unless a test moves it."""
    now = SimpleNamespace(seconds=1000.0)
    tell = lambda: now.seconds  # noqa: E731
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=tell, time=tell))
    monkeypatch.setattr(tqdm.std, "time", tell)
    return now


def losses(*, tanh=(0.1, 0.2, 0.3), relu=(1.0, 2.0, 3.0)):
    """Returns losses of every cell, alike under both optimisers."""
    values = {"tanh": tanh, "relu": relu}
    return {cell.name: np.array(values[cell.activation]) for cell in GRID.cells}


def advance(bar, clock, *, steps, seconds, epoch=1.0, seen=None):
    clock.seconds += seconds
    bar.advance(GRID, seen or losses(), steps=steps, epoch=epoch, run_steps=RUN_STEPS)


def test_steps_done_earlier_count_as_steps_but_not_as_speed(clock, capsys):
    with Progress(total=200, done=150, show=True) as bar:
        bar.compiling()
        bar.compiled()
        advance(bar, clock, steps=20, seconds=4, epoch=3.0)
        assert (bar.bar.n, bar.bar.total) == (170, 200)
        assert bar.bar.postfix == f"{RUNS * 20 / RUN_STEPS / 4} runs/s, 0 diverged"
    stderr = capsys.readouterr().err
    assert "epoch 3: " in stderr
    assert "170/200" in stderr
    assert "5.00step/s" in stderr


def test_compiling_does_not_count_in_the_rate(clock):
    """Two parts, each compiled for 1,000 s and trained at half a run per second."""
    with Progress(total=200, done=0, show=True) as bar:
        for part in (1, 2):
            bar.compiling()
            clock.seconds += 1000
            bar.compiled()
            for _ in range(2):
                advance(bar, clock, steps=50, seconds=12)
                assert bar.bar.postfix == "0.5 runs/s, 0 diverged"
            assert bar.bar.format_dict["elapsed"] == part * 24
            assert bar.bar.n == part * 100


def test_parts_too_short_to_be_drawn_count_in_the_remaining_time(clock):
    with Progress(total=400, done=0, show=True) as bar:
        for part in (1, 2, 3):
            bar.compiling()
            clock.seconds += 1000
            bar.compiled()
            advance(bar, clock, steps=100, seconds=3)
            assert bar.bar.format_dict["elapsed"] == part * 3


def test_compiling_is_said(clock, capsys):
    with Progress(total=200, done=0, show=True) as bar:
        bar.compiled()
        advance(bar, clock, steps=20, seconds=20)
        bar.compiling()
        assert re.search(r"compiling: .* 20/200", capsys.readouterr().err)


def test_runs_that_diverged_are_counted(clock):
    seen = losses(tanh=[np.nan, 0.2, np.inf], relu=[1.0, -np.inf, 2.0])
    with Progress(total=200, done=0, show=True) as bar:
        bar.compiled()
        advance(bar, clock, steps=1, seconds=1, seen=seen)
        assert bar.bar.postfix.endswith(" 6 diverged")  # 3 under each of two optimisers


def test_a_snapshot_is_a_line_of_medians_over_all_runs(clock, capsys):
    """Over optimisers too, and of those that have not diverged."""
    seen = losses(tanh=[np.nan, 0.25, 0.75], relu=[np.inf, np.nan, -np.inf])
    seen["tanh-1x48-8-adam-glorot_normal"] = np.array([9.0, np.nan, np.nan])
    with Progress(total=200, done=0, show=True) as bar:
        bar.compiled()
        advance(bar, clock, steps=1, seconds=1)
        bar.write(GRID, seen, epoch=8.0)
    assert "epoch    8  loss  tanh 0.750  relu nan\n" in capsys.readouterr().err


def test_nothing_is_shown_unless_asked_for(clock, capfd):
    with Progress(total=200, done=0, show=False) as bar:
        bar.compiling()
        bar.compiled()
        advance(bar, clock, steps=20, seconds=20)
        bar.write(GRID, losses(), epoch=1.0)
    assert capfd.readouterr() == ("", "")


def test_an_error_closes_the_bar(capsys):
    with pytest.raises(KeyboardInterrupt), Progress(total=2, done=1, show=True):
        raise KeyboardInterrupt
    assert capsys.readouterr().err.endswith("\n")
