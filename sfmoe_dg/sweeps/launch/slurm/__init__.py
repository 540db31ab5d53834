"""The Slurm launcher: submitting arrays, asking the queue, staying until all runs have ended."""
