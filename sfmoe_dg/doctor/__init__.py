"""Is everything here that runs need? ``examination`` asks all questions side by side, each with a time limit;
``machine``, ``disks``, ``datasets`` and ``services`` are the questions; every answer is a ``Finding``.
Nothing is changed.
"""
