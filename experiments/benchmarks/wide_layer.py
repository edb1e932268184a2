"""PPP, SRM and density of a wide layer on disk, in a process of its own, whose memory is measured.

python -m experiments.benchmarks.wide_layer FILE.npy
"""

import json
import resource
import sys
import time

import numpy as np

import ppp_jax.analysis as pa


def main() -> None:
    """Prints one line: seconds of each part, and the peak of resident memory in GiB."""
    latents = np.load(sys.argv[1], mmap_mode="r")
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
    main()
