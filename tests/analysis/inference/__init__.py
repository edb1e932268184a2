"""Tests of `ppp_jax/analysis/inference`."""
