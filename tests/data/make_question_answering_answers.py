"""Record what the question-answering pipeline of transformers 4.57 answers, the last version to have one.

    pip install --no-deps --target old 'transformers==4.57.*' 'huggingface_hub<1' 'tokenizers<0.23' \\
        requests urllib3 idna certifi charset_normalizer
    PYTHONPATH=old:. python tests/data/make_question_answering_answers.py SHARED_DATA

writes `question_answering_answers.json`: of each answer the score, and where it starts and ends. The models have
weights that NumPy draws, so that the tests make the same ones without it. SHARED_DATA is the folder that has XLM-R's
vocabulary and the questions of XQuAD.
"""

import itertools
import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tests.data.make_small_vocabulary import SENTENCES
from xlmr_np import XLMRobertaConfig, XLMRobertaForQuestionAnswering, XLMRobertaTokenizer

ANSWERS = Path(__file__).with_name("question_answering_answers.json")
LONGEST = {"small": 64, "real": 512}  # tokens that the models with these vocabularies take

SETTINGS: dict[str, list[dict[str, Any]]] = {
    "small": [
        {},
        {"top_k": 4},
        {"top_k": 3, "handle_impossible_answer": True},
        {"align_to_words": False},
        {"align_to_words": False, "top_k": 5},
        {"max_answer_len": 3, "top_k": 2, "max_seq_len": 40, "doc_stride": 8},
        {"max_seq_len": 30, "doc_stride": 0, "top_k": 6, "handle_impossible_answer": True},
    ],
    "real": [
        {},
        {"top_k": 3, "handle_impossible_answer": True},
        {"top_k": 3, "max_seq_len": 100, "doc_stride": 30},
        {"align_to_words": False, "max_answer_len": 40, "max_seq_len": 128, "top_k": 2},
    ],
}


class Question(NamedTuple):
    """A question, and the text that is read for its answer."""

    question: str
    context: str


def small_questions() -> list[Question]:
    """Made of the sentences of the small vocabulary: contexts of one, of three and of six, and of one word."""
    contexts = SENTENCES[::3]
    contexts += [" ".join(SENTENCES[first : first + 3]) for first in range(0, len(SENTENCES), 6)]
    contexts += ["\n".join(SENTENCES[first : first + 6]) for first in range(0, len(SENTENCES), 12)]
    contexts += ["The cat sleeps. the  CAT\tsleeps. " * 12, "cat"]
    questions = itertools.cycle(["Where is the cat?", "Où est la gare ?", "Где вокзал?", "车站在哪里？"])
    return [Question(*each) for each in zip(questions, contexts, strict=False)]


def real_questions(shared_data: Path) -> list[Question]:
    """Three of XQuAD in each of its languages."""
    return [
        question
        for path in sorted((shared_data / "qa").glob("xquad.*.json"))
        for question, _ in itertools.islice(xquad(path), 7, 700, 300)
    ]


def xquad(path: Path) -> Iterator[tuple[Question, dict[str, Any]]]:
    """The questions of a file, and the right answer of each: `text` and `answer_start`."""
    for article in json.loads(path.read_text(encoding="utf-8"))["data"]:
        for paragraph in article["paragraphs"]:
            for asked in paragraph["qas"]:
                yield Question(asked["question"], paragraph["context"]), asked["answers"][0]


def random_model(tokens: int, longest: int) -> XLMRobertaForQuestionAnswering:
    """A model for so many tokens, in float64, whose logits have a spread of some ten."""
    config = XLMRobertaConfig(
        vocab_size=tokens, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=longest + 2, type_vocab_size=1, num_labels=2, layer_norm_eps=1e-5,
    )  # fmt: skip
    model = XLMRobertaForQuestionAnswering(config, dtype="float64")
    generator = np.random.default_rng(0)
    for name, array in sorted(model.state_dict().items()):
        spread = 8.0 if name.startswith("qa_outputs") else 0.5
        array[...] = spread * generator.standard_normal(array.shape) + name.endswith("LayerNorm.weight")
    return model


def recorded(vocabulary: Path, longest: int, questions: list[Question], settings: list[dict[str, Any]]) -> list[Any]:
    """The answers of transformers, by question and setting: [score, start, end] of each."""
    import transformers

    tokenizer = XLMRobertaTokenizer(vocabulary, model_max_length=longest)
    with tempfile.TemporaryDirectory() as directory:
        random_model(len(tokenizer), longest).save_pretrained(directory)
        tokenizer.save_pretrained(directory)
        answer = transformers.pipeline("question-answering", directory, dtype="auto", device="cpu")
    rows = []
    for question in questions:
        answers = [answer(**question._asdict(), **setting) for setting in settings]
        answers = [each if isinstance(each, list) else [each] for each in answers]
        for each in itertools.chain.from_iterable(answers):
            assert each["answer"] == question.context[each["start"] : each["end"]]
        rows.append([[[each["score"], each["start"], each["end"]] for each in some] for some in answers])
    return rows


def main(shared_data: Path) -> None:
    """Write the file."""
    import transformers

    small = Path(__file__).with_name("small.model")
    real = shared_data / "xlmr-tokenizer" / "sentencepiece.bpe.model"
    answers = {
        "transformers": transformers.__version__,
        "small": recorded(small, LONGEST["small"], small_questions(), SETTINGS["small"]),
        "real": recorded(real, LONGEST["real"], real_questions(shared_data), SETTINGS["real"]),
    }
    lines = json.dumps(answers).replace("[[[", "\n[[[")
    ANSWERS.write_text(lines + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
