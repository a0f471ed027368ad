"""XLM-RoBERTa in NumPy and CuPy: every layer, head, loss and backward pass written by hand."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from xlmr_np.config import XLM_ROBERTA_BASE, XLM_ROBERTA_LARGE, AutoConfig, XLMRobertaConfig
    from xlmr_np.decoding import GenerationConfig, TextIteratorStreamer, TextStreamer
    from xlmr_np.decoding.cache import KeyValueCache
    from xlmr_np.models import (
        AutoModel,
        AutoModelForCausalLM,
        AutoModelForMaskedLM,
        AutoModelForMultipleChoice,
        AutoModelForQuestionAnswering,
        AutoModelForSequenceClassification,
        AutoModelForTokenClassification,
        XLMRobertaForCausalLM,
        XLMRobertaForMaskedLM,
        XLMRobertaForMultipleChoice,
        XLMRobertaForQuestionAnswering,
        XLMRobertaForSequenceClassification,
        XLMRobertaForTokenClassification,
        XLMRobertaModel,
    )
    from xlmr_np.pipelines import pipeline
    from xlmr_np.tokenizer import AutoTokenizer, BatchEncoding, XLMRobertaTokenizer, XLMRobertaTokenizerFast

# Names are imported when they are first used, so that `import xlmr_np` takes milliseconds.
_HOMES = {
    "XLM_ROBERTA_BASE": "xlmr_np.config",
    "XLM_ROBERTA_LARGE": "xlmr_np.config",
    "AutoConfig": "xlmr_np.config",
    "XLMRobertaConfig": "xlmr_np.config",
    "AutoModel": "xlmr_np.models",
    "AutoModelForCausalLM": "xlmr_np.models",
    "AutoModelForMaskedLM": "xlmr_np.models",
    "AutoModelForMultipleChoice": "xlmr_np.models",
    "AutoModelForQuestionAnswering": "xlmr_np.models",
    "AutoModelForSequenceClassification": "xlmr_np.models",
    "AutoModelForTokenClassification": "xlmr_np.models",
    "XLMRobertaForCausalLM": "xlmr_np.models",
    "XLMRobertaForMaskedLM": "xlmr_np.models",
    "XLMRobertaForMultipleChoice": "xlmr_np.models",
    "XLMRobertaForQuestionAnswering": "xlmr_np.models",
    "XLMRobertaForSequenceClassification": "xlmr_np.models",
    "XLMRobertaForTokenClassification": "xlmr_np.models",
    "XLMRobertaModel": "xlmr_np.models",
    "GenerationConfig": "xlmr_np.decoding",
    "KeyValueCache": "xlmr_np.decoding.cache",
    "TextIteratorStreamer": "xlmr_np.decoding",
    "TextStreamer": "xlmr_np.decoding",
    "pipeline": "xlmr_np.pipelines",
    "AutoTokenizer": "xlmr_np.tokenizer",
    "BatchEncoding": "xlmr_np.tokenizer",
    "XLMRobertaTokenizer": "xlmr_np.tokenizer",
    "XLMRobertaTokenizerFast": "xlmr_np.tokenizer",
}

__all__ = [
    "XLM_ROBERTA_BASE",
    "XLM_ROBERTA_LARGE",
    "AutoConfig",
    "AutoModel",
    "AutoModelForCausalLM",
    "AutoModelForMaskedLM",
    "AutoModelForMultipleChoice",
    "AutoModelForQuestionAnswering",
    "AutoModelForSequenceClassification",
    "AutoModelForTokenClassification",
    "AutoTokenizer",
    "BatchEncoding",
    "GenerationConfig",
    "KeyValueCache",
    "TextIteratorStreamer",
    "TextStreamer",
    "XLMRobertaConfig",
    "XLMRobertaForCausalLM",
    "XLMRobertaForMaskedLM",
    "XLMRobertaForMultipleChoice",
    "XLMRobertaForQuestionAnswering",
    "XLMRobertaForSequenceClassification",
    "XLMRobertaForTokenClassification",
    "XLMRobertaModel",
    "XLMRobertaTokenizer",
    "XLMRobertaTokenizerFast",
    "pipeline",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'xlmr_np' has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
