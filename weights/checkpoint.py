"""A model's weight files: which ones there are, and their tensors, memory-mapped."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np

from .errors import CheckpointError
from .files import RemoteFile, Source, cached_only, find, locate
from .safetensors_format import shortened

INDEX_BYTES_LIMIT = 100_000_000  # a weight map of a hundred thousand tensors takes about ten million

Tensor = TypeVar("Tensor")


class WeightFiles(NamedTuple):
    """The files that hold a model's weights.

    Attributes:
        format: "safetensors" or "pickle" (pytorch_model.bin).
        parts: the one file, or the shards in the order of their names; those not yet downloaded as `RemoteFile`.
        weight_map: for shards, the file name of each tensor.
    """

    format: str
    parts: tuple[Path | RemoteFile, ...]
    weight_map: dict[str, str] | None = None


def find_weight_files(
    source: Source, *, variant: str | None = None, use_safetensors: bool | None = None, **location: Any
) -> WeightFiles:
    """Find the weight files of a directory or hub repository; of a repository, only an index is downloaded.

    The order is the reference's: model.safetensors, its shards, pytorch_model.bin, its shards.

    Args:
        source: a directory or a hub id.
        variant: as in "fp16" for model.fp16.safetensors.
        use_safetensors: True refuses pickles, False looks for nothing else, None takes what comes first.
        **location: passed on to `files.find`.

    Raises:
        OSError: the source cannot be reached.
        CheckpointError: there is none of these files, a shard is missing, or an index is damaged.
    """
    looked_for = []
    for kind, stem, suffix in (("safetensors", "model", "safetensors"), ("pickle", "pytorch_model", "bin")):
        if use_safetensors is not None and use_safetensors != (kind == "safetensors"):
            continue
        name = f"{stem}.{variant}.{suffix}" if variant else f"{stem}.{suffix}"
        # shards are indexed by model.safetensors.index.fp16.json, and by model.fp16.safetensors.index.json in
        # older files
        indexes = [f"{stem}.{suffix}.index.{variant}.json"] if variant else []
        indexes.append(f"{name}.index.json")
        looked_for += [name, *indexes]
        file = find(source, name, **location)
        if file is not None:
            return WeightFiles(kind, (file,))
        for index_name in indexes:
            index = locate(source, index_name, **location)
            if index is not None:
                weight_map = _read_weight_map(index)
                return WeightFiles(kind, _shards(source, index, weight_map, location), weight_map)
    raise CheckpointError(f"{source} holds no weights; looked for {', '.join(looked_for)}{cached_only(source)}.")


def read_tensors(files: WeightFiles) -> dict[str, np.ndarray]:
    """All tensors of the files, memory-mapped and read-only, by their official names.

    Files that are still on the hub are downloaded.

    Raises:
        OSError: a file cannot be downloaded.
        CheckpointError: a file is damaged or hostile, or a shard lacks a tensor that the index promises.
    """
    if files.format == "safetensors":
        from .safetensors_format import read_safetensors as read
    else:
        from .pickle_format import read_pickle_checkpoint as read
    return gather(files, lambda part: read(part.download() if isinstance(part, RemoteFile) else part))


def gather(files: WeightFiles, read: Callable[[Path | RemoteFile], dict[str, Tensor]]) -> dict[str, Tensor]:
    """What `read` finds in each file, by tensor; of a shard, what the index says it holds.

    Raises:
        CheckpointError: a shard lacks a tensor that the index promises.
    """
    tensors: dict[str, Tensor] = {}
    for part in files.parts:
        found = read(part)
        if files.weight_map is None:
            return found
        promised = [name for name, file in files.weight_map.items() if file == part.name]
        for name in promised:
            if name not in found:
                raise CheckpointError(
                    f"The shard {part.name} lacks the tensor {shortened(name)}, which the index says it holds; "
                    "download both again."
                )
            tensors[name] = found[name]
    return tensors


def _shards(
    source: Source, index: Path, weight_map: dict[str, str], location: dict[str, Any]
) -> tuple[Path | RemoteFile, ...]:
    parts = []
    for name in sorted(set(weight_map.values())):
        if Path(name).name != name or name in ("", "..") or not name.isprintable() or "\\" in name:
            raise CheckpointError(
                f"{index} names the shard {shortened(name)}; only plain file names beside it are read."
            )
        part = find(source, name, **location)
        if part is None:
            raise CheckpointError(
                f"{index} names the shard {shortened(name)}, but {source} has no such file; download it again."
            )
        parts.append(part)
    return tuple(parts)


def _read_weight_map(index: Path) -> dict[str, str]:
    size = index.stat().st_size
    if size > INDEX_BYTES_LIMIT:
        raise CheckpointError(f"{index} has {size} bytes, too many for an index; download it again.")
    try:
        content = json.loads(index.read_bytes())
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{index} is not valid JSON ({error}); download it again.") from error
    weight_map = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(weight_map, dict) or not weight_map or not all(isinstance(v, str) for v in weight_map.values()):
        raise CheckpointError(f"{index} has no 'weight_map' of tensor names to file names; download it again.")
    return weight_map
