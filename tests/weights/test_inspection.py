"""What headers tell of a checkpoint: the numbers of the model that would be loaded, without its weights."""

import json
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.hub_server import HubServer, point_the_library_at
from tests.reference_models import TINY, save_reference
from xlmr_np import XLMRobertaConfig, XLMRobertaForMaskedLM, XLMRobertaModel, trees
from xlmr_np.config import XLM_ROBERTA_BASE, XLM_ROBERTA_LARGE
from xlmr_np.models import XLMRobertaPreTrainedModel
from xlmr_np.weights.errors import CheckpointError
from xlmr_np.weights.inspection import FIRST_REQUEST_BYTES, describe
from xlmr_np.weights.safetensors_format import read_header, read_safetensors, write_safetensors
from xlmr_np.weights.specification import official_name

MODELS = [XLMRobertaModel, XLMRobertaForMaskedLM]
ITEM_BYTES = {"float64": 8, "float32": 4, "float16": 2, "bfloat16": 2}


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    with HubServer() as server:
        point_the_library_at(server, tmp_path / "cache", monkeypatch)
        yield server


def tiny(**changes: object) -> XLMRobertaConfig:
    return XLMRobertaConfig(**{**TINY, **changes})


def hollow(directory: Path, config: XLMRobertaConfig, model_class: type[XLMRobertaPreTrainedModel]) -> int:
    """A float32 checkpoint of any size whose weights are a hole in the file; returns its number of weights."""
    config.save_pretrained(directory)
    header, stop = {}, 0
    for parameter in trees.leaves(model_class._specification(config, True, True)):
        start, stop = stop, stop + 4 * parameter.size
        name = official_name(parameter.name, model_class.has_head)
        header[name] = {"dtype": "F32", "shape": parameter.shape, "data_offsets": (start, stop)}
    encoded = json.dumps(header).encode()
    with (directory / "model.safetensors").open("wb") as file:
        file.write(len(encoded).to_bytes(8, "little") + encoded)
        file.truncate(8 + len(encoded) + stop)
    return stop // 4


# The same numbers as the model


@pytest.mark.parametrize("is_tied", [True, False])
@pytest.mark.parametrize("dtype", ITEM_BYTES)
@pytest.mark.parametrize("model_class", MODELS)
def test_what_we_saved(tmp_path: Path, model_class: type[XLMRobertaPreTrainedModel], dtype: str, is_tied: bool) -> None:
    model = model_class(tiny(tie_word_embeddings=is_tied), dtype=dtype)
    model.save_pretrained(tmp_path)
    description = describe(tmp_path)
    assert description.config == model_class.from_pretrained(tmp_path).config
    assert description.parameters == model.num_parameters()
    assert description.dtypes == (dtype,)
    assert description.files == {"model.safetensors": (tmp_path / "model.safetensors").stat().st_size}
    assert description.bytes_in_memory == model.num_parameters() * ITEM_BYTES[dtype]


@pytest.mark.parametrize("is_tied", [True, False])
@pytest.mark.parametrize("name", ["XLMRobertaModel", "XLMRobertaForMaskedLM"])
def test_what_transformers_saved(tmp_path: Path, name: str, is_tied: bool) -> None:
    save_reference(tmp_path, name, torch.float16, tie_word_embeddings=is_tied)
    model = next(model for model in MODELS if model.__name__ == name).from_pretrained(tmp_path)
    description = describe(tmp_path)
    assert (description.parameters, description.dtypes) == (model.num_parameters(), ("float16",))


@pytest.mark.parametrize("is_tied", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_an_old_pickle(tmp_path: Path, dtype: torch.dtype, is_tied: bool) -> None:
    """With tied tensors under each of their names, and the buffers that went with them then."""
    reference = save_reference(tmp_path, "XLMRobertaForMaskedLM", dtype, tie_word_embeddings=is_tied)
    expected = describe(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    state = {**reference.state_dict(), "roberta.embeddings.position_ids": torch.arange(34)[None]}
    torch.save(state, tmp_path / "pytorch_model.bin")
    description = describe(tmp_path)
    assert description._replace(files=expected.files) == expected
    assert description.files == {"pytorch_model.bin": (tmp_path / "pytorch_model.bin").stat().st_size}


def test_shards(tmp_path: Path) -> None:
    model = XLMRobertaForMaskedLM(tiny())
    model.save_pretrained(tmp_path / "whole")
    model.save_pretrained(tmp_path / "shards", max_shard_size=10_000)
    whole, shards = describe(tmp_path / "whole"), describe(tmp_path / "shards")
    assert shards._replace(files={}) == whole._replace(files={})
    assert shards.files == {
        path.name: path.stat().st_size for path in sorted((tmp_path / "shards").glob("*.safetensors"))
    }
    assert len(shards.files) > 3


def test_a_variant(tmp_path: Path) -> None:
    XLMRobertaModel(tiny(), dtype="float16").save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / "model.fp16.safetensors")
    assert describe(tmp_path, variant="fp16").dtypes == ("float16",)
    with pytest.raises(CheckpointError, match=r"holds no weights; looked for model\.safetensors"):
        describe(tmp_path)


def test_a_subfolder(tmp_path: Path, hub: HubServer) -> None:
    model = XLMRobertaModel(tiny())
    model.save_pretrained(tmp_path / "model" / "inner")
    hub.add("org/name", tmp_path / "model")
    for source in (tmp_path / "model", "org/name"):
        assert describe(source, subfolder="inner").parameters == model.num_parameters()


def test_several_element_types(tmp_path: Path) -> None:
    """The one with the most weights comes first; integers that no model has a place for are counted as well."""
    XLMRobertaModel(tiny(), dtype="float16").save_pretrained(tmp_path)
    tensors = read_safetensors(tmp_path / "model.safetensors")
    norms = {name: array.astype(np.float32) for name, array in tensors.items() if "LayerNorm" in name}
    other = {"statistics": np.zeros(7, np.int64), "embeddings.position_ids": np.zeros((1, 514), np.int64)}
    write_safetensors(tmp_path / "model.safetensors", {**tensors, **norms, **other})
    description = describe(tmp_path)
    assert description.dtypes == ("float16", "float32", "int64")
    total, in_norms = sum(array.size for array in tensors.values()), sum(array.size for array in norms.values())
    assert description.parameters == total + 7
    assert description.bytes_in_memory == 2 * (total - in_norms) + 4 * in_norms + 8 * 7


def test_old_names_of_the_same_tensors(tmp_path: Path) -> None:
    """The decoder in place of the table that it is tied to; gamma and beta; no prefix."""
    model = XLMRobertaForMaskedLM(tiny())
    model.save_pretrained(tmp_path)
    renamed = {}
    for name, array in read_safetensors(tmp_path / "model.safetensors").items():
        name = name.removeprefix("roberta.").replace("LayerNorm.weight", "LayerNorm.gamma")
        name = {"embeddings.word_embeddings.weight": "lm_head.decoder.weight"}.get(name, name)
        renamed[{"lm_head.bias": "lm_head.decoder.bias"}.get(name, name)] = array
    write_safetensors(tmp_path / "model.safetensors", renamed)
    assert describe(tmp_path).parameters == model.num_parameters()


# The published shapes


@pytest.mark.parametrize(
    ("config", "model_class", "parameters"),
    [
        (XLM_ROBERTA_BASE, XLMRobertaModel, 278_043_648),
        (XLM_ROBERTA_BASE, XLMRobertaForMaskedLM, 278_295_186),
        (XLM_ROBERTA_LARGE, XLMRobertaModel, 559_890_432),
        (XLM_ROBERTA_LARGE, XLMRobertaForMaskedLM, 560_142_482),
    ],
)
def test_published_counts(
    tmp_path: Path,
    hub: HubServer,
    config: XLMRobertaConfig,
    model_class: type[XLMRobertaPreTrainedModel],
    parameters: int,
) -> None:
    directory = tmp_path / "model"
    assert hollow(directory, config, model_class) == parameters
    start = time.perf_counter()
    local = describe(directory)
    assert time.perf_counter() - start < 1
    assert (local.parameters, local.bytes_in_memory, local.dtypes) == (parameters, 4 * parameters, ("float32",))
    hub.add("org/name", directory)
    assert describe("org/name") == local
    sent = hub.downloaded()
    assert sent.pop("config.json") == (directory / "config.json").stat().st_size
    assert sent == {"model.safetensors": FIRST_REQUEST_BYTES}


def test_a_header_longer_than_the_first_request(tmp_path: Path, hub: HubServer) -> None:
    directory = tmp_path / "model"
    hollow(directory, tiny(num_hidden_layers=60), XLMRobertaModel)
    header_bytes = read_header(directory / "model.safetensors").data_start
    assert header_bytes > FIRST_REQUEST_BYTES
    hub.add("org/name", directory)
    assert describe("org/name") == describe(directory)
    assert hub.downloaded()["model.safetensors"] == FIRST_REQUEST_BYTES + header_bytes


# On the hub


def test_shards_on_the_hub(tmp_path: Path, hub: HubServer) -> None:
    directory = tmp_path / "model"
    XLMRobertaForMaskedLM(tiny(vocab_size=50_000)).save_pretrained(directory, max_shard_size="1MB")
    hub.add("org/name", directory)
    local = describe(directory)
    assert describe("org/name") == local
    sent = hub.downloaded()
    for name in ("config.json", "model.safetensors.index.json"):
        assert sent.pop(name) == (directory / name).stat().st_size
    assert sent == {name: min(size, FIRST_REQUEST_BYTES) for name, size in local.files.items()}


def test_what_is_cached_is_not_asked_for(tmp_path: Path, hub: HubServer) -> None:
    directory = tmp_path / "model"
    XLMRobertaModel(tiny()).save_pretrained(directory)
    hub.add("org/name", directory)
    XLMRobertaModel.from_pretrained("org/name")
    hub.requests.clear()
    assert describe("org/name") == describe(directory)
    assert hub.downloaded() == {}
    hub.stop()
    for where in ({}, {"local_files_only": True}):
        assert describe("org/name", **where) == describe(directory)


def test_a_new_commit_is_described_by_its_own_weights(tmp_path: Path, hub: HubServer) -> None:
    for name, config in (("old", tiny()), ("new", tiny(num_hidden_layers=3))):
        XLMRobertaModel(config).save_pretrained(tmp_path / name)
    hub.add("org/name", tmp_path / "old")
    XLMRobertaModel.from_pretrained("org/name")
    hub.add("org/name", tmp_path / "new")
    assert describe("org/name") == describe(tmp_path / "new")


def test_a_private_model_of_another_revision_in_another_cache(tmp_path: Path, hub: HubServer) -> None:
    directory = tmp_path / "model"
    XLMRobertaForMaskedLM(tiny()).save_pretrained(directory, max_shard_size="10KB")
    hub.add("org/name", directory, "v2", token="secret")
    described = describe("org/name", revision="v2", token="secret", cache_dir=tmp_path / "mine")
    assert described == describe(directory)
    assert not (tmp_path / "cache").exists()
    with pytest.raises(FileNotFoundError, match="no hub model 'org/name' that you may read"):
        describe("org/name", revision="v2", token=False)


def test_a_pickle_on_the_hub(tmp_path: Path, hub: HubServer) -> None:
    directory = tmp_path / "model"
    reference = save_reference(directory, "XLMRobertaModel")
    (directory / "model.safetensors").unlink()
    torch.save(reference.state_dict(), directory / "pytorch_model.bin")
    hub.add("org/name", directory)
    with pytest.raises(CheckpointError, match=r"'org/name' has pytorch_model\.bin and no safetensors.*load the model"):
        describe("org/name")
    assert hub.downloaded().keys() == {"config.json"}
    XLMRobertaModel.from_pretrained("org/name")
    assert describe("org/name") == describe(directory)


@pytest.mark.parametrize("damage", ["short", "long", "no header", "endless header", "gap", "not json"])
def test_a_damaged_file_on_the_hub(tmp_path: Path, hub: HubServer, damage: str) -> None:
    directory = tmp_path / "model"
    XLMRobertaModel(tiny()).save_pretrained(directory)
    file = directory / "model.safetensors"
    content = bytearray(file.read_bytes())
    if damage == "short":
        content = content[:-1]
    elif damage == "long":
        content += b"\0"
    elif damage == "no header":
        content = content[:5]
    elif damage == "endless header":
        content[:8] = (2**40).to_bytes(8, "little")
    elif damage == "gap":
        content = content.replace(b'"data_offsets":[0,', b'"data_offsets":[4,', 1)
    else:
        content[8:20] = b"\xff" * 12
    file.unlink()
    file.write_bytes(content)
    hub.add("org/name", directory)
    with pytest.raises(CheckpointError) as here:
        describe(directory)
    with pytest.raises(CheckpointError, match=r"model\.safetensors is not a sound safetensors file") as there:
        describe("org/name")
    assert str(there.value).split("file:")[1] == str(here.value).split("file:")[1]
    assert sum(hub.downloaded().values()) < 2 * FIRST_REQUEST_BYTES


def test_a_hub_that_does_not_say_how_large_a_file_is(tmp_path: Path, hub: HubServer) -> None:
    directory = tmp_path / "model"
    XLMRobertaModel(tiny()).save_pretrained(directory)
    hub.add("org/name", directory)
    hub.tells_sizes = False
    with pytest.raises(CheckpointError, match=r"does not say how large model\.safetensors is; load the model"):
        describe("org/name")
    assert XLMRobertaModel.from_pretrained("org/name").num_parameters() == describe("org/name").parameters


# What is missing


def test_no_weights(tmp_path: Path, hub: HubServer) -> None:
    tiny().save_pretrained(tmp_path / "model")
    hub.add("org/name", tmp_path / "model")
    for source in (tmp_path / "model", "org/name"):
        with pytest.raises(CheckpointError, match="holds no weights"):
            describe(source)


def test_no_config(tmp_path: Path, hub: HubServer) -> None:
    XLMRobertaModel(tiny()).save_pretrained(tmp_path / "model")
    (tmp_path / "model" / "config.json").unlink()
    hub.add("org/name", tmp_path / "model")
    for source in (tmp_path / "model", "org/name"):
        with pytest.raises(CheckpointError, match=r"has no config\.json"):
            describe(source)
    assert hub.downloaded() == {}


@pytest.mark.parametrize("change", [{"hidden_size": 48}, {"num_hidden_layers": 40}, {"vocab_size": 62}])
def test_a_config_of_another_model(tmp_path: Path, change: dict[str, int]) -> None:
    save_reference(tmp_path, "XLMRobertaModel")
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, **change}))
    with pytest.raises(CheckpointError, match="but the weights hold"):
        describe(tmp_path)
