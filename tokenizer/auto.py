"""The tokenizer of any model this library knows."""

import os
from typing import Any

from .xlm_roberta import XLMRobertaTokenizer


class AutoTokenizer:
    """Loads `XLMRobertaTokenizer`, and refuses models whose text is cut up by another kind of tokenizer."""

    @classmethod
    def from_pretrained(cls, source: str | os.PathLike[str], **arguments: Any) -> XLMRobertaTokenizer:
        """As `XLMRobertaTokenizer.from_pretrained`.

        Raises:
            OSError: the source cannot be reached, or has no tokenizer of a kind that is known here.
        """
        return XLMRobertaTokenizer.from_pretrained(source, **arguments)
