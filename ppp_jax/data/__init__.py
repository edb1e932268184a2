"""The registry of datasets, readers of image files, and downloads."""
