"""Launches of unpadding.cu: from a rectangle of tokens that is on the GPU already to the real ones, end to end.

`measure` does all that needs the whole rectangle; its `findings`, a few numbers for each sentence, are what the host
has to download to refuse wrong inputs and to know how many tokens there are. `pack` does the rest.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int, Integer, Num, UInt8

from xlmr_np.arrays import Array, array_namespace

from .kernels import Gpu, Kernel, LaunchShape
from .rows import in_rows

THREADS, REAL, INVALID = 256, 1, 2  # as in unpadding.cu
MEASURE, PACK = Kernel("unpadding.cu", "measure"), Kernel("unpadding.cu", "pack")


class Findings(NamedTuple):
    """The rows of `Measured.findings`: `Findings(*to_numpy(measured.findings))`. Columns are 0 to T - 1, -1 is none."""

    real: Int[Array, " B"]  # how many tokens of the sentence are real
    tokens: Int[Array, " B"]  # how many are counted by positions: those that are not `pad_id`
    wrong_id: Int[Array, " B"]  # the first column whose id is outside the vocabulary
    wrong_token_type: Int[Array, " B"]  # likewise
    wrong_position: Int[Array, " B"]  # likewise
    wrong_mask: Int[Array, " B"]  # the first column whose mask is negative or NaN


class Measured(NamedTuple):
    """What `measure` found out, on the GPU."""

    is_real: Bool[Array, "B T"]
    findings: Int[Array, "6 B"]


class Packed(NamedTuple):
    """The real tokens of all sentences end to end, int64, and where each sentence begins among them."""

    ids: Int[Array, " N"]
    token_types: Int[Array, " N"]
    positions: Int[Array, " N"]
    starts: Int[Array, " B"]


def measure(
    gpu: Gpu,
    ids: Integer[Array, "B T"],
    token_types: Integer[Array, "B T"] | None,
    positions: Integer[Array, "B T"] | None,
    mask: Bool[Array, "B T"] | Num[Array, "B T"] | None,
    pad_id: int,
    vocabulary_size: int,
    token_types_size: int,
    positions_size: int,
) -> Measured:
    """Which tokens are real, how many there are, and the first value of each sentence that is out of range.

    Args:
        gpu: where the arrays are, which may be of any integer type and any strides.
        ids: token ids.
        token_types: None: all 0, which is not checked.
        positions: the users' own; None: they are counted.
        mask: positive where a token is real, 0 elsewhere; None: the tokens that are not `pad_id` are real.
        pad_id: the padding id.
        vocabulary_size: ids are below it.
        token_types_size: token types are below it.
        positions_size: positions are below it.
    """
    xp = array_namespace(ids)
    batch, length = ids.shape
    is_real = xp.empty((batch, length), dtype=xp.bool, device=ids.device)
    findings = xp.empty((len(Findings._fields), batch), dtype=xp.int64, device=ids.device)
    if batch > 0:
        arguments = [
            *(None if x is None else in_rows(x, xp.int64) for x in (ids, token_types, positions)),
            None if mask is None else in_rows(_mask_codes(mask), xp.uint8),
            *(np.int64(size) for size in (pad_id, vocabulary_size, token_types_size, positions_size)),
            is_real,
            findings,
            np.int32(length),
        ]
        gpu.launch(MEASURE, LaunchShape((batch,), (THREADS,)), arguments)
    return Measured(is_real, findings)


def pack(
    gpu: Gpu,
    ids: Integer[Array, "B T"],
    token_types: Integer[Array, "B T"] | None,
    positions: Integer[Array, "B T"] | None,
    measured: Measured,
    number_of_real: int,
    pad_id: int,
) -> Packed:
    """The real tokens end to end.

    Args:
        gpu: where the arrays are.
        ids: as given to `measure`.
        token_types: as given to `measure`.
        positions: as given to `measure`. None: the position of a token is `pad_id` plus the number of tokens up to
            and with it in its row, that of a padding id is `pad_id` (`layers.embeddings.position_ids`); counted before
            packing, from the ids whatever the mask says.
        measured: what `measure` made of the same arrays.
        number_of_real: N, the sum of `Findings.real`.
        pad_id: the padding id.
    """
    is_real, findings = measured
    xp = array_namespace(is_real)
    batch, length = is_real.shape
    sizes = (number_of_real, number_of_real, number_of_real, batch)
    packed = Packed(*(xp.empty(size, dtype=xp.int64, device=is_real.device) for size in sizes))
    if batch > 0:
        arguments = [
            *(None if x is None else in_rows(x, xp.int64) for x in (ids, token_types, positions)),
            is_real,
            findings[0, :],
            np.int64(pad_id),
            *packed,
            np.int32(length),
            np.int64(number_of_real),
        ]
        gpu.launch(PACK, LaunchShape((batch,), (THREADS,)), arguments)
    return packed


def kernels() -> Iterator[Kernel]:
    """All instances that `measure` and `pack` may launch."""
    yield from (MEASURE, PACK)


def _mask_codes(mask: Array) -> UInt8[Array, "B T"]:
    """`REAL` at positive values, `INVALID` at negative ones and NaN, 0 at zeros."""
    xp = array_namespace(mask)
    return xp.astype(mask > 0, xp.uint8) * REAL + xp.astype(~(mask >= 0), xp.uint8) * INVALID
