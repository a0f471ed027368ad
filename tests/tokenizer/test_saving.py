"""Saved tokenizers load here, in transformers and in sentencepiece with the same ids, and saving harms no file."""

import json
import os
from pathlib import Path

import pytest
import transformers
from sentencepiece import SentencePieceProcessor

from xlmr_np.tokenizer.added_tokens import AddedToken, AddedTokens
from xlmr_np.tokenizer.files import find_vocabulary, read_added_tokens, read_tokenizer_config
from xlmr_np.tokenizer.model_proto import ModelProto, NormalizerSpec, read_model_proto, write_model_proto
from xlmr_np.tokenizer.saving import save_tokenizer, save_vocabulary
from xlmr_np.tokenizer.vocabulary import Vocabulary, read_vocabulary
from xlmr_np.weights.errors import CheckpointError

from .reference import reference_tokenizer

SETTINGS = {"model_max_length": 512, "padding_side": "left", "truncation_side": "left"}
USUAL = {
    **{token_id: AddedToken(token, special=True) for token_id, token in enumerate(("<s>", "<pad>", "</s>", "<unk>"))},
    481: AddedToken("<mask>", special=True),
}
OWN = {
    6: AddedToken("e"),  # a piece of the vocabulary
    482: AddedToken("newtok", single_word=True),
    483: AddedToken("[left]", lstrip=True, normalized=False),
    484: AddedToken("<entity>", rstrip=True, special=True),
    485: AddedToken("ﬁne", normalized=False),
    486: AddedToken("<plain>", special=True),
    487: AddedToken("<end>", special=True, normalized=True, lstrip=True, single_word=True),
}
MASK = {481: AddedToken("<mask>", lstrip=True, special=True)}
SETS = {"none": USUAL, "own": USUAL | OWN, "mask": USUAL | MASK, "own and mask": USUAL | OWN | MASK}

TEXTS = [
    "The weather is lovely today, and the children are playing in the garden.",
    "the <mask>, the<mask> and\n<mask>\tthe garden",
    "a newtok, newtoks  [left] of <entity>  here",
    "<entity><entity>newtok <plain>the<plain> <end>",
    "ﬁne fine ﬁnes  and <s> </s>",
    "",
]


@pytest.fixture(scope="module")
def vocabulary(small_vocabulary) -> Vocabulary:
    return read_vocabulary(small_vocabulary)[0]


def read(directory: Path) -> tuple[Vocabulary, dict[int, AddedToken], dict]:
    """What is read here of a directory."""

    def find(filename: str) -> Path | None:
        path = directory / filename
        return path if path.is_file() else None

    config = read_tokenizer_config(directory, find)
    vocabulary, tokens = read_vocabulary(find_vocabulary(directory, find))
    return vocabulary, read_added_tokens(find, config, dict(tokens), vocabulary), config


def names(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir()}


@pytest.mark.parametrize("tokens", SETS)
def test_what_is_saved_comes_back(vocabulary, tmp_path, tokens):
    written = save_tokenizer(tmp_path, vocabulary, AddedTokens(SETS[tokens]), SETTINGS)
    expected = {"sentencepiece.bpe.model", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"}
    expected |= {"added_tokens.json"} if "own" in tokens else set()
    assert names(tmp_path) == expected == {Path(path).name for path in written}
    assert all(Path(path).parent == tmp_path for path in written)

    for left_out in ([], ["tokenizer.json"], ["sentencepiece.bpe.model"]):
        for name in left_out:
            (tmp_path / name).unlink()
        again, added_tokens, config = read(tmp_path)
        assert read_model_proto(again.serialized()).pieces == read_model_proto(vocabulary.serialized()).pieces
        assert added_tokens == SETS[tokens]
        assert config.items() >= SETTINGS.items()
        save_tokenizer(tmp_path, again, AddedTokens(added_tokens), SETTINGS)
        assert names(tmp_path) == expected


@pytest.mark.parametrize("tokens", SETS)
def test_without_the_list_of_tokens_with_ids_the_other_files_say_the_same(vocabulary, tmp_path, tokens):
    save_tokenizer(tmp_path, vocabulary, AddedTokens(SETS[tokens]), SETTINGS)
    file = tmp_path / "tokenizer_config.json"
    config = json.loads(file.read_text())
    del config["added_tokens_decoder"]
    file.write_text(json.dumps(config))
    assert read(tmp_path)[1] == SETS[tokens]
    (tmp_path / "tokenizer.json").unlink()
    ids = {token_id: token.content for token_id, token in SETS[tokens].items() if token_id != 6}
    assert {token_id: token.content for token_id, token in read(tmp_path)[1].items()} == ids


def reference_with(tokens: dict[int, AddedToken], small_vocabulary: Path) -> transformers.XLMRobertaTokenizer:
    """The reference with tokens added to it by its own methods."""
    reference = reference_tokenizer(small_vocabulary)
    for token_id, token in tokens.items():
        flags = {name: getattr(token, name) for name in ("single_word", "lstrip", "rstrip", "normalized", "special")}
        reference.add_tokens([transformers.AddedToken(token.content, **flags)])
        assert reference.convert_tokens_to_ids(token.content) == token_id
    return reference


@pytest.mark.parametrize("tokens", SETS)
def test_what_is_saved_loads_in_transformers(vocabulary, small_vocabulary, tmp_path, tokens):
    save_tokenizer(tmp_path, vocabulary, AddedTokens(SETS[tokens]), SETTINGS)
    reference = reference_with(SETS[tokens], small_vocabulary)
    for reader in (transformers.AutoTokenizer, transformers.XLMRobertaTokenizer):
        loaded = reader.from_pretrained(tmp_path)
        assert type(loaded) is transformers.XLMRobertaTokenizer
        assert len(loaded) == len(reference) == 482 + len([token_id for token_id in SETS[tokens] if token_id > 481])
        assert loaded.get_vocab() == reference.get_vocab()
        assert (loaded.model_max_length, loaded.padding_side, loaded.truncation_side) == (512, "left", "left")
        encodings = loaded(TEXTS, return_offsets_mapping=True), reference(TEXTS, return_offsets_mapping=True)
        assert encodings[0].data == encodings[1].data
        special = {token.content for token in SETS[tokens].values() if token.special}
        assert set(loaded.all_special_tokens) == special
        ids = encodings[0]["input_ids"]
        assert loaded.batch_decode(ids, skip_special_tokens=True) == reference.batch_decode(
            ids, skip_special_tokens=True
        )


@pytest.mark.parametrize("tokens", SETS)
def test_what_transformers_saves_comes_back(small_vocabulary, vocabulary, tmp_path, tokens):
    reference_with(SETS[tokens], small_vocabulary).save_pretrained(tmp_path)
    assert read(tmp_path)[1] == SETS[tokens]
    # Beside an older model file, which becomes the vocabulary, the tokens are not lost.
    save_vocabulary(tmp_path, vocabulary)
    assert read(tmp_path)[1] == SETS[tokens]


def test_what_is_saved_loads_in_sentencepiece(vocabulary, small_vocabulary, tmp_path):
    save_tokenizer(tmp_path, vocabulary, AddedTokens(USUAL), SETTINGS)
    original = SentencePieceProcessor(model_file=str(small_vocabulary))
    loaded = SentencePieceProcessor(model_file=str(tmp_path / "sentencepiece.bpe.model"))
    assert loaded.encode(TEXTS) == original.encode(TEXTS)
    assert (tmp_path / "sentencepiece.bpe.model").read_bytes() == small_vocabulary.read_bytes()


@pytest.mark.parametrize(
    ("settings", "written"),
    [
        ({}, {}),
        ({"model_max_length": None}, {}),
        ({"normalization": "sentencepiece", "allow_special_tokens": False}, {}),
        ({"normalization": "sentencepiece", "allow_special_tokens": True}, {"allow_special_tokens": True}),
        ({"normalization": "huggingface", "allow_special_tokens": True}, {"normalization": "huggingface"}),
        ({"normalization": "huggingface", "allow_special_tokens": None}, {"normalization": "huggingface"}),
        (
            {"normalization": "huggingface", "allow_special_tokens": False},
            {"normalization": "huggingface", "allow_special_tokens": False},
        ),
    ],
)
def test_settings(vocabulary, tmp_path, settings, written):
    save_tokenizer(tmp_path, vocabulary, AddedTokens(USUAL), settings)
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    assert config["model_max_length"] == int(1e30)
    assert {name: config[name] for name in ("normalization", "allow_special_tokens") if name in config} == written
    assert not {"backend", "is_local", "local_files_only", "unk_id", "extra_special_tokens"} & config.keys()
    assert transformers.AutoTokenizer.from_pretrained(tmp_path).model_max_length == int(1e30)


def test_what_an_earlier_save_left_is_not_read_again(vocabulary, tmp_path):
    save_tokenizer(tmp_path, vocabulary, AddedTokens(USUAL | OWN), SETTINGS)
    (tmp_path / "config.json").write_text("{}")
    save_tokenizer(tmp_path, vocabulary, AddedTokens(USUAL), SETTINGS)
    assert "added_tokens.json" not in names(tmp_path)
    assert "config.json" in names(tmp_path)
    assert read(tmp_path)[1] == USUAL


def test_a_model_that_tokenizer_json_cannot_express(vocabulary, tmp_path):
    save_tokenizer(tmp_path, vocabulary, AddedTokens(USUAL), SETTINGS)
    model = read_model_proto(vocabulary.serialized())
    keeps_spaces = NormalizerSpec(model.normalizer.serialized + b"\x20\x00")
    odd = Vocabulary(write_model_proto(ModelProto(model.pieces, keeps_spaces, model.trainer)), "odd.model")
    written = save_tokenizer(tmp_path, odd, AddedTokens(USUAL | OWN), SETTINGS)
    assert "tokenizer.json" not in names(tmp_path) | {Path(path).name for path in written}
    again, added_tokens, _ = read(tmp_path)
    assert again.serialized() == odd.serialized()
    assert added_tokens == USUAL | OWN
    assert again.encode(["a   b"]) == odd.encode(["a   b"]) != vocabulary.encode(["a   b"])


def test_a_prefix(vocabulary, tmp_path):
    save_tokenizer(tmp_path, vocabulary, AddedTokens(USUAL), SETTINGS)
    before = contents(tmp_path)
    written = save_tokenizer(tmp_path, vocabulary, AddedTokens(USUAL | OWN), SETTINGS, "own")
    assert {Path(path).name for path in written} == names(tmp_path) - before.keys()
    assert all(name.startswith("own-") for name in names(tmp_path) - before.keys())
    assert len(written) == 5
    assert contents(tmp_path).items() >= before.items()


def test_the_vocabulary_alone(vocabulary, small_vocabulary, tmp_path):
    assert save_vocabulary(tmp_path, vocabulary) == (str(tmp_path / "sentencepiece.bpe.model"),)
    assert save_vocabulary(str(tmp_path), vocabulary, "a") == (str(tmp_path / "a-sentencepiece.bpe.model"),)
    assert set(contents(tmp_path).values()) == {small_vocabulary.read_bytes()}
    assert len(names(tmp_path)) == 2


def test_the_vocabulary_alone_of_what_came_from_tokenizer_json(small_vocabulary, vocabulary, tmp_path):
    reference_tokenizer(small_vocabulary).save_pretrained(tmp_path)
    (path,) = save_vocabulary(tmp_path, read_vocabulary(tmp_path / "tokenizer.json")[0])
    assert SentencePieceProcessor(model_file=path).encode(TEXTS) == SentencePieceProcessor(
        model_file=str(small_vocabulary)
    ).encode(TEXTS)


def contents(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir() if path.is_file()}


def save_both_ways(directory, vocabulary, prefix=None):
    return (
        lambda: save_tokenizer(directory, vocabulary, AddedTokens(USUAL), SETTINGS, prefix),
        lambda: save_vocabulary(directory, vocabulary, prefix),
    )


@pytest.mark.parametrize("prefix", ["a/b", "/a", "..\\a", "a\0", "../a"])
def test_prefixes_that_lead_elsewhere(vocabulary, tmp_path, prefix):
    for save in save_both_ways(tmp_path / "in", vocabulary, prefix):
        (tmp_path / "in").mkdir(exist_ok=True)
        with pytest.raises(ValueError, match="filename_prefix"):
            save()
    assert [*tmp_path.rglob("*")] == [tmp_path / "in"]


def test_a_prefix_that_is_no_text(vocabulary, tmp_path):
    for save in save_both_ways(tmp_path, vocabulary, 5):
        with pytest.raises(TypeError, match=r"filename_prefix .* int"):
            save()


def test_a_directory_that_is_a_file(vocabulary, tmp_path):
    file = tmp_path / "file"
    file.write_text("kept")
    for save in save_both_ways(file, vocabulary):
        with pytest.raises(OSError, match=r"file is a file; give .* directory"):
            save()
    assert file.read_text() == "kept"


def test_a_directory_that_is_not_there(vocabulary, tmp_path):
    with pytest.raises(OSError, match="does not exist"):
        save_vocabulary(tmp_path / "new", vocabulary)
    assert not names(tmp_path)
    save_tokenizer(tmp_path / "new" / "deep", vocabulary, AddedTokens(USUAL), SETTINGS)
    assert read(tmp_path / "new" / "deep")[1] == USUAL


def test_a_directory_in_the_place_of_a_file(vocabulary, tmp_path):
    save_tokenizer(tmp_path, vocabulary, AddedTokens(USUAL), SETTINGS)
    before = contents(tmp_path)
    (tmp_path / "added_tokens.json").mkdir()
    with pytest.raises(OSError, match=r"added_tokens\.json is a directory"):
        save_tokenizer(tmp_path, vocabulary, AddedTokens(USUAL | OWN), {})
    assert contents(tmp_path) == before


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_directory_that_may_not_be_written(vocabulary, tmp_path):
    tmp_path.chmod(0o500)
    for save in save_both_ways(tmp_path, vocabulary):
        with pytest.raises(PermissionError):
            save()


@pytest.mark.parametrize("fails_at", range(1, 6))
def test_a_full_disk_leaves_the_old_files(vocabulary, tmp_path, monkeypatch, fails_at):
    save_tokenizer(tmp_path, vocabulary, AddedTokens(USUAL | MASK), SETTINGS)
    before = contents(tmp_path)
    write_bytes, calls = Path.write_bytes, []

    def failing(path: Path, content: bytes) -> int:
        calls.append(path)
        if len(calls) == fails_at:
            raise OSError(28, "No space left on device")
        return write_bytes(path, content)

    monkeypatch.setattr(Path, "write_bytes", failing)
    with pytest.raises(OSError, match="No space left"):
        save_tokenizer(tmp_path, vocabulary, AddedTokens(USUAL | OWN), {})
    assert contents(tmp_path) == before
    assert len(calls) == fails_at


@pytest.mark.parametrize(
    "tokens", [{483: AddedToken("after a gap")}, {482: AddedToken("e")}, {5: AddedToken("not that piece")}]
)
def test_tokens_with_ids_that_are_not_their_places(vocabulary, tmp_path, tokens):
    with pytest.raises(CheckpointError, match="its place gives it"):
        save_tokenizer(tmp_path / "new", vocabulary, AddedTokens(USUAL | tokens), {})
    assert not names(tmp_path)
