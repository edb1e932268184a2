"""Ctrl-C and SIGTERM as requests to stop training where it can be continued.

Python raises KeyboardInterrupt at an arbitrary point. If that is in a callback of a library, the
exception is lost. A request in the sense of this module is never lost, and training stops at a
point from which it can be continued.
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

WAIT_SECONDS = 10.0  # for which a process that was asked to stop at least waits for another one
MOST_PATIENCE = 60.0  # most seconds by which an earlier, slower wait prolongs this
GIVEN_UP = (
    b"\nerror: --distributed: this process was asked to stop while it waited for the others, which "
    b"do not answer; saved results are kept, and the same command continues\n"
)
INTERRUPTED = 130  # exit status


class Stopped(KeyboardInterrupt):
    """Training was asked to stop, and all processes stopped where it can be continued."""

    def _render_traceback_(self) -> list[str]:
        """Returns what a notebook shows in place of a traceback."""
        return ["interrupted; saved results are kept, and the same call continues from there"]


@contextlib.contextmanager
def stop_requests() -> Iterator[Callable[[], bool]]:
    """Catches the first SIGINT or SIGTERM within the block. A second one has its usual effect.

    Outside the main thread Python allows no signal handlers, and no signal is caught.

    Yields:
      A function that returns whether a stop was requested.
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
    """State of this process's waits for other processes.

    Attributes:
      since: When the present wait began, by the monotonic clock; None if there is none.
      longest: Duration of the longest wait so far, in seconds.
    """

    since: float | None = None
    longest = 0.0


@contextlib.contextmanager
def waiting() -> Iterator[None]:
    """Marks a block in which this process may wait for others and cannot handle signals."""
    if _Waits.since is not None:  # this block is within another one
        yield
        return
    _Waits.since = time.monotonic()
    try:
        yield
    finally:
        _Waits.longest = max(_Waits.longest, time.monotonic() - _Waits.since)
        _Waits.since = None


def end_waits() -> None:
    """Makes SIGINT and SIGTERM end this process even while it waits for another process.

    Python runs signal handlers only between two of its own instructions, so not while a library
    waits. Python does write the signal's number to a socket at once. A thread reads it, and ends
    the process at a second signal or once the process has waited too long. In all other cases
    SIGTERM has the effect of Ctrl-C. Programs call this function in the main thread before anything
    waits.
    """
    reader, writer = socket.socketpair()
    writer.setblocking(False)
    signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    threading.Thread(target=_end_waits, args=(reader, writer), daemon=True).start()


def _patience() -> float:
    """Returns for how many seconds a process that was asked to stop waits for another one."""
    # The longest wait so far probably was for a computation, and this one can take as long.
    return WAIT_SECONDS + min(2 * _Waits.longest, MOST_PATIENCE)


def _end_waits(reader: socket.socket, _writer: socket.socket) -> None:
    requests = 0
    asked = 0.0
    while True:
        reader.settimeout(0.1 if requests else None)
        with contextlib.suppress(TimeoutError):
            new = sum(number in SIGNALS for number in reader.recv(64))
            asked = asked or (time.monotonic() if new else 0.0)
            requests += new
        since = _Waits.since
        if since is None or not requests:
            continue
        if requests > 1 or time.monotonic() - max(since, asked) > _patience():
            os.write(2, GIVEN_UP)
            os._exit(INTERRUPTED)
