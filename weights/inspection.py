"""What a checkpoint holds, told from its headers: nothing of the weights is read."""

from math import prod
from pathlib import Path
from typing import Any, NamedTuple

from xlmr_np import trees
from xlmr_np.config import XLMRobertaConfig

from .checkpoint import find_weight_files, gather
from .errors import CheckpointError
from .files import RemoteFile, Source
from .loading import IGNORED_NAMES
from .pickle_format import read_pickle_checkpoint
from .safetensors_format import (
    LENGTH_BYTES,
    STORED_TYPES,
    SafetensorsHeader,
    header_length,
    parse_header,
    read_header,
)
from .specification import (
    DECODER_BIAS,
    DECODER_WEIGHT,
    TIED_DECODER_BIAS,
    TOKEN_TABLE,
    bare_name,
    encoder_specification,
)

FIRST_REQUEST_BYTES = 2**16  # the header of XLM-R large takes about 52,000


class Description(NamedTuple):
    """A checkpoint at a glance.

    Attributes:
        config: its configuration.
        parameters: the number of its weights, tied ones once.
        dtypes: the element types of its tensors, the commonest (by weights) first.
        files: the size in bytes of each weight file.
        bytes_in_memory: what its weights take once every one of them has been used.
    """

    config: XLMRobertaConfig
    parameters: int
    dtypes: tuple[str, ...]
    files: dict[str, int]
    bytes_in_memory: int


class _Tensor(NamedTuple):
    dtype: str
    shape: tuple[int, ...]
    nbytes: int


def describe(source: Source, *, variant: str | None = None, **location: Any) -> Description:
    """Describe the checkpoint of a directory, of the hub's cache, or of the hub itself.

    From the hub, config.json (and the index of shards) is downloaded, and of the weights their headers only.

    Raises:
        OSError: there is no such checkpoint, it cannot be reached, or it is damaged.
    """
    config = XLMRobertaConfig.from_pretrained(source, **location)
    files = find_weight_files(source, variant=variant, **location)
    # One tensor may stand there under two names: the decoder's bias always, the token table if it is tied.
    second_names = {DECODER_BIAS: TIED_DECODER_BIAS}
    if config.tie_word_embeddings:
        second_names[DECODER_WEIGHT] = TOKEN_TABLE
    weights: dict[str, _Tensor] = {}
    read = _safetensors if files.format == "safetensors" else _pickled_tensors
    for name, tensor in gather(files, read).items():
        bare = bare_name(name)
        if bare not in IGNORED_NAMES:
            weights[second_names.get(bare, bare)] = tensor
    _check_sizes(config, weights, source)
    by_dtype: dict[str, int] = {}
    for tensor in weights.values():
        by_dtype[tensor.dtype] = by_dtype.get(tensor.dtype, 0) + prod(tensor.shape)
    return Description(
        config=config,
        parameters=sum(by_dtype.values()),
        dtypes=tuple(sorted(by_dtype, key=lambda name: -by_dtype[name])),
        files={part.name: _size(part) for part in files.parts},
        bytes_in_memory=sum(tensor.nbytes for tensor in weights.values()),
    )


def _check_sizes(config: XLMRobertaConfig, weights: dict[str, _Tensor], source: Source) -> None:
    """Refuse a config whose sizes are not those of the encoder's tensors."""
    for parameter in trees.leaves(encoder_specification(config)):
        there = weights[parameter.name].shape if parameter.name in weights else "nothing"
        if there != parameter.shape:
            raise CheckpointError(
                f"The config of {source} describes {parameter.name} as {parameter.shape}, but the weights hold "
                f"{there}: one of the two is damaged, or from another model."
            )


def _safetensors(part: Path | RemoteFile) -> dict[str, _Tensor]:
    header = _remote_header(part) if isinstance(part, RemoteFile) else read_header(part)
    tensors = {}
    for name, tensor in header.tensors.items():
        dtype, nbytes = STORED_TYPES[tensor.dtype], tensor.stop - tensor.start
        tensors[name] = _Tensor(dtype.name, tensor.shape, nbytes)
    return tensors


def _pickled_tensors(part: Path | RemoteFile) -> dict[str, _Tensor]:
    if isinstance(part, RemoteFile):
        raise CheckpointError(
            f"The hub model {part.repository!r} has {part.name} and no safetensors, and a pickle cannot be described "
            "from afar; load the model once, so that it is in the cache."
        )
    arrays = read_pickle_checkpoint(part)
    return {name: _Tensor(array.dtype.name, array.shape, array.nbytes) for name, array in arrays.items()}


def _remote_header(part: RemoteFile) -> SafetensorsHeader:
    beginning = part.beginning(FIRST_REQUEST_BYTES)
    length = LENGTH_BYTES + header_length(beginning, _size(part), part.url)
    if length > len(beginning):
        beginning = part.beginning(length)
    return parse_header(beginning, _size(part), part.url)


def _size(part: Path | RemoteFile) -> int:
    """Of a whole file, in bytes."""
    size = part.size if isinstance(part, RemoteFile) else part.stat().st_size
    if size is None:
        raise CheckpointError(f"The hub does not say how large {part.name} is; load the model once instead.")
    return size
