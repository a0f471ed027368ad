"""The command with a hub id, in processes of its own, against a hub on this machine: online, then without it."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.hub_server import INVALID_TOKEN, HubServer
from xlmr_np import XLMRobertaConfig, XLMRobertaForMaskedLM, pipeline
from xlmr_np.tokenizer import XLMRobertaTokenizer
from xlmr_np.weights.inspection import FIRST_REQUEST_BYTES, describe

TEXT = "The weather is <mask> today."
README = Path(__file__).parents[1] / "README.md"
NEEDED = {"config.json", "model.safetensors", "tokenizer_config.json", "sentencepiece.bpe.model"}

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def hub() -> Iterator[HubServer]:
    with HubServer() as server:
        yield server


@pytest.fixture
def run(hub: HubServer, tmp_path: Path) -> Run:
    """Runs the command as a user of that hub, who has an empty home."""

    def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        ours = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "TRANSFORMERS_"))}
        ours |= {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home"), "HF_HUB_DISABLE_XET": "1", "NO_PROXY": "*"}
        command = [sys.executable, "-m", "xlmr_np", *arguments]
        return subprocess.run(command, env=ours | environment, capture_output=True, text=True, encoding="utf-8")

    return run


def answer(done: subprocess.CompletedProcess[str]) -> str:
    """What a command that succeeded printed."""
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout
    return done.stdout


def complaint(done: subprocess.CompletedProcess[str]) -> str:
    """The one line of a command that refused its input."""
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("xlmr-np: ")
    assert done.stderr.count("\n") == 1
    return done.stderr


@pytest.fixture(scope="session")
def small_checkpoint(tmp_path_factory: pytest.TempPathFactory, small_vocabulary: Path) -> Path:
    """A small masked language model with all that a repository of one has, and a pickle that nobody needs."""
    directory = tmp_path_factory.mktemp("small")
    config = XLMRobertaConfig(
        vocab_size=len(XLMRobertaTokenizer(small_vocabulary)),
        hidden_size=24,
        num_hidden_layers=2,
        num_attention_heads=3,
        intermediate_size=48,
        max_position_embeddings=34,
        type_vocab_size=1,
        initializer_range=0.3,
    )
    XLMRobertaForMaskedLM(config, generator=np.random.default_rng(0)).save_pretrained(directory)
    XLMRobertaTokenizer(small_vocabulary).save_pretrained(directory)
    for name in ("pytorch_model.bin", "tf_model.h5", "tokenizer.json", "README.md"):
        (directory / name).write_text("not needed")
    return directory


@pytest.fixture
def org_name(hub: HubServer, small_checkpoint: Path) -> str:
    """The id under which the hub has the small checkpoint."""
    hub.add("org/name", small_checkpoint)
    return "org/name"


# The whole path


@pytest.mark.xdist_group("base shape")
def test_the_command_of_the_readme(hub: HubServer, run: Run, base_checkpoint: Path, tmp_path: Path) -> None:
    """With XLM-R base's shape and vocabulary: from the hub, then from the cache while the hub is gone."""
    stated = re.search(r"bin/xlmr-np (fill-mask --model (\S+) .*)", README.read_text(encoding="utf-8"))
    assert stated is not None
    command, name = shlex.split(stated[1]), stated[2]
    hub.add(name, base_checkpoint)
    online = answer(run(*command))
    sizes = {path.name: path.stat().st_size for path in base_checkpoint.iterdir()}
    assert hub.downloaded() == sizes
    assert sizes["model.safetensors"] > 1.1e9
    hub.stop()
    assert answer(run(*command, HF_HUB_OFFLINE="1")) == online
    expected = pipeline("fill-mask", base_checkpoint)(command[-1])
    shown = json.loads(answer(run(*command, "--offline", "--json")))["predictions"]
    for ours, theirs in zip(shown, expected, strict=True):
        assert ours == theirs | {"score": pytest.approx(theirs["score"], rel=1e-4)}  # threads may sum in another order
    shutil.rmtree(tmp_path / "home")


def test_online_then_offline(hub: HubServer, run: Run, org_name: str, small_checkpoint: Path) -> None:
    command = ("fill-mask", "--model", org_name, TEXT)
    online = answer(run(*command))
    assert online == answer(run("fill-mask", "--model", str(small_checkpoint), TEXT))
    assert hub.downloaded() == {name: (small_checkpoint / name).stat().st_size for name in NEEDED}
    hub.requests.clear()
    assert answer(run(*command)) == online
    assert {request.method for request in hub.requests} == {"HEAD"}
    hub.requests.clear()
    assert answer(run(*command, HF_HUB_OFFLINE="1")) == online
    assert not hub.requests
    hub.stop()
    assert answer(run(*command, TRANSFORMERS_OFFLINE="1")) == online
    assert answer(run(*command, "--offline")) == online
    assert answer(run(*command)) == online  # no variable says so, but there is no network


def test_only_what_is_needed_is_downloaded(
    hub: HubServer, run: Run, small_checkpoint: Path, small_vocabulary: Path, tmp_path: Path
) -> None:
    """Nor is anything asked for that can be known to be of no use.

    A repository may lack tokenizer_config.json; then other files may have added tokens.
    """
    directory = shutil.copytree(small_checkpoint, tmp_path / "model")
    XLMRobertaTokenizer(small_vocabulary).save_pretrained(directory)
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        (directory / name).unlink()
    hub.add("org/name", directory)
    answer(run("fill-mask", "--model", "org/name", TEXT))
    assert hub.downloaded().keys() == {*NEEDED, "tokenizer.json"} - {"tokenizer_config.json"}
    asked_for = {*NEEDED, "tokenizer.json", "special_tokens_map.json", "added_tokens.json"}
    assert {request.file for request in hub.requests} == asked_for


def test_shards_of_another_revision(hub: HubServer, run: Run, small_checkpoint: Path, tmp_path: Path) -> None:
    directory = shutil.copytree(small_checkpoint, tmp_path / "sharded")
    XLMRobertaForMaskedLM.from_pretrained(directory).save_pretrained(directory, max_shard_size="20KB")
    shards = {path.name for path in directory.glob("model-*.safetensors")}
    assert len(shards) > 2
    hub.add("org/name", tmp_path)
    hub.add("org/name", directory, "refs/pr/3")
    where = ("--revision", "refs/pr/3", "--cache-dir", str(tmp_path / "mine"))
    command = ("fill-mask", "--model", "org/name", *where, TEXT)
    online = answer(run(*command))
    assert online == answer(run("fill-mask", "--model", str(small_checkpoint), TEXT))
    assert hub.downloaded().keys() == NEEDED - {"model.safetensors"} | shards | {"model.safetensors.index.json"}
    hub.stop()
    assert answer(run(*command, "--offline")) == online
    assert "models--org--name" in {path.name for path in (tmp_path / "mine").iterdir()}
    assert not (tmp_path / "home" / "hub").exists()


def test_old_weights(hub: HubServer, run: Run, small_checkpoint: Path, tmp_path: Path) -> None:
    import torch

    directory = shutil.copytree(small_checkpoint, tmp_path / "model")
    model = XLMRobertaForMaskedLM.from_pretrained(small_checkpoint)
    state = {name: torch.tensor(array) for name, array in model.state_dict().items()}
    torch.save(state, directory / "pytorch_model.bin")
    (directory / "model.safetensors").unlink()
    hub.add("org/name", directory)
    online = answer(run("fill-mask", "--model", "org/name", TEXT))
    assert online == answer(run("fill-mask", "--model", str(small_checkpoint), TEXT))
    assert hub.downloaded().keys() == NEEDED - {"model.safetensors"} | {"pytorch_model.bin"}
    hub.stop()
    assert answer(run("fill-mask", "--model", "org/name", TEXT)) == online


def test_the_token_of_the_environment(hub: HubServer, run: Run, small_checkpoint: Path) -> None:
    hub.add("org/private", small_checkpoint, token="secret")
    answer(run("fill-mask", "--model", "org/private", TEXT, HF_TOKEN="secret"))
    sent = {(request.host.split(":")[0], request.authorization) for request in hub.requests}
    assert sent == {("127.0.0.1", "Bearer secret"), ("localhost", None)}


def test_info(hub: HubServer, run: Run, org_name: str, small_checkpoint: Path) -> None:
    """Of the weights, only the header is transferred, and the numbers are the directory's."""
    of_hub, of_directory = (
        json.loads(answer(run("info", name, "--json"))) for name in (org_name, str(small_checkpoint))
    )
    assert of_hub | {"model": ""} == of_directory | {"model": ""}
    description = describe(small_checkpoint)
    assert of_hub["parameters"] == description.parameters
    assert of_hub["bytes_on_disk"] == (small_checkpoint / "model.safetensors").stat().st_size
    sent = hub.downloaded()
    assert sent.keys() == {"config.json", "model.safetensors"}
    assert sent["model.safetensors"] <= FIRST_REQUEST_BYTES
    text = answer(run("info", org_name))
    assert f"{description.parameters:,}" in text
    assert "model.safetensors" in text


# What cannot be had

COMMANDS = {"fill-mask": ("fill-mask", TEXT, "--model"), "info": ("info",)}


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
def test_no_such_model(hub: HubServer, run: Run, command: tuple[str, ...], tmp_path: Path) -> None:
    assert "no hub model 'org/absent' that you may read" in complaint(run(*command, "org/absent"))
    assert f"no directory {tmp_path / 'absent'}" in complaint(run(*command, str(tmp_path / "absent")))
    assert "neither an existing directory nor the id" in complaint(run(*command, "org/na me"))
    assert "name of the model is empty" in complaint(run(*command, ""))


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
def test_no_network(hub: HubServer, run: Run, org_name: str, command: tuple[str, ...]) -> None:
    said = complaint(run(*command, org_name, HF_HUB_OFFLINE="1"))
    assert "'org/name' is not in the cache, and the network may not be asked; connect once" in said
    said = complaint(run(*command, org_name, "--offline"))
    assert "'org/name' is not in the cache, and the network may not be asked; connect once" in said
    assert not hub.requests
    hub.stop()
    said = complaint(run(*command, org_name))
    assert "'org/name' is not in the cache, and the hub cannot be reached" in said
    assert "check the connection" in said


def test_access(hub: HubServer, run: Run, small_checkpoint: Path) -> None:
    hub.add("org/private", small_checkpoint, token="secret")
    hub.add("org/gated", small_checkpoint, token="secret", is_gated=True)
    command = ("fill-mask", TEXT, "--model")
    assert "'org/private' that you may read" in complaint(run(*command, "org/private"))
    assert "'org/gated' is gated; ask for access" in complaint(run(*command, "org/gated", HF_TOKEN="stranger"))
    assert "(401 Invalid credentials" in complaint(run(*command, "org/gated", HF_TOKEN=INVALID_TOKEN))


def test_an_incomplete_model(hub: HubServer, run: Run, small_checkpoint: Path, tmp_path: Path) -> None:
    for missing, said in {
        "config.json": "org/name has no config.json",
        "model.safetensors": "org/name holds no weights; looked for model.safetensors",
        "sentencepiece.bpe.model": "looked for sentencepiece.bpe.model",
    }.items():
        directory = shutil.copytree(small_checkpoint, tmp_path / missing)
        for name in (missing, "pytorch_model.bin", "tokenizer.json"):
            (directory / name).unlink()
        hub.add("org/name", directory)
        assert said in complaint(run("fill-mask", "--model", "org/name", TEXT))
    assert "has no revision 'v9'" in complaint(run("info", "org/name", "--revision", "v9"))


def test_a_cache_without_the_weights(hub: HubServer, run: Run, org_name: str) -> None:
    """As `info` leaves it."""
    answer(run("info", org_name))
    said = complaint(run("fill-mask", "--model", org_name, TEXT, "--offline"))
    assert "org/name has no vocabulary" in said
    assert "only in the cache" in said


@pytest.mark.parametrize("shard", ["../../../secret.safetensors", "missing.safetensors"])
def test_a_lying_index(hub: HubServer, run: Run, small_checkpoint: Path, tmp_path: Path, shard: str) -> None:
    directory = shutil.copytree(small_checkpoint, tmp_path / "model")
    (directory / "model.safetensors").rename(directory / "other.safetensors")
    weight_map = {
        "roberta.embeddings.LayerNorm.weight": "other.safetensors",
        "roberta.embeddings.LayerNorm.bias": shard,
    }
    (directory / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    hub.add("org/name", directory)
    said = complaint(run("fill-mask", "--model", "org/name", TEXT))
    assert f"names the shard '{shard}'" in said
    assert not any(name.endswith(".safetensors") for name in hub.downloaded())
