"""Conditional mixtures of experts (Uni-Perceiver-MoE, arXiv 2206.04674): ViTs whose Linear layers are experts.

Every other block (0, 2, 4, …) holds E = 8 experts for each of its four Linear layers; qkv and output projection share
one routing decision, the two layers of the FFN another: ``top_2(softmax(W_g R(x) + noise))``, noise N(0, 1/E²) in
training only, the two gates renormalised to sum to one. ``routing_level`` chooses R (``conditions.py``). Where it does
not depend on content, experts are merged before they are used, and ``export_merged`` gives a dense model.

Decisions:

- The default level is "token": like "context" it needs nothing but the picture, under every objective. In the paper
  "attribute" is best. Of unseen StyledDigits (tiny twin, 400 steps, one seed, so a hint and no more) token, context,
  attribute and task classified 87, 84, 86, 57 % where chalk was held out, and 62, 65, 57, 54 % where neon was; the last
  two with the mean gate. At "task" three domains with two experts each employ at most six of eight experts.
- "task" and "attribute" are told the domain of every training image (``domains``). Where it is not known, always in
  prediction, and in training under objectives that do not pass it on, the ``unknown_domain`` policy decides.
- Passing ``domains`` in evaluation is an oracle, and no domain generalization; passing ``description`` is legitimate
  only where the description of the test domain is declared as side information.
- Every decision has an embedding (or W_attr) of its own; "pooled" in the context level is the mean over tokens.
- No balance loss, since none is reported; ``routing_loss='assignments'`` adds WideNet's.
- Dense weights are upcycled: every expert starts as a copy of its dense layer, so the model starts as the dense one.

Legend: B images, S tokens of one image, D width, E experts, A attribute bits, I training domains.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import get_device_dtype
from timm.models import generate_default_cfgs, register_model
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from sfmoe_dg.data.catalog import DOMAIN_ATTRIBUTES
from sfmoe_dg.foundation.errors import UserError
from sfmoe_dg.foundation.registry import unknown
from sfmoe_dg.models.architectures.patterns import sparse_blocks
from sfmoe_dg.models.architectures.sf_moe import BASE, SMALL, TINY, cfg, tiny_cfg
from sfmoe_dg.models.architectures.vision_transformer import create_sparse_vit, make_options
from sfmoe_dg.models.moe import conditions as cond
from sfmoe_dg.models.moe.balance import weighted
from sfmoe_dg.models.moe.conditional_layers import ConditionalBlock
from sfmoe_dg.models.moe.layers import set_routing, total_losses

TAKES_NUM_DOMAINS = True
"""``build_backbone`` hands over the number of training domains."""

ROUTING: Mapping[str, Any] = {"noise": 1.0, "renormalize": True}
"""Routing options of the paper; see :class:`sfmoe_dg.models.moe.routing.RoutingOptions`."""


class ConditionalMoEViT(VisionTransformer):
    """A vision transformer with conditional experts where ``moe_layers`` says.

    Args:
        routing_level: one of :data:`sfmoe_dg.models.moe.conditions.LEVELS`.
        num_domains: I, for the levels "task" and "attribute".
        unknown_domain: one of :data:`sfmoe_dg.models.moe.conditions.UNKNOWN_DOMAIN`.
        moe_layers: see :func:`sfmoe_dg.models.architectures.patterns.sparse_blocks`; default 0, 2, 4, …
        num_experts, top_k, capacity_ratio, eval_capacity_ratio, allocation, routing_options: see
            :class:`sfmoe_dg.models.moe.routing.RoutingOptions`; a capacity limit needs "token" or "context".
        routing_loss: a mixture of :data:`sfmoe_dg.models.moe.balance.MIXES`, times ``routing_loss_weight``.
        vit: keyword arguments of timm's ``VisionTransformer``.

    Raises:
        UserError: on a value that is not allowed.
    """

    domain_bits: Tensor
    domain_alias: Tensor
    not_in_checkpoints = ("domain_bits", "domain_alias", "domain_classifier.")
    """Beginnings of the names of tensors that dense weights do not have."""

    def __init__(
        self,
        *,
        routing_level: str = "token",
        num_domains: int = 3,
        unknown_domain: str = "mean",
        moe_layers: str | Sequence[int] | None = None,
        num_experts: int = 8,
        top_k: int = 2,
        capacity_ratio: float | str | None = None,
        eval_capacity_ratio: float | str | None = None,
        allocation: str = "vanilla",
        routing_loss: str = "none",
        routing_loss_weight: float = 0.01,
        routing_options: Mapping[str, Any] | None = None,
        depth: int = 12,
        **vit: Any,
    ) -> None:
        if unknown_domain not in cond.UNKNOWN_DOMAIN:
            raise unknown("policy for unknown domains", str(unknown_domain), cond.UNKNOWN_DOMAIN)
        sparse = tuple(range(0, depth, 2)) if moe_layers is None else sparse_blocks(moe_layers, depth)
        losses, changes = weighted(routing_loss, routing_loss_weight), {**ROUTING, **(routing_options or {})}
        options = make_options(num_experts, top_k, capacity_ratio, eval_capacity_ratio, allocation, losses, changes)
        moe = {
            "router": cond.router_maker(routing_level, num_domains, len(DOMAIN_ATTRIBUTES)),
            "options": options,
            "by_content": routing_level in cond.CONTENT_LEVELS,
        }

        def block(depth: int, **kwargs: Any) -> nn.Module:
            return ConditionalBlock(moe=moe, depth=depth, **kwargs) if depth in sparse else Block(depth=depth, **kwargs)

        block_fn: Any = block  # timm says type[Module]; it only calls it
        super().__init__(depth=depth, block_fn=block_fn, **vit)
        self.dense_arguments = {"depth": depth, **vit}
        self.moe_layers, self.routing_level, self.num_domains = sparse, routing_level, num_domains
        self.unknown_domain = unknown_domain
        self._remember_domains()

    def _remember_domains(self) -> None:
        """Make what the model knows of its domains: their descriptions, and how to tell them apart."""
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
        """What the training domains are like, each by some of :data:`sfmoe_dg.data.catalog.DOMAIN_ATTRIBUTES`.

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

    def forward_features_with_losses(
        self, x: Tensor, domains: Tensor | None = None, description: Tensor | None = None, **attention: Any
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Images ``[B, C, H, W]`` → tokens ``[B, S, D]`` after the last norm, and the weighted losses by name."""
        x = self.norm_pre(self.patch_drop(self._pos_embed(self.patch_embed(x))))
        made, losses = self.conditions(x, domains, description)
        routings = []
        for block in self.blocks:
            routed = isinstance(block, ConditionalBlock)
            call: Any = block.forward_routed if routed else block
            arguments = (x, made) if routed else (x,)
            recompute = self.grad_checkpointing and torch.is_grad_enabled()
            if recompute:
                out: Any = checkpoint(call, *arguments, use_reentrant=False, **attention)
            else:
                out = call(*arguments, **attention)
            if routed:
                x, *of_block = out
                routings += of_block
            else:
                x = out
        return self.norm(x), {**total_losses(routings), **losses}

    def forward_with_losses(
        self, x: Tensor, domains: Tensor | None = None, description: Tensor | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Images ``[B, C, H, W]`` → what ``forward`` returns, and the losses, summed over decisions.

        Args:
            domains: the index ``[B]`` of every image's training domain; None where it is not known.
            description: bits ``[A]`` of the domain of all images, in the place of ``domains`` (level "attribute").
        """
        x, losses = self.forward_features_with_losses(x, domains, description)
        return self.forward_head(x), losses

    def forward_features(
        self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False, **known: Any
    ) -> Tensor:
        """Images → tokens after the last norm; ``known`` may be ``domains`` or ``description``."""
        attention: dict[str, Any] = {}
        if attn_mask is not None or is_causal:
            attention = {"attn_mask": attn_mask, "is_causal": is_causal}
        return self.forward_features_with_losses(x, **known, **attention)[0]

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

    def set_routing(self, **changes: Any) -> None:
        """See :func:`sfmoe_dg.models.moe.layers.set_routing`."""
        set_routing(self, **changes)


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


@register_model
def cond_moe_small_patch16_224(pretrained: bool = False, **kwargs: Any) -> ConditionalMoEViT:
    """Conditional MoE on DeiT-S: every other block's Linear layers are eight experts, top 2"""
    return _create("cond_moe_small_patch16_224", pretrained, SMALL, kwargs)


@register_model
def cond_moe_base_patch16_224(pretrained: bool = False, **kwargs: Any) -> ConditionalMoEViT:
    """Conditional MoE on DeiT-B: every other block's Linear layers are eight experts, top 2"""
    return _create("cond_moe_base_patch16_224", pretrained, BASE, kwargs)


@register_model
def cond_moe_tiny_32(pretrained: bool = False, **kwargs: Any) -> ConditionalMoEViT:
    """Conditional MoE for 28–32 px: 4 blocks, experts in 0 and 2 (eight, top 2), convolutional stem"""
    return _create("cond_moe_tiny_32", pretrained, TINY, kwargs)
