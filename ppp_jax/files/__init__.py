"""Atomic writing of files and folders, and checks of files before they are read."""
