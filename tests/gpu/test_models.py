"""Whole models on the card, against the CPU and against transformers on the same card."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import xlmr_np
from tests.gpu.card import needs_gpu
from tests.models.test_gpu_engine import CLASSES, SHAPE, TOLERANCE, WRONG, arguments, assert_close
from tests.reference_models import TASK_CLASSES, TINY, random_ids, save_reference
from xlmr_np import XLMRobertaConfig, XLMRobertaForMaskedLM, XLMRobertaModel, XLMRobertaTokenizer, pipeline, trees
from xlmr_np.arrays import to_device, to_numpy
from xlmr_np.config import XLM_ROBERTA_BASE
from xlmr_np.heads.sentence_pooling import POOLINGS
from xlmr_np.inputs import prepare_inputs

pytestmark = needs_gpu

SENTENCES = [
    "Все люди рождаются свободными и равными в своем достоинстве и правах.",
    "Όλοι οι άνθρωποι γεννιούνται ελεύθεροι και ίσοι.",
    "Every child has the right to go to school.",
    "人人生而自由,在尊严和权利上一律平等。",
    "يولد جميع الناس أحرارا متساوين في الكرامة والحقوق.",
    "Tom never speaks about his parents.",
    "Ich habe gestern einen Brief an meine Schwester geschrieben.",
    "Elle ne savait pas que nous étions déjà partis.",
    "Mañana vamos a comer con los amigos de mi hermano.",
    "Oggi il tempo è bello e i bambini giocano in giardino.",
    "Ela comprou um livro novo para ler no comboio.",
    "Wij wonen al tien jaar in een klein huis bij de zee.",
    "Hän ei tiennyt, että olimme jo lähteneet kotiin.",
    "Bu sabah erken kalktım ve işe yürüyerek gittim.",
    "Vi har ikke sett ham siden han flyttet til byen.",
    "Nie wiem, dlaczego on jeszcze nie przyszedł.",
    "Kérem, mondja meg, hol van a legközelebbi állomás.",
    "Tôi muốn mua một quyển sách cho bạn của tôi.",
    "Saya tidak tahu di mana dia tinggal sekarang.",
    "मैं कल अपने दोस्त के साथ बाज़ार गया था।",
]


def models(class_name: str, dtype: str) -> tuple[Any, Any]:
    """A random model on the card, and the same numbers in float64 on the CPU."""
    config = XLMRobertaConfig(**SHAPE)
    model, exact = (
        getattr(xlmr_np, class_name)(config, generator=np.random.default_rng(0), dtype=dtype) for _ in range(2)
    )
    exact.params = trees.map_leaves(lambda leaf: leaf.astype(np.float64), exact.params)
    return model.to("cuda"), exact


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("class_name", CLASSES)
def test_every_class_computes_what_it_does_on_the_cpu(class_name: str, dtype: str) -> None:
    """From arrays of the host, and from arrays of the card."""
    model, exact = models(class_name, dtype)
    given = arguments(class_name)
    expected = exact(**given).to_tuple()
    uploaded = {name: to_device(array, "cuda:0") for name, array in given.items()}
    for ours in (model(**given), model(**uploaded), model(**uploaded, output_hidden_states=True)):
        ours = tuple(trees.map_leaves(to_numpy, part) for part in ours.to_tuple()[: len(expected)])
        assert_close(ours, expected, dtype)


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_attentions(dtype: str) -> None:
    model, exact = models("XLMRobertaModel", dtype)
    ours, expected = (
        each(**arguments("XLMRobertaModel"), output_attentions=True).attentions for each in (model, exact)
    )
    assert_close(trees.map_leaves(to_numpy, ours), expected, dtype)


def test_from_pretrained_and_back(tmp_path: Path) -> None:
    model = XLMRobertaModel.from_pretrained("demo", device="cuda", dtype="float16")
    assert (model.device, model.dtype) == ("cuda:0", np.float16)
    model.save_pretrained(tmp_path)
    again = XLMRobertaModel.from_pretrained(tmp_path)
    expected = XLMRobertaModel.from_pretrained("demo", dtype="float16")
    for ours, theirs in zip(trees.leaves(again.params), trees.leaves(expected.params), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("pooling", [*POOLINGS, ("mean", "max")])
def test_sentences_are_embedded_as_on_the_cpu(pooling: Any) -> None:
    tokenizer = XLMRobertaTokenizer.from_pretrained("demo")
    embeddings = [
        pipeline(
            "sentence-embedding", XLMRobertaModel.from_pretrained("demo", dtype="float32", device=device),
            tokenizer=tokenizer, pooling=pooling, normalize=True, batch_size=batch_size,
        )(SENTENCES)
        for device, batch_size in (("cpu", 8), ("cuda", 8), ("cuda", 3))
    ]  # fmt: skip
    for on_card in embeddings[1:]:
        np.testing.assert_allclose(on_card, embeddings[0], rtol=0, atol=2e-5)  # float32 of length one


@pytest.mark.parametrize("what", WRONG)
def test_wrong_inputs_have_the_host_s_words(what: str) -> None:
    model, _ = models("XLMRobertaModel", "float16")
    given = {"input_ids": np.array([[5, 6], [7, 1]]), **WRONG[what]}
    with pytest.raises((ValueError, TypeError)) as expected:
        prepare_inputs(model.config, **given)
    with pytest.raises(type(expected.value)) as ours:
        model(**{name: to_device(array, "cuda:0") for name, array in given.items()})
    assert str(ours.value) == str(expected.value)


def test_arrays_of_two_places_are_refused() -> None:
    model, exact = models("XLMRobertaModel", "float32")
    ids = random_ids([5, 3], SHAPE["vocab_size"])
    with pytest.raises(TypeError, match="input_ids is on cuda:0 and attention_mask on cpu"):
        model(to_device(ids, "cuda:0"), attention_mask=ids != 1)
    with pytest.raises(TypeError, match="input_ids is on cuda:0 and the model on cpu; move the model with"):
        exact(to_device(ids, "cuda:0"))


def test_too_little_memory_names_a_smaller_batch() -> None:
    import cupy

    model = XLMRobertaForMaskedLM.from_pretrained("demo", device="cuda", dtype="float16")
    pool = cupy.get_default_memory_pool()
    pool.free_all_blocks()
    pool.set_limit(size=pool.total_bytes() + 2**24)
    try:
        with pytest.raises(MemoryError, match="too small for a batch of 64 of these; try batches of 32"):
            model(np.full((64, 200), 5))
    finally:
        pool.set_limit(size=0)


@pytest.mark.parametrize("class_name", TASK_CLASSES)
def test_every_head_computes_what_transformers_does_on_the_card(class_name: str, tmp_path: Path) -> None:
    import torch

    is_decoder = class_name == "XLMRobertaForCausalLM"
    theirs = save_reference(tmp_path, class_name, torch.float32, is_decoder=is_decoder).cuda()
    ids = random_ids([9, 4, 7, 20], TINY["vocab_size"])
    if class_name == "XLMRobertaForMultipleChoice":
        ids = ids.reshape(2, 2, -1)
    given = {"input_ids": ids, "attention_mask": (ids != 1).astype(np.int64)}
    with torch.no_grad():
        expected = theirs(**{name: torch.tensor(array).cuda() for name, array in given.items()})
    ours = getattr(xlmr_np, class_name).from_pretrained(tmp_path, device="cuda")(**given)
    names = [name for name in ("logits", "start_logits", "end_logits") if name in expected]
    assert names
    for name in names:
        their, our = expected[name].cpu().numpy(), to_numpy(getattr(ours, name))
        compared = ids != 1 if their.shape[:2] == ids.shape else np.full(their.shape, True)  # of tokens: the real ones
        np.testing.assert_allclose(
            our[compared],
            their[compared],
            rtol=0,
            atol=1e-4,  # float32, through all layers of both
        )


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_no_less_exact_than_transformers(dtype: str, tmp_path: Path) -> None:
    """On a random model of base's shape: the error against float32 is at most 1.5 times that of transformers."""
    import torch
    import transformers

    XLM_ROBERTA_BASE.save_pretrained(tmp_path)
    torch.manual_seed(0)
    theirs = transformers.XLMRobertaModel(transformers.XLMRobertaConfig.from_pretrained(tmp_path)).eval()
    theirs.save_pretrained(tmp_path)
    ids = random_ids([128, 100, 77, 5], 250_000)
    mask = (ids != 1).astype(np.int64)
    tensors = {"input_ids": torch.tensor(ids).cuda(), "attention_mask": torch.tensor(mask).cuda()}
    is_real = mask[..., None] == 1
    with torch.no_grad():
        exact = theirs.double().cuda()(**tensors).last_hidden_state.cpu().numpy() * is_real
        theirs = theirs.to(getattr(torch, dtype))
        their_error = np.abs(theirs(**tensors).last_hidden_state.float().cpu().numpy() * is_real - exact)
    model = XLMRobertaModel.from_pretrained(tmp_path, device="cuda", dtype=dtype)
    ours = to_numpy(model(ids, attention_mask=mask).last_hidden_state).astype(np.float64)
    our_error = np.abs(ours - exact)
    print(f"{dtype}: mean error {our_error.mean():.2e}, transformers {their_error.mean():.2e}")
    assert our_error.mean() <= 1.5 * their_error.mean()
    assert our_error.max() <= 1.5 * their_error.max()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_the_demo_model_fills_masks_as_on_the_cpu(dtype: str) -> None:
    """Each token of these sentences hidden in turn: 99.5 in 100 first guesses are the same."""
    tokenizer = XLMRobertaTokenizer.from_pretrained("demo")
    rows, places = [], []
    for sentence in SENTENCES:
        ids = tokenizer(sentence).input_ids
        for place in range(1, len(ids) - 1):
            rows.append({"input_ids": [*ids[:place], tokenizer.mask_token_id, *ids[place + 1 :]]})
            places.append(place)
    batch = tokenizer.pad(rows, return_tensors="np")
    where = np.zeros(batch["input_ids"].shape, bool)
    where[np.arange(len(places)), places] = True
    guesses = [
        to_numpy(XLMRobertaForMaskedLM.from_pretrained("demo", **settings).predict(**batch, where=where, k=2).ids)[:, 0]
        for settings in ({"dtype": "float32"}, {"dtype": dtype, "device": "cuda"})
    ]
    same = (guesses[0] == guesses[1]).mean()
    print(f"{dtype}: {100 * same:.2f} % of {len(places)} first guesses are the same")
    assert same >= {"float16": 0.995, "bfloat16": 0.97}[dtype]  # bfloat16 has an eighth of float16's digits
