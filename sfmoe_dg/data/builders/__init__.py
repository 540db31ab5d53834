"""Download a data set and prepare the folder that ``build_dataset`` opens; the scripts in ``datasets/`` use this.

::

    download.py   a file from the network: resumed, retried, checked; it gets its name when it is complete
    archive.py    a zip or tar file to a folder; members that lead out of it are refused
    manifest.py   the files of a built folder: path, size and checksum
    recipe.py     Source, Recipe and build(): download → extract → prepare → manifest → rename
    layouts.py    from the archives' layout to ours, and counts of what is on disk
    camera_traps.py, duplicates.py   the preparation of TerraIncognita and DomainNet
    verify.py     compares what is on disk with the published counts and the manifest
    script.py     the command line of a script; the script decides where lines are printed

Nothing here prints. Bad input, a dead link or a full disk ends in ``UserError``; finished work is kept, and the same
command continues it.
"""
