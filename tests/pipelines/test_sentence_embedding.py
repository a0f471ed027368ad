"""Sentence embeddings against sentence-transformers on the same directories, laid out as published ones are."""

import json
import logging
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sentence_transformers
import torch
import transformers
from sentence_transformers.sentence_transformer.modules import Dense, Normalize, Pooling, Transformer

from tests.cuda_emulator import EmulatedGpu, why_not
from tests.pipelines.saved_models import LONGEST, save_model
from tests.tokenizer.reference import reference_tokenizer
from xlmr_np import XLMRobertaModel, XLMRobertaTokenizer, pipeline, trees
from xlmr_np.heads.sentence_pooling import POOLINGS
from xlmr_np.layers.linear import LinearParams
from xlmr_np.ops.engines import gpu_engine
from xlmr_np.pipelines.sentence_embedding import SentenceEmbeddingPipeline
from xlmr_np.pipelines.streaming import BATCHES_IN_WINDOW, Row

forward = SentenceEmbeddingPipeline.forward
TOLERANCE = {"atol": 1e-5, "rtol": 1e-5}  # of float32, on embeddings of order one
INVARIANCE = {"atol": 2e-5, "rtol": 0}  # of float32 sums in another order
TEXTS = [
    "Paris is the capital of France.",
    "巴黎是法国的首都。",
    "Столица Франции — Париж.",
    "hm",
    "باريس هي عاصمة فرنسا.",
    "Die Hauptstadt von Frankreich heißt Paris, und sie liegt an der Seine.",
    "पेरिस फ्रांस की राजधानी है।",
]
LONG = " ".join(TEXTS * 4)  # more tokens than the models take

# What these repositories have beside weights and vocabulary, in the words of their files.
VERSIONS = {"__version__": {"sentence_transformers": "2.2.2", "transformers": "4.33.0", "pytorch": "2.1.2+cu121"}}
OLD_TYPES = "sentence_transformers.models."
PUBLISHED: dict[str, dict[str, Any]] = {
    "multilingual-e5-base": {
        "modules": ["Transformer", "Pooling", "Normalize"],
        "pooling": {"mean": True},
        "bert": {"max_seq_length": 512, "do_lower_case": False},
        "positions": 514,
    },
    "multilingual-e5-large-instruct": {
        "modules": ["Transformer", "Pooling", "Normalize"],
        "pooling": {"mean": True},
        "bert": {"max_seq_length": 512, "do_lower_case": False},
        "general": {**VERSIONS, "prompts": {}, "default_prompt_name": None, "similarity_fn_name": None},
        "positions": 514,
    },
    "bge-m3": {
        "modules": ["Transformer", "Pooling", "Normalize"],
        "pooling": {"cls": True},
        "bert": {"max_seq_length": 8192, "do_lower_case": False},
        "general": VERSIONS,
        "positions": 8194,
    },
    "paraphrase-multilingual-mpnet-base-v2": {
        "modules": ["Transformer", "Pooling"],
        "pooling": {"mean": True},
        "bert": {"max_seq_length": 128, "do_lower_case": False},
        "general": VERSIONS,
        "positions": 514,
    },
}


def write_json(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def save_published(directory: Path, name: str, vocabulary: Path) -> Path:
    """A small random model in the layout of a published repository."""
    layout = PUBLISHED[name]
    model = save_model(directory, "XLMRobertaModel", vocabulary, max_position_embeddings=layout["positions"])
    reference_tokenizer(vocabulary, model_max_length=layout["positions"] - 2).save_pretrained(directory)
    if name == "bge-m3":  # has no safetensors, and two heads that are not of sentence-transformers
        torch.save(model.state_dict(), directory / "pytorch_model.bin")
        (directory / "model.safetensors").unlink()
        torch.save({"weight": torch.zeros(1, 32), "bias": torch.zeros(1)}, directory / "sparse_linear.pt")
    modules = [
        {"idx": number, "name": str(number), "path": f"{number}_{kind}" if number else "", "type": OLD_TYPES + kind}
        for number, kind in enumerate(layout["modules"])
    ]
    write_json(directory / "modules.json", modules)
    flags = ("cls_token", "mean_tokens", "max_tokens", "mean_sqrt_len_tokens")
    pooling = {f"pooling_mode_{flag}": layout["pooling"].get(flag.split("_")[0], False) for flag in flags[:3]}
    write_json(
        directory / "1_Pooling" / "config.json",
        {"word_embedding_dimension": 32, **pooling, "pooling_mode_mean_sqrt_len_tokens": False},
    )
    write_json(directory / "sentence_bert_config.json", layout["bert"])
    if "general" in layout:
        write_json(directory / "config_sentence_transformers.json", layout["general"])
    return directory


def reference(directory: Path) -> sentence_transformers.SentenceTransformer:
    return sentence_transformers.SentenceTransformer(str(directory), device="cpu", local_files_only=True)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory, small_vocabulary: Path) -> Path:
    """A bare encoder with its tokenizer, and nothing of sentence-transformers."""
    directory = tmp_path_factory.mktemp("base")
    save_model(directory, "XLMRobertaModel", small_vocabulary)
    reference_tokenizer(small_vocabulary, model_max_length=LONGEST).save_pretrained(directory)
    return directory


@pytest.fixture(scope="module")
def ours(base: Path) -> SentenceEmbeddingPipeline:
    made: SentenceEmbeddingPipeline = pipeline("sentence-embedding", base, pooling="mean")
    return made


@pytest.fixture(scope="module")
def save(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Has sentence-transformers save a model with these steps after the encoder."""

    def write(*steps: torch.nn.Module, max_seq_length: int | None = None, **general: Any) -> Path:
        directory = tmp_path_factory.mktemp("saved")
        torch.manual_seed(0)
        encoder = Transformer(str(base), max_seq_length=max_seq_length)
        sentence_transformers.SentenceTransformer(modules=[encoder, *steps], device="cpu", **general).save(
            str(directory), create_model_card=False
        )
        return directory

    return write


# As published


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_layouts(name: str, small_vocabulary: Path, tmp_path: Path) -> None:
    directory = save_published(tmp_path, name, small_vocabulary)
    theirs, ours = reference(directory), pipeline("sentence-embedding", directory)
    texts = [*TEXTS, " ".join(TEXTS)]
    for prompt in ("", "query: ", "Instruct: Find it.\nQuery: "):
        embeddings = ours(texts, prompt=prompt)
        assert embeddings.dtype == np.float32
        np.testing.assert_allclose(embeddings, theirs.encode(texts, prompt=prompt), **TOLERANCE)
    is_normalized = "Normalize" in PUBLISHED[name]["modules"]
    assert (np.abs(np.linalg.norm(ours(texts), axis=1) - 1) < 1e-5).all() == is_normalized
    assert ours.longest(ours.setting.max_length) == PUBLISHED[name]["bert"]["max_seq_length"]


def test_max_seq_length_counts_special_tokens(small_vocabulary: Path, tmp_path: Path) -> None:
    directory = save_published(tmp_path, "paraphrase-multilingual-mpnet-base-v2", small_vocabulary)
    theirs, ours = reference(directory), pipeline("sentence-embedding", directory)
    assert len(ours.tokenizer(LONG, verbose=False)["input_ids"]) > 128
    np.testing.assert_allclose(ours(LONG), theirs.encode(LONG), **TOLERANCE)
    assert np.abs(ours(LONG) - ours(LONG, max_length=127)).max() > 1e-3


def test_a_long_text_of_bge_m3(small_vocabulary: Path, tmp_path: Path) -> None:
    directory = save_published(tmp_path, "bge-m3", small_vocabulary)
    text = " ".join(TEXTS * 8)
    ours = pipeline("sentence-embedding", directory)
    assert len(ours.tokenizer(text)["input_ids"]) > 512
    np.testing.assert_allclose(ours(text), reference(directory).encode(text), **TOLERANCE)


def test_the_encoder_in_a_folder_of_its_own(small_vocabulary: Path, tmp_path: Path) -> None:
    """As the first versions of the library saved it."""
    directory = save_published(tmp_path, "multilingual-e5-base", small_vocabulary)
    (directory / "0_Transformer").mkdir()
    for file in list(directory.iterdir()):
        if file.is_file() and file.name != "modules.json":
            file.rename(directory / "0_Transformer" / file.name)
    modules = json.loads((directory / "modules.json").read_text())
    modules[0]["path"] = "0_Transformer"
    write_json(directory / "modules.json", modules)
    ours = pipeline("sentence-embedding", directory)
    np.testing.assert_allclose(ours(TEXTS), reference(directory).encode(TEXTS), **TOLERANCE)
    assert ours.setting.max_length == 512


def test_lower_case(small_vocabulary: Path, tmp_path: Path) -> None:
    directory = save_published(tmp_path, "multilingual-e5-base", small_vocabulary)
    write_json(directory / "sentence_bert_config.json", {"max_seq_length": 512, "do_lower_case": True})
    ours, texts = pipeline("sentence-embedding", directory), ["PARIS Is Paris", "ΟΔΥΣΣΕΥΣ", "İstanbul"]
    np.testing.assert_allclose(
        ours(texts, prompt="Query: "), reference(directory).encode(texts, prompt="Query: "), **TOLERANCE
    )
    np.testing.assert_allclose(ours("PARIS"), ours("paris"), **INVARIANCE)


# As the library saves it today


@pytest.mark.parametrize("mode", POOLINGS)
def test_every_pooling(save: Callable[..., Path], mode: str) -> None:
    directory = save(Pooling(32, mode))
    np.testing.assert_allclose(
        pipeline("sentence-embedding", directory)(TEXTS), reference(directory).encode(TEXTS), **TOLERANCE
    )


def test_several_poolings_dense_and_prompts(save: Callable[..., Path]) -> None:
    directory = save(
        Pooling(32, ("max", "cls", "mean"), include_prompt=False),
        Dense(96, 20),
        Dense(20, 12, bias=False, activation_function=torch.nn.GELU()),
        Normalize(),
        prompts={"query": "query: ", "passage": "passage: "},
        default_prompt_name="passage",
        similarity_fn_name="dot",
        max_seq_length=40,
    )
    theirs, ours = reference(directory), pipeline("sentence-embedding", directory)
    texts = [*TEXTS, LONG]
    for changes in ({}, {"prompt_name": "query"}, {"prompt": "something else, longer: "}, {"prompt": ""}):
        np.testing.assert_allclose(ours.encode(texts, **changes), theirs.encode(texts, **changes), **TOLERANCE)
    assert ours.setting.similarity == "dot"
    np.testing.assert_allclose(ours.similarity(texts, texts[:2]), ours(texts) @ ours(texts[:2]).T, **TOLERANCE)


def test_fewer_numbers(save: Callable[..., Path]) -> None:
    directory = save(Pooling(32, "mean"), Normalize(), truncate_dim=10)
    theirs, ours = reference(directory), pipeline("sentence-embedding", directory)
    np.testing.assert_allclose(ours(TEXTS), theirs.encode(TEXTS), **TOLERANCE)
    np.testing.assert_allclose(
        ours(TEXTS, normalize=True), theirs.encode(TEXTS, normalize_embeddings=True), **TOLERANCE
    )
    assert ours([], truncate_dim=4).shape == (0, 4)


def test_without_its_files_it_is_the_mean(base: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "xlmr_np"):
        ours = pipeline("sentence-embedding", base)
    assert [record.message for record in caplog.records if "mean" in record.message]
    embeddings = ours(TEXTS)
    np.testing.assert_allclose(embeddings, reference(base).encode(TEXTS), **TOLERANCE)
    assert np.abs(np.linalg.norm(embeddings, axis=1) - 1).min() > 0.1
    caplog.clear()
    with caplog.at_level(logging.WARNING, "xlmr_np"):
        pipeline("sentence-embedding", base, pooling="mean")
    assert not caplog.records


@pytest.mark.parametrize("normalize", [True, False, None])
def test_length_one_as_asked(save: Callable[..., Path], normalize: bool | None) -> None:
    """What the checkpoint says can be undone here; the reference can only add to it."""
    directory = save(Pooling(32, "mean"), Normalize())
    theirs, ours = reference(directory), pipeline("sentence-embedding", directory, normalize=normalize)
    assert (np.abs(np.linalg.norm(ours(TEXTS), axis=1) - 1) < 1e-5).all() == (normalize is not False)
    assert (np.abs(np.linalg.norm(theirs.encode(TEXTS, normalize_embeddings=False), axis=1) - 1) < 1e-5).all()


def test_loaded_models(base: Path, ours: SentenceEmbeddingPipeline) -> None:
    model, tokenizer = XLMRobertaModel.from_pretrained(base), XLMRobertaTokenizer.from_pretrained(base)
    made = pipeline("sentence-embedding", model, tokenizer=tokenizer, pooling="mean", normalize=True)
    np.testing.assert_allclose(made(TEXTS), ours(TEXTS, normalize=True), **INVARIANCE)
    both = pipeline("sentence-embedding", model, tokenizer=tokenizer, pooling=("cls", "max"))
    np.testing.assert_allclose(
        both(TEXTS), np.hstack([ours(TEXTS, pooling="cls"), ours(TEXTS, pooling="max")]), **INVARIANCE
    )


def test_float64(small_vocabulary: Path, tmp_path: Path) -> None:
    save_model(tmp_path, "XLMRobertaModel", small_vocabulary, torch.float64)
    reference_tokenizer(small_vocabulary).save_pretrained(tmp_path)
    ours, tokenizer = pipeline("sentence-embedding", tmp_path, pooling="mean"), reference_tokenizer(small_vocabulary)
    model = transformers.XLMRobertaModel.from_pretrained(tmp_path, dtype=torch.float64)
    batch = tokenizer(TEXTS, padding=True, return_tensors="pt")
    with torch.no_grad():
        states = model(**batch).last_hidden_state
    mask = batch["attention_mask"][..., None]
    expected = (states * mask).sum(1) / mask.sum(1)
    np.testing.assert_allclose(ours(TEXTS), expected, atol=1e-10)


def test_the_real_vocabulary(real_vocabulary: Path, tmp_path: Path) -> None:
    directory = save_published(tmp_path, "multilingual-e5-base", real_vocabulary)
    np.testing.assert_allclose(
        pipeline("sentence-embedding", directory, prompt="query: ")(TEXTS),
        reference(directory).encode(TEXTS, prompt="query: "),
        **TOLERANCE,
    )


# Any number of texts


def test_order_and_batches_do_not_matter(ours: SentenceEmbeddingPipeline) -> None:
    texts = [" ".join(TEXTS[: 1 + number % 3]) + str(number) for number in range(20)]
    together = ours(texts)
    alone = np.stack([ours(text) for text in texts])
    np.testing.assert_allclose(together, alone, **INVARIANCE)
    for changes in ({"batch_size": 1}, {"batch_size": 8}, {"batch_tokens": 50}):
        np.testing.assert_allclose(ours.encode(texts, **changes), alone, **INVARIANCE)
    backwards = list(ours(iter(texts[::-1])))
    np.testing.assert_allclose(backwards[::-1], alone, **INVARIANCE)


def test_what_comes_back(ours: SentenceEmbeddingPipeline) -> None:
    assert ours("One.").shape == (32,)
    assert ours(["One."]).shape == (1, 32)
    assert ours(("One.", "Two.")).shape == (2, 32)
    assert ours([]).shape == (0, 32)
    streamed = ours(text for text in TEXTS)
    assert isinstance(streamed, Iterator)
    assert next(streamed).shape == (32,)


def test_memory_does_not_grow_with_the_texts(ours: SentenceEmbeddingPipeline) -> None:
    """However many there are, no more than a window of them, and of their embeddings, is alive at a time."""
    taken = 0

    def texts() -> Iterator[str]:
        nonlocal taken
        for taken in range(1, 81):
            yield TEXTS[taken % 2]

    embeddings = []
    for number, embedding in enumerate(ours(texts(), batch_size=2), 1):
        embeddings.append(weakref.ref(embedding))
        assert taken - number < 2 * BATCHES_IN_WINDOW
    assert sum(each() is not None for each in embeddings) <= 2 * BATCHES_IN_WINDOW


def test_a_long_text_among_short_ones_is_not_what_all_are_padded_to(
    ours: SentenceEmbeddingPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hidden states have places for padding, which would take gigabytes for thousands of words and one book."""
    batches: list[list[Row]] = []
    monkeypatch.setattr(
        SentenceEmbeddingPipeline, "forward", lambda self, rows: batches.append(rows) or forward(self, rows)
    )
    texts = ["hm"] * 60 + [LONG]
    embeddings = ours(texts, batch_tokens=300)
    assert max(len(batch) * max(len(row.ids) for row in batch) for batch in batches) <= 8 * 300
    assert len(batches) == 2
    np.testing.assert_allclose(embeddings[[0, 60]], [ours("hm"), ours(LONG)], **INVARIANCE)


@pytest.mark.skipif(why_not() is not None, reason=f"kernels cannot be executed here: {why_not()}")
@pytest.mark.parametrize("pooling", ["cls", ("mean", "max")])
def test_on_the_gpu_s_engine(base: Path, save: Callable[..., Path], pooling: Any) -> None:
    directory = save(Pooling(32, pooling), Dense(32 * (1 if pooling == "cls" else 2), 8), Normalize())
    ours = pipeline("sentence-embedding", directory)
    expected = ours(TEXTS)
    ours.model.engine = gpu_engine(EmulatedGpu())
    np.testing.assert_allclose(ours(TEXTS), expected, **INVARIANCE)


# Long texts


def test_long_texts_are_cut_with_one_warning(ours: SentenceEmbeddingPipeline, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "xlmr_np"):
        first, second = ours([LONG, LONG + " and more"])
    assert len(caplog.records) == 1
    np.testing.assert_allclose(first, second, **INVARIANCE)


@pytest.mark.parametrize("prompt", ["", "query: "])
@pytest.mark.parametrize("normalize", [True, False])
def test_the_mean_of_the_parts(ours: SentenceEmbeddingPipeline, normalize: bool, prompt: str) -> None:
    """Against the parts' own rows, each with the prompt."""
    ids = ours.tokenizer(LONG, add_special_tokens=False, verbose=False)["input_ids"]
    head = ours.tokenizer(prompt, add_special_tokens=False)["input_ids"]
    room = LONGEST - 2 - len(head)
    parts = [ids[start : start + room] for start in range(0, len(ids), room)]
    assert len(parts) > 2
    embeddings = []
    for part in parts:
        states = ours.model(np.array([[0, *head, *part, 2]])).last_hidden_state
        embedding = states[0].mean(axis=0)
        embeddings.append(embedding / np.linalg.norm(embedding) if normalize else embedding)
    expected = np.average(embeddings, axis=0, weights=[len(part) for part in parts])
    if normalize:
        expected /= np.linalg.norm(expected)
    whole = ours([LONG, "hm"], long_texts="mean", normalize=normalize, prompt=prompt)
    np.testing.assert_allclose(whole[0], expected, **INVARIANCE)
    np.testing.assert_allclose(whole[1], ours("hm", normalize=normalize, prompt=prompt), **INVARIANCE)


def test_long_texts_as_errors(ours: SentenceEmbeddingPipeline) -> None:
    with pytest.raises(ValueError, match=rf"Text 2 has \d+ tokens .* at most {LONGEST} are read: 'Paris"):
        ours(["hm", LONG], long_texts="error")
    assert ours("hm", long_texts="error").shape == (32,)


# Prompts


def test_a_prompt_that_the_checkpoint_lacks(base: Path, ours: SentenceEmbeddingPipeline) -> None:
    """The reference knows the names "query" and "document" always, and puts nothing before the text."""
    theirs = reference(base)
    np.testing.assert_array_equal(theirs.encode("hm", prompt_name="query"), theirs.encode("hm"))
    with pytest.raises(ValueError, match="no prompt of the name 'query': the model brings none; or give the prompt"):
        ours("hm", prompt_name="query")
    with pytest.raises(ValueError, match="'other': there are 'query'"):
        ours("hm", prompt_name="other", prompts={"query": "query: "})


def test_a_call_s_prompt_wins(base: Path) -> None:
    ours = pipeline("sentence-embedding", base, pooling="mean", prompt="a: ", prompts={"b": "b: "})
    plain = pipeline("sentence-embedding", base, pooling="mean")
    np.testing.assert_allclose(ours("hm"), plain("a: hm"), **INVARIANCE)
    np.testing.assert_allclose(ours("hm", prompt_name="b"), plain("b: hm"), **INVARIANCE)
    np.testing.assert_allclose(ours("hm", prompt="c: "), plain("c: hm"), **INVARIANCE)
    with pytest.raises(ValueError, match="Both prompt and prompt_name='b' are given"):
        ours("hm", prompt="c: ", prompt_name="b")


def test_a_prompt_is_no_text(ours: SentenceEmbeddingPipeline) -> None:
    for text in ("", "  ", "<mask>"):
        with pytest.raises(ValueError, match="Text 1 holds nothing to read"):
            ours(text, prompt="query: ")
    with pytest.raises(ValueError, match=r"2 special ones and the prompt's .* leave no room; shorten the prompt"):
        ours(LONG, prompt=LONG)
    assert np.isfinite(ours("s", prompt="Pari")).all()  # which may make one token with the prompt


# Comparing


def test_similarity(ours: SentenceEmbeddingPipeline) -> None:
    for name in ("cosine", "dot", "euclidean", "manhattan"):
        theirs = sentence_transformers.SimilarityFunction.to_similarity_fn(name)
        scores = ours.similarity(TEXTS, TEXTS[:3], similarity=name)
        assert scores.shape == (7, 3)
        expected = theirs(torch.asarray(ours(TEXTS)), torch.asarray(ours(TEXTS[:3])))
        # torch's own distances are small differences of squares in float32 where there are many
        np.testing.assert_allclose(scores, expected, atol=2e-4, rtol=1e-5)
        np.testing.assert_allclose(
            ours.similarity(ours(TEXTS), TEXTS[0], similarity=name)[:, 0], scores[:, 0], atol=1e-4
        )


def test_semantic_search(ours: SentenceEmbeddingPipeline) -> None:
    corpus = [f"{text} {number}" for number in range(6) for text in TEXTS]
    found = ours.semantic_search(TEXTS[:2], corpus, top_k=5)
    embeddings = torch.asarray(ours(TEXTS[:2])), torch.asarray(ours(corpus))
    expected = sentence_transformers.util.semantic_search(*embeddings, top_k=5)
    assert [[hit["corpus_id"] for hit in hits] for hits in found] == [
        [hit["corpus_id"] for hit in hits] for hits in expected
    ]
    scores = [[hit["score"] for hit in hits] for hits in found]
    assert scores == [pytest.approx([hit["score"] for hit in hits], abs=1e-5) for hits in expected]
    streamed = ours.semantic_search(TEXTS[:2], iter(corpus), top_k=5, batch_tokens=100)
    of_arrays = ours.semantic_search(ours(TEXTS[:2]), ours(corpus), top_k=5)
    for others in (streamed, of_arrays):
        assert [[hit["corpus_id"] for hit in hits] for hits in others] == [
            [hit["corpus_id"] for hit in hits] for hits in found
        ]
    (hits,) = ours.semantic_search(TEXTS[0], TEXTS, query_prompt="", corpus_prompt="passage: ")
    assert len(hits) == len(TEXTS)
    prompted = ours.similarity(ours(TEXTS[0]), ours(TEXTS, prompt="passage: "))[0]
    assert [hit["score"] for hit in hits] == pytest.approx(sorted(prompted, reverse=True), abs=2e-5)
    assert ours.semantic_search("hm", []) == [[]]


def test_what_are_texts_and_what_embeddings(ours: SentenceEmbeddingPipeline) -> None:
    embeddings = ours(TEXTS)
    expected = ours.similarity(embeddings, embeddings)
    texts: list[Any] = [
        TEXTS,
        tuple(TEXTS),
        iter(TEXTS),
        np.array(TEXTS),
        list(np.array(TEXTS)),
        np.array(TEXTS, object),
    ]
    vectors: list[Any] = [embeddings, list(embeddings), embeddings.tolist(), iter(embeddings), ours.encode(iter(TEXTS))]
    for form in texts + vectors:
        np.testing.assert_allclose(ours.similarity(form, embeddings), expected, **INVARIANCE)
    for corpus in [TEXTS, iter(TEXTS), np.array(TEXTS), list(np.array(TEXTS)), *vectors[:3], ours.encode(iter(TEXTS))]:
        found = ours.semantic_search(embeddings[:2], corpus, top_k=1)
        assert [hits[0]["corpus_id"] for hits in found] == [0, 1]
    assert ours.similarity(embeddings[0].tolist(), embeddings[0]).shape == (1, 1)


def test_no_texts(ours: SentenceEmbeddingPipeline) -> None:
    assert ours.similarity([], ["b"]).shape == (0, 1)
    assert ours.similarity(["a", "b"], iter([])).shape == (2, 0)
    assert ours.semantic_search([], ["a"]) == []
    assert ours.semantic_search(["a"], iter([])) == [[]]


def test_no_texts_have_the_model_s_precision(base: Path) -> None:
    ours = pipeline("sentence-embedding", base, pooling="mean", dtype="float64")
    assert ours([]).dtype == ours(["hm"]).dtype == np.float64


# What cannot be


def test_a_vector_of_zeros_stays_finite(base: Path) -> None:
    ours = pipeline("sentence-embedding", base, pooling="mean", normalize=True)
    *others, last = ours.model.params.encoder.layers
    output = last.feed_forward.output
    output = output._replace(layer_norm=trees.map_leaves(np.zeros_like, output.layer_norm))
    last = last._replace(feed_forward=last.feed_forward._replace(output=output))
    ours.model.params = ours.model.params._replace(encoder=ours.model.params.encoder._replace(layers=(*others, last)))
    assert not ours("hm").any()


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "a pooling": ({"pooling": "average"}, "'average' is not known"),
    "one of several": ({"pooling": ("cls", "average")}, "'average' is not known"),
    "no pooling": ({"pooling": []}, r"pooling=\[\] is no name of a pooling"),
    "a flag": ({"normalize": 1}, "normalize must be True or False"),
    "long texts": ({"long_texts": "stride"}, "long_texts='stride' is not known"),
    "a length": ({"max_length": 0}, "max_length=0 is too small"),
    "numbers": ({"truncate_dim": 0}, "truncate_dim=0 is too small"),
    "a similarity": ({"similarity": "sinus"}, "similarity='sinus' is not known"),
    "prompts in a list": ({"prompts": ["q"]}, r"prompts=\['q'\] must be a dict of prompts by their names"),
    "a prompt of a name": ({"prompts": {"q": 5}}, r"prompts\['q'\] must be a str, not int 5"),
    "a prompt's name": ({"prompt_name": ["q"]}, "prompt_name must be a str"),
    "a prompt": ({"prompt": 3}, "prompt must be a str"),
    "another library's name": ({"normalize_embeddings": True}, r"no setting normalize_embeddings"),
}


@pytest.mark.parametrize("what", WRONG)
def test_wrong_settings(ours: SentenceEmbeddingPipeline, what: str) -> None:
    changes, message = WRONG[what]
    with pytest.raises((ValueError, TypeError), match=message):
        ours("hm", **changes)


@pytest.mark.parametrize("text", ["", " \n", "<mask><mask>", None, 3, b"hm", {"text": "hm"}, "\ud800"])
def test_wrong_texts(ours: SentenceEmbeddingPipeline, text: Any) -> None:
    with pytest.raises((ValueError, TypeError), match="Text 2"):
        ours(["hm", text])
    answers = ours(["hm", text, "hm"], on_error=lambda number, error: number)
    assert answers[1] == 2
    np.testing.assert_allclose(answers[0], answers[2], **INVARIANCE)


@pytest.mark.parametrize("value", [None, 3, b"hm", {"text": "hm"}])
def test_what_cannot_be_compared(ours: SentenceEmbeddingPipeline, value: Any) -> None:
    calls = [
        lambda: ours.similarity(value, "hm"),
        lambda: ours.semantic_search("hm", value),
        lambda: ours.semantic_search(value, "hm"),
    ]
    for call in calls:
        with pytest.raises(TypeError, match="Give a text, an iterable of texts, or embeddings, to be compared; got a "):
            call()


def test_a_dense_layer_that_does_not_fit(save: Callable[..., Path]) -> None:
    ours = pipeline("sentence-embedding", save(Pooling(32, "mean"), Dense(32, 8)))
    with pytest.raises(ValueError, match="The dense layer takes 32 numbers, and gets 64"):
        ours("hm", pooling=("cls", "mean"))


def test_weights_that_are_damaged(save: Callable[..., Path]) -> None:
    ours = pipeline("sentence-embedding", save(Pooling(32, "mean"), Dense(32, 8)))
    pooling, dense = ours.setting.steps
    damaged = dense._replace(params=LinearParams(np.full((8, 32), np.nan, np.float32), dense.params.bias))
    with pytest.raises(ValueError, match="embeddings are not finite"):
        ours("hm", steps=(pooling, damaged))
