"""Accuracy of several methods, beside published numbers."""
