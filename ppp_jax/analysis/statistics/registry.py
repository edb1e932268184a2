"""The statistics by name: one entry each, from which tests, tables, curves and pages follow.

What is measured of latents, which null it is held against, and in which words a verdict is given,
is said here and nowhere else. `register_statistic` adds a statistic of one's own.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ppp_jax import references
from ppp_jax.analysis.projection.views import (
    COVARIANCE,
    MEAN,
    MOMENTS,
    SAMPLES,
    SHAPE,
    VIEWS,
)
from ppp_jax.analysis.statistics import alignment, angles, neighbours, quantisation
from ppp_jax.analysis.texts import as_markdown
from ppp_jax.errors import InputError, choice, enter, lookup

# What a statistic is a function of.
BASIS, PROJECTIONS, PLANES, CLOUD = "basis", "projections", "planes", "cloud"
KINDS = (BASIS, PROJECTIONS, PLANES, CLOUD)
TESTED = (BASIS, PROJECTIONS, PLANES)  # there is a rotation null for it
# The families of hypotheses: a question each, of which reports give a verdict.
FAMILIES = ("mean", "covariance", "shape", "quantisation", "angles")
ANY, ORTHONORMAL, FRAMES = "any", "orthonormal", "frames"  # bases on which a verdict rests on it
NEIGHBOUR_SAMPLES = 512  # of each cloud, for how near samples stand to each other, and its peaks


class Statistic(NamedTuple):
    """A number of a cloud of latents, and what is said of it.

    Attributes:
      name: The name of its variable in datasets and of its columns in tables.
      label: The name that figures show.
      short: The name that tables show.
      of: What `function` takes. `basis`: a cloud, the vectors of a basis and its planes, as JAX
        traces them (`alignment.OfBasis`). `projections`: the projections of one cloud onto the
        vectors, `(vectors, samples)`, in NumPy; it returns the values of one or more statistics by
        name. `planes`: clouds, the basis as a `Basis`, and ε; it
        returns the values of one or more statistics by name. `cloud`: clouds alone, because no
        rotation changes it, so that there is no rotation null.
      function: The function that measures it.
      sees: What of a cloud `function` takes, if it is of a basis: its `samples`, its `mean`, its
        `covariance`, its second `moments`, or its `shape`, the whitened samples (`views`).
      family: One of `FAMILIES`, among whose hypotheses its false discoveries are counted; None: it
        is described, and no verdict rests on it.
      sides: The words for latents below, and above, the null.
      moves: The words for training that lowers, and raises, the excess over the null.
      judges: The bases for which a verdict rests on it: `any`, `orthonormal`, or other `frames`.
      everywhere: Whether it is measured at every snapshot, or at the first and the last.
      reported: Whether reports of run folders measure it.
      compared: The sites, `pre` or `post`, of which figures of differences show it.
      along: How the same number follows, on an orthonormal basis, from sums along each vector: of
        samples and shape from `moments.Moments`, of covariance and second moments from
        `moments.Variances`. In wide layers that is many times as fast; None: measured by
        `function` there too.
      even: Whether `along` takes even powers alone, and no absolute values: then narrow layers are
        measured by it too.
    """

    name: str
    label: str
    short: str
    of: str
    function: Callable[..., Any]
    sees: str = SAMPLES
    family: str | None = None
    sides: tuple[str, str] | None = None
    moves: tuple[str, str] | None = None
    judges: str = ANY
    everywhere: bool = True
    reported: bool = True
    compared: tuple[str, ...] = ()
    along: Callable[[Any], np.ndarray] | None = None
    even: bool = False

    @property
    def tested(self) -> bool:
        """Whether there is a rotation null for it."""
        return self.of in TESTED


STATISTICS: dict[str, Statistic] = {}
OWN: list[Statistic] = []  # the entries of this package, without those that users register


def register_statistic(statistic: Statistic) -> Statistic:
    """Adds a statistic to the registry.

    Args:
      statistic: The entry.

    Returns:
      The entry.

    Raises:
      InputError: The name is that of a statistic of this package, or no name of a variable; `of`,
        `sees`, `judges` or `family` is unknown; a family without words for a verdict; or reports
        cannot measure it.
    """
    choice("of", statistic.of, KINDS)
    choice("sees", statistic.sees, VIEWS if statistic.of == BASIS else (SAMPLES,))
    choice("judges", statistic.judges, (ANY, ORTHONORMAL, FRAMES))
    if statistic.family is not None:
        choice("family", statistic.family, FAMILIES)
        if not statistic.tested or None in (statistic.sides, statistic.moves):
            problem = "must be None of a statistic without rotation null, sides and moves"
            raise InputError("family", statistic.family, problem)
    if statistic.of == PROJECTIONS and statistic.everywhere:
        problem = "must be False of projections, which reports measure at two snapshots"
        raise InputError("everywhere", True, problem)
    return enter(STATISTICS, statistic.name, statistic, field="statistics", own=OWN)


def _neighbours(clouds: np.ndarray) -> dict[str, np.ndarray]:
    return neighbours.ratios(clouds, max_samples=NEIGHBOUR_SAMPLES)


def _peaks(clouds: np.ndarray) -> dict[str, np.ndarray]:
    return quantisation.peaks_of(clouds, max_samples=NEIGHBOUR_SAMPLES)


_ANGLES = (PLANES, angles.angles_of)
for _entry in (
    Statistic("acceptance_ratio", "A/A0", "A/A0", *_ANGLES),
    Statistic(
        "entropy_deficit",
        "angular entropy deficit, bits",
        "entropy deficit",
        *_ANGLES,
        everywhere=False,
    ),
    # Mode 4 does not tell an axis from its opposite, which PPP's picture shows as well.
    *(
        Statistic(
            f"mode_{m}",
            f"angular mode {m}",
            f"mode {m}",
            *_ANGLES,
            family="angles" if m < angles.MODES else None,
            sides=(
                f"angles of accepted samples more even in mode {m} than after rotations",
                f"angles of accepted samples less even in mode {m} than after rotations",
            ),
            moves=(f"training lowered angular mode {m}", f"training raised angular mode {m}"),
            everywhere=False,
        )
        for m in range(1, angles.MODES + 1)
    ),
    Statistic(
        "fourfold",
        "cos 4φ of accepted samples",
        "four-fold",
        *_ANGLES,
        sides=(
            "accepted samples nearer the diagonals of planes than after rotations",
            "accepted samples nearer the axes of planes than after rotations",
        ),
        everywhere=False,
        reported=False,
    ),
    # Of the samples as they are, C4 mixes mean, covariance and shape: it is a description.
    Statistic(
        "c4", "alignment C4", "C4", BASIS, alignment.c4_of, along=alignment.c4_along, even=True
    ),
    Statistic(
        "kurtosis",
        "alignment kurtosis",
        "kurtosis",
        BASIS,
        alignment.kurtosis_of,
        reported=False,
        along=alignment.kurtosis_along,
        even=True,
    ),
    Statistic(
        "unit_kurtosis",
        "unit kurtosis",
        "unit kurtosis",
        BASIS,
        alignment.unit_kurtosis_of,
        reported=False,
        along=alignment.unit_kurtosis_along,
    ),
    # What is aligned with the basis: the mean, the covariance, or the shape that is left.
    Statistic(
        "mean_axes",
        "C4 of the mean",
        "mean: C4",
        BASIS,
        alignment.c4_of,
        sees=MEAN,
        family="mean",
        sides=(
            "mean nearer the diagonals than after rotations",
            "mean nearer the axes than after rotations",
        ),
        moves=(
            "training moved the mean towards the diagonals",
            "training moved the mean towards the axes",
        ),
        judges=ORTHONORMAL,
    ),
    Statistic(
        "mean_ones",
        "|cosine| of the mean and the sum of the vectors",
        "mean: sum",
        BASIS,
        alignment.mean_ones_of,
        sees=MEAN,
        family="mean",
        sides=(
            "mean farther from the sum of the vectors than after rotations",
            "mean nearer the sum of the vectors than after rotations",
        ),
        moves=(
            "training moved the mean away from the sum of the vectors",
            "training moved the mean towards the sum of the vectors",
        ),
    ),
    Statistic(
        "covariance",
        "diagonal part of the covariance",
        "covariance",
        BASIS,
        alignment.covariance_of,
        along=alignment.covariance_along,
        sees=COVARIANCE,
        family="covariance",
        sides=(
            "covariance less diagonal than after rotations",
            "covariance more diagonal than after rotations",
        ),
        moves=(
            "training made the covariance less diagonal",
            "training made the covariance more diagonal",
        ),
        compared=("pre",),
    ),
    Statistic(
        "shape",
        "C4 of the whitened latents",
        "shape: C4",
        BASIS,
        alignment.c4_of,
        along=alignment.c4_along,
        even=True,
        sees=SHAPE,
        family="shape",
        sides=(
            "whitened samples nearer the diagonals than after rotations",
            "whitened samples nearer the axes than after rotations",
        ),
        moves=(
            "training moved whitened samples towards the diagonals",
            "training moved whitened samples towards the axes",
        ),
        judges=ORTHONORMAL,
        compared=("pre", "post"),
    ),
    # With heavy tails and few samples per unit it rejects too often: where C4 can judge, it does.
    Statistic(
        "shape_kurtosis",
        "unit kurtosis of the whitened latents",
        "shape: kurtosis",
        BASIS,
        alignment.unit_kurtosis_of,
        along=alignment.unit_kurtosis_along,
        even=True,
        sees=SHAPE,
        family="shape",
        sides=(
            "whitened latents flatter along the vectors than after rotations",
            "whitened latents more peaked along the vectors than after rotations",
        ),
        moves=(
            "training made whitened latents flatter along the vectors",
            "training made whitened latents more peaked along the vectors",
        ),
        judges=FRAMES,
    ),
    Statistic(
        "outlier_kurtosis",
        "kurtosis of the units' second moments",
        "outliers: kurtosis",
        BASIS,
        alignment.outlier_kurtosis_of,
        along=alignment.outlier_kurtosis_along,
        sees=MOMENTS,
        reported=False,
    ),
    Statistic(
        "max_median_ratio",
        "largest over median unit",
        "outliers: max/median",
        BASIS,
        alignment.max_median_ratio_of,
        along=alignment.max_median_along,
        reported=False,
    ),
    Statistic(
        "axis_quantisation",
        "mean dip along the vectors",
        "dip",
        PROJECTIONS,
        quantisation.mean_dip,
        family="quantisation",
        sides=(
            "projections nearer to unimodal along the vectors than after rotations",
            "projections farther from unimodal along the vectors than after rotations",
        ),
        moves=(
            "training brought projections nearer to unimodal",
            "training took projections farther from unimodal",
        ),
        everywhere=False,
        compared=("pre",),
    ),
    Statistic(
        "quantised_fraction",
        "fraction of vectors with a dip",
        "vectors with a dip",
        PROJECTIONS,
        quantisation.dipped_fraction,
        everywhere=False,
        reported=False,
    ),
    Statistic(
        "neighbour_ratio", "neighbour ratio", "neighbours", CLOUD, _neighbours, everywhere=False
    ),
    Statistic(
        "neighbour_ratio_elliptical",
        "neighbour ratio beyond lengths",
        "neighbours, beyond lengths",
        CLOUD,
        _neighbours,
        everywhere=False,
    ),
    Statistic("peaks", "density peaks", "peaks", CLOUD, _peaks, everywhere=False),
    Statistic("valley_depth", "deepest valley, nats", "valley", CLOUD, _peaks, everywhere=False),
    Statistic(
        "valley_depth_elliptical",
        "deepest valley of an elliptical reference, nats",
        "valley of reference",
        CLOUD,
        _peaks,
        everywhere=False,
    ),
):
    OWN.append(register_statistic(_entry))


def chosen(
    *,
    of: Collection[str] = KINDS,
    everywhere: bool | None = None,
    family: str | None = None,
    only_reported: bool = True,
) -> tuple[Statistic, ...]:
    """Returns the registered statistics of some kind: of a basis first, then of planes, of clouds.

    Args:
      of: What they are functions of.
      everywhere: True keeps those that are measured at every snapshot, False the others, None all.
      family: The family of hypotheses to which they belong; None keeps all.
      only_reported: Whether to leave out those that reports of run folders do not measure.
    """
    return tuple(
        one
        for kind in KINDS
        for one in STATISTICS.values()
        if one.of == kind
        and kind in of
        and everywhere in (None, one.everywhere)
        and family in (None, one.family)
        and (one.reported or not only_reported)
    )


def judging(*, orthonormal: bool, family: str | None = None) -> tuple[Statistic, ...]:
    """Returns the statistics on which verdicts of a basis rest.

    Args:
      orthonormal: Whether the vectors of the basis are orthonormal.
      family: The family of hypotheses to which they belong; None keeps all.
    """
    judges = (ANY, ORTHONORMAL if orthonormal else FRAMES)
    return tuple(one for one in chosen(family=family) if one.family and one.judges in judges)


def names(**which: Any) -> tuple[str, ...]:
    """Returns the names of statistics.

    Args:
      **which: The arguments of `chosen`.
    """
    return tuple(one.name for one in chosen(**which))


def reference() -> str:
    """Returns every registered statistic as a row of a Markdown table, for the documents."""
    header = ["name", "label", "of", "sees", "null", "family", "below and above the null"]
    body = [
        [
            f"`{one.name}`",
            one.label,
            one.of,
            one.sees if one.of == BASIS else "",
            "rotations" if one.tested else "",
            one.family or "",
            "; ".join(one.sides or ()) if one.family else "",
        ]
        for one in chosen(only_reported=False)
    ]
    return as_markdown(header, body)


def label_of(name: str) -> str:
    """Returns what figures call a statistic, or the name of something else.

    Args:
      name: The name of a statistic, or any other text.
    """
    return STATISTICS[name].label if name in STATISTICS else name


def _named(given: Any) -> Statistic:
    """Returns an entry by its name or reference, or of a function of clouds and a basis alone."""
    if isinstance(given, Statistic):
        return given
    if isinstance(given, str) and references.is_reference(given):
        given = references.get(given, field="statistics").value
        if isinstance(given, Statistic):
            return given
    if not callable(given):
        return lookup(STATISTICS, given, field="statistics")
    name = getattr(given, "__name__", "")
    if not name.isidentifier() or name in STATISTICS:
        problem = "needs a name of its own; give a Statistic, or define the function by def"
        raise InputError("statistics", name, problem)
    return Statistic(name, name.replace("_", " "), name.replace("_", " "), BASIS, given)


def resolve(
    statistics: Sequence[str | Statistic] | None, epsilon: float | None
) -> tuple[Statistic, ...]:
    """Returns what a rotation test measures.

    Args:
      statistics: names, references `module:attribute`, entries, or functions of a cloud, the
        vectors of a basis and its planes; None: all that are a function of a
        basis, and with an ε those of its planes too.
      epsilon: The acceptance cosine, if one is given.

    Raises:
      InputError: an unknown name, one without a rotation null, one that needs an ε, or none.
    """
    if statistics is None:
        kinds = (BASIS,) if epsilon is None else (BASIS, PLANES)
        return chosen(of=kinds, only_reported=False)
    if isinstance(statistics, str) or not isinstance(statistics, Sequence) or not statistics:
        raise InputError("statistics", statistics, "must be names, one or more, in a list")
    found = []
    for given in statistics:
        one = _named(given)
        if not one.tested:
            problem = "does not change under rotations, so that there is no rotation null"
            raise InputError("statistics", one.name, problem)
        if one.of == PLANES and epsilon is None:
            raise InputError("epsilon", None, f"is needed for {one.name}; give one, such as 0.85")
        found.append(one)
    given_names = [one.name for one in found]
    if len(set(given_names)) < len(found):
        raise InputError("statistics", given_names, "must be different")
    return tuple(found)


def measured(
    functions: Sequence[Statistic], clouds: np.ndarray, *context: Any
) -> Mapping[str, np.ndarray]:
    """Returns the values of statistics that are computed outside of JAX, each function called once.

    Args:
      functions: Statistics of planes, of clouds or of projections.
      clouds: What their functions take first: `(clouds, samples, units)`, or the projections of
        one cloud, `(vectors, samples)`.
      *context: What their functions take beside.
    """
    results: dict[Callable[..., Any], Any] = {}
    for one in functions:
        if one.function not in results:
            results[one.function] = one.function(clouds, *context)
    found = {one.name: results[one.function] for one in functions}
    return {
        name: np.asarray(value[name] if isinstance(value, Mapping) else value)
        for name, value in found.items()
    }
