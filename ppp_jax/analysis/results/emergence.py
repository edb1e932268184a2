"""When alignment and quantisation appear in training, and in which order (docs/method.md §14)."""

from collections.abc import Hashable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
import xarray as xr

from ppp_jax import bases
from ppp_jax.analysis.inference import special_directions
from ppp_jax.analysis.inference.rotation_test import BAND, ROTATIONS, pool, rotation_test
from ppp_jax.analysis.inference.seeds import LEVEL, false_discovery, paired_difference
from ppp_jax.analysis.projection.views import mean_of
from ppp_jax.analysis.results.measure import DIP_SAMPLES, rotations_of, thinned
from ppp_jax.analysis.statistics import registry
from ppp_jax.analysis.statistics.registry import BASIS, PROJECTIONS
from ppp_jax.errors import InputError

AXES = ("seed", "step", "sample", "unit")
FOURFOLD = "fourfold"  # cos 4φ of accepted samples: axes 1, diagonals −1
MOST_SAMPLES = 2048  # of each cloud, for alignment under many rotations, and for clusters
HALF = 0.5  # of the last excess, from which on a statistic counts as having appeared
DRAWS, DRAWING_SEED = 1000, 0  # of seeds with replacement, for intervals of onsets
# What is tested of the pictures, in the planes of the basis: only few samples lie near any.
PICTURES = (FOURFOLD, "acceptance_ratio")
PICTURE_SAMPLES = 30_000  # of each cloud
PICTURE_ROTATIONS = 19  # of each network, if there are several; the ranks of all are exact together
PHASES = {"axes": 1, "diagonals": -1}  # sides of `FOURFOLD` after rotations


class Course(NamedTuple):
    """Statistics of one cell's latents, at one site, through training, against rotations.

    Attributes:
      names: What tells the cell and the site from others, by the names of columns.
      tested: What `rotation_test` returned of every seed and snapshot, without the rotated values:
        over `seed`, `step` and `statistic`, with a coordinate `epoch` along `step`.
      pooled: What `pool` returned of the seeds: over `step` and `statistic`.
    """

    names: Mapping[str, Hashable]
    tested: xr.Dataset
    pooled: xr.Dataset

    @property
    def excess(self) -> xr.DataArray:
        """Each statistic above the mean of its rotation null, over `seed`, `step`, `statistic`."""
        return self.tested["value"] - self.tested["mean"]


def statistics_course(
    clouds: xr.DataArray,
    *,
    names: Mapping[str, Hashable],
    basis: str,
    rotations: int = ROTATIONS,
    rotation_seed: int = 0,
) -> Course:
    """Tests the latents of one cell at every snapshot.

    The statistics are all of the basis and of projections that judge in such a basis.

    Alignment is measured on at most 2,048 samples of a cloud and dips on 512, drawn at random, the
    same at every snapshot. Snapshots share their rotations, so that they are comparable.

    Args:
      clouds: The latents, with the axes `seed`, `step`, `sample` and `unit`; missing where a
        network diverged (`measure.mask`).
      names: What tells the cell from others.
      basis: The name of the basis that the activation singles out, or against which it is tested.
      rotations: K of the rotation null.
      rotation_seed: Seed of the random rotations.

    Raises:
      InputError: The clouds have other axes.
    """
    clouds = _ordered(clouds)
    asked = registry.judging(orthonormal=bases.is_orthonormal(basis))
    parts = []
    for kind, most in ((BASIS, MOST_SAMPLES), (PROJECTIONS, DIP_SAMPLES)):
        found = rotation_test(
            thinned(clouds, most),
            basis=basis,
            statistics=[one for one in asked if one.of == kind],
            rotations=rotations_of(kind, rotations, seeds=clouds.sizes["seed"]),
            rotation_seed=rotation_seed,
        )
        parts.append(found.drop_vars("null"))
    tested = xr.concat(parts, "statistic", combine_attrs="drop_conflicts")
    return Course(names, tested, pool(tested))


def orbits_course(
    clouds: xr.DataArray,
    *,
    names: Mapping[str, Hashable],
    basis: str,
    rotations: int = ROTATIONS,
    rotation_seed: int = 0,
) -> Course:
    """Holds the clusters of every snapshot against the special directions of the basis's group.

    Of each cloud's clusters, found by k-means in at most 2,048 samples, three statistics are the
    mean cosine with the nearest axis ±b_i, diagonal ±b_i ± b_j and corner Σ ±b_k
    (`special_directions`). The places of clusters are counted from the mean of the cloud, since all
    clusters around a mean along (1, …, 1) would be near a corner. Rows of zeros are in neither.

    Args:
      clouds: As `statistics_course` takes them.
      names: What tells the cell from others.
      basis: The name of the basis.
      rotations: K of the rotation null.
      rotation_seed: Seed of the random rotations.

    Returns:
      The course, missing of single clouds that are, or that have fewer different samples than
      there are clusters. Each seed has the same rotations at every snapshot.

    Raises:
      InputError: The clouds have other axes.
    """
    clouds = thinned(_ordered(clouds), MOST_SAMPLES)
    both = special_directions.signed(bases.build(basis, clouds.sizes["unit"]))
    steps = []
    for step in range(clouds.sizes["step"]):
        places = np.stack([_places(cloud) for cloud in clouds.isel(step=step).values])
        there = np.isfinite(places).all(axis=(1, 2))
        found = special_directions.cosines(
            # Missing seeds keep their turn, so that the others keep their rotations.
            np.where(there[:, None, None], places, 1.0),
            both,
            orbits=special_directions.SIGNED,
            rotations=rotations,
            rotation_seed=rotation_seed,
        )
        known = xr.DataArray(there, dims="seed")
        steps.append(found.drop_vars("null").where(known).assign_coords(seed=clouds["seed"]))
    tested = xr.concat(steps, clouds["step"]).assign_coords(epoch=clouds["epoch"])
    return Course(names, tested, pool(tested))


def pictures_course(
    clouds: xr.DataArray,
    *,
    names: Mapping[str, Hashable],
    basis: str,
    epsilon: float,
    rotations: int = ROTATIONS,
    rotation_seed: int = 0,
) -> Course:
    """Tests what PPP's pictures show of one cell at every snapshot: axes, diagonals, acceptance.

    The statistics are the mean of cos 4φ of the accepted samples, and A/A0, of at most 30,000
    samples of a cloud, drawn at random.

    Args:
      clouds: As `statistics_course` takes them.
      names: What tells the cell from others.
      basis: The name of the basis.
      epsilon: The acceptance cosine.
      rotations: K of the rotation null of a single network; each of several has at most 19, of
        which their exact ranks know.
      rotation_seed: Seed of the random rotations.

    Returns:
      The course; cos 4φ is missing of a cloud of which nothing was accepted.

    Raises:
      InputError: The clouds have other axes, or ε is no number in [0, 1].
    """
    clouds = thinned(_ordered(clouds), PICTURE_SAMPLES)
    tested = rotation_test(
        clouds,
        basis=basis,
        statistics=PICTURES,
        epsilon=epsilon,
        rotations=min(rotations, PICTURE_ROTATIONS) if clouds.sizes["seed"] > 1 else rotations,
        rotation_seed=rotation_seed,
    ).drop_vars("null")
    return Course(names, tested, pool(tested))


def _places(cloud: np.ndarray) -> np.ndarray:
    """Returns the centres of a cloud's clusters, counted from its mean, or missing ones."""
    found = special_directions.centres(cloud)
    if np.isfinite(found).all():
        found = found - mean_of(cloud)
    return found


def _ordered(clouds: xr.DataArray) -> xr.DataArray:
    if set(clouds.dims) != set(AXES):
        problem = f"must have the axes {', '.join(AXES)}; choose one cell by .isel(…)"
        raise InputError("clouds", list(clouds.dims), problem)
    return clouds.transpose(*AXES)


def onsets(excess: xr.DataArray) -> xr.DataArray:
    """Returns the epoch at which each statistic appeared.

    That is the first snapshot from which on, to the last, the excess over the null is at least half
    of what it is at the last snapshot. It is 0 for what is there untrained. Noise makes it late: of
    single networks it says how noisy a statistic is, and so the tables take it of the seeds' mean.

    Args:
      excess: With an axis `step`, along which `epoch` is a coordinate.

    Returns:
      Array without that axis; NaN where the last excess is missing or 0.
    """
    last = excess.isel(step=-1, drop=True)
    reached = (excess / last.where(last != 0) >= HALF).transpose("step", ...)
    return _epochs(excess, _since(reached.values)).where(np.isfinite(last) & (last != 0))


def _resampled(excess: xr.DataArray) -> xr.DataArray:
    """Returns the mean over seeds of seeds that are drawn with replacement, over `draw` too."""
    count = excess.sizes["seed"]
    drawn = np.random.default_rng(DRAWING_SEED).integers(count, size=(DRAWS, count))
    return excess.isel(seed=xr.DataArray(drawn, dims=("draw", "one"))).mean("one")


def summits(excess: xr.DataArray) -> xr.DataArray:
    """Returns the epoch at which each statistic was largest in each network.

    It suits what comes and goes, as a phase of training does, of which `onsets` would tell the end.

    Args:
      excess: With an axis `step`, along which `epoch` is a coordinate.

    Returns:
      Array without that axis; the first such epoch, and NaN where all are missing.
    """
    filled = excess.transpose("step", ...).fillna(-np.inf)
    place = filled.argmax("step").values
    return _epochs(excess, place).where(excess.notnull().any("step"))


def evident(q: xr.DataArray, rank: xr.DataArray) -> xr.DataArray:
    """Returns the epoch from which on, at every later snapshot, there is evidence of one effect.

    That is q of at most 5 %, and a mean rank of the sign that it has at the last snapshot.

    Args:
      q: With an axis `step`, along which `epoch` is a coordinate.
      rank: Over the same axes. It is what p tests; z can have another sign.

    Returns:
      Array without `step`; NaN where q is larger, or missing, at the last snapshot.
    """
    alike = np.sign(rank) == np.sign(rank.isel(step=-1, drop=True))
    return _epochs(q, _since(((q <= LEVEL) & alike).transpose("step", ...).values))


def _since(holds: np.ndarray) -> np.ndarray:
    """Returns since which place along the first axis something holds to the end, or its length."""
    lasting = np.logical_and.accumulate(holds[::-1], axis=0)
    return np.asarray(len(holds) - lasting.sum(axis=0))


def _epochs(along: xr.DataArray, place: np.ndarray) -> xr.DataArray:
    """Returns the epoch of each place along `step`, and NaN beyond the last."""
    rest = along.isel(step=-1, drop=True).drop_vars("epoch", errors="ignore")
    epochs = np.append(along["epoch"].values.astype(float), np.nan)
    return rest.copy(data=epochs[place])


def course_table(courses: Sequence[Course]) -> pd.DataFrame:
    """Returns every statistic of every course at every snapshot.

    Args:
      courses: Those that are judged together: the rows of a statistic, of all cells, sites and
        snapshots, are one family of hypotheses about these networks. Over seeds no q is told: so
        large a family cannot be judged by few seeds.

    Returns:
      A row per course, statistic and snapshot: the names, `statistic`, `epoch`, `seeds`, the mean
      `value`, its mean `excess` over the null, `z`, the mean `rank` among the rotated values, `p
      networks` (of these networks), its `q networks`, and `p` (over seeds).
    """
    table = pd.concat([_rows(one) for one in courses], ignore_index=True)
    table["q networks"] = table.groupby("statistic", sort=False)["p networks"].transform(
        lambda family: false_discovery(family.to_numpy(float))
    )
    return table


def _rows(course: Course) -> pd.DataFrame:
    parts = {"clouds": "seeds", "value": "value", "z": "z", "rank": "rank", "p": "p"}
    parts |= {"p_networks": "p networks"}
    means = course.pooled[list(parts)].rename(parts)
    means["excess"] = course.excess.mean("seed")
    columns = [*course.names, "statistic", "epoch", "seeds", "value", "excess"]
    rows = means.transpose("statistic", "step").to_dataframe().reset_index()
    return rows.assign(**course.names)[[*columns, "z", "rank", "p networks", "p"]]


def onset_table(courses: Sequence[Course], table: pd.DataFrame) -> pd.DataFrame:
    """Returns when each statistic of each course appeared.

    Args:
      courses: The courses.
      table: What `course_table` returned of them.

    Returns:
      A row per course and statistic: the names, `statistic`, z and q at the first and at the last
      snapshot (of the families of `course_table`), the epoch from which on there is evidence in
      these networks at all snapshots (`evident`), and that at which the mean over seeds was half of
      what it became, `half` (`onsets`), with `low` and `high`, 95 % of such means of seeds drawn
      with replacement. They say nothing of a statistic whose last excess is noise.
    """
    rows = []
    for one in courses:
        half, draws = onsets(one.excess.mean("seed")), onsets(_resampled(one.excess))
        for name in half["statistic"].values.tolist():
            mine = rows_of(table, one, name)
            q, rank = (
                xr.DataArray(mine[part], dims="step", coords={"epoch": ("step", mine["epoch"])})
                for part in ("q networks", "rank")
            )
            low, high = _band(draws.sel(statistic=name))
            rows.append(
                {
                    **one.names,
                    "statistic": name,
                    "z, untrained": mine["z"].iloc[0],
                    "q, untrained": mine["q networks"].iloc[0],
                    "z": mine["z"].iloc[-1],
                    "q networks": mine["q networks"].iloc[-1],
                    "evident": evident(q, rank).item(),
                    "half": half.sel(statistic=name).item(),
                    "low": low,
                    "high": high,
                    "seeds": mine["seeds"].iloc[-1],
                }
            )
    return pd.DataFrame(rows)


def _band(draws: xr.DataArray) -> tuple[float, float]:
    """Returns the ends of what 95 % of the draws are, missing if there are none."""
    values = draws.dropna("draw").values
    low, high = np.quantile(values, BAND) if len(values) else (np.nan, np.nan)
    return float(low), float(high)


def order_table(
    courses: Sequence[Course], table: pd.DataFrame, *, first: str, second: str
) -> pd.DataFrame:
    """Returns which of two statistics came first, where both are evident.

    Args:
      courses: The courses.
      table: What `course_table` returned of them, whose families say what is evident.
      first: The name of a statistic.
      second: The name of another.

    Returns:
      A row per course that has both, and evidence of both in these networks at the last snapshot.
      It holds the names, the two, their `z first` and `z second` at the last snapshot, and the
      epochs by which the mean of the `first` over seeds appeared later (`onsets`): `difference`,
      and `low` and `high`, 95 % of such differences of seeds drawn with replacement. `p` is
      missing, because noise makes a weak statistic late.
    """
    rows = []
    for one in courses:
        if not {first, second} <= set(one.tested["statistic"].values.tolist()):
            continue
        mine = [rows_of(table, one, name) for name in (first, second)]
        if not all(part["q networks"].iloc[-1] <= LEVEL for part in mine):
            continue
        came, draws = onsets(one.excess.mean("seed")), onsets(_resampled(one.excess))
        apart, drawn = (
            each.sel(statistic=first) - each.sel(statistic=second) for each in (came, draws)
        )
        z = dict(zip(("z first", "z second"), (part["z"].iloc[-1] for part in mine), strict=True))
        low, high = _band(drawn)
        both = {"first": first, "second": second, "by": "onset"}
        effect = {"difference": apart.item(), "low": low, "high": high, "p": np.nan}
        rows.append({**one.names, **both, **z, **effect, "seeds": mine[0]["seeds"].iloc[-1]})
    return pd.DataFrame(rows)


def phase_table(courses: Sequence[Course], table: pd.DataFrame) -> pd.DataFrame:
    """Returns which phase of training came first, axes or diagonals, paired by seed.

    A network is in a phase where accepted samples lie nearer to the axes of planes, or to their
    diagonals, than after rotations. Phases are compared by their `summits` in training.

    Args:
      courses: What `pictures_course` returned.
      table: What `course_table` returned of them, whose family says what is evident.

    Returns:
      A row per course with evidence of both in these networks, each at some snapshot of training:
      the names, the two, their `z first` and `z second` at the last snapshot, and the epochs by
      which the `first` was largest later: `difference`, `low`, `high`, `p` and `seeds`.
    """
    rows = []
    for one in courses:
        mine = rows_of(table, one, FOURFOLD)
        trained = mine[mine["epoch"] > 0]
        known = trained["rank"].where(trained["q networks"] <= LEVEL)
        if not all((sign * known > 0).any() for sign in PHASES.values()):
            continue
        excess = one.excess.sel(statistic=FOURFOLD)
        excess = excess.isel(step=np.flatnonzero(excess["epoch"].values > 0))
        sides = [(sign * excess).where(sign * excess > 0) for sign in PHASES.values()]
        apart = paired_difference(*(summits(side).values for side in sides))
        both = dict(zip(("first", "second"), PHASES, strict=True)) | {"by": "summit"}
        z = {"z first": mine["z"].iloc[-1], "z second": -mine["z"].iloc[-1]}
        rows.append({**one.names, **both, **z, **apart.row()})
    return pd.DataFrame(rows)


def rows_of(table: pd.DataFrame, course: Course, statistic: str) -> pd.DataFrame:
    """Returns the rows of a course's statistic, in the order of its snapshots.

    Args:
      table: What `course_table` returned of this course and others.
      course: The course.
      statistic: The name of the statistic.
    """
    mine = table["statistic"] == statistic
    for name, value in course.names.items():
        mine &= table[name] == value
    return table[mine].sort_values("epoch")
