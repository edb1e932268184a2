"""Digests of everything that results are made of, so that what is there is not computed again."""

import functools
import hashlib
import importlib.metadata
import json
import pathlib
import platform
from typing import Any

import jax
import matplotlib as mpl

from ppp_jax import references
from ppp_jax.analysis.io.runs import STORE, load_groups
from ppp_jax.analysis.statistics import registry
from ppp_jax.files import ledger, regular
from ppp_jax.files.source import source_digest

# They decide the last digits of numbers, and how figures look.
LIBRARIES = (
    "jax",
    "jaxlib",
    "numpy",
    "scipy",
    "xarray",
    "pandas",
    "matplotlib",
    "jinja2",
    "diptest",
)
UNSEEN = ("backend", "backend_fallback", "interactive")  # settings that no saved figure shows


def report_made_of(
    numbers: str | None, workdir: pathlib.Path, *files: str, **options: Any
) -> str | None:
    """Returns a digest of everything that the report of a run folder is made of.

    These are what its numbers are made of, other files, the options, and Matplotlib's settings.

    Args:
      numbers: What `numbers_made_of` says of the run folder.
      workdir: The run folder, which nothing may change meanwhile.
      *files: Names of further files in it that the report shows, which need not exist.
      **options: Options of the report, of types that JSON represents.

    Returns:
      The digest, in hexadecimal; None if `numbers` is.
    """
    if numbers is None:
        return None
    contents = {name: _digest(workdir / name) for name in files}
    return _digest_of([numbers, contents, options, _look()])


def numbers_made_of(workdir: pathlib.Path) -> str | None:
    """Returns a digest of what all numbers of a report depend on, whatever its options are.

    These are the latents and errors (by the ledger, which holds checksums of all of them), the
    source of this package, and the versions of libraries.

    Args:
      workdir: The run folder, which nothing may change meanwhile.

    Returns:
      The digest, in hexadecimal. None where something else can matter: latents without a ledger,
      statistics or bases of the user, of which nobody knows on what they depend.

    Raises:
      InputError: The folder holds no latents, or they are damaged.
    """
    if ledger.read(workdir / STORE) is None or not _is_ours(workdir):
        return None
    return _digest_of([_digest(workdir / STORE / ledger.FILE), software()])


def _digest_of(told: list[Any]) -> str:
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()


def software() -> dict[str, str]:
    """Returns a digest of this package's source, and the versions of what computes its numbers."""
    computing = {"backend": jax.default_backend(), "x64": str(jax.config.values["jax_enable_x64"])}
    return {
        "source": source_digest(),
        "python": platform.python_version(),
        **_versions(),
        **computing,
    }


@functools.cache
def _versions() -> dict[str, str]:
    return {name: importlib.metadata.version(name) for name in LIBRARIES}


def settings() -> dict[str, Any]:
    """Returns the settings of Matplotlib that figures show, which users can change."""
    # By name, because to look at the backend imports pyplot and chooses one.
    return {name: mpl.rcParams[name] for name in mpl.rcParams if name not in UNSEEN}


def _look() -> str:
    """Returns a digest of the settings of Matplotlib."""
    return hashlib.sha256(repr(sorted(settings().items())).encode()).hexdigest()


def _is_ours(workdir: pathlib.Path) -> bool:
    """Returns whether all statistics and bases are this package's."""
    if any(one not in registry.OWN for one in registry.STATISTICS.values()):
        return False
    return not any(
        references.is_reference(str(basis))
        for _, latents in load_groups(workdir)
        for basis in latents["activation_basis"].values.ravel()
    )


def _digest(path: pathlib.Path) -> str | None:
    try:
        return hashlib.sha256(regular.read(path, most=ledger.LARGEST)).hexdigest()
    except FileNotFoundError:
        return None
