"""Tests of `ppp_jax/cli`."""
