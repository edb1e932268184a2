"""The process before its first computation: devices, cache, other processes; nothing by itself."""

import json
import os
import pathlib
import socket
import subprocess
import sys

import jax
import pytest
from absl.testing import flagsaver

from ppp_jax.cli import flags as experiment_flags
from ppp_jax.cli import runtime
from tests import commands

CACHE_SETTINGS = (
    "jax_compilation_cache_dir",
    "jax_enable_compilation_cache",
    "jax_persistent_cache_min_compile_time_secs",
    "jax_persistent_cache_min_entry_size_bytes",
)


@pytest.fixture(autouse=True)
def settings(monkeypatch):
    """Keeps this process's settings of JAX: its devices, and what `runtime.start` changes."""
    monkeypatch.setattr(runtime, "use_all_cores", lambda: None)
    monkeypatch.setattr(runtime.interrupts, "end_waits", lambda: None)  # signals stay pytest's
    monkeypatch.delenv("TPU_WORKER_HOSTNAMES", raising=False)
    before = {name: jax.config.values[name] for name in CACHE_SETTINGS}
    yield before
    for name, value in before.items():
        jax.config.update(name, value)


def now():
    return {name: jax.config.values[name] for name in CACHE_SETTINGS}


def start(*flags):
    """Runs a main that only starts JAX, with flags."""
    started = []
    with flagsaver.flagsaver(), pytest.raises(SystemExit) as left:
        experiment_flags.run(lambda: started.append(now()), argv=["main", *flags])
    assert not left.value.code
    (settings,) = started
    return settings


def refusal(capsys, *flags):
    """Returns the one line with which such a main refuses its flags."""
    with flagsaver.flagsaver(), pytest.raises(SystemExit) as left:
        experiment_flags.run(lambda: pytest.fail("started"), argv=["main", *flags])
    assert left.value.code == experiment_flags.USER_ERROR
    stdout, stderr = capsys.readouterr()
    assert stdout == ""
    assert stderr.startswith("error: ")
    assert stderr.count("\n") == 1
    return stderr


# ------------------------------------------------------------------------- other processes

HOST, COUNT, ID = "--coordinator=localhost:1", "--num_processes=2", "--process_id=0"
UNUSABLE = {
    "--coordinator=localhost:1: needs --distributed": [HOST],
    "--num_processes=2: needs --distributed": [COUNT],
    "--process_id=0: needs --distributed": [ID],
    "--distributed=True: needs --num_processes, --process_id in addition": ["--distributed", HOST],
    "--distributed=True: needs --coordinator, --process_id in addition": ["--distributed", COUNT],
    "--distributed=True: needs --process_id in addition": ["--distributed", HOST, COUNT],
    "--distributed=True: needs --coordinator in addition": ["--distributed", COUNT, ID],
    "--process_id=2: must be from 0 to 1": ["--distributed", HOST, COUNT, "--process_id=2"],
    "--process_id=-1: must be from 0 to 1": ["--distributed", HOST, COUNT, "--process_id=-1"],
    "--wait_seconds=inf: must be a number": ["--wait_seconds=inf"],
    "--wait_seconds=nan: must be a number": ["--wait_seconds=nan"],
    "--wait_seconds=-1.0: must be a number": ["--distributed", "--wait_seconds=-1"],
    "--wait_seconds=0.0: must be a number": ["--distributed", "--wait_seconds=0"],
    "--wait_seconds=1e+30: must be a number": ["--distributed", "--wait_seconds=1e30"],
    f"--num_processes={10**30}: must be at least 1 and at most": [
        "--distributed",
        HOST,
        f"--num_processes={10**30}",
        ID,
    ],
    "--coordinator=nocolon: must be host:port": [
        "--distributed",
        "--coordinator=nocolon",
        COUNT,
        ID,
    ],
    "--num_processes=0: must be": ["--distributed", HOST, "--num_processes=0", ID],
}


@pytest.mark.parametrize("text", sorted(UNUSABLE))
def test_flags_that_do_not_go_together(text, capsys, monkeypatch):
    monkeypatch.setattr(runtime, "_connect", lambda *_: pytest.fail("connected"))
    assert refusal(capsys, *UNUSABLE[text]).startswith(f"error: {text}")


def test_flags_that_do_go_together(monkeypatch):
    connected = []
    monkeypatch.setattr(runtime, "_connect", lambda *how: connected.append(how))
    start()
    assert connected == []
    start("--distributed")
    start("--distributed", HOST, COUNT, "--process_id=1", "--wait_seconds=7")
    assert connected == [(None, None, None, 300), ("localhost:1", 2, 1, 7)]


def test_no_other_processes_to_be_found_is_one_line(capsys, monkeypatch):
    def fail(**_):
        raise ValueError("coordinator_address\nshould be defined.")

    monkeypatch.setattr(jax.distributed, "initialize", fail)
    line = refusal(capsys, "--distributed")
    assert "no other processes were found (coordinator_address should be defined.)" in line
    assert "set --coordinator, --num_processes and --process_id" in line


def test_one_worker_of_a_tpu_slice_is_told_to_start_all(capsys, monkeypatch):
    monkeypatch.setenv("TPU_WORKER_HOSTNAMES", "t1v-n-0,t1v-n-1")
    line = refusal(capsys)
    assert "one of the 2 workers of a TPU slice" in line
    assert "with --distributed on all of them" in line
    assert "--worker=all" in line


@pytest.mark.parametrize("names", ["", "localhost", "t1v-n-0,"])
def test_the_only_worker_of_a_tpu_is_not(names, monkeypatch):
    monkeypatch.setenv("TPU_WORKER_HOSTNAMES", names)
    start()


def test_a_process_whose_others_never_come_says_so(tmp_path):
    """It ends after `wait_seconds` with one line, and nothing written."""
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        coordinator = f"--coordinator=localhost:{probe.getsockname()[1]}"
    how = ["--distributed", coordinator, COUNT, ID, "--wait_seconds=1"]
    lonely = commands.start(tmp_path / "run", how)
    stdout, stderr = lonely.communicate(timeout=commands.TIMEOUT)
    assert lonely.returncode == 1
    assert stdout == ""
    (line,) = stderr.splitlines()
    assert line.startswith(
        "error: --wait_seconds=1: process 0 of 2 has waited in vain for process 1"
    )
    assert not (tmp_path / "run").exists()


# ----------------------------------------------------------------------------- the cache


def test_where_compiled_programs_are_kept(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    inside = pathlib.Path("ppp_jax", "compiled")
    assert runtime.cache_folder("auto") == tmp_path / ".cache" / inside
    monkeypatch.setenv("XDG_CACHE_HOME", "")  # as good as unset
    assert runtime.cache_folder("auto") == tmp_path / ".cache" / inside
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    assert runtime.cache_folder("auto") == "/x" / inside
    assert runtime.cache_folder("/y/z") == pathlib.Path("/y/z")
    assert runtime.cache_folder("~/z") == tmp_path / "z"
    assert runtime.cache_folder("none") is None


def test_a_named_cache_is_made_and_used(tmp_path):
    used = start(f"--compilation_cache={tmp_path / 'a' / 'b'}")
    assert used["jax_compilation_cache_dir"] == str(tmp_path / "a" / "b")
    assert used["jax_enable_compilation_cache"]
    assert (tmp_path / "a" / "b").is_dir()


def test_the_automatic_cache_gives_way_to_the_environments(settings, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert settings["jax_compilation_cache_dir"]  # as tests/conftest.py says
    assert start() == settings
    assert not list(tmp_path.iterdir())
    jax.config.update("jax_compilation_cache_dir", None)
    assert start()["jax_compilation_cache_dir"] == str(tmp_path / "ppp_jax" / "compiled")


def test_no_cache(settings):
    assert start("--compilation_cache=none") == settings | {"jax_enable_compilation_cache": False}


@pytest.mark.parametrize("name", ["file", "file/below"])
def test_a_cache_that_cannot_be_made_is_one_line(name, settings, tmp_path, capsys):
    (tmp_path / "file").write_text("mine")
    line = refusal(capsys, f"--compilation_cache={tmp_path / name}")
    assert line.startswith(f"error: --compilation_cache={tmp_path / name}: cannot be created (")
    assert "choose another folder, or none" in line
    assert now() == settings


# ---------------------------------------------------------------------- processes of their own

# Prints what importing the library and then `use_all_cores` make of JAX.
FRESH = """
import json, os, jax
before = dict(jax.config.values)
import ppp_jax, ppp_jax.sweep.sweep, ppp_jax.sweep.plan, ppp_jax.analysis
after = dict(jax.config.values)
from ppp_jax.cli import runtime
runtime.use_all_cores()
print(json.dumps({
    "changed": [name for name in before if before[name] != after[name]],
    "devices": jax.device_count(),
    "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
}))
"""


@pytest.mark.parametrize("devices", [None, 3])
def test_importing_changes_nothing_and_a_main_makes_every_core_a_device(devices):
    """Unless the environment says how many there are."""
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    if devices:
        environment["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={devices}"
    printed = subprocess.run(
        [sys.executable, "-c", FRESH], env=environment, stdout=subprocess.PIPE, check=True
    ).stdout
    seen = json.loads(printed)
    assert seen["changed"] == []
    assert seen["devices"] == (devices or seen["cores"])
