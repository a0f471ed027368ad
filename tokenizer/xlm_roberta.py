"""XLM-RoBERTa's tokenizer: `<s> text </s>`, or `<s> first </s></s> second </s>`."""

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self, overload

import numpy as np

from xlmr_np.weights.errors import CheckpointError

from .added_tokens import AddedToken, AddedTokens
from .arguments import as_lists, checked_batch, checked_side, checked_text, list_of_ids, read_texts, whole_number
from .batch_encoding import BatchEncoding, check_tensor_type
from .call import Call, known_length
from .explanation import Explanation
from .files import (
    CONFIG_FILE,
    ONLY_SETTINGS,
    SPECIAL_TOKENS,
    Find,
    find_vocabulary,
    read_added_tokens,
    read_tokenizer_config,
)
from .padding import checked_multiple, padded_entries, padding_strategy
from .rows import framed
from .segmentation import READINGS, Reading
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
    read_vocabulary,
)

SETTINGS = ("model_max_length", "padding_side", "truncation_side", "normalization", "allow_special_tokens")
# Settings that code written for the reference passes, and that change nothing here: there is one implementation, and
# nothing in a checkpoint is ever executed.
MEANINGLESS_SETTINGS = ("use_fast", "legacy", "trust_remote_code")
UNLIMITED = 10**20  # the reference writes "no limit" as 1e30, and takes anything above 1e20 for it

OTHER_SPECIAL_NAMES = ("additional_special_tokens", "extra_special_tokens")  # transformers 4 and 5
OFF_SETTINGS = ("do_lower_case", "clean_up_tokenization_spaces", *OTHER_SPECIAL_NAMES)  # the same, if nothing is on

# What the reference's clean_up_tokenization does, for English.
SPACED = (" .", " ?", " !", " ,", " ' ", " n't", " 'm", " 's", " 've", " 're")


class XLMRobertaTokenizer:
    """Turns text into the token ids that XLM-RoBERTa was pretrained on, and back.

    A call changes nothing in the tokenizer, so that threads may share one. The settings may be assigned;
    XLM-R's special tokens belong to the vocabulary's layout and may not.

    Args:
        vocab_file: a sentencepiece model in XLM-R's layout (`sentencepiece.bpe.model`), or a `tokenizer.json`.
        model_max_length: tokens that the model takes, for calls that truncate or pad without a `max_length`;
            None, or anything above 1e20, if unknown.
        padding_side: where rows are padded, "right" or "left".
        truncation_side: where long texts lose their tokens, "right" or "left".
        normalization: "sentencepiece" is what XLM-R was pretrained with: pieces and offsets are those of the
            sentencepiece library. "huggingface" gives what transformers gives, which loses some combining characters;
            its offsets leave out the space before a word.
        allow_special_tokens: True takes `<s>`, `<pad>`, `</s>` and `<unk>` in a text for the special tokens, so that
            whoever writes a text may use them; False takes them for text. `<mask>` and tokens added by `add_tokens`
            are tokens in any case. None is True with normalization="huggingface", as in transformers, else False.

    Raises:
        CheckpointError: the file is damaged, or is not a vocabulary of XLM-R's layout.
        OSError: the file cannot be read.
        TypeError, ValueError: a setting is out of its range.
    """

    __slots__ = ("_added_tokens", "_readings", "_vocabulary", *SETTINGS)

    _added_tokens: AddedTokens
    _readings: dict[bool, Reading]
    model_max_length: int | None
    padding_side: str
    truncation_side: str
    normalization: str
    allow_special_tokens: bool | None

    bos_token = cls_token = BOS_TOKEN
    eos_token = sep_token = EOS_TOKEN
    pad_token, unk_token, mask_token = PAD_TOKEN, UNK_TOKEN, MASK_TOKEN
    bos_token_id = cls_token_id = BOS_ID
    eos_token_id = sep_token_id = EOS_ID
    pad_token_id, unk_token_id = PAD_ID, UNK_ID
    pad_token_type_id = 0
    is_fast = True  # as the reference's is: tokens know where they come from

    def __init__(
        self,
        vocab_file: str | os.PathLike[str],
        *,
        model_max_length: float | None = None,
        padding_side: str = "right",
        truncation_side: str = "right",
        normalization: str = "sentencepiece",
        allow_special_tokens: bool | None = None,
    ) -> None:
        self._configure(model_max_length, padding_side, truncation_side, normalization, allow_special_tokens)
        self._read(vocab_file, lambda filename: None, {})

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
            **overrides: the constructor's settings, over those of `tokenizer_config.json`; tokens to add, as
                `additional_special_tokens`; and arguments of transformers that change nothing, such as `use_fast`.

        Raises:
            CheckpointError: there is no vocabulary, it is another model's, or a file is damaged.
            OSError: the repository cannot be reached.
            TypeError, ValueError: a setting is unknown or out of its range.
        """
        from xlmr_np.weights.files import locate

        added = [overrides.pop(name) for name in OTHER_SPECIAL_NAMES if overrides.get(name) is not None]
        overrides = {name: value for name, value in overrides.items() if not _is_meaningless(name, value)}
        for name, value in overrides.items():
            if name not in SETTINGS:
                raise TypeError(
                    f"from_pretrained has no argument {name}={value!r} under which XLM-R's tokens stay what they are; "
                    f"its settings are {', '.join(SETTINGS)}."
                )

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
        tokenizer = cls.__new__(cls)
        try:
            tokenizer._configure(**settings)
        except (TypeError, ValueError) as error:
            raise CheckpointError(f"{id_or_dir}, {CONFIG_FILE}: {error}") from error
        for name, value in overrides.items():
            setattr(tokenizer, name, value)
        tokenizer._read(find_vocabulary(id_or_dir, find), find, config)
        for tokens in added:
            tokenizer.add_special_tokens({OTHER_SPECIAL_NAMES[0]: tokens})
        return tokenizer

    def save_pretrained(
        self, save_directory: str | os.PathLike[str], filename_prefix: str | None = None
    ) -> tuple[str, ...]:
        """Writes the tokenizer so that `from_pretrained`, transformers and sentencepiece load it.

        Args:
            save_directory: where to; made if it does not exist.
            filename_prefix: put before the names of the files, with a hyphen.

        Returns:
            The files' paths.

        Raises:
            CheckpointError, ValueError: ids of added tokens leave gaps, or a name is none.
            OSError: they cannot be written.
        """
        from .saving import save_tokenizer

        settings = {name: getattr(self, name) for name in SETTINGS}
        return save_tokenizer(save_directory, self._vocabulary, self._added_tokens, settings, filename_prefix)

    def save_vocabulary(
        self, save_directory: str | os.PathLike[str], filename_prefix: str | None = None
    ) -> tuple[str, ...]:
        """Writes the vocabulary alone, as a sentencepiece model, into a directory that exists.

        Returns:
            The file's path.

        Raises:
            OSError: there is no such directory, or the file cannot be written.
        """
        from .saving import save_vocabulary

        return save_vocabulary(save_directory, self._vocabulary, filename_prefix)

    def __call__(
        self,
        text: Any = None,
        text_pair: Any = None,
        text_target: Any = None,
        text_pair_target: Any = None,
        *,
        add_special_tokens: bool = True,
        padding: bool | str = False,
        truncation: bool | str | None = None,
        max_length: int | None = None,
        stride: int = 0,
        is_split_into_words: bool = False,
        pad_to_multiple_of: int | None = None,
        padding_side: str | None = None,
        return_tensors: str | None = None,
        return_token_type_ids: bool | None = None,
        return_attention_mask: bool | None = None,
        return_overflowing_tokens: bool = False,
        return_special_tokens_mask: bool = False,
        return_offsets_mapping: bool = False,
        return_length: bool = False,
        verbose: bool = True,
        allow_special_tokens: bool | None = None,
    ) -> BatchEncoding:
        """Encodes a text, a pair of texts, or a batch of either.

        Args:
            text: a text, a list of texts, or a list of pairs.
            text_pair: the second text of a pair, or as many second texts as `text` has first ones. An empty
                text is a second text too; None is none.
            text_target: texts that are to be predicted; their ids are the entry `labels`.
            text_pair_target: their second texts.
            add_special_tokens: puts `<s>` and `</s>` around.
            padding: True or "longest" pads to the longest row of the batch, "max_length" to `max_length`;
                False or "do_not_pad" leaves the rows as they are. Padding never cuts a longer row.
            truncation: True or "longest_first" cuts to `max_length`, of a pair the longer text first;
                "only_first" and "only_second" cut one text of a pair; False or "do_not_truncate" cuts none;
                None cuts like True if `max_length` is given and `padding` is off, and otherwise none.
            max_length: tokens of a row, special ones included; None is `model_max_length`.
            stride: tokens that a row of what was cut off shares with the row before it.
            is_split_into_words: a text is a list of words.
            pad_to_multiple_of: rounds the padded length up to a multiple of this; without padding, nothing.
            padding_side: "right" or "left"; None is the tokenizer's own.
            return_tensors: "np" for NumPy's int64 arrays, "cp" for CuPy's; None for lists.
            return_token_type_ids: adds `token_type_ids`, which are all zero: XLM-R has one type.
            return_attention_mask: adds `attention_mask`, 1 at tokens and 0 at padding; None does too.
            return_overflowing_tokens: what is cut off makes further rows, for pairs every window of one text with
                every window of the other; `overflow_to_sample_mapping` says which text each row is of.
            return_special_tokens_mask: adds `special_tokens_mask`, 1 at the special tokens around texts and at
                padding.
            return_offsets_mapping: adds `offset_mapping`: where each token comes from, start and end in its text
                (or word, if the text came in words) in code points; (0, 0) at special tokens.
            return_length: adds `length`, the number of tokens of each row.
            verbose: warns of rows that are longer than `model_max_length`.
            allow_special_tokens: see the class; None is the tokenizer's own.

        Returns:
            `input_ids` and what else was asked for: flat lists for one text without `return_tensors`,
            otherwise one row per text.

        Raises:
            TypeError: an argument has the wrong type; the message says which, and where in a batch.
            ValueError: an argument is out of its range, a length is needed and unknown, `max_length` has no
                room for the special tokens, or the rows of an array would differ in length.
        """
        check_tensor_type(return_tensors)
        call = Call(
            reading=self._reading(allow_special_tokens),
            written=self._token,
            model_max_length=self.model_max_length,
            truncation_side=self.truncation_side,
            as_in_reference=self.normalization == "huggingface",
            add_special_tokens=add_special_tokens,
            padding=padding,
            truncation=truncation,
            max_length=max_length,
            stride=whole_number("stride", stride, minimum=0),
            is_split_into_words=is_split_into_words,
            pad_to_multiple_of=checked_multiple(pad_to_multiple_of),
            padding_side=self._side(padding_side),
            return_tensors=return_tensors,
            return_token_type_ids=False if return_token_type_ids is None else return_token_type_ids,
            return_attention_mask=True if return_attention_mask is None else return_attention_mask,
            return_overflowing_tokens=return_overflowing_tokens,
            return_special_tokens_mask=return_special_tokens_mask,
            return_offsets_mapping=return_offsets_mapping,
            return_length=return_length,
            verbose=verbose,
        )
        if text_target is None:
            if text_pair_target is not None:
                raise ValueError(
                    "text_pair_target is the second text of pairs, whose first is text_target: give it too."
                )
            return call.encode(read_texts(text, text_pair, is_split_into_words))
        targets = read_texts(text_target, text_pair_target, is_split_into_words)
        if text is None:
            return call.encode(targets)
        texts = read_texts(text, text_pair, is_split_into_words)
        if (texts.is_batch, len(texts.first)) != (targets.is_batch, len(targets.first)):
            raise ValueError("text_target does not have a text for each one in text: give as many, in the same form.")
        if return_overflowing_tokens:
            raise ValueError("What overflows has no target: leave out text_target or return_overflowing_tokens.")
        batch = call.encode(texts)
        batch["labels"] = call.encode(targets)["input_ids"]
        return batch

    # The names of this method until transformers 5, for one text and for a batch.
    encode_plus = batch_encode_plus = __call__

    def encode(self, text: Any, text_pair: Any = None, **settings: Any) -> Any:
        """The `input_ids` of one text or pair; the settings are those of a call."""
        if not isinstance(text, str) and not settings.get("is_split_into_words"):
            raise TypeError(f"encode takes one text, not {type(text).__name__}: for a batch, call the tokenizer.")
        return self(text, text_pair, **settings)["input_ids"]

    def tokenize(
        self, text: str, pair: str | None = None, add_special_tokens: bool = False, **settings: Any
    ) -> list[str]:
        """The tokens of one text or pair; what the vocabulary does not cover is as the normalised text has it."""
        if not isinstance(text, str) and not settings.get("is_split_into_words"):
            raise TypeError(f"tokenize takes one text, not {type(text).__name__}: for a batch, call the tokenizer.")
        if settings.get("return_overflowing_tokens"):
            raise ValueError("tokenize gives one row: for what overflows, call the tokenizer.")
        return self(text, pair, add_special_tokens=add_special_tokens, **settings).tokens()

    def explain(self, text: str, allow_special_tokens: bool | None = None) -> Explanation:
        """How a text becomes tokens: its added tokens, and how what is between them is normalised and cut.

        The first time takes a second for XLM-R's vocabulary.

        Raises:
            TypeError, ValueError: this is no text.
        """
        return self._reading(allow_special_tokens).explain(checked_text(text, "text"))

    def pad(
        self,
        encoded_inputs: Mapping[str, Any] | Sequence[Mapping[str, Any]],
        padding: bool | str = True,
        max_length: int | None = None,
        pad_to_multiple_of: int | None = None,
        padding_side: str | None = None,
        return_attention_mask: bool | None = None,
        return_tensors: str | None = None,
        verbose: bool = True,
    ) -> BatchEncoding:
        """Pads what was encoded before, as a collator of batches does.

        Args:
            encoded_inputs: a row, a batch, or a list of rows, each a dict with `input_ids`. Attention mask, special
                tokens mask and token types are padded too; other entries, such as labels, are left as they are.
            padding: as in a call, as are `max_length`, `pad_to_multiple_of`, `padding_side` and `return_tensors`.
            max_length: see there.
            pad_to_multiple_of: see there.
            padding_side: see there.
            return_attention_mask: adds `attention_mask` where it is missing; None does too.
            return_tensors: see there.
            verbose: taken for the reference's sake; there is nothing to say.

        Raises:
            TypeError, ValueError: as in a call; or there are no `input_ids`, or entries of different lengths.
        """
        check_tensor_type(return_tensors)
        fixed_length = None
        if padding_strategy(padding) == "max_length":
            fixed_length = known_length(max_length, self.model_max_length, f"padding={padding!r}")
        columns = padded_entries(
            encoded_inputs,
            padding_strategy(padding),
            fixed_length,
            checked_multiple(pad_to_multiple_of),
            self._side(padding_side),
            with_attention_mask=return_attention_mask is None or return_attention_mask,
            is_batch=return_tensors is not None,
        )
        return BatchEncoding(columns).convert_to_tensors(return_tensors)

    def decode(
        self,
        token_ids: Any,
        skip_special_tokens: bool = False,
        clean_up_tokenization_spaces: bool | None = None,
    ) -> Any:
        """The text that tokens spell: normalised, and without what was unknown.

        Args:
            token_ids: one id, or a list or one-dimensional array of ids; or rows of them, as for `batch_decode`.
            skip_special_tokens: leaves out every special token, `<unk>` and `<mask>` included.
            clean_up_tokenization_spaces: takes away spaces before English punctuation and contractions.

        Returns:
            A text, or a list of one for each row.

        Raises:
            TypeError: these are no ids.
            ValueError: an id is not in the vocabulary.
        """
        is_batch = getattr(token_ids, "ndim", 1) == 2
        token_ids = as_lists(token_ids)
        if is_batch or (isinstance(token_ids, list | tuple) and any(map(_is_row, token_ids))):
            return self.batch_decode(token_ids, skip_special_tokens, clean_up_tokenization_spaces)
        text = self.convert_tokens_to_string(self.convert_ids_to_tokens(list_of_ids(token_ids), skip_special_tokens))
        if clean_up_tokenization_spaces:
            for spaced in SPACED:
                text = text.replace(spaced, spaced.strip())
        return text

    def batch_decode(
        self,
        sequences: Iterable[Any],
        skip_special_tokens: bool = False,
        clean_up_tokenization_spaces: bool | None = None,
    ) -> list[str]:
        """The text of each row of `sequences`, a list of rows or an array [B, T]; see `decode`."""
        rows = [list_of_ids(row) for row in sequences]
        return [self.decode(row, skip_special_tokens, clean_up_tokenization_spaces) for row in rows]

    @overload
    def convert_tokens_to_ids(self, tokens: str) -> int: ...
    @overload
    def convert_tokens_to_ids(self, tokens: list[str]) -> list[int]: ...
    def convert_tokens_to_ids(self, tokens: Any) -> int | list[int]:
        """The id of a token, or the list of ids of several; `unk_token_id` for what is no token."""
        if isinstance(tokens, str):
            added = self._added_tokens.ids.get(checked_text(tokens, "tokens"))
            return self._vocabulary.token_id(tokens) if added is None else added
        return [self.convert_tokens_to_ids(token) for token in checked_batch(tokens, "tokens")]

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
            return self._token(whole_number("token id", ids, minimum=0))
        skipped = self._added_tokens.special_ids if skip_special_tokens else ()
        return [self._token(token_id) for token_id in list_of_ids(ids) if token_id not in skipped]

    def convert_tokens_to_string(self, tokens: Iterable[str]) -> str:
        """The text that tokens spell."""
        return "".join(checked_batch(tokens, "tokens")).removeprefix(WORD_START).replace(WORD_START, " ")

    def build_inputs_with_special_tokens(
        self, token_ids_0: list[int], token_ids_1: list[int] | None = None
    ) -> list[int]:
        """`<s> A </s>`, or `<s> A </s></s> B </s>`: the form in which the model reads ids."""
        return framed([list_of_ids(text) for text in (token_ids_0, token_ids_1) if text is not None], BOS_ID, EOS_ID)

    def create_token_type_ids_from_sequences(
        self, token_ids_0: list[int], token_ids_1: list[int] | None = None
    ) -> list[int]:
        """A zero for each token of `build_inputs_with_special_tokens`: XLM-R has one type."""
        return [0] * len(self.build_inputs_with_special_tokens(token_ids_0, token_ids_1))

    def get_special_tokens_mask(
        self,
        token_ids_0: list[int],
        token_ids_1: list[int] | None = None,
        already_has_special_tokens: bool = False,
    ) -> list[int]:
        """1 for special tokens, 0 for others.

        Args:
            token_ids_0: ids of a text, or of a whole row.
            token_ids_1: ids of the second text of a pair.
            already_has_special_tokens: whether `token_ids_0` is a whole row, in which every special token counts,
                `<mask>` and `<unk>` included. Otherwise the result is about the tokens of
                `build_inputs_with_special_tokens`, where those count that it puts around the texts.

        Raises:
            ValueError: a second text was given beside a whole row.
        """
        if already_has_special_tokens:
            if token_ids_1 is not None:
                raise ValueError("A row that has its special tokens holds both texts: leave token_ids_1 out.")
            return [int(token_id in self._added_tokens.special_ids) for token_id in list_of_ids(token_ids_0)]
        texts = [list_of_ids(text) for text in (token_ids_0, token_ids_1) if text is not None]
        return framed([[0] * len(text) for text in texts], 1, 1)

    def num_special_tokens_to_add(self, pair: bool = False) -> int:
        """How many special tokens a text, or a pair of texts, gets."""
        return len(self.build_inputs_with_special_tokens([], [] if pair else None))

    def add_tokens(
        self, new_tokens: str | AddedToken | Iterable[str | AddedToken], special_tokens: bool = False
    ) -> int:
        """Adds tokens that are found in texts as they are written, also within words unless they say otherwise.

        A token that the vocabulary has keeps its id, and is found from now on. Others get the next ids; resize the
        model's embeddings to `len(tokenizer)` before you use them. Calls that are under way in other threads do not
        see them; two threads must not add tokens at the same time.

        Args:
            new_tokens: how a token is written, or an `AddedToken`, or several.
            special_tokens: whether they are special tokens.

        Returns:
            How many were added: those that were not added tokens before in the same form.

        Raises:
            TypeError, ValueError: one is no text, is empty, or is one of XLM-R's own special tokens in another form
                than a special token's.
        """
        added = dict(self._added_tokens.by_id)
        next_id = max(len(self._vocabulary), max(added) + 1)
        ids = dict(self._added_tokens.ids)
        count = 0
        for token in _tokens(new_tokens, "new_tokens"):
            if special_tokens:
                token = token.as_special()
            token_id = ids.get(token.content)
            if token_id is None and self._vocabulary.token_id(token.content) != UNK_ID:
                token_id = self._vocabulary.token_id(token.content)
            if token_id is None:
                token_id, next_id = next_id, next_id + 1
            if added.get(token_id) == token:
                continue
            if token.content in SPECIAL_TOKENS.values() and (not token.special or token.normalized):
                raise ValueError(f"{token.content} is a special token of XLM-R's, and cannot become another kind.")
            added[token_id] = token
            ids[token.content] = token_id
            count += 1
        self._added_tokens = AddedTokens(added)
        return count

    def add_special_tokens(self, special_tokens_dict: Mapping[str, Any]) -> int:
        """Adds special tokens, as {"additional_special_tokens": [...]}.

        XLM-R's own names, such as "mask_token", may be among the keys with the tokens that they have already, or with
        an `AddedToken` that says how they take white space.

        Returns:
            How many were added; see `add_tokens`.

        Raises:
            TypeError, ValueError: a name is unknown, or stands for another token in XLM-R.
        """
        if not isinstance(special_tokens_dict, Mapping):
            raise TypeError('add_special_tokens takes a dict such as {"additional_special_tokens": ["<new>"]}.')
        tokens: list[AddedToken] = []
        for name, value in special_tokens_dict.items():
            if name in OTHER_SPECIAL_NAMES:
                if isinstance(value, str):
                    raise TypeError(f"{name} takes a list of tokens, not the str {value!r}.")
                tokens += _tokens(value.values() if isinstance(value, Mapping) else value, name)
                continue
            (token,) = _tokens([value], name)
            if SPECIAL_TOKENS.get(name) != token.content:
                raise ValueError(
                    f"{name!r} cannot become {token.content!r}: XLM-R's own special tokens are part of its vocabulary; "
                    "others go under 'additional_special_tokens'."
                )
            tokens.append(token)
        return self.add_tokens(tokens, special_tokens=True)

    def get_vocab(self) -> dict[str, int]:
        """Every token with its id, in the order of the ids."""
        return self._vocabulary.ids | self._added_tokens.ids

    def get_added_vocab(self) -> dict[str, int]:
        """Every added token with its id, the special ones included."""
        return dict(self._added_tokens.ids)

    @property
    def added_tokens_decoder(self) -> dict[int, AddedToken]:
        """The added tokens by their ids, the special ones included."""
        return dict(self._added_tokens.by_id)

    @property
    def added_tokens_encoder(self) -> dict[str, int]:
        """As `get_added_vocab`."""
        return self.get_added_vocab()

    @property
    def vocab(self) -> dict[str, int]:
        """As `get_vocab`."""
        return self.get_vocab()

    @property
    def vocabulary(self) -> Vocabulary:
        """The sentencepiece model with XLM-R's ids."""
        return self._vocabulary

    @property
    def vocab_size(self) -> int:
        """Number of token ids without those that were added."""
        return len(self._vocabulary)

    @property
    def mask_token_id(self) -> int:
        """Id of `<mask>`, the last of the vocabulary."""
        return self._vocabulary.mask_id

    @property
    def special_tokens_map(self) -> dict[str, Any]:
        """The special tokens by their names."""
        others = {OTHER_SPECIAL_NAMES[0]: self.additional_special_tokens} if self.additional_special_tokens else {}
        return SPECIAL_TOKENS | others

    @property
    def all_special_tokens(self) -> list[str]:
        """`<s>`, `</s>`, `<unk>`, `<pad>`, `<mask>`, and those that were added."""
        return [BOS_TOKEN, EOS_TOKEN, UNK_TOKEN, PAD_TOKEN, MASK_TOKEN, *self.additional_special_tokens]

    @property
    def all_special_ids(self) -> list[int]:
        """Ids of `all_special_tokens`."""
        return self.convert_tokens_to_ids(self.all_special_tokens)

    @property
    def additional_special_tokens(self) -> list[str]:
        """The special tokens that are not XLM-R's own."""
        own = SPECIAL_TOKENS.values()
        tokens = self._added_tokens.by_id.values()
        return [token.content for token in tokens if token.special and token.content not in own]

    @property
    def extra_special_tokens(self) -> list[str]:
        """As `additional_special_tokens`, which is their name in transformers 4."""
        return self.additional_special_tokens

    @property
    def model_input_names(self) -> list[str]:
        """What a call returns by default: XLM-R needs no token types."""
        return ["input_ids", "attention_mask"]

    def __len__(self) -> int:
        return max(len(self._vocabulary), max(self._added_tokens.by_id) + 1)

    def __repr__(self) -> str:
        settings = "".join(f", {name}={getattr(self, name)!r}" for name in SETTINGS)
        return f"{type(self).__name__}(vocab_size={self.vocab_size}{settings})"

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "model_max_length":
            unlimited = value is None or (isinstance(value, int | float) and value > UNLIMITED)
            if isinstance(value, float) and value.is_integer():
                value = int(value)
            value = None if unlimited else whole_number(name, value, minimum=1)
        elif name in ("padding_side", "truncation_side"):
            checked_side(name, value)
        elif name == "normalization" and not (isinstance(value, str) and value in READINGS):
            raise ValueError(f"normalization={value!r} is not one of {', '.join(READINGS)}.")
        elif name == "allow_special_tokens":
            _check_allow(value)
        elif name in SPECIAL_TOKENS:
            if value != SPECIAL_TOKENS[name]:
                raise AttributeError(f"{name} cannot become {value!r}: XLM-R's own tokens are part of its vocabulary.")
            return
        super().__setattr__(name, value)
        if name in ("normalization", "_added_tokens"):
            self._readings = {}

    def _configure(
        self,
        model_max_length: float | None = None,
        padding_side: str = "right",
        truncation_side: str = "right",
        normalization: str = "sentencepiece",
        allow_special_tokens: bool | None = None,
    ) -> None:
        self.model_max_length = model_max_length  # type: ignore[assignment]  # __setattr__ makes it an int
        self.padding_side = padding_side
        self.truncation_side = truncation_side
        self.normalization = normalization
        self.allow_special_tokens = allow_special_tokens

    def _read(self, vocab_file: str | os.PathLike[str], find: Find, config: Mapping[str, Any]) -> None:
        self._vocabulary, added_tokens = read_vocabulary(vocab_file)
        self._added_tokens = AddedTokens(read_added_tokens(find, config, added_tokens, self._vocabulary))

    def _side(self, padding_side: Any) -> str:
        return self.padding_side if padding_side is None else checked_side("padding_side", padding_side)

    def _reading(self, allow_special_tokens: bool | None) -> Reading:
        """How texts are read, by the settings of the tokenizer and this one of a call."""
        _check_allow(allow_special_tokens)
        allow = self.allow_special_tokens if allow_special_tokens is None else allow_special_tokens
        if allow is None:
            allow = self.normalization == "huggingface"
        readings = self._readings
        if allow not in readings:
            readings[allow] = READINGS[self.normalization](self._vocabulary, self._added_tokens, allow)
        return readings[allow]

    def _token(self, token_id: int) -> str:
        """The token that an id stands for."""
        added = self._added_tokens.by_id.get(token_id)
        if added is not None:
            return added.content
        if token_id >= len(self):
            raise ValueError(f"token id {token_id} is not in the vocabulary, whose ids are 0 to {len(self) - 1}.")
        return self._vocabulary.token(token_id)


def _check_allow(value: Any) -> None:
    if not (value is None or isinstance(value, bool)):
        raise TypeError(f"allow_special_tokens must be True, False or None, not {value!r}.")


def _is_row(ids: Any) -> bool:
    return isinstance(ids, list | tuple) or bool(getattr(ids, "ndim", 0))


def _is_meaningless(name: str, value: Any) -> bool:
    """Whether an argument of the reference's changes nothing here."""
    if name in ONLY_SETTINGS:
        return bool(value == ONLY_SETTINGS[name])
    if name in SPECIAL_TOKENS:
        return bool(value == SPECIAL_TOKENS[name])
    return name in MEANINGLESS_SETTINGS or (name in OFF_SETTINGS and not value)


def _tokens(tokens: Any, name: str) -> list[AddedToken]:
    """Tokens that are given as text or as `AddedToken`, one or several."""
    if isinstance(tokens, str | AddedToken):
        tokens = [tokens]
    if not isinstance(tokens, Iterable):
        raise TypeError(f"{name} must be a token or a list of tokens, not {tokens!r}.")
    return [token if isinstance(token, AddedToken) else AddedToken(token) for token in tokens]
