__all__ = [
    "animation",
    "evidence",
    "figures",
    "layers",
    "paper",
    "ppp",
    "strips",
]

from . import (
    animation,
    evidence,
    figures,
    layers,
    paper,
    ppp,
    strips,
)
