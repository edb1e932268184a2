"""Views of latents other than PPP: PCA, t-SNE and UMAP, and the agreement of their clusters.

t-SNE and UMAP use distances alone, which a rotation of the latents does not change, so they cannot
show whether a cloud is aligned with a basis. (A rotation leaves t-SNE's points where they are;
UMAP's layout may change by chance.) PPP shows alignment, and misses samples that lie near no
privileged plane (docs/method.md §12).
"""

from __future__ import annotations

import importlib.util
import warnings
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ppp_jax.analysis import io, projection
from ppp_jax.errors import InputError, lookup, seeded, whole

if TYPE_CHECKING:
    from ppp_jax.analysis.io.sources import Latents
    from ppp_jax.analysis.projection.planes import BasisLike

METHODS = ("pca", "tsne", "umap")
PERPLEXITY = 30.0  # This is scikit-learn's default of t-SNE; few samples get a smaller one.
NEIGHBOURS = 15  # This is UMAP's default.
LEAST_SAMPLES = 10
LEAST_CLUSTER = 0.02  # A cluster has at least this fraction of the samples.
NO_CLUSTER = -1


def embed(latents: Latents, *, method: str, embedding_seed: int = 0) -> np.ndarray:
    """Embeds latents in two dimensions.

    Args:
      latents: Finite latents, `(samples, units)`, of at least 10 samples.
      method: `pca`, `tsne` (scikit-learn's, started from PCA) or `umap`, which needs `umap-learn`.
      embedding_seed: Seed of the embedding.

    Returns:
      The coordinates of the samples, `(samples, 2)`, float64.

    Raises:
      InputError: The method is unknown or not installed, or the latents are no finite matrix of
        at least 10 samples.
    """
    lookup(dict.fromkeys(METHODS), method, field="method")
    embedding_seed = seeded(embedding_seed, field="embedding_seed")
    x = _matrix(latents)
    if method == "pca":
        return _pca(x)
    if method == "tsne":
        from sklearn.manifold import TSNE  # All else works without scikit-learn.
        from threadpoolctl import threadpool_limits

        view = TSNE(
            perplexity=min(PERPLEXITY, (len(x) - 1) / 3),
            init=_pca_start(x),
            random_state=embedding_seed,
        )
        with threadpool_limits(limits=1):  # Several threads add in any order.
            return np.asarray(view.fit_transform(x), np.float64)
    return _umap(x, embedding_seed)


def _umap(x: np.ndarray, embedding_seed: int) -> np.ndarray:
    if importlib.util.find_spec("umap") is None:
        raise InputError("method", "umap", "needs umap-learn: pip install 'ppp_jax[umap]'")
    with warnings.catch_warnings():
        # UMAP warns that TensorFlow is missing, which only parametric UMAP needs.
        warnings.simplefilter("ignore", ImportWarning)
        from umap import UMAP
    neighbours = min(NEIGHBOURS, len(x) - 1)
    reducer = UMAP(
        n_neighbors=neighbours, init=_pca_start(x), random_state=embedding_seed, n_jobs=1
    )
    return np.asarray(reducer.fit_transform(x), np.float64)


def _matrix(latents: Any, *, field: str = "latents") -> np.ndarray:
    x = io.sources.numbers(field, latents, dimensions=2)
    if len(x) < LEAST_SAMPLES or not x.shape[1] or not np.isfinite(x).all():
        problem = "must be a finite matrix, with a row per sample, of at least 10 samples"
        raise InputError(field, x.shape, problem)
    return x


def _pca(x: np.ndarray) -> np.ndarray:
    """Returns the first two principal components, with signs that make third moments positive."""
    centred = x - x.mean(axis=0)
    u, s, _ = np.linalg.svd(centred, full_matrices=False)
    components = u[:, :2] * s[:2]
    if components.shape[1] < 2:
        components = np.pad(components, ((0, 0), (0, 1)))
    skewed: np.ndarray = components * np.where((components**3).sum(axis=0) < 0, -1, 1)
    return skewed


def _pca_start(x: np.ndarray) -> np.ndarray:
    """Returns PCA at the small scale that t-SNE and UMAP start from.

    A rotation of the samples does not change this start.
    """
    start = _pca(x)
    scale = start[:, 0].std()
    return (start / (scale if scale > 0 else 1) * 1e-4).astype(np.float32)


def find_clusters(points: Any, *, least: int | None = None) -> np.ndarray:
    """Finds clusters of any number and shape by HDBSCAN.

    Args:
      points: Finite points, `(samples, dimensions)`, of at least 10 samples.
      least: Least number of samples of a cluster; by default 2 % of the samples, at least 5.

    Returns:
      The number of each sample's cluster, `(samples,)`, or −1 for samples in no cluster.

    Raises:
      InputError: The points are no finite matrix of at least 10 samples, or `least` is below 2 or
        above the number of samples.
    """
    from sklearn.cluster import HDBSCAN  # All else works without scikit-learn.

    x = _matrix(points, field="points")
    least = max(5, round(LEAST_CLUSTER * len(x))) if least is None else least
    size = whole("least", least, least=2, most=len(x))
    return np.asarray(HDBSCAN(min_cluster_size=size, copy=True).fit_predict(x))


class Agreement(NamedTuple):
    """The agreement of two groupings of the same samples.

    Attributes:
      information: Adjusted mutual information over the samples that have a group in both. It is 1
        if the groupings agree, 0 in expectation if they are independent, and NaN if either has
        fewer than two groups.
      fraction: Fraction of samples that have a group in both, or NaN if there are no samples.
      overall: Adjusted mutual information over all samples, of which those without a group form
        one more group.
    """

    information: float
    fraction: float
    overall: float


def agreement(a: np.ndarray, b: np.ndarray) -> Agreement:
    """Compares two groupings by their adjusted mutual information.

    Args:
      a: Number of each sample's group in the first grouping, `(samples,)`; −1 for no group.
      b: Number of each sample's group in the second grouping, `(samples,)`; −1 for no group.

    Raises:
      InputError: The two differ in length, or their entries are not whole numbers.
    """
    from sklearn.metrics import adjusted_mutual_info_score

    a, b = (io.sources.numbers(name, x, dimensions=1) for name, x in (("a", a), ("b", b)))
    if a.shape != b.shape:
        raise InputError("a", a.shape, f"must have the same length as b, {b.shape}")
    for name, x in (("a", a), ("b", b)):
        if not np.array_equal(x, np.round(x)):
            raise InputError(
                name, f"array {x.shape}", "must hold whole numbers of groups, with -1 for no group"
            )
    both = (a != NO_CLUSTER) & (b != NO_CLUSTER)
    fraction = float(both.mean()) if both.size else float("nan")

    def information(a: np.ndarray, b: np.ndarray) -> float:
        grouped = min(len(np.unique(x)) for x in (a, b)) > 1
        return float(adjusted_mutual_info_score(a, b)) if grouped else float("nan")

    return Agreement(information(a[both], b[both]), fraction, information(a, b))


class PlaneView(NamedTuple):
    """The samples near the privileged plane that accepts the most.

    Attributes:
      sample: Indices of the accepted samples, `(accepted,)`.
      points: Their in-plane coordinates u and v in latent units, `(accepted, 2)`.
      plane: Indices of the two basis vectors that span the plane.
    """

    sample: np.ndarray
    points: np.ndarray
    plane: tuple[int, int]


def fullest_plane(latents: Latents, *, basis: BasisLike = None, epsilon: float = 0.85) -> PlaneView:
    """Projects latents onto the privileged plane that accepts the most samples.

    Args:
      latents: Latents, `(samples, units)`.
      basis: Privileged vectors, `(vectors, units)`, or the name of a basis; None for the standard
        basis.
      epsilon: Acceptance cosine ε, in [0, 1].

    Returns:
      The `PlaneView`, which is empty if no plane accepts any sample.

    Raises:
      InputError: An argument is out of its range; the error names it.
    """
    counted = projection.points.count_planes(latents, basis=basis, epsilon=epsilon)
    fullest = projection.points.top_planes(counted, 1).isel(plane=0)
    vectors = (int(fullest["first"]), int(fullest["second"]))
    if not fullest["counts"].any():
        return PlaneView(np.zeros(0, int), np.zeros((0, 2)), vectors)
    projected = projection.points.project(latents, basis=basis, epsilon=epsilon)
    here = projected["plane"].values == int(fullest["row"])
    return PlaneView(projected["sample"].values[here], projected["points"].values[here], vectors)


def difference(a: np.ndarray, b: np.ndarray) -> float:
    """Returns the Procrustes disparity of two embeddings.

    Position, size, rotation and reflection do not count.

    Args:
      a: Coordinates of the samples in the first embedding, `(samples, 2)`.
      b: Coordinates of the samples in the second embedding, `(samples, 2)`.

    Returns:
      The fraction of the variance of one embedding that the best match to the other leaves
      unexplained; it is 0 if the two are the same.

    Raises:
      InputError: The two differ in shape, or one is not finite or does not vary.
    """
    from scipy.spatial import procrustes

    first, second = (io.sources.numbers(name, x, dimensions=2) for name, x in (("a", a), ("b", b)))
    for name, x in (("a", first), ("b", second)):
        if x.shape != first.shape or not np.isfinite(x).all() or len(np.unique(x, axis=0)) < 2:
            raise InputError(
                name,
                x.shape,
                "must be finite, must vary, and must have the shape of the other embedding",
            )
    return float(procrustes(first, second)[2])
