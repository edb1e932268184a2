"""Controlled ablations of activation symmetry in JAX.

Train a grid of autoencoders as one program (`ppp_jax.grid`, `ppp_jax.sweep`) and ask whether
their latents prefer the axes (`ppp_jax.analysis`). Nothing is imported here, so that
`ppp_jax.analysis` stays free of the training stack.
"""

__version__ = "0.1.0"
