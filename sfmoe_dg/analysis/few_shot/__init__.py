"""Accuracy on an unseen domain after a few labelled examples of it."""
