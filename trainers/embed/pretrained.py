"""Text encoders of the Hugging Face format through ``transformers``: CLIP's text tower, BERT and its kin.

Weights are read from a folder or from the Hugging Face cache; nothing is downloaded, and no code of a model is run.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from schemas.errors import ConfigError, DependencyError, InputError
from trainers.embed.table import EncoderInfo

#: Pooling of token states, by name in the table. GeoLink averages all of CLIP's tokens but the first, which marks the
#: begin; the mark of the end counts (docs/papers/geolink.md#tags).
POOLING = {
    "mean": lambda states: states.mean(1),
    "first": lambda states: states[:, 0],
    "mean_without_first": lambda states: states[:, 1:].mean(1),
}
_CLIP_TYPES = ("clip", "clip_text_model")


class PretrainedEncoder:
    """``clip:NAME`` or ``hf:NAME``.

    Args:
        kind: clip or hf.
        name: a folder with config.json, weights and tokenizer, or the name of a model in the cache.
        device: where it computes, in fp32.
        batch_tokens: that one call should get.

    Raises:
        DependencyError: transformers is not installed, or the cache lacks the model.
        InputError: the folder holds no such model, or not all of its weights.
        ConfigError: the model needs the other kind, or a step that is not known here.
    """

    def __init__(self, kind: str, name: str, device: torch.device, batch_tokens: int) -> None:
        try:
            import transformers
        except ImportError:
            raise DependencyError(
                f"the encoder {kind}: needs transformers; install it with: pip install 'geoshards[text]'"
            ) from None
        transformers.logging.set_verbosity_error()
        transformers.logging.disable_progress_bar()
        folder, shown = _find(kind, name)
        local = {"local_files_only": True}
        with _loading(kind, name):
            config = transformers.AutoConfig.from_pretrained(folder, **local)
        if kind == "clip" and config.model_type not in _CLIP_TYPES:
            raise ConfigError(f"clip:{name} is a {config.model_type} model; give hf:{name}")
        if kind == "hf" and config.model_type in _CLIP_TYPES:
            raise ConfigError(f"hf:{name} is a CLIP model; give clip:{name}")
        loader = transformers.CLIPTextModel if kind == "clip" else transformers.AutoModel
        with _loading(kind, name):
            self._tokenizer = transformers.AutoTokenizer.from_pretrained(folder, **local)
            self._model, loaded = loader.from_pretrained(folder, dtype=torch.float32, output_loading_info=True, **local)
        # A weight that is missing would be drawn at random. The pooler is not used.
        missing = sorted(n for n in loaded["missing_keys"] if not n.startswith("pooler."))
        if missing or loaded["mismatched_keys"]:
            raise InputError(f"{kind}:{name} lacks weights such as {(missing or ['?'])[0]}; give a complete model")
        self._model.eval().to(device)
        self._device, self.batch_tokens = device, batch_tokens
        pooling, unit, limit = ("mean_without_first", False, None) if kind == "clip" else _pooling(Path(folder))
        self._pool = POOLING[pooling]
        width = int(self._model.config.hidden_size)
        # RoBERTa and its kin number positions from 2; no tag is so long that two tokens matter.
        positions = int(self._model.config.max_position_embeddings) - (0 if kind == "clip" else 2)
        longest = min(positions, int(self._tokenizer.model_max_length), limit or positions)
        self.info = EncoderInfo(
            kind, shown, _digest(self._model, self._tokenizer), pooling, unit, width, longest,
            f"transformers {transformers.__version__}, torch {torch.__version__}",
        )  # fmt: skip

    def tokens(self, texts: Sequence[str]) -> tuple[list[list[int]], int]:
        """Token ids of each text, and how many texts were cut."""
        limit, found = self.info.max_tokens, []
        cut = 0
        for text, ids in zip(texts, self._tokenizer(list(texts))["input_ids"], strict=True):
            if len(ids) > limit:
                ids = self._tokenizer(text, truncation=True, max_length=limit)["input_ids"]
                cut += 1
            found.append(ids)
        return found, cut

    @torch.inference_mode()
    def encode(self, ids: NDArray[np.int64]) -> NDArray[np.float32]:
        """f32[B,D] of i64[B,L]."""
        tokens = torch.from_numpy(ids).to(self._device)
        states: Tensor = self._model(input_ids=tokens, attention_mask=torch.ones_like(tokens)).last_hidden_state
        pooled = self._pool(states)
        return (F.normalize(pooled, dim=1) if self.info.unit_length else pooled).cpu().numpy()


@contextmanager
def _loading(kind: str, name: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # noqa: BLE001  # the tokenizers library raises just that on a bad file
        first = str(error).strip().partition("\n")[0]
        raise InputError(f"{kind}:{name} cannot be loaded ({first}); give a complete model") from None


def _find(kind: str, name: str) -> tuple[str, str]:
    """Folder of a model, and its name without a path."""
    path = Path(name).expanduser()
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise InputError(f"{path} has no config.json; give the folder of a model in the Hugging Face format")
        return str(path), path.resolve().name
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        return snapshot_download(name, local_files_only=True), name
    except (LocalEntryNotFoundError, HFValidationError, FileNotFoundError):
        raise DependencyError(
            f"{name} is neither a folder nor a model in the Hugging Face cache. With a network, get it with: "
            f"hf download {name}; without one, copy that folder from elsewhere and give {kind}:FOLDER"
        ) from None


def _pooling(folder: Path) -> tuple[str, bool, int | None]:
    """Pooling, unit length and longest text as sentence-transformers' files say; else the mean of all tokens."""
    modules = _json(folder / "modules.json")
    if not isinstance(modules, list):
        return "mean", False, None
    steps = [str(m.get("type", "")).rpartition(".")[2] for m in modules]
    pooling = _json(folder / str(modules[1].get("path")) / "config.json") if len(modules) > 1 else {}
    chosen = {n.removeprefix("pooling_mode_") for n, on in pooling.items() if n.startswith("pooling_mode_") and on}
    known = {"mean_tokens": "mean", "cls_token": "first", "mean": "mean", "cls": "first"}
    if steps[:2] != ["Transformer", "Pooling"] or steps[2:] not in ([], ["Normalize"]) or len(chosen) != 1:
        raise ConfigError(f"{folder.name}: its steps {', '.join(steps)} ({', '.join(chosen)}) are not known here")
    mode = chosen.pop()
    if mode not in known:
        raise ConfigError(f"{folder.name}: its pooling {mode} is not known here; mean and cls are")
    limit = _json(folder / "sentence_bert_config.json").get("max_seq_length")
    return known[mode], steps[2:] == ["Normalize"], limit


def _json(path: Path) -> Any:
    if not path.is_file():
        return {}
    try:
        return json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise InputError(f"{path} is no JSON ({error}); give a complete model") from None


def _digest(model: torch.nn.Module, tokenizer: Any) -> str:
    """sha256 of all parameters and all tokens, whatever files they came in."""
    digest = sha256(json.dumps(sorted(tokenizer.get_vocab().items())).encode())
    for name, value in sorted(model.state_dict().items()):
        digest.update(f"{name}{tuple(value.shape)}".encode())
        digest.update(value.contiguous().cpu().numpy().tobytes())
    return digest.hexdigest()
