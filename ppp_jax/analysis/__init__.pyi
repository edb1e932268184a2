__all__ = [
    "EmptyPPPWarning",
    "LeftAsideWarning",
    "LongRowWarning",
    "RepeatedRowWarning",
    "acceptance_ratio",
    "alignment_c4",
    "alignment_kurtosis",
    "angles",
    "animate",
    "axis_quantisation",
    "bootstrap_interval",
    "capture_cache",
    "capture_flax",
    "capture_torch",
    "compare_layers",
    "count_planes",
    "density_peaks",
    "difference_table",
    "discreteness",
    "false_discovery",
    "interquartile_mean",
    "known_clouds",
    "layer_table",
    "load",
    "load_run",
    "measure",
    "neighbour_ratio",
    "paired_difference",
    "plot_curves",
    "plot_forest",
    "plot_layers",
    "plot_ppp",
    "plot_srm",
    "plot_strip",
    "pool",
    "ppp",
    "project",
    "rotation_test",
    "srm",
    "style",
    "summary",
    "table",
    "top_planes",
    "top_units",
    "unit_kurtosis",
    "verdict_table",
    "write_analysis",
    "write_layers",
    "write_report",
]

from .inference.rotation_test import pool, rotation_test
from .inference.seeds import (
    bootstrap_interval,
    false_discovery,
    interquartile_mean,
    paired_difference,
)
from .io.capture_cache import LeftAsideWarning, capture_cache
from .io.capture_flax import capture_flax
from .io.capture_torch import capture_torch
from .io.load import load
from .io.rows import LongRowWarning
from .io.runs import load_run
from .plots.animation import animate
from .plots.curves import plot_curves
from .plots.evidence import plot_forest
from .plots.layers import plot_layers
from .plots.ppp import plot_ppp, plot_srm
from .plots.strips import plot_strip
from .plots.style import style
from .projection.points import EmptyPPPWarning, count_planes, project, top_planes
from .projection.ppp import ppp
from .projection.srm import srm
from .report.array_report import write_analysis
from .report.kept_report import write_report
from .report.layer_report import write_layers
from .results.layer_comparison import compare_layers
from .results.layer_table import layer_table
from .results.measure import measure
from .results.run_table import table
from .results.summary import summary
from .results.verdicts import difference_table, verdict_table
from .statistics.alignment import alignment_c4, alignment_kurtosis, unit_kurtosis
from .statistics.angles import acceptance_ratio, angles
from .statistics.neighbours import RepeatedRowWarning, discreteness, neighbour_ratio
from .statistics.quantisation import axis_quantisation, density_peaks
from .statistics.top_units import top_units
from .synthetic import known_clouds
