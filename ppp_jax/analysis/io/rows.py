"""What counts as a sample: one rule for all statistics (docs/method.md §6).

A row that is not finite is refused, or left out where that is asked for. A row of zeros has no
direction: it is counted, and left out of everything. Rows far longer than the others, such as the
first token of every text, are counted and told of, and left out where that is asked for.
"""

import sys
import warnings
from collections.abc import Sequence
from typing import NamedTuple, NoReturn

import numpy as np

from ppp_jax.analysis.io.sources import Latents, as_clouds
from ppp_jax.errors import InputError, choice, real

SINK = 100.0  # medians of the rows' lengths, beyond which one row decides for all
RAISE, DROP = "raise", "drop"
PACKAGE = __name__.partition(".")[0]


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
        refuse_nonfinite(lost, cloud.shape)
    cloud = np.where(finite[:, None], cloud, 0).astype(cloud.dtype) if lost else cloud
    length = np.where(finite, lengths_of(cloud), np.nan)
    rows = count_rows(length)
    if drop_outliers is not None:
        out = length > drop_outliers * _median(length)
        cloud = np.where(out[:, None], 0, cloud).astype(cloud.dtype)
        rows = rows._replace(samples=rows.samples - int(out.sum()))
    return cloud, rows


def refuse_nonfinite(lost: int, shape: tuple[int, ...]) -> NoReturn:
    """Refuses latents with rows that are not finite.

    Args:
      lost: How many rows are not.
      shape: Of the latents.

    Raises:
      InputError: Always.
    """
    rows = "1 row that is" if lost == 1 else f"{lost:,} rows that are"
    problem = f"has {rows} not finite; nonfinite='drop' leaves such rows out"
    raise InputError("latents", f"array {shape}", problem)


def count_rows(length: np.ndarray) -> Rows:
    """Counts the rows of a cloud by their lengths, NaN for those that are not finite.

    Args:
      length: Of each row, `(samples,)`.
    """
    lost = np.isnan(length)
    long = length > SINK * _median(length)
    counts = (length > 0, lost, length == 0, long)
    return Rows(*(int(np.count_nonzero(one)) for one in counts))


def _median(length: np.ndarray) -> float:
    there = length > 0
    return float(np.median(length[there])) if there.any() else 0.0


def sampled(
    latents: Latents, *, nonfinite: str = RAISE, drop_outliers: float | None = None
) -> tuple[np.ndarray, dict[str, int]]:
    """Reads clouds with zeros in the place of rows that do not count, and warns of long rows.

    Args:
      latents: `(..., samples, units)`, of any kind.
      nonfinite: As `kept_rows` takes it.
      drop_outliers: As `kept_rows` takes it.

    Returns:
      The clouds, float32 or float64, and what `told` says of their rows.

    Raises:
      InputError: An argument is out of its range, or rows are not finite; the error names it.
    """
    check_rows(nonfinite, drop_outliers)
    values = as_clouds(latents)
    kept = [
        kept_rows(cloud, nonfinite=nonfinite, drop_outliers=drop_outliers)
        for cloud in values.reshape(-1, *values.shape[-2:])
    ]
    counts = [rows for _, rows in kept]
    if drop_outliers is None:
        warn_of_long_rows(sum(rows.long for rows in counts))
    found = np.stack([cloud for cloud, _ in kept]) if kept else values
    return found.reshape(values.shape), told(counts)


def told(counts: Sequence[Rows]) -> dict[str, int]:
    """Returns what attributes and tables say of the rows of clouds, summed over these.

    Args:
      counts: The counts of each cloud.

    Returns:
      `rows` that count, `rows_nonfinite`, `rows_zero` and `rows_long`.
    """
    return {
        "rows": sum(rows.samples for rows in counts),
        "rows_nonfinite": sum(rows.nonfinite for rows in counts),
        "rows_zero": sum(rows.zero for rows in counts),
        "rows_long": sum(rows.long for rows in counts),
    }


def lengths_of(cloud: np.ndarray) -> np.ndarray:
    """Returns the length of each row, of numbers whose squares may not be representable.

    Args:
      cloud: `(samples, units)`.
    """
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
            stacklevel=depth_of_user(),
        )


def depth_of_user() -> int:
    """Returns how many calls above the caller the code that uses this package stands."""
    frame, depth = sys._getframe(1), 1
    while frame.f_back and str(frame.f_globals.get("__name__")).partition(".")[0] == PACKAGE:
        frame, depth = frame.f_back, depth + 1
    return depth
