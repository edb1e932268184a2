"""Folders of results that appear whole or not at all, and the lock of the folder they stand in.

What a program writes into such a folder it lists there, in `.written.json`, with a digest of each
file. So what is in the folder and not on the list, or has been edited since, is known to be
somebody else's: it is never deleted, and stands in the next version of the folder again.
"""

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import pathlib
import re
import secrets
import shutil
import stat
from collections.abc import Collection, Iterator
from typing import Any

from ppp_jax.errors import InputError
from ppp_jax.files import regular
from ppp_jax.files.integrity import is_intact, sealed

LOCK = ".lock"
LOCKED = b"a run of ppp_jax is at work here, or was killed\n"  # what a lock file holds
RECORD = ".written.json"
LARGEST_RECORD = 2**26  # bytes
REPORT, STUDY, ANALYSIS = KINDS = ("report", "study", "analysis")  # of folders
KEPT = ".kept"  # added to the name of somebody's file where a new one of ours has that name
OURS = ".ours"  # stands in every folder of `open_aside`
NAMED = 100  # bytes; longer names of folders do not stand in the names of what is beside them


def write_text(path: pathlib.Path, text: str) -> None:
    """Writes a text file in one move.

    Args:
      path: the file.
      text: its new content.
    """
    with placed(path) as partial:
        partial.write_text(text, encoding="utf-8")


@contextlib.contextmanager
def placed(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """Gives an empty file to write to, which takes the place of another at the end of the block.

    It is new, and no link: nothing of somebody's is written to. After an error it is gone.

    Args:
      path: the other file, there or not.
    """
    partial = _beside(path, "partial")
    os.close(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
    try:
        yield partial
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def is_partial(path: pathlib.Path, of: Collection[str]) -> bool:
    """Returns whether a path is what a killed process left of writing a file in one move.

    Args:
      path: what may be such a file.
      of: the names of the files that we write so.

    Example:
      >>> is_partial(pathlib.Path(".a.json.partial-0123abcd"), ["a.json"])  # not there
      False
    """
    found = re.fullmatch(r"\.(.+)\.partial-[0-9a-f]{8}", path.name)
    return found is not None and found[1] in of and path.is_file() and not path.is_symlink()


def remove_partial(folder: pathlib.Path, of: Collection[str]) -> None:
    """Removes what killed processes left of writing files in one move.

    Args:
      folder: in which they stand, there or not.
      of: the names of the files.
    """
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        if is_partial(path, of):
            path.unlink()


# --------------------------------------------------------------------------------- the lock


@contextlib.contextmanager
def locked(
    folder: pathlib.Path, *, name: str = LOCK, field: str = "workdir", value: object = None
) -> Iterator[None]:
    """Creates a folder and keeps other runs out of it for the duration of the block.

    The operating system takes the lock away with the process, however that ends.

    Args:
      folder: whose lock is taken.
      name: of the file that is locked.
      field: the setting that names the place, for the error.
      value: what it is set to; None: the folder.

    Raises:
      InputError: the folder cannot be written, or another run is at work in it.
    """
    path, value = folder / name, folder if value is None else value
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor, made = _open_lock(path)
    except FileExistsError:
        problem = "cannot be written (Not a directory); choose another folder"
        raise InputError(field, value, problem) from None
    except OSError as error:
        raise _unwritable(error, field, value) from None
    try:
        _lock(descriptor, path, field, value)
        try:
            yield
        finally:
            with contextlib.suppress(OSError):  # the folder may be gone
                if made or _is_left_over(descriptor):
                    path.unlink()
    finally:
        os.close(descriptor)


def _lock(descriptor: int, path: pathlib.Path, field: str, value: object) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # The run that held it may have removed the file since it was opened.
        if not _is_still(descriptor, path):
            raise BlockingIOError
    except BlockingIOError:
        problem = "another run is at work in this folder; wait for it, or choose another"
        raise InputError(field, value, problem) from None
    except OSError as error:
        raise _unwritable(error, field, value) from None


def _open_lock(path: pathlib.Path) -> tuple[int, bool]:
    """Opens a lock file, and returns too whether it was made."""
    with contextlib.suppress(FileExistsError):
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
        with contextlib.suppress(OSError):  # a full disk can be locked too
            os.write(descriptor, LOCKED)
        return descriptor, True
    # Not through a link, which may lead to a file of somebody's.
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666), False


def _is_left_over(descriptor: int) -> bool:
    """Returns whether a lock file that was there is of a run that was killed."""
    about = os.fstat(descriptor)
    same_size = stat.S_ISREG(about.st_mode) and about.st_size == len(LOCKED)
    return same_size and os.pread(descriptor, len(LOCKED), 0) == LOCKED


def _unwritable(error: OSError, field: str, value: object) -> InputError:
    problem = f"cannot be written ({error.strerror or error}); choose another folder"
    return InputError(field, value, problem)


def _is_still(descriptor: int, path: pathlib.Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


# ------------------------------------------------------------------------------- the folder


def check(target: pathlib.Path, *, field: str, value: object, kind: str | None = None) -> None:
    """Refuses a place that no folder of ours can take.

    Args:
      target: where the folder is to stand.
      field: the setting that names the place, for the error.
      value: what it is set to.
      kind: of folder it is to be, such as `report`; None: it does not matter.

    Raises:
      InputError: there is a link, a file, a folder with files and without our record, or one of
        ours of another kind.
    """
    name = target.name
    if not name or "\0" in str(target):
        raise InputError(field, value, "is no name for a folder")
    try:
        if target.is_symlink():
            raise InputError(field, value, f"{name} is a link; remove it, or name another place")
        if not target.exists():
            return
        if not target.is_dir():
            raise InputError(field, value, f"{name} is no folder; move it, or name another place")
        if _record(target) is None and any(target.iterdir()):
            problem = f"{name} is there and not ours ({RECORD} is missing or damaged); move it away"
            raise InputError(field, value, problem)
        there = _kind(target)
        if None not in (kind, there) and kind != there:
            problem = f"{name} is of another kind ({there}, not {kind}); name another place"
            raise InputError(field, value, problem)
    except OSError as error:
        problem = f"cannot be written ({error.strerror or error}); mend that or name another place"
        raise InputError(field, value, problem) from None


@contextlib.contextmanager
def replacing(
    target: pathlib.Path, *, field: str, value: object, kind: str | None = None
) -> Iterator[pathlib.Path]:
    """Gives an empty folder to write files into, which takes the target's place once complete.

    Whether that is possible is found out first. An error in the block, or a disk that is full,
    leaves the target as it was. What an earlier version holds of somebody else's is in the new one
    too, under its name with `.kept` where one of ours has that name. One process at a time may do
    this: hold a lock.

    Args:
      target: the folder.
      field: the setting that names the place, for errors.
      value: what it is set to.
      kind: of folder it is, such as `report`, which its record says; None: of no kind.

    Raises:
      InputError: the target cannot be taken (`check`), or something cannot be written.
    """
    check(target, field=field, value=value, kind=kind)
    partial = _beside(target, "partial")
    try:
        with _disk_errors(field, value, partial):
            target.parent.mkdir(parents=True, exist_ok=True)
            _tidy(target)
            partial.mkdir()
            _write_record(partial, {}, kind)
            yield partial
            _write_record(partial, _digests(partial), kind)
            check(target, field=field, value=value, kind=kind)  # much time may have passed
            _swap(partial, target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def remove(target: pathlib.Path) -> None:
    """Removes what was written into a folder, and the folder if nothing else is in it.

    Args:
      target: a folder, there or not; a link, a file or a folder without our record stays.
    """
    if target.is_symlink() or not target.is_dir():
        return
    _tidy(target)
    written = _record(target)
    if written is None:
        return
    _remove_ours(target, written)
    if any(path.name != RECORD for path in target.iterdir()):
        _write_record(target, {}, _kind(target))
    else:
        (target / RECORD).unlink()
        target.rmdir()


def hidden(target: pathlib.Path, what: str) -> str:
    """Returns the name of a hidden file or folder beside a folder, for which it stands.

    Args:
      target: the folder, whose name may be as long as the system allows.
      what: for what.

    Example:
      >>> hidden(pathlib.Path("runs/out"), "lock")
      '.out.lock'
    """
    name, raw = target.name, os.fsencode(target.name)
    if len(raw) > NAMED:
        name = hashlib.sha256(raw).hexdigest()
    return f".{name}.{what}"


def _beside(target: pathlib.Path, what: str) -> pathlib.Path:
    return target.with_name(f"{hidden(target, what)}-{secrets.token_hex(4)}")


@contextlib.contextmanager
def _disk_errors(field: str, value: object, partial: pathlib.Path) -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:  # of what reads the output, not of the disk
        raise
    except OSError as error:
        reason, about = error.strerror or str(error), error.filename
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
        if about is None or full or str(about).startswith(str(partial.parent)):
            problem = f"cannot be written ({reason}); mend that or name another place"
        else:
            problem = f"stopped ({reason}: {about}); mend that and try again"
        raise InputError(field, value, f"{problem}; what was there is kept") from error


def _swap(partial: pathlib.Path, target: pathlib.Path) -> None:
    """Puts a finished folder in the place of an earlier one, of which only ours is deleted."""
    if not target.exists():
        partial.rename(target)
        return
    earlier = _beside(target, "earlier")
    target.rename(earlier)
    partial.rename(target)
    _merge(earlier, target)


def _tidy(target: pathlib.Path) -> None:
    """Brings in order what killed processes left beside a folder."""
    for earlier in _leftovers(target, "earlier"):
        if _record(earlier) is None:
            continue
        if not target.exists():
            earlier.rename(target)
        elif _record(target) is not None:
            _merge(earlier, target)
    for partial in _leftovers(target, "partial"):
        if _record(partial) is not None:
            shutil.rmtree(partial)
        elif not any(partial.iterdir()):
            partial.rmdir()


def _leftovers(target: pathlib.Path, what: str) -> list[pathlib.Path]:
    prefix = f"{hidden(target, what)}-"
    named = [path for path in sorted(target.parent.iterdir()) if path.name.startswith(prefix)]
    return [path for path in named if path.is_dir() and not path.is_symlink()]


def _merge(earlier: pathlib.Path, target: pathlib.Path) -> None:
    """Moves what is not ours into the new folder, and removes the earlier one."""
    _remove_ours(earlier, _record(earlier) or {})
    for path in sorted(earlier.iterdir()):
        if path.name != RECORD:
            path.rename(_free(target / path.name))
    (earlier / RECORD).unlink(missing_ok=True)
    earlier.rmdir()


def _free(path: pathlib.Path) -> pathlib.Path:
    number, free = 1, path
    while os.path.lexists(free):
        free = path.with_name(f"{path.name}{KEPT}{number if number > 1 else ''}")
        number += 1
    return free


def _remove_ours(folder: pathlib.Path, written: dict[str, str]) -> None:
    for name, digest in written.items():
        path = folder / name
        # Of a file edited since, the digest differs.
        if path.is_file() and not path.is_symlink() and _digest(path) == digest:
            path.unlink()


# ------------------------------------------------------------------------- what stands aside


def aside(target: pathlib.Path) -> pathlib.Path:
    """Returns where versions of a folder stand while another takes its place.

    Args:
      target: the folder.

    Example:
      >>> aside(pathlib.Path("runs/latents.zarr")).as_posix()
      'runs/.latents.zarr.aside'
    """
    return target.with_name(hidden(target, "aside"))


def check_aside(target: pathlib.Path, *, field: str, value: object) -> None:
    """Refuses a folder beside which somebody else's has the name of ours.

    Args:
      target: the folder.
      field: the setting that names the place, for the error.
      value: what it is set to.

    Raises:
      InputError: there is something else under that name.
    """
    folder = aside(target)
    if os.path.lexists(folder) and not has_aside(target):
        raise InputError(field, value, f"{folder.name} is there and not ours; move it away")


def has_aside(target: pathlib.Path) -> bool:
    """Returns whether there is a folder of ours beside a folder.

    Args:
      target: the folder.
    """
    folder = aside(target)
    if folder.is_symlink() or not folder.is_dir():
        return False
    # Empty, where a process was killed between making it and marking it.
    return (folder / OURS).is_file() or not any(folder.iterdir())


def open_aside(target: pathlib.Path) -> pathlib.Path:
    """Makes the folder beside a folder, marked as ours, and returns it.

    Args:
      target: the folder.

    Raises:
      InputError: somebody else's has that name.
    """
    check_aside(target, field="workdir", value=target.parent)
    folder = aside(target)
    folder.mkdir(exist_ok=True)
    (folder / OURS).touch()
    return folder


def close_aside(target: pathlib.Path) -> None:
    """Removes the folder beside a folder, if it is ours.

    Args:
      target: the folder.
    """
    if not has_aside(target):
        return
    folder = aside(target)
    for path in sorted(folder.iterdir()):
        if path.name != OURS:  # which goes last: whenever this is killed, it can be said again
            shutil.rmtree(path)
    (folder / OURS).unlink(missing_ok=True)
    folder.rmdir()


# ------------------------------------------------------------------------------- the record


def _record(folder: pathlib.Path) -> dict[str, str] | None:
    """Returns the names of the files that were written into a folder, with their digests."""
    files = _read_record(folder).get("files")
    if not isinstance(files, dict):
        return None
    # A foreign record, sealed too, must not lead out of the folder.
    return {name: str(digest) for name, digest in files.items() if name == pathlib.Path(name).name}


def _kind(folder: pathlib.Path) -> str | None:
    """Returns what kind of folder the record says it is; None where it says nothing."""
    kind = _read_record(folder).get("kind")
    return kind if kind in KINDS else None


def _read_record(folder: pathlib.Path) -> dict[str, Any]:
    if regular.problem(folder / RECORD, most=LARGEST_RECORD) is not None:
        return {}
    try:
        found = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError, RecursionError):
        return {}
    return found if is_intact(found) else {}


def _write_record(folder: pathlib.Path, files: dict[str, str], kind: str | None) -> None:
    said = {} if kind is None else {"kind": kind}
    text = json.dumps(sealed({**said, "files": files}), indent=1, ensure_ascii=True)
    (folder / RECORD).write_text(text + "\n", encoding="utf-8")


def _digests(folder: pathlib.Path) -> dict[str, str]:
    files = sorted(path for path in folder.iterdir() if path.name != RECORD and path.is_file())
    return {path.name: _digest(path) for path in files}


def _digest(path: pathlib.Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
