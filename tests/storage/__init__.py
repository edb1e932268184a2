"""Tests of `ppp_jax/storage`."""
