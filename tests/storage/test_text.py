"""Texts of others are words where people read them: nothing to a terminal, to Markdown, to the direction of writing."""

from __future__ import annotations

import re
import unicodedata

import markdown_it
from hypothesis import given
from hypothesis import strategies as st

from pipeline.catalog.describe import _attribution
from storage.text import markdown, visible

HOSTILE = "a\x1b[2J<script>alert(1)</script>![x](http://e/x.png)\u202e|`b`\n# c\n* d\n[e]: f"


@given(st.text())
def test_nothing_hidden_is_left_and_plain_text_stays(text: str) -> None:
    shown = visible(text)
    assert not [c for c in shown if unicodedata.category(c) in ("Cc", "Cf", "Cs", "Co", "Zl", "Zp")]
    assert shown.isprintable() or any(unicodedata.category(c) == "Cn" or c == "\xa0" or c.isspace() for c in shown)
    assert visible("Zürich – 東京 العربية 🌍") == "Zürich – 東京 العربية 🌍"


@given(st.text() | st.just(HOSTILE))
def test_markdown_of_a_text_is_that_text(text: str) -> None:
    """Judged by a CommonMark parser: one paragraph of words, no element."""
    (block,) = [t for t in markdown_it.MarkdownIt("commonmark").parse(f"x {markdown(text)} y") if t.children]
    assert {t.type for t in block.children or []} <= {"text", "text_special"}


def test_authors_and_licences_make_nothing_of_the_attribution() -> None:
    source = {"kind": "osm", "name": HOSTILE, "date": None, "licence": HOSTILE}
    text = _attribution({"sources": [source]}, [HOSTILE], [HOSTILE])
    html = markdown_it.MarkdownIt("commonmark").render(text)
    assert set(re.findall(r"<(\w+)", html)) <= {"h1", "p", "ul", "li", "code"}
    assert html.count("<code>") == 1  # our own
    assert "\x1b" not in html


def test_the_attribution_names_each_source_its_date_and_its_licence() -> None:
    sources = [
        {"kind": "osm", "name": "Monaco", "date": "2024-06-01", "licence": "ODbL-1.0"},
        {"kind": "imagery", "name": "NAIP", "date": None, "licence": None},
    ]
    lines = _attribution({"sources": sources}, [], ["Ada"]).splitlines()
    assert [line for line in lines if line.startswith("- ")] == [
        "- osm: Monaco, 2024-06-01. Licence: ODbL-1.0.",
        "- imagery: NAIP. Licence: not stated; ask the provider before sharing.",
    ]
    assert "Photos by: Ada." in lines
