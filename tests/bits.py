"""Prints the bits of one seed, trained in several ways; run by test_bits.py in its own process.

    python -m tests.bits '{"activations": [...]}' '[[runs, devices, [steps, …]], …]' WIDTH

One line of JSON per way: cell name to the sha256 of the seed's parameters, optimiser state,
latents and errors.
"""

import hashlib
import json
import sys

import jax
import numpy as np

from ppp_jax.data import datasets
from ppp_jax.engine import devices, program
from ppp_jax.grid import Grid

SEED = 5


def digests(axes, width, runs, device_count, chunks):
    """Trains seed 5 among `runs` seeds, `width` at a time on each device, and hashes its end."""
    seeds = [SEED] if runs == 1 else range(runs)
    grid = Grid(**axes, widths=[12], latent_widths=[4], probe_samples=30, seeds=seeds)
    mesh = devices.runs_mesh(over=jax.devices()[:device_count])
    built = program.build(grid, datasets.load("digits"), seed_batch=width, mesh=mesh)
    states, first = built.init(built.hypers), 0
    for steps in chunks:
        states, _ = built.chunk(
            states, built.hypers, built.arrays, np.int32(first), np.int32(steps)
        )
        first += steps
    seen = built.observe(states, built.arrays, np.int32(first))
    place = list(seeds).index(SEED)
    return {
        cell.name: hashlib.sha256(
            b"".join(
                np.asarray(leaf)[place].tobytes()  # slicing on devices would add zeros, -0 to 0
                for leaf in jax.tree.leaves((states[cell.name], seen[cell.name]))
            )
        ).hexdigest()
        for cell in grid.cells
    }


if __name__ == "__main__":
    jax.config.update("jax_num_cpu_devices", 8)
    for way in json.loads(sys.argv[2]):
        found = digests(json.loads(sys.argv[1]), int(sys.argv[3]), *way)
        print(json.dumps(found), flush=True)  # noqa: T201
