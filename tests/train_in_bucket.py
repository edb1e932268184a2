"""Trains as tests/train.py does, with leases that are soon stale, and dies on request.

    python -m tests.train_in_bucket --workdir=gs://… [flags of experiments.ablation]

`DIE_AT=upload:3` kills the process in its third upload, when half of it is done. `create` (of an
index) and `remove` are killed before they begin.
"""

import functools
import os
import signal

from ppp_jax.cli import flags as experiment_flags
from ppp_jax.files import buckets, leases
from ppp_jax.grid import Grid
from tests import train

HEARTBEAT_SECONDS, STALE_SECONDS = 0.3, 2.0


def soon_stale():
    """Shortens the lives of leases, and the patience with a bucket."""
    leases.HEARTBEAT_SECONDS, leases.STALE_SECONDS = HEARTBEAT_SECONDS, STALE_SECONDS
    buckets.PATIENCE = 3.0


def die_at(operation, number):
    """Lets the process die in one of its operations."""
    original, count = getattr(buckets.Bucket, operation), 0

    def dying(bucket, what, *rest):
        nonlocal count
        if operation == "create" and not what.startswith("index"):
            return original(bucket, what, *rest)
        count += 1
        if count < number:
            return original(bucket, what, *rest)
        if operation == "upload":
            original(bucket, dict(list(what.items())[: len(what) // 2]))
        os.kill(os.getpid(), signal.SIGKILL)

    setattr(buckets.Bucket, operation, dying)


def main():
    soon_stale()
    if at := os.environ.get("DIE_AT"):
        operation, number = at.split(":")
        die_at(operation, int(number))
    train.main()


if __name__ == "__main__":
    experiment_flags.run(
        main, define=functools.partial(experiment_flags.define, Grid(), workdir="runs/test")
    )
