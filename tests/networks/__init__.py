"""Tests of `ppp_jax/networks`."""
