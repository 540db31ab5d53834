"""Looking inside trained models. ``subject/`` opens a run and records its routing; ``statistics/`` and ``drawing/`` are
shared by the analyses. Every other folder is an analysis: ``compute.py`` makes its tables, ``figure.py`` draws them.
"""
