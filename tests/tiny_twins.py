"""The small networks of every architecture, as the registries list them: for tests that run each of them."""

from sfmoe_dg.algorithms.registry import default_hparams
from sfmoe_dg.models.architectures.registry import presets
from sfmoe_dg.models.backbones import known_backbones

TINY_TWINS = [name for name in known_backbones() if name.endswith("_32")]
"""All networks of this package for 28–32 px."""

TINY_MOES = [default_hparams(name, "StyledDigits")["backbone"] for name in presets()]
"""Those of the presets: mixtures of experts."""
