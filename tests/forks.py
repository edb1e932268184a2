"""Commands in processes of their own that need not import everything anew.

Half of a small command's time goes into imports. One process per test session imports what mains
import, computes nothing, and forks itself for every command: a process with its own number, output
and exit status, which can be killed and ends as any other.
"""

import atexit
import contextlib
import gc
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import threading
import time
import warnings
from typing import Any, NamedTuple

from tests import ROOT

# What the environment may say anew for each command: whatever is read after the imports.
READ_LATE = {"XLA_FLAGS", "PYTEST_CURRENT_TEST", "PYTHONWARNINGS", "HOME", "XDG_CACHE_HOME",
             "JAX_DISABLE_MOST_OPTIMIZATIONS", "JAX_NUM_CPU_DEVICES", "STORAGE_EMULATOR_HOST",
             "AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY",
             "AWS_DEFAULT_REGION", "DIE_AT"}  # fmt: skip
KILLED = -signal.SIGKILL


class _Server(NamedTuple):
    requests: socket.socket
    environment: dict[str, str]
    process: subprocess.Popen

    def stop(self):
        """Ends it: nobody can ask any more."""
        self.requests.close()
        self.process.wait()


_servers: dict[int, _Server] = {}  # of this process, by its number: a fork has none


class Fork:
    """What of `subprocess.Popen` tests use, of a forked command; its texts are kept."""

    def __init__(self, module, flags, *, environment, without=(), warn=False):
        """Starts `python -m module flags`, from the repository's root."""
        requests = _server().requests
        inputs = os.open(os.devnull, os.O_RDONLY)
        (self._out, out), (self._err, err), (self._told, tell) = (os.pipe() for _ in range(3))
        said = {"argv": [module, *map(str, flags)], "environment": environment,
                "without": list(without), "warn": warn}  # fmt: skip
        message = json.dumps(said).encode() + b"\n"
        socket.send_fds(requests, [message[:1]], [inputs, out, err, tell])
        requests.sendall(message[1:])
        for fd in (inputs, out, err, tell):
            os.close(fd)
        self.returncode = None
        self._texts = {}
        self._readers = [
            threading.Thread(target=self._read, args=(name, fd), daemon=True)
            for name, fd in (("out", self._out), ("err", self._err))
        ]
        for reader in self._readers:
            reader.start()
        self._answers = os.fdopen(self._told, "rb", buffering=0)
        self.pid = int(self._answers.readline())

    def _read(self, name, fd):
        with os.fdopen(fd, encoding="utf-8", errors="replace") as file:
            self._texts[name] = file.read()

    def poll(self):
        """Returns the exit status, or None while the process lives."""
        return self._status(0)

    def _status(self, seconds):
        if self.returncode is None and select.select([self._answers], [], [], seconds)[0]:
            self.returncode = int(self._answers.readline() or KILLED)
            self._answers.close()
        return self.returncode

    def communicate(self, timeout=None):
        """Waits for the end, then returns all of stdout and stderr."""
        end = None if timeout is None else time.monotonic() + timeout
        left = None if end is None else max(0, end - time.monotonic())
        if self._status(left) is None:
            raise subprocess.TimeoutExpired("fork", timeout)
        for reader in self._readers:
            reader.join(None if end is None else max(0, end - time.monotonic()))
            if reader.is_alive():
                raise subprocess.TimeoutExpired("fork", timeout)
        return self._texts["out"], self._texts["err"]

    def send_signal(self, number):
        """Sends a signal, unless the process has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self):
        """Sends SIGKILL, unless the process has ended."""
        self.send_signal(signal.SIGKILL)


def popen(module, flags, *, environment=None, without=(), warn=False):
    """Starts `python -m module flags` from the repository's root.

    By a fork, or by a new interpreter where the environment says what only that would heed. In the
    fork the packages `without` are as if they were not installed. Warnings are ignored (-W ignore)
    unless the command may `warn`.
    """
    environment = dict(os.environ if environment is None else environment)
    known = _server().environment
    differ = {name for name in {*environment, *known} if environment.get(name) != known.get(name)}
    if differ <= READ_LATE:
        return Fork(module, flags, environment=environment, without=without, warn=warn)
    assert not without, f"{sorted(differ)} cannot differ"
    command = [sys.executable, *([] if warn else ["-W", "ignore"]), "-m", module, *flags]
    return subprocess.Popen(command, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)  # fmt: skip


def run(module, *flags, environment=None, without=(), warn=False, timeout=240):
    """Runs it to its end and returns its status and texts, as `subprocess.run` does."""
    process = popen(module, flags, environment=environment, without=without, warn=warn)
    try:
        stdout, stderr = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        process.kill()
        raise
    return subprocess.CompletedProcess([module, *flags], process.returncode, stdout, stderr)


def _server():
    """Returns this process's server, started at the first call; it ends with this process."""
    if os.getpid() not in _servers:
        ours, theirs = socket.socketpair()
        environment = dict(os.environ)
        command = [sys.executable, "-m", "tests.forks", str(theirs.fileno())]
        process = subprocess.Popen(command, cwd=ROOT, env=environment, pass_fds=[theirs.fileno()],
                                   stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)  # fmt: skip
        theirs.close()
        _servers[os.getpid()] = _Server(ours, environment, process)
        atexit.register(_servers[os.getpid()].stop)
    return _servers[os.getpid()]


# ------------------------------------------------------------------------------ the server itself


def _import_what_mains_import():
    import dask.array
    import matplotlib.backends.backend_agg
    import orbax.checkpoint
    import sklearn.cluster
    import sklearn.manifold

    import ppp_jax.cli.study
    import ppp_jax.sweep.plan
    from ppp_jax.analysis import inference, io, plots, projection, report, results, statistics

    rooms = (inference, io, plots, projection, report, results, statistics)
    late = [getattr(room, name) for room in rooms for name in room.__all__]
    return dask, matplotlib, orbax, sklearn, ppp_jax, late


def _set_what_jax_read_at_its_import():
    import jax

    unoptimised = bool(int(os.environ.get("JAX_DISABLE_MOST_OPTIMIZATIONS", "0")))
    jax.config.update("jax_disable_most_optimizations", unoptimised)
    jax.config.update("jax_num_cpu_devices", int(os.environ.get("JAX_NUM_CPU_DEVICES", "-1")))


class _Hiding(NamedTuple):
    """Finds the modules that another finds, some packages' not."""

    finder: Any
    packages: list[str]

    def find_spec(self, name, path=None, target=None):
        """Returns None for what is hidden."""
        hidden = name.partition(".")[0] in self.packages
        return None if hidden else self.finder.find_spec(name, path, target)

    def __getattr__(self, name):
        """Is the other finder in all else, such as versions."""
        return getattr(self.finder, name)


def serve(requests):
    """Forks for every request until nobody can ask; returns, in the fork, what is to be run."""
    while True:
        message, fds, _, _ = socket.recv_fds(requests, 1, 4)
        if not message:
            os._exit(0)
        while not message.endswith(b"\n"):
            message += requests.recv(1 << 16)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # JAX's: it has computed nothing yet
            child = os.fork()
        if child == 0:
            requests.close()
            if _watched(fds):
                return json.loads(message)
        for fd in fds:
            os.close(fd)


def _watched(fds):
    """Forks again: True in the command, its parent tells its number and how it ended."""
    inputs, out, err, tell = fds
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        command = os.fork()
    if command == 0:
        for fd, number in ((inputs, 0), (out, 1), (err, 2)):
            os.dup2(fd, number)
        for fd in fds:
            os.close(fd)
        return True
    for fd in (inputs, out, err, 0, 1, 2):
        os.close(fd)
    os.write(tell, f"{command}\n".encode())
    _, status = os.waitpid(command, 0)
    os.write(tell, f"{os.waitstatus_to_exitcode(status)}\n".encode())
    os._exit(0)


def _reap(*_):
    """Waits for watchers that have ended, so that the session's time counts what commands took."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def main():
    """Imports, then becomes whatever command is asked for."""
    _import_what_mains_import()
    gc.freeze()  # no fork looks through, and so copies, what is there already
    signal.signal(signal.SIGCHLD, _reap)
    request = serve(socket.socket(fileno=int(sys.argv[1])))
    os.environ.clear()
    os.environ.update(request["environment"])
    _set_what_jax_read_at_its_import()
    if request["without"]:
        sys.meta_path[:] = [_Hiding(finder, request["without"]) for finder in sys.meta_path]
    sys.argv[:] = request["argv"]
    if not request["warn"]:
        warnings.simplefilter("ignore")
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
