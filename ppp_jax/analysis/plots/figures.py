"""Figures that show themselves in a notebook, also where pyplot was never imported."""

import io
from typing import Any

from matplotlib.backend_bases import RendererBase
from matplotlib.figure import Figure

from ppp_jax.analysis.plots.style import DPI, PAGE, style


class ShownFigure(Figure):
    """A figure that a notebook shows where it ends a cell."""

    def _repr_png_(self) -> bytes:
        encoded = io.BytesIO()
        self.savefig(encoded, format="png")
        return encoded.getvalue()


class StyledFigure(ShownFigure):
    """A figure in the style of the package, also of what matplotlib makes as late as it draws."""

    def draw(self, renderer: RendererBase) -> None:
        """Draws the figure, with the style's texts at ticks.

        Args:
          renderer: What draws.
        """
        with style():
            super().draw(renderer)


def page_figure(width: float, height: float) -> StyledFigure:
    """Returns a figure for a page, which is never wider than a page's content.

    Args:
      width: Its width in pixels, which a wide page shows as they are.
      height: Its height in pixels.
    """
    with style():
        inches = min(width, PAGE) / DPI, height / DPI
        return StyledFigure(figsize=inches, dpi=DPI, layout="constrained")


def page_panels(
    rows: int, columns: int, *, width: float = PAGE, height: float, above: float = 0, **shared: Any
) -> tuple[StyledFigure, Any]:
    """Returns a figure for a page with rows and columns of panels, `[row, column]`.

    Args:
      rows: Number of rows.
      columns: Number of columns.
      width: Width of a column in pixels; the figure is not wider than a page.
      height: Height of a row in pixels.
      above: Height in pixels of what stands above or below all panels, such as a legend.
      **shared: Arguments of `Figure.subplots`.
    """
    figure = page_figure(columns * width, rows * height + above)
    with style():
        return figure, figure.subplots(rows, columns, squeeze=False, **shared)
