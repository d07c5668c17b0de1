"""What a linear map reads out of photo embeddings, and of tokens sampled by NILI and without it."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from trainers.evaluate.gair.around import Around
from trainers.evaluate.gair.embed import MODES, Seen
from trainers.evaluate.gair.intervals import PerPhoto
from trainers.evaluate.gair.places import Places
from trainers.evaluate.gair.retrieval import retrieval, retrieval_chance
from trainers.evaluate.protocols import Labelled, ridge
from trainers.models.losses import normalise

#: Fewest labelled photos, on each side, for which a probe says something.
LEAST = 8
#: Labels that are classes, and the name of the share of the variance of building density that is explained.
CLASSES = ("road_class", "land_use")
DENSITY = "probe/building_density_r2"
#: Ways to read tokens at a place, by the name of their scores.
WAYS = {mode: f"sampling_{mode}" for mode in ("nili", *MODES)}


def probes(train: Tensor, seen: Around, test: Tensor, held: Around) -> tuple[dict[str, PerPhoto], dict[str, float]]:
    """``probe/TASK``, accuracies of ridge regressions to the classes, by photo; and scores that are none of photos.

    Args:
        train, test: photo features f32[M,D] of training photos and f32[N,D] of held-out ones.
        seen, held: their labels.
    """
    found: dict[str, PerPhoto] = {}
    for task in CLASSES:
        rows, known, asked = _classed(train, seen, held, task)
        if known is not None:
            guess = ridge(known.features, F.one_hot(known.classes), test.cpu()[rows]).argmax(1)
            found[f"probe/{task}"] = PerPhoto((guess == asked).double(), rows)
    return found, _density(train, seen, test, held)


def probes_chance(seen: Around, held: Around) -> dict[str, float]:
    """Accuracies of the most frequent class of the training photos; what their mean density explains."""
    nothing = torch.zeros(len(seen.road_class), 1), torch.zeros(len(held.road_class), 1)
    found = {}
    for task in CLASSES:
        _, known, asked = _classed(nothing[0], seen, held, task)
        if known is not None:
            found[f"probe/{task}"] = float((asked == known.classes.bincount().argmax()).double().mean())
    return found | _density(nothing[0], seen, nothing[1], held)


def _classed(train: Tensor, seen: Around, held: Around, task: str) -> tuple[Tensor, Labelled | None, Tensor]:
    """Held-out photos i64[K] that have a class, the training photos that have one, the classes i64[K]."""
    rows = (getattr(held, task) >= 0).nonzero().squeeze(1)
    known = Labelled(train.float().cpu(), getattr(seen, task)).known()
    enough = min(len(known), len(rows)) >= LEAST and len(known.classes.unique()) > 1
    return rows, known if enough else None, getattr(held, task)[rows]


def _density(train: Tensor, seen: Around, test: Tensor, held: Around) -> dict[str, float]:
    a, b = seen.building_density.isfinite(), held.building_density.isfinite()
    true = held.building_density[b]
    if min(int(a.sum()), int(b.sum())) < LEAST or not true.var() > 0:
        return {}
    guess = ridge(train.cpu()[a], seen.building_density[a, None], test.cpu()[b])[:, 0]
    return {DENSITY: float(1 - (guess - true).square().mean() / true.var(correction=0))}


def sampling(train: Seen, test: Seen, places: Places) -> dict[str, PerPhoto]:
    """``sampling_WAY/r@1`` and ``sampling_WAY_in_tile/r@1``: photo to image at its place, by each way to read tokens.

    Tokens and photos have no space in common, so a linear map to the photo's embedding is fitted on training photos, to
    the output of NILI as well: what differs is the way of reading alone.
    """
    found: dict[str, PerPhoto] = {}
    for way, name in WAYS.items():
        known, asked = (part.place if way == "nili" else part.tokens[way] for part in (train, test))
        target = normalise(train.photo).cpu()
        mapped = ridge(known.cpu(), target, asked.cpu()).float().to(test.photo.device)
        found |= {n: v for n, v in retrieval(name, test.photo, mapped, places).items() if n.endswith("/r@1")}
    return found


def sampling_chance(places: Places) -> dict[str, float]:
    """What drawing lots would give."""
    return {n: v for n, v in retrieval_chance(list(WAYS.values()), places).items() if n.endswith("/r@1")}
