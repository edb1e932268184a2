"""Tests of `ppp_jax/sweep`."""
