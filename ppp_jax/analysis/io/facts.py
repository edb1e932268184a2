"""What is known of the activations whose latents are looked at: facts, kept beside the latents."""

from collections.abc import Mapping
from typing import NamedTuple, Protocol

import xarray as xr

from ppp_jax.networks import interpolated

COORDINATES = ("isotropic", "group", "basis", "partner")  # each after `activation_`


class Facts(NamedTuple):
    """What a run folder says of one activation.

    Attributes:
      isotropic: whether it prefers no direction.
      group: the largest known group of orthogonal maps that it commutes with.
      basis: the basis that it singles out, or is compared with.
      partner: the isotropic activation that it is compared with; None if there is none.
    """

    isotropic: bool
    group: str
    basis: str
    partner: str | None


class Known(Protocol):
    """What comparisons need to know of an activation: `Facts`, or an entry of the registry."""

    @property
    def isotropic(self) -> bool:
        """Whether it prefers no direction."""

    @property
    def partner(self) -> str | None:
        """The isotropic activation that it is compared with."""


def facts_of(dataset: xr.Dataset) -> dict[str, Facts]:
    """Returns the facts of every activation of a grid, by name.

    Args:
      dataset: what `load` returns of a run folder, or what was measured of it.
    """
    names = [str(name) for name in dataset["activation"].values.ravel()]
    columns = [dataset[f"activation_{fact}"].values.ravel() for fact in COORDINATES]
    return {
        name: Facts(bool(isotropic), str(group), str(basis), str(partner) or None)
        for name, isotropic, group, basis, partner in zip(names, *columns, strict=True)
    }


def with_facts(dataset: xr.Dataset) -> xr.Dataset:
    """Returns a dataset whose activations have their facts as coordinates.

    Folders of schema 5 and before hold names only. Those were all names of the registry, which is
    asked here and nowhere else.

    Args:
      dataset: one group of a run folder.
    """
    if all(f"activation_{fact}" in dataset.coords for fact in COORDINATES):
        return dataset
    entries = [interpolated.get(str(name)) for name in dataset["activation"].values]
    found = {
        fact: [
            getattr(entry, fact) if fact != "partner" else entry.partner or "" for entry in entries
        ]
        for fact in COORDINATES
    }
    return dataset.assign_coords(
        {f"activation_{fact}": ("activation", values) for fact, values in found.items()}
    )


def partner_of(activation: str, known: Mapping[str, Known]) -> str | None:
    """Returns the activation that another one is compared with.

    It is its own partner if the grid has it, else the first isotropic activation of the grid, such
    as are partners of others before such as are not, or the first of all if none is isotropic.

    Args:
      activation: its name.
      known: what is known of every activation of the grid, by name.

    Returns:
      A name, or None for the activation that all others are compared with.
    """
    isotropic = [name for name in known if known[name].isotropic]
    partners = [name for name in isotropic if name in {one.partner for one in known.values()}]
    own = known[activation].partner
    found = own if own in known else [*partners, *isotropic, *known][0]
    return None if found == activation else found
