"""The README's Python runs as written, and its commands are the ones that CI runs."""

import pathlib
import re

import matplotlib
import pytest

ROOT = pathlib.Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_python_example_runs_as_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    matplotlib.use("Agg")
    (example,) = re.findall(r"```python\n(.*?)```", README, re.S)
    assert len([line for line in example.splitlines() if line]) <= 11
    names = {}
    exec(example, names)
    assert (tmp_path / "ppp.png").stat().st_size > 0
    assert names["picture"].acceptance_ratio > 0


@pytest.mark.parametrize("part", ['pip install --quiet -e ".[test]"', "-m pytest"])
def test_ci_runs_the_test_command(part):
    ci = (ROOT / ".ci" / "run").read_text()
    assert part in ci
    assert part.replace("--quiet ", "") in README


def test_every_linked_file_exists():
    for target in re.findall(r"\]\((?!https?:)([^)]+)\)", README):
        assert (ROOT / target).exists(), target


def test_every_flag_named_in_the_readme_exists():
    from absl import flags

    from experiments import ablation  # noqa: F401 - defines the flags

    not_ours = {"worker", "command", "help"}  # gcloud's, absl's
    for name in set(re.findall(r"--([a-z_]+)[=` ]", README)) - not_ours:
        assert name in flags.FLAGS, name
