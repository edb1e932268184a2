"""Benchmarks: both sides in one run, medians, ratios."""
