"""The run folder: manifest, metrics, checkpoints, latents."""
