"""The number of probe samples that pictures need (docs/method.md §4, §14).

A plane accepts the fraction A0 of isotropic samples, so a picture of P planes is expected to hold
A0·P points per probe sample and network. What is expected decides before training whether a picture
can show anything: a picture of few points looks empty whatever the latents do.
"""

import functools
import math
import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from ppp_jax import bases
from ppp_jax.analysis import projection
from ppp_jax.analysis.projection.isotropic_null import (
    ENOUGH_POINTS,
    FEW_POINTS,
    acceptance,
    count_text,
)
from ppp_jax.data import datasets
from ppp_jax.errors import printable
from ppp_jax.grid.grid import Grid
from ppp_jax.networks import interpolated
from ppp_jax.storage import manifest, run_dir
from ppp_jax.sweep import agreement

AUTO = "auto"


class Need(NamedTuple):
    """What the picture of one network needs.

    Attributes:
      activation: Name of the network's activation.
      units: Number of units of its bottleneck.
      planes: Number of different planes of the activation's basis.
      per_sample: Number of points per probe sample that are expected of isotropic latents.
    """

    activation: str
    units: int
    planes: int
    per_sample: float

    @property
    def samples(self) -> float:
        """Number of probe samples of which `ENOUGH_POINTS` points are expected; may be infinite."""
        return math.ceil(ENOUGH_POINTS / self.per_sample) if self.per_sample else math.inf


class Probes(NamedTuple):
    """The number of probe samples of a command, and what is expected of it.

    Attributes:
      samples: The number, as it is set in the grid.
      saved: The number of samples that are saved, at most all training samples.
      training: Number of training samples.
      seeds: Number of seeds, whose points are pooled in pictures.
      need: Need of the network whose picture is expected to hold the fewest points.
      automatic: Whether the number was computed from what pictures need.
      replaced: The default number in whose place it stands, because that would leave a picture
        empty; None if it stands in no other's.
      stored: Whether the number is that of an earlier run in the folder.
    """

    samples: int
    saved: int
    training: int
    seeds: int
    need: Need
    automatic: bool = False
    replaced: int | None = None
    stored: bool = False

    @property
    def points(self) -> float:
        """Number of points that are expected in that network's picture, of isotropic latents."""
        return self.saved * self.need.per_sample


def distinct_planes(basis: str, units: int) -> int:
    """Returns the number of different planes that pairs of a basis's vectors span.

    A vector and its opposite count as one, because the planes of one are those of the other: their
    points are reflections of each other and not further points.

    Args:
      basis: Name of the basis, as `bases.build` accepts it.
      units: Number of units, at least 2.

    Example:
      >>> distinct_planes("standard", 16), distinct_planes("cross_polytope", 16)
      (120, 120)
    """
    if units == 2:
        return 1
    lines = units
    if not bases.is_orthonormal(basis):
        vectors = bases.build(basis, units)
        vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        same = 1 - (vectors @ vectors.T) ** 2 < projection.planes.MIN_SINE_SQUARED
        lines = int(np.sum(~np.tril(same, -1).any(axis=1)))
    return lines * (lines - 1) // 2


def most_demanding(grids: Sequence[Grid], epsilon: float) -> Need:
    """Returns the need of the network whose picture is expected to hold the fewest points.

    Args:
      grids: The grids to be trained.
      epsilon: Acceptance cosine ε of the pictures.

    Example:
      >>> grid = Grid(activations=["tanh", "tanh@simplex"], latent_widths=[8, 16])
      >>> most_demanding([grid], 0.85)._replace(per_sample=0.0)
      Need(activation='tanh', units=16, planes=120, per_sample=0.0)
    """
    needs = []
    for grid in grids:
        for name in grid.activations:
            for units in grid.latent_widths:
                planes = distinct_planes(interpolated.get(name).basis, units)
                needs.append(Need(name, units, planes, planes * acceptance(units, epsilon)))
    return min(needs, key=lambda need: need.per_sample)


def choose(
    grids: Sequence[Grid],
    workdir: str | pathlib.Path,
    *,
    given: int | str | None,
    epsilon: float,
    overwrite: bool,
    pictures: bool,
) -> Probes:
    """Chooses the number of probe samples.

    A given number is taken. Otherwise the number of an earlier run in the folder is taken, so that
    the same command continues it. In a new folder it is the grid's, unless `auto` is given, or the
    grid's would leave a picture of all seeds empty and more samples would not. Then it is as many
    as put `ENOUGH_POINTS` points of isotropic latents into the picture of every single network, at
    most all training samples.

    Args:
      grids: The grids to be trained, all on the same data, with the default number.
      workdir: Path of the run folder of the first grid.
      given: The number that the user gave, `AUTO`, or None.
      epsilon: Acceptance cosine ε of the pictures.
      overwrite: Whether an earlier run in the folder is to be replaced.
      pictures: Whether there will be pictures.

    Raises:
      InputError: The data cannot be loaded, or the folder's manifest cannot be read.
    """
    folder, data = run_dir.folder(workdir), grids[0].data
    training = len(agreement.together(lambda: datasets.load(data)).train)
    need, default = most_demanding(grids, epsilon), grids[0].probe_samples
    stored = agreement.together(lambda: None if overwrite else manifest.read(folder))
    seeds = len(grids[0].seeds)
    found = functools.partial(_probes, training=training, seeds=seeds, need=need)
    if isinstance(given, int):
        return found(given, stored=stored is not None)
    if stored is not None:
        return found(stored.grid.probe_samples, stored=True)
    empty = found(default).points * seeds < FEW_POINTS <= training * need.per_sample
    replaced = default if given is None and pictures and empty else None
    if given is None and replaced is None:
        return found(default)
    return found(int(min(need.samples, training)), automatic=True, replaced=replaced)


def _probes(samples: int, *, training: int, **more: Any) -> Probes:
    return Probes(samples, min(samples, training), training, **more)


def remark(probes: Probes, epsilon: float) -> str:
    """Returns a line that warns of pictures of too few points and tells the remedy, or ''.

    If the default number was replaced for that reason, the line tells so.

    Args:
      probes: The number of probe samples.
      epsilon: Acceptance cosine ε of the pictures.
    """
    if probes.replaced is not None:
        before = probes._replace(saved=min(probes.replaced, probes.training))
        return (
            f"probe_samples: {probes.saved:,} instead of {probes.replaced:,}, {_held(before)} "
            f"{_where(probes.need, epsilon)}; give --probe_samples={probes.replaced} for no more"
        )
    if probes.points >= FEW_POINTS:
        return ""
    return (
        f"probe_samples: {probes.saved:,}, {_held(probes)} {_where(probes.need, epsilon)}; fewer "
        f"than {FEW_POINTS} look empty whatever the latents do; {_remedies(probes)}"
    )


def _held(probes: Probes) -> str:
    pooled = f", {count_text(probes.points * probes.seeds)} into that of all {probes.seeds:,} seeds"
    return (
        f"of which {count_text(probes.points)} points of isotropic latents fall into a picture of "
        f"one network{pooled if probes.seeds > 1 else ''}"
    )


def _remedies(probes: Probes) -> str:
    """Returns how more points are to be had."""
    found = []
    if probes.saved < probes.training and probes.training * probes.need.per_sample >= FEW_POINTS:
        where = " in another --workdir" if probes.stored else ""
        found.append(f"give --probe_samples={AUTO}{where}")
    lower = _enough_epsilon(probes.need, probes.saved)
    if lower > 0:
        found.append(f"lower --epsilon to {lower:g}")
    return " or ".join(found) or "give data of more samples"


def summary(probes: Probes, epsilon: float) -> str:
    """Returns a line of the plan: the number of probe samples, and what pictures hold of them.

    Args:
      probes: The number of probe samples.
      epsilon: Acceptance cosine ε of the pictures.
    """
    chosen = f" ({AUTO})" if probes.automatic else ""
    return (
        f"{'probes':<12}{probes.saved:,} of {probes.training:,} training samples{chosen}, "
        f"{_held(probes)} {_where(probes.need, epsilon)}"
    )


def _where(need: Need, epsilon: float) -> str:
    name = printable(need.activation)
    planes = f"{need.planes:,} plane{'s' if need.planes > 1 else ''}"
    return f"({name}, {need.units} units, {planes}, epsilon {epsilon:g})"


def _enough_epsilon(need: Need, samples: int) -> float:
    """Returns the largest ε, in hundredths, at which `ENOUGH_POINTS` are expected; 0 if none is."""
    pairs = samples * need.planes
    if need.units == 2 or pairs <= ENOUGH_POINTS:
        return 0.0
    squared = 1 - (ENOUGH_POINTS / pairs) ** (2 / (need.units - 2))
    return math.floor(100 * math.sqrt(squared)) / 100
