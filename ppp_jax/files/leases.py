"""The lease of a folder in a bucket, which keeps other machines out as a lock does.

A bucket releases no lock when a process dies. So the owner of a lease writes to it again and again,
and a lease to which nobody has written for a minute is taken over. Leases are numbered. The newest
counts, and each is created only if none of its number exists, so that of several takers one wins.
"""

import datetime
import json
import os
import secrets
import socket
import sys
import threading
import time
from typing import Any, NamedTuple

from ppp_jax.errors import InputError, printable
from ppp_jax.files.buckets import Bucket

FOLDER = "lease"
HEARTBEAT_SECONDS = 10.0  # between two writings of the owner
STALE_SECONDS = 60.0  # without a writing, after which a lease is taken over


class _Held(NamedTuple):
    number: int
    about: dict[str, Any]


class Lease:
    """The lease of this process. A thread renews it until it is released.

    Attributes:
      token: Text by which this lease is recognised.
    """

    def __init__(self, bucket: Bucket, *, number: int, about: dict[str, Any]):
        """Begins to renew a lease that was created. `take` returns one.

        Args:
          bucket: Objects of the folder.
          number: Number of the lease.
          about: Content of the lease.
        """
        self.token, self._number, self._about = str(about["token"]), number, about
        self._bucket = bucket
        self._beats = Bucket(bucket.address, field=bucket.field, patience=0.0)
        self._ended = threading.Event()
        self._failure: InputError | None = None
        self._thread = threading.Thread(target=self._renew, daemon=True)
        self._thread.start()

    def _renew(self) -> None:
        beat = 0
        while not self._ended.wait(HEARTBEAT_SECONDS):
            beat += 1
            try:
                if not self._is_ours(self._beats):
                    return
                self._beats.write(_name(self._number), _text(self._about, beat))
                self._failure = None
            except InputError as error:  # the bucket may answer next time
                self._failure = error

    def _is_ours(self, bucket: Bucket) -> bool:
        newest = _newest(bucket)
        return newest is not None and newest.about.get("token") == self.token

    def check(self) -> None:
        """Checks that no other process has taken the lease over.

        Raises:
          InputError: Another process has it, or the bucket cannot be reached.
        """
        newest = _newest(self._bucket)
        if newest is not None and newest.about.get("token") == self.token:
            return
        other = "nobody" if newest is None else newest.about.get("owner", "an unknown process")
        why = f" ({self._failure.problem})" if self._failure else ""
        raise InputError(
            self._bucket.field,
            self._bucket.address,
            f"was taken over by {other}, because this process could not report for "
            f"{STALE_SECONDS:g} s{why}; it stops, and nothing more is saved there",
        )

    def release(self) -> None:
        """Ends the lease, so that others need not wait until it is stale.

        Raises:
          InputError: The bucket cannot be reached.
        """
        self._ended.set()
        self._thread.join()
        if self._is_ours(self._beats):
            self._beats.remove([_name(self._number)])


def take(bucket: Bucket, *, earlier: str | None = None) -> Lease:
    """Takes the lease of a folder. A lease without a sign of life is waited for, and taken over.

    Args:
      bucket: Objects of the folder.
      earlier: Token of a lease whose owner is known to have ended; None if there is none.

    Raises:
      InputError: Another process has the lease, or the bucket cannot be used.
    """
    newest = _newest(bucket)
    if newest is not None and newest.about.get("token") != earlier:
        _await_end(bucket, newest)
    number = 1 if newest is None else newest.number + 1
    about = _about()
    if not bucket.create(_name(number), _text(about, 0)):
        won = _newest(bucket)
        raise _in_use(bucket, {} if won is None else won.about)
    bucket.remove([name for name in bucket.names(FOLDER) if name < _name(number)])
    return Lease(bucket, number=number, about=about)


def _await_end(bucket: Bucket, held: _Held) -> None:
    """Waits until a lease proves to be alive or dead.

    Raises:
      InputError: Its owner has renewed it.
    """
    start, told, owner = time.monotonic(), False, printable(held.about.get("owner"))
    while True:
        silent = max(time.time() - _number(held.about.get("time")), time.monotonic() - start)
        if silent > STALE_SECONDS:
            break
        if not told:
            text = f"{bucket.address} is held by {owner}; waiting for at most {STALE_SECONDS:g} s"
            sys.stderr.write(f"{text} for a sign of life\n")
            told = True
        time.sleep(HEARTBEAT_SECONDS / 5)
        now = _newest(bucket)
        if now is None:
            return
        if now != held:
            raise _in_use(bucket, now.about)
    text = f"{owner} has not reported for {silent:,.0f} s; its lease is taken over"
    sys.stderr.write(f"{bucket.address}: {text}\n")


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else 0.0


def _in_use(bucket: Bucket, about: dict[str, Any]) -> InputError:
    owner, since = about.get("owner", "another process"), about.get("since", "")
    problem = f"{owner} is at work in this folder{f' since {since}' if since else ''}"
    return InputError(bucket.field, bucket.address, f"{problem}; wait for it, or choose another")


def _name(number: int) -> str:
    return f"{FOLDER}/{number:08d}.json"


def _about() -> dict[str, Any]:
    since = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    owner = f"process {os.getpid()} on {socket.gethostname()}"
    return {"owner": owner, "since": since, "token": secrets.token_hex(16)}


def _text(about: dict[str, Any], beat: int) -> bytes:
    return json.dumps({**about, "time": time.time(), "beat": beat}).encode()


def _newest(bucket: Bucket) -> _Held | None:
    """Returns the newest lease, or None. One that cannot be read belongs to nobody known."""
    for name in reversed(bucket.names(FOLDER)):
        stem = name.removeprefix(f"{FOLDER}/").removesuffix(".json")
        text = bucket.read(name) if stem.isdecimal() else None
        if text is None:  # it was released just now
            continue
        try:
            about: Any = json.loads(text)
        except ValueError:
            about = None
        return _Held(int(stem), about if isinstance(about, dict) else {})
    return None
