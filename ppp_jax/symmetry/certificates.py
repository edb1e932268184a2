"""Certificates of a grid's activations, optimisers and initialisers (docs/method.md §10–11)."""

import importlib.metadata
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from ppp_jax import __version__, groups
from ppp_jax.files.integrity import digest
from ppp_jax.files.source import source_digest
from ppp_jax.grid.fingerprints import are_ours, fingerprints, kept
from ppp_jax.grid.grid import Grid
from ppp_jax.networks import confounds, functional, interpolated, optimizers
from ppp_jax.networks.activations import Activation

KINDS = ("activations", "optimizers", "initializers")
# Wider activations are certified in about `USUAL_UNITS` units, because the Lie algebra is the null
# space of a system in units² unknowns.
USUAL_UNITS, MOST_UNITS = 8, 16

# Number of units, smallest length and largest length of vectors that an activation is applied to.
Lengths = tuple[int, float, float]


def certify_grid(
    grid: Grid, *, lengths: Mapping[str, Sequence[Lengths]] | None = None
) -> dict[str, Any]:
    """Certifies a grid's activations, optimisers and initialisers numerically.

    An activation is certified in the smallest latent width of the grid, or in 8 units if that width
    is above 16. An activation whose dose is swept is certified at dose 1, the elementwise end.

    Args:
      grid: The grid to be trained.
      lengths: Lengths of the vectors that the trained networks apply an activation to, by its name:
        the number of units, the smallest and the largest length, once for each number of units.
        They are tested too, in one more range, `own lengths`.

    Returns:
      Dictionaries of numbers, texts and lists, by kind (`activations`, `optimizers`,
      `initializers`) and then by name. In each of them, `holds` tells whether the claim holds.
    """
    return {
        "activations": {
            name: _activation(
                name, _units(name, min(grid.latent_widths)), (lengths or {}).get(name, ())
            )
            for name in grid.activations
        },
        "optimizers": {name: certify_optimizer(name) for name in grid.optimizers},
        "initializers": {name: certify_initializer(name) for name in grid.initializers},
    }


def subject(grid: Grid, *, programs: Mapping[str, Any]) -> str:
    """Returns a digest of everything on which the result of `certify_grid` depends.

    It covers the certified functions and their claims, the units, the versions of packages and the
    configuration of the runs, from which the lengths of their vectors follow. For this package's
    own functions its source stands, because fingerprints take a second to compute.

    Args:
      grid: The grid to be trained.
      programs: Conditions on which JAX's programs depend, as `manifest.programs` returns them.
    """
    versions = {name: importlib.metadata.version(name) for name in ("jax", "jaxlib", "numpy")}
    units = {name: _units(name, min(grid.latent_widths)) for name in grid.activations}
    found = None if are_ours(grid) else fingerprints(grid)
    functions = source_digest() if found is None else {kind: found[kind] for kind in KINDS}
    claims = (
        [[name, interpolated.get(name).group] for name in grid.activations]
        + [[name, optimizers.get(name).respects_rotations] for name in grid.optimizers]
        + [
            [name, functional.get_initializer(name).respects_rotations]
            for name in grid.initializers
        ]
    )
    settings = dict(programs)
    return digest([__version__, versions, settings, units, functions, claims, grid.to_json()])


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
    types = {"residual": float, "algebra": int, "lengths": str, "own lengths": str, "tested": list}
    if not _has(row, {**types, **under}, claims):
        return False
    return (
        0 <= row["residual"] < groups.COMMUTES
        and row["algebra"] >= row["rotations"]
        and _are_tested(row)
    )


def _are_tested(row: dict[str, Any]) -> bool:
    """Returns whether the ranges of lengths of a row agree with its texts and its residual."""
    if not all(isinstance(one, list) and len(one) == 4 for one in row["tested"]):
        return False
    found = [groups.AtLengths(*one) for one in row["tested"]]
    decades = len(groups.DECADES)
    if tuple(one[:2] for one in found[:decades]) != groups.DECADES or len(found) > decades + 1:
        return False
    if not all(_is_tested(one) for one in found):
        return False
    texts = _texts(found)
    return row["residual"] == max(one.residual for one in found) and all(
        row[name] == text for name, text in texts.items()
    )


def _is_tested(one: groups.AtLengths) -> bool:
    if not all(type(value) is float for value in (one.low, one.high, one.residual)):
        return False
    holds = one.finding in groups.FINDINGS and one.finding != groups.DIFFERS
    return holds and groups.SHORTEST <= one.low <= one.high <= groups.LONGEST


def _texts(found: Sequence[groups.AtLengths]) -> dict[str, str]:
    """Returns what was found in the decades, and at a run's own lengths, in words."""
    decades = len(groups.DECADES)
    own = groups.describe(found[decades:]) or "unknown"
    return {"lengths": groups.describe(found[:decades]), "own lengths": own}


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
    return width if width <= MOST_UNITS else usual_units(name)


def usual_units(name: str) -> int:
    """Returns the number of units in which an activation is certified if it acts on many."""
    multiple = interpolated.get(name).multiple_of
    return multiple * max(1, USUAL_UNITS // multiple)


def certify_activation(
    name: str, units: int, *, scale: groups.Scale = groups.DECADES
) -> groups.Certificate:
    """Certifies an activation by its name, at dose 1 if its dose is swept.

    Args:
      name: Name of the activation, as `interpolated.get` accepts it.
      units: Number of units in which it is certified.
      scale: Lengths of the inputs, as `groups.ranges` accepts them; by default all from 10⁻³ to
        10³, in six decades.

    Returns:
      The `Certificate` (docs/method.md §10).

    Raises:
      InputError: No activation has this name, or `scale` is not valid.
    """
    entry, spans = interpolated.get(name), groups.ranges(scale)
    return _certified(entry, units, spans)


@kept
def _certified(
    entry: Activation, units: int, scale: tuple[tuple[float, float], ...]
) -> groups.Certificate:
    function, key = _function(entry), jax.random.key(0)
    return groups.certify(
        function,
        entry.group,
        units=units,
        key=key,
        scale=scale,
        constant=function is _function(entry),
    )


@kept
def _function(entry: Activation) -> Callable[[jax.Array], jax.Array]:
    """Returns the function that is certified, which is the same one if it cannot change."""
    return interpolated.applied(entry)


def _own(units: int, lengths: Sequence[Lengths]) -> tuple[tuple[float, float], ...]:
    """Returns the range of lengths, in `units` units, that stands for vectors of a run.

    A radial map sees the length of a vector and an elementwise one the size of its entries. If the
    number of units differs from the run's, the range covers both.
    """
    if not lengths:
        return ()
    low = min(low * min(1.0, (units / width) ** 0.5) for width, low, _ in lengths)
    high = max(high * max(1.0, (units / width) ** 0.5) for width, _, high in lengths)
    found = np.clip([low, high], groups.SHORTEST, groups.LONGEST).tolist()
    return ((found[0], found[1]),)


def _activation(name: str, units: int, lengths: Sequence[Lengths]) -> dict[str, Any]:
    scale = (*groups.DECADES, *_own(units, lengths))
    certificate = certify_activation(name, units, scale=scale)
    residuals = certificate.residuals.items()
    return {
        "units": units,
        "group": certificate.claimed,
        "residual": certificate.residual,
        **{f"residual under {group}": value for group, value in residuals},
        "algebra": certificate.algebra.dimension,
        "rotations": certificate.algebra.rotations,
        "holds": certificate.holds,
        **_texts(certificate.lengths),
        "tested": [list(one) for one in certificate.lengths],
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
    residual = _optimizer_residual(entry)
    holds = (residual < confounds.TOLERANCE) == entry.respects_rotations
    return {"respects_rotations": entry.respects_rotations, "residual": residual, "holds": holds}


@kept
def _optimizer_residual(entry: Any) -> float:
    return confounds.optimizer_residual(entry.make, entry.test_rate)


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
    deviation = _initializer_deviation(entry)
    holds = (abs(deviation) < confounds.DEVIATIONS) == entry.respects_rotations
    return {"respects_rotations": entry.respects_rotations, "deviations": deviation, "holds": holds}


@kept
def _initializer_deviation(entry: Any) -> float:
    return confounds.initializer_deviation(entry.make)
