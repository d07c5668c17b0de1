"""An evaluation as numbers: a JSON history and one HTML page in the run folder, with a plot of the embeddings."""

from __future__ import annotations

import html
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from storage.files import put

#: Files of the run folder.
JSON_NAME, HTML_NAME = "evaluation.json", "evaluation.html"
#: Colours of classes, unlabelled last (Okabe and Ito 2008).
COLOURS = ("#0072b2", "#e69f00", "#009e73", "#d55e00", "#cc79a7", "#56b4e9", "#f0e442", "#999999")
_SIDE = 480
#: Scores of the one line.
_SHOWN = (
    "loss", "rec", "cont", "cst", "cst_zero", "cst_mean", "incl", "secl", "r@1", "chance_r@1", "location_r@1",
    "median_km", "chance_median_km", "land_use_linear",
)  # fmt: skip


@dataclass(frozen=True)
class EvaluationReport:
    """Scores of one evaluation, and what its plot shows."""

    scores: dict[str, float]  # by name; ``loss`` decides which checkpoint is the best
    features: Tensor  # f32 [N,D]
    classes: Tensor  # i64 [N], -1: unlabelled
    names: tuple[str, ...]  # of the classes
    note: str  # what the scores mean

    def line(self, step: int) -> str:
        """The scores that matter, in one line."""
        names = sorted(self.scores, key=lambda name: name.count("/"))  # those of a task of several after the others
        shown = [name for part in _SHOWN for name in names if name.rpartition("/")[2] == part]
        parts = "  ".join(f"{name} {self.scores[name]:.4g}" for name in shown)
        return f"validation at step {step}  {parts}"

    def write(self, out: Path, step: int) -> None:
        """Add a row to ``evaluation.json`` in the directory ``out``, without later ones; draw ``evaluation.html``."""
        path = out / JSON_NAME
        before: list[dict[str, Any]] = json.loads(path.read_text()) if path.exists() else []
        rows = [row for row in before if row["step"] < step] + [{"step": step, **self.scores}]
        for name, text in ((JSON_NAME, json.dumps(rows, indent=1)), (HTML_NAME, self.page(rows))):
            put(out / name, text)

    def page(self, rows: list[dict[str, Any]]) -> str:
        """The history as a table, and the plot of the last step."""
        names = list(rows[-1])
        head = "".join(f"<th>{html.escape(name)}</th>" for name in names)
        body = "".join(
            "<tr>" + "".join(f"<td>{row.get(n, float('nan')):.4g}</td>" for n in names) + "</tr>" for row in rows
        )
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
