"""What is certified of everything in a grid that might prefer a basis (docs/method.md §10–11)."""

import importlib.metadata
from typing import Any

import jax

from ppp_jax import __version__
from ppp_jax.files.integrity import digest
from ppp_jax.grid.fingerprints import fingerprints, kept
from ppp_jax.grid.grid import Grid
from ppp_jax.networks import functional, interpolated, optimizers
from ppp_jax.networks.activations import Activation
from ppp_jax.symmetry import confounds, groups

KINDS = ("activations", "optimizers", "initializers")
USUAL_UNITS, MOST_UNITS = 8, 16  # the Lie algebra is a null space in units² unknowns


def certify_grid(grid: Grid) -> dict[str, Any]:
    """Certifies a grid's activations, optimisers and initialisers numerically.

    Activations are looked at in the smallest latent width of the grid, or in 8 units if that is
    above 16; a swept dose at its elementwise end.

    Args:
      grid: what is trained.

    Returns:
      Rows by kind (`activations`, `optimizers`, `initializers`) and name, of numbers and texts;
      `holds` says whether the claim does.
    """
    return {
        "activations": {
            name: _activation(name, _units(name, min(grid.latent_widths)))
            for name in grid.activations
        },
        "optimizers": {name: certify_optimizer(name) for name in grid.optimizers},
        "initializers": {name: certify_initializer(name) for name in grid.initializers},
    }


def subject(grid: Grid) -> str:
    """Returns a digest of what `certify_grid` certifies, and by what.

    Args:
      grid: what is trained.
    """
    versions = {name: importlib.metadata.version(name) for name in ("jax", "jaxlib", "numpy")}
    units = {name: _units(name, min(grid.latent_widths)) for name in grid.activations}
    found = fingerprints(grid)
    claims = [
        [name, interpolated.get(name).group] for name in grid.activations
    ] + [
        [name, optimizers.get(name).respects_rotations] for name in grid.optimizers
    ] + [
        [name, functional.get_initializer(name).respects_rotations] for name in grid.initializers
    ]  # fmt: skip
    return digest([__version__, versions, units, {kind: found[kind] for kind in KINDS}, claims])


def _units(name: str, width: int) -> int:
    multiple = interpolated.get(name).multiple_of
    return width if width <= MOST_UNITS else multiple * max(1, USUAL_UNITS // multiple)


def certify_activation(name: str, units: int) -> groups.Certificate:
    """Certifies an activation by its name; one whose dose is swept at its elementwise end.

    Args:
      name: as `family.get` reads it.
      units: dimension in which to look.

    Raises:
      InputError: no such activation.
    """
    return _certified(interpolated.get(name), units)


@kept
def _certified(entry: Activation, units: int) -> groups.Certificate:
    dosed = entry.parameter is not None and entry.parameter.initial is None
    function = (lambda x: entry.apply(x, 1.0)) if dosed else entry.apply
    return groups.certify(function, entry.group, units=units, key=jax.random.key(0))


def _activation(name: str, units: int) -> dict[str, Any]:
    seen = certify_activation(name, units)
    return {
        "units": units,
        "group": seen.claimed,
        "residual": seen.residual,
        **{f"residual under {group}": value for group, value in seen.residuals.items()},
        "algebra": seen.algebra.dimension,
        "rotations": seen.algebra.rotations,
        "holds": seen.holds,
    }


def certify_optimizer(name: str) -> dict[str, Any]:
    """Returns whether an optimiser's rotated start gives the rotated training, and is said to."""
    entry = optimizers.get(name)
    residual = _optimizer_residual(name, entry)
    holds = (residual < confounds.TOLERANCE) == entry.respects_rotations
    return {"respects_rotations": entry.respects_rotations, "residual": residual, "holds": holds}


@kept
def _optimizer_residual(name: str, entry: Any) -> float:
    del entry  # behind the name
    return confounds.optimizer_residual(name)


def certify_initializer(name: str) -> dict[str, Any]:
    """Returns whether an initialiser's law is the same in all directions, and is said to be."""
    entry = functional.get_initializer(name)
    deviation = _initializer_deviation(name, entry)
    holds = (abs(deviation) < confounds.DEVIATIONS) == entry.respects_rotations
    return {"respects_rotations": entry.respects_rotations, "deviations": deviation, "holds": holds}


@kept
def _initializer_deviation(name: str, entry: Any) -> float:
    del entry  # behind the name
    return confounds.initializer_deviation(name)
