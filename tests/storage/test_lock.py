"""One run at a time in a folder, whatever becomes of the one that is at work."""

import os
import signal
import subprocess
import sys

import pytest

from ppp_jax.errors import InputError
from ppp_jax.files import atomic
from ppp_jax.grid import Grid
from ppp_jax.storage import run_dir
from ppp_jax.sweep import sweep

pytestmark = pytest.mark.usefixtures("quick_compilation")

TINY = Grid(
    activations=["tanh"], widths=[6], latent_widths=[3], optimizers=["sgd"], epochs=1,
    probe_samples=30,
)  # fmt: skip
HOLDER = """
import pathlib, sys, time
from ppp_jax.storage import run_dir
with run_dir.locked(pathlib.Path(sys.argv[1])):
    print("locked", flush=True)
    time.sleep(600)
"""


def assert_refused(workdir):
    with pytest.raises(InputError, match="another run is at work in this folder") as caught:
        sweep.train(TINY, workdir, progress=False)
    assert caught.value.field == "workdir"
    assert "\n" not in str(caught.value)


def test_a_killed_holder_leaves_the_folder_free(tmp_path):
    command = [sys.executable, "-c", HOLDER, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        try:
            assert holder.stdout.readline() == "locked\n"
            assert_refused(tmp_path)
            assert_refused(tmp_path)  # the first refusal took nothing from the holder
            assert [path.name for path in tmp_path.iterdir()] == [run_dir.LOCK]
        finally:
            holder.send_signal(signal.SIGKILL)
    assert (tmp_path / run_dir.LOCK).exists()
    with run_dir.locked(tmp_path):
        assert_refused(tmp_path)
    assert not list(tmp_path.iterdir())


def test_another_is_refused_while_one_trains(tmp_path, monkeypatch):
    append, refused = run_dir.append_metrics, []

    def described():
        """Returns what describes the run; its checkpoint is still being saved, by threads."""
        found = [*tmp_path.glob("*.json*"), *tmp_path.glob("latents.zarr/**/*.json*")]
        return {path: path.read_bytes() for path in found}

    def intruded(*args, **named):
        before = described()
        assert_refused(tmp_path)
        assert before
        assert before == described()
        refused.append(True)
        append(*args, **named)

    monkeypatch.setattr(run_dir, "append_metrics", intruded)
    sweep.train(TINY, tmp_path, progress=False)
    assert refused
    assert not (tmp_path / run_dir.LOCK).exists()
    assert run_dir.last_step(tmp_path, 0) == 1438 // 24


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, InputError("a", 1, "b")])
def test_an_error_inside_frees_the_folder(error, tmp_path):
    kind = error if isinstance(error, type) else type(error)
    with pytest.raises(kind), run_dir.locked(tmp_path):
        raise error
    assert not (tmp_path / run_dir.LOCK).exists()
    with run_dir.locked(tmp_path):
        assert (tmp_path / run_dir.LOCK).exists()


def test_folders_do_not_lock_each_other(tmp_path):
    with run_dir.locked(tmp_path / "a"), run_dir.locked(tmp_path / "b"), run_dir.locked(tmp_path):
        assert_refused(tmp_path / "a")


@pytest.mark.parametrize("taken", [False, True])
def test_a_lock_file_removed_since_it_was_opened_does_not_count(taken, tmp_path, monkeypatch):
    """The holder ends between this run's opening of the file and its lock on it."""
    flock = atomic.fcntl.flock

    def late(file, how):
        (tmp_path / run_dir.LOCK).unlink()
        if taken:
            (tmp_path / run_dir.LOCK).write_text("")  # by a third run, which has the folder now
        flock(file, how)

    monkeypatch.setattr(atomic.fcntl, "flock", late)
    assert_refused(tmp_path)
    assert (tmp_path / run_dir.LOCK).exists() == taken


def test_a_refusal_leaves_no_file_open(tmp_path):
    with run_dir.locked(tmp_path):
        before, errors = len(os.listdir("/dev/fd")), []
        for _ in range(3):
            with pytest.raises(InputError) as caught, run_dir.locked(tmp_path):
                pass
            errors.append(caught)  # with its traceback, and what that refers to
        assert len(os.listdir("/dev/fd")) == before


def test_a_folder_that_cannot_be_made_is_not_said_to_be_in_use(tmp_path):
    """In /proc no folder can be made; the system's word for that is 'no such file'."""
    (tmp_path / "file").write_text("")
    for workdir in ("/proc/run", tmp_path / "file" / "run"):
        with pytest.raises(InputError, match=r"cannot be (read|written)"):
            sweep.train(TINY, workdir, progress=False)
