"""Streamers, stop strings, times, and functions of users, through `generate()`."""

import io
import threading
import time
from functools import cache
from typing import Any

import numpy as np
import pytest

from tests.decoding.decoders import decoder
from tests.reference_models import random_ids
from xlmr_np import AutoTokenizer, XLMRobertaForCausalLM
from xlmr_np.decoding.streamers import TextIteratorStreamer, TextStreamer

pytestmark = pytest.mark.usefixtures("quick_steps")

TEXT = "Everyone has the right to"


@cache
def demo() -> tuple[Any, Any]:
    """The model that comes with the package, as a decoder: what it says makes no sense, but these are words."""
    return XLMRobertaForCausalLM.from_pretrained("demo", is_decoder=True), AutoTokenizer.from_pretrained("demo")


def prompt() -> np.ndarray:
    return np.asarray(demo()[1](TEXT)["input_ids"])[None, :-1]  # without the final </s>


SETTINGS: dict[str, Any] = {"max_new_tokens": 12, "suppress_tokens": [0, 1, 2, 3], "no_repeat_ngram_size": 2}


@pytest.mark.parametrize("skip_prompt", [False, True])
def test_text_comes_piece_by_piece(skip_prompt: bool) -> None:
    model, tokenizer = demo()
    expected = model.generate(prompt(), **SETTINGS)[0]
    file = io.StringIO()
    streamer = TextStreamer(tokenizer, skip_prompt, file, skip_special_tokens=True)
    np.testing.assert_array_equal(model.generate(prompt(), streamer=streamer, **SETTINGS)[0], expected)
    wanted = expected[prompt().shape[1] :] if skip_prompt else expected
    assert file.getvalue() == tokenizer.decode(wanted, skip_special_tokens=True) + "\n"


def test_an_iterator_in_another_thread() -> None:
    model, tokenizer = demo()
    streamer = TextIteratorStreamer(tokenizer, skip_prompt=True, timeout=60, skip_special_tokens=True)
    thread = threading.Thread(target=model.generate, args=(prompt(),), kwargs={"streamer": streamer, **SETTINGS})
    thread.start()
    parts = list(streamer)
    thread.join()
    new = model.generate(prompt(), **SETTINGS)[0, prompt().shape[1] :]
    assert "".join(parts) == tokenizer.decode(new, skip_special_tokens=True)
    assert len([part for part in parts if part]) > 3


class Recording:
    """A streamer that has no `abort`."""

    def __init__(self) -> None:
        self.tokens: list[Any] = []
        self.ended = 0

    def put(self, ids: Any) -> None:
        self.tokens.append(np.array(ids).tolist())

    def end(self) -> None:
        self.ended += 1


def test_a_streamer_gets_the_prompt_and_then_each_token() -> None:
    streamer, ids = Recording(), random_ids([4])
    text = decoder().generate(ids, streamer=streamer, max_new_tokens=5, eos_token_id=60)[0]
    assert streamer.tokens == [[text[:4].tolist()], *([token] for token in text[4:].tolist())]
    assert streamer.ended == 1


def boom(ids: np.ndarray, scores: Any) -> Any:
    if ids.shape[1] > 10:
        raise RuntimeError("boom")
    return scores


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        ({"logits_processor": [boom]}, "boom"),
        ({"top_kk": 5}, "did you mean top_k"),
        ({"num_beams": 2}, "A streamer shows one text"),
        ({"input_ids": [[1, 1]]}, "no token that is not padding"),
        ({"input_ids": [[5, 9_999_999]]}, "9999999"),
    ],
    ids=["a processor", "a typo", "beams", "an empty prompt", "an unknown token"],
)
def test_an_error_reaches_who_iterates(wrong: dict[str, Any], error: str) -> None:
    """Otherwise that thread would wait for ever; also where nothing was generated yet."""
    model, tokenizer = demo()
    streamer = TextIteratorStreamer(tokenizer, timeout=60)
    with pytest.raises((RuntimeError, TypeError, ValueError), match=error) as raised:
        model.generate(**{"input_ids": prompt(), "streamer": streamer, **SETTINGS, **wrong})
    parts = []
    with pytest.raises(type(raised.value), match=error):
        parts.extend(streamer)
    assert ("".join(parts) != "") == (error == "boom")
    recording = Recording()
    with pytest.raises(type(raised.value), match=error):
        model.generate(**{"input_ids": prompt(), "streamer": recording, **SETTINGS, **wrong})
    assert recording.ended == 0


def test_stop_strings_of_the_real_tokenizer() -> None:
    model, tokenizer = demo()
    settings = {**SETTINGS, "suppress_tokens": [0, 1, 2, 3]}
    whole = model.generate(prompt(), **settings)[0]
    length = prompt().shape[1]
    words = tokenizer.decode(whole[length:]).split()
    for stop in (words[1], words[2][:2], [words[3], "not to be found"]):
        ours = model.generate(prompt(), stop_strings=stop, tokenizer=tokenizer, **settings)[0]
        strings = [stop] if isinstance(stop, str) else stop
        np.testing.assert_array_equal(ours, whole[: len(ours)])
        assert any(string in tokenizer.decode(ours[length:]) for string in strings)
        assert not any(string in tokenizer.decode(ours[length:-1]) for string in strings)
    beams = model.generate(prompt(), stop_strings=words[1], tokenizer=tokenizer, num_beams=3, **settings)
    assert beams.shape[0] == 1


def test_time_ends_a_text() -> None:
    model = decoder(max_position_embeddings=4000)

    def slow(ids: np.ndarray, scores: np.ndarray) -> np.ndarray:
        time.sleep(0.02)
        return scores

    texts = model.generate(random_ids([3]), max_time=0.2, max_new_tokens=3000, eos_token_id=60, logits_processor=[slow])
    assert 4 <= texts.shape[1] < 3 + 12  # a step takes at least 0.02 of 0.2 seconds, and the first is never left out


@pytest.mark.parametrize("num_beams", [1, 3])
def test_functions_of_users(num_beams: int) -> None:
    """They get all tokens so far, which they cannot change, and come after all others."""
    model, prompts = decoder(), random_ids([5, 3], side="left")
    lengths: dict[str, list[int]] = {"processor": [], "criterion": []}

    def only_nine(ids: np.ndarray, scores: np.ndarray) -> np.ndarray:
        assert not ids.flags.writeable
        np.testing.assert_array_equal(ids[:: len(ids) // 2, :5], prompts)
        lengths["processor"].append(ids.shape[1])
        scores[:] = -np.inf
        scores[:, 9 + ids.shape[1] % 2] = 0
        return scores

    def at_nine_tokens(ids: np.ndarray, scores: Any) -> np.ndarray:
        assert not ids.flags.writeable
        lengths["criterion"].append(ids.shape[1])
        return np.full(len(ids), ids.shape[1] == 9)

    texts = model.generate(
        prompts,
        logits_processor=[only_nine],
        stopping_criteria=[at_nine_tokens],
        num_beams=num_beams,
        max_new_tokens=20,
    )
    np.testing.assert_array_equal(texts[:, 5:], [[10, 9, 10, 9]] * 2)
    assert lengths == {"processor": [5, 6, 7, 8], "criterion": [6, 7, 8, 9]}


def test_a_criterion_may_end_single_texts() -> None:
    model, prompts = decoder(), random_ids([5, 3], side="left")
    expected = model.generate(prompts, max_new_tokens=8, eos_token_id=60)
    ours = model.generate(
        prompts,
        max_new_tokens=8,
        eos_token_id=60,
        stopping_criteria=[lambda ids, scores: np.array([ids.shape[1] >= 7, False])],
    )
    np.testing.assert_array_equal(ours[1], expected[1])
    np.testing.assert_array_equal(ours[0, :7], expected[0, :7])
    assert (ours[0, 7:] == 1).all()
