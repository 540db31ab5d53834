"""Objectives: one file each, one line each in ``algorithms/registry.py``."""
