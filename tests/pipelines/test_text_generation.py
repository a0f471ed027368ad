"""Text generation against transformers' own pipeline, and what it does where that one fails or guesses."""

import json
import logging
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
import transformers

from tests.pipelines.saved_models import LONGEST, save_fill_mask_model, save_text_generation_model
from tests.tokenizer.reference import reference_tokenizer
from xlmr_np import XLMRobertaForCausalLM, XLMRobertaForMaskedLM, XLMRobertaTokenizer, pipeline
from xlmr_np.decoding import GenerationConfig, TextIteratorStreamer
from xlmr_np.pipelines.streaming import BATCHES_IN_WINDOW
from xlmr_np.pipelines.text_generation import TextGenerationPipeline

PROMPTS = [
    "the cat and",
    "Das Wetter ist heute",
    "Le",
    "Старый учитель читает",
    "Η γάτα είναι πάνω",
    "الطقس جميل",
    "आज मौसम",
    "今天天气很",
    "先生は窓のそばで",
    "오늘은 날씨가",
    "วันนี้อากาศ",
    "a much longer prompt, so that the others are padded on the left",
]
AS_REFERENCE = {"position_mode": "huggingface", "add_end_token": True}
GREEDY = {"do_sample": False, "max_new_tokens": 4}
LONG = "the cat and the dog " * LONGEST
PAD, END = 1, 2


class Pair(NamedTuple):
    """The same model and vocabulary, twice."""

    ours: TextGenerationPipeline
    theirs: transformers.Pipeline
    directory: Path


def make_pair(directory: Path, vocabulary: Path) -> Pair:
    model = save_text_generation_model(directory, vocabulary, torch.float64)
    tokenizer = reference_tokenizer(vocabulary)
    theirs = transformers.pipeline("text-generation", model=model, tokenizer=tokenizer, device="cpu")
    return Pair(pipeline("text-generation", directory), theirs, directory)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory, small_vocabulary: Path) -> Pair:
    """The small vocabulary, in float64."""
    return make_pair(tmp_path_factory.mktemp("small"), small_vocabulary)


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory, real_vocabulary: Path) -> Pair:
    """XLM-R's own vocabulary, in float64."""
    return make_pair(tmp_path_factory.mktemp("real"), real_vocabulary)


@pytest.fixture(params=["small", "real"])
def pair(request: pytest.FixtureRequest) -> Pair:
    """Each of the two in turn."""
    return request.getfixturevalue(request.param)


def ids_of(answer: Any) -> Any:
    """The ids of all answers, however deep they lie, without the padding that the reference leaves."""
    if isinstance(answer, dict):
        ids = answer["generated_token_ids"]
        while ids[0] == PAD:
            ids = ids[1:]
        while ids[-1] == PAD:
            ids = ids[:-1]
        return ids
    return [ids_of(each) for each in answer]


def texts_of(answer: Any) -> Any:
    return answer["generated_text"] if isinstance(answer, dict) else [texts_of(each) for each in answer]


# --- the same as the reference ---


@pytest.mark.parametrize("batch_size", [1, 3])
def test_tokens(pair: Pair, batch_size: int) -> None:
    arguments = {**GREEDY, "return_tensors": True, "batch_size": batch_size}
    ours = pair.ours(PROMPTS, **AS_REFERENCE, **arguments)
    theirs = pair.theirs(PROMPTS, **arguments)
    assert [len(answers) for answers in ours] == [1] * len(PROMPTS)
    assert ids_of(ours) == ids_of(theirs)
    assert len({tuple(row[-4:]) for (row,) in ids_of(ours)}) > len(PROMPTS) / 2  # or there is nothing to compare


def test_texts(pair: Pair) -> None:
    ids = ids_of(pair.ours(PROMPTS, return_tensors=True, batch_size=3, **AS_REFERENCE, **GREEDY))
    has_space = set()
    for return_full_text in (None, True, False):
        arguments = {**GREEDY, "batch_size": 3, "return_full_text": return_full_text}
        ours = texts_of(pair.ours(PROMPTS, **AS_REFERENCE, **arguments))
        theirs = texts_of(pair.theirs(PROMPTS, **arguments))
        for prompt, (row,), (our_text,), (their_text,) in zip(PROMPTS, ids, ours, theirs, strict=True):
            shown = "" if return_full_text is False else prompt
            new = row[len(pair.ours.tokenizer(prompt)["input_ids"]) :]
            starts_word = pair.ours.tokenizer.convert_ids_to_tokens(new, True)[0].startswith("▁")
            has_space.add(starts_word)
            assert their_text.startswith(shown)
            # The reference loses the space before a word that comes first: "catsleeps".
            assert our_text == shown + " " * starts_word + their_text.removeprefix(shown)
    assert has_space == {False, True}


def test_the_shape_of_answers(small: Pair) -> None:
    several = {**GREEDY, "num_beams": 3, "num_return_sequences": 2}
    for inputs in ("the cat", ["the cat"], ["the cat", "Le"]):
        for arguments in (GREEDY, several):
            ours = small.ours(inputs, **AS_REFERENCE, **arguments, return_tensors=True)
            assert ids_of(ours) == ids_of(small.theirs(inputs, **arguments, return_tensors=True))
    assert [set(each) for each in small.ours("the cat", **several)] == [{"generated_text"}] * 2


def test_prefix_and_stop_sequence(small: Pair) -> None:
    arguments = {**GREEDY, "prefix": "Das Wetter ", "return_tensors": True}
    assert ids_of(small.ours("the cat", **AS_REFERENCE, **arguments)) == ids_of(small.theirs("the cat", **arguments))
    assert small.ours("the cat", **GREEDY, prefix="Das ")[0]["generated_text"].startswith("the cat")
    whole = small.ours("the cat", **GREEDY, **AS_REFERENCE, return_full_text=False)[0]["generated_text"]
    stop = whole.strip()[1]
    for stops in (stop, [stop, "no such text"]):
        arguments = {**GREEDY, "stop_sequence": stops, "return_tensors": True}
        ours = ids_of(small.ours("the cat", **AS_REFERENCE, **arguments))
        assert ours == ids_of(small.theirs("the cat", **arguments))
    text = small.ours("the cat", **GREEDY, **AS_REFERENCE, stop_sequence=stop, return_full_text=False)
    assert whole.startswith(text[0]["generated_text"])
    assert stop in text[0]["generated_text"]
    assert len(text[0]["generated_text"]) < len(whole)


def test_settings_of_the_model_and_their_order(small: Pair) -> None:
    def length(generate: TextGenerationPipeline, **arguments: Any) -> int:
        ids = generate("the cat", do_sample=False, return_tensors=True, **arguments)[0]["generated_token_ids"]
        return len(ids) - len(generate.tokenizer("the cat")["input_ids"]) + 1

    model = XLMRobertaForCausalLM.from_pretrained(small.directory)
    tokenizer = small.ours.tokenizer
    plain = TextGenerationPipeline(model, tokenizer)
    assert length(plain) == LONGEST // 2  # and 256 with the table of XLM-R
    assert length(plain, generation_config=GenerationConfig(max_new_tokens=3)) == 3
    model.generation_config = GenerationConfig(max_new_tokens=5)
    assert length(plain) == 5
    assert length(TextGenerationPipeline(model, tokenizer, max_new_tokens=4)) == 4
    assert length(TextGenerationPipeline(model, tokenizer, max_new_tokens=4), max_new_tokens=2) == 2
    assert length(TextGenerationPipeline(model, tokenizer, max_new_tokens=4), max_new_tokens=None) == 4
    assert length(TextGenerationPipeline(model, tokenizer, max_new_tokens=None)) == 5


# --- where it differs: the end of prompts, and what is shown ---


def test_a_prompt_is_not_ended(pair: Pair) -> None:
    for prompt in PROMPTS[:2]:
        ids = pair.ours.tokenizer(prompt)["input_ids"]
        assert ids[-1] == END
        for add_end_token, read in ((False, ids[:-1]), (True, ids)):
            answer = pair.ours(prompt, return_tensors=True, add_end_token=add_end_token, **GREEDY)
            assert answer[0]["generated_token_ids"][: len(read)] == read
            assert np.array_equal(
                answer[0]["generated_token_ids"],
                np.trim_zeros(pair.ours.model.generate([read], **GREEDY)[0] - PAD, "b") + PAD,
            )
    theirs = pair.theirs(PROMPTS[0], return_tensors=True, **GREEDY)[0]["generated_token_ids"]
    assert theirs[: len(pair.ours.tokenizer(PROMPTS[0])["input_ids"])][-1] == END


def always(*tokens: int) -> Any:
    """A processor that has these tokens come one after the other, whatever the model says."""
    state: dict[int, int] = {}

    def process(ids: np.ndarray, scores: np.ndarray) -> np.ndarray:
        forced = np.full(scores.shape, -np.inf)
        forced[:, tokens[min(state.setdefault(0, 0), len(tokens) - 1)]] = 0
        state[0] += 1
        return forced

    return process


def spelled(pair: Pair, prompt: str, *tokens: int, **arguments: Any) -> str:
    """The text of a prompt that these tokens follow."""
    arguments = {"do_sample": False, "max_new_tokens": len(tokens), **arguments}
    return pair.ours(prompt, logits_processor=[always(*tokens)], **arguments)[0]["generated_text"]


def test_spaces_between_the_prompt_and_what_follows(small: Pair) -> None:
    vocabulary = small.ours.tokenizer.get_vocab()
    word, piece = vocabulary["▁the"], vocabulary["s"]
    assert spelled(small, "a cat", word) == "a cat the"
    assert spelled(small, "a cat", piece, word) == "a cats the"
    assert spelled(small, "a cat ", word) == "a cat the"
    assert spelled(small, "a cat\t", piece) == "a cat\ts"
    assert spelled(small, "a ☃", word) == "a ☃ the"
    assert spelled(small, "", word, piece) == "thes"
    assert spelled(small, "  ", word, piece) == "  thes"
    assert spelled(small, "a cat", word, return_full_text=False) == " the"
    assert spelled(small, "a cat", piece, return_full_text=False) == "s"
    assert spelled(small, "", word, return_full_text=False) == "the"


def test_what_is_shown_of_the_prompt_is_the_prompt(small: Pair) -> None:
    for prompt in ("ﬁ  <mask>\u200b", "</s>", "a\nb", "☃☃"):  # the tokens of which spell something else
        assert spelled(small, prompt, 18).startswith(prompt)


def test_special_tokens_are_no_text(small: Pair) -> None:
    tokenizer = small.ours.tokenizer
    mask, word = tokenizer.mask_token_id, tokenizer.get_vocab()["▁the"]
    assert spelled(small, "a cat", 0, word, PAD, tokenizer.unk_token_id, mask, word) == "a cat the the"


def test_nothing_comes_after_the_end(small: Pair) -> None:
    word = small.ours.tokenizer.get_vocab()["▁the"]
    assert spelled(small, "a cat", word, END, word, max_new_tokens=6) == "a cat the"
    assert spelled(small, "a cat", word, 30, word, max_new_tokens=6, eos_token_id=[30, END]).count("the") == 1

    def first_text_ends(ids: np.ndarray, scores: np.ndarray) -> np.ndarray:
        forced = np.full(scores.shape, -np.inf)
        forced[0, END] = forced[1:, word] = 0
        return forced

    arguments = {"do_sample": False, "max_new_tokens": 3, "logits_processor": [first_text_ends]}
    assert texts_of(small.ours(["cat", "cat"], **arguments)) == [["cat"], ["cat the the the"]]
    ids = ids_of(small.ours(["cat", "cat"], **arguments, return_tensors=True))
    assert [row[-1] for (row,) in ids] == [END, word]
    assert len(ids[1][0]) - len(ids[0][0]) == 2


def test_spaces_before_punctuation(small: Pair) -> None:
    vocabulary = small.ours.tokenizer.get_vocab()
    tokens = (vocabulary["▁the"], vocabulary["▁"], vocabulary["."])
    assert spelled(small, "a .", *tokens) == "a . the ."
    assert spelled(small, "a .", *tokens, clean_up_tokenization_spaces=True) == "a . the."
    assert spelled(small, "a cat", *tokens[1:], clean_up_tokenization_spaces=True) == "a cat."


def test_a_model_with_more_tokens_than_the_tokenizer(tmp_path: Path, small_vocabulary: Path) -> None:
    save_text_generation_model(tmp_path, small_vocabulary, vocab_size=512)
    generate = pipeline("text-generation", tmp_path)
    answer = generate("a cat", do_sample=False, max_new_tokens=2, logits_processor=[always(500, 18)])
    assert answer == [{"generated_text": "a cat the"}]


# --- prompts of every kind ---


def test_the_smallest_prompts(pair: Pair) -> None:
    for prompt in ("", "   "):
        answer = pair.ours(prompt, return_tensors=True, **GREEDY)[0]["generated_token_ids"]
        assert answer[0] == 0
        assert np.array_equal(answer, pair.ours.model.generate([[0]], **GREEDY)[0, : len(answer)])
        assert pair.ours(prompt, **GREEDY)[0]["generated_text"].startswith(prompt)


def test_no_prompts(small: Pair) -> None:
    assert small.ours([], **GREEDY) == []
    assert list(small.ours(iter([]), **GREEDY)) == []


@pytest.mark.parametrize("padding_side", ["left", "right"])
def test_the_padding_side_of_the_tokenizer_does_not_matter(small: Pair, padding_side: str) -> None:
    tokenizer = XLMRobertaTokenizer.from_pretrained(small.directory, padding_side=padding_side)
    generate = TextGenerationPipeline(small.ours.model, tokenizer, **GREEDY)
    assert generate(PROMPTS) == [generate(prompt) for prompt in PROMPTS]
    assert tokenizer.padding_side == padding_side


@pytest.mark.parametrize(
    "lengths", [{"max_new_tokens": 5}, {"max_length": 9, "min_length": 7}, {"max_new_tokens": 5, "num_beams": 2}]
)
def test_neighbours_change_nothing(small: Pair, lengths: dict[str, int]) -> None:
    """Not even those that have little room: each prompt is continued as far as it would be alone."""
    prompts = ["the cat and", "", "the cat", "Le", "the"]
    if "max_length" not in lengths:
        prompts.insert(2, prompt_of(small, LONGEST - 2))
    arguments = {"do_sample": False, "return_tensors": True, **lengths}
    alone = [small.ours(prompt, **arguments) for prompt in prompts]
    for batch_size in (2, 5):
        assert small.ours(prompts, batch_size=batch_size, **arguments) == alone
    assert list(small.ours(iter(prompts), **arguments)) == alone


def test_batches_by_tokens(small: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []
    compute = TextGenerationPipeline.compute

    def counted(self: TextGenerationPipeline, rows: list[Any], setting: Any) -> Any:
        sizes.append(len(rows))
        return compute(self, rows, setting)

    monkeypatch.setattr(TextGenerationPipeline, "compute", counted)
    for settings, expected in (({}, [3]), ({"batch_size": None, "batch_tokens": 1}, [1, 1, 1])):
        sizes.clear()
        small.ours(["the cat"] * 3, max_new_tokens=1, do_sample=False, **settings)
        assert sizes == expected


def test_generators_are_read_by_windows(small: Pair) -> None:
    number_read = 0

    def prompts() -> Iterator[str]:
        nonlocal number_read
        for number in range(1000):
            number_read += 1
            yield f"{'the ' * (number % 3)}cat {number}"

    for batch_size, window in ((1, 1), (2, 2 * BATCHES_IN_WINDOW)):
        number_read = 0
        answers = small.ours(prompts(), do_sample=False, max_new_tokens=1, batch_size=batch_size)
        assert number_read == 0
        assert "cat 0" in next(answers)[0]["generated_text"]
        assert number_read == window
        assert "the cat 1" in next(answers)[0]["generated_text"]


def test_prompts_of_similar_length_are_run_together(small: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    shapes = []
    generate = XLMRobertaForCausalLM.generate

    def counting(self: Any, ids: np.ndarray, *arguments: Any, **keywords: Any) -> Any:
        shapes.append(ids.shape)
        return generate(self, ids, *arguments, **keywords)

    monkeypatch.setattr(XLMRobertaForCausalLM, "generate", counting)
    small.ours(["the", "the the the"] * 4, batch_size=4, do_sample=False, max_new_tokens=1)
    assert shapes == [(4, 2), (4, 4)]


def test_answers_are_json(small: Pair) -> None:
    for return_tensors in (False, True):
        answers = small.ours(PROMPTS, return_tensors=return_tensors, **GREEDY)
        assert json.loads(json.dumps(answers)) == answers


# --- chance ---


def test_tokens_are_drawn_unless_told_otherwise(small: Pair) -> None:
    def drawn(seed: int, **arguments: Any) -> list[dict[str, Any]]:
        return small.ours("the cat", max_new_tokens=6, generator=np.random.default_rng(seed), **arguments)

    assert drawn(0) == drawn(0)
    assert drawn(0) != drawn(1)
    assert drawn(0) == drawn(0, do_sample=True, temperature=0.7)
    assert drawn(0) != drawn(0, temperature=1.0)
    assert len({answer["generated_text"] for answer in drawn(0, num_return_sequences=4)}) == 4
    assert drawn(0, top_k=1) == drawn(0, do_sample=False)
    prompts = ["the cat", "Le", "the"]
    each = [small.ours(prompts, max_new_tokens=4, generator=np.random.default_rng(5)) for _ in range(2)]
    assert each[0] == each[1]


def test_the_models_own_config_decides_whether_tokens_are_drawn(small: Pair) -> None:
    model = XLMRobertaForCausalLM.from_pretrained(small.directory)
    generate = TextGenerationPipeline(model, small.ours.tokenizer, max_new_tokens=6)
    model.generation_config = GenerationConfig(do_sample=True, temperature=2.0)
    by_config = generate("the cat", generator=np.random.default_rng(0))
    assert by_config == generate("the cat", generator=np.random.default_rng(0), temperature=2.0)
    assert by_config != generate("the cat", generator=np.random.default_rng(0), temperature=0.7)
    given = {"generation_config": GenerationConfig()}
    assert generate("the cat", **given) == generate("the cat", do_sample=False)


# --- streams ---


def test_a_stream_spells_the_answer(small: Pair) -> None:
    streamer = TextIteratorStreamer(small.ours.tokenizer, skip_prompt=True, timeout=60, skip_special_tokens=True)
    thread = threading.Thread(target=small.ours, args=("the cat",), kwargs={**GREEDY, "streamer": streamer})
    thread.start()
    parts = list(streamer)
    thread.join()
    assert len([part for part in parts if part]) > 1
    assert "".join(parts) == small.ours("the cat", **GREEDY, return_full_text=False)[0]["generated_text"].strip(" ")


class Recorder:
    """A streamer that keeps what it gets."""

    def __init__(self) -> None:
        self.texts: list[list[int]] = [[]]

    def put(self, ids: np.ndarray) -> None:
        self.texts[-1] += ids.ravel().tolist()

    def end(self) -> None:
        self.texts.append([])


def test_prompts_are_streamed_one_after_the_other(small: Pair) -> None:
    recorder = Recorder()
    answers = small.ours(PROMPTS[:3], streamer=recorder, return_tensors=True, batch_size=8, **GREEDY)
    assert recorder.texts == [*(row for (row,) in ids_of(answers)), []]


def test_beams_are_not_streamed(small: Pair) -> None:
    with pytest.raises(ValueError, match="A streamer shows one text"):
        small.ours("the cat", streamer=Recorder(), num_beams=2, **GREEDY)


# --- long prompts ---


def prompt_of(pair: Pair, length: int) -> str:
    """A prompt that is so many tokens long."""
    prompt = " ".join(["the"] * (length - 1))
    assert len(pair.ours.tokenizer(prompt)["input_ids"]) == length + 1
    return prompt


def test_a_prompt_without_room(small: Pair) -> None:
    for length in (LONGEST, LONGEST + 1, 10 * LONGEST):
        with pytest.raises(ValueError, match=f"^Prompt 2 has {length} tokens, .* at most {LONGEST}.*'the the .*hole"):
            small.ours(["the", prompt_of(small, length)], **GREEDY)


def test_a_prompt_with_little_room(small: Pair, caplog: pytest.LogCaptureFixture) -> None:
    prompts = [prompt_of(small, LONGEST - 3), "the", prompt_of(small, LONGEST - 1)]
    with caplog.at_level(logging.WARNING, "xlmr_np"):
        answers = ids_of(small.ours(prompts, return_tensors=True, batch_size=8, eos_token_id=481, **GREEDY))
    assert [len(row) for (row,) in answers] == [LONGEST, 6, LONGEST]
    (message,) = caplog.messages
    assert message.startswith(f"Prompt 1 of {LONGEST - 3} tokens leaves room for 3 new ones only, and so may others")
    caplog.clear()
    small.ours(prompts, do_sample=False)  # nobody asked for more
    assert caplog.messages == []


def test_the_beginning_of_a_prompt_is_cut_off(small: Pair) -> None:
    ids = small.ours.tokenizer(LONG)["input_ids"][:-1]
    arguments = {"handle_long_generation": "hole", "return_tensors": True, "do_sample": False}
    one_token = {**arguments, "stopping_criteria": [lambda ids, scores: True]}
    for number in (1, 8, LONGEST - 2, LONGEST - 1):
        kept = LONGEST - number
        (answer,) = ids_of(small.ours(LONG, **one_token, max_new_tokens=number))
        assert answer[:-1] == [0, *ids[len(ids) - kept + 1 :]]  # the reference cuts off <s>, too
    (answer,) = ids_of(small.ours("the cat", **one_token, max_new_tokens=8))
    assert answer[:-1] == small.ours.tokenizer("the cat")["input_ids"][:-1]
    assert len(ids_of(small.ours(LONG, **arguments, max_new_tokens=3, eos_token_id=481))[0]) == LONGEST
    assert small.ours(LONG, handle_long_generation="hole", **GREEDY)[0]["generated_text"].startswith(LONG)
    for number in (LONGEST, 1000):
        with pytest.raises(ValueError, match=f"no room for {number} new tokens, however much of prompt 1 is cut off"):
            small.ours(LONG, **arguments, max_new_tokens=number)


def test_lengths_that_leave_nothing(small: Pair) -> None:
    with pytest.raises(ValueError, match="max_length=3 leaves no token to generate after a prompt of 6 tokens"):
        small.ours(prompt_of(small, 6), max_length=3)
    with pytest.raises(ValueError, match=r"min_new_tokens=20 is more than max_new_tokens=4 allows"):
        small.ours(prompt_of(small, LONGEST - 4), min_new_tokens=20, max_new_tokens=30)


# --- what is refused ---


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"max_new_token": 5}, TypeError, r"has no setting max_new_token \(did you mean max_new_tokens\?\)"),
        ({"add_special_tokens": False}, TypeError, "has no setting add_special_tokens"),
        ({"top_p": 1.5}, ValueError, "top_p"),
        ({"temperature": 0.0}, ValueError, "temperature"),
        ({"num_beams": 0}, ValueError, "num_beams"),
        ({"num_beams": 2, "num_return_sequences": 3}, ValueError, "num_return_sequences=3 must be at most num_beams=2"),
        ({"do_sample": False, "num_return_sequences": 2}, ValueError, "would all be the same"),
        ({"handle_long_generation": "cut"}, ValueError, "handle_long_generation='cut' must be None or \"hole\""),
        ({"return_tensors": True, "return_full_text": False}, ValueError, "leave one out"),
        ({"return_dict_in_generate": True}, ValueError, r"call model\.generate\(\)"),
        ({"stop_sequence": ""}, ValueError, "stop_strings"),
        ({"stop_sequence": "a", "stop_strings": "b"}, ValueError, "two names for one setting"),
        ({"prefix": 5}, TypeError, "prefix must be a str"),
        ({"batch_size": 0}, ValueError, "batch_size"),
        ({"batch_size": 1.5}, TypeError, "batch_size"),
        ({"generator": 5}, TypeError, r"generator must be a numpy\.random\.Generator"),
    ],
)
def test_wrong_settings(small: Pair, arguments: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        small.ours("the cat", **arguments)
    if "generator" not in arguments:  # which is looked at where tokens are drawn
        with pytest.raises(error, match=message):  # at once, also where the answers come one by one
            small.ours(iter(["the cat"]), **arguments)
        with pytest.raises(error, match=message):
            TextGenerationPipeline(small.ours.model, small.ours.tokenizer, **arguments)


def test_settings_are_checked_before_anything_is_loaded() -> None:
    message = r"text-generation has no setting tempreature \(did you mean temperature\?\); arguments .* model_kwargs"
    with pytest.raises(TypeError, match=message):
        pipeline("text-generation", "nowhere/at-all", tempreature=0.5)
    with pytest.raises(TypeError, match="text-generation has no setting attn_implementation"):
        pipeline("text-generation", "nowhere/at-all", attn_implementation="eager")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (None, "Prompt 2 must be a str, not None"),
        (b"cat", "Prompt 2 must be a str, not bytes b'cat': decode the bytes first"),
        ({"role": "user", "content": "cat"}, "Prompt 2 must be a str, not dict"),
        (["cat"], r"Prompt 2 must be a str, not list \['cat'\]"),
    ],
)
def test_what_is_no_text_in_a_list(small: Pair, wrong: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        small.ours(["the cat", wrong], **GREEDY)


def test_half_a_character(small: Pair) -> None:
    with pytest.raises(ValueError, match="Prompt 1 has a lone surrogate at character 4"):
        small.ours("the \ud83d", **GREEDY)


@pytest.mark.parametrize("inputs", [None, b"the cat", 7])
def test_what_is_neither_a_prompt_nor_prompts(small: Pair, inputs: Any) -> None:
    with pytest.raises(
        TypeError, match=f"Give a prompt, or a list or another iterable of them; got {type(inputs).__name__}"
    ):
        small.ours(inputs, **GREEDY)


def test_a_model_of_another_class(tmp_path: Path, small_vocabulary: Path, caplog: pytest.LogCaptureFixture) -> None:
    save_fill_mask_model(tmp_path, small_vocabulary)
    masked = XLMRobertaForMaskedLM.from_pretrained(tmp_path)
    with pytest.raises(ValueError, match="'text-generation' needs a XLMRobertaForCausalLM; got a XLMRobertaForMasked"):
        pipeline("text-generation", masked, tokenizer=tmp_path)
    with caplog.at_level(logging.WARNING, "xlmr_np"):
        generate = pipeline("text-generation", tmp_path)
    assert [message for message in caplog.messages if "was trained to fill masks" in message] != []
    assert generate("the cat", **GREEDY)[0]["generated_text"].startswith("the cat")


def test_a_tokenizer_of_another_model(small: Pair, tmp_path: Path, small_vocabulary: Path) -> None:
    save_text_generation_model(tmp_path, small_vocabulary, vocab_size=400)
    with pytest.raises(ValueError, match="The tokenizer has 482 tokens and the model 400, so they do not belong"):
        pipeline("text-generation", tmp_path)


def test_a_decoder_that_lacks_its_encoder(tmp_path: Path, small_vocabulary: Path) -> None:
    save_text_generation_model(tmp_path, small_vocabulary, add_cross_attention=True)
    generate = pipeline("text-generation", tmp_path)
    with pytest.raises(ValueError, match="needs encoder_hidden_states"):
        generate("the cat", **GREEDY)
