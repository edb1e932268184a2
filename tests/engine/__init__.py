"""Tests of `ppp_jax/engine`."""
