"""The computations behind every figure: pandas tables and arrays out, no printing; only ``figures`` draws.

Bottom up: ``opened`` (a finished run and its images), ``annotations`` (where parts lie, which attributes images have),
``observations`` (what a run routed where), ``predicting`` (the network that predicts), ``information`` (association in
tables of counts), ``resampling`` (tests and intervals); then one file per subject, and ``figures``, one per drawing.
"""
