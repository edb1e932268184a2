"""Command lines of the experiments: flags, the start of processes, and the studies they write."""
