"""Datasets: the registry of them, images on disk, downloads."""
