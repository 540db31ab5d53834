"""Linear probes on few labelled images of a new domain."""
