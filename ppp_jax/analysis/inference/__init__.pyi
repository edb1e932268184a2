__all__ = [
    "LEVEL",
    "MIN_SEEDS",
    "Convergence",
    "acceptance",
    "attainable",
    "attainable_from",
    "calibration",
    "convergence",
    "dose_response",
    "downstream",
    "rotation_test",
    "seeds",
    "special_directions",
    "turned_clouds",
    "unit_matching",
]

from . import (
    acceptance,
    calibration,
    dose_response,
    downstream,
    rotation_test,
    seeds,
    special_directions,
    turned_clouds,
    unit_matching,
)
from .seeds import LEVEL, MIN_SEEDS, attainable, attainable_from
from .unit_matching import Convergence, convergence
