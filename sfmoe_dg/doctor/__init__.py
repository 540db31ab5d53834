"""Check whether this machine has everything that runs need.

``machine``, ``disks``, ``datasets`` and ``services`` hold the checks (``Probe``). ``examination`` runs all of them at
once, each with a time limit. Every result is a ``Finding``. Nothing is changed.
"""
