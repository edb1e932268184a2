"""Tests of `ppp_jax/analysis/io`."""
