"""Random rotations of the rotation null, of all units or within blocks of them (docs/method.md §5).

The null is exact for rotations that are Haar distributed on any compact group under which the law
is unchanged. Rotations within blocks are such a group, and cost a fraction in wide layers.
"""

from typing import Any, NamedTuple

import numpy as np
import scipy  # its parts are imported when they are first used

from ppp_jax import bases
from ppp_jax.analysis.projection import views

AUTO, FULL, BLOCKS = "auto", "full", "blocks"
NULLS = (AUTO, FULL, BLOCKS)
MOST_FULL = 512  # units up to which `auto` mixes all of them
BLOCK_UNITS = 64  # of a block, at most


class Turns(NamedTuple):
    """Rotations within blocks of units, of which there may be one.

    Attributes:
      place: The units of each block, `(blocks, width)`; −1 where a block has fewer than others.
      turns: The rotations Q of each block, `(rotations, blocks, width, width)`.
    """

    place: np.ndarray
    turns: np.ndarray

    @property
    def units(self) -> int:
        """Number of units n."""
        return int(self.place.max()) + 1

    def restored(self, values: np.ndarray) -> np.ndarray:
        """Puts what is known by block into the order of the units, `(..., units)`.

        Args:
          values: `(..., blocks, width)`.
        """
        order = np.argsort(self.place.ravel(), kind="stable")[-self.units :]
        found: np.ndarray = values.reshape(*values.shape[:-2], -1)[..., order]
        return found

    def placed(self, values: np.ndarray) -> np.ndarray:
        """Puts values by unit into blocks, with zeros where there is no unit.

        Args:
          values: `(..., units)`.

        Returns:
          `(..., blocks, width)`.
        """
        found: np.ndarray = values[..., self.place]
        if self.place.min() < 0:
            found[..., self.place < 0] = 0
        return found

    def with_none(self) -> "Turns":
        """Returns the same rotations after one that changes nothing."""
        none = np.broadcast_to(np.eye(self.turns.shape[-1]), (1, *self.turns.shape[1:]))
        return Turns(self.place, np.concatenate([none, self.turns]))

    def dense(self) -> np.ndarray:
        """Returns the rotations as matrices, `(rotations, units, units)`."""
        units = self.units
        found = np.zeros((len(self.turns), units, units), self.turns.dtype)
        for block, members in enumerate(self.place):
            there = np.flatnonzero(members >= 0)
            rows = members[there]
            found[:, rows[:, None], rows] = self.turns[:, block][:, there[:, None], there]
        return found

    def turned(self, cloud: np.ndarray, rotation: int) -> np.ndarray:
        """Returns X·Q for one of the rotations, `(samples, units)`.

        Args:
          cloud: X, `(samples, units)`.
          rotation: Which one.
        """
        blocks = self.placed(cloud).swapaxes(0, 1)
        return self.restored(np.matmul(blocks, self.turns[rotation]).swapaxes(0, 1))


def blocks_of(units: int, rng: np.random.Generator) -> np.ndarray:
    """Divides units at random into blocks of at most 64, as even as can be, `(blocks, width)`.

    Args:
      units: Number of units n.
      rng: NumPy's random generator.
    """
    parts = np.array_split(rng.permutation(units), -(-units // BLOCK_UNITS))
    width = max(map(len, parts))
    padded = [np.pad(part, (0, width - len(part)), constant_values=-1) for part in parts]
    return np.stack(padded)


def draw(
    units: int, count: int, rng: np.random.Generator, *, place: np.ndarray | None = None
) -> Turns:
    """Draws rotations from the Haar measure, of all units or of each block.

    Args:
      units: Number of units n.
      count: Number of rotations.
      rng: NumPy's random generator.
      place: What `blocks_of` returned; None mixes all units.

    Returns:
      The rotations. Those of all units of a layer wider than 128 are in single precision, and drawn
      in a third of the time (`bases.reflected`).
    """
    if place is None:
        drawn = (bases.rotations if units <= views.NARROW else bases.reflected)(units, count, rng)
        return Turns(np.arange(units)[None], drawn[:, None])
    blocks, width = place.shape
    sizes = np.count_nonzero(place >= 0, axis=1)
    turns = np.broadcast_to(np.eye(width), (count, blocks, width, width)).copy()
    for size in np.unique(sizes):
        which = np.flatnonzero(sizes == size)
        drawn = bases.rotations(int(size), count * len(which), rng)
        turns[:, which, :size, :size] = drawn.reshape(count, len(which), size, size)
    return Turns(place, turns)


class Support(NamedTuple):
    """How rotations stay within the subspace in which whitened samples vary.

    The reflection I − V·Vᵀ takes the directions in which nothing varies to some of the axes. After
    it samples vary along the other units alone, within which they can be turned; then they are
    reflected back. Where fewer directions are left than are missing, that would take longer than
    to know samples by their coordinates in these, of which rotations then mix all.

    Attributes:
      still: The units to which the directions without variance are taken, `(missing,)`.
      mirror: V, `(units, missing)`; None where these units are the directions themselves.
      axes: Orthonormal axes of the subspace, `(units, rank)`, if samples are known by coordinates.
    """

    still: np.ndarray
    mirror: np.ndarray | None
    axes: np.ndarray | None


def support_of(missing: np.ndarray | None) -> Support | None:
    """Returns how rotations stay within the subspace in which whitened samples vary.

    Args:
      missing: Orthonormal axes of the directions in which they do not, `(units, missing)`; None if
        there are none.
    """
    if missing is None:
        return None
    missing = missing.astype(np.float64)
    units, count = missing.shape
    leverage = np.square(missing).sum(axis=1)  # 1 of a unit that is such a direction itself
    if np.minimum(leverage, abs(1 - leverage)).max() < views.STANDS**2:
        return Support(np.flatnonzero(leverage > 0.5), None, None)
    if 2 * count > units:
        return Support(np.arange(0), None, np.linalg.qr(missing, mode="complete")[0][:, count:])
    pivots = scipy.linalg.qr(missing.T, mode="r", pivoting=True)[1]
    still = np.sort(pivots[:count])
    onto = np.zeros_like(missing)
    onto[still, np.arange(count)] = 1
    # W·O is the basis of the missing directions whose part along the units is symmetric, so that
    # the reflection in the span of W·O + J takes the one to the other, with the sign turned.
    left, _, right = np.linalg.svd(missing[still])
    both = missing @ (left @ right).T + onto
    values, turned = np.linalg.eigh(both.T @ both)
    mirror = np.sqrt(2) * both @ (turned / np.sqrt(values)) @ turned.T
    return Support(still, mirror, None)


def within(turns: Turns, support: Support) -> Turns:
    """Returns rotations that leave some units still, Haar on the others of each block.

    Args:
      turns: Haar rotations; the identity stays what it is.
      support: Which units. Rotations of coordinates (`onto_units`) need none of this.
    """
    if support.axes is not None:
        return turns
    kept = turns.turns.copy()
    for block, members in enumerate(turns.place):
        moving = ~np.isin(members, support.still)
        if not moving.all():
            axes = np.eye(len(members))[:, moving]
            kept[:, block] = views.turns_within(axes, turns.turns[:, block])
    return Turns(turns.place, kept)


def onto_units(turns: Turns, axes: np.ndarray) -> Turns:
    """Returns maps R·Eᵀ of coordinates in a subspace to units, with R Haar on all coordinates.

    Args:
      turns: Rotations, each of which gives the seed of its R; the identity has the identity.
      axes: E, the axes of the subspace, `(units, rank)`.

    Returns:
      The maps as one block, `(rotations, 1, rank, units)`.
    """
    units, rank = axes.shape
    none = np.eye(turns.turns.shape[-1], dtype=turns.turns.dtype)
    found = np.empty((len(turns.turns), 1, rank, units), np.float32)
    for k, turn in enumerate(turns.turns):
        seed = np.frombuffer(turn[0, 0, :4].astype(np.float64).tobytes(), np.uint32)
        same = bool((turn == none).all())
        turned = (
            axes.T if same else bases.reflected(rank, 1, np.random.default_rng(seed))[0] @ axes.T
        )
        found[k, 0] = turned
    return Turns(np.arange(units)[None], found)


def mirrored(values: np.ndarray, support: Support | None) -> np.ndarray:
    """Returns rows after the reflection of a support, `(samples, units)`.

    Args:
      values: `(samples, units)`.
      support: None leaves them as they are.
    """
    if support is None or support.mirror is None:
        return values
    mirror: Any = support.mirror.astype(values.dtype)
    found: np.ndarray = values - (values @ mirror) @ mirror.T
    return found


def dense_within(turns: Turns, support: Support | None) -> np.ndarray:
    """Returns rotations with the reflections before and after them, `(rotations, units, units)`.

    Args:
      turns: What `within` returned.
      support: The support; None for rotations of all units.
    """
    # `mirrored` multiplies rows by H, which is symmetric: (Q·H)ᵀ·H = (H·Q·H)ᵀ.
    if support is not None and support.axes is not None:
        maps = onto_units(turns, support.axes).turns[:, 0]
        rest = np.eye(len(support.axes)) - support.axes @ support.axes.T
        return (rest + support.axes @ maps).astype(np.float32)
    once = [mirrored(turn, support) for turn in turns.dense()]
    return np.stack([mirrored(turn.T, support).T for turn in once])
