"""Benchmarks, each of which runs both sides in turn and prints medians and ratios."""
