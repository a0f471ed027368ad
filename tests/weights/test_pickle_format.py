import collections
import functools
import io
import mmap
import operator
import os
import pickle
import pickletools
import resource
import struct
import subprocess
import sys
import tracemalloc
import zipfile

import ml_dtypes
import numpy as np
import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st

from xlmr_np.weights.errors import CheckpointError
from xlmr_np.weights.pickle_format import MAX_PICKLE_BYTES, read_pickle_checkpoint

NUMPY_DTYPES = {
    torch.float64: np.float64,
    torch.float32: np.float32,
    torch.float16: np.float16,
    torch.bfloat16: ml_dtypes.bfloat16,
    torch.float8_e4m3fn: ml_dtypes.float8_e4m3fn,
    torch.float8_e5m2: ml_dtypes.float8_e5m2,
    torch.int64: np.int64,
    torch.int32: np.int32,
    torch.int16: np.int16,
    torch.int8: np.int8,
    torch.uint64: np.uint64,
    torch.uint32: np.uint32,
    torch.uint16: np.uint16,
    torch.uint8: np.uint8,
    torch.bool: np.bool_,
}


def as_bytes(tensor):
    contiguous = torch.empty(tensor.shape, dtype=tensor.dtype).copy_(tensor.detach())
    return contiguous.reshape(-1).view(torch.uint8).numpy().tobytes()


def check_equal(arrays, tensors):
    """The same names in the same order, the same dtypes, shapes and bytes."""
    assert list(arrays) == list(tensors)
    for name, tensor in tensors.items():
        assert arrays[name].dtype == NUMPY_DTYPES[tensor.dtype]
        assert arrays[name].shape == tuple(tensor.shape)
        assert arrays[name].tobytes() == as_bytes(tensor)
        assert arrays[name].flags.aligned
        assert not arrays[name].flags.writeable


@pytest.fixture(params=["zip", "legacy"])
def save(request, tmp_path):
    """torch.save in either format, returning the path."""

    def save_as(content, **options):
        path = tmp_path / "pytorch_model.bin"
        torch.save(content, path, _use_new_zipfile_serialization=request.param == "zip", **options)
        assert zipfile.is_zipfile(path) == (request.param == "zip")
        return path

    return save_as


# Files as the attacker, or an odd program, would write them


class Call:
    """Pickles as a call of `function`."""

    def __init__(self, function, *arguments, state=None):
        self.reduction = function, arguments, state

    def __reduce__(self):
        return self.reduction


class Persistent:
    """Pickles as a persistent identity."""

    def __init__(self, *identity):
        self.identity = identity


class Pickler(pickle.Pickler):
    def persistent_id(self, value):
        return value.identity if isinstance(value, Persistent) else None


def pickled(value, protocol=2):
    stream = io.BytesIO()
    Pickler(stream, protocol, fix_imports=False).dump(value)
    return stream.getvalue()


def zip_file(path, pickle_bytes, storages=(), byteorder=b"little", compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("archive/data.pkl", pickle_bytes)
        archive.writestr("archive/byteorder", byteorder)
        for key, content in dict(storages).items():
            archive.writestr(f"archive/data/{key}", content)
    return path


def legacy_file(path, pickle_bytes, storages=(), magic_number=0x1950A86A20F9469CFC6C, protocol=1001, keys=None):
    parts = [pickled(magic_number), pickled(protocol), pickled({"little_endian": True}), pickle_bytes]
    parts.append(pickled([key for key, _, _ in storages] if keys is None else keys))
    parts += [struct.pack("<q", length) + content for _, length, content in storages]
    path.write_bytes(b"".join(parts))
    return path


def float_storage(length, key="0", *rest):
    return Persistent("storage", torch.FloatStorage, key, "cpu", length, *rest)


def tensor_call(storage, offset, shape, strides, *rest):
    hooks = collections.OrderedDict()
    return Call(torch._utils._rebuild_tensor_v2, storage, offset, shape, strides, False, hooks, *rest)


TWO_FLOATS = np.array([1.5, -2.0], np.float32).tobytes()
ONE_TENSOR = tensor_call(float_storage(2), 0, (2,), (1,))


# What torch writes


@pytest.mark.parametrize("dtype", NUMPY_DTYPES, ids=str)
def test_every_dtype(save, dtype):
    values = torch.arange(24).reshape(2, 3, 4)
    tensors = {
        "cube": values.to(dtype),
        "transposed": values.to(dtype).permute(2, 0, 1),
        "scalar": values.to(dtype)[1, 2, 3].clone(),
        "empty": values.to(dtype)[:, :0].clone(),
        "empty slice": values.to(dtype)[:, 1:1],
    }
    check_equal(read_pickle_checkpoint(save(tensors)), tensors)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_every_pickle_protocol(save, protocol):
    tensors = collections.OrderedDict(a=torch.randn(3, 4), b=torch.arange(5), c=torch.nn.Parameter(torch.ones(2)))
    check_equal(read_pickle_checkpoint(save(tensors, pickle_protocol=protocol)), tensors)


def test_views_keep_strides_and_sharing(save):
    base = torch.arange(60, dtype=torch.float32).reshape(5, 12)
    tensors = {
        "base": base,
        "tied": base,
        "transposed": base.T,
        "slice": base[1:4, 2:11:3],
        "last": base[4, 11],
        "expanded": base[2].expand(7, 12),
        "windows": base.reshape(-1).as_strided((4, 3), (2, 1), 50),
        "alone": base.clone(),
    }
    arrays = read_pickle_checkpoint(save(tensors))
    check_equal(arrays, tensors)
    for name in tensors:
        assert np.shares_memory(arrays["base"], arrays[name]) == (name != "alone")
        assert arrays[name].strides == tuple(4 * stride for stride in tensors[name].stride())
    assert arrays["tied"].ctypes.data == arrays["base"].ctypes.data


def test_strides_that_are_never_taken_may_be_anything(save):
    tensors = {
        "a": torch.zeros(6).as_strided((1, 3), (2**62, 2)),
        "b": torch.zeros(2).as_strided((0, 3), (2**62, 1)),
    }
    check_equal(read_pickle_checkpoint(save(tensors)), tensors)


def test_parameters_and_gradients(save):
    tensors = {
        "parameter": torch.nn.Parameter(torch.randn(2, 3)),
        "frozen": torch.nn.Parameter(torch.randn(2), requires_grad=False),
        "leaf": torch.randn(4, requires_grad=True),
    }
    check_equal(read_pickle_checkpoint(save(tensors)), tensors)


def test_state_dict_of_a_module_with_its_metadata(save):
    module = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
    state = module.state_dict()
    assert state._metadata  # an attribute of the ordered dict, which BUILD sets
    check_equal(read_pickle_checkpoint(save(state)), state)


def test_state_dict_of_transformers(save):
    config = transformers.XLMRobertaConfig(
        vocab_size=50, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32
    )
    state = transformers.XLMRobertaForMaskedLM(config).state_dict()
    arrays = read_pickle_checkpoint(save(state))
    check_equal(arrays, state)
    assert np.shares_memory(arrays["lm_head.decoder.weight"], arrays["roberta.embeddings.word_embeddings.weight"])


def test_wrapper_and_entries_that_are_no_tensors(save):
    tensors = {"a": torch.ones(2), "b": torch.zeros(3)}
    others = {
        "step": 3,
        "rate": 1e-5,
        "name": "run",
        "nothing": None,
        "flags": [True, False],
        "shape": torch.Size([2, 3]),
        "optimizer": {"state": {0: {"exp_avg": torch.ones(4)}}, "param_groups": [{"params": [0, 1]}]},
    }
    check_equal(read_pickle_checkpoint(save(tensors | others)), tensors)
    check_equal(read_pickle_checkpoint(save({"state_dict": tensors | others, "epoch": 4})), tensors)


def test_older_tensors_without_hooks(tmp_path):
    old = Call(torch._utils._rebuild_tensor, float_storage(2), 0, (2,), (1,))
    for path in (
        zip_file(tmp_path / "zip", pickled({"a": old}), {"0": TWO_FLOATS}),
        legacy_file(tmp_path / "legacy", pickled({"a": old}), [("0", 2, TWO_FLOATS)]),
    ):
        assert read_pickle_checkpoint(path)["a"].tolist() == [1.5, -2.0]


def test_storage_views_of_the_older_format(tmp_path):
    values = np.arange(10, dtype=np.float32)
    tensors = {
        "whole": tensor_call(float_storage(10, "7", None), 0, (10,), (1,)),
        "view": tensor_call(float_storage(10, "7", ("8", 4, 5)), 1, (2, 2), (2, 1)),
    }
    path = legacy_file(tmp_path / "legacy", pickled(tensors), [("7", 10, values.tobytes())])
    arrays = read_pickle_checkpoint(path)
    assert arrays["view"].tolist() == [[5, 6], [7, 8]]
    assert np.shares_memory(arrays["whole"], arrays["view"])
    outside = tensor_call(float_storage(10, "7", ("8", 4, 5)), 2, (2, 2), (2, 1))
    legacy_file(path, pickled({"a": outside}), [("7", 10, values.tobytes())])
    with pytest.raises(CheckpointError, match="beyond the 20 bytes of its storage"):
        read_pickle_checkpoint(path)


@pytest.mark.parametrize("padding", range(8))
def test_unaligned_storages_are_copied_once_and_stay_shared(tmp_path, padding):
    tensors = {
        "a": tensor_call(float_storage(2), 0, (2,), (1,)),
        "b": tensor_call(float_storage(2), 1, (1,), (1,)),
    }
    content = pickled({"x" * padding: None, **tensors})
    for path in (
        zip_file(tmp_path / "zip", content, {"0": TWO_FLOATS}),
        legacy_file(tmp_path / "legacy", content, [("0", 2, TWO_FLOATS)]),
    ):
        arrays = read_pickle_checkpoint(path)
        assert arrays["a"].tolist() == [1.5, -2.0]
        assert arrays["a"].flags.aligned
        assert np.shares_memory(arrays["a"], arrays["b"])
        is_aligned = path.read_bytes().index(TWO_FLOATS) % 4 == 0
        assert isinstance(arrays["a"].base, mmap.mmap) == is_aligned


def test_opening_reads_no_data(tmp_path):
    path = tmp_path / "pytorch_model.bin"
    torch.save({"a": torch.zeros(2**24), "b": torch.ones(3)}, path)
    tracemalloc.start()
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    arrays = read_pickle_checkpoint(path)
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - faults
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert faults < 2000  # the data has 16,384 pages
    assert peak < 2**20
    assert isinstance(arrays["a"].base, mmap.mmap)
    path.unlink()
    assert arrays["b"].tolist() == [1.0, 1.0, 1.0]


def test_torch_is_not_imported(tmp_path):
    path = tmp_path / "pytorch_model.bin"
    torch.save({"a": torch.ones(3)}, path)
    program = (
        "import sys; from xlmr_np.weights.pickle_format import read_pickle_checkpoint;"
        f"print(read_pickle_checkpoint({str(path)!r})['a'].shape, 'torch' in sys.modules)"
    )
    output = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert output.split() == ["(3,)", "False"]


# Hostile pickles


def assert_refused(tmp_path, content, message):
    """Each container around this pickle is refused with a message that names the file."""
    for path in (
        zip_file(tmp_path / "zip.bin", content, {"0": TWO_FLOATS}),
        legacy_file(tmp_path / "legacy.bin", content, [("0", 2, TWO_FLOATS)]),
    ):
        with pytest.raises(CheckpointError, match=message) as caught:
            read_pickle_checkpoint(path)
        assert str(path) in str(caught.value)
        assert len(str(caught.value)) < 800 + len(str(path))


def gadgets(sentinel):
    """Pickles that would create the sentinel file, by the name they ask for."""
    touch = f"open({str(sentinel)!r}, 'w').close()"
    return {
        "posix.system": Call(os.system, f"touch {sentinel}"),
        "subprocess.Popen": Call(subprocess.Popen, ["touch", str(sentinel)]),
        "builtins.exec": Call(exec, touch),
        "builtins.eval": Call(eval, touch),
        "io.open": Call(open, str(sentinel), "w"),
        "builtins.getattr": Call(getattr, "text", "format"),  # the first link of many a chain
        "functools.partial": Call(functools.partial(os.system, f"touch {sentinel}")),
        "operator.methodcaller": Call(operator.methodcaller("touch"), sentinel),
    }


PLACES = {
    "alone": lambda gadget: gadget,
    "value": lambda gadget: {"a": ONE_TENSOR, "b": gadget},
    "key": lambda gadget: {"a": {(gadget,): 1}},
    "list": lambda gadget: {"a": [[gadget]]},
    "wrapper": lambda gadget: {"state_dict": {"a": gadget}},
    "state": lambda gadget: Call(collections.OrderedDict, state={"_metadata": gadget}),
    "storage": lambda gadget: {"a": tensor_call(gadget, 0, (2,), (1,))},
    "shape": lambda gadget: {"a": tensor_call(float_storage(2), 0, gadget, (1,))},
    "hooks": lambda gadget: {"a": Call(torch._utils._rebuild_parameter, ONE_TENSOR, True, gadget)},
    "identity": lambda gadget: {"a": tensor_call(float_storage(2, gadget), 0, (2,), (1,))},
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("name", gadgets("x"))
def test_gadget_is_refused_by_name_and_never_runs(tmp_path, name, place):
    sentinel = tmp_path / "sentinel"
    gadget = gadgets(sentinel)[name]
    for protocol in (2, 4):
        content = pickled(PLACES[place](gadget), protocol)
        assert_refused(tmp_path, content, f"asks for '{name}', which no tensor file needs; nothing was executed")
    assert not sentinel.exists()


@pytest.mark.parametrize("name", ["posix.system", "builtins.exec", "builtins.eval", "io.open"])
def test_the_gadgets_are_live(tmp_path, name):
    sentinel = tmp_path / "sentinel"
    pickle.loads(pickled(gadgets(sentinel)[name]))
    assert sentinel.exists()


@pytest.mark.parametrize(
    ("value", "name"),
    [
        (np.zeros(3), "numpy._core.multiarray._reconstruct"),
        (np.float64(1.0), "numpy._core.multiarray.scalar"),
        ({1, 2}, "builtins.set"),
        (collections.defaultdict(int), "collections.defaultdict"),
        (torch.nn.Linear(1, 1), "torch.nn.modules.linear.Linear"),
        (torch.device("cpu"), "torch.device"),
        (torch.float32, "torch.float32"),
        (torch.ComplexFloatStorage, "torch.ComplexFloatStorage"),
        (Call(torch.load, "file"), "torch.serialization.load"),
        (Call(torch.hub.load, "repository"), "torch.hub.load"),
        (collections.Counter(), "collections.Counter"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_other_names_are_refused(tmp_path, value, name):
    assert_refused(tmp_path, pickled({"a": value}), f"asks for '{name}'")


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"(cos\nsystem\nX\x01\0\0\0xo.", "'os.system'"),
        (b"(X\x01\0\0\0xios\nsystem\n.", "INST .*os system"),
        (b"\x8c\x02os\x8c\x06system\x93X\x01\0\0\0x\x85R.", "'os.system'"),
        (b"K\x01K\x02\x93.", "asks for ''"),
        (b"ccollections\nOrderedDict\n)\x81.", "operation NEWOBJ"),
        (b"ccollections\nOrderedDict\n)}\x92.", "operation NEWOBJ_EX"),
        (b"\x82\x01.", "operation EXT1"),
        (b"Pos.system\n.", "operation PERSID"),
        (b"\x8b\x04\0\0\0\0\0\0\x01.", "operation LONG4"),
        (b"\x96\x04\0\0\0\0\0\0\0abcd.", "operation BYTEARRAY8"),
        (b"\x97.", "operation NEXT_BUFFER"),
        (b"\x8f.", "operation EMPTY_SET"),
        (b"2.", "operation DUP"),
        # attributes and items of what is no plain container
        (b"ccollections\nOrderedDict\n}X\x06\0\0\0updateNsb.", "attributes of a _Global"),
        (b"ctorch._utils\n_rebuild_tensor\n}b.", "attributes of a _Global"),
        (b"]}b.", "attributes of a list"),
        (b"K\x05}b.", "attributes of a int"),
        (b"ctorch\nSize\nK\x01K\x02s.", "items set in a _Global"),
        (b"]K\x01K\x02s.", "items set in a list"),
        (b"}K\x01a.", "items appended to a dict"),
        # calls
        (b"K\x05)R.", "a call of 5"),
        (b"ctorch\nFloatStorage\n)R.", "torch.FloatStorage called with"),
        (b"ctorch\nuint16\n)R.", "torch.uint16 called with"),
        (b"ccollections\nOrderedDict\n](]K\x01aK\x02e\x85R.", "collections.OrderedDict called with"),
        (b"ccollections\nOrderedDict\n}R.", "a call of"),
        (b"ctorch\nSize\n)R.", "torch.Size called with"),
        (b"ctorch._utils\n_rebuild_parameter\n}NN\x87R.", "_rebuild_parameter called with"),
        (b"ctorch._utils\n_rebuild_tensor_v2\n)R.", "_rebuild_tensor_v2 called with"),
        (b"ctorch._utils\n_rebuild_tensor_v3\n)R.", "_rebuild_tensor_v3 called with"),
        # keys
        (b"})K\x01s.", "the key \\(\\)"),
        (b"}]K\x01s.", "the key \\[\\]"),
        (b"}G\0\0\0\0\0\0\0\0K\x01s.", "the key 0.0"),
        (b"}\x88K\x01s.", "the key True"),
        (b"}\x8a\x09" + b"\0" * 8 + b"\x01K\x01s.", "the key 18446744073709551616"),
        # stacks, memos and operations that are not there
        (b".", "breaks off or is malformed"),
        (b"R.", "breaks off or is malformed"),
        (b"u.", "breaks off or is malformed"),
        (b"}(K\x01u.", "breaks off or is malformed"),
        (b"h\x05.", "breaks off or is malformed"),
        (b"q\x05.", "breaks off or is malformed"),
        (b"\xff.", "breaks off or is malformed"),
        (b"X\xff\xff\xff\xffabc.", "breaks off or is malformed"),
        (b"\x8d" + b"\xff" * 8 + b"abc.", "breaks off or is malformed"),
        (b"\x8e" + b"\xff" * 7 + b"\x7fabc.", "breaks off or is malformed"),
        (b"S'\\q'\n.", "breaks off or is malformed"),
        (b"F" + b"x" * 100_000 + b"\n.", "breaks off or is malformed"),
        (b"I" + b"9" * 100_000 + b"\n.", "breaks off or is malformed"),
        (b"X\x02\0\0\0\xff\xff.", "breaks off or is malformed"),
        (b"cos\n", "breaks off or is malformed|INT|'os"),
        # identities
        (b"K\x05Q.", "describes a storage as 5"),
        (b")Q.", "describes a storage as \\(\\)"),
        (b"(X\x07\0\0\0storageX\x01\0\0\0aX\x01\0\0\0aX\x01\0\0\0aK\x01tQ.", "describes a storage as"),
        (b"(X\x06\0\0\0modulectorch\nSize\nNNtQ.", "describes a storage as"),
    ],
)  # fmt: skip
def test_hostile_operations(tmp_path, body, message):
    assert_refused(tmp_path, b"\x80\x02" + body, message)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"K\x05.", "it holds a int"),
        (b"N.", "it holds a NoneType"),
        (b"ctorch\nSize\n.", "it holds a Global"),
        (b"].", "it holds a list"),
        (b"}.", "no tensors under its keys \\[\\]"),
        (b"}K\x01K\x02s.", "no tensors under its keys \\[1\\]"),
        (b")q\x01" + b"h\x01h\x01\x86q\x01" * 60 + b".", "it holds a tuple"),
    ],
)
def test_what_is_no_mapping_of_names_to_tensors(tmp_path, body, message):
    for path in (
        zip_file(tmp_path / "zip", b"\x80\x02" + body),
        legacy_file(tmp_path / "legacy", b"\x80\x02" + body),
    ):
        with pytest.raises(CheckpointError, match=message):
            read_pickle_checkpoint(path)


def test_every_operation_of_pickle_alone_is_an_error_not_a_crash(tmp_path):
    for operation in pickletools.opcodes:
        for argument in (b"", b"\0" * 16, b"1\n1\n", b"\xff" * 16):
            content = b"\x80\x02" + operation.code.encode("latin-1") + argument + b"."
            with pytest.raises(CheckpointError):
                read_pickle_checkpoint(zip_file(tmp_path / "zip", content))


@pytest.mark.parametrize("kind", ["tuple", "list", "dict", "marks", "memo"])
def test_bombs_are_defused(tmp_path, kind):
    depth = 100_000
    body, message = {
        "tuple": (b")" + b"\x85" * depth + b".", "it holds a tuple"),
        "list": (b"]" * depth + b"a" * (depth - 1) + b".", "it holds a list"),
        "dict": (b"}" + b"X\1\0\0\0a}" * depth + b"s" * depth + b".", "no tensors"),
        "marks": (b"(" * depth + b".", "breaks off"),
        "memo": (b"}r\xff\xff\xff\xff.", "no tensors"),
    }[kind]
    path = zip_file(tmp_path / "zip", b"\x80\x02" + body)
    tracemalloc.start()
    with pytest.raises(CheckpointError, match=message):
        read_pickle_checkpoint(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**28


def test_tuples_within_tuples_do_not_explode_the_message(tmp_path):
    doubled = b"]q\x01" + b"h\x01h\x01\x86q\x01" * 60
    assert_refused(tmp_path, b"\x80\x02" + doubled + b"}h\x01K\x01s.", "the key")
    assert_refused(tmp_path, b"\x80\x02" + doubled + b"Q.", "describes a storage as")
    assert_refused(tmp_path, b"\x80\x02" + doubled + b"ctorch\nSize\nh\x01R.", "torch.Size called with")


# Tensors and storages that lie

HUGE = 2**62


@pytest.mark.parametrize(
    ("offset", "shape", "strides", "message"),
    [
        (0, (3,), (1,), "beyond the 8 bytes"),
        (1, (2,), (1,), "beyond the 8 bytes"),
        (2, (1,), (1,), "beyond the 8 bytes"),
        (2, (), (), "beyond the 8 bytes"),
        (0, (2,), (2,), "beyond the 8 bytes"),
        (0, (2,), (HUGE,), "beyond the 8 bytes"),
        (HUGE, (1,), (1,), "beyond the 8 bytes"),
        (0, (HUGE, 4), (HUGE, HUGE), "beyond the 8 bytes"),
        (0, (2, 2), (1, 1), "beyond the 8 bytes"),
        (-1, (2,), (1,), "is none"),
        (0, (-2,), (1,), "is none"),
        (1, (2,), (-1,), "is none"),
        (0, (1,), (-1,), "is none"),
        (0, (2**63,), (0,), "is none"),
        (0, (10**300,), (0,), "is none"),
        (0, (2,), (1, 1), "is none"),
        (0, (), (1,), "is none"),
        (0, [2], [1], "is none"),
        (0, 2, 1, "is none"),
        (0, (2.0,), (1,), "is none"),
        (0, (True,), (1,), "is none"),
        (False, (2,), (1,), "is none"),
        (None, (2,), (1,), "is none"),
        ("0", (2,), (1,), "is none"),
        (0, ((2,),), (1,), "is none"),
        (0, (1,) * 65, (1,) * 65, "is none"),
        (0, (2**24 + 1,), (0,), "would repeat the 8 bytes"),
        (0, (HUGE,), (0,), "would repeat the 8 bytes"),
        (0, (HUGE,) * 9, (0,) * 9, "would repeat the 8 bytes"),
        (0, (0, HUGE), (0, 0), "would repeat the 8 bytes"),
    ],
)
def test_tensors_that_do_not_fit_their_storage(tmp_path, offset, shape, strides, message):
    content = pickled({"a": tensor_call(float_storage(2), offset, shape, strides)})
    assert_refused(tmp_path, content, message)


def test_an_empty_tensor_may_start_anywhere(tmp_path):
    content = pickled({"a": tensor_call(float_storage(2), HUGE, (0, 3), (1, 1))})
    assert read_pickle_checkpoint(zip_file(tmp_path / "zip", content, {"0": TWO_FLOATS}))["a"].shape == (0, 3)


def test_expanded_tensors_within_reason(tmp_path):
    content = pickled({"a": tensor_call(float_storage(2), 1, (2**12, 2**12), (0, 0))})
    for path in (
        zip_file(tmp_path / "zip", content, {"0": TWO_FLOATS}),
        legacy_file(tmp_path / "legacy", content, [("0", 2, TWO_FLOATS)]),
    ):
        array = read_pickle_checkpoint(path)["a"]
        assert array.shape == (2**12, 2**12)
        assert array[-1, -1] == -2.0


@pytest.mark.parametrize(
    ("storage", "message"),
    [
        (float_storage(3), "count on 12 bytes in storage '0', but 8 are there"),
        (float_storage(1), "count on 4 bytes in storage '0', but 8 are there"),
        (float_storage(HUGE), "but 8 are there"),
        (float_storage(-2), "describes a storage"),
        (float_storage(2.0), "describes a storage"),
        (float_storage(10**300), "describes a storage"),
        (float_storage(2, 0), "describes a storage"),
        (float_storage(2, None), "describes a storage"),
        (float_storage(2, "1"), "storage '1' is missing|disagree"),
        (float_storage(2, "../data.pkl"), "is missing|disagree"),
        (float_storage(2, "0", 5), "part of a storage as \\[5\\]"),
        (float_storage(2, "0", ("1", 1)), "part of a storage"),
        (float_storage(2, "0", ("1", 1, 2)), "part of a storage"),
        (float_storage(2, "0", ("1", -1, 2)), "part of a storage"),
        (float_storage(2, "0", ("1", HUGE, HUGE)), "part of a storage"),
        (float_storage(2, "0", None, None), "part of a storage"),
        (Persistent("storage", torch.DoubleStorage, "0", "cpu", 2), "count on 16 bytes|ends at byte"),
        (Persistent("storage", torch.Size, "0", "cpu", 2), "describes a storage"),
        (Persistent("storage", torch.uint16, "0", "cpu", 2), "describes a storage"),
        (Persistent("storage", "FloatStorage", "0", "cpu", 2), "describes a storage"),
        (Persistent("storages", torch.FloatStorage, "0", "cpu", 2), "describes a storage"),
    ],
)
def test_storages_that_lie(tmp_path, storage, message):
    assert_refused(tmp_path, pickled({"a": tensor_call(storage, 0, (1,), (1,))}), message)


def test_storage_of_two_sizes(tmp_path):
    tensors = {"a": ONE_TENSOR, "b": tensor_call(float_storage(3), 0, (1,), (1,))}
    assert_refused(tmp_path, pickled(tensors), "it gives storage '0' two sizes")


def test_negated_and_conjugate_views_are_refused(tmp_path, save):
    negated = torch._neg_view(torch.ones(2))
    with pytest.raises(CheckpointError, match="_rebuild_tensor_v2 called with"):
        read_pickle_checkpoint(save({"a": negated}))
    assert_refused(tmp_path, pickled({"a": tensor_call(float_storage(2), 0, (1,), (1,), {"neg": True})}), "called")
    storage = Persistent("storage", torch.UntypedStorage, "0", "cpu", 8)
    arguments = storage, 0, (4,), (1,), False, collections.OrderedDict(), torch.uint16
    content = pickled({"a": Call(torch._utils._rebuild_tensor_v3, *arguments, {"neg": True})})
    assert_refused(tmp_path, content, "_rebuild_tensor_v3 called")
    path = zip_file(
        tmp_path / "zip", pickled({"a": Call(torch._utils._rebuild_tensor_v3, *arguments)}), {"0": TWO_FLOATS}
    )
    assert read_pickle_checkpoint(path)["a"].tobytes() == TWO_FLOATS


@pytest.mark.parametrize("name", [5, "\ud800"])
def test_names_that_are_no_names(tmp_path, name):
    assert_refused(tmp_path, pickled({name: ONE_TENSOR}), "is no name for a tensor")


# Containers that lie


def test_zip_records_must_be_stored_plainly(tmp_path):
    path = zip_file(tmp_path / "zip", pickled({"a": ONE_TENSOR}), {"0": TWO_FLOATS}, compression=zipfile.ZIP_DEFLATED)
    with pytest.raises(CheckpointError, match="compressed or encrypted"):
        read_pickle_checkpoint(path)
    zip_file(path, pickled({"a": ONE_TENSOR}), {"0": TWO_FLOATS})
    content = bytearray(path.read_bytes())
    for directory_entry in range(len(content)):
        if content[directory_entry : directory_entry + 4] == b"PK\1\2":
            content[directory_entry + 8] |= 1
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="compressed or encrypted"):
        read_pickle_checkpoint(path)


def test_big_endian_files_are_refused(tmp_path):
    path = zip_file(tmp_path / "zip", pickled({"a": ONE_TENSOR}), {"0": TWO_FLOATS}, byteorder=b"big")
    with pytest.raises(CheckpointError, match="byte order is b'big'"):
        read_pickle_checkpoint(path)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_zip_names(tmp_path):
    path = tmp_path / "zip"
    for names, message in (
        (["archive/data.pkl", "archive/data/0", "archive/data/0"], "holds 'archive/data/0' more than once"),
        (["archive/data.pkl", "archive/data.pkl", "archive/data/0"], "more than once"),
        (["archive/data.pkl", "other/data.pkl", "archive/data/0"], "holds 2 records NAME/data.pkl, not one"),
        (["archive/sub/data.pkl", "data.pkl"], "holds 0 records NAME/data.pkl, not one"),
        ([], "not"),
        (["archive/data.pkl"], "storage '0' is missing"),
        (["archive/data.pkl", "other/data/0"], "storage '0' is missing"),
    ):
        with zipfile.ZipFile(path, "w") as archive:
            for name in names:
                archive.writestr(name, pickled({"a": ONE_TENSOR}) if name.endswith("pkl") else TWO_FLOATS)
        with pytest.raises(CheckpointError, match=message):
            read_pickle_checkpoint(path)


@pytest.mark.parametrize("root", ["archive", "pytorch_model", "名前", "a b"])
def test_any_archive_name(tmp_path, root):
    path = tmp_path / "zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{root}/data.pkl", pickled({"a": ONE_TENSOR}))
        archive.writestr(f"{root}/data/0", TWO_FLOATS)
    assert read_pickle_checkpoint(path)["a"].tolist() == [1.5, -2.0]


def test_storages_that_share_bytes(tmp_path):
    path = tmp_path / "zip"
    name = b"archive/data/1"
    inner = struct.pack("<4s5H3L2H", b"PK\3\4", 20, 0, 0, 0, 33, 0, 8, 8, len(name), 0) + name + TWO_FLOATS
    outer = Persistent("storage", torch.ByteStorage, "0", "cpu", len(inner))
    tensors = {
        "outer": tensor_call(outer, 0, (len(inner),), (1,)),
        "inner": tensor_call(float_storage(2, "1"), 0, (2,), (1,)),
    }
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickled(tensors))
        archive.writestr("archive/data/0", inner)
        info = zipfile.ZipInfo("archive/data/1")
        info.header_offset = archive.getinfo("archive/data/0").header_offset + 30 + len(name)
        info.file_size = info.compress_size = 8
        info.CRC = 0
        info.create_version = info.extract_version = 20
        archive.filelist.append(info)
        archive.NameToInfo[info.filename] = info
    with pytest.raises(CheckpointError, match="two of its storages share byte"):
        read_pickle_checkpoint(path)


@pytest.mark.parametrize(
    ("header", "position", "value"),
    [
        (b"PK\3\4", 0, b"p"),  # not a header
        (b"PK\3\4", 28, b"\4\0"),  # an extra field, which would shift the data
        (b"PK\3\4", 26, b"\x0d"),  # a shorter name, likewise
        (b"PK\3\4", 43, b"1"),  # the name of another record
        (b"PK\1\2", 20, b"\x09"),  # two lengths, as though compressed
        (b"PK\1\2", 24, b"\x09"),
        (b"PK\1\2", 42, b"\x01"),  # other positions
        (b"PK\1\2", 45, b"\x7f"),
        (b"PK\5\6", 16, b"\xff"),  # a directory said to be later moves all records forward, some before the file
    ],
)
def test_zip_headers_that_lie(tmp_path, header, position, value):
    path = zip_file(tmp_path / "zip", pickled({"a": ONE_TENSOR}), {"0": TWO_FLOATS})
    content = bytearray(path.read_bytes())
    place = content.rindex(header) + position  # storage 0 is the last record
    content[place : place + len(value)] = value
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="is not where the directory of the zip archive says"):
        read_pickle_checkpoint(path)


def test_pickle_that_is_too_long(tmp_path):
    content = pickled({"a": ONE_TENSOR, "b": "x" * MAX_PICKLE_BYTES})
    assert_refused(tmp_path, content, "limit is|breaks off")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"magic_number": 7}, "not one that torch.save wrote"),
        ({"magic_number": {"a": 1}}, "not one that torch.save wrote"),
        ({"protocol": 1000}, "has protocol 1000, where 1001 is read"),
        ({"protocol": None}, "has protocol None"),
        ({"keys": []}, "list of storages and its tensors disagree"),
        ({"keys": ["0", "1"]}, "disagree"),
        ({"keys": [0]}, "disagree"),
        ({"keys": [["0"]]}, "disagree"),
        ({"keys": "0"}, "disagree"),
        ({"keys": {"0": 1}}, "disagree"),
        ({"storages": [("0", 2, TWO_FLOATS[:-1])]}, "storage '0' ends at byte"),
        ({"storages": [("0", 2**60, TWO_FLOATS)]}, "storage '0' ends at byte"),
        ({"storages": [("0", -2, TWO_FLOATS)]}, "storage '0' ends at byte"),
        ({"storages": [("0", 1, TWO_FLOATS)]}, "count on 8 bytes in storage '0', but 4 are there"),
    ],
)
def test_legacy_files_that_lie(tmp_path, options, message):
    options = {"storages": [("0", 2, TWO_FLOATS)], **options}
    path = legacy_file(tmp_path / "legacy", pickled({"a": ONE_TENSOR}), **options)
    with pytest.raises(CheckpointError, match=message):
        read_pickle_checkpoint(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "cannot be read"),
        (
            b"version https://git-lfs.github.com/spec/v1\n",
            "begins with b'version ', like neither of torch's formats",
        ),
        (b"<!DOCTYPE html>", "like neither"),
        (b"PK\3\4", "zip archive is truncated"),
        (b"\x80", "breaks off"),
        (pickle.dumps({"a": 1}), "not one that torch.save wrote"),
        (pickle.dumps(os.system), "asks for 'posix.system'"),
    ],
)
def test_other_files(tmp_path, content, message):
    path = tmp_path / "pytorch_model.bin"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=message):
        read_pickle_checkpoint(path)


def test_missing_file(tmp_path):
    with pytest.raises(CheckpointError, match=r"pytorch_model\.bin cannot be read"):
        read_pickle_checkpoint(tmp_path / "pytorch_model.bin")


# Truncation and corruption


BASE = torch.arange(6, dtype=torch.float32).reshape(2, 3)
SAMPLE = collections.OrderedDict(a=BASE, b=BASE.T, c=torch.tensor([True, False]), d=torch.arange(3), e=torch.zeros(0))
SAMPLE._metadata = {"": {"version": 1}}


def saved(content, is_zip):
    stream = io.BytesIO()
    torch.save(content, stream, _use_new_zipfile_serialization=is_zip)
    return stream.getvalue()


SAMPLES = {"zip": saved(SAMPLE, True), "legacy": saved(SAMPLE, False)}


@pytest.mark.parametrize("format", SAMPLES)
def test_truncated_at_every_length(tmp_path, format):
    path = tmp_path / "pytorch_model.bin"
    path.write_bytes(SAMPLES[format])
    assert len(read_pickle_checkpoint(path)) == 5
    for length in range(len(SAMPLES[format])):
        path.write_bytes(SAMPLES[format][:length])
        with pytest.raises(CheckpointError):
            read_pickle_checkpoint(path)


def check_against_torch(path, content):
    """Either a CheckpointError, or torch's own reading of the same bytes where torch can read them."""
    path.write_bytes(content)
    try:
        arrays = read_pickle_checkpoint(path)
    except CheckpointError:
        return
    # A corrupted boolean byte, such as 2, is True to NumPy and to torch, which writes it as 1 when it copies.
    stored = {name: (array | False if array.dtype == bool else array).tobytes() for name, array in arrays.items()}
    try:
        tensors = torch.load(path, weights_only=True)
    except Exception:  # torch refuses more, such as a wrong checksum of the data
        return
    tensors = {name: value for name, value in tensors.items() if isinstance(value, torch.Tensor)}
    assert list(stored) == list(tensors)
    for name, tensor in tensors.items():
        assert arrays[name].dtype == NUMPY_DTYPES[tensor.dtype]
        assert arrays[name].shape == tuple(tensor.shape)
        # The saved bytes are right where torch returns uninitialised memory (a record marked as a directory).
        assert stored[name] == as_bytes(tensor) or stored[name] == as_bytes(SAMPLE[name])


def corruptions(content):
    positions = st.integers(0, len(content) - 1)
    values = st.integers(0, 255) | st.sampled_from(b"QRb.()}]stuc\x80\x85\x93\x00\xff")
    return st.lists(st.tuples(positions, values), min_size=1, max_size=3)


def corrupt(content, changes):
    damaged = bytearray(content)
    for position, value in changes:
        damaged[position] = value
    return bytes(damaged)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("format", SAMPLES)
@settings(max_examples=300, deadline=None, derandomize=True)
@given(data=st.data())
def test_random_corruption(tmp_path_factory, format, data):
    changes = data.draw(corruptions(SAMPLES[format]))
    check_against_torch(tmp_path_factory.getbasetemp() / "corrupt.bin", corrupt(SAMPLES[format], changes))


@pytest.mark.exhaustive
@pytest.mark.filterwarnings("ignore:Detected pickle protocol", "ignore:invalid escape sequence")
@pytest.mark.parametrize("format", SAMPLES)
@settings(max_examples=10_000, deadline=None)
@given(data=st.data())
def test_random_corruption_at_length(tmp_path_factory, format, data):
    changes = data.draw(corruptions(SAMPLES[format]))
    check_against_torch(tmp_path_factory.getbasetemp() / "corrupt.bin", corrupt(SAMPLES[format], changes))


@settings(max_examples=300, deadline=None, derandomize=True)
@given(
    body=st.binary(max_size=60)
    | st.lists(st.sampled_from(pickletools.opcodes)).map(
        lambda opcodes: "".join(opcode.code for opcode in opcodes).encode("latin-1")
    )
)
def test_random_pickles(tmp_path_factory, body):
    path = tmp_path_factory.getbasetemp() / "random.bin"
    with pytest.raises(CheckpointError):
        read_pickle_checkpoint(zip_file(path, b"\x80\x02" + body + b"."))
