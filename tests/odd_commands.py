"""Runs many command lines of every main in few processes, and says what came of each.

Importing JAX takes seconds, so that one process imports what all need, and a child of it runs all
command lines of one main.

python -m tests.odd_commands ROWS.json FOLDER RESULTS
"""

import contextlib
import importlib
import io
import json
import os
import pathlib
import sys
import traceback

from absl.testing import flagsaver

import ppp_jax.analysis  # noqa: F401  what mains import, once for all of them
from ppp_jax.analysis.inference import calibration
from ppp_jax.storage import run_dir
from ppp_jax.sweep import sweep
from ppp_jax.symmetry import certificates

LONG = "a" * 300


def prepare(folder):
    """Makes what odd command lines name, and returns the folder to run them in."""
    here = folder / "here"
    here.mkdir()
    (folder / "file").write_text("mine")
    (folder / "loop.flags").write_text(f"--flagfile={folder / 'loop.flags'}\n")
    (folder / "binary.flags").write_bytes(b"--epochs=\xff\xfe\n")
    (folder / "empty.flags").write_text("--workdir=\n")
    (folder / "link").symlink_to(folder / "link")
    return here


def filled(text, folder):
    """Returns a flag with its placeholders filled in."""
    return text.replace("{folder}", str(folder)).replace("{long}", LONG)


def tree(folder):
    """Returns what lies in a folder: names, sizes, times of the last change."""
    found = {path: path.lstat() for path in folder.rglob("*")}
    return {str(path): (seen.st_size, seen.st_mtime_ns) for path, seen in found.items()}


def run(main, flags, folder):
    """Runs one command line of a main, as `python -m` would."""
    said, printed = io.StringIO(), io.StringIO()
    before, status, trace = tree(folder), None, ""
    streams = contextlib.redirect_stderr(said), contextlib.redirect_stdout(printed)
    with streams[0], streams[1], flagsaver.flagsaver():
        try:
            main.main(argv=[main.__name__, *flags])
        except SystemExit as left:
            status = left.code
        except BaseException:
            trace = traceback.format_exc()
    return {
        "status": status,
        "stderr": said.getvalue(),
        "traceback": trace,
        "changed": sorted(set(tree(folder).items()) ^ set(before.items())),
    }


def run_main(name, rows, folder, results):
    """Runs the command lines of one main in a child of this process."""
    child = os.fork()
    if child == 0:
        try:
            main = importlib.import_module(f"experiments.{name}")
            found = [run(main, [filled(text, folder) for text in row], folder) for row in rows]
            (results / f"{name}.json").write_text(json.dumps(found))
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(0)
    os.waitpid(child, 0)


def accepted(*_, **__):
    """Stands for the first thing that is computed or written: a command line was not refused."""
    raise AssertionError("accepted")


if __name__ == "__main__":
    run_dir.prepare = sweep._train_parts = certificates.certify_activation = accepted
    calibration.null_p_values = accepted
    table, folder, results = (pathlib.Path(argument) for argument in sys.argv[1:])
    os.chdir(prepare(folder))
    by_main = {}
    for row in json.loads(table.read_text()):
        by_main.setdefault(row["main"], []).append(row["flags"])
    for name, rows in by_main.items():
        run_main(name, rows, folder, results)
