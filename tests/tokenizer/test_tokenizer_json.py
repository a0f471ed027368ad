"""`tokenizer.json` to a sentencepiece model and back: the same ids in transformers, `tokenizers` and sentencepiece."""

import base64
import copy
import json
import random
import unicodedata
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sentencepiece import SentencePieceProcessor
from tokenizers import Tokenizer
from transformers import AddedToken as ReferenceAddedToken
from transformers import PreTrainedTokenizerFast
from transformers import XLMRobertaTokenizer as ReferenceTokenizer

from tests.data.make_small_vocabulary import SENTENCES
from xlmr_np.tokenizer import tokenizer_json
from xlmr_np.tokenizer.added_tokens import AddedToken
from xlmr_np.tokenizer.model_proto import (
    CONTROL,
    NORMAL,
    UNKNOWN,
    USER_DEFINED,
    ModelProto,
    NormalizerSpec,
    TrainerSpec,
    read_model_proto,
    write_model_proto,
)
from xlmr_np.tokenizer.tokenizer_json import read_added_tokens_alone, read_tokenizer_json, write_tokenizer_json
from xlmr_np.weights.errors import CheckpointError

from .reference import charsmap, reference_tokenizer

TEXTS = [
    *SENTENCES,
    "the <mask>, the<mask> and\n<mask>\tthe garden",
    "a literal </s> and a <pad>",
    "  ﬁne ｆｕｌｌ　width ½ ㎏ é ▁ ",
    "",
]


@pytest.fixture(scope="module")
def small_json(small_reference, tmp_path_factory) -> bytes:
    return saved_by_transformers(small_reference, tmp_path_factory.mktemp("small"))


@pytest.fixture(scope="module")
def real_json(real_reference, tmp_path_factory) -> bytes:
    return saved_by_transformers(real_reference, tmp_path_factory.mktemp("real"))


def saved_by_transformers(tokenizer: ReferenceTokenizer, directory: Path) -> bytes:
    tokenizer.save_pretrained(directory)
    return (directory / "tokenizer.json").read_bytes()


@pytest.fixture(scope="module")
def document(small_json) -> dict[str, Any]:
    return json.loads(small_json)


def encoded(document: Any) -> bytes:
    return json.dumps(document).encode()


def changed(document: dict[str, Any], *path: str | int, to: Any) -> bytes:
    """The document with the value at `path` replaced."""
    document = copy.deepcopy(document)
    *parents, last = path
    node: Any = document
    for step in parents:
        node = node[step]
    node[last] = to
    return encoded(document)


def token_entry(token_id: int, content: str) -> dict[str, Any]:
    """A token as the file lists it."""
    return {"id": token_id, **asdict(AddedToken(content, special=True))}


def library(model: ModelProto) -> SentencePieceProcessor:
    processor = SentencePieceProcessor()
    processor.LoadFromSerializedProto(write_model_proto(model))
    return processor


def lines(shared_data: Path) -> list[str]:
    files = sorted((shared_data / "text").glob("*/*.txt"))
    return [line for path in files for line in path.read_text(encoding="utf-8").splitlines()]


def assert_same_model(content: bytes, vocabulary: Path) -> ModelProto:
    """That the rebuilt model has everything that the file has and that counts: all but the rule's name."""
    model, original = read_tokenizer_json(content).model, read_model_proto(vocabulary.read_bytes())
    assert model.pieces == original.pieces
    assert model.normalizer.precompiled_charsmap == charsmap(vocabulary)
    for name in ("unk_id", "bos_id", "eos_id", "pad_id", "model_type", "treat_whitespace_as_suffix"):
        assert getattr(model.trainer, name) == getattr(original.trainer, name)
    for name in ("add_dummy_prefix", "remove_extra_whitespaces", "escape_whitespaces"):
        assert getattr(model.normalizer, name) == getattr(original.normalizer, name)
    return model


def test_the_model_rebuilt_from_what_transformers_saved(small_json, small_vocabulary):
    model = assert_same_model(small_json, small_vocabulary)
    original = SentencePieceProcessor(model_file=str(small_vocabulary))
    assert library(model).encode(TEXTS) == original.encode(TEXTS)


def test_the_real_model_rebuilt_from_what_transformers_saved(real_json, real_vocabulary, shared_data):
    model = assert_same_model(real_json, real_vocabulary)
    original = SentencePieceProcessor(model_file=str(real_vocabulary))
    texts = random.Random(0).sample(lines(shared_data), 13_000)
    assert library(model).encode(texts) == original.encode(texts)


@pytest.mark.exhaustive
def test_the_real_model_rebuilt_on_all_lines(real_json, real_vocabulary, shared_data):
    model = read_tokenizer_json(real_json).model
    texts = lines(shared_data)
    assert library(model).encode(texts) == SentencePieceProcessor(model_file=str(real_vocabulary)).encode(texts)


def test_the_added_tokens_of_what_transformers_saved(small_json):
    assert read_tokenizer_json(small_json).added_tokens == {
        0: AddedToken("<s>", special=True),
        1: AddedToken("<pad>", special=True),
        2: AddedToken("</s>", special=True),
        3: AddedToken("<unk>", special=True),
        481: AddedToken("<mask>", special=True),
    }


@pytest.mark.parametrize("size", ["small", "real"])
def test_what_is_written_is_what_transformers_writes(size, request):
    content = request.getfixturevalue(f"{size}_json")
    vocabulary = request.getfixturevalue(f"{size}_vocabulary")
    written = write_tokenizer_json(read_model_proto(vocabulary.read_bytes()))
    ours, theirs = json.loads(written), json.loads(content)
    assert ours == theirs
    assert list(ours) == list(theirs)  # the order of the parts, too
    assert write_tokenizer_json(*read_tokenizer_json(content)) == written


def assert_loads_with_equal_ids(content: bytes, directory: Path, reference, texts: list[str]) -> None:
    """In `tokenizers`, and in transformers' class, which takes the parts of the file and builds its own pipeline."""
    file = directory / "tokenizer.json"
    file.write_bytes(content)
    expected = reference(texts)["input_ids"]
    assert [encoding.ids for encoding in Tokenizer.from_file(str(file)).encode_batch(texts)] == expected
    loaded = ReferenceTokenizer.from_pretrained(directory)
    assert loaded(texts)["input_ids"] == expected
    assert loaded(texts[:2], texts[2:4])["input_ids"] == reference(texts[:2], texts[2:4])["input_ids"]


def assert_loads_as_in_transformers_4(content: bytes, directory: Path, reference, texts: list[str]) -> None:
    """In the class that takes the file's pipeline as it stands, which all classes of transformers 4 do."""
    file = directory / "tokenizer.json"
    file.write_bytes(content)
    loaded = PreTrainedTokenizerFast(tokenizer_file=str(file))
    assert loaded(texts)["input_ids"] == reference(texts)["input_ids"]
    assert loaded(texts[:2], texts[2:4])["input_ids"] == reference(texts[:2], texts[2:4])["input_ids"]
    assert loaded.get_vocab() == reference.get_vocab()


def test_what_is_written_loads_in_transformers_and_tokenizers(small_vocabulary, small_reference, tmp_path):
    written = write_tokenizer_json(read_model_proto(small_vocabulary.read_bytes()))
    assert_loads_with_equal_ids(written, tmp_path, small_reference, TEXTS)
    assert_loads_as_in_transformers_4(written, tmp_path, small_reference, TEXTS)


def test_what_is_written_of_the_real_model_loads(real_vocabulary, real_reference, shared_data, tmp_path):
    written = write_tokenizer_json(read_model_proto(real_vocabulary.read_bytes()))
    texts = TEXTS + random.Random(1).sample(lines(shared_data), 500)
    assert_loads_with_equal_ids(written, tmp_path, real_reference, texts)


@pytest.mark.exhaustive
def test_what_is_written_of_the_real_model_on_all_lines(real_vocabulary, real_reference, shared_data, tmp_path):
    written = write_tokenizer_json(read_model_proto(real_vocabulary.read_bytes()))
    assert_loads_with_equal_ids(written, tmp_path, real_reference, lines(shared_data))
    assert_loads_as_in_transformers_4(written, tmp_path, real_reference, TEXTS)


def test_added_tokens_come_back(small_vocabulary, tmp_path):
    reference = reference_tokenizer(small_vocabulary)
    reference.add_tokens(
        [
            ReferenceAddedToken("newtok", single_word=True),
            ReferenceAddedToken("[left]", lstrip=True, normalized=False),
            ReferenceAddedToken("e"),  # a piece of the vocabulary
        ]
    )
    reference.add_tokens([ReferenceAddedToken("<entity>", rstrip=True, special=True)])
    (tmp_path / "theirs").mkdir()
    content = saved_by_transformers(reference, tmp_path / "theirs")
    model, added_tokens = read_tokenizer_json(content)
    piece = reference.convert_tokens_to_ids("e")
    assert 3 < piece < 481
    assert {token_id: token for token_id, token in added_tokens.items() if 3 < token_id != 481} == {
        piece: AddedToken("e", normalized=True),
        482: AddedToken("newtok", single_word=True, normalized=True),
        483: AddedToken("[left]", lstrip=True, normalized=False),
        484: AddedToken("<entity>", rstrip=True, special=True),
    }
    assert read_added_tokens_alone(content) == added_tokens
    written = write_tokenizer_json(model, added_tokens)
    assert json.loads(written) == json.loads(content)
    texts = [*TEXTS, "a newtok, newtoks  [left] of <entity>  here", "<entity><entity>newtok"]
    assert_loads_with_equal_ids(written, tmp_path, reference, texts)
    assert_loads_as_in_transformers_4(written, tmp_path, reference, texts)


def test_a_special_token_that_is_given_replaces_the_usual_one(small_vocabulary, tmp_path):
    model = read_model_proto(small_vocabulary.read_bytes())
    mask = AddedToken("<mask>", lstrip=True, special=True)
    content = write_tokenizer_json(model, {481: mask})
    assert read_tokenizer_json(content).added_tokens[481] == mask
    (tmp_path / "tokenizer.json").write_bytes(content)
    encoding = Tokenizer.from_file(str(tmp_path / "tokenizer.json")).encode("the <mask>", add_special_tokens=False)
    assert encoding.ids[-1] == 481
    assert encoding.offsets[-1] == (3, 10)


def test_truncation_and_padding_are_left_aside(small_reference, small_json, tmp_path):
    reference = copy.deepcopy(small_reference)
    reference._tokenizer.enable_truncation(4)
    reference._tokenizer.enable_padding()
    content = saved_by_transformers(reference, tmp_path)
    assert json.loads(content)["truncation"]
    assert json.loads(content)["padding"]
    assert write_tokenizer_json(*read_tokenizer_json(content)) == write_tokenizer_json(*read_tokenizer_json(small_json))


OLD_METASPACE = {"type": "Metaspace", "replacement": "▁", "str_rep": "▁", "add_prefix_space": True}
ROBERTA = {"type": "RobertaProcessing", "sep": ["</s>", 2], "cls": ["<s>", 0], "trim_offsets": True}


@pytest.mark.parametrize(
    ("path", "form"),
    [
        (["pre_tokenizer"], {"type": "Sequence", "pretokenizers": [{"type": "WhitespaceSplit"}, OLD_METASPACE]}),
        (["pre_tokenizer"], OLD_METASPACE),
        (["pre_tokenizer"], {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always"}),
        (["post_processor"], ROBERTA),
        (["post_processor"], None),
        (["decoder"], None),
        (["model"], "without its type"),
        (["model"], "without byte_fallback"),
        (["model"], "with whole numbers as scores"),
    ],
)
def test_forms_of_older_files(document, small_json, path, form):
    model = document["model"]
    forms = {
        "without its type": {name: value for name, value in model.items() if name != "type"},
        "without byte_fallback": {name: value for name, value in model.items() if name != "byte_fallback"},
        "with whole numbers as scores": {
            **model,
            "vocab": [[text, int(score) if score == 0 else score] for text, score in model["vocab"]],
        },
    }
    content = changed(document, *path, to=forms[form] if isinstance(form, str) else form)
    Tokenizer.from_str(content.decode())  # it is a form that `tokenizers` knows
    assert read_tokenizer_json(content).model.pieces == read_tokenizer_json(small_json).model.pieces


@pytest.mark.parametrize("space", [" ", "▁"])
def test_the_normalizer_of_files_of_transformers_4(document, space):
    steps = [
        document["normalizer"],
        {"type": "Strip", "strip_left": False, "strip_right": True},
        {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": space},
    ]
    content = changed(document, "normalizer", to={"type": "Sequence", "normalizers": steps})
    Tokenizer.from_str(content.decode())
    table = read_tokenizer_json(content).model.normalizer.precompiled_charsmap
    assert table == base64.b64decode(document["normalizer"]["precompiled_charsmap"])


def test_a_file_without_a_normalizer_is_a_model_without_a_charsmap(document):
    content = changed(document, "normalizer", to=None)
    model, added_tokens = read_tokenizer_json(content)
    assert model.normalizer.precompiled_charsmap == b""
    assert json.loads(write_tokenizer_json(model, added_tokens))["normalizer"] is None
    texts = [text for text in SENTENCES if unicodedata.is_normalized("NFKC", text)]
    ids = [encoding.ids for encoding in Tokenizer.from_str(content.decode()).encode_batch(texts)]
    assert len(texts) > 30
    assert [[0, *(piece + 1 if piece else 3 for piece in row), 2] for row in library(model).encode(texts)] == ids


@given(st.lists(st.floats(-30, 0), min_size=1, max_size=20))
def test_scores_are_rounded_to_what_a_model_holds(scores):
    vocab = [("<s>", 0), ("<pad>", 0), ("</s>", 0), ("<unk>", 0)]
    vocab += [(f"piece {number}", score) for number, score in enumerate(scores)]
    vocab += [("<mask>", 0)]
    content = encoded(
        {"pre_tokenizer": OLD_METASPACE, "model": {"type": "Unigram", "unk_id": 3, "vocab": vocab}, "added_tokens": []}
    )
    model = read_tokenizer_json(content).model
    assert [score for _, score, _ in model.pieces[3:]] == pytest.approx(scores, rel=2**-24, abs=2**-149)
    assert read_model_proto(write_model_proto(model)).pieces == model.pieces


def test_other_models_are_refused(small_reference, tmp_path):
    from tokenizers import models

    for model in (
        models.BPE({"a": 0, "b": 1, "ab": 2}, [("a", "b")]),
        models.WordPiece({"[UNK]": 0, "a": 1}, unk_token="[UNK]"),
        models.WordLevel({"<unk>": 0}, unk_token="<unk>"),
        models.Unigram([("<unk>", 0.0), ("a", -1.0)], 0, False),
        models.Unigram([("<s>", 0.0), ("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("<mask>", 0.0)], 3, False),
    ):
        with pytest.raises(CheckpointError, match="XLM-R"):
            read_tokenizer_json(Tokenizer(model).to_str().encode())


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ([], [], "whole .* list"),
        (["model"], None, "model .* NoneType"),
        (["model"], [], "model .* list"),
        (["model", "type"], "BPE", "'BPE'"),
        (["model", "type"], 7, "type 7"),
        (["model", "vocab"], {"a": 0}, "dict"),
        (["model", "vocab"], [], "layout"),
        (["model", "vocab", 5], ["a"], "no pair"),
        (["model", "vocab", 5], ["a", 0, 0], "no pair"),
        (["model", "vocab", 5], "ab", "no pair"),
        (["model", "vocab", 5], {"a": 1, "b": 2}, "no pair"),
        (["model", "vocab", 5], ["a", "0"], "no string or a score"),
        (["model", "vocab", 5], ["a", None], "no string or a score"),
        (["model", "vocab", 5], ["a", True], "no string or a score"),
        (["model", "vocab", 5], [5, 0.0], "no string or a score"),
        (["model", "vocab", 5], ["a", [0]], "no string or a score"),
        (["model", "vocab", 5], ["", -1.0], "empty"),
        (["model", "vocab", 5], ["a\0", -1.0], r"U\+0000"),
        (["model", "vocab", 5], ["\ud800", -1.0], "surrogate"),
        (["model", "vocab", 5], ["▁", -1.0], "twice"),
        (["model", "vocab", 5], ["</s>", -1.0], "twice"),
        (["model", "vocab", 5], ["<mask>", -1.0], "<mask> twice"),
        (["model", "vocab", 5], ["<pad>", -1.0], "<pad> twice"),
        (["model", "vocab", 5], ["a", float("nan")], "NaN"),
        (["model", "vocab", 5], ["a", float("-inf")], "-Infinity"),
        (["model", "vocab", 5], ["a", -1e39], "float32"),
        (["model", "vocab", 5], ["a", -(10**400)], "float32"),
        (["model", "vocab", 2], ["a", 0.0], "layout"),
        (["model", "vocab", 481], ["a mask", 0.0], "layout"),
        (["model", "unk_id"], 0, "unk_id 0"),
        (["model", "unk_id"], None, "unk_id None"),
        (["model", "byte_fallback"], True, "byte_fallback True"),
        (["normalizer"], "Precompiled", "normalizer .* str"),
        (["normalizer"], {"type": "NFKC"}, "NFKC"),
        (["normalizer"], {"type": "Sequence"}, "without normalizers"),
        (["normalizer"], {"type": "Sequence", "normalizers": []}, "Precompiled"),
        (["normalizer"], {"type": "Sequence", "normalizers": [5]}, "int"),
        (["normalizer"], {"type": "Sequence", "normalizers": [{"type": "Lowercase"}]}, "Lowercase"),
        (["normalizer"], {"type": "Replace", "pattern": {"String": "a"}, "content": "b"}, "Replace"),
        (["normalizer", "precompiled_charsmap"], None, "base64"),
        (["normalizer", "precompiled_charsmap"], 5, "base64"),
        (["normalizer", "precompiled_charsmap"], "AAA", "base64"),
        (["normalizer", "precompiled_charsmap"], "AA AA", "base64"),
        (["normalizer", "precompiled_charsmap"], "ééé=", "base64"),
        (["pre_tokenizer"], None, "pre_tokenizer .* NoneType"),
        (["pre_tokenizer"], {"type": "ByteLevel"}, "ByteLevel"),
        (["pre_tokenizer"], {"type": "WhitespaceSplit"}, "WhitespaceSplit"),
        (["pre_tokenizer"], {"type": "Sequence", "pretokenizers": []}, "pre_tokenizer"),
        (["pre_tokenizer"], {"type": "Sequence", "pretokenizers": {}}, "without pretokenizers"),
        (["pre_tokenizer"], {**OLD_METASPACE, "replacement": "_"}, "Metaspace"),
        (["pre_tokenizer"], {**OLD_METASPACE, "add_prefix_space": False}, "Metaspace"),
        (["pre_tokenizer", "pretokenizers", 1, "prepend_scheme"], "first", "Metaspace"),
        (["pre_tokenizer", "pretokenizers", 1, "prepend_scheme"], "never", "Metaspace"),
        (["post_processor"], [], "list"),
        (["post_processor"], {"type": "ByteLevel"}, "ByteLevel"),
        (["post_processor"], {**ROBERTA, "sep": ["</s>", 1]}, "RobertaProcessing"),
        (["post_processor", "single"], [], "TemplateProcessing"),
        (["post_processor", "single"], None, "TemplateProcessing"),
        (["post_processor", "single", 0], 5, "TemplateProcessing"),
        (["post_processor", "single", 0], {"SpecialToken": 5}, "TemplateProcessing"),
        (["post_processor", "single", 0], {"SpecialToken": {"id": "</s>", "type_id": 0}}, "TemplateProcessing"),
        (["post_processor", "pair", 3], {"Sequence": {"id": "B", "type_id": 0}}, "TemplateProcessing"),
        (["post_processor", "special_tokens", "<s>", "ids"], [5], "TemplateProcessing"),
        (["added_tokens"], None, "list"),
        (["added_tokens"], {}, "list"),
        (["added_tokens", 0], [], "added token"),
        (["added_tokens", 0], {}, "five flags"),
        (["added_tokens", 0, "id"], "0", "five flags"),
        (["added_tokens", 0, "id"], False, "five flags"),
        (["added_tokens", 0, "id"], 0.0, "five flags"),
        (["added_tokens", 0, "lstrip"], 0, "five flags"),
        (["added_tokens", 0, "content"], None, "five flags"),
        (["added_tokens", 0, "content"], "", "empty"),
        (["added_tokens", 0, "content"], "\ud800", "lone surrogate"),
        (["added_tokens", 0, "content"], "<pad>", "id 0, .* gives it 1"),
        (["added_tokens", 0, "content"], "new", "id 0, .* gives it 482"),
        (["added_tokens", 4, "id"], 480, "id 480"),
        (["added_tokens", 4, "id"], -1, "id -1"),
        (["added_tokens", 4, "id"], 10**30, "id 1000"),
        (["added_tokens", 3], token_entry(2, "</s>"), "two added tokens with the id 2"),
        (["added_tokens", 3], token_entry(5, "</s>"), "twice"),
        (["added_tokens", 3], token_entry(483, "after a gap"), "id 483, .* gives it 482"),
    ],
)
def test_files_that_would_give_other_ids_or_are_broken(document, path, value, message):
    content = changed(document, *path, to=value) if path else encoded(value)
    with pytest.raises(CheckpointError, match=message) as error:
        read_tokenizer_json(content)
    assert len(str(error.value)) < 500


@pytest.mark.parametrize("name", ["model", "pre_tokenizer"])
def test_files_that_lack_a_part(document, name):
    with pytest.raises(CheckpointError, match=name):
        read_tokenizer_json(encoded({key: value for key, value in document.items() if key != name}))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"\xef\xbb\xbf{}",
        b'{"model": 1e999}',
        b'{"model": {}, }',
        b'{"a": "\xff"}',
        b"[" * 500_000,
        b'{"a":' * 500_000,
        b'{"a": ' + b"1" * 10_000 + b"}",
    ],
    ids=range(9),
)
def test_contents_that_are_not_json_or_have_no_end(content):
    with pytest.raises(CheckpointError) as error:
        read_tokenizer_json(content)
    assert len(str(error.value)) < 500


def test_json_in_another_encoding_than_utf_8_is_refused(document):
    with pytest.raises(CheckpointError, match="not valid JSON"):
        read_tokenizer_json(json.dumps(document).encode("utf-16"))


def test_nested_settings_are_refused(document):
    nested: Any = document["normalizer"]
    for _ in range(100):
        nested = {"type": "Sequence", "normalizers": [nested]}
    with pytest.raises(CheckpointError, match="normalizer"):
        read_tokenizer_json(changed(document, "normalizer", to=nested))


def test_absurd_sizes_are_refused(monkeypatch, small_json):
    many = b"[" + b"[]," * tokenizer_json.MOST_VALUES + b"[]]"
    with pytest.raises(CheckpointError, match="too large"):
        read_tokenizer_json(b'{"model": ' + many + b"}")
    monkeypatch.setattr(tokenizer_json, "LARGEST_TOKENIZER_JSON", len(small_json) - 1)
    with pytest.raises(CheckpointError, match="too large"):
        read_tokenizer_json(small_json)


def test_long_values_do_not_make_long_messages(document):
    long = "x" * 100_000
    for path in (["model", "type"], ["model", "unk_id"], ["normalizer", "type"], ["pre_tokenizer", "type"]):
        with pytest.raises(CheckpointError) as error:
            read_tokenizer_json(changed(document, *path, to=long))
        assert len(str(error.value)) < 700


def assert_refused_or_sound(content: bytes) -> None:
    try:
        model, added_tokens = read_tokenizer_json(content)
    except CheckpointError:
        return
    written = write_tokenizer_json(model, added_tokens)
    again = read_tokenizer_json(written)
    assert again.model.pieces == model.pieces
    assert added_tokens.items() <= again.added_tokens.items()
    assert read_model_proto(write_model_proto(model)).pieces == model.pieces


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-5, 600)
    | st.floats()
    | st.sampled_from(
        ["", "<s>", "</s>", "<mask>", "A", "Sequence", "Precompiled", "Unigram", "Metaspace", "▁", "AAAA"]
    ),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["type", "id", "ids", "content", "vocab", "normalizers", "pretokenizers", "SpecialToken"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=8,
)


def replaced_somewhere(document: dict[str, Any], value: Any, generator: random.Random) -> bytes:
    """The document with one value at a random place of random depth replaced."""
    document = copy.deepcopy(document)
    node: Any = document
    while True:
        key = generator.choice(list(node) if isinstance(node, dict) else range(len(node)))
        if not isinstance(node[key], dict | list) or not node[key] or generator.random() < 0.2:
            break
        node = node[key]
    node[key] = value
    return encoded(document)


@pytest.fixture(scope="module")
def tiny_document(document) -> dict[str, Any]:
    tiny = copy.deepcopy(document)
    tiny["model"]["vocab"][9:-1] = []
    tiny["normalizer"]["precompiled_charsmap"] = "AAAA"
    tiny["added_tokens"][-1]["id"] = 9
    read_tokenizer_json(encoded(tiny))
    return tiny


@given(json_values, st.randoms(use_true_random=False))
def test_any_value_in_any_place(tiny_document, value, generator):
    assert_refused_or_sound(replaced_somewhere(tiny_document, value, generator))


@given(json_values)
def test_any_json(value):
    with pytest.raises(CheckpointError):
        read_tokenizer_json(encoded(value))


@given(st.binary(max_size=100))
def test_random_bytes(content):
    with pytest.raises(CheckpointError):
        read_tokenizer_json(content)


def damage(tiny_document: dict[str, Any], count: int) -> None:
    content = encoded(tiny_document)
    generator = random.Random(0)
    for _ in range(count):
        with pytest.raises(CheckpointError):
            read_tokenizer_json(content[: generator.randrange(len(content))])
        flipped = bytearray(content)
        flipped[generator.randrange(len(content))] ^= 1 << generator.randrange(8)
        assert_refused_or_sound(bytes(flipped))


def test_truncations_and_flipped_bits(tiny_document):
    damage(tiny_document, 300)


@pytest.mark.exhaustive
def test_many_truncations_and_flipped_bits(tiny_document):
    damage(tiny_document, 50_000)


UNSUITABLE = {
    "a special piece at another place": ([("<s>", 0.0, CONTROL), ("<unk>", 0.0, UNKNOWN), ("</s>", 0.0, CONTROL)], b""),
    "no special pieces": ([("a", -1.0, NORMAL)], b""),
    "specials of another kind": ([("<unk>", 0.0, UNKNOWN), ("<s>", 0.0, NORMAL), ("</s>", 0.0, CONTROL)], b""),
    "a mask of its own": ([*tokenizer_json.FIRST_PIECES, ("<mask>", 0.0, NORMAL)], b""),
    "padding of its own": ([*tokenizer_json.FIRST_PIECES, ("<pad>", 0.0, NORMAL)], b""),
    "a user-defined piece": ([*tokenizer_json.FIRST_PIECES, ("a", 0.0, USER_DEFINED)], b""),
    "another unknown id": ([*tokenizer_json.FIRST_PIECES, ("a", 0.0, NORMAL)], b"\xc0\x02\x03"),
    "spaces at the end of words": ([*tokenizer_json.FIRST_PIECES, ("a", 0.0, NORMAL)], b"\xc0\x01\x01"),
}


@pytest.mark.parametrize(("pieces", "trainer"), UNSUITABLE.values(), ids=UNSUITABLE)
def test_models_of_which_no_file_can_be_made(pieces, trainer):
    with pytest.raises(CheckpointError, match=r"no tokenizer\.json can be made"):
        write_tokenizer_json(ModelProto(pieces, NormalizerSpec(), TrainerSpec(trainer)))


@pytest.mark.parametrize("flag", [b"\x18\x00", b"\x20\x00", b"\x28\x00"])
def test_models_that_handle_spaces_differently_cannot_be_written(flag):
    pieces = [*tokenizer_json.FIRST_PIECES, ("a", 0.0, NORMAL)]
    with pytest.raises(CheckpointError, match="spaces"):
        write_tokenizer_json(ModelProto(pieces, NormalizerSpec(flag), TrainerSpec()))


def test_added_tokens_with_ids_that_are_not_their_places_cannot_be_written(small_vocabulary):
    model = read_model_proto(small_vocabulary.read_bytes())
    with pytest.raises(CheckpointError, match=r"id 500, .* gives it 482"):
        write_tokenizer_json(model, {500: AddedToken("new")})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no added_tokens"),
        (b"{}", "no added_tokens"),
        (b'{"added_tokens":', "not valid JSON"),
        (b'{"added_tokens": [NaN]}', "NaN"),
        (b'{"added_tokens": ' + b"[" * 500_000, "not valid JSON"),
        (b'{"added_tokens": {}}', "no list"),
        (b'{"added_tokens": [{"id": 1}]}', "five flags"),
        (b'{"added_tokens": "\xff"}', "not valid JSON"),
        (b'{"added_tokens": [' + b"[]," * tokenizer_json.MOST_VALUES + b"]}", "too large"),
    ],
    ids=range(9),
)
def test_added_tokens_alone_of_damaged_files(content, message):
    with pytest.raises(CheckpointError, match=message) as error:
        read_added_tokens_alone(content)
    assert len(str(error.value)) < 500


def test_added_tokens_alone_do_not_need_the_rest_of_the_file(document):
    """Nor their place in it, nor are they mistaken for a token that is written like their name."""
    vocab = [['"added_tokens": 5', 0.0]]
    for parts in ({"model": {"vocab": vocab}, "added_tokens": document["added_tokens"]}, document | {"model": None}):
        assert read_added_tokens_alone(encoded(parts)) == read_tokenizer_json(encoded(document)).added_tokens
