"""Latents as users bring them: files of any origin, arrays of any library, run folders."""
