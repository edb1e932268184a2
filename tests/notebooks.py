"""Executes the notebooks, each from an empty folder, with the packages of this interpreter.

python tests/notebooks.py [--keep]

It imports nothing of the clone, so that an installed wheel is what is run. Ends with status 1 if a
cell fails. With --keep the notebooks are written back with their outputs. Then a cell that trains
with a function of the user's file is interrupted in a kernel, as the button does, and run again.
"""

import pathlib
import re
import sys
import tempfile
import time

import nbformat
from jupyter_client.manager import start_new_kernel
from nbclient import NotebookClient

FOLDER = pathlib.Path(__file__).parents[1] / "docs" / "notebooks"
SECONDS = 600  # most that a cell may take
LARGEST = 500_000  # most characters of a page that is kept
BAR = re.compile(r"\d+%\|")  # of a progress bar, which says nothing afterwards


def execute(path, *, keep):
    """Executes one notebook, and returns its seconds."""
    book, began = nbformat.read(path, as_version=4), time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        resources = {"metadata": {"path": folder}}
        NotebookClient(book, timeout=SECONDS, kernel_name="python3", resources=resources).execute()
    if keep:
        for cell in book.cells:
            cell.metadata.clear()
            if cell.cell_type == "code":
                cell.outputs = [shortened(one) for one in cell.outputs if not is_bar(one)]
        book.metadata.pop("widgets", None)
        nbformat.write(book, path)
    return time.monotonic() - began


def shortened(output):
    """Returns an output without a page that would make the notebook too large to be looked at."""
    if len(output.get("data", {}).get("text/html", "")) > LARGEST:
        del output["data"]["text/html"]
    return output


def is_bar(output):
    """Returns whether an output is a progress bar, or written beside one."""
    text = output.get("data", {}).get("text/plain", "")
    return output.get("name") == "stderr" or bool(BAR.search(text))


OWN = """
import jax.numpy as jnp

def shrink(x):
    return jnp.sign(x) * jnp.maximum(jnp.abs(x) - 0.5, 0.0)
"""
TRAIN = """
import own_functions
from ppp_jax import Grid, train
grid = Grid(activations=["tanh", own_functions.shrink], optimizers=["sgd"], widths=[8],
            latent_widths=[3], seeds=[0], epochs=1000, snapshots=[1], probe_samples=50)
folder = train(grid, {folder!r})
"""


def interrupt():
    """Interrupts a cell that trains and runs it again: it continues, to the same bits."""
    with tempfile.TemporaryDirectory() as folder:
        pathlib.Path(folder, "own_functions.py").write_text(OWN)
        manager, client = start_new_kernel(cwd=folder)
        try:
            client.execute(TRAIN.format(folder="run"))
            metrics = pathlib.Path(folder) / "run" / "metrics.jsonl"
            wait_until(lambda: metrics.exists() and metrics.stat().st_size > 0)
            manager.interrupt_kernel()
            said = client.get_shell_msg(timeout=SECONDS)["content"]
            assert said.get("ename") == "Stopped", said
            assert said["traceback"] == [
                "interrupted; saved results are kept, and the same call continues from there"
            ], said
            before = metrics.read_bytes()
            for code in (TRAIN.format(folder="run"), TRAIN.format(folder="whole")):
                assert (
                    client.execute_interactive(code, output_hook=drop)["content"]["status"] == "ok"
                )
            assert metrics.read_bytes().startswith(before)
            assert len(before) < metrics.stat().st_size
            assert (
                metrics.read_bytes() == (metrics.parents[1] / "whole" / metrics.name).read_bytes()
            )
        finally:
            client.stop_channels()
            manager.shutdown_kernel(now=True)


def drop(_message):
    """Shows nothing of what a cell puts out."""


def wait_until(condition):
    """Waits until a condition is true."""
    end = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.05)


if __name__ == "__main__":
    for notebook in sorted(FOLDER.glob("*.ipynb")):
        took = execute(notebook, keep="--keep" in sys.argv[1:])
        sys.stdout.write(f"{notebook.name}: {took:.0f} s\n")
    interrupt()
    sys.stdout.write("a cell that was interrupted continues\n")
