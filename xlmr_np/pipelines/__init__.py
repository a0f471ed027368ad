"""Tasks in two lines: `pipeline(task, model=...)` loads what a task needs, and a call runs it on text."""

import os
from typing import Any

from xlmr_np.models import XLMRobertaForMaskedLM, XLMRobertaPreTrainedModel
from xlmr_np.pipelines.fill_mask import FillMaskPipeline
from xlmr_np.tokenizer import AutoTokenizer, XLMRobertaTokenizer

# For each task its class, and the model class that it runs on.
TASKS = {"fill-mask": (FillMaskPipeline, XLMRobertaForMaskedLM)}


def pipeline(
    task: str | None = None,
    model: str | os.PathLike[str] | XLMRobertaPreTrainedModel | None = None,
    tokenizer: str | os.PathLike[str] | XLMRobertaTokenizer | None = None,
    *,
    config: Any = None,
    revision: str | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    token: str | bool | None = None,
    local_files_only: bool = False,
    subfolder: str = "",
    dtype: Any = "auto",
    device: Any = None,
    device_map: Any = None,
    model_kwargs: dict[str, Any] | None = None,
    **settings: Any,
) -> FillMaskPipeline:
    """Make the pipeline of a task.

    Args:
        task: "fill-mask".
        model: a directory, a hub id, or a loaded model.
        tokenizer: likewise; None takes the model's own.
        config: see `from_pretrained` of the model classes, as for all up to `device_map`.
        revision: see there.
        cache_dir: see there.
        token: see there.
        local_files_only: see there.
        subfolder: see there.
        dtype: see there.
        device: "cpu", "cuda", "cuda:1", or a number, where -1 is the CPU.
        device_map: see there.
        model_kwargs: further arguments of `from_pretrained`.
        **settings: of the task, such as `top_k` and `batch_size` for fill-mask.

    Raises:
        ValueError: the task is unknown, no model is given, or the checkpoint lacks the weights of the task's head.
        OSError: model or tokenizer cannot be loaded.
    """
    if task not in TASKS:
        raise ValueError(f"The task {task!r} is not known; the tasks are {', '.join(TASKS)}.")
    if model is None:
        raise ValueError(f"The task {task!r} needs a model: pass model= a directory or a hub id.")
    pipeline_class, model_class = TASKS[task]
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
        loaded = model if device is None and device_map is None else model.to(device if device_map is None else device_map)
        if tokenizer is None:
            raise ValueError("With a loaded model, pass its tokenizer too: tokenizer= a tokenizer, directory or hub id.")
    else:
        loaded = model_class.from_pretrained(
            model, config=config, dtype=dtype, device=device, device_map=device_map, **location, **(model_kwargs or {})
        )
        tokenizer = model if tokenizer is None else tokenizer
    if loaded.load_report.missing:
        raise ValueError(
            f"The checkpoint lacks weights that {task} needs: {', '.join(loaded.load_report.missing)}. Its answers would "
            "be noise; choose a checkpoint that was trained for this task."
        )
    if not isinstance(tokenizer, XLMRobertaTokenizer):
        tokenizer = AutoTokenizer.from_pretrained(tokenizer, **location)
    return pipeline_class(loaded, tokenizer, **settings)
