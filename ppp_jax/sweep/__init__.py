"""Training of a grid into a run folder, and the plan of such a training."""

from ppp_jax.sweep.sweep import train

__all__ = ["train"]
