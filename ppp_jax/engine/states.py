"""Digests of trained states, which depend neither on sharding nor on padding."""

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

DIGEST_BYTES = hashlib.sha256().digest_size


def digest(states: Mapping[str, Any], *, runs: int) -> str:
    """Returns the SHA-256 of all cells' states, in hexadecimal.

    Every run is hashed by itself, from the bytes of its row in every leaf and from the leaf's path,
    dtype and shape. So the digest does not depend on devices, processes or padding, and is the same
    for states in memory and on disk. If there are several processes, all must call this function.

    Args:
      states: Trees of JAX or NumPy arrays with a leading axis over runs, by the names of cells.
      runs: Number of rows that are runs. The rows behind them are padding.
    """
    names = sorted(states)
    rows = np.stack([_rows(states[name], runs) for name in names])
    if jax.process_count() > 1 and any(
        isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(states)
    ):
        # The digest of a run is zero in all processes except the one that holds the run.
        rows = np.asarray(multihost_utils.process_allgather(rows)).max(axis=0)
    whole = hashlib.sha256()
    for name, of_cell in zip(names, rows, strict=True):
        whole.update(f"{name};{runs};".encode())
        whole.update(of_cell.tobytes())
    return whole.hexdigest()


def _rows(tree: Any, runs: int) -> np.ndarray:
    """Returns the digest of every run that this process holds, `(runs, bytes)`."""
    named = [
        (jax.tree_util.keystr(path, simple=True, separator="/"), leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    ]
    hashes: dict[int, Any] = {}
    for path, leaf in sorted(named, key=lambda pair: pair[0]):
        about = f"{path};{leaf.dtype};{leaf.shape[1:]};".encode()
        for first, block in _blocks(leaf):
            for run, row in enumerate(block[: max(0, runs - first)], first):
                of_run = hashes.setdefault(run, hashlib.sha256())
                of_run.update(about)
                of_run.update(np.asarray(row).tobytes())
    found = np.zeros((runs, DIGEST_BYTES), np.uint8)
    for run, of_run in hashes.items():
        found[run] = np.frombuffer(of_run.digest(), np.uint8)
    return found


def _blocks(leaf: Any) -> Iterator[tuple[int, np.ndarray]]:
    """Yields the blocks of an array that this process holds, with the index of their first row."""
    if isinstance(leaf, jax.Array):
        for shard in leaf.addressable_shards:
            if shard.replica_id == 0:
                yield shard.index[0].start or 0, np.asarray(shard.data)
    else:
        yield 0, np.asarray(leaf)
