"""The Hugging Face hub on this machine, for tests: its URLs, headers, redirects and errors, and a log of requests.

Files of weights and vocabularies are answered as the hub answers what it keeps in large file storage: by a
redirect to another host, to which no token may be sent.
"""

import hashlib
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, Self
from urllib.parse import quote, unquote

import pytest

LARGE_FILES = (".safetensors", ".bin", ".model")
INVALID_TOKEN = "nobody's"
BLOCK_BYTES = 2**20


class Request(NamedTuple):
    """One answered request for a file: the host it was sent to, and what of the file was sent back."""

    method: str
    host: str
    file: str
    authorization: str | None
    status: int
    bytes_sent: int


@dataclass
class Repository:
    """Directories by revision, and who may read them."""

    revisions: dict[str, Path] = field(default_factory=dict)
    token: str | None = None  # the one that lets a reader in; None is public
    is_gated: bool = False  # a stranger is told that it exists


class HubServer:
    """Serves directories as hub repositories while its context is open, on a free port of 127.0.0.1.

    Attributes:
        url: for HF_ENDPOINT.
        repositories: by id.
        renamed: new ids by old ones.
        requests: what has been answered so far.
        status: if set, every answer is this HTTP status.
        knows_ranges: whether a part of a file can be asked for.
        is_hub: whether answers carry the headers by which a hub is known.
        breaks_off: whether the connection is lost in the middle of each file.
        tells_sizes: whether answers say how large a file in the storage is.
    """

    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.renamed: dict[str, str] = {}
        self.requests: list[Request] = []
        self.status: int | None = None
        self.knows_ranges = True
        self.is_hub = True
        self.breaks_off = False
        self.tells_sizes = True
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": self}))
        self._server.daemon_threads = False  # so that closing it waits for the answers
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self.port = self._server.server_port
        self.url = f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Close the port, so that connections are refused."""
        if self._thread.is_alive():
            self._server.shutdown()
            self._thread.join()
            self._server.server_close()

    def add(self, repository: str, directory: Path, revision: str = "main", **access: Any) -> str:
        """Serve a directory as a revision of a repository; returns the revision's commit."""
        known = self.repositories.setdefault(repository, Repository(**access))
        commit = hashlib.sha1(f"{repository} {directory}".encode()).hexdigest()
        known.revisions[revision] = known.revisions[commit] = directory
        return commit

    def commit(self, repository: str, revision: str) -> str:
        """The commit that a branch, tag or commit stands for."""
        revisions = self.repositories[repository].revisions
        return next(name for name in revisions if len(name) == 40 and revisions[name] == revisions[revision])

    def downloaded(self) -> dict[str, int]:
        """How many bytes of each file were sent."""
        sent: dict[str, int] = {}
        for request in self.requests:
            if request.bytes_sent:
                sent[request.file] = sent.get(request.file, 0) + request.bytes_sent
        return sent


def point_the_library_at(hub: HubServer, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What HF_ENDPOINT and HF_HOME do for a new process, for this one, which has read them long ago."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.url + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(cache / "token"))
    monkeypatch.setenv("NO_PROXY", "*")
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)


class _Handler(BaseHTTPRequestHandler):
    hub: HubServer

    def do_GET(self) -> None:
        self._answer()

    def do_HEAD(self) -> None:
        self._answer()

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def _answer(self) -> None:
        path, hub = self.path.split("?")[0], self.hub
        token = (self.headers["Authorization"] or "").removeprefix("Bearer ")
        if path.startswith("/storage/"):
            self._send_file(Path(unquote(path.removeprefix("/storage"))), {})
            return
        repository, _, rest = path[1:].partition("/resolve/")
        revision, _, file = (unquote(part) for part in rest.partition("/"))  # a revision's own slashes are quoted
        if hub.status is not None:
            self._send(hub.status, file, {})
        elif repository in hub.renamed:
            self._send(307, file, {"Location": path.replace(repository, hub.renamed[repository], 1)})
        elif token == INVALID_TOKEN:
            self._send(401, file, {"X-Error-Message": "Invalid credentials in Authorization header"})
        elif repository not in hub.repositories:
            self._send(404 if token else 401, file, {"X-Error-Code": "RepoNotFound"})
        elif hub.repositories[repository].token not in (None, token):
            if hub.repositories[repository].is_gated:
                self._send(403 if token else 401, file, {"X-Error-Code": "GatedRepo"})
            else:
                self._send(404 if token else 401, file, {"X-Error-Code": "RepoNotFound"})
        elif revision not in hub.repositories[repository].revisions:
            self._send(404, file, {"X-Error-Code": "RevisionNotFound"})
        else:
            self._send_entry(repository, revision, file)

    def _send_entry(self, repository: str, revision: str, file: str) -> None:
        location = self.hub.repositories[repository].revisions[revision] / file
        if not self.hub.is_hub:
            self._send_file(location, {})
            return
        headers = {"X-Repo-Commit": self.hub.commit(repository, revision)}
        if not location.is_file():
            self._send(404, file, headers | {"X-Error-Code": "EntryNotFound"})
        elif file.endswith(LARGE_FILES):
            linked = {"X-Linked-Etag": _etag(location)}
            if self.hub.tells_sizes:
                linked["X-Linked-Size"] = str(location.stat().st_size)
            storage = f"http://localhost:{self.hub.port}/storage{quote(str(location))}"
            self._send(302, file, headers | linked | {"Location": storage})
        else:
            self._send_file(location, headers)

    def _send_file(self, location: Path, headers: dict[str, str]) -> None:
        size = location.stat().st_size
        start, stop, status = 0, size, 200
        wanted = self.headers["Range"]
        if wanted and self.hub.knows_ranges:
            first, last = wanted.removeprefix("bytes=").split("-")
            start, stop, status = int(first), min(size, int(last) + 1 if last else size), 206
            headers = headers | {"Content-Range": f"bytes {start}-{stop - 1}/{size}"}
        with location.open("rb") as content:
            content.seek(start)
            self._send(status, location.name, headers | {"ETag": _etag(location)}, content, stop - start)

    def _send(
        self, status: int, file: str, headers: dict[str, str], content: BinaryIO | None = None, length: int = 0
    ) -> None:
        content = content if self.command == "GET" else None
        # logged first, as a reader that has all it asked for goes on at once
        request = Request(
            self.command, self.headers["Host"], file, self.headers["Authorization"], status, length if content else 0
        )
        if file:  # the library also asks for things that belong to no repository
            self.hub.requests.append(request)
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(length)}.items():
            self.send_header(name, value)
        self.end_headers()
        if content is None:
            return
        sent, stop = 0, length // 2 if self.hub.breaks_off else length
        try:
            while sent < stop:
                sent += self.wfile.write(content.read(min(stop - sent, BLOCK_BYTES)))
        except ConnectionError:  # the reader has enough
            self.hub.requests[self.hub.requests.index(request)] = request._replace(bytes_sent=sent)


def _etag(location: Path) -> str:
    """A name for the content that is cheap for a gigabyte."""
    facts = location.stat()
    return '"' + hashlib.sha256(f"{location} {facts.st_size} {facts.st_mtime_ns}".encode()).hexdigest() + '"'
