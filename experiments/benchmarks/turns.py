"""Flags that benchmarks of training share: which networks, and how long their sides take turns."""

from absl import flags

from experiments.benchmarks.task import Size
from ppp_jax.errors import InputError, lookup, whole

SIZES = {"tiny": Size(64, 32, 16), "wide": Size(784, 256, 16), "least": Size(8, 4, 3)}
LONGEST_TURN = 3600


def define(seconds: float, text: str) -> None:
    """Defines the flags `sizes`, `rounds` and `seconds`.

    Args:
      seconds: The default length of a turn.
      text: The help of `seconds`.
    """
    flags.DEFINE_list("sizes", ["tiny", "wide"], f"networks: of {', '.join(SIZES)}")
    flags.DEFINE_integer("rounds", 5, "turns of every side, of which the median is taken")
    flags.DEFINE_float("seconds", seconds, text)


def chosen_sizes() -> list[str]:
    """Returns the networks that the flags name, each once.

    Raises:
      InputError: One of the three flags is out of its range.
    """
    values = flags.FLAGS
    whole("rounds", values.rounds, least=1)
    if not 0 <= values.seconds <= LONGEST_TURN:
        raise InputError("seconds", values.seconds, f"must be from 0 to {LONGEST_TURN}")
    return named_sizes()


def named_sizes() -> list[str]:
    """Returns the networks that the flag `sizes` names, each once.

    Raises:
      InputError: It names none, or one that is unknown.
    """
    sizes = flags.FLAGS.sizes
    if not sizes:
        raise InputError("sizes", "", f"is empty; name some of {', '.join(SIZES)}")
    for name in sizes:
        lookup(SIZES, name, field="sizes")
    return list(dict.fromkeys(sizes))
