"""How far K pairs of embeddings of the same place are from being told apart from other places.

Row k of both embeddings (K, D; of length 1) is of one place, seen by two sensors. `negative[i, j]`: place j is another
one than i, far enough to be told from it. Every loss looks from the first sensor to the second and back, and is the sum
of the two. A place without a negative plays no part, and where there is none at all the loss is 0 with zero gradients.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor


def info_nce(
    first: Float[Tensor, "K D"], second: Float[Tensor, "K D"], negative: Bool[Tensor, "K K"], temperature: float
) -> Float[Tensor, ""]:
    """Cross-entropy of finding the own place among its negatives (van den Oord et al. 2018; CLIP's symmetric form)."""
    similarity = first @ second.T / temperature
    candidate = negative | torch.eye(len(first), dtype=torch.bool, device=first.device)
    own = similarity.diagonal()
    there = similarity.masked_fill(~candidate, -torch.inf).logsumexp(dim=1) - own
    back = similarity.masked_fill(~candidate, -torch.inf).logsumexp(dim=0) - own
    return _mean_where(there, negative.any(dim=1)) + _mean_where(back, negative.any(dim=0))


def triplet(
    first: Float[Tensor, "K D"], second: Float[Tensor, "K D"], negative: Bool[Tensor, "K K"], margin: float
) -> Float[Tensor, ""]:
    """max(0, d(own) - d(other) + margin), d the distance, with the semi-hard negative (Schroff et al. 2015).

    That is the nearest of those that are farther than the own place; where there is none, the farthest.
    """
    if len(first) == 0:
        return first.sum() + second.sum()
    # Of vectors of length 1; not under the root where it has no slope.
    distance = (2 - 2 * first @ second.T).clamp(min=1e-8).sqrt()
    own = distance.diagonal()
    there = (own - _semi_hard(distance, own, negative) + margin).clamp(min=0)
    back = (own - _semi_hard(distance.T, own, negative.T) + margin).clamp(min=0)
    return _mean_where(there, negative.any(dim=1)) + _mean_where(back, negative.any(dim=0))


def max_margin(
    first: Float[Tensor, "K D"], second: Float[Tensor, "K D"], negative: Bool[Tensor, "K K"], margin: float
) -> Float[Tensor, ""]:
    """max(0, s(other) - s(own) + margin), s the cosine, the mean over all negatives (Kiros et al. 2014)."""
    similarity = first @ second.T
    own = similarity.diagonal()
    there = ((similarity - own[:, None] + margin).clamp(min=0) * negative).sum(dim=1) / negative.sum(1).clamp(min=1)
    back = ((similarity - own[None] + margin).clamp(min=0) * negative).sum(dim=0) / negative.sum(0).clamp(min=1)
    return _mean_where(there, negative.any(dim=1)) + _mean_where(back, negative.any(dim=0))


def unit(vectors: Float[Tensor, "K D"]) -> Float[Tensor, "K D"]:
    """The vectors at length 1, float32."""
    return F.normalize(vectors.float(), dim=1)


def _semi_hard(
    distance: Float[Tensor, "K K"], own: Float[Tensor, "K"], negative: Bool[Tensor, "K K"]
) -> Float[Tensor, "K"]:
    """The distance of each row's semi-hard negative; what stands in a row without negatives means nothing."""
    farther = negative & (distance > own[:, None])
    nearest = torch.where(farther, distance, torch.inf).amin(dim=1)
    farthest = torch.where(negative, distance, 0.0).amax(dim=1)
    return torch.where(farther.any(dim=1), nearest, farthest)


def _mean_where(values: Float[Tensor, "K"], counted: Bool[Tensor, "K"]) -> Float[Tensor, ""]:
    return torch.where(counted, values, 0.0).sum() / counted.sum().clamp(min=1)
