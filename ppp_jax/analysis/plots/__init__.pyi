__all__ = [
    "animation",
    "curves",
    "evidence",
    "figures",
    "labels",
    "layers",
    "paper",
    "ppp",
    "strips",
    "style",
]

from . import (
    animation,
    curves,
    evidence,
    figures,
    labels,
    layers,
    paper,
    ppp,
    strips,
    style,
)
