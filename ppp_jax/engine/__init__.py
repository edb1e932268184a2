"""The jitted program that trains a grid, in pure JAX and without access to files."""
