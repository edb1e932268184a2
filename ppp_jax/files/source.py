"""The digest of this package's source, by which results of an earlier version are known."""

import functools
import hashlib
import importlib.resources
import pathlib

ENDINGS = (".py", ".j2", ".css", ".js")  # of the files that make up this package


@functools.cache
def source_digest() -> str:
    """Returns the SHA-256 of the names and contents of all source files of this package."""
    package = pathlib.Path(str(importlib.resources.files("ppp_jax")))
    found = hashlib.sha256()
    for path in sorted(package.rglob("*")):
        if path.suffix in ENDINGS:
            found.update(f"{path.relative_to(package)}:{path.stat().st_size}:".encode())
            found.update(path.read_bytes())
    return found.hexdigest()
