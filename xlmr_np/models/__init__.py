"""The model classes under the names of transformers: thin holders of a config, parameters and an engine.

`pretrained` makes, loads, saves and resizes parameters; `encoding` runs the encoder, forward and back; and one class
for each task adds its head and loss.
"""

from xlmr_np.models.auto import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForMultipleChoice,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
)
from xlmr_np.models.bare import XLMRobertaModel
from xlmr_np.models.classifiers import (
    XLMRobertaForMultipleChoice,
    XLMRobertaForQuestionAnswering,
    XLMRobertaForSequenceClassification,
    XLMRobertaForTokenClassification,
)
from xlmr_np.models.language_models import XLMRobertaForCausalLM, XLMRobertaForMaskedLM
from xlmr_np.models.pretrained import ModelParams, XLMRobertaPreTrainedModel

__all__ = [
    "AutoModel",
    "AutoModelForCausalLM",
    "AutoModelForMaskedLM",
    "AutoModelForMultipleChoice",
    "AutoModelForQuestionAnswering",
    "AutoModelForSequenceClassification",
    "AutoModelForTokenClassification",
    "ModelParams",
    "XLMRobertaForCausalLM",
    "XLMRobertaForMaskedLM",
    "XLMRobertaForMultipleChoice",
    "XLMRobertaForQuestionAnswering",
    "XLMRobertaForSequenceClassification",
    "XLMRobertaForTokenClassification",
    "XLMRobertaModel",
    "XLMRobertaPreTrainedModel",
]
