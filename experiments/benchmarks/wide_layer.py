"""Measures time and memory of PPP, SRM and density for a wide layer on disk.

python -m experiments.benchmarks.wide_layer --latents=FILE.npy
"""

import json
import resource
import time

import numpy as np
from absl import flags

import ppp_jax.analysis as pa
from ppp_jax.cli import flags as experiment_flags
from ppp_jax.errors import InputError


def define() -> None:
    """Defines the flags."""
    flags.DEFINE_string("latents", "", "an .npy of (samples, units)")


def main() -> None:
    """Prints the seconds of each part, and the peak of resident memory in GiB, in one line."""
    path = flags.FLAGS.latents
    try:
        latents = np.load(path, mmap_mode="r")
    except (OSError, ValueError) as error:
        raise InputError("latents", path, f"cannot be read as an .npy file ({error})") from None
    seconds: dict[str, float] = {}
    points = 0
    for name in ("project", "ppp", "srm"):
        start = time.perf_counter()
        if name == "project":
            points = pa.project(latents).sizes["point"]
        elif name == "ppp":
            pa.ppp(latents, bins=300)
        else:
            pa.srm(latents)
        seconds[name] = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(json.dumps({"seconds": seconds, "points": points, "peak": peak}))


if __name__ == "__main__":
    experiment_flags.run(main, define=define, about=__doc__)
