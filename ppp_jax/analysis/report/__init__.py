"""Pages: a run folder's, and that of anyone's arrays."""
