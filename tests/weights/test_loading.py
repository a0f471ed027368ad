"""From the tensors of a checkpoint to a model: names, ties, reports, element types, memory."""

import json
import logging
import mmap
import re
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from tests.reference_models import TINY, random_ids, save_reference
from xlmr_np import XLMRobertaConfig, XLMRobertaForMaskedLM, XLMRobertaModel, trees
from xlmr_np.weights.errors import CheckpointError
from xlmr_np.weights.loading import COMPARED_ROWS, Loaded, LoadReport, Mismatch, load_parameters
from xlmr_np.weights.safetensors_format import read_safetensors, write_safetensors
from xlmr_np.weights.specification import encoder_specification, masked_lm_specification

TOKEN_TABLE = "roberta.embeddings.word_embeddings.weight"
DECODER_WEIGHT = "lm_head.decoder.weight"
DECODER_BIAS = "lm_head.decoder.bias"
HEAD_BIAS = "lm_head.bias"
VOCABULARY, WIDTH = TINY["vocab_size"], TINY["hidden_size"]

IDS = random_ids([7, 5])
IS_REAL = IDS != 1

CLASSES = {"XLMRobertaModel": XLMRobertaModel, "XLMRobertaForMaskedLM": XLMRobertaForMaskedLM}

State = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Directories that transformers saved: a bare model, masked language models, a classifier. Not to be changed."""
    folder = tmp_path_factory.mktemp("saved")
    save_reference(folder / "base", "XLMRobertaModel")
    save_reference(folder / "masked", "XLMRobertaForMaskedLM")
    save_reference(folder / "untied", "XLMRobertaForMaskedLM", tie_word_embeddings=False)
    save_reference(folder / "classifier", "XLMRobertaForSequenceClassification")
    return {path.name: path for path in folder.iterdir()}


@pytest.fixture
def write(saved: dict[str, Path], tmp_path: Path) -> Callable[..., Path]:
    """A function that makes a checkpoint of any tensors, with the config of a saved one."""

    def write(state: State, config_of: str = "untied", **changes: Any) -> Path:
        directory = tmp_path / "checkpoint"
        directory.mkdir(exist_ok=True)
        config = json.loads((saved[config_of] / "config.json").read_text())
        (directory / "config.json").write_text(json.dumps({**config, **changes}))
        save_file({name: tensor.clone() for name, tensor in state.items()}, directory / "model.safetensors")
        return directory

    return write


def test_numbers_beyond_float16_are_refused_by_name(tmp_path: Path) -> None:
    save_reference(tmp_path, "XLMRobertaModel")
    tensors = dict(read_safetensors(tmp_path / "model.safetensors"))
    bias = "encoder.layer.1.output.dense.bias"
    tensors[bias] = np.full_like(tensors[bias], 1e6)
    write_safetensors(tmp_path / "model.safetensors", tensors)
    with pytest.raises(ValueError, match=rf"{bias} holds numbers beyond float16's 65504"):
        XLMRobertaModel.from_pretrained(tmp_path, dtype="float16")
    assert XLMRobertaModel.from_pretrained(tmp_path, dtype="bfloat16").dtype.name == "bfloat16"


def state_of(directory: Path) -> State:
    return load_file(directory / "model.safetensors")


def load_reference(directory: Path, class_name: str = "XLMRobertaForMaskedLM", **settings: Any) -> tuple[Any, Any]:
    """transformers' model and its loading information."""
    torch.manual_seed(1)
    model, information = getattr(transformers, class_name).from_pretrained(
        directory, output_loading_info=True, **settings
    )
    return model.eval(), information


def logits_of(model: Any) -> np.ndarray:
    """The logits at real tokens, of either library's model."""
    if isinstance(model, torch.nn.Module):
        with torch.no_grad():
            return model(torch.tensor(IDS), attention_mask=torch.tensor(IS_REAL)).logits.numpy()[IS_REAL]
    return model(IDS).logits[IS_REAL]


def check_round_trip(model: XLMRobertaForMaskedLM, directory: Path) -> None:
    """What we save, transformers loads with nothing missing or left over, and we load as the same model."""
    model.save_pretrained(directory)
    theirs, information = load_reference(directory)
    assert not any(information.values()), information
    np.testing.assert_allclose(logits_of(theirs), logits_of(model), rtol=0, atol=1e-10)
    again = XLMRobertaForMaskedLM.from_pretrained(directory)
    np.testing.assert_array_equal(logits_of(again), logits_of(model))
    assert again.is_tied == model.is_tied


# The tied decoder, in every way that a file may hold it


WEIGHTS: dict[str, Callable[[State], State]] = {
    "decoder only": lambda state: {name: state[name] for name in state if name != TOKEN_TABLE},
    "embedding only": lambda state: {name: state[name] for name in state if name != DECODER_WEIGHT},
    "both equal": lambda state: {**state, DECODER_WEIGHT: state[TOKEN_TABLE]},
    "both different": lambda state: state,
}
BIASES: dict[str, Callable[[State], State]] = {
    "lm_head.bias only": lambda state: {name: state[name] for name in state if name != DECODER_BIAS},
    "decoder.bias only": lambda state: {name: state[name] for name in state if name != HEAD_BIAS},
    "both equal": lambda state: {**state, DECODER_BIAS: state[HEAD_BIAS]},
    "both different": lambda state: {**state, DECODER_BIAS: 2 * state[HEAD_BIAS]},
    "neither": lambda state: {name: state[name] for name in state if name not in (HEAD_BIAS, DECODER_BIAS)},
}


@pytest.fixture
def checkpoint(saved: dict[str, Path], write: Callable[..., Path]) -> Callable[[str, str, bool], Path]:
    def checkpoint(weights: str, biases: str, says_tied: bool) -> Path:
        state = BIASES[biases](WEIGHTS[weights](state_of(saved["untied"])))
        return write(state, tie_word_embeddings=says_tied)

    return checkpoint


# What the config says, and in which ways the weights may then stand in the file. Of an untied model, half is not
# enough: the reference makes up the other half, at random.
TIES = [(True, weights) for weights in WEIGHTS] + [(False, "both equal"), (False, "both different")]


@pytest.mark.parametrize("biases", BIASES)
@pytest.mark.parametrize(("says_tied", "weights"), TIES)
def test_tied_weights_mean_what_they_mean_to_the_reference(
    checkpoint: Callable[[str, str, bool], Path], tmp_path: Path, weights: str, biases: str, says_tied: bool
) -> None:
    directory = checkpoint(weights, biases, says_tied)
    theirs, their_information = load_reference(directory)
    ours, information = XLMRobertaForMaskedLM.from_pretrained(directory, output_loading_info=True)

    expected = logits_of(theirs)
    if not says_tied and biases == "lm_head.bias only":
        # Untied files of transformers 4 hold the bias under this name alone. Version 5 starts another one at
        # zero, with a warning; we compute with what is there.
        assert their_information["missing_keys"] == {DECODER_BIAS}
        expected = expected + state_of(directory)[HEAD_BIAS].numpy()
    np.testing.assert_allclose(logits_of(ours), expected, rtol=0, atol=1e-10)
    assert ours.is_tied == (says_tied and weights != "both different")
    assert ours.load_report.untied == (says_tied and weights == "both different")
    assert information["unexpected_keys"] == their_information["unexpected_keys"] == set()
    # One bias under either name is enough, tied or not; without any, both names are missing.
    assert information["missing_keys"] == ({HEAD_BIAS, DECODER_BIAS} if biases == "neither" else set())
    assert information["missing_keys"] <= their_information["missing_keys"]
    check_round_trip(ours, tmp_path / "again")


@pytest.mark.parametrize("says_tied", [True, False])
def test_a_model_without_either_table_is_refused(
    saved: dict[str, Path], write: Callable[..., Path], says_tied: bool
) -> None:
    state = WEIGHTS["decoder only"](WEIGHTS["embedding only"](state_of(saved["untied"])))
    with pytest.raises(CheckpointError, match=rf"lacks 1 of the encoder's tensors \({TOKEN_TABLE}\)"):
        XLMRobertaForMaskedLM.from_pretrained(write(state, tie_word_embeddings=says_tied))


@pytest.mark.parametrize("biases", BIASES)
def test_an_untied_model_without_embeddings_is_refused(
    checkpoint: Callable[[str, str, bool], Path], biases: str
) -> None:
    with pytest.raises(CheckpointError, match=rf"lacks 1 of the encoder's tensors \({TOKEN_TABLE}\)"):
        XLMRobertaForMaskedLM.from_pretrained(checkpoint("decoder only", biases, False))


@pytest.mark.parametrize("biases", BIASES)
def test_an_untied_model_without_a_decoder_says_so(
    checkpoint: Callable[[str, str, bool], Path], tmp_path: Path, biases: str, caplog: pytest.LogCaptureFixture
) -> None:
    directory = checkpoint("embedding only", biases, False)
    model = XLMRobertaForMaskedLM.from_pretrained(directory)
    assert set(model.load_report.missing) == {DECODER_WEIGHT} | (
        {HEAD_BIAS, DECODER_BIAS} if biases == "neither" else set()
    )
    assert f"missing, initialised at random: {DECODER_WEIGHT}" in caplog.text
    assert not model.is_tied
    check_round_trip(model, tmp_path / "again")


def test_the_embeddings_may_stand_in_the_file_as_the_decoder(
    checkpoint: Callable[[str, str, bool], Path], saved: dict[str, Path]
) -> None:
    directory = checkpoint("decoder only", "both equal", True)
    model = XLMRobertaModel.from_pretrained(directory)
    np.testing.assert_array_equal(
        model.params.encoder.embeddings.token, state_of(saved["untied"])[DECODER_WEIGHT].numpy()
    )


@pytest.mark.parametrize("row", [0, COMPARED_ROWS - 1, COMPARED_ROWS, COMPARED_ROWS + 4])
def test_tables_are_compared_to_the_last_row(row: int) -> None:
    config = XLMRobertaConfig(**{**TINY, "vocab_size": COMPARED_ROWS + 5})
    tensors = arrays_for(config)
    tensors[DECODER_WEIGHT] = tensors[TOKEN_TABLE].copy()
    assert not load(tensors, config).report.untied
    tensors[DECODER_WEIGHT][row, -1] += 1
    loaded = load(tensors, config)
    assert loaded.report.untied
    assert loaded.params[1].decoder.weight is tensors[DECODER_WEIGHT]


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_a_shared_storage_is_a_tie_without_comparing(saved: dict[str, Path], tmp_path: Path, legacy: bool) -> None:
    model, _ = load_reference(saved["masked"])
    with torch.no_grad():  # not equal to itself, so that only the memory can tell
        model.roberta.embeddings.word_embeddings.weight[3, 0] = torch.nan
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin", _use_new_zipfile_serialization=not legacy)
    (tmp_path / "config.json").write_text((saved["masked"] / "config.json").read_text())
    ours = XLMRobertaForMaskedLM.from_pretrained(tmp_path)
    assert ours.is_tied
    assert not ours.load_report.untied
    assert ours.num_parameters() == model.num_parameters()


def test_two_tables_in_a_pickle_are_not_tied(saved: dict[str, Path], tmp_path: Path) -> None:
    torch.save(state_of(saved["untied"]), tmp_path / "pytorch_model.bin")
    (tmp_path / "config.json").write_text((saved["masked"] / "config.json").read_text())
    ours = XLMRobertaForMaskedLM.from_pretrained(tmp_path)
    assert ours.load_report.untied
    np.testing.assert_allclose(logits_of(ours), logits_of(load_reference(tmp_path)[0]), rtol=0, atol=1e-10)


# Names


@pytest.mark.parametrize("class_name", CLASSES)
@pytest.mark.parametrize("prefix", ["roberta.", ""])
def test_the_prefix_goes_both_ways(
    saved: dict[str, Path], write: Callable[..., Path], class_name: str, prefix: str
) -> None:
    state = {name.replace("roberta.", prefix): tensor for name, tensor in state_of(saved["masked"]).items()}
    directory = write(state, "masked")
    theirs, _ = load_reference(directory, class_name)
    ours = CLASSES[class_name].from_pretrained(directory)
    expected = theirs.state_dict()
    assert not ours.load_report.missing
    for name, array in ours.state_dict().items():
        np.testing.assert_array_equal(array, expected[name].numpy(), err_msg=name)


def test_gamma_and_beta_are_saved_under_their_modern_names(
    saved: dict[str, Path], write: Callable[..., Path], tmp_path: Path
) -> None:
    modern = state_of(saved["base"])
    old = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): tensor
        for name, tensor in modern.items()
    }
    assert sum("gamma" in name for name in old) == 5
    model = XLMRobertaModel.from_pretrained(write(old, "base"))
    assert model.load_report == LoadReport()
    model.save_pretrained(tmp_path / "again")
    again = state_of(tmp_path / "again")
    assert again.keys() == modern.keys()
    assert all(torch.equal(again[name], modern[name]) for name in modern)


def test_buffers_of_old_checkpoints_are_ignored(
    saved: dict[str, Path], write: Callable[..., Path], caplog: pytest.LogCaptureFixture
) -> None:
    buffers = {
        "roberta.embeddings.position_ids": torch.arange(34)[None],
        "embeddings.token_type_ids": torch.zeros(1, 34, dtype=torch.int64),
    }
    model = XLMRobertaForMaskedLM.from_pretrained(write({**state_of(saved["masked"]), **buffers}, "masked"))
    assert model.load_report == LoadReport()
    assert not caplog.records


@pytest.mark.parametrize(
    ("name", "other"),
    [
        ("encoder.layer.0.output.dense.bias", "roberta.encoder.layer.0.output.dense.bias"),
        ("embeddings.LayerNorm.weight", "embeddings.LayerNorm.gamma"),
    ],
)
def test_two_spellings_of_one_name_are_refused(
    saved: dict[str, Path], write: Callable[..., Path], name: str, other: str
) -> None:
    state = state_of(saved["base"])
    with pytest.raises(CheckpointError, match=r"holds '.*' under two spellings"):
        XLMRobertaModel.from_pretrained(write({**state, other: state[name]}, "base"))


# What differs is reported


@pytest.mark.parametrize("class_name", CLASSES)
@pytest.mark.parametrize("file", ["base", "masked", "untied", "classifier"])
def test_loading_information_is_the_references(saved: dict[str, Path], file: str, class_name: str) -> None:
    settings = {"add_pooling_layer": True} if class_name == "XLMRobertaModel" else {}
    _, theirs = load_reference(saved[file], class_name, **settings)
    _, ours = CLASSES[class_name].from_pretrained(saved[file], output_loading_info=True, **settings)
    assert ours == {**theirs, "error_msgs": []}


EXPECTED_DIFFERENCES = [
    ("masked", "XLMRobertaModel"),
    ("untied", "XLMRobertaModel"),
    ("classifier", "XLMRobertaModel"),
    ("base", "XLMRobertaModel"),
    ("masked", "XLMRobertaForMaskedLM"),
    ("untied", "XLMRobertaForMaskedLM"),
]


@pytest.mark.parametrize(("file", "class_name"), EXPECTED_DIFFERENCES)
def test_what_is_expected_is_quiet(
    saved: dict[str, Path], caplog: pytest.LogCaptureFixture, file: str, class_name: str
) -> None:
    with caplog.at_level(logging.DEBUG, "xlmr_np"):
        model = CLASSES[class_name].from_pretrained(saved[file])
    assert not caplog.records
    assert not model.load_report.missing
    assert model.load_report.is_as_expected


def test_a_body_has_no_decoder_to_be_tied(
    saved: dict[str, Path], write: Callable[..., Path], caplog: pytest.LogCaptureFixture
) -> None:
    model = XLMRobertaModel.from_pretrained(write(state_of(saved["untied"]), tie_word_embeddings=True))
    assert not model.load_report.untied
    assert not caplog.records


def test_a_pooler_that_the_file_lacks_is_left_out(saved: dict[str, Path], caplog: pytest.LogCaptureFixture) -> None:
    assert XLMRobertaModel.from_pretrained(saved["masked"])(IDS).pooler_output is None
    assert not caplog.records
    assert XLMRobertaModel.from_pretrained(saved["masked"], add_pooling_layer=True)(IDS).pooler_output is not None
    assert "missing, initialised at random: pooler.dense.weight" in caplog.text


def test_a_missing_head_is_named(saved: dict[str, Path], caplog: pytest.LogCaptureFixture) -> None:
    model = XLMRobertaForMaskedLM.from_pretrained(saved["base"])
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert "XLMRobertaForMaskedLM" in caplog.text
    assert str(saved["base"]) in caplog.text
    head = {name for name in model.state_dict() if name.startswith("lm_head.")} - {DECODER_WEIGHT}
    assert set(model.load_report.missing) == head
    for name in head:
        assert f"missing, initialised at random: {name}" in caplog.text


def test_two_tables_where_the_config_says_one_are_named(
    checkpoint: Callable[[str, str, bool], Path], caplog: pytest.LogCaptureFixture
) -> None:
    XLMRobertaForMaskedLM.from_pretrained(checkpoint("both different", "both equal", True))
    assert "not tied" in caplog.text
    assert "tie_word_embeddings=False" in caplog.text


def test_strangers_are_named(
    saved: dict[str, Path], write: Callable[..., Path], caplog: pytest.LogCaptureFixture
) -> None:
    extra = {"encoder.layer.7.output.dense.bias": torch.zeros(3), "counter": torch.arange(2)}
    model = XLMRobertaModel.from_pretrained(write({**state_of(saved["base"]), **extra}, "base"))
    assert set(model.load_report.unexpected) == set(extra)
    assert "not used: 'counter'" in caplog.text


def test_a_report_reads_well() -> None:
    layers = [f"encoder.layer.{i}.{part}" for i in (0, 2, 11) for part in ("output.dense.bias", "LayerNorm.gamma")]
    report = LoadReport(
        missing=("lm_head.bias", "lm_head.dense.weight"),
        unexpected=(*layers, "encoder.layer.3.alone", "a\n\x1b[31mb", "1.2", "x.1.2.3.y"),
        mismatched=(Mismatch("roberta.pooler.dense.bias", (3,), (4,)),),
        untied=True,
    )
    assert str(report).splitlines() == [
        "  missing, initialised at random: lm_head.bias",
        "  missing, initialised at random: lm_head.dense.weight",
        "  other shape, initialised at random: roberta.pooler.dense.bias ((3,) in the checkpoint, (4,) in the model)",
        "  not used: 'encoder.layer.{0, 2, 11}.output.dense.bias'",
        "  not used: 'encoder.layer.{0, 2, 11}.LayerNorm.gamma'",
        "  not used: 'encoder.layer.3.alone'",
        r"  not used: 'a\n\x1b[31mb'",
        "  not used: '1.2'",
        "  not used: 'x.1.2.3.y'",
        "  not tied: the config ties the decoder to the word embeddings, but the checkpoint holds two different "
        "tables; set tie_word_embeddings=False in the config to say so",
    ]
    assert not report.is_as_expected


def test_a_report_without_differences_says_so() -> None:
    assert str(LoadReport()) == "  every tensor of the checkpoint is used, and none is missing"
    assert LoadReport().is_as_expected


@pytest.mark.parametrize(
    ("report", "is_as_expected"),
    [
        (LoadReport(unexpected=("lm_head.bias", "classifier.weight", "qa_outputs.bias", "pooler.dense.bias")), True),
        (LoadReport(unexpected=("roberta.pooler.dense.weight",)), True),
        (LoadReport(unexpected=("encoder.layer.9.output.dense.bias",)), False),
        (LoadReport(missing=("pooler.dense.bias",)), False),
        (LoadReport(mismatched=(Mismatch("lm_head.bias", (1,), (2,)),)), False),
        (LoadReport(untied=True), False),
    ],
)
def test_only_other_heads_are_expected(report: LoadReport, is_as_expected: bool) -> None:
    assert report.is_as_expected == is_as_expected


# What does not fit is refused


def test_another_shape_is_an_error(saved: dict[str, Path], write: Callable[..., Path]) -> None:
    state = {**state_of(saved["masked"]), "lm_head.dense.bias": torch.zeros(5, dtype=torch.float64)}
    directory = write(state, "masked")
    with pytest.raises(
        CheckpointError, match=r"^1 tensor.*, first lm_head.dense.bias: \(5,\) in the checkpoint, \(24,\) by the"
    ):
        XLMRobertaForMaskedLM.from_pretrained(directory)
    ours, information = XLMRobertaForMaskedLM.from_pretrained(
        directory, output_loading_info=True, ignore_mismatched_sizes=True
    )
    _, theirs = load_reference(directory, ignore_mismatched_sizes=True)
    assert information == {**theirs, "error_msgs": []}
    assert information["mismatched_keys"] == {("lm_head.dense.bias", (5,), (24,))}
    np.testing.assert_array_equal(ours.params.head.dense.bias, np.zeros(24))


def test_a_transposed_matrix_is_another_shape(saved: dict[str, Path], write: Callable[..., Path]) -> None:
    name = "encoder.layer.1.intermediate.dense.weight"
    state = state_of(saved["base"])
    with pytest.raises(CheckpointError, match=rf"{name}: \(24, 40\) in the checkpoint, \(40, 24\) by the config"):
        XLMRobertaModel.from_pretrained(write({**state, name: state[name].T.contiguous()}, "base"))


@pytest.mark.parametrize("class_name", CLASSES)
def test_an_encoder_that_lacks_tensors_is_an_error(
    saved: dict[str, Path], write: Callable[..., Path], class_name: str
) -> None:
    state = state_of(saved["masked"])
    lost = "roberta.encoder.layer.1.output.LayerNorm.bias"
    official = lost if class_name == "XLMRobertaForMaskedLM" else lost.removeprefix("roberta.")
    directory = write({name: tensor for name, tensor in state.items() if name != lost}, "masked")
    with pytest.raises(CheckpointError, match=rf"lacks 1 of the encoder's tensors \({official}\)"):
        CLASSES[class_name].from_pretrained(directory)
    with pytest.raises(CheckpointError, match=r"lacks 16 of the encoder's tensors \(.*, \.\.\.\)"):
        CLASSES[class_name].from_pretrained(write(state, "masked", num_hidden_layers=3))


DECODER = {"is_decoder": True, "add_cross_attention": True}


@pytest.mark.parametrize("class_name", CLASSES)
def test_cross_attention_that_the_file_lacks_is_new_and_named(
    saved: dict[str, Path], caplog: pytest.LogCaptureFixture, class_name: str
) -> None:
    """As an encoder's weights begin a decoder."""
    settings = {"add_pooling_layer": True} if class_name == "XLMRobertaModel" else {}
    file = saved["base" if settings else "masked"]
    _, theirs = load_reference(file, class_name, **DECODER, **settings)
    model, ours = CLASSES[class_name].from_pretrained(
        file, output_loading_info=True, generator=np.random.default_rng(0), **DECODER, **settings
    )
    assert ours == {**theirs, "error_msgs": []}
    assert len(ours["missing_keys"]) == 20
    assert re.search(
        r"missing, initialised at random: (roberta\.)?encoder\.layer\.\{0, 1\}\.crossattention\.self\.query\.weight",
        caplog.text,
    )
    new = model.params.encoder.layers[1].cross_attention
    assert 0.2 < new.query.weight.std() < 0.4  # of an initializer_range of 0.3
    assert not new.output.linear.bias.any()
    assert (new.output.layer_norm.weight == 1).all()


def test_a_part_of_cross_attention_is_damaged(saved: dict[str, Path], tmp_path: Path) -> None:
    save_reference(tmp_path, "XLMRobertaModel", **DECODER)
    state = state_of(tmp_path)
    lost = "encoder.layer.1.crossattention.output.dense.bias"
    save_file({name: tensor for name, tensor in state.items() if name != lost}, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=rf"lacks 1 of the encoder's tensors \({lost}\)"):
        XLMRobertaModel.from_pretrained(tmp_path)


def test_cross_attention_that_the_model_lacks_is_left_aside(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    save_reference(tmp_path, "XLMRobertaModel", **DECODER)
    model = XLMRobertaModel.from_pretrained(tmp_path, add_cross_attention=False)
    assert len(model.load_report.unexpected) == 20
    assert "not used: 'encoder.layer.{0, 1}.crossattention.self.query.weight'" in caplog.text


@pytest.mark.parametrize(
    "dtype", [torch.int64, torch.int8, torch.bool, torch.float8_e4m3fn, torch.float8_e5m2], ids=str
)
def test_weights_that_are_no_ordinary_floats_are_refused(
    saved: dict[str, Path], write: Callable[..., Path], dtype: torch.dtype
) -> None:
    name = "encoder.layer.0.output.dense.bias"
    state = state_of(saved["base"])
    stored = str(dtype).removeprefix("torch.")
    with pytest.raises(CheckpointError, match=rf"{name} is stored as {stored}; .*float64, float32, float16, bfloat16"):
        XLMRobertaModel.from_pretrained(write({**state, name: state[name].to(dtype)}, "base"))


def test_tables_without_any_axis_are_refused(saved: dict[str, Path], write: Callable[..., Path]) -> None:
    state = {**state_of(saved["masked"]), TOKEN_TABLE: torch.tensor(1.0), DECODER_WEIGHT: torch.tensor(1.0)}
    with pytest.raises(CheckpointError, match=r"word_embeddings.weight: \(\) in the checkpoint"):
        XLMRobertaForMaskedLM.from_pretrained(write(state, "masked"))


@pytest.mark.parametrize("changes", [{"vocab_size": 2**20}, {"intermediate_size": 2**16}, {"hidden_size": 3 * 2**12}])
def test_a_config_that_disagrees_with_the_headers_costs_no_memory(
    saved: dict[str, Path], write: Callable[..., Path], changes: dict[str, int]
) -> None:
    directory = write(state_of(saved["masked"]), "masked", **changes)
    tracemalloc.start()
    with pytest.raises(CheckpointError, match="another shape than the config asks for"):
        XLMRobertaForMaskedLM.from_pretrained(directory)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2_000_000  # the smallest of these configs asks for 200 MB


def test_absurd_sizes_are_refused(saved: dict[str, Path], write: Callable[..., Path]) -> None:
    directory = write(state_of(saved["masked"]), "masked", vocab_size=2**22, hidden_size=3 * 2**12)
    with pytest.raises(ValueError, match="more than 25,000,000,000 is refused"):
        XLMRobertaForMaskedLM.from_pretrained(directory)


# Element types

NUMPY_TYPES = {
    "float64": np.dtype(np.float64),
    "float32": np.dtype(np.float32),
    "float16": np.dtype(np.float16),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
}


@pytest.fixture
def stored_as(saved: dict[str, Path], write: Callable[..., Path]) -> Callable[[str], Path]:
    """A function that makes a masked language model stored in an element type."""

    def stored_as(name: str) -> Path:
        state = {key: tensor.to(getattr(torch, name)) for key, tensor in state_of(saved["masked"]).items()}
        return write(state, "masked")

    return stored_as


@pytest.mark.parametrize("name", NUMPY_TYPES)
def test_types_stay_as_stored_and_are_saved_so(stored_as: Callable[[str], Path], tmp_path: Path, name: str) -> None:
    directory = stored_as(name)
    model = XLMRobertaForMaskedLM.from_pretrained(directory)
    assert model.dtype == NUMPY_TYPES[name]
    assert {leaf.dtype for leaf in trees.leaves(model.params)} == {NUMPY_TYPES[name]}
    model.save_pretrained(tmp_path / "again")
    before, after = state_of(directory), state_of(tmp_path / "again")
    assert before.keys() == after.keys()
    for key, tensor in before.items():
        assert after[key].dtype == tensor.dtype == getattr(torch, name)
        assert torch.equal(after[key], tensor)
    assert json.loads((tmp_path / "again" / "config.json").read_text())["dtype"] == name
    assert load_reference(tmp_path / "again")[0].dtype == getattr(torch, name)


@pytest.mark.parametrize("stored", NUMPY_TYPES)
@pytest.mark.parametrize("wanted", NUMPY_TYPES)
def test_types_are_converted_on_request(stored_as: Callable[[str], Path], stored: str, wanted: str) -> None:
    directory = stored_as(stored)
    model = XLMRobertaForMaskedLM.from_pretrained(directory, dtype=wanted)
    expected = {name: tensor.to(getattr(torch, wanted)) for name, tensor in state_of(directory).items()}
    for name, array in model.named(model.params).items():
        assert array.dtype == NUMPY_TYPES[wanted]
        np.testing.assert_array_equal(array.astype(np.float64), expected[name].double().numpy(), err_msg=name)


def test_a_type_may_be_named_in_several_ways(stored_as: Callable[[str], Path]) -> None:
    directory = stored_as("float64")
    for settings in ({"dtype": np.float32}, {"dtype": np.dtype("f4")}, {"torch_dtype": "float32"}):
        assert XLMRobertaModel.from_pretrained(directory, **settings).dtype == np.float32
    for settings in ({"dtype": "auto"}, {"dtype": None}, {"torch_dtype": "auto"}):
        assert XLMRobertaModel.from_pretrained(directory, **settings).dtype == np.float64


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_torch_types_get_told_what_to_write(saved: dict[str, Path], dtype: torch.dtype) -> None:
    name = str(dtype).removeprefix("torch.")
    for keyword in ("dtype", "torch_dtype"):
        with pytest.raises(TypeError, match=rf"write dtype='{name}'"):
            XLMRobertaModel.from_pretrained(saved["base"], **{keyword: dtype})


@pytest.mark.parametrize("name", ["float16", "bfloat16"])
def test_half_types_compute_like_the_rounded_model_in_single_precision(
    stored_as: Callable[[str], Path], name: str
) -> None:
    directory = stored_as(name)
    half = XLMRobertaForMaskedLM.from_pretrained(directory)
    single = XLMRobertaForMaskedLM.from_pretrained(directory, dtype="float32")
    assert half(IDS).logits.dtype == np.float32
    np.testing.assert_array_equal(half(IDS).logits, single(IDS).logits)
    np.testing.assert_array_equal(half.predict(IDS, where=IS_REAL).logits, single.predict(IDS, where=IS_REAL).logits)
    np.testing.assert_array_equal(
        XLMRobertaModel.from_pretrained(directory)(IDS).last_hidden_state,
        XLMRobertaModel.from_pretrained(directory, dtype="float32")(IDS).last_hidden_state,
    )


def test_what_is_missing_is_made_in_the_type_of_the_rest(saved: dict[str, Path], write: Callable[..., Path]) -> None:
    state = {name: tensor.to(torch.float16) for name, tensor in state_of(saved["base"]).items()}
    model = XLMRobertaForMaskedLM.from_pretrained(write(state, "masked"))
    assert {leaf.dtype for leaf in trees.leaves(model.params)} == {np.dtype(np.float16)}
    assert XLMRobertaForMaskedLM.from_pretrained(write(state, "masked"), dtype="float64").dtype == np.float64


# Memory


@pytest.mark.parametrize("shards", ["single", "sharded"])
def test_arrays_are_read_only_views_of_the_file(saved: dict[str, Path], tmp_path: Path, shards: str) -> None:
    limit = 20_000 if shards == "sharded" else "50GB"
    transformers.XLMRobertaForMaskedLM.from_pretrained(saved["masked"]).save_pretrained(tmp_path, max_shard_size=limit)
    assert (len(list(tmp_path.glob("*.safetensors"))) > 1) == (shards == "sharded")
    model = XLMRobertaForMaskedLM.from_pretrained(tmp_path)
    for name, array in model.named(model.params).items():
        assert isinstance(array.base, mmap.mmap), name
        assert not array.flags.writeable, name
        assert not array.flags.owndata, name


def test_an_asked_for_type_that_is_stored_is_not_copied(saved: dict[str, Path]) -> None:
    model = XLMRobertaModel.from_pretrained(saved["base"], dtype="float64")
    assert all(isinstance(leaf.base, mmap.mmap) for leaf in trees.leaves(model.params))


def test_tied_names_are_one_array(saved: dict[str, Path]) -> None:
    state = XLMRobertaForMaskedLM.from_pretrained(saved["masked"]).state_dict()
    assert np.shares_memory(state[DECODER_WEIGHT], state[TOKEN_TABLE])
    assert np.shares_memory(state[DECODER_BIAS], state[HEAD_BIAS])


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux tells which pages of a map are resident")
def test_rows_that_no_text_needs_are_not_read(tmp_path: Path) -> None:
    config = XLMRobertaConfig(**{**TINY, "vocab_size": 400_000})
    XLMRobertaModel(config, generator=np.random.default_rng(0)).save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    size = file.stat().st_size
    assert size > 38_000_000

    def resident_bytes() -> int:
        lines = iter(Path("/proc/self/smaps").read_text().splitlines())
        in_map = (line for line in lines if line.endswith(str(file)))
        return sum(1024 * int(next(rest for rest in lines if rest.startswith("Rss:")).split()[1]) for _ in in_map)

    model = XLMRobertaModel.from_pretrained(tmp_path)
    model(np.array([[0, 50, 399_999, 170_000, 2]]))
    touched = resident_bytes()
    assert 0 < touched < size / 2  # five rows, each with as many pages as the system likes to read around it
    assert np.isfinite(model.params.encoder.embeddings.token).all()
    assert resident_bytes() > 0.9 * size


def test_loading_reads_no_weights(tmp_path: Path) -> None:
    config = XLMRobertaConfig(**{**TINY, "vocab_size": 150_000})
    XLMRobertaForMaskedLM(config, generator=np.random.default_rng(0)).save_pretrained(tmp_path)
    tracemalloc.start()
    XLMRobertaForMaskedLM.from_pretrained(tmp_path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2_000_000  # of a file of 15 MB


# The function underneath


def arrays_for(config: XLMRobertaConfig) -> dict[str, np.ndarray]:
    """A tied masked language model as a file of transformers would hold it."""
    state = XLMRobertaForMaskedLM(config, generator=np.random.default_rng(0)).state_dict()
    return {name: array for name, array in state.items() if name not in (DECODER_WEIGHT, DECODER_BIAS)}


def load(tensors: dict[str, np.ndarray], config: XLMRobertaConfig, **settings: Any) -> Loaded:
    return load_parameters(
        tensors,
        lambda is_tied, has_pooler: (encoder_specification(config), masked_lm_specification(config, is_tied)),
        is_tied=True,
        has_head=True,
        initializer_range=0.3,
        **settings,
    )


def test_what_is_given_stays_as_it_is() -> None:
    config = XLMRobertaConfig(**TINY)
    tensors = arrays_for(config)
    tensors[DECODER_BIAS] = tensors.pop(HEAD_BIAS)
    names, copies = list(tensors), {name: array.copy() for name, array in tensors.items()}
    loaded = load(tensors, config)
    assert list(tensors) == names
    assert all(np.array_equal(tensors[name], copies[name]) for name in names)
    assert loaded.params[1].decoder.bias is tensors[DECODER_BIAS]
    assert loaded.report == LoadReport()


def test_a_generator_makes_what_is_missing_reproducible() -> None:
    config = XLMRobertaConfig(**TINY)
    tensors = {name: array for name, array in arrays_for(config).items() if not name.startswith("lm_head.dense")}

    def dense(seed: int) -> np.ndarray:
        return load(tensors, config, generator=np.random.default_rng(seed)).params[1].dense.weight

    np.testing.assert_array_equal(dense(1), dense(1))
    assert not np.array_equal(dense(1), dense(2))
    assert 0.2 < dense(1).std() < 0.4
