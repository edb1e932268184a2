"""Do latents prefer a basis? PPP densities, exact nulls, alignment, and a report.

Works on any array of latents, ours or anyone's, and needs nothing of the training side:
`import ppp_jax.analysis as pa`.
"""

from ppp_jax.analysis.compare import bootstrap_interval, interquartile_mean
from ppp_jax.analysis.loading import load
from ppp_jax.analysis.planes import check_epsilon
from ppp_jax.analysis.plots import plot_curves, plot_ppp, plot_strip
from ppp_jax.analysis.ppp import EmptyPPPWarning, Projection, ppp, project
from ppp_jax.analysis.report import write_report
from ppp_jax.analysis.statistics import acceptance_ratio, alignment_c4

__all__ = [
    "EmptyPPPWarning",
    "Projection",
    "acceptance_ratio",
    "alignment_c4",
    "bootstrap_interval",
    "check_epsilon",
    "interquartile_mean",
    "load",
    "plot_curves",
    "plot_ppp",
    "plot_strip",
    "ppp",
    "project",
    "write_report",
]
