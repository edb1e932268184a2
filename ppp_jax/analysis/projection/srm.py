"""Spotlight Resonance (SRM): the fraction of samples near a probe that turns in a privileged plane.

The probe at angle θ sees a sample if PPP accepts the sample and |θ − φ| ≤ arccos(ε‖x‖/r). So every
accepted point is seen in an interval of angles, and all angles of a plane are counted at once by
the ends of these intervals (docs/method.md §3).
"""

import functools
from typing import Any

import numpy as np
import xarray as xr

from ppp_jax.analysis.io.sources import Latents, to_numpy
from ppp_jax.analysis.projection import isotropic_null
from ppp_jax.analysis.projection.kernel import (
    SLACK,
    Prepared,
    accepted,
    add_accepted,
    prepare,
    threshold,
)
from ppp_jax.analysis.projection.planes import BasisLike
from ppp_jax.analysis.projection.points import add_counts, count_accepted, provenance, warn_if_empty
from ppp_jax.errors import InputError, choice, truth, whole

TOUCH = 1e-12  # An angle that is at most 1e-12 radians outside of an interval counts as inside.
MAX_CURVES = 2**25  # Largest number of values of the curves of single planes.


def srm(
    latents: Latents,
    *,
    basis: BasisLike = None,
    epsilon: Any = 0.85,
    angles: Any = 360,
    signed: bool = False,
    orientation: str = "ppp",
    top: int | None = 1000,
    planes: str = "combinations",
    max_planes: int | None = None,
    plane_seed: int = 0,
    centre: bool = False,
    whiten: bool = False,
    rotated: int | None = None,
    nonfinite: str = "raise",
    progress: bool = False,
) -> xr.Dataset:
    """Returns Spotlight Resonance: the fraction of samples within arccos(ε) of a turning probe.

    The probe at angle θ of a plane is cos θ ê1 + sin θ ê2, so that it points along the first basis
    vector at θ = 0 and along the second at the angle between the two. The method is that of
    arXiv 2505.13471; docs/method.md §3 says where this implementation differs.

    Args:
      latents: Latents, `(..., samples, units)`, of any array type; the axes before the last are
        pooled. Arrays on disk (memory maps, zarr, dask, lazily opened xarray) are read in parts.
      basis: Privileged vectors, `(vectors, units)`, of any length but 0, or a name such as
        `haar:0`, `simplex` or `thomson:64` (`ppp_jax.bases.build`); None for the standard basis.
      epsilon: One cosine of the spotlight's half-angle, in [0, 1], or several.
      angles: Number of angles, equally spaced in [0, 2π); or the angles themselves, in radians.
      signed: Whether to subtract the fraction of samples near the opposite of the probe.
      orientation: `ppp` turns as PPP does, so that the second basis vector stands at a positive
        angle; `reference` turns the other way, as the published code does.
      top: Number of planes whose own curves are kept: those with the most accepted samples at the
        smallest ε; None keeps all.
      planes: `combinations`, or `permutations` for both orders of every pair of vectors.
      max_planes: Number of planes to use, drawn without replacement; None uses all.
      plane_seed: Seed of the draw of planes.
      centre: Whether to subtract each cloud's own mean; the axes before the last two tell clouds
        apart.
      whiten: Whether to take out each cloud's own mean and covariance (ZCA), where a cloud has at
        least 5 samples per unit; what is left is the shape (docs/method.md §6).
      rotated: Seed of a random rotation of the whole basis, to show the same latents in a basis
        that nothing prefers; None leaves the basis as it is.
      nonfinite: `raise` to refuse samples that are not finite, or `drop` to leave them out.
      progress: Whether to show a progress bar on stderr.

    Returns:
      A Dataset over `angle`, and over `epsilon` if there are several. `pooled` is the mean over all
      planes. `srm`, `(plane, angle)`, are the curves of the planes that are kept, whose coordinates
      `first` and `second` are the two basis vectors that span each. `null` is the exact value of
      isotropic latents (docs/method.md §4). Samples of length 0 are not counted.

    Raises:
      InputError: An argument is out of its range; the error names it.

    Warns:
      EmptyPPPWarning: No sample was accepted.

    Example:
      >>> curves = srm([[2.0, 0.0], [0.0, 1.0]], epsilon=0.9, angles=4)
      >>> curves.pooled.values.tolist()
      [0.5, 0.5, 0.0, 0.0]
    """
    turns = {"ppp": 1, "reference": -1}
    choice("orientation", orientation, sorted(turns))
    truth("signed", signed)
    probe = _angles(angles)
    if top is not None:
        whole("top", top, least=1)
    some: dict[str, Any] = {"planes": planes, "max_planes": max_planes, "plane_seed": plane_seed}
    seen: dict[str, Any] = {"centre": centre, "whiten": whiten, "rotated": rotated}
    rest: dict[str, Any] = {"nonfinite": nonfinite, "progress": progress}
    prepared = prepare(latents, basis, epsilon, **some, **seen, **rest)
    kept = _kept_planes(prepared, top, len(probe))
    own, pooled, number = _count(prepared, turns[orientation] * probe, kept, signed)
    warn_if_empty(prepared, number)
    made = {"signed": int(bool(signed)), "orientation": orientation, "plane_order": planes}
    curves = _label(prepared, probe, kept, own, pooled, several=bool(np.ndim(epsilon)))
    if signed:
        curves["null"] = 0 * curves["null"]
    curves.attrs.update(made)
    return curves


def _label(
    prepared: Prepared,
    probe: np.ndarray,
    kept: np.ndarray,
    own: np.ndarray,
    pooled: np.ndarray,
    *,
    several: bool,
) -> xr.Dataset:
    """Returns the fractions that the counts stand for, as a Dataset."""
    frame, samples, epsilons = prepared.frame, max(1, prepared.samples), prepared.epsilons
    null = np.array([isotropic_null.spotlight(prepared.source.units, float(e)) for e in epsilons])
    first = (slice(None) if several else 0,)  # A single ε gets no axis.
    dims = ("epsilon",) if several else ()
    fraction = {"long_name": "fraction of samples in the spotlight"}
    mean = pooled[first] / samples / len(frame.planes)
    return xr.Dataset(
        {
            "pooled": ((*dims, "angle"), mean, fraction),
            "srm": ((*dims, "plane", "angle"), own[first] / samples, fraction),
            "null": (dims, null[first], {"long_name": "the same fraction of isotropic latents"}),
        },
        coords={
            "epsilon": (dims, epsilons[first]),
            "angle": ("angle", probe, {"units": "radians"}),
            "first": ("plane", frame.planes[kept, 0]),
            "second": ("plane", frame.planes[kept, 1]),
            "row": ("plane", kept),
        },
        attrs=provenance(prepared),
    )


def _angles(angles: Any) -> np.ndarray:
    values = to_numpy("angles", angles)
    if values.ndim == 0 and values.dtype.kind in "iu":
        number = whole("angles", values.item(), least=1, most=MAX_CURVES)
        return 2 * np.pi * np.arange(number) / number
    if values.ndim != 1 or not len(values) or values.dtype.kind not in "iuf":
        raise InputError(
            "angles", angles, "must be a number of angles, or a list of angles in radians"
        )
    if not np.isfinite(values).all():
        raise InputError("angles", angles, "must be finite numbers")
    return values.astype(np.float64)


def _kept_planes(prepared: Prepared, top: int | None, angles: int) -> np.ndarray:
    """Returns the indices of the planes whose own curves are kept, in ascending order."""
    planes = len(prepared.frame.planes)
    count = planes if top is None else min(top, planes)
    if count * angles * len(prepared.epsilons) > MAX_CURVES:
        most = max(1, MAX_CURVES // (angles * len(prepared.epsilons)))
        raise InputError(
            "top", top, f"would keep {count:,} curves, which is too many; keep at most {most:,}"
        )
    if count == planes:
        return np.arange(planes)
    order = np.argsort(-count_accepted(prepared)[0], kind="stable")
    return np.sort(order[:count])


def _count(
    prepared: Prepared, probe: np.ndarray, kept: np.ndarray, signed: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Counts the samples in the spotlight at every angle.

    Returns:
      Three arrays: the counts of the planes that are kept, `(epsilons, planes, angles)`; the counts
      of all planes together, `(epsilons, angles)`; and the numbers of accepted points,
      `(epsilons,)`.
    """
    turn = probe % (2 * np.pi)
    order = np.argsort(turn, kind="stable")
    count = functools.partial(_count_part, turn=turn[order], kept=kept, signed=signed)
    ends, number = add_accepted(prepared, count)
    # Every angle has two columns, because the columns go around the circle twice.
    seen_twice = np.cumsum(ends, axis=-1)[..., :-1].reshape(*ends.shape[:2], 2, len(probe))
    counts = seen_twice.sum(axis=2).take(np.argsort(order), axis=-1)
    return counts[:, :-1], counts.sum(axis=1), number


def _count_part(
    prepared: Prepared, *, turn: np.ndarray, kept: np.ndarray, signed: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Counts the samples of a part, by where the angles at which they are seen begin and end."""
    # Every plane that is kept has a row of its own, and all others share the last row. The columns
    # hold the differences of the counts from one angle to the next.
    row_of_plane = np.full(len(prepared.frame.planes), len(kept), np.int64)
    row_of_plane[kept] = np.arange(len(kept))
    ends = np.zeros((len(prepared.epsilons), len(kept) + 1, 2 * len(turn) + 1), np.int64)
    number = np.zeros(len(prepared.epsilons), np.int64)
    for block in accepted(prepared):
        angle, row = np.arctan2(block.v, block.u), row_of_plane[block.plane]
        for k, epsilon in enumerate(prepared.epsilons):
            seen: Any = block.squared_cosine >= threshold(epsilon) if k else slice(None)
            phi, half = angle[seen], _half_angle(block.squared_cosine[seen], epsilon)
            number[k] += len(phi)
            _add(ends[k], row[seen], *_interval(phi, half, turn), 1)
            if signed:
                _add(ends[k], row[seen], *_interval(phi + np.pi, half, turn), -1)
    return ends, number


def _half_angle(fraction: np.ndarray, epsilon: float) -> np.ndarray:
    """Returns arccos(ε‖x‖/r), or π for a sample perpendicular to the plane.

    PPP accepts such a sample at ε = 0 only, where every probe sees it.
    """
    cosine = np.full(len(fraction), -1.0)
    np.divide(np.sqrt(SLACK) * epsilon, np.sqrt(fraction), out=cosine, where=fraction > 0)
    return np.arccos(np.minimum(cosine, 1)) + TOUCH


def _interval(
    centre: np.ndarray, half: np.ndarray, turn: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the first and the end index of the angles within `half` of each `centre`.

    Args:
      centre: Middle of each interval, in radians, `(points,)`.
      half: Half of the length of each interval, in radians, `(points,)`.
      turn: Ascending angles in [0, 2π), `(angles,)`. The indices go around the circle twice, so
        that k and k + `len(turn)` mean the same angle.
    """
    twice = np.concatenate([turn, turn + 2 * np.pi])
    low = (centre - half) % (2 * np.pi)
    start = np.searchsorted(twice, low, side="left")
    stop = np.searchsorted(twice, low + 2 * half, side="right")
    return start, np.minimum(stop, start + len(turn))


def _add(
    ends: np.ndarray, row: np.ndarray, start: np.ndarray, stop: np.ndarray, weight: int
) -> None:
    """Adds intervals of indices to `ends`, `(rows, 2 * angles + 1)`, in place."""
    row = row * ends.shape[1]
    for end, sign in ((start, weight), (stop, -weight)):
        add_counts(ends.reshape(-1), row + end, weight=sign)
