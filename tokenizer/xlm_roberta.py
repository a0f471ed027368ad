"""XLM-RoBERTa's tokenizer: `<s> text </s>`, or `<s> first </s></s> second </s>`."""

import os
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Self, overload

import numpy as np

from .arguments import Texts, checked_batch, checked_side, checked_text, read_texts, whole_number
from .batch_encoding import BatchEncoding
from .files import find_vocabulary, read_tokenizer_config
from .padding import pad, padded_length, padding_strategy
from .truncation import truncate, truncation_strategy
from .vocabulary import (
    BOS_ID,
    BOS_TOKEN,
    EOS_ID,
    EOS_TOKEN,
    MASK_TOKEN,
    PAD_ID,
    PAD_TOKEN,
    UNK_ID,
    UNK_TOKEN,
    WORD_START,
    Vocabulary,
)

SETTINGS = ("model_max_length", "padding_side", "truncation_side")
# Settings that code written for the reference passes, and that change nothing here: there is one implementation, and
# nothing in a checkpoint is ever executed.
MEANINGLESS_SETTINGS = ("use_fast", "legacy", "trust_remote_code")
UNLIMITED = 10**20  # the reference writes "no limit" as 1e30, and takes anything above 1e20 for it


class XLMRobertaTokenizer:
    """Turns text into the token ids that XLM-RoBERTa was pretrained on, and back.

    Text is normalised and segmented by sentencepiece. `<mask>` in a text is the mask token; any other special
    token spelled out in a text, such as `</s>`, is text, so that a document cannot inject control tokens.

    A call changes nothing in the tokenizer, so that threads may share one. The settings may be assigned;
    special tokens belong to the vocabulary's layout and may not.

    Args:
        vocab_file: a sentencepiece model in XLM-R's layout (`sentencepiece.bpe.model`), or a `tokenizer.json`.
        model_max_length: tokens that the model takes, for calls that truncate or pad without a `max_length`;
            None, or anything above 1e20, if unknown.
        padding_side: where rows are padded, "right" or "left".
        truncation_side: where long texts lose their tokens, "right" or "left".

    Raises:
        CheckpointError: the file is damaged, or is not a vocabulary of XLM-R's layout.
        OSError: the file cannot be read.
        TypeError, ValueError: a setting is out of its range.
    """

    __slots__ = ("_vocabulary", *SETTINGS)

    model_max_length: int | None
    padding_side: str
    truncation_side: str

    bos_token = cls_token = BOS_TOKEN
    eos_token = sep_token = EOS_TOKEN
    pad_token, unk_token, mask_token = PAD_TOKEN, UNK_TOKEN, MASK_TOKEN
    bos_token_id = cls_token_id = BOS_ID
    eos_token_id = sep_token_id = EOS_ID
    pad_token_id, unk_token_id = PAD_ID, UNK_ID
    is_fast = True  # as the reference's is: the work is done by compiled code

    def __init__(
        self,
        vocab_file: str | os.PathLike[str],
        *,
        model_max_length: float | None = None,
        padding_side: str = "right",
        truncation_side: str = "right",
    ) -> None:
        self.model_max_length = model_max_length  # type: ignore[assignment]  # __setattr__ makes it an int
        self.padding_side = padding_side
        self.truncation_side = truncation_side
        self._vocabulary = Vocabulary(vocab_file)

    @classmethod
    def from_pretrained(
        cls,
        id_or_dir: str | os.PathLike[str],
        revision: str | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
        token: str | bool | None = None,
        local_files_only: bool = False,
        subfolder: str = "",
        **overrides: Any,
    ) -> Self:
        """Reads a checkpoint's tokenizer.

        Args:
            id_or_dir: a directory, or a repository of the Hugging Face Hub.
            revision: branch, tag or commit of the repository.
            cache_dir: where downloads are kept; None is the hub's own cache.
            token: access token for a private repository.
            local_files_only: use what is in the cache, without the network.
            subfolder: folder within the directory or repository.
            **overrides: the constructor's settings, over those of `tokenizer_config.json`.

        Raises:
            CheckpointError: there is no vocabulary, it is another model's, or a file is damaged.
            OSError: the repository cannot be reached.
            TypeError, ValueError: a setting is unknown or out of its range.
        """
        from xlmr_np.weights.files import locate

        overrides = {name: value for name, value in overrides.items() if name not in MEANINGLESS_SETTINGS}

        def find(filename: str) -> Path | None:
            return locate(
                id_or_dir,
                filename,
                subfolder=subfolder,
                revision=revision,
                cache_dir=cache_dir,
                token=token,
                local_files_only=local_files_only,
            )

        config = read_tokenizer_config(id_or_dir, find)
        settings = {name: config[name] for name in SETTINGS if name in config}
        return cls(find_vocabulary(id_or_dir, find), **(settings | overrides))

    def __call__(
        self,
        text: str | list[str] | list[tuple[str, str]],
        text_pair: str | list[str] | None = None,
        *,
        add_special_tokens: bool = True,
        padding: bool | str = False,
        truncation: bool | str | None = None,
        max_length: int | None = None,
        pad_to_multiple_of: int | None = None,
        padding_side: str | None = None,
        return_tensors: str | None = None,
        return_token_type_ids: bool = False,
        return_attention_mask: bool = True,
    ) -> BatchEncoding:
        """Encodes a text, a pair of texts, or a batch of either.

        Args:
            text: a text, a list of texts, or a list of pairs.
            text_pair: the second text of a pair, or as many second texts as `text` has first ones. An empty
                text is a second text too; None is none.
            add_special_tokens: puts `<s>` and `</s>` around.
            padding: True or "longest" pads to the longest row of the batch, "max_length" to `max_length`;
                False or "do_not_pad" leaves the rows as they are. Padding never cuts a longer row.
            truncation: True or "longest_first" cuts to `max_length`, of a pair the longer text first;
                "only_first" and "only_second" cut one text of a pair; False or "do_not_truncate" cuts none;
                None cuts like True if `max_length` is given and `padding` is off, and otherwise none.
            max_length: tokens of a row, special ones included; None is `model_max_length`.
            pad_to_multiple_of: rounds the padded length up to a multiple of this; without padding, nothing.
            padding_side: "right" or "left"; None is the tokenizer's own.
            return_tensors: "np" for int64 arrays of shape [B, T]; None for lists.
            return_token_type_ids: adds `token_type_ids`, which are all zero: XLM-R has one type.
            return_attention_mask: adds `attention_mask`, 1 at tokens and 0 at padding.

        Returns:
            `input_ids` and what else was asked for: flat lists for one text without `return_tensors`,
            otherwise one row per text.

        Raises:
            TypeError: an argument has the wrong type; the message says which, and where in a batch.
            ValueError: an argument is out of its range, a length is needed and unknown, `max_length` has no
                room for the special tokens, or the rows of an array would differ in length.
        """
        if return_tensors not in (None, "np"):
            raise ValueError(
                f"return_tensors={return_tensors!r} is not supported, as models here take NumPy and CuPy "
                "arrays: write return_tensors='np', and .to('cuda') on the result to have it on a GPU."
            )
        texts = read_texts(text, text_pair)
        side = self.padding_side if padding_side is None else checked_side("padding_side", padding_side)
        if pad_to_multiple_of is not None:
            pad_to_multiple_of = whole_number("pad_to_multiple_of", pad_to_multiple_of, minimum=1)
        cut, fill, max_length = self._strategies(truncation, padding, max_length)
        if cut != "do_not_truncate" and fill != "do_not_pad" and max_length % (pad_to_multiple_of or 1):
            raise ValueError(
                f"max_length={max_length}, to which texts are cut, is no multiple of "
                f"pad_to_multiple_of={pad_to_multiple_of}: change one of the two."
            )

        rows = self._rows(texts, add_special_tokens, cut, max_length)
        columns = {"input_ids": rows}
        if return_attention_mask:
            columns["attention_mask"] = [[1] * len(row) for row in rows]
        if return_token_type_ids:
            columns["token_type_ids"] = [[0] * len(row) for row in rows]
        if fill != "do_not_pad":
            longest = max(map(len, rows), default=0)
            length = padded_length(longest, max_length if fill == "max_length" else None, pad_to_multiple_of)
            columns = {
                name: [pad(row, PAD_ID if name == "input_ids" else 0, length, side) for row in column]
                for name, column in columns.items()
            }
        if return_tensors == "np":
            return BatchEncoding({name: _as_array(column) for name, column in columns.items()})
        if texts.is_batch:
            return BatchEncoding(columns)
        return BatchEncoding({name: column[0] for name, column in columns.items()})

    def encode(self, text: str, text_pair: str | None = None, **settings: Any) -> Any:
        """The `input_ids` of one text or pair; the settings are those of a call."""
        if not isinstance(text, str):
            raise TypeError(f"encode takes one text, not {type(text).__name__}: for a batch, call the tokenizer.")
        return self(text, text_pair, **settings)["input_ids"]

    def tokenize(self, text: str, text_pair: str | None = None, add_special_tokens: bool = False) -> list[str]:
        """The tokens of one text or pair; what the vocabulary does not cover is `<unk>`."""
        return self.convert_ids_to_tokens(self.encode(text, text_pair, add_special_tokens=add_special_tokens))

    def decode(self, token_ids: Any, skip_special_tokens: bool = False) -> str:
        """The text that tokens spell: normalised, and without what was unknown.

        Args:
            token_ids: one id, or a list or one-dimensional array of ids.
            skip_special_tokens: leaves out every special token, `<unk>` and `<mask>` included.

        Raises:
            TypeError: these are no ids; a batch goes to `batch_decode`.
            ValueError: an id is not in the vocabulary.
        """
        tokens = self.convert_ids_to_tokens(_list_of_ids(token_ids), skip_special_tokens)
        return "".join(tokens).replace(WORD_START, " ").removeprefix(" ")

    def batch_decode(self, sequences: Iterable[Any], skip_special_tokens: bool = False) -> list[str]:
        """The text of each row of `sequences`, a list of rows or an array [B, T]; see `decode`."""
        return [self.decode(row, skip_special_tokens) for row in sequences]

    @overload
    def convert_tokens_to_ids(self, tokens: str) -> int: ...
    @overload
    def convert_tokens_to_ids(self, tokens: list[str]) -> list[int]: ...
    def convert_tokens_to_ids(self, tokens: str | list[str]) -> int | list[int]:
        """The id of a token, or the list of ids of several; `unk_token_id` for what is no token."""
        if isinstance(tokens, str):
            return self._vocabulary.token_id(checked_text(tokens, "tokens"))
        return [self._vocabulary.token_id(token) for token in checked_batch(tokens, "tokens")]

    @overload
    def convert_ids_to_tokens(self, ids: int, skip_special_tokens: bool = False) -> str: ...
    @overload
    def convert_ids_to_tokens(self, ids: Iterable[int], skip_special_tokens: bool = False) -> list[str]: ...
    def convert_ids_to_tokens(self, ids: Any, skip_special_tokens: bool = False) -> str | list[str]:
        """The token of an id, or the list of tokens of several.

        Raises:
            TypeError: these are no ids.
            ValueError: an id is not in the vocabulary.
        """
        if isinstance(ids, int | np.integer):
            return self._vocabulary.token(whole_number("token id", ids, minimum=0))
        skipped = self.all_special_ids if skip_special_tokens else []
        return [self._vocabulary.token(token_id) for token_id in _list_of_ids(ids) if token_id not in skipped]

    def build_inputs_with_special_tokens(
        self, token_ids_0: list[int], token_ids_1: list[int] | None = None
    ) -> list[int]:
        """`<s> A </s>`, or `<s> A </s></s> B </s>`: the form in which the model reads ids."""
        if token_ids_1 is None:
            return [BOS_ID, *token_ids_0, EOS_ID]
        return [BOS_ID, *token_ids_0, EOS_ID, EOS_ID, *token_ids_1, EOS_ID]

    def num_special_tokens_to_add(self, pair: bool = False) -> int:
        """How many special tokens a text, or a pair of texts, gets."""
        return len(self.build_inputs_with_special_tokens([], [] if pair else None))

    def get_vocab(self) -> dict[str, int]:
        """Every token with its id, in the order of the ids."""
        return {self._vocabulary.token(token_id): token_id for token_id in range(len(self))}

    @property
    def vocab_size(self) -> int:
        """Number of token ids."""
        return len(self._vocabulary)

    @property
    def mask_token_id(self) -> int:
        """Id of `<mask>`, the last of the vocabulary."""
        return self._vocabulary.mask_id

    @property
    def all_special_tokens(self) -> list[str]:
        """`<s>`, `</s>`, `<unk>`, `<pad>` and `<mask>`."""
        return [BOS_TOKEN, EOS_TOKEN, UNK_TOKEN, PAD_TOKEN, MASK_TOKEN]

    @property
    def all_special_ids(self) -> list[int]:
        """Ids of `all_special_tokens`."""
        return self.convert_tokens_to_ids(self.all_special_tokens)

    @property
    def model_input_names(self) -> list[str]:
        """What a call returns by default: XLM-R needs no token types."""
        return ["input_ids", "attention_mask"]

    def __len__(self) -> int:
        return len(self._vocabulary)

    def __repr__(self) -> str:
        settings = "".join(f", {name}={getattr(self, name)!r}" for name in SETTINGS)
        return f"{type(self).__name__}(vocab_size={self.vocab_size}{settings})"

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "model_max_length":
            unlimited = value is None or (isinstance(value, int | float) and value > UNLIMITED)
            value = None if unlimited else whole_number(name, value, minimum=1)
        elif name in ("padding_side", "truncation_side"):
            value = checked_side(name, value)
        super().__setattr__(name, value)

    def _strategies(self, truncation: Any, padding: Any, max_length: Any) -> tuple[str, str, int]:
        """Names of the strategies of truncation and padding, and their `max_length` (0 if unneeded)."""
        cut, fill = truncation_strategy(truncation), padding_strategy(padding)
        if max_length is not None:
            max_length = whole_number("max_length", max_length, minimum=0)
            if truncation is None and fill == "do_not_pad":
                cut = "longest_first"
            if cut == "do_not_truncate" and fill == "longest":
                warnings.warn(
                    f"max_length={max_length} has no effect with padding={padding!r}: add truncation=True to "
                    "cut longer texts, or write padding='max_length' to pad to it.",
                    stacklevel=3,  # the caller of the tokenizer
                )
            return cut, fill, max_length
        if cut == "do_not_truncate" and fill != "max_length":
            return cut, fill, 0
        if self.model_max_length is None:
            wanted = f"padding={padding!r}" if cut == "do_not_truncate" else f"truncation={truncation!r}"
            raise ValueError(
                f"{wanted} needs a length, and this tokenizer does not know the model's: pass max_length, or "
                "load the tokenizer with model_max_length."
            )
        return cut, fill, self.model_max_length

    def _rows(self, texts: Texts, add_special_tokens: bool, cut: str, max_length: int) -> list[list[int]]:
        """The ids of each text or pair, cut to `max_length`."""
        is_pair = texts.second is not None
        specials = self.num_special_tokens_to_add(is_pair) if add_special_tokens else 0
        if cut != "do_not_truncate" and max_length < specials:
            raise ValueError(
                f"max_length={max_length} has no room for the {specials} special tokens of a "
                f"{'pair' if is_pair else 'text'}: give at least {specials}, or add_special_tokens=False."
            )
        if cut == "only_second" and not is_pair and texts.first:
            raise ValueError("truncation='only_second' needs pairs: give text_pair, or truncation=True.")
        rows = []
        firsts = self._encode(texts.first)
        seconds = [None] * len(firsts) if texts.second is None else self._encode(texts.second)
        for first, second in zip(firsts, seconds, strict=True):
            if cut != "do_not_truncate":
                first, second = truncate(first, second, max_length - specials, cut, self.truncation_side)
            if add_special_tokens:
                rows.append(self.build_inputs_with_special_tokens(first, second))
            else:
                rows.append([*first, *(second or [])])
        return rows

    def _encode(self, texts: list[str]) -> list[list[int]]:
        """The ids of each text, in which `<mask>` is the mask token, without `<s>` and `</s>`."""
        parts = [text.split(MASK_TOKEN) for text in texts]
        encoded = iter(self._vocabulary.encode([part for text in parts for part in text]))
        rows = []
        for text in parts:
            row = next(encoded)
            for _ in text[1:]:
                row.append(self.mask_token_id)
                row.extend(next(encoded))
            rows.append(row)
        return rows


def _as_array(column: list[list[int]]) -> np.ndarray:
    """The rows of `column` as an int64 array [B, T]."""
    lengths = {len(row) for row in column}
    if len(lengths) > 1:
        raise ValueError(
            f"Rows of {min(lengths)} to {max(lengths)} tokens do not make one array: pass padding=True (and "
            "truncation=True with a max_length to bound them)."
        )
    return np.array(column, dtype=np.int64).reshape(len(column), max(lengths, default=0))


def _list_of_ids(ids: Any) -> list[int]:
    """The ids in a number, a list or a one-dimensional array of any library."""
    if hasattr(ids, "tolist"):
        ids = ids.tolist()
    if isinstance(ids, int):
        ids = [ids]
    if not isinstance(ids, list | tuple):
        raise TypeError(f"Token ids are a whole number or a list or array of them, not {type(ids).__name__}.")
    if any(isinstance(token_id, list | tuple) or getattr(token_id, "ndim", 0) for token_id in ids):
        raise TypeError("These are several rows of token ids: batch_decode takes rows.")
    return [whole_number("token id", token_id, minimum=0) for token_id in ids]
