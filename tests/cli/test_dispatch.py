"""`ppp-jax`: its list, its one line for a wrong name, and the commands it starts."""

import os
import subprocess
import sys

from ppp_jax.cli import dispatch
from tests import ROOT
from tests.experiments.test_mains import RUN_BY

OF_A_CLONE = {"results_pages"}
PROGRAM = "import sys; from ppp_jax.cli.dispatch import main; sys.argv[0] = 'ppp-jax'; main()"


def command(*arguments, folder):
    """Runs the command from a folder in which there is no clone."""
    return subprocess.run(
        [sys.executable, "-c", PROGRAM, *arguments], capture_output=True, text=True, cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore"}, check=False,
    )  # fmt: skip


def test_every_main_of_the_package_is_a_command_and_has_a_line():
    mains = {name for name in RUN_BY if "." not in name} - OF_A_CLONE
    assert dispatch.commands().keys() == mains
    assert all(text.endswith(".") for text in dispatch.commands().values())
    assert all(text in dispatch.overview() for text in dispatch.commands().values())


def test_without_a_command_they_are_listed(monkeypatch, capsys):
    for arguments in ([], ["--help"]):
        monkeypatch.setattr(sys, "argv", ["ppp-jax", *arguments])
        dispatch.main()
        assert capsys.readouterr().out == dispatch.overview() + "\n"


def test_an_unknown_command_is_one_line(tmp_path):
    done = command("analyse", "--latents=x.npy", folder=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: command=analyse: unknown; did you mean analyze")
    assert done.stderr.count("\n") == 1


def test_a_command_explains_itself_as_it_is_given(tmp_path):
    """From any folder, and leaves nothing there."""
    done = command("width", "--help", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "\n  ppp-jax width [--data=patches" in done.stdout
    assert "python -m" not in done.stdout
    assert list(tmp_path.iterdir()) == []
