"""What a checkpoint holds, told from its headers: nothing of the weights is read."""

from pathlib import Path
from typing import Any, NamedTuple

from xlmr_np.config import XLMRobertaConfig

from .checkpoint import find_weight_files, read_tensors
from .errors import CheckpointError
from .files import Source, is_offline
from .loading import IGNORED_NAMES
from .safetensors_format import STORED_TYPES
from .specification import DECODER_BIAS, DECODER_WEIGHT, bare_name


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
    size: int
    nbytes: int


def describe(source: Source, *, variant: str | None = None, **location: Any) -> Description:
    """Describe the checkpoint of a directory, of the hub's cache, or of the hub itself.

    From the hub, config.json is downloaded and of the weights their headers only.

    Raises:
        OSError: there is no such checkpoint, or it is damaged.
    """
    config = XLMRobertaConfig.from_pretrained(source, **location)
    try:
        files = find_weight_files(source, variant=variant, **{**location, "local_files_only": True})
    except OSError:
        if location.get("local_files_only") or is_offline() or not _is_hub_id(source):
            raise
        sizes, tensors = _remote(str(source), location.get("revision"), location.get("token"))
    else:
        sizes = {path.name: path.stat().st_size for path in files.paths}
        tensors = {
            name: _Tensor(array.dtype.name, array.size, array.nbytes) for name, array in read_tensors(files).items()
        }
    tied = {DECODER_WEIGHT, DECODER_BIAS} if config.tie_word_embeddings else set()
    weights = {
        name: tensor
        for name, tensor in tensors.items()
        if bare_name(name) not in IGNORED_NAMES and bare_name(name) not in tied
    }
    by_dtype: dict[str, int] = {}
    for tensor in weights.values():
        by_dtype[tensor.dtype] = by_dtype.get(tensor.dtype, 0) + tensor.size
    return Description(
        config=config,
        parameters=sum(by_dtype.values()),
        dtypes=tuple(sorted(by_dtype, key=lambda name: -by_dtype[name])),
        files=sizes,
        bytes_in_memory=sum(tensor.nbytes for tensor in weights.values()),
    )


def _is_hub_id(source: Source) -> bool:
    return not Path(source).expanduser().is_dir()


def _remote(
    repository: str, revision: str | None, token: str | bool | None
) -> tuple[dict[str, int], dict[str, _Tensor]]:
    """File sizes and tensors of a hub repository, by requests for the headers of its safetensors."""
    import huggingface_hub
    from huggingface_hub import errors

    try:
        found = huggingface_hub.get_safetensors_metadata(repository, revision=revision, token=token)
        sizes = {
            name: huggingface_hub.get_hf_file_metadata(
                huggingface_hub.hf_hub_url(repository, name, revision=revision), token=token
            ).size
            for name in sorted(found.files_metadata)
        }
        tensors = {
            name: _Tensor(
                STORED_TYPES[tensor.dtype].name,
                tensor.parameter_count,
                tensor.parameter_count * STORED_TYPES[tensor.dtype].itemsize,
            )
            for file in found.files_metadata.values()
            for name, tensor in file.tensors.items()
        }
    except errors.NotASafetensorsRepoError as error:
        raise CheckpointError(
            f"The hub model {repository!r} has no safetensors, and a pickle cannot be described from afar; "
            "load the model once, so that it is in the cache."
        ) from error
    except (errors.HfHubHTTPError, errors.SafetensorsParsingError, KeyError) as error:
        raise CheckpointError(f"The weights of the hub model {repository!r} cannot be described: {error}") from error
    return {name: size or 0 for name, size in sizes.items()}, tensors
