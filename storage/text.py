"""Texts that others wrote (tags, names of authors, licences, file names) where people read them."""

from __future__ import annotations

import re
import unicodedata

#: Marks of Markdown and HTML that could make something of a text, and line ends.
_MARKDOWN = re.compile(r"([\\`*_\[\]#|~<>&$])")
#: What has a meaning of its own to terminals, or turns the direction of what follows (Unicode Technical Report 36).
_HIDDEN = frozenset({"Cc", "Cf", "Cs", "Co", "Zl", "Zp"})


def visible(text: str, keep: str = "") -> str:
    """A text in which control characters, and those that turn the direction of writing, are written out.

    >>> visible("a\\x1b[31mb\\u202ec")
    'a\\\\x1b[31mb\\\\u202ec'
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        c.encode("unicode_escape", "surrogatepass").decode()
        if c not in keep and (unicodedata.category(c) in _HIDDEN)
        else c
        for c in text
    )


def markdown(text: str) -> str:
    """A text as plain words in Markdown.

    >>> markdown("[x](javascript:y) <b>")
    '\\\\[x\\\\](javascript:y) \\\\<b\\\\>'
    """
    return _MARKDOWN.sub(r"\\\1", visible(text))
