"""What is read of a checkpoint of sentence-transformers, and what is refused in it."""

import json
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sentence_transformers
import torch
from safetensors.numpy import save_file
from sentence_transformers.sentence_transformer.modules import Dense as TheirDense
from sentence_transformers.sentence_transformer.modules import Pooling as TheirPooling

from tests.hub_server import HubServer, point_the_library_at
from xlmr_np.heads.sentence_pooling import Dense, Normalize, Pooling
from xlmr_np.weights.errors import CheckpointError
from xlmr_np.weights.sentence_transformers import JSON_BYTES_LIMIT, read_sentence_transformer

OLD = "sentence_transformers.models."
NEW = {
    "Transformer": "sentence_transformers.base.modules.transformer.Transformer",
    "Pooling": "sentence_transformers.sentence_transformer.modules.pooling.Pooling",
    "Dense": "sentence_transformers.base.modules.dense.Dense",
    "Normalize": "sentence_transformers.base.modules.normalize.Normalize",
}
DENSE = {
    "in_features": 4,
    "out_features": 3,
    "bias": True,
    "activation_function": "torch.nn.modules.activation.Tanh",
}
TENSORS = {
    "linear.weight": np.arange(12, dtype=np.float32).reshape(3, 4),
    "linear.bias": np.arange(3, dtype=np.float32),
}


def module(kind: str, path: str, types: Callable[[str], str] = OLD.__add__) -> dict[str, Any]:
    return {"idx": 0, "name": "0", "path": path, "type": types(kind)}


MODULES = [
    module("Transformer", ""),
    module("Pooling", "1_Pooling"),
    module("Dense", "2_Dense"),
    module("Normalize", "3_Normalize"),
]
FILES: dict[str, Any] = {
    "modules.json": MODULES,
    "sentence_bert_config.json": {"max_seq_length": 128, "do_lower_case": False},
    "config_sentence_transformers.json": {
        "prompts": {"query": "query: ", "passage": None},
        "default_prompt_name": "query",
        "similarity_fn_name": "dot",
    },
    "1_Pooling/config.json": {"word_embedding_dimension": 4, "pooling_mode_mean_tokens": True},
    "2_Dense/config.json": DENSE,
}


def write(directory: Path, name: str, content: Any) -> None:
    path = directory / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """All of these files, and the weights of a dense layer."""
    directory = tmp_path / "checkpoint"
    for name, content in FILES.items():
        write(directory, name, content)
    save_file(TENSORS, directory / "2_Dense" / "model.safetensors")
    return directory


def test_everything_that_such_a_checkpoint_says(checkpoint: Path) -> None:
    found = read_sentence_transformer(checkpoint)
    assert found is not None
    pooling, dense, normalize = found.steps
    assert pooling == Pooling(("mean",), includes_prompt=True)
    assert isinstance(dense, Dense)
    np.testing.assert_array_equal(dense.params.weight, TENSORS["linear.weight"])
    np.testing.assert_array_equal(dense.params.bias, TENSORS["linear.bias"])
    assert dense.activation == "tanh"
    assert isinstance(normalize, Normalize)
    assert found._replace(steps=()) == (
        "", (), 128, False, {"query": "query: ", "passage": ""}, "query", "dot", None,
    )  # fmt: skip


def test_the_least_that_such_a_checkpoint_says(tmp_path: Path) -> None:
    write(tmp_path, "modules.json", [module(kind, path, NEW.__getitem__) for kind, path in
                                     (("Transformer", "0_Transformer"), ("Pooling", "1_Pooling"))])  # fmt: skip
    write(tmp_path, "1_Pooling/config.json", {})
    assert read_sentence_transformer(tmp_path) == (
        "0_Transformer", (Pooling(("mean",)),), None, False, {}, None, None, None,
    )  # fmt: skip


def test_without_modules_there_is_nothing(tmp_path: Path) -> None:
    write(tmp_path, "sentence_bert_config.json", {"max_seq_length": 128})
    assert read_sentence_transformer(tmp_path) is None


def test_a_subfolder_of_the_repository(checkpoint: Path, tmp_path: Path) -> None:
    checkpoint.rename(tmp_path / "sub")
    found = read_sentence_transformer(tmp_path, subfolder="sub")
    assert found is not None
    assert (found.subfolder, found.max_length, len(found.steps)) == ("sub", 128, 3)


@pytest.mark.parametrize(
    ("config", "modes", "includes_prompt"),
    [
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}, ("cls",), True),
        ({"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": True}, ("cls", "mean"), True),
        ({"pooling_mode_max_tokens": True, "pooling_mode_mean_sqrt_len_tokens": True},
         ("max", "mean_sqrt_len_tokens"), True),
        ({"pooling_mode_weightedmean_tokens": True, "pooling_mode_lasttoken": True},
         ("weightedmean", "lasttoken"), True),
        ({"pooling_mode_mean_tokens": False}, ("mean",), True),
        ({"pooling_mode": "lasttoken", "include_prompt": False}, ("lasttoken",), False),
        ({"pooling_mode": ["mean", "cls"], "pooling_mode_max_tokens": True}, ("mean", "cls"), True),
    ],
)  # fmt: skip
def test_every_way_to_name_poolings(
    checkpoint: Path, config: dict[str, Any], modes: tuple[str, ...], includes_prompt: bool
) -> None:
    write(checkpoint, "1_Pooling/config.json", {"word_embedding_dimension": 4, **config})
    found = read_sentence_transformer(checkpoint)
    assert found is not None
    assert found.steps[0] == Pooling(modes, includes_prompt)
    theirs = TheirPooling.load(str(checkpoint), subfolder="1_Pooling")
    assert theirs.pooling_mode == (modes[0] if len(modes) == 1 else modes)


@pytest.mark.parametrize("name", ["Identity", "Tanh", "GELU", "ReLU", "SiLU"])
@pytest.mark.parametrize("safe", [True, False])
def test_dense_layers_as_the_library_saves_them(checkpoint: Path, name: str, safe: bool) -> None:
    theirs = TheirDense(4, 3, bias=safe, activation_function=getattr(torch.nn, name)())
    (checkpoint / "2_Dense" / "model.safetensors").unlink()
    theirs.save(str(checkpoint / "2_Dense"), safe_serialization=safe)
    found = read_sentence_transformer(checkpoint)
    assert found is not None
    dense = found.steps[1]
    assert isinstance(dense, Dense)
    np.testing.assert_array_equal(dense.params.weight, theirs.linear.weight.detach())
    expected = theirs.linear.bias.detach() if safe else np.zeros(3)
    np.testing.assert_array_equal(dense.params.bias, expected)
    assert dense.activation == {"Identity": None}.get(name, name.lower())


def test_half_weights_are_widened(checkpoint: Path) -> None:
    save_file(
        {name: each.astype(np.float16) for name, each in TENSORS.items()}, checkpoint / "2_Dense" / "model.safetensors"
    )
    found = read_sentence_transformer(checkpoint)
    assert found is not None
    assert {each.dtype for each in found.steps[1].params} == {np.dtype(np.float32)}


def test_a_similarity_of_many_vectors_says_nothing(checkpoint: Path) -> None:
    write(checkpoint, "config_sentence_transformers.json", {"similarity_fn_name": "maxsim"})
    found = read_sentence_transformer(checkpoint)
    assert found is not None
    assert found.similarity is None


def test_dropout_does_nothing(checkpoint: Path) -> None:
    write(checkpoint, "modules.json", [*MODULES[:2], module("Dropout", "4_Dropout"), MODULES[3]])
    found = read_sentence_transformer(checkpoint)
    assert found is not None
    assert found.steps == (Pooling(("mean",)), Normalize())


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    with HubServer() as server:
        point_the_library_at(server, tmp_path / "cache", monkeypatch)
        yield server


def test_a_repository_of_the_hub(checkpoint: Path, hub: HubServer) -> None:
    hub.add("org/name", checkpoint)
    found = read_sentence_transformer("org/name")
    assert found is not None
    assert (len(found.steps), found.max_length, found.default_prompt_name) == (3, 128, "query")
    np.testing.assert_array_equal(found.steps[1].params.weight, TENSORS["linear.weight"])
    again = read_sentence_transformer("org/name", local_files_only=True)
    assert again is not None
    assert again._replace(steps=()) == found._replace(steps=())


# What is refused

WRONG: dict[str, tuple[str, Any, str]] = {
    "no JSON": ("modules.json", b"[{", "is not valid JSON"),
    "nested without end": ("modules.json", b"[" * 100_000, "is not valid JSON"),
    "megabytes": ("modules.json", b" " * (JSON_BYTES_LIMIT + 1), "more than 1000000 bytes"),
    "an object of modules": ("modules.json", {"0": MODULES[0]}, "must hold a JSON list; it holds {"),
    "no modules": ("modules.json", [], "lists 0 modules"),
    "too many modules": ("modules.json", MODULES * 20, "lists 80 modules"),
    "a module that is a number": ("modules.json", [1], r"lists 1 where an object"),
    "a type that is a number": ("modules.json", [{"path": "", "type": 1}], "has 1 for type, where a str"),
    "a path that is a list": ("modules.json", [{"path": [], "type": OLD + "Pooling"}], "for path, where a str"),
    "code of its own": ("modules.json", [{"path": "", "type": "custom_st.Transformer"}], "'custom_st.Transformer';"),
    "an unknown module": ("modules.json", [module("CNN", "")], "models.CNN'; only"),
    "a path that leads out": ("modules.json", [module("Transformer", "../x")], "'../x'; only folders beside it"),
    "an absolute path": ("modules.json", [module("Transformer", "/etc")], "'/etc'; only folders beside it"),
    "a Windows path": ("modules.json", [module("Transformer", "..\\x")], "only folders beside it"),
    "no pooling": ("modules.json", [MODULES[0], MODULES[2]], "lists Transformer, Dense; supported are"),
    "two poolings": ("modules.json", [*MODULES[:2], MODULES[1]], "lists Transformer, Pooling, Pooling; supported"),
    "two encoders": ("modules.json", [*MODULES[:2], MODULES[0]], "lists Transformer, Pooling, Transformer; supp"),
    "pooling before": ("modules.json", [MODULES[1], MODULES[0]], "lists Pooling, Transformer; supported"),
    "no folder": ("modules.json", [MODULES[0], module("Pooling", "9")], "has no 9/config.json"),
    "an unknown pooling": ("1_Pooling/config.json", {"pooling_mode": "median"}, "pooling .*median"),
    "no poolings": ("1_Pooling/config.json", {"pooling_mode": []}, "asks for the pooling"),
    "poolings of numbers": ("1_Pooling/config.json", {"pooling_mode": [[1]]}, "asks for the pooling"),
    "a thousand poolings": ("1_Pooling/config.json", {"pooling_mode": ["cls"] * 1000}, "asks for the pooling"),
    "a flag": ("1_Pooling/config.json", {"pooling_mode_cls_token": "yes"}, "where a bool belongs"),
    "a list of pooling": ("1_Pooling/config.json", [], "must hold a JSON object; it holds \\[\\]"),
    "an activation of its own": ("2_Dense/config.json", {**DENSE, "activation_function": "os.system"}, "'os.system'"),
    "an unknown activation": ("2_Dense/config.json", {**DENSE, "activation_function": "torch.nn.Mish"}, "nn.Mish"),
    "another width": ("2_Dense/config.json", {**DENSE, "in_features": 2**40}, r"\(3, 1099511627776\).*have \(3, 4\)"),
    "a width of text": ("2_Dense/config.json", {**DENSE, "in_features": "4"}, "for in_features, where a int belongs"),
    "no width": ("2_Dense/config.json", {}, r"promises numbers of the shape \(None, None\)"),
    "a residual": ("2_Dense/config.json", {**DENSE, "use_residual": True}, "use_residual, which is not supported"),
    "dense on tokens": ("2_Dense/config.json", {**DENSE, "module_input_name": "token_embeddings"}, "only 'sentence"),
    "no weights": ("2_Dense/model.safetensors", b"", "cannot mmap an empty file"),
    "normalize on tokens": ("3_Normalize/config.json", {"module_input_name": "token_embeddings"}, "only 'sentence"),
    "a length of text": ("sentence_bert_config.json", {"max_seq_length": "128"}, "for max_seq_length, where a int"),
    "a length of true": ("sentence_bert_config.json", {"max_seq_length": True}, "for max_seq_length, where a int"),
    "a negative length": ("sentence_bert_config.json", {"max_seq_length": -1}, "max_seq_length -1, which must be"),
    "another task": ("sentence_bert_config.json", {"transformer_task": "fill-mask"}, "is for the task 'fill-mask'"),
    "prompts in a list": ("config_sentence_transformers.json", {"prompts": ["a"]}, "for prompts, where a dict"),
    "a prompt of a number": ("config_sentence_transformers.json", {"prompts": {"a": 1}}, "has 1 for a, where a str"),
    "a default that is not there": ("config_sentence_transformers.json", {"default_prompt_name": "a"}, "no prompt"),
    "no numbers kept": ("config_sentence_transformers.json", {"truncate_dim": 0}, "truncate_dim 0, which must be"),
}  # fmt: skip


@pytest.mark.parametrize("what", WRONG)
def test_damaged_and_hostile_files(checkpoint: Path, what: str) -> None:
    name, content, message = WRONG[what]
    write(checkpoint, name, content)
    with pytest.raises(CheckpointError, match=message) as raised:
        read_sentence_transformer(checkpoint)
    assert "\n" not in str(raised.value)
    assert len(str(raised.value)) < 500 + len(str(checkpoint))


class Malicious:
    """Writes a file when it is unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> Any:
        return Path.touch, (self.target,)


def test_a_dense_layer_s_pickle_executes_nothing(checkpoint: Path, tmp_path: Path) -> None:
    (checkpoint / "2_Dense" / "model.safetensors").unlink()
    (checkpoint / "2_Dense" / "pytorch_model.bin").write_bytes(pickle.dumps(Malicious(tmp_path / "executed"), 2))
    with pytest.raises(CheckpointError):
        read_sentence_transformer(checkpoint)
    assert not (tmp_path / "executed").exists()


def test_the_library_s_own_words_for_its_modules() -> None:
    """Its classes have moved, and may move again; the last part of their names is what is read."""
    for kind, name in NEW.items():
        found = getattr(sentence_transformers.sentence_transformer.modules, kind)
        assert f"{found.__module__}.{found.__qualname__}" == name
