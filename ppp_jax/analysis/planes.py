"""The one kernel behind PPP and SRM: which samples lie near which privileged plane, and where.

For unit basis vectors b_i, b_j with cosine g, a sample x with projections a_i, a_j has in-plane
coordinates u = a_i, v = (a_j − g a_i)/√(1 − g²); it is accepted iff √(u² + v²) ≥ ε‖x‖
(METHOD §1–2). No matrix product per plane is needed: one product with the whole basis serves all.
"""

import itertools
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr

from ppp_jax.errors import InputError
from ppp_jax.numerics import polar

MIN_SINE_SQUARED = 1e-6  # of the angle between two vectors, below which they span no plane
BLOCK_ELEMENTS = 2**22  # (planes × samples) handled at once, which bounds memory


class Samples(NamedTuple):
    """Latents as the kernel takes them.

    Attributes:
      values: `(samples, units)`, finite, floating.
      rows: position of each in the flattened input, `(samples,)`.
      dropped: how many rows were left out for not being finite.
    """

    values: np.ndarray
    rows: np.ndarray
    dropped: int


class Frame(NamedTuple):
    """The privileged planes of a basis.

    Attributes:
      vectors: unit rows, `(vectors, units)`, float64.
      planes: indices (i, j) of the vectors that span each plane, `(planes, 2)`.
      cosine: g = b_i·b_j of each plane, `(planes,)`.
      skipped: pairs left out because they are parallel or antiparallel.
    """

    vectors: np.ndarray
    planes: np.ndarray
    cosine: np.ndarray
    skipped: int


class Accepted(NamedTuple):
    """Accepted samples of some planes, plane by plane, samples in input order.

    Attributes:
      points: in-plane coordinates (u, v), `(accepted, 2)`, in latent units.
      plane: row of `Frame.planes` of each point, `(accepted,)`.
      sample: row of `Samples.values` of each point, `(accepted,)`.
    """

    points: np.ndarray
    plane: np.ndarray
    sample: np.ndarray


def as_clouds(latents: Any) -> np.ndarray:
    """Reads latents of any array type as `(..., samples, units)`.

    Args:
      latents: array of real numbers, at least two-dimensional; of an xarray array the dimensions
        `sample` and `unit` may stand anywhere.

    Returns:
      The array, float32 unless the input is float64.

    Raises:
      InputError: not an array of real vectors.
    """
    if isinstance(latents, xr.DataArray):
        latents = latents.transpose(..., *[d for d in ("sample", "unit") if d in latents.dims])
    values = np.asarray(latents)
    real = np.issubdtype(values.dtype, np.number) or values.dtype == bool
    # Accelerators' narrow floats (bfloat16, float8) are no subtypes of NumPy's.
    real = (real and np.isrealobj(values)) or jnp.issubdtype(values.dtype, jnp.floating)
    if values.ndim < 2 or 0 in values.shape or not real:
        raise InputError(
            "latents", f"array of {values.dtype} {values.shape}", "must be real, (samples, units)"
        )
    return values if values.dtype in (np.float32, np.float64) else values.astype(np.float32)


def rescale(values: np.ndarray) -> tuple[np.ndarray, np.floating[Any]]:
    """Divides by the power of two below the largest entry, which rounds nothing.

    The kernel computes in float32 unless JAX is set to more, and float64 input need not fit.

    Args:
      values: floating, any shape; what is not finite has no say in the scale.

    Returns:
      `(values / scale, scale)`, in the dtype of `values`.
    """
    finite = np.abs(values[np.isfinite(values)])
    largest = float(finite.max()) if finite.size else 0.0
    power = np.clip(np.floor(np.log2(largest)), -1000, 1000) if largest > 0 else 0.0
    scale = values.dtype.type(2.0**power)
    return values / scale, scale


def as_samples(latents: Any, *, nonfinite: str = "raise") -> Samples:
    """Reads latents of any array type as a list of samples.

    Args:
      latents: `(..., units)`; an xarray array with a dimension `unit` may have it anywhere.
        All other axes are pooled.
      nonfinite: `raise`, or `drop` to leave out rows with a NaN or an infinity.

    Returns:
      The `Samples`, float32 unless the input is float64.

    Raises:
      InputError: not an array of real vectors, or rows that are not finite.
    """
    if nonfinite not in ("raise", "drop"):
        raise InputError("nonfinite", nonfinite, "must be 'raise' or 'drop'")
    values = as_clouds(latents)
    values = values.reshape(-1, values.shape[-1])
    finite = np.isfinite(values).all(axis=1)
    dropped = len(values) - int(np.count_nonzero(finite))
    if dropped and nonfinite == "raise":
        raise InputError(
            "latents",
            f"{dropped} of {len(values)} samples",
            "are not finite; remove them, or say nonfinite='drop'",
        )
    rows = np.flatnonzero(finite)
    return Samples(values[rows] if dropped else values, rows, dropped)


def build_frame(
    basis: Any,
    units: int,
    *,
    planes: str = "combinations",
    max_planes: int | None = None,
    seed: int = 0,
) -> Frame:
    """Lists the privileged planes of a basis.

    Args:
      basis: `(vectors, units)`, rows of any length but 0; None for the standard basis.
      units: width of the latents.
      planes: `combinations` (i < j) or `permutations` (both orders, which adds only the
        reflections of the first; METHOD §2).
      max_planes: keep so many planes, drawn without replacement; None for all.
      seed: of that draw.

    Returns:
      The `Frame`.

    Raises:
      InputError: a basis of the wrong shape, with a zero or non-finite row, or fewer than two
        directions; an unknown kind of planes; `max_planes` below 1.

    Example:
      >>> build_frame(None, 4).planes.shape
      (6, 2)
    """
    if units < 2:
        raise InputError("latents", f"{units} unit", "must have at least 2 units to span a plane")
    vectors = np.eye(units) if basis is None else np.asarray(basis, np.float64)
    if vectors.ndim != 2 or vectors.shape[1] != units:
        raise InputError("basis", f"array {vectors.shape}", f"must be (vectors, {units})")
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    if not (np.isfinite(length).all() and (length > 0).all()):
        raise InputError("basis", f"array {vectors.shape}", "has a zero or non-finite row")
    vectors = vectors / length
    if planes not in ("combinations", "permutations"):
        raise InputError("planes", planes, "must be 'combinations' or 'permutations'")
    if max_planes is not None and max_planes < 1:
        raise InputError("max_planes", max_planes, "must be at least 1")
    order = itertools.combinations if planes == "combinations" else itertools.permutations
    pairs = np.array(list(order(range(len(vectors)), 2)), dtype=np.int64).reshape(-1, 2)
    cosine = np.einsum("pn,pn->p", vectors[pairs[:, 0]], vectors[pairs[:, 1]])
    spans = 1 - cosine**2 >= MIN_SINE_SQUARED
    if not spans.any():
        raise InputError("basis", f"array {vectors.shape}", "spans no plane")
    pairs, cosine = pairs[spans], cosine[spans]
    if max_planes is not None and max_planes < len(pairs):
        rng = np.random.default_rng(seed)
        kept = np.sort(rng.choice(len(pairs), size=max_planes, replace=False))
        pairs, cosine = pairs[kept], cosine[kept]
    return Frame(vectors, pairs, cosine, skipped=int(np.count_nonzero(~spans)))


def check_epsilon(epsilon: float) -> float:
    """Returns `epsilon` if it is a cosine in [0, 1], and raises `InputError` if not."""
    if not 0 <= epsilon <= 1:
        raise InputError("epsilon", epsilon, "must lie in [0, 1]; it is a cosine")
    return float(epsilon)


def project_onto(vectors: jax.Array, values: jax.Array) -> jax.Array:
    """Returns each sample's direction projected onto each vector, `(vectors, samples)`.

    In full precision: accelerators would multiply in less by default, and move samples across ε.
    """
    return jnp.matmul(vectors, polar(values)[1].T, precision=jax.lax.Precision.HIGHEST)


def coordinates(
    projections: jax.Array, first: jax.Array, second: jax.Array, cosine: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Returns in-plane coordinates (u, v), each `(planes, samples)`, of METHOD §1.

    Args:
      projections: onto the unit basis vectors, `(vectors, samples)`.
      first: index i of each plane, `(planes,)`.
      second: index j of each plane, `(planes,)`.
      cosine: g of each plane, `(planes,)`.
    """
    u, other, g = projections[first], projections[second], cosine[:, None]
    return u, (other - g * u) / jnp.sqrt(1 - g * g)


@jax.jit
def _accept(
    values: jax.Array,
    vectors: jax.Array,
    first: jax.Array,
    second: jax.Array,
    cosine: jax.Array,
    epsilon: jax.Array,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Returns u, v and whether accepted, each `(planes, samples)`."""
    length = polar(values)[0]
    u, v = coordinates(project_onto(vectors, values), first, second, cosine)
    # A zero row has direction 0: it lies in no plane, not even at ε = 0.
    # A few rounding units of slack: on the threshold means accepted (and at two units, always).
    slack = 1 - 4 * float(jnp.finfo(u.dtype).eps)
    keep = (u * u + v * v >= slack * epsilon * epsilon) & (length.T > 0)
    return u * length.T, v * length.T, keep


def accepted_blocks(values: np.ndarray, frame: Frame, epsilon: float) -> Iterator[Accepted]:
    """Yields the accepted samples, a block of planes at a time.

    Args:
      values: `(samples, units)`.
      frame: the planes.
      epsilon: acceptance cosine.

    Yields:
      `Accepted` for consecutive blocks of `frame.planes`.
    """
    dtype = values.dtype
    vectors = frame.vectors.astype(dtype)
    values, scale = rescale(values)
    step = max(1, BLOCK_ELEMENTS // max(1, len(values)))
    for start in range(0, len(frame.planes), step):
        pairs = frame.planes[start : start + step]
        cosine = frame.cosine[start : start + step].astype(dtype)
        u, v, keep = _accept(
            values, vectors, pairs[:, 0], pairs[:, 1], cosine, np.asarray(epsilon, dtype)
        )
        plane, sample = np.nonzero(np.asarray(keep))
        points = np.stack([np.asarray(u)[plane, sample], np.asarray(v)[plane, sample]], axis=-1)
        yield Accepted(points.astype(dtype) * scale, plane + start, sample)


@jax.jit
def _acceptance(
    values: jax.Array,
    vectors: jax.Array,
    first: jax.Array,
    second: jax.Array,
    cosine: jax.Array,
    epsilon: jax.Array,
) -> jax.Array:
    """Returns the share of (plane, nonzero sample) pairs accepted, for each cloud of `values`."""

    def share(cloud: jax.Array) -> jax.Array:
        def count(plane: tuple[jax.Array, jax.Array, jax.Array]) -> jax.Array:
            i, j, g = (x[None] for x in plane)
            return jnp.sum(_accept(cloud, vectors, i, j, g, epsilon)[2], dtype=cloud.dtype)

        nonzero = jnp.sum(polar(cloud)[0] > 0, dtype=cloud.dtype)
        return jnp.mean(jax.lax.map(count, (first, second, cosine))) / nonzero

    return jax.lax.map(share, values)


def acceptance(latents: Any, *, basis: Any = None, epsilon: float = 0.85) -> np.ndarray:
    """Returns the accepted share of (plane, sample) pairs of each cloud of latents.

    Args:
      latents: `(..., samples, units)`; leading axes are separate clouds.
      basis: `(vectors, units)`, or None for the standard one.
      epsilon: acceptance cosine, in [0, 1].

    Returns:
      Array of the leading shape. Zero rows are excluded; a cloud of nothing else, or with a row
      that is not finite, gives NaN.

    Raises:
      InputError: as `build_frame` and `check_epsilon`.
    """
    values, _ = rescale(as_clouds(latents))
    frame = build_frame(basis, values.shape[-1])
    clouds = values.reshape(-1, *values.shape[-2:])
    dtype = values.dtype
    shares = _acceptance(
        clouds,
        frame.vectors.astype(dtype),
        frame.planes[:, 0],
        frame.planes[:, 1],
        frame.cosine.astype(dtype),
        np.asarray(check_epsilon(epsilon), dtype),
    )
    finite = np.isfinite(clouds).all(axis=(1, 2))
    return np.where(finite, shares, np.nan).reshape(values.shape[:-2])
