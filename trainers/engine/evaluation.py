"""An evaluation as numbers: a JSON history and one HTML page in the run folder, with tables, curves and a plot.

What stands beside a score, such as chance, has the name of the score, a point and a word of :data:`BESIDE`.
"""

from __future__ import annotations

import html
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from schemas.errors import at_the_door
from storage.files import put

#: Files of the run folder.
JSON_NAME, HTML_NAME = "evaluation.json", "evaluation.html"
#: Colours of classes, unlabelled last (Okabe and Ito 2008).
COLOURS = ("#0072b2", "#e69f00", "#009e73", "#d55e00", "#cc79a7", "#56b4e9", "#f0e442", "#999999")
_SIDE = 480
#: Scores of the one line.
_SHOWN = (
    "loss", "rec", "cont", "cst", "cst_zero", "cst_mean", "incl", "secl", "r@1", "chance_r@1", "photo_to_place/r@1",
    "photo_to_place/r@1.chance", "photo_to_place_in_tile/r@1", "photo_to_place_in_tile/r@1.chance", "grid/error_m",
    "grid/error_m.chance", "land_use_linear",
)  # fmt: skip
#: Words that follow a score's name and a point, and what a page calls them.
BESIDE: Mapping[str, str] = {
    "low": "95 % from", "high": "to", "chance": "chance", "untrained": "untrained", "colours": "colours alone",
    "floor": "best possible",
}  # fmt: skip
#: Of those, the ones that a curve draws, with the model's own first.
_DRAWN = {"": ("model", "#0072b2"), "chance": ("chance", "#999999"), "untrained": ("untrained", "#e69f00"),
          "colours": ("colours alone", "#cc79a7")}  # fmt: skip


@dataclass(frozen=True)
class Table:
    """Scores under each other, with what stands beside them."""

    title: str
    note: str
    rows: tuple[tuple[str, str], ...]  # label, name of the score

    def of(self, task: str) -> Table:
        """The same of scores that stand under ``TASK/NAME``."""
        return replace(
            self, title=f"{task}: {self.title}", rows=tuple((label, f"{task}/{n}") for label, n in self.rows)
        )

    def html(self, scores: Mapping[str, float]) -> str:
        """The rows and columns that ``scores`` has; empty without any."""
        rows = [(label, name) for label, name in self.rows if name in scores]
        words = [word for word in BESIDE if any(f"{name}.{word}" in scores for _, name in rows)]
        head = "".join(f"<th>{html.escape(text)}</th>" for text in ("", "model", *(BESIDE[w] for w in words)))
        body = "".join(
            f"<tr><th>{html.escape(label)}</th>"
            + "".join(f"<td>{_number(scores.get(n))}</td>" for n in (name, *(f"{name}.{w}" for w in words)))
            + "</tr>"
            for label, name in rows
        )
        return f"{_heading(self.title, self.note)}<table><tr>{head}</tr>{body}</table>" if rows else ""


@dataclass(frozen=True)
class Curve:
    """Scores against a quantity, its values side by side at equal steps."""

    title: str
    note: str
    unit: str
    points: tuple[tuple[float, str], ...]  # value, name of the score

    def of(self, task: str) -> Curve:
        """The same of scores that stand under ``TASK/NAME``."""
        return replace(self, title=f"{task}: {self.title}", points=tuple((v, f"{task}/{n}") for v, n in self.points))

    def html(self, scores: Mapping[str, float]) -> str:
        """The lines that ``scores`` has; empty without any."""
        points = [(value, name) for value, name in self.points if name in scores]
        lines = {w: [scores.get(f"{n}.{w}" if w else n) for _, n in points] for w in _DRAWN}
        held = [y for line in lines.values() for y in line if y is not None]
        if not points:
            return ""
        low, high = min(0.0, *held), max(held)
        step = (_SIDE - 80) / max(1, len(points) - 1)

        def place(i: int, y: float) -> str:
            return f"{50 + i * step:.1f},{30 + (high - y) / max(high - low, 1e-9) * 200:.1f}"

        drawn = []
        for row, (word, (label, colour)) in enumerate(_DRAWN.items()):
            dots = [place(i, y) for i, y in enumerate(lines[word]) if y is not None]
            if dots:
                drawn.append(f'<polyline points="{" ".join(dots)}" fill="none" stroke="{colour}" stroke-width="2"/>')
                drawn.append(f'<text x="{60 + 110 * row}" y="16" fill="{colour}">{label}</text>')
        drawn += [f'<text x="{45 + i * step:.1f}" y="250">{value:g}</text>' for i, (value, _) in enumerate(points)]
        drawn += [f'<text x="2" y="{y}">{value:.3g}</text>' for y, value in ((36, high), (236, low))]
        drawn.append(f'<text x="{_SIDE // 2}" y="268">{html.escape(self.unit)}</text>')
        shape = f'<svg width="{_SIDE}" height="275" style="border:1px solid #ccc;font:12px sans-serif">'
        return f"{_heading(self.title, self.note)}{shape}{''.join(drawn)}</svg>"


def _heading(title: str, note: str) -> str:
    return f"<h2>{html.escape(title)}</h2><p>{html.escape(note)}</p>"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


@dataclass(frozen=True)
class EvaluationReport:
    """Scores of one evaluation, and what its plot shows."""

    scores: dict[str, float]  # by name; ``loss`` decides which checkpoint is the best
    features: Tensor  # f32 [N,D]
    classes: Tensor  # i64 [N], -1: unlabelled
    names: tuple[str, ...]  # of the classes
    note: str  # what the scores mean
    history: tuple[str, ...] = ()  # scores that the page shows over the steps; none: all
    parts: tuple[Table | Curve, ...] = ()  # what it shows of the last step

    def line(self, step: int) -> str:
        """The scores that matter, in one line."""
        names = sorted(self.scores, key=lambda name: name.count("/"))  # those of a task of several after the others
        shown = [name for part in _SHOWN for name in names if name.rpartition("/")[2] == part]
        parts = "  ".join(f"{name} {self.scores[name]:.4g}" for name in shown)
        return f"validation at step {step}  {parts}"

    def write(self, out: Path, step: int) -> None:
        """Add a row to ``evaluation.json`` in the directory ``out``, without later ones; draw ``evaluation.html``."""
        path = out / JSON_NAME
        with at_the_door(f"{path} cannot be read", "remove it, or give another out=…"):
            before: list[dict[str, Any]] = json.loads(path.read_text()) if path.exists() else []
            rows = [row for row in before if row["step"] < step] + [{"step": step, **self.scores}]
        for name, text in ((JSON_NAME, json.dumps(rows, indent=1)), (HTML_NAME, self.page(rows))):
            put(out / name, text)

    def page(self, rows: list[dict[str, Any]]) -> str:
        """The history as a table; tables, curves and the plot of the last step."""
        names = ["step", *self.history] if self.history else list(rows[-1])
        head = "".join(f"<th>{html.escape(name)}</th>" for name in names)
        body = "".join("<tr>" + "".join(f"<td>{_number(row.get(n))}</td>" for n in names) + "</tr>" for row in rows)
        keys = "".join(
            f'<span style="color:{COLOURS[i % len(COLOURS)]}">● {html.escape(name)}</span> '
            for i, name in enumerate((*self.names, "unlabelled"))
        )
        return (
            "<!doctype html><meta charset=utf-8><title>Evaluation</title>"
            "<style>body{font:14px sans-serif;margin:2em}table{border-collapse:collapse;display:block;overflow:auto}"
            "td,th{border:1px solid #ccc;padding:.2em .5em;text-align:right;white-space:nowrap}</style>"
            "<h1>Evaluation on the validation split</h1>"
            f"<table><tr>{head}</tr>{body}</table>"
            f"<p>{html.escape(self.note)}</p>"
            f"{''.join(part.html(rows[-1]) for part in self.parts)}"
            f"<h2>Features, two principal axes</h2><p>{keys}</p>{self._plot()}"
        )

    def _plot(self) -> str:
        places = principal(self.features)
        low, high = places.min(0).values, places.max(0).values
        at = ((places - low) / (high - low).clamp_min(1e-9) * (_SIDE - 20) + 10).tolist()
        colour = [COLOURS[(c if c >= 0 else len(self.names)) % len(COLOURS)] for c in self.classes.tolist()]
        dots = "".join(
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{c}"/>' for (x, y), c in zip(at, colour, strict=True)
        )
        return f'<svg width="{_SIDE}" height="{_SIDE}" style="border:1px solid #ccc">{dots}</svg>'


def principal(features: Tensor) -> Tensor:
    """The two principal coordinates f32[N,2] of features f32[N,D]; 0 where there are fewer."""
    centred = features - features.mean(0)
    u, s, _ = torch.linalg.svd(centred, full_matrices=False)
    found = (u * s)[:, :2]
    return torch.cat((found, found.new_zeros(len(found), 2 - found.shape[1])), 1)
