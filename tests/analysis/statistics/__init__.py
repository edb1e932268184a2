"""Tests of `ppp_jax/analysis/statistics`."""
