"""Tests, mirroring the modules."""
