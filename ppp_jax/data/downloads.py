"""Downloads of public files, each from the first mirror that gives the right bytes."""

import logging
import os
import pathlib
from typing import NamedTuple

from ppp_jax.errors import InputError

FOLDER = "PPP_DATA_DIR"  # environment variable with the folder of downloaded files
RETRIES = 2  # further attempts at each mirror after the first one
TIMEOUT_SECONDS = 30  # longest time without a byte received


class Remote(NamedTuple):
    """A public file.

    Attributes:
      name: Path of the file below the folder of downloaded files.
      sha256: SHA-256 of the file's bytes. A file is accepted if it has this digest.
      mirrors: Addresses to try, in order.
    """

    name: str
    sha256: str
    mirrors: tuple[str, ...]


def folder() -> pathlib.Path:
    """Returns the folder of downloaded files: `$PPP_DATA_DIR`, or the user's cache folder."""
    import pooch  # imported late: only downloads need it

    named = os.environ.get(FOLDER)
    return pathlib.Path(named).expanduser() if named else pathlib.Path(pooch.os_cache("ppp_jax"))


def fetch(remote: Remote, *, field: str, value: str, others: str = "") -> pathlib.Path:
    """Returns the path of a file, which is downloaded if it is not on disk with the right bytes.

    A download is checked before it is moved to the file's path, so that an incomplete or altered
    file never has the file's name.

    Args:
      remote: The file.
      field: Name of the setting that requires the file, for the error message.
      value: Value of the setting.
      others: What else the user may put where, for the error message.

    Returns:
      The path of the file on disk.

    Raises:
      InputError: No mirror gave the file, or the folder cannot be written. The message names the
        file, its checksum and the path at which to put it.
    """
    import pooch  # imported late, as requests: only downloads need them
    import requests

    where, failures = folder(), []
    pooch.get_logger().setLevel(logging.WARNING)  # the progress bar tells enough
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
        except ValueError:  # pooch raises it for a wrong checksum
            failures.append(f"{_host(url)}: wrong checksum")
        except OSError as error:
            problem = f"{where} cannot be written ({error.strerror or error}); set {FOLDER} to "
            raise InputError(field, value, problem + "a folder that can be written") from error
    raise InputError(
        field,
        value,
        f"{remote.name} could not be downloaded ({'; '.join(failures)}); put the file with sha256 "
        f"{remote.sha256} at {where / remote.name}{others}, or set {FOLDER} to the folder that "
        "holds it",
    )


def _host(url: str) -> str:
    return url.split("/")[2]
