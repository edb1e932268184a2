"""Ctrl-C and SIGTERM as a request to stop at the next good place.

Python raises KeyboardInterrupt wherever it happens to be, and where that is a callback of a
library, the exception is swallowed. A request is never lost, and training stops where it can be
continued.
"""

import contextlib
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)
NOTICE = b"\nstopping at the end of this chunk of steps; once more stops at once\n"

WAIT_SECONDS = 10.0  # for which a process that is to stop waits for another one
MOST_PATIENCE = 60.0  # seconds beyond, however long it has waited before
GIVEN_UP = (
    b"\nerror: --distributed: asked to stop, this process has stopped waiting for the others, "
    b"which do not answer; what is saved is kept\n"
)
INTERRUPTED = 130  # exit status


class Stopped(KeyboardInterrupt):
    """Training has stopped where it can be continued, as was asked: in all processes alike."""


@contextlib.contextmanager
def stop_requests() -> Iterator[Callable[[], bool]]:
    """Catches the first SIGINT or SIGTERM within the block; the second has its usual effect.

    Outside the main thread, where Python allows no signal handlers, nothing is caught.

    Yields:
      A function that says whether to stop has been requested.
    """
    requested = threading.Event()
    usual: dict[signal.Signals, Any] = {}

    def restore() -> None:
        for number, handler in usual.items():
            signal.signal(number, handler)

    def request(_number: int, _frame: FrameType | None) -> None:
        requested.set()
        restore()
        os.write(2, NOTICE)  # print is not safe in a signal handler

    if threading.current_thread() is threading.main_thread():
        for number in SIGNALS:
            usual[number] = signal.signal(number, request) or signal.SIG_DFL
    try:
        yield requested.is_set
    finally:
        restore()


class _Waits:
    """How long this process waits for others now, and has waited at most."""

    since: float | None = None
    longest = 0.0


@contextlib.contextmanager
def waiting() -> Iterator[None]:
    """Marks a block in which this process may wait for others, deaf to Python's signals."""
    if _Waits.since is not None:  # within another one
        yield
        return
    _Waits.since = time.monotonic()
    try:
        yield
    finally:
        _Waits.longest = max(_Waits.longest, time.monotonic() - _Waits.since)
        _Waits.since = None


def end_waits() -> None:
    """Makes SIGINT and SIGTERM end this process even while it waits for another one.

    Python's handlers run between two of its instructions, and a library that waits executes none.
    The signal itself still arrives: a thread of its own hears of it, and once the process has
    waited too long since (or at a second signal), ends it. Otherwise SIGTERM does what Ctrl-C does.
    For mains, in the main thread, before anything waits.
    """
    heard, told = socket.socketpair()
    told.setblocking(False)
    signal.set_wakeup_fd(told.fileno(), warn_on_full_buffer=False)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    threading.Thread(target=_end_waits, args=(heard, told), daemon=True).start()


def _patience() -> float:
    """Returns for how many seconds a process that is to stop waits for another one."""
    # The slowest wait so far was for computation, probably: this one may be as long.
    return WAIT_SECONDS + min(2 * _Waits.longest, MOST_PATIENCE)


def _end_waits(heard: socket.socket, _told: socket.socket) -> None:
    requests = 0
    asked = 0.0
    while True:
        heard.settimeout(0.1 if requests else None)
        with contextlib.suppress(TimeoutError):
            new = sum(number in SIGNALS for number in heard.recv(64))
            asked = asked or (time.monotonic() if new else 0.0)
            requests += new
        since = _Waits.since
        if since is None or not requests:
            continue
        if requests > 1 or time.monotonic() - max(since, asked) > _patience():
            os.write(2, GIVEN_UP)
            os._exit(INTERRUPTED)
