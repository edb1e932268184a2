"""Tests, mirroring the modules."""

import pathlib

ROOT = pathlib.Path(__file__).parents[1]  # of the checkout
