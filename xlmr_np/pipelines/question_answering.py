"""Question answering: which words of a context, however long, answer a question."""

import reprlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from xlmr_np.arrays import to_numpy
from xlmr_np.pipelines.answer_spans import NORMALIZERS, ContextTokens, Window, each_start_once, likeliest_spans
from xlmr_np.pipelines.base import RunSetting, TaskPipeline, WarnOnce, finite
from xlmr_np.pipelines.streaming import Row
from xlmr_np.tokenizer.arguments import checked_flag, checked_text, whole_number
from xlmr_np.tokenizer.truncation import Limit, windows

PARTS = ("question", "context")
FORM = '{"question": ..., "context": ...}'
MAX_SEQ_LEN = 384
DOC_STRIDE = 128

Answer = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class QuestionAnsweringSetting(RunSetting):
    """What may be asked of question answering.

    A context that is too long is read in windows, each after the whole question.

    Attributes:
        top_k: how many answers, the likeliest first; 1 gives the answer alone, and no list.
        max_answer_len: tokens that an answer has at most, before it is completed to whole words.
        max_seq_len: tokens of a window, with the question and the special tokens; None: 384, or as many as the model
            takes. More than it takes are never read at once.
        doc_stride: tokens of the context that a window shares with the one before it. None: half of `max_seq_len`, but
            no more than 128, nor than three quarters of what a window has of the context.
        handle_impossible_answer: the empty answer is an answer too, as likely as it is where it is least likely.
        align_to_words: complete answers to whole words, which are what stands between white space. Better without it
            for languages that are written without spaces.
        scores: "across_windows": a score is a probability among all that is to be found in all windows, where what two
            windows share counts once; equal answers are one, and the scores of all do not sum to more than 1.
            "per_window", as in transformers 4: each window is taken by itself, so that scores do not compare, equal
            answers sum to more than 1, and words are cut where windows end. The two are equal if there is one window.
    """

    top_k: int = 1
    max_answer_len: int = 15
    max_seq_len: int | None = None
    doc_stride: int | None = None
    handle_impossible_answer: bool = False
    align_to_words: bool = True
    scores: str = "across_windows"

    def __post_init__(self) -> None:
        super().__post_init__()
        whole_number("top_k", self.top_k, minimum=1)
        whole_number("max_answer_len", self.max_answer_len, minimum=1)
        if self.max_seq_len is not None:
            whole_number("max_seq_len", self.max_seq_len, minimum=1)
        if self.doc_stride is not None:
            whole_number("doc_stride", self.doc_stride, minimum=0)
            if self.doc_stride > (self.max_seq_len or MAX_SEQ_LEN):
                raise ValueError(
                    f"doc_stride={self.doc_stride} is larger than max_seq_len={self.max_seq_len or MAX_SEQ_LEN}, so "
                    "that windows would not move on; give a smaller doc_stride."
                )
        checked_flag("handle_impossible_answer", self.handle_impossible_answer)
        checked_flag("align_to_words", self.align_to_words)
        if self.scores not in NORMALIZERS:
            raise ValueError(f"scores={self.scores!r} is none of {', '.join(NORMALIZERS)}.")


class QuestionReading(NamedTuple):
    """A question, and a context in windows.

    Attributes:
        rows: one for each window: `<s> question </s></s> window </s>`.
        context: the text.
        tokens: where its tokens lie.
        windows: the tokens of each window, from the first to before the second.
    """

    rows: list[Row]
    context: str
    tokens: ContextTokens
    windows: list[tuple[int, int]]


class QuestionAnsweringPipeline(TaskPipeline[QuestionAnsweringSetting]):
    """Finds answers in texts, by a model that says where they start and end.

    An input is {"question": ..., "context": ...}; further keys are left alone. Its answer is a dict of `score`,
    `start`, `end` and `answer`, which is `context[start:end]`; with `top_k` a list of such dicts. As in transformers 4,
    a list of one input is answered as that input is.
    """

    setting_class = QuestionAnsweringSetting
    input_name = "Question"

    def __call__(self, inputs: Any = None, context: Any = None, *, question: Any = None, **changes: Any) -> Any:
        """Answer one or many questions.

        Args:
            inputs: a dict, a list of them, or any other iterable of them; or, with `context`, the question.
            context: the text in which the answer is, or a list of as many as there are questions.
            question: a question, or a list of them.
            **changes: settings of the pipeline that are others in this call.

        Raises:
            ValueError: a question cannot be answered, or a setting is out of its range.
            TypeError: an input is none, or a setting is unknown.
        """
        if question is None and context is not None:
            inputs, question = None, inputs
        if question is not None or inputs is None:
            if inputs is not None:
                raise TypeError(f"Give either question and context, or inputs of the form {FORM}; got both.")
            inputs = paired(question, context)
        answers = super().__call__(inputs, **changes)
        return answers[0] if isinstance(inputs, list | tuple) and len(inputs) == 1 else answers

    def read(self, number: int, value: Any, setting: QuestionAnsweringSetting, warned: WarnOnce) -> QuestionReading:
        """The rows of a question."""
        name = self.name_of(number)
        question, context = parts_of(value, name)
        question_ids = self.tokenizer(question, add_special_tokens=False, verbose=False)["input_ids"]
        encoded = self.tokenizer(context, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        context_ids = encoded["input_ids"]
        self.check_has_tokens(f"{name}, question,", question, question_ids)
        self.check_has_tokens(f"{name}, context,", context, context_ids)
        tokens = ContextTokens.of(context, encoded["offset_mapping"], encoded.word_ids())
        if not (tokens.starts < tokens.ends).any():  # control characters that Python alone takes for white space
            raise ValueError(f"{name}, context, holds nothing that could be an answer: {reprlib.repr(context)}.")
        parts = self.windows_of(name, question, len(question_ids), len(context_ids), setting)
        frame = self.tokenizer.build_inputs_with_special_tokens
        rows = [Row(frame(question_ids, context_ids[start:end])) for start, end in parts]
        return QuestionReading(rows, context, tokens, parts)

    def windows_of(
        self, name: str, question: str, question_length: int, context_length: int, setting: QuestionAnsweringSetting
    ) -> list[tuple[int, int]]:
        """The tokens of a context that each of its windows has.

        Raises:
            ValueError: the question leaves no room for the context, or so little that windows would not move on.
        """
        limit = self.longest(MAX_SEQ_LEN if setting.max_seq_len is None else setting.max_seq_len)
        specials = self.tokenizer.num_special_tokens_to_add(pair=True)
        room = limit - specials - question_length
        if room < 1:
            raise ValueError(
                f"{name} has {question_length} tokens, and with {specials} special ones they leave no room for the "
                f"context in windows of {limit}: {reprlib.repr(question)}; shorten it, or give a larger max_seq_len if "
                "the model takes more."
            )
        if context_length <= room:
            return [(0, context_length)]
        stride = min(limit // 2, DOC_STRIDE, room * 3 // 4) if setting.doc_stride is None else setting.doc_stride
        if stride >= room:
            raise ValueError(
                f"{name} leaves room for {room} tokens of the context in windows of {limit}, and doc_stride={stride} "
                f"of them would be shared with the window before; give at most {room - 1}."
            )
        cut = Limit(room, "only_first", stride, side="right", with_overflow=True, as_in_reference=False)
        return [window for (window,) in windows([context_length], cut)]

    def compute(self, rows: list[Row], setting: QuestionAnsweringSetting) -> Iterable[np.ndarray]:
        """The start logits and the end logits [2, T] of each row."""
        output, _ = self.forward(rows)
        logits = np.stack((to_numpy(output.start_logits), to_numpy(output.end_logits)), axis=1)
        return [finite(each[:, : len(row.ids)]) for each, row in zip(logits, rows, strict=True)]

    def answer(
        self, reading: QuestionReading, results: list[np.ndarray], setting: QuestionAnsweringSetting
    ) -> Answer | list[Answer]:
        """The likeliest answer, or a list of answers."""
        parts = [
            Window(start, without_question(logits, end - start))
            for logits, (start, end) in zip(results, reading.windows, strict=True)
        ]
        if setting.scores == "across_windows":
            parts = each_start_once(parts, setting.max_answer_len)
        normalizers = NORMALIZERS[setting.scores](parts)
        spans = scored_spans(parts, reading.tokens, normalizers.of_spans, setting)
        answers = merged(reading.context, spans)
        if setting.handle_impossible_answer:
            answers.append({"score": normalizers.no_answer, "start": 0, "end": 0, "answer": ""})
        answers.sort(key=lambda answer: -answer["score"])
        return answers[0] if setting.top_k == 1 else answers[: setting.top_k]


def without_question(logits: np.ndarray, tokens: int) -> np.ndarray:
    """Those of a row [2, T] at its classification token and at its tokens of the context, in float64."""
    classification, context = logits[:, :1], logits[:, -tokens - 1 : -1]
    return np.concatenate((classification, context), axis=1, dtype=np.float64)


def scored_spans(
    parts: Sequence[Window], tokens: ContextTokens, normalizers: np.ndarray, setting: QuestionAnsweringSetting
) -> list[tuple[float, int, int]]:
    """The likeliest spans of all windows: score, and start and end in the context.

    They come in the order of windows if these are taken by themselves, and otherwise the likeliest first.
    """
    by_itself = setting.scores == "per_window"
    number = 2 * setting.top_k + 10 if setting.align_to_words else setting.top_k  # several may have the same words
    scored: list[tuple[float, int, int]] = []
    for window, normalizer in zip(parts, normalizers, strict=True):
        starts, ends = tokens.bounds(window, of_words=setting.align_to_words, are_cut=by_itself)
        starts, ends, sums = likeliest_spans(window.logits[:, 1:], starts, ends, setting.max_answer_len, number)
        columns = (np.exp(sums - normalizer), starts, ends)
        scored += zip(*(column.tolist() for column in columns), strict=True)
    return scored if by_itself else sorted(scored, key=lambda span: -span[0])


def merged(context: str, spans: Iterable[tuple[float, int, int]]) -> list[Answer]:
    """One answer for all spans of the same text but for case: where the first is, with the sum of their scores."""
    by_span: dict[tuple[int, int], float] = {}
    for score, start, end in spans:
        by_span[start, end] = by_span.get((start, end), 0.0) + score
    by_text: dict[str, Answer] = {}
    for (start, end), score in by_span.items():
        text = context[start:end]
        known = by_text.setdefault(text.lower(), {"score": 0.0, "start": start, "end": end, "answer": text})
        known["score"] += score
    return list(by_text.values())


def paired(question: Any, context: Any) -> Answer | list[Answer]:
    """The inputs that these make: one of two texts, and lists of two lists, or of a list and a text.

    Raises:
        TypeError: one is missing or no text.
        ValueError: the lists differ in length.
    """
    if isinstance(question, str) and isinstance(context, str):
        return {"question": question, "context": context}
    if isinstance(question, list | tuple) and isinstance(context, str):
        context = [context] * len(question)
    if not isinstance(question, list | tuple) or not isinstance(context, list | tuple):
        kinds = " and ".join(type(each).__name__ for each in (question, context))
        raise TypeError(
            f"Give question and context as two str, two lists, or a list of questions and one context; got {kinds}."
        )
    if len(question) != len(context):
        raise ValueError(f"There are {len(question)} questions and {len(context)} contexts; give as many of each.")
    return [dict(zip(PARTS, pair, strict=True)) for pair in zip(question, context, strict=True)]


def parts_of(value: Any, name: str) -> list[str]:
    """The question and the context of an input.

    Raises:
        TypeError: it is no dict, or one of the two is no text.
        ValueError: one is missing, or has a lone surrogate.
    """
    if not isinstance(value, dict):
        raise TypeError(f"{name} is a {type(value).__name__}; write {FORM}.")
    missing = [part for part in PARTS if part not in value]
    if missing:
        raise ValueError(f"{name} has no {missing[0]!r}; write {FORM}.")
    return [checked_text(value[part], f"{name}, {part},") for part in PARTS]
