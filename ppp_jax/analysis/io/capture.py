"""What the functions that capture layers share: which vectors of a layer are kept, and where.

A model gives a layer's numbers batch by batch. All axes of these but that of the units are
flattened, so that each position of each text is a vector; padding and first tokens are left out by
one rule. The vectors are kept in memory, or go to a zarr group on disk as they come.
"""

import collections
import contextlib
import difflib
import itertools
import os
import pathlib
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import xarray as xr
import zarr

from ppp_jax.analysis.io.progress import progress_bar
from ppp_jax.analysis.io.sources import SAMPLE, UNIT, is_real, labelled
from ppp_jax.errors import InputError, choice, truth, whole
from ppp_jax.files import atomic
from ppp_jax.files.paths import located

AUTO = "auto"
ATTENTION = "attention_mask"  # what Hugging Face calls the mask of a batch
DTYPES = ("float16", "float32", "float64")
CHUNK_BYTES = 2**22  # of each layer, which are in memory before they are written
MOST_VECTORS = 10**12
LAYERS = "layers"  # attribute of a group: the names in the order in which they were asked for
Captured = dict[str, np.ndarray] | dict[str, xr.DataArray]
"""Vectors of each layer, `(vectors, units)`: in memory, or lazily opened in their store."""
Masks = str | None | Callable[[Any], Any]


class Rule(NamedTuple):
    """Which of a layer's numbers are kept, and as what.

    Attributes:
      drop_first: Whether position 0 of every text is left out.
      unit_axis: The axis of the units.
      dtype: Type of the numbers that are kept.
      max_vectors: Most vectors of a layer; None keeps all.
    """

    drop_first: bool
    unit_axis: int
    dtype: np.dtype
    max_vectors: int | None


def rule(drop_first: bool, unit_axis: int, dtype: str, max_vectors: int | None) -> Rule:
    """Checks the settings of a rule, and returns it.

    Args:
      drop_first: As the user gave it.
      unit_axis: As the user gave it.
      dtype: As the user gave it.
      max_vectors: As the user gave it.

    Raises:
      InputError: A setting is out of its range.
    """
    truth("drop_first", drop_first)
    axis = whole("unit_axis", unit_axis, least=-32, most=31)
    choice("dtype", dtype, DTYPES)
    if max_vectors is not None:
        max_vectors = whole("max_vectors", max_vectors, least=1, most=MOST_VECTORS)
    return Rule(bool(drop_first), axis, np.dtype(dtype), max_vectors)


def checked(
    *,
    drop_first: bool,
    unit_axis: int,
    dtype: str,
    max_vectors: int | None,
    mask: Masks,
    batches: Any,
    store: Any,
    progress: bool,
) -> Rule:
    """Checks what captures of models take, before a model runs, and returns the rule.

    Args:
      drop_first: As the user gave it.
      unit_axis: As the user gave it.
      dtype: As the user gave it.
      max_vectors: As the user gave it.
      mask: As the user gave it.
      batches: As the user gave them.
      store: As the user gave it.
      progress: As the user gave it.

    Raises:
      InputError: One of them cannot be used.
    """
    kept = rule(drop_first, unit_axis, dtype, max_vectors)
    check_mask(mask)
    check_batches(batches)
    truth("progress", progress)
    if store is not None:
        check_store(store)
    return kept


def flatten(
    name: str, values: np.ndarray, mask: np.ndarray | None, kept: Rule, *, field: str = "names"
) -> np.ndarray:
    """Returns the vectors of a layer that count, `(vectors, units)`, in memory of their own.

    Args:
      name: Name of the layer, for errors.
      values: The layer's numbers for one batch, of at least two axes.
      mask: Which positions count: an array whose axes are the first ones of the numbers beside that
        of the units, or as many entries as there are vectors where these are flattened already.
      kept: Which vectors are kept, and as what.
      field: Argument that names the layer, for errors.

    Raises:
      InputError: There is no such axis of units, the mask does not fit, or there are no positions
        whose first could be left out.
    """
    shape, axis = values.shape, kept.unit_axis
    if values.ndim < 2 or not -values.ndim <= axis < values.ndim:
        needs = "is no (samples, units)" if values.ndim < 2 else f"has no axis {axis}"
        raise InputError(
            field, name, f"gives an array of shape {shape}, which {needs}; leave it out"
        )
    moved = np.moveaxis(values, axis, -1)
    leading, units = moved.shape[:-1], moved.shape[-1]
    if mask is not None:
        mask = _without_first(name, mask) if kept.drop_first else mask
        if leading[: mask.ndim] == mask.shape:
            moved = moved[mask]
        elif leading == (mask.size,):
            moved = moved[mask.reshape(-1)]
        else:
            problem = (
                f"gives an array of shape {shape}, which the mask of shape {mask.shape} does not "
                "fit; mask=None keeps all vectors"
            )
            raise InputError(field, name, problem)
    elif kept.drop_first:
        if moved.ndim < 3:
            problem = (
                f"gives an array of shape {shape} and no (samples, positions, units), so that no "
                "position is the first; drop_first=False keeps all"
            )
            raise InputError(field, name, problem)
        moved = moved[:, 1:]
    return np.array(moved.reshape(-1, units), dtype=kept.dtype, order="C")


def _without_first(name: str, mask: np.ndarray) -> np.ndarray:
    """Leaves out the first position of each text that is no padding, wherever the padding is."""
    if mask.ndim < 2:
        problem = f"has a mask of shape {mask.shape}, without positions; drop_first=False keeps all"
        raise InputError("names", name, problem)
    return mask & (np.cumsum(mask, axis=1) > 1)


def plain(value: Any) -> Any:
    """Returns an array or tensor of any library as a NumPy array, and anything else as it is.

    Args:
      value: Any object. Tensors of PyTorch are detached and moved to the processor's memory, and
        those of types that NumPy does not have become float32.
    """
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(value, torch.Tensor):
        value = value.detach().cpu()
        return (value.float() if value.dtype == torch.bfloat16 else value).numpy()
    return np.asarray(value) if hasattr(value, "__array__") else value


def check_numbers(name: str, values: Any, *, field: str = "names") -> np.ndarray:
    """Returns the numbers of a layer as a NumPy array.

    Args:
      name: Name of the layer, for errors.
      values: What the layer gives.
      field: Argument that names the layer, for errors.

    Raises:
      InputError: It is no array of floating-point numbers.
    """
    array = plain(values)
    if not isinstance(array, np.ndarray):
        problem = (
            f"gives {type(values).__name__}, which is no tensor; choose a layer that gives one"
        )
        raise InputError(field, name, problem)
    if array.dtype.kind in "biu" or not is_real(array.dtype):
        problem = f"gives numbers of type {array.dtype}, which are no activations; leave it out"
        raise InputError(field, name, problem)
    return array


def as_mask(value: Any) -> np.ndarray:
    """Returns a mask as truth values.

    Args:
      value: An array of truth values, or of zeros and ones, as tokenizers make them.

    Raises:
      InputError: It is something else.
    """
    array = plain(value)
    if isinstance(array, list | tuple):
        with contextlib.suppress(ValueError):
            array = np.asarray(array)
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "biuf" or not array.ndim:
        problem = "must be an array of zeros and ones, (samples, positions)"
        raise InputError("mask", type(value).__name__, problem)
    if array.dtype.kind != "b" and not np.isin(array, (0, 1)).all():
        raise InputError("mask", f"array {array.shape}", "must hold zeros and ones")
    return array.astype(bool)


def check_mask(mask: Masks) -> None:
    """Checks how masks of batches are to be found.

    Args:
      mask: As the user gave it.

    Raises:
      InputError: It is neither `auto` nor None nor a function.
    """
    known = mask is None or callable(mask) or (isinstance(mask, str) and mask == AUTO)
    if not known:
        problem = "must be 'auto', None, or a function that returns the mask of a batch"
        raise InputError("mask", mask if isinstance(mask, str) else type(mask).__name__, problem)


def mask_of(batch: Any, mask: Masks) -> np.ndarray | None:
    """Returns the mask of a batch, or None if all of its positions count.

    Args:
      batch: The batch.
      mask: `auto` for the `attention_mask` of a batch that has one; None; or a function of the
        batch.

    Raises:
      InputError: What is found is no mask.
    """
    if callable(mask):
        return as_mask(mask(batch))
    if mask is not None and isinstance(batch, Mapping) and batch.get(ATTENTION) is not None:
        return as_mask(batch[ATTENTION])
    return None


def check_batches(batches: Any) -> None:
    """Refuses what is one batch, or none.

    Args:
      batches: As the user gave them.

    Raises:
      InputError: They cannot be gone through batch by batch.
    """
    one = isinstance(batches, str | bytes | Mapping) or hasattr(batches, "__array__")
    if one or not isinstance(batches, Iterable):
        what = "must be a list of batches, or anything that gives one after the other"
        kind = type(batches).__name__
        raise InputError("batches", kind, f"{what}; of one batch: [batch]" if one else what)


def call(model: Callable[..., Any], batch: Any) -> None:
    """Calls a model with a batch: one array, a tuple or list of arguments, or a mapping of them.

    Args:
      model: The model.
      batch: The batch.
    """
    if isinstance(batch, Mapping):
        model(**batch)
    elif isinstance(batch, list | tuple):
        model(*batch)
    else:
        model(batch)


# ---------------------------------------------------------------------------------- the names


def asked(names: Any) -> list[tuple[str, str]]:
    """Returns pairs of a layer's label and the name or pattern it is found by.

    Args:
      names: A name, a list of names, or a mapping from labels to names.

    Raises:
      InputError: They are something else, or empty.
    """
    if isinstance(names, str):
        names = [names]
    pairs = list(names.items()) if isinstance(names, Mapping) else None
    if isinstance(names, Sequence) and not isinstance(names, bytes):
        pairs = [(name, name) for name in names]
    if not pairs:
        problem = "must be names of layers, one or more, in a list or a mapping {label: name}"
        raise InputError("names", names if pairs == [] else type(names).__name__, problem)
    for label, name in pairs:
        if not (isinstance(label, str) and isinstance(name, str)):
            raise InputError("names", name, "must be names of layers, which are texts")
    return pairs


def matching(label: str, pattern: str, known: Iterable[str]) -> list[tuple[str, str]]:
    """Returns the known names that a pattern stands for, with their labels.

    Args:
      label: Label of the layer. Each `*` in it becomes what that of the pattern stands for.
      pattern: A name, in which `*` stands for anything but a dot.
      known: The names that there are.

    Raises:
      InputError: Several names would have the same label.

    Example:
      >>> matching("block *", "layers.*.act", ["layers.0.act", "layers.1.act", "layers.1"])
      [('block 0', 'layers.0.act'), ('block 1', 'layers.1.act')]
    """
    within = re.compile("([^.]*)".join(map(re.escape, pattern.split("*"))))
    found = [(name, match.groups()) for name in known if (match := within.fullmatch(name))]
    if len(found) > 1 and label.count("*") != pattern.count("*"):
        problem = f"stands for {len(found)} layers; give its label {label} as many * as it has"
        raise InputError("names", pattern, problem)
    labels = []
    for name, parts in found:
        # A label without stars is that of the only layer that the pattern stands for.
        filled = parts if label.count("*") == len(parts) else ["*"] * label.count("*")
        pieces = zip(label.split("*"), [*filled, ""], strict=True)
        labels.append(("".join(itertools.chain(*pieces)), name))
    return labels


def unknown(pattern: str, known: Iterable[str], *, what: str) -> InputError:
    """Returns the error about a name that nothing has.

    Args:
      pattern: The name or pattern.
      known: The names that there are.
      what: What they are names of.
    """
    every = list(known)
    near = difflib.get_close_matches(pattern, every, n=3, cutoff=0.4)
    known_ones = ", ".join(every[:5]) + (", …" if len(every) > 5 else "")
    hint = f"did you mean {' or '.join(near)}?" if near else f"there are {known_ones or 'none'}"
    return InputError("names", pattern, f"is the name of no {what}; {hint}")


def check_labels(labels: Sequence[str], *, store: object) -> None:
    """Refuses labels that occur twice, or that a store cannot have.

    Args:
      labels: Labels of the layers.
      store: Path of the store, or None.

    Raises:
      InputError: A label is empty, occurs twice, or cannot name an array of a store.
    """
    for label in labels:
        if not label:
            problem = "names the whole model; give it a label, as in {'output': ''}"
            raise InputError("names", label, problem)
        if labels.count(label) > 1:
            raise InputError("names", label, "stands for two layers; give them labels that differ")
        if store is not None and ("/" in label or label[0] == "." or label.startswith("__")):
            problem = "cannot name an array of a store; give the layer another label"
            raise InputError("names", label, problem)


# ---------------------------------------------------------------------- where the vectors go


class Forward:
    """What the layers gave in one pass of the model over a batch.

    Attributes:
      mask: Which positions of the batch count, or None.
    """

    def __init__(self, kept: Rule, *, field: str = "names"):
        """Begins without any batch."""
        self.kept, self.field = kept, field
        self.mask: np.ndarray | None = None
        self._given: dict[str, list[np.ndarray]] = {}
        self._calls: dict[str, int] = {}

    def begin(self, mask: np.ndarray | None) -> None:
        """Forgets the batch before, and takes the mask of the next one."""
        self.mask, self._given = mask, {}

    def take(self, label: str, values: Any) -> None:
        """Keeps the vectors of a layer."""
        numbers = check_numbers(label, values, field=self.field)
        vectors = flatten(label, numbers, self.mask, self.kept, field=self.field)
        self._given.setdefault(label, []).append(vectors)

    def labels(self) -> list[str]:
        """Returns which layers gave something."""
        return list(self._given)

    def end(self, labels: Iterable[str], *, missing: str) -> dict[str, np.ndarray]:
        """Returns the vectors of the batch by layer, one layer for each call.

        Args:
          labels: The layers that must have been called.
          missing: What is said of one that was not.

        Raises:
          InputError: A layer was not called, or another number of times than before.
        """
        found: dict[str, np.ndarray] = {}
        for label in labels:
            parts = self._given.get(label, [])
            if not parts:
                raise InputError(self.field, label, missing)
            before = self._calls.setdefault(label, len(parts))
            if before != len(parts):
                problem = (
                    f"was called {len(parts)} times in one batch and {before} in an earlier one, "
                    "and it is not known which calls belong together; leave it out"
                )
                raise InputError(self.field, label, problem)
            several = len(parts) > 1
            found |= {f"{label}[{k}]" if several else label: one for k, one in enumerate(parts)}
        return found


def collect(
    batches: Iterable[Any],
    run: Callable[[Any], dict[str, np.ndarray]],
    *,
    kept: Rule,
    store: str | os.PathLike[str] | None,
    progress: bool,
    field: str = "batches",
) -> Captured:
    """Runs a model over batches, and keeps the vectors of its layers.

    Args:
      batches: The batches.
      run: Function that runs the model over a batch and returns the vectors of each layer.
      kept: Which vectors are kept, and as what.
      store: Path of the zarr group to write, or None to keep the vectors in memory.
      progress: Whether to show a progress bar on stderr.
      field: Argument that gives the batches, for errors.

    Returns:
      The vectors by layer.

    Raises:
      InputError: There are no batches or no vectors, a layer's number of units changes, or the
        store cannot be written.
    """
    bar = progress_bar(batches, field) if progress else batches
    if store is None:
        in_memory = _Memory()
        _fill(in_memory, bar, run, kept, field)
        return in_memory.arrays()
    path = check_store(store)
    lock = atomic.hidden(path, "lock")
    with (
        atomic.locked(path.parent, name=lock, field="store", value=path),
        atomic.new_folder(path, field="store", value=path) as folder,
    ):
        _fill(_Group(folder), bar, run, kept, field)
    group: Any = zarr.open_group(path, mode="r")
    return {name: labelled(group[name]) for name in group.attrs[LAYERS]}


def check_store(store: Any) -> pathlib.Path:
    """Returns the path of a store that does not exist yet.

    Args:
      store: Path of the new store.

    Raises:
      InputError: It is no path, or something is there already.
    """
    path = pathlib.Path(os.path.abspath(located("store", store)))
    if os.path.lexists(path):
        raise InputError("store", path, "exists already; remove it, or choose another path")
    atomic.check(path, field="store", value=path)
    return path


def _fill(
    sink: "_Memory | _Group",
    batches: Iterable[Any],
    run: Callable[[Any], dict[str, np.ndarray]],
    kept: Rule,
    field: str,
) -> None:
    """Fills a sink until there are no more batches, or every layer has enough."""
    counts: collections.Counter[str] = collections.Counter()
    units: dict[str, int] = {}
    for number, batch in enumerate(batches, 1):
        for name, vectors in run(batch).items():
            width = units.setdefault(name, vectors.shape[1])
            if width != vectors.shape[1]:
                problem = (
                    f"gives {vectors.shape[1]} units in batch {number}, and {width} before; "
                    "unit_axis= says which axis holds the units"
                )
                raise InputError("names", name, problem)
            most = len(vectors) if kept.max_vectors is None else kept.max_vectors - counts[name]
            sink.add(name, vectors[:most])
            counts[name] += len(vectors[:most])
        if kept.max_vectors is not None and all(counts[x] >= kept.max_vectors for x in units):
            break
    if not units:
        raise InputError(field, "none", "holds nothing; give one or more")
    for name in units:
        if not counts[name]:
            raise InputError("mask", name, "leaves no vector of this layer; mask=None keeps all")
    sink.close()


class _Memory:
    """Vectors of layers in memory."""

    def __init__(self) -> None:
        self._parts: dict[str, list[np.ndarray]] = {}

    def add(self, name: str, vectors: np.ndarray) -> None:
        self._parts.setdefault(name, []).append(vectors)

    def close(self) -> None:
        pass

    def arrays(self) -> dict[str, np.ndarray]:
        return {name: np.concatenate(self._parts.pop(name)) for name in list(self._parts)}


class _Group:
    """Vectors of layers in a zarr group, of which those of less than a chunk are in memory."""

    def __init__(self, folder: pathlib.Path) -> None:
        self._group = zarr.create_group(folder, zarr_format=3)
        self._waiting: dict[str, list[np.ndarray]] = {}

    def add(self, name: str, vectors: np.ndarray) -> None:
        if name not in self._waiting:
            units, size = vectors.shape[1], vectors.dtype.itemsize
            self._group.create_array(
                name,
                shape=(0, units),
                chunks=(max(1, CHUNK_BYTES // max(1, units * size)), units),
                dtype=vectors.dtype,
                compressors=None,  # activations are as good as incompressible
                dimension_names=(SAMPLE, UNIT),
            )
        waiting = self._waiting.setdefault(name, [])
        waiting.append(vectors)
        rows, chunk = sum(map(len, waiting)), self._array(name).chunks[0]
        if rows >= chunk:
            self._write(name, rows - rows % chunk)

    def close(self) -> None:
        for name, waiting in self._waiting.items():
            self._write(name, sum(map(len, waiting)))
        self._group.attrs[LAYERS] = list(self._waiting)

    def _array(self, name: str) -> Any:
        return self._group[name]

    def _write(self, name: str, rows: int) -> None:
        """Appends so many of the rows that wait, which are whole chunks but at the end."""
        whole_block, array = np.concatenate(self._waiting[name]), self._array(name)
        before = array.shape[0]
        array.resize((before + rows, array.shape[1]))
        array[before:] = whole_block[:rows]
        self._waiting[name] = [whole_block[rows:].copy()]
