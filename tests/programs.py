"""Programs that a process builds once, however many of its tests train the same grid.

Training a few small networks takes three seconds of a processor, of which two and a half go into
tracing and lowering a program that has been traced and lowered before.
"""

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

    Functions are made of cells, of the form of the data and of widths. Seeds, rates, doses and
    samples are their arguments, of which JAX traces other numbers anew by itself. As long as a test
    brings functions, which may change under their names, all are built anew.
    """
    mesh = devices.runs_mesh() if mesh is None else mesh
    if _brought(grid):
        return build(grid, dataset, seed_batch=seed_batch, mesh=mesh, arrays=arrays)
    cells = grid.cells
    shapes = [cell.shape for cell in cells]
    widths = dict.fromkeys(shapes, seed_batch) if isinstance(seed_batch, int) else seed_batch
    layers = tuple(grid.captured(cell) for cell in cells)
    used = tuple(widths[shape] for shape in shapes)
    key = (cells, layers, used, grid.batch_size, dataset.shape, mesh)
    if key not in _kept:
        if len(_kept) == MOST:
            _kept.clear()
        _kept[key] = build(
            grid, dataset, seed_batch=widths, mesh=mesh, arrays=program.outline(grid, dataset)
        )
    return _kept[key]._replace(
        hypers={cell.name: program._hyper(grid, cell, widths[cell.shape], mesh) for cell in cells},
        arrays=program.put_data(grid, dataset, mesh=mesh) if arrays is None else arrays,
    )


def _brought(grid):
    """Returns whether anything is registered or named that is not this package's."""
    ours = {id(entry) for entry in fingerprints.OURS}
    registered = {id(entry) for registry in REGISTRIES for entry in registry.values()}
    return bool(registered - ours or fingerprints.named_references(grid))
