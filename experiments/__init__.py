"""Experiments: one command per question."""
