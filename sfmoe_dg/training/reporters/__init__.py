"""Reporters are told what happens in a run: the base class, several reporters as one, and one logger per file."""
