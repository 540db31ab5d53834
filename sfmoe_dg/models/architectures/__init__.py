"""Architectures: one file per paper, and the parts that several of them share."""
