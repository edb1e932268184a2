"""Command lines: flags, the processes they start, and what all studies share."""
