"""Is a cloud concentrated on few places: along the axes, or anywhere (docs/method.md §8)?

Along the axes Hartigan's dip tells levels from a unimodal law, vector by vector. Anywhere, the
depth of the deepest valley of the density between two groups of samples tells clusters from one
curved or stretched piece. Neither is moved by the covariance, nor by heavy tails.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import scipy  # its parts are imported when they are first used

from ppp_jax.analysis.io.sources import Latents, PerCloud, as_clouds, labelled_like, rescale
from ppp_jax.analysis.statistics.neighbours import draw_elliptical
from ppp_jax.analysis.statistics.views import present
from ppp_jax.errors import InputError, seeded, whole

DIP_SAMPLES = 2048  # of each cloud, for the dips under many rotations
LEVEL = 0.05  # of one vector's own dip test
ROUNDING = 8  # units in the last place of the largest projection, within which nothing varies
NEIGHBOUR = 8  # of a sample: the distance to it says how thin the density is there
LEAST_GROUP, LEAST_FRACTION = 10, 0.01  # of the samples: smaller groups are no peaks
SIGNIFICANT = 2.0  # nats: four standard errors, √(2/8), of a difference of two log-densities
LOWEST = 0.9  # of the ratios of neighbour distances, from which the dimension is found
REFERENCES = 3  # draws of the elliptical reference
MOST_SAMPLES = 6000


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
    latents: Latents, *, max_samples: int = MOST_SAMPLES, reference_seed: int = 0
) -> Peaks:
    """Finds the peaks of the density of a cloud, and the deepest valley between two of them.

    Samples are joined by single linkage of their mutual-reachability distances
    max(‖x − y‖, core(x), core(y)), where the core distance is that to the eighth neighbour. Where
    two groups of at least 10 samples and 1 % of them meet at a height h, the valley between them is
    d̂ · ln(h / c) deep, where c is the larger of their median core distances and d̂ the intrinsic
    dimension (Facco et al. 2017, "Estimating the intrinsic dimension of datasets by a minimal
    neighborhood information"). Exact duplicates are left out. On the clouds of docs/method.md §13
    continuous laws stay below 1 nat and clusters lie above 3; hypercube corners of many units are
    not seen, since few samples share a corner: for these there is the dip.

    Args:
      latents: `(..., samples, units)`; leading axes are separate clouds.
      max_samples: The largest number of samples that are looked at; of larger clouds so many are
        drawn. Time and memory are quadratic in it.
      reference_seed: Seed of the draws of samples and of the reference.

    Returns:
      `Peaks` of the leading shape, labelled if the latents are; NaN for a cloud that is not finite
      or has fewer than 20 different samples.

    Raises:
      InputError: An argument is out of its range; the error names it.

    Example:
      >>> rng = np.random.default_rng(0)
      >>> two = 9 * rng.integers(2, size=(300, 1)) + rng.normal(size=(300, 3))
      >>> int(density_peaks(two).number)
      2
    """
    whole("max_samples", max_samples, least=2 * LEAST_GROUP)
    seeded(reference_seed, field="reference_seed")
    values, _ = rescale(as_clouds(latents))
    clouds = values.reshape(-1, *values.shape[-2:]).astype(np.float64)
    found = [_peaks(x, max_samples, np.random.default_rng(reference_seed)) for x in clouds]
    columns = np.array(found, np.float64).reshape(*values.shape[:-2], len(Peaks._fields))
    return Peaks(*(labelled_like(latents, columns[..., k]) for k in range(len(Peaks._fields))))


def _peaks(
    cloud: np.ndarray, max_samples: int, rng: np.random.Generator
) -> tuple[float, float, float, float]:
    missing = (np.nan,) * 4
    if not np.isfinite(cloud).all():
        return missing
    samples = np.unique(cloud[present(cloud)], axis=0)
    if len(samples) > max_samples:
        samples = samples[np.sort(rng.choice(len(samples), max_samples, replace=False))]
    if len(samples) < 2 * LEAST_GROUP:
        return missing
    valleys, dimension = _valleys(samples)
    references = [
        max(_valleys(draw_elliptical(samples, rng))[0], default=0.0) for _ in range(REFERENCES)
    ]
    number = 1.0 + sum(depth > SIGNIFICANT for depth in valleys)
    return number, max(valleys, default=0.0), float(np.mean(references)), dimension


def _valleys(samples: np.ndarray) -> tuple[list[float], float]:
    """Returns the depth of every valley, and the dimension, of samples that all differ."""
    apart = scipy.spatial.distance.cdist(samples, samples)
    nearest = np.partition(apart, (1, 2, NEIGHBOUR), axis=1)
    core, dimension = nearest[:, NEIGHBOUR], _dimension(nearest[:, 1], nearest[:, 2])
    reach = np.maximum(apart, np.maximum(core[:, None], core))
    np.fill_diagonal(reach, 0)
    condensed = scipy.spatial.distance.squareform(reach, checks=False)
    linkage = scipy.cluster.hierarchy.linkage(condensed, "single")
    least = max(LEAST_GROUP, LEAST_FRACTION * len(samples))
    depths = [
        max(0.0, dimension * float(np.log(height / max(np.median(core[a]), np.median(core[b])))))
        for a, b, height in _merges(linkage, len(samples))
        if min(len(a), len(b)) >= least
    ]
    return depths, dimension


def _merges(linkage: np.ndarray, samples: int) -> Iterator[tuple[list[int], list[int], float]]:
    """Yields the two groups that each merge joins, and its height."""
    groups = {k: [k] for k in range(samples)}
    for k, (first, second, height, _) in enumerate(linkage):
        a, b = groups.pop(int(first)), groups.pop(int(second))
        yield a, b, height
        small, large = sorted((a, b), key=len)
        groups[samples + k] = large + small


def _dimension(first: np.ndarray, second: np.ndarray) -> float:
    """Returns the slope through the origin of −ln(1 − F) on ln(r2/r1), its lowest 90 %."""
    ratio = np.sort(np.log(second / first))
    count = int(LOWEST * len(ratio))
    x, y = ratio[:count], -np.log1p(-np.arange(1, count + 1) / len(ratio))
    return float(x @ y / (x @ x)) if x.any() else 0.0


def dips(onto: np.ndarray) -> dict[str, float]:
    """Measures the levels of projections, vector by vector (Hartigan and Hartigan 1985).

    Args:
      onto: The projections of the samples onto each vector, `(vectors, samples)`.

    Returns:
      `axis_quantisation`, the mean over the vectors of the dip, the distance between the empirical
      distribution and the nearest unimodal one; and `quantised_fraction`, the fraction of vectors
      whose own dip test has p < .05. The dip is about 1/(2·samples) or more for any law. Vectors
      along which nothing varies have no dip and are left out; NaN where nothing varies at all.
    """
    try:
        import diptest  # compiled; only who asks for a dip needs it
    except ImportError as error:
        problem = "need diptest to be measured: pip install diptest"
        raise InputError("statistics", "dips", problem) from error

    ordered = np.sort(onto, axis=1)
    rounding = ROUNDING * np.finfo(onto.dtype).eps * max(-ordered[:, 0].min(), ordered[:, -1].max())
    varying = ordered[ordered[:, -1] - ordered[:, 0] > rounding].astype(np.float64)
    if not len(varying):
        return {"axis_quantisation": np.nan, "quantised_fraction": np.nan}
    table = np.array([diptest.diptest(one, sort_x=False) for one in varying])
    return {
        "axis_quantisation": float(table[:, 0].mean()),
        "quantised_fraction": float((table[:, 1] < LEVEL).mean()),
    }
