"""The experiments as commands: real training, tables, figures, one line for what is wrong."""

import csv
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]


def command(module, *flags):
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-m", f"experiments.{module}", *flags],
        cwd=ROOT, capture_output=True, text=True, timeout=240,
    )  # fmt: skip


def test_reconstruction_at_fixed_and_best_rates(tmp_path):
    small = ["--activations=tanh,isotropic_tanh", "--optimizers=momentum", "--seeds=0:6",
             "--learning_rates=0.1,0.001", "--epochs=1", "--rotations=19"]  # fmt: skip
    done = command("reconstruction", f"--workdir={tmp_path / 'run'}", *small)
    assert done.returncode == 0, done.stderr
    study = tmp_path / "run" / "study"
    assert sorted(path.name for path in study.iterdir()) == [
        "differences.csv", "differences.md", "index.html", "rates.csv", "rates.md", "rates.png",
    ]  # fmt: skip
    with (study / "differences.csv").open() as file:
        fixed, best = csv.DictReader(file)
    # After one epoch the larger rate, which is the fixed one, is the best for both: no difference.
    assert (fixed["rates"], best["rates"]) == ("fixed: 0.1, 0.1", "best: 0.1, 0.1")
    assert float(fixed["p"]) >= 2 / 64
    assert f"study: {study}" in done.stdout
    assert not (tmp_path / "run" / "study.partial").exists()


def test_calibration_draws_its_figure(tmp_path):
    done = command("calibration", "--draws=5", "--samples=40", "--rotations=19",
                   f"--out={tmp_path}")  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "calibration.png").stat().st_size > 0
    assert "| clumped, randomly rotated |" in done.stdout


@pytest.mark.parametrize("module", ["optimizer_factorial", "group_ladder"])
def test_a_setting_that_cannot_be_used_is_refused_before_training(module, tmp_path):
    done = command(module, f"--workdir={tmp_path / 'run'}", "--rotations=3")
    assert done.returncode == 1
    assert done.stderr == "error: --rotations=3: must be at least 19\n"
    assert not (tmp_path / "run").exists()
