"""Two tokenizers on the same texts: all they say of them, in one form, and the texts to ask about."""

import re
from typing import Any

from hypothesis import strategies as st
from sentencepiece import SentencePieceProcessor

from tests.data.make_small_vocabulary import SENTENCES
from xlmr_np.tokenizer import BatchEncoding

from .test_normalization import lively_texts

EVERYTHING = {"return_special_tokens_mask": True, "return_offsets_mapping": True, "return_length": True}


def all_of(batch: BatchEncoding) -> dict[str, Any]:
    """Every entry, and the words and texts that the tokens of each row belong to; of transformers' class too."""
    rows = range(len(batch.encodings))
    return dict(batch) | {
        "word_ids": [batch.word_ids(row) for row in rows],
        "sequence_ids": [batch.sequence_ids(row) for row in rows],
    }


def by_the_library(processor: SentencePieceProcessor, text: str) -> list[tuple[int, str, tuple[int, int]]]:
    """Id, piece and offsets of each token, from sentencepiece itself, which is given what is between `<mask>`s."""
    tokens = []
    for part in re.finditer("<mask>|(?:(?!<mask>).)+", text, re.DOTALL):
        if part[0] == "<mask>":
            tokens.append((len(processor) + 1, "<mask>", part.span()))
            continue
        found = processor.encode(part[0], return_type="offset_mapping")
        for piece, written, (start, end) in zip(found["ids"], found["pieces"], found["offsets"], strict=True):
            tokens.append((piece + 1 if piece else 3, written, (start + part.start(), end + part.start())))
    return tokens


# What both readings, and the search for special tokens, have to tell apart.
LITERALS = [
    "<mask>", "<s>", "</s>", "<pad>", "<unk>", "＜s＞", "＜mask＞", "<s", "s>", "<mask", "< mask>", "<<mask>>",
    "<MASK>", "▁", "▁▁", "▁the", "\u0085", "\u200e", "\u202b", "\x00", "\ue000", "\ufdd0", "\U0010ffff",
    "𓀀", "ꙮ", "ᜀ", "𐎀",
]  # fmt: skip
# Repetitions, which can be cut in several equally good ways.
repetitions = st.builds(
    lambda unit, times: unit * times,
    st.sampled_from(
        ["a", "aa", "lo", "na", "ha", "的", "哈", "ハ", "가", "का", "ก", "0", "00", "!", "!?", "...", "😀", "s"]
    ),
    st.integers(2, 24),
)
words = st.sampled_from(" ".join(SENTENCES).split())
one_of_any_kind = st.one_of(
    st.text(max_size=6), st.text(max_size=6), words, words, st.sampled_from(LITERALS), repetitions, st.just(" ")
)
any_texts = st.one_of(st.lists(one_of_any_kind, max_size=8).map("".join), lively_texts)
