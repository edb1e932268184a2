"""The digest of this package's source, by which results of an earlier version are known."""

import functools
import hashlib
import importlib.resources
import os
import pathlib

from ppp_jax import __imported__

ENDINGS = (".py", ".j2", ".css", ".js")  # of the files that make up this package


@functools.cache
def source_digest() -> str:
    """Returns the SHA-256 of the names and contents of all source files of this package.

    If one has changed since this process imported the package, what runs is not what the files say.
    Then the digest is of this process alone, so that nothing is taken from others nor left to them.
    """
    package = pathlib.Path(str(importlib.resources.files("ppp_jax")))
    found = hashlib.sha256()
    for path in sorted(package.rglob("*")):
        if path.suffix in ENDINGS:
            if path.stat().st_mtime_ns > __imported__:
                found.update(f"changed after {__imported__} of process {os.getpid()}".encode())
            found.update(f"{path.relative_to(package)}:{path.stat().st_size}:".encode())
            found.update(path.read_bytes())
    return found.hexdigest()
