"""torch's pickled checkpoints (`pytorch_model.bin`), read without torch and without executing anything.

A pickle is a program for a small stack machine, two of whose instructions together call any function of any
module. `_Machine` is that machine written anew, with the instructions a state dict needs: the names it looks
up become inert `_Global` records, and a call is a match on the few known names (`_Machine.call`), which make
dicts, tuples and descriptions of tensors. Arrays come last, when every description has been checked against
the bytes its storage really has.

torch's two containers, https://pytorch.org/docs/stable/notes/serialization.html:
since 1.6 a zip archive of uncompressed records `NAME/data.pkl` (the pickle) and `NAME/data/KEY` (storages);
before, pickles end to end (a magic number, the protocol, facts of the system, the object, the storage keys),
then each storage: its number of elements in 8 bytes, its elements.
"""

import io
import math
import mmap
import pickletools
import zipfile
from collections import Counter
from dataclasses import dataclass
from itertools import pairwise
from os import PathLike
from typing import Any

import numpy as np

from .errors import CheckpointError
from .safetensors_format import (
    MAX_DIMENSIONS,
    STORED_TYPES,
    is_count,
    is_unicode,
    map_file,
    numpy_dtype,
    shortened,
)

MAX_PICKLE_BYTES = 2**22  # XLM-R large needs 2**17; beyond this, a pickle only eats memory and time
MAX_EXPANDED_BYTES = 2**26  # a tensor may repeat elements of its storage (stride 0) up to this size
MAX_INTEGER_KEY = 2**32  # larger ones can be chosen to collide, which makes a dict crawl

_STORAGE_TAGS = {
    "torch.DoubleStorage": "F64",
    "torch.FloatStorage": "F32",
    "torch.HalfStorage": "F16",
    "torch.BFloat16Storage": "BF16",
    "torch.LongStorage": "I64",
    "torch.IntStorage": "I32",
    "torch.ShortStorage": "I16",
    "torch.CharStorage": "I8",
    "torch.ByteStorage": "U8",
    "torch.BoolStorage": "BOOL",
    "torch.storage.UntypedStorage": "U8",
}
_DTYPE_TAGS = {  # dtypes younger than typed storages, which come in an untyped one
    "torch.uint64": "U64",
    "torch.uint32": "U32",
    "torch.uint16": "U16",
    "torch.float8_e4m3fn": "F8_E4M3",
    "torch.float8_e5m2": "F8_E5M2",
}
_FUNCTIONS = {
    "collections.OrderedDict",
    "torch.Size",
    "torch._utils._rebuild_parameter",
    "torch._utils._rebuild_tensor",
    "torch._utils._rebuild_tensor_v2",
    "torch._utils._rebuild_tensor_v3",
}
_KNOWN_GLOBALS = _STORAGE_TAGS.keys() | _DTYPE_TAGS.keys() | _FUNCTIONS

_LEGACY_MAGIC_NUMBER = 0x1950A86A20F9469CFC6C
_LEGACY_PROTOCOL = 1001
_LENGTH_BYTES = 8
_PROTO = b"\x80"  # the operation that begins every pickle of protocol 2 or later

_ZIP_LOCAL_HEADER = b"PK\x03\x04"
_ZIP_LOCAL_HEADER_BYTES = 30
_ZIP_UTF8_FLAG = 0x800
_ZIP_AFTER_RECORD = (b"PK\x07\x08", _ZIP_LOCAL_HEADER, b"PK\x01\x02")  # descriptor, next record, directory


@dataclass(frozen=True, slots=True)
class _Global:
    """A name that the pickle looked up, one of `_KNOWN_GLOBALS`."""

    name: str


@dataclass(frozen=True, slots=True)
class _Storage:
    """What the pickle says of a storage, or of a window on it (`start`, `length`); counts are in elements."""

    key: str
    tag: str
    total: int
    start: int
    length: int

    @property
    def itemsize(self) -> int:
        return STORED_TYPES[self.tag].itemsize

    @property
    def nbytes(self) -> int:
        """The size of the whole storage."""
        return self.total * self.itemsize


@dataclass(frozen=True, slots=True)
class _Tensor:
    """A tensor known to lie within what its storage claims; `start` and `strides` are in bytes."""

    storage: _Storage
    tag: str
    start: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


# Where in the file each storage lies: the positions of its first byte and behind its last, by its key.
_Ranges = dict[str, tuple[int, int]]


def read_pickle_checkpoint(path: str | PathLike[str]) -> dict[str, np.ndarray]:
    """Open a file that torch saved from a state dict, in its zip or its older format.

    The file holds a mapping of names to tensors, or such a mapping under the key "state_dict"; entries that
    are no tensors are left out. The arrays are read-only, keep the strides and the sharing of the tensors,
    and lie over a memory map of the file, which they keep alive and which must not be written in place
    meanwhile. Only storages whose bytes are not aligned for their dtype are copied (common in the older
    format, unknown in the zip format).

    Raises:
        CheckpointError: If the file is missing or damaged, holds something else, or asks for anything that a
            tensor file does not need. Nothing in it is ever executed.
    """
    source = str(path)
    mapping = map_file(path)
    if mapping[: len(_ZIP_LOCAL_HEADER)] == _ZIP_LOCAL_HEADER:
        saved, ranges = _read_zip(mapping, source)
    else:
        saved, ranges = _read_legacy(mapping, source)
    return _arrays(_named_tensors(saved, source), ranges, mapping)


def _damaged(source: str, what: str) -> CheckpointError:
    return CheckpointError(
        f"{source} is not a sound torch checkpoint: {what}; download it again, or ask for safetensors"
    )


def _refused(source: str, what: str) -> CheckpointError:
    return CheckpointError(
        f"{source} asks for {what}, which no tensor file needs; nothing was executed. Use a safetensors file "
        "instead, or save this one's state dict alone with the library that wrote it, where you trust it"
    )


class _Machine:
    """The stack machine that a pickle is a program for, able to build nothing but data."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.stack: list[Any] = []
        self.below_marks: list[list[Any]] = []
        self.memo: dict[int, Any] = {}
        self.storages: dict[str, _Storage] = {}

    def run(self, stream: io.BytesIO) -> Any:
        """Run one pickle and return what it built; the stream is left behind its last byte."""
        try:
            for opcode, argument, _ in pickletools.genops(stream):
                if opcode.name == "STOP":
                    break
                self.step(opcode.name, argument)
            return self.stack.pop()
        # An empty stack or memo; an operation cut short or unknown; an escape that pickletools warns of.
        except (LookupError, ValueError, DeprecationWarning) as error:
            raise _damaged(self.source, f"its pickle breaks off or is malformed ({shortened(str(error))})") from None

    def step(self, operation: str, argument: Any) -> None:
        """Run one operation; `argument` is the value that follows it in the stream."""
        stack = self.stack
        match operation:
            case "BINPUT" | "LONG_BINPUT":
                self.memo[argument] = stack[-1]
            case "MEMOIZE":
                self.memo[len(self.memo)] = stack[-1]
            case "BINGET" | "LONG_BINGET":
                stack.append(self.memo[argument])
            case "BININT" | "BININT1" | "BININT2" | "LONG1" | "BINFLOAT":
                stack.append(argument)
            case "BINUNICODE" | "SHORT_BINUNICODE":
                stack.append(argument)
            case "NONE":
                stack.append(None)
            case "NEWFALSE":
                stack.append(False)
            case "NEWTRUE":
                stack.append(True)
            case "MARK":
                self.below_marks.append(stack)
                self.stack = []
            case "EMPTY_TUPLE":
                stack.append(())
            case "TUPLE1":
                stack.append((stack.pop(),))
            case "TUPLE2":
                second, first = stack.pop(), stack.pop()
                stack.append((first, second))
            case "TUPLE3":
                third, second, first = stack.pop(), stack.pop(), stack.pop()
                stack.append((first, second, third))
            case "TUPLE":
                items = self.pop_to_mark()
                self.stack.append(tuple(items))
            case "EMPTY_LIST":
                stack.append([])
            case "APPEND":
                self.extend([stack.pop()])
            case "APPENDS":
                self.extend(self.pop_to_mark())
            case "EMPTY_DICT":
                stack.append({})
            case "SETITEM":
                value, key = stack.pop(), stack.pop()
                self.set_items([key, value])
            case "SETITEMS":
                self.set_items(self.pop_to_mark())
            case "GLOBAL":
                stack.append(self.find(argument.replace(" ", ".", 1)))
            case "STACK_GLOBAL":
                name, module = stack.pop(), stack.pop()
                stack.append(self.find(f"{module}.{name}" if type(module) is type(name) is str else ""))
            case "BINPERSID":
                stack.append(self.storage(stack.pop()))
            case "REDUCE":
                arguments, function = stack.pop(), stack.pop()
                stack.append(self.call(function, arguments))
            case "BUILD":
                stack.pop()  # attributes of a state dict, such as its _metadata: no tensor is among them
                if type(stack[-1]) is not dict:
                    raise _refused(self.source, f"the attributes of a {type(stack[-1]).__name__} to be set")
            case "PROTO" | "FRAME":
                pass
            case _:
                raise _refused(self.source, f"the pickle operation {operation} ({shortened(argument)})")

    def pop_to_mark(self) -> list[Any]:
        """What was pushed since the last mark, which is removed with it."""
        items = self.stack
        self.stack = self.below_marks.pop()
        return items

    def extend(self, items: list[Any]) -> None:
        """Append to the list on top of the stack."""
        if type(self.stack[-1]) is not list:
            raise _refused(self.source, f"items appended to a {type(self.stack[-1]).__name__}")
        self.stack[-1].extend(items)

    def set_items(self, items: list[Any]) -> None:
        """Set alternating keys and values in the dict on top of the stack."""
        if type(self.stack[-1]) is not dict:
            raise _refused(self.source, f"items set in a {type(self.stack[-1]).__name__}")
        for key, value in zip(items[::2], items[1::2], strict=True):
            if not (type(key) is str or (type(key) is int and abs(key) < MAX_INTEGER_KEY)):
                raise _refused(self.source, f"the key {shortened(key)}")
            self.stack[-1][key] = value

    def find(self, name: str) -> _Global:
        """Look up a name: only the known ones exist here."""
        if name not in _KNOWN_GLOBALS:
            raise _refused(self.source, shortened(name))
        return _Global(name)

    def storage(self, identity: Any) -> _Storage:
        """The storage that a persistent identity describes; the older format may add a window on it."""
        match identity:
            case ("storage", _Global(kind), str(key), _, total, *window) if kind in _STORAGE_TAGS and is_count(total):
                pass
            case _:
                raise _damaged(self.source, f"it describes a storage as {shortened(identity)}")
        match window:
            case [] | [None]:
                start, length = 0, total
            case [(_, start, length)] if is_count(start) and is_count(length) and start + length <= total:
                pass
            case _:
                raise _damaged(self.source, f"it describes a part of a storage as {shortened(window)}")
        storage = _Storage(key, _STORAGE_TAGS[kind], total, start, length)
        known = self.storages.setdefault(key, storage)
        if known.nbytes != storage.nbytes:
            raise _damaged(self.source, f"it gives storage {shortened(key)} two sizes")
        return storage

    def call(self, function: Any, arguments: Any) -> Any:
        """What calling one of the known functions amounts to."""
        if not (type(function) is _Global and type(arguments) is tuple):
            raise _refused(self.source, f"a call of {shortened(function)}")
        match function.name, arguments:
            case "collections.OrderedDict", ():
                return {}
            case "torch.Size", (tuple() as shape,):
                return shape
            case "torch._utils._rebuild_parameter", (_Tensor() as tensor, _, _):
                return tensor
            case "torch._utils._rebuild_tensor", (_Storage() as storage, offset, shape, strides):
                return self.tensor(storage, storage.tag, offset, shape, strides)
            case (
                "torch._utils._rebuild_tensor_v2",
                (_Storage() as storage, offset, shape, strides, _, _, *negated),
            ) if not any(negated):
                return self.tensor(storage, storage.tag, offset, shape, strides)
            case (
                "torch._utils._rebuild_tensor_v3",
                (_Storage() as storage, offset, shape, strides, _, _, _Global(dtype), *negated),
            ) if dtype in _DTYPE_TAGS and not any(negated):
                return self.tensor(storage, _DTYPE_TAGS[dtype], offset, shape, strides)
            case _:
                raise _refused(self.source, f"{function.name} called with {shortened(arguments)}")

    def tensor(self, storage: _Storage, tag: str, offset: Any, shape: Any, strides: Any) -> _Tensor:
        """The tensor of this offset and these strides (in elements), once known to lie within its storage."""

        def wrong(what: str) -> CheckpointError:
            claim = f"shape {shortened(shape)}, strides {shortened(strides)} and offset {shortened(offset)}"
            return _damaged(self.source, f"a tensor with {claim} {what}")

        if not (type(shape) is type(strides) is tuple and len(shape) == len(strides) <= MAX_DIMENSIONS):
            raise wrong("is none")
        if not all(is_count(number) for number in (offset, *shape, *strides)):
            raise wrong("is none")
        itemsize = STORED_TYPES[tag].itemsize
        is_empty = 0 in shape
        last = offset + sum((length - 1) * stride for length, stride in zip(shape, strides, strict=True))
        available = storage.length * storage.itemsize
        if not is_empty and (last + 1) * itemsize > available:
            raise wrong(f"reaches beyond the {available} bytes of its storage")
        expanded = math.prod(length for length in shape if length) * itemsize
        if expanded > max(storage.nbytes, MAX_EXPANDED_BYTES):
            raise wrong(f"would repeat the {storage.nbytes} bytes of its storage to make {expanded}")
        start = 0 if is_empty else storage.start * storage.itemsize + offset * itemsize
        # The stride along a dimension of length 0 or 1 is never taken, and may be too large for NumPy.
        byte_strides = (
            stride * itemsize if length > 1 and not is_empty else itemsize
            for length, stride in zip(shape, strides, strict=True)
        )
        return _Tensor(storage, tag, start, shape, tuple(byte_strides))


def _read_zip(mapping: mmap.mmap, source: str) -> tuple[Any, _Ranges]:
    """The object saved in a zip archive, and where its storages lie."""
    try:
        with zipfile.ZipFile(source) as archive:
            records = archive.infolist()
    except Exception as error:  # zipfile has no one exception for a damaged archive
        raise _damaged(source, f"the zip archive is truncated or malformed ({error})") from None
    by_name = {record.filename: record for record in records}
    if len(by_name) < len(records):
        [(repeated, _)] = Counter(record.filename for record in records).most_common(1)
        raise _damaged(source, f"the zip archive holds {shortened(repeated)} more than once")
    pickles = [name for name in by_name if name.endswith("/data.pkl") and name.count("/") == 1]
    if len(pickles) != 1:
        raise _damaged(source, f"the zip archive holds {len(pickles)} records NAME/data.pkl, not one")
    root = pickles[0].removesuffix("data.pkl")
    if f"{root}byteorder" in by_name:
        start, stop = _record_range(by_name[f"{root}byteorder"], mapping, source)
        if mapping[start:stop] != b"little":
            raise _damaged(source, f"its byte order is {shortened(mapping[start:stop])}, where b'little' is read")
    start, stop = _record_range(by_name[pickles[0]], mapping, source)
    if stop - start > MAX_PICKLE_BYTES:
        raise _damaged(source, f"its pickle has {stop - start} bytes, the limit is {MAX_PICKLE_BYTES}")
    machine = _Machine(source)
    saved = machine.run(io.BytesIO(mapping[start:stop]))
    ranges = {}
    for key in machine.storages:
        if f"{root}data/{key}" not in by_name:
            raise _damaged(source, f"storage {shortened(key)} is missing from the zip archive")
        ranges[key] = _record_range(by_name[f"{root}data/{key}"], mapping, source)
    for (_, stop), (start, _) in pairwise(sorted(ranges.values())):
        if start < stop:  # else a small file could stand for any amount of data
            raise _damaged(source, f"two of its storages share byte {start} of the file")
    _check_sizes(machine.storages, ranges, source)
    return saved, ranges


def _record_range(record: zipfile.ZipInfo, mapping: mmap.mmap, source: str) -> tuple[int, int]:
    """Where the bytes of a zip record lie in the file, both of its headers agreeing."""
    name = f"record {shortened(record.filename)}"
    if record.compress_type != zipfile.ZIP_STORED or record.flag_bits & 1:
        raise _damaged(source, f"{name} is compressed or encrypted, which torch never does")
    header_stop = record.header_offset + _ZIP_LOCAL_HEADER_BYTES
    header = mapping[record.header_offset : header_stop]
    name_stop = header_stop + int.from_bytes(header[26:28], "little")
    start = name_stop + int.from_bytes(header[28:30], "little")
    stop = start + record.file_size
    encoding = "utf-8" if record.flag_bits & _ZIP_UTF8_FLAG else "cp437"
    if not (
        record.header_offset >= 0
        and header.startswith(_ZIP_LOCAL_HEADER)
        and mapping[header_stop:name_stop] == record.orig_filename.encode(encoding)
        and record.compress_size == record.file_size
        and mapping[stop : stop + len(_ZIP_LOCAL_HEADER)] in _ZIP_AFTER_RECORD
    ):
        raise _damaged(source, f"{name} is not where the directory of the zip archive says")
    return start, stop


def _read_legacy(mapping: mmap.mmap, source: str) -> tuple[Any, _Ranges]:
    """The object saved in the format before zip, and where its storages lie."""
    if mapping[: len(_PROTO)] != _PROTO:
        raise _damaged(source, f"it begins with {mapping[:8]!r}, like neither of torch's formats")
    stream = io.BytesIO(mapping[:MAX_PICKLE_BYTES])
    magic_number = _Machine(source).run(stream)
    if magic_number != _LEGACY_MAGIC_NUMBER:
        raise _damaged(source, "it is a pickle, but not one that torch.save wrote")
    protocol = _Machine(source).run(stream)
    if protocol != _LEGACY_PROTOCOL:
        raise _damaged(source, f"it has protocol {shortened(protocol)}, where {_LEGACY_PROTOCOL} is read")
    _Machine(source).run(stream)  # facts of the system that wrote it; the data is little-endian on all
    machine = _Machine(source)
    saved = machine.run(stream)
    keys = _Machine(source).run(stream)
    if not (type(keys) is list and all(type(key) is str for key in keys) and set(keys) == set(machine.storages)):
        raise _damaged(source, "its list of storages and its tensors disagree")
    ranges = {}
    stop = stream.tell()
    for key in keys:
        start = stop + _LENGTH_BYTES
        length = int.from_bytes(mapping[stop:start], "little")
        stop = start + length * machine.storages[key].itemsize
        if stop > len(mapping):
            raise _damaged(source, f"storage {shortened(key)} ends at byte {stop}, the file at {len(mapping)}")
        ranges[key] = start, stop
    _check_sizes(machine.storages, ranges, source)
    return saved, ranges


def _check_sizes(storages: dict[str, _Storage], ranges: _Ranges, source: str) -> None:
    for key, (start, stop) in ranges.items():
        if stop - start != storages[key].nbytes:
            expected = f"its tensors count on {storages[key].nbytes} bytes in storage {shortened(key)}"
            raise _damaged(source, f"{expected}, but {stop - start} are there")


def _named_tensors(saved: Any, source: str) -> dict[str, _Tensor]:
    """The tensors of a state dict, or of one under the key "state_dict"."""
    if type(saved) is dict and type(saved.get("state_dict")) is dict:
        saved = saved["state_dict"]
    if type(saved) is not dict:
        raise _damaged(source, f"it holds a {type(saved).__name__.strip('_')}, not a mapping of names to tensors")
    tensors = {name: value for name, value in saved.items() if type(value) is _Tensor}
    if not tensors:
        raise _damaged(source, f"there are no tensors under its keys {shortened(list(saved))}")
    for name in tensors:
        if not (type(name) is str and is_unicode(name)):
            raise _damaged(source, f"{shortened(name)} is no name for a tensor")
    return tensors


def _arrays(tensors: dict[str, _Tensor], ranges: _Ranges, mapping: mmap.mmap) -> dict[str, np.ndarray]:
    arrays = {}
    copies: dict[str, bytes] = {}  # one of each unaligned storage, so that tensors which share it still do
    for name, tensor in tensors.items():
        dtype = numpy_dtype(tensor.tag)
        key = tensor.storage.key
        start, stop = ranges[key]
        if start % dtype.alignment == 0:
            arrays[name] = np.ndarray(tensor.shape, dtype, mapping, start + tensor.start, tensor.strides)
        else:
            if key not in copies:
                copies[key] = mapping[start:stop]
            arrays[name] = np.ndarray(tensor.shape, dtype, copies[key], tensor.start, tensor.strides)
    return arrays
