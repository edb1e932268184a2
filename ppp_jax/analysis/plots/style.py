"""How figures look: one style sheet, one place for colours, and how activations are told apart.

A page shows a figure at its size in pixels, as long as that is not wider than the page's content,
and a page's pixel is 1/96 inch. So figures have 96 dots per inch, and their text is 9 pt for
readers, too.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from cycler import cycler

if TYPE_CHECKING:
    from ppp_jax.analysis.io.facts import Known

PAGE = 1240  # pixels: the width of a page's content, beyond which it would shrink a figure
DPI = 96
TEXT = 9.0  # points
# Of Okabe and Ito, without the yellow, which cannot be seen on white.
BLUE, VERMILION, GREEN, ORANGE, PURPLE, SKY, BLACK = COLOURS = (
    "#0072b2",
    "#d55e00",
    "#009e73",
    "#e69f00",
    "#cc79a7",
    "#56b4e9",
    "#000000",
)
ABOVE, BELOW, NEITHER = VERMILION, BLUE, "0.45"  # of a null, or of 0
BAND, STRIPE, RULE, INK = "0.9", "0.96", "0.7", "0.15"  # greys: nulls, lines of tables, 0, texts
# Their numbers have no common divisor with the number of colours, so that few looks are alike.
PLAIN_MARKERS, ISOTROPIC_MARKERS = "os^vP", "D*Xdh"
SOLID, DASHED = "-", (0, (3.5, 1.6))
MOST_LINES = 6  # in a panel, which a reader can tell apart

SHEET: Any = {
    "font.size": TEXT,
    "axes.titlesize": TEXT,
    "axes.labelsize": TEXT,
    "xtick.labelsize": TEXT,
    "ytick.labelsize": TEXT,
    "legend.fontsize": TEXT,
    "legend.title_fontsize": TEXT,
    "figure.titlesize": TEXT,
    "figure.labelsize": TEXT,
    "figure.dpi": DPI,
    "savefig.dpi": "figure",
    "figure.constrained_layout.use": True,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "0.4",
    "axes.linewidth": 0.8,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.color": "0.4",
    "ytick.color": "0.4",
    "lines.linewidth": 1.6,
    "lines.markersize": 4.5,
    "legend.frameon": False,
    "axes.prop_cycle": cycler(color=COLOURS),
}


@contextlib.contextmanager
def style() -> Iterator[None]:
    """Makes matplotlib draw figures as this package draws its own, within a `with` block.

    Text has 9 pt where a page shows the figure at its size in pixels, lines take the colours of
    Okabe and Ito in their order, which colour-blind readers tell apart too, and the layout keeps
    texts apart. It also decorates a function, whose figures it then styles. Settings of other
    figures stay as they are.

    Yields:
      Nothing.

    Example:
      >>> import matplotlib.pyplot as plt
      >>> import ppp_jax.analysis as pa
      >>> with pa.style():
      ...     figure, axes = plt.subplots()
      ...     (line,) = axes.plot([1, 2, 4])
      >>> line.get_color(), axes.xaxis.label.get_size()
      ('#0072b2', 9.0)
    """
    import matplotlib  # imported late: modules that only name a colour or the style do without it

    with matplotlib.rc_context(SHEET):
        yield


class Look(NamedTuple):
    """How what belongs to one activation is drawn.

    Attributes:
      color: The colour.
      marker: The marker of points.
      linestyle: The style of lines: isotropic activations are dashed.
    """

    color: str
    marker: str
    linestyle: Any

    @property
    def line(self) -> dict[str, Any]:
        """What `Axes.plot` needs for a line."""
        return {"color": self.color, "linestyle": self.linestyle}

    @property
    def point(self) -> dict[str, Any]:
        """What `Axes.plot` needs for points that are not connected."""
        return {"color": self.color, "marker": self.marker, "linestyle": ""}


def families(known: Mapping[str, Known]) -> list[list[str]]:
    """Returns the activations of a grid in its order, each followed by its isotropic partner.

    Of several activations with the same partner it is the first one's.

    Args:
      known: The facts about every activation of the grid, by name and in its order.
    """
    found: dict[str, list[str]] = {}
    taken: set[str] = set()
    for name, facts in known.items():
        if not facts.isotropic:
            found[name] = [name]
            partner = facts.partner or ""
            if partner in known and known[partner].isotropic and partner not in taken:
                found[name].append(partner)
                taken.add(partner)
    alone = {name: [name] for name in known if name not in found and name not in taken}
    return [(found | alone)[name] for name in known if name not in taken]


def looks(known: Mapping[str, Known]) -> dict[str, Look]:
    """Returns how every activation of a grid is drawn, which its place in the grid decides.

    An isotropic partner has the colour of its activation, and is dashed and has another marker.

    Args:
      known: The facts about every activation of the grid, by name and in its order.
    """
    found = {}
    for place, family in enumerate(families(known)):
        for name in family:
            isotropic = known[name].isotropic
            markers = ISOTROPIC_MARKERS if isotropic else PLAIN_MARKERS
            marker = markers[place % len(markers)]
            style = DASHED if isotropic else SOLID
            found[name] = Look(COLOURS[place % len(COLOURS)], marker, style)
    return {name: found[name] for name in known}


def split(known: Mapping[str, Known]) -> list[list[str]]:
    """Returns the activations of a grid in parts that fit into a panel each, partners together.

    Args:
      known: The facts about every activation of the grid, by name and in its order.
    """
    parts: list[list[str]] = [[]]
    for family in families(known):
        if len(parts[-1]) + len(family) > MOST_LINES:
            parts.append([])
        parts[-1].extend(family)
    return parts


def shades(count: int) -> list[str]:
    """Returns colours for what has an order, such as learning rates: the later, the darker.

    Args:
      count: Number of colours.
    """
    import matplotlib  # imported late, as in `style`
    from matplotlib.colors import to_hex

    scale = matplotlib.colormaps["Blues"](np.linspace(0.4, 1.0, max(count, 2)))
    return [to_hex(colour) for colour in scale[-count:]]
