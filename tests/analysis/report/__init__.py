"""Tests of `ppp_jax/analysis/report`."""
