"""Both ways with DomainBed's own code, from a checkout of it that the user has.

Its algorithms in our commands: ``plugin.py`` (the plug-in, torch-free) and ``upstream_algorithms.py`` (what wraps
them). Ours in its commands: ``runner.py`` (environment and command line), ``shim/`` (what Python finds first
under the name ``domainbed``) and ``ours_in_domainbed.py`` (what is added to its modules when they are imported).
Both stand on ``checkout.py``. Nothing here is imported unless one of the two is asked for.
"""
