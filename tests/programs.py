"""Programs that a process builds once, however many of its tests train the same grid.

Training a few small networks takes three seconds of a processor, of which two and a half go into
tracing and lowering a program that has been traced and lowered before.
"""

import json

from ppp_jax.engine import devices, program
from ppp_jax.grid import fingerprints
from ppp_jax.networks import activations, architectures, functional, optimizers

MOST = 50  # programs that are kept; then all are forgotten
REGISTRIES = (activations.ACTIVATIONS, architectures.ARCHITECTURES, functional.INITIALIZERS,
              optimizers.OPTIMIZERS)  # fmt: skip

build = program.build
_kept = {}


def kept(grid, dataset, *, seed_batch, mesh=None, arrays=None):
    """Is `program.build`, with the functions of an equal program that was built before.

    As long as a test brings functions, which may change under their names, all are built anew.
    """
    mesh = devices.runs_mesh() if mesh is None else mesh
    if _brought(grid):
        return build(grid, dataset, seed_batch=seed_batch, mesh=mesh, arrays=arrays)
    described = {**grid.to_json(), "epochs": None, "snapshots": None}  # no program depends on them
    key = (json.dumps(described), dataset.sha256, dataset.shape, str(seed_batch), mesh)
    if key not in _kept:
        if len(_kept) == MOST:
            _kept.clear()
        _kept[key] = build(
            grid, dataset, seed_batch=seed_batch, mesh=mesh, arrays=program.outline(grid, dataset)
        )
    placed = program.put_data(grid, dataset, mesh=mesh) if arrays is None else arrays
    return _kept[key]._replace(arrays=placed)


def _brought(grid):
    """Returns whether anything is registered or named that is not this package's."""
    ours = {id(entry) for entry in fingerprints.OURS}
    registered = {id(entry) for registry in REGISTRIES for entry in registry.values()}
    return bool(registered - ours or fingerprints.named_references(grid))
