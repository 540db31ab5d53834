"""Who is told what a run does: the protocol, several reporters as one, and one logger per file."""
