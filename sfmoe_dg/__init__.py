"""sfmoe_dg: domain generalization with sparse-fusion mixture-of-experts, DomainBed-compatible.

Importing the package is cheap: no torch, no network. See ARCHITECTURE.md for the way the parts fit together.
"""

__version__ = "0.1.0"
