"""WordPiece as BERT's uncased models use it (Devlin et al. 2019): text to token ids.

The same ids as the ``tokenizers`` library gives, with two exceptions: texts such as ``[SEP]`` are plain text here, and
characters that Unicode added or changed lately have the category that this Python knows.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Mapping

#: Longer words become one unknown token.
_MAX_WORD = 100
#: Blocks of CJK ideographs: each character is a word.
_IDEOGRAPHS = (
    (0x4E00, 0x9FFF), (0x3400, 0x4DBF), (0x20000, 0x2A6DF), (0x2A700, 0x2B73F), (0x2B740, 0x2B81F), (0x2B920, 0x2CEAF),
    (0xF900, 0xFAFF), (0x2F800, 0x2FA1F),
)  # fmt: skip
#: Categories that are left out; a code point without a character is an unknown word.
_CONTROLS = ("Cc", "Cf", "Co", "Cs")
_UNKNOWN, _FIRST, _LAST = "[UNK]", "[CLS]", "[SEP]"


def words(text: str) -> list[str]:
    """Lower-case words without accents; each punctuation mark and ideograph is one.

    >>> words("Café:Straße  (日本)")
    ['cafe', ':', 'straße', '(', '日', '本', ')']
    """
    found: list[str] = []
    word = ""
    for char in unicodedata.normalize("NFD", "".join(_cleaned(text))):
        kind = unicodedata.category(char)
        if kind == "Mn":
            continue
        alone = kind.startswith("P") or (char.isascii() and not char.isalnum() and char != " ") or _is_ideograph(char)
        if alone or char == " ":
            found += [word] * bool(word) + [char] * alone
            word = ""
        else:
            word += char.lower()  # by itself: a final sigma is no special case
    return found + [word] * bool(word)


def _cleaned(text: str) -> Iterable[str]:
    """Characters without controls; white space as spaces."""
    for char in text:
        if char in "\t\n\r" or unicodedata.category(char).startswith("Z"):
            yield " "
        elif char != "\ufffd" and unicodedata.category(char) not in _CONTROLS:
            yield char


def _is_ideograph(char: str) -> bool:
    code = ord(char)
    return any(low <= code <= high for low, high in _IDEOGRAPHS)


class WordPiece:
    """Greedy longest pieces of a vocabulary, pieces inside a word prefixed ``##``."""

    def __init__(self, vocabulary: Mapping[str, int], max_tokens: int) -> None:
        self._ids, self._max = vocabulary, max_tokens
        self._longest = max(map(len, vocabulary))

    def tokens(self, text: str) -> tuple[list[int], bool]:
        """Ids with the marks of start and end, at most ``max_tokens``; and whether the text was cut."""
        ids = [i for word in words(text) for i in self._pieces(word)]
        room = self._max - 2
        return [self._ids[_FIRST], *ids[:room], self._ids[_LAST]], len(ids) > room

    def _pieces(self, word: str) -> list[int]:
        ids: list[int] = []
        start = 0
        while start < len(word) <= _MAX_WORD:
            prefix = "##" if start else ""
            for end in range(min(len(word), start + self._longest), start, -1):
                found = self._ids.get(prefix + word[start:end])
                if found is not None:
                    ids.append(found)
                    start = end
                    break
            else:
                break
        return ids if start == len(word) else [self._ids[_UNKNOWN]]
