"""Which activations of a grid are the same function, or nearly, on the latents of its networks."""

import itertools
from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
import xarray as xr

from ppp_jax.errors import InputError
from ppp_jax.networks import interpolated

SAMPLES = 256  # of each cell, at which outputs are compared
NEARLY = 0.02  # Outputs that lie no farther apart, relative to their size, are nearly the same.

Function = Callable[..., object]


class Alike(NamedTuple):
    """Two activations whose outputs lie near each other.

    Attributes:
      first: The name of one.
      second: The name of the other.
      apart: How far their outputs lie apart: the root mean square of the difference, divided by
        that of the outputs, on the latents of the one's networks or of the other's, whichever is
        more.
    """

    first: str
    second: str
    apart: float


def alike(dataset: xr.Dataset) -> list[Alike]:
    """Finds pairs of activations whose outputs are nearly the same, whatever they are called.

    Each function is applied to what the other's networks had before the activation when training
    ended, and held against what these had after it. Functions that take a parameter, and those that
    this process does not know, are not compared.

    Args:
      dataset: A group of a run folder, with the latents `pre` and `post`.
    """
    last = dataset[["pre", "post"]].isel(step=-1, sample=slice(SAMPLES))
    # Of one seed: the first of whose networks none has diverged, if there is one.
    apart = [dim for dim in last["pre"].dims if dim != "seed"]
    whole = np.isfinite(last["pre"].sum(apart, skipna=False).values)
    last = last.isel(seed=int(np.argmax(whole)))
    known = dict(_functions([str(name) for name in dataset["activation"].values]))
    latents = {
        name: (_rows(last["pre"].sel(activation=name)), _rows(last["post"].sel(activation=name)))
        for name in known
    }
    found = []
    for one, other in itertools.combinations(known, 2):
        ways = (_apart(*latents[one], known[other]), _apart(*latents[other], known[one]))
        if max(ways) <= NEARLY:
            found.append(Alike(one, other, max(ways)))
    return found


def _functions(names: list[str]) -> Iterator[tuple[str, Function]]:
    for name in names:
        try:
            entry = interpolated.declared(name)
        except InputError:  # It was registered in another process.
            continue
        if entry.parameter is None:
            yield name, entry.apply


def _rows(latents: xr.DataArray) -> np.ndarray:
    return latents.transpose(..., "sample", "unit").values.reshape(-1, latents.sizes["unit"])


def _apart(before: np.ndarray, after: np.ndarray, function: Function) -> float:
    """Returns how far a function's outputs lie from those of another, infinity if there are none.

    Args:
      before: The inputs, `(samples, units)`.
      after: The outputs of the other function.
      function: The function.
    """
    finite = np.isfinite(before).all(axis=1) & np.isfinite(after).all(axis=1)
    size = np.sqrt(np.mean(np.square(after[finite], dtype=np.float64))) if finite.any() else 0.0
    if not size:
        return float("inf")
    outputs = function(jnp.asarray(before[finite]))  # as in training, where it may index with .at
    apart = np.asarray(outputs, np.float64) - after[finite]
    return float(np.sqrt(np.mean(np.square(apart))) / size)
