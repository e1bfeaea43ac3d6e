"""InfoNCE with negatives debiased and weighted by hardness (Robinson et al. 2021), one anchor at a time."""

import math

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity


def info_nce(
    anchor: Tensor, positive: Tensor, negatives: Tensor, temperature: float, tau_plus: float, beta: float
) -> Tensor:
    """-log(p / (p + G)), (N,).

    p = exp(cos(anchor, positive) / T), n_k = exp(cos(anchor, negative k) / T),
    G = max((sum n_k^(1 + beta) / mean n_k^beta - tau_plus K p) / (1 - tau_plus), K exp(-1 / T)).

    Args:
        anchor: (N, D).
        positive: (N, D).
        negatives: (N, K, D).
        temperature: T.
        tau_plus: share of negatives that are positives in truth; 0 for none.
        beta: weight of hard negatives; 0 and tau_plus 0: the plain sum over negatives.
    """
    near = (cosine_similarity(anchor, positive, dim=-1) / temperature).exp()
    far = (cosine_similarity(anchor[:, None], negatives, dim=-1) / temperature).exp()
    count, weight = far.shape[1], far**beta
    hard = (weight * far).sum(1) / weight.mean(1)
    against = ((hard - tau_plus * count * near) / (1.0 - tau_plus)).clamp_min(count * math.exp(-1.0 / temperature))
    return torch.log1p(against / near)
