"""One run on several processes: shared updates, and the state of a single process from their parts."""
