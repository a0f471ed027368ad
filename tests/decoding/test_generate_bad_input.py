"""What `generate()` refuses, in one clear sentence each."""

from typing import Any

import numpy as np
import pytest

from tests.decoding.decoders import VOCABULARY, WIDTH, decoder, random_source
from tests.reference_models import random_ids
from xlmr_np.decoding.cache import KeyValueCache
from xlmr_np.decoding.generation_config import GenerationConfig

PROMPTS = random_ids([5, 3], side="left")
ONES = np.ones((2, 5, WIDTH))

WRONG: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    # prompts
    "ids and embeddings": (
        {"inputs_embeds": ONES},
        ValueError,
        "Give input_ids or inputs_embeds as the prompt, not both",
    ),
    "floats": ({"input_ids": [[5.0, 6.0]]}, TypeError, "input_ids must be an array of integers; it holds float64"),
    "text": ({"input_ids": "five"}, ValueError, "input_ids must have the axes"),
    "words": ({"input_ids": [["five"]]}, TypeError, "must be an array of integers"),
    "one axis": ({"input_ids": [5, 6]}, ValueError, r"the axes \[batch, tokens\]"),
    "no tokens": ({"input_ids": [[]]}, ValueError, r"none of them empty; its shape is \(1, 0\)"),
    "no prompts": ({"input_ids": np.ones((0, 3), int)}, ValueError, r"its shape is \(0, 3\)"),
    "rows of different lengths": ({"input_ids": [[5, 6], [7]]}, ValueError, "rows of different lengths"),
    "pads only": ({"input_ids": [[5, 6], [1, 1]]}, ValueError, "Prompt 1 has no token that is not padding"),
    "a mask that hides all": ({"attention_mask": [[1] * 5, [0] * 5]}, ValueError, "Prompt 1 has no token"),
    "an unknown token": ({"input_ids": [[5, VOCABULARY]]}, ValueError, r"input_ids\[0, 1\] is 61"),
    "a negative token": ({"input_ids": [[-1, 5]]}, ValueError, r"input_ids\[0, 0\] is -1"),
    "no beginning": (
        {"input_ids": None},
        ValueError,
        "no bos_token_id to begin with; pass input_ids",
    ),
    "embeddings of integers": ({"input_ids": None, "inputs_embeds": ONES.astype(int)}, TypeError, "floating-point"),
    "embeddings of another width": ({"input_ids": None, "inputs_embeds": ONES[..., 1:]}, ValueError, "has width 23"),
    "embeddings of no tokens": ({"input_ids": None, "inputs_embeds": ONES[:, :0]}, ValueError, "none of them empty"),
    "a mask of another shape": ({"attention_mask": np.ones((2, 4))}, ValueError, r"has shape \(2, 4\)"),
    "a mask of who sees whom": ({"attention_mask": np.ones((2, 5, 5))}, ValueError, "this one says who sees whom"),
    "a negative mask": ({"attention_mask": -np.ones((2, 5))}, ValueError, "has negative values"),
    "a mask of NaN": ({"attention_mask": np.full((2, 5), np.nan)}, ValueError, "holds NaN"),
    "a mask of words": ({"attention_mask": [["a"] * 5] * 2}, ValueError, "must hold booleans or numbers"),
    "states for no cross-attention": (random_source(2), ValueError, "decoder without cross-attention"),
    # the cache
    "no cache": ({"past_key_values": ((1, 2),)}, TypeError, "past_key_values must be a KeyValueCache"),
    "a cache of no use": (
        {"past_key_values": KeyValueCache(), "use_cache": False},
        ValueError,
        "past_key_values are given with use_cache=False",
    ),
    # settings
    "a typo": (
        {"max_new_token": 5},
        TypeError,
        "max_new_token is no setting of generation; did you mean max_new_tokens",
    ),
    "an unknown setting": ({"foo": 5}, TypeError, "foo is no setting of generation; correct or omit the name"),
    "a typo in forward's arguments": ({"attention_masks": None}, TypeError, "attention_masks is no setting"),
    "no new tokens": ({"max_new_tokens": 0}, ValueError, "max_new_tokens"),
    "a length below the prompt's": (
        {"max_length": 4},
        ValueError,
        "max_length=4 leaves no token to generate after a prompt of 5 tokens",
    ),
    "more than the most": ({"max_new_tokens": 3, "min_new_tokens": 4}, ValueError, "min_new_tokens=4 is more than"),
    "one text several times": ({"num_return_sequences": 2}, ValueError, "would all be the same"),
    "more texts than beams": ({"num_beams": 2, "num_return_sequences": 3}, ValueError, "must be at most num_beams=2"),
    "no beams": ({"num_beams": 0}, ValueError, "num_beams"),
    "no temperature": ({"do_sample": True, "temperature": 0.0}, ValueError, "temperature"),
    "a probability above 1": ({"do_sample": True, "top_p": 1.5}, ValueError, "top_p"),
    "a negative top_k": ({"do_sample": True, "top_k": -1}, ValueError, "top_k"),
    "a wrong type": ({"num_beams": 2.0}, TypeError, "num_beams"),
    "an unknown position mode": ({"position_mode": "torch"}, ValueError, '"model" or "huggingface"'),
    "an unknown end": (
        {"eos_token_id": 99},
        ValueError,
        "eos_token_id names token 99, but the model knows only 0 to 60",
    ),
    "an unknown early_stopping": ({"num_beams": 2, "early_stopping": "soon"}, ValueError, "early_stopping"),
    "every token banned": ({"suppress_tokens": list(range(61))}, ValueError, "leave none of the 61 tokens"),
    # the rest
    "stop strings without a tokenizer": ({"stop_strings": "."}, ValueError, "pass tokenizer= too"),
    "a seed": ({"do_sample": True, "generator": 0}, TypeError, "generator must be a numpy.random.Generator"),
    "a seed for nothing": ({"generator": 0}, TypeError, "generator must be a numpy.random.Generator"),
    "a processor that is none": ({"logits_processor": [5]}, TypeError, "logits_processor must hold functions"),
    "a criterion that is none": ({"stopping_criteria": ["."]}, TypeError, "stopping_criteria must hold functions"),
    "a streamer of two texts": ({"streamer": object()}, ValueError, "A streamer shows one text while it grows"),
    "a streamer of beams": (
        {"input_ids": PROMPTS[:1], "streamer": object(), "num_beams": 2},
        ValueError,
        "give one prompt, and no beams or further texts",
    ),
    "a streamer of further texts": (
        {"input_ids": PROMPTS[:1], "streamer": object(), "do_sample": True, "num_return_sequences": 2},
        ValueError,
        "give one prompt",
    ),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_is_refused(what: str) -> None:
    settings, error, message = WRONG[what]
    model = decoder(bos_token_id=None) if what == "no beginning" else decoder()
    before = repr(model.generation_config)
    with pytest.raises(error, match=message) as raised:
        model.generate(**{"input_ids": PROMPTS, **settings})
    assert type(raised.value) is error
    assert repr(model.generation_config) == before


def test_a_config_of_the_call_is_checked_too() -> None:
    config = GenerationConfig()
    vars(config)["num_beams"] = 0
    with pytest.raises(ValueError, match="num_beams"):
        decoder().generate(PROMPTS, config)


def test_caches_that_do_not_fit_the_prompts() -> None:
    model = decoder()
    for length, message in (
        (5, "The cache holds 5 tokens and the prompt has 5 in all"),
        (3, "holds 3 tokens and the prompt has 2"),
    ):
        past = model(random_ids([length, length])).past_key_values
        prompts = PROMPTS[:, :5] if length == 5 else random_ids([2, 2])
        with pytest.raises(ValueError, match=message):
            model.generate(prompts, past_key_values=past)
    past = model(PROMPTS[:, :3]).past_key_values
    with pytest.raises(ValueError, match="holds 2 sentences, and 1 came"):
        model.generate(PROMPTS[:1], past_key_values=past)
    with pytest.raises(ValueError, match=r"attention_mask\[1, 0\] is True, but that token was hidden when it came"):
        model.generate(PROMPTS, attention_mask=np.ones((2, 5), int), past_key_values=past)
    with pytest.raises(ValueError, match="The cache was filled by another model"):
        decoder(num_hidden_layers=1).generate(PROMPTS, past_key_values=past)
    assert past.get_seq_length() == 3
    assert model.generate(PROMPTS, past_key_values=past, max_new_tokens=2).shape == (2, 7)


def test_sources_that_do_not_fit() -> None:
    model, source = decoder(has_source=True), random_source(2)
    with pytest.raises(ValueError, match="needs encoder_hidden_states"):
        model.generate(PROMPTS)
    with pytest.raises(ValueError, match="without the encoder_hidden_states"):
        model.generate(PROMPTS, encoder_attention_mask=source["encoder_attention_mask"])
    with pytest.raises(ValueError, match=r"it must be \(2, source tokens, 24\)"):
        model.generate(PROMPTS, **{name: each[:1] for name, each in source.items()})
    past = model(PROMPTS[:, :3], **source).past_key_values
    with pytest.raises(ValueError, match="not those whose keys and values the cache has"):
        model.generate(PROMPTS, past_key_values=past, **random_source(2, seed=5))
    for given in ({}, source):
        texts = model.generate(PROMPTS, past_key_values=past, max_new_tokens=2, **given)
        assert texts.shape == (2, 7)
        past.crop(3)


def test_a_masked_model_generates_nothing() -> None:
    from xlmr_np import XLMRobertaForMaskedLM

    assert not hasattr(XLMRobertaForMaskedLM, "generate")
