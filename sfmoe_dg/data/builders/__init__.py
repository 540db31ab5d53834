"""What the scripts in ``datasets/`` are made of: from an address to a folder that ``build_dataset`` opens.

::

    download.py   a file from the network: resumed, retried, checked, in place only when whole
    archive.py    a zip or tar file to a folder, refusing what would land outside it
    manifest.py   what a built folder holds, by path, size and checksum
    recipe.py     Source, Recipe and build(): download → extract → prepare → manifest → rename
    layouts.py    from the archives' layout to ours, and counts of what is on disk
    camera_traps.py, duplicates.py   the preparation of TerraIncognita and DomainNet
    verify.py     what is on disk against what was published and against the manifest
    script.py     the command line of a script; the script says where the lines go

Nothing here prints. Bad input, a dead link or a full disk ends in ``UserError``; what was done so far is kept, and the
same command goes on from there.
"""
