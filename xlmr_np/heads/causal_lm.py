"""Causal language modelling: every place predicts the next token, with the head and parameters of `masked_lm`."""

from jaxtyping import Bool, Int

from xlmr_np.arrays import Array, array_namespace
from xlmr_np.losses.cross_entropy import IGNORED_LABEL


def next_token_labels(labels: Int[Array, "B T"], is_real: Bool[Array, "B T"]) -> Int[Array, "B T"]:
    """The label of the following place at every place that can predict it, and -100 elsewhere (CLM.4).

    Args:
        labels: [B, T], usually the token ids themselves; -100 at tokens that nothing needs to predict.
        is_real: [B, T], False at padding. Padding predicts nothing, so behind left padding the first real token
            has no predictor, as it has none at the start of an unpadded sentence.
    """
    xp = array_namespace(labels)
    ignored = xp.full_like(labels, IGNORED_LABEL)
    following = xp.concat((labels[:, 1:], ignored[:, :1]), axis=1)
    return xp.where(is_real, following, ignored)
