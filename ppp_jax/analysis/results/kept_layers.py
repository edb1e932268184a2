"""Finished layers, kept in small files, so that an analysis that was stopped goes on there."""

import hashlib
import json
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from ppp_jax.analysis.io.layer_files import Layer
from ppp_jax.analysis.io.sources import open_source, windows
from ppp_jax.analysis.projection.planes import Basis
from ppp_jax.analysis.results.layer_comparison import COUNTS, NUMBERS, LayerTest
from ppp_jax.analysis.results.provenance import software
from ppp_jax.analysis.statistics.registry import Statistic
from ppp_jax.analysis.statistics.top_units import NUMBERS as TOP_NUMBERS
from ppp_jax.errors import InputError
from ppp_jax.files import atomic, regular
from ppp_jax.files.integrity import is_intact, sealed

LARGEST = 2**24  # most bytes of a file that is read


class KeptLayers:
    """A folder with a file for every layer that was finished.

    The name of a file is a digest of everything that its numbers depend on: the latents themselves,
    the basis, all settings of the test, the source of this package and the versions of libraries.
    So what is found there is what would be measured, whatever happened to the layers' files.
    """

    def __init__(self, target: pathlib.Path):
        """Keeps layers in a hidden folder beside a folder of results (`atomic.aside`).

        It is made when the first layer is kept.
        """
        self.target, self.folder = target, atomic.aside(target) / "layers"
        self._digests: dict[tuple[str, str], str] = {}

    def recall(self, layer: Layer, settings: Mapping[str, Any]) -> LayerTest | None:
        """Returns what was found of a layer by the same settings, or None.

        Args:
          layer: The layer, which is read as a whole.
          settings: What it is tested by: `basis`, `statistics` and others.
        """
        try:
            path = self._path(layer, settings)
            text = regular.read(path, most=LARGEST)
            found = json.loads(text)
        except (InputError, OSError, ValueError, RecursionError):
            return None
        if not is_intact(found) or not {*LayerTest._fields} <= set(found):
            return None
        numbers = {name: np.array(found["numbers"][name], float) for name in NUMBERS}
        counts = {name: int(found["counts"][name]) for name in COUNTS}
        top = {name: np.array(found["top"][name], float) for name in TOP_NUMBERS}
        return LayerTest(
            numbers, counts, str(found["not_judged"]), top, str(found["top_statistic"])
        )

    def keep(self, layer: Layer, settings: Mapping[str, Any], tested: LayerTest) -> None:
        """Keeps what was found of a layer.

        Args:
          layer: The layer.
          settings: What it was tested by.
          tested: What was found.
        """
        if (layer.model, layer.name) not in self._digests:
            return  # it could not be read when it was looked up
        path = self._path(layer, settings)
        atomic.open_aside(self.target)
        self.folder.mkdir(exist_ok=True)
        # As texts, since sealed JSON has no numbers that are not finite.
        numbers, top = (
            {name: [*map(repr, values.tolist())] for name, values in columns.items()}
            for columns in (tested.numbers, tested.top)
        )
        found = tested._asdict() | {"numbers": numbers, "top": top}
        atomic.write_text(path, json.dumps(sealed(found)))

    def _path(self, layer: Layer, settings: Mapping[str, Any]) -> pathlib.Path:
        where = (layer.model, layer.name)
        if where not in self._digests:
            self._digests[where] = _digest(layer)
        told = {name: _told(value) for name, value in settings.items()}
        key = json.dumps([self._digests[where], software(), told], sort_keys=True)
        return self.folder / f"{hashlib.sha256(key.encode()).hexdigest()}.json"


def _told(value: Any) -> Any:
    """Returns a setting as text and numbers that are the same in every process."""
    if isinstance(value, Basis):
        vectors = b"" if value.vectors is None else np.ascontiguousarray(value.vectors).tobytes()
        return [value.name, hashlib.sha256(vectors).hexdigest()]
    if isinstance(value, Statistic):
        return [value.name, value.function.__module__, value.function.__qualname__, value.sees]
    if isinstance(value, tuple | list):
        return [_told(one) for one in value]
    return value if value is None or isinstance(value, bool | int | float | str) else repr(value)


def _digest(layer: Layer) -> str:
    """Returns a digest of the latents of a layer, as they are tested."""
    source = open_source(layer.open())
    found = hashlib.sha256(f"{layer.told} {source.shape} {source.dims} {source.dtype}".encode())
    for cloud in range(source.rows // layer.shape[-2]):
        for values in windows(source, cloud):
            found.update(np.ascontiguousarray(values).data)
    return found.hexdigest()
