"""False positives and power of the tests, on clouds whose law is known."""

from __future__ import annotations

import pathlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from absl import flags

import ppp_jax.analysis as pa
from ppp_jax.analysis import inference, plots, projection, statistics, synthetic
from ppp_jax.analysis.plots.style import BLACK, BLUE, GREEN, ORANGE, PAGE, PURPLE, VERMILION, style
from ppp_jax.analysis.texts import as_markdown
from ppp_jax.cli import flags as experiment_flags
from ppp_jax.errors import writing

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ABOUT = """\
Are the tests right? False positives on laws that prefer no axes, power on those that do.

  python -m experiments.calibration

Cost: some seven minutes of processor time; 20 minutes were measured on two cores that others used
too. Leaves runs/figures/calibration.png, and prints how often each test has p ≤ .05, of one
cloud and of several.
"""

COVERED = (6, 8, 16, 32)  # seeds of paired differences
COUNTS = {  # default, smallest, largest
    "draws": (1200, 1, 10_000, "clouds of each law"),
    "samples": (500, 2, 100_000, "samples of each cloud"),
    "units": (16, 4, 256, "n"),
    "rotations": (39, 19, 10_000, "random rotations of each test"),
}
PARTS = {"isotropic": 3, "dips": 3, "power": 12, "heavy": 12}  # of the draws, because they are slow
DIP_PART = 5  # of the samples
ISOTROPIC = ("c4", "kurtosis", "unit_kurtosis")
MIXED = ("c4", "unit_kurtosis", "shape", "shape_kurtosis")
DIP = "axis_quantisation"
DENSITY_SAMPLES, DENSITY_PART = 600, 5  # at most; times the rotations, for a z that is steady
HEAVY = ((16, 500, 5.0), (16, 500, 2.5), (64, 320, 5.0), (64, 320, 2.5), (64, 1280, 2.5))
FEWEST = 20  # groups, below which a rate is not shown
LOOKS = {  # of the figure's points, by statistic
    **dict.fromkeys(("c4", "unit_kurtosis"), (BLUE, "samples as they are")),
    **dict.fromkeys(("mean_axes", "mean_ones"), (ORANGE, "mean")),
    "covariance": (GREEN, "covariance"),
    **dict.fromkeys(("shape", "shape_kurtosis"), (VERMILION, "shape")),
    **dict.fromkeys(("outlier_kurtosis", "max_median_ratio"), (PURPLE, "outliers")),
    DIP: (BLACK, "dips"),
}


class Found(NamedTuple):
    """What was measured.

    Attributes:
      isotropic: The p-values of isotropic clouds, as `calibration.null_p_values` returns them.
      own: How often each law is called aligned, as `calibration.sizes` returns it.
      turned: The same of clouds that are turned at random.
      mixed: What `calibration.power` returns.
    """

    isotropic: xr.DataArray
    own: xr.Dataset
    turned: xr.Dataset
    mixed: xr.Dataset


def define() -> None:
    """Defines the flags."""
    flags.DEFINE_string("out", "runs/figures", "folder for the figure")
    for name, (default, least, most, text) in COUNTS.items():
        experiment_flags.define_count(name, default, text, least=least, most=most)
    flags.DEFINE_float("epsilon", 0.7, "acceptance cosine of the angles' statistics")


def command() -> None:
    """Calibrates the tests as the flags say."""
    values = flags.FLAGS
    projection.kernel.check_epsilon(values.epsilon)
    out = pathlib.Path(values.out).expanduser()
    with writing("out", out):
        out.mkdir(parents=True, exist_ok=True)
    size: dict[str, Any] = {name: values[name].value for name in COUNTS}
    path = calibrate(out, epsilon=values.epsilon, **size)
    print(f"\nfigure: {path}")


def calibrate(
    out: pathlib.Path, *, draws: int, samples: int, units: int, rotations: int, epsilon: float
) -> pathlib.Path:
    """Draws clouds, tests them, prints the tables and saves the figure.

    Args:
      out: The folder for the figure, which is there.
      draws: How many clouds are drawn from each law.
      samples: The samples of each cloud.
      units: The units of each cloud.
      rotations: The random rotations of each test.
      epsilon: The acceptance cosine of the angles' statistics.

    Returns:
      The path of the figure.
    """
    size: dict[str, Any] = {"samples": samples, "units": units, "rotations": rotations}
    part = {name: max(1, draws // divisor) for name, divisor in PARTS.items()}
    found = Found(
        isotropic=inference.calibration.null_p_values(
            **size,
            draws=part["isotropic"],
            statistics=(*ISOTROPIC, *statistics.registry.names(of=[statistics.registry.PLANES])),
            epsilon=epsilon,
            progress=True,
        ),
        own=law_sizes((*synthetic.SHAPELESS, *synthetic.SHAPED), draws, size, turned=False),
        turned=law_sizes(tuple(synthetic.SHAPELESS), draws, size, turned=True),
        mixed=inference.calibration.power(
            **size, draws=part["power"], statistics=MIXED, progress=True
        ),
    )
    tell_isotropic(found.isotropic)
    tell_laws(found)
    tell_power(found.mixed)
    tell_heavy(part["heavy"], rotations)
    tell_density(min(2 * samples, DENSITY_SAMPLES), units, DENSITY_PART * rotations)
    covered = [f"{inference.calibration.interval_coverage(seeds):.1%}" for seeds in COVERED]
    print("\nexperiments whose 95 % interval of a paired difference holds the true one")
    print(as_markdown([f"{seeds} seeds" for seeds in COVERED], [covered]))
    draw(found).savefig(out / "calibration.png")
    return out / "calibration.png"


def law_sizes(laws: Sequence[str], draws: int, size: dict[str, Any], *, turned: bool) -> xr.Dataset:
    """Returns how often each law is called aligned by all statistics of a basis, and by dips.

    Args:
      laws: Their names.
      draws: How many clouds of each; of smaller ones a third as many for the dips, which are slow.
      size: The samples, the units and the rotations.
      turned: Whether each cloud is turned at random.
    """
    import xarray as xr  # imported late: help and plans do without it

    how: dict[str, Any] = {"laws": laws, "turned": turned, "progress": True}
    few = {**size, "samples": max(2, size["samples"] // DIP_PART)}
    basis = tuple(name for name in inference.calibration.EVERY if name != DIP)
    each = [
        inference.calibration.law_tests(**how, **size, draws=draws, statistics=basis),
        inference.calibration.law_tests(
            **how, **few, draws=max(1, draws // PARTS["dips"]), statistics=[DIP]
        ),
    ]
    found = [inference.calibration.sizes(tested) for tested in each]
    joined = xr.concat(found, "statistic", data_vars="all", join="outer")
    return joined.assign(groups=joined["groups"].fillna(0).astype(int))


def tell_isotropic(p: xr.DataArray) -> None:
    """Prints how many isotropic clouds every test takes for aligned ones.

    Args:
      p: The p-values, as `calibration.null_p_values` returns them.
    """
    rates, draws = inference.calibration.false_positives(p), p.sizes["seed"]
    low, high = inference.calibration.monte_carlo(inference.LEVEL, draws)
    print(f"fraction of {draws} isotropic clouds with p ≤ .05; 99.9 %: {low:.1%} to {high:.1%}")
    header = ["clouds", *(str(name) for name in rates["statistic"].values)]
    body = [
        [str(law), *(f"{x:.1%}" for x in rates.sel(law=law).values)] for law in rates["law"].values
    ]
    print(as_markdown(header, body))


def tell_laws(found: Found) -> None:
    """Prints how often laws are called aligned: as they are, turned, and in groups.

    Args:
      found: What was measured.
    """
    for title, sizes, marked in (
        ("as they are; bold: the axes are special for it", found.own, True),
        ("turned at random", found.turned, False),
    ):
        print(f"\nfraction of clouds with p ≤ .05, {title}")
        names = [str(name) for name in sizes["statistic"].values]
        body = [
            [str(law), *(_rate(sizes, "1 cloud", law, name, marked) for name in names)]
            for law in sizes["law"].values
        ]
        print(as_markdown(["law", *names], body))
    tests = [str(name) for name in found.own["test"].values]
    print("\nfraction of groups with p ≤ .05, where the axes are not special")
    body = [
        [law, name, *(_rate(found.own, test, law, name, False) for test in tests)]
        for law, names in inference.calibration.NULLS.items()
        for name in names
    ]
    print(as_markdown(["law", "statistic", *tests], body))
    print("\nall nulls together, as they are and turned")
    print(as_markdown(*_together(found)))


def _rate(sizes: xr.Dataset, test: str, law: str, name: str, marked: bool) -> str:
    """Returns a rate as a table shows it; a dash of too few clouds that are judged."""
    one = sizes.sel(test=test, law=law, statistic=name)
    if not one["groups"] >= FEWEST:
        return "–"
    text = f"{float(one['rate']):.1%}"
    return (
        f"**{text}**" if marked and name not in inference.calibration.NULLS.get(law, ()) else text
    )


def _nulls(found: Found, test: str) -> list[xr.Dataset]:
    """Returns every rate of a test that should be its exact size."""
    own = [
        found.own.sel(test=test, law=law, statistic=name)
        for law, names in inference.calibration.NULLS.items()
        for name in names
    ]
    turned = found.turned.sel(test=test).stack(pair=("law", "statistic"))
    each = [*own, *(turned.isel(pair=k) for k in range(turned.sizes["pair"]))]
    return [one for one in each if one["groups"] >= FEWEST]


def _together(found: Found) -> tuple[list[str], list[list[str]]]:
    body = []
    for test in found.own["test"].values:
        nulls = _nulls(found, test)
        if not nulls:
            continue
        rates = np.array([float(one["rate"]) for one in nulls])
        outside = sum(not one["low"] <= one["rate"] <= one["high"] for one in nulls)
        groups = max(int(one["groups"]) for one in nulls)
        exact = float(nulls[0]["exact"])
        low, high = inference.calibration.monte_carlo(exact, groups)
        limits = [f"{groups}", f"{exact:.1%}", f"{low:.1%} to {high:.1%}"]
        seen = [f"{rates.mean():.1%}", f"{rates.min():.1%}", f"{rates.max():.1%}"]
        body.append([str(test), *limits, str(len(nulls)), *seen, str(outside)])
    header = ["test", "groups", "exact", "99.9 % lie in", "pairs", "mean", "lowest", "highest"]
    return [*header, "outside"], body


def tell_power(found: xr.Dataset) -> None:
    """Prints how many mixtures every test takes for aligned ones.

    Args:
      found: What `calibration.power` returns.
    """
    print("\nshare of mixtures with p ≤ .05")
    fractions = [f"{fraction:.0%}" for fraction in found["fraction"].values]
    body = [
        [kind, str(name), *(f"{x:.0%}" for x in found["power"].sel(kind=kind, statistic=name))]
        for kind in inference.calibration.KINDS
        for name in found["statistic"].values
    ]
    print(as_markdown(["on", "statistic", *fractions], body))


def tell_heavy(draws: int, rotations: int) -> None:
    """Prints where the shape of heavy-tailed elliptical clouds is called aligned too often.

    Args:
      draws: How many clouds are drawn of each.
      rotations: The random rotations of each test.
    """
    body = []
    for units, samples, freedom in HEAVY:
        rates = inference.calibration.heavy_tailed(
            samples=samples, units=units, freedom=freedom, draws=draws, rotations=rotations
        )
        rate = [f"{float(rates.sel(statistic=name)):.0%}" for name in inference.calibration.SHAPE]
        body.append([str(units), str(samples), f"{samples / units:.0f}", f"t{freedom:g}", *rate])
    print(f"\nfraction of {draws} heavy-tailed elliptical clouds with p ≤ .05")
    print(
        as_markdown(["units", "samples", "per unit", "tails", *inference.calibration.SHAPE], body)
    )


def tell_density(samples: int, units: int, rotations: int) -> None:
    """Prints dips and valleys of the density, of clouds on few places and of others.

    Args:
      samples: The samples of each cloud.
      units: The units of each cloud.
      rotations: The random rotations of each test.
    """
    body = []
    clouds = synthetic.density_clouds(samples=samples, units=units)
    for kind, members in clouds.items():
        for name, cloud in members.items():
            statistics = [DIP, "quantised_fraction"]
            tested = pa.rotation_test(cloud, statistics=statistics, rotations=rotations)
            dip = tested.sel(statistic=DIP)
            fraction = float(tested["value"].sel(statistic="quantised_fraction"))
            peaks = pa.density_peaks(cloud)
            dips = [
                f"{round(float(dip['z']))}".replace("-", "−"),
                f"{float(dip['p']):.3f}",
                f"{fraction:.0%}",
            ]
            valleys = [f"{float(peaks.depth):.1f}", f"{float(peaks.reference):.1f}"]
            body.append([kind, name, *dips, *valleys, f"{float(peaks.number):.0f}"])
    print(f"\ndips and valleys of clouds of {samples} samples in {units} units")
    header = ["kind", "cloud", "dip z", "dip p", "units with a dip", "valley", "reference", "peaks"]
    print(as_markdown(header, body))


@style()
def draw(found: Found) -> Figure:
    """Draws the sizes of all tests, what each statistic sees, and the power on mixtures.

    Args:
      found: What was measured.
    """
    figure = plots.figures.page_figure(PAGE, 1180)
    parts: Any = figure.subfigures(3, 1, height_ratios=(1, 1.05, 0.75))
    upper, middle, lower = parts
    tests = [str(name) for name in found.own["test"].values]
    for k, (ax, test) in enumerate(
        zip(upper.subplots(1, len(tests), sharey=True, squeeze=False)[0], tests, strict=True)
    ):
        draw_sizes(found, test, ax=ax)
        if k == 0:
            ax.set_yticks(
                range(len(inference.calibration.NULLS)), list(inference.calibration.NULLS)
            )
            ax.invert_yaxis()
    for colour, label in dict.fromkeys(LOOKS.values()):
        upper.axes[0].plot([], [], "o", color=colour, label=label)
    upper.legend(loc="outside lower center", ncols=6)
    upper.suptitle(
        "Where the axes are not special: fraction of tests with p ≤ .05, its exact value (line), "
        "and where 99.9 % of fractions lie (band; of dips: light)",
    )
    draw_seen(found.own, ax=middle.subplots())
    both = lower.subplots(1, len(inference.calibration.KINDS))
    for kind, place in zip(inference.calibration.KINDS, both, strict=True):
        plots.evidence.plot_power(found.mixed, kind=kind, ax=place)
    return figure


def draw_sizes(found: Found, test: str, *, ax: Axes) -> None:
    """Draws the sizes of one test: above each law's line as it is, below it turned at random.

    Args:
      found: What was measured.
      test: Which test.
      ax: The axes to draw in.
    """
    from matplotlib.ticker import (  # imported late: help and plans do without it
        MaxNLocator,
        PercentFormatter,
    )

    at = found.turned.sel(test=test)
    exact, most = float(at["exact"].max()), int(at["groups"].max())
    dips = int(at["groups"].sel(statistic=DIP).max())
    for groups, shade in ((dips, 0.1), (most, 0.25)):
        if not groups:  # of few draws there are none
            continue
        low, high = inference.calibration.monte_carlo(exact, groups)
        ax.axvspan(float(low), float(high), color=BLACK, alpha=shade, linewidth=0)
    ax.axvline(exact, color=BLACK, linewidth=0.8)
    for row, (law, nulls) in enumerate(inference.calibration.NULLS.items()):
        for sizes, names, up in (
            (found.own, nulls, -0.18),
            (found.turned, inference.calibration.EVERY, 0.18),
        ):
            for name in names:
                one = sizes.sel(test=test, law=law, statistic=name)
                if one["groups"] >= FEWEST:
                    place = row + up + 0.03 * (inference.calibration.EVERY.index(name) - 4.5)
                    ax.plot(one["rate"], place, "o", color=LOOKS[name][0], markersize=3.5)
    ax.set_title(test)
    ax.set_xlim(left=-0.004)
    ax.xaxis.set_major_locator(MaxNLocator(2))
    ax.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))


def draw_seen(sizes: xr.Dataset, *, ax: Axes) -> None:
    """Draws how often each statistic calls each law aligned, of one cloud.

    Args:
      sizes: Of clouds as they are, as `calibration.sizes` returns it.
      ax: The axes to draw in.
    """
    at = sizes.sel(test="1 cloud")
    judged = at["rate"].where(at["groups"] >= FEWEST)
    laws, names = list(at["law"].values), list(at["statistic"].values)
    ax.imshow(judged, cmap="Blues", vmin=0, vmax=1.3, aspect="auto")
    for row, law in enumerate(laws):
        for column, name in enumerate(names):
            value = float(judged.sel(law=law, statistic=name))
            bold = name not in inference.calibration.NULLS.get(law, ())
            text = "–" if np.isnan(value) else f"{100 * value:.0f}"
            style: dict[str, Any] = {"weight": "bold" if bold else "normal"}
            colour = "w" if value > 0.6 else "k"
            ax.text(column, row, text, ha="center", va="center", color=colour, **style)
    ax.set_yticks(range(len(laws)), laws)
    short = [statistics.registry.STATISTICS[name].short for name in names]
    ax.set_xticks(range(len(names)), short, rotation=25, ha="right")
    ax.set_title("p ≤ .05 in % of single clouds; bold: the axes are special")


def main(*, argv: list[str] | None = None) -> None:
    """Runs the command."""
    experiment_flags.run(command, define=define, about=ABOUT, argv=argv)


if __name__ == "__main__":
    main()
