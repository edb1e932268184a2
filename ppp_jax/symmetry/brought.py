"""Checks of what users bring to a grid, before anything is trained, and what was found of it."""

from collections.abc import Callable

from ppp_jax import groups, references
from ppp_jax.errors import InputError
from ppp_jax.grid.fingerprints import named_references
from ppp_jax.grid.grid import Grid
from ppp_jax.networks import checks, confounds, functional, interpolated, optimizers
from ppp_jax.symmetry import certificates


def check(grid: Grid) -> tuple[str, ...]:
    """Checks the activations, optimisers and initialisers of a grid that users brought.

    Args:
      grid: The grid to be trained.

    Returns:
      One line for each, which says what was claimed or found.

    Raises:
      InputError: A function cannot be used, does not have what is claimed of it, or its file was
        changed since it was imported.
    """
    for field, names in named_references(grid).items():
        references.check_unchanged(names, field=field)
    found = []
    for name in grid.activations:
        if (activation := interpolated.declared(name)).brought:
            found.append(_once(name, activation.apply, _activation))
    for name in grid.optimizers:
        if _is_new(optimizer := optimizers.declared(name), optimizers.OWN):
            found.append(_once(name, optimizer.make, _optimizer))
    for name in grid.initializers:
        if _is_new(initializer := functional.declared_initializer(name), functional.OWN):
            found.append(_once(name, initializer.make, _initializer))
    return tuple(found)


def _is_new(entry: object, own: tuple[object, ...]) -> bool:
    return not any(entry is one for one in own)


# What was found of the entries that were checked in this process, by name.
_CHECKED: dict[str, tuple[object, str]] = {}


def _once(name: str, entry: object, find: Callable[[str], str]) -> str:
    """Returns what `find` says of an entry, which is checked once."""
    kept = _CHECKED.get(name)
    if kept is None or kept[0] is not entry:
        kept = _CHECKED[name] = (entry, find(name))
    return kept[1]


def _activation(name: str) -> str:
    declared = interpolated.declared(name)
    if declared.group:  # otherwise finding the group checks it
        checks.check_activation(name, declared)
    entry = interpolated.get(name)
    seen = certificates.certify_activation(name, certificates.usual_units(name))
    if declared.group and not seen.holds:
        problem = f"claims the group {seen.claimed}, but {seen.problem} (residual "
        raise InputError(
            "activations",
            name,
            f"{problem}{seen.residual:.1e}); correct the claim, or leave it out, and the group is "
            "found",
        )
    how = "claimed" if declared.group else "found"
    return (
        f"{name}: group {entry.group} {how}, residual {seen.residual:.0e}; "
        f"{groups.describe(seen.lengths)}"
    )


def _optimizer(name: str) -> str:
    declared = optimizers.declared(name)
    checks.check_optimizer(name, declared.make, declared.test_rate)
    seen = certificates.certify_optimizer(name)
    told = f"residual {seen['residual']:.0e}"
    claimed = declared.respects_rotations is not None
    return _told(name, "optimizers", seen, claimed, told)


def _initializer(name: str) -> str:
    declared = functional.declared_initializer(name)
    checks.check_initializer(name, declared.make)
    seen = certificates.certify_initializer(name)
    told = f"{seen['deviations']:.1f} standard errors, at most {confounds.DEVIATIONS:g}"
    claimed = declared.respects_rotations is not None
    return _told(name, "initializers", seen, claimed, told)


def _told(name: str, field: str, seen: dict[str, object], claimed: bool, told: str) -> str:
    respects = bool(seen["respects_rotations"])
    words = "respects rotations" if respects else "prefers the axes"
    if claimed and not seen["holds"]:
        problem = f"claims that it {words}, which does not hold ({told})"
        raise InputError(
            field, name, f"{problem}; correct respects_rotations, or leave it out, and it is found"
        )
    return f"{name}: {words}, {'claimed' if claimed else 'found'} ({told})"
