"""Official weights against transformers and against published values: `python -m tests.official`.

Downloads FacebookAI/xlm-roberta-base and -large (1.1 and 2.2 GB) unless they are in the hub's cache. Compares
whole outputs and logits with transformers in float32, and the values that transformers' own tests publish for them.
Other published values are of checkpoints whose tokenizers or heads this project does not have yet.
"""

import sys
from typing import NamedTuple

import numpy as np

IDS = [[0, 581, 10269, 83, 99942, 136, 60742, 23, 70, 80583, 18276, 2]]  # The dog is cute and lives in the garden house
TEXTS = ["Bonjour, je suis un modèle <mask>.", "The capital of France is <mask>, and that of Russia is <mask>."]


class Official(NamedTuple):
    """A published slice: the last feature of every token of IDS, from transformers' test_modeling_xlm_roberta.py."""

    name: str
    last_features: list[float]


MODELS = [
    Official(
        "FacebookAI/xlm-roberta-base",
        [-0.0101, 0.1218, -0.0803, 0.0801, 0.1327, 0.0776, -0.1215, 0.2383, 0.3338, 0.3106, 0.0300, 0.0252],
    ),
    Official(
        "FacebookAI/xlm-roberta-large",
        [-0.0699, -0.0318, 0.0705, -0.1241, 0.0999, -0.0520, 0.1004, -0.1838, -0.4704, 0.1437, 0.0821, 0.0126],
    ),
]


def unavailable(name: str) -> str | None:
    """Why the files of a model cannot be had, or None if they can."""
    from xlmr_np.weights.checkpoint import find_weight_files
    from xlmr_np.weights.files import locate

    try:
        if locate(name, "config.json") is None:
            return f"{name} has no config.json in the cache, and the network may not be asked"
        find_weight_files(name)
    except OSError as error:
        return str(error)
    return None


def compare(official: Official) -> dict[str, float]:
    """The largest differences: from the published values, and from transformers' outputs of a padded batch."""
    import torch
    import transformers

    import xlmr_np

    hidden = xlmr_np.AutoModel.from_pretrained(official.name, dtype="float32")(np.array(IDS)).last_hidden_state
    differences = {"published values": np.abs(hidden[0, :, -1] - official.last_features).max()}

    tokenizer = xlmr_np.AutoTokenizer.from_pretrained(official.name)
    batch = tokenizer(TEXTS, padding=True, return_tensors="np")
    is_real, is_mask = batch["attention_mask"] == 1, batch["input_ids"] == tokenizer.mask_token_id
    model = xlmr_np.AutoModelForMaskedLM.from_pretrained(official.name, dtype="float32")
    ours = model(**batch, output_hidden_states=True)
    reference = transformers.XLMRobertaForMaskedLM.from_pretrained(official.name, dtype=torch.float32).eval()
    with torch.no_grad():
        theirs = reference(**{key: torch.asarray(x) for key, x in batch.items()}, output_hidden_states=True)
    states = zip(ours.hidden_states, theirs.hidden_states, strict=True)
    differences["hidden states"] = max(np.abs(our[is_real] - their.numpy()[is_real]).max() for our, their in states)
    # Logits reach into the tens, so their float32 rounding is larger than that of outputs of order one.
    expected = theirs.logits.numpy()[is_real]
    differences["logits, relative"] = np.abs(ours.logits[is_real] - expected).max() / np.abs(expected).max()
    top = torch.topk(theirs.logits[torch.asarray(is_mask)], 5).indices.numpy()
    differences["top-5 tokens"] = (model.predict(**batch, where=is_mask, k=5).ids != top).sum()
    return {name: float(value) for name, value in differences.items()}


LIMITS = {"published values": 1e-3, "hidden states": 2e-5, "logits, relative": 2e-5, "top-5 tokens": 0}


def main() -> int:
    """Compare every model that can be had; the exit status is 1 if any differs."""
    has_failed, compared = False, 0
    for official in MODELS:
        reason = unavailable(official.name)
        if reason is not None:
            print(f"{official.name}: skipped: {reason}")
            continue
        compared += 1
        for what, difference in compare(official).items():
            is_good = difference <= LIMITS[what]
            has_failed = has_failed or not is_good
            print(f"{official.name}: {what} differ by at most {difference:.2e} ({'good' if is_good else 'TOO MUCH'})")
    print(f"{compared} of {len(MODELS)} models were compared.")
    return int(has_failed)


if __name__ == "__main__":
    sys.exit(main())
