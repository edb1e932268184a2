__all__ = [
    "candidates",
    "centring",
    "density",
    "isotropic_null",
    "kernel",
    "planes",
    "points",
    "ppp",
    "srm",
    "turns",
    "views",
]

from . import (
    candidates,
    centring,
    density,
    isotropic_null,
    kernel,
    planes,
    points,
    ppp,
    srm,
    turns,
    views,
)
