"""Networks as pure functions: activations, architectures, initialisers, optimisers."""
