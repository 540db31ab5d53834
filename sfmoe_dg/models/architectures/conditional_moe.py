"""Conditional mixtures of experts (Uni-Perceiver-MoE, arXiv 2206.04674): ViTs whose Linear layers are experts.

Every other block (0, 2, 4, …) holds E = 8 experts for each of its four Linear layers; qkv and output projection share
one routing decision, the two layers of the FFN another: ``top_2(softmax(W_g R(x) + noise))``, noise N(0, 1/E²) in
training only, the two gates renormalised to sum to one. ``routing_level`` chooses R (``conditions.py``). Where it does
not depend on content, experts are merged before they are used, and ``export_merged`` gives a dense model.

Decisions:

- The default level is "token": like "context" it needs only the picture, so it works under every objective. In the
  paper "attribute" is best. On a held-out style of StyledDigits (tiny twin, 400 steps, one seed: no more than a hint)
  token, context, attribute and task had accuracies of 87, 84, 86, 57 % (chalk) and 62, 65, 57, 54 % (neon); the last
  two with the mean gate. At "task" three domains with two experts each use at most six of the eight experts.
- "task" and "attribute" are told the domain of every training image (``domains``). Where it is not known, always in
  prediction, and in training under objectives that do not pass it on, the ``unknown_domain`` policy decides.
- Passing ``domains`` in evaluation is no domain generalization but an oracle. Passing ``description`` is allowed only
  where the description of the test domain is declared as side information.
- Every decision has an embedding (or W_attr) of its own; "pooled" in the context level is the mean over tokens.
- No balance loss, since none is reported; ``routing_loss='assignments'`` adds WideNet's.
- Dense weights are upcycled: every expert starts as a copy of its dense layer, so the model starts as the dense one.

Legend: B images, S tokens of one image, D width, E experts, A attribute bits, I training domains.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import get_device_dtype
from timm.models import generate_default_cfgs
from torch import Tensor, nn

from sfmoe_dg.data.catalog import DOMAIN_ATTRIBUTES
from sfmoe_dg.foundation.errors import UserError
from sfmoe_dg.foundation.registry import unknown
from sfmoe_dg.models.architectures.preset import Preset
from sfmoe_dg.models.architectures.settings import MoESettings
from sfmoe_dg.models.architectures.sizes import BASE, SMALL, TINY, cfg, tiny_cfg
from sfmoe_dg.models.architectures.vision_transformer import SparseVisionTransformer, create_sparse_vit
from sfmoe_dg.models.moe import conditions as cond
from sfmoe_dg.models.moe.conditional_layers import ConditionalBlock, RouteBy
from sfmoe_dg.models.moe.hparams import MODEL_DEFAULT, moe_model
from sfmoe_dg.runs.hparams import Hparam

OWN_HPARAMS: Mapping[str, Hparam] = {
    "routing_level": Hparam(MODEL_DEFAULT, choices=(MODEL_DEFAULT, *cond.LEVELS)),
    "unknown_domain": Hparam(MODEL_DEFAULT, choices=(MODEL_DEFAULT, *cond.UNKNOWN_DOMAIN)),
}
"""What no other architecture takes."""


@dataclass(frozen=True)
class ConditionalSettings(MoESettings):
    """The arguments about experts, with the paper's defaults.

    Attributes:
        routing_level: one of :data:`sfmoe_dg.models.moe.conditions.LEVELS`.
        num_domains: I, for the levels "task" and "attribute".
        unknown_domain: one of :data:`sfmoe_dg.models.moe.conditions.UNKNOWN_DOMAIN`.
        moe_layers: None for 0, 2, 4, …
        capacity_ratio, eval_capacity_ratio: a limit needs the level "token" or "context".
    """

    moe_layers: str | Sequence[int] | None = None  # type: ignore[assignment]
    num_experts: int = 8
    routing_loss: str = "none"
    routing_options: Mapping[str, Any] = field(default_factory=lambda: {"noise": 1.0, "renormalize": True})
    routing_level: str = "token"
    unknown_domain: str = "mean"

    def __post_init__(self) -> None:
        if self.unknown_domain not in cond.UNKNOWN_DOMAIN:
            raise unknown("policy for unknown domains", str(self.unknown_domain), cond.UNKNOWN_DOMAIN)
        if self.routing_level not in cond.LEVELS:
            raise unknown("routing level", str(self.routing_level), cond.LEVELS)

    def sparse_blocks(self, depth: int) -> tuple[int, ...]:
        """The indices of the blocks that hold experts."""
        return tuple(range(0, depth, 2)) if self.moe_layers is None else super().sparse_blocks(depth)


class ConditionalMoEViT(SparseVisionTransformer):
    """A vision transformer whose sparse blocks are made of experts altogether, attention included.

    Args:
        arguments: the fields of :class:`ConditionalSettings`, and the keyword arguments of timm's
            ``VisionTransformer``.

    Raises:
        UserError: on a value that is not allowed.
    """

    defaults = ConditionalSettings()
    settings: ConditionalSettings
    domain_bits: Tensor
    domain_alias: Tensor
    not_in_checkpoints = ("domain_bits", "domain_alias", "domain_classifier.")
    """Beginnings of the names of tensors that dense weights do not have."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.dense_arguments = self.defaults.split(arguments)[1]
        self.routing_level, self.num_domains = self.settings.routing_level, self.settings.num_domains
        self.unknown_domain = self.settings.unknown_domain
        self._remember_domains()

    def make_block(self, is_sparse: bool, **kwargs: Any) -> nn.Module:
        """One block from the arguments of timm's ``Block``; called while the model is being built."""
        if not is_sparse:
            return super().make_block(False, **kwargs)
        level, num_domains = self.settings.routing_level, self.settings.num_domains
        make_router = cond.router_maker(level, num_domains, len(DOMAIN_ATTRIBUTES))
        return ConditionalBlock(RouteBy(make_router, self.routing_options, level in cond.CONTENT_LEVELS), **kwargs)

    def _remember_domains(self) -> None:
        """Add what the model stores about its domains: their descriptions, and a classifier of domains."""
        dd = get_device_dtype(self)
        if self.uses_descriptions:
            bits = torch.zeros(self.num_domains, len(DOMAIN_ATTRIBUTES), device=dd["device"])
            self.register_buffer("domain_bits", bits)
            self.register_buffer("domain_alias", torch.zeros(self.num_domains, dtype=torch.int64, device=dd["device"]))
        if self.uses_domains and self.unknown_domain == "predicted":
            self.domain_classifier = nn.Linear(self.embed_dim, self.num_domains, **dd)

    @property
    def uses_domains(self) -> bool:
        """Whether ``domains`` matters."""
        return self.routing_level in cond.DOMAIN_LEVELS

    @property
    def uses_descriptions(self) -> bool:
        """Whether :meth:`describe_domains` should be called; until then all domains are described alike."""
        return self.routing_level == "attribute"

    def describe_domains(self, descriptions: Sequence[Sequence[str]]) -> None:
        """Store the attributes of every training domain, from :data:`sfmoe_dg.data.catalog.DOMAIN_ATTRIBUTES`.

        Raises:
            UserError: on an unknown attribute, another number of domains, or a routing level that does not use them.
        """
        if not self.uses_descriptions:
            raise UserError(
                f"routing level {self.routing_level!r} does not use descriptions of domains; 'attribute' does"
            )
        if len(descriptions) != self.num_domains:
            raise UserError(f"{len(descriptions)} domains are described, but the model has {self.num_domains}")
        rows = [attribute_bits(names) for names in descriptions]
        self.domain_bits.copy_(torch.stack(rows))
        self.domain_alias.copy_(torch.tensor([next(j for j, b in enumerate(rows) if b.equal(a)) for a in rows]))

    def conditions(
        self, x: Tensor, domains: Tensor | None = None, description: Tensor | None = None
    ) -> tuple[cond.Conditions | None, dict[str, Tensor]]:
        """Which tokens of the stem's output ``x [B, S, D]`` share which route, and the domain classifier's loss.

        ``domains [B]`` are indices of training domains; ``description [A]`` holds for all images.
        """
        kind_BS = cond.kinds(x.shape[0], x.shape[1], self.num_prefix_tokens, x.device)
        if self.routing_level in cond.CONTENT_LEVELS:
            return None, {}
        if self.routing_level == "modality":
            return cond.modality_conditions(kind_BS), {}
        domains, losses = self._known_or_predicted(x, domains)
        if self.routing_level == "task":
            return cond.task_conditions(self.num_domains, domains, kind_BS), losses
        made = cond.attribute_conditions(self.domain_bits, self.domain_alias, domains, kind_BS, description)
        return made, losses

    def _known_or_predicted(self, x: Tensor, domains: Tensor | None) -> tuple[Tensor | None, dict[str, Tensor]]:
        if self.unknown_domain != "predicted":
            return domains, {}
        # Detached: learning to tell domains apart must not make the features differ between domains.
        logits = self.domain_classifier(x.detach().mean(1))
        if domains is None:
            return logits.argmax(-1), {}
        return domains, {"domain_prediction": F.cross_entropy(logits, domains)} if self.training else {}

    def routing_inputs(
        self, x: Tensor, domains: Tensor | None = None, description: Tensor | None = None
    ) -> tuple[tuple[cond.Conditions | None], dict[str, Tensor]]:
        """The conditions of the tokens ``x [B, S, D]``, which every sparse block gets; see :meth:`conditions`."""
        made, losses = self.conditions(x, domains, description)
        return (made,), losses

    def forward_with_losses(
        self, x: Tensor, domains: Tensor | None = None, description: Tensor | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Images ``[B, C, H, W]`` → what ``forward`` returns, and the losses, summed over decisions.

        Args:
            domains: the index ``[B]`` of every image's training domain; None where it is not known.
            description: bits ``[A]`` of the domain of all images, in the place of ``domains`` (level "attribute").
        """
        x, losses = self.forward_features_with_losses(x, domains=domains, description=description)
        return self.forward_head(x), losses

    def forward_features(
        self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False, **known: Any
    ) -> Tensor:
        """Images → tokens after the last norm; ``known`` may be ``domains`` or ``description``."""
        attention: dict[str, Any] = {}
        if attn_mask is not None or is_causal:
            attention = {"attn_mask": attn_mask, "is_causal": is_causal}
        return self.forward_features_with_losses(x, attention, **known)[0]

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False, **known: Any) -> Tensor:
        """Images → logits; ``known`` may be ``domains`` or ``description``."""
        return self.forward_head(self.forward_features(x, attn_mask, is_causal, **known))

    def forward_intermediates(self, x: Tensor, *args: Any, **kwargs: Any) -> Any:
        """timm's, for images of unknown domain."""
        made: list[cond.Conditions | None] = []

        def add_conditions(
            block: nn.Module, inputs: tuple[Tensor], known: dict[str, Any]
        ) -> tuple[Any, dict[str, Any]]:
            if not made:
                made.append(self.conditions(inputs[0])[0])
            return inputs, {**known, "conditions": made[0]} if isinstance(block, ConditionalBlock) else known

        # timm's loop hands blocks nothing but x; the hooks live as long as this call.
        hooks = [block.register_forward_pre_hook(add_conditions, with_kwargs=True) for block in self.blocks]
        try:
            return super().forward_intermediates(x, *args, **kwargs)
        finally:
            for hook in hooks:
                hook.remove()


def attribute_bits(names: Sequence[str]) -> Tensor:
    """Names of :data:`sfmoe_dg.data.catalog.DOMAIN_ATTRIBUTES` → bits ``[A]`` of 0.0 and 1.0.

    Raises:
        UserError: on an unknown name.
    """
    for name in names:
        if name not in DOMAIN_ATTRIBUTES:
            raise unknown("domain attribute", name, DOMAIN_ATTRIBUTES)
    return torch.tensor([float(name in names) for name in DOMAIN_ATTRIBUTES])


default_cfgs = generate_default_cfgs(
    {
        "cond_moe_small_patch16_224.deit_in1k": cfg("timm/deit_small_patch16_224.fb_in1k"),
        "cond_moe_base_patch16_224.deit_in1k": cfg("timm/deit_base_patch16_224.fb_in1k"),
        "cond_moe_tiny_32.untrained": tiny_cfg(),
    }
)


def _create(name: str, pretrained: bool, defaults: Mapping[str, Any], kwargs: Mapping[str, Any]) -> ConditionalMoEViT:
    built: ConditionalMoEViT = create_sparse_vit(name, pretrained, defaults, kwargs, ConditionalMoEViT)
    return built


@moe_model(OWN_HPARAMS)
def cond_moe_small_patch16_224(pretrained: bool = False, **kwargs: Any) -> ConditionalMoEViT:
    """Conditional MoE on DeiT-S: every other block's Linear layers are eight experts, top 2"""
    return _create("cond_moe_small_patch16_224", pretrained, SMALL, kwargs)


@moe_model(OWN_HPARAMS)
def cond_moe_base_patch16_224(pretrained: bool = False, **kwargs: Any) -> ConditionalMoEViT:
    """Conditional MoE on DeiT-B: every other block's Linear layers are eight experts, top 2"""
    return _create("cond_moe_base_patch16_224", pretrained, BASE, kwargs)


@moe_model(OWN_HPARAMS)
def cond_moe_tiny_32(pretrained: bool = False, **kwargs: Any) -> ConditionalMoEViT:
    """Conditional MoE for 28–32 px: 4 blocks, experts in 0 and 2 (eight, top 2), convolutional stem"""
    return _create("cond_moe_tiny_32", pretrained, TINY, kwargs)


CondMoE = Preset(
    """Cross-entropy; training tells the backbone which domain every image is from, prediction does not.

    ``models/architectures/conditional_moe.py`` explains ``routing_level`` and ``unknown_domain``; the default level,
    "token", looks at the picture alone.
    """,
    paper="Zhu et al., Uni-Perceiver-MoE: Learning Sparse Generalist Models with Conditional MoEs, 2022",
    backbones=("cond_moe_small_patch16_224", "cond_moe_tiny_32"),
    hparams=OWN_HPARAMS,
    needs="descriptions of the domains for the routing level 'attribute'",
)
