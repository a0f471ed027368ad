"""Writing a checkpoint: safetensors, in shards if it is large, beside the old files and then renamed."""

import contextlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

_UNITS = {
    "": 1,
    "K": 10**3,
    "M": 10**6,
    "G": 10**9,
    "T": 10**12,
    "KI": 2**10,
    "MI": 2**20,
    "GI": 2**30,
    "TI": 2**40,
}
INDEX_FILE = "model.safetensors.index.json"
_STALE = re.compile(r"model-\d{5}-of-\d{5}\.safetensors|model\.safetensors(\.index\.json)?")


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Write a file beside `path`, and put it in its place only when the block ends without an error.

    Whoever has the old file open or mapped keeps it; if the block fails, the old file stands untouched.

    Raises:
        OSError: the file cannot be written; the error names it.
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        yield beside
        os.replace(beside, path)
    except OSError as error:
        if error.errno is not None and error.filename is None:  # a full disk does not say whose write it was
            error.filename = os.fspath(path)
        raise
    finally:
        beside.unlink(missing_ok=True)


def save_tensors(
    directory: Path,
    tensors: Mapping[str, np.ndarray],
    max_shard_size: int | str = "50GB",
    texts: Mapping[str, str] | None = None,
) -> list[Path]:
    """Write the tensors of a model, and remove weight files of an earlier save that no longer belong.

    Every file is complete before the first one takes its place. Arrays may be mapped from the very files
    that are replaced.

    Args:
        directory: an existing directory.
        tensors: by official name, each array once.
        max_shard_size: bytes, or "500MB", "2GiB"; tensors are never cut, so a shard may exceed it by being
            one large tensor.
        texts: contents of further files by name, such as config.json, that take their places in the same step.

    Returns:
        The weight files, in order.
    """
    from .safetensors_format import write_safetensors

    shards = _shards(tensors, _bytes(max_shard_size))
    if len(shards) == 1:
        names = ["model.safetensors"]
    else:
        names = [f"model-{i:05d}-of-{len(shards):05d}.safetensors" for i in range(1, len(shards) + 1)]
    written = list(names)
    with contextlib.ExitStack() as last_in_first_out:  # the index comes in first, so it is renamed last
        if len(shards) > 1:
            written.append(INDEX_FILE)
            beside = last_in_first_out.enter_context(replacing(directory / written[-1]))
            beside.write_text(_index(names, shards), encoding="utf-8")
        for name, text in (texts or {}).items():
            last_in_first_out.enter_context(replacing(directory / name)).write_text(text, encoding="utf-8")
        for name, shard in zip(names, shards, strict=True):
            beside = last_in_first_out.enter_context(replacing(directory / name))
            write_safetensors(beside, shard, {"format": "pt"})
        if (directory / names[0]).exists():
            # Stopped between two renames, shards without an index are a clear error, and not a mix of two models.
            (directory / INDEX_FILE).unlink(missing_ok=True)
    for path in directory.iterdir():
        if _STALE.fullmatch(path.name) and path.name not in written:
            path.unlink()
    return [directory / name for name in names]


def _shards(tensors: Mapping[str, np.ndarray], limit: int) -> list[dict[str, np.ndarray]]:
    shards: list[dict[str, np.ndarray]] = [{}]
    size = 0
    for name, array in tensors.items():
        if shards[-1] and size + array.nbytes > limit:
            shards.append({})
            size = 0
        shards[-1][name] = array
        size += array.nbytes
    return shards


def _index(names: list[str], shards: list[dict[str, np.ndarray]]) -> str:
    weight_map = {tensor: name for name, shard in zip(names, shards, strict=True) for tensor in shard}
    arrays = [array for shard in shards for array in shard.values()]
    metadata = {"total_parameters": sum(a.size for a in arrays), "total_size": sum(a.nbytes for a in arrays)}
    return json.dumps({"metadata": metadata, "weight_map": weight_map}, indent=2, sort_keys=True) + "\n"


def _bytes(size: int | str) -> int:
    """The number of bytes that "500MB" or "2GiB" means."""
    if isinstance(size, int) and not isinstance(size, bool) and size > 0:
        return size
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]I?|)B", size.upper()) if isinstance(size, str) else None
    number = int(float(match[1]) * _UNITS[match[2]]) if match else 0
    if number == 0:
        raise ValueError(f"max_shard_size={size!r} is not a size; write a number of bytes, or for example '500MB'.")
    return number
