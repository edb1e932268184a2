"""A grid in numbers: every run measured, judged and put into tables."""
