"""Names at the ends of lines, none over another, in place of a legend."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backend_bases import RendererBase
from matplotlib.lines import Line2D
from matplotlib.text import Text
from matplotlib.transforms import Bbox, IdentityTransform
from scipy.optimize import isotonic_regression

from ppp_jax.analysis.plots.style import INK, TEXT

LEAD, GAP = 16.0, 3.0  # points: from the panel to a label, and between its line and its text
SPACING = 1.12  # of the distance between labels, in heights of a label


def label_lines(axes: Axes) -> "LineLabels":
    """Writes the label of every line of a panel to its right, in the order of the lines' ends.

    A short line with the dashes of the line leads from its last point to its label. The labels
    find their places when the figure is drawn, so that axes may be resized after that. Lines
    without a label, or without a finite point, get none.

    Args:
      axes: The panel.

    Returns:
      The labels, which are part of the panel.
    """
    named = [line for line in axes.lines if not str(line.get_label()).startswith("_")]
    labels = LineLabels(axes, named)
    axes.add_artist(labels)
    labels.set_clip_on(False)
    return labels


class LineLabels(Artist):
    """The labels of the lines of a panel.

    Attributes:
      texts: The texts, by which a reader knows the lines.
    """

    def __init__(self, axes: Axes, lines: Sequence[Line2D]) -> None:
        """Makes the labels of given lines.

        Args:
          axes: The panel.
          lines: The lines, whose labels are the texts.
        """
        super().__init__()
        self.set_zorder(5)
        self._lines = [line for line in lines if _end(line) is not None]
        self.texts = [
            Text(
                0, 0, str(line.get_label()), fontsize=TEXT, color=INK, va="center", ha="left",
                transform=IdentityTransform(), figure=axes.figure,
            )
            for line in self._lines
        ]  # fmt: skip
        self._leads = [
            Line2D(
                [], [], color=line.get_color(), linewidth=1, linestyle=line.get_linestyle(),
                alpha=0.8, transform=IdentityTransform(), figure=axes.figure,
            )
            for line in self._lines
        ]  # fmt: skip

    def _place(self, renderer: RendererBase) -> None:
        """Moves labels to where the ends of their lines are, and then apart."""
        assert self.axes is not None
        box = self.axes.get_window_extent(renderer)
        scale: Any = renderer.points_to_pixels(1)
        ends = [self._at(line, box) for line in self._lines]
        half = max(text.get_window_extent(renderer).height for text in self.texts) / 2
        wanted = spread([y for _, y in ends], 2 * SPACING * half, box.y0 + half, box.y1 - half)
        x = box.x1 + LEAD * scale
        for text, lead, end, y in zip(self.texts, self._leads, ends, wanted, strict=True):
            text.set_position((x + GAP * scale, y))
            lead.set_data([end[0], x - LEAD * scale / 4, x], [end[1], y, y])

    def _at(self, line: Line2D, box: Bbox) -> tuple[float, float]:
        """Returns where a line ends in pixels, within the panel."""
        x, y = line.get_transform().transform(_end(line))
        return min(float(x), box.x1), float(np.clip(y, box.y0, box.y1))

    def draw(self, renderer: RendererBase) -> None:
        """Draws the labels and what leads to them.

        Args:
          renderer: What draws.
        """
        if not self.get_visible() or not self.texts:
            return
        self._place(renderer)
        for artist in (*self._leads, *self.texts):
            artist.draw(renderer)

    def get_window_extent(self, renderer: RendererBase | None = None) -> Bbox:
        """Returns the pixels that the labels take, for which the layout makes room.

        Args:
          renderer: What draws.
        """
        assert self.axes is not None
        if renderer is None or not self.texts:
            return Bbox.null()
        self._place(renderer)
        return Bbox.union([text.get_window_extent(renderer) for text in self.texts])

    def get_tightbbox(self, renderer: RendererBase | None = None) -> Bbox:
        """Returns the same.

        Args:
          renderer: What draws.
        """
        return self.get_window_extent(renderer)


def _end(line: Line2D) -> Any:
    """Returns the last finite point of a line, or None."""
    points = np.asarray(line.get_xydata(), float)
    known = points[np.isfinite(points).all(axis=1)]
    return known[-1] if len(known) else None


def spread(wanted: Any, distance: float, low: float, high: float) -> np.ndarray:
    """Moves numbers as little as needed until neighbours have a distance, in their order.

    Args:
      wanted: Where the numbers are.
      distance: The least distance.
      low: Where the smallest may be, if all have room.
      high: Where the largest may be, if all have room.

    Example:
      >>> spread([0.0, 0.1, 5.0], 1.0, 0.0, 10.0).tolist()
      [0.0, 1.0, 5.0]
      >>> spread([4.0, 4.0, 9.0], 1.0, 0.0, 10.0).tolist()
      [3.5, 4.5, 9.0]
    """
    values = np.asarray(wanted, float)
    order = np.argsort(values, kind="stable")
    steps = distance * np.arange(len(values))
    # Without the steps, what is left is the nearest sequence that does not fall.
    found = _not_falling(values[order] - steps)
    room = (high - low) - steps[-1]
    if room >= 0:
        found = np.clip(found, low, low + room)
    else:  # Too many labels stand around the middle, and are still apart.
        found = np.full(len(values), (low + high - steps[-1]) / 2)
    placed = np.empty(len(values))
    placed[order] = found + steps
    return placed


def _not_falling(values: np.ndarray) -> np.ndarray:
    """Returns the sequence nearest to another one, in squares, that does not fall."""
    fitted: np.ndarray = isotonic_regression(values).x
    return fitted
