"""Reading of latents: files of any origin, arrays of any library, and run folders."""
