"""Algorithms: ``base`` (DomainBed's interface), ``objectives/`` (one file each), ``presets`` (ERM with the backbone of
a paper), ``shared/`` (what several objectives use) and ``registry`` (all of them by name).
"""
