"""From the arrays of a checkpoint to a parameter tree, and a report of what did not fit."""

import re
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import numpy as np

from xlmr_np import trees
from xlmr_np.arrays import DTYPE_NAMES

from .errors import CheckpointError
from .initialization import check_size, initial_array
from .specification import (
    CROSS_ATTENTION,
    DECODER_BIAS,
    DECODER_WEIGHT,
    HEAD_PARTS,
    TIED_DECODER_BIAS,
    TOKEN_TABLE,
    Parameter,
    bare_name,
    official_name,
)

# Buffers that old checkpoints carry; the model computes them.
IGNORED_NAMES = ("embeddings.position_ids", "embeddings.token_type_ids")
DECODER_BIASES = (DECODER_BIAS, TIED_DECODER_BIAS)
COMPARED_ROWS = 16384  # rows compared at a time when two tables may be one


class Mismatch(NamedTuple):
    """A tensor whose shape in the checkpoint is not the one that the config asks for."""

    name: str
    in_checkpoint: tuple[int, ...]
    in_model: tuple[int, ...]


class LoadReport(NamedTuple):
    """What differed between a checkpoint and a model.

    Attributes:
        missing: official names of parameters that the checkpoint lacks; they were initialised at random: a head, or
            cross-attention in all layers. The decoder's bias has two names, and is missing under both.
        unexpected: tensors of the checkpoint that the model has no place for, as they are spelled there.
        mismatched: tensors of another shape, by official name; they too were initialised at random.
        untied: the config ties the decoder to the token table, but the checkpoint holds two different ones.
    """

    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    mismatched: tuple[Mismatch, ...] = ()
    untied: bool = False

    @property
    def is_as_expected(self) -> bool:
        """Whether nothing differs but heads of other tasks, which a model of this task leaves aside."""
        strangers = [name for name in self.unexpected if not bare_name(name).startswith((*HEAD_PARTS, "pooler."))]
        return not (self.missing or self.mismatched or self.untied or strangers)

    def __str__(self) -> str:
        lines = [f"  missing, initialised at random: {name}" for name in _merged(self.missing)]
        lines += [
            f"  other shape, initialised at random: {name} ({in_checkpoint} in the checkpoint, {in_model} in the model)"
            for name, in_checkpoint, in_model in self.mismatched
        ]
        # What a file calls its tensors may be anything; its line breaks and terminal codes are shown, not obeyed.
        lines += [f"  not used: {name!r}" for name in _merged(self.unexpected)]
        if self.untied:
            lines.append(
                "  not tied: the config ties the decoder to the word embeddings, but the checkpoint holds two "
                "different tables; set tie_word_embeddings=False in the config to say so"
            )
        return "\n".join(lines) or "  every tensor of the checkpoint is used, and none is missing"


class Loaded(NamedTuple):
    """A parameter tree, its specification, and how it came about."""

    params: trees.Tree
    specification: trees.Tree
    report: LoadReport


def load_parameters(
    tensors: Mapping[str, np.ndarray],
    specify: Callable[[bool, bool], trees.Tree],
    *,
    is_tied: bool,
    has_head: bool,
    initializer_range: float,
    ignore_mismatched_sizes: bool = False,
    dtype: np.dtype | None = None,
    generator: np.random.Generator | None = None,
) -> Loaded:
    """Put the tensors of a checkpoint into the places of a specification.

    Arrays are taken as they are, memory maps included; nothing is copied unless `dtype` asks for another
    type. All shapes are compared before anything is allocated.

    Args:
        tensors: by official name, with or without the prefix "roberta.".
        specify: (is_tied, has_pooler) -> specification; the checkpoint decides both arguments.
        is_tied: what the config says about the decoder.
        has_head: whether the model's official names carry the prefix.
        initializer_range: standard deviation of what has to be initialised.
        ignore_mismatched_sizes: initialise tensors of another shape instead of failing.
        dtype: convert to this type; None keeps each array's own.
        generator: for what has to be initialised.

    Raises:
        CheckpointError: the encoder lacks tensors, a name stands there twice, a tensor holds no floats, or
            shapes differ.
    """
    bare = _by_bare_name(tensors)
    _share_decoder(bare, is_tied)
    has_pooler = "pooler.dense.weight" in bare
    specification = specify(is_tied, has_pooler)
    names = {parameter.name for parameter in trees.leaves(specification)}
    has_decoder = not names.isdisjoint(DECODER_BIASES)
    is_untied = (
        is_tied and has_decoder and TOKEN_TABLE in bare and not _are_equal(bare[TOKEN_TABLE], bare[DECODER_WEIGHT])
    )
    if is_untied:
        specification = specify(False, has_pooler)
    check_size(specification)

    wanted = {parameter.name: parameter for parameter in trees.leaves(specification)}
    known = dict.fromkeys([*wanted, DECODER_WEIGHT, *DECODER_BIASES]) if has_decoder else wanted
    missing = [name for name in known if name not in bare]
    # Cross-attention is learnt on top of encoders that were trained without; a file that has some of it is damaged.
    may_lack_cross_attention = not any(CROSS_ATTENTION in name for name in bare)
    lost = [
        official_name(name, has_head)
        for name in missing
        if not name.startswith((*HEAD_PARTS, "pooler.")) and not (may_lack_cross_attention and CROSS_ATTENTION in name)
    ]
    if lost:
        raise CheckpointError(
            f"The checkpoint lacks {len(lost)} of the encoder's tensors ({', '.join(lost[:3])}"
            f"{', ...' if len(lost) > 3 else ''}); it is incomplete, or made for another architecture or config."
        )
    found = {name: bare[name] for name in wanted if name in bare}
    mismatched = [
        Mismatch(official_name(name, has_head), tuple(array.shape), wanted[name].shape)
        for name, array in found.items()
        if tuple(array.shape) != wanted[name].shape
    ]
    if mismatched and not ignore_mismatched_sizes:
        name, in_checkpoint, in_model = mismatched[0]
        raise CheckpointError(
            f"{len(mismatched)} tensor(s) of another shape than the config asks for, first {name}: {in_checkpoint} in "
            f"the checkpoint, {in_model} by the config. Correct the config, or pass ignore_mismatched_sizes=True to "
            "initialise them at random."
        )
    for name, array in found.items():
        if array.dtype.name not in DTYPE_NAMES:
            raise CheckpointError(
                f"{official_name(name, has_head)} is stored as {array.dtype}; weights can be loaded from "
                f"{', '.join(DTYPE_NAMES)} only: convert the checkpoint with the program that made it."
            )

    new_dtype = dtype or next((array.dtype for array in found.values()), np.dtype(np.float32))
    generator = generator or np.random.default_rng()
    other_shape = {mismatch.name for mismatch in mismatched}

    def place(parameter: Parameter) -> np.ndarray:
        array = found.get(parameter.name)
        if array is None or official_name(parameter.name, has_head) in other_shape:
            return initial_array(parameter, initializer_range, generator, new_dtype)
        return array if dtype is None else _converted(array, dtype, official_name(parameter.name, has_head))

    report = LoadReport(
        missing=tuple(official_name(name, has_head) for name in missing),
        unexpected=tuple(
            name for name in tensors if bare_name(name) not in known and bare_name(name) not in IGNORED_NAMES
        ),
        mismatched=tuple(mismatched),
        untied=is_untied,
    )
    return Loaded(trees.map_leaves(place, specification), specification, report)


def _converted(array: np.ndarray, dtype: np.dtype, name: str) -> np.ndarray:
    """The array in another type, if its numbers fit."""
    with np.errstate(over="ignore"):
        converted = array.astype(dtype, copy=False)
    if dtype.name == "float16" and array.dtype.name != "float16" and (np.isinf(converted) & np.isfinite(array)).any():
        raise ValueError(f"{name} holds numbers beyond float16's 65504; load with dtype='bfloat16' or 'float32'.")
    return converted


def _by_bare_name(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    bare: dict[str, np.ndarray] = {}
    for name, array in tensors.items():
        if bare_name(name) in bare:
            raise CheckpointError(f"The checkpoint holds {name!r} under two spellings; keep one of them.")
        bare[bare_name(name)] = array
    return bare


def _share_decoder(bare: dict[str, np.ndarray], is_tied: bool) -> None:
    """Put what the decoder shares under each of its names, where the checkpoint holds it under one.

    A tied weight stands as the token table or as the decoder's, wherever whoever wrote the file found it
    first. The bias has two names, tied or not: where both are there, the reference computes with the
    decoder's own, and untied files of its version 4 hold only the other.
    """
    if is_tied:
        for name, other in ((DECODER_WEIGHT, TOKEN_TABLE), (TOKEN_TABLE, DECODER_WEIGHT)):
            if name in bare:
                bare.setdefault(other, bare[name])
    bias = bare.get(DECODER_BIAS, bare.get(TIED_DECODER_BIAS))
    if bias is not None:
        bare[DECODER_BIAS] = bare[TIED_DECODER_BIAS] = bias


def _are_equal(first: np.ndarray, second: np.ndarray) -> bool:
    """Whether two tables hold the same numbers, at once if they are the same memory."""
    if first.shape != second.shape or first.dtype != second.dtype or first.ndim == 0:
        return False
    if first.ctypes.data == second.ctypes.data and first.strides == second.strides:
        return True
    rows = range(0, len(first), COMPARED_ROWS)
    return all(np.array_equal(first[row : row + COMPARED_ROWS], second[row : row + COMPARED_ROWS]) for row in rows)


def _merged(names: Iterable[str]) -> list[str]:
    """Names that differ in their first number only, as one: "encoder.layer.{0, 1}.output.dense.bias"."""
    numbers: dict[tuple[str, str], list[str]] = {}
    for name in names:
        before, number, after = [*re.split(r"(?<=\.)(\d+)(?=\.)", name, maxsplit=1), "", ""][:3]
        numbers.setdefault((before, after), []).append(number)
    return [
        before + (f"{{{', '.join(found)}}}" if len(found) > 1 else found[0]) + after
        for (before, after), found in numbers.items()
    ]
