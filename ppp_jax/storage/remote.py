"""Run folders in a bucket, which one or several processes train or read.

Whatever works on a run folder calls `opened` or `folder` on the user's setting, and works on the
path that they give. For a path that is the path itself. For an address such as `gs://bucket/run` it
is a copy on this machine, which `commit` uploads (`ppp_jax.files.mirrors`). Every process has its
own copy, so that the processes of a job need no shared file system. The main process uploads.
"""

import contextlib
import pathlib
from collections.abc import Iterator

from ppp_jax.engine import devices
from ppp_jax.errors import InputError
from ppp_jax.files import buckets, mirrors


def folder(workdir: str | pathlib.Path) -> pathlib.Path:
    """Returns the path of a run folder, or of its copy on this machine. Nothing is opened.

    Args:
      workdir: Path or address of the run folder.

    Raises:
      InputError: The value is an address of another kind than `gs://bucket/folder`.
    """
    if not buckets.is_address(workdir):
        return pathlib.Path(workdir).expanduser()
    return mirrors.copy_of(str(workdir), process=devices.process_index())


def fetched(workdir: str | pathlib.Path) -> pathlib.Path:
    """Returns the path of a run folder that is read. Its copy is brought up to date first.

    Args:
      workdir: Path or address of the run folder, which need not exist.

    Raises:
      InputError: The address is not valid, or the bucket cannot be used.
    """
    path = folder(workdir)
    if buckets.is_address(workdir):
        mirrors.fetched(str(workdir), path)
    return path


def address(workdir: pathlib.Path) -> str:
    """Returns the address of an opened run folder, or its path if it is in no bucket.

    Args:
      workdir: Path of the run folder or of its copy.
    """
    mirror = _OPEN.get(workdir)
    return str(workdir) if mirror is None else mirror


_OPEN: dict[pathlib.Path, str] = {}  # addresses by the copies that this process has opened


@contextlib.contextmanager
def opened(workdir: str | pathlib.Path) -> Iterator[pathlib.Path]:
    """Yields the path of a run folder that may be changed within the block.

    Other machines are kept out of a folder in a bucket. At the end of the block it is uploaded. All
    processes call this.

    Args:
      workdir: Path or address of the run folder.

    Raises:
      InputError: Another process is at work in the folder, or the bucket cannot be used.
    """
    path = folder(workdir)
    if not buckets.is_address(workdir) or path in _OPEN:
        yield path
        return
    name = str(workdir).rstrip("/")
    with contextlib.ExitStack() as ends:
        devices.on_main(lambda: ends.enter_context(_named(name, path)))
        _OPEN[path] = name
        ends.callback(_OPEN.pop, path)
        share(path)
        yield path
        commit(path)


@contextlib.contextmanager
def _named(name: str, path: pathlib.Path) -> Iterator[None]:
    """Holds a mirror, and names the address, which the user gave, in errors about the copy."""
    try:
        with mirrors.held(name, path):
            yield
    except InputError as error:
        if str(error.value) != str(path):
            raise
        raise InputError(error.field, name, error.problem) from error


def is_shared(workdir: pathlib.Path) -> bool:
    """Returns whether all processes see the same files, which copies of a bucket are not.

    Args:
      workdir: Path of the run folder or of its copy.
    """
    return workdir not in _OPEN


def commit(workdir: pathlib.Path) -> None:
    """Uploads a run folder that is in a bucket. Nothing may be written into it meanwhile.

    All processes call this, and none goes on before it is done.

    Args:
      workdir: Path of the run folder or of its copy.

    Raises:
      InputError: The bucket cannot be used, or another process has taken the folder over.
    """
    if workdir not in _OPEN:
        return

    def upload() -> None:
        mirror = mirrors.of(workdir)
        if mirror is not None:
            mirror.commit()

    devices.on_main(upload)


def share(workdir: pathlib.Path) -> None:
    """Uploads a run folder that is in a bucket, and gives all processes equal copies of it.

    Args:
      workdir: Path of the run folder or of its copy.

    Raises:
      InputError: The bucket cannot be used, or another process has taken the folder over.
    """
    commit(workdir)
    if workdir in _OPEN and not devices.is_main():
        mirrors.Mirror(_OPEN[workdir], workdir).pull()
    devices.barrier("shared")
