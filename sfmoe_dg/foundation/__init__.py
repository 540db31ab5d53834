"""Tools of every room that know nothing of domain generalization: errors, registries, seeds, files, processes.

Modules here import nothing from other rooms.
"""
