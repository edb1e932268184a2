"""The statistics by name: one entry each, from which tests, tables, curves and pages follow.

What is measured of latents, which null it is held against, and in which words a verdict is given,
is said here and nowhere else. `register_statistic` adds a statistic of one's own.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ppp_jax.analysis.statistics import alignment, angles, neighbours, quantisation
from ppp_jax.analysis.statistics.views import (
    COVARIANCE,
    MEAN,
    MOMENTS,
    SAMPLES,
    SHAPE,
    VIEWS,
)
from ppp_jax.analysis.texts import as_markdown
from ppp_jax.errors import InputError, choice, enter, lookup

# What a statistic is a function of.
BASIS, PROJECTIONS, PLANES, CLOUD = "basis", "projections", "planes", "cloud"
KINDS = (BASIS, PROJECTIONS, PLANES, CLOUD)
TESTED = (BASIS, PROJECTIONS, PLANES)  # there is a rotation null for it
ALIGNMENT = "alignment"  # the family of hypotheses about a basis
NEIGHBOUR_SAMPLES = 1024  # of each cloud, for how near samples stand to each other


class Statistic(NamedTuple):
    """A number of a cloud of latents, and what is said of it.

    Attributes:
      name: of its variable in datasets and of its columns in tables.
      label: what figures call it.
      short: what tables call it.
      of: what `function` takes. `basis`: a cloud, the vectors of a basis and its planes, as JAX
        traces them (`alignment.OfBasis`). `projections`: the projections of one cloud onto the
        vectors, `(vectors, samples)`, in NumPy; it returns the values of one or more statistics by
        name. `planes`: clouds, the basis as a `Basis`, and ε; it
        returns the values of one or more statistics by name. `cloud`: clouds alone, because no
        rotation changes it, so that there is no rotation null.
      function: measures it.
      sees: what of a cloud `function` takes, if it is of a basis: its `samples`, its `mean`, its
        `covariance`, its second `moments`, or its `shape`, the whitened samples (`views`).
      family: the hypotheses among which its false discoveries are counted; None: it is described,
        and no verdict rests on it.
      sides: what is said of latents below, and above, the null.
      moves: what is said of training that lowers, and raises, the excess over the null.
      orthonormal: whether it means something on orthonormal bases only.
      everywhere: whether it is measured at every snapshot, or at the first and the last.
      reported: whether reports of run folders measure it.
      compared: sites, `pre` or `post`, of which figures of differences show it.
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
    orthonormal: bool = False
    everywhere: bool = True
    reported: bool = True
    compared: tuple[str, ...] = ()

    @property
    def tested(self) -> bool:
        """Whether there is a rotation null for it."""
        return self.of in TESTED


STATISTICS: dict[str, Statistic] = {}


def register_statistic(statistic: Statistic) -> Statistic:
    """Adds a statistic to the registry.

    Args:
      statistic: the entry.

    Returns:
      The entry.

    Raises:
      InputError: The name is taken, or no name of a variable; `of` or `sees` is unknown; or
        reports cannot measure it.
    """
    choice("of", statistic.of, KINDS)
    choice("sees", statistic.sees, VIEWS if statistic.of == BASIS else (SAMPLES,))
    if statistic.of == PROJECTIONS and statistic.reported:
        problem = "must be False of projections, which reports of run folders do not measure"
        raise InputError("reported", True, problem)
    return enter(STATISTICS, statistic.name, statistic, field="statistics")


def _discreteness(clouds: np.ndarray) -> Any:
    return neighbours.discreteness(clouds, max_samples=NEIGHBOUR_SAMPLES)


def _elliptical(clouds: np.ndarray) -> Any:
    return neighbours.discreteness(clouds, elliptical=True, max_samples=NEIGHBOUR_SAMPLES)


for _entry in (
    Statistic("acceptance_ratio", "A/A0", "A/A0", PLANES, angles.angles_of),
    Statistic(
        "entropy_deficit",
        "angular entropy deficit, bits",
        "entropy deficit",
        PLANES,
        angles.angles_of,
        everywhere=False,
    ),
    *(
        Statistic(
            f"mode_{m}",
            f"angular mode {m}",
            f"mode {m}",
            PLANES,
            angles.angles_of,
            everywhere=False,
        )
        for m in range(1, angles.MODES + 1)
    ),
    Statistic(
        "c4",
        "alignment C4",
        "C4",
        BASIS,
        alignment.c4_of,
        family=ALIGNMENT,
        sides=("aligned with the diagonals", "aligned with the axes"),
        moves=("training moved it towards the diagonals", "training moved it towards the axes"),
        orthonormal=True,
        compared=("pre", "post"),
    ),
    # On orthonormal bases it is C4 once more, so that reports leave it out.
    Statistic(
        "kurtosis", "alignment kurtosis", "kurtosis", BASIS, alignment.kurtosis_of, reported=False
    ),
    Statistic(
        "unit_kurtosis",
        "unit kurtosis",
        "unit kurtosis",
        BASIS,
        alignment.unit_kurtosis_of,
        family=ALIGNMENT,
        sides=("units flatter than other directions", "units more peaked than other directions"),
        moves=("training made units flatter", "training made units more peaked"),
    ),
    # What is aligned with the basis: the mean, the covariance, or the shape that is left.
    Statistic(
        "mean_axes",
        "C4 of the mean",
        "mean: C4",
        BASIS,
        alignment.c4_of,
        sees=MEAN,
        sides=("mean along the diagonals", "mean along the axes"),
        orthonormal=True,
        reported=False,
    ),
    Statistic(
        "mean_ones",
        "cosine of the mean and (1, …, 1)",
        "mean: ones",
        BASIS,
        alignment.mean_ones_of,
        sees=MEAN,
        sides=("mean across (1, …, 1)", "mean along (1, …, 1)"),
        reported=False,
    ),
    Statistic(
        "covariance",
        "covariance in the basis",
        "covariance",
        BASIS,
        alignment.covariance_of,
        sees=COVARIANCE,
        sides=("covariance away from the axes", "covariance along the axes"),
        reported=False,
    ),
    Statistic(
        "shape",
        "C4 of the whitened latents",
        "shape: C4",
        BASIS,
        alignment.c4_of,
        sees=SHAPE,
        sides=("shape aligned with the diagonals", "shape aligned with the axes"),
        orthonormal=True,
        reported=False,
    ),
    Statistic(
        "shape_kurtosis",
        "unit kurtosis of the whitened latents",
        "shape: kurtosis",
        BASIS,
        alignment.unit_kurtosis_of,
        sees=SHAPE,
        sides=("whitened units flatter", "whitened units more peaked"),
        reported=False,
    ),
    Statistic(
        "outlier_kurtosis",
        "kurtosis of the units' second moments",
        "outliers: kurtosis",
        BASIS,
        alignment.outlier_kurtosis_of,
        sees=MOMENTS,
        reported=False,
    ),
    Statistic(
        "max_median_ratio",
        "largest over median unit",
        "outliers: max/median",
        BASIS,
        alignment.max_median_ratio_of,
        reported=False,
    ),
    Statistic(
        "axis_quantisation",
        "mean dip along the axes",
        "dip",
        PROJECTIONS,
        quantisation.dips,
        sides=("smoother along the axes", "quantised along the axes"),
        everywhere=False,
        reported=False,
    ),
    Statistic(
        "quantised_fraction",
        "fraction of units with a dip",
        "units with a dip",
        PROJECTIONS,
        quantisation.dips,
        everywhere=False,
        reported=False,
    ),
    Statistic(
        "discreteness",
        "discreteness",
        "discreteness",
        CLOUD,
        _discreteness,
        family="discreteness",
        moves=("less discrete than untrained", "more discrete than untrained"),
        compared=("pre",),
    ),
    Statistic(
        "elliptical",
        "discreteness beyond its lengths",
        "beyond lengths",
        CLOUD,
        _elliptical,
        family="elliptical",
        everywhere=False,
        compared=("pre",),
    ),
):
    register_statistic(_entry)


def chosen(
    *,
    of: Collection[str] = KINDS,
    everywhere: bool | None = None,
    family: str | None = None,
    only_reported: bool = True,
) -> tuple[Statistic, ...]:
    """Returns the registered statistics of some kind: of a basis first, then of planes, of clouds.

    Args:
      of: what they are functions of.
      everywhere: only those that are measured at every snapshot, or only the others; None: all.
      family: only those of a family of hypotheses.
      only_reported: only those that reports of run folders measure.
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


def names(**which: Any) -> tuple[str, ...]:
    """Returns the names of statistics.

    Args:
      **which: as `chosen`.
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
            "; ".join(one.sides or ()),
        ]
        for one in chosen(only_reported=False)
    ]
    return as_markdown(header, body)


def label_of(name: str) -> str:
    """Returns what figures call a statistic, or the name of something else.

    Args:
      name: of a statistic, or anything.
    """
    return STATISTICS[name].label if name in STATISTICS else name


def resolve(
    statistics: Sequence[str | Statistic] | None, epsilon: float | None
) -> tuple[Statistic, ...]:
    """Returns what a rotation test measures.

    Args:
      statistics: names, or entries; None: all that are a function of a basis, and with an ε those
        of its planes too.
      epsilon: acceptance cosine, if one is given.

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
        one = (
            given if isinstance(given, Statistic) else lookup(STATISTICS, given, field="statistics")
        )
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
