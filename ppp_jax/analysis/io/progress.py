"""Progress bars of long loops, and what is said between them."""

import sys
from collections.abc import Iterable
from typing import TypeVar

T = TypeVar("T")


def progress_bar(items: Iterable[T], name: str) -> Iterable[T]:
    """Returns the items with a progress bar on stderr, or as they are if tqdm is not installed.

    Args:
      items: Items of a loop, whose number need not be known.
      name: Text in front of the bar.
    """
    try:
        from tqdm.auto import tqdm
    except ImportError:
        return items
    bar: Iterable[T] = tqdm(items, desc=name, leave=False)
    return bar


def say(text: str) -> None:
    """Writes a line to stderr, where no progress bar is shown.

    Args:
      text: The line.
    """
    sys.stderr.write(f"{text}\n")
