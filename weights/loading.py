"""From the arrays of a checkpoint to a parameter tree, and a report of what did not fit."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

from xlmr_np import trees

from .errors import CheckpointError
from .initialization import check_size, initial_array
from .specification import (
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
COMPARED_ROWS = 16384  # rows compared at a time when two tables may be one


class Mismatch(NamedTuple):
    """A tensor whose shape in the checkpoint is not the one that the config asks for."""

    name: str
    in_checkpoint: tuple[int, ...]
    in_model: tuple[int, ...]


class LoadReport(NamedTuple):
    """What differed between a checkpoint and a model; all names are official ones.

    Attributes:
        missing: parameters of the model that the checkpoint lacks; they were initialised at random.
        unexpected: tensors of the checkpoint that the model has no place for.
        mismatched: tensors of another shape; they too were initialised at random.
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
        lines = [f"  missing, initialised at random: {name}" for name in self.missing]
        lines += [
            f"  other shape, initialised at random: {name} ({in_checkpoint} in the checkpoint, {in_model} in the model)"
            for name, in_checkpoint, in_model in self.mismatched
        ]
        lines += [f"  not used: {name}" for name in self.unexpected]
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
    is_really_tied = is_tied and _tie(bare)
    if not is_really_tied and TIED_DECODER_BIAS in bare:
        bare.setdefault(DECODER_BIAS, bare[TIED_DECODER_BIAS])
    specification = specify(is_really_tied, "pooler.dense.weight" in bare)
    check_size(specification)

    wanted = {parameter.name: parameter for parameter in trees.leaves(specification)}
    missing = [name for name in wanted if name not in bare]
    lost = [name for name in missing if not name.startswith((*HEAD_PARTS, "pooler."))]
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
            f"{len(mismatched)} tensors have another shape than the config asks for, first {name}: {in_checkpoint} in "
            f"the checkpoint, {in_model} by the config. Correct the config, or pass ignore_mismatched_sizes=True to "
            "initialise these tensors at random."
        )
    for name, array in found.items():
        if not _is_floating(array.dtype):
            raise CheckpointError(
                f"{official_name(name, has_head)} is stored as {array.dtype}; only float64, float32, float16 and "
                "bfloat16 weights can be loaded."
            )

    new_dtype = dtype or next((array.dtype for array in found.values()), np.dtype(np.float32))
    generator = generator or np.random.default_rng()
    other_shape = {mismatch.name for mismatch in mismatched}

    def place(parameter: Parameter) -> np.ndarray:
        array = found.get(parameter.name)
        if array is None or official_name(parameter.name, has_head) in other_shape:
            return initial_array(parameter, initializer_range, generator, new_dtype)
        return array.astype(dtype, copy=False) if dtype is not None else array

    decoder_names = {DECODER_WEIGHT, DECODER_BIAS, TIED_DECODER_BIAS}
    used = wanted.keys() if decoder_names.isdisjoint(wanted) else wanted.keys() | decoder_names
    report = LoadReport(
        missing=tuple(official_name(name, has_head) for name in missing),
        unexpected=tuple(
            name for name in tensors if bare_name(name) not in used and bare_name(name) not in IGNORED_NAMES
        ),
        mismatched=tuple(mismatched),
        untied=is_tied and not is_really_tied,
    )
    return Loaded(trees.map_leaves(place, specification), specification, report)


def _by_bare_name(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    bare: dict[str, np.ndarray] = {}
    for name, array in tensors.items():
        if bare_name(name) in bare:
            raise CheckpointError(f"The checkpoint holds {name!r} under two spellings; keep one of them.")
        bare[bare_name(name)] = array
    return bare


def _tie(bare: dict[str, np.ndarray]) -> bool:
    """Give tied arrays the names that the specification asks for; False if the two tables differ."""
    decoder = bare.get(DECODER_WEIGHT)
    if decoder is not None and not _are_equal(bare.setdefault(TOKEN_TABLE, decoder), decoder):
        return False
    if DECODER_BIAS in bare:  # where both biases are there, the reference computes with the decoder's own
        bare[TIED_DECODER_BIAS] = bare[DECODER_BIAS]
    return True


def _are_equal(first: np.ndarray, second: np.ndarray) -> bool:
    """Whether two tables hold the same numbers, at once if they are the same memory."""
    if first.shape != second.shape or first.dtype != second.dtype:
        return False
    if first.ctypes.data == second.ctypes.data and first.strides == second.strides:
        return True
    rows = range(0, len(first), COMPARED_ROWS)
    return all(np.array_equal(first[row : row + COMPARED_ROWS], second[row : row + COMPARED_ROWS]) for row in rows)


def _is_floating(dtype: np.dtype) -> bool:
    return dtype.kind == "f" or dtype.name == "bfloat16"
