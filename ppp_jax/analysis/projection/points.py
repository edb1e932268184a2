"""The points that PPP accepts, and their number in each plane (docs/method.md §2)."""

import warnings
from typing import Any

import numpy as np
import xarray as xr

from ppp_jax import __version__
from ppp_jax.analysis.io.sources import Latents, check_made, to_numpy
from ppp_jax.analysis.projection import isotropic_null
from ppp_jax.analysis.projection.isotropic_null import FEW_POINTS, count_text
from ppp_jax.analysis.projection.kernel import (
    Accepted,
    Prepared,
    accepted,
    add_accepted,
    prepare,
    threshold,
)
from ppp_jax.analysis.projection.planes import BasisLike
from ppp_jax.errors import InputError, real, whole


class EmptyPPPWarning(UserWarning):
    """Warns that no sample was accepted.

    The picture is empty then, which does not mean that there is no structure (docs/method.md §2).
    """


def project(
    latents: Latents,
    *,
    basis: BasisLike = None,
    epsilon: float = 0.85,
    planes: str = "combinations",
    max_planes: int | None = None,
    plane_seed: int = 0,
    centre: bool = False,
    whiten: bool = False,
    rotated: int | None = None,
    nonfinite: str = "raise",
    progress: bool = False,
) -> xr.Dataset:
    """Projects samples onto every privileged plane that they lie near.

    A plane accepts a sample x if its in-plane radius is at least ε‖x‖, so that ε is the cosine of
    the largest angle allowed between the sample and the plane (docs/method.md §2).

    Args:
      latents: Latents, `(..., samples, units)`, of any array type; the axes before the last are
        pooled. Arrays on disk (memory maps, zarr, dask, lazily opened xarray) are read in parts.
      basis: Privileged vectors, `(vectors, units)`, of any length but 0, or a name such as
        `haar:0`, `simplex` or `thomson:64` (`ppp_jax.bases.build`); None for the standard basis.
      epsilon: Acceptance cosine ε, in [0, 1].
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
      A Dataset of the accepted points, plane by plane and within a plane in input order. `points`,
      `(point, coordinate)`, are their in-plane coordinates u and v in latent units. `plane`,
      `(point,)`, is the row of `planes`, and `sample`, `(point,)`, the index of the sample in the
      pooled input. `planes`, `(row, vector)`, are the two basis vectors that span each plane, and
      `counts`, `(row,)`, the number of samples that it accepts. Zero samples, samples that are not
      finite, and planes of parallel vectors are left out; the attributes hold their numbers and
      how the result was made.

    Raises:
      InputError: An argument is out of its range; the error names it.

    Warns:
      EmptyPPPWarning: No sample was accepted.

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
        centre=centre,
        whiten=whiten,
        rotated=rotated,
        nonfinite=nonfinite,
        progress=progress,
    )
    points, plane, sample, counts = _sorted(prepared)
    warn_if_empty(prepared, np.array([len(plane)]))
    return _labelled(prepared, points, plane, sample, counts)


def _labelled(
    prepared: Prepared,
    points: np.ndarray,
    plane: np.ndarray,
    sample: np.ndarray,
    counts: np.ndarray,
) -> xr.Dataset:
    return xr.Dataset(
        {
            "points": (("point", "coordinate"), points, {"units": "latent units"}),
            "plane": ("point", plane, {"long_name": "row of planes"}),
            "sample": ("point", sample, {"long_name": "index in the pooled input"}),
            "planes": (("row", "vector"), prepared.frame.planes),
            "counts": ("row", counts, {"long_name": "accepted samples"}),
        },
        coords={"coordinate": ["u", "v"], "vector": ["first", "second"]},
        attrs=provenance(prepared) | {"epsilon": float(prepared.epsilons[0])},
    )


def _single(epsilon: Any) -> Any:
    if np.ndim(to_numpy("epsilon", epsilon)):
        raise InputError(
            "epsilon", epsilon, "must be one number here; ppp, srm and count_planes take several"
        )
    return epsilon


def _sorted(prepared: Prepared) -> tuple[np.ndarray, ...]:
    """Returns points, plane and sample, sorted by plane, and the counts of each plane.

    Each block is freed once it is copied, so that at most one and a half copies of all points are
    in memory.
    """
    rows = np.int32 if prepared.source.rows < 2**31 else np.int64
    dtype = prepared.source.dtype
    pair = np.result_type(dtype, np.complex64)  # The pair u + iv is moved as one number.
    blocks = [(_joined(b, pair), b.plane, b.sample.astype(rows)) for b in accepted(prepared)]
    counts = np.zeros(len(prepared.frame.planes), np.int64)
    for _, plane, _ in blocks:
        add_counts(counts, plane)
    total = int(counts.sum())
    points, sample = np.empty(total, pair), np.empty(total, rows)
    free = np.cumsum(counts) - counts  # This is the next free index of each plane.
    for k in range(len(blocks)):
        block_points, block_plane, block_sample = blocks[k]
        blocks[k] = (np.empty(0, pair), np.empty(0, np.int32), np.empty(0, rows))
        # NumPy sorts integers of sixteen bits by counting, which is faster.
        narrow = np.uint16 if len(counts) <= 2**16 else np.int32
        order = np.argsort(block_plane.astype(narrow, copy=False), kind="stable")
        ordered = block_plane[order]
        first = np.flatnonzero(np.diff(ordered, prepend=-1))  # Each plane's run begins here.
        run = np.diff(first, append=len(ordered))
        target = np.arange(len(ordered)) + np.repeat(free[ordered[first]] - first, run)
        points[target], sample[target] = block_points[order], block_sample[order]
        free[ordered[first]] += run
    plane = np.repeat(np.arange(len(counts), dtype=np.int32), counts)
    return points.view(dtype).reshape(total, 2), plane, sample, counts


def _joined(block: Accepted, dtype: np.dtype) -> np.ndarray:
    points = np.empty(len(block.u), dtype)
    points.real, points.imag = block.u, block.v
    return points


def add_counts(counts: np.ndarray, index: np.ndarray, *, weight: int = 1) -> None:
    """Adds `weight` to the counts at every index, in place.

    Args:
      counts: Counts that are changed, `(counts,)`.
      index: Indices of `counts`, `(indices,)`; an index may occur any number of times.
      weight: The number to add at each occurrence.
    """
    # A few indices are not worth a pass over all counts.
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
    centre: bool = False,
    whiten: bool = False,
    rotated: int | None = None,
    nonfinite: str = "raise",
    progress: bool = False,
) -> xr.Dataset:
    """Counts the accepted samples of every privileged plane (docs/method.md §2).

    Args:
      latents: Latents, `(..., samples, units)`, of any array type; the axes before the last are
        pooled. Arrays on disk (memory maps, zarr, dask, lazily opened xarray) are read in parts.
      basis: Privileged vectors, `(vectors, units)`, of any length but 0, or a name such as
        `haar:0`, `simplex` or `thomson:64` (`ppp_jax.bases.build`); None for the standard basis.
      epsilon: One acceptance cosine ε, or several, which are counted in one pass.
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
      A Dataset over `(epsilon, plane)` with `counts`, the number of accepted samples,
      `acceptance_ratio`, A/A0 of the plane (docs/method.md §7), and `log10_acceptance_ratio`, its
      decimal logarithm. The coordinates `first` and `second` are the indices of the two basis
      vectors that span the plane.

    Raises:
      InputError: An argument is out of its range; the error names it.

    Example:
      >>> counted = count_planes(np.eye(3)[[0, 0, 1]])
      >>> top_planes(counted, 1).counts.values.tolist()
      [[3]]
    """
    some: dict[str, Any] = {"planes": planes, "max_planes": max_planes, "plane_seed": plane_seed}
    seen: dict[str, Any] = {"centre": centre, "whiten": whiten, "rotated": rotated}
    rest: dict[str, Any] = {"nonfinite": nonfinite, "progress": progress}
    prepared = prepare(latents, basis, epsilon, **some, **seen, **rest)
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
    """Returns the numbers of accepted samples, `(epsilons, planes)`."""
    (counts,) = add_accepted(prepared, _count_planes)
    return counts


def _count_planes(prepared: Prepared) -> tuple[np.ndarray]:
    least = threshold(prepared.epsilons)
    counts = np.zeros((len(least), len(prepared.frame.planes)), np.int64)
    for block in accepted(prepared):
        for k, value in enumerate(least):
            add_counts(counts[k], block.plane[block.squared_cosine >= value] if k else block.plane)
    return (counts,)


def top_planes(counted: xr.Dataset, number: int, *, epsilon: float | None = None) -> xr.Dataset:
    """Returns the planes with the most accepted samples, in descending order.

    Args:
      counted: A Dataset that `count_planes` returned.
      number: Number of planes to return.
      epsilon: The acceptance cosine whose counts are ranked; by default the largest one.

    Returns:
      The same Dataset, restricted to these planes. Its coordinate `row` holds the index of each
      plane in `counted`.

    Raises:
      InputError: `number` is below 1, or `epsilon` is none of those that were counted.
    """
    whole("number", number, least=1)
    check_made("counted", counted, ("counts", "epsilon"), "count_planes")
    if epsilon is not None:
        epsilon = real("epsilon", epsilon)
    known = counted["epsilon"].values
    if epsilon is not None and not np.isclose(known, epsilon, rtol=0, atol=1e-12).any():
        raise InputError("epsilon", epsilon, f"was not counted; choose one of {known.tolist()}")
    level = -1 if epsilon is None else int(np.argmin(np.abs(known - epsilon)))
    order = np.argsort(-counted["counts"].values[level], kind="stable")[:number]
    return counted.isel(plane=order).assign_coords(row=("plane", order))


def null_acceptance(prepared: Prepared) -> np.ndarray:
    """Returns A0 at every ε, `(epsilons,)` (docs/method.md §4)."""
    units = prepared.source.units
    return np.array([isotropic_null.acceptance(units, float(e)) for e in prepared.epsilons])


def over_null(prepared: Prepared, fraction: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns A/A0 of accepted fractions, `(..., epsilons)`, and its decimal logarithm.

    In a wide layer A0 can be smaller than any floating-point number; its logarithm is not, so it
    is computed by itself (docs/method.md §4).
    """
    power = (prepared.source.units - 2) / 2
    with np.errstate(divide="ignore", invalid="ignore"):
        log_null = power * np.log10(1 - prepared.epsilons**2) if power else 0.0
        log_ratio = np.log10(fraction) - log_null
        return np.where(fraction == 0, 0, fraction / null_acceptance(prepared)), log_ratio


def provenance(prepared: Prepared) -> dict[str, Any]:
    """Returns attributes that say what a result was computed from."""
    return {
        "basis": prepared.frame.name,
        "units": prepared.source.units,
        "samples": prepared.samples,
        "frame_planes": len(prepared.frame.planes),
        "zero_rows": prepared.survey.zero_rows,
        "dropped_rows": prepared.survey.dropped_rows,
        "skipped_planes": prepared.frame.skipped,
        **prepared.changes,
        "made_by": f"ppp_jax {__version__}",
    }


def warn_if_empty(prepared: Prepared, accepted_samples: np.ndarray) -> None:
    """Warns if any picture is empty, and says that structure may exist (docs/method.md §2).

    Args:
      prepared: The latents and planes.
      accepted_samples: Numbers of accepted points, `(..., epsilons)`.
    """
    if accepted_samples.all():
        return
    pairs = prepared.samples * len(prepared.frame.planes) * len(prepared.epsilons)
    expected = pairs / accepted_samples.size * null_acceptance(prepared)
    most = float(np.broadcast_to(expected, accepted_samples.shape)[accepted_samples == 0].max())
    units, epsilons = prepared.source.units, ", ".join(f"{e:g}" for e in prepared.epsilons)
    empty = int(np.sum(accepted_samples == 0))
    several = "1 picture is" if empty == 1 else f"{empty} pictures are"
    which = "the picture is" if accepted_samples.size == 1 else several
    text = (
        f"no sample lies within epsilon={epsilons} of a plane, where {count_text(most)} points of "
        f"isotropic latents would be expected: {which} empty, which does not mean that there is no "
        f"structure (the corners of the cube have plane fraction {np.sqrt(2 / units):.3f} at "
        f"{units} units); try a smaller epsilon{', or more samples' if most < FEW_POINTS else ''}"
    )
    warnings.warn(text, EmptyPPPWarning, stacklevel=3)


def levels(block: Accepted, prepared: Prepared) -> np.ndarray:
    """Returns the index of the largest ε that accepts each point, `(accepted,)`."""
    least = threshold(prepared.epsilons)
    if len(least) == 1:
        return np.zeros(len(block.squared_cosine), np.int64)
    return np.searchsorted(least, block.squared_cosine, side="right") - 1
