"""Which files hold a model's weights, and what shards and their index must agree on."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from tests.hub_server import HubServer, point_the_library_at
from xlmr_np.weights.checkpoint import INDEX_BYTES_LIMIT, find_weight_files, gather, read_tensors
from xlmr_np.weights.errors import CheckpointError
from xlmr_np.weights.files import RemoteFile

INDEX = "model.safetensors.index.json"
TENSORS = {name: np.full((2, 3), number, np.float32) for number, name in enumerate("abcde")}
SHARDS = {"model-00001-of-00002.safetensors": "abc", "model-00002-of-00002.safetensors": "de"}
WEIGHT_MAP = {name: file for file, names in SHARDS.items() for name in names}


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    with HubServer() as server:
        point_the_library_at(server, tmp_path / "cache", monkeypatch)
        yield server


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    path = tmp_path / "model"
    path.mkdir()
    return path


def write_index(directory: Path, weight_map: object = WEIGHT_MAP, name: str = INDEX) -> None:
    (directory / name).write_text(json.dumps({"metadata": {"total_size": 120}, "weight_map": weight_map}))


def write_shards(directory: Path) -> None:
    for file, names in SHARDS.items():
        save_file({name: TENSORS[name] for name in names}, directory / file)
    write_index(directory)


def assert_all_tensors(tensors: dict[str, np.ndarray]) -> None:
    assert tensors.keys() == TENSORS.keys()
    for name, array in tensors.items():
        assert np.array_equal(array, TENSORS[name])
        assert not array.flags.writeable


# The order of names


@pytest.mark.parametrize("source", ["directory", "hub"])
def test_the_order(hub: HubServer, directory: Path, source: str) -> None:
    """The reference's, found by taking away what is found, until nothing is left."""
    order = [
        ("safetensors", "model.safetensors", None),
        ("safetensors", "model-1.safetensors", INDEX),
        ("pickle", "pytorch_model.bin", None),
        ("pickle", "pytorch_model-1.bin", "pytorch_model.bin.index.json"),
    ]
    for _, file, index in order:
        (directory / file).touch()
        if index is not None:
            write_index(directory, {"a": file}, index)
    hub.add("org/name", directory)
    for kind, file, index in order:
        found = find_weight_files(directory if source == "directory" else "org/name")
        assert (found.format, [part.name for part in found.parts]) == (kind, [file])
        assert found.weight_map == (None if index is None else {"a": file})
        (directory / (index or file)).unlink()
    with pytest.raises(CheckpointError, match=r"holds no weights; looked for model\.safetensors, .*pytorch_model\.bin"):
        find_weight_files(directory)


def test_the_order_within_a_variant(directory: Path) -> None:
    order = [
        ("model.fp16.safetensors", None),
        ("model.fp16-1.safetensors", "model.safetensors.index.fp16.json"),
        ("model.fp16-2.safetensors", "model.fp16.safetensors.index.json"),
        ("pytorch_model.fp16.bin", None),
        ("pytorch_model.fp16-1.bin", "pytorch_model.bin.index.fp16.json"),
        ("pytorch_model.fp16-2.bin", "pytorch_model.fp16.bin.index.json"),
    ]
    for file, index in [*order, ("model.safetensors", None), ("pytorch_model.bin", None)]:
        (directory / file).touch()
        if index is not None:
            write_index(directory, {"a": file}, index)
    for file, index in order:
        assert [part.name for part in find_weight_files(directory, variant="fp16").parts] == [file]
        (directory / (index or file)).unlink()
    assert find_weight_files(directory).parts == (directory / "model.safetensors",)
    with pytest.raises(CheckpointError, match=r"no weights; looked for model\.fp16\.safetensors, ") as caught:
        find_weight_files(directory, variant="fp16")
    assert "model.safetensors," not in str(caught.value)


@pytest.mark.parametrize(
    ("use_safetensors", "present", "chosen"),
    [
        (True, ["model.safetensors", "pytorch_model.bin"], "model.safetensors"),
        (False, ["model.safetensors", "pytorch_model.bin"], "pytorch_model.bin"),
        (None, ["pytorch_model.bin"], "pytorch_model.bin"),
        (True, ["pytorch_model.bin"], None),
        (False, ["model.safetensors"], None),
        (None, ["pytorch_model.safetensors", "model.bin", "tf_model.h5"], None),
    ],
)
def test_use_safetensors(directory: Path, use_safetensors: bool | None, present: list[str], chosen: str | None) -> None:
    for name in present:
        (directory / name).touch()
    if chosen is not None:
        found = find_weight_files(directory, use_safetensors=use_safetensors)
        assert found.parts == (directory / chosen,)
    else:
        with pytest.raises(CheckpointError, match=r"holds no weights; looked for") as caught:
            find_weight_files(directory, use_safetensors=use_safetensors)
        refused = {True: "pytorch_model", False: "safetensors", None: "tf_model"}[use_safetensors]
        assert refused not in str(caught.value).split("looked for")[1]


def test_no_weights_on_the_hub(hub: HubServer, directory: Path) -> None:
    hub.add("org/name", directory)
    with pytest.raises(CheckpointError, match=r"org/name holds no weights; .*offline, only in the cache\)\."):
        find_weight_files("org/name")


# Reading


def test_one_file(directory: Path) -> None:
    save_file(TENSORS, directory / "model.safetensors")
    assert_all_tensors(read_tensors(find_weight_files(directory)))


def test_shards(directory: Path) -> None:
    write_shards(directory)
    found = find_weight_files(directory)
    assert found.parts == tuple(directory / name for name in SHARDS)
    assert_all_tensors(read_tensors(found))


def test_a_pickle(directory: Path) -> None:
    torch.save({name: torch.tensor(array) for name, array in TENSORS.items()}, directory / "pytorch_model.bin")
    assert_all_tensors(read_tensors(find_weight_files(directory)))


def test_shards_of_pickles(directory: Path) -> None:
    for file, names in (("pytorch_model-1.bin", "abc"), ("pytorch_model-2.bin", "de")):
        torch.save({name: torch.tensor(TENSORS[name]) for name in names}, directory / file)
    weight_map = {name: f"pytorch_model-{1 if name in 'abc' else 2}.bin" for name in TENSORS}
    write_index(directory, weight_map, "pytorch_model.bin.index.json")
    assert_all_tensors(read_tensors(find_weight_files(directory)))


def test_each_tensor_comes_from_the_shard_that_the_index_names(directory: Path) -> None:
    write_shards(directory)
    stale = {"a": TENSORS["b"], "d": TENSORS["d"], "e": TENSORS["e"], "f": TENSORS["e"]}
    save_file(stale, directory / "model-00002-of-00002.safetensors")
    assert_all_tensors(read_tensors(find_weight_files(directory)))


def test_gather_passes_on_what_it_reads(directory: Path) -> None:
    write_shards(directory)
    found = gather(find_weight_files(directory), lambda part: dict.fromkeys(TENSORS, part.name))
    assert found == WEIGHT_MAP


def test_files_of_the_hub_are_downloaded_when_they_are_read(hub: HubServer, directory: Path) -> None:
    write_shards(directory)
    (directory / "pytorch_model.bin").write_bytes(b"not asked for")
    hub.add("org/name", directory)
    found = find_weight_files("org/name")
    assert [(type(part), part.name) for part in found.parts] == [(RemoteFile, name) for name in SHARDS]
    assert hub.downloaded().keys() == {INDEX}
    assert_all_tensors(read_tensors(found))
    assert hub.downloaded().keys() == {INDEX, *SHARDS}
    hub.stop()
    assert_all_tensors(read_tensors(find_weight_files("org/name", local_files_only=True)))


# What does not agree


def test_a_missing_shard(hub: HubServer, directory: Path) -> None:
    """It is missed before gigabytes of the others are downloaded."""
    write_shards(directory)
    (directory / "model-00002-of-00002.safetensors").unlink()
    hub.add("org/name", directory)
    for source in (directory, "org/name"):
        with pytest.raises(
            CheckpointError, match=r"names the shard 'model-00002-of-00002\.safetensors', but .* no such"
        ):
            find_weight_files(source)
    assert hub.downloaded().keys() == {INDEX}


def test_a_tensor_that_its_shard_lacks(directory: Path) -> None:
    write_shards(directory)
    write_index(directory, WEIGHT_MAP | {"f": "model-00001-of-00002.safetensors"})
    with pytest.raises(
        CheckpointError, match=r"model-00001-of-00002\.safetensors lacks the tensor 'f', which the index"
    ):
        read_tensors(find_weight_files(directory))


@pytest.mark.parametrize(
    "name",
    [
        "../../etc/passwd",
        "/etc/passwd",
        "../model.safetensors",
        "folder/model.safetensors",
        "folder/../model.safetensors",
        "./model.safetensors",
        "..\\model.safetensors",
        "C:\\model.safetensors",
        "..",
        ".",
        "",
        "model\0.safetensors",
        "model\n.safetensors",
        "../" * 1000,
    ],
)
def test_an_index_that_leads_out(hub: HubServer, directory: Path, name: str) -> None:
    (directory / "folder").mkdir()
    for path in (directory, directory.parent, directory / "folder"):
        save_file(TENSORS, path / "model.safetensors")
    (directory / "model.safetensors").rename(directory / "other.safetensors")
    write_index(directory, {"a": "other.safetensors", "b": name})
    hub.add("org/name", directory)
    for source in (directory, "org/name"):
        with pytest.raises(CheckpointError, match="only plain file names beside it are read") as caught:
            find_weight_files(source)
        assert len(str(caught.value)) < 600
    assert {request.file for request in hub.requests} == {"model.safetensors", INDEX}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"\xff\xfe\x00",
        b"[" * 100_000,
        b'{"weight_map": ' + b"1" * 5000 + b"}",
        b"[]",
        b"null",
        b"{}",
        b'{"weight_map": {}}',
        b'{"weight_map": []}',
        b'{"weight_map": {"a": 1}}',
        b'{"weight_map": {"a": null}}',
        b'{"weight_map": {"a": ["model-1.safetensors"]}}',
    ],
    ids=range(13),
)
def test_a_damaged_index(directory: Path, content: bytes) -> None:
    (directory / INDEX).write_bytes(content)
    with pytest.raises(
        CheckpointError, match=r"index\.json (is not valid JSON|has no 'weight_map').*download it again"
    ):
        find_weight_files(directory)


def test_an_index_beyond_any_size(directory: Path) -> None:
    with (directory / INDEX).open("wb") as file:
        file.truncate(INDEX_BYTES_LIMIT + 1)  # a hole: it takes no space
    with pytest.raises(CheckpointError, match="100000001 bytes, too many for an index"):
        find_weight_files(directory)


def test_a_shard_that_is_no_safetensors_file(directory: Path) -> None:
    (directory / "config.json").write_text('{"vocab_size": 4}')
    write_index(directory, {"a": "config.json"})
    with pytest.raises(CheckpointError, match=r"config\.json is not a sound safetensors file"):
        read_tensors(find_weight_files(directory))


@pytest.mark.parametrize("variant", ["x/../../secret", "x\\..\\secret"])
def test_a_variant_that_leads_out(directory: Path, variant: str) -> None:
    (directory / "model.x").mkdir()
    save_file(TENSORS, directory.parent / "secret.safetensors")
    with pytest.raises(ValueError, match="leads out of the model's directory"):
        find_weight_files(directory, variant=variant)


def test_an_empty_directory(directory: Path) -> None:
    with pytest.raises(CheckpointError, match=rf"{directory} holds no weights; .*index\.json\.$"):
        find_weight_files(directory)
