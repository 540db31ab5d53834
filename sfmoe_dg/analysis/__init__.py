"""The computations behind every figure: pandas tables and arrays out, no drawing and no printing.

Bottom up: ``opened`` (a finished run and its images), ``annotations`` (where parts lie, which attributes images have),
``observations`` (what a run routed where), ``resampling`` (tests and intervals); then one file per subject.
"""
