"""The grid of networks to train, and how a grid can be extended."""

from ppp_jax.grid.grid import Grid

__all__ = ["Grid"]
