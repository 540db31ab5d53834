"""Looking inside trained models. ``subject/`` opens a run and observes its routing, ``statistics/`` and ``drawing/``
are shared, then one folder per analysis: ``compute.py`` makes its tables (no drawing), ``figure.py`` draws them.
"""
