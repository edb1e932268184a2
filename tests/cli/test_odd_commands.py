"""Command lines that nobody means: each is one line that names the flag, and changes nothing.

They are rows of a file: the main, its flags, and the name that the line must hold; `{folder}` is a
folder with a few odd things in it, `{long}` a name of 300 characters.
"""

import collections
import json
import os
import subprocess
import sys

import pytest

from tests import ROOT, odd_commands

pytestmark = pytest.mark.usefixtures("quick_compilation")

TABLE = ROOT / "tests" / "data" / "odd_commands.json"
ROWS = json.loads(TABLE.read_text())
PLACES = collections.Counter()
CASES = [pytest.param(row, (PLACES.update([row["main"]]), PLACES[row["main"]] - 1)[1],
                      id=f"{number}-{row['main']}") for number, row in enumerate(ROWS)]  # fmt: skip
ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore"}


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    """What came of every row, all of them run at once."""
    folder, results = (tmp_path_factory.mktemp(name) for name in ("odd", "results"))
    arguments = [str(path) for path in (TABLE, folder, results)]
    done = subprocess.run(
        [sys.executable, "-m", "tests.odd_commands", *arguments],
        env=ENVIRONMENT, capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return {path.stem: json.loads(path.read_text()) for path in results.iterdir()}


def test_there_are_enough_of_them_of_every_kind():
    assert len(ROWS) >= 500
    assert len({row["main"] for row in ROWS}) >= 15


@pytest.mark.parametrize(("row", "place"), CASES)
def test_is_one_line_that_names_the_flag_and_changes_nothing(row, place, outcomes):
    seen = outcomes[row["main"]][place]
    assert seen["traceback"] == ""
    assert seen["status"] in (1, 2), row
    assert seen["stderr"].startswith("error: ")
    assert seen["stderr"].count("\n") == 1
    assert len(seen["stderr"].splitlines()) == 1
    assert row["name"] in seen["stderr"]
    assert seen["changed"] == []


# ------------------------------------------------------------------- what needs a real process


def shell(command, **more):
    """Runs a shell command in which $M is the interpreter with -m experiments."""
    environment = ENVIRONMENT | {"M": f"{sys.executable} -m experiments"} | more
    return subprocess.run(
        ["bash", "-c", command], env=environment, capture_output=True, text=True, check=False
    )


@pytest.mark.slow
def test_without_stderr_the_status_says_it_and_no_file_takes_its_place(tmp_path):
    done = shell(f"$M.ablation --activations=tahn --workdir={tmp_path / 'run'} 2>&-")
    assert (done.returncode, done.stdout, done.stderr) == (1, "", "")
    done = shell(f"$M.ablation --dry_run --seeds=2 --workdir={tmp_path / 'run'} <&- 2>&-")
    assert done.returncode == 0
    assert done.stdout.startswith("cells ")
    assert list(tmp_path.iterdir()) == []


def test_without_stdout_an_error_is_still_one_line():
    done = shell("$M.ablation --activations=tahn >&-")
    assert done.returncode == 1
    assert done.stderr.startswith("error: --activations=tahn")
    assert done.stderr.count("\n") == 1


@pytest.mark.slow
def test_a_reader_that_goes_away_is_no_traceback(tmp_path):
    """Of the help, whose text is longer than a pipe's buffer or not, and of a plan."""
    for flags in ("--help", f"--dry_run --workdir={tmp_path / 'run'}"):
        done = shell(f"$M.ablation {flags} | true; exit ${{PIPESTATUS[0]}}")
        assert done.returncode == 141, flags
        assert done.stderr == ""


def test_bytes_that_are_no_text_are_one_line():
    done = shell("$M.ablation --workdir=$'a\\xffb'")
    assert done.returncode == 2
    assert done.stderr.startswith("error: --workdir=a\\udcffb: has control characters, or bytes")
    assert done.stderr.count("\n") == 1


HELP = """
import contextlib, importlib, io, os, pathlib, sys
import tests.stripped
tests.stripped.install()
import ppp_jax.analysis.embeddings, ppp_jax.cli.study  # once, and not in every child
for path in sorted(p for room in ("ppp_jax/experiments", "experiments")
                   for p in pathlib.Path(room).glob("*.py")):
    if 'if __name__ == "__main__":' not in path.read_text():
        continue
    child = os.fork()
    if child == 0:
        main, said = importlib.import_module(f"experiments.{path.stem}"), io.StringIO()
        assert main.__doc__ is None
        with contextlib.redirect_stdout(said):
            try:
                main.main(argv=[path.stem, "--help"])
            except SystemExit as left:
                status = left.code
        texts = [getattr(main, name, "") for name in ("QUESTION", "ABOUT", "ASKED", "DOCUMENTED")]
        told = any(texts) and all(text.strip() in said.getvalue() for text in texts)
        os._exit(0 if status == 0 and told and "  --" in said.getvalue() else 1)
    assert os.waitpid(child, 0)[1] == 0, path
print("all")
"""


def test_every_main_explains_itself_without_docstrings():
    done = subprocess.run(
        [sys.executable, "-c", HELP], env=ENVIRONMENT, cwd=ROOT, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout == "all\n"


def test_the_folder_of_odd_things_is_what_the_rows_say(tmp_path):
    odd_commands.prepare(tmp_path)
    assert odd_commands.filled("--data={folder}/file", tmp_path) == f"--data={tmp_path}/file"
    assert len(odd_commands.filled("{long}", tmp_path)) > 255
    before = odd_commands.tree(tmp_path)
    (tmp_path / "file").write_text("changed")
    assert odd_commands.tree(tmp_path) != before
