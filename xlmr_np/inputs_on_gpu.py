"""The model's door for what is on the GPU already: checked and laid out there, with one small download in between.

Token ids with a mask of two dimensions or none, which is what tokenizers make, stay where they are. Masks that say who
sees whom, and users' own embeddings, go by the host: see `xlmr_np.inputs`, whose rules and messages are the same. What
cross-attention sees stays on the device as well: `inputs.with_source` is for arrays of either kind.
"""

from typing import Any

from xlmr_np.arrays import Array, array_namespace, is_cupy_array, to_numpy
from xlmr_np.config import XLMRobertaConfig
from xlmr_np.inputs import (
    EncoderInputs,
    check_kind,
    check_lengths,
    check_shape,
    longest_sequence,
    negative_mask,
    no_mask,
    wrong_index,
)
from xlmr_np.layers.attention import PackedMask, Spans
from xlmr_np.ops.cuda.kernels import Gpu
from xlmr_np.ops.cuda.unpadding import Findings, measure, pack


def are_on_gpu(arguments: dict[str, Any], device: str) -> bool:
    """Whether these arguments of a forward pass, as far as they are given, are arrays on the model's GPU.

    Raises:
        TypeError: some are and some are not, or they are on another device than the model.
    """
    places = {
        name: f"cuda:{given.device.id}" if is_cupy_array(given) else "cpu"
        for name, given in arguments.items()
        if given is not None
    }
    gpu_arrays = [name for name, place in places.items() if place != "cpu"]
    if not gpu_arrays:
        return False
    first = gpu_arrays[0]
    for name, place in places.items():
        if place != places[first]:
            raise TypeError(f"{first} is on {places[first]} and {name} on {place}; bring them to the same device.")
    if places[first] != device:
        raise TypeError(
            f"{first} is on {places[first]} and the model on {device}; move the model with "
            f"model.to({places[first]!r}), or pass {first}.get()."
        )
    return True


def stays_on_gpu(input_ids: Any = None, attention_mask: Any = None, inputs_embeds: Any = None, **others: Any) -> bool:
    """Whether `prepare_inputs_on_gpu` takes such arguments."""
    return inputs_embeds is None and input_ids is not None and (attention_mask is None or attention_mask.ndim == 2)


def prepare_inputs_on_gpu(
    gpu: Gpu,
    config: XLMRobertaConfig,
    input_ids: Array,
    attention_mask: Array | None = None,
    token_type_ids: Array | None = None,
    position_ids: Array | None = None,
) -> EncoderInputs:
    """Check the arguments of a forward pass and lay them out, packed, as `inputs.prepare_inputs` does.

    Args:
        gpu: where they are.
        config: of the model.
        input_ids: [B, T] token ids.
        attention_mask: [B, T], nonzero at real tokens; None: the tokens that are not padding are real.
        token_type_ids: [B, T]; zeros if None.
        position_ids: [B, T] or [1, T]; counted if None.

    Raises:
        ValueError, TypeError: as for `prepare_inputs`.
    """
    xp = array_namespace(input_ids)
    shape, limit = input_ids.shape, longest_sequence(config)
    pad_id = config.max_position_embeddings - limit - 1
    if position_ids is not None and position_ids.ndim == 2 and position_ids.shape[0] == 1:
        position_ids = xp.broadcast_to(position_ids, (shape[0], position_ids.shape[1]))
    indices = {"input_ids": input_ids, "token_type_ids": token_type_ids, "position_ids": position_ids}
    for name, index in indices.items():
        if index is not None:
            check_kind(name, index, "iu", ("batch", "tokens"))
            check_shape(name, index, shape)
    if attention_mask is not None:
        check_shape("attention_mask", attention_mask, shape)
        if attention_mask.dtype.name == "bfloat16":
            attention_mask = xp.astype(attention_mask, xp.float32)
        if attention_mask.dtype.kind not in "biuf":
            raise ValueError(no_mask(attention_mask))

    sizes = config.vocab_size, config.type_vocab_size, config.max_position_embeddings
    fields = "vocab_size", "type_vocab_size", "max_position_embeddings"
    measured = measure(gpu, input_ids, token_type_ids, position_ids, attention_mask, pad_id, *sizes)
    findings = Findings(*to_numpy(measured.findings))
    wrong = findings.wrong_id, findings.wrong_token_type, findings.wrong_position
    for columns, (name, index), size, field in zip(wrong, indices.items(), sizes, fields, strict=True):
        for row in (columns >= 0).nonzero()[0][:1]:
            place = int(row), int(columns[row])
            raise ValueError(wrong_index(name, place, int(index[place]), size, field))
    for row in (findings.wrong_mask >= 0).nonzero()[0][:1]:
        assert attention_mask is not None
        is_negative = attention_mask[int(row), int(findings.wrong_mask[row])] < 0
        raise ValueError(negative_mask(2) if is_negative else no_mask(attention_mask))
    if position_ids is None:
        check_lengths(findings.tokens, config)
    packed = pack(gpu, input_ids, token_type_ids, position_ids, measured, int(findings.real.sum()), pad_id)
    spans = Spans(packed.starts, measured.findings[0, :])
    return EncoderInputs(
        packed.ids,
        packed.token_types,
        packed.positions,
        PackedMask(spans, spans, config.is_decoder),
        measured.is_real,
        None,
    )
