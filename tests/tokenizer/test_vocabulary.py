"""The fairseq layout, and files that are not a vocabulary of that layout."""

import copy
import io
import pickle
from concurrent.futures import ThreadPoolExecutor

import pytest
import sentencepiece
from hypothesis import given
from hypothesis import strategies as st

from tests.data.make_small_vocabulary import SENTENCES
from xlmr_np.tokenizer import XLMRobertaTokenizer
from xlmr_np.tokenizer import vocabulary as vocabulary_module
from xlmr_np.tokenizer.model_proto import NORMAL, ModelProto, NormalizerSpec, read_model_proto, write_model_proto
from xlmr_np.tokenizer.tokenizer_json import write_tokenizer_json
from xlmr_np.tokenizer.vocabulary import LEADING_TOKENS, MASK_TOKEN, THREADS_FROM, Vocabulary, read_vocabulary
from xlmr_np.weights.errors import CheckpointError


@pytest.fixture(scope="module")
def pieces(small_vocabulary):
    return sentencepiece.SentencePieceProcessor(model_file=str(small_vocabulary))


def in_fairseq_ids(piece_ids):
    return [piece + 1 if piece >= 3 else {0: 3, 1: 0, 2: 2}[piece] for piece in piece_ids]


def test_layout_of_the_small_vocabulary(small, pieces):
    assert len(small) == small.vocab_size == len(pieces) + 2
    assert small.mask_token_id == len(pieces) + 1
    tokens = small.convert_ids_to_tokens(list(range(len(small))))
    assert tokens[:4] == ["<s>", "<pad>", "</s>", "<unk>"]
    assert tokens[4:-1] == [pieces.id_to_piece(piece) for piece in range(3, len(pieces))]
    assert tokens[-1] == "<mask>"


def test_layout_of_the_real_vocabulary(real):
    assert len(real) == 250002
    assert real.mask_token_id == 250001
    assert real.convert_ids_to_tokens([0, 1, 2, 3, 250001]) == ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    assert real.convert_ids_to_tokens([4, 5, 6, 7]) == [",", ".", "▁", "s"]


def test_special_tokens_and_their_ids(small):
    for name, token, token_id in [
        ("bos", "<s>", 0),
        ("cls", "<s>", 0),
        ("pad", "<pad>", 1),
        ("eos", "</s>", 2),
        ("sep", "</s>", 2),
        ("unk", "<unk>", 3),
        ("mask", "<mask>", len(small) - 1),
    ]:
        assert getattr(small, f"{name}_token") == token
        assert getattr(small, f"{name}_token_id") == token_id
        assert small.convert_tokens_to_ids(token) == token_id
    assert small.all_special_tokens == ["<s>", "</s>", "<unk>", "<pad>", "<mask>"]
    assert small.all_special_ids == [0, 2, 3, 1, len(small) - 1]


def test_special_tokens_cannot_be_changed(small):
    with pytest.raises(AttributeError):
        small.pad_token = "[PAD]"


def test_get_vocab_is_a_bijection_in_the_order_of_ids(small):
    vocabulary = small.get_vocab()
    assert list(vocabulary.values()) == list(range(len(small)))
    assert small.convert_tokens_to_ids(list(vocabulary)) == list(range(len(small)))


def test_what_is_no_token_is_unknown(small):
    assert small.convert_tokens_to_ids(["no such piece", "", "<mask >", "[MASK]"]) == [3, 3, 3, 3]


@pytest.mark.parametrize("tokens", [None, 5, [None], ["a", b"b"], b"a"])
def test_tokens_must_be_text(small, tokens):
    with pytest.raises(TypeError):
        small.convert_tokens_to_ids(tokens)


def test_tokens_must_be_valid_text(small):
    with pytest.raises(ValueError, match="lone surrogate"):
        small.convert_tokens_to_ids("\ud800")


@given(text=st.text(st.characters(codec="utf-8") | st.sampled_from("".join(SENTENCES))))
def test_ids_are_those_of_sentencepiece(small, pieces, text):
    text = text.replace("<mask>", "")
    assert small.encode(text, add_special_tokens=False) == in_fairseq_ids(pieces.encode(text))


def test_large_batches_give_the_same_ids_as_single_texts(small):
    texts = [sentence[start:] for sentence in SENTENCES for start in range(3)]
    assert len(texts) > THREADS_FROM
    assert small(texts)["input_ids"] == [small(text)["input_ids"] for text in texts]


def test_adjacent_unknown_characters_are_one_token(small):
    ids = small.encode("the ☃☃☃ the", add_special_tokens=False)
    assert small.convert_ids_to_tokens(ids) == ["▁the", "▁", "<unk>", "▁the"]


def test_a_long_text_without_spaces(real):
    ids = real.encode("Donaudampfschifffahrt" * 50_000)  # a megabyte
    assert ids[:3] == real.encode("Donaudampfschifffahrt" * 50)[:3]
    assert real.decode(ids, skip_special_tokens=True) == "Donaudampfschifffahrt" * 50_000


# Files that are not a vocabulary.


def trained_model(**settings) -> bytes:
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(SENTENCES),
        model_writer=model,
        **{"model_type": "unigram", "vocab_size": 400, "hard_vocab_limit": False, "minloglevel": 2} | settings,
    )
    return model.getvalue()


@pytest.mark.parametrize("model_type", ["bpe", "char", "word"])
def test_a_model_of_another_kind_is_refused(tmp_path, model_type):
    path = tmp_path / "other.model"
    path.write_bytes(trained_model(model_type=model_type))
    with pytest.raises(CheckpointError, match="another kind than unigram"):
        XLMRobertaTokenizer(path)


@pytest.mark.parametrize(
    "layout",
    [
        {"pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1},  # T5's
        {"pad_id": 3},
        {"bos_id": 2, "eos_id": 1},
        {"bos_piece": "[CLS]"},
        {"user_defined_symbols": "<mask>"},
        {"control_symbols": "<pad>"},
    ],
)
def test_a_model_of_another_layout_is_refused(tmp_path, layout):
    path = tmp_path / "other.model"
    path.write_bytes(trained_model(**layout))
    with pytest.raises(CheckpointError, match=r"does not have the layout of an XLM-R vocabulary.*ids would be"):
        XLMRobertaTokenizer(path)


@pytest.mark.parametrize("content", [b"", b"\0", b"no model", b"\x0a\x03abc", b"{}"])
def test_a_file_that_is_no_model_is_refused(tmp_path, content):
    path = tmp_path / "broken.model"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"broken\.model"):
        XLMRobertaTokenizer(path)


def test_a_truncated_model_is_refused(tmp_path, small_vocabulary):
    path = tmp_path / "broken.model"
    whole = small_vocabulary.read_bytes()
    for size in (*range(200), *range(5000, 5100), len(whole) // 2, len(whole) - 200):
        path.write_bytes(whole[:size])
        with pytest.raises(CheckpointError, match=r"broken\.model"):
            XLMRobertaTokenizer(path)


def test_a_missing_model_is_an_os_error(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        XLMRobertaTokenizer(tmp_path / "nowhere.model")


def test_a_table_of_replacements_is_checked_before_the_library_follows_it(tmp_path, small_vocabulary):
    model = read_model_proto(small_vocabulary.read_bytes())
    charsmap = bytearray(model.normalizer.precompiled_charsmap)
    charsmap[4:8] = (2**31 - 1).to_bytes(4, "little")  # the root leads out of the table
    path = tmp_path / "hostile.model"
    path.write_bytes(
        write_model_proto(ModelProto(model.pieces, NormalizerSpec.of_charsmap(bytes(charsmap)), model.trainer))
    )
    with pytest.raises(CheckpointError, match=r"hostile\.model: The precompiled_charsmap"):
        read_vocabulary(path)


def test_too_large_files_are_not_read(tmp_path, monkeypatch, small_vocabulary):
    monkeypatch.setattr(vocabulary_module, "LARGEST_MODEL", 1000)
    with pytest.raises(CheckpointError, match=r"small\.model has .* more than the 1,000"):
        read_vocabulary(small_vocabulary)


# The vocabulary as other parts of the tokenizer use it.


@pytest.mark.parametrize("name", ["small_vocabulary", "real_vocabulary"])
def test_the_serialized_model_is_the_file(name, request):
    path = request.getfixturevalue(name)
    vocabulary, added_tokens = read_vocabulary(path)
    assert vocabulary.serialized() == path.read_bytes()
    assert not added_tokens


def test_a_vocabulary_from_tokenizer_json(tmp_path, small_vocabulary):
    path = tmp_path / "tokenizer.json"
    path.write_bytes(write_tokenizer_json(read_model_proto(small_vocabulary.read_bytes())))
    ours, added_tokens = read_vocabulary(path)
    original, _ = read_vocabulary(small_vocabulary)
    assert ours.encode(SENTENCES) == original.encode(SENTENCES)
    assert len(added_tokens) == 5


def test_copies(small_vocabulary):
    vocabulary, _ = read_vocabulary(small_vocabulary)
    assert copy.deepcopy(vocabulary) is vocabulary
    copied = pickle.loads(pickle.dumps(vocabulary))
    assert copied.serialized() == vocabulary.serialized()
    assert copied.encode(SENTENCES) == vocabulary.encode(SENTENCES)
    assert copied.normalizer.sentencepiece("½ ﬁ") == vocabulary.normalizer.sentencepiece("½ ﬁ")


def test_unigram_by_the_ids_of_sentencepiece(small_vocabulary):
    vocabulary, _ = read_vocabulary(small_vocabulary)
    unigram = vocabulary.unigram("sentencepiece")
    for sentence in [*SENTENCES, "the <s> <unk> ☃☃"]:
        path = unigram.best_path(vocabulary.normalizer.sentencepiece(sentence).text)
        assert [node.piece_id for node in path] == vocabulary.processor.encode(sentence)


def test_unigram_by_the_ids_of_xlm_roberta(small_vocabulary, small_reference):
    vocabulary, _ = read_vocabulary(small_vocabulary)
    model = small_reference.backend_tokenizer.model
    unigram = vocabulary.unigram("huggingface")
    for sentence in [*SENTENCES, "<s> <pad> </s> <unk> <mask> ☃☃"]:
        for word in sentence.split():
            ids = [node.piece_id for node in unigram.best_path("▁" + word)]
            assert ids == [token.id for token in model.tokenize("▁" + word)]
    specials = [unigram.best_path(token)[0].piece_id for token in (*LEADING_TOKENS, MASK_TOKEN)]
    assert specials == [0, 1, 2, 3, vocabulary.mask_id]


def test_threads_share_one_unigram(small_vocabulary):
    vocabulary, _ = read_vocabulary(small_vocabulary)
    with ThreadPoolExecutor(16) as threads:
        unigrams = list(threads.map(vocabulary.unigram, ["sentencepiece", "huggingface"] * 16))
    assert len(set(map(id, unigrams))) == 2
    assert unigrams[0] is vocabulary.unigram("sentencepiece")


def test_pieces_too_long_for_a_unigram_are_named(small_vocabulary):
    model = read_model_proto(small_vocabulary.read_bytes())
    long = ModelProto([*model.pieces, ("x" * 1000, -1.0, NORMAL)], model.normalizer, model.trainer)
    with pytest.raises(CheckpointError, match=r"from somewhere: Piece 4\d\d has 1000 characters"):
        Vocabulary(write_model_proto(long), "from somewhere").unigram("sentencepiece")
