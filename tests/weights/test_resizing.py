"""Vocabularies of another size: the rows that stay, the rows that come, and everything that follows the table."""

import tracemalloc
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
import transformers

import xlmr_np
from tests.reference_models import TASK_CLASSES, TINY, random_ids, save_reference
from xlmr_np import XLMRobertaConfig, XLMRobertaForMaskedLM, XLMRobertaModel
from xlmr_np.weights.resizing import SPREAD, resized_bias, resized_table, rounded_up

RANDOM = np.random.default_rng(2)
VOCABULARY = TINY["vocab_size"]
TABLE = "roberta.embeddings.word_embeddings.weight"
CLASSES = ("XLMRobertaModel", *TASK_CLASSES)
DTYPES = [np.dtype(each) for each in (np.float64, np.float32, np.float16, ml_dtypes.bfloat16)]


def full_rank(rows: int, columns: int, dtype: np.dtype | type = np.float64) -> np.ndarray:
    """Rows about a mean of their own in every column, with correlated columns."""
    mixing = RANDOM.normal(size=(columns, columns))
    return (RANDOM.normal(size=(rows, columns)) @ mixing + 3 * RANDOM.normal(size=columns)).astype(dtype)


# Numbers of rows


@pytest.mark.parametrize(
    ("number", "multiple", "expected"),
    [(61, None, 61), (61, 8, 64), (64, 8, 64), (65, 8, 72), (1, 1, 1), (np.int64(61), np.int64(8), 64), (5, 64, 64)],
)
def test_the_number_of_rows_is_rounded_up(number: int, multiple: int | None, expected: int) -> None:
    assert rounded_up(number, multiple) == expected
    assert type(rounded_up(number, multiple)) is int


@pytest.mark.parametrize("wrong", [0, -1, 2.5, 64.0, "64", True, [64], np.float32(64)])
def test_numbers_of_rows_are_positive_integers(wrong: Any) -> None:
    model = XLMRobertaModel(XLMRobertaConfig(**TINY))
    with pytest.raises(ValueError, match="new_num_tokens must be a positive integer; it is"):
        model.resize_token_embeddings(wrong)
    with pytest.raises(ValueError, match="pad_to_multiple_of must be a positive integer; it is"):
        model.resize_token_embeddings(None, wrong)
    assert model.config.vocab_size == model.get_input_embeddings().shape[0] == VOCABULARY


# New rows


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_new_rows_spread_like_the_old_ones_about_their_mean(dtype: type) -> None:
    old = full_rank(400, 3)
    old -= old.mean(axis=0)  # float32 could not tell such small differences from a mean of another size
    table = old.astype(dtype)
    new = resized_table(table, 400 + 50_000, np.random.default_rng(0), None)
    assert new.dtype == dtype
    np.testing.assert_array_equal(new[:400], table)
    added = new[400:].astype(np.float64)
    covariance = SPREAD * old.T @ old / 400
    deviation = np.sqrt(np.diag(covariance))
    assert (np.abs(added.mean(axis=0)) < 5 * deviation / np.sqrt(50_000) + 1e-7).all()  # float32 rounds the mean
    spread = np.cov(added.T) / np.outer(deviation, deviation)
    correlation = covariance / np.outer(deviation, deviation)
    assert np.abs(spread - correlation).max() < 5 * np.sqrt(2 / 50_000)  # five of its standard errors
    assert np.abs(correlation[np.triu_indices(3, 1)]).max() > 0.2  # the columns are told apart


def test_new_rows_are_as_the_reference_draws_them() -> None:
    """The same distribution: the reference's mean and covariance within five standard errors of ours."""
    reference = transformers.XLMRobertaModel(
        transformers.XLMRobertaConfig(**{**TINY, "hidden_size": 3, "num_attention_heads": 1})
    )
    table = full_rank(VOCABULARY, 3, np.float32)
    reference.set_input_embeddings(torch.nn.Embedding.from_pretrained(torch.asarray(table)))
    number = 20_000
    torch.manual_seed(0)
    theirs = reference.resize_token_embeddings(VOCABULARY + number).weight.detach().numpy()[VOCABULARY:]
    ours = resized_table(table, VOCABULARY + number, np.random.default_rng(0), None)[VOCABULARY:]
    scale = table.std(axis=0) * np.sqrt(SPREAD)
    tolerance = 5 * np.sqrt(2 / number)
    rounding = 2e-7 * np.abs(table).max() / scale.min()  # of float32 at the rows' size, in units of their spread
    ours, theirs = ((rows.astype(np.float64) - table.mean(axis=0, dtype=np.float64)) / scale for rows in (ours, theirs))
    assert np.abs(ours.mean(axis=0) - theirs.mean(axis=0)).max() < tolerance + rounding
    assert np.abs(np.cov(ours.T) - np.cov(theirs.T)).max() < 2 * tolerance + rounding**2


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("rows", [1, 7])
def test_without_a_covariance_new_rows_are_the_mean(rows: int, dtype: np.dtype) -> None:
    """Fewer rows than columns: the reference, too, then takes the mean itself."""
    table = full_rank(rows, 24, dtype)
    new = resized_table(table, rows + 3, np.random.default_rng(0), None)
    assert new.dtype == dtype
    expected = table.astype(np.float64).mean(axis=0).astype(dtype)
    np.testing.assert_array_equal(new[rows:], np.broadcast_to(expected, (3, 24)))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_rows_of_every_type_keep_it(dtype: np.dtype) -> None:
    table = full_rank(40, 4, dtype)
    for deviation in (None, 0.5):
        new = resized_table(table, 45, np.random.default_rng(0), deviation)
        assert new.dtype == dtype
        assert new.shape == (45, 4)
        np.testing.assert_array_equal(new[:40], table)
        assert np.isfinite(new.astype(np.float64)).all()
    bias = table[:, 0]
    np.testing.assert_array_equal(resized_bias(bias, 43, np.random.default_rng(0), None)[:40], bias)
    assert resized_bias(bias, 43, np.random.default_rng(0), None).dtype == dtype


def test_without_mean_resizing_rows_are_those_of_a_new_model() -> None:
    model = XLMRobertaForMaskedLM(XLMRobertaConfig(**{**TINY, "initializer_range": 0.25}, tie_word_embeddings=False))
    model.resize_token_embeddings(VOCABULARY + 4000, mean_resizing=False, generator=np.random.default_rng(0))
    for table in (model.get_input_embeddings(), model.get_output_embeddings()):
        z = table[VOCABULARY:].astype(np.float64) / 0.25
        for power, moment, variance in ((1, 0, 1), (2, 1, 2), (4, 3, 96)):  # of the standard normal
            assert abs(np.mean(z**power) - moment) < 5 * np.sqrt(variance / z.size), f"moment {power}"
    assert (model.params.head.decoder.bias[VOCABULARY:] == 0).all()


def test_new_elements_of_a_bias_are_about_its_mean() -> None:
    bias = RANDOM.normal(size=30)
    new = resized_bias(bias, 30 + 4000, np.random.default_rng(0), None)[30:]
    deviation = SPREAD * bias.std()
    assert abs(new.mean() - bias.mean()) < 5 * deviation / np.sqrt(4000) + 1e-15
    assert 0.9 < new.std() / deviation < 1.1
    np.testing.assert_array_equal(resized_bias(bias, 9, np.random.default_rng(0), None), bias[:9])


def test_a_generator_makes_new_rows_reproducible() -> None:
    def resized(seed: int | None) -> np.ndarray:
        model = XLMRobertaModel(XLMRobertaConfig(**TINY), generator=np.random.default_rng(0), dtype="float64")
        generator = None if seed is None else np.random.default_rng(seed)
        return model.resize_token_embeddings(70, mean_resizing=False, generator=generator)

    np.testing.assert_array_equal(resized(1), resized(1))
    assert not np.array_equal(resized(1), resized(2))
    assert not np.array_equal(resized(None), resized(None))


# Models


def save_as(directory: Path, class_name: str, **changes: Any) -> Any:
    return save_reference(directory, class_name, is_decoder=class_name == "XLMRobertaForCausalLM", **changes)


def inputs_for(class_name: str) -> dict[str, np.ndarray]:
    ids = random_ids([7, 4])
    if class_name == "XLMRobertaForMultipleChoice":
        ids = np.stack([ids, np.where(ids == 1, 1, 65 - ids)], axis=1)
    return {"input_ids": ids, "attention_mask": (ids != 1).astype(np.int64)}


@pytest.mark.parametrize(
    "arguments", [(70,), (50,), (None, 8), (40, 16)], ids=["grown", "cut", "rounded", "cut and rounded"]
)
@pytest.mark.parametrize("is_tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("class_name", CLASSES)
def test_shapes_and_old_rows_are_the_references(
    tmp_path: Path, class_name: str, is_tied: bool, arguments: tuple
) -> None:
    reference = save_as(tmp_path, class_name, tie_word_embeddings=is_tied)
    model = getattr(xlmr_np, class_name).from_pretrained(tmp_path)
    before = {name: array.copy() for name, array in model.state_dict().items()}
    assert not model.get_input_embeddings().flags.writeable  # it is mapped from the file
    returned = model.resize_token_embeddings(*arguments, generator=np.random.default_rng(0))
    reference.resize_token_embeddings(*arguments)
    assert returned is model.get_input_embeddings()
    theirs, ours = reference.state_dict(), model.state_dict()
    number = model.config.vocab_size
    assert number == reference.config.vocab_size == returned.shape[0]
    kept = min(number, VOCABULARY)
    for name, array in ours.items():
        if not is_tied and name == "lm_head.bias":  # a dead parameter of the reference, which forgets to resize it
            np.testing.assert_array_equal(array, ours["lm_head.decoder.bias"])
            continue
        assert array.shape == tuple(theirs[name].shape), name
        assert array.dtype == before[name].dtype
        rows = kept if VOCABULARY in before[name].shape else len(array)
        np.testing.assert_array_equal(array[:rows], before[name][:rows], err_msg=name)
        np.testing.assert_array_equal(array[:rows], theirs[name][:rows], err_msg=name)
        if is_tied and name in ("lm_head.bias", "lm_head.decoder.bias"):  # the reference fills a tied one with zeros
            np.testing.assert_allclose(array[rows:], before[name].mean(), atol=1e-7)
        else:
            np.testing.assert_allclose(array[rows:], theirs[name][rows:], atol=2e-4, err_msg=name)  # both draw them
    has_decoder = class_name in ("XLMRobertaForMaskedLM", "XLMRobertaForCausalLM")
    assert (model.get_output_embeddings() is not None) == has_decoder
    if has_decoder:
        assert (model.get_output_embeddings() is model.get_input_embeddings()) == is_tied
        assert model.is_tied == is_tied


@pytest.mark.parametrize("class_name", CLASSES)
def test_old_tokens_are_read_as_before(tmp_path: Path, class_name: str) -> None:
    save_as(tmp_path, class_name)
    model = getattr(xlmr_np, class_name).from_pretrained(tmp_path)
    inputs = inputs_for(class_name)
    before = model(**inputs, output_hidden_states=True)
    model.resize_token_embeddings(80, generator=np.random.default_rng(0))
    after = model(**inputs, output_hidden_states=True)
    for old, new in zip(before.hidden_states, after.hidden_states, strict=True):
        np.testing.assert_allclose(new, old, atol=1e-13)
    if model.get_output_embeddings() is not None:
        assert after.logits.shape[-1] == 80
        np.testing.assert_allclose(after.logits[..., :VOCABULARY], before.logits, atol=1e-12)
    new_tokens = {"input_ids": np.full_like(inputs["input_ids"], 79)}
    assert np.isfinite(model(**new_tokens)[0]).all()
    with pytest.raises(ValueError, match="is 80; the model's vocab_size of 80 allows 0 to 79"):
        model(np.full_like(inputs["input_ids"], 80))


def test_a_new_token_has_about_the_average_logit(tmp_path: Path) -> None:
    save_reference(tmp_path, "XLMRobertaForMaskedLM")
    model = XLMRobertaForMaskedLM.from_pretrained(tmp_path)
    ids = random_ids([7])
    model.resize_token_embeddings(64, generator=np.random.default_rng(0))
    logits = model(ids).logits
    np.testing.assert_allclose(
        logits[..., VOCABULARY:],
        np.broadcast_to(logits[..., :VOCABULARY].mean(-1, keepdims=True), (1, 7, 3)),
        atol=0.01,
    )


def test_a_cut_vocabulary_knows_no_more_of_its_last_tokens(tmp_path: Path) -> None:
    save_reference(tmp_path, "XLMRobertaForMaskedLM")
    model = XLMRobertaForMaskedLM.from_pretrained(tmp_path)
    ids = np.minimum(random_ids([7]), 49)
    before = model(ids).logits
    model.resize_token_embeddings(50)
    np.testing.assert_allclose(model(ids).logits, before[..., :50], atol=1e-12)
    with pytest.raises(ValueError, match=r"input_ids\[0, 0\] is 50; .*vocab_size of 50"):
        model([[50]])
    with pytest.raises(ValueError, match="is not a token id; they go from 0 to 49"):
        model.predict(ids, where=np.ones(ids.shape, bool), targets=[50])


@pytest.mark.parametrize("is_tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("class_name", CLASSES)
def test_a_resized_model_is_saved_and_loaded_here_and_in_the_reference(
    tmp_path: Path, class_name: str, is_tied: bool
) -> None:
    save_as(tmp_path, class_name, tie_word_embeddings=is_tied)
    model = getattr(xlmr_np, class_name).from_pretrained(tmp_path)
    model.resize_token_embeddings(70, generator=np.random.default_rng(0))
    model.save_pretrained(tmp_path)  # onto the very file the other parameters are mapped from
    again = getattr(xlmr_np, class_name).from_pretrained(tmp_path)
    assert again.load_report.is_as_expected
    assert again.config.vocab_size == 70
    for name, array in model.state_dict().items():
        np.testing.assert_array_equal(again.state_dict()[name], array)
    theirs, information = getattr(transformers, class_name).from_pretrained(tmp_path, output_loading_info=True)
    assert not any(information.values())
    inputs = inputs_for(class_name)
    inputs["input_ids"] = np.where(inputs["attention_mask"] == 1, inputs["input_ids"] + 8, 1)  # up to 68
    with torch.no_grad():
        expected = theirs(**{name: torch.asarray(array) for name, array in inputs.items()})
    is_real = inputs["attention_mask"] == 1
    first = expected[0].numpy()
    ours = model(**inputs)[0]
    if first.shape[:2] == is_real.shape:
        first, ours = first[is_real], ours[is_real]
    np.testing.assert_allclose(ours, first, atol=1e-10)


def test_a_resized_model_learns_new_tokens() -> None:
    model = XLMRobertaForMaskedLM(XLMRobertaConfig(**TINY))
    model.resize_token_embeddings(64)
    ids = np.array([[0, 63, 5, 2]])
    _, gradients = model.loss_and_gradients(input_ids=ids, labels=[[-100, 62, -100, -100]])
    assert gradients.encoder.embeddings.token.shape == (64, 24)
    assert gradients.head.decoder.bias.shape == (64,)
    assert gradients.head.decoder.bias[62] < 0


def test_nothing_changes_without_another_number(tmp_path: Path) -> None:
    save_reference(tmp_path, "XLMRobertaForMaskedLM", vocab_size=64)
    model = XLMRobertaForMaskedLM.from_pretrained(tmp_path)
    params = model.params
    for arguments in ((), (None, None), (64,), (None, 8), (57, 8)):
        assert model.resize_token_embeddings(*arguments) is params.encoder.embeddings.token
    assert model.params is params


@pytest.mark.parametrize("is_tied", [True, False], ids=["tied", "untied"])
def test_the_padding_token_stays(is_tied: bool) -> None:
    """Below it the reference forgets which row is padding, and keeps the id in the config."""
    model = XLMRobertaForMaskedLM(XLMRobertaConfig(**{**TINY, "pad_token_id": 7}, tie_word_embeddings=is_tied))
    before = model.params
    with pytest.raises(ValueError, match="pad_token_id 7 must be below vocab_size 7"):
        model.resize_token_embeddings(7)
    assert model.params is before
    assert model.config.vocab_size == VOCABULARY
    assert model.resize_token_embeddings(8).shape == (8, 24)


def test_absurd_numbers_are_refused_before_anything_is_allocated() -> None:
    model = XLMRobertaModel(XLMRobertaConfig(**TINY))
    tracemalloc.start()
    with pytest.raises(ValueError, match=r"vocab_size must be int, between 1 and 4194304; got int 2147483648"):
        model.resize_token_embeddings(2**31)
    assert tracemalloc.get_traced_memory()[1] < 1_000_000
    tracemalloc.stop()
    assert model.config.vocab_size == VOCABULARY


def test_a_model_without_a_pooler_stays_without() -> None:
    model = XLMRobertaModel(XLMRobertaConfig(**TINY), add_pooling_layer=False)
    model.resize_token_embeddings(70)
    assert model(random_ids([4])).pooler_output is None
    assert not any("pooler" in name for name in model.state_dict())


def test_a_decoder_that_turned_out_untied_stays_untied(tmp_path: Path) -> None:
    save_reference(tmp_path, "XLMRobertaForMaskedLM", tie_word_embeddings=False)
    model = XLMRobertaForMaskedLM.from_pretrained(tmp_path, tie_word_embeddings=True)
    assert model.load_report.untied
    model.resize_token_embeddings(70)
    assert not model.is_tied
    assert model.get_output_embeddings().shape == model.get_input_embeddings().shape == (70, 24)
    assert not np.array_equal(model.get_output_embeddings(), model.get_input_embeddings())


# Input and output embeddings


@pytest.mark.parametrize("class_name", CLASSES)
def test_embeddings_are_the_references(tmp_path: Path, class_name: str) -> None:
    reference = save_as(tmp_path, class_name)
    model = getattr(xlmr_np, class_name).from_pretrained(tmp_path)
    np.testing.assert_array_equal(model.get_input_embeddings(), reference.get_input_embeddings().weight.detach())
    decoder = reference.get_output_embeddings()
    if decoder is None:
        assert model.get_output_embeddings() is None
    else:
        np.testing.assert_array_equal(model.get_output_embeddings(), decoder.weight.detach())


@pytest.mark.parametrize("is_tied", [True, False], ids=["tied", "untied"])
def test_another_table_is_used_from_then_on(tmp_path: Path, is_tied: bool) -> None:
    reference = save_reference(tmp_path, "XLMRobertaForMaskedLM", tie_word_embeddings=is_tied)
    model = XLMRobertaForMaskedLM.from_pretrained(tmp_path)
    table = RANDOM.normal(size=(VOCABULARY, 24))
    decoder = model.get_output_embeddings()
    model.set_input_embeddings(table)
    reference.get_input_embeddings().weight.data = torch.tensor(table)
    assert (model.get_output_embeddings() is model.get_input_embeddings()) == is_tied
    assert (model.get_output_embeddings() is decoder) != is_tied
    ids = random_ids([6, 6])
    with torch.no_grad():
        expected = reference(torch.asarray(ids)).logits
    np.testing.assert_allclose(model(ids).logits, expected, atol=1e-10)
    table[:] = 0  # the model has a copy
    np.testing.assert_allclose(model(ids).logits, expected, atol=1e-10)


def test_another_table_takes_the_models_type() -> None:
    model = XLMRobertaModel(XLMRobertaConfig(**TINY))
    table = RANDOM.normal(size=(VOCABULARY, 24))
    for given in (table, table.astype(ml_dtypes.bfloat16), table.tolist(), torch.asarray(table)):
        model.set_input_embeddings(given)
        assert model.get_input_embeddings().dtype == np.float32
        np.testing.assert_allclose(model.get_input_embeddings(), table, rtol=0.01)


def test_bad_tables_are_named() -> None:
    model = XLMRobertaModel(XLMRobertaConfig(**TINY))
    before = model.params
    with pytest.raises(
        ValueError, match=r"has shape \(61, 24\), and the new one \(62, 24\); .*resize_token_embeddings"
    ):
        model.set_input_embeddings(np.zeros((62, 24)))
    with pytest.raises(ValueError, match=r"has shape \(61, 24\), and the new one \(61, 23\)"):
        model.set_input_embeddings(np.zeros((61, 23)))
    with pytest.raises(TypeError, match="Embeddings must be floats; these are int64"):
        model.set_input_embeddings(np.zeros((61, 24), int))
    assert model.params is before


# Numbers of parameters


@pytest.mark.parametrize("is_tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("class_name", CLASSES)
def test_parameters_are_counted_like_the_references(class_name: str, is_tied: bool) -> None:
    changes = {"tie_word_embeddings": is_tied, "is_decoder": class_name == "XLMRobertaForCausalLM"}
    with torch.device("meta"):
        theirs = getattr(transformers, class_name)(transformers.XLMRobertaConfig(**TINY, **changes))
    ours = getattr(xlmr_np, class_name)(XLMRobertaConfig(**TINY, **changes))
    has_decoder = ours.get_output_embeddings() is not None
    dead_bias = VOCABULARY if has_decoder and not is_tied else 0  # which the reference holds, and never uses
    assert ours.num_parameters() == theirs.num_parameters() - dead_bias
    assert ours.num_parameters(only_trainable=True) == theirs.num_parameters(only_trainable=True) - dead_bias
    # The reference does not leave out a tied table: it finds it under the decoder's name.
    tied_table = VOCABULARY * 24 if has_decoder and is_tied else 0
    assert ours.num_parameters(exclude_embeddings=True) == (
        theirs.num_parameters(exclude_embeddings=True) - dead_bias - tied_table
    )
    ours.resize_token_embeddings(VOCABULARY + 1)
    added = 24 + (has_decoder and 1 + 24 * (not is_tied))
    assert ours.num_parameters() == theirs.num_parameters() - dead_bias + added


@pytest.mark.parametrize("change", [{"vocab_size": 70}, {"num_hidden_layers": 3}], ids=str)
def test_a_config_changed_by_hand_is_refused(change: dict[str, int]) -> None:
    model = XLMRobertaModel(XLMRobertaConfig(**TINY))
    for name, value in change.items():
        setattr(model.config, name, value)
    with pytest.raises(ValueError, match="cannot be changed by its config alone"):
        model.resize_token_embeddings(70)
