"""Finding the files of a model: in a directory, in the hub's cache, or on the hub."""

import contextlib
import os
from collections.abc import Iterator
from importlib import resources
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

Source = str | os.PathLike[str]

DEMO = "demo"  # the name of the small model that comes with the package
DEMO_DIRECTORY = Path(str(resources.files("xlmr_np") / DEMO))


class RemoteFile(NamedTuple):
    """A file on the hub that the cache lacks.

    Attributes:
        repository: the id of its repository.
        filename: its path there.
        url: where it is.
        size: in bytes; None if the hub does not say.
        revision: as for `find`, like what follows.
        cache_dir: see there.
        token: see there.
    """

    repository: str
    filename: str
    url: str
    size: int | None
    revision: str | None
    cache_dir: Path
    token: str | bool | None

    @property
    def name(self) -> str:
        """Its name without folders."""
        return PurePosixPath(self.filename).name

    def download(self) -> Path:
        """Put the file into the cache, with a progress bar on a terminal; its path there.

        Raises:
            OSError: the hub cannot be reached any more, or the file cannot be written.
        """
        import huggingface_hub

        with _explained(self.repository, self.filename, self.revision):
            return Path(
                huggingface_hub.hf_hub_download(
                    self.repository, self.filename, revision=self.revision, cache_dir=self.cache_dir, token=self.token
                )
            )

    def beginning(self, length: int) -> bytes:
        """The first `length` bytes of the file (all if it is shorter); nothing else is transferred or kept.

        Raises:
            OSError: the hub cannot be reached any more.
        """
        from huggingface_hub import constants, get_session
        from huggingface_hub.utils import build_hf_headers, hf_raise_for_status

        headers = {
            **build_hf_headers(token=self.token),
            "Range": f"bytes=0-{length - 1}",
            "Accept-Encoding": "identity",
        }
        content = bytearray()
        with (
            _explained(self.repository, self.filename, self.revision),
            get_session().stream(
                "GET", self.url, headers=headers, timeout=constants.HF_HUB_DOWNLOAD_TIMEOUT
            ) as response,
        ):
            hf_raise_for_status(response)
            for chunk in response.iter_bytes():
                content += chunk
                if len(content) >= length:  # a server that does not know ranges would go on to the end
                    break
        return bytes(content[:length])


def locate(source: Source, filename: str, **location: Any) -> Path | None:
    """The local path of one file of a model, downloaded first if need be.

    Arguments and errors are those of `find`.

    Returns:
        The path, or None if there is no such file.
    """
    found = find(source, filename, **location)
    return found.download() if isinstance(found, RemoteFile) else found


def find(
    source: Source,
    filename: str,
    *,
    subfolder: str = "",
    revision: str | None = None,
    cache_dir: Source | None = None,
    token: str | bool | None = None,
    local_files_only: bool = False,
) -> Path | RemoteFile | None:
    """Where one file of a model is; nothing is downloaded.

    Args:
        source: a directory, or the id of a hub repository such as "FacebookAI/xlm-roberta-base".
        filename: a plain file name.
        subfolder: folder of the model within the directory or repository.
        revision: branch, tag or commit of the repository; ignored for a directory.
        cache_dir: the hub cache to use in place of the usual one.
        token: for private repositories; True or None uses the stored one, False none.
        local_files_only: never ask the network. HF_HUB_OFFLINE=1 and TRANSFORMERS_OFFLINE=1 do the same.

    Returns:
        Its path in the directory or cache, else where it is on the hub, or None if the directory or repository
        has no such file. Without a network, a file that the cache lacks counts as absent if the cache holds
        other files of that revision.

    Raises:
        OSError: the directory or repository does not exist, may not be read, or cannot be reached.
        ValueError: the file or folder name, or the revision, leaves the model's directory; or the token is none.
    """
    for part in (filename, subfolder, revision or ""):
        if PurePosixPath(part).is_absolute() or ".." in PurePosixPath(part).parts or "\\" in part or "\0" in part:
            raise ValueError(f"{part!r} leads out of the model's directory; only plain names within it are read.")
    if not os.fspath(source):
        raise FileNotFoundError("The name of the model is empty; give a directory, or the id of a hub model.")
    directory = local_path(source)
    if directory.is_dir():
        path = directory / subfolder / filename
        return path if path.is_file() else None
    if directory.exists():
        raise NotADirectoryError(f"{directory} is a file; give the directory that holds the model's files.")
    if _looks_like_a_path(os.fspath(source)):
        raise FileNotFoundError(
            f"There is no directory {os.fspath(source)}; give an existing one, or the id of a hub model, owner/name."
        )
    return _find_on_hub(
        os.fspath(source),
        f"{subfolder}/{filename}" if subfolder else filename,
        revision=revision,
        cache_dir=cache_dir,
        token=token,
        local_files_only=local_files_only or is_offline(),
    )


def local_path(source: Source) -> Path:
    """The source as a path: ~ is the home directory, and "demo" the package's model unless there is such a directory.

    Raises:
        FileNotFoundError: the ~name at its beginning is no user's.
    """
    try:
        path = Path(source).expanduser()
    except RuntimeError as error:
        raise FileNotFoundError(f"There is no directory {source}: {error}") from error
    return DEMO_DIRECTORY if os.fspath(source) == DEMO and not path.is_dir() else path


def cached_only(source: Source) -> str:
    """What a message about absent files must add about a hub model: without a network, only the cache was asked."""
    return "" if local_path(source).is_dir() else " (of a hub model, offline, only in the cache)"


def is_offline() -> bool:
    """Whether the environment forbids asking the network."""
    return any(
        os.environ.get(name, "").upper() in ("1", "ON", "YES", "TRUE")
        for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
    )


def _looks_like_a_path(source: str) -> bool:
    return source.startswith((".", "/", "~")) or source.count("/") > 1 or (os.sep != "/" and os.sep in source)


def _find_on_hub(
    repository: str,
    filename: str,
    *,
    revision: str | None,
    cache_dir: Source | None,
    token: str | bool | None,
    local_files_only: bool,
) -> Path | RemoteFile | None:
    import huggingface_hub
    from huggingface_hub import constants, errors
    from huggingface_hub.utils import validate_repo_id

    if isinstance(token, str) and not (token.isascii() and token.isprintable()):
        raise ValueError("The token holds a character that no token has, such as a line break; copy it again.")
    cache = Path(cache_dir or constants.HF_HUB_CACHE).expanduser()
    with _explained(repository, filename, revision):
        validate_repo_id(repository)
        snapshot = _snapshot(cache, repository, revision or constants.DEFAULT_REVISION)
        cached = snapshot / filename if (snapshot / filename).is_file() else None
        if cached is not None and (local_files_only or snapshot.name == revision):  # a commit never changes
            return cached
        if local_files_only:
            if snapshot.is_dir():
                return None
            raise FileNotFoundError(
                f"The hub model {_at(repository, revision)} is not in the cache, and the network may not be asked; "
                "connect once, or give a directory."
            )
        # One request without retries, in place of hf_hub_download's: where there is no network it would try for
        # half a minute before it looks into the cache, and again for each file that the model does without.
        url = huggingface_hub.hf_hub_url(repository, filename, revision=revision)
        try:
            metadata = huggingface_hub.get_hf_file_metadata(url, token=token)
        except errors.RevisionNotFoundError:
            raise
        except errors.EntryNotFoundError:
            return None
        except (errors.HTTPError, ConnectionError) as error:
            if cached is not None:
                return cached
            if snapshot.is_dir() and not isinstance(error, errors.HfHubHTTPError):
                return None
            raise
    if metadata.commit_hash is None:
        raise OSError(f"{url} does not answer as a hub does; check HF_ENDPOINT, and that no proxy answers instead.")
    if cached is not None and snapshot.name == metadata.commit_hash:
        return cached
    return RemoteFile(repository, filename, url, metadata.size, revision, cache, token)


def _snapshot(cache: Path, repository: str, revision: str) -> Path:
    """The folder of a revision's files in the cache, whether or not it is there."""
    folder = cache / f"models--{repository.replace('/', '--')}"
    reference = folder / "refs" / revision
    commit = reference.read_text().strip() if reference.is_file() else revision
    return folder / "snapshots" / commit


@contextlib.contextmanager
def _explained(repository: str, filename: str, revision: str | None) -> Iterator[None]:
    """Turn the hub library's errors, most of which are no OSError, into sentences."""
    from huggingface_hub import errors

    try:
        yield
    except errors.HFValidationError as error:
        raise FileNotFoundError(
            f"{repository!r} is neither an existing directory nor the id of a hub model such as "
            f"'FacebookAI/xlm-roberta-base'."
        ) from error
    except errors.GatedRepoError as error:
        raise PermissionError(
            f"The hub model {repository!r} is gated; ask for access on its page and pass token=... or log in."
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise FileNotFoundError(
            f"There is no hub model {repository!r} that you may read (and no such directory here); check the name, "
            "or pass token=... or log in if it is private."
        ) from error
    except errors.RevisionNotFoundError as error:
        raise FileNotFoundError(
            f"The hub model {repository!r} has no revision {revision!r}; check its name."
        ) from error
    except errors.HfHubHTTPError as error:
        reason = error.server_message or error.response.reason_phrase
        raise OSError(
            f"The hub refused {filename} of {_at(repository, revision)} ({error.response.status_code} {reason}); check "
            "your token, or try again later."
        ) from error
    except (errors.HTTPError, errors.EntryNotFoundError, ConnectionError, RuntimeError) as error:
        # RuntimeError is what hf_xet, which transfers large files, makes of a lost connection
        reason = " ".join(str(error).split()) or type(error).__name__
        raise OSError(
            f"{filename} of the hub model {_at(repository, revision)} is not in the cache, and the hub cannot be "
            f"reached ({reason}); check the connection, or give a directory."
        ) from error


def _at(repository: str, revision: str | None) -> str:
    return repr(repository) if revision is None else f"{repository!r} at revision {revision!r}"
