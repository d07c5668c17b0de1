"""GAIR measured on the geographic validation split while it trains."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from trainers.engine.evaluation import EvaluationReport
from trainers.engine.settings import TrainSettings
from trainers.evaluate.gair.around import Around, labels_around
from trainers.evaluate.gair.colours import Colours
from trainers.evaluate.gair.embed import SHIFTS, SIDES, Encoder, Seen, embed
from trainers.evaluate.gair.intervals import PerPhoto, blocks
from trainers.evaluate.gair.localise import Gallery, localisation, localisation_chance, localisation_floor
from trainers.evaluate.gair.losses import BesidePairs, split_losses
from trainers.evaluate.gair.members import sizes
from trainers.evaluate.gair.places import Places
from trainers.evaluate.gair.probes import probes, probes_chance, sampling, sampling_chance
from trainers.evaluate.gair.report import HISTORY, NOTE, PARTS
from trainers.evaluate.gair.retrieval import retrieval, retrieval_chance, shift_chance, shift_curve
from trainers.evaluate.gair.separation import separation, separation_chance
from trainers.evaluate.labels import TASKS, UNKNOWN, Legend
from trainers.evaluate.split import open_split
from trainers.models.gair.model import Gair
from trainers.stream.stream import GeoStream

#: Places that the location encoder takes at once.
_CHUNK = 4096


@dataclass(frozen=True, eq=False)
class _Split:
    """A split as every encoder sees it."""

    places: Places
    seen: Mapping[str, Seen]  # by encoder: "" is the model
    stream: GeoStream
    beside: Mapping[str, float]  # losses of the model that need no pairs


class GairEvaluation:
    """Measures the models of one run; every process computes the same.

    What does not depend on the training is found once and kept: chance, the untrained model, colour histograms, labels.

    Args:
        build: settings to a model.
        settings: of the run.
        roots: dataset directories.
        device: of the models.
    """

    def __init__(
        self, build: Callable[[Any], Gair], settings: TrainSettings, roots: Sequence[str],
        device: torch.device,
    ) -> None:  # fmt: skip
        self._build, self._settings, self._roots, self._device = build, settings, list(roots), device
        self._beside: dict[str, float] = {}
        self._probed = False  # whether probes and sampling of the others are among them
        self._labels: dict[bool, Around] = {}  # by whether the photos are held out

    @torch.no_grad()
    def __call__(self, model: Gair, done: bool) -> EvaluationReport | None:
        """A report of ``model``; None where the split has no two photos. ``done``: whether the run has ended."""
        full = {"always": True, "never": False, "end": done}[self._settings.eval.full]
        others = self._others() if not self._beside or (full and not self._probed) else {}
        held = self._split(model, others, held_out=True, full=full)
        if held is None or len(held.places) < 2:
            return None
        train = self._split(model, others, held_out=False, full=full) if full else None
        with torch.autocast(self._device.type, enabled=False):
            if others:
                self._beside |= self._chance(held) | self._of_others(others, held)
            scores = self._model(model, held)
            if train is not None:
                scores |= self._learned(train, held, list(others))
        around = self._labels.get(True)
        classes = around.land_use if around else torch.full((len(held.places),), UNKNOWN)
        shown = held.seen[""].photo.cpu()
        return EvaluationReport(scores | self._beside, shown, classes, TASKS["land_use"], NOTE, HISTORY, PARTS)

    def _others(self) -> dict[str, Encoder]:
        """What the model is held against."""
        cuda = [self._device] if self._device.type == "cuda" else []
        with torch.random.fork_rng(cuda):  # training goes on as if nothing had been drawn
            torch.manual_seed(self._settings.seed)
            untrained = self._build(self._settings).to(self._device).eval()
        colours = Colours.of(Gair.view(untrained.settings, untrained.fidelity).bands)
        return {"untrained": untrained, **({"colours": colours} if colours else {})}

    def _split(self, model: Gair, others: Mapping[str, Encoder], held_out: bool, full: bool) -> _Split | None:
        """The validation split with its grid and moved queries, or the training split; None where it has no photos."""
        s, view = self._settings.eval, Gair.view(model.settings, model.fidelity)
        name, most = (s.split, s.samples) if held_out else ("train", s.train_samples)
        stream = open_split(
            self._settings, self._roots, replace(view, photos=s.photos) if held_out else view, name, most
        )
        if stream is None:
            return None
        grid = s.grid if held_out else 0
        batches, encoders, beside = stream.batches(until_epoch=1), [model, *others.values()], BesidePairs(model)
        if held_out:
            batches = beside.watch(batches, self._device)
        found = embed(encoders, batches, model.photo_mask, sizes(stream), self._device, grid, full)
        if found is None:
            return None
        return _Split(found[0], dict(zip(("", *others), found[1], strict=True)), stream, beside.values())

    def _measured(self, seen: Seen, places: Places) -> dict[str, PerPhoto]:
        """What any encoder can be asked."""
        gallery = Gallery.of(places, self._settings.eval.grid)
        return {
            **retrieval("photo_to_place", seen.photo, seen.place, places),
            **retrieval("place_to_photo", seen.place, seen.photo, places),
            **localisation("grid", seen.photo, seen.grid, gallery, places),
            **shift_curve(seen.moved, seen.photo, places),
        }

    def _located(self, model: Gair, photo: Tensor, places: Places) -> tuple[dict[str, PerPhoto], Tensor]:
        """What the location encoder is asked; its embeddings of the places."""
        gallery = Gallery.of(places, self._settings.eval.grid)
        own = self._location(model, places.lonlat)
        grid = self._location(model, gallery.lonlat.flatten(0, 1)).view(*gallery.lonlat.shape[:2], -1)
        found = retrieval("photo_to_location", photo, own, places)
        return found | localisation("location_grid", photo, grid, gallery, places), own

    def _location(self, model: Gair, lonlat: Tensor) -> Tensor:
        return torch.cat([model.location(part.to(self._device)).float() for part in lonlat.split(_CHUNK)])

    def _model(self, model: Gair, held: _Split) -> dict[str, float]:
        """Losses and measures of the model, with their intervals."""
        seen, places = held.seen[""], held.places
        located, location = self._located(model, seen.photo, places)
        lonlat, batch = places.lonlat.to(self._device), self._settings.eval.batch_size
        scores = split_losses(model, seen.photo, seen.place, location, lonlat, batch, held.beside)
        scores |= _with_intervals(self._measured(seen, places) | located, places)
        scores |= separation(model.location, places.lonlat, self._device)
        apart = separation_chance(model.location, places.lonlat, self._device)
        scores |= {f"{name}.chance": value for name, value in apart.items()}
        kept = {d: len(own) / len(places) / (len(SIDES) if d else 1) for d, (_, own) in seen.moved.items()}
        return scores | {f"shift/left_out_at_{d:g}m": 1 - kept.get(d, 0.0) for d in SHIFTS}

    def _of_others(self, others: Mapping[str, Encoder], held: _Split) -> dict[str, float]:
        """Measures of what the model is held against."""
        found: dict[str, float] = {}
        for word, encoder in others.items():
            seen = held.seen[word]
            values = self._measured(seen, held.places)
            if isinstance(encoder, Gair):
                values |= self._located(encoder, seen.photo, held.places)[0]
                apart = separation(encoder.location, held.places.lonlat, self._device)
                found |= {f"{name}.{word}": value for name, value in apart.items()}
            found |= {f"{name}.{word}": value.value() for name, value in values.items()}
        return found

    def _chance(self, held: _Split) -> dict[str, float]:
        """What drawing lots gives, and the least errors that a grid allows."""
        places, gallery = held.places, Gallery.of(held.places, self._settings.eval.grid)
        chance = retrieval_chance(("photo_to_place", "place_to_photo", "photo_to_location"), places)
        chance |= shift_chance(held.seen[""].moved, places)
        floor: dict[str, float] = {}
        for name in ("grid", "location_grid"):
            chance |= localisation_chance(name, gallery, places)
            floor |= localisation_floor(name, gallery, places)
        return {f"{n}.chance": v for n, v in chance.items()} | {f"{n}.floor": v for n, v in floor.items()}

    def _learned(self, train: _Split, held: _Split, others: Sequence[str]) -> dict[str, float]:
        """Probes and sampling, whose maps are fitted on training photos; of ``others``, if there are, once."""
        for held_out, part in ((False, train), (True, held)):
            if held_out not in self._labels:
                self._labels[held_out] = labels_around(part.stream, Legend.of(self._roots), part.places)
        seen, asked = self._labels[False], self._labels[True]
        scores: dict[str, float] = {}
        for word in ("", *others):
            one, other = train.seen[word], held.seen[word]
            values, single = probes(one.photo, seen, other.photo, asked)
            if word != "colours":
                values |= sampling(one, other, held.places)
            if word:
                plain = single | {n: v.value() for n, v in values.items()}
                self._beside |= {f"{n}.{word}": v for n, v in plain.items()}
            else:
                scores = single | _with_intervals(values, held.places)
        if others:
            chance = probes_chance(seen, asked) | sampling_chance(held.places)
            self._beside |= {f"{n}.chance": v for n, v in chance.items()}
            self._probed = True
        return scores


def _with_intervals(values: Mapping[str, PerPhoto], places: Places) -> dict[str, float]:
    block = blocks(places.lonlat)
    scores: dict[str, float] = {}
    for name, value in values.items():
        scores[name] = value.value()
        found = value.interval(block)
        if found is not None:
            scores[f"{name}.low"], scores[f"{name}.high"] = found
    return scores
