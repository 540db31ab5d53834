"""What every room uses and what knows nothing of domain generalization: errors, registries, seeds, files, processes.

Modules here import nothing from the other rooms.
"""
