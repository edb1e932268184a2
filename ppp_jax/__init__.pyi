__all__ = ["Grid", "analysis", "plan", "train"]

__version__: str

from . import analysis
from .grid import Grid
from .sweep.plan import plan
from .sweep.sweep import train
