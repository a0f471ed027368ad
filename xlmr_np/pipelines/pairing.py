"""Whether a model and a tokenizer belong together."""

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
