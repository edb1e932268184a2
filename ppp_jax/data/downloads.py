"""Public files: fetched once from the first mirror that gives the right bytes, then kept."""

import logging
import os
import pathlib
from typing import NamedTuple

import pooch
import requests

from ppp_jax.errors import InputError

FOLDER = "PPP_DATA_DIR"  # the environment variable that names where files are kept
RETRIES = 2  # at each mirror, after the first attempt
TIMEOUT_SECONDS = 30  # without a byte


class Remote(NamedTuple):
    """A public file.

    Attributes:
      name: its path below the folder in which files are kept.
      sha256: of its bytes, which is what makes a file the right one, wherever it came from.
      mirrors: addresses to try, in order.
    """

    name: str
    sha256: str
    mirrors: tuple[str, ...]


def folder() -> pathlib.Path:
    """Returns where files are kept: `$PPP_DATA_DIR`, or the user's cache folder."""
    named = os.environ.get(FOLDER)
    return pathlib.Path(named).expanduser() if named else pathlib.Path(pooch.os_cache("ppp_jax"))


def fetch(remote: Remote, *, field: str, value: str) -> pathlib.Path:
    """Returns the path of a file, downloading it if it is not there with the right bytes.

    What arrives is checked before it takes its place, so that nothing half-downloaded or altered is
    ever kept under the file's name.

    Args:
      remote: the file.
      field: the setting that asked for it, for the error's text.
      value: what that setting is.

    Raises:
      InputError: no mirror gave it, or the folder cannot be written; the error names the file, its
        checksum and where to put it.
    """
    where, failures = folder(), []
    pooch.get_logger().setLevel(logging.WARNING)  # the bar says enough
    for url in remote.mirrors:
        keeper = pooch.create(
            path=where,
            base_url="",
            registry={remote.name: f"sha256:{remote.sha256}"},
            urls={remote.name: url},
            retry_if_failed=RETRIES,
        )
        loader = pooch.HTTPDownloader(progressbar=True, timeout=TIMEOUT_SECONDS)
        try:
            return pathlib.Path(keeper.fetch(remote.name, downloader=loader))
        except requests.exceptions.RequestException as error:
            failures.append(f"{_host(url)}: {type(error).__name__}")
        except ValueError:  # pooch's word for another checksum
            failures.append(f"{_host(url)}: wrong checksum")
        except OSError as error:
            problem = f"{where} cannot be written ({error.strerror or error}); set {FOLDER} to a "
            raise InputError(field, value, problem + "folder that can") from error
    raise InputError(
        field,
        value,
        f"{remote.name} could not be downloaded ({'; '.join(failures)}); put the file with sha256 "
        f"{remote.sha256} at {where / remote.name}, or set {FOLDER} to where it is",
    )


def _host(url: str) -> str:
    return url.split("/")[2]
