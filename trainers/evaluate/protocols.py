"""Protocols on frozen features (docs/papers/geolink.md#downstream): nearest neighbours, linear probes, retrieval."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

#: Shrinkages of a ridge regression, in squared deviations of a feature.
DECAYS = tuple(10.0**k for k in range(-4, 3))


@dataclass(frozen=True)
class Labelled:
    """Features of samples and their classes."""

    features: Tensor  # f32 [N,D]
    classes: Tensor  # i64 [N], all >= 0

    def __len__(self) -> int:
        return len(self.classes)

    def known(self) -> Labelled:
        """Those that have a class."""
        held = self.classes >= 0
        return Labelled(self.features[held], self.classes[held])


def majority(train: Labelled, test: Labelled) -> float:
    """Accuracy of always naming the most frequent class of the training samples."""
    return float((test.classes == train.classes.bincount().argmax()).float().mean())


def knn(train: Labelled, test: Labelled, k: int = 20, temperature: float = 0.07) -> float:
    """Accuracy of the vote of the ``k`` nearest by cosine, weighted by exp(similarity / temperature).

    k = 20 as in the paper; the weights are those of Wu et al. (2018).
    """
    classes = int(max(train.classes.max(), test.classes.max())) + 1
    near, which = (F.normalize(test.features) @ F.normalize(train.features).T).topk(min(k, len(train)), 1)
    votes = torch.zeros(len(test), classes).scatter_add_(1, train.classes[which], (near / temperature).exp())
    return float((votes.argmax(1) == test.classes).float().mean())


def linear_probe(train: Labelled, test: Labelled, decay: float = 1e-3, steps: int = 100) -> float:
    """Accuracy of a softmax regression on standardised features, fitted by L-BFGS: no learning rate to choose.

    ``decay`` times half the squared weights is added to the mean cross-entropy.
    """
    x, y = _standardised(train.features, test.features)
    classes = int(max(train.classes.max(), test.classes.max())) + 1
    with torch.enable_grad():
        weight = torch.zeros(x.shape[1], classes, requires_grad=True)
        bias = torch.zeros(classes, requires_grad=True)
        solver = torch.optim.LBFGS([weight, bias], max_iter=steps, line_search_fn="strong_wolfe")

        def closure() -> Tensor:
            solver.zero_grad()
            loss = F.cross_entropy(x @ weight + bias, train.classes) + decay / 2 * weight.square().sum()
            loss.backward()
            return loss

        solver.step(closure)
    return float(((y @ weight.detach() + bias.detach()).argmax(1) == test.classes).float().mean())


def ridge(train: Tensor, targets: Tensor, features: Tensor) -> Tensor:
    """Targets f64[N,K] that a linear map gives to f32[N,D], fitted on f32[M,D] and f32[M,K] by ridge regression.

    It sees standardised features. How much it shrinks is what generalised cross-validation finds best (Golub, Heath and
    Wahba 1979): nothing is held out.
    """
    x, z = _standardised(train.double(), features.double())
    mean = targets.double().mean(0)
    y, rows = targets.double() - mean, len(train)
    u, s, vh = torch.linalg.svd(x, full_matrices=False)
    inner, best, chosen = u.T @ y, math.inf, torch.zeros_like(s)
    for decay in DECAYS:
        share = s.square() / (s.square() + decay * rows)
        free = 1 - (float(share.sum()) + 1) / rows
        score = float((y - u @ (share[:, None] * inner)).square().mean()) / max(free, 1e-6) ** 2
        if score < best:
            best, chosen = score, s / (s.square() + decay * rows)
    return z @ (vh.T @ (chosen[:, None] * inner)) + mean


def _standardised(train: Tensor, features: Tensor) -> tuple[Tensor, Tensor]:
    """Both [.,D] by mean and deviation of the first."""
    mean, deviation = train.mean(0), train.std(0).clamp_min(1e-6)
    return (train - mean) / deviation, (features - mean) / deviation


def retrieval(a: Tensor, b: Tensor, at: tuple[int, ...] = (1, 5)) -> dict[str, float]:
    """Share of rows whose partner is among the nearest, from a to b and back, averaged; beside what chance gives.

    Args:
        a, b: paired embeddings f32[N,D].
        at: numbers of candidates.
    """
    similarity = F.normalize(a) @ F.normalize(b).T
    own = similarity.diagonal()
    # A tie counts against: constant embeddings must not look perfect.
    ranks = [(s >= own[:, None]).sum(1) - 1 for s in (similarity, similarity.T)]
    found = {f"r@{k}": float(sum((rank < k).float().mean() for rank in ranks) / 2) for k in at}
    return found | {f"chance_r@{k}": min(1.0, k / max(1, len(a))) for k in at}
