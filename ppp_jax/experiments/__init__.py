"""Experiments: one command per question, as `ppp-jax NAME` or `python -m experiments.NAME`."""

import os
import sys


def _open_closed_streams() -> None:
    """Gives a process that was started without stdin, stdout or stderr (`2>&-`) an empty one.

    Otherwise the next file that is opened takes the stream's number, and what libraries write to
    "stderr" goes into a run folder. Here, because this is imported before anything opens a file.
    """
    for number, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        if getattr(sys, name) is None:
            try:
                os.fstat(number)
            except OSError:  # closed: the lowest number that is free, which is this one
                os.open(os.devnull, os.O_RDWR)
            setattr(sys, name, open(number, mode, encoding="utf-8", closefd=False))  # noqa: SIM115


_open_closed_streams()
