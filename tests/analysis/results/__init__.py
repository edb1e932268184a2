"""Tests of `ppp_jax/analysis/results`."""
