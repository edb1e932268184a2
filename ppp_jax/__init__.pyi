__all__ = [
    "Grid",
    "analysis",
    "plan",
    "register_activation",
    "register_architecture",
    "register_dataset",
    "register_initializer",
    "register_optimizer",
    "register_statistic",
    "train",
]

__version__: str
__imported__: int

from . import analysis
from .analysis.statistics.registry import register_statistic
from .data.datasets import register_dataset
from .grid import Grid
from .networks.activations import register_activation
from .networks.architectures import register_architecture
from .networks.functional import register_initializer
from .networks.optimizers import register_optimizer
from .sweep.plan import plan
from .sweep.sweep import train
