"""Spotlight Resonance: how many samples a probe sees that turns in each privileged plane.

A sample is seen at θ iff PPP accepts it and |θ − φ| ≤ arccos(ε‖x‖/r), so all angles of a plane come
from its accepted points: each is an interval of angles, and intervals are counted by their ends
(docs/method.md §3).
"""

from typing import Any

import numpy as np
import xarray as xr

from ppp_jax.analysis.io.sources import Latents, to_numpy
from ppp_jax.analysis.projection import isotropic_null
from ppp_jax.analysis.projection.kernel import SLACK, Prepared, accepted, prepare, threshold
from ppp_jax.analysis.projection.planes import BasisLike
from ppp_jax.analysis.projection.points import add_counts, count_accepted, provenance, warn_if_empty
from ppp_jax.errors import InputError, choice, truth, whole

TOUCH = 1e-12  # radians; an angle so close to the end of an interval lies in it
MAX_CURVES = 2**25  # numbers held for curves of single planes


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
    nonfinite: str = "raise",
    progress: bool = False,
) -> xr.Dataset:
    """Returns Spotlight Resonance: the fraction of samples within arccos(ε) of a turning probe.

    The probe at angle θ of a plane is cos θ ê1 + sin θ ê2, so that it points along the first basis
    vector at θ = 0 and reaches the second at the angle between the two.

    Args:
      latents: as `project`.
      basis: as `project`.
      epsilon: one cosine of the spotlight's half-angle, in [0, 1], or several.
      angles: how many, equally spaced from 0 on without 2π; or the angles themselves, in radians.
      signed: subtract the fraction of samples within the same angle of the probe's opposite.
      orientation: `ppp` turns with PPP, the second basis vector at a positive angle; `reference`
        turns against it, as the published code does (docs/method.md §3).
      top: keep the curves of so many planes, those with the most accepted samples at the smallest
        ε; None for all.
      planes: as `project`.
      max_planes: as `project`.
      plane_seed: Seed of the draw of planes, as `project` takes it.
      nonfinite: as `project`.
      progress: as `project`.

    Returns:
      Dataset over `angle` (and `epsilon`, if several): `pooled`, the mean over all planes; `srm`,
      `(plane, angle)`, of the planes kept, with the basis vectors `first` and `second` that span
      each; `null`, the exact value for isotropic latents (docs/method.md §4). Zero rows are not
      counted.

    Raises:
      InputError: an argument out of its range, naming it.

    Warns:
      EmptyPPPWarning: nothing was accepted.

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
    options: dict[str, Any] = {
        "planes": planes,
        "max_planes": max_planes,
        "plane_seed": plane_seed,
        "nonfinite": nonfinite,
    }
    prepared = prepare(latents, basis, epsilon, progress=progress, **options)
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
    """Turns counts into fractions with named axes."""
    frame, samples, epsilons = prepared.frame, max(1, prepared.samples), prepared.epsilons
    null = np.array([isotropic_null.spotlight(prepared.source.units, float(e)) for e in epsilons])
    first = (slice(None) if several else 0,)  # a single ε is no axis
    dims = ("epsilon",) if several else ()
    fraction = {"long_name": "fraction of samples in the spotlight"}
    mean = pooled[first] / samples / len(frame.planes)
    return xr.Dataset(
        {
            "pooled": ((*dims, "angle"), mean, fraction),
            "srm": ((*dims, "plane", "angle"), own[first] / samples, fraction),
            "null": (dims, null[first], {"long_name": "the same of isotropic latents"}),
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
        raise InputError("angles", angles, "must be a number of angles, or a list of radians")
    if not np.isfinite(values).all():
        raise InputError("angles", angles, "must be finite")
    return values.astype(np.float64)


def _kept_planes(prepared: Prepared, top: int | None, angles: int) -> np.ndarray:
    """Returns the planes whose own curves are kept, in the order of the frame."""
    planes = len(prepared.frame.planes)
    count = planes if top is None else min(top, planes)
    if count * angles * len(prepared.epsilons) > MAX_CURVES:
        most = max(1, MAX_CURVES // (angles * len(prepared.epsilons)))
        raise InputError("top", top, f"curves of {count:,} planes are too many; at most {most:,}")
    if count == planes:
        return np.arange(planes)
    order = np.argsort(-count_accepted(prepared)[0], kind="stable")
    return np.sort(order[:count])


def _count(
    prepared: Prepared, probe: np.ndarray, kept: np.ndarray, signed: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Counts samples in the spotlight.

    Returns:
      `(own, pooled, accepted)`: `(epsilons, kept planes, angles)`, `(epsilons, angles)` summed
      over all planes, and the number of accepted points at each ε.
    """
    turn = probe % (2 * np.pi)
    order = np.argsort(turn, kind="stable")
    # A row for each plane kept and one for all others together; a column per interval end.
    place = np.full(len(prepared.frame.planes), len(kept), np.int64)
    place[kept] = np.arange(len(kept))
    ends = np.zeros((len(prepared.epsilons), len(kept) + 1, 2 * len(probe) + 1), np.int64)
    number = np.zeros(len(prepared.epsilons), np.int64)
    for block in accepted(prepared):
        angle, row = np.arctan2(block.v, block.u), place[block.plane]
        for k, epsilon in enumerate(prepared.epsilons):
            seen: Any = block.squared_cosine >= threshold(epsilon) if k else slice(None)
            phi, half = angle[seen], _half_angle(block.squared_cosine[seen], epsilon)
            number[k] += len(phi)
            _add(ends[k], row[seen], *_interval(phi, half, turn[order]), 1)
            if signed:
                _add(ends[k], row[seen], *_interval(phi + np.pi, half, turn[order]), -1)
    # Every angle stands twice among the columns, once around later.
    seen_twice = np.cumsum(ends, axis=-1)[..., :-1].reshape(*ends.shape[:2], 2, len(probe))
    counts = seen_twice.sum(axis=2).take(np.argsort(order), axis=-1)
    return counts[:, :-1], counts.sum(axis=1), number


def _half_angle(fraction: np.ndarray, epsilon: float) -> np.ndarray:
    """Returns arccos(ε‖x‖/r); a sample across the plane is seen from everywhere, if at all."""
    cosine = np.full(len(fraction), -1.0)
    np.divide(np.sqrt(SLACK) * epsilon, np.sqrt(fraction), out=cosine, where=fraction > 0)
    return np.arccos(np.minimum(cosine, 1)) + TOUCH


def _interval(
    centre: np.ndarray, half: np.ndarray, turn: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Returns which ascending angles lie within `half` of `centre`, as places start to stop.

    Places go around twice: place k and place k + len(turn) are the same angle.
    """
    twice = np.concatenate([turn, turn + 2 * np.pi])
    low = (centre - half) % (2 * np.pi)
    start = np.searchsorted(twice, low, side="left")
    stop = np.searchsorted(twice, low + 2 * half, side="right")
    return start, np.minimum(stop, start + len(turn))


def _add(
    ends: np.ndarray, row: np.ndarray, start: np.ndarray, stop: np.ndarray, weight: int
) -> None:
    """Adds intervals to the differences, `(rows, places + 1)`, in place."""
    row = row * ends.shape[1]
    for place, sign in ((start, weight), (stop, -weight)):
        add_counts(ends.reshape(-1), row + place, weight=sign)
