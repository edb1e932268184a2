"""Captures what the layers of a flax NNX model give. Flax is used only where a model is given."""

import contextlib
import functools
import os
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from ppp_jax.analysis.io import capture
from ppp_jax.analysis.io.capture import AUTO, Captured, Forward, Masks
from ppp_jax.analysis.io.layer_sources import natural
from ppp_jax.errors import InputError

COPY = "nnx.jit, nnx.scan and their like call a copy of it: call it without these"
NOT_CALLED = f"was not called by the model; {COPY}"


def capture_flax(
    model: Any,
    batches: Iterable[Any],
    *,
    names: str | Sequence[str] | Mapping[str, str] | None = None,
    mask: Masks = AUTO,
    drop_first: bool = False,
    unit_axis: int = -1,
    max_vectors: int | None = None,
    dtype: str = "float32",
    store: str | os.PathLike[str] | None = None,
    progress: bool = False,
) -> Captured:
    """Runs a flax NNX model over batches, and returns the vectors that its layers give.

    The model that runs is a copy in evaluation mode, which shares the parameters; the model itself
    stays as it is. Of each layer all axes but that of the units are flattened. A function of JAX
    that returns a mapping from names to arrays needs no capturing: `compare_layers` takes mappings.

    Args:
      model: The model, an `nnx.Module`, whose layers run eagerly: not within `nnx.jit`, `nnx.scan`
        or another transform.
      batches: An iterable of batches: an array, which the model is called with; a tuple or list,
        whose items it is called with in their order; or a mapping, whose items it is called with by
        their names.
      names: Names of modules, such as `blocks.0.linear`, whose outputs are taken, or of what a
        module sows as an `nnx.Intermediate`, such as `blocks.0.hidden`; or a mapping from labels of
        one's own to such names. `*` stands for anything but a dot, as in `capture_torch`. None
        takes everything that is sown. What is given several times for a batch is as many layers,
        called `name[0]`, `name[1]` and so on.
      mask: Which positions are no padding: `auto` takes the `attention_mask` of batches that have
        one, None keeps every vector, and a function returns a mask for a batch, `(samples,
        positions)`, of truth values or zeros and ones.
      drop_first: Whether the first position of every text that is no padding is left out.
      unit_axis: The axis of the units; flax puts them last, after convolutions too.
      max_vectors: Most vectors of each layer, the first ones; None keeps all.
      dtype: Type of the numbers that are kept: `float16`, `float32` or `float64`.
      store: Path of a zarr group to write; None keeps all vectors in memory. It appears when it is
        complete, and at most 4 MiB of each layer and one batch are in memory.
      progress: Whether to show a progress bar over the batches on stderr.

    Returns:
      A mapping from the layers' names to their vectors, `(vectors, units)`, which `compare_layers`
      takes: arrays in memory, or arrays that are read from the store lazily.

    Raises:
      InputError: The model is none of NNX; nothing has such a name; a module is not called, gives
        no array, or one that the mask does not fit; there is no batch; or the store exists or
        cannot be written.

    Example:
      >>> from flax import nnx
      >>> model = nnx.Sequential(nnx.Linear(3, 8, rngs=nnx.Rngs(0)), nnx.gelu)
      >>> found = capture_flax(model, [np.ones((5, 3))], names={"before": "layers.0"})
      >>> found["before"].shape
      (5, 8)
    """
    nnx = _nnx(model)
    kept = capture.checked(
        drop_first=drop_first, unit_axis=unit_axis, dtype=dtype, max_vectors=max_vectors,
        mask=mask, batches=batches, store=store, progress=progress,
    )  # fmt: skip
    copy = nnx.clone(model)
    copy.eval()
    paths = {id(one): ".".join(map(str, path)) for path, one in nnx.iter_graph(copy)
             if isinstance(one, nnx.Module)}  # fmt: skip
    wanted = _Wanted(names, sorted(paths.values(), key=natural), store)
    forward, record = Forward(kept), _Record(paths, wanted.modules())

    def run(batch: Any) -> dict[str, np.ndarray]:
        forward.begin(capture.mask_of(batch, mask))
        record.given = {}
        capture.call(copy, batch)
        places = wanted.places(record.given)
        for label, name in places.items():
            for value in record.given.get(name, ()):
                forward.take(label, value)
        return forward.end(places, missing=NOT_CALLED)

    with _recording(copy, nnx, record):
        return capture.collect(batches, run, kept=kept, store=store, progress=progress)


def _nnx(model: Any) -> Any:
    """Returns flax's NNX, which whoever has a model has imported."""
    nnx = sys.modules.get("flax.nnx")
    if nnx is None or not isinstance(model, nnx.Module):
        raise InputError("model", type(model).__name__, "must be a model of flax, an nnx.Module")
    return nnx


class _Wanted:
    """The names that were asked for: modules, which are known, and what is sown, which is not."""

    def __init__(self, names: Any, known: Sequence[str], store: object):
        self.known, self.store = known, store
        self.pairs = None if names is None else capture.asked(names)
        self.found: dict[str, str] | None = None

    def modules(self) -> set[str]:
        """Returns the modules whose outputs are taken."""
        every = [capture.matching(*pair, self.known) for pair in self.pairs or ()]
        return {name for found in every for _, name in found}

    def places(self, given: Mapping[str, Any]) -> dict[str, str]:
        """Returns each layer's label and name, as the first batch finds them."""
        if self.found is None:
            sown = [name for name in given if name not in self.known]
            pairs = [(name, name) for name in sown] if self.pairs is None else self.pairs
            if not pairs:
                problem = "takes what the model sows, which is nothing; name modules of it"
                raise InputError("names", None, problem)
            found = []
            for label, pattern in pairs:
                matched = capture.matching(label, pattern, [*self.known, *sown])
                if not matched:
                    what = "module of the model, and of nothing that it sows"
                    raise capture.unknown(pattern, filter(None, [*self.known, *sown]), what=what)
                found += matched
            capture.check_labels([label for label, _ in found], store=self.store)
            self.found = dict(found)
        return self.found


class _Record:
    """What the modules of a model give and sow for one batch.

    Attributes:
      paths: The path of each module, by its identity.
      modules: Paths of the modules whose outputs are recorded.
      given: What there was, by name.
    """

    def __init__(self, paths: Mapping[int, str], modules: Collection[str]):
        self.paths, self.modules = paths, modules
        self.given: dict[str, list[Any]] = {}

    def output(self, module: Any, value: Any) -> None:
        """Records what a module gave, if it is one of those."""
        name = self.paths.get(id(module))
        if name is not None and name in self.modules:
            self.keep(name, value)

    def sown(self, module: Any, name: str, value: Any) -> None:
        """Records what a module sowed."""
        path = self.paths.get(id(module))
        if path is None:
            kind = type(module).__name__
            raise InputError("names", name, f"is sown by a {kind} that is a copy; {COPY}")
        self.keep(f"{path}.{name}" if path else name, value)

    def keep(self, name: str, value: Any) -> None:
        """Records an array, or the first one of several."""
        if isinstance(value, Mapping):
            value = list(value.values())
        if isinstance(value, list | tuple):
            value = next((one for one in value if hasattr(one, "__array__")), value)
        if isinstance(value, jax.core.Tracer):
            raise InputError("names", name, f"gives a traced value; {COPY}")
        self.given.setdefault(name, []).append(value)


@contextlib.contextmanager
def _recording(model: Any, nnx: Any, record: _Record) -> Iterator[None]:
    """Records calls of modules, and what is sown, for the duration of the block.

    Modules of NNX have no hooks, so their classes are changed. Other models of these classes are
    not in the record.
    """
    every = [one for _, one in nnx.iter_graph(model) if isinstance(one, nnx.Module)]
    called = {type(one) for one in every if record.paths[id(one)] in record.modules}
    with contextlib.ExitStack() as changed:
        for kind in sorted(called, key=lambda one: one.__qualname__):
            if callable(getattr(kind, "__call__", None)):  # noqa: B004
                _change(kind, "__call__", _recorded(kind, record), changed)
        _change(nnx.Module, "sow", _sowing(nnx, record), changed)
        yield


def _change(kind: Any, name: str, new: Any, changed: contextlib.ExitStack) -> None:
    """Gives a class another method until the stack is closed."""
    if name in vars(kind):
        changed.callback(setattr, kind, name, vars(kind)[name])
    else:
        changed.callback(delattr, kind, name)
    setattr(kind, name, new)


def _recorded(kind: Any, record: _Record) -> Any:
    original = kind.__call__

    @functools.wraps(original)
    def call(self: Any, *given: Any, **named: Any) -> Any:
        output = original(self, *given, **named)
        if type(self) is kind:  # a class that inherits may call this method of its parent, too
            record.output(self, output)
        return output

    return call


def _sowing(nnx: Any, record: _Record) -> Any:
    original = nnx.Module.sow

    @functools.wraps(original)
    def sow(self: Any, variable_type: Any, name: str, value: Any, *more: Any, **named: Any) -> Any:
        if isinstance(variable_type, type) and issubclass(variable_type, nnx.Intermediate):
            record.sown(self, name, value)
            return True
        return original(self, variable_type, name, value, *more, **named)

    return sow
