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
    claims = (
        [[name, interpolated.get(name).group] for name in grid.activations]
        + [[name, optimizers.get(name).respects_rotations] for name in grid.optimizers]
        + [
            [name, functional.get_initializer(name).respects_rotations]
            for name in grid.initializers
        ]
    )
    return digest([__version__, versions, units, {kind: found[kind] for kind in KINDS}, claims])


def fits(found: Any, grid: Grid) -> bool:
    """Returns whether what a file holds can be what `certify_grid` found, and all of it holds.

    Digests cannot tell who computed the numbers. So claims must be the registry's and follow from
    the numbers, and what is said not to hold, which is rare, is to be computed again.

    Args:
      found: rows by kind and name, and what else the file holds.
      grid: what is trained.
    """
    rows = {
        "activations": lambda name, row: _is_activation(
            name, row, _units(name, min(grid.latent_widths))
        ),
        "optimizers": _is_optimizer,
        "initializers": _is_initializer,
    }
    for kind, is_right in rows.items():
        of_kind = found.get(kind) if isinstance(found, dict) else None
        if not isinstance(of_kind, dict) or of_kind.keys() != set(getattr(grid, kind)):
            return False
        if not all(isinstance(row, dict) and is_right(name, row) for name, row in of_kind.items()):
            return False
    return True


def _has(row: dict[str, Any], kinds: dict[str, type], claims: dict[str, Any]) -> bool:
    """Returns whether a row has these entries and no others, of these kinds or with these values.

    A truth value is no number, and of whole numbers JSON makes no others.
    """
    if row.keys() != {*kinds, *claims}:
        return False
    said = all(type(row[key]) is type(value) and row[key] == value for key, value in claims.items())
    return said and all(type(row[key]) is kind for key, kind in kinds.items())


def _is_activation(name: str, row: dict[str, Any], units: int) -> bool:
    claimed = interpolated.get(name).group
    under = {f"residual under {group}": float for group in groups.COMMON}
    claims = {
        "units": units,
        "group": claimed,
        "rotations": groups.get_group(claimed).rotations(units),
        "holds": True,
    }
    if not _has(row, {"residual": float, "algebra": int, **under}, claims):
        return False
    return bool(0 <= row["residual"] < groups.COMMUTES and row["algebra"] >= row["rotations"])


def _is_optimizer(name: str, row: dict[str, Any]) -> bool:
    respects = optimizers.get(name).respects_rotations
    if not _has(row, {"residual": float}, {"respects_rotations": respects, "holds": True}):
        return False
    return bool((row["residual"] < confounds.TOLERANCE) == respects and row["residual"] >= 0)


def _is_initializer(name: str, row: dict[str, Any]) -> bool:
    respects = functional.get_initializer(name).respects_rotations
    if not _has(row, {"deviations": float}, {"respects_rotations": respects, "holds": True}):
        return False
    return bool((abs(row["deviations"]) < confounds.DEVIATIONS) == respects)


def _units(name: str, width: int) -> int:
    multiple = interpolated.get(name).multiple_of
    return width if width <= MOST_UNITS else multiple * max(1, USUAL_UNITS // multiple)


def certify_activation(name: str, units: int) -> groups.Certificate:
    """Certifies an activation by its name; one whose dose is swept at its elementwise end.

    Args:
      name: as `interpolated.get` reads it.
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
    residual = _optimizer_residual(entry, name)
    holds = (residual < confounds.TOLERANCE) == entry.respects_rotations
    return {"respects_rotations": entry.respects_rotations, "residual": residual, "holds": holds}


@kept
def _optimizer_residual(entry: Any, name: str) -> float:
    del entry  # behind the name
    return confounds.optimizer_residual(name)


def certify_initializer(name: str) -> dict[str, Any]:
    """Returns whether an initialiser's law is the same in all directions, and is said to be."""
    entry = functional.get_initializer(name)
    deviation = _initializer_deviation(entry, name)
    holds = (abs(deviation) < confounds.DEVIATIONS) == entry.respects_rotations
    return {"respects_rotations": entry.respects_rotations, "deviations": deviation, "holds": holds}


@kept
def _initializer_deviation(entry: Any, name: str) -> float:
    del entry  # behind the name
    return confounds.initializer_deviation(name)
