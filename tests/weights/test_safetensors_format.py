import json
import math
import mmap
import os
import resource
import subprocess
import sys
import tracemalloc
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import safetensors
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from xlmr_np.weights.errors import CheckpointError
from xlmr_np.weights.safetensors_format import (
    STORED_TYPES,
    header_length,
    numpy_dtype,
    parse_header,
    read_header,
    read_safetensors,
    release_pages,
    write_safetensors,
)

NUMPY_DTYPES = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "BF16": ml_dtypes.bfloat16,
    "F8_E4M3": ml_dtypes.float8_e4m3fn,
    "F8_E5M2": ml_dtypes.float8_e5m2,
    "I64": np.int64,
    "I32": np.int32,
    "I16": np.int16,
    "I8": np.int8,
    "U64": np.uint64,
    "U32": np.uint32,
    "U16": np.uint16,
    "U8": np.uint8,
    "BOOL": np.bool_,
}
TORCH_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U64": torch.uint64,
    "U32": torch.uint32,
    "U16": torch.uint16,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
SHAPES = [(), (0,), (3, 0, 2), (1,), (5,), (3, 4), (2, 3, 4)]


def make_array(tag, shape, seed=0):
    values = np.random.default_rng(seed).integers(0, 100, shape)
    return (values % 2 == 0 if tag == "BOOL" else values).astype(NUMPY_DTYPES[tag])


def as_bytes(tensor):
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def file_bytes(header, data=b""):
    encoded = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(encoded).to_bytes(8, "little") + encoded + data


def entry(dtype="F32", shape=(2,), offsets=(0, 8)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


def write(tmp_path, content):
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    return path


# Both ways with the library


@pytest.mark.parametrize("tag", STORED_TYPES)
def test_the_library_and_torch_read_what_we_write(tmp_path, tag):
    arrays = {f"{tag} {shape}": make_array(tag, shape) for shape in SHAPES}
    path = tmp_path / "model.safetensors"
    write_safetensors(path, arrays, {"format": "pt", "note": '日本語 " \\ \n'})
    loaded = safetensors.torch.load_file(path)
    assert loaded.keys() == arrays.keys()
    for name, array in arrays.items():
        assert loaded[name].dtype == TORCH_DTYPES[tag]
        assert tuple(loaded[name].shape) == array.shape
        assert as_bytes(loaded[name]) == array.tobytes()
    with safetensors.safe_open(path, "np") as file:
        assert file.metadata() == {"format": "pt", "note": '日本語 " \\ \n'}


@pytest.mark.parametrize("tag", STORED_TYPES)
def test_we_read_what_the_library_writes(tmp_path, tag):
    arrays = {f"{tag} {shape}": make_array(tag, shape) for shape in SHAPES}
    tensors = {
        name: torch.from_numpy(array.reshape(-1).view(np.uint8)).view(TORCH_DTYPES[tag]).reshape(array.shape)
        for name, array in arrays.items()
    }
    path = tmp_path / "model.safetensors"
    safetensors.torch.save_file(tensors, path, {"format": "pt"})
    loaded = read_safetensors(path)
    assert loaded.keys() == arrays.keys()
    for name, array in arrays.items():
        assert loaded[name].dtype == NUMPY_DTYPES[tag]
        assert loaded[name].shape == array.shape
        assert loaded[name].tobytes() == array.tobytes()
    assert read_header(path).metadata == {"format": "pt"}


def test_all_dtypes_in_one_file_lie_aligned(tmp_path):
    arrays = {tag: make_array(tag, (3, 5)) for tag in reversed(STORED_TYPES)}
    path = tmp_path / "model.safetensors"
    write_safetensors(path, arrays, None)
    for tag, array in read_safetensors(path).items():
        assert array.flags.aligned
        assert isinstance(array.base, mmap.mmap)
        assert array.tobytes() == arrays[tag].tobytes()


def test_table_of_dtypes_matches_numpy():
    assert STORED_TYPES.keys() == NUMPY_DTYPES.keys()
    for tag, stored in STORED_TYPES.items():
        assert numpy_dtype(tag) == NUMPY_DTYPES[tag]
        assert numpy_dtype(tag).itemsize == stored.itemsize


def test_file_without_tensors(tmp_path):
    path = tmp_path / "model.safetensors"
    write_safetensors(path, {}, None)
    assert safetensors.torch.load_file(path) == {}
    assert read_safetensors(path) == {}


def test_missing_metadata_is_accepted(tmp_path):
    path = write(tmp_path, file_bytes({"a": entry()}, bytes(8)))
    assert read_header(path).metadata == {}
    assert read_safetensors(path)["a"].tolist() == [0.0, 0.0]


# Writing


@pytest.mark.parametrize("tag", ["F32", "BF16", "F8_E4M3", "BOOL"])
@pytest.mark.parametrize(
    "change",
    [
        lambda a: a.T,
        lambda a: a[::2],
        lambda a: a[:, ::-3],
        lambda a: a[3, 2],
        lambda a: np.broadcast_to(a[0], (4, *a[0].shape)),
        lambda a: np.asfortranarray(a),
        lambda a: a[:0].T,
    ],
    ids=["transposed", "rows", "reversed", "scalar", "broadcast", "fortran", "empty"],
)
def test_strides_do_not_matter(tmp_path, tag, change):
    array = change(make_array(tag, (6, 9)))
    path = tmp_path / "model.safetensors"
    write_safetensors(path, {"a": np.asarray(array)}, None)
    assert as_bytes(safetensors.torch.load_file(path)["a"]) == array.tobytes()
    assert read_safetensors(path)["a"].shape == array.shape


def test_strided_array_of_several_blocks(tmp_path):
    array = np.arange(5_000_000, dtype=np.int64).reshape(1000, 5000).T
    path = tmp_path / "model.safetensors"
    tracemalloc.start()
    write_safetensors(path, {"a": array, "b": array[0]}, None)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < array.nbytes
    assert np.array_equal(read_safetensors(path)["a"], array)


def test_contiguous_arrays_are_not_copied(tmp_path):
    array = np.zeros((1000, 5000), np.float32)
    tracemalloc.start()
    write_safetensors(tmp_path / "model.safetensors", {"a": array}, None)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1_000_000


def test_big_endian_arrays_are_stored_little_endian(tmp_path):
    array = np.arange(6, dtype=">i4").reshape(2, 3)
    path = tmp_path / "model.safetensors"
    write_safetensors(path, {"a": array}, None)
    assert safetensors.torch.load_file(path)["a"].tolist() == array.tolist()


def test_writing_over_the_file_the_arrays_are_mapped_from(tmp_path):
    path = tmp_path / "model.safetensors"
    original = make_array("F32", (300, 500))
    write_safetensors(path, {"a": original}, None)
    mapped = read_safetensors(path)
    write_safetensors(path, {"b": mapped["a"]}, None)
    assert np.array_equal(mapped["a"], original)
    assert np.array_equal(read_safetensors(path)["b"], original)


@pytest.mark.parametrize(
    ("arrays", "metadata", "message"),
    [
        ({"a": np.zeros(2, np.complex64)}, None, "'a' has dtype complex64"),
        ({"a": np.array(["x"])}, None, "'a' has dtype <U1"),
        ({"a": np.array([None])}, None, "'a' has dtype object"),
        ({"__metadata__": np.zeros(2)}, None, "'__metadata__' cannot name a tensor"),
        ({5: np.zeros(2)}, None, "5 cannot name a tensor"),
        ({"\ud800": np.zeros(2)}, None, "surrogates not allowed"),
        ({"a": np.zeros(2)}, {"step": 3}, "must map str to str"),
        ({"a": np.zeros(2)}, {3: "step"}, "must map str to str"),
    ],
)
def test_what_cannot_be_written_leaves_the_existing_file_alone(tmp_path, arrays, metadata, message):
    path = write(tmp_path, b"before")
    with pytest.raises(ValueError, match=message):
        write_safetensors(path, arrays, metadata)
    assert path.read_bytes() == b"before"


# Opening


def test_arrays_are_views_of_one_read_only_map_that_they_keep_alive(tmp_path):
    path = tmp_path / "model.safetensors"
    write_safetensors(path, {"a": np.arange(4.0), "b": np.arange(3.0)}, None)
    arrays = read_safetensors(path)
    assert arrays["a"].base is arrays["b"].base
    assert isinstance(arrays["a"].base, mmap.mmap)
    with pytest.raises(ValueError, match="read-only"):
        arrays["a"][0] = 1.0
    kept = arrays.pop("a")
    del arrays
    path.unlink()
    assert kept.tolist() == [0.0, 1.0, 2.0, 3.0]


@pytest.mark.parametrize("shift", range(8))
def test_only_unaligned_tensors_are_copied(tmp_path, shift):
    data = np.arange(3.0).tobytes() + np.arange(3, dtype=np.uint8).tobytes()
    header = json.dumps({"f": entry("F64", (3,), (0, 24)), "u": entry("U8", (3,), (24, 27))}).encode()
    header += b" " * (-len(header) % 8 + shift)
    arrays = read_safetensors(write(tmp_path, file_bytes(header, data)))
    assert arrays["f"].tolist() == [0.0, 1.0, 2.0]
    assert arrays["u"].tolist() == [0, 1, 2]
    assert arrays["f"].flags.aligned
    assert isinstance(arrays["f"].base, mmap.mmap) == (shift == 0)
    assert isinstance(arrays["u"].base, mmap.mmap)
    assert not arrays["f"].flags.writeable


def test_opening_reads_no_data(tmp_path):
    rows = 1375
    size = rows * 1000 * 4
    tensors = {f"layer.{i}.weight": entry("F32", (rows, 1000), (i * size, (i + 1) * size)) for i in range(200)}
    header = json.dumps(tensors).encode()
    path = write(tmp_path, file_bytes(header + b" " * (-len(header) % 8)))
    os.truncate(path, path.stat().st_size + 200 * size)  # a sparse file of 1.1 GB
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    arrays = read_safetensors(path)
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - faults
    assert len(arrays) == 200
    assert sum(array.nbytes for array in arrays.values()) == 1_100_000_000
    assert faults < 2000  # the data has 270,000 pages


def test_reading_float32_imports_neither_ml_dtypes_nor_safetensors(tmp_path):
    path = write(tmp_path, file_bytes({"a": entry()}, bytes(8)))
    program = (
        "import sys; from xlmr_np.weights.safetensors_format import read_safetensors;"
        f"print(read_safetensors({str(path)!r})['a'].shape);"
        "print('ml_dtypes' in sys.modules, 'safetensors' in sys.modules)"
    )
    output = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert output.split() == ["(2,)", "False", "False"]


# Header from bytes, as a remote file gives them


def test_header_is_parsed_from_the_first_bytes_of_a_file(tmp_path):
    path = tmp_path / "model.safetensors"
    write_safetensors(path, {"a": make_array("BF16", (3, 4)), "b": make_array("F32", (5,))}, {"format": "pt"})
    content = path.read_bytes()
    length = header_length(content[:8], len(content), "remote")
    header = parse_header(content[: 8 + length], len(content), "remote")
    assert header == read_header(path)
    assert header.data_start == 8 + length
    assert header.tensors["a"] == ("BF16", (3, 4), 20, 44)
    assert header.tensors["b"] == ("F32", (5,), 0, 20)
    with pytest.raises(CheckpointError, match=f"{7 + length} bytes of it arrived"):
        parse_header(content[: 7 + length], len(content), "remote")


# Damaged and hostile files

NESTED = b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}"
BAD_FILES = {
    "empty": (b"", "cannot be read"),
    "short": (b"\x01\0\0", "it has 3 bytes"),
    "length only": (b"\2\0\0\0\0\0\0\0", "its header is to have 2 bytes, but the whole file has 8"),
    "huge header": ((2**63).to_bytes(8, "little") + b"{}", "header too large"),
    "header over limit": ((100_000_001).to_bytes(8, "little") + b"{}", "header too large"),
    "not UTF-8": (file_bytes(b'{"\xff":1}'), "not JSON in UTF-8"),
    "not JSON": (file_bytes(b"{a:1}"), "not JSON in UTF-8"),
    "no header": (file_bytes(b""), "not JSON in UTF-8"),
    "trailing JSON": (file_bytes(b"{}{}"), "not JSON in UTF-8"),
    "huge number": (file_bytes(b'{"a":' + b"9" * 5000 + b"}"), "not JSON in UTF-8"),
    "nested": (file_bytes(NESTED), "not JSON in UTF-8"),
    "array": (file_bytes(b"[]"), "not a JSON object"),
    "leading space": (file_bytes(b" {}"), "not a JSON object"),
    "twice": (
        file_bytes(
            b'{"a":{"dtype":"U8","shape":[0],"data_offsets":[0,0]},"a":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}'
        ),
        "names 'a' more than once",
    ),
    "lone surrogate": (file_bytes({"\ud800": entry()}, bytes(8)), "not valid Unicode"),
    "metadata list": (file_bytes({"__metadata__": []}), "__metadata__ is \\[\\]"),
    "metadata number": (file_bytes({"__metadata__": {"step": 1}}), "__metadata__ 'step' is 1, not a string"),
    "metadata surrogate": (file_bytes({"__metadata__": {"a": "\udfff"}}), "not valid Unicode"),
    "entry is a list": (file_bytes({"a": []}), "'a' lacks a dtype"),
    "entry is null": (file_bytes({"a": None}), "'a' lacks a dtype"),
    "no dtype": (file_bytes({"a": {"shape": [2], "data_offsets": [0, 8]}}, bytes(8)), "'a' lacks a dtype"),
    "three offsets": (file_bytes({"a": entry(offsets=(0, 8, 8))}, bytes(8)), "'a' lacks a dtype"),
    "offsets as text": (file_bytes({"a": {**entry(), "data_offsets": "08"}}, bytes(8)), "'a' lacks a dtype"),
    "unknown dtype": (file_bytes({"a": entry("F4")}, bytes(8)), "'a' has the unknown dtype 'F4'"),
    "dtype is a list": (file_bytes({"a": entry(["F32"])}, bytes(8)), "'a' has the unknown dtype"),
    "shape is text": (file_bytes({"a": {**entry(), "shape": "2"}}, bytes(8)), "'a' has the shape '2'"),
    "negative length": (file_bytes({"a": entry(shape=(-1, -2))}, bytes(8)), "'a' has the shape"),
    "boolean length": (file_bytes({"a": entry(shape=(2, True))}, bytes(8)), "'a' has the shape"),
    "float length": (file_bytes({"a": entry(shape=(2.0,))}, bytes(8)), "'a' has the shape"),
    "huge length": (file_bytes({"a": entry(shape=(2**63,))}, bytes(8)), "'a' has the shape"),
    "overflow": (file_bytes({"a": entry(shape=(2**62, 2))}, bytes(8)), "'a' has the impossible shape"),
    "overflow of nothing": (file_bytes({"a": entry(shape=(0, 2**62), offsets=(0, 0))}), "impossible shape"),
    "wrapping to fit": (file_bytes({"a": entry("U8", (2**32, 2**32), (0, 0))}), "impossible shape"),
    "65 dimensions": (file_bytes({"a": entry("U8", (1,) * 65, (0, 1))}, bytes(1)), "65 dimensions"),
    "backwards": (file_bytes({"a": entry(offsets=(8, 0))}, bytes(8)), "'a' has the data_offsets \\[8, 0\\]"),
    "negative offset": (file_bytes({"a": entry(offsets=(-8, 0))}, bytes(8)), "'a' has the data_offsets"),
    "boolean offset": (
        file_bytes({"a": entry("U8", (1,), (False, True))}, bytes(1)),
        "'a' has the data_offs",
    ),
    "float offset": (file_bytes({"a": entry(offsets=(0.0, 8.0))}, bytes(8)), "'a' has the data_offsets"),
    "wrong size": (file_bytes({"a": entry(shape=(3,))}, bytes(8)), "takes 12 bytes, but has 8"),
    "beyond the file": (
        file_bytes({"a": entry()}, bytes(7)),
        "'a' has bytes 0 to 8 of the data, but the file",
    ),
    "far beyond": (file_bytes({"a": entry("U8", (2**62,), (0, 2**62))}), "but the file ends after 0"),
    "trailing bytes": (file_bytes({"a": entry()}, bytes(9)), "take 8 bytes of data, but 9 are there"),
    "overlap": (file_bytes({"a": entry(), "b": entry(offsets=(4, 12))}, bytes(12)), "'b'.* overlapping"),
    "same bytes": (file_bytes({"a": entry(), "b": entry()}, bytes(8)), "overlapping"),
    "hole": (
        file_bytes({"a": entry(), "b": entry(offsets=(12, 20))}, bytes(20)),
        "'b'.* leaving a hole after 8",
    ),
    "hole in front": (file_bytes({"a": entry(offsets=(4, 12))}, bytes(12)), "leaving a hole after 0"),
}


@pytest.mark.parametrize("kind", BAD_FILES)
def test_bad_file_is_one_clear_error(tmp_path, kind):
    content, message = BAD_FILES[kind]
    path = write(tmp_path, content)
    with pytest.raises(CheckpointError, match=message) as caught:
        read_safetensors(path)
    assert str(path) in str(caught.value)
    assert len(str(caught.value)) < 600 + len(str(path))
    with pytest.raises(CheckpointError, match=message):
        read_header(path)


def test_missing_file_and_directory(tmp_path):
    with pytest.raises(CheckpointError, match=r"none\.safetensors cannot be read .*No such file"):
        read_safetensors(tmp_path / "none.safetensors")
    with pytest.raises(CheckpointError, match=r"cannot be read .*directory"):
        read_safetensors(tmp_path)


SAMPLE = file_bytes(
    {
        "__metadata__": {"format": "pt"},
        "b": entry("I64", (2,), (0, 16)),
        "a": entry("F32", (2, 2), (16, 32)),
        "empty": entry("F16", (0, 3), (32, 32)),
        "c": entry("BOOL", (3,), (32, 35)),
    },
    bytes(range(32)) + b"\1\0\1",
)


def test_truncated_at_every_length(tmp_path):
    path = write(tmp_path, SAMPLE)
    assert len(read_safetensors(path)) == 4
    for length in range(len(SAMPLE)):
        path.write_bytes(SAMPLE[:length])
        with pytest.raises(CheckpointError):
            read_safetensors(path)


def check_against_the_library(path, content):
    """Either a CheckpointError, or the library's own reading of the same bytes."""
    path.write_bytes(content)
    try:
        arrays = read_safetensors(path)
    except CheckpointError:
        return False
    expected = dict(safetensors.deserialize(content))
    assert arrays.keys() == expected.keys()
    for name, array in arrays.items():
        assert array.dtype == NUMPY_DTYPES[expected[name]["dtype"]]
        assert list(array.shape) == expected[name]["shape"]
        assert array.tobytes() == bytes(expected[name]["data"])
        assert array.nbytes == math.prod(array.shape) * array.itemsize
    return True


corruptions = st.lists(
    st.tuples(
        st.integers(0, len(SAMPLE) - 1),
        st.one_of(st.integers(0, 255), st.sampled_from(b'0123456789[]{},":F')),
    ),
    min_size=1,
    max_size=4,
)


def corrupt(changes):
    content = bytearray(SAMPLE)
    for position, value in changes:
        content[position] = value
    return bytes(content)


@settings(max_examples=400, deadline=None, derandomize=True)
@given(changes=corruptions)
def test_random_corruption(tmp_path_factory, changes):
    path = tmp_path_factory.getbasetemp() / "corrupt.safetensors"
    check_against_the_library(path, corrupt(changes))


@pytest.mark.exhaustive
@settings(max_examples=20_000, deadline=None)
@given(changes=corruptions)
def test_random_corruption_at_length(tmp_path_factory, changes):
    path = tmp_path_factory.getbasetemp() / "corrupt.safetensors"
    check_against_the_library(path, corrupt(changes))


@pytest.mark.exhaustive
def test_every_value_of_every_byte(tmp_path):
    accepted = sum(
        check_against_the_library(tmp_path / "corrupt", corrupt([(position, value)]))
        for position in range(len(SAMPLE) - 35)
        for value in range(256)
    )
    assert accepted > len(SAMPLE)  # names and metadata may be anything


@settings(max_examples=100, deadline=None, derandomize=True)
@given(
    arrays=st.dictionaries(
        st.text(st.characters(exclude_categories=["Cs"]), max_size=8).filter(lambda name: name != "__metadata__"),
        st.tuples(st.sampled_from(sorted(STORED_TYPES)), st.lists(st.integers(0, 4), max_size=4), st.integers(0, 99)),
        max_size=6,
    ),
    metadata=st.none()
    | st.dictionaries(
        st.text(st.characters(exclude_categories=["Cs"])), st.text(st.characters(exclude_categories=["Cs"]))
    ),
)
def test_any_names_dtypes_and_shapes_return(tmp_path_factory, arrays, metadata):
    path = tmp_path_factory.getbasetemp() / "any.safetensors"
    originals = {name: make_array(*claim) for name, claim in arrays.items()}
    write_safetensors(path, originals, metadata)
    assert check_against_the_library(path, path.read_bytes())
    for name, array in read_safetensors(path).items():
        assert array.dtype == originals[name].dtype
        assert array.tobytes() == originals[name].tobytes()
    assert read_header(path).metadata == (metadata or {})


def resident_file_bytes() -> int:
    """How much of mapped files is in this process's memory."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssFile")) * 1024


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="only Linux says what is resident")
def test_released_pages_leave_memory_and_are_read_again(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    values = np.arange(4_000_000.0)
    write_safetensors(path, {"a": values, "b": np.arange(3)})
    arrays = read_safetensors(path)
    np.testing.assert_array_equal(arrays["a"], values)
    before = resident_file_bytes()
    release_pages([*arrays.values(), np.zeros(2)])
    assert resident_file_bytes() < before - values.nbytes / 2
    np.testing.assert_array_equal(arrays["a"], values)
    np.testing.assert_array_equal(arrays["b"], np.arange(3))


@pytest.mark.parametrize("is_writable", [True, False])
def test_what_was_written_to_a_copy_of_a_file_is_not_released(is_writable: bool, tmp_path: Path) -> None:
    """It is in memory alone; an array that is read-only now may have been written to before."""
    path = tmp_path / "array.bin"
    np.zeros(10_000).tofile(path)
    array = np.memmap(path, np.float64, mode="c")
    array[:] = 7
    array.flags.writeable = is_writable
    release_pages([array, np.asarray(array)])
    assert (array == 7).all()
