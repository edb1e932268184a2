"""Trains a grid into a run folder: plan, seed batches, agreement between processes, progress."""

from ppp_jax.sweep.sweep import train

__all__ = ["train"]
