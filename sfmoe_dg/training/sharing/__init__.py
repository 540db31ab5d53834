"""One run on several processes: shared updates, and whole states from their parts."""
