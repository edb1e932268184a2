"""Run folders in a bucket: a copy on this machine, which is mirrored whenever it is complete.

Training appends to files, renames and locks them, which buckets cannot do, and writes hundreds of
small files. So a run works in a folder of this machine, the *copy*, and `Mirror.commit` uploads it.

    <address>/
      objects/<sha256>     contents of files, which are never overwritten
      index/<number>.json  the files of the folder with their contents, sealed
      lease/<number>.json  which process is at work, see `leases`

The newest index counts, and it is created last. So a process that is killed while it uploads leaves
the earlier index, all of whose objects are there. An index is created only if none of its number
exists, so that two processes cannot both continue the same one.

Beside the copy a file remembers the index from which it was made. If that is the newest index, the
copy is kept as it is, because it can be ahead of the bucket, as after a crash. Otherwise another
machine has gone on, and the copy is made equal to the bucket.
"""

import contextlib
import hashlib
import json
import os
import pathlib
import re
import stat
import sys
from collections.abc import Iterator
from typing import Any, NamedTuple

from ppp_jax.errors import InputError
from ppp_jax.files import atomic, buckets, leases, paths
from ppp_jax.files.buckets import Bucket
from ppp_jax.files.integrity import SEAL, is_intact, sealed
from ppp_jax.files.leases import Lease

OBJECTS, INDEX = "objects", "index"
FORMAT = 1
TRIES = 5  # of reading an index and its objects
_SHA256 = re.compile(r"[0-9a-f]{64}")


class Entry(NamedTuple):
    """Content of a file.

    Attributes:
      sha256: Its SHA-256.
      size: Its number of bytes.
    """

    sha256: str
    size: int


class _Index(NamedTuple):
    """The files of a folder at one time.

    Attributes:
      number: Number of the index; 0 if nothing was uploaded yet.
      seal: Digest of the index.
      files: The files by their paths in the folder.
    """

    number: int
    seal: str
    files: dict[str, Entry]


_NOTHING = _Index(0, "", {})


def copy_of(address: str, *, process: int = 0, field: str = "workdir") -> pathlib.Path:
    """Returns the path of the copy of a run folder on this machine. Nothing is opened.

    Args:
      address: Address of the run folder, such as `gs://bucket/run`.
      process: Number of the process, because every process has its own copy.
      field: Name of the setting that gives the address, for error messages.

    Raises:
      InputError: The value is not such an address.
    """
    protocol, inside = buckets.split(address, field=field)
    base = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
    own = f"runs-{process}" if process else "runs"
    return pathlib.Path(base).joinpath("ppp_jax", own, protocol, *inside)


class Mirror:
    """A run folder in a bucket and its copy.

    Attributes:
      address: Address of the run folder.
      folder: Path of the copy.
    """

    def __init__(self, address: str, folder: pathlib.Path, *, field: str = "workdir"):
        """Opens the library that reaches the bucket. Nothing is sent yet.

        Args:
          address: Address of the run folder.
          folder: Path of the copy.
          field: Name of the setting that gives the address, for error messages.

        Raises:
          InputError: The address is not valid, or the library is not installed.
        """
        self.address, self.folder = address.rstrip("/"), folder
        self._bucket = Bucket(address, field=field)
        self._lease: Lease | None = None
        self._index = _NOTHING
        self._known: dict[str, tuple[tuple[int, int, int], Entry]] = {}

    def take(self) -> None:
        """Takes the lease of the folder, and removes what killed uploads left.

        Raises:
          InputError: Another process has the lease, or the bucket cannot be used.
        """
        self._lease = leases.take(self._bucket, earlier=self._remembered().get("lease"))
        self._remember(lease=self._lease.token)

    def release(self) -> None:
        """Ends the lease. If the bucket cannot be reached, the lease ends by itself."""
        if self._lease is None:
            return
        try:
            self._lease.release()
        except InputError as error:
            text = f"the lease ends in {leases.STALE_SECONDS:g} s, because it could not be removed"
            sys.stderr.write(f"{text} ({error})\n")
        else:
            self._remember(lease=None)
        self._lease = None

    def pull(self) -> bool:
        """Makes the copy equal to the bucket, unless it continues the newest index.

        Returns:
          Whether the bucket holds a run folder.

        Raises:
          InputError: The bucket cannot be used, its index or an object is damaged, or it holds
            nothing although an earlier state of the copy was uploaded.
        """
        for _ in range(TRIES):
            # Without the lease, the owner can replace objects while they are being read.
            with contextlib.suppress(buckets.GoneError):
                return self._pull()
        problem = f"objects of its {INDEX} are missing; put them back from a copy"
        raise InputError(self._bucket.field, self.address, problem)

    def _pull(self) -> bool:
        newest, remembered = _read_index(self._bucket), self._remembered()
        self._index = newest
        if remembered.get("complete") and remembered.get("base") == newest.seal:
            return newest.number > 0
        if newest.number == 0 and remembered.get("base"):
            problem = "holds no run any more, although this machine has a copy of one"
            raise InputError(
                self._bucket.field,
                self.address,
                f"{problem} ({self.folder}); remove that folder to begin anew, or move it away",
            )
        if remembered.get("complete") and self._changed_since(remembered):
            text = "another machine has gone on with this run; what this one had not uploaded is"
            sys.stderr.write(f"{self.address}: {text} dropped\n")
        self._fetch(newest)
        return newest.number > 0

    def _changed_since(self, remembered: dict[str, Any]) -> bool:
        here = {name: list(entry) for name, entry in self._scan().items()}
        return here != remembered.get("files")

    def _fetch(self, newest: _Index) -> None:
        """Makes the copy equal to an index. If it is killed, the next call completes it."""
        self._remember(complete=False)
        here = self._scan()
        for name in here.keys() - newest.files.keys():
            (self.folder / name).unlink()
        wanted = {n: entry for n, entry in newest.files.items() if here.get(n) != entry}
        for name in wanted:
            (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
        self._bucket.download(
            {self.folder / name: _object(entry.sha256) for name, entry in wanted.items()}
        )
        now = self._scan()
        for name, entry in wanted.items():
            if now.get(name) != entry:
                problem = f"its {_object(entry.sha256)} is damaged; put it back from a copy"
                raise InputError(self._bucket.field, self.address, problem)
        _remove_empty(self.folder)
        self._remember_base()

    def _remember_base(self) -> None:
        files = {name: list(entry) for name, entry in self._index.files.items()}
        self._remember(complete=True, base=self._index.seal, files=files)

    def tidy(self) -> None:
        """Removes objects to which the newest index does not refer, which killed uploads left."""
        used = {_object(entry.sha256) for entry in self._index.files.values()}
        self._bucket.remove([n for n in self._bucket.names(OBJECTS) if n not in used])

    def commit(self) -> None:
        """Uploads what has changed in the copy. The bucket then holds all of it, or nothing of it.

        Only the owner of the lease calls this, while nothing is being written into the copy.

        Raises:
          InputError: The lease was lost, or the bucket cannot be used. The copy is kept.
        """
        files, before = self._scan(), self._index
        if self._lease is None or files == before.files:
            return
        self._lease.check()
        there = {entry.sha256 for entry in before.files.values()}
        self._bucket.upload(
            {
                _object(entry.sha256): self.folder / name
                for name, entry in files.items()
                if entry.sha256 not in there
            }
        )
        entries = sealed(
            {"format": FORMAT, "lease": self._lease.token, "number": before.number + 1}
            | {"files": {name: list(entry) for name, entry in sorted(files.items())}}
        )
        if not self._bucket.create(_index(before.number + 1), json.dumps(entries).encode()):
            problem = "was changed by another process meanwhile; this one stops, and saves nothing"
            raise InputError(self._bucket.field, self.address, f"{problem} more there")
        self._index = _Index(before.number + 1, entries[SEAL], files)
        self._remember_base()
        gone = there - {entry.sha256 for entry in files.values()}
        earlier = [_index(before.number)] if before.number else []
        self._bucket.remove([*earlier, *(_object(sha256) for sha256 in gone)])

    # ---------------------------------------------------------------------------- the copy

    def _scan(self) -> dict[str, Entry]:
        """Returns the files of the copy. Those that have not changed since are not read again."""
        found = {}
        for where, _, names in os.walk(self.folder):
            for name in names:
                path = pathlib.Path(where, name)
                about = path.lstat()
                if not stat.S_ISREG(about.st_mode) or name == atomic.LOCK:
                    continue
                relative = path.relative_to(self.folder).as_posix()
                mark, known = (about.st_mtime_ns, about.st_size, about.st_ino), self._known
                if relative not in known or known[relative][0] != mark:
                    known[relative] = mark, Entry(_sha256(path), about.st_size)
                found[relative] = known[relative][1]
        return found

    @property
    def _memory(self) -> pathlib.Path:
        return self.folder.with_name(atomic.hidden(self.folder, "mirror.json"))

    def _remembered(self) -> dict[str, Any]:
        try:
            found: Any = json.loads(self._memory.read_bytes())
        except (FileNotFoundError, NotADirectoryError, ValueError):
            return {}
        return found if is_intact(found) else {}

    def _remember(self, **entries: Any) -> None:
        self._memory.parent.mkdir(parents=True, exist_ok=True)
        atomic.write_text(self._memory, json.dumps(sealed(self._remembered() | entries)))


def _sha256(path: pathlib.Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _remove_empty(folder: pathlib.Path) -> None:
    """Removes empty folders in a folder, which would be taken for incomplete checkpoints."""
    for where, _, _ in os.walk(folder, topdown=False):
        if pathlib.Path(where) != folder and not os.listdir(where):
            os.rmdir(where)


def _object(sha256: str) -> str:
    return f"{OBJECTS}/{sha256}"


def _index(number: int) -> str:
    return f"{INDEX}/{number:08d}.json"


def _read_index(bucket: Bucket) -> _Index:
    """Returns the newest index of a folder.

    Raises:
      InputError: The index is damaged, or the bucket cannot be used.
    """
    while names := bucket.names(INDEX):
        text = bucket.read(names[-1])
        if text is None:  # replaced by a newer one just now
            continue
        try:
            found: Any = json.loads(text)
        except ValueError:
            found = None
        files = _entries(found)
        if files is None:
            problem = f"its {names[-1]} is damaged; put it back from a copy"
            raise InputError(bucket.field, bucket.address, problem)
        return _Index(found["number"], found[SEAL], files)
    return _NOTHING


def _entries(found: Any) -> dict[str, Entry] | None:
    """Returns the files of an index, or None if it is damaged or leads out of the folder."""
    if not is_intact(found) or found.get("format") != FORMAT:
        return None
    try:
        files = {
            str(name): Entry(str(sha), int(size)) for name, (sha, size) in found["files"].items()
        }
    except (AttributeError, KeyError, TypeError, ValueError):
        return None
    safe = all(_is_inside(name) and _SHA256.fullmatch(e.sha256) for name, e in files.items())
    return files if safe and type(found.get("number")) is int else None


def _is_inside(name: str) -> bool:
    parts = name.split("/")
    return "\0" not in name and not any(part in ("", ".", "..") for part in parts)


# ------------------------------------------------------------------------ what callers use

_OPEN: dict[pathlib.Path, Mirror] = {}


def of(folder: pathlib.Path) -> Mirror | None:
    """Returns the mirror whose copy is at a path and which this process holds, or None.

    Args:
      folder: Path of the copy.
    """
    return _OPEN.get(folder)


@contextlib.contextmanager
def held(address: str, folder: pathlib.Path) -> Iterator[Mirror]:
    """Keeps other processes and machines out of a run folder in a bucket, and makes its copy.

    At the end of the block the copy is uploaded, unless an error ended it, and the lease is ended.

    Args:
      address: Address of the run folder.
      folder: Path of the copy.

    Raises:
      InputError: Another process is at work in the folder, or the bucket cannot be used.
    """
    lock, mirror = atomic.hidden(folder, "lock"), Mirror(address, folder)
    with atomic.locked(folder.parent, name=lock, value=address):
        mirror.take()
        try:
            mirror.pull()
            mirror.tidy()
            _OPEN[folder] = mirror
            yield mirror
            mirror.commit()
        finally:
            _OPEN.pop(folder, None)
            mirror.release()


@contextlib.contextmanager
def writable(workdir: str | pathlib.Path) -> Iterator[pathlib.Path]:
    """Yields a run folder, or the copy of one in a bucket, which is uploaded after the block.

    Args:
      workdir: Path or address of the run folder.

    Raises:
      InputError: The value is no path, another process is at work in the folder, or the bucket
        cannot be used.
    """
    if not isinstance(workdir, str) or not buckets.is_address(workdir):
        yield paths.located("workdir", workdir)
        return
    folder = copy_of(workdir)
    with contextlib.ExitStack() as ends:
        if of(folder) is None:
            ends.enter_context(held(workdir, folder))
        yield folder


def fetched(address: str, folder: pathlib.Path, *, field: str = "workdir") -> bool:
    """Makes the copy of a run folder for reading, and returns whether the bucket holds one.

    If this process or another one of this machine is at work in the copy, it is not changed.

    Args:
      address: Address of the run folder.
      folder: Path of the copy.
      field: Name of the setting that gives the address, for error messages.

    Raises:
      InputError: The bucket cannot be used.
    """
    if folder in _OPEN:
        return True
    mirror, lock = Mirror(address, folder, field=field), atomic.hidden(folder, "lock")
    with contextlib.ExitStack() as locked:
        try:
            locked.enter_context(atomic.locked(folder.parent, name=lock, value=address))
        except InputError:  # the copy is what the process at work in it trains
            return folder.is_dir()
        return mirror.pull()


def located(field: str, value: Any) -> pathlib.Path:
    """Returns the path of a file or folder that is read. A run folder in a bucket is copied first.

    Args:
      field: Name of the setting that gives the path or address, for error messages.
      value: Value of the setting, a path or an address such as `gs://bucket/run`.

    Raises:
      InputError: The value is neither, the bucket cannot be used, or it holds no run there.
    """
    if not buckets.is_address(value):
        return paths.located(field, value)
    folder = copy_of(value, field=field)
    if not fetched(value, folder, field=field):
        raise InputError(field, value, "holds no run; train one there first")
    return folder
