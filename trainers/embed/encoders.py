"""Text encoders by name, and the hash encoder, which needs no model.

An encoder turns texts into tokens, and tokens of one length into vectors: texts of equal length share a batch, so that
nothing is padded and a text's vector does not depend on its neighbours.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from schemas.errors import ConfigError, DependencyError
from schemas.tags import tag_id
from trainers.embed.features import hash_features
from trainers.embed.table import EncoderInfo

#: What --encoder takes, with what it means.
ENCODERS = {
    "hash": "a pseudo-random vector a tag; needs no model and knows no meaning",
    "minilm": "all-MiniLM-L6-v2, mean of tokens at unit length; its weights come as a Python package",
    "clip:NAME": "the text tower of a CLIP model, as GeoLink uses it: a folder or a model in the Hugging Face cache",
    "hf:NAME": "a BERT-like or sentence-transformers model: a folder or a model in the Hugging Face cache",
}

#: Tokens a batch by device: a CPU works in its caches, a GPU wants to be filled.
BATCH_TOKENS = {"cpu": 1 << 11, "cuda": 1 << 15}


class Encoder(Protocol):
    """What a text encoder does."""

    info: EncoderInfo
    batch_tokens: int  # that one call should get

    def tokens(self, texts: Sequence[str]) -> tuple[list[list[int]], int]:
        """Token ids of each text, and how many texts were cut to ``info.max_tokens``."""

    def encode(self, ids: NDArray[np.int64]) -> NDArray[np.float32]:
        """f32[B,D] of B texts of L tokens each, i64[B,L]."""


class HashEncoder:
    """The encoder that a stream falls back to, as a table: see ``hash_features``."""

    batch_tokens = 1 << 12

    def __init__(self, width: int) -> None:
        self.info = EncoderInfo("hash", "", "", "none", False, width, 1, f"numpy {np.__version__}")

    def tokens(self, texts: Sequence[str]) -> tuple[list[list[int]], int]:
        """The tag id of each text is its only token."""
        return [[tag_id(text)] for text in texts], 0

    def encode(self, ids: NDArray[np.int64]) -> NDArray[np.float32]:
        """f32[B,D], uniform in ±sqrt(3)."""
        return hash_features(ids[:, 0], self.info.width).astype(np.float32)


def make_encoder(spec: str, device: str = "auto", width: int | None = None) -> Encoder:
    """The encoder that ``spec`` names: ``hash``, ``minilm``, ``clip:NAME`` or ``hf:NAME``.

    Args:
        device: auto, cpu or cuda, for those that compute.
        width: features a tag of ``hash``, 512 where None; the others have their own.

    Raises:
        ConfigError: an unknown name, or a width that cannot be had.
        DependencyError: a package or the weights are not installed; the message says how to get them.
    """
    kind, _, name = spec.partition(":")
    known = {known.partition(":")[0]: known for known in ENCODERS}
    if kind not in known or bool(name) != (":" in known[kind]):
        near = difflib.get_close_matches(kind, known, 1)
        hint = f"did you mean {known[near[0]]}?" if near else f"choose {', '.join(ENCODERS)}"
        raise ConfigError(f"encoder {spec!r} is not known; {hint}")
    if kind == "hash":
        if width is not None and width < 1:
            raise ConfigError(f"--width {width}: at least 1 is needed")
        return HashEncoder(width or 512)
    if width is not None:
        raise ConfigError(f"--width is for --encoder hash; {spec} has a width of its own")
    try:
        import torch
    except ImportError:
        raise DependencyError("a text encoder needs torch; install it with: pip install 'geoshards[train]'") from None
    if device not in ("auto", "cpu", "cuda") or (device == "cuda" and not torch.cuda.is_available()):
        raise ConfigError(f"--device {device}: choose auto or cpu" + (", no GPU is seen" if device == "cuda" else ""))
    chosen = torch.device("cuda" if device != "cpu" and torch.cuda.is_available() else "cpu")
    if kind == "minilm":
        from trainers.embed.minilm import MiniLM

        return MiniLM(chosen, BATCH_TOKENS[chosen.type])
    from trainers.embed.pretrained import PretrainedEncoder

    return PretrainedEncoder(kind, name, chosen, BATCH_TOKENS[chosen.type])
