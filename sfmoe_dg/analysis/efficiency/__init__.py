"""Time, multiplications and memory of several models."""
