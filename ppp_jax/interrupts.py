"""Ctrl-C and SIGTERM as a request to stop at the next good place.

Python raises KeyboardInterrupt wherever it happens to be, and where that is a callback of a
library, the exception is swallowed. A request is never lost, and training stops where it can be
continued.
"""

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)
NOTICE = b"\nstopping at the end of this chunk of steps; once more stops at once\n"


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
