"""Work with a checkout of DomainBed, in both directions.

DomainBed's algorithms in our commands: ``plugin.py`` (registers them, without torch) and ``upstream_algorithms.py``
(wraps them). Our algorithms and data sets in DomainBed's commands: ``runner.py`` (environment and command line),
``shim/`` (the package that Python finds under the name ``domainbed``), ``ours_in_domainbed.py`` (what is added to
DomainBed's modules when they are imported) and ``adapters.py`` (what is added). ``checkout.py`` serves both.
"""
