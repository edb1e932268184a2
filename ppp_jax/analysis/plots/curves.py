"""Figures of quantities against training epochs."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, LogLocator, NullLocator

from ppp_jax.analysis.io.facts import known_of
from ppp_jax.analysis.io.sources import is_real
from ppp_jax.analysis.plots.figures import page_panels
from ppp_jax.analysis.plots.labels import label_lines
from ppp_jax.analysis.plots.ppp import check_axes
from ppp_jax.analysis.plots.style import PAGE, Look, looks, split, style
from ppp_jax.analysis.texts import drawn
from ppp_jax.errors import InputError, choice

CURVE_HEIGHT = 190  # pixels of a panel


@style()
def plot_curves(values: xr.DataArray, *, ax: Axes | None = None, yscale: str = "linear") -> Axes:
    """Draws a quantity against training epochs: medians over seeds, and the middle half of seeds.

    Args:
      values: The quantity, over `(activation, seed, step)`, with a coordinate `epoch` along `step`
        and, if they are known, the facts about activations, such as `activation_isotropic`, along
        `activation`.
      ax: The axes to draw in; by default those of a new figure.
      yscale: `linear` or `log`.

    Returns:
      The axes, with a line per activation, whose name stands at its end. Isotropic activations are
      dashed, in the colour of the activation whose partner they are. In the band around a line lies
      the middle half of the seeds. The epoch axis is linear from 0 to 1 and logarithmic beyond.

    Raises:
      InputError: `values` are over other axes or no numbers, `ax` are no axes, or `yscale` is
        neither word.
    """
    wanted = {"activation", "seed", "step"}
    labelled = isinstance(values, xr.DataArray) and {"epoch", "activation"} <= set(values.coords)
    if not labelled or set(values.dims) != wanted or not is_real(values.dtype):
        found = getattr(values, "dims", type(values).__name__)
        raise InputError(
            "values", found, f"must be real numbers over {sorted(wanted)}, with a coordinate epoch"
        )
    choice("yscale", yscale, ("linear", "log"))
    check_axes(ax)
    axes = plt.figure(figsize=(6, 3.5)).add_subplot() if ax is None else ax
    _draw(values, looks(known_of(values)), axes)
    axes.set(
        yscale=yscale, xlabel="epoch", ylabel=drawn(values.attrs.get("long_name", values.name))
    )
    return axes


@style()
def plot_pairs(values: xr.Dataset, *, pairs: Sequence[tuple[str, str]]) -> Figure:
    """Draws pairs of quantities against training epochs, beside each other.

    Args:
      values: The quantities, each as `plot_curves` takes it.
      pairs: Names of the two quantities of a row. Errors, `…_mse`, get a logarithmic scale.

    Returns:
      The figure. A panel shows at most six activations; further ones stand in further rows.
    """
    known = known_of(values)
    rows = [(names, part) for names in pairs for part in split(known)]
    figure, panels = page_panels(len(rows), 2, width=PAGE / 2, height=CURVE_HEIGHT, sharex=True)
    seen = looks(known)
    for line, (names, part) in zip(panels, rows, strict=True):
        for axes, name in zip(line, names, strict=True):
            if name.endswith("_mse"):
                _make_logarithmic(axes)
            _draw(values[name].sel(activation=part), seen, axes)
            axes.set_title(drawn(values[name].attrs.get("long_name", name)))
    for axes in panels[-1]:
        axes.set_xlabel("epoch")
    return figure


def _draw(values: xr.DataArray, seen: Mapping[str, Look], axes: Axes) -> None:
    """Draws a quantity of activations, whose looks may be of a larger grid."""
    epochs = values["epoch"].values
    for name in values["activation"].values:
        curves = values.sel(activation=name).transpose("step", "seed").values
        low, median, high = _quartiles(curves)
        look = seen[str(name)]
        axes.fill_between(epochs, low, high, color=look.color, alpha=0.15, linewidth=0)
        axes.plot(epochs, median, label=drawn(name), **look.line)
    axes.set_xscale("symlog", linthresh=1)
    axes.xaxis.set_major_locator(FixedLocator(_epoch_ticks(epochs.max())))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set_xlim(left=0)
    label_lines(axes)


def _make_logarithmic(axes: Axes) -> None:
    """Makes the scale of errors logarithmic, with numbers that have no small exponents."""
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_locator(NullLocator())


def _epoch_ticks(last: float) -> list[float]:
    """Returns ticks of an epoch axis: 0, and powers of ten up to the last epoch."""
    return [0, *(10.0**k for k in range(1 + int(np.log10(max(last, 1)))))]


def _quartiles(curves: np.ndarray) -> np.ndarray:
    """Returns quartiles over finite seeds, `(3, step)`, missing where there are none."""
    finite = [row[np.isfinite(row)] for row in curves]
    at = (0.25, 0.5, 0.75)
    return np.array([np.quantile(row, at) if len(row) else [np.nan] * 3 for row in finite]).T
