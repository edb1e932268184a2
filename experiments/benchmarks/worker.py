"""One side of sweep_throughput.py in a process of its own, so that no other has its threads.

    python -m experiments.benchmarks.worker MODULE SIDE FEATURES WIDTH LATENT SEEDS

reads numbers of steps from stdin, and writes to stdout the seconds that they took.
"""

import importlib
import sys
import time

from experiments.benchmarks.task import Size, Train


def main(module: str, side: str, *numbers: str) -> None:
    """Builds the side, then trains on request."""
    *layers, seeds = map(int, numbers)
    sides = importlib.import_module(f"experiments.benchmarks.{module}").SIDES
    train: Train = sides[side](Size(*layers), seeds)
    for line in sys.stdin:
        start = time.perf_counter()
        train(int(line))
        print(time.perf_counter() - start, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
