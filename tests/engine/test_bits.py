"""The same bits, whatever the company: a run depends on its seed and the width of its batch.

That it does not depend on the other cells, tests/grid/test_extension.py shows.
"""

import json
import os
import subprocess
import sys

import pytest

from ppp_jax.networks.activations import ACTIVATIONS
from ppp_jax.networks.architectures import ARCHITECTURES
from ppp_jax.networks.optimizers import OPTIMIZERS

STEPS = [15]
ALONE = [1, 1, STEPS]


def digests(axes, ways, *, width):
    """Returns what tests/bits.py prints, in a process that has 8 devices."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.bits", json.dumps(axes), json.dumps(ways), str(width)],
        capture_output=True,
        text=True,
        env=os.environ,
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.slow
@pytest.mark.parametrize("width", [1, 4])  # single networks take a path of their own
def test_one_seed_is_the_same_in_any_company(width):
    """Alone, among others, on 1, 2 and 8 devices, with steps cut into any chunks."""
    axes = {"activations": ["tanh", "isotropic_tanh"], "optimizers": ["adam"]}
    ways = [ALONE, [9, 1, STEPS], [40, 8, [1, 4, 10]], [7, 2, [7, 8]]]
    alone, *others = digests(axes, ways, width=width)
    assert len(set(alone.values())) == 2  # the two cells differ
    for way, other in zip(ways[1:], others, strict=True):
        assert other == alone, way


@pytest.mark.slow
@pytest.mark.parametrize("width", [1, 4])
@pytest.mark.parametrize(
    "axes",
    [
        {"activations": sorted(ACTIVATIONS), "optimizers": ["sgd"]},
        {"activations": ["isotropic_softplus"], "optimizers": sorted(OPTIMIZERS)},
        {"activations": ["tanh"], "optimizers": ["sgd"], "architectures": sorted(ARCHITECTURES)},
    ],
    ids=["activations", "optimizers", "architectures"],
)
def test_over_the_registry_one_device_or_several_are_alike(axes, width):
    alone, several = digests(axes, [ALONE, [6, 2, STEPS]], width=width)
    assert several == alone
