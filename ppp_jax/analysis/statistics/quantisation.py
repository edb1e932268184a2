"""Is a cloud concentrated on few places: along the axes, or anywhere (docs/method.md §8)?

Along the axes Hartigan's dip tells levels from a unimodal law, vector by vector. Anywhere, the
depth of the deepest valley of the density between two groups of samples tells clusters from one
curved or stretched piece. Neither is moved by the covariance, nor by heavy tails.
"""

import bisect
from collections.abc import Iterator
from types import ModuleType
from typing import NamedTuple

import numpy as np
import scipy  # its parts are imported when they are first used

from ppp_jax.analysis.io.rows import RAISE, sampled
from ppp_jax.analysis.io.sources import Latents, PerCloud, labelled_like, rescale
from ppp_jax.analysis.projection.planes import BasisLike, resolve_basis
from ppp_jax.analysis.projection.views import present
from ppp_jax.analysis.statistics.neighbours import (
    DRAWS,
    MOST_SAMPLES,
    count_repeated,
    different,
    draw_elliptical,
    finite,
)
from ppp_jax.errors import InputError, seeded, whole
from ppp_jax.resources import on_cores

DIP_SAMPLES = 2048  # of each cloud, for the dips under many rotations
DIP_VECTORS = 256  # of each wide basis, likewise
LEVEL = 0.05  # of one vector's own dip test
ROUNDING = 8  # units in the last place of what a projection adds up, within which nothing varies
NEIGHBOUR = 8  # of a sample: the distance to it says how thin the density is there
LEAST_GROUP, LEAST_FRACTION = 10, 0.01  # of the samples: smaller groups are no peaks
SIGNIFICANT = 2.0  # nats: four standard errors, √(2/8), of a difference of two log-densities
LOWEST = 0.9  # of the ratios of neighbour distances, from which the dimension is found


class Peaks(NamedTuple):
    """How the density of a cloud is divided.

    Attributes:
      number: The significant peaks: 1, and one for each valley deeper than 2 nats.
      depth: The deepest valley between two groups of samples, in nats of density; 0 if there are
        no two groups.
      reference: The same depth of clouds with the same covariance and lengths in random directions,
        the mean of three draws.
      dimension: The intrinsic dimension of the cloud, by the distances to two neighbours.
    """

    number: PerCloud
    depth: PerCloud
    reference: PerCloud
    dimension: PerCloud


def density_peaks(
    latents: Latents,
    *,
    max_samples: int = MOST_SAMPLES,
    reference_seed: int = 0,
    nonfinite: str = RAISE,
    drop_outliers: float | None = None,
) -> Peaks:
    """Finds the peaks of the density of a cloud, and the deepest valley between two of them.

    Samples are joined by single linkage of their mutual-reachability distances
    max(‖x − y‖, core(x), core(y)), where the core distance is that to the eighth neighbour. Where
    two groups of at least 10 samples and 1 % of them meet at a height h, the valley between them is
    d̂ · ln(h / c) deep, where c is the larger of their median core distances and d̂ the intrinsic
    dimension (Facco et al. 2017, "Estimating the intrinsic dimension of datasets by a minimal
    neighborhood information"). Rows of zeros and repetitions of a row are left out. On the clouds
    of docs/method.md §13 continuous laws stay below 1 nat and clusters lie above 3; hypercube
    corners of many units are not seen, since few samples share a corner: for these there is the
    dip.

    Args:
      latents: `(..., samples, units)`; leading axes are separate clouds.
      max_samples: The largest number of samples that are looked at; of larger clouds so many are
        drawn. Time and memory are quadratic in it.
      reference_seed: Seed of the draws of samples and of the reference.
      nonfinite: What to do about rows that are not finite: `raise` or `drop`.
      drop_outliers: Rows longer than so many times the median are left out; None keeps them.

    Returns:
      `Peaks` of the leading shape, labelled if the latents are, with the counts of rows as
      attributes; NaN for a cloud without any finite row, or of fewer than 20 different samples.

    Raises:
      InputError: An argument is out of its range, or rows are not finite; the error names it.

    Warns:
      RepeatedRowWarning: Some rows are copies of others.

    Example:
      >>> rng = np.random.default_rng(0)
      >>> two = 9 * rng.integers(2, size=(300, 1)) + rng.normal(size=(300, 3))
      >>> int(density_peaks(two).number)
      2
    """
    whole("max_samples", max_samples, least=2 * LEAST_GROUP)
    seeded(reference_seed, field="reference_seed")
    kept, rows = sampled(latents, nonfinite=nonfinite, drop_outliers=drop_outliers)
    values, _ = rescale(kept)
    clouds = values.reshape(-1, *values.shape[-2:])
    columns = _all_peaks(clouds, max_samples, reference_seed).reshape(
        *values.shape[:-2], len(Peaks._fields)
    )
    attributes = {**rows, "rows_duplicate": count_repeated(clouds, rows["rows"])}
    parts = (columns[..., k] for k in range(len(Peaks._fields)))
    return Peaks(*(labelled_like(latents, part, attributes) for part in parts))


def peaks_of(clouds: np.ndarray, *, max_samples: int) -> dict[str, np.ndarray]:
    """Returns what the registry measures of the peaks of clouds, by name.

    Args:
      clouds: `(clouds, samples, units)`.
      max_samples: Of larger clouds so many are drawn.
    """
    found = _all_peaks(rescale(clouds)[0], max_samples, reference_seed=0)
    fields = {"peaks": "number", "valley_depth": "depth", "valley_depth_elliptical": "reference"}
    return {name: found[:, Peaks._fields.index(field)] for name, field in fields.items()}


def _all_peaks(clouds: np.ndarray, max_samples: int, reference_seed: int) -> np.ndarray:
    """Returns the fields of `Peaks` of every cloud, `(clouds, fields)`."""

    def measure(cloud: np.ndarray) -> tuple[float, ...]:
        return _peaks(cloud, max_samples, np.random.default_rng(reference_seed))

    return np.array(on_cores(measure, clouds), np.float64).reshape(-1, len(Peaks._fields))


def _peaks(
    cloud: np.ndarray, max_samples: int, rng: np.random.Generator
) -> tuple[float, float, float, float]:
    samples = different(cloud) if finite(cloud) else np.empty((0, 1))
    if len(samples) > max_samples:
        samples = samples[np.sort(rng.choice(len(samples), max_samples, replace=False))]
    if len(samples) < 2 * LEAST_GROUP:
        return (np.nan,) * 4
    valleys, dimension = _valleys(samples)
    references = [
        max(_valleys(draw_elliptical(samples, rng))[0], default=0.0) for _ in range(DRAWS)
    ]
    number = 1.0 + sum(depth > SIGNIFICANT for depth in valleys)
    return number, max(valleys, default=0.0), float(np.mean(references)), dimension


def _valleys(samples: np.ndarray) -> tuple[list[float], float]:
    """Returns the depth of every valley, and the dimension, of samples that all differ."""
    apart = scipy.spatial.distance.pdist(samples)
    square = scipy.spatial.distance.squareform(apart, checks=False)
    nearest = np.partition(square, NEIGHBOUR, axis=1)[:, : NEIGHBOUR + 1]
    nearest.sort(axis=1)
    core, dimension = nearest[:, NEIGHBOUR], _dimension(nearest[:, 1], nearest[:, 2])
    thinner = np.maximum.outer(core, core, out=square)
    reach = np.maximum(apart, scipy.spatial.distance.squareform(thinner, checks=False), out=apart)
    linkage = scipy.cluster.hierarchy.linkage(reach, "single")
    least = max(LEAST_GROUP, LEAST_FRACTION * len(samples))
    depths = [
        max(0.0, dimension * float(np.log(height / max(np.median(core[a]), np.median(core[b])))))
        for a, b, height in _merges(linkage, len(samples), least)
    ]
    return depths, dimension


def _merges(
    linkage: np.ndarray, samples: int, least: float
) -> Iterator[tuple[np.ndarray, np.ndarray, float]]:
    """Yields the two groups that each merge of two large ones joins, and its height.

    The leaves of a tree can be ordered so that every group is a run of neighbours: the groups of a
    merge are then found without walking down to their samples.
    """
    pairs = linkage[:, :2].astype(int)
    size = np.concatenate([np.ones(samples, int), linkage[:, 3].astype(int)])
    start, sizes = [0] * len(size), size.tolist()  # lists: arrays are slow, number by number
    for k, (first, second) in reversed(list(enumerate(pairs.tolist()))):
        start[first] = start[samples + k]
        start[second] = start[first] + sizes[first]
    leaves = np.argsort(start[:samples])
    for k in np.flatnonzero(size[pairs].min(axis=1) >= least):
        a, b = (leaves[start[one] : start[one] + sizes[one]] for one in pairs[k])
        yield a, b, float(linkage[k, 2])


def _dimension(first: np.ndarray, second: np.ndarray) -> float:
    """Returns the slope through the origin of −ln(1 − F) on ln(r2/r1), its lowest 90 %."""
    ratio = np.sort(np.log(second / first))
    count = int(LOWEST * len(ratio))
    x, y = ratio[:count], -np.log1p(-np.arange(1, count + 1) / len(ratio))
    return float(x @ y / (x @ x)) if x.any() else 0.0


def axis_quantisation(
    latents: Latents,
    *,
    basis: BasisLike = None,
    nonfinite: str = RAISE,
    drop_outliers: float | None = None,
) -> PerCloud:
    """Returns the mean over basis vectors of Hartigan's dip of the projections.

    It says how far the projections are from having one peak: levels along the vectors raise it.
    It depends on the number of samples and on their law, so that its reference is the rotation null
    (`rotation_test` with `statistics=["axis_quantisation"]`).

    Args:
      latents: `(..., samples, units)`; leading axes are separate clouds. Rows of zeros are left
        out.
      basis: The privileged vectors, `(vectors, units)`, or a name; None means the standard basis.
      nonfinite: What to do about rows that are not finite: `raise` or `drop`.
      drop_outliers: Rows longer than so many times the median are left out; None keeps them.

    Returns:
      Array of the leading shape, labelled if the latents are, with the counts of rows as
      attributes; NaN for a cloud without any finite row, or of fewer than 2 rows.

    Raises:
      InputError: An argument is out of its range, or rows are not finite; the error names it.

    Example:
      >>> rng = np.random.default_rng(0)
      >>> signs = np.sign(rng.normal(size=(500, 3))) + 0.1 * rng.normal(size=(500, 3))
      >>> round(float(axis_quantisation(signs)), 2)
      0.18
    """
    kept, rows = sampled(latents, nonfinite=nonfinite, drop_outliers=drop_outliers)
    values, _ = rescale(kept)
    frame = resolve_basis(basis, values.shape[-1])
    vectors = np.eye(frame.size) if frame.vectors is None else frame.vectors
    found = []
    for cloud in values.reshape(-1, *values.shape[-2:]):
        samples = cloud[present(cloud)] if finite(cloud) else cloud[:0]
        found.append(mean_dip(project(samples, vectors)) if len(samples) > 1 else np.nan)
    return labelled_like(latents, np.array(found).reshape(values.shape[:-2]), rows)


def drawn_for_dips(samples: np.ndarray) -> np.ndarray:
    """Returns at most 2,048 of the samples, the same of equal numbers of samples.

    Args:
      samples: `(samples, units)`.
    """
    if len(samples) <= DIP_SAMPLES:
        return samples
    rng = np.random.default_rng(0)
    return samples[np.sort(rng.choice(len(samples), DIP_SAMPLES, replace=False))]


def project(samples: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    """Returns the projections of samples onto vectors, and 0 along those where nothing varies.

    What is left there is rounding, in proportion to the entries that a projection adds up.

    Args:
      samples: `(samples, units)`, at least one.
      vectors: `(vectors, units)`.

    Returns:
      `(vectors, samples)`, in the samples' precision.
    """
    onto: np.ndarray = vectors.astype(samples.dtype) @ samples.T
    added = np.abs(vectors) @ np.abs(samples).max(axis=0)
    onto[np.ptp(onto, axis=1) <= ROUNDING * np.finfo(samples.dtype).eps * added] = 0
    return onto


def mean_dip(onto: np.ndarray) -> float:
    """Returns the mean over vectors of Hartigan's dip of the projections (Hartigan 1985).

    The dip is the distance between the empirical distribution and the nearest unimodal one. It is
    about 1/(2·samples) or more for any law.

    Args:
      onto: The projections of the samples onto each vector, `(vectors, samples)`. Vectors along
        which nothing varies have no dip and are left out.

    Returns:
      The mean; NaN where nothing varies at all.
    """
    dip = _diptest().dipstat
    each = [dip(one, sort_x=False) for one in _varying(onto)]
    return float(np.mean(each)) if each else float("nan")


def dipped_fraction(onto: np.ndarray) -> float:
    """Returns the fraction of vectors whose own dip test has p < .05.

    Args:
      onto: The projections of the samples onto each vector, `(vectors, samples)`. Vectors along
        which nothing varies have no dip and are left out.

    Returns:
      The fraction; NaN where nothing varies at all.
    """
    varying = _varying(onto)
    if not len(varying):
        return float("nan")
    order = np.argsort([_diptest().dipstat(one, sort_x=False) for one in varying])
    # Of as many samples p falls with the dip: a few tests find where it crosses the level.
    dipped = bisect.bisect_left(
        range(len(order)), True,
        key=lambda k: bool(_diptest().diptest(varying[order[k]], sort_x=False)[1] < LEVEL),
    )  # fmt: skip
    return 1 - dipped / len(order)


def _varying(onto: np.ndarray) -> np.ndarray:
    """Returns the sorted projections onto each vector along which something varies, float64."""
    ordered = np.sort(onto, axis=1).astype(np.float64)
    found: np.ndarray = ordered[ordered[:, 0] < ordered[:, -1]]
    return found


def _diptest() -> ModuleType:
    """Returns the package, which is compiled: only who asks for a dip needs it."""
    try:
        import diptest
    except ImportError as error:
        problem = "need diptest to be measured: pip install diptest"
        raise InputError("statistics", "dips", problem) from error
    module: ModuleType = diptest
    return module
