"""From process start to the first answer, ours and transformers': `python -m tests.benchmarks.start_up`.

Makes checkpoints of XLM-R base's shape with random weights, for fill-mask and for classification, runs each engine in a
process of its own, in turn, with warm files, and prints wall time and peak memory of the whole process with the ratios
of the medians.
Needs the real vocabulary: XLMR_NP_TEST_DATA, or ../shared/data beside the project.
"""

import argparse
import copy
import json
import os
import statistics
import sys
import tempfile
from pathlib import Path

import numpy as np

from tests.benchmarks.processes import Run, median, run

TEXT = "Bonjour, je suis un modèle <mask>."

OURS = f"""
import json, sys
from xlmr_np import pipeline
print(json.dumps([p["token"] for p in pipeline("fill-mask", model=sys.argv[1])({TEXT!r})]))
"""
# transformers by its shortest way, which is quicker than its pipeline
THEIRS = f"""
import json, sys, torch
from transformers import XLMRobertaForMaskedLM, XLMRobertaTokenizer
tokenizer = XLMRobertaTokenizer.from_pretrained(sys.argv[1])
model = XLMRobertaForMaskedLM.from_pretrained(sys.argv[1])
inputs = tokenizer({TEXT!r}, return_tensors="pt")
with torch.no_grad():
    logits = model(**inputs).logits
mask = (inputs.input_ids == tokenizer.mask_token_id)[0]
probabilities, tokens = logits[0, mask].softmax(-1).topk(5)
print(json.dumps(tokens[0].tolist()))
"""
OUR_CLASS = f"""
import json, sys
from xlmr_np import XLMRobertaForSequenceClassification, XLMRobertaTokenizer
tokenizer = XLMRobertaTokenizer.from_pretrained(sys.argv[1])
model = XLMRobertaForSequenceClassification.from_pretrained(sys.argv[1])
logits = model(**tokenizer([{TEXT!r}], return_tensors="np")).logits
print(json.dumps(logits.argsort()[0].tolist()))
"""
THEIR_CLASS = f"""
import json, sys, torch
from transformers import XLMRobertaForSequenceClassification, XLMRobertaTokenizer
tokenizer = XLMRobertaTokenizer.from_pretrained(sys.argv[1])
model = XLMRobertaForSequenceClassification.from_pretrained(sys.argv[1])
with torch.no_grad():
    logits = model(**tokenizer([{TEXT!r}], return_tensors="pt")).logits
print(json.dumps(logits.argsort()[0].tolist()))
"""
IMPORT = """
import time
start = time.perf_counter()
import xlmr_np
print(time.perf_counter() - start)
"""
IMPORT_PIPELINE = IMPORT.replace("import xlmr_np", "from xlmr_np import pipeline")
OPEN = """
import sys, time
from xlmr_np import XLMRobertaForMaskedLM
start = time.perf_counter()
XLMRobertaForMaskedLM.from_pretrained(sys.argv[1])
print(time.perf_counter() - start)
"""


def make_checkpoint(directory: Path, vocabulary: Path, class_name: str = "XLMRobertaForMaskedLM") -> None:
    """A model of the base shape with random weights, with tokenizer files for us and for transformers."""
    from tests.tokenizer.reference import reference_tokenizer
    from xlmr_np import XLM_ROBERTA_BASE, models

    config = copy.deepcopy(XLM_ROBERTA_BASE)
    config.num_labels = 3
    getattr(models, class_name)(config, generator=np.random.default_rng(0)).save_pretrained(directory)
    reference_tokenizer(vocabulary).save_pretrained(directory)
    (directory / "sentencepiece.bpe.model").write_bytes(vocabulary.read_bytes())


def main() -> None:
    """Measure and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    data = os.environ.get("XLMR_NP_TEST_DATA") or Path(__file__).resolve().parents[3] / "shared" / "data"
    vocabulary = Path(data) / "xlmr-tokenizer" / "sentencepiece.bpe.model"
    if not vocabulary.is_file():
        sys.exit(f"{vocabulary} does not exist; set XLMR_NP_TEST_DATA to the folder that holds xlmr-tokenizer.")
    print(f"| {options.rounds} rounds in turn, median (range) | seconds | peak memory, GB |")
    print("|---|---|---|")
    with tempfile.TemporaryDirectory() as name:
        model = Path(name)
        make_checkpoint(model, vocabulary)
        compare("fill-mask", {"xlmr-np": OURS, "transformers": THEIRS}, model, options.rounds)
        for what, program in (
            ("`import xlmr_np`, which loads nothing yet", IMPORT),
            ("`from xlmr_np import pipeline`", IMPORT_PIPELINE),
            ("opening the checkpoint (1.1 GB), imports done", OPEN),
            ("`import torch`", IMPORT.replace("import xlmr_np", "import torch")),
        ):
            print(f"| {what} | {median([float(run(program, model).output) for _ in range(options.rounds)])} | |")
    with tempfile.TemporaryDirectory() as name:
        model = Path(name)
        make_checkpoint(model, vocabulary, "XLMRobertaForSequenceClassification")
        compare("classification", {"xlmr-np": OUR_CLASS, "transformers": THEIR_CLASS}, model, options.rounds)
        for dtype in ("bfloat16", "float16"):
            store_in(dtype, model)
            size = (model / "model.safetensors").stat().st_size / 1e9
            compare(f"classification, {dtype} ({size:.2f} GB)", {"xlmr-np": OUR_CLASS}, model, options.rounds)


def store_in(dtype: str, directory: Path) -> None:
    """Write the checkpoint of a classifier anew, in another element type."""
    from xlmr_np import XLMRobertaForSequenceClassification

    XLMRobertaForSequenceClassification.from_pretrained(directory, dtype=dtype).save_pretrained(directory)


def compare(task: str, programs: dict[str, str], model: Path, rounds: int) -> None:
    """Run the engines' programs in turn, and print a row for each of them, and one for the ratio of the two."""
    warm = {engine: run(program, model) for engine, program in programs.items()}
    if len({tuple(json.loads(result.output)) for result in warm.values()}) != 1:
        sys.exit(f"The engines' answers differ: {warm}")
    results: dict[str, list[Run]] = {engine: [] for engine in programs}
    for _ in range(rounds):
        for engine, program in programs.items():
            results[engine].append(run(program, model))
    for engine, runs in results.items():
        print(f"| {task}, {engine} | {median([r.seconds for r in runs])} | {median([r.peak / 1e9 for r in runs])} |")
    if len(results) == 2:
        ours, theirs = results.values()
        seconds, peak = (
            statistics.median(getattr(r, what) for r in ours) / statistics.median(getattr(r, what) for r in theirs)
            for what in ("seconds", "peak")
        )
        print(f"| {task}, ratio of the medians | {seconds:.2f} | {peak:.2f} |")


if __name__ == "__main__":
    main()
