"""Density peaks by DADApy, an independent implementation, beside those of this package."""

import json
import pathlib
import subprocess
import sys
import tempfile
from typing import Any

import numpy as np
from absl import flags

from ppp_jax.analysis import synthetic
from ppp_jax.analysis.statistics.quantisation import density_peaks
from ppp_jax.analysis.texts import as_markdown
from ppp_jax.cli import flags as experiment_flags
from ppp_jax.errors import InputError

ABOUT = """\
Do the peaks of the density agree with those of DADApy (Glielmo et al. 2022)?

  python -m venv /tmp/dadapy && /tmp/dadapy/bin/pip install dadapy
  python -m experiments.benchmarks.dadapy_peaks --python=/tmp/dadapy/bin/python

Cost: half a minute. DADApy wants other versions of JAX and NumPy than this package, so it runs in
an environment of its own. Its peaks are those of the advanced density peaks algorithm (d'Errico et
al. 2021) with its own density estimate (PAk) and dimension (TwoNN), at three levels of
significance Z. Exact duplicates, which it does not take, are left out beforehand.
"""

SIGNIFICANCE = (1.65, 2.0, 3.0)  # Z: DADApy's default, and two that are stricter
NEIGHBOURS = 100  # whose distances DADApy keeps
THEIRS = """
import json, sys
import numpy as np
from dadapy import Data
found = {}
for name, cloud in np.load(sys.argv[1]).items():
    data = Data(cloud, verbose=False)
    data.compute_distances(maxk=min(len(cloud) - 1, int(sys.argv[2])))
    data.compute_id_2NN()
    data.compute_density_PAk()
    found[name] = []
    for z in map(float, sys.argv[3:]):
        data.compute_clustering_ADP(Z=z, halo=False)
        found[name].append(int(data.N_clusters))
print(json.dumps(found))
"""


def define() -> None:
    """Defines the flags."""
    flags.DEFINE_string("python", sys.executable, "Python of an environment with DADApy")
    flags.DEFINE_integer("samples", 600, "samples of each cloud", lower_bound=40)


def command() -> None:
    """Compares the peaks as the flags say."""
    kinds = synthetic.density_clouds(samples=flags.FLAGS.samples)
    clouds = {
        name: np.unique(cloud, axis=0)
        for members in kinds.values()
        for name, cloud in members.items()
    }
    theirs = dadapy_peaks(flags.FLAGS.python, clouds)
    body = []
    for name, cloud in clouds.items():
        ours = density_peaks(cloud)
        body.append(
            [name, f"{float(ours.depth):.1f}", f"{ours.number:.0f}", *map(str, theirs[name])]
        )
    print(as_markdown(["cloud", "valley", "ours", *(f"Z {z:g}" for z in SIGNIFICANCE)], body))


def dadapy_peaks(python: str, clouds: dict[str, np.ndarray]) -> dict[str, list[int]]:
    """Returns the number of DADApy's peaks at each level of significance.

    Args:
      python: The Python of an environment with DADApy.
      clouds: By name, `(samples, units)`, without duplicates.

    Raises:
      InputError: There is no such Python, or DADApy is not there.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "clouds.npz"
        arrays: Any = clouds  # of names that are no options of NumPy's
        np.savez(path, **arrays)
        options = [str(path), str(NEIGHBOURS), *map(str, SIGNIFICANCE)]
        try:
            done = subprocess.run(
                [python, "-c", THEIRS, *options], capture_output=True, text=True, check=True
            )
        except (OSError, subprocess.CalledProcessError) as error:
            last = (getattr(error, "stderr", "") or str(error)).strip().splitlines()[-1:]
            problem = (
                f"cannot run DADApy ({''.join(last)}); pip install dadapy into its environment"
            )
            raise InputError("python", python, problem) from error
    found: dict[str, list[int]] = json.loads(done.stdout.splitlines()[-1])
    return found


def main(*, argv: list[str] | None = None) -> None:
    """Runs the command."""
    experiment_flags.run(command, define=define, about=ABOUT, argv=argv)


if __name__ == "__main__":
    main()
