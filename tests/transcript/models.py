"""A small model for each task, trained in minutes from the demo model on public data, for trying the commands."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from xlmr_np import (
    XLMRobertaForQuestionAnswering,
    XLMRobertaForSequenceClassification,
    XLMRobertaForTokenClassification,
    XLMRobertaModel,
    XLMRobertaTokenizer,
)
from xlmr_np.heads.sentence_pooling import normalize_backward, normalize_forward, pooling_backward, pooling_forward
from xlmr_np.losses.cross_entropy import cross_entropy_backward, cross_entropy_forward
from xlmr_np.models.encoding import TaskModel
from xlmr_np.ops.threads import Threads
from xlmr_np.training import AdamWSetting, Trainer, TrainingSetting
from xlmr_np.training.adamw import AdamW, is_decayed
from xlmr_np.training.trainer import trainable

LONGEST = 256  # tokens that the demo model takes
TOPICS = ("entertainment", "geography", "health", "politics", "science/technology", "sports", "travel")
TEMPLATE = "This text is about {}."
TEMPERATURE = 0.05
PAIRS_IN_BATCH = 32

Batch = dict[str, Any]


class Maker:
    """Trains models on the data in a folder."""

    def __init__(self, data: Path, directory: Path, report: Callable[[str], None], shorten: int = 1) -> None:
        """Hold what all trainings share.

        Args:
            data: the folder of public data.
            directory: each model gets a folder in it.
            report: takes a line on each model.
            shorten: divides the numbers of steps.
        """
        self.data, self.directory, self.report, self.shorten = data, directory, report, shorten
        self.tokenizer = XLMRobertaTokenizer.from_pretrained("demo")
        self.generator = np.random.default_rng(0)

    def topics(self) -> None:
        """Text classification: the topics of news sentences in sixteen languages."""
        rows = list(self._topics("train"))
        model = XLMRobertaForSequenceClassification.from_pretrained(
            "demo", id2label=dict(enumerate(TOPICS)), generator=self.generator, dtype="float32"
        )

        def batch() -> Batch:
            chosen = [rows[index] for index in self.generator.integers(len(rows), size=32)]
            return {
                **self._encoded([text for _, text in chosen]),
                "labels": [TOPICS.index(topic) for topic, _ in chosen],
            }

        self._train(model, batch, steps=500, rate=5e-4)
        held_out = list(self._topics("dev"))
        logits = np.concatenate(
            [model(**self._encoded([text for _, text in part])).logits for part in _parts(held_out, 64)]
        )
        right = np.mean(logits.argmax(axis=1) == [TOPICS.index(topic) for topic, _ in held_out])
        self._save(model, "topics", f"topics of {len(held_out)} held-out sentences: {right:.2f} right")

    def entailment(self) -> None:
        """Zero-shot classification: whether a text is about a topic, as a pair of texts."""
        rows = list(self._topics("train"))
        model = XLMRobertaForSequenceClassification.from_pretrained(
            "demo", id2label={0: "contradiction", 1: "entailment"}, generator=self.generator, dtype="float32"
        )

        def batch() -> Batch:
            chosen = [rows[index] for index in self.generator.integers(len(rows), size=32)]
            said = [
                topic if self.generator.random() < 0.5 else str(self.generator.choice(TOPICS)) for topic, _ in chosen
            ]
            texts = self._encoded([text for _, text in chosen], [TEMPLATE.format(topic) for topic in said])
            return {
                **texts,
                "labels": [int(topic == is_said) for (topic, _), is_said in zip(chosen, said, strict=True)],
            }

        self._train(model, batch, steps=600, rate=5e-4)
        self._save(model, "entailment", "whether a sentence is about a topic")

    def names(self) -> None:
        """Token classification: the names in sentences of nine languages, from their parts of speech."""
        sentences = [each for file in sorted((self.data / "pos").glob("*_pud-*.conllu")) for each in _names_of(file)]
        labels = ("O", "B-NAME", "I-NAME")
        model = XLMRobertaForTokenClassification.from_pretrained(
            "demo", id2label=dict(enumerate(labels)), generator=self.generator, dtype="float32"
        )
        held_out = [index for index in range(len(sentences)) if index % 10 == 0]
        learnt = [index for index in range(len(sentences)) if index % 10]

        def encoded(indices: list[int]) -> Batch:
            texts = [sentences[index][0] for index in indices]
            rows = self.tokenizer(texts, padding=True, truncation=True, max_length=LONGEST, return_offsets_mapping=True)
            classes = []
            for index, offsets, ids in zip(indices, rows.pop("offset_mapping"), rows["input_ids"], strict=True):
                text, of_characters = sentences[index]
                starts = [start + len(text[start:end]) - len(text[start:end].lstrip()) for start, end in offsets]
                classes.append(
                    [
                        of_characters[start] if start < end and token not in (0, 1, 2) else -100
                        for start, (_, end), token in zip(starts, offsets, ids, strict=True)
                    ]
                )
            return {**rows, "labels": np.array(classes)}

        self._train(
            model,
            lambda: encoded([learnt[index] for index in self.generator.integers(len(learnt), size=32)]),
            800,
            5e-4,
        )
        counts = np.zeros(3)
        for part in _parts(held_out, 64):
            batch = encoded(part)
            said, right = model(**{**batch, "labels": None}).logits.argmax(axis=-1), batch["labels"]
            counts += [((said > 0) & (right > 0)).sum(), ((said > 0) & (right >= 0)).sum(), (right > 0).sum()]
        found = (
            f"{counts[0] / counts[2]:.2f} of the tokens of names found, {counts[0] / counts[1]:.2f} of those found are"
        )
        self._save(model, "names", f"{len(held_out)} held-out sentences: {found}")

    def answers(self) -> None:
        """Question answering: XQuAD's questions in six languages, but for the last hundred in each."""
        questions = [
            each
            for file in sorted((self.data / "qa").glob("*.json"))
            for each in _questions_of(file)[:-100]
        ]  # fmt: skip
        model = XLMRobertaForQuestionAnswering.from_pretrained("demo", generator=self.generator, dtype="float32")

        def batch() -> Batch:
            kept: list[tuple[Any, int, int]] = []
            while len(kept) < 8:
                question, context, start, answer = questions[self.generator.integers(len(questions))]
                row = self.tokenizer(
                    question, context, truncation="only_second", max_length=LONGEST, return_offsets_mapping=True
                )
                first, last = (row.char_to_token(place, sequence_index=1) for place in (start, start + len(answer) - 1))
                if first is not None and last is not None:
                    kept.append((row["input_ids"], first, last))
            ids = np.full((len(kept), max(len(row) for row, _, _ in kept)), 1)
            for row, (own, _, _) in zip(ids, kept, strict=True):
                row[: len(own)] = own
            return {
                "input_ids": ids,
                "start_positions": [first for _, first, _ in kept],
                "end_positions": [last for _, _, last in kept],
            }

        self._train(model, batch, steps=600, rate=5e-4)
        self._save(model, "answers", f"answers to {len(questions)} questions")

    def relevance(self) -> None:
        """Reranking: whether a sentence is the translation of another."""
        lines = self._translations()
        model = XLMRobertaForSequenceClassification.from_pretrained(
            "demo", num_labels=1, problem_type="multi_label_classification", generator=self.generator, dtype="float32"
        )

        def batch() -> Batch:
            first, second = self._pairs(lines, 32)
            is_pair = self.generator.random(32) < 0.5
            wrong = np.roll(np.arange(32), 1)
            second = [
                text if right else second[other] for text, right, other in zip(second, is_pair, wrong, strict=True)
            ]
            return {**self._encoded(first, second), "labels": is_pair[:, None].astype(np.float32)}

        self._train(model, batch, steps=600, rate=5e-4)
        self._save(model, "relevance", "whether a sentence says what another does")

    def embeddings(self) -> None:
        """Sentence embeddings: translations of a sentence, in 23 languages, lie close to each other.

        The loss is the cross-entropy of finding a sentence's translation among all those of a batch, by the cosine of
        the means of their tokens. Its gradient goes back by hand: loss, normalisation, pooling, encoder.
        """
        lines = self._translations()
        model = XLMRobertaModel.from_pretrained("demo", add_pooling_layer=False, dtype="float32")
        model.params = trainable(model)
        decays = tuple(is_decayed(name) for name in model.named(model.params))
        optimizer = AdamW(model.params, decays, AdamWSetting(), Threads(model.num_threads))
        steps, labels = 300 // self.shorten, np.arange(PAIRS_IN_BATCH)
        for step in range(steps):
            first, second = self._pairs(lines, PAIRS_IN_BATCH)
            batch = self._encoded([*first, *second], max_length=48)
            output, backward = model.vjp(**batch)
            is_real = np.asarray(batch["attention_mask"], bool)
            pooled, pooling_cache = pooling_forward(output.last_hidden_state, is_real, "mean")
            vectors, normalize_cache = normalize_forward(pooled)
            queries, answers = vectors[:PAIRS_IN_BATCH], vectors[PAIRS_IN_BATCH:]
            loss, loss_cache = cross_entropy_forward(queries @ answers.T / TEMPERATURE, labels)
            d_scores = cross_entropy_backward(np.ones_like(loss), loss_cache, labels) / TEMPERATURE
            d_vectors = np.concatenate([d_scores @ answers, d_scores.T @ queries])
            d_pooled = normalize_backward(d_vectors, normalize_cache)
            gradients = backward(pooling_backward(d_pooled, pooling_cache))
            optimizer.update(gradients, 5e-4 * min((step + 1) / 30, (steps - step) / steps))
        self._save(model, "embeddings", "translations lie close to each other")
        pooling = self.directory / "embeddings" / "1_Pooling"
        pooling.mkdir()
        settings = {"word_embedding_dimension": model.config.hidden_size, "pooling_mode_mean_tokens": True}
        (pooling / "config.json").write_text(json.dumps(settings))
        kinds = {"": "Transformer", "1_Pooling": "Pooling", "2_Normalize": "Normalize"}
        modules = [
            {"idx": index, "name": str(index), "path": path, "type": f"sentence_transformers.models.{kind}"}
            for index, (path, kind) in enumerate(kinds.items())
        ]
        (pooling.parent / "modules.json").write_text(json.dumps(modules))

    def _train(self, model: TaskModel, batch: Callable[[], Batch], steps: int, rate: float) -> None:
        steps //= self.shorten
        trainer = Trainer(model, TrainingSetting(total_steps=steps, learning_rate=rate, warmup=0.1), self.generator)
        for _ in range(steps):
            trainer.step(batch())

    def _save(self, model: Any, name: str, line: str) -> None:
        model.save_pretrained(self.directory / name)
        self.tokenizer.save_pretrained(self.directory / name)
        self.report(f"{name}: {line}")

    def _encoded(self, first: list[str], second: list[str] | None = None, max_length: int = LONGEST) -> Batch:
        return dict(
            self.tokenizer(first, second, padding=True, truncation=True, max_length=max_length, return_tensors="np")
        )

    def _topics(self, part: str) -> Iterator[tuple[str, str]]:
        """(topic, text) of all languages."""
        for file in sorted((self.data / "topics").glob(f"*.{part}.tsv")):
            for line in file.read_text(encoding="utf-8").splitlines()[1:]:
                _, topic, text = line.split("\t")
                yield topic, text

    def _translations(self) -> list[list[str]]:
        """The same news sentences in many languages, but for the last hundred."""
        files = sorted((self.data / "text" / "ntrex").glob("*.txt"))
        return [file.read_text(encoding="utf-8").splitlines()[:-100] for file in files]

    def _pairs(self, lines: list[list[str]], number: int) -> tuple[list[str], list[str]]:
        """Sentences and their translations, each pair between two languages of its own."""
        numbers = self.generator.choice(len(lines[0]), size=number, replace=False)
        languages = [self.generator.choice(len(lines), size=2, replace=False) for _ in range(number)]
        first, second = zip(
            *((lines[one][index], lines[other][index]) for index, (one, other) in zip(numbers, languages, strict=True)),
            strict=True,
        )
        return list(first), list(second)


def _parts(rows: list[Any], size: int) -> Iterator[list[Any]]:
    for start in range(0, len(rows), size):
        yield rows[start : start + size]


def _names_of(file: Path) -> Iterator[tuple[str, list[int]]]:
    """(text, the class of each character) of each sentence: 1 in the first word of a name, 2 in the others."""
    for block in file.read_text(encoding="utf-8").strip().split("\n\n"):
        text, classes, place, was_name = "", [], 0, False
        for line in block.splitlines():
            if line.startswith("# text = "):
                text = line.removeprefix("# text = ")
                classes = [0] * len(text)
            elif not line.startswith("#"):
                number, form, _, part_of_speech = line.split("\t")[:4]
                if not number.isdecimal():  # words that a token stands for
                    continue
                start = text.find(form, place)
                if start < 0:
                    continue
                place = start + len(form)
                is_name = part_of_speech == "PROPN"
                if is_name:
                    classes[start:place] = [2 if was_name else 1] * len(form)
                was_name = is_name
        yield text, classes


def _questions_of(file: Path) -> list[tuple[str, str, int, str]]:
    """(question, context, where the answer starts, the answer)."""
    return [
        (question["question"], paragraph["context"], answer["answer_start"], answer["text"])
        for article in json.loads(file.read_text(encoding="utf-8"))["data"]
        for paragraph in article["paragraphs"]
        for question in paragraph["qas"]
        for answer in question["answers"][:1]
    ]
