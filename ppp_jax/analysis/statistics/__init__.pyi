__all__ = [
    "alignment",
    "angles",
    "moments",
    "neighbours",
    "quantisation",
    "registry",
    "streamed",
    "top_units",
]

from . import (
    alignment,
    angles,
    moments,
    neighbours,
    quantisation,
    registry,
    streamed,
    top_units,
)
