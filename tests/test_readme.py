"""The README's Python runs as written, and its commands are the ones that CI runs."""

import functools
import re

import pytest
from absl import flags

from experiments import ablation, analyze
from ppp_jax.cli import flags as experiment_flags
from tests import ROOT

pytestmark = pytest.mark.usefixtures("quick_compilation")

README = (ROOT / "README.md").read_text(encoding="utf-8")


EXAMPLES = re.findall(r"```python\n(.*?)```", README, re.S)


@pytest.mark.parametrize("example", EXAMPLES, ids=["anyone", "torch", "ours"])
def test_python_example_runs_as_written(example, tmp_path, monkeypatch):
    if "import torch" in example:
        pytest.importorskip("torch", reason="the bench extra has it")
    monkeypatch.chdir(tmp_path)
    exec(example, {})
    for name in re.findall(r'"([a-z]+\.(?:png|gif))"', example):
        assert (tmp_path / name).stat().st_size > 0


@pytest.mark.parametrize("part", ['pip install --quiet -e ".[test]"', "-m pytest"])
def test_ci_runs_the_test_command(part):
    ci = (ROOT / ".ci" / "run").read_text()
    assert part in ci
    assert part.replace("--quiet ", "") in README


def test_every_linked_file_exists():
    for target in re.findall(r"\]\((?!https?:)([^)]+)\)", README):
        assert (ROOT / target).exists(), target


def test_every_flag_named_in_the_readme_exists():
    known = {"worker", "command", "help"}  # gcloud's, absl's
    grid = functools.partial(experiment_flags.define, ablation.DEFAULTS, workdir="runs/ablation")
    for define in (grid, analyze.define):  # one after the other: they share names
        with experiment_flags.bound(define):
            known |= set(flags.FLAGS)
    assert set(re.findall(r"--([a-z_]+)[=` ]", README)) <= known
