"""The jitted program that trains a grid: pure JAX, without files."""
