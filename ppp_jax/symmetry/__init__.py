"""Groups of symmetries, and numerical certificates that functions have them."""
