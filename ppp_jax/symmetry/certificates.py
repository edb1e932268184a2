"""Certificates of a grid's activations, optimisers and initialisers (docs/method.md §10–11)."""

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
# Wider activations are certified in about `USUAL_UNITS` units, because the Lie algebra is the null
# space of a system in units² unknowns.
USUAL_UNITS, MOST_UNITS = 8, 16


def certify_grid(grid: Grid) -> dict[str, Any]:
    """Certifies a grid's activations, optimisers and initialisers numerically.

    An activation is certified in the smallest latent width of the grid, or in 8 units if that width
    is above 16. An activation whose dose is swept is certified at dose 1, the elementwise end.

    Args:
      grid: The grid to be trained.

    Returns:
      Dictionaries of numbers and texts, by kind (`activations`, `optimizers`, `initializers`) and
      then by name. In each of them, `holds` tells whether the claim holds.
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
    """Returns a digest of everything on which the result of `certify_grid` depends.

    It covers the certified functions and their claims, the units, and the versions of packages.

    Args:
      grid: The grid to be trained.
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
    """Returns whether a file's content can be a result of `certify_grid` in which all claims hold.

    A digest cannot tell who computed the numbers. Therefore the claims must be those of the
    registry and must follow from the numbers. A claim that does not hold is rare, and is computed
    again.

    Args:
      found: Content of the file, of the form that `certify_grid` returns.
      grid: The grid to be trained.
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


def _has(row: dict[str, Any], types: dict[str, type], claims: dict[str, Any]) -> bool:
    """Returns whether a row has exactly these entries, with these types or these values.

    Types are compared exactly: True is not accepted for 1, nor 1.0 for 1.
    """
    if row.keys() != {*types, *claims}:
        return False
    same = all(type(row[key]) is type(value) and row[key] == value for key, value in claims.items())
    return same and all(type(row[key]) is expected for key, expected in types.items())


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
    """Certifies an activation by its name, at dose 1 if its dose is swept.

    Args:
      name: Name of the activation, as `interpolated.get` accepts it.
      units: Number of units in which it is certified.

    Returns:
      The `Certificate` (docs/method.md §10).

    Raises:
      InputError: No activation has this name.
    """
    return _certified(interpolated.get(name), units)


@kept
def _certified(entry: Activation, units: int) -> groups.Certificate:
    dosed = entry.parameter is not None and entry.parameter.initial is None
    function = (lambda x: entry.apply(x, 1.0)) if dosed else entry.apply
    return groups.certify(function, entry.group, units=units, key=jax.random.key(0))


def _activation(name: str, units: int) -> dict[str, Any]:
    certificate = certify_activation(name, units)
    residuals = certificate.residuals.items()
    return {
        "units": units,
        "group": certificate.claimed,
        "residual": certificate.residual,
        **{f"residual under {group}": value for group, value in residuals},
        "algebra": certificate.algebra.dimension,
        "rotations": certificate.algebra.rotations,
        "holds": certificate.holds,
    }


def certify_optimizer(name: str) -> dict[str, Any]:
    """Certifies whether an optimiser respects rotations (docs/method.md §11).

    Args:
      name: Name of the optimiser.

    Returns:
      `respects_rotations`, the claim; `residual`, see `confounds.optimizer_residual`; and `holds`,
      whether the two agree.

    Raises:
      InputError: No optimiser has this name.
    """
    entry = optimizers.get(name)
    residual = _optimizer_residual(entry, name)
    holds = (residual < confounds.TOLERANCE) == entry.respects_rotations
    return {"respects_rotations": entry.respects_rotations, "residual": residual, "holds": holds}


@kept
def _optimizer_residual(entry: Any, name: str) -> float:
    del entry  # only a part of the cache's key: a name can be registered anew
    return confounds.optimizer_residual(name)


def certify_initializer(name: str) -> dict[str, Any]:
    """Certifies whether an initialiser's law is unchanged by rotations (docs/method.md §11).

    Args:
      name: Name of the initialiser.

    Returns:
      `respects_rotations`, the claim; `deviations`, see `confounds.initializer_deviation`; and
      `holds`, whether the two agree.

    Raises:
      InputError: No initialiser has this name.
    """
    entry = functional.get_initializer(name)
    deviation = _initializer_deviation(entry, name)
    holds = (abs(deviation) < confounds.DEVIATIONS) == entry.respects_rotations
    return {"respects_rotations": entry.respects_rotations, "deviations": deviation, "holds": holds}


@kept
def _initializer_deviation(entry: Any, name: str) -> float:
    del entry  # only a part of the cache's key: a name can be registered anew
    return confounds.initializer_deviation(name)
