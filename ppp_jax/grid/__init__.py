"""The grid: every combination that is trained, and how a grid may grow."""

from ppp_jax.grid.grid import Grid

__all__ = ["Grid"]
