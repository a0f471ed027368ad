"""A trimmed checkpoint cuts texts as before and answers as before, with fewer rows."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st

import xlmr_np
from tests.reference_models import TINY, save_reference
from xlmr_np.quantization import vocabulary_trimming
from xlmr_np.quantization.vocabulary_trimming import (
    SCRIPTS,
    VOCABULARY_TENSORS,
    kept_ids,
    script_of,
    trim_vocabulary,
    trimmed_model,
)
from xlmr_np.tokenizer import XLMRobertaTokenizer
from xlmr_np.tokenizer.model_proto import (
    NORMAL,
    ModelProto,
    NormalizerSpec,
    TrainerSpec,
    read_model_proto,
    write_model_proto,
)
from xlmr_np.tokenizer.tokenizer_json import FIRST_PIECES
from xlmr_np.tokenizer.unigram import Unigram
from xlmr_np.tokenizer.vocabulary import PIECE_OFFSET, UNK_ID, Vocabulary
from xlmr_np.weights.checkpoint import find_weight_files, read_tensors
from xlmr_np.weights.errors import CheckpointError
from xlmr_np.weights.specification import bare_name

TOKENS = 482  # of the small vocabulary
PADDING = 6  # rows of these models beyond them

CORPUS = [
    "Das Wetter ist heute schön, und die Kinder spielen im Garten.",
    "Der alte Mann liest jeden Morgen die Zeitung und trinkt dazu Kaffee.",
    "Le chat dort sur la <mask>, ☃ et la pluie tombe.",
    "Э́то — «молоко» و… <mask>!",
]
CLASSES: dict[str, dict[str, Any]] = {
    "XLMRobertaModel": {},
    "XLMRobertaForMaskedLM": {},
    "XLMRobertaForCausalLM": {"is_decoder": True, "tie_word_embeddings": False},
    "XLMRobertaForSequenceClassification": {"num_labels": 3},
}
UNTIED = {"tie_word_embeddings": False}

Save = Callable[..., Path]


@pytest.fixture
def save(tmp_path: Path, small_vocabulary: Path) -> Save:
    """Saves a random model of transformers with the small vocabulary."""

    def save(model_class: str = "XLMRobertaForMaskedLM", dtype: torch.dtype = torch.float32, **changes: Any) -> Path:
        directory = tmp_path / "whole"
        save_reference(directory, model_class, dtype, **{"vocab_size": TOKENS + PADDING, **changes})
        shutil.copy(small_vocabulary, directory / "sentencepiece.bpe.model")
        return directory

    return save


@pytest.fixture(scope="module", params=["sentencepiece", "huggingface"])
def tokenizers(
    tmp_path_factory: pytest.TempPathFactory, small_vocabulary: Path, request: pytest.FixtureRequest
) -> tuple[XLMRobertaTokenizer, XLMRobertaTokenizer]:
    """The small vocabulary's tokenizer, and the same trimmed to the corpus."""
    directory = tmp_path_factory.mktemp("trimmed")
    save_reference(directory / "whole", "XLMRobertaModel", torch.float32, vocab_size=TOKENS)
    shutil.copy(small_vocabulary, directory / "whole" / "sentencepiece.bpe.model")
    trim_vocabulary(directory / "whole", directory / "small", CORPUS)
    whole, small = (load_tokenizer(directory / name, normalization=request.param) for name in ("whole", "small"))
    return whole, small


def load_tokenizer(directory: Path, **settings: Any) -> XLMRobertaTokenizer:
    return XLMRobertaTokenizer.from_pretrained(directory, **settings)


def tensors_of(directory: Path) -> dict[str, np.ndarray]:
    return read_tensors(find_weight_files(directory))


def old_ids(whole: XLMRobertaTokenizer, small: XLMRobertaTokenizer, rows: int) -> list[int]:
    """The old id of every row of the smaller model, told by the tokens' spelling."""
    known = whole.convert_tokens_to_ids(small.convert_ids_to_tokens(list(range(len(small)))))
    return [*known, *range(len(whole), rows)]


def assert_same_pieces(text: str, whole: XLMRobertaTokenizer, small: XLMRobertaTokenizer) -> None:
    """The same pieces at the same places, whichever id they have."""
    expected, encoded = whole(text, return_offsets_mapping=True), small(text, return_offsets_mapping=True)
    assert small.convert_ids_to_tokens(encoded.input_ids) == whole.convert_ids_to_tokens(expected.input_ids)
    assert encoded.offset_mapping == expected.offset_mapping


# --- texts become the same pieces ---


@given(words=st.lists(st.sampled_from(sorted({*" ".join(CORPUS).split(), "☃☃", "漢字", "x☃y", "𝔘"}))))
def test_texts_of_corpus_words(tokenizers: tuple[XLMRobertaTokenizer, XLMRobertaTokenizer], words: list[str]) -> None:
    known = [word for word in words if not word.startswith("x")]
    assert_same_pieces(" ".join(known), *tokenizers)


def test_ids_of_the_layout(tokenizers: tuple[XLMRobertaTokenizer, XLMRobertaTokenizer]) -> None:
    whole, small = tokenizers
    assert small.convert_ids_to_tokens([0, 1, 2, 3]) == ["<s>", "<pad>", "</s>", "<unk>"]
    assert small.mask_token_id == len(small) - 1
    kept = small.convert_ids_to_tokens([*range(4, small.mask_token_id)])
    assert kept == [piece for piece in whole.convert_ids_to_tokens([*range(4, whole.mask_token_id)]) if piece in kept]
    assert len(kept) < TOKENS / 2


@st.composite
def vocabularies_and_texts(draw: st.DrawFn) -> tuple[list[tuple[str, float]], list[str]]:
    """Pieces over three letters, with scores of which many are equal, and texts with a letter that is in no piece."""
    scores = st.sampled_from([-0.5, -1.0, -1.5, -2.0, -2.5, -3.0, -0.1, -20.0, -1 / 3])
    pieces = draw(st.dictionaries(st.text("abc", min_size=1, max_size=4), scores, min_size=1, max_size=20))
    return [("▁", -2.0), *pieces.items()], draw(st.lists(st.text("abcxx ", max_size=30), min_size=1, max_size=4))


@settings(max_examples=200)
@given(vocabularies_and_texts())
def test_any_vocabulary_cuts_its_corpus_as_before(drawn: tuple[list[tuple[str, float]], list[str]]) -> None:
    scored, corpus = drawn
    pieces = [*FIRST_PIECES, *((text, float(np.float32(score)), NORMAL) for text, score in scored)]
    model = ModelProto(pieces, NormalizerSpec.of_charsmap(b""), TrainerSpec.of_size(len(pieces)))
    whole = Vocabulary(write_model_proto(model), "whole")
    used = {token_id for row in whole.encode(corpus) for token_id in row}
    trimmed = trimmed_model(model, kept_ids(model, used, scripts=()))  # without scripts, unused letters go too
    small = Vocabulary(write_model_proto(trimmed), "small")
    assert len(trimmed.pieces) <= len({*FIRST_PIECES, *(pieces[i - PIECE_OFFSET] for i in used)}) + 1
    for expected, row in zip(whole.encode(corpus), small.encode(corpus), strict=True):
        assert [small.token(token_id) for token_id in row] == [whole.token(token_id) for token_id in expected]

    def as_tokenizers(model: ModelProto, text: str) -> list[tuple[int, int, str]]:
        texts, scores, _ = zip(*model.pieces, strict=True)
        path = Unigram(texts, scores, unk_id=0, library="huggingface").best_path(text)
        return [(node.start, node.end, texts[node.piece_id]) for node in path]

    words = [f"▁{word}" for text in corpus for word in text.split()]
    found = {piece for word in words for _, _, piece in as_tokenizers(model, word)}
    used = {whole.token_id(piece) for piece in found}
    trimmed = trimmed_model(model, kept_ids(model, used, scripts=()))
    assert [as_tokenizers(trimmed, word) for word in words] == [as_tokenizers(model, word) for word in words]


def test_unknown_characters_stay_as_unlikely_as_they_were() -> None:
    """Without "q" an unknown "x" would have -27 and not -40, and "a", "x", "bcd" be better than "axb", "cd"."""
    scored = [("▁", -1.0), ("a", -0.5), ("bcd", -0.5), ("axb", -17.0), ("cd", -17.0), ("q", -30.0), ("z", -30.0)]
    pieces = [*FIRST_PIECES, *((text, score, NORMAL) for text, score in scored)]
    model = ModelProto(pieces, NormalizerSpec.of_charsmap(b""), TrainerSpec.of_size(len(pieces)))
    whole = Vocabulary(write_model_proto(model), "whole")
    texts = ["axbcd", "a bcd"]
    used = {token_id for row in whole.encode(texts) for token_id in row}
    kept = kept_ids(model, used, scripts=())
    assert [whole.token(token_id) for token_id in kept] == ["▁", "a", "bcd", "axb", "cd", "q"]
    small = Vocabulary(write_model_proto(trimmed_model(model, kept)), "small")
    assert [small.token(token_id) for token_id in small.encode(["axbcd"])[0]] == ["▁", "axb", "cd"]
    without = Vocabulary(write_model_proto(trimmed_model(model, kept[:-1])), "without")
    assert [without.token(token_id) for token_id in without.encode(["axbcd"])[0]] == ["▁", "a", "<unk>", "bcd"]
    with_the_other = kept_ids(model, used | {whole.token_id("z")}, scripts=())
    assert [whole.token(token_id) for token_id in with_the_other][-1:] == ["z"]


def test_single_characters_of_the_kept_scripts(save: Save, tmp_path: Path) -> None:
    trimming = trim_vocabulary(save(), tmp_path / "small", ["Το σπίτι <mask> </s>"])
    assert trimming.scripts == ("Common", "Greek", "Latin")  # </s> is text, unless somebody asks for it
    whole, small = load_tokenizer(tmp_path / "whole").get_vocab(), load_tokenizer(tmp_path / "small").get_vocab()
    singles = [piece for piece in whole if len(piece) == 1]
    assert [piece for piece in singles if piece in small] == [
        piece for piece in singles if script_of(piece) in trimming.scripts or piece == least_likely(tmp_path)
    ]
    assert "ω" in small
    assert "ж" not in small


def least_likely(tmp_path: Path) -> str:
    pieces = read_model_proto((tmp_path / "whole" / "sentencepiece.bpe.model").read_bytes()).pieces
    return min((piece for piece in pieces if piece[2] == NORMAL), key=lambda piece: piece[1])[0]


def test_an_unknown_character_shows_its_script(save: Save, tmp_path: Path) -> None:
    trimming = trim_vocabulary(save(), tmp_path / "small", ["ⴰ", "12 ⵣ <mask>"])
    assert trimming.scripts == ("Common", "Latin", "Tifinagh")  # "<mask>" stands beside an unknown character


@pytest.mark.parametrize(
    ("character", "script"),
    [("a", "Latin"), ("ß", "Latin"), ("▁", "Common"), ("5", "Common"), ("\u0301", "Inherited"), ("語", "Han"),
     ("ー", "Common"), ("ᐃ", "Canadian_Aboriginal"), ("𐌰", "other"), ("\ue000", "other")],
)  # fmt: skip
def test_scripts(character: str, script: str) -> None:
    assert script_of(character) == script


def test_pieces_of_a_list(save: Save, tmp_path: Path) -> None:
    trim_vocabulary(save(), tmp_path / "small", pieces=["▁with", "", "<mask>", "и"])
    vocabulary = load_tokenizer(tmp_path / "small").get_vocab()
    assert {"▁with", "и", "а", "e", "<mask>"} <= vocabulary.keys()
    assert "▁the" not in vocabulary
    assert "ω" not in vocabulary


def test_texts_and_pieces_together_and_lazily(save: Save, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vocabulary_trimming, "TEXTS_AT_A_TIME", 3)
    alive = 0

    def texts() -> Iterator[str]:
        nonlocal alive
        for number in range(20):
            alive += 1
            yield f"{number} the"

    trim_vocabulary(save(), tmp_path / "small", texts(), ["▁with"])
    assert alive == 20
    assert {"▁with", "▁the"} <= load_tokenizer(tmp_path / "small").get_vocab().keys()


# --- the model answers as before ---


@pytest.mark.parametrize("changes", [{}, UNTIED], ids=["tied", "untied"])
@pytest.mark.parametrize("model_class", CLASSES)
def test_models_answer_as_before(save: Save, tmp_path: Path, model_class: str, changes: dict[str, Any]) -> None:
    source = save(model_class, **{**CLASSES[model_class], **changes})
    trimming = trim_vocabulary(source, tmp_path / "small", CORPUS)
    outputs = []
    for directory in (source, tmp_path / "small"):
        batch = load_tokenizer(directory)(CORPUS, padding=True, truncation=True, max_length=30, return_tensors="np")
        model = getattr(xlmr_np, model_class).from_pretrained(directory)
        assert model.load_report.is_as_expected
        outputs.append(model(**batch, output_hidden_states=True))
    whole, small = outputs
    for expected, state in zip(whole.hidden_states, small.hidden_states, strict=True):
        np.testing.assert_array_equal(state, expected)
    if model_class.endswith("LM"):
        rows = old_ids(load_tokenizer(source), load_tokenizer(tmp_path / "small"), TOKENS + PADDING)
        assert np.abs(small.logits - whole.logits[..., rows]).max() <= 1e-6 * max(1, np.abs(whole.logits).max())
    elif "logits" in small:
        np.testing.assert_array_equal(small.logits, whole.logits)
    assert trimming.after.parameters == model.num_parameters()
    assert trimming.before.parameters - trimming.after.parameters == removed_parameters(trimming, model)


def removed_parameters(trimming: Any, model: Any) -> int:
    """The rows that are gone, by what a row takes."""
    specified = [p for p in model.named(model.params).values() if p.shape[0] == model.config.vocab_size]
    assert trimming.before.pieces - trimming.after.pieces == TOKENS + PADDING - model.config.vocab_size
    return (trimming.before.pieces - trimming.after.pieces) * sum(p[0].size for p in specified)


def test_transformers_loads_the_result(save: Save, tmp_path: Path) -> None:
    source = save()
    trim_vocabulary(source, tmp_path / "small", CORPUS)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "small")
    for text in CORPUS:
        reference = load_tokenizer(source, normalization="huggingface")
        assert theirs.tokenize(text) == reference.tokenize(text)
    ids = theirs(CORPUS, padding=True, truncation=True, max_length=30, return_tensors="pt")
    model, report = transformers.XLMRobertaForMaskedLM.from_pretrained(tmp_path / "small", output_loading_info=True)
    assert not any(report.values())
    whole = transformers.XLMRobertaForMaskedLM.from_pretrained(source)
    rows = old_ids(load_tokenizer(source), load_tokenizer(tmp_path / "small"), TOKENS + PADDING)
    with torch.no_grad():
        logits = model(**ids).logits
        expected = whole(torch.tensor(rows)[ids.input_ids], ids.attention_mask).logits[..., rows]
    assert (logits - expected).abs().max() <= 1e-6 * max(1, expected.abs().max())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("changes", [{}, UNTIED], ids=["tied", "untied"])
def test_every_tensor_is_the_same_bits(save: Save, tmp_path: Path, dtype: torch.dtype, changes: dict[str, Any]) -> None:
    source = save(dtype=dtype, **changes)
    trim_vocabulary(source, tmp_path / "small", CORPUS)
    whole, small = tensors_of(source), tensors_of(tmp_path / "small")
    rows = old_ids(load_tokenizer(source), load_tokenizer(tmp_path / "small"), TOKENS + PADDING)
    assert small.keys() == whole.keys()
    trimmed = [bare_name(name) for name, array in small.items() if array.shape != whole[name].shape]
    assert set(trimmed) == {bare_name(name) for name in whole} & set(VOCABULARY_TENSORS)
    for name, array in small.items():
        expected = whole[name][rows] if array.shape != whole[name].shape else whole[name]
        assert (array.dtype, array.tobytes()) == (expected.dtype, expected.tobytes())


@pytest.mark.parametrize("changes", [{}, UNTIED], ids=["tied", "untied"])
def test_shards_and_pickles(save: Save, tmp_path: Path, changes: dict[str, Any]) -> None:
    source = save(**changes)
    trim_vocabulary(source, tmp_path / "small", CORPUS)
    expected = tensors_of(tmp_path / "small")

    model = transformers.XLMRobertaForMaskedLM.from_pretrained(source)
    (source / "model.safetensors").unlink()
    model.save_pretrained(source, max_shard_size="20KB")
    assert len(list(source.glob("model-*.safetensors"))) > 2
    trim_vocabulary(source, tmp_path / "from shards", CORPUS)

    for path in source.glob("model*"):
        path.unlink()
    torch.save(model.state_dict(), source / "pytorch_model.bin")
    trim_vocabulary(source, tmp_path / "from pickle", CORPUS)
    for directory in ("from shards", "from pickle"):
        found = tensors_of(tmp_path / directory)
        assert found.keys() == expected.keys()
        assert all(found[name].tobytes() == expected[name].tobytes() for name in expected)


def test_which_tensors_have_a_row_for_each_token() -> None:
    """Those that the models themselves resize."""
    config = xlmr_np.XLMRobertaConfig(**{**TINY, "tie_word_embeddings": False})
    model = xlmr_np.XLMRobertaForMaskedLM(config)
    before = {name: array.shape for name, array in model.state_dict().items()}
    model.resize_token_embeddings(70)
    resized = {bare_name(name) for name, array in model.state_dict().items() if array.shape != before[name]}
    assert resized == set(VOCABULARY_TENSORS)


def test_the_config_says_the_same_but_for_ids(save: Save, tmp_path: Path) -> None:
    source = save("XLMRobertaForSequenceClassification", num_labels=2, id2label={0: "NEIN", 1: "JA"})
    path = source / "config.json"
    whole = json.loads(path.read_text()) | {
        "own": {"__float__": "Infinity", "x": 1.5},
        "eos_token_id": [2, TOKENS + 1],
        "mask_token_id": TOKENS - 1,
        "sep_token_id": None,
        "forced_token_id": 100,
    }
    path.write_text(json.dumps(whole))
    trim_vocabulary(source, tmp_path / "small", CORPUS)
    small = json.loads((tmp_path / "small" / "config.json").read_text())
    tokenizer = load_tokenizer(tmp_path / "small")
    assert small == whole | {
        "vocab_size": len(tokenizer) + PADDING,
        "eos_token_id": [2, len(tokenizer) + 1],
        "mask_token_id": tokenizer.mask_token_id,
        "forced_token_id": tokenizer.convert_tokens_to_ids(load_tokenizer(source).convert_ids_to_tokens(100)),
    }
    assert small["forced_token_id"] != UNK_ID


def test_added_tokens_and_rows_beyond_the_tokenizer(save: Save, tmp_path: Path) -> None:
    source = save()
    whole = load_tokenizer(source, model_max_length=30, padding_side="left")
    whole.add_tokens(["<new>", "Wetterbericht"])
    whole.add_tokens(["<ctl>"], special_tokens=True)
    whole.save_pretrained(source)
    trim_vocabulary(source, tmp_path / "small", CORPUS)
    small = load_tokenizer(tmp_path / "small")
    assert small.convert_tokens_to_ids(["<new>", "Wetterbericht", "<ctl>"]) == [
        small.mask_token_id + 1, small.mask_token_id + 2, small.mask_token_id + 3,
    ]  # fmt: skip
    assert (small.model_max_length, small.padding_side) == (30, "left")
    assert small.added_tokens_decoder[small.mask_token_id + 3] == whole.added_tokens_decoder[TOKENS + 2]
    assert_same_pieces("Das Wetter <new> im Wetterbericht <ctl><mask>", whole, small)
    name = "roberta.embeddings.word_embeddings.weight"
    tables = [tensors_of(directory)[name] for directory in (source, tmp_path / "small")]
    np.testing.assert_array_equal(tables[1][small.mask_token_id :], tables[0][whole.mask_token_id :])
    assert len(tables[1]) == small.mask_token_id + 1 + PADDING


def test_from_tokenizer_json_alone(save: Save, tmp_path: Path) -> None:
    source = save()
    trim_vocabulary(source, tmp_path / "small", CORPUS)
    load_tokenizer(source).save_pretrained(source)
    (source / "sentencepiece.bpe.model").unlink()
    trim_vocabulary(source, tmp_path / "again", CORPUS)
    small, again = load_tokenizer(tmp_path / "small"), load_tokenizer(tmp_path / "again")
    assert again.get_vocab() == small.get_vocab()
    assert {path.name for path in (tmp_path / "again").iterdir()} >= {
        "config.json", "model.safetensors", "sentencepiece.bpe.model", "tokenizer.json", "tokenizer_config.json",
    }  # fmt: skip


def test_trimming_twice_changes_nothing_more(save: Save, tmp_path: Path) -> None:
    first = trim_vocabulary(save(), tmp_path / "small", CORPUS)
    second = trim_vocabulary(tmp_path / "small", tmp_path / "smaller", CORPUS)
    assert second.before.pieces == second.after.pieces == first.after.pieces
    for name in ("model.safetensors", "tokenizer.json", "config.json"):
        assert (tmp_path / "smaller" / name).read_bytes() == (tmp_path / "small" / name).read_bytes()


def test_sizes(save: Save, tmp_path: Path) -> None:
    source = save()
    before, after, _ = trim_vocabulary(source, tmp_path / "small", CORPUS)
    for directory, sizes in ((source, before), (tmp_path / "small", after)):
        files = [directory / name for name in ("model.safetensors", "sentencepiece.bpe.model")]
        assert sizes.bytes_on_disk == sum(file.stat().st_size for file in files)
        assert sizes.pieces == len(read_model_proto(files[1].read_bytes()).pieces)


# --- what is refused ---


@pytest.mark.parametrize(
    ("texts", "pieces", "error", "message"),
    [
        ([], [], ValueError, "There is nothing to keep"),
        (["", "  ", "<mask>"], ["<mask>", ""], ValueError, "There is nothing to keep"),
        (
            CORPUS,
            ["▁with", "", "▁nosuchpiece"],
            ValueError,
            "Line 3 of the pieces to keep, '▁nosuchpiece', is no piece",
        ),
        (CORPUS, ["die "], ValueError, "Line 1 of the pieces to keep, 'die '"),
        (["fine", 3], [], TypeError, "3|int"),
        (["\ud800"], [], ValueError, "surrogate"),
    ],
)
def test_nonsense(
    save: Save, tmp_path: Path, texts: list[Any], pieces: list[str], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        trim_vocabulary(save(), tmp_path / "small", texts, pieces)
    assert not (tmp_path / "small").exists()


def test_nothing_is_overwritten(save: Save, tmp_path: Path) -> None:
    def never() -> Iterator[str]:
        raise AssertionError("the corpus is read")
        yield

    source = save()
    before = {path: path.read_bytes() for path in source.iterdir()}
    with pytest.raises(FileExistsError, match="is not empty, and nothing is overwritten"):
        trim_vocabulary(source, source, never())
    with pytest.raises(NotADirectoryError, match="is a file; give a new directory"):
        trim_vocabulary(source, source / "config.json", never())
    assert {path: path.read_bytes() for path in source.iterdir()} == before
    (tmp_path / "empty").mkdir()
    trim_vocabulary(source, tmp_path / "empty", CORPUS)
    assert (tmp_path / "empty" / "config.json").exists()


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_failed_write_leaves_nothing(
    save: Save, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    def full(*arguments: Any, **keywords: Any) -> None:
        raise error

    monkeypatch.setattr("xlmr_np.weights.safetensors_format.write_safetensors", full)
    with pytest.raises(type(error)):
        trim_vocabulary(save(), tmp_path / "small", CORPUS)
    assert list((tmp_path / "small").iterdir()) == []


def test_weights_of_another_vocabulary(save: Save, tmp_path: Path) -> None:
    source = save(vocab_size=TOKENS - 1)
    with pytest.raises(CheckpointError, match="has 482 tokens, but its model only 481 rows"):
        trim_vocabulary(source, tmp_path / "small", CORPUS)


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("lm_head.decoder.bias", (TOKENS,), r"'lm_head.decoder.bias' of shape \(482,\), where its config says"),
        ("lm_head.decoder.weight", (), r"'lm_head.decoder.weight' of shape \(\), where its config says"),
        ("other.table", (TOKENS + PADDING, 3), r"'other.table' of shape \(488, 3\), which may have a row for each"),
    ],
)
def test_tensors_of_unknown_rows(save: Save, tmp_path: Path, name: str, shape: tuple[int, ...], message: str) -> None:
    from safetensors.numpy import load_file, save_file

    source = save()
    file = source / "model.safetensors"
    save_file({**load_file(file), name: np.ones(shape, np.float32)}, file, {"format": "pt"})
    with pytest.raises(CheckpointError, match=message):
        trim_vocabulary(source, tmp_path / "small", CORPUS)
    assert not (tmp_path / "small").exists()


# --- the real vocabulary ---


def test_one_language_of_the_real_vocabulary(tmp_path: Path, shared_data: Path, real_vocabulary: Path) -> None:
    source = tmp_path / "whole"
    save_reference(source, "XLMRobertaModel", torch.float16, vocab_size=250_002)
    shutil.copy(real_vocabulary, source / "sentencepiece.bpe.model")
    lines = (shared_data / "text" / "ntrex" / "sw.txt").read_text(encoding="utf-8").splitlines()
    trimming = trim_vocabulary(source, tmp_path / "small", lines)
    assert trimming.after.pieces < 8_000
    assert trimming.after.bytes_on_disk < trimming.before.bytes_on_disk / 20
    whole, small = load_tokenizer(source), load_tokenizer(tmp_path / "small")
    for text in lines[::50]:
        assert_same_pieces(text, whole, small)
    ids = [tokenizer(lines)["input_ids"] for tokenizer in (whole, small)]
    new = {old: new for new, old in enumerate(old_ids(whole, small, 250_002))}
    assert [[new[token_id] for token_id in row] for row in ids[0]] == ids[1]


def test_the_scripts_of_the_real_vocabulary(real_vocabulary: Path) -> None:
    """All its letters are of a listed script but for Gothic and Phags-pa."""
    pieces = read_model_proto(real_vocabulary.read_bytes()).pieces
    others = [text for text, _, kind in pieces if kind == NORMAL and len(text) == 1 and script_of(text) == "other"]
    assert [text for text in others if text.isalpha()] == ["𐌰", "ꡓ", "ꡒ"]
    assert len(SCRIPTS) == len(set(SCRIPTS))
