"""Atomic writing of files and folders, and locks of folders.

A folder of results is replaced as a whole, or not at all. The record `.written.json` in it lists
the files that this package wrote, with a digest of each. A file that is not in the record, or was
edited since, belongs to somebody else. It is never deleted, and is moved to the next version of
the folder.
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

from ppp_jax.errors import WRITE_REMEDY, InputError
from ppp_jax.files import regular
from ppp_jax.files.integrity import is_intact, sealed

LOCK = ".lock"
LOCKED = b"a run of ppp_jax is at work here, or was killed\n"  # content of a lock file
RECORD = ".written.json"
LARGEST_RECORD = 2**26  # most bytes of a record
REPORT, STUDY, ANALYSIS = KINDS = ("report", "study", "analysis")  # kinds of folders
KEPT = ".kept"  # appended to the name of another person's file if a new file has its name
OURS = ".ours"  # name of a file that marks every folder of `open_aside`
NAMED = 100  # most bytes of a folder's name that is used in names of temporary files beside it


def write_text(path: pathlib.Path, text: str) -> None:
    """Writes a text file atomically.

    Args:
      path: Path of the file.
      text: New content of the file.
    """
    with new_file(path) as partial:
        partial.write_text(text, encoding="utf-8")


@contextlib.contextmanager
def new_file(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """Yields the path of a new, empty file that replaces `path` at the end of the block.

    The file is never a link, so no other file is changed. After an error in the block the new file
    is removed.

    Args:
      path: Path of the file to replace, which need not exist.
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
    """Returns whether a path is a temporary file that a killed process left.

    Args:
      path: The path.
      of: Names of the files that are written atomically.

    Example:
      >>> is_partial(pathlib.Path(".a.json.partial-0123abcd"), ["a.json"])  # does not exist
      False
    """
    found = re.fullmatch(r"\.(.+)\.partial-[0-9a-f]{8}", path.name)
    return found is not None and found[1] in of and path.is_file() and not path.is_symlink()


def remove_partial(folder: pathlib.Path, of: Collection[str]) -> None:
    """Removes the temporary files that killed processes left in a folder.

    Args:
      folder: The folder, which need not exist.
      of: Names of the files that are written atomically.
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

    The operating system releases the lock when the process ends, however it ends.

    Args:
      folder: Folder to create and lock.
      name: Name of the lock file.
      field: Name of the setting that gives the folder, for the error message.
      value: Value of the setting; None means the folder's path.

    Raises:
      InputError: The folder cannot be written, or another run is at work in it.
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
    """Opens a lock file, and returns its descriptor and whether the file is new."""
    with contextlib.suppress(FileExistsError):
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
        with contextlib.suppress(OSError):  # an empty lock file on a full disk suffices
            os.write(descriptor, LOCKED)
        return descriptor, True
    # Links are not followed, because they can lead to another person's file.
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666), False


def _is_left_over(descriptor: int) -> bool:
    """Returns whether an existing lock file was left by a run that was killed."""
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
    """Checks that a folder of results can be written at a path.

    Args:
      target: Path of the folder.
      field: Name of the setting that gives the path, for the error message.
      value: Value of the setting.
      kind: Kind of the new folder, such as `report`; None means that any kind may be replaced.

    Raises:
      InputError: The path is a link, a file, a folder with files but without a record of this
        package, or a folder of another kind.
    """
    name = target.name
    if not name or "\0" in str(target):
        raise InputError(field, value, "cannot be the name of a folder")
    try:
        if target.is_symlink():
            raise InputError(field, value, f"{name} is a link; remove it, or choose another path")
        if not target.exists():
            return
        if not target.is_dir():
            raise InputError(
                field, value, f"{name} is not a folder; move it, or choose another path"
            )
        if _record(target) is None and any(target.iterdir()):
            problem = (
                f"{name} exists and was not written by ppp_jax ({RECORD} is missing or damaged); "
                "move it, or choose another path"
            )
            raise InputError(field, value, problem)
        existing = _kind(target)
        if None not in (kind, existing) and kind != existing:
            problem = f"{name} is of another kind ({existing}, not {kind}); choose another path"
            raise InputError(field, value, problem)
    except OSError as error:
        problem = f"cannot be written ({error.strerror or error}); {WRITE_REMEDY}"
        raise InputError(field, value, problem) from None


@contextlib.contextmanager
def replacing(
    target: pathlib.Path,
    *,
    field: str,
    value: object,
    kind: str | None = None,
    made_of: str | None = None,
) -> Iterator[pathlib.Path]:
    """Yields a new, empty folder that replaces the target at the end of the block.

    The target is checked first. An error in the block, or a full disk, leaves the target unchanged.
    Other people's files in the earlier version are moved to the new one, with `.kept` appended to
    a name that a new file has. Only one process at a time may do this, so the caller holds a lock.

    Args:
      target: Path of the folder to replace, which need not exist.
      field: Name of the setting that gives the path, for error messages.
      value: Value of the setting.
      kind: Kind of the folder, such as `report`, which is written to its record; None means that
        it has no kind.
      made_of: A digest of everything that the new folder is made of, which is written to its record
        as well, for `is_made_of`; None means that it is not known.

    Raises:
      InputError: The target cannot be replaced (`check`), or a file cannot be written.
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
            _write_record(partial, _digests(partial), kind, made_of)
            check(target, field=field, value=value, kind=kind)  # much time may have passed
            _swap(partial, target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def is_made_of(target: pathlib.Path, made_of: str | None) -> bool:
    """Returns whether a folder is what would be written anew, and all its files are unchanged.

    Args:
      target: Path of the folder, which need not exist.
      made_of: A digest of everything that it would be made of; None means that it is not known.
    """
    if made_of is None or target.is_symlink() or not target.is_dir():
        return False
    written = _record(target)
    if written is None or _read_record(target).get("made_of") != made_of:
        return False
    return all(_is_unchanged(target / name, digest) for name, digest in written.items())


@contextlib.contextmanager
def new_folder(target: pathlib.Path, *, field: str, value: object) -> Iterator[pathlib.Path]:
    """Yields a new, empty folder that becomes the target at the end of the block.

    After an error in the block nothing is left of it. What killed processes left of the same target
    is removed. Only one process at a time may do this, so the caller holds a lock.

    Args:
      target: Path of the folder, which must not exist.
      field: Name of the setting that gives the path, for error messages.
      value: Value of the setting.

    Raises:
      InputError: The target exists, or a file cannot be written.
    """
    outer = _beside(target, "partial")
    try:
        with _disk_errors(field, value, outer, then="nothing is kept"):
            target.parent.mkdir(parents=True, exist_ok=True)
            _check_new(target, field, value)
            _tidy(target)
            outer.mkdir()
            _write_record(outer, {}, None)  # in a folder around the new one, which holds no record
            inner = outer / "folder"
            inner.mkdir()
            yield inner
            _check_new(target, field, value)  # much time may have passed
            inner.rename(target)
    finally:
        shutil.rmtree(outer, ignore_errors=True)


def _check_new(target: pathlib.Path, field: str, value: object) -> None:
    if os.path.lexists(target):
        raise InputError(field, value, "exists already; remove it, or choose another path")


def remove(target: pathlib.Path) -> None:
    """Removes the files that this package wrote into a folder, and the folder if it is then empty.

    Args:
      target: Path of the folder, which need not exist. A link, a file or a folder without a record
        is not removed.
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
    """Returns the name of a hidden file or folder that belongs to a folder and is beside it.

    Args:
      target: Path of the folder, whose name can be as long as the system allows.
      what: Purpose of the hidden file or folder, which is a part of its name.

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
def _disk_errors(
    field: str,
    value: object,
    partial: pathlib.Path,
    *,
    then: str = "the earlier folder is kept",
) -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:  # raised by a reader of the output, and not by the disk
        raise
    except OSError as error:
        reason, about = error.strerror or str(error), error.filename
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
        if about is None or full or str(about).startswith(str(partial.parent)):
            problem = f"cannot be written ({reason}); {WRITE_REMEDY}"
        else:
            problem = f"stopped ({reason}: {about}); correct the cause and try again"
        raise InputError(field, value, f"{problem}; {then}") from error


def _swap(partial: pathlib.Path, target: pathlib.Path) -> None:
    """Replaces a folder by a finished one, and deletes only this package's files of the earlier."""
    if not target.exists():
        partial.rename(target)
        return
    earlier = _beside(target, "earlier")
    target.rename(earlier)
    partial.rename(target)
    _merge(earlier, target)


def _tidy(target: pathlib.Path) -> None:
    """Completes or removes the replacements of a folder that killed processes left beside it."""
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
    """Moves other people's files into the new folder, and removes the earlier one."""
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
        if _is_unchanged(path, digest):  # a file that was edited since stays
            path.unlink()


def _is_unchanged(path: pathlib.Path, digest: str) -> bool:
    return path.is_file() and not path.is_symlink() and _digest(path) == digest


# ------------------------------------------------------------------------- what stands aside


def aside(target: pathlib.Path) -> pathlib.Path:
    """Returns the path of the hidden folder that holds versions of a folder while it is replaced.

    Args:
      target: Path of the folder.

    Example:
      >>> aside(pathlib.Path("runs/latents.zarr")).as_posix()
      'runs/.latents.zarr.aside'
    """
    return target.with_name(hidden(target, "aside"))


def check_aside(target: pathlib.Path, *, field: str, value: object) -> None:
    """Checks that the path `aside(target)` is free, or is a folder of this package.

    Args:
      target: Path of the folder.
      field: Name of the setting that gives the path, for the error message.
      value: Value of the setting.

    Raises:
      InputError: The path is in use by something else.
    """
    folder = aside(target)
    if os.path.lexists(folder) and not has_aside(target):
        raise InputError(
            field, value, f"{folder.name} exists and was not written by ppp_jax; move it away"
        )


def has_aside(target: pathlib.Path) -> bool:
    """Returns whether the folder `aside(target)` exists and is this package's.

    Args:
      target: Path of the folder.
    """
    folder = aside(target)
    if folder.is_symlink() or not folder.is_dir():
        return False
    # It is empty if a process was killed between making and marking it.
    return (folder / OURS).is_file() or not any(folder.iterdir())


def open_aside(target: pathlib.Path) -> pathlib.Path:
    """Makes the folder `aside(target)`, marks it as this package's, and returns its path.

    Args:
      target: Path of the folder.

    Raises:
      InputError: The path is in use by something else.
    """
    check_aside(target, field="workdir", value=target.parent)
    folder = aside(target)
    folder.mkdir(exist_ok=True)
    (folder / OURS).touch()
    return folder


def close_aside(target: pathlib.Path) -> None:
    """Removes the folder `aside(target)` if it is this package's.

    Args:
      target: Path of the folder.
    """
    if not has_aside(target):
        return
    folder = aside(target)
    for path in sorted(folder.iterdir()):
        if path.name != OURS:  # the mark is removed last, so that a killed removal can be repeated
            shutil.rmtree(path)
    (folder / OURS).unlink(missing_ok=True)
    folder.rmdir()


# ------------------------------------------------------------------------------- the record


def _record(folder: pathlib.Path) -> dict[str, str] | None:
    """Returns the digests in a folder's record, by the names of files; None without a record."""
    files = _read_record(folder).get("files")
    if not isinstance(files, dict):
        return None
    # A forged record could be sealed, and must not name files outside the folder.
    return {name: str(digest) for name, digest in files.items() if name == pathlib.Path(name).name}


def _kind(folder: pathlib.Path) -> str | None:
    """Returns the kind of a folder according to its record, or None."""
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


def _write_record(
    folder: pathlib.Path, files: dict[str, str], kind: str | None, made_of: str | None = None
) -> None:
    told = {"kind": kind, "made_of": made_of}
    stated = {name: value for name, value in told.items() if value is not None}
    text = json.dumps(sealed({**stated, "files": files}), indent=1, ensure_ascii=True)
    (folder / RECORD).write_text(text + "\n", encoding="utf-8")


def _digests(folder: pathlib.Path) -> dict[str, str]:
    files = sorted(path for path in folder.iterdir() if path.name != RECORD and path.is_file())
    return {path.name: _digest(path) for path in files}


def _digest(path: pathlib.Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
