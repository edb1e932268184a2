"""Activations, architectures, initialisers and optimisers, all as pure functions."""
