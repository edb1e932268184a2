"""The run folder, with its manifest, metrics, checkpoints and latents."""
