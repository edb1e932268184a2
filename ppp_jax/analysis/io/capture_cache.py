"""Takes vectors out of caches of activations: those of TransformerLens, or mappings like them."""

import collections
import os
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from ppp_jax.analysis.io import capture
from ppp_jax.analysis.io.capture import Captured, Forward
from ppp_jax.analysis.io.rows import depth_of_user
from ppp_jax.errors import InputError, truth

MOST_NAMED = 3  # arrays that a warning lists
FIELD = "cache"


class LeftAsideWarning(UserWarning):
    """Some arrays of a cache are no vectors of units at positions, and were left aside."""


def capture_cache(
    cache: Any,
    *,
    names: str | Sequence[str] | Mapping[str, str] | None = None,
    mask: Any = None,
    drop_first: bool = False,
    max_vectors: int | None = None,
    dtype: str = "float32",
    store: str | os.PathLike[str] | None = None,
    progress: bool = False,
) -> Captured:
    """Returns the vectors that a cache of activations holds, by layer.

    An `ActivationCache` of TransformerLens is such a cache, and so is a mapping from names to the
    tensors that nnsight saved, or to arrays of any library: `(samples, positions, units)`.

    Args:
      cache: The cache, or several, such as a generator that runs the model over batches and gives
        the cache of each.
      names: Names of the arrays to take, or a mapping from labels of one's own to these, with `*`
        for anything but a dot; an array of more axes that is named so is flattened but for its
        last axis. None takes every array of three axes that has the samples and positions which
        most of them have, and more than one unit; a `LeftAsideWarning` tells of the others, such
        as attention patterns, `(samples, heads, positions, positions)`.
      mask: Which positions are no padding, `(samples, positions)`, of truth values or zeros and
        ones; a list of masks for several caches. None keeps all.
      drop_first: Whether the first position of every text that is no padding is left out.
      max_vectors: Most vectors of each layer, the first ones; None keeps all.
      dtype: Type of the numbers that are kept: `float16`, `float32` or `float64`.
      store: Path of a zarr group to write; None keeps all vectors in memory. It appears when it is
        complete.
      progress: Whether to show a progress bar over the caches on stderr.

    Returns:
      A mapping from the layers' names to their vectors, `(vectors, units)`, in the order of the
      cache or of `names`, which `compare_layers` takes.

    Raises:
      InputError: There is no cache or no such name, an array is none of numbers, the mask does not
        fit, or the store exists or cannot be written.

    Example:
      >>> cache = {"resid": np.ones((2, 5, 8)), "mlp": np.ones((2, 5, 16))}
      >>> found = capture_cache(cache, drop_first=True)
      >>> {name: vectors.shape for name, vectors in found.items()}
      {'resid': (8, 8), 'mlp': (8, 16)}
    """
    kept = capture.rule(drop_first, -1, dtype, max_vectors)
    truth("progress", progress)
    pairs = None if names is None else capture.asked(names)
    if store is not None:
        capture.check_store(store)
    one = _is_cache(cache)
    if not one and (isinstance(cache, str | bytes) or not isinstance(cache, Iterable)):
        problem = "must be a cache, a mapping from names to arrays, or several"
        raise InputError(FIELD, type(cache).__name__, problem)
    caches = [cache] if one else cache
    masks = iter([mask] if one or mask is None else _several(mask))
    forward = Forward(kept, field=FIELD)
    told: set[str] = set()

    def run(held: Any) -> dict[str, np.ndarray]:
        if not _is_cache(held):
            raise InputError(FIELD, type(held).__name__, "must be a mapping from names to arrays")
        current = None if mask is None else next(masks, None)
        if mask is not None and current is None:
            raise InputError("mask", "list", "holds fewer masks than there are caches")
        forward.begin(None if current is None else capture.as_mask(current))
        return _vectors(held, pairs, forward, told, store)

    return capture.collect(caches, run, kept=kept, store=store, progress=progress, field=FIELD)


def _is_cache(cache: Any) -> bool:
    """Returns whether an object is a mapping; that of TransformerLens is not registered as one."""
    known = all(callable(getattr(cache, name, None)) for name in ("keys", "items", "__getitem__"))
    return known and not hasattr(cache, "__array__")


def _several(mask: Any) -> Iterable[Any]:
    if isinstance(mask, str | bytes) or not isinstance(mask, Iterable):
        raise InputError("mask", type(mask).__name__, "must be a list, a mask for each cache")
    return mask


def _vectors(
    cache: Any,
    pairs: Sequence[tuple[str, str]] | None,
    forward: Forward,
    told: set[str],
    store: object,
) -> dict[str, np.ndarray]:
    """Returns the vectors of one cache."""
    known = {str(name): cache[name] for name in cache.keys()}  # noqa: SIM118
    arrays = {name: _positions(cache, capture.plain(one)) for name, one in known.items()}
    if pairs is None:
        mask = forward.mask
        chosen = {name: name for name in _usual(arrays, None if mask is None else mask.shape)}
    else:
        found = []
        for label, pattern in pairs:
            matched = capture.matching(label, pattern, arrays)
            if not matched:
                raise capture.unknown(pattern, arrays, what="array of the cache")
            found += matched
        capture.check_labels([label for label, _ in found], store=store)
        chosen = dict(found)
    if not chosen:
        problem = "holds no array (samples, positions, units); name one by names="
        raise InputError(FIELD, f"{len(arrays)} arrays", problem)
    if pairs is None:
        _tell({name: one for name, one in arrays.items() if name not in chosen}, told)
    for label, name in chosen.items():
        forward.take(label, arrays[name])
    return forward.end(chosen, missing="is missing")


def _positions(cache: Any, array: Any) -> Any:
    """Returns an array with an axis of samples, where the cache of a single text has none."""
    single = getattr(cache, "has_batch_dim", True) is False
    return array[None] if single and isinstance(array, np.ndarray) else array


def _usual(arrays: Mapping[str, Any], mask: tuple[int, ...] | None) -> list[str]:
    """Returns the names of the arrays that are vectors at the positions that most of them have."""
    shapes = {
        name: one.shape for name, one in arrays.items()
        if isinstance(one, np.ndarray) and one.ndim == 3 and one.dtype.kind not in "biuOSU"
    }  # fmt: skip
    most = collections.Counter(shape[:2] for shape in shapes.values()).most_common(1)
    usual = mask if mask is not None else most[0][0] if most else None
    return [name for name, shape in shapes.items() if shape[:2] == usual and shape[2] > 1]


def _tell(aside: Mapping[str, Any], told: set[str]) -> None:
    """Warns of arrays that are left aside, once of each."""
    new = {name: one for name, one in aside.items() if name not in told}
    told |= new.keys()
    if not new:
        return
    listed = [f"{name} {getattr(one, 'shape', type(one).__name__)}" for name, one in new.items()]
    more = f" and {len(listed) - MOST_NAMED} more" if len(listed) > MOST_NAMED else ""
    warnings.warn(
        f"left aside, because they are not (samples, positions, units) with the positions of the "
        f"others: {', '.join(listed[:MOST_NAMED])}{more}; names= chooses",
        LeftAsideWarning,
        stacklevel=depth_of_user(),
    )
