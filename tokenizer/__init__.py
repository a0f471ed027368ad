"""Text to token ids and back, as XLM-RoBERTa was pretrained with."""

from .added_tokens import AddedToken
from .auto import AutoTokenizer
from .batch_encoding import BatchEncoding
from .xlm_roberta import XLMRobertaTokenizer

XLMRobertaTokenizerFast = XLMRobertaTokenizer  # the reference has both names for one class

__all__ = ["AddedToken", "AutoTokenizer", "BatchEncoding", "XLMRobertaTokenizer", "XLMRobertaTokenizerFast"]
