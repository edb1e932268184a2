"""PPP's points and how many there are in each plane (docs/method.md §2)."""

import warnings
from typing import Any

import numpy as np
import xarray as xr

from ppp_jax import __version__
from ppp_jax.analysis.io.sources import Latents, check_made, to_numpy
from ppp_jax.analysis.projection import isotropic_null
from ppp_jax.analysis.projection.kernel import Accepted, Prepared, accepted, prepare, threshold
from ppp_jax.analysis.projection.planes import BasisLike
from ppp_jax.errors import InputError, real, whole


class EmptyPPPWarning(UserWarning):
    """No sample was accepted: the picture is empty, which does not mean there is no structure."""


def project(
    latents: Latents,
    *,
    basis: BasisLike = None,
    epsilon: float = 0.85,
    planes: str = "combinations",
    max_planes: int | None = None,
    plane_seed: int = 0,
    nonfinite: str = "raise",
    progress: bool = False,
) -> xr.Dataset:
    """Projects samples onto every privileged plane that they lie near.

    A sample x is accepted by a plane iff its in-plane radius is at least ε‖x‖: ε is the cosine of
    the largest angle allowed between them (docs/method.md §2).

    Args:
      latents: `(..., units)`, any array; axes before the last are pooled. Arrays on disk (memory
        maps, zarr, dask, lazily opened xarray) are read in parts.
      basis: privileged vectors, `(vectors, units)`, of any length, or a name such as `haar:0`,
        `simplex` or `thomson:64` (`ppp_jax.bases.build`); None for the standard basis.
      epsilon: acceptance cosine, in [0, 1].
      planes: `combinations`, or `permutations` for both orders of every pair.
      max_planes: use so many planes, drawn without replacement; None for all.
      plane_seed: Seed of the draw of planes.
      nonfinite: `raise`, or `drop` to leave out samples that are not finite.
      progress: show a progress bar on stderr.

    Returns:
      Dataset with `points`, in-plane coordinates `(point, coordinate)` in latent units, plane by
      plane, samples in input order; `plane` and `sample` `(point,)`, the row of `planes` and the
      position in the pooled input of each; `planes` `(row, vector)`, the two basis vectors that
      span each plane; `counts` `(row,)`. Attributes say how it was made, and how many samples were
      zero or not finite and how many pairs of vectors parallel: these are left out.

    Raises:
      InputError: an argument out of its range, naming it.

    Warns:
      EmptyPPPWarning: nothing was accepted.

    Example:
      >>> points = project([[3.0, 1.0, 0.0], [1.0, 1.0, 1.0]], epsilon=0.9).points
      >>> points.values.round(3).tolist()
      [[3.0, 1.0], [3.0, 0.0]]
    """
    prepared = prepare(
        latents,
        basis,
        _single(epsilon),
        planes=planes,
        max_planes=max_planes,
        plane_seed=plane_seed,
        nonfinite=nonfinite,
        progress=progress,
    )
    points, plane, sample, counts = _sorted(prepared)
    warn_if_empty(prepared, np.array([len(plane)]))
    return xr.Dataset(
        {
            "points": (("point", "coordinate"), points, {"units": "latent units"}),
            "plane": ("point", plane, {"long_name": "row of planes"}),
            "sample": ("point", sample, {"long_name": "position in the pooled input"}),
            "planes": (("row", "vector"), prepared.frame.planes),
            "counts": ("row", counts, {"long_name": "accepted samples"}),
        },
        coords={"coordinate": ["u", "v"], "vector": ["first", "second"]},
        attrs=provenance(prepared) | {"epsilon": float(prepared.epsilons[0])},
    )


def _single(epsilon: Any) -> Any:
    if np.ndim(to_numpy("epsilon", epsilon)):
        raise InputError("epsilon", epsilon, "must be one number here; the densities take several")
    return epsilon


def _sorted(prepared: Prepared) -> tuple[np.ndarray, ...]:
    """Returns points, plane and sample, plane by plane, and the counts of each plane.

    Blocks are let go as they are put in their places: of all points there is one copy and a half.
    """
    rows = np.int32 if prepared.source.rows < 2**31 else np.int64
    dtype = prepared.source.dtype
    pair = np.result_type(dtype, np.complex64)  # u + iv is moved as one
    blocks = [(_joined(b, pair), b.plane, b.sample.astype(rows)) for b in accepted(prepared)]
    counts = np.zeros(len(prepared.frame.planes), np.int64)
    for _, plane, _ in blocks:
        add_counts(counts, plane)
    total = int(counts.sum())
    points, sample = np.empty(total, pair), np.empty(total, rows)
    free = np.cumsum(counts) - counts  # the next free place of each plane
    for k in range(len(blocks)):
        block_points, block_plane, block_sample = blocks[k]
        blocks[k] = (np.empty(0, pair), np.empty(0, np.int32), np.empty(0, rows))
        # Few planes: sixteen bits, which NumPy sorts by counting.
        narrow = np.uint16 if len(counts) <= 2**16 else np.int32
        order = np.argsort(block_plane.astype(narrow, copy=False), kind="stable")
        at = block_plane[order]
        first = np.flatnonzero(np.diff(at, prepend=-1))  # where each plane's run begins
        run = np.diff(first, append=len(at))
        place = np.arange(len(at)) + np.repeat(free[at[first]] - first, run)
        points[place], sample[place] = block_points[order], block_sample[order]
        free[at[first]] += run
    plane = np.repeat(np.arange(len(counts), dtype=np.int32), counts)
    return points.view(dtype).reshape(total, 2), plane, sample, counts


def _joined(block: Accepted, dtype: np.dtype) -> np.ndarray:
    points = np.empty(len(block.u), dtype)
    points.real, points.imag = block.u, block.v
    return points


def add_counts(counts: np.ndarray, index: np.ndarray, *, weight: int = 1) -> None:
    """Adds `weight` at every index, in place; a few are not worth a pass over all counts.

    Args:
      counts: `(places,)`.
      index: places, any number of times each.
      weight: what to add.
    """
    if 8 * len(index) > len(counts):
        counts += weight * np.bincount(index, minlength=len(counts))
    else:
        np.add.at(counts, index, weight)


def count_planes(
    latents: Latents,
    *,
    basis: BasisLike = None,
    epsilon: Any = 0.85,
    planes: str = "combinations",
    max_planes: int | None = None,
    plane_seed: int = 0,
    nonfinite: str = "raise",
    progress: bool = False,
) -> xr.Dataset:
    """Counts the accepted samples of every privileged plane.

    Args:
      latents: as `project`.
      basis: as `project`.
      epsilon: one acceptance cosine or several, counted in one pass.
      planes: as `project`.
      max_planes: as `project`.
      plane_seed: Seed of the draw of planes, as `project` takes it.
      nonfinite: as `project`.
      progress: as `project`.

    Returns:
      Dataset over `(epsilon, plane)`: `counts`, and of each plane `acceptance_ratio` A/A0 and
      `log10_acceptance_ratio`, its decimal logarithm. The coordinates `first` and `second` are the
      basis vectors that span it.

    Raises:
      InputError: an argument out of its range, naming it.

    Example:
      >>> counted = count_planes(np.eye(3)[[0, 0, 1]])
      >>> top_planes(counted, 1).counts.values.tolist()
      [[3]]
    """
    options: dict[str, Any] = {
        "planes": planes,
        "max_planes": max_planes,
        "plane_seed": plane_seed,
        "nonfinite": nonfinite,
    }
    prepared = prepare(latents, basis, epsilon, progress=progress, **options)
    count = count_accepted(prepared)
    fraction = count / prepared.samples if prepared.samples else np.full(count.shape, np.nan)
    ratio, log_ratio = over_null(prepared, fraction.T)
    first, second = prepared.frame.planes.T
    return xr.Dataset(
        {
            "counts": (("epsilon", "plane"), count, {"long_name": "accepted samples"}),
            "acceptance_ratio": (("epsilon", "plane"), ratio.T, {"long_name": "A/A0"}),
            "log10_acceptance_ratio": (("epsilon", "plane"), log_ratio.T),
        },
        coords={
            "epsilon": prepared.epsilons,
            "first": ("plane", first),
            "second": ("plane", second),
        },
        attrs=provenance(prepared),
    )


def count_accepted(prepared: Prepared) -> np.ndarray:
    """Returns accepted samples, `(epsilons, planes)`."""
    least = threshold(prepared.epsilons)
    counts = np.zeros((len(least), len(prepared.frame.planes)), np.int64)
    for block in accepted(prepared):
        for k, value in enumerate(least):
            add_counts(counts[k], block.plane[block.squared_cosine >= value] if k else block.plane)
    return counts


def top_planes(counted: xr.Dataset, number: int, *, epsilon: float | None = None) -> xr.Dataset:
    """Returns the planes with the most accepted samples, most first.

    Args:
      counted: what `count_planes` returns.
      number: how many.
      epsilon: the acceptance cosine that decides; by default the largest counted.

    Raises:
      InputError: fewer than one plane, or an `epsilon` that was not counted.
    """
    whole("number", number, least=1)
    check_made("counted", counted, ("counts", "epsilon"), "count_planes")
    if epsilon is not None:
        epsilon = real("epsilon", epsilon)
    known = counted["epsilon"].values
    if epsilon is not None and not np.isclose(known, epsilon, rtol=0, atol=1e-12).any():
        raise InputError("epsilon", epsilon, f"was not counted; one of {known.tolist()}")
    at = -1 if epsilon is None else int(np.argmin(np.abs(known - epsilon)))
    order = np.argsort(-counted["counts"].values[at], kind="stable")[:number]
    return counted.isel(plane=order).assign_coords(row=("plane", order))


def null_acceptance(prepared: Prepared) -> np.ndarray:
    """Returns A0 at every ε."""
    units = prepared.source.units
    return np.array([isotropic_null.acceptance(units, float(e)) for e in prepared.epsilons])


def over_null(prepared: Prepared, fraction: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns accepted fractions, `(..., epsilons)`, over their null, and the decimal logarithm.

    The null of a wide layer may be less than any number; its logarithm is not.
    """
    power = (prepared.source.units - 2) / 2
    with np.errstate(divide="ignore", invalid="ignore"):
        log_null = power * np.log10(1 - prepared.epsilons**2) if power else 0.0
        log_ratio = np.log10(fraction) - log_null
        return np.where(fraction == 0, 0, fraction / null_acceptance(prepared)), log_ratio


def provenance(prepared: Prepared) -> dict[str, Any]:
    """Returns what a result was made of, for its attributes."""
    return {
        "basis": prepared.frame.name,
        "units": prepared.source.units,
        "samples": prepared.samples,
        "frame_planes": len(prepared.frame.planes),
        "zero_rows": prepared.survey.zero_rows,
        "dropped_rows": prepared.survey.dropped_rows,
        "skipped_planes": prepared.frame.skipped,
        "made_by": f"ppp_jax {__version__}",
    }


def warn_if_empty(prepared: Prepared, accepted_samples: np.ndarray) -> None:
    """Warns if any panel is empty, and of what that does not mean (docs/method.md §2)."""
    if accepted_samples.all():
        return
    units, epsilons = prepared.source.units, ", ".join(f"{e:g}" for e in prepared.epsilons)
    empty = int(np.sum(accepted_samples == 0))
    which = "the picture is" if accepted_samples.size == 1 else f"{empty} pictures are"
    text = (
        f"no sample lies within epsilon={epsilons} of a plane: {which} empty, which does not "
        "mean that there is no structure (the corners of the cube have plane fraction "
        f"{np.sqrt(2 / units):.3f} at {units} units); try a smaller epsilon"
    )
    warnings.warn(text, EmptyPPPWarning, stacklevel=3)


def levels(block: Accepted, prepared: Prepared) -> np.ndarray:
    """Returns the index of the largest ε that accepts each point."""
    least = threshold(prepared.epsilons)
    if len(least) == 1:
        return np.zeros(len(block.squared_cosine), np.int64)
    return np.searchsorted(least, block.squared_cosine, side="right") - 1
