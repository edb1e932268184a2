"""Tests of `ppp_jax/data`."""
