"""Facts about activations, which are stored as coordinates of their latents."""

from collections.abc import Mapping
from typing import NamedTuple, Protocol

import xarray as xr

from ppp_jax.networks import interpolated

COORDINATES = ("isotropic", "group", "basis", "partner")  # Names without the prefix `activation_`.


class Facts(NamedTuple):
    """The facts about one activation (docs/method.md §10).

    Attributes:
      isotropic: Whether the activation prefers no direction.
      group: The largest known group of orthogonal maps with which it commutes.
      basis: The basis that it singles out, or against which it is tested.
      partner: The isotropic activation that it is compared with; None if there is none.
    """

    isotropic: bool
    group: str
    basis: str
    partner: str | None


class Known(Protocol):
    """The facts that comparisons need: `Facts` and entries of the registry have them."""

    @property
    def isotropic(self) -> bool:
        """Whether the activation prefers no direction."""

    @property
    def partner(self) -> str | None:
        """The isotropic activation that this one is compared with; None if there is none."""


def facts_of(dataset: xr.Dataset | xr.DataArray) -> dict[str, Facts]:
    """Returns the facts about every activation of a grid, by name.

    Args:
      dataset: A Dataset that `load_run` returned, the runs that `measure` measured, or one of
        their variables.
    """
    names = [str(name) for name in dataset["activation"].values.ravel()]
    columns = [dataset[f"activation_{fact}"].values.ravel() for fact in COORDINATES]
    return {
        name: Facts(bool(isotropic), str(group), str(basis), str(partner) or None)
        for name, isotropic, group, basis, partner in zip(names, *columns, strict=True)
    }


def known_of(values: xr.DataArray | xr.Dataset) -> dict[str, Facts]:
    """Returns the facts that the activations of a grid carry; the others count as unknown.

    Args:
      values: Anything over `activation`, with any of the facts as coordinates. An activation whose
        facts are unknown counts as one that is not isotropic and has no partner.
    """
    count = values.sizes["activation"]
    unknown = {"isotropic": [False] * count}
    absent = {
        f"activation_{fact}": ("activation", unknown.get(fact, [""] * count))
        for fact in COORDINATES
        if f"activation_{fact}" not in values.coords
    }
    return facts_of(values.assign_coords(absent))


def with_facts(dataset: xr.Dataset) -> xr.Dataset:
    """Returns a dataset in which the facts about activations are coordinates.

    Run folders up to schema 5 hold names only, all of which are in the registry. For them the
    facts are looked up there, here and nowhere else.

    Args:
      dataset: One group of a run folder.
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

    This is the activation's own partner if the grid has it. Otherwise it is the first isotropic
    activation of the grid that is the partner of another, or else the first isotropic one, or else
    the first activation of the grid.

    Args:
      activation: Name of the activation.
      known: The facts about every activation of the grid, by name.

    Returns:
      The name of the other activation, or None if it would be the activation itself.
    """
    isotropic = [name for name in known if known[name].isotropic]
    partners = [name for name in isotropic if name in {one.partner for one in known.values()}]
    own = known[activation].partner
    found = own if own in known else [*partners, *isotropic, *known][0]
    return None if found == activation else found
