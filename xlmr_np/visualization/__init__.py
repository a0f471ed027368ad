"""Pictures of what a model computes."""

from xlmr_np.visualization.attention_page import MOST_TOKENS, TextAttentions, attention_page, text_attentions

__all__ = ["MOST_TOKENS", "TextAttentions", "attention_page", "text_attentions"]
