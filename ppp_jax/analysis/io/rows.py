"""What counts as a sample: one rule for all statistics (docs/method.md §6).

A row that is not finite is refused, or left out where that is asked for. A row of zeros has no
direction: it is counted, and left out of everything. Rows far longer than the others, such as the
first token of every text, are counted and told of, and left out where that is asked for.
"""

import warnings
from typing import NamedTuple

import numpy as np

from ppp_jax.errors import InputError, choice, real

SINK = 100.0  # medians of the rows' lengths, beyond which one row decides for all
RAISE, DROP = "raise", "drop"


class LongRowWarning(UserWarning):
    """Some rows are so much longer than the others that they decide every statistic."""


class Rows(NamedTuple):
    """How many rows of a cloud are what.

    Attributes:
      samples: The rows that count.
      nonfinite: The rows that are not finite, which were left out.
      zero: The rows of zeros, which are left out.
      long: The rows longer than 100 times the median; left out only where that is asked for.
    """

    samples: int
    nonfinite: int
    zero: int
    long: int


def check_rows(nonfinite: str, drop_outliers: float | None) -> None:
    """Refuses settings of `kept_rows` that mean nothing.

    Args:
      nonfinite: As the user gave it.
      drop_outliers: As the user gave it.

    Raises:
      InputError: Either is out of its range.
    """
    choice("nonfinite", nonfinite, (RAISE, DROP))
    if drop_outliers is not None:
        real("drop_outliers", drop_outliers, least=1)


def kept_rows(
    cloud: np.ndarray, *, nonfinite: str = RAISE, drop_outliers: float | None = None
) -> tuple[np.ndarray, Rows]:
    """Puts zeros in the place of rows that do not count, so that the shape stays.

    Args:
      cloud: The samples, `(samples, units)`. One without any finite row is missing, such as that of
        a network that diverged: it is returned as it is.
      nonfinite: `raise` refuses rows that are not finite, `drop` leaves them out.
      drop_outliers: Rows longer than so many times the median are left out; None keeps them.

    Returns:
      The samples, and the counts of rows.

    Raises:
      InputError: Some rows are not finite, and `nonfinite` is `raise`.
    """
    finite = np.isfinite(cloud).all(axis=1)
    if not finite.any():
        return cloud, Rows(0, len(cloud), 0, 0)
    lost = int(np.count_nonzero(~finite))
    if lost and nonfinite == RAISE:
        rows = "1 row that is" if lost == 1 else f"{lost:,} rows that are"
        problem = f"has {rows} not finite; nonfinite='drop' leaves such rows out"
        raise InputError("latents", f"array {cloud.shape}", problem)
    cloud = np.where(finite[:, None], cloud, 0).astype(cloud.dtype) if lost else cloud
    length = _lengths(cloud)
    there = length > 0
    median = np.median(length[there]) if there.any() else 0.0
    long = length > SINK * median
    if drop_outliers is not None:
        out = length > drop_outliers * median
        cloud = np.where(out[:, None], 0, cloud).astype(cloud.dtype)
        there &= ~out
    counts = int(there.sum()), lost, int(np.count_nonzero(length == 0)) - lost, int(long.sum())
    return cloud, Rows(*counts)


def _lengths(cloud: np.ndarray) -> np.ndarray:
    """Returns the length of each row, of numbers whose squares may not be representable."""
    largest = np.abs(cloud).max(axis=1).astype(np.float64)
    scaled = cloud / np.where(largest > 0, largest, 1)[:, None]
    length: np.ndarray = largest * np.sqrt(np.vecdot(scaled, scaled))
    return length


def warn_of_long_rows(long: int) -> None:
    """Warns of rows that decide for all.

    Args:
      long: How many rows are longer than 100 times the median of their cloud.
    """
    if long:
        warnings.warn(
            f"{long:,} {'row is' if long == 1 else 'rows are'} more than {SINK:g} times as long as "
            f"the median row, and may decide every statistic; drop_outliers={SINK:g} leaves them "
            "out",
            LongRowWarning,
            stacklevel=3,
        )
