"""Tokenizers' speed on real sentences, ours, transformers' and sentencepiece's: `python -m tests.benchmarks.tokenizer`.

Each engine runs in a process of its own on one processor core, in turn, on batches of 1,000 sentences in many
languages, each batch a new one. The first batches warm up. Prints the median time of a batch, over all rounds, and
throughputs relative to transformers'; then the time of loading, and of long strings without a space.
Needs the real vocabulary and texts: XLMR_NP_TEST_DATA, or ../shared/data beside the project.
"""

import argparse
import json
import os
import statistics
import sys
from pathlib import Path

from tests.benchmarks.processes import run

BATCH, WARM_UP, BATCHES = 1000, 5, 25

PREPARE = """
import json, os, random, sys, time
from pathlib import Path
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
os.environ.update(TOKENIZERS_PARALLELISM="false", RAYON_NUM_THREADS="1")
data, seed = Path(sys.argv[1]), sys.argv[2]
vocabulary = data / "xlmr-tokenizer" / "sentencepiece.bpe.model"
def ours(**settings):
    from xlmr_np.tokenizer import XLMRobertaTokenizer
    return XLMRobertaTokenizer(vocabulary, **settings)
def theirs():
    from tests.tokenizer.reference import reference_tokenizer
    return reference_tokenizer(vocabulary)
def sentencepiece():
    from sentencepiece import SentencePieceProcessor
    return SentencePieceProcessor(model_file=str(vocabulary))
"""

SENTENCES = f"""
lines = [line for path in sorted((data / "text").glob("*/*.txt")) for line in path.read_text().split("\\n") if line]
random.Random(seed).shuffle(lines)
seconds = []
for number in range({WARM_UP + BATCHES}):
    batch = lines[number * {BATCH} : (number + 1) * {BATCH}]
    start = time.perf_counter()
    encode(batch)
    seconds.append(time.perf_counter() - start)
print(json.dumps(seconds[{WARM_UP}:]))
"""

ENGINES = {
    "transformers": "encode = theirs()",
    "transformers, with offsets": "import functools; encode = functools.partial(theirs(), return_offsets_mapping=True)",
    "xlmr-np": "encode = ours()",
    "xlmr-np, with offsets": "import functools; encode = functools.partial(ours(), return_offsets_mapping=True)",
    "xlmr-np as huggingface": "encode = ours(normalization='huggingface')",
    "xlmr-np as huggingface, with offsets": (
        "import functools; encode = functools.partial(ours(normalization='huggingface'), return_offsets_mapping=True)"
    ),
    "sentencepiece alone": "encode = sentencepiece().encode",
}

LOADING = {
    "sentencepiece alone": ("import sentencepiece as library", "sentencepiece()"),
    "xlmr-np": ("import xlmr_np.tokenizer.xlm_roberta, sentencepiece", "ours()"),
    "transformers": ("import transformers, tests.tokenizer.reference", "theirs()"),
}

LONG = """
text = (data / "text" / "udhr" / "en.txt").read_text()
text = "".join(text.split())
sizes = {}
for size in (250_000, 500_000, 1_000_000):
    string = (text * (size // len(text) + 1))[:size]
    start = time.perf_counter()
    encode([string])
    sizes[size] = time.perf_counter() - start
print(json.dumps(sizes))
"""


def main() -> None:
    """Measure and print Markdown tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    data = Path(os.environ.get("XLMR_NP_TEST_DATA") or Path(__file__).resolve().parents[3] / "shared" / "data")
    if not (data / "xlmr-tokenizer").is_dir():
        sys.exit(f"{data / 'xlmr-tokenizer'} does not exist; set XLMR_NP_TEST_DATA to the folder that holds it.")

    seconds: dict[str, list[float]] = {name: [] for name in ENGINES}
    loading: dict[str, list[float]] = {name: [] for name in LOADING}
    for number in range(options.rounds):
        for name, engine in ENGINES.items():
            seconds[name] += json.loads(run(PREPARE + engine + SENTENCES, data, str(number)).output)
        for _ in range(3):
            for name, (imports, load) in LOADING.items():
                timed = f"start = time.perf_counter()\n{load}\nprint(time.perf_counter() - start)"
                loading[name].append(float(run(f"{PREPARE}\n{imports}\n{timed}", data, "0").output))
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    number = options.rounds * BATCHES
    print(f"| {BATCH:,} sentences, one core; median of {number} batches | ms | throughput relative to |")
    print("|---|---|---|")
    for name, median in medians.items():
        peer = "transformers, with offsets" if "offsets" in name else "transformers"
        print(f"| {name} | {median * 1e3:.1f} | {medians[peer] / median:.2f} x {peer} |")
    print(f"\n| loading, imports done; median of {3 * options.rounds} | seconds | relative to sentencepiece |")
    print("|---|---|---|")
    own = statistics.median(loading["sentencepiece alone"])
    for name, values in loading.items():
        print(f"| {name} | {statistics.median(values):.3f} | {statistics.median(values) / own:.2f} |")
    print("\n| a string without a space | 0.25 MB, s | 0.5 MB, s | 1 MB, s |")
    print("|---|---|---|---|")
    for name in ("transformers", "xlmr-np", "xlmr-np as huggingface"):
        sizes = json.loads(run(f"{PREPARE}{ENGINES[name]}\nencode(['a b'])\n{LONG}", data, "0").output)
        print(f"| {name} | {' | '.join(f'{value:.2f}' for value in sizes.values())} |")


if __name__ == "__main__":
    main()
