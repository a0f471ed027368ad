"""Tasks in two lines: `pipeline(task, model=...)` loads what a task needs, and a call runs it on text."""

import os
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from typing import Any, NamedTuple

from xlmr_np.arrays import resolve_device
from xlmr_np.models import XLMRobertaPreTrainedModel
from xlmr_np.ops.threads import check_number_of_threads
from xlmr_np.pipelines.base import TaskPipeline, checked_names
from xlmr_np.tokenizer import AutoTokenizer, XLMRobertaTokenizer
from xlmr_np.weights.files import local_path


class Task(NamedTuple):
    """What a task needs, by name: it is imported when somebody asks for it.

    Attributes:
        module: its file in this folder.
        pipeline_class: in that file.
        model_class: in `xlmr_np.models`.
    """

    module: str
    pipeline_class: str
    model_class: str


TASKS = {
    "feature-extraction": Task("feature_extraction", "FeatureExtractionPipeline", "XLMRobertaModel"),
    "fill-mask": Task("fill_mask", "FillMaskPipeline", "XLMRobertaForMaskedLM"),
    "question-answering": Task("question_answering", "QuestionAnsweringPipeline", "XLMRobertaForQuestionAnswering"),
    "reranking": Task("reranking", "RerankingPipeline", "XLMRobertaForSequenceClassification"),
    "sentence-embedding": Task("sentence_embedding", "SentenceEmbeddingPipeline", "XLMRobertaModel"),
    "text-classification": Task(
        "text_classification", "TextClassificationPipeline", "XLMRobertaForSequenceClassification"
    ),
    "text-generation": Task("text_generation", "TextGenerationPipeline", "XLMRobertaForCausalLM"),
    "token-classification": Task(
        "token_classification", "TokenClassificationPipeline", "XLMRobertaForTokenClassification"
    ),
    "zero-shot-classification": Task(
        "zero_shot_classification", "ZeroShotClassificationPipeline", "XLMRobertaForSequenceClassification"
    ),
}
ALIASES = {"ner": "token-classification", "sentiment-analysis": "text-classification"}


def pipeline(
    task: str | None = None,
    model: str | os.PathLike[str] | XLMRobertaPreTrainedModel | None = None,
    config: Any = None,
    tokenizer: str | os.PathLike[str] | XLMRobertaTokenizer | None = None,
    *,
    revision: str | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    token: str | bool | None = None,
    local_files_only: bool = False,
    subfolder: str = "",
    dtype: Any = "auto",
    torch_dtype: Any = None,
    device: Any = None,
    device_map: Any = None,
    num_threads: int | None = None,
    model_kwargs: dict[str, Any] | None = None,
    **settings: Any,
) -> Any:
    """Make the pipeline of a task.

    Args:
        task: a name among `TASKS`, or `ALIASES`.
        model: a directory, a hub id, "demo" for the small model that comes with the package, or a loaded model.
        config: see `from_pretrained` of the model classes, as for all up to `device_map` but `tokenizer`.
        tokenizer: a directory, a hub id, or a loaded tokenizer; None takes the model's own.
        revision: see there.
        cache_dir: see there.
        token: see there.
        local_files_only: see there.
        subfolder: see there.
        dtype: see there.
        torch_dtype: see there.
        device: "cpu", "cuda", "cuda:1", or a number, where -1 is the CPU.
        device_map: see there.
        num_threads: how many threads to use on a CPU; None leaves a loaded model as it is, and otherwise uses all
            processors.
        model_kwargs: further arguments of `from_pretrained`; they win over those above.
        **settings: of the task, such as `top_k` and `batch_size` for fill-mask; see its pipeline's `setting_class`.

    Returns:
        The task's pipeline, whose `__call__` does the work.

    Raises:
        ValueError: no task is given or it is unknown, no model is given, the checkpoint lacks the weights of the task's
            head, or model and tokenizer do not belong together.
        TypeError: model or tokenizer is none of the above, or a setting is unknown.
        OSError: model or tokenizer cannot be loaded.
    """
    names = ", ".join(sorted([*TASKS, *ALIASES]))
    if task is None:
        raise ValueError(f"No task is given; pass task= one of {names}.")
    task = ALIASES.get(task, task) if isinstance(task, str) else task
    if not isinstance(task, str) or task not in TASKS:
        raise ValueError(f"The task {task!r} is not known; the tasks are {names}.")
    if model is None:
        raise ValueError(f"The task {task!r} needs a model: pass model= a directory, a hub id, or 'demo'.")
    home = import_module(f"xlmr_np.pipelines.{TASKS[task].module}")
    pipeline_class: type[TaskPipeline[Any]] = getattr(home, TASKS[task].pipeline_class)
    model_class = getattr(import_module("xlmr_np.models"), TASKS[task].model_class)
    hint = "arguments of from_pretrained go into model_kwargs"
    settings = checked_names(task, settings, pipeline_class.setting_names(), hint)
    location: dict[str, Any] = {
        "revision": revision,
        "cache_dir": cache_dir,
        "token": token,
        "local_files_only": local_files_only,
        "subfolder": subfolder,
    }
    if isinstance(model, XLMRobertaPreTrainedModel):
        if not isinstance(model, model_class):
            raise ValueError(f"The task {task!r} needs a {model_class.__name__}; got a {type(model).__name__}.")
        given = {"config": config, "torch_dtype": torch_dtype, "model_kwargs": model_kwargs}
        ignored = [name for name, value in given.items() if value is not None] + ["dtype"] * (dtype != "auto")
        if ignored:
            raise TypeError(f"The model is loaded already, so {', '.join(ignored)} cannot change it; leave it out.")
        if tokenizer is None:
            raise ValueError("With a loaded model, pass its tokenizer too: tokenizer= one, a directory or a hub id.")
    else:
        _check_kind("model", model, XLMRobertaPreTrainedModel)
        location, further_settings = pipeline_class.from_checkpoint(model, location)
        settings = {**further_settings, **settings}
        tokenizer = model if tokenizer is None else tokenizer
    if not isinstance(tokenizer, XLMRobertaTokenizer):
        _check_kind("tokenizer", tokenizer, XLMRobertaTokenizer)
    loading = {
        "config": config,
        "dtype": dtype,
        "torch_dtype": torch_dtype,
        "device": device,
        "device_map": device_map,
        "num_threads": num_threads,
        **location,
        **(model_kwargs or {}),
        "output_loading_info": False,
    }

    def load_tokenizer(source: Any) -> XLMRobertaTokenizer:
        return source if isinstance(source, XLMRobertaTokenizer) else AutoTokenizer.from_pretrained(source, **location)

    check_number_of_threads(num_threads)
    if isinstance(model, model_class):
        loaded = model.to(resolve_device(device, device_map)) if device is not None or device_map is not None else model
        if num_threads is not None:
            loaded.set_num_threads(num_threads)
        tokenizer = load_tokenizer(tokenizer)
    elif local_path(model).is_dir():
        with ThreadPoolExecutor(1) as beside:  # the vocabulary, while the weights come from the disk
            future = beside.submit(load_tokenizer, tokenizer)
            loaded = model_class.from_pretrained(model, **loading)
            tokenizer = future.result()
    else:
        tokenizer = load_tokenizer(tokenizer)  # before the model, which takes longer to download
        loaded = model_class.from_pretrained(model, **loading)
    random_weights = [*loaded.load_report.missing, *(each.name for each in loaded.load_report.mismatched)]
    if random_weights:
        raise ValueError(
            f"The checkpoint lacks weights that {task} needs: {', '.join(random_weights)}. Its answers would be noise; "
            "choose a checkpoint that was trained for this task."
        )
    return pipeline_class(loaded, tokenizer, **settings)


def _check_kind(name: str, value: Any, loaded_class: type) -> None:
    """Refuse what is not a place to load from, such as another library's model."""
    if not isinstance(value, str | os.PathLike):
        raise TypeError(
            f"{name} must be a directory, a hub id, or a loaded {loaded_class.__name__}; got a {type(value).__name__}."
        )
