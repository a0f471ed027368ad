"""A model's weight files: which ones there are, and their tensors, memory-mapped."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from .errors import CheckpointError
from .files import Source, locate

INDEX_BYTES_LIMIT = 100_000_000  # a weight map of a hundred thousand tensors takes about ten million


class WeightFiles(NamedTuple):
    """The files that hold a model's weights.

    Attributes:
        format: "safetensors" or "pickle" (pytorch_model.bin).
        paths: the one file, or the shards in the order of their names.
        weight_map: for shards, the file name of each tensor.
    """

    format: str
    paths: tuple[Path, ...]
    weight_map: dict[str, str] | None = None


def find_weight_files(
    source: Source, *, variant: str | None = None, use_safetensors: bool | None = None, **location: Any
) -> WeightFiles:
    """Find (and download, if need be) the weight files of a directory or hub repository.

    The order is the reference's: model.safetensors, its shards, pytorch_model.bin, its shards.

    Args:
        source: a directory or a hub id.
        variant: as in "fp16" for model.fp16.safetensors.
        use_safetensors: True refuses pickles, False looks for nothing else, None takes what comes first.
        **location: passed on to `locate`.

    Raises:
        OSError: there is none of these files, or a shard is missing.
        CheckpointError: an index is damaged.
    """
    looked_for = []
    for kind, stem, suffix in (("safetensors", "model", "safetensors"), ("pickle", "pytorch_model", "bin")):
        if use_safetensors is not None and use_safetensors != (kind == "safetensors"):
            continue
        name = f"{stem}.{variant}.{suffix}" if variant else f"{stem}.{suffix}"
        # safetensors shards are indexed by model.safetensors.index.fp16.json, and by
        # model.fp16.safetensors.index.json in older files
        indexes = [f"{name}.index.json"] + ([f"{stem}.{suffix}.index.{variant}.json"] if variant else [])
        looked_for += [name, *indexes]
        path = locate(source, name, **location)
        if path is not None:
            return WeightFiles(kind, (path,))
        for index_name in indexes:
            index = locate(source, index_name, **location)
            if index is not None:
                weight_map = _read_weight_map(index)
                return WeightFiles(kind, _shards(source, index, weight_map, location), weight_map)
    raise CheckpointError(f"{source} holds no weights; looked for {', '.join(looked_for)}.")


def read_tensors(files: WeightFiles) -> dict[str, np.ndarray]:
    """All tensors of the files, memory-mapped and read-only, by their official names.

    Raises:
        CheckpointError: a file is damaged or hostile, or a shard lacks a tensor that the index promises.
    """
    if files.format == "safetensors":
        from .safetensors_format import read_safetensors as read
    else:
        from .pickle_format import read_pickle_checkpoint as read
    tensors: dict[str, np.ndarray] = {}
    for path in files.paths:
        shard = read(path)
        if files.weight_map is not None:
            promised = {name for name, file in files.weight_map.items() if file == path.name}
            absent = sorted(promised - shard.keys())
            if absent:
                raise CheckpointError(f"{path} lacks the tensor {absent[0]!r}, which the index says it holds.")
            shard = {name: shard[name] for name in shard if name in promised}
        tensors.update(shard)
    return tensors


def _shards(source: Source, index: Path, weight_map: dict[str, str], location: dict[str, Any]) -> tuple[Path, ...]:
    paths = []
    for name in sorted(set(weight_map.values())):
        if Path(name).name != name or name in ("", ".", "..") or "\\" in name:
            raise CheckpointError(f"{index} names the shard {name!r}; only plain file names beside it are read.")
        path = locate(source, name, **location)
        if path is None:
            raise CheckpointError(
                f"{index} names the shard {name!r}, but {source} has no such file; download it again."
            )
        paths.append(path)
    return tuple(paths)


def _read_weight_map(index: Path) -> dict[str, str]:
    if index.stat().st_size > INDEX_BYTES_LIMIT:
        raise CheckpointError(f"{index} has {index.stat().st_size} bytes, too many for an index; download it again.")
    try:
        content = json.loads(index.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{index} is not valid JSON ({error}); download it again.") from error
    weight_map = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(weight_map, dict) or not weight_map or not all(isinstance(v, str) for v in weight_map.values()):
        raise CheckpointError(f"{index} has no 'weight_map' of tensor names to file names; download it again.")
    return weight_map
