"""Runs one side of sweep_throughput.py in its own process, so that no other uses its threads.

    python -m experiments.benchmarks.worker MODULE SIDE FEATURES WIDTH LATENT SEEDS

reads numbers of steps from stdin, and writes to stdout the seconds that they took.
"""

import importlib
import sys
import time
from collections.abc import Callable

from experiments.benchmarks.task import Size, Train

USAGE = "MODULE (jax_sides or torch_sides) SIDE FEATURES WIDTH LATENT SEEDS, four whole numbers"


def main(arguments: list[str]) -> None:
    """Builds the side, and then trains on request."""
    train = _side(*arguments[:2], numbers=arguments[2:])
    for line in sys.stdin:
        start = time.perf_counter()
        train(int(line))
        print(time.perf_counter() - start, flush=True)


def _side(module: str = "", side: str = "", *, numbers: list[str]) -> Train:
    """Returns the side's training function, or ends the process with one line if it is unknown."""
    if module not in ("jax_sides", "torch_sides") or len(numbers) != 4:
        sys.exit(f"error: say which side: {USAGE}")
    if not all(number.isdecimal() and number.isascii() and int(number) for number in numbers):
        sys.exit(f"error: {' '.join(numbers)}: must be four whole numbers, each at least 1")
    try:
        sides: dict[str, Callable[..., Train]] = importlib.import_module(
            f"experiments.benchmarks.{module}"
        ).SIDES
    except ModuleNotFoundError as error:
        sys.exit(f"error: {module} needs {error.name}: pip install -e '.[bench]'")
    if side not in sides:
        sys.exit(f"error: SIDE={side}: unknown (known: {', '.join(sides)})")
    *layers, seeds = map(int, numbers)
    return sides[side](Size(*layers), seeds)


if __name__ == "__main__":
    main(sys.argv[1:])
