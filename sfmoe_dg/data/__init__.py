"""From the name of a data set to batches on the device.

``catalog`` holds facts (no torch), ``build`` opens a data set by its name, ``domains`` and ``splits`` are an opened
data set and its parts. ``sets/`` has one reader per family, ``batches/`` transforms, loaders, caches; ``builders/``
downloads and prepares, ``cub_dg/`` makes CUB-200-2011 in four styles.
"""
