"""Captures what the layers of a PyTorch model give. PyTorch is used only where a model is given."""

import contextlib
import functools
import os
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from ppp_jax.analysis.io import capture
from ppp_jax.analysis.io.capture import AUTO, Captured, Forward, Masks
from ppp_jax.errors import InputError

NOT_CALLED = (
    "was not called by the model; where a model calls a function instead of this module, or a "
    "method of it, its output is the input of a later one: inputs=[…]"
)


def capture_torch(
    model: Any,
    names: str | Sequence[str] | Mapping[str, str],
    batches: Iterable[Any],
    *,
    inputs: bool | Collection[str] = False,
    mask: Masks = AUTO,
    drop_first: bool = False,
    unit_axis: int = -1,
    max_vectors: int | None = None,
    dtype: str = "float32",
    store: str | os.PathLike[str] | None = None,
    progress: bool = False,
) -> Captured:
    """Runs a PyTorch model over batches, and returns the vectors that its layers give.

    The model runs in evaluation mode and without gradients; afterwards its modes are those of
    before, and the hooks are removed, after an error too. Of each layer all axes but that of the
    units are flattened, so that every position of every text is a vector.

    Args:
      model: The model, a `torch.nn.Module`. Batches are moved to where its first parameter is.
      names: Names of modules, as `model.named_modules()` has them; or a mapping from labels of
        one's own to such names. `*` stands for anything but a dot: `blocks.*.mlp.act`. Each `*` in
        a label is what that of the name stands for: `{"block *": "blocks.*.mlp.act"}`. Of a module
        that gives a tuple or a mapping, the first tensor in it is taken. A module that is called
        several times for a batch gives as many layers, called `name[0]`, `name[1]` and so on.
      batches: An iterable of batches: a tensor, which the model is called with; a tuple or list,
        whose items it is called with in their order; or a mapping, such as a tokenizer returns,
        whose items it is called with by their names.
      inputs: Of which modules the input is taken rather than the output: True for all, or their
        labels or names as in `names`.
      mask: Which positions are no padding: `auto` takes the `attention_mask` of batches that have
        one, None keeps every vector, and a function returns a mask for a batch, `(samples,
        positions)`, of truth values or zeros and ones.
      drop_first: Whether the first position of every text that is no padding is left out. Its
        vector is often far longer than all others.
      unit_axis: The axis of the units: -1 for texts, 1 for convolutions, `(samples, units, height,
        width)`.
      max_vectors: Most vectors of each layer, the first ones; when all layers have so many, no
        further batch is taken. None keeps all.
      dtype: Type of the numbers that are kept: `float16`, `float32` or `float64`.
      store: Path of a zarr group to write; None keeps all vectors in memory. It appears when it is
        complete, and at most 4 MiB of each layer and one batch are in memory.
      progress: Whether to show a progress bar over the batches on stderr.

    Returns:
      A mapping from the layers' names to their vectors, `(vectors, units)`, in the order of
      `names`, which `compare_layers` takes: arrays in memory, or arrays that are read from the
      store lazily.

    Raises:
      InputError: The model is none of PyTorch; no module has such a name; a module is not called,
        gives no tensor, or one that the mask does not fit; there is no batch; or the store exists
        or cannot be written.

    Example:
      >>> model = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.GELU())  # doctest: +SKIP
      >>> found = capture_torch(model, {"act": "1"}, [torch.ones(5, 3)])  # doctest: +SKIP
      >>> found["act"].shape  # doctest: +SKIP
      (5, 8)
    """
    torch = _torch(model)
    kept = capture.checked(
        drop_first=drop_first, unit_axis=unit_axis, dtype=dtype, max_vectors=max_vectors,
        mask=mask, batches=batches, store=store, progress=progress,
    )  # fmt: skip
    modules = dict(model.named_modules(remove_duplicate=False))
    places, before = _places(names, modules, inputs, store)
    forward = Forward(kept)
    device = next((one.device for one in model.parameters()), None)

    def run(batch: Any) -> dict[str, np.ndarray]:
        forward.begin(capture.mask_of(batch, mask))
        capture.call(model, _moved(batch, device, torch))
        return forward.end(places, missing=NOT_CALLED)

    with _evaluating(model, torch), _hooked(places, before, modules, forward, torch):
        return capture.collect(batches, run, kept=kept, store=store, progress=progress)


def _torch(model: Any) -> Any:
    """Returns PyTorch, which whoever has a model has imported."""
    torch = sys.modules.get("torch")
    if torch is None or not isinstance(model, torch.nn.Module):
        raise InputError("model", type(model).__name__, "must be a model of PyTorch, a nn.Module")
    return torch


def _places(
    names: Any, modules: Mapping[str, Any], inputs: bool | Collection[str], store: object
) -> tuple[dict[str, str], set[str]]:
    """Returns each layer's label and module, and the labels of those whose input is taken."""
    pairs = capture.asked(names)
    told = {text for pair in pairs for text in pair}
    if isinstance(inputs, str) or not isinstance(inputs, bool | Collection):
        raise InputError("inputs", inputs, "must be True or False, or a list of names of layers")
    for name in inputs if isinstance(inputs, Collection) else ():
        if name not in told:
            raise InputError("inputs", name, "is no name or label of `names`; repeat one of these")
    found, before = [], set()
    for label, pattern in pairs:
        matched = capture.matching(label, pattern, modules)
        if not matched:
            raise capture.unknown(pattern, filter(None, modules), what="module of the model")
        found += matched
        if inputs is True or (inputs and not {label, pattern}.isdisjoint(inputs)):
            before |= {one for one, _ in matched}
    capture.check_labels([label for label, _ in found], store=store)
    return dict(found), before


@contextlib.contextmanager
def _evaluating(model: Any, torch: Any) -> Iterator[None]:
    """Puts a model into evaluation mode, without gradients, for the duration of the block."""
    modes = [(module, module.training) for module in model.modules()]
    # The fast path of PyTorch's own transformers calls no modules within a layer.
    fast = torch.backends.mha.get_fastpath_enabled()
    try:
        torch.backends.mha.set_fastpath_enabled(False)
        model.eval()
        with torch.no_grad():
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        for module, training in modes:
            module.training = training


@contextlib.contextmanager
def _hooked(
    places: Mapping[str, str],
    before: Collection[str],
    modules: Mapping[str, Any],
    forward: Forward,
    torch: Any,
) -> Iterator[None]:
    """Adds hooks to modules for the duration of the block."""
    with contextlib.ExitStack() as hooks:
        for label, name in places.items():
            take = functools.partial(_take, forward, label, torch)
            if label in before:
                hook = modules[name].register_forward_pre_hook(_before(take), with_kwargs=True)
            else:
                hook = modules[name].register_forward_hook(_after(take))
            hooks.callback(hook.remove)
        yield


def _before(take: Callable[[Any], None]) -> Callable[..., None]:
    return lambda _module, given, named: take([*given, *named.values()])


def _after(take: Callable[[Any], None]) -> Callable[..., None]:
    return lambda _module, _given, output: take(output)


def _take(forward: Forward, label: str, torch: Any, given: Any) -> None:
    """Keeps the first tensor of what a module was given or gave, as it is at this moment."""
    if isinstance(given, Mapping):
        given = list(given.values())
    if isinstance(given, list | tuple):
        given = next((one for one in given if isinstance(one, torch.Tensor)), given)
    if isinstance(given, torch.Tensor) and given.is_floating_point():
        given = given.detach().to("cpu", getattr(torch, forward.kept.dtype.name))
    forward.take(label, given)


def _moved(batch: Any, device: Any, torch: Any) -> Any:
    """Moves the tensors of a batch to where the model is."""
    if isinstance(batch, torch.Tensor):
        return batch if device is None else batch.to(device)
    if isinstance(batch, Mapping):
        return {name: _moved(one, device, torch) for name, one in batch.items()}
    if isinstance(batch, list | tuple):
        return [_moved(one, device, torch) for one in batch]
    return batch
