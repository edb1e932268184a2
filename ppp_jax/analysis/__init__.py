"""Do latents prefer a basis? PPP densities, exact nulls, alignment, and a report.

Works on any array of latents, ours or anyone's, and needs nothing of the training side:
`import ppp_jax.analysis as pa`.
"""

from ppp_jax.analysis.alignment import alignment_c4, alignment_kurtosis, unit_kurtosis
from ppp_jax.analysis.animate import animate
from ppp_jax.analysis.clouds import known_clouds
from ppp_jax.analysis.compare import bootstrap_interval, interquartile_mean
from ppp_jax.analysis.folder import write_analysis
from ppp_jax.analysis.loading import load
from ppp_jax.analysis.planes import check_epsilon
from ppp_jax.analysis.plots import plot_curves, plot_ppp, plot_srm, plot_strip
from ppp_jax.analysis.ppp import ppp
from ppp_jax.analysis.projection import EmptyPPPWarning, count_planes, project, top_planes
from ppp_jax.analysis.report import write_report
from ppp_jax.analysis.rotations import pool, rotation_test
from ppp_jax.analysis.srm import srm
from ppp_jax.analysis.statistics import acceptance_ratio, angles, discreteness

__all__ = [
    "EmptyPPPWarning",
    "acceptance_ratio",
    "alignment_c4",
    "alignment_kurtosis",
    "angles",
    "animate",
    "bootstrap_interval",
    "check_epsilon",
    "count_planes",
    "discreteness",
    "interquartile_mean",
    "known_clouds",
    "load",
    "plot_curves",
    "plot_ppp",
    "plot_srm",
    "plot_strip",
    "pool",
    "ppp",
    "project",
    "rotation_test",
    "srm",
    "top_planes",
    "unit_kurtosis",
    "write_analysis",
    "write_report",
]
