"""The Slurm launcher: it submits job arrays, reads the queue and can stay until all runs have ended."""
