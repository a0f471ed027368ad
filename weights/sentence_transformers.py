"""What the files of sentence-transformers say beside the encoder: steps to an embedding, prompts and lengths.

A directory or hub repository of that library has a `modules.json`, which names the steps and their folders. Nothing in
these files is executed: a step that is not known here is refused.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np

from xlmr_np.arrays import at_least_float32
from xlmr_np.heads.sentence_pooling import POOLINGS, Dense, Normalize, Pooling, Step
from xlmr_np.layers.linear import LinearParams
from xlmr_np.semantic_search import FUNCTIONS

from .checkpoint import find_weight_files, read_tensors
from .errors import CheckpointError
from .files import Source, locate
from .safetensors_format import shortened

MODULES_FILE = "modules.json"
GENERAL_FILE = "config_sentence_transformers.json"
MODULE_FILE = "config.json"
TRANSFORMER_FILES = (  # the first that is there; which one it is, depends on the library's age
    "sentence_bert_config.json",
    "sentence_roberta_config.json",
    "sentence_xlm-roberta_config.json",
)
LIBRARY = "sentence_transformers."
JSON_BYTES_LIMIT = 1_000_000  # such files have a few hundred bytes, and some kilobytes where there are many prompts
MOST_MODULES = 32

# In the order in which the vectors of several stand side by side.
POOLING_FLAGS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
ACTIVATIONS = {"Identity": None, "Tanh": "tanh", "GELU": "gelu", "ReLU": "relu", "SiLU": "silu"}


class SentenceTransformer(NamedTuple):
    """What such a checkpoint asks for.

    Attributes:
        subfolder: where in the checkpoint the encoder and its tokenizer are.
        steps: from the encoder's states to an embedding.
        max_length: how many tokens are read, special ones included; None: as many as model and tokenizer allow.
        do_lower_case: whether texts are lowered before they are split.
        prompts: by name, what may be put before a text.
        default_prompt_name: of the one that is, unless another is asked for.
        similarity: a name in `xlmr_np.semantic_search.FUNCTIONS`, by which to compare embeddings; None says nothing.
        truncate_dim: so many numbers of an embedding are kept; None: all.
    """

    subfolder: str
    steps: tuple[Step, ...]
    max_length: int | None
    do_lower_case: bool
    prompts: dict[str, str]
    default_prompt_name: str | None
    similarity: str | None
    truncate_dim: int | None


def read_sentence_transformer(source: Source, *, subfolder: str = "", **location: Any) -> SentenceTransformer | None:
    """Read the files of sentence-transformers that a directory or hub repository has; None if it has none.

    Args:
        source: a directory or a hub id.
        subfolder: of the checkpoint in it.
        **location: further arguments of `xlmr_np.weights.files.locate`.

    Raises:
        OSError: the source cannot be reached.
        CheckpointError: a file is damaged, leads out of the checkpoint, or asks for what is not supported.
    """
    path = locate(source, MODULES_FILE, subfolder=subfolder, **location)
    if path is None:
        return None
    modules = _read_modules(path)
    folders = [_inside(subfolder, folder) for _, folder in modules]
    kinds = [kind for kind, _ in modules]
    if kinds[:2] != ["Transformer", "Pooling"] or "Transformer" in kinds[1:] or "Pooling" in kinds[2:]:
        raise CheckpointError(
            f"{path} lists {', '.join(kinds)}; supported are a Transformer, a Pooling, and Dense or Normalize after it."
        )
    readers: dict[str, Callable[[Source, dict[str, Any]], Step]] = {
        "Pooling": _read_pooling,
        "Dense": _read_dense,
        "Normalize": _read_normalize,
    }
    steps = tuple(
        readers[kind](source, {**location, "subfolder": folder})
        for kind, folder in zip(kinds, folders, strict=True)
        if kind in readers
    )
    max_length, do_lower_case = _read_transformer(source, {**location, "subfolder": folders[0]})
    general = locate(source, GENERAL_FILE, subfolder=subfolder, **location)
    return SentenceTransformer(folders[0], steps, max_length, do_lower_case, *_read_general(general))


def _read_modules(path: Path) -> list[tuple[str, str]]:
    """Kind and folder of each module."""
    modules = read_library_json(path, list)
    if not 0 < len(modules) <= MOST_MODULES:
        raise CheckpointError(f"{path} lists {len(modules)} modules; 1 to {MOST_MODULES} make sense.")
    found = []
    for module in modules:
        if not isinstance(module, dict):
            raise CheckpointError(f"{path} lists {shortened(module)} where an object {{...}} describes a module.")
        name, folder = _typed(path, module, "type", str, ""), _typed(path, module, "path", str, "")
        kind = name.rpartition(".")[2]
        if not name.startswith(LIBRARY) or kind not in ("Transformer", "Pooling", "Dense", "Normalize", "Dropout"):
            raise CheckpointError(
                f"{path} asks for a module {shortened(name)}; only the library's own Transformer, Pooling, Dense, "
                "Normalize and Dropout are supported, and no code of a checkpoint is run."
            )
        parts = PurePosixPath(folder)
        if parts.is_absolute() or ".." in parts.parts or "\\" in folder or not folder.isprintable():
            raise CheckpointError(f"{path} puts a module into {shortened(folder)}; only folders beside it are read.")
        found.append((kind, folder))
    return found


def _inside(subfolder: str, folder: str) -> str:
    return str(PurePosixPath(subfolder, folder)) if subfolder or folder else ""


def _read_pooling(source: Source, location: dict[str, Any]) -> Pooling:
    path = locate(source, MODULE_FILE, **location)
    if path is None:
        raise CheckpointError(f"{source} has no {location['subfolder']}/{MODULE_FILE}; download it again.")
    config = read_library_json(path, dict)
    flagged = [mode for flag, mode in POOLING_FLAGS.items() if _typed(path, config, flag, bool, False)]
    modes = config.get("pooling_mode", flagged or "mean")
    modes = [modes] if isinstance(modes, str) else modes
    if (
        not isinstance(modes, list)
        or not 0 < len(modes) <= len(POOLINGS)
        or not all(mode in POOLINGS for mode in modes)
    ):
        raise CheckpointError(f"{path} asks for the pooling {shortened(modes)}; there are {', '.join(POOLINGS)}.")
    return Pooling(tuple(modes), _typed(path, config, "include_prompt", bool, True))


def _read_dense(source: Source, location: dict[str, Any]) -> Dense:
    path = locate(source, MODULE_FILE, **location)
    if path is None:
        raise CheckpointError(f"{source} has no {location['subfolder']}/{MODULE_FILE}; download it again.")
    config = read_library_json(path, dict)
    _check_names(path, config)
    if _typed(path, config, "use_residual", bool, False):
        raise CheckpointError(f"{path} asks for use_residual, which is not supported.")
    function = _typed(path, config, "activation_function", str, "torch.nn.Tanh")
    name = function.rpartition(".")[2]
    if not function.startswith("torch.") or name not in ACTIVATIONS:
        raise CheckpointError(
            f"{path} asks for the activation {shortened(function)}; supported are torch's {', '.join(ACTIVATIONS)}."
        )
    tensors = read_tensors(find_weight_files(source, **location))
    inputs, outputs = (_typed(path, config, key, int, None) for key in ("in_features", "out_features"))
    has_bias = _typed(path, config, "bias", bool, True)
    weight = _tensor(path, tensors, "linear.weight", (outputs, inputs))
    bias = _tensor(path, tensors, "linear.bias", (outputs,)) if has_bias else np.zeros(len(weight), weight.dtype)
    return Dense(LinearParams(weight, bias), ACTIVATIONS[name])


def _read_normalize(source: Source, location: dict[str, Any]) -> Normalize:
    path = locate(source, MODULE_FILE, **location)
    if path is not None:
        _check_names(path, read_library_json(path, dict))
    return Normalize()


def _check_names(path: Path, config: dict[str, Any]) -> None:
    """Refuse a module that works on something else than the embedding."""
    for key in ("module_input_name", "module_output_name"):
        name = _typed(path, config, key, str, "sentence_embedding")
        if name != "sentence_embedding":
            raise CheckpointError(f"{path} has {key} {shortened(name)}; only 'sentence_embedding' is supported.")


def _tensor(path: Path, tensors: Mapping[str, np.ndarray], name: str, shape: tuple[int, ...]) -> np.ndarray:
    """A tensor of the shape that the config tells."""
    tensor = tensors.get(name)
    if tensor is None or tensor.shape != shape or not np.issubdtype(tensor.dtype, np.number):
        found = "no such tensor" if tensor is None else f"{tensor.shape} of {tensor.dtype}"
        raise CheckpointError(f"{path} promises numbers of the shape {shape} in {name}; the weights have {found}.")
    return np.asarray(at_least_float32(tensor))


def _read_transformer(source: Source, location: dict[str, Any]) -> tuple[int | None, bool]:
    """How many tokens are read, and whether texts are lowered."""
    for name in TRANSFORMER_FILES:
        path = locate(source, name, **location)
        if path is not None:
            config = read_library_json(path, dict)
            task = _typed(path, config, "transformer_task", str, "feature-extraction")
            if task != "feature-extraction":
                raise CheckpointError(f"{path} is for the task {shortened(task)}, and not for embeddings.")
            return _positive(path, config, "max_seq_length"), _typed(path, config, "do_lower_case", bool, False)
    return None, False


def _read_general(path: Path | None) -> tuple[dict[str, str], str | None, str | None, int | None]:
    """Prompts, the name of the default one, the similarity, and how many numbers are kept."""
    if path is None:
        return {}, None, None, None
    config = read_library_json(path, dict)
    prompts = {
        name: _typed(path, {name: text}, name, str, "")
        for name, text in _typed(path, config, "prompts", dict, {}).items()
    }
    default = _typed(path, config, "default_prompt_name", str, None)
    if default is not None and default not in prompts:
        raise CheckpointError(f"{path} has no prompt of the name {shortened(default)}, which is to be the default one.")
    similarity = _typed(path, config, "similarity_fn_name", str, None)
    known = similarity if similarity in FUNCTIONS else None  # some are of models with many vectors a text
    return prompts, default, known, _positive(path, config, "truncate_dim")


def _positive(path: Path, config: dict[str, Any], key: str) -> int | None:
    number: int | None = _typed(path, config, key, int, None)
    if number is not None and number < 1:
        raise CheckpointError(f"{path} has {key} {number}, which must be at least 1.")
    return number


def _typed(path: Path, config: dict[str, Any], key: str, kind: type, default: Any) -> Any:
    """A value of a config, which is of this type, or absent or null."""
    value = config.get(key)
    if value is None:
        return default
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise CheckpointError(f"{path} has {shortened(value)} for {key}, where a {kind.__name__} belongs.")
    return value


def read_library_json(path: Path, kind: type) -> Any:
    """What a JSON file of that library holds.

    Args:
        path: of the file.
        kind: dict or list.

    Raises:
        CheckpointError: it is too large, no JSON, or of another kind.
        OSError: it cannot be read.
    """
    if path.stat().st_size > JSON_BYTES_LIMIT:
        raise CheckpointError(f"{path} has more than {JSON_BYTES_LIMIT} bytes, which no such file has.")
    try:
        content = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is not valid JSON ({error}); download it again.") from error
    if not isinstance(content, kind):
        name = "object" if kind is dict else "list"
        raise CheckpointError(f"{path} must hold a JSON {name}; it holds {content!r:.40}.")
    return content
