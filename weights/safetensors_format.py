"""The safetensors file format: a JSON header that names the tensors, then their bytes end to end.

The file begins with the header's length (8 bytes, little-endian), then the header, then the data section.
The format: https://github.com/huggingface/safetensors#format
"""

import json
import math
import mmap
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from os import PathLike
from pathlib import Path
from reprlib import Repr
from typing import Any, NamedTuple

import numpy as np

from .errors import CheckpointError

LENGTH_BYTES = 8
MAX_HEADER_BYTES = 100_000_000  # the format's own limit
MAX_DIMENSIONS = 64  # NumPy's own limit
MAX_BYTES = 2**63 - 1  # what NumPy and every operating system can count
WRITE_BLOCK_BYTES = 2**24  # of a strided array, this much is copied at a time


class TensorHeader(NamedTuple):
    """What the header says about one tensor: `start` and `stop` are byte offsets in the data section."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int


class SafetensorsHeader(NamedTuple):
    """A checked header; `data_start` is where in the file the data section begins, in bytes."""

    tensors: dict[str, TensorHeader]
    metadata: dict[str, str]
    data_start: int


class StoredType(NamedTuple):
    """The NumPy or ml_dtypes name of a dtype, and its size in bytes (known without importing ml_dtypes)."""

    name: str
    itemsize: int


STORED_TYPES = {
    "F64": StoredType("float64", 8),
    "F32": StoredType("float32", 4),
    "F16": StoredType("float16", 2),
    "BF16": StoredType("bfloat16", 2),
    "F8_E4M3": StoredType("float8_e4m3fn", 1),
    "F8_E5M2": StoredType("float8_e5m2", 1),
    "I64": StoredType("int64", 8),
    "I32": StoredType("int32", 4),
    "I16": StoredType("int16", 2),
    "I8": StoredType("int8", 1),
    "U64": StoredType("uint64", 8),
    "U32": StoredType("uint32", 4),
    "U16": StoredType("uint16", 2),
    "U8": StoredType("uint8", 1),
    "BOOL": StoredType("bool", 1),
}
_TAGS = {stored.name: tag for tag, stored in STORED_TYPES.items()}

_representation = Repr()
_representation.maxstring = _representation.maxother = 120
shortened = _representation.repr  # for messages: what a file claims may be megabytes long, or nested without end


def numpy_dtype(tag: str) -> np.dtype:
    """The NumPy dtype of a safetensors tag such as "F32"; ml_dtypes is imported only for those it defines."""
    name = STORED_TYPES[tag].name
    if hasattr(np, name):
        return np.dtype(name)
    import ml_dtypes

    return np.dtype(getattr(ml_dtypes, name))


def map_file(path: str | PathLike[str]) -> mmap.mmap:
    """Map a whole file into memory, read-only; no byte of it is read yet.

    Whoever holds the mapping, or an array over it, keeps it open.

    Raises:
        CheckpointError: If there is no such file, it is empty, or it cannot be read.
    """
    try:
        with open(path, "rb") as file:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError) as error:  # mmap answers an empty file with ValueError
        raise CheckpointError(f"{path} cannot be read ({error}); check the path, or download it again") from error


def header_length(first_eight: bytes, file_size: int, source: str) -> int:
    """The header's length in bytes, from the first 8 bytes of a file of `file_size` bytes.

    Raises:
        CheckpointError: If the file is too short for the header it announces, or that is beyond the format's
            limit; `source` names the file in the message.
    """
    if len(first_eight) < LENGTH_BYTES:
        raise _damaged(source, f"it has {len(first_eight)} bytes, too few to state its header's length")
    length = int.from_bytes(first_eight[:LENGTH_BYTES], "little")
    if length > MAX_HEADER_BYTES:
        raise _damaged(source, f"header too large: {length} bytes, where the limit is {MAX_HEADER_BYTES}")
    if length > file_size - LENGTH_BYTES:
        raise _damaged(source, f"its header is to have {length} bytes, but the whole file has {file_size}")
    return length


def parse_header(raw: bytes, file_size: int, source: str) -> SafetensorsHeader:
    """Read and check a header; every claim it makes is checked against `file_size`.

    Args:
        raw: At least the first 8 + `header_length` bytes of the file.
        file_size: The length of the whole file in bytes.
        source: The file's name, for messages.

    Raises:
        CheckpointError: If anything in the header is malformed, or its tensors do not tile the data section
            exactly.
    """
    data_start = LENGTH_BYTES + header_length(raw[:LENGTH_BYTES], file_size, source)
    if len(raw) < data_start:
        raise _damaged(source, f"{len(raw)} bytes of it arrived, its header takes {data_start}")
    header = _parse_json(raw[LENGTH_BYTES:data_start], source)
    metadata = _check_metadata(header.pop("__metadata__", {}), source)
    tensors = {name: _check_tensor(name, entry, source) for name, entry in header.items()}
    _check_tiling(tensors, file_size - data_start, source)
    return SafetensorsHeader(tensors, metadata, data_start)


def read_header(path: str | PathLike[str]) -> SafetensorsHeader:
    """Read and check the header of a file, and nothing of its data.

    Raises:
        CheckpointError: If the file is missing or damaged.
    """
    return _read_mapped_header(map_file(path), str(path))


def read_safetensors(path: str | PathLike[str]) -> dict[str, np.ndarray]:
    """Open a file as read-only arrays over a memory map, in the header's order.

    The arrays keep the map alive, and nothing of the data is read before it is used. Only a tensor whose
    bytes are not aligned for its dtype is copied. The file must not be truncated or written in place while
    arrays are in use; replacing it (by a rename) is safe.

    Raises:
        CheckpointError: If the file is missing or damaged.
    """
    mapping = map_file(path)
    header = _read_mapped_header(mapping, str(path))
    return {name: _view(mapping, header.data_start, tensor) for name, tensor in header.tensors.items()}


def write_safetensors(
    path: str | PathLike[str], arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str] | None = None
) -> None:
    """Write arrays to a new file at `path`, in their own dtypes, in place of any file of that name.

    Arrays are streamed one by one and may have any strides; the largest dtypes come first, so that every
    tensor of the file is aligned. Input is checked before anything is touched, but a full disk leaves a
    partial file: write beside the target and rename.

    Raises:
        ValueError: If a name, a dtype or the metadata cannot be stored.
    """
    header: dict[str, Any] = {}
    if metadata is not None:
        if not all(isinstance(text, str) for pair in metadata.items() for text in pair):
            raise ValueError(f"metadata of a safetensors file must map str to str, got {dict(metadata)!r}")
        header["__metadata__"] = dict(metadata)
    for name, array in arrays.items():
        if not isinstance(name, str) or name == "__metadata__":
            raise ValueError(f"{name!r} cannot name a tensor in a safetensors file; rename it")
        if array.dtype.name not in _TAGS:
            raise ValueError(f"tensor {name!r} has dtype {array.dtype}, which no safetensors file has; cast it")
    order = sorted(arrays, key=lambda name: (-arrays[name].dtype.itemsize, name))
    start = 0
    for name in order:
        array = arrays[name]
        stop = start + array.nbytes
        header[name] = {
            "dtype": _TAGS[array.dtype.name],
            "shape": array.shape,
            "data_offsets": (start, stop),
        }
        start = stop
    encoded = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    encoded += b" " * (-len(encoded) % LENGTH_BYTES)  # the data section starts aligned
    if len(encoded) > MAX_HEADER_BYTES:
        raise ValueError(f"the names and metadata take {len(encoded)} bytes, the limit is {MAX_HEADER_BYTES}")

    Path(path).unlink(missing_ok=True)  # truncating it would pull the pages from under arrays mapped from it
    with open(path, "xb") as file:
        file.write(len(encoded).to_bytes(LENGTH_BYTES, "little"))
        file.write(encoded)
        for name in order:
            for block in _contiguous_blocks(arrays[name]):
                file.write(block.data)


def is_count(value: object) -> bool:
    """Whether a value read from a file is an integer that can be a length, a position or a size in bytes."""
    return type(value) is int and 0 <= value <= MAX_BYTES


def is_unicode(text: str) -> bool:
    """Whether the text can be encoded: a lone surrogate, which an escape can smuggle in, cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _damaged(source: str, what: str) -> CheckpointError:
    return CheckpointError(f"{source} is not a sound safetensors file: {what}; download or save it again")


def _read_mapped_header(mapping: mmap.mmap, source: str) -> SafetensorsHeader:
    length = header_length(mapping[:LENGTH_BYTES], len(mapping), source)
    return parse_header(mapping[: LENGTH_BYTES + length], len(mapping), source)


def _parse_json(encoded: bytes, source: str) -> dict[str, Any]:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        entries = dict(pairs)
        if len(entries) < len(pairs):
            [(repeated, _)] = Counter(name for name, _ in pairs).most_common(1)
            raise _damaged(source, f"its header names {shortened(repeated)} more than once")
        return entries

    try:
        header = json.loads(encoded.decode("utf-8"), object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:
        raise _damaged(source, f"its header is not JSON in UTF-8 ({error})") from None
    if not isinstance(header, dict) or not encoded.startswith(b"{"):
        raise _damaged(source, "its header is not a JSON object")
    return header


def _check_metadata(metadata: Any, source: str) -> dict[str, str]:
    if not isinstance(metadata, dict):
        raise _damaged(source, f"its __metadata__ is {shortened(metadata)}, not an object")
    for key, value in metadata.items():
        if not isinstance(value, str):
            raise _damaged(source, f"its __metadata__ {shortened(key)} is {shortened(value)}, not a string")
        if not is_unicode(key + value):
            raise _damaged(source, f"its __metadata__ {shortened(key)} is not valid Unicode")
    return metadata


def _check_tensor(name: str, entry: Any, source: str) -> TensorHeader:
    tensor = f"tensor {shortened(name)}"
    if not is_unicode(name):
        raise _damaged(source, f"the name of {tensor} is not valid Unicode")
    match entry:
        case {"dtype": dtype, "shape": shape, "data_offsets": [start, stop]}:
            pass
        case _:
            raise _damaged(source, f"{tensor} lacks a dtype, a shape or its two data_offsets")
    if not isinstance(dtype, str) or dtype not in STORED_TYPES:
        known = ", ".join(STORED_TYPES)
        raise _damaged(source, f"{tensor} has the unknown dtype {shortened(dtype)}, known are {known}")
    if not isinstance(shape, list) or not all(is_count(length) for length in shape):
        raise _damaged(source, f"{tensor} has the shape {shortened(shape)}, not a list of lengths")
    if len(shape) > MAX_DIMENSIONS:
        raise _damaged(source, f"{tensor} has {len(shape)} dimensions, the limit is {MAX_DIMENSIONS}")
    if math.prod(length for length in shape if length) * STORED_TYPES[dtype].itemsize > MAX_BYTES:
        raise _damaged(source, f"{tensor} has the impossible shape {shortened(shape)}")
    if not (is_count(start) and is_count(stop) and start <= stop):
        raise _damaged(source, f"{tensor} has the data_offsets {shortened([start, stop])}, not a range")
    nbytes = math.prod(shape) * STORED_TYPES[dtype].itemsize
    if stop - start != nbytes:
        need = f"{tensor}, {dtype} of shape {shortened(shape)}, takes {nbytes} bytes"
        raise _damaged(source, f"{need}, but has {stop - start}")
    return TensorHeader(dtype, tuple(shape), start, stop)


def _check_tiling(tensors: Mapping[str, TensorHeader], data_size: int, source: str) -> None:
    position = 0
    for name, tensor in sorted(tensors.items(), key=lambda item: (item[1].start, item[1].stop)):
        place = f"tensor {shortened(name)} has bytes {tensor.start} to {tensor.stop} of the data"
        if tensor.stop > data_size:
            raise _damaged(source, f"{place}, but the file ends after {data_size}")
        if tensor.start < position:
            raise _damaged(source, f"{place}, overlapping another, which ends at {position}")
        if tensor.start > position:
            raise _damaged(source, f"{place}, leaving a hole after {position}")
        position = tensor.stop
    if position < data_size:
        raise _damaged(source, f"its tensors take {position} bytes of data, but {data_size} are there")


def _view(mapping: mmap.mmap, data_start: int, tensor: TensorHeader) -> np.ndarray:
    dtype = numpy_dtype(tensor.dtype)
    start, stop = data_start + tensor.start, data_start + tensor.stop
    if start % dtype.alignment:
        return np.ndarray(tensor.shape, dtype, buffer=mapping[start:stop])
    return np.ndarray(tensor.shape, dtype, buffer=mapping, offset=start)


def release_pages(arrays: Iterable[np.ndarray]) -> None:
    """Give back the memory of files that arrays are mapped from for reading; what is read again is loaded again."""
    for mapping in {id(array.base): array.base for array in arrays}.values():
        if isinstance(mapping, mmap.mmap) and memoryview(mapping).readonly and hasattr(mapping, "madvise"):
            mapping.madvise(mmap.MADV_DONTNEED)


def _contiguous_blocks(array: np.ndarray) -> Iterator[np.ndarray]:
    """The array's little-endian bytes in C order; a strided array is copied a few rows at a time."""
    rows = array.reshape(1) if array.ndim == 0 else array
    row_bytes = max(1, array.nbytes // max(1, len(rows)))
    step = max(1, WRITE_BLOCK_BYTES // row_bytes)
    for first in range(0, len(rows), step):
        block = np.ascontiguousarray(rows[first : first + step])
        if block.dtype.byteorder == ">":
            block = block.byteswap()
        yield block.reshape(-1).view(np.uint8)
