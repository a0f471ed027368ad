"""Writing checkpoints: complete or not at all, whatever stood there before."""

import contextlib
import errno
import json
import os
import resource
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import safetensors
import safetensors.numpy
import torch
import transformers

from tests.reference_models import TINY, random_ids, save_reference
from xlmr_np import XLMRobertaConfig, XLMRobertaForMaskedLM, XLMRobertaModel
from xlmr_np.weights import safetensors_format
from xlmr_np.weights.checkpoint import find_weight_files, read_tensors
from xlmr_np.weights.errors import CheckpointError
from xlmr_np.weights.saving import replacing, save_tensors

INDEX = "model.safetensors.index.json"
IDS = random_ids([7, 5])

Tensors = dict[str, np.ndarray]
Contents = dict[str, bytes]


def eight_tensors(seed: int = 0) -> Tensors:
    """Eight arrays of 1024 bytes each."""
    generator = np.random.default_rng(seed)
    return {f"tensor.{i}": generator.standard_normal((16, 16)).astype(np.float32) for i in range(8)}


def names(number: int) -> set[str]:
    """The weight files of a checkpoint in so many shards."""
    if number == 1:
        return {"model.safetensors"}
    return {f"model-{i:05d}-of-{number:05d}.safetensors" for i in range(1, number + 1)} | {INDEX}


def contents(directory: Path) -> Contents:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def read(directory: Path) -> Tensors:
    return read_tensors(find_weight_files(directory))


def check_equal(read_back: Tensors, tensors: Tensors) -> None:
    assert read_back.keys() == tensors.keys()
    for name, array in tensors.items():
        assert read_back[name].dtype == array.dtype
        np.testing.assert_array_equal(read_back[name], array, err_msg=name)


def save_in(directory: Path, number: int, seed: int = 0) -> Tensors:
    """Eight tensors, saved in 1, 2, 4 or 8 shards."""
    tensors = eight_tensors(seed)
    save_tensors(directory, tensors, 1024 * (8 // number))
    return tensors


# Shards


@pytest.mark.parametrize(
    ("limit", "number"),
    [
        (1, 8),
        (1023, 8),
        (1024, 8),
        (2047, 8),
        (2048, 4),
        (8191, 2),
        (8192, 1),
        ("50GB", 1),
        ("2KB", 8),
        ("2KiB", 4),
        ("2 kib", 4),
        ("4.1kB", 2),
        ("2048B", 4),
        ("0.003MB", 4),
        ("0.00000762939453125GiB", 1),
        ("1TB", 1),
        ("1TiB", 1),
        ("1MiB", 1),
    ],
)
def test_the_size_of_shards(tmp_path: Path, limit: int | str, number: int) -> None:
    tensors = eight_tensors()
    paths = save_tensors(tmp_path, tensors, limit)
    assert set(contents(tmp_path)) == names(number)
    assert [path.name for path in paths] == sorted(names(number) - {INDEX})
    check_equal(read(tmp_path), tensors)


@pytest.mark.parametrize(
    "limit", ["", "5", "GB", "five MB", "-1MB", "1e3MB", "5PB", "5 M", "0MB", "0.0GB", "0.2B", 0, -5, 2.5, True, None]
)
def test_bad_sizes_are_refused(tmp_path: Path, limit: Any) -> None:
    save_in(tmp_path, 2)
    before = contents(tmp_path)
    with pytest.raises(ValueError, match=rf"max_shard_size={limit!r} is not a size; write .* '500MB'"):
        save_tensors(tmp_path, eight_tensors(1), limit)
    assert contents(tmp_path) == before


def test_a_tensor_larger_than_a_shard_has_one_of_its_own(tmp_path: Path) -> None:
    sizes = {"a": 10, "b": 20, "large": 1000, "c": 30, "d": 40, "larger": 2000}
    tensors = {name: np.arange(size, dtype=np.float32) for name, size in sizes.items()}
    paths = save_tensors(tmp_path, tensors, 4 * 70)
    assert [sorted(safetensors.numpy.load_file(path)) for path in paths] == [
        ["a", "b"],
        ["large"],
        ["c", "d"],
        ["larger"],
    ]
    check_equal(read(tmp_path), tensors)


def test_the_files_are_what_the_safetensors_library_reads(tmp_path: Path) -> None:
    tensors = save_in(tmp_path, 4)
    shards = [path for path in sorted(tmp_path.iterdir()) if path.name != INDEX]
    together: Tensors = {}
    for path in shards:
        with safetensors.safe_open(path, "numpy") as file:
            assert file.metadata() == {"format": "pt"}
            together |= {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - this is no dict
    check_equal(together, tensors)


@pytest.mark.parametrize("limit", ["5KB", "30KB", "1GB"])
def test_the_index_says_what_the_references_says(tmp_path: Path, limit: str) -> None:
    theirs = save_reference(tmp_path / "reference", "XLMRobertaForMaskedLM")
    theirs.save_pretrained(tmp_path / "theirs", max_shard_size=limit)
    ours = XLMRobertaForMaskedLM.from_pretrained(tmp_path / "reference")
    ours.save_pretrained(tmp_path / "ours", limit)
    assert (tmp_path / "ours" / INDEX).exists() == (tmp_path / "theirs" / INDEX).exists() == (limit != "1GB")
    if limit != "1GB":
        expected, index = (json.loads((tmp_path / side / INDEX).read_text()) for side in ("theirs", "ours"))
        assert index["metadata"] == expected["metadata"]
        assert list(index) == ["metadata", "weight_map"]
        assert list(index["weight_map"]) == sorted(expected["weight_map"])
        assert set(index["weight_map"].values()) == set(contents(tmp_path / "ours")) - {INDEX, "config.json"}


# Round trips with the reference


@pytest.mark.parametrize("limit", ["50GB", "20KB"], ids=["single", "sharded"])
@pytest.mark.parametrize("add_pooling_layer", [True, False])
def test_transformers_loads_what_a_new_model_saves(tmp_path: Path, limit: str, add_pooling_layer: bool) -> None:
    config = XLMRobertaConfig(**TINY)
    ours = XLMRobertaModel(config, add_pooling_layer, generator=np.random.default_rng(0), dtype="float64")
    ours.save_pretrained(tmp_path, limit)
    theirs, information = transformers.XLMRobertaModel.from_pretrained(
        tmp_path, add_pooling_layer=add_pooling_layer, output_loading_info=True
    )
    assert not any(information.values()), information
    state = theirs.state_dict()
    check_equal({name: tensor.numpy() for name, tensor in state.items()}, ours.state_dict())
    written = json.loads((tmp_path / "config.json").read_text())
    assert (written["architectures"], written["dtype"]) == (["XLMRobertaModel"], "float64")


@pytest.mark.parametrize("is_tied", [True, False])
def test_we_save_the_tensors_that_the_reference_saves(tmp_path: Path, is_tied: bool) -> None:
    save_reference(tmp_path / "theirs", "XLMRobertaForMaskedLM", torch.float32, tie_word_embeddings=is_tied)
    XLMRobertaForMaskedLM.from_pretrained(tmp_path / "theirs").save_pretrained(tmp_path / "ours")
    expected = read(tmp_path / "theirs")
    if not is_tied:  # of the two biases, the reference computes with one, and we hold no other
        expected["lm_head.bias"] = expected["lm_head.decoder.bias"]
    check_equal(read(tmp_path / "ours"), expected)


# What an earlier save left


def test_nothing_stale_is_left_behind(tmp_path: Path) -> None:
    others = {"tokenizer.json", "pytorch_model.bin", "model.fp16.safetensors", "my-model-00001-of-00002.safetensors"}
    for name in others:
        (tmp_path / name).write_text("of another program")
    for seed, number in enumerate([1, 4, 2, 2, 8, 4, 1, 1, 2, 1]):
        tensors = save_in(tmp_path, number, seed)
        assert set(contents(tmp_path)) == names(number) | others
        check_equal(read(tmp_path), tensors)
    assert all((tmp_path / name).read_text() == "of another program" for name in others)


def test_fewer_tensors_leave_none_of_the_old(tmp_path: Path) -> None:
    save_reference(tmp_path, "XLMRobertaForMaskedLM")
    XLMRobertaModel.from_pretrained(tmp_path).save_pretrained(tmp_path, "20KB")
    assert not any(name.startswith(("roberta.", "lm_head.")) for name in read(tmp_path))
    assert XLMRobertaModel.from_pretrained(tmp_path).load_report.unexpected == ()


LAYOUTS = {"single": "50GB", "sharded": "20KB", "in fewer shards": "40KB"}


@pytest.mark.parametrize("after", LAYOUTS)
@pytest.mark.parametrize("before", LAYOUTS)
def test_saving_onto_the_files_that_the_model_is_mapped_from(tmp_path: Path, before: str, after: str) -> None:
    save_reference(tmp_path, "XLMRobertaForMaskedLM", torch.float32)
    XLMRobertaForMaskedLM.from_pretrained(tmp_path).save_pretrained(tmp_path, LAYOUTS[before])
    model = XLMRobertaForMaskedLM.from_pretrained(tmp_path)
    copies = {name: array.copy() for name, array in model.state_dict().items()}
    logits = model(IDS).logits
    for _ in range(2):
        model.save_pretrained(tmp_path, LAYOUTS[after])
        check_equal(model.state_dict(), copies)
        again = XLMRobertaForMaskedLM.from_pretrained(tmp_path)
        check_equal(again.state_dict(), copies)
        np.testing.assert_array_equal(model(IDS).logits, logits)
    assert not any(name.startswith(".") for name in contents(tmp_path))


def test_saving_onto_the_pickle_that_the_model_is_mapped_from(tmp_path: Path) -> None:
    theirs = save_reference(tmp_path, "XLMRobertaForMaskedLM")
    (tmp_path / "model.safetensors").unlink()
    torch.save(theirs.state_dict(), tmp_path / "pytorch_model.bin")
    model = XLMRobertaForMaskedLM.from_pretrained(tmp_path)
    model.save_pretrained(tmp_path)
    check_equal(XLMRobertaForMaskedLM.from_pretrained(tmp_path).state_dict(), model.state_dict())
    assert set(read(tmp_path)) == set(model.state_dict()) - {"lm_head.decoder.weight", "lm_head.decoder.bias"}


def test_links_into_the_hubs_cache_are_replaced_and_not_followed(tmp_path: Path) -> None:
    blob = tmp_path / "blob"
    save_reference(tmp_path / "snapshot", "XLMRobertaModel")
    (tmp_path / "snapshot" / "model.safetensors").rename(blob)
    (tmp_path / "snapshot" / "model.safetensors").symlink_to(blob)
    before = blob.read_bytes()
    XLMRobertaModel.from_pretrained(tmp_path / "snapshot", dtype="float32").save_pretrained(tmp_path / "snapshot")
    assert blob.read_bytes() == before
    assert not (tmp_path / "snapshot" / "model.safetensors").is_symlink()


# Failure in the middle


def fail_at(count: int, function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, but at its call of that number something is half done and the disk is full."""
    calls = iter(range(1, 1000))

    def failing(*arguments: Any, **settings: Any) -> Any:
        if next(calls) == count:
            if function is safetensors_format.write_safetensors:
                Path(arguments[0]).write_bytes(b"half a fi")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return function(*arguments, **settings)

    return failing


@pytest.mark.parametrize("failing_at", [1, 2, 4])
@pytest.mark.parametrize("before", [1, 2, 4])
def test_a_full_disk_leaves_the_old_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: int, failing_at: int
) -> None:
    old = save_in(tmp_path, before, seed=1)
    files = contents(tmp_path)
    monkeypatch.setattr(
        safetensors_format, "write_safetensors", fail_at(failing_at, safetensors_format.write_safetensors)
    )
    with pytest.raises(OSError, match="No space left on device") as caught:
        save_in(tmp_path, 4, seed=2)
    assert caught.value.filename == str(tmp_path / f"model-0000{failing_at}-of-00004.safetensors")
    assert contents(tmp_path) == files
    check_equal(read(tmp_path), old)


@contextlib.contextmanager
def files_limited_to(size: int) -> Iterator[None]:
    """No file may grow beyond so many bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_write_that_really_fails_leaves_the_old_checkpoint(tmp_path: Path) -> None:
    save_reference(tmp_path, "XLMRobertaModel", torch.float32)
    model = XLMRobertaModel.from_pretrained(tmp_path, dtype="float64")
    files = contents(tmp_path)
    for limit in ("50GB", "20KB"):
        with (
            files_limited_to(10_000),
            pytest.raises(OSError, match=rf"File too large: '{tmp_path}/model.*safetensors'"),
        ):
            model.save_pretrained(tmp_path, limit)
        assert contents(tmp_path) == files


@pytest.mark.parametrize("failing_at", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("before", [1, 2, 4])
def test_a_stop_between_two_renames_never_mixes_two_models(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: int, failing_at: int
) -> None:
    old = save_in(tmp_path, before, seed=1)
    monkeypatch.setattr(os, "replace", fail_at(failing_at, os.replace))
    with pytest.raises(OSError, match="No space left on device"):
        save_in(tmp_path, 4, seed=2)
    if before == 4:  # the new files take the old ones' names, so that there is none to go back to
        with pytest.raises(CheckpointError, match="holds no weights"):
            read(tmp_path)
    else:
        check_equal(read(tmp_path), old)
    assert not any(name.startswith(".") for name in contents(tmp_path))


def test_an_interrupt_removes_the_partial_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(path: Path, *_: Any) -> None:
        path.write_bytes(b"half a fi")
        assert all(name.startswith(".") and name.endswith(".partial") for name in contents(tmp_path))
        raise KeyboardInterrupt

    monkeypatch.setattr(safetensors_format, "write_safetensors", interrupt)
    with pytest.raises(KeyboardInterrupt):
        save_in(tmp_path, 4)
    assert contents(tmp_path) == {}


def test_tensors_that_no_file_can_hold_touch_nothing(tmp_path: Path) -> None:
    save_in(tmp_path, 2)
    before = contents(tmp_path)
    with pytest.raises(ValueError, match="complex64"):
        save_tensors(tmp_path, {**eight_tensors(1), "tensor.7": np.zeros(3, np.complex64)}, 4096)
    assert contents(tmp_path) == before


def test_a_config_that_describes_another_model_touches_nothing(tmp_path: Path) -> None:
    save_reference(tmp_path, "XLMRobertaModel")
    model = XLMRobertaModel.from_pretrained(tmp_path, dtype="float32")
    files = contents(tmp_path)
    for name, value in (("hidden_size", 48), ("num_hidden_layers", 3), ("vocab_size", 60)):
        before = getattr(model.config, name)
        setattr(model.config, name, value)
        with pytest.raises(ValueError, match="but the model has"):
            model.save_pretrained(tmp_path)
        setattr(model.config, name, before)
    assert contents(tmp_path) == files


def test_the_saved_config_says_whether_the_decoder_is_tied(tmp_path: Path) -> None:
    save_reference(tmp_path, "XLMRobertaForMaskedLM")
    model = XLMRobertaForMaskedLM.from_pretrained(tmp_path)
    model.config.tie_word_embeddings = False
    model.save_pretrained(tmp_path)
    assert XLMRobertaForMaskedLM.from_pretrained(tmp_path).is_tied


def test_a_config_that_cannot_be_saved_touches_nothing(tmp_path: Path) -> None:
    save_reference(tmp_path, "XLMRobertaModel")
    model = XLMRobertaModel.from_pretrained(tmp_path, dtype="float32")
    files = contents(tmp_path)
    model.config.something = object()
    with pytest.raises(TypeError, match="JSON"):
        model.save_pretrained(tmp_path)
    assert contents(tmp_path) == files
    with pytest.raises(TypeError, match="JSON"):
        model.save_pretrained(tmp_path / "new")
    assert not (tmp_path / "new").exists()


# Where to


def test_a_file_is_no_directory(tmp_path: Path) -> None:
    model = XLMRobertaModel(XLMRobertaConfig(**TINY))
    file = tmp_path / "file"
    file.write_text("precious")
    with pytest.raises(NotADirectoryError, match=f"{file} is a file; give a directory"):
        model.save_pretrained(file)
    with pytest.raises(NotADirectoryError, match=str(file)):
        model.save_pretrained(file / "below")
    assert contents(tmp_path) == {"file": b"precious"}


def test_directories_are_made(tmp_path: Path) -> None:
    XLMRobertaModel(XLMRobertaConfig(**TINY)).save_pretrained(str(tmp_path / "a" / "b"))
    assert set(contents(tmp_path / "a" / "b")) == {"model.safetensors", "config.json"}


def test_a_directory_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=str(tmp_path / "none")):
        save_tensors(tmp_path / "none", eight_tensors())


@pytest.mark.parametrize("limit", ["50GB", "20KB"], ids=["single", "sharded"])
@pytest.mark.parametrize("mask", [0o022, 0o027, 0o002])
def test_files_have_the_ordinary_permissions(tmp_path: Path, mask: int, limit: str) -> None:
    model = XLMRobertaModel(XLMRobertaConfig(**TINY))
    before = os.umask(mask)
    try:
        model.save_pretrained(tmp_path, limit)
    finally:
        os.umask(before)
    assert len(contents(tmp_path)) > 1
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o666 & ~mask}


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16, ml_dtypes.bfloat16], ids=str)
def test_any_layout_in_memory_is_written_in_order(tmp_path: Path, dtype: type) -> None:
    matrix = np.arange(24).reshape(4, 6).astype(dtype)
    tensors = {"rows": matrix, "columns": matrix.T, "every other": matrix[::2, 1::3], "none": matrix[:0]}
    save_tensors(tmp_path, tensors)
    check_equal(read(tmp_path), tensors)


# One file


def test_a_file_is_replaced_when_the_block_ends(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    with path.open() as reader:
        with replacing(path) as beside:
            beside.write_text("new")
            assert path.read_text() == "old"
            assert beside.parent == path.parent
        assert path.read_text() == "new"
        assert reader.read() == "old"
    assert contents(tmp_path) == {"file": b"new"}


def test_a_file_stays_when_the_block_fails(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")

    def fail() -> None:
        with replacing(path) as beside:
            beside.write_text("new")
            raise RuntimeError("in between")

    with pytest.raises(RuntimeError, match="in between"):
        fail()
    assert contents(tmp_path) == {"file": b"old"}


def test_an_error_keeps_its_own_words(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"^something of its own$"), replacing(tmp_path / "file"):
        raise OSError("something of its own")
