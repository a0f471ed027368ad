"""The texts on which the commands are tried, in five scripts; the models have seen none of them."""

import json
from collections.abc import Iterable
from pathlib import Path

LANGUAGES = ("en", "ru", "ar", "hi", "zh")
SENTENCE = 1959  # of the translated news sentences, from 0; the last hundred are kept from the models
CORPUS = range(1897, 1997)


def write_inputs(data: Path, directory: Path) -> None:
    """Write the files that the page's commands read."""
    news = {
        file.stem: file.read_text(encoding="utf-8").splitlines() for file in (data / "text" / "ntrex").glob("*.txt")
    }
    (directory / "lines.txt").write_text(_lines(news[language][SENTENCE] for language in LANGUAGES), encoding="utf-8")
    corpus = [news[language][index] for index in CORPUS for language in LANGUAGES]
    (directory / "corpus.txt").write_text(_lines(corpus), encoding="utf-8")
    questions = []
    for language in LANGUAGES:
        articles = json.loads((data / "qa" / f"xquad.{language}.json").read_text(encoding="utf-8"))["data"]
        asked = [
            {"question": question["question"], "context": paragraph["context"]}
            for article in articles
            for paragraph in article["paragraphs"]
            for question in paragraph["qas"]
        ]
        questions.append(asked[-70])
    rows = (json.dumps(each, ensure_ascii=False) for each in questions)
    (directory / "questions.jsonl").write_text(_lines(rows), encoding="utf-8")
    (directory / "article.txt").write_text(questions[0]["context"] + "\n", encoding="utf-8")
    masked = (_with_mask(news[language][SENTENCE], language) for language in LANGUAGES)
    (directory / "masks.txt").write_text(_lines(masked), encoding="utf-8")
    (directory / "broken.txt").write_bytes(b"The first line is good.\nThis one is not: \xff\xfe\nThe third one is.\n")


def _with_mask(text: str, language: str) -> str:
    """The text with its last word, or its last character in Chinese, hidden."""
    return text[:-1] + "<mask>" if language == "zh" else " ".join([*text.split()[:-1], "<mask>"])


def _lines(texts: Iterable[str]) -> str:
    return "".join(f"{text}\n" for text in texts)
