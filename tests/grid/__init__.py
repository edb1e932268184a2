"""Tests of `ppp_jax/grid`."""
