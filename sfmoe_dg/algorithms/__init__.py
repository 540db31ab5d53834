"""Algorithms by name (``registry``): their base class (``base``), ERM (``erm``), one file per objective
(``objectives/``), ERM with the backbone of a paper (``presets``), and code that several share (``shared/``).
"""
