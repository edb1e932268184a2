"""Figures that show themselves in a notebook, also where pyplot was never imported."""

import io

from matplotlib.figure import Figure


class ShownFigure(Figure):
    """A figure that a notebook shows where it ends a cell."""

    def _repr_png_(self) -> bytes:
        encoded = io.BytesIO()
        self.savefig(encoded, format="png")
        return encoded.getvalue()
