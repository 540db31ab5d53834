"""From expert logits to the k best experts of every token.

Legend: T tokens, E experts, K choices.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor


class Choice(NamedTuple):
    """Scores of tokens, and the experts that follow from them.

    Attributes:
        logits_TE: what the router gave.
        noisy_logits_TE: the same with noise; None where there is none.
        noise_std: standard deviation of the noise.
        probs_TE: softmax of the logits.
        noisy_probs_TE: softmax of the noisy logits where there are any, otherwise ``probs_TE``.
        experts_TK: the chosen experts, best first.
        chosen_TK: their ``noisy_probs_TE``.
    """

    logits_TE: Tensor
    noisy_logits_TE: Tensor | None
    noise_std: float
    probs_TE: Tensor
    noisy_probs_TE: Tensor
    experts_TK: Tensor
    chosen_TK: Tensor


def choose(logits_TE: Tensor, noise_TE: Tensor | None, noise_std: float, top_k: int) -> Choice:
    """Choose k experts for every token by its noisy logits; ``noise_TE`` has a standard deviation of 1."""
    probs_TE = logits_TE.softmax(-1)
    noisy_logits_TE = None if noise_TE is None else logits_TE + noise_std * noise_TE
    noisy_probs_TE = probs_TE if noisy_logits_TE is None else noisy_logits_TE.softmax(-1)
    # Chosen by logits: probabilities that round to the same number would tie.
    experts_TK = top_k_experts(logits_TE if noisy_logits_TE is None else noisy_logits_TE, top_k)
    chosen_TK = noisy_probs_TE.gather(-1, experts_TK)
    return Choice(logits_TE, noisy_logits_TE, noise_std, probs_TE, noisy_probs_TE, experts_TK, chosen_TK)


def top_k_experts(scores_TE: Tensor, top_k: int) -> Tensor:
    """The k best experts of every token, best first, the lower index first among equals, ``[T, K]``."""
    rest_TE = scores_TE.detach()
    chosen = []
    for k in range(top_k):
        best_T1 = rest_TE.argmax(-1, keepdim=True)
        chosen.append(best_T1)
        if k + 1 < top_k:
            rest_TE = rest_TE.scatter(-1, best_T1, -math.inf)
    return torch.cat(chosen, -1)
