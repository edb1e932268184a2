"""How long does the rotation null take? 1,000 rotations of the default ablation's alignment.

  python -m experiments.ablation && python -m experiments.benchmarks.rotations

The benchmark tests C4 and both kurtoses of every cell, seed and snapshot, before and after the
activation. It takes one to two minutes on two cores; the target is three. It also compares the time
for one cloud with that of a plain NumPy loop that rotates the latents.
"""

import pathlib
import statistics
import time
from collections.abc import Callable

import numpy as np
from absl import flags

import ppp_jax.analysis as pa
from ppp_jax import bases
from ppp_jax.analysis.limits import LEAST_ROTATIONS
from ppp_jax.cli import flags as experiment_flags
from ppp_jax.cli import study
from ppp_jax.errors import whole

ROUNDS, PLAIN_ROTATIONS = 5, 50
NAMES = ("c4", "kurtosis", "unit_kurtosis")


def define() -> None:
    """Defines the flags."""
    flags.DEFINE_string("workdir", "runs/ablation", "run folder of the default ablation")
    flags.DEFINE_integer("rotations", 1000, "K")


def main() -> None:
    """Times the whole run, then one cloud against the plain loop."""
    values = flags.FLAGS
    whole("rotations", values.rotations, least=LEAST_ROTATIONS)
    latents = study.load(pathlib.Path(values.workdir))
    start, clouds = time.perf_counter(), 0
    for site in ("pre", "post"):
        for i in range(latents.sizes["activation"]):
            part = latents[site].isel(activation=i).load()
            pa.rotation_test(part, statistics=NAMES, rotations=values.rotations)
            clouds += part.size // (part.sizes["sample"] * part.sizes["unit"])
    seconds = time.perf_counter() - start
    print(
        f"{clouds:,} clouds of {part.sizes['sample']} × {part.sizes['unit']}, "
        f"{values.rotations:,} rotations each: {seconds:.0f} s"
    )
    cloud = part.values.reshape(-1, *part.shape[-2:])[-1]
    ours = _median(lambda: pa.rotation_test(cloud, statistics=NAMES, rotations=values.rotations))
    plain = _median(lambda: plain_null(cloud, PLAIN_ROTATIONS))
    mine, theirs = 1e6 * ours / values.rotations, 1e6 * plain / PLAIN_ROTATIONS
    print(
        f"one cloud, per rotation: ours {mine:.0f} µs, plain NumPy {theirs:.0f} µs, "
        f"ratio {theirs / mine:.1f}"
    )


def plain_null(cloud: np.ndarray, rotations: int) -> np.ndarray:
    """Returns C4 and both kurtoses of a cloud under random rotations, `(rotations, 3)`."""
    found = []
    for turn in bases.rotations(cloud.shape[1], rotations, np.random.default_rng(0)):
        turned = cloud @ turn.astype(cloud.dtype)
        units = turned.shape[1]
        square = turned**2 / np.sum(turned**2, axis=1, keepdims=True)
        fourth = np.sum(square**2, axis=1).mean()
        deviation = (turned - turned.mean(axis=0)) ** 2
        kurtosis = np.mean(np.mean(deviation**2, axis=0) / np.mean(deviation, axis=0) ** 2) / 3
        c4 = ((units + 2) * fourth - 3) / ((units - 2) * fourth + 1)
        found.append((c4, (units + 2) / 3 * fourth, kurtosis))
    return np.array(found)


def _median(work: Callable[[], object]) -> float:
    work()
    times = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


if __name__ == "__main__":
    experiment_flags.run(main, define=define, about=__doc__)
