"""Objects in a bucket of Google Cloud Storage or S3, through fsspec.

Only what both stores guarantee is used: an object is written whole or not at all, a list of objects
shows everything that was written before, and an object can be created only if none of its name
exists. Nothing can be appended to or renamed.
"""

import asyncio
import contextlib
import importlib
import logging
import os
import pathlib
import re
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any, NamedTuple, TypeVar

from ppp_jax.errors import InputError, printable

T = TypeVar("T")


class GoneError(LookupError):
    """An object to be read is not there, e.g. because its owner has replaced it just now."""


AT_A_TIME = 32  # objects that are sent or fetched at the same time
PATIENCE = 120.0  # seconds for which an operation is tried again once the bucket has answered
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 15.0  # seconds between two tries
_ADDRESS = re.compile(r"(gs|s3)://([^/]+)/(.+)")


class _Library(NamedTuple):
    """What is known of the package that reaches the buckets of one protocol.

    Attributes:
      name: Name of the store in messages.
      extra: Extra of this package that installs it.
      credentials: What to do if there are no credentials.
      create: Command that creates a bucket, of which the address follows.
    """

    name: str
    extra: str
    credentials: str
    create: str


_LIBRARIES = {
    "gs": _Library(
        "Google Cloud Storage",
        "gcs",
        "run gcloud auth application-default login, or give the machine a service account",
        "gcloud storage buckets create",
    ),
    "s3": _Library(
        "S3",
        "s3",
        "run aws configure, or set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
        "aws s3 mb",
    ),
}


class _Opened(NamedTuple):
    """A file system of fsspec and the errors that its library raises.

    Attributes:
      filesystem: The file system.
      strangers: Errors of missing or rejected credentials.
      passing: Errors that can be gone at the next try.
    """

    filesystem: Any
    strangers: tuple[type[Exception], ...]
    passing: tuple[type[Exception], ...]


def is_address(value: object) -> bool:
    """Returns whether a setting is an address such as `gs://bucket/run`, and not a path.

    Args:
      value: Value of the setting.

    Example:
      >>> is_address("gs://bucket/run"), is_address("runs/ablation")
      (True, False)
    """
    return isinstance(value, str) and "://" in value


class Bucket:
    """The objects under one address. Their names are relative to it.

    Attributes:
      address: The address.
      field: Name of the setting that gives the address, for error messages.
      protocol: `gs` or `s3`.
      inside: Names of the bucket and of the folders of the address.
    """

    def __init__(self, address: str, *, field: str = "workdir", patience: float | None = None):
        """Checks an address and opens the library that reaches it. Nothing is sent yet.

        Args:
          address: Address such as `gs://bucket/run`.
          field: Name of the setting that gives the address, for error messages.
          patience: Seconds for which an operation is tried again; None means `PATIENCE`. A bucket
            that has not answered yet is not tried again, because it may never do.

        Raises:
          InputError: The address is of another kind, or the library is not installed.
        """
        self.address, self.field = address.rstrip("/"), field
        self.protocol, self.inside = split(address, field=field)
        self._patience, self._answered = patience, False
        self._opened = _OPEN[self.protocol](self)
        self._root = "/".join(self.inside)

    def create(self, name: str, content: bytes) -> bool:
        """Creates an object unless there is one of its name, and returns whether it is there now.

        Args:
          name: Name of the object.
          content: Its content. If the first answer was lost, the object is recognised by it.
        """
        try:
            self._try(lambda fs: fs.pipe_file(self._path(name), content, mode="create"))
        except FileExistsError:
            return self.read(name) == content
        return True

    def write(self, name: str, content: bytes) -> None:
        """Writes an object, and replaces an earlier one of its name.

        Args:
          name: Name of the object.
          content: Its content.
        """
        self._try(lambda fs: fs.pipe_file(self._path(name), content))

    def read(self, name: str) -> bytes | None:
        """Returns the content of an object, or None if there is none of this name.

        Args:
          name: Name of the object.
        """

        def read(fs: Any) -> bytes | None:
            try:
                content: bytes = fs.cat_file(self._path(name))
            except FileNotFoundError:
                return None
            return content

        return self._try(read)

    def names(self, under: str) -> list[str]:
        """Returns the names of the objects in a folder and below, in order.

        Args:
          under: Name of the folder, such as `objects`.
        """
        found = self._try(lambda fs: fs.find(self._path(under)))
        return sorted(path.removeprefix(f"{self._root}/") for path in found)

    def upload(self, files: Mapping[str, pathlib.Path]) -> None:
        """Writes files to objects, several at a time.

        Args:
          files: Paths of the files by the names of the objects.
        """
        if files:
            here, there = [str(path) for path in files.values()], [*map(self._path, files)]
            self._try(lambda fs: fs.put(here, there, batch_size=AT_A_TIME))

    def download(self, files: Mapping[pathlib.Path, str]) -> None:
        """Reads objects into files, several at a time.

        Args:
          files: Names of the objects by the paths of the files, whose folders exist.

        Raises:
          GoneError: An object is not there.
        """
        if files:
            here, there = [str(path) for path in files], [*map(self._path, files.values())]

            def get(fs: Any) -> None:
                try:
                    fs.get(there, here, batch_size=AT_A_TIME)
                except FileNotFoundError as error:
                    raise GoneError(str(error)) from error

            self._try(get)

    def remove(self, names: Collection[str]) -> None:
        """Removes objects. An object that is not there is no error.

        Args:
          names: Names of the objects.
        """

        def remove(fs: Any) -> None:
            with contextlib.suppress(FileNotFoundError):
                fs.rm([self._path(name) for name in names])

        if names:
            self._try(remove)

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"

    def _try(self, operation: Callable[[Any], T]) -> T:
        """Returns the result of an operation, which is tried again while the bucket is not reached.

        Raises:
          InputError: The bucket does not exist, may not be used or cannot be reached.
          FileExistsError: An object that is to be created exists.
        """
        patience = PATIENCE if self._patience is None else self._patience
        patience = patience if self._answered else 0.0
        end, pause = time.monotonic() + patience, FIRST_PAUSE
        while True:
            try:
                with self._explained():
                    found = operation(self._opened.filesystem)
                self._answered = True
                return found
            except FileExistsError:
                self._answered = True
                raise
            except self._opened.passing as error:
                if time.monotonic() + pause > end:
                    reason = printable(error) or type(error).__name__
                    raise InputError(
                        self.field,
                        self.address,
                        f"cannot be reached ({reason}); saved results are kept on this machine, "
                        "and the same command continues once the bucket answers",
                    ) from error
            time.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        """Turns the errors that no further try can mend into one line."""
        about = _LIBRARIES[self.protocol]
        try:
            yield
        except FileNotFoundError:
            there = f"{self.protocol}://{self.inside[0]}"
            problem = f"there is no bucket {there}; create it ({about.create} {there})"
            raise InputError(self.field, self.address, problem) from None
        except self._opened.strangers as error:
            problem = f"{about.name} knows no credentials of yours; {about.credentials}"
            raise InputError(self.field, self.address, problem) from error
        except ValueError as error:  # e.g. a name that no bucket can have
            reason = printable(error).strip()
            raise InputError(self.field, self.address, f"cannot be used ({reason})") from error
        except OSError as error:
            if not _is_forbidden(error):
                raise
            problem = "may not be read or written with your credentials; ask its owner for the role"
            role = "Storage Object User" if self.protocol == "gs" else "s3:*Object and ListBucket"
            raise InputError(self.field, self.address, f"{problem} {role}") from error


def split(address: str, *, field: str = "workdir") -> tuple[str, tuple[str, ...]]:
    """Returns the protocol of an address, and the names of its bucket and folders.

    Args:
      address: Address such as `gs://bucket/runs/first`.
      field: Name of the setting that gives the address, for error messages.

    Raises:
      InputError: The address is of another kind.

    Example:
      >>> split("gs://bucket/runs/first")
      ('gs', ('bucket', 'runs', 'first'))
    """
    known = _ADDRESS.fullmatch(address.rstrip("/"))
    parts = (known[2], *known[3].split("/")) if known else ()
    if not known or any(part in ("", ".", "..") for part in parts):
        problem = "is not an address of a run folder; give gs://bucket/folder, s3://bucket/folder"
        raise InputError(field, address, f"{problem}, or a path")
    return known[1], parts


def _is_forbidden(error: OSError) -> bool:
    # gcsfs tells this only by the first word of its message.
    return isinstance(error, PermissionError) or str(error).startswith("Forbidden")


def _import(bucket: Bucket, *names: str) -> list[Any]:
    try:
        return [importlib.import_module(name) for name in names]
    except ImportError as error:
        about = _LIBRARIES[bucket.protocol]
        problem = f"needs a library for {about.name}; run pip install 'ppp_jax[{about.extra}]'"
        raise InputError(bucket.field, bucket.address, f"{problem} ({error})") from None


def _open_gs(bucket: Bucket) -> _Opened:
    # The core's file system, because that of the package asks twice as often.
    core, retry, auth, requests, aiohttp = _import(
        bucket, "gcsfs.core", "gcsfs.retry", "google.auth.exceptions", "requests", "aiohttp"
    )
    logging.getLogger("gcsfs").setLevel(logging.CRITICAL)  # what fails is said in one line
    # An emulator knows no credentials.
    token = "anon" if os.environ.get("STORAGE_EMULATOR_HOST") else None
    filesystem = core.GCSFileSystem(token=token, **_WITHOUT_CACHES)
    passing = (retry.HttpError, retry.ChecksumError, requests.RequestException, aiohttp.ClientError)
    return _Opened(filesystem, (auth.GoogleAuthError,), (*passing, *_PASSING))


def _open_s3(bucket: Bucket) -> _Opened:
    s3fs, errors = _import(bucket, "s3fs", "botocore.exceptions")
    filesystem = s3fs.S3FileSystem(**_WITHOUT_CACHES)
    strangers = (errors.NoCredentialsError, errors.PartialCredentialsError)
    return _Opened(filesystem, strangers, (errors.BotoCoreError, errors.ClientError, *_PASSING))


_WITHOUT_CACHES = {"use_listings_cache": False, "skip_instance_cache": True}
_PASSING: tuple[type[Exception], ...] = (OSError, asyncio.TimeoutError)
_OPEN = {"gs": _open_gs, "s3": _open_s3}
