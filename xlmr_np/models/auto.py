"""Classes that make a model for a task, whichever supported architecture its config names."""

import os
from typing import Any, ClassVar

from xlmr_np.config import AutoConfig, XLMRobertaConfig
from xlmr_np.models.bare import XLMRobertaModel
from xlmr_np.models.classifiers import (
    XLMRobertaForMultipleChoice,
    XLMRobertaForQuestionAnswering,
    XLMRobertaForSequenceClassification,
    XLMRobertaForTokenClassification,
)
from xlmr_np.models.language_models import XLMRobertaForCausalLM, XLMRobertaForMaskedLM
from xlmr_np.models.pretrained import XLMRobertaPreTrainedModel


class _AutoModelClass:
    """Makes models of one class, whichever supported architecture (XLM-R, RoBERTa, CamemBERT) a config names."""

    model_class: ClassVar[type[XLMRobertaPreTrainedModel]]

    @classmethod
    def from_pretrained(cls, source: str | os.PathLike[str], **arguments: Any) -> Any:
        """Load a model; the arguments are those of `XLMRobertaPreTrainedModel.from_pretrained`.

        Raises:
            ValueError: the config names no architecture, or one that this library does not have.
        """
        return cls.model_class.from_pretrained(source, config_class=AutoConfig, **arguments)

    @classmethod
    def from_config(cls, config: XLMRobertaConfig, **settings: Any) -> Any:
        """A model with random weights; the arguments are those of the class's constructor."""
        return cls.model_class.from_config(config, **settings)


class AutoModel(_AutoModelClass):
    """Makes bare encoders."""

    model_class = XLMRobertaModel


class AutoModelForMaskedLM(_AutoModelClass):
    """Makes masked language models."""

    model_class = XLMRobertaForMaskedLM


class AutoModelForCausalLM(_AutoModelClass):
    """Makes causal language models."""

    model_class = XLMRobertaForCausalLM


class AutoModelForSequenceClassification(_AutoModelClass):
    """Makes classifiers of sentences."""

    model_class = XLMRobertaForSequenceClassification


class AutoModelForTokenClassification(_AutoModelClass):
    """Makes classifiers of tokens."""

    model_class = XLMRobertaForTokenClassification


class AutoModelForQuestionAnswering(_AutoModelClass):
    """Makes models that find answers in a text."""

    model_class = XLMRobertaForQuestionAnswering


class AutoModelForMultipleChoice(_AutoModelClass):
    """Makes models that choose among several texts."""

    model_class = XLMRobertaForMultipleChoice
