"""Tests of `ppp_jax/symmetry`."""
