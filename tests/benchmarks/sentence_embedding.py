"""Embedding short sentences, ours and sentence-transformers': `python -m tests.benchmarks.sentence_embedding`.

Random weights of the shape of XLM-R base, float32, in the layout of multilingual-e5-base (mean, length one), and real
sentences of 87 languages, mixed. Each engine runs in a process of its own, in turn, on all cores: some sentences to
warm up, then all of them in one call, sentence-transformers with its own batches of 32. The embeddings must agree. Then
ours alone reads sentences once and four times over as a stream, and its memory must not grow: the same ones, because
the file of weights is read as far as its rows are needed. Prints Markdown tables.
Needs the real vocabulary and texts: XLMR_NP_TEST_DATA, or ../shared/data beside the project.
"""

import argparse
import json
import os
import random
import shutil
import statistics
import sys
import tempfile
from pathlib import Path

import numpy as np

from tests.benchmarks.processes import median, run
from tests.tokenizer.reference import reference_tokenizer
from xlmr_np import XLM_ROBERTA_BASE, XLMRobertaConfig, XLMRobertaModel

SENTENCES, WARM_UP = 1000, 64
TOLERANCE = 1e-4  # of embeddings of length one, after twelve layers in float32
MEMORY_TOLERANCE = 50e6  # bytes

LIBRARY = "sentence_transformers.models"
MODULES = ["Transformer", "Pooling", "Normalize"]
PREPARE = """
import json, sys, time
from pathlib import Path
import numpy as np
directory, sentences = sys.argv[1], json.loads(Path(sys.argv[2]).read_text())
def ours():
    from xlmr_np import pipeline
    return pipeline("sentence-embedding", directory)
def theirs():
    from sentence_transformers import SentenceTransformer
    return SentenceTransformer(directory, device="cpu", local_files_only=True).encode
"""
MEASURE = f"""
encode(sentences[:{WARM_UP}])
start = time.perf_counter()
embeddings = encode(sentences)
seconds = time.perf_counter() - start
np.save(sys.argv[3], embeddings)
print(seconds)
"""
ENGINES = {"xlmr-np": "encode = ours()", "sentence-transformers": "encode = theirs()"}
STREAM = """
import itertools
times = int(sys.argv[3])
texts = itertools.chain.from_iterable(itertools.repeat(sentences[:STREAMED], times))
print(sum(1 for _ in ours()(texts)))
""".replace("STREAMED", str(SENTENCES))


def main() -> None:
    """Measure and print Markdown tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sentences", type=int, default=SENTENCES)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    data = find_data()
    with tempfile.TemporaryDirectory() as folder:
        directory, sentences = Path(folder, "model"), Path(folder, "sentences.json")
        sentences.write_text(json.dumps(sample(data, options.sentences)))
        save_model(directory, data / "xlmr-tokenizer" / "sentencepiece.bpe.model", XLM_ROBERTA_BASE)
        compare(directory, sentences, options.rounds)
        stream(directory, sentences)


def find_data() -> Path:
    """The folder of public texts and of the real vocabulary, as the tests find it."""
    given = os.environ.get("XLMR_NP_TEST_DATA")
    folder = Path(given) if given else Path(__file__).resolve().parents[3] / "shared" / "data"
    if not folder.is_dir():
        sys.exit(f"There is no data at {folder}; set XLMR_NP_TEST_DATA to its folder.")
    return folder


def sample(data: Path, number: int) -> list[str]:
    """So many sentences of all languages together, always the same."""
    files = sorted((data / "text" / "tatoeba").glob("*.txt"))
    lines = [line for file in files for line in file.read_text(encoding="utf-8").split("\n") if line.strip()]
    if number > len(lines):
        sys.exit(f"{number} sentences were asked for, and there are {len(lines)}.")
    return random.Random(0).sample(lines, number)


def save_model(directory: Path, vocabulary: Path, config: XLMRobertaConfig) -> None:
    """A model with random weights, as sentence-transformers and we load it."""
    XLMRobertaModel(config, add_pooling_layer=False, generator=np.random.default_rng(0)).save_pretrained(directory)
    shutil.copyfile(vocabulary, directory / "sentencepiece.bpe.model")
    reference_tokenizer(vocabulary, model_max_length=512).save_pretrained(directory)
    modules = [
        {"idx": number, "name": str(number), "path": f"{number}_{kind}" if number else "", "type": f"{LIBRARY}.{kind}"}
        for number, kind in enumerate(MODULES)
    ]
    (directory / "modules.json").write_text(json.dumps(modules))
    (directory / "1_Pooling").mkdir()
    pooling = {"word_embedding_dimension": config.hidden_size, "pooling_mode_mean_tokens": True}
    (directory / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    (directory / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 512, "do_lower_case": False}))


def compare(directory: Path, sentences: Path, rounds: int) -> None:
    """Print a row for each engine; stop if their embeddings differ."""
    seconds: dict[str, list[float]] = {engine: [] for engine in ENGINES}
    peaks: dict[str, list[float]] = {engine: [] for engine in ENGINES}
    embeddings: dict[str, np.ndarray] = {}
    for _ in range(rounds):
        for engine, program in ENGINES.items():
            file = directory.parent / f"{engine}.npy"
            result = run(f"{PREPARE}\n{program}\n{MEASURE}", directory, sentences, file)
            seconds[engine].append(float(result.output))
            peaks[engine].append(result.peak / 1e9)
            embeddings[engine] = np.load(file)
    ours, theirs = embeddings.values()
    differences = np.abs(ours - theirs).max(axis=1)
    print(f"| {len(ours)} sentences, {rounds} rounds in turn, median (range) | seconds | peak memory, GB | ratios |")
    print("|---|---|---|---|")
    for engine in ENGINES:
        ratios = (
            f"{statistics.median(measured[engine]) / statistics.median(measured['sentence-transformers']):.2f}"
            for measured in (seconds, peaks)
        )
        print(f"| {engine} | {median(seconds[engine])} | {median(peaks[engine])} | {', '.join(ratios)} |")
    print(f"\nLargest difference of two numbers: {differences.max():.1e}.")
    if differences.max() > TOLERANCE:
        sys.exit(f"The embeddings of sentences {np.flatnonzero(differences > TOLERANCE).tolist()} differ.")


def stream(directory: Path, sentences: Path) -> None:
    """Print our peak memory for some sentences, and for four times as many; stop if it grows."""
    once, often = (run(PREPARE + STREAM, directory, sentences, times) for times in ("1", "4"))
    for result in (once, often):
        print(f"\nPeak memory of a stream of {result.output} sentences: {result.peak / 1e9:.3f} GB.")
    if often.peak > once.peak + MEMORY_TOLERANCE:
        sys.exit("The memory grows with the number of sentences.")


if __name__ == "__main__":
    main()
