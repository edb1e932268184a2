"""Other views of latents beside PPP: PCA, t-SNE, UMAP, and how far their clusters agree.

t-SNE and UMAP see distances alone, which turning the latents does not change, so whether a cloud is
aligned with a basis cannot be seen in them (t-SNE's points stay where they are; UMAP's layout can
differ all the same, by chance). PPP sees alignment, and misses what lies
in no privileged plane (docs/method.md §2).
"""

import importlib.util
import warnings
from typing import Any, NamedTuple

import numpy as np

from ppp_jax.analysis.io.sources import Latents, numbers
from ppp_jax.analysis.projection.planes import BasisLike
from ppp_jax.analysis.projection.points import count_planes, project, top_planes
from ppp_jax.errors import InputError, lookup, seeded, whole

METHODS = ("pca", "tsne", "umap")
PERPLEXITY = 30.0  # of t-SNE, its authors' and scikit-learn's default; less for few samples
NEIGHBOURS = 15  # of UMAP, its default
LEAST_SAMPLES = 10
LEAST_CLUSTER = 0.02  # fraction of the samples that make a cluster
NO_CLUSTER = -1


def embed(latents: Latents, *, method: str, embedding_seed: int = 0) -> np.ndarray:
    """Embeds latents in two dimensions.

    Args:
      latents: `(samples, units)`, at least 10 samples.
      method: `pca`, `tsne` (scikit-learn's, started from PCA) or `umap` (needs `umap-learn`).
      embedding_seed: Seed of the embedding.

    Returns:
      `(samples, 2)`.

    Raises:
      InputError: an unknown method or one that is not installed, or no finite matrix.
    """
    lookup(dict.fromkeys(METHODS), method, field="method")
    embedding_seed = seeded(embedding_seed, field="embedding_seed")
    x = _matrix(latents)
    if method == "pca":
        return _pca(x)
    if method == "tsne":
        from sklearn.manifold import TSNE  # the analysis works without scikit-learn until here
        from threadpoolctl import threadpool_limits

        view = TSNE(
            perplexity=min(PERPLEXITY, (len(x) - 1) / 3),
            init=_pca_start(x),
            random_state=embedding_seed,
        )
        with threadpool_limits(limits=1):  # threads add in any order, and wait for each other
            return np.asarray(view.fit_transform(x), np.float64)
    return _umap(x, embedding_seed)


def _umap(x: np.ndarray, embedding_seed: int) -> np.ndarray:
    if importlib.util.find_spec("umap") is None:
        raise InputError("method", "umap", "needs umap-learn: pip install 'ppp_jax[umap]'")
    with warnings.catch_warnings():
        # It tells that TensorFlow, which only its parametric kind needs, is not there.
        warnings.simplefilter("ignore", ImportWarning)
        from umap import UMAP
    neighbours = min(NEIGHBOURS, len(x) - 1)
    reducer = UMAP(
        n_neighbors=neighbours, init=_pca_start(x), random_state=embedding_seed, n_jobs=1
    )
    return np.asarray(reducer.fit_transform(x), np.float64)


def _matrix(latents: Any, *, field: str = "latents") -> np.ndarray:
    x = numbers(field, latents, dimensions=2)
    if len(x) < LEAST_SAMPLES or not x.shape[1] or not np.isfinite(x).all():
        problem = "must be finite, of shape (samples, units), of ten samples or more"
        raise InputError(field, x.shape, problem)
    return x


def _pca(x: np.ndarray) -> np.ndarray:
    """Returns the first two principal components; signs make each one's third moment positive."""
    centred = x - x.mean(axis=0)
    u, s, _ = np.linalg.svd(centred, full_matrices=False)
    components = u[:, :2] * s[:2]
    if components.shape[1] < 2:
        components = np.pad(components, ((0, 0), (0, 1)))
    skewed: np.ndarray = components * np.where((components**3).sum(axis=0) < 0, -1, 1)
    return skewed


def _pca_start(x: np.ndarray) -> np.ndarray:
    """Returns PCA at the small scale that t-SNE and UMAP start from; rotations do not change it."""
    start = _pca(x)
    scale = start[:, 0].std()
    return (start / (scale if scale > 0 else 1) * 1e-4).astype(np.float32)


def find_clusters(points: Any, *, least: int | None = None) -> np.ndarray:
    """Finds clusters of any number and shape (HDBSCAN).

    Args:
      points: `(samples, dimensions)`.
      least: samples that make a cluster; by default 2 % of them, at least 5.

    Returns:
      `(samples,)`: the number of each sample's cluster, −1 for none.

    Raises:
      InputError: points that are no finite matrix, or `least` below 2.
    """
    from sklearn.cluster import HDBSCAN  # the analysis works without scikit-learn until here

    x = _matrix(points, field="points")
    least = max(5, round(LEAST_CLUSTER * len(x))) if least is None else least
    size = whole("least", least, least=2, most=len(x))
    return np.asarray(HDBSCAN(min_cluster_size=size, copy=True).fit_predict(x))


class Agreement(NamedTuple):
    """How far two groupings of the same samples agree.

    Attributes:
      information: adjusted mutual information of the samples that both group: 1 if they agree, 0
        in expectation if one tells nothing of the other; NaN if either has fewer than two groups.
      fraction: of samples that both group, or NaN of no samples.
      overall: the same information of all samples, those without a group being one more group.
    """

    information: float
    fraction: float
    overall: float


def agreement(a: np.ndarray, b: np.ndarray) -> Agreement:
    """Compares two groupings.

    Args:
      a: `(samples,)`, a number per group, −1 for none.
      b: likewise.

    Raises:
      InputError: their lengths differ, or they are no numbers of groups.
    """
    from sklearn.metrics import adjusted_mutual_info_score

    a, b = (numbers(name, x, dimensions=1) for name, x in (("a", a), ("b", b)))
    if a.shape != b.shape:
        raise InputError("a", a.shape, f"must have one length with b, {b.shape}")
    for name, x in (("a", a), ("b", b)):
        if not np.array_equal(x, np.round(x)):
            raise InputError(name, f"array {x.shape}", "must number the groups; -1 for none")
    both = (a != NO_CLUSTER) & (b != NO_CLUSTER)
    fraction = float(both.mean()) if both.size else float("nan")

    def information(a: np.ndarray, b: np.ndarray) -> float:
        grouped = min(len(np.unique(x)) for x in (a, b)) > 1
        return float(adjusted_mutual_info_score(a, b)) if grouped else float("nan")

    return Agreement(information(a[both], b[both]), fraction, information(a, b))


class PlaneView(NamedTuple):
    """What the fullest privileged plane shows.

    Attributes:
      sample: `(accepted,)`, which samples lie near it.
      points: `(accepted, 2)`, their coordinates in it.
      plane: the two basis vectors that span it.
    """

    sample: np.ndarray
    points: np.ndarray
    plane: tuple[int, int]


def fullest_plane(latents: Latents, *, basis: BasisLike = None, epsilon: float = 0.85) -> PlaneView:
    """Projects latents onto the privileged plane that most of them lie near.

    Args:
      latents: `(samples, units)`.
      basis: privileged vectors or a name, as `project` takes them.
      epsilon: acceptance cosine.

    Returns:
      The `PlaneView`, without samples if none lies near any plane.

    Raises:
      InputError: see `project`.
    """
    counted = count_planes(latents, basis=basis, epsilon=epsilon)
    fullest = top_planes(counted, 1).isel(plane=0)
    vectors = (int(fullest["first"]), int(fullest["second"]))
    if not fullest["counts"].any():
        return PlaneView(np.zeros(0, int), np.zeros((0, 2)), vectors)
    projected = project(latents, basis=basis, epsilon=epsilon)
    here = projected["plane"].values == int(fullest["row"])
    return PlaneView(projected["sample"].values[here], projected["points"].values[here], vectors)


def difference(a: np.ndarray, b: np.ndarray) -> float:
    """Returns how far two embeddings differ, up to position, size, rotation and reflection.

    Args:
      a: `(samples, 2)`.
      b: `(samples, 2)`.

    Returns:
      Share of the variance of one that the other leaves after the best match (Procrustes): 0 if
      they are the same.

    Raises:
      InputError: they differ in shape, or one is not finite or does not vary.
    """
    from scipy.spatial import procrustes

    first, second = (numbers(name, x, dimensions=2) for name, x in (("a", a), ("b", b)))
    for name, x in (("a", first), ("b", second)):
        if x.shape != first.shape or not np.isfinite(x).all() or len(np.unique(x, axis=0)) < 2:
            raise InputError(name, x.shape, "both must be finite, vary, and have one shape")
    return float(procrustes(first, second)[2])
