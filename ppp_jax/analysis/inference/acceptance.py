"""A/A0 of pooled latents against the rotation null, at several ε together (docs/method.md §7)."""

from typing import Any

import numpy as np
import xarray as xr

from ppp_jax import bases
from ppp_jax.analysis.inference.rotation_test import verdict
from ppp_jax.analysis.io.progress import progress_bar
from ppp_jax.analysis.io.sources import Latents
from ppp_jax.analysis.projection.kernel import (
    Prepared,
    accepted,
    add_accepted,
    prepare,
    threshold,
    with_frame,
)
from ppp_jax.analysis.projection.planes import BasisLike, turned
from ppp_jax.analysis.projection.points import over_null
from ppp_jax.errors import seeded, truth, whole


def acceptance_test(
    latents: Latents,
    *,
    basis: BasisLike = None,
    epsilon: Any = 0.85,
    rotations: int,
    rotation_seed: int = 0,
    progress: bool = False,
    **options: Any,
) -> xr.Dataset:
    """Tests the acceptance ratio that `ppp` returns of the same arguments against rotated bases.

    All clouds are pooled and share each rotation. The first rotated basis is the one that
    `ppp(…, rotated=rotation_seed)` shows.

    Args:
      latents: Latents, `(..., samples, units)`, of any array type.
      basis: Privileged vectors, `(vectors, units)`, or a name; None for the standard basis.
      epsilon: One acceptance cosine ε, or several.
      rotations: Number K of random rotations.
      rotation_seed: Seed of the random rotations.
      progress: Whether to show a progress bar on stderr.
      **options: The arguments `planes`, `max_planes`, `plane_seed`, `centre`, `whiten` and
        `nonfinite` of `ppp`.

    Returns:
      A Dataset over `epsilon` with `value`, A/A0; `mean`, `low` and `high`, the mean of the rotated
      values and their 2.5 and 97.5 % quantiles; and `z` and `p` (`verdict`).

    Raises:
      InputError: An argument is out of its range; the error names it.

    Example:
      >>> cloud = np.random.default_rng(0).laplace(size=(2000, 8))
      >>> float(acceptance_test(cloud, epsilon=0.7, rotations=99)["p"].item())
      0.01
    """
    whole("rotations", rotations, least=1)
    rng = np.random.default_rng([seeded(rotation_seed, field="rotation_seed"), 0])
    truth("progress", progress)
    prepared = prepare(latents, basis, epsilon, **options)
    count = [_accepted(prepared)]
    turns = list(range(rotations))
    for _ in progress_bar(turns, "rotated bases") if progress else turns:
        turn = bases.rotations(prepared.source.units, 1, rng)[0]
        count.append(_accepted(with_frame(prepared, turned(prepared.frame, turn))))
    # The ratio may exceed all numbers in wide layers, and the fraction never does.
    fraction = np.array(count) / max(1, prepared.samples * len(prepared.frame.planes))
    tested = verdict(
        xr.Dataset(
            {
                "value": ("epsilon", fraction[0]),
                "null": (("epsilon", "rotation"), fraction[1:].T),
            },
            coords={"epsilon": prepared.epsilons},
        )
    )
    ratios = {
        name: ("epsilon", over_null(prepared, tested[name].values)[0])
        for name in ("value", "mean", "low", "high")
    }
    return xr.Dataset(ratios).assign(tested[["z", "p"]])


def _accepted(prepared: Prepared) -> np.ndarray:
    """Returns the number of accepted (plane, sample) pairs at every ε, `(epsilons,)`."""
    (count,) = add_accepted(prepared, _count_accepted)
    return count


def _count_accepted(prepared: Prepared) -> tuple[np.ndarray]:
    least = threshold(prepared.epsilons)
    count = np.zeros(len(least), np.int64)
    for block in accepted(prepared):
        count += [np.count_nonzero(block.squared_cosine >= value) for value in least]
    return (count,)
