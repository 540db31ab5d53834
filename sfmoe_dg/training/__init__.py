"""Prepare, train, evaluate, save and resume one run."""
