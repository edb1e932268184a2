"""Numbers of clouds, kept in a report, so that another report measures only what is new.

A report with another ε asks for the same tests of mean, covariance, shape and dips; one with more
rotations for the same peaks and neighbours. What takes long is looked up by a digest of everything
that it depends on.
"""

import base64
import contextlib
import hashlib
import json
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import xarray as xr

from ppp_jax.errors import InputError
from ppp_jax.files import regular
from ppp_jax.files.integrity import is_intact, sealed

FILE = "numbers.json"
LARGEST = 2**28  # most bytes of a file that is read
KIND = "<f8"  # of the numbers in the file

Once = Callable[[Mapping[str, Any], Callable[[], xr.Dataset]], xr.Dataset]
"""A function that returns what another computes, given what that depends on."""


def always(about: Mapping[str, Any], compute: Callable[[], xr.Dataset]) -> xr.Dataset:
    """Computes it, whatever is kept."""
    del about
    return compute()


class KeptNumbers:
    """Numbers that an earlier report left, and those that this one asked for."""

    def __init__(self, report: pathlib.Path, made_of: str | None):
        """Reads what a report left, if there is one.

        Args:
          report: The folder of the earlier report, which need not exist.
          made_of: A digest of the latents and of what computes; None keeps and recalls nothing.
        """
        self.made_of = made_of
        self.earlier = {} if made_of is None else _read(report / FILE)
        self.asked: dict[str, Any] = {}

    def once(self, about: Mapping[str, Any], compute: Callable[[], xr.Dataset]) -> xr.Dataset:
        """Returns numbers that were kept, or computes and keeps them.

        Args:
          about: What they depend on beside latents and software, of types that JSON represents.
          compute: Returns them: numbers over axes of which only `statistic` has labels that matter.
        """
        if self.made_of is None:
            return compute()
        key = hashlib.sha256(json.dumps([self.made_of, about], sort_keys=True).encode()).hexdigest()
        if key in self.earlier:
            # What has another form is not what was kept, although its seal is whole.
            with contextlib.suppress(AttributeError, KeyError, TypeError, ValueError):
                found = _dataset(self.earlier[key])
                self.asked[key] = self.earlier[key]
                return found
        self.asked[key] = _kept(compute())
        return _dataset(self.asked[key])

    def write(self, report: pathlib.Path) -> None:
        """Writes what was asked for, whether it was kept or computed.

        Args:
          report: The folder of the new report.
        """
        if self.made_of is not None:
            text = json.dumps(sealed({"kept": self.asked}))
            (report / FILE).write_text(text, encoding="utf-8")


def _kept(found: xr.Dataset) -> dict[str, Any]:
    return {
        "statistic": found["statistic"].values.tolist() if "statistic" in found.dims else [],
        "numbers": {str(name): _told(one) for name, one in found.data_vars.items()},
    }


def _told(values: xr.DataArray) -> dict[str, Any]:
    encoded = base64.b64encode(values.values.astype(KIND).tobytes()).decode()
    return {"dims": list(values.dims), "shape": list(values.shape), "values": encoded}


def _dataset(kept: Mapping[str, Any]) -> xr.Dataset:
    labels = {"statistic": kept["statistic"]} if kept["statistic"] else {}
    return xr.Dataset(
        {name: (one["dims"], _values(one)) for name, one in kept["numbers"].items()}, coords=labels
    )


def _values(one: Mapping[str, Any]) -> np.ndarray:
    found = np.frombuffer(base64.b64decode(one["values"]), KIND)
    return found.reshape(one["shape"]).astype(float)


def _read(path: pathlib.Path) -> dict[str, Any]:
    """Returns what a file keeps; nothing if there is none, or if it was changed."""
    try:
        found = json.loads(regular.read(path, most=LARGEST))
    except (InputError, OSError, ValueError, RecursionError):
        return {}
    kept = found.get("kept") if is_intact(found) else None
    return kept if isinstance(kept, dict) else {}
