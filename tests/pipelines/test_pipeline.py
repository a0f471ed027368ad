"""Making pipelines: what is loaded, and what is refused."""

import json
import logging
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from tests.pipelines.conftest import Pair
from tests.pipelines.saved_models import save_fill_mask_model
from tests.reference_models import save_reference
from xlmr_np import AutoModelForMaskedLM, AutoTokenizer, XLMRobertaConfig, XLMRobertaModel, pipeline

TEXT = "Bonjour, je suis un petit modèle de <mask>."


def tokens(answer: list[dict[str, Any]]) -> list[int]:
    return [prediction["token"] for prediction in answer]


# --- what is loaded ---


def test_half_precision(small: Pair) -> None:
    fill_mask = pipeline(task="fill-mask", model=small.directory, dtype="float16", device=-1)
    assert fill_mask.model.dtype == np.float16
    ours, theirs = fill_mask(TEXT), small.theirs(TEXT)
    assert tokens(ours)[0] == tokens(theirs)[0]
    assert ours[0]["score"] == pytest.approx(theirs[0]["score"], rel=0.05)  # weights of 11 bits, logits of order 10


@pytest.mark.parametrize("as_path", [str, Path])
def test_a_tokenizer_from_elsewhere(exact: Pair, small_vocabulary: Path, tmp_path: Path, as_path: type) -> None:
    for name in ("config.json", "model.safetensors"):
        shutil.copy(exact.directory / name, tmp_path / name)
    with pytest.raises(OSError, match="has no vocabulary"):
        pipeline("fill-mask", tmp_path)
    for tokenizer in (as_path(exact.directory), AutoTokenizer.from_pretrained(exact.directory)):
        assert pipeline("fill-mask", as_path(tmp_path), tokenizer=tokenizer)(TEXT) == exact.ours(TEXT)


def test_a_loaded_model(exact: Pair) -> None:
    model = AutoModelForMaskedLM.from_pretrained(exact.directory)
    assert pipeline("fill-mask", model, tokenizer=exact.directory, device="cpu")(TEXT) == exact.ours(TEXT)
    with pytest.raises(ValueError, match="With a loaded model, pass its tokenizer too"):
        pipeline("fill-mask", model)


def test_the_third_argument_is_the_config_as_in_the_reference(exact: Pair) -> None:
    config = XLMRobertaConfig.from_pretrained(exact.directory, hidden_act="relu")
    fill_mask = pipeline("fill-mask", exact.directory, config, exact.directory)
    assert fill_mask.model.config.hidden_act == "relu"
    assert fill_mask(TEXT) != exact.ours(TEXT)


def test_settings_reach_the_task_and_the_model(exact: Pair) -> None:
    fill_mask = pipeline(
        "fill-mask",
        exact.directory,
        torch_dtype="float32",
        model_kwargs={"attn_implementation": "eager"},
        top_k=2,
        batch_size=3,
    )
    assert (fill_mask.model.dtype, fill_mask.model.attn_implementation) == (np.float32, "eager")
    assert fill_mask.setting.batch_size == 3
    assert tokens(fill_mask(TEXT)) == tokens(exact.ours(TEXT, top_k=2))


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_the_layout_of_attention_does_not_matter(exact: Pair, attention: str) -> None:
    fill_mask = pipeline("fill-mask", exact.directory, model_kwargs={"attn_implementation": attention})
    answers = fill_mask([TEXT, "<mask>", "the <mask> and the <mask>"])
    for ours, theirs in zip(answers[:2], exact.theirs([TEXT, "<mask>"]), strict=True):
        assert tokens(ours) == tokens(theirs)
        assert [each["score"] for each in ours] == pytest.approx([each["score"] for each in theirs], rel=1e-10)


def test_an_untied_decoder(tmp_path: Path, small_vocabulary: Path) -> None:
    model = save_fill_mask_model(tmp_path, small_vocabulary, torch.float64, tie_word_embeddings=False)
    with torch.no_grad():
        ids = torch.asarray([AutoTokenizer.from_pretrained(tmp_path)(TEXT)["input_ids"]])
        theirs = model(ids).logits[0, (ids[0] == 481).nonzero()[0, 0]].softmax(-1).topk(5)
    answer = pipeline("fill-mask", tmp_path)(TEXT)
    assert tokens(answer) == theirs.indices.tolist()
    assert [each["score"] for each in answer] == pytest.approx(theirs.values.tolist(), rel=1e-10)


# --- what is refused ---


@pytest.mark.parametrize("task", ["", "fill_mask", "translation", ["ner"], 5])
def test_unknown_task(task: Any) -> None:
    message = f"The task {task!r} is not known; the tasks are feature-extraction, fill-mask, ner"
    with pytest.raises(ValueError, match=re.escape(message)):
        pipeline(task, "anything")


def test_no_task() -> None:
    with pytest.raises(ValueError, match="No task is given; pass task= one of feature-extraction, fill-mask, ner"):
        pipeline(model="demo")


def test_no_model() -> None:
    with pytest.raises(ValueError, match="'fill-mask' needs a model: pass model= a directory, a hub id, or 'demo'"):
        pipeline("fill-mask")


def test_a_model_of_another_class(exact: Pair) -> None:
    with pytest.raises(ValueError, match="needs a XLMRobertaForMaskedLM; got a XLMRobertaModel"):
        pipeline("fill-mask", XLMRobertaModel.from_pretrained(exact.directory), tokenizer=exact.directory)


def test_objects_of_another_library(exact: Pair) -> None:
    with pytest.raises(TypeError, match="or a loaded XLMRobertaPreTrainedModel; got a XLMRobertaForMaskedLM"):
        pipeline("fill-mask", exact.theirs.model, tokenizer=exact.directory)
    with pytest.raises(TypeError, match="or a loaded XLMRobertaTokenizer; got a XLMRobertaTokenizer"):
        pipeline("fill-mask", exact.directory, tokenizer=exact.theirs.tokenizer)


def test_torch_types(exact: Pair) -> None:
    for name in ("dtype", "torch_dtype"):
        with pytest.raises(TypeError, match="write dtype='float16'"):
            pipeline("fill-mask", exact.directory, **{name: torch.float16})


def test_a_checkpoint_without_a_head(tmp_path: Path, small_vocabulary: Path) -> None:
    save_reference(tmp_path, "XLMRobertaModel", vocab_size=482)
    shutil.copy(small_vocabulary, tmp_path / "sentencepiece.bpe.model")
    with pytest.raises(ValueError, match=r"lacks weights that fill-mask needs: lm_head\.[^;]*noise; choose") as caught:
        pipeline("fill-mask", tmp_path)
    for name in ("lm_head.bias", "lm_head.dense.weight", "lm_head.layer_norm.weight"):
        assert name in str(caught.value)


def test_a_checkpoint_with_half_a_head(exact: Pair, tmp_path: Path) -> None:
    model = AutoModelForMaskedLM.from_pretrained(exact.directory)
    model.config.vocab_size = 490
    model.config.save_pretrained(tmp_path)
    for name in ("model.safetensors", "sentencepiece.bpe.model"):
        shutil.copy(exact.directory / name, tmp_path / name)
    with pytest.raises(OSError, match="another shape than the config asks for"):
        pipeline("fill-mask", tmp_path)
    with pytest.raises(ValueError, match=r"lacks weights that fill-mask needs: .*lm_head\.bias"):
        pipeline("fill-mask", tmp_path, model_kwargs={"ignore_mismatched_sizes": True})


@pytest.mark.parametrize("model", ["./no-such-directory", "/no-such-directory"])
def test_no_such_directory(model: str) -> None:
    with pytest.raises(OSError, match=r"There is no directory .*no-such-directory"):
        pipeline("fill-mask", model)


def test_an_unknown_setting(exact: Pair) -> None:
    with pytest.raises(TypeError, match="temperature"):
        pipeline("fill-mask", exact.directory, temperature=0.5)


def test_a_tokenizer_of_another_model(exact: Pair, tmp_path: Path) -> None:
    shutil.copytree(exact.directory, tmp_path, dirs_exist_ok=True)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "CamembertTokenizer"}))
    with pytest.raises(OSError, match="'CamembertTokenizer', whose ids are not XLM-R's"):
        pipeline("fill-mask", tmp_path)


def test_strange_tensors_are_reported_and_harmless(
    exact: Pair, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from safetensors.numpy import load_file, save_file

    shutil.copytree(exact.directory, tmp_path, dirs_exist_ok=True)
    tensors = load_file(exact.directory / "model.safetensors")
    save_file({**tensors, "adapter.weight": np.ones(2)}, tmp_path / "model.safetensors", {"format": "pt"})
    with caplog.at_level(logging.WARNING, "xlmr_np"):
        assert pipeline("fill-mask", tmp_path)(TEXT) == exact.ours(TEXT)
    assert "adapter.weight" in caplog.text


def test_the_reference_loads_what_it_compares_with(exact: Pair) -> None:
    """The parity tests would prove nothing if both sides had drifted from what is saved."""
    again = transformers.XLMRobertaForMaskedLM.from_pretrained(exact.directory, dtype=torch.float64)
    ours = AutoModelForMaskedLM.from_pretrained(exact.directory).state_dict()
    for name, parameter in again.state_dict().items():
        assert np.array_equal(ours[name], parameter.numpy())


def test_arguments_that_a_loaded_model_cannot_follow(exact: Pair) -> None:
    model, tokenizer = exact.ours.model, exact.ours.tokenizer
    for argument in ({"dtype": "float16"}, {"config": XLMRobertaConfig()}, {"model_kwargs": {"variant": "fp16"}}):
        with pytest.raises(TypeError, match=rf"loaded already, so {next(iter(argument))} cannot change it"):
            pipeline("fill-mask", model, tokenizer=tokenizer, **argument)


def test_settings_are_checked_before_anything_is_loaded() -> None:
    with pytest.raises(TypeError, match=r"fill-mask has no setting attn_implementation; .* go into model_kwargs"):
        pipeline("fill-mask", "nowhere/at-all", attn_implementation="eager")


def test_model_kwargs_may_say_everything(exact: Pair, tmp_path: Path) -> None:
    settings = {"dtype": "float64", "cache_dir": tmp_path, "attn_implementation": "eager", "output_loading_info": True}
    fill_mask = pipeline("fill-mask", exact.directory, model_kwargs=settings)
    assert fill_mask.model.dtype == np.float64
    assert fill_mask.model.attn_implementation == "eager"


def test_a_model_that_pads_with_another_token(exact: Pair, tmp_path: Path) -> None:
    directory = shutil.copytree(exact.directory, tmp_path / "model")
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps({**config, "pad_token_id": 0}))
    with pytest.raises(ValueError, match="pads with 1, and the model counts positions from pad_token_id 0"):
        pipeline("fill-mask", directory)
