"""Where the files of a model are: in a directory, in the cache, on the hub, or nowhere."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.hub_server import INVALID_TOKEN, HubServer, point_the_library_at
from xlmr_np.weights.files import RemoteFile, find, local_path, locate


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    with HubServer() as server:
        point_the_library_at(server, tmp_path / "cache", monkeypatch)
        yield server


def repository(directory: Path, **files: str) -> Path:
    """A directory with files of these contents."""
    directory.mkdir(parents=True, exist_ok=True)
    for name, content in ({"config.json": "{}", "model.safetensors": "weights"} | files).items():
        (directory / name).write_text(content)
    return directory


@pytest.fixture
def org_name(hub: HubServer, tmp_path: Path) -> Path:
    """The directory behind the repository org/name."""
    directory = repository(tmp_path / "org_name")
    hub.add("org/name", directory)
    return directory


def statuses(hub: HubServer) -> list[tuple[str, str, int]]:
    return [(request.method, request.file, request.status) for request in hub.requests]


# Directories


def test_a_file_of_a_directory(tmp_path: Path) -> None:
    directory = repository(tmp_path / "model")
    for source in (directory, str(directory), f"{directory}/"):
        assert locate(source, "config.json") == directory / "config.json"
        assert locate(source, "pytorch_model.bin") is None


def test_a_revision_and_a_token_mean_nothing_to_a_directory(tmp_path: Path) -> None:
    directory = repository(tmp_path / "model")
    where = {"revision": "v2", "token": "secret", "cache_dir": tmp_path, "local_files_only": True}
    assert locate(directory, "config.json", **where) == directory / "config.json"


def test_a_folder_in_place_of_a_file_is_no_file(tmp_path: Path) -> None:
    (tmp_path / "config.json").mkdir()
    (tmp_path / "model.safetensors").symlink_to(tmp_path / "nowhere")
    assert locate(tmp_path, "config.json") is None
    assert locate(tmp_path, "model.safetensors") is None


def test_a_subfolder(tmp_path: Path) -> None:
    directory = repository(tmp_path / "model" / "onnx" / "fp16")
    assert locate(tmp_path / "model", "config.json", subfolder="onnx/fp16") == directory / "config.json"
    assert locate(tmp_path / "model", "config.json") is None
    assert locate(tmp_path / "model", "config.json", subfolder="none") is None


def test_home_and_relative_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = repository(tmp_path / "org" / "name")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert local_path("~/org/name") == directory
    for source in ("~/org/name", "org/name", "./org/name", "org/../org/name"):
        found = locate(source, "config.json")
        assert found is not None
        assert found.samefile(directory / "config.json")


@pytest.mark.parametrize(
    "source", ["/nowhere", "/no/where", "./x", "../x", "~/x", "~nobody-of-that-name/x", "a/b/c", "models/mine/"]
)
def test_no_such_directory(hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    monkeypatch.setenv("HOME", str(empty))
    monkeypatch.chdir(empty)
    with pytest.raises(FileNotFoundError, match="There is no directory") as caught:
        locate(source, "config.json")
    assert "\n" not in str(caught.value)
    assert not hub.requests


@pytest.mark.parametrize(
    "source", ["C:\\models\\mine", "C:/mine", "org/na me", "org//name", "-name", "a--b", "org/a..b", "org/", "x" * 200]
)
def test_neither_a_directory_nor_a_hub_id(hub: HubServer, source: str) -> None:
    for where in ({}, {"local_files_only": True}):
        with pytest.raises(FileNotFoundError, match=r"neither an existing directory nor|no directory"):
            locate(source, "config.json", **where)
    assert not hub.requests


def test_no_name_is_not_the_working_directory(hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(repository(tmp_path / "model"))
    with pytest.raises(FileNotFoundError, match="name of the model is empty"):
        locate("", "config.json")


def test_a_file_is_no_directory(tmp_path: Path) -> None:
    file = repository(tmp_path / "model") / "model.safetensors"
    with pytest.raises(NotADirectoryError, match=r"model\.safetensors is a file; give the directory"):
        locate(file, "config.json")


@pytest.mark.parametrize("name", ["/etc/passwd", "../secret", "a/../../secret", "..", "..\\secret", "a\0b"])
def test_nothing_outside_is_read(hub: HubServer, org_name: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / "secret").write_text("secret")
    for source in (org_name, "org/name"):
        for where in ({"filename": name}, {"filename": "config.json", "subfolder": name}):
            with pytest.raises(ValueError, match="leads out of the model's directory"):
                locate(source, **where)
    with pytest.raises(ValueError, match="leads out of the model's directory"):
        locate("org/name", "config.json", revision=name)
    assert not hub.requests


# The hub and its cache


def test_a_file_is_downloaded_once(hub: HubServer, org_name: Path, tmp_path: Path) -> None:
    paths = {locate("org/name", "model.safetensors") for _ in range(3)}
    assert len(paths) == 1
    path = paths.pop()
    assert path is not None
    assert path.read_text() == "weights"
    assert path.is_relative_to(tmp_path / "cache" / "models--org--name" / "snapshots" / hub.commit("org/name", "main"))
    assert hub.downloaded() == {"model.safetensors": len("weights")}


def test_find_downloads_nothing(hub: HubServer, org_name: Path, tmp_path: Path) -> None:
    found = find("org/name", "model.safetensors")
    assert isinstance(found, RemoteFile)
    assert (found.name, found.size) == ("model.safetensors", len("weights"))
    assert statuses(hub) == [("HEAD", "model.safetensors", 302)]
    assert not (tmp_path / "cache").exists()
    path = found.download()
    assert path.read_text() == "weights"
    assert find("org/name", "model.safetensors") == path


def test_a_file_that_a_repository_lacks(hub: HubServer, org_name: Path) -> None:
    assert locate("org/name", "pytorch_model.bin") is None
    assert locate("org/name", "config.json", subfolder="none") is None
    assert statuses(hub) == [("HEAD", "pytorch_model.bin", 404), ("HEAD", "none/config.json", 404)]


def test_a_subfolder_of_a_repository(hub: HubServer, org_name: Path) -> None:
    repository(org_name / "onnx" / "fp16", **{"config.json": "inner"})
    path = locate("org/name", "config.json", subfolder="onnx/fp16")
    assert path is not None
    assert path.read_text() == "inner"
    assert locate("org/name", "config.json", subfolder="onnx/fp16", local_files_only=True) == path


@pytest.mark.parametrize("revision", ["v2", "refs/pr/1"])
def test_a_revision(hub: HubServer, org_name: Path, tmp_path: Path, revision: str) -> None:
    commit = hub.add("org/name", repository(tmp_path / "other", **{"config.json": "other"}), revision)
    path = locate("org/name", "config.json", revision=revision)
    assert path is not None
    assert path.read_text() == "other"
    assert path.parent.name == commit
    assert locate("org/name", "config.json").read_text() == "{}"
    hub.stop()
    assert locate("org/name", "config.json", revision=revision) == path


def test_a_cached_commit_needs_no_network(hub: HubServer, org_name: Path) -> None:
    commit = hub.commit("org/name", "main")
    path = locate("org/name", "config.json", revision=commit)
    hub.requests.clear()
    assert locate("org/name", "config.json", revision=commit) == path
    assert not hub.requests


def test_a_new_commit_is_downloaded(hub: HubServer, org_name: Path, tmp_path: Path) -> None:
    old = locate("org/name", "config.json")
    commit = hub.add("org/name", repository(tmp_path / "new", **{"config.json": "new"}))
    new = locate("org/name", "config.json")
    assert new.read_text() == "new"
    assert new.parent.name == commit
    assert old.read_text() == "{}"
    assert locate("org/name", "config.json", local_files_only=True) == new


def test_a_commit_taken_back_is_not_used_from_the_cache(hub: HubServer, org_name: Path, tmp_path: Path) -> None:
    locate("org/name", "config.json")
    hub.add("org/name", repository(tmp_path / "new", **{"config.json": "new"}))
    locate("org/name", "config.json")
    hub.add("org/name", org_name)
    for where in ({}, {"local_files_only": True}):
        assert locate("org/name", "config.json", **where).read_text() == "{}"


def test_a_renamed_repository(hub: HubServer, org_name: Path) -> None:
    hub.renamed["old-name"] = "org/name"
    assert locate("old-name", "model.safetensors").read_text() == "weights"
    hub.stop()
    assert locate("old-name", "model.safetensors").read_text() == "weights"


def test_another_cache(hub: HubServer, org_name: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    path = locate("org/name", "config.json", cache_dir="~/mine")
    assert path.is_relative_to(tmp_path / "mine")
    assert not (tmp_path / "cache").exists()
    for cache_dir in ("~/mine", tmp_path / "mine"):
        assert locate("org/name", "config.json", cache_dir=cache_dir, local_files_only=True) == path


def test_a_cache_that_cannot_be_written(hub: HubServer, org_name: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("a file")
    with pytest.raises(OSError, match="mine"):
        locate("org/name", "config.json", cache_dir=tmp_path / "mine")


# Who may read


def test_a_token_opens_a_private_repository(hub: HubServer, tmp_path: Path) -> None:
    hub.add("org/private", repository(tmp_path / "private"), token="secret")
    path = locate("org/private", "model.safetensors", token="secret")
    assert path.read_text() == "weights"
    for request in hub.requests:  # and it never leaves the hub's own host
        assert request.authorization == ("Bearer secret" if request.host.startswith("127.0.0.1") else None)
    assert {request.host for request in hub.requests} == {f"127.0.0.1:{hub.port}", f"localhost:{hub.port}"}


def test_the_beginning_of_a_private_file(hub: HubServer, tmp_path: Path) -> None:
    hub.add("org/private", repository(tmp_path / "private"), token="secret")
    found = find("org/private", "model.safetensors", token="secret")
    assert isinstance(found, RemoteFile)
    assert found.beginning(3) == b"wei"
    assert [request.authorization for request in hub.requests] == ["Bearer secret", "Bearer secret", None]


@pytest.mark.parametrize(("token", "sent"), [(None, "Bearer stored"), (True, "Bearer stored"), (False, None)])
def test_the_stored_token(
    hub: HubServer, org_name: Path, monkeypatch: pytest.MonkeyPatch, token: bool | None, sent: str | None
) -> None:
    monkeypatch.setenv("HF_TOKEN", "stored")
    locate("org/name", "config.json", token=token)
    assert {request.authorization for request in hub.requests} == {sent}


def test_no_stored_token(hub: HubServer, org_name: Path) -> None:
    with pytest.raises(OSError, match=r"[Tt]oken"):
        locate("org/name", "config.json", token=True)
    assert not hub.requests


@pytest.mark.parametrize("token", [None, "wrong"])
def test_a_private_or_absent_repository(hub: HubServer, tmp_path: Path, token: str | None) -> None:
    hub.add("org/private", repository(tmp_path / "private"), token="secret")
    for name in ("org/private", "org/absent", "absent"):
        with pytest.raises(FileNotFoundError, match=rf"no hub model '{name}' that you may read.*pass token="):
            locate(name, "config.json", token=token)


@pytest.mark.parametrize("token", [None, "wrong"])
def test_a_gated_repository(hub: HubServer, tmp_path: Path, token: str | None) -> None:
    hub.add("org/gated", repository(tmp_path / "gated"), token="secret", is_gated=True)
    with pytest.raises(PermissionError, match=r"'org/gated' is gated; ask for access"):
        locate("org/gated", "config.json", token=token)


def test_an_invalid_token(hub: HubServer, org_name: Path) -> None:
    with pytest.raises(OSError, match=r"refused config\.json of 'org/name' \(401 Invalid cred.*check your token"):
        locate("org/name", "config.json", token=INVALID_TOKEN)


@pytest.mark.parametrize("token", ["hf_secret\n", "hf_sécret"])
def test_a_token_with_strange_characters_is_not_repeated(hub: HubServer, org_name: Path, token: str) -> None:
    with pytest.raises(ValueError, match="The token holds a character that no token has") as caught:
        locate("org/name", "config.json", token=token)
    assert "cret" not in str(caught.value)
    assert not hub.requests


def test_what_is_cached_needs_no_token(hub: HubServer, tmp_path: Path) -> None:
    hub.add("org/gated", repository(tmp_path / "gated"), token="secret", is_gated=True)
    path = locate("org/gated", "config.json", token="secret")
    assert locate("org/gated", "config.json") == path


def test_an_absent_revision(hub: HubServer, org_name: Path) -> None:
    locate("org/name", "config.json")
    for where in ({}, {"token": "any"}):
        with pytest.raises(FileNotFoundError, match=r"'org/name' has no revision 'v9'"):
            locate("org/name", "config.json", revision="v9", **where)


# Without the network


@pytest.mark.parametrize("variable", ["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", None])
def test_offline(hub: HubServer, org_name: Path, monkeypatch: pytest.MonkeyPatch, variable: str | None) -> None:
    path = locate("org/name", "config.json")
    hub.requests.clear()
    if variable is not None:
        monkeypatch.setenv(variable, "1")
    where = {"local_files_only": variable is None}
    assert locate("org/name", "config.json", **where) == path
    assert locate("org/name", "model.safetensors", **where) is None  # as far as one can know
    for name, revision in (("org/other", None), ("org/name", "v2")):
        with pytest.raises(FileNotFoundError, match=rf"'{name}'.* is not in the cache, and the network may not be"):
            locate(name, "config.json", revision=revision, **where)
    assert not hub.requests


def test_an_unreachable_hub(hub: HubServer, org_name: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = locate("org/name", "config.json")
    hub.stop()
    monkeypatch.setattr("time.sleep", lambda _: pytest.fail("it waits for a network that is not there"))
    assert locate("org/name", "config.json") == path
    assert locate("org/name", "model.safetensors") is None  # as far as one can know
    for name, revision in (("org/other", None), ("org/name", "v2")):
        with pytest.raises(
            OSError, match=r"not in the cache, and the hub cannot be reached \(.*refused.*\); check the"
        ):
            locate(name, "config.json", revision=revision)


def test_a_hub_out_of_order(hub: HubServer, org_name: Path) -> None:
    path = locate("org/name", "config.json")
    hub.status = 503
    assert locate("org/name", "config.json") == path
    with pytest.raises(OSError, match=r"refused model\.safetensors of 'org/name' \(503 .*try again later"):
        locate("org/name", "model.safetensors")


def test_a_server_that_is_no_hub(hub: HubServer, org_name: Path) -> None:
    hub.is_hub = False
    with pytest.raises(OSError, match=r"does not answer as a hub does; check HF_ENDPOINT"):
        locate("org/name", "config.json")


def test_the_hub_is_lost_before_the_download(hub: HubServer, org_name: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = find("org/name", "model.safetensors")
    assert isinstance(found, RemoteFile)
    hub.stop()
    monkeypatch.setattr("time.sleep", lambda _: None)
    for use in (found.download, lambda: found.beginning(3)):
        with pytest.raises(OSError, match=r"model\.safetensors of .*'org/name' .*cannot be reached"):
            use()


def test_a_transfer_that_fails_beneath_the_library(
    hub: HubServer, org_name: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("Data processing error:\nno route")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", fail)
    with pytest.raises(OSError, match=r"the hub cannot be reached \(Data processing error: no route\)"):
        locate("org/name", "model.safetensors")


def test_a_download_that_breaks_off(
    hub: HubServer, org_name: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.breaks_off, hub.knows_ranges = True, False
    monkeypatch.setattr("time.sleep", lambda _: None)
    with pytest.raises(OSError, match=r"model\.safetensors"):
        locate("org/name", "model.safetensors")
    assert locate("org/name", "model.safetensors", local_files_only=True) is None
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file() and b"wei" in path.read_bytes()]
    hub.breaks_off = False
    assert locate("org/name", "model.safetensors").read_text() == "weights"


# Parts of files


@pytest.mark.parametrize("knows_ranges", [True, False])
def test_only_the_beginning_is_transferred(hub: HubServer, org_name: Path, knows_ranges: bool) -> None:
    hub.knows_ranges = knows_ranges
    with (org_name / "model.safetensors").open("r+b") as file:
        file.truncate(2**30)
    found = find("org/name", "model.safetensors")
    assert isinstance(found, RemoteFile)
    assert found.beginning(5) == b"weigh"
    assert found.beginning(10_000) == b"weights" + bytes(9_993)
    hub.stop()  # waits for the answers
    if knows_ranges:
        assert hub.downloaded() == {"model.safetensors": 10_005}
    else:
        assert hub.downloaded()["model.safetensors"] < 2**26  # what buffers hold of the gibibyte


def test_the_beginning_of_a_short_file(hub: HubServer, org_name: Path) -> None:
    found = find("org/name", "model.safetensors")
    assert isinstance(found, RemoteFile)
    assert found.beginning(2**16) == b"weights"
