"""Processes that draw, beside the one that measures.

Python draws texts and curves on one core at a time, and a report has hundreds of pictures.
"""

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any

import loky
import matplotlib as mpl

from ppp_jax.analysis.results.provenance import settings

MANY = 200  # pictures, from which on they take longer than other processes take to start
IDLE_SECONDS = 30  # after which a process that has nothing to draw ends
# They compute little, and leave accelerators and further cores to the process that measures.
ENVIRONMENT = {"JAX_PLATFORMS": "cpu", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}

Call = Callable[..., Callable[[], Any]]


@contextlib.contextmanager
def drawers(pictures: int, calls: int) -> Iterator[Call]:
    """Yields a function that calls others in processes of their own, at most one on each core.

    It takes a function and its arguments, which are sent there, and returns a function that waits
    for the result. Few pictures are drawn in this process, when the result is asked for. If the
    block ends by an error, such as an interrupt, what is being drawn is given up.

    Args:
      pictures: About how many pictures there are to draw.
      calls: How many functions will be called.
    """
    processes = min(loky.cpu_count(), calls)
    if pictures < MANY or processes < 2:
        yield lambda function, *given: functools.partial(function, *given)
        return
    # Not of the standard library: its new processes run the script that asks for a report again.
    executor = loky.ProcessPoolExecutor(processes, timeout=IDLE_SECONDS, env=ENVIRONMENT)
    look = settings()
    try:
        yield lambda function, *given: executor.submit(_call, look, function, *given).result
    except BaseException:
        executor.shutdown(kill_workers=True)
        raise
    executor.shutdown()


def _call(look: Any, function: Callable[..., Any], *given: Any) -> Any:
    """Calls a function under the settings of Matplotlib of the process that asked for it."""
    with mpl.rc_context(look):
        return function(*given)
