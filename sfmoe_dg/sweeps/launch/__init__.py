"""Launchers: one file or folder per launcher, one line each in ``launcher.py``."""
