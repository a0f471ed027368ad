"""Whether a model, a tokenizer and a text go together."""

from collections.abc import Sequence

from xlmr_np.models import XLMRobertaPreTrainedModel
from xlmr_np.tokenizer import XLMRobertaTokenizer


def check_pair(model: XLMRobertaPreTrainedModel, tokenizer: XLMRobertaTokenizer) -> None:
    """Refuse a tokenizer whose ids the model would not know, or would take for others (ValueError)."""
    if len(tokenizer) > model.config.vocab_size:
        raise ValueError(
            f"The tokenizer has {len(tokenizer)} tokens and the model {model.config.vocab_size}, so they do not "
            "belong together; take both from one checkpoint."
        )
    if tokenizer.pad_token_id != model.config.pad_token_id:
        raise ValueError(
            f"The tokenizer pads with {tokenizer.pad_token_id}, and the model counts positions from pad_token_id "
            f"{model.config.pad_token_id} + 1, so they do not belong together; take both from one checkpoint."
        )


def is_empty_text(tokenizer: XLMRobertaTokenizer, text: str, ids: Sequence[int]) -> bool:
    """Whether there is nothing to read in a text, given its ids: no character but white space, or special tokens alone.

    A model says something about such a text, but it means nothing.
    """
    return not text.strip() or set(tokenizer.all_special_ids).issuperset(ids)
