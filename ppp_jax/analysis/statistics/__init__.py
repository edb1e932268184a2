"""Numbers of a cloud of latents against a basis."""
