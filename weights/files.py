"""Finding the files of a model: in a directory, in the hub's cache, or on the hub."""

import os
from pathlib import Path, PurePosixPath

Source = str | os.PathLike[str]


def locate(
    source: Source,
    filename: str,
    *,
    subfolder: str = "",
    revision: str | None = None,
    cache_dir: Source | None = None,
    token: str | bool | None = None,
    local_files_only: bool = False,
) -> Path | None:
    """The local path of one file of a model, downloaded first if need be.

    Args:
        source: a directory, or the id of a hub repository such as "FacebookAI/xlm-roberta-base".
        filename: a plain file name.
        subfolder: folder of the model within the directory or repository.
        revision: branch, tag or commit of the repository; ignored for a directory.
        cache_dir: the hub cache to use in place of the usual one.
        token: for private repositories; True or None uses the stored one, False none.
        local_files_only: never ask the network. HF_HUB_OFFLINE=1 and TRANSFORMERS_OFFLINE=1 do the same.

    Returns:
        The path, or None if the directory or repository has no such file. Without a network, a file that the
        cache lacks counts as absent if the cache holds other files of that revision.

    Raises:
        OSError: the directory or repository does not exist, may not be read, or cannot be reached.
        ValueError: the file or folder name leaves the model's directory.
    """
    for part in (filename, subfolder):
        if PurePosixPath(part).is_absolute() or ".." in PurePosixPath(part).parts or "\\" in part:
            raise ValueError(f"{part!r} leads out of the model's directory; only plain names within it are read.")
    directory = Path(source).expanduser()
    if directory.is_dir():
        path = directory / subfolder / filename
        return path if path.is_file() else None
    if directory.exists():
        raise NotADirectoryError(f"{directory} is a file; give the directory that holds the model's files.")
    if _looks_like_a_path(os.fspath(source)):
        raise FileNotFoundError(f"There is no directory {directory}; give an existing one, or the id of a hub model.")
    return _locate_on_hub(
        os.fspath(source),
        f"{subfolder}/{filename}" if subfolder else filename,
        revision=revision,
        cache_dir=cache_dir,
        token=token,
        local_files_only=local_files_only or is_offline(),
    )


def is_offline() -> bool:
    """Whether the environment forbids asking the network."""
    return any(
        os.environ.get(name, "").upper() in ("1", "ON", "YES", "TRUE")
        for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
    )


def _looks_like_a_path(source: str) -> bool:
    return (
        source.startswith((".", "/", "~")) or source.count("/") > 1 or (os.sep != "/" and os.sep in source) or not source
    )


def _locate_on_hub(
    repository: str,
    filename: str,
    *,
    revision: str | None,
    cache_dir: Source | None,
    token: str | bool | None,
    local_files_only: bool,
) -> Path | None:
    import huggingface_hub
    from huggingface_hub import errors

    try:
        path = huggingface_hub.hf_hub_download(
            repository,
            filename,
            revision=revision,
            cache_dir=cache_dir,
            token=token,
            local_files_only=local_files_only,
        )
    except errors.HFValidationError as error:
        raise OSError(
            f"{repository!r} is neither an existing directory nor the id of a hub model such as "
            f"'FacebookAI/xlm-roberta-base'."
        ) from error
    except errors.GatedRepoError as error:
        raise PermissionError(
            f"The hub model {repository!r} is gated; ask for access on its page and pass token=..."
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise FileNotFoundError(
            f"There is no hub model {repository!r} that you may read (and no such directory here); check the name, "
            "or pass token=... if it is private."
        ) from error
    except errors.RevisionNotFoundError as error:
        raise FileNotFoundError(f"The hub model {repository!r} has no revision {revision!r}.") from error
    except errors.LocalEntryNotFoundError as error:  # a kind of EntryNotFoundError, so it comes first
        if _is_cached(repository, revision, cache_dir):
            return None
        reason = "the network may not be asked" if local_files_only else "the hub cannot be reached"
        raise OSError(
            f"The hub model {repository!r} is not in the cache, and {reason}; connect once, or give a directory."
        ) from error
    except errors.EntryNotFoundError:
        return None
    except errors.HfHubHTTPError as error:
        raise OSError(f"The hub refused {filename} of {repository!r}: {error}") from error
    return Path(path)


def _is_cached(repository: str, revision: str | None, cache_dir: Source | None) -> bool:
    """Whether the cache holds any file of that revision."""
    from huggingface_hub import constants

    folder = Path(cache_dir or constants.HF_HUB_CACHE) / f"models--{repository.replace('/', '--')}"
    revision = revision or "main"
    reference = folder / "refs" / revision
    commit = reference.read_text().strip() if reference.is_file() else revision
    snapshot = folder / "snapshots" / commit
    return snapshot.is_dir() and any(snapshot.iterdir())
